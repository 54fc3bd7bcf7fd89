"""A worker of the simulation: the real worker loop and the real engine with its scheduler and block manager,
on a model that notices a wrong cache, under virtual time."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from random import Random
from typing import Any, cast

import torch

from twofold.devices.base import StepCost
from twofold.devices.clock import VirtualClock
from twofold.engine.batch import Batch
from twofold.engine.draft import TextDrafter
from twofold.engine.engine import Engine
from twofold.engine.episode import random_scheduler
from twofold.engine.integrity import check
from twofold.engine.memory import MemoryPlan
from twofold.engine.request import Request
from twofold.engine.runner import Runner, StepResult
from twofold.engine.simulated_model import VOCAB_SIZE, SimulatedModel, expected_output
from twofold.models.tensors import Tokenizer
from twofold.server.messages import Command, Event, Generate, Job, Ready, Status
from twofold.server.simulation.timeline import Timeline
from twofold.server.worker_loop import UnsoundError, WorkerLoop

CHECK_EVERY = 64
STALL_SECONDS = 0.01
"""Until an engine that could do nothing (its memory is withheld) tries again."""
FIRST_CHARACTER = 0x10000
"""Of the characters that tokens are written with."""


def text_of(ids: Sequence[int]) -> str:
    """`ids` as text: a character each."""
    return "".join([chr(FIRST_CHARACTER + id) for id in ids])


class SimulatedTokenizer:
    """Ids to text and the few ids that end one; prompts are ids already."""

    eos_ids = frozenset(range(VOCAB_SIZE // 256))

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Text of `ids`."""
        del skip_special
        return text_of(ids)


class PlannedError(RuntimeError):
    """A step fails because it was to fail."""


class SimulatedEngine(Engine):
    """An engine whose bugs are remembered, since the worker loop lives on after a failed step. bug: what was
    raised without having been planned."""

    bug: Exception | None = None

    def step(self) -> list[Request]:
        """Do the next thing."""
        try:
            return super().step()
        except PlannedError:
            raise
        except Exception as error:
            self.bug = error
            raise


class SimulatedRunner:
    """Executes batches on a `SimulatedModel` and charges a virtual clock. It is its own device and model.

    inspect: sees each batch before it is run; slowness: factor on the time of a step; to_fail: coming steps
    that raise; num_failures: how many did.
    """

    real = True
    drafts = None
    vocab_size = VOCAB_SIZE

    def __init__(self, model: SimulatedModel, rng: Random, inspect: Callable[[Batch], None]) -> None:
        self.device = self.model = self.spec = self
        self.clock = VirtualClock()
        self.slowness = 1.0
        self.to_fail = 0
        self.num_failures = 0
        self._model = model
        self._rng = rng
        self._inspect = inspect

    def run(self, batch: Batch) -> StepResult:
        """Execute `batch`, or fail half-way."""
        self._inspect(batch)
        model = self._model
        model.copy_blocks(batch)
        tokens: list[list[int]] = []
        pooled: list[list[int]] = []
        for index, entry in enumerate(batch.entries):
            if self.to_fail and index >= len(batch.entries) // 2:
                self.to_fail -= 1
                self.num_failures += 1
                raise PlannedError("this step was to fail")
            tokens.append(model.execute(entry))
            if entry.request.pool:
                pooled.append([model.pooled(entry)])
        seconds = 0.01 * (1 + batch.num_tokens / 64) * self._rng.uniform(0.5, 1.5) * self.slowness
        result = StepResult(StepCost(seconds, stages=[seconds]), tokens)
        result.logprobs = [[None] * len(ids) for ids in tokens]
        if pooled:
            result.pooled = torch.tensor(pooled)
        return result

    def release(self, request: Request, *, settled: bool = True) -> None:
        """Nothing is kept per request."""


class SimulatedDrafter(TextDrafter):
    """Guesses the next tokens, at times wrongly."""

    def __init__(self, rng: Random) -> None:
        super().__init__(most=3)
        self._rng = rng

    def guess(self, request: Request, limit: int) -> list[int]:
        """Up to `limit` guesses."""
        tokens = request.tokens(0, request.num_tokens)
        drafts = expected_output(tokens, self._rng.randint(1, self.most))[:limit]
        if self._rng.random() < 0.2:
            drafts[-1] ^= 1
        return drafts


