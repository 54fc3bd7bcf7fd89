"""What single engine steps take on a modelled device, without a scheduler: for tools that search over batches
instead of playing a workload."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.devices.base import StepCost
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import is_real, make_device
from twofold.engine.build import Limits, build_engine, decide_limits
from twofold.models.find import find_spec, find_stored
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.tensors import Checkpoint
from twofold.ops.attention import Span
from twofold.ops.decodes import DecodeSpans
from twofold.plan import Plan


class StepPredictor:
    """One replica of `plan` on a modelled device, built as `predict` builds it: parallelism, techniques and
    cache formats count.

    device: its name or YAML file, or one that is built already. spec, stored: architecture and stored
    weights; looked up by the plan's model where they are not given. engine, memory, limits: what was built,
    what it holds and which limits were decided.

    ValueError where the plan cannot work there (DoesNotFitError with the smallest change that would do).
    """

    def __init__(
        self,
        plan: Plan,
        device: str | ModelledDevice,
        *,
        spec: ModelSpec | None = None,
        stored: Checkpoint | None = None,
    ) -> None:
        if isinstance(device, str):
            if is_real(device):
                raise ValueError(f"{device!r} is a real device; steps are predicted for modelled ones")
            made = make_device(device, **plan.parallel.model_dump())
            assert isinstance(made, ModelledDevice)
            device = made
        self.device = device
        spec, stored = spec or find_spec(plan.model), stored or find_stored(plan.model)
        self.engine = build_engine(plan, device, spec, stored)
        self.memory = self.engine.memory
        self.limits: Limits = decide_limits(plan, device, spec, self.engine.actives, stored)
        self._blocks_given = plan.engine.cache_blocks is not None

    def step(self, spans: Sequence[Span], num_logits: int | None = None) -> StepCost:
        """What a step of `spans` takes, the host's part of the plan's serving software included (for which a
        span of several tokens is a prompt's). num_logits: rows of logits wanted, by default one per sequence
        (fewer where a prompt's chunk is not its last, more where drafts are verified)."""
        if not spans:
            raise ValueError("a step needs at least one sequence")
        tokens = len(spans) if isinstance(spans, DecodeSpans) else sum([queries for queries, _ in spans])
        step = StepInput(spans, tokens, len(spans) if num_logits is None else num_logits)
        self.device.begin_step()
        self.engine.runner.charge(step)
        cost = self.device.end_step()
        host = self.engine.host
        if host is None:
            return cost
        prompts = 0 if tokens == len(spans) else sum([queries > 1 for queries, _ in spans])
        return host.step(cost, len(spans), tokens, prompts)

    def max_seqs(self, context: int) -> int:
        """How many sequences of `context` tokens the cache holds at once, counted in whole blocks and
        per-sequence stores: in all memory beside weights and activations, or in the blocks that the plan
        gives."""
        memory, size = self.memory, self.limits.block_size
        each = -(-context // size) * memory.block_bytes + memory.sequence_bytes
        if not each:  # no layer caches anything
            return self.limits.max_num_seqs
        room = memory.cache if self._blocks_given else memory.capacity - memory.weights - memory.activations
        return room // each
