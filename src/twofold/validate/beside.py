"""Measured operators beside what the catalogue's devices predict of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from twofold.devices.catalog import get_device
from twofold.fit.fit import predict
from twofold.fit.points import Point
from twofold.validate.group import Progress
from twofold.validate.sample import Sample

_BATCH = 2000


def beside(
    group: str,
    points: Sequence[Point],
    progress: Progress | None = None,
    predictor: Callable[[Sequence[Point]], list[float]] = predict,
) -> Iterator[Sample]:
    """A sample per point. predictor: seconds of some points, by default those of the catalogue's devices."""
    for start in range(0, len(points), _BATCH):
        if progress is not None:
            progress(group, start, len(points))
        some = points[start : start + _BATCH]
        for point, seconds in zip(some, predictor(some), strict=True):
            timed = point.timed
            file = get_device(timed.device)
            yield Sample(
                group=group,
                case=f"{timed.device}: {timed.case}",
                quantity="op",
                unit="s",
                measured=timed.seconds,
                predicted=seconds,
                device=timed.device,
                generation=file.generation,
                precision=timed.precision,
                fitted=point.fitted,
                label=file.confidence,
                model=timed.model or timed.operation,
                tokens=timed.rows,
            )
