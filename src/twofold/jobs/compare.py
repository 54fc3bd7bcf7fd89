"""`compare`: the baseline, each technique alone, and the combinations named; measured here, predicted here
and elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from twofold.devices.catalog import THIS_CPU
from twofold.engine.active import NotReachedError
from twofold.engine.build import Progress, make_techniques
from twofold.fleet.build import fleet_technique, processes_technique
from twofold.jobs.in_turn import Companion, can_stay
from twofold.jobs.pays import Elsewhere
from twofold.jobs.predict import label_of, predict_plan
from twofold.jobs.run import RunOutcome, median_result, quality_baseline, run_plan, unmodified
from twofold.kernels.cpu.cache_formats import FORMATS
from twofold.measure.quality import QualityBaseline
from twofold.models.find import find_checkpoint
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan, QualityPlan, TechniqueUse
from twofold.report import units
from twofold.report.comparison import Comparison, Row
from twofold.report.schema import Result
from twofold.report.tradeoff import Contender, tradeoffs

REPEATS = 3
"""How often a row's workload is played where that takes a few seconds."""


def variants(plan: Plan) -> list[tuple[TechniqueUse, ...]]:
    """The technique sets that are compared: none, each of the plan's alone, then its combinations.

    In a combination, a bare name stands for the use of that name among the plan's techniques.
    """
    known = {use.name: use for use in plan.techniques}

    def use_of(use: TechniqueUse) -> TechniqueUse:
        return use if use.params else known.get(use.name, use)

    alone = [(use,) for use in plan.techniques]
    together = [tuple(use_of(use) for use in uses) for uses in plan.combinations]
    return [(), *alone, *together]


def compare_plan(
    plan: Plan, *, predict_here: str | None = THIS_CPU, progress: Progress | None = None
) -> Comparison:
    """Measure every variant of `plan` on its device and predict it on `predict_here` (None: nowhere) and on
    the plan's devices.

    Each variant is measured in turn with the baseline, where that can stay loaded (`jobs.in_turn`). One that
    does not pay here is also predicted at other places (`jobs.pays`). A variant that the planner refuses
    becomes a row with the reason; so does one whose technique is never reached, and one that fails. What is
    wrong with the baseline is raised.
    """
    if plan.engine.processes:
        processes_technique(plan)
    checkpoint = find_checkpoint(plan.model)
    sets = variants(plan)
    baseline = quality_baseline(plan, checkpoint, progress) if plan.quality.enabled else None
    rows: list[Row] = []
    elsewhere = Elsewhere(plan)
    with ExitStack() as loaded:
        companion: Companion | None = None
        for number, uses in enumerate(sets):
            variant = _variant(plan, uses)
            if progress is not None:
                progress(f"comparing {label_of(variant)}", number, len(sets))
            row, recorded = _row(variant, checkpoint, baseline, predict_here, companion, progress)
            if rows and row.measured is not None and not _pays(row, rows[0]):
                row = row.model_copy(update={"trials": elsewhere.trials(variant, recorded)})
            rows.append(row)
            if not number and len(sets) > 1 and can_stay(plan, _measured(row)):
                companion = loaded.enter_context(Companion(plan, checkpoint, progress))
    first = _measured(rows[0])
    return Comparison(
        title="Techniques compared",
        model=plan.model,
        device=plan.device,
        workload=first.workload,
        baseline=rows[0],
        rows=rows[1:],
        notes=_beside(rows) if companion else _drift(plan, checkpoint, first, progress) if rows[1:] else [],
    )


def _variant(plan: Plan, uses: tuple[TechniqueUse, ...]) -> Plan:
    """`plan` with exactly those techniques; processes are for those over several instances."""
    variant = plan.with_techniques(uses)
    if fleet_technique(variant) is None:
        return unmodified(plan).with_techniques(uses)
    return variant


def _measured(baseline: Row) -> Result:
    """The measurement of the first row, without which there is no comparison."""
    assert baseline.measured is not None, baseline.without_results
    return baseline.measured


def _beside(rows: Sequence[Row]) -> list[str]:
    """How much faster and slower the baseline was beside the rows than at first."""
    first = _measured(rows[0]).tokens_per_s
    speeds = [row.beside.tokens_per_s.mid for row in rows if row.beside and row.beside.tokens_per_s]
    if first is None or not speeds:
        return []
    least, most = (units.ratio(found / first.mid) for found in (min(speeds), max(speeds)))
    return [
        "each row was measured in turn with the baseline, and its ratios are to that; the baseline made "
        f"{least} to {most} its first token/s there"
    ]


