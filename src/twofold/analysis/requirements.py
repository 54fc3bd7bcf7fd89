"""What a use case requires of a platform: FLOP/s, bandwidth and capacity of memory, bandwidth and latency of
links, counted from the engine's own ops (after GenZ, arXiv:2406.01698).

Every figure is a necessary condition: what a device must offer even if nothing else took time. Prompts must
be computed within the time to first token, a step of all answers within the time per output token.
"""

from __future__ import annotations

from dataclasses import dataclass

from twofold.analysis.counting import Counted, StepCounter
from twofold.analysis.use_cases import UseCase
from twofold.engine.memory import activation_bytes
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.ops.attention import Span
from twofold.ops.base import Precision
from twofold.plan import Plan
from twofold.techniques.registry import technique_class

_STEP_SEAMS = ("weights", "cache", "layers")
"""Techniques of other seams change how many steps there are, which single steps do not show."""


@dataclass(frozen=True, slots=True)
class Phase:
    """`work` of one rank that must be done in `seconds`."""

    name: str
    seconds: float
    work: Counted

    @property
    def flop_rate(self) -> float:
        """Matrix FLOP/s."""
        return self.work.matrix_flop / self.seconds

    @property
    def bandwidth(self) -> float:
        """Bytes/s of weights and cache. Activations may stay in a cache, so they are not required of the
        memory."""
        return self.work.streamed / self.seconds

    @property
    def link_bandwidth(self) -> float:
        """Bytes/s sent to other devices."""
        return self.work.sent / self.seconds

    @property
    def message_seconds(self) -> float | None:
        """The most that one collective may take; None where there is none."""
        return self.seconds / self.work.messages if self.work.messages else None


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that a device holds. Beams share the cache of their prompt."""

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations


@dataclass(frozen=True, slots=True)
class Requirement:
    """What each of `devices` devices must offer for `batch` requests of the use case at a time."""

    use_case: UseCase
    batch: int
    devices: int
    prefill: Phase
    decode: Phase
    held: Held

    @property
    def phases(self) -> tuple[Phase, Phase]:
        """Prompts and answers."""
        return self.prefill, self.decode

    @property
    def precisions(self) -> list[Precision]:
        """What products are computed in, most of them first."""
        flop = self.prefill.work.flop
        return sorted(flop, key=lambda precision: -flop[precision])

    @property
    def flop_rate(self) -> float:
        """Matrix FLOP/s of the more demanding phase."""
        return max(phase.flop_rate for phase in self.phases)

    @property
    def bandwidth(self) -> float:
        """Bytes/s of the memory, of the more demanding phase."""
        return max(phase.bandwidth for phase in self.phases)

    @property
    def link_bandwidth(self) -> float:
        """Bytes/s of the link, of the more demanding phase."""
        return max(phase.link_bandwidth for phase in self.phases)

    @property
    def message_seconds(self) -> float | None:
        """The most that one collective may take; None for a single device."""
        found = [s for phase in self.phases if (s := phase.message_seconds) is not None]
        return min(found, default=None)


def plan_for(plan: Plan, use_case: UseCase, batch: int, spec: ModelSpec) -> Plan:
    """`plan` with the lengths of the use case and room for `batch` requests of it at a time.

    ValueError where the model's context is too short, or where a technique changes the number of steps.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    longest = use_case.prompt + use_case.output
    if longest > spec.max_context:
        raise ValueError(
            f"{use_case.name} needs a context of {longest:,} tokens; {spec.name} has {spec.max_context:,}"
        )
    for use in plan.techniques:
        other = [seam for seam in technique_class(use.name).info.seams if seam not in _STEP_SEAMS]
        if other:
            raise ValueError(
                f"technique {use.name} ({', '.join(other)}) changes how many steps there are, and "
                "requirements are "
                f"counted from single ones; techniques of the seams {', '.join(_STEP_SEAMS)} can be counted"
            )
    load = plan.workload.model_copy(update={"prompt": use_case.prompt, "output": use_case.output})
    limits = plan.engine.model_copy(update={"max_num_seqs": batch * use_case.beams, "max_context": longest})
    return plan.model_copy(update={"workload": load, "engine": limits})


def require(
    plan: Plan, use_case: UseCase, batch: int, spec: ModelSpec, stored: Checkpoint | None = None
) -> Requirement:
    """What `plan`'s model, techniques and parallelism require for the use case. Counted at the last token of
    an answer, when the cache is largest.

    ValueError where the plan cannot work.
    """
    plan = plan_for(plan, use_case, batch, spec)
    seqs, longest = batch * use_case.beams, use_case.prompt + use_case.output
    blocks = seqs * -(-longest // 16)  # of 16 tokens or more: only to build the engine, not what is held
    sized = plan.model_copy(update={"engine": plan.engine.model_copy(update={"cache_blocks": blocks})})
    counter = StepCounter(sized, spec, stored)
    prompt = Span(use_case.prompt, use_case.prompt)
    cut = plan.parallel
    return Requirement(
        use_case,
        batch,
        cut.tp * cut.pp,
        Phase("prefill", use_case.ttft, counter.step([prompt] * batch, batch)),
        Phase("decode", use_case.tpot, counter.step([Span(1, longest)] * seqs, seqs)),
        _held(counter, use_case, batch),
    )


def _held(counter: StepCounter, use_case: UseCase, batch: int) -> Held:
    engine = counter.engine
    model, memory = engine.runner.model, engine.memory
    size, seqs = engine.scheduler.blocks.block_size, batch * use_case.beams
    shareable = all(cache.shareable for cache in model.caches)
    shared = use_case.prompt // size if shareable else 0  # whole blocks
    own = -(-(use_case.prompt + use_case.output) // size) - shared
    blocks = batch * shared + seqs * own
    chunk = min(batch * use_case.prompt, engine.scheduler.config.max_num_batched_tokens)
    return Held(
        model.weight_bytes(),
        blocks * memory.block_bytes + seqs * memory.sequence_bytes,
        activation_bytes(model, max(chunk, seqs), seqs),
    )
