"""What runs between the server and a worker: batches of messages, each pickled behind its length.

The worker's side is `Channel`, over a blocking socket. The server's side reads whatever has come, so that a
worker that stops in the middle of a batch holds up nobody, and takes it apart with an `Unpacker`.
"""

from __future__ import annotations

import pickle
import select
import socket
import struct
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct("<Q")
_READ = 1 << 16


def pack(messages: Sequence[object]) -> bytes:
    """`messages` as one batch."""
    body = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Puts batches together again from bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The messages of all batches that `data` completes."""
        self._bytes += data
        messages: list[Any] = []
        start = 0
        while len(self._bytes) - start >= _LENGTH.size:
            body = start + _LENGTH.size
            end = body + _LENGTH.unpack_from(self._bytes, start)[0]
            if end > len(self._bytes):
                break
            messages += pickle.loads(memoryview(self._bytes)[body:end])
            start = end
        del self._bytes[:start]
        return messages


class Channel:
    """A worker's end. Raises ConnectionError from either method once the server has gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._unpacker = Unpacker()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def receive(self, timeout: float | None = 0.0) -> list[Any]:
        """The messages that are there; where there are none, those that come within `timeout` seconds (None:
        waits for some)."""
        if timeout != 0.0 and not self._poll.poll(None if timeout is None else timeout * 1e3):
            return []
        messages: list[Any] = []
        while True:
            try:
                data = self._socket.recv(_READ, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages
            if not data:
                raise ConnectionResetError("the server has gone")
            messages += self._unpacker.feed(data)
            if len(data) < _READ:
                return messages

    def send(self, messages: Sequence[object]) -> None:
        """Send one batch; waits until the server has room for it."""
        self._socket.sendall(pack(messages))
