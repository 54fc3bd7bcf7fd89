"""What long contexts cost: how many fit at a time, prompt and answer latency, the price of switching between
users, and the sessions per hour that come of it (after arXiv:2405.08944).

A session is a document that is read once and then asked about: `rounds` answers, with `think` seconds between
them in which the user reads. Where more users are there than contexts fit, those who read are swapped to host
memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from twofold.analysis.times import decode_seconds, prefill_seconds
from twofold.jobs.steps import StepPredictor
from twofold.ops.base import DEVICE, HOST
from twofold.ops.movement import Copy


@dataclass(frozen=True, slots=True)
class SessionLoad:
    """users at a time; answers of `output` tokens, `rounds` of them a session; think: seconds between
    them."""

    users: int = 20
    rounds: int = 5
    output: int = 250
    think: float = 60.0

    def __post_init__(self) -> None:
        for name in ("users", "rounds", "output"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.think < float("inf"):
            raise ValueError(f"think must be seconds, not {self.think}")


@dataclass(frozen=True, slots=True)
class ContextCost:
    """One context length on one deployment.

    cache_bytes: per device; concurrency: contexts that fit at a time (0: not even one, and what follows is
    what one would take); prefill: seconds of the prompt; decode: seconds of an answer alone, decode_batch: of
    `concurrency` answers at once; switch: seconds to swap one context out and another in, None without host
    memory; parked: contexts that host memory holds besides, None where its size is unknown.
    """

    context: int
    cache_bytes: int
    concurrency: int
    prefill: float
    decode: float
    decode_batch: float
    switch: float | None
    parked: int | None


@dataclass(frozen=True, slots=True)
class Sessions:
    """per_hour: sessions; busy: share of the device's time; bound: what limits them ("device", "users");
    swapping: whether answers pay for context switches; enough_users: from how many on the device is the
    limit."""

    per_hour: float
    busy: float
    bound: str
    swapping: bool
    enough_users: float


def context_cost(predictor: StepPredictor, context: int, output: int) -> ContextCost:
    """The costs of `context` tokens with answers of `output` tokens. The cache grows while an answer is made;
    its mean length counts."""
    memory, size = predictor.memory, predictor.limits.block_size
    longest = context + output
    limit = predictor.limits.max_context
    if longest > limit:
        raise ValueError(
            f"a context of {context:,} and {output:,} tokens is more than the {limit:,} there may be"
        )
    nbytes = -(-longest // size) * memory.block_bytes + memory.sequence_bytes
    concurrency = max(0, predictor.max_seqs(longest))
    mean = context + output // 2
    held = predictor.device.memory.get(HOST)
    return ContextCost(
        context,
        nbytes,
        concurrency,
        prefill_seconds(predictor, context),
        decode_seconds(predictor, mean) * output,
        decode_seconds(predictor, mean, max(1, concurrency)) * output,
        _switch(predictor, nbytes),
        None if held is None or not nbytes else held // nbytes,
    )


def _switch(predictor: StepPredictor, nbytes: int) -> float | None:
    """Seconds to move a context of `nbytes` to host memory and another one back."""
    device, seconds = predictor.device, 0.0
    for source, target in ((DEVICE, HOST), (HOST, DEVICE)):
        op = Copy(nbytes, source, target)
        try:
            seconds += device.charge(op, op.cost()).seconds
        except ValueError:  # a device without host memory
            return None
    return seconds


def sessions(cost: ContextCost, load: SessionLoad) -> Sessions | None:
    """Throughput of `load` on a deployment, None where not one context fits, or more are there than fit and
    there is nowhere to park them.

    The asymptotic bounds of a closed interactive system (Denning, Buzen, "The operational analysis of
    queueing network models", ACM Computing Surveys 1978): as many sessions as the device has time for, and no
    more than users start; answers are made for as many users at a time as fit.
    """
    together = min(cost.concurrency, load.users)
    if together < 1:
        return None
    swapping = load.users > cost.concurrency
    if swapping and (cost.switch is None or (cost.parked or 0) + cost.concurrency < load.users):
        return None
    switch = (cost.switch or 0.0) if swapping else 0.0
    # The latency of an answer beside others lies on a line between that of one and that of as many as fit.
    span = max(1, cost.concurrency - 1)
    answer = cost.decode + (cost.decode_batch - cost.decode) * (together - 1) / span
    device = cost.prefill + load.rounds * (answer / together + switch)
    alone = cost.prefill + load.rounds * (answer + switch + load.think)
    by_users = load.users / alone
    rate = min(1 / device, by_users)
    return Sessions(
        rate * 3600,
        rate * device,
        "device" if 1 / device <= by_users else "users",
        swapping,
        alone / device,
    )
