"""A `twofold serve` in a process of its own, and clients that cost little, for benchmarks of the server."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens, and its process id."""

    host: str
    port: int
    pid: int

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [pid for pid in map(int, text.split()) if b"resource_tracker" not in _command(pid)]


def cpu_seconds(pid: int) -> float:
    """Processor time that the threads of a process have used."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def resident_bytes(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """`twofold serve` with those options on a free port; ended by SIGTERM, which must give exit code 0."""
    command = [sys.executable, "-c", "from twofold.cli import main; main()", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if " on http://" in line:
                host, _, port = line.split(" on http://")[1].split()[0].rpartition(":")
                break
        else:
            raise SystemExit(f"the server did not start (exit code {process.wait()})")
        yield Server(host, int(port), process.pid)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        if code:
            raise SystemExit(f"the server ended with exit code {code}")
    finally:
        process.kill()
        process.wait()


def http(method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    """A request as it goes over the wire."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: benchmark\r\ncontent-type: application/json\r\n"
    return head.encode() + f"content-length: {len(data)}\r\n\r\n".encode() + data


@dataclass(slots=True)
class Answer:
    """What came back: status, body (events and all), and when (of time.perf_counter): when it was asked for,
    when parts of the body came."""

    asked: float
    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    times: list[float] = field(default_factory=list)


class _Connection:
    """One client: asks `requests` one after the other."""

    def __init__(self, server: Server, requests: Iterator[bytes]) -> None:
        self.socket = socket.create_connection((server.host, server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = requests
        self._raw = bytearray()
        self.answers: list[Answer] = []

    def ask(self) -> bool:
        """Send the next request; False where there is none."""
        request = next(self._requests, None)
        if request is None:
            return False
        self._raw.clear()
        self.answers.append(Answer(time.perf_counter()))
        self.socket.sendall(request)
        return True

    def read(self) -> bool:
        """Take in what has come; True where it completes the answer."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise SystemExit("the server closed a connection in the middle of an answer")
        answer, raw = self.answers[-1], self._raw
        raw += data
        head = raw.find(b"\r\n\r\n")
        if head < 0:
            return False
        if len(raw) > head + 4:
            answer.times.append(time.perf_counter())
        chunked = b"transfer-encoding: chunked" in raw[:head].lower()
        if chunked:
            over = raw.endswith(b"0\r\n\r\n")
        else:
            length = raw[:head].lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            over = len(raw) >= head + 4 + int(length)
        if over:
            answer.status = int(raw[9:12])
            answer.body += raw[head + 4 :]
        return over


def drive(server: Server, requests: Sequence[bytes], concurrency: int) -> list[Answer]:
    """All answers to `requests`, that many asked for at a time."""
    rest = iter(requests)
    connections = [_Connection(server, rest) for _ in range(concurrency)]
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            if connection.ask():
                selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            for key, _ in selector.select():
                if key.data.read() and not key.data.ask():
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
    return [answer for connection in connections for answer in connection.answers]


def mean(values: Iterable[float]) -> float:
    """Their mean."""
    found = list(values)
    return sum(found) / len(found)
