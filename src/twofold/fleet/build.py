"""From a plan whose technique works on several instances to a fleet of engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twofold.devices.base import Device
from twofold.devices.catalog import THIS_CPU
from twofold.devices.clock import Clock, WallClock
from twofold.devices.registry import is_real, make_device
from twofold.engine.active import Active
from twofold.engine.arrivals import Prompt
from twofold.engine.build import Progress, build_engine, make_techniques
from twofold.engine.engine import Engine
from twofold.fleet.fleet import Fleet
from twofold.fleet.instance import Instance
from twofold.fleet.policy import FleetPolicy
from twofold.fleet.remote import RemoteInstance, Setup
from twofold.fleet.wire import Wire, wire_between
from twofold.kernels.cpu.threads import default_threads
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan
from twofold.techniques.base import Technique
from twofold.techniques.registry import make_technique

MakeDevice = Callable[[str], Device]


def fleet_technique(plan: Plan) -> Technique | None:
    """The technique of `plan` that works on several instances; None where there is none."""
    for use in plan.techniques:
        technique = make_technique(use.name, use.params)
        if technique.fleet_policy() is not None:
            return technique
    return None


def build_fleet(
    plan: Plan,
    spec: ModelSpec,
    checkpoint: Checkpoint | None = None,
    *,
    device: str | None = None,
    make: MakeDevice | None = None,
    wire: Wire | None = None,
    policy: FleetPolicy | None = None,
    calibration: Callable[[], Sequence[int]] | None = None,
    recorded: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> Fleet:
    """The instances that the plan's technique asks for, on `device` (default: the plan's) where it names no
    other, under one clock. In one process they share the weights.

    make: the device by name, made anew for each instance; wire: what caches go over, by default what the
    devices are linked with; policy: takes the place of a technique's, which the plan then need not have. The
    rest as for `build_engine`. ValueError where the plan cannot work.
    """
    technique = fleet_technique(plan)
    make_techniques(plan, spec)  # alone, and against each other
    if policy is None and technique is not None:
        policy = technique.fleet_policy()
    assert policy is not None, "no technique of this plan works on several instances"
    name = policy.name
    if plan.parallel.dp > 1:
        raise ValueError(f"{name} says itself how many instances there are: drop parallel.dp")
    own = device or plan.device
    single = plan.with_techniques(tuple(use for use in plan.techniques if use.name != name))
    make = make or _maker(single)
    engines: list[Engine] = []
    clock: Clock | None = None
    for other in policy.devices:
        if other not in (None, own) and (is_real(own) or is_real(other or own)):
            raise ValueError(
                f"{name}: on real devices all instances run on one, {own!r}; what {other!r} would do can be "
                f"predicted beside a modelled one: drop it"
            )
        where = make(other or own)
        if clock is None:
            clock = where.clock
        where.clock = clock
        engine = build_engine(
            single,
            where,
            spec,
            checkpoint,
            calibration=calibration,
            recorded=recorded,
            progress=progress if not engines else None,
            weights_of=engines[0] if engines and where.real else None,
        )
        _check_can_move(engine, name)
        engines.append(engine)
    shared = engines[0].device.real or engines[0].device.name == THIS_CPU
    wire = wire or wire_between([engine.device for engine in engines], plan.parallel.tp * plan.parallel.pp)
    first = engines[0]
    fleet = Fleet(
        [Instance(number, engine) for number, engine in enumerate(engines)],
        policy,
        wire,
        first.clock,
        first.encode,
        host=first.host,
        ranks=plan.parallel.tp,
        taking_turns=shared,
    )
    engines[0].derived["instances"] = len(engines)
    if technique is None:
        return fleet
    behaviour = dict(technique.info.behaviour)
    for engine in engines:
        engine.actives.append(
            Active(technique, None, None, None, None, None, None, None, None, behaviour, fleet=policy)
        )
    return fleet


def build_processes(plan: Plan, checkpoint: Checkpoint, *, calibration: Sequence[int] | None = None) -> Fleet:
    """The instances that the plan's technique asks for, each in a process of its own on the CPU, with weights
    of its own and its share of the processor's cores. Close the fleet to end them.

    calibration: token ids, where a technique learns from some. ValueError where the plan cannot work;
    RuntimeError where a process fails.
    """
    technique = fleet_technique(plan)
    assert technique is not None, "no technique of this plan works on several instances"
    make_techniques(plan, checkpoint.spec)
    policy = technique.fleet_policy()
    assert policy is not None
    name = technique.info.name
    if plan.device != "cpu" or plan.parallel.tp > 1:
        raise ValueError(f"{name}: processes of instances run on device 'cpu', whole: use that, with tp=1")
    single = plan.with_techniques(tuple(use for use in plan.techniques if use.name != name))
    threads = plan.engine.threads or max(1, default_threads() // len(policy.devices))
    clock = WallClock()
    instances: list[RemoteInstance] = []
    try:
        for number in range(len(policy.devices)):
            setup = Setup(single, checkpoint.path, calibration, number, clock.start, threads)
            instances.append(RemoteInstance(setup))
        for instance in instances:
            instance.ready()
    except BaseException:
        for instance in instances:
            instance.close()
        raise
    tokenizer = checkpoint.tokenizer

    def encode(prompt: Prompt) -> Sequence[int] | int:
        if not isinstance(prompt, str):
            return prompt
        if tokenizer is None:
            raise ValueError("this model has no tokenizer: give token ids instead of text")
        return tokenizer.encode(prompt)

    return Fleet(instances, policy, Wire(None), clock, encode)


def _maker(plan: Plan) -> MakeDevice:
    def make(name: str) -> Device:
        return make_device(name, **plan.parallel.model_dump(), **plan.engine.device_options)

    return make


def _check_can_move(engine: Engine, name: str) -> None:
    if not all(cache.shareable for cache in engine.runner.caches):
        raise ValueError(
            f"{name} sends caches block by block, and a technique of this plan keeps a part of them "
            "elsewhere: use one of both"
        )