def _drift(plan: Plan, checkpoint: Checkpoint, first: Result, progress: Progress | None) -> list[str]:
    """How fast the baseline is once everything has been measured: what ratios to it can be trusted to."""
    again = unmodified(plan).model_copy(update={"quality": QualityPlan(enabled=False)})
    last = run_plan(again, checkpoint=checkpoint, profile=True, repeats=REPEATS, progress=progress).result
    if first.tokens_per_s is None or last.tokens_per_s is None:
        return []
    ratio = units.ratio(last.tokens_per_s.mid / first.tokens_per_s.mid)
    return [f"the baseline, measured again after everything else, made {ratio} its token/s"]


def _pays(row: Row, baseline: Row) -> bool:
    """Whether a row is better than the baseline in speed or bytes, and worse in neither."""
    assert row.measured is not None
    _, over = tradeoffs(_measured(baseline), [Contender(row.label, row.measured, row.beside)], baseline.label)
    return not over.pays_at


def _row(
    plan: Plan,
    checkpoint: Checkpoint,
    baseline: QualityBaseline | None,
    predict_here: str | None,
    companion: Companion | None,
    progress: Progress | None,
) -> tuple[Row, dict[str, float]]:
    """The row of a variant, measured in turn with `companion`, and what its run recorded of what depends on
    data."""
    label = label_of(plan)
    beside: list[Result] = []
    try:
        make_techniques(plan, checkpoint.spec)
        outcome = run_plan(
            plan,
            label=label,
            checkpoint=checkpoint,
            baseline=baseline,
            profile=True,
            repeats=REPEATS,
            after_play=(lambda: beside.append(companion.play())) if companion else None,
            progress=progress,
        )
        row = _predicted(plan, label, checkpoint, outcome, predict_here)
        return row.model_copy(update={"beside": median_result(beside) if beside else None}), outcome.behaviour
    except (ValueError, NotReachedError) as error:
        if not plan.techniques:
            raise
        return Row(label=label, refused=str(error)), {}
    except Exception as error:  # one technique that breaks is no reason to lose the others' rows
        if not plan.techniques:
            raise
        logging.getLogger(__name__).exception("%s failed", label)
        return Row(label=label, failed=f"{type(error).__name__}: {error}"), {}


def _predicted(
    plan: Plan, label: str, checkpoint: Checkpoint, outcome: RunOutcome, predict_here: str | None
) -> Row:
    """The row of a variant that was run, with its predictions."""
    elsewhere: dict[str, Result] = {}
    refused: dict[str, str] = {}
    here = None
    for device in [*([predict_here] if predict_here else []), *plan.devices]:
        target = (
            as_run(plan, outcome.result)
            if device == predict_here
            else plan.model_copy(update={"precision": "auto"})
        )
        try:
            result = predict_plan(
                target,
                device,
                label=label,
                spec=checkpoint.spec,
                stored=checkpoint,
                recorded=outcome.behaviour,
                progress=None,
            )
        except (ValueError, NotReachedError) as error:
            refused[device] = str(error)
            continue
        if device == predict_here:
            here = result
        else:
            elsewhere[device] = result
    refused_here = refused.pop(predict_here, None) if predict_here else None
    if refused_here is not None and not plan.techniques:
        raise ValueError(refused_here)
    return Row(
        label=label,
        measured=outcome.result,
        predicted_here=here,
        predicted_elsewhere=elsewhere,
        refused_here=refused_here,
        refused_elsewhere=refused,
    )


def as_run(plan: Plan, measured: Result) -> Plan:
    """`plan` with the defaults that the run decided, so that the prediction of this machine schedules as the
    run did."""
    return with_derived(plan, measured.derived)


def with_derived(plan: Plan, derived: Mapping[str, Any]) -> Plan:
    """`plan` with the defaults that an engine `derived` for it."""
    names = ("block_size", "max_num_seqs", "max_num_batched_tokens", "max_context", "cache_blocks")
    decided = {name: derived[name] for name in names}
    if derived["cache_format"] in FORMATS:  # else as activations, or by a technique
        decided["cache_format"] = derived["cache_format"]
    decided["weights"] = derived["weights"]
    engine = plan.engine.model_copy(update=decided)
    return plan.model_copy(update={"engine": engine, "precision": derived["precision"]})
