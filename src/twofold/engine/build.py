"""From a plan to an engine: a rank's share of the model, memory, scheduler, put together the same way for
`run` and `predict`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twofold.devices.base import Device
from twofold.devices.machine import Machine
from twofold.devices.modelled import ModelledDevice
from twofold.devices.torch_device import TorchDevice
from twofold.engine.active import activate, the_one
from twofold.engine.blocks import BlockManager
from twofold.engine.draft_kit import DraftKit
from twofold.engine.engine import Engine
from twofold.engine.fit import smallest_change
from twofold.engine.followers import Followers
from twofold.engine.host import Host
from twofold.engine.leader import Leader
from twofold.engine.limits import Limits, decide_limits
from twofold.engine.memory import NOTHING_HELD, DoesNotFitError, Held, MemoryPlan, plan_memory
from twofold.engine.model_drafter import model_drafter
from twofold.engine.policy import POLICIES
from twofold.engine.rank import Rank
from twofold.engine.runner import Runner
from twofold.engine.scheduler import Scheduler
from twofold.engine.scheduler_config import SchedulerConfig
from twofold.engine.serving_profile import PLAIN, get_serving, served
from twofold.engine.share import Progress, Share, build_share, make_techniques, model_options
from twofold.engine.swapping import PLAIN_SWAPPING
from twofold.models.build import build_model
from twofold.models.cache import CacheSize
from twofold.models.parallel import Parallel
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.tensors import Checkpoint
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.techniques.base import Technique

__all__ = ["Limits", "Progress", "build_engine", "decide_limits", "make_techniques", "memory_for"]


def build_engine(
    plan: Plan,
    device: Device,
    spec: ModelSpec,
    checkpoint: Checkpoint | None = None,
    *,
    calibration: Callable[[], Sequence[int]] | None = None,
    recorded: dict[str, float] | None = None,
    progress: Progress | None = None,
    weights_of: Engine | None = None,
) -> Engine:
    """An engine for `plan` on `device`.

    checkpoint: the weights, needed on a real device; for a modelled one, only how they are stored is looked
    at. calibration: gives token ids of prose to techniques that learn from the unmodified model. recorded:
    data-dependent quantities of an earlier run, for predictions. weights_of: an engine on a device of the
    same kind, built for the same plan, whose weights serve here too. ValueError where the plan cannot work;
    DoesNotFitError, with the smallest change that would do, where memory is short.
    """
    if device.real and checkpoint is None:
        raise ValueError(
            f"{spec.name} is known by its architecture only; it can be predicted, but running it needs "
            "weights"
        )
    if device.real and plan.engine.processes:
        raise ValueError(
            "engine.processes is for techniques over several instances, in `twofold run` and `compare`, and "
            "this is one engine: add splitwise or llumnix there, or drop processes"
        )
    plan = served(plan)
    techniques = make_techniques(plan, spec) if weights_of is None else weights_of.techniques
    for technique in techniques:
        if technique.fleet_policy() is not None:
            name = technique.info.name
            raise ValueError(
                f"{name} works on several instances, and this is one engine: use it with `twofold run`, "
                f"`predict` or `compare` (`fleet.build.build_fleet`), or drop {name} from the plan"
            )
    ids = _calibration(techniques, calibration) if device.real and weights_of is None else None
    followers = _followers(plan, device, spec, checkpoint, ids)
    try:
        share = build_share(
            plan,
            techniques,
            device,
            spec,
            checkpoint,
            calibration=ids,
            recorded=recorded,
            progress=progress,
            weights_of=None if weights_of is None else weights_of.runner.model,
        )
        try:
            held = _build_drafter(plan, device, share, checkpoint)
            memory = memory_for(plan, device, share.model, share.limits, held)
        except DoesNotFitError as error:
            change = smallest_change(
                plan, spec, lambda p: _fits(p, device, spec, checkpoint), linkable=device.linkable
            )
            raise DoesNotFitError(f"{spec.name} does not fit on {device.name}: {error}. {change}") from None
        if followers is not None:
            followers.ready()
        return _assemble(plan, device, share, memory, checkpoint, followers)
    except BaseException:
        if followers is not None:
            followers.close()
        raise


def _calibration(
    techniques: Sequence[Technique], calibration: Callable[[], Sequence[int]] | None
) -> Sequence[int] | None:
    """Token ids for the techniques that learn from some; None where none does."""
    if not any(t.needs_calibration for t in techniques):
        return None
    if calibration is None:
        raise ValueError(
            "a technique of this plan learns from text, and there is no tokenizer to read any with"
        )
    return calibration()


def _followers(
    plan: Plan, device: Device, spec: ModelSpec, checkpoint: Checkpoint | None, ids: Sequence[int] | None
) -> Followers | None:
    """The other ranks of a real device; None where it is the only one."""
    if not device.real or plan.parallel.tp == 1:
        return None
    assert isinstance(device, TorchDevice)
    assert checkpoint is not None
    if device.ranks != plan.parallel.tp:
        raise ValueError(
            f"tp={plan.parallel.tp} needs a device made for that many ranks, not for {device.ranks}: "
            "`make_device(name, tp=…)`"
        )
    Parallel(**plan.parallel.model_dump()).check(spec)
    return Followers(plan, device, checkpoint, ids)


def _build_drafter(
    plan: Plan, device: Device, share: Share, checkpoint: Checkpoint | None, *, load: bool = True
) -> Held:
    """Put together the models of a drafter that has some. Returns what they hold. load: with weights, on a
    real device."""
    drafter = model_drafter(share.actives)
    if drafter is None:
        return NOTHING_HELD
    drafter.build(DraftKit(plan, device, share.limits, share.model, checkpoint, load and device.real))
    return drafter.held()


def memory_for(
    plan: Plan, device: Device, model: Transformer, limits: Limits, held: Held = NOTHING_HELD
) -> MemoryPlan:
    """What `model` holds on `device` under `limits`, beside what is `held` for a drafter; DoesNotFitError
    where the plan's longest request has no room."""
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
        held=held,
        cache_memory=device.cache_memory,
    )


