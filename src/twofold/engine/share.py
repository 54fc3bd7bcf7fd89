"""What a rank holds, put together from a plan: its share of the model, and the techniques that changed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from twofold.devices.base import Device
from twofold.devices.registry import make_device
from twofold.devices.torch_device import TorchDevice
from twofold.engine.active import Active, activate, the_one
from twofold.engine.cache_format import cache_scheme
from twofold.engine.followers import Setup
from twofold.engine.limits import Limits, decide_limits
from twofold.engine.rank import Rank
from twofold.engine.weight_format import weight_scheme
from twofold.models.build import ModelOptions, build_model
from twofold.models.loading import load_checkpoint
from twofold.models.parallel import Parallel
from twofold.models.shard import Shard
from twofold.models.sharing import with_caches_of
from twofold.models.spec import ModelSpec
from twofold.models.stored_weights import StoredWeights
from twofold.models.tensors import Checkpoint
from twofold.models.transformer import Transformer
from twofold.plan import Plan
from twofold.techniques.base import Technique
from twofold.techniques.pairs import check_together
from twofold.techniques.registry import make_technique

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Share:
    """A rank's share of the model, the techniques that are on and the limits that were decided."""

    model: Transformer
    actives: list[Active]
    limits: Limits


def make_techniques(plan: Plan, spec: ModelSpec) -> list[Technique]:
    """The plan's techniques, validated alone, against the model and against each other."""
    techniques = [make_technique(use.name, use.params) for use in plan.techniques]
    for technique in techniques:
        technique.check(spec)
    check_together(techniques)
    return techniques


def build_share(
    plan: Plan,
    techniques: Sequence[Technique],
    device: Device,
    spec: ModelSpec,
    checkpoint: Checkpoint | None,
    *,
    calibration: Sequence[int] | None = None,
    recorded: dict[str, float] | None = None,
    progress: Progress | None = None,
    weights_of: Transformer | None = None,
) -> Share:
    """The share of `device`'s rank. calibration: token ids for techniques that learn from them, on a real
    device; all ranks learn together and come to the same. weights_of: a model that was built for the same
    plan, whose weights serve here too."""
    if device.real and calibration is not None:
        techniques = _calibrated(techniques, plan, device, spec, checkpoint, calibration, progress)
    actives = [
        activate(t, real=device.real, overrides=plan.behaviour, recorded=recorded or {}) for t in techniques
    ]
    limits = decide_limits(plan, device, spec, actives, checkpoint)
    if weights_of is None:
        model = load_model(plan, device, spec, checkpoint, actives, limits, progress)
    else:
        options = model_options(plan, actives, limits, checkpoint, load=False)
        options = replace(options, native=device.real and device.stored_weights)
        model = with_caches_of(weights_of, build_model(spec, options))
    return Share(model, actives, limits)


def build_rank(setup: Setup) -> Rank:
    """The rank that a follower is, from nothing but what it was told: it meets the others, then loads."""
    plan = setup.plan
    device = make_device(
        plan.device,
        **plan.parallel.model_dump(),
        **plan.engine.device_options,
        profile=setup.profile,
        rank=setup.rank,
    )
    assert isinstance(device, TorchDevice)
    device.meet(setup.folder, setup.processes)
    checkpoint = load_checkpoint(setup.checkpoint)
    spec = checkpoint.spec
    share = build_share(
        plan, make_techniques(plan, spec), device, spec, checkpoint, calibration=setup.calibration
    )
    filtering, paging = (
        the_one([a.prompt_filter for a in share.actives]),
        the_one([a.paging for a in share.actives]),
    )
    return Rank(share.model, device, filtering, paging)


def _calibrated(
    techniques: Sequence[Technique],
    plan: Plan,
    device: Device,
    spec: ModelSpec,
    checkpoint: Checkpoint | None,
    ids: Sequence[int],
    progress: Progress | None,
) -> list[Technique]:
    limits = decide_limits(plan, device, spec, [], checkpoint)
    plain = load_model(plan, device, spec, checkpoint, [], limits, progress)
    with torch.inference_mode():
        return [t.calibrate(plain, device, ids) if t.needs_calibration else t for t in techniques]


def load_model(
    plan: Plan,
    device: Device,
    spec: ModelSpec,
    checkpoint: Checkpoint | None,
    actives: Sequence[Active],
    limits: Limits,
    progress: Progress | None = None,
) -> Transformer:
    """The model of `spec` as the techniques that are on and the limits want it: with weights on a real
    device, with shapes alone on a modelled one."""
    options = model_options(plan, actives, limits, checkpoint, load=device.real, rank=device.rank)
    options = replace(options, native=device.real and device.stored_weights)
    where: torch.device | None = device.where if device.real else None  # type: ignore[attr-defined]
    report = None if progress is None else lambda done, total: progress("loading weights", done, total)
    return build_model(spec, options, checkpoint if device.real else None, where, report)


def model_options(
    plan: Plan,
    actives: Sequence[Active],
    limits: Limits,
    checkpoint: Checkpoint | None,
    *,
    load: bool,
    rank: int = 0,
) -> ModelOptions:
    """How `plan` puts the share of `rank` together. load: its quantised weights are wanted, not their sizes
    alone."""
    stored = None
    if limits.weights == "stored":
        assert checkpoint is not None
        exact = plan.engine.kernels == "native-fp32"
        stored = StoredWeights(checkpoint, load=load, exact=exact, shard=Shard(rank, plan.parallel.tp))
    return ModelOptions(
        limits.precision,
        Parallel(**plan.parallel.model_dump()),
        weight_scheme(limits.weights, actives),
        the_one([a.cache for a in actives]) or cache_scheme(limits.cache_format),
        the_one([a.selection for a in actives]),
        the_one([a.attending for a in actives]),
        the_one([a.retention for a in actives]),
        limits.block_size,
        limits.max_context,
        stored,
        rank=rank,
        placement=the_one([a.placement for a in actives]),
        max_drafts=max([a.max_drafts for a in actives], default=0),
        plain_cache=cache_scheme(limits.plain_format),
    )