class SimulatedWorker:
    """One incarnation of a worker process. Between steps it takes in what has arrived, as a real one does.

    plan: seed of the settings, equal for replicas; post: sends an event; inspect: sees each batch as decided;
    died: is told when it gives itself up. dead: it has been killed or has given up; unsound: the latter.
    """

    def __init__(
        self,
        name: str,
        plan: int,
        rng: Random,
        timeline: Timeline,
        *,
        post: Callable[[Event], None],
        inspect: Callable[[Batch], None],
        died: Callable[[SimulatedWorker], None],
    ) -> None:
        self.name = name
        self.scheduler = random_scheduler(Random(plan))
        self.blocks = self.scheduler.blocks
        self.runner = SimulatedRunner(SimulatedModel(self.blocks), rng, inspect)
        self.dead = False
        self.unsound = False
        engine = SimulatedEngine(
            self.scheduler,
            cast(Runner, self.runner),
            tokenizer=cast(Tokenizer, SimulatedTokenizer()),
            memory=MemoryPlan(0, 0, 0, 0, self.blocks.num_blocks),
            derived={},
        )
        if plan % 2:
            engine.drafter = SimulatedDrafter(rng)
        self._engine = engine
        self._loop = WorkerLoop(engine, self, self)
        self._timeline = timeline
        self._post = post
        self._died = died
        self._inbox: list[Command] = []
        self._events: list[Event] = []
        self._busy = False

    @property
    def ready(self) -> Ready:
        """What it reports once it is up."""
        config, blocks = self.scheduler.config, self.blocks
        context = config.max_context or blocks.num_slots
        limits = (context, config.max_num_seqs, config.max_num_batched_tokens)
        return Ready("simulated", *limits, blocks.block_size, blocks.num_blocks, VOCAB_SIZE)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do or to say."""
        return not (self._busy or self._inbox or self._engine.has_work)

    def fits(self, job: Job) -> bool:
        """Whether the job can ever run."""
        config = self.scheduler.config
        tokens = len(job.prompt_ids)
        if not config.chunked_prefill and tokens > config.max_num_batched_tokens:
            return False
        return tokens + isinstance(job, Generate) <= min(self.blocks.num_slots, self.ready.max_context)

    def arrive(self, command: Command) -> None:
        """A command has arrived; it is taken in after the step that is under way."""
        if self.dead:
            return
        self._inbox.append(command)
        if not self._busy:
            self._turn()

    def _turn(self) -> None:
        """One turn of the loop; what it sends leaves when its step is done."""
        now = self._timeline.now
        clock = self.runner.clock
        clock.wait_until(now)
        commands, self._inbox = self._inbox, []
        try:
            with redirect_stderr(io.StringIO()):  # a failing step is wanted here
                self._loop.turn(commands)
        except UnsoundError:
            self.unsound = True
        if self._engine.bug is not None:
            raise self._engine.bug
        if self.scheduler.num_steps % CHECK_EVERY == 0:
            check(self.scheduler)
        self._busy = True
        stalled = self._engine.has_work and clock.now() == now
        self._timeline.at(clock.now() + stalled * STALL_SECONDS, self._turned)

    def _turned(self) -> None:
        events, self._events = self._events, []
        if self.dead:
            return
        self._busy = False
        for event in events:
            self._post(event)
        if self.unsound:
            self._died(self)
        elif self._inbox or self._engine.has_work:
            self._turn()

    # As the worker loop sees it: the line to the server, and what watches the engine.

    def receive(self, timeout: float | None = 0.0) -> list[Any]:
        """Not used: commands are given to each turn."""
        raise AssertionError("the simulation gives commands to each turn")

    def send(self, messages: Sequence[object]) -> None:
        """Keep what a turn sends until its step is done; reports follow the wall clock and are left out."""
        self._events += [cast(Event, message) for message in messages if not isinstance(message, Status)]

    def observe(self) -> None:
        """Nothing to observe."""

    def snapshot(self) -> None:
        """Nothing to report."""
