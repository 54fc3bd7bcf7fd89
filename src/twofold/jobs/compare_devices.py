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
from twofold.plan import Plan
from twofold.report.device_comparison import DeviceComparison, Outcome


def compare_devices(
    plan: Plan,
    devices: Sequence[str],
    models: Sequence[str],
    batches: Sequence[int],
    progress: Progress | None = None,
) -> DeviceComparison:
    """Predict `plan`, with its techniques, on each device for each model and number of requests at once, on
    as few of the device as hold it: 1, 2, 4 … up to as many as can be linked.

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
    count, refused = 1, ""
    while count <= most_linked(device):
        cut = plan.parallel.model_copy(update={"tp": count, "pp": 1, "dp": 1, "ep": 1})
        try:
            result = predict_plan(plan.model_copy(update={"parallel": cut}), device)
        except DoesNotFitError as error:
            refused, count = str(error).split(". ")[0], 2 * count
            continue
        except ValueError as error:
            refused = str(error)
            break
        return Outcome.model_validate(
            {
                **place,
                "devices": count,
                "tokens_per_s": result.tokens_per_s,
                "joules_per_token": result.energy_per_token,
                "ttft": result.ttft,
                "confidence": result.confidence,
            }
        )
    return Outcome.model_validate({**place, "refused": refused})


def kind_of(device: str) -> str:
    """What kind of device that is: "gpu", "cpu", or a machine's own word."""
    return machine_class(device).kind if is_machine(device) else get_device(device).kind
