"""From a plan whose technique works on several instances to a fleet of engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twofold.devices.base import Device
from twofold.devices.catalog import THIS_CPU
from twofold.devices.clock import Clock, WallClock
from twofold.devices.registry import is_real, make_device
from twofold.engine.arrivals import Prompt
from twofold.engine.build import Progress, build_engine, make_techniques
from twofold.engine.engine import Engine
from twofold.fleet.fleet import Fleet
from twofold.fleet.instance import Instance, check_can_move
from twofold.fleet.policy import FleetPolicy
from twofold.fleet.remote import RemoteInstance
from twofold.fleet.setup import Setup
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


def processes_technique(plan: Plan) -> Technique:
    """The technique of `plan` whose instances get processes of their own; ValueError where they cannot."""
    technique = fleet_technique(plan)
    policy = None if technique is None else technique.fleet_policy()
    if technique is None or policy is None:
        raise ValueError(
            "engine.processes puts every instance of a technique over several instances into a process of "
            "its own, and no technique of this plan is one: add splitwise or llumnix, or drop processes"
        )
    cut = plan.parallel
    if plan.device != "cpu" or cut.tp * cut.pp > 1:
        raise ValueError(
            f"{technique.info.name}: processes of instances run on device 'cpu', the whole model in each: "
            f"use that with tp=1 and pp=1, not {plan.device!r} with tp={cut.tp} and pp={cut.pp}, or drop "
            "engine.processes"
        )
    _check_places(plan, policy, plan.device)
    return technique


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
    own = device or plan.device
    _check_places(plan, policy, own)
    single = _without(plan, name)
    make = make or _maker(single)
    engines: list[Engine] = []
    clock: Clock | None = None
    for other in policy.devices:
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
        check_can_move(engine, name)
        engines.append(engine)
    shared = engines[0].device.real or engines[0].device.name == THIS_CPU
    wire = wire or wire_between([engine.device for engine in engines], plan.parallel.tp * plan.parallel.pp)
    first = engines[0]
    return Fleet(
        [Instance(number, engine) for number, engine in enumerate(engines)],
        policy,
        wire,
        first.clock,
        first.encode,
        host=first.host,
        ranks=plan.parallel.tp,
        taking_turns=shared,
        technique=technique,
    )


def build_processes(
    plan: Plan,
    checkpoint: Checkpoint,
    *,
    calibration: Callable[[], Sequence[int]] | None = None,
    profile: bool = False,
    progress: Progress | None = None,
) -> Fleet:
    """The instances that the plan's technique asks for, each in a process of its own on the CPU, with weights
    of its own and its share of the processor's cores. Close the fleet to end them.

    calibration: gives token ids, where a technique learns from some; profile: time every op. ValueError where
    the plan cannot work; RuntimeError where a process fails.
    """
    technique = processes_technique(plan)
    techniques = make_techniques(plan, checkpoint.spec)
    policy = technique.fleet_policy()
    assert policy is not None
    name = technique.info.name
    engine = plan.engine.model_copy(update={"processes": False})
    single = _without(plan, name).model_copy(update={"engine": engine})
    threads = plan.engine.threads or max(1, default_threads() // len(policy.devices))
    ids = calibration() if calibration is not None and any(t.needs_calibration for t in techniques) else None
    clock = WallClock()
    instances: list[RemoteInstance] = []
    try:
        for number in range(len(policy.devices)):
            setup = Setup(single, name, checkpoint.path, ids, number, clock.start, threads, profile)
            instances.append(RemoteInstance(setup))
        for instance in instances:
            if progress is not None:
                progress("starting processes", instance.number, len(instances))
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

    return Fleet(instances, policy, Wire(None), clock, encode, technique=technique)


def _without(plan: Plan, name: str) -> Plan:
    """`plan` as one instance of it runs, without the technique `name` over them."""
    return plan.with_techniques(tuple(use for use in plan.techniques if use.name != name))


def _check_places(plan: Plan, policy: FleetPolicy, own: str) -> None:
    """ValueError where the plan says twice how many instances there are, or mixes real devices with
    others."""
    name = policy.name
    if plan.parallel.dp > 1:
        raise ValueError(f"{name} says itself how many instances there are: drop parallel.dp")
    for other in policy.devices:
        if other not in (None, own) and (is_real(own) or is_real(other or own)):
            raise ValueError(
                f"{name}: on real devices all instances run on one, {own!r}; what {other!r} would do can be "
                f"predicted beside a modelled one: drop it"
            )


def _maker(plan: Plan) -> MakeDevice:
    def make(name: str) -> Device:
        return make_device(name, **plan.parallel.model_dump(), **plan.engine.device_options)

    return make