def _fits(plan: Plan, device: Device, spec: ModelSpec, checkpoint: Checkpoint | None) -> bool:
    """Whether `plan` fits, judged from shapes and formats alone, and the device can execute it."""
    cut = plan.parallel
    machine = device if isinstance(device, Machine) else None
    if cut.tp * cut.pp * cut.dp > device.ranks and not device.linkable:
        return False
    if machine is not None and cut.tp > machine.most:
        return False
    try:
        techniques = make_techniques(plan, spec)
        actives = [activate(t, real=False, overrides=plan.behaviour, recorded={}) for t in techniques]
        limits = decide_limits(plan, device, spec, actives, checkpoint)
        options = model_options(plan, actives, limits, checkpoint, load=False)
        share = Share(build_model(spec, options), actives, limits)
        held = _build_drafter(plan, device, share, checkpoint, load=False)
        memory_for(plan, device, share.model, limits, held)
        if machine is not None and cut.tp == machine.num_devices:
            machine.forward(share.model, StepInput([Span(1, 1)], num_tokens=1, num_logits=1))
    except ValueError:
        return False
    return True


def _assemble(
    plan: Plan,
    device: Device,
    share: Share,
    memory: MemoryPlan,
    checkpoint: Checkpoint | None,
    followers: Followers | None,
) -> Engine:
    model, actives, limits = share.model, share.actives, share.limits
    shareable = all(cache.shareable for cache in model.caches)
    retention = the_one([a.retention for a in actives])
    prefix_caching = plan.engine.prefix_caching and shareable and retention is None
    host_blocks = 0
    swapping = the_one([a.technique.swapping() for a in actives])
    preemption = plan.engine.preemption if swapping is None else "swap"
    if swapping is not None and swapping.overlapped and plan.parallel.pp > 1:
        raise ValueError(
            "caches are swapped beside one step at a time, and a pipeline has several: use pp=1, or switch "
            "overlapped off"
        )
    if preemption == "swap":
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
        preemption=preemption,
        pipeline_depth=plan.parallel.pp,
        lookahead=max([a.paging.lookahead for a in actives if a.paging is not None], default=0),
    )
    blocks = BlockManager(
        memory.num_blocks,
        limits.block_size,
        num_host_blocks=host_blocks,
        prefix_caching=prefix_caching,
        swapping=swapping or PLAIN_SWAPPING,
    )
    modelled = the_one([a.modelled_drafter for a in actives])
    size = CacheSize(memory.num_blocks, limits.block_size, limits.max_num_seqs)
    device.resident_bytes = model.weight_bytes()
    if (drafter := model_drafter(actives)) is not None:
        drafter.allocate(size)
    if isinstance(device, ModelledDevice):
        device.use(get_serving(plan.engine.serving).kernels_on(device.generation))
    filtering = the_one([a.prompt_filter for a in actives])
    paging = the_one([a.paging for a in actives])
    rank = (
        Rank(model, device, filtering, paging)
        if followers is None
        else Leader(model, device, filtering, followers, paging)
    )
    return Engine(
        Scheduler(config, blocks, policy, retention),
        Runner(
            rank,
            size,
            num_host_blocks=host_blocks,
            is_free=blocks.is_free,
            drafts=modelled,
            retention=retention,
            swapping=blocks.swapping,
        ),
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
