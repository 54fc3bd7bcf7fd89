"""The loop of a worker: commands in, engine steps, events out.

One batch of commands is read and one batch of events written per step; nothing else enters the kernel while
the engine has work.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from twofold.engine.engine import Engine
from twofold.engine.integrity import IntegrityError, check
from twofold.engine.output import OutputBuilder
from twofold.engine.request import Request
from twofold.server.messages import (
    Cancel,
    Chunk,
    Command,
    Embed,
    Embedded,
    Ended,
    Event,
    Failed,
    Generate,
    Status,
    TokenInfo,
)

STATUS_SECONDS = 0.25
"""Seconds between reports while there is work."""
IDLE_SECONDS = 0.05
"""Without work for so long, the engine counts as idle: it reports once more and is checked."""


class Watch(Protocol):
    """What follows the engine for the reports (see `server.snapshot`)."""

    def observe(self) -> None:
        """A step has been done."""

    def snapshot(self) -> Any:
        """What the engine is doing now."""


class Line(Protocol):
    """Where commands come from and events go (see `server.channel.Channel`)."""

    def receive(self, timeout: float | None = 0.0) -> list[Any]:
        """The commands that are there, or come within `timeout` seconds."""

    def send(self, messages: Sequence[object]) -> None:
        """Send a batch of events."""


class UnsoundError(RuntimeError):
    """The engine cannot go on."""


@dataclass(slots=True)
class _Live:
    """A completion that has not ended: how many of its tokens were sent."""

    request: Request
    output: OutputBuilder
    sent: int = 0


class WorkerLoop:
    """Serves commands with one engine. `run` and `turn` raise UnsoundError where it cannot be trusted any
    more."""

    def __init__(self, engine: Engine, line: Line, watch: Watch) -> None:
        self._engine = engine
        self._line = line
        self._watch = watch
        self._live: dict[str | int, _Live] = {}
        self._events: list[Event] = []
        self._stopping = False
        self._failed_last = False
        self._reported = 0.0

    def run(self) -> None:
        """Serve until Stop has come and all that was accepted has ended. ConnectionError where the server
        goes first."""
        while self._engine.has_work or not self._stopping:
            self.turn(self._line.receive() if self._engine.has_work else self._wait())

    def turn(self, commands: Sequence[Command]) -> None:
        """Take in `commands`, do a step where there is work, and send what came of both."""
        self._obey(commands)
        stepped = self._engine.has_work and self._step()
        self._flush()
        if stepped:  # by now the server is busy with what was sent
            self._watch.observe()

    # --- commands ---

    def _wait(self) -> list[Command]:
        commands = self._line.receive(IDLE_SECONDS)
        if not commands:
            check(self._engine.scheduler)
            self._line.send([Status(self._watch.snapshot())])
            commands = self._line.receive(None)
        return commands

    def _obey(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Cancel):
                self._cancel(command.id)
            elif isinstance(command, Generate | Embed):
                try:
                    self._add(command)
                except ValueError as error:
                    self._events.append(Failed(command.id, "invalid", str(error)))
            else:
                self._stopping = True

    def _add(self, job: Generate | Embed) -> None:
        engine = self._engine
        if isinstance(job, Generate):
            request = engine.add(job.prompt_ids, job.params, id=job.id, priority=job.priority)
        else:
            request = engine.add(job.prompt_ids, id=job.id, pool=True)
        self._live[job.id] = _Live(request, engine.output(job.id))

    def _cancel(self, id: str) -> None:
        self._engine.cancel(id)
        live = self._live.get(id)
        if live is not None and live.request.is_finished:
            self._end(live)

    # --- steps ---

    def _step(self) -> bool:
        """One step of the engine; False where it failed."""
        engine = self._engine
        try:
            ended = engine.step()
        except Exception as error:
            self._recover(error)
            return False
        self._failed_last = False
        live = self._live
        for request in engine.scheduler.running:
            self._move(live[request.id])
        for request in ended:
            if request.id in live:  # not where its cancellation has been answered
                self._end(live[request.id])
        return True

    def _move(self, live: _Live) -> None:
        """Send what a request has yielded since the last time."""
        request = live.request
        count = request.num_output_tokens - live.sent
        text = live.output.take()
        if not (count or text):
            return
        tokens: tuple[TokenInfo, ...] = ()
        if request.params.logprobs is not None:
            tokens = _infos(live, live.sent)
        live.sent += count
        self._events.append(Chunk(str(request.id), text, count, tokens))

    def _end(self, live: _Live) -> None:
        request = live.request
        del self._live[request.id]
        self._engine.forget(request.id)
        id, reason = str(request.id), request.finish_reason
        assert reason is not None
        if reason in ("error", "aborted"):
            if live.output.error is not None:  # the user's grammar
                self._events.append(Failed(id, "invalid", live.output.error))
            else:
                self._events.append(Failed(id, "internal", "the engine gave this request up"))
        elif (vector := live.output.vector) is not None:
            self._events.append(Embedded(id, tuple(vector), request.num_prompt_tokens))
        else:
            self._move(live)
            self._events.append(_ended(live))

    def _recover(self, error: Exception) -> None:
        """A step has failed: all that it may have touched is answered, and the engine begins anew."""
        traceback.print_exception(error, file=sys.stderr)
        message = f"the engine failed in a step ({type(error).__name__})"
        for id in self._live:
            self._events.append(Failed(str(id), "internal", message))
        try:
            self._engine.abort()
            check(self._engine.scheduler)
        except Exception as unsound:
            self._give_up(unsound)
        if self._failed_last or isinstance(error, IntegrityError):
            self._give_up(error)
        self._failed_last = True
        for id in self._live:
            self._engine.forget(id)
        self._live.clear()

    def _give_up(self, error: Exception) -> None:
        self._flush()
        raise UnsoundError(f"{type(error).__name__}: {error}") from error

    # --- events ---

    def _flush(self) -> None:
        if self._live and (now := monotonic()) - self._reported >= STATUS_SECONDS:
            self._reported = now
            self._events.append(Status(self._watch.snapshot()))
        if self._events:
            self._line.send(self._events)
            self._events = []


def _infos(live: _Live, start: int) -> tuple[TokenInfo, ...]:
    """Log-probabilities of the output tokens from `start` on."""
    ids, logprobs = live.request.output_ids[start:], live.output.logprobs[start:]
    return tuple(
        TokenInfo(id, found.chosen, tuple(found.top.items()))
        for id, found in zip(ids, logprobs, strict=True)
        if found is not None
    )


def _ended(live: _Live) -> Ended:
    request = live.request
    assert request.finish_reason is not None
    assert request.finished_time is not None
    arrival, end = request.arrival_time, request.finished_time

    def since(moment: float | None) -> float:
        return (end if moment is None else moment) - arrival

    return Ended(
        str(request.id),
        request.finish_reason,
        request.num_prompt_tokens,
        request.num_output_tokens,
        request.num_cached_tokens,
        request.num_drafted,
        request.num_accepted,
        since(request.first_scheduled_time),
        since(request.first_token_time),
        since(request.last_token_time),
        live.output.stopped_by,
    )
