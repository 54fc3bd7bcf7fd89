"""From a plan to an engine: techniques, model, memory, scheduler, put together the same way for `run` and
`predict`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from twofold.devices.base import Device
from twofold.devices.modelled import ModelledDevice
from twofold.engine.active import Active, activate, the_one
from twofold.engine.blocks import BlockManager
from twofold.engine.cache_format import cache_scheme, decide_format
from twofold.engine.engine import Engine
from twofold.engine.fit import smallest_change
from twofold.engine.host import Host
from twofold.engine.memory import DoesNotFitError, MemoryPlan, plan_memory
from twofold.engine.policy import POLICIES
from twofold.engine.runner import Runner
from twofold.engine.scheduler import Scheduler
from twofold.engine.scheduler_config import SchedulerConfig
from twofold.engine.serving_profile import PLAIN, get_serving, served
from twofold.engine.weight_format import decide_weights, weight_scheme
from twofold.models.build import ModelOptions, build_model
from twofold.models.cache import CacheSize
from twofold.models.parallel import Parallel
from twofold.models.spec import ModelSpec
from twofold.models.stored_weights import StoredWeights
from twofold.models.tensors import Checkpoint
from twofold.models.transformer import Transformer
from twofold.ops.base import Precision
from twofold.plan import Plan
from twofold.techniques.base import Technique
from twofold.techniques.pairs import check_together
from twofold.techniques.registry import make_technique

Progress = Callable[[str, int, int], None]

DEFAULT_BLOCK_SIZE = 16
FEW_SEQS, MOST_SEQS = 16, 256
"""Sequences at once where a plan leaves it open: few where it keeps a stated number of requests going, else
many."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The plan's engine limits with every default decided.

    cache_format: how cache entries are stored: a native format, the activations' own, or a technique's name.
    weights: "stored" or "dense", or the kind of quantised checkpoint that the plan names.
    """

    precision: Precision
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_context: int
    capacity: int
    cache_format: str
    weights: str


def make_techniques(plan: Plan, spec: ModelSpec) -> list[Technique]:
    """The plan's techniques, validated alone, against the model and against each other."""
    techniques = [make_technique(use.name, use.params) for use in plan.techniques]
    for technique in techniques:
        technique.check(spec)
    check_together(techniques)
    return techniques


