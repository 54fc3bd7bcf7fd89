"""`compare` over devices: what the plan's load would do on each, for several models and numbers of requests
at once. Nothing is run, so that models without weights can be compared too."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.devices.catalog import get_device
from twofold.devices.registry import is_machine, machine_class, most_linked
from twofold.engine.build import Progress
from twofold.engine.memory import DoesNotFitError
from twofold.jobs.predict import label_of, predict_plan
from twofold.models.find import find_spec
from twofold.plan import ParallelPlan, Plan, TechniqueUse
from twofold.report.device_comparison import DeviceComparison, Outcome
from twofold.report.schema import Result

PACKED = {0: "", 8: "mxint8", 4: "mxfp4"}
"""Formats of the weights by bits, in the order in which they are tried; 0: as the plan has them."""


def compare_devices(
    plan: Plan,
    devices: Sequence[str],
    models: Sequence[str],
    batches: Sequence[int],
    progress: Progress | None = None,
) -> DeviceComparison:
    """Predict `plan`, with its techniques, on each device for each model and number of requests at once, on
    as few of the device as hold it: 1, 2, 4 … up to as many as can be linked. Where even those do not hold
    the weights, they are packed in 8 bits, then in 4, unless the plan packs them itself.

    A device that cannot take a load gets an outcome with the reason. ValueError for an unknown model.
    """
    for model in models:
        find_spec(model)
    total, outcomes = len(devices) * len(models) * len(batches), list[Outcome]()
    for device in devices:
        for model in models:
            for batch in batches:
                if progress is not None:
                    progress(f"{device}, {model} x {batch}", len(outcomes), total)
                outcomes.append(_outcome(_loaded(plan, model, batch), device, batch))
    load = plan.workload
    return DeviceComparison(
        workload=f"{load.prompt} tokens in, {load.output} out",
        techniques=[label_of(plan)] if plan.techniques else [],
        outcomes=outcomes,
    )


def _loaded(plan: Plan, model: str, batch: int) -> Plan:
    """`plan` with `batch` equal requests of `model` that all arrive at once."""
    load = plan.workload.model_copy(update={"requests": batch, "concurrency": batch, "rate": None})
    longest = load.prompt + load.output
    limits = plan.engine.model_copy(
        update={"max_num_seqs": batch, "max_context": plan.engine.max_context or longest + 1}
    )
    return plan.model_copy(update={"model": model, "workload": load, "engine": limits, "precision": "auto"})


def _outcome(plan: Plan, device: str, batch: int) -> Outcome:
    place = {"device": device, "kind": kind_of(device), "model": plan.model, "batch": batch}
    refused = ""
    for bits, format in PACKED.items():
        packed = plan
        if format:
            packing = TechniqueUse(name="int-vs-fp", params={"format": format})
            packed = plan.with_techniques((*plan.techniques, packing))
        try:
            count, result = _on_fewest(packed, device)
        except DoesNotFitError as error:
            refused = refused or str(error).split(". ")[0]
            continue
        except (
            ValueError
        ) as error:  # packed weights that the device or a technique refuses: no answer to that
            refused = refused or str(error)
            break
        return Outcome.model_validate(
            {
                **place,
                "devices": count,
                "weight_bits": bits,
                "tokens_per_s": result.tokens_per_s,
                "joules_per_token": result.energy_per_token,
                "ttft": result.ttft,
                "confidence": result.confidence,
            }
        )
    return Outcome.model_validate({**place, "refused": refused})


def _on_fewest(plan: Plan, device: str) -> tuple[int, Result]:
    """As few of the device as hold `plan`, and the prediction. DoesNotFitError where all that can be linked
    do not."""
    count = 1
    while True:
        cut = ParallelPlan(tp=count)
        try:
            return count, predict_plan(plan.model_copy(update={"parallel": cut}), device)
        except DoesNotFitError:
            count *= 2
            if count > most_linked(device):
                raise


def kind_of(device: str) -> str:
    """What kind of device that is: "gpu", "cpu", or a machine's own word."""
    return machine_class(device).kind if is_machine(device) else get_device(device).kind
