"""The learned model of products beside the analytical one: between known sizes, at larger ones, on another
GPU.

Usage: python benchmarks/learned_products.py DIR (a folder of measurements; needs the extra `learn`)

The forest is trained on the points named and has seen no others. The analytical model's parameters are those
of the catalogue, which `twofold fit` found on half of the token counts, large ones and Blackwell among them:
where the forest extrapolates, only the forest is out of sample.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from twofold.fit.fit import predict, statistics
from twofold.fit.learned import LearnedProducts, learnable
from twofold.fit.points import Point, read_points

LARGE = 1024


def show(title: str, train: Sequence[Point], test: Sequence[Point]) -> None:
    """Errors of both on `test`, the forest trained on `train`."""
    if not train or not test:
        print(f"{title}: no points")
        return
    print(f"{title}: {len(train)} points to learn from, {len(test)} to predict")
    for name, seconds in (("forest", LearnedProducts(train).predict(test)), ("analytical", predict(test))):
        found = statistics([s / p.timed.seconds - 1.0 for s, p in zip(seconds, test, strict=True)])
        assert found is not None
        print(f"  {name:10} MAPE {found.mape:6.1%}  p90 {found.p90:6.1%}  bias {found.bias:+6.1%}")


def main() -> None:
    """Print the comparison."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    points = learnable(read_points(Path(sys.argv[1])))
    show("other token counts", [p for p in points if p.fitted], [p for p in points if not p.fitted])
    small = [p for p in points if p.timed.rows <= LARGE]
    show(f"more than {LARGE} rows", small, [p for p in points if p.timed.rows > LARGE])
    for device in sorted({p.timed.device for p in points}):
        others = [p for p in points if p.timed.device != device]
        show(f"{device} from the other GPUs", others, [p for p in points if p.timed.device == device])


if __name__ == "__main__":
    main()
