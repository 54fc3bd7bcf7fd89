"""What is known of the quality of a set of techniques: measurements that earlier runs recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from twofold.explore.plan import QualityFloor
from twofold.plan import TechniqueUse
from twofold.report.schema import Result
from twofold.report.store import Store, Stored
from twofold.techniques.registry import make_technique

EXACT_CACHES = ("auto", "f32", "f16")
EXACT_WEIGHTS = ("auto", "stored", "dense")
"""Formats that hold what the model computes or what its checkpoint stores; others lose something, and how
much is known only where it was measured."""

Source = Literal["unmodified", "lossless", "measured", "measured on another model", "unknown"]


@dataclass(frozen=True, slots=True)
class KnownQuality:
    """KL divergence (nat per token) and top-1 agreement of a set of techniques, where they come from, and the
    model that they were measured on."""

    source: Source
    kl: float | None = None
    top1: float | None = None
    model: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        """In a table: "KL 0.012, top-1 94.1 %", with the model where it is another one."""
        if self.source in ("unmodified", "lossless"):
            return self.source
        figures = [] if self.kl is None else [f"KL {self.kl:.3g}"]
        figures += [] if self.top1 is None else [f"top-1 {self.top1 * 100:.1f} %"]
        if not figures:
            return f"quality {self.source}"
        return ", ".join(figures) + (f" ({self.model})" if self.source == "measured on another model" else "")

    def refusal(self, floor: QualityFloor) -> str:
        """Which part of `floor` it does not reach; empty where it does."""
        if self.source in ("unmodified", "lossless"):
            return ""
        if self.source == "unknown":
            return "" if floor.unknown == "admit" else "quality unknown"
        if floor.kl_max is not None and (self.kl is None or self.kl > floor.kl_max):
            return "quality floor"
        if floor.top1_min is not None and (self.top1 is None or self.top1 < floor.top1_min):
            return "quality floor"
        return ""


def known_quality(
    uses: Sequence[TechniqueUse], model: str, runs: Sequence[Stored], *, weights: str, cache_format: str
) -> KnownQuality:
    """What `runs` (newest first) measured of exactly these techniques: on `model`, else on another one.

    Weight and cache formats that lose something are counted as unknown: quality is measured against the
    unmodified model in the same formats, which does not show their loss.
    """
    if weights not in EXACT_WEIGHTS or cache_format not in EXACT_CACHES:
        lossy = " and ".join(
            text
            for text, exact in (
                (f"weights {weights}", weights in EXACT_WEIGHTS),
                (f"cache {cache_format}", cache_format in EXACT_CACHES),
            )
            if not exact
        )
        return KnownQuality("unknown", note=f"no measurement shows what {lossy} lose")
    if not uses:
        return KnownQuality("unmodified", 0.0, 1.0)
    techniques = [make_technique(use.name, use.params) for use in uses]
    if all(technique.info.lossless for technique in techniques):
        return KnownQuality("lossless", 0.0, 1.0)
    wanted = sorted((t.info.name, _plain(t.params)) for t in techniques if not t.info.lossless)
    other: KnownQuality | None = None
    for stored in runs:
        result = stored.result
        if result.quality is None or _lossy(result) != wanted:
            continue
        found = _of(stored, result, model)
        if found.source == "measured":
            return found
        other = other or found
    return other or KnownQuality("unknown", note="no run of it has measured quality")


def recorded_runs(store: Store) -> list[Stored]:
    """Every run in `store` that measured quality, newest first."""
    return [stored for stored in store.find(kind="run") if stored.result.quality is not None]


def _of(stored: Stored, result: Result, model: str) -> KnownQuality:
    quality = result.quality
    assert quality is not None
    same = result.model.lower() == model.lower()
    return KnownQuality(
        "measured" if same else "measured on another model",
        None if quality.kl_divergence is None else quality.kl_divergence.mid,
        None if quality.top1_agreement is None else quality.top1_agreement.mid,
        result.model,
        f"result {stored.id} on {result.model}, {quality.tokens} tokens",
    )


def _lossy(result: Result) -> list[tuple[str, str]]:
    """The techniques of `result` that may change its output, as `wanted` names them."""
    found = []
    for use in result.techniques:
        technique = make_technique(use.name, dict(use.params))
        if not technique.info.lossless:
            found.append((use.name, _plain(technique.params)))
    return sorted(found)


def _plain(params: dict[str, Any]) -> str:
    """Parameters in a form that is equal for equal ones, before and after storage."""
    return repr(sorted((k, list(v) if isinstance(v, tuple) else v) for k, v in params.items()))
