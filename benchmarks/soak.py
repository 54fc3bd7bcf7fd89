"""Full load on a server for minutes: is every request answered, and does its memory stay flat?

    python benchmarks/soak.py [--model smollm2-135m] [--minutes 15] [--concurrency 24] [--options "…"]
                              [--json]

Starts `twofold serve` and keeps `--concurrency` requests going: prompts of 8 to 512 tokens, some of which
begin alike, answers of 1 to 160, half of them streamed; one in twelve clients goes in the middle, one request
in twelve is bad (not JSON, an unknown field, a prompt that is too long, a wrong model). Prints a row per
minute: requests by outcome, tokens per second, and the resident memory of the server and of its workers.

Memory is flat where the mean of the last quarter lies within 2 % of the mean of the quarter after the first
(the first fills caches: recorded steps, prefix blocks, the allocator's arenas). Ends with code 1 where it is
not, or where a request got an answer that it should not have got.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from serving import Server, http, mean, resident_bytes, serving

FLAT = 0.02
BAD = (
    (b"{not json", 400),
    (json.dumps({"model": "MODEL", "prompt": "x", "no_such_field": 1}).encode(), 400),
    (json.dumps({"model": "MODEL", "prompt": [1] * 100_000}).encode(), 400),
    (json.dumps({"model": "no-such-model", "prompt": "x"}).encode(), 404),
)
"""Bodies of requests that are refused, with their status."""


@dataclass(slots=True)
class Tally:
    """What has happened: requests by outcome, generated tokens, samples of memory (seconds since the start,
    bytes of server and workers)."""

    outcomes: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    memory: list[tuple[float, int, int]] = field(default_factory=list)


class Client:
    """Asks one thing after the other until told to stop."""

    def __init__(self, server: Server, model: str, number: int, tally: Tally) -> None:
        self._server, self._model, self._tally = server, model, tally
        self._rng = Random(number)

    async def run(self, end: float) -> None:
        """Until `end` (of time.monotonic)."""
        while time.monotonic() < end:
            kind = self._rng.randrange(12)
            if kind == 0:
                await self._bad()
            else:
                await self._ask(leave=kind == 1)

    async def _bad(self) -> None:
        body, status = self._rng.choice(BAD)
        body = body.replace(b"MODEL", self._model.encode())
        reader, writer = await self._open()
        writer.write(_post(body))
        got, _ = await _whole(reader)
        self._count("refused as it should be" if got == status else f"WRONG: {got} instead of {status}")
        writer.close()

    async def _ask(self, *, leave: bool) -> None:
        rng = self._rng
        tokens, stream = rng.randint(1, 160), rng.random() < 0.5
        length = rng.choice((8, 32, 128, 512))
        shared = [1000 + i for i in range(rng.choice((0, length // 2)))]
        prompt = [*shared, *(rng.randrange(1000, 40_000) for _ in range(length - len(shared)))]
        body = {"model": self._model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        body |= {"stream": stream, "temperature": rng.choice((0, 0.8))}
        if rng.random() < 0.1:
            body["logprobs"] = 2
        reader, writer = await self._open()
        writer.write(http("POST", "/v1/completions", body))
        if leave:
            await self._go(reader, writer, stream=stream)
            return
        status, data = await _whole(reader)
        if status == 200 and (not stream or b"data: [DONE]" in data):
            self._tally.tokens += tokens
            self._count("answered")
        else:
            self._count("queue full" if status == 429 else f"WRONG: {status} {data[:200]!r}")
        writer.close()

    async def _go(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, stream: bool) -> None:
        if stream:
            await reader.readline()
        await asyncio.sleep(self._rng.uniform(0, 0.2))
        writer.transport.abort()
        self._count("left")

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._server.host, self._server.port)

    def _count(self, outcome: str) -> None:
        self._tally.outcomes[outcome] += 1


def _post(body: bytes) -> bytes:
    head = "POST /v1/completions HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\n"
    return head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body


async def _whole(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body, which ends as its header says."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if b"content-length: " in lower:
        length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(head[9:12]), await reader.readexactly(length)
    return int(head[9:12]), await reader.readuntil(b"\r\n0\r\n\r\n")


async def soak(server: Server, model: str, minutes: float, concurrency: int, *, quiet: bool) -> Tally:
    """The load, with a row per minute."""
    tally = Tally()
    start = time.monotonic()
    end = start + 60 * minutes
    clients = [asyncio.ensure_future(Client(server, model, i, tally).run(end)) for i in range(concurrency)]
    shown, before, next_row = Counter[str](), 0, 60.0
    while not all(client.done() for client in clients):
        await asyncio.wait(clients, timeout=1.0)
        now = time.monotonic() - start
        workers = sum(resident_bytes(pid) for pid in server.workers())
        tally.memory.append((now, resident_bytes(server.pid), workers))
        if now >= next_row:
            if not quiet:
                _row(now, tally, tally.outcomes - shown, (tally.tokens - before) / 60)
            shown, before, next_row = tally.outcomes.copy(), tally.tokens, next_row + 60
    for client in clients:
        client.result()
    return tally


def _row(now: float, tally: Tally, outcomes: Counter[str], rate: float) -> None:
    _, server, workers = tally.memory[-1]
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    print(
        f"{now / 60:5.1f} min  {rate:7.1f} token/s  server {server / 1e6:7.1f} MB  "
        f"workers {workers / 1e6:7.1f} MB  {counts}",
        flush=True,
    )


def growth(tally: Tally) -> dict[str, float]:
    """Of server and workers: mean of the last quarter over that of the second, less one."""
    last = tally.memory[-1][0]

    def quarter(number: int, which: int) -> float:
        return mean(sample[which] for sample in tally.memory if 4 * sample[0] // last == number)

    return {
        name: quarter(3, which) / quarter(1, which) - 1 for name, which in (("server", 1), ("workers", 2))
    }


def main() -> None:
    """Load, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--concurrency", type=int, default=24)
    parser.add_argument("--options", default="", help="further options of `twofold serve`")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with serving("--model", given.model, *shlex.split(given.options)) as server:
        workers = server.workers()
        tally = asyncio.run(soak(server, given.model, given.minutes, given.concurrency, quiet=given.json))
        same = server.workers() == workers
    grown = growth(tally)
    wrong = sum(count for name, count in tally.outcomes.items() if name.startswith("WRONG"))
    flat = all(abs(share) <= FLAT for share in grown.values())
    if given.json:
        print(
            json.dumps(
                {
                    "minutes": given.minutes,
                    "outcomes": dict(tally.outcomes),
                    "tokens": tally.tokens,
                    "grown": grown,
                    "workers_stayed": same,
                    "memory": tally.memory,
                }
            )
        )
    else:
        print(f"{sum(tally.outcomes.values())} requests: {dict(tally.outcomes)}, {tally.tokens} tokens")
        shares = ", ".join(f"{name} {share:+.2%}" for name, share in grown.items())
        print(f"memory, last quarter against the second: {shares}: {'flat' if flat else 'NOT flat'}")
        print("the workers are the same" if same else "A WORKER WAS LOST")
    sys.exit(0 if flat and same and not wrong else 1)


if __name__ == "__main__":
    main()
