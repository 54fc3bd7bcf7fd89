"""`predict`: the plan's own engine on a modelled device, under its virtual clock."""

from __future__ import annotations

from twofold.devices.registry import is_machine, is_real, machine_class, make_device
from twofold.engine.accounts import Accounts
from twofold.engine.build import Progress, build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import Request
from twofold.fleet.build import build_fleet, fleet_technique
from twofold.fleet.fleet import Fleet
from twofold.jobs.ceilings import ceilings
from twofold.jobs.intervals import with_intervals
from twofold.jobs.result import Played, make_result
from twofold.models.find import find_spec, find_stored, find_tokenizer_source
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.plan import ParallelPlan, Plan
from twofold.report.schema import Result
from twofold.techniques.registry import make_technique
from twofold.workloads.workload import Item, Workload, make_workload


def predict_plan(
    plan: Plan,
    device: str,
    *,
    label: str | None = None,
    spec: ModelSpec | None = None,
    stored: Checkpoint | None = None,
    recorded: dict[str, float] | None = None,
    workload: Workload | None = None,
    progress: Progress | None = None,
) -> Result:
    """What `plan` would do on the modelled `device`. stored: says how the weights are stored; looked up by
    default. recorded: data-dependent quantities that a run measured. workload: played instead of the plan's.

    ValueError where the plan cannot work there (DoesNotFitError with the smallest change that would do).
    """
    if is_real(device):
        raise ValueError(
            f"{device!r} is a real device: `run` it, or predict for 'this-cpu' after `twofold calibrate`"
        )
    asked, plan = plan, _standing(plan, device)
    spec = spec or find_spec(plan.model)
    stored = stored or find_stored(plan.model)
    if workload is None:
        tokenizer = None
        if plan.workload.prompts is not None and (source := find_tokenizer_source(plan.model)) is not None:
            tokenizer = source.tokenizer
        workload = make_workload(plan.workload, tokenizer, real=False, vocab=spec.vocab_size)
    replicas = plan.parallel.dp
    engines: list[Engine] = []
    accounts: list[Accounts] = []
    requests: list[Request] = []
    seconds = 0.0
    for replica in range(replicas):
        engine = _build(plan, device, spec, stored, recorded)
        share = _share(workload, replica, replicas)
        if not share.items:
            continue
        ended = _play(engine, share, progress, len(requests), len(workload.items))
        engine.check_techniques()
        engines += engine.engines
        accounts += engine.accounts()
        requests += ended
        seconds = max(seconds, max(r.last_token_time or 0.0 for r in ended) - share.items[0].time)
    result = make_result(
        plan,
        accounts,
        Played(requests, seconds),
        workload,
        label=label or label_of(plan),
        model=plan.model,
        quality_missing="a prediction computes no tokens; run the plan to measure quality",
        ceilings=ceilings(engines[0]),
    )
    result = with_intervals(result, engines[0].device)
    if plan is asked:
        return result
    alone = f"one machine; the plan's tp={asked.parallel.tp} is for devices that are linked"
    return result.model_copy(update={"derived": {**result.derived, "parallel": alone}})


def _standing(plan: Plan, device: str) -> Plan:
    """`plan` as it is deployed on `device`: a machine that is never linked takes it alone, however the plan
    cuts it for devices that are."""
    cut = plan.parallel
    if not is_machine(device) or machine_class(device).most > 1 or cut.tp * cut.pp * cut.dp == 1:
        return plan
    return plan.model_copy(update={"parallel": ParallelPlan()})


def _build(
    plan: Plan,
    device: str,
    spec: ModelSpec,
    stored: Checkpoint | None,
    recorded: dict[str, float] | None,
) -> Engine | Fleet:
    """What plays the workload: an engine, or several where a technique works on several."""
    if fleet_technique(plan) is not None:
        return build_fleet(plan, spec, stored, device=device, recorded=recorded)
    where = make_device(device, **plan.parallel.model_dump())
    return build_engine(plan, where, spec, stored, recorded=recorded)


def label_of(plan: Plan) -> str:
    """Short name of a plan in tables: its techniques, or 'baseline'."""
    return " + ".join(make_technique(u.name, u.params).label for u in plan.techniques) or "baseline"


def _share(workload: Workload, replica: int, replicas: int) -> Workload:
    """The requests that are routed to one of `replicas` in turn."""
    if replicas == 1:
        return workload
    items: list[Item] = workload.items[replica::replicas]
    concurrency = workload.concurrency
    if concurrency is not None:
        concurrency = max(1, concurrency // replicas)
    return Workload(items, concurrency, workload.summary)


def _play(
    engine: Engine | Fleet, share: Workload, progress: Progress | None, before: int, total: int
) -> list[Request]:
    done = before

    def count(_: Request) -> None:
        nonlocal done
        done += 1
        if progress is not None and (done % 64 == 0 or done == total):
            progress("predicting", done, total)

    small = len(share.items) <= 2000  # times of single tokens are kept where that costs little
    return engine.play(share.items, concurrency=share.concurrency, on_end=count, record_times=small)
