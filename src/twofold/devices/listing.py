"""What there is of devices, as plain records: for lists, completion and other programs. Loads no torch."""

from __future__ import annotations

from typing import Any

from twofold.devices import catalog
from twofold.devices.registry import MACHINES, REAL, machine_class
from twofold.devices.schema import DeviceFile
from twofold.devices.uncertainty import Confidence, Standing, confidence_of

_REAL = {"cpu": "this machine's processor", "cuda": "this machine's NVIDIA GPU"}


def device_records() -> list[dict[str, Any]]:
    """One record per device: `name, kind, title, real, confidence, precisions, memory_bytes, bandwidth, peak,
    seams, lossless, needs, source`.

    memory_bytes, bandwidth (bytes/s) and peak (FLOP/s by precision) are null where the machine is not
    described by them; lossless: whether outputs equal the model's own (a modelled device computes none:
    null).
    """
    records = [
        _record(name, _REAL[name], kind, real=True) for name, kind in zip(REAL, ("cpu", "gpu"), strict=True)
    ]
    records.append(_this_cpu())
    modelled = [*map(_catalogued, catalog.device_names()), *map(_machine, MACHINES)]
    return records + sorted(modelled, key=lambda record: str(record["name"]))


def _record(name: str, title: str, kind: str, *, real: bool = False, **more: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "precisions": [],
        "memory_bytes": None,
        "bandwidth": None,
        "peak": None,
        "source": "this machine",
    }
    confidence = "measured" if real else "datasheet"
    common = {"name": name, "kind": kind, "title": title, "real": real, "confidence": confidence, **empty}
    needs = ["gpu"] if name == "cuda" else []
    return {**common, "seams": [], "lossless": True if real else None, "needs": needs, **more}


def _this_cpu() -> dict[str, Any]:
    if catalog.this_cpu_path().is_file():
        return _catalogued(catalog.THIS_CPU)
    title = "this machine's processor, once `twofold calibrate` has measured it"
    return _record(catalog.THIS_CPU, title, "cpu", confidence="calibrated", needs=["calibration"])


def _catalogued(name: str) -> dict[str, Any]:
    file = catalog.get_device(name)
    return _record(
        name,
        file.title,
        file.kind,
        confidence=_label(file.confidence, file.kind, file.generation, name),
        precisions=sorted(file.matmul),
        memory_bytes=round(file.memory.capacity.value),
        bandwidth=file.memory.bandwidth.value,
        peak={precision: figure.value for precision, figure in file.matmul.items()},
        source=_source(file),
    )


def _label(confidence: Confidence, kind: str, generation: str, name: str) -> str:
    """The label of predictions on a device: "not validated" where none of its kind was ever measured."""
    return confidence_of(Standing(confidence, kind, generation, name, ""))


def _source(file: DeviceFile) -> str:
    """The source of the peak rates: what a reader asks for first."""
    used = dict.fromkeys(figure.source for figure in (*file.matmul.values(), file.memory.bandwidth))
    return "; ".join(file.sources[key] for key in used)


def _machine(name: str) -> dict[str, Any]:
    about = machine_class(name)
    machine = about.make()
    peaks = machine.peaks()
    return _record(
        name,
        about.title,
        about.kind,
        confidence=_label(machine.confidence, about.kind, "", name),
        precisions=sorted(about.precisions),
        memory_bytes=machine.memory["device"],
        bandwidth=peaks.bytes_per_second,
        peak=dict(peaks.flop_per_second),
        source=about.source,
    )
