"""A calibrated device with round figures, as `calibrate` would write it."""

from __future__ import annotations

import yaml

from twofold.devices.calibration import AttentionCurve, KindCurve, OpCost, ProductCurve
from twofold.devices.catalog import parse_device
from twofold.devices.cpu_device import CpuDevice
from twofold.devices.schema import DeviceFile
from twofold.measure.device_document import Measured, device_document

GB, GFLOP = 1e9, 1e9


def calibrated_file(
    *, own: dict[str, OpCost] | None = None, attention: dict[str, AttentionCurve] | None = None
) -> DeviceFile:
    """10 GB/s, 100 GFLOP/s, a microsecond for every call; attention: beside that over entries as activations
    are; own: of techniques' ops."""
    plain = AttentionCurve(call=1e-6, sequence=1e-6, read=[(1e6, 10 * GB)], queries=[(64.0, 100 * GFLOP)])
    measured = Measured(
        CpuDevice(kernels="reference", threads=1),
        read=[(1e6, 10 * GB)],
        copy=10 * GB,
        products={"f32:fp32": [ProductCurve(size=1e6, rate=[(1.0, 10 * GFLOP), (64.0, 100 * GFLOP)])]},
        call=1e-6,
        attention={"": plain, **(attention or {})},
        kinds={"cache-write": KindCurve(call=1e-6, rate=[(1e3, 10 * GB)])},
        own=own or {},
        step=1e-5,
    )
    return parse_device(yaml.safe_dump(device_document(measured), sort_keys=False), "calibrated")