def build_engine(
    plan: Plan,
    device: Device,
    spec: ModelSpec,
    checkpoint: Checkpoint | None = None,
    *,
    calibration: Callable[[], Sequence[int]] | None = None,
    recorded: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> Engine:
    """An engine for `plan` on `device`.

    checkpoint: the weights, needed on a real device; for a modelled one, only how they are stored is looked
    at. calibration: gives token ids of prose to techniques that learn from the unmodified model. recorded:
    data-dependent quantities of an earlier run, for predictions. ValueError where the plan cannot work;
    DoesNotFitError, with the smallest change that would do, where memory is short.
    """
    if device.real and checkpoint is None:
        raise ValueError(
            f"{spec.name} is known by its architecture only; it can be predicted, but running it needs "
            "weights"
        )
    plan = served(plan)
    techniques = make_techniques(plan, spec)
    if device.real and any(t.needs_calibration for t in techniques):
        if calibration is None:
            raise ValueError(
                "a technique of this plan learns from text, and there is no tokenizer to read any with"
            )
        techniques = _calibrated(techniques, plan, device, spec, checkpoint, calibration(), progress)
    actives = [
        activate(t, real=device.real, overrides=plan.behaviour, recorded=recorded or {}) for t in techniques
    ]
    limits = decide_limits(plan, device, spec, actives, checkpoint)
    model = _model(plan, device, spec, checkpoint, actives, limits, progress)
    try:
        memory = memory_for(plan, device, model, limits)
    except DoesNotFitError as error:
        change = smallest_change(plan, spec, lambda p: _fits(p, device, spec, checkpoint))
        raise DoesNotFitError(f"{spec.name} does not fit on {device.name}: {error}. {change}") from None
    return _assemble(plan, device, model, memory, limits, actives, checkpoint)


def decide_limits(
    plan: Plan,
    device: Device,
    spec: ModelSpec,
    actives: Sequence[Active],
    checkpoint: Checkpoint | None = None,
) -> Limits:
    """Every engine default that the plan leaves open."""
    plan = served(plan)
    e = plan.engine
    multiple = max([getattr(a.cache, "block_multiple", 1) for a in actives], default=1)
    load = plan.workload
    closed = load.rate is None and (load.trace is None or load.concurrency is not None)
    few = min(MOST_SEQS, max(FEW_SEQS, load.concurrency or 1))
    seqs = e.max_num_seqs or (MOST_SEQS if device.cache_tokens is None and not closed else few)
    precision = plan.precision if plan.precision != "auto" else device.native_precision
    block_size = e.block_size or max(DEFAULT_BLOCK_SIZE, multiple)
    return Limits(
        precision,
        block_size,
        seqs,
        e.max_num_batched_tokens or max(seqs, device.step_tokens),
        min(e.max_context or spec.max_context, spec.max_context),
        e.memory or int(device.memory["device"] * e.memory_share),
        decide_format(plan, device, spec, actives, precision, block_size),
        decide_weights(plan, device, checkpoint),
    )


def _calibrated(
    techniques: list[Technique],
    plan: Plan,
    device: Device,
    spec: ModelSpec,
    checkpoint: Checkpoint | None,
    ids: Sequence[int],
    progress: Progress | None,
) -> list[Technique]:
    limits = decide_limits(plan, device, spec, [], checkpoint)
    plain = _model(plan, device, spec, checkpoint, [], limits, progress)
    with torch.inference_mode():
        return [t.calibrate(plain, device, ids) if t.needs_calibration else t for t in techniques]


def _model(
    plan: Plan,
    device: Device,
    spec: ModelSpec,
    checkpoint: Checkpoint | None,
    actives: Sequence[Active],
    limits: Limits,
    progress: Progress | None,
) -> Transformer:
    options = _options(plan, actives, limits, checkpoint, load=device.real)
    options = replace(options, native=device.real and device.stored_weights)
    where = torch.device(device.name) if device.real else None
    report = None if progress is None else lambda done, total: progress("loading weights", done, total)
    return build_model(spec, options, checkpoint if device.real else None, where, report)


def _options(
    plan: Plan, actives: Sequence[Active], limits: Limits, checkpoint: Checkpoint | None, *, load: bool
) -> ModelOptions:
    stored = None
    if limits.weights == "stored":
        assert checkpoint is not None
        stored = StoredWeights(checkpoint, load=load, exact=plan.engine.kernels == "native-fp32")
    return ModelOptions(
        limits.precision,
        Parallel(**plan.parallel.model_dump()),
        weight_scheme(limits.weights, actives),
        the_one([a.cache for a in actives]) or cache_scheme(limits.cache_format),
        the_one([a.selection for a in actives]),
        limits.block_size,
        limits.max_context,
        stored,
    )


def memory_for(plan: Plan, device: Device, model: Transformer, limits: Limits) -> MemoryPlan:
    """What `model` holds on `device` under `limits`; DoesNotFitError where the plan's longest request has no
    room."""
    load = plan.workload
    synthetic = load.trace is None and load.prompts is None
    longest = min(limits.max_context, load.prompt + load.output) if synthetic else 2 * limits.block_size
    most = limits.max_num_seqs * limits.max_context
    if device.cache_tokens is not None and plan.engine.memory is None:
        most = min(most, max(device.cache_tokens, longest * min(limits.max_num_seqs, load.concurrency or 1)))
    return plan_memory(
        model,
        limits.capacity,
        block_size=limits.block_size,
        max_seqs=limits.max_num_seqs,
        max_tokens=limits.max_num_batched_tokens,
        max_cache_tokens=most,
        min_cache_tokens=longest,
        num_blocks=plan.engine.cache_blocks,
    )


def _fits(plan: Plan, device: Device, spec: ModelSpec, checkpoint: Checkpoint | None) -> bool:
    """Whether `plan` fits, judged from shapes and formats alone."""
    cut = plan.parallel
    if cut.tp * cut.pp * cut.dp > 1 and not device.linkable:
        return False
    try:
        techniques = make_techniques(plan, spec)
        actives = [activate(t, real=False, overrides=plan.behaviour, recorded={}) for t in techniques]
        limits = decide_limits(plan, device, spec, actives, checkpoint)
        options = _options(plan, actives, limits, checkpoint, load=False)
        memory_for(plan, device, build_model(spec, options), limits)
    except ValueError:
        return False
    return True


def _assemble(
    plan: Plan,
    device: Device,
    model: Transformer,
    memory: MemoryPlan,
    limits: Limits,
    actives: list[Active],
    checkpoint: Checkpoint | None,
) -> Engine:
    shareable = all(cache.shareable for cache in model.caches)
    prefix_caching = plan.engine.prefix_caching and shareable
    host_blocks = 0
    if plan.engine.preemption == "swap":
        if not shareable:
            raise ValueError(
                "preemption by swap needs a cache that lives in blocks alone; use preemption: recompute"
            )
        per_block = max(1, sum(cache.block_bytes() for cache in model.caches))
        host_blocks = (plan.engine.swap_memory or memory.num_blocks * per_block) // per_block
    policy = the_one([a.policy for a in actives]) or POLICIES[plan.engine.policy]()
    config = SchedulerConfig(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_context=limits.max_context,
        chunked_prefill=plan.engine.chunked_prefill,
        preemption=plan.engine.preemption,
        pipeline_depth=plan.parallel.pp,
    )
    blocks = BlockManager(
        memory.num_blocks, limits.block_size, num_host_blocks=host_blocks, prefix_caching=prefix_caching
    )
    modelled = the_one([a.modelled_drafter for a in actives])
    size = CacheSize(memory.num_blocks, limits.block_size, limits.max_num_seqs)
    device.resident_bytes = model.weight_bytes()
    if isinstance(device, ModelledDevice):
        device.use(get_serving(plan.engine.serving).kernels_on(device.generation))
    return Engine(
        Scheduler(config, blocks, policy),
        Runner(model, device, size, num_host_blocks=host_blocks, drafts=modelled),
        actives=actives,
        tokenizer=None if checkpoint is None else checkpoint.tokenizer,
        memory=memory,
        host=_host(plan, device),
        derived={
            "serving": plan.engine.serving,
            "precision": limits.precision,
            "block_size": limits.block_size,
            "max_num_seqs": limits.max_num_seqs,
            "max_num_batched_tokens": limits.max_num_batched_tokens,
            "max_context": limits.max_context,
            "memory_bytes": limits.capacity,
            "cache_blocks": memory.num_blocks,
            "cache_reserved_bytes": memory.cache,
            "prefix_caching": prefix_caching,
            "policy": policy.name,
            "cache_format": limits.cache_format,
            "weights": limits.weights,
            **device.settings(),
        },
    )


def _host(plan: Plan, device: Device) -> Host | None:
    """The host's part in a prediction; a real one takes its own time."""
    if not isinstance(device, ModelledDevice) or plan.engine.serving == PLAIN:
        return None
    return Host(get_serving(plan.engine.serving), device.idle_watts)
