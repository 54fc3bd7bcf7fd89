"""How far predictions are from measurements, by group and quantity; fitted and held-out points apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from twofold.report.accuracy import AccuracyRow
from twofold.validate.sample import Quantity, Sample

ORDER: tuple[Quantity, ...] = ("op", "ttft", "tpot", "e2e", "throughput", "energy", "memory")


def rows(
    samples: Sequence[Sample],
    covered: Sequence[bool | None],
    crossed: Sequence[bool | None],
    titles: Mapping[str, str],
) -> list[AccuracyRow]:
    """One row per group, quantity and whether the points were fitted, in the order of the groups.

    covered: whether the interval of each prediction contains its measurement; crossed: whether an interval
    made without the points of its own fold does (None: there were no others). titles: of groups by name.
    """
    parts: dict[tuple[str, Quantity, bool], list[int]] = {}
    for index, sample in enumerate(samples):
        parts.setdefault((sample.group, sample.quantity, sample.fitted), []).append(index)
    groups = list(dict.fromkeys(sample.group for sample in samples))
    keys = sorted(parts, key=lambda key: (groups.index(key[0]), ORDER.index(key[1]), key[2]))
    return [
        _row(
            [samples[i] for i in parts[key]],
            share([covered[i] for i in parts[key]]),
            share([crossed[i] for i in parts[key]]),
            titles.get(key[0], key[0]),
        )
        for key in keys
    ]


def share(answers: Sequence[bool | None]) -> float | None:
    """The share of True among the answers that there are; None without any."""
    given = [answer for answer in answers if answer is not None]
    return sum(given) / len(given) if given else None


def _row(samples: Sequence[Sample], covered: float | None, crossed: float | None, title: str) -> AccuracyRow:
    errors = np.array([sample.error for sample in samples])
    size = np.abs(errors)
    worst = samples[int(size.argmax())]
    return AccuracyRow(
        group=samples[0].group,
        title=title,
        quantity=samples[0].quantity,
        fitted=samples[0].fitted,
        devices=sorted({sample.device for sample in samples}),
        labels=sorted({sample.label for sample in samples}),
        n=len(samples),
        mape=float(size.mean()),
        median=float(np.median(size)),
        p90=float(np.quantile(size, 0.9)),
        bias=float(errors.mean()),
        covered=covered,
        crossed=crossed,
        worst=worst.case,
        worst_error=worst.error,
    )
