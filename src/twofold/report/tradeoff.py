"""What a technique gives and what it costs, each over the baseline: quality, bytes, speed; which rows nothing
else beats, and where one would pay that does not pay here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from twofold.report.schema import Figure, Record, Result

Gain = Literal["speed", "bytes"]

EVEN = 0.03
"""Speed and bytes within this share of the baseline's count as equal: a run of seconds does not tell more."""
_NO_LOSS = 1e-6
"""KL divergence, nat, below which it is the rounding of float32."""


class Trial(Record):
    """What was predicted of a row at another place: token/s and bytes, each per device, over the baseline's.

    load: the requests, in words. alone: the row works there and the baseline does not (it does not fit);
    there are then no ratios. refused: why the row does not work there.
    """

    device: str
    model: str
    load: str
    tokens_per_s: float | None = None
    bytes: float | None = None
    alone: bool = False
    refused: str | None = None

    @classmethod
    def between(cls, ours: Result | str, base: Result | str, device: str, model: str, load: str) -> Trial:
        """From two predictions, each a Result or the reason why there is none."""
        if isinstance(ours, str):
            return cls(device=device, model=model, load=load, refused=ours)
        if isinstance(base, str):
            return cls(device=device, model=model, load=load, alone=True)
        return cls(
            device=device,
            model=model,
            load=load,
            tokens_per_s=_per_instance(_over(ours.tokens_per_s, base.tokens_per_s), ours, base),
            bytes=_over(ours.memory.total, base.memory.total),
        )

    def factor(self, gain: Gain) -> float:
        """By what factor the row is better than the baseline there; the least that counts where it works
        alone, 0 where it does not work or nothing is known."""
        if self.alone:
            return 1 + EVEN
        ratio = self.tokens_per_s if gain == "speed" else self.bytes
        return 0.0 if not ratio else ratio if gain == "speed" else 1 / ratio


class Tradeoff(Record):
    """One row, each figure over the baseline's (1: equal), but for KL divergence (nat per token, from the
    unmodified model) and top-1 agreement (a share). None: not known.

    weights, cache, bytes: counted at the peak, per device; `bytes` is all of them. on_front: no other row is
    as good in quality, bytes and speed and better in one (None where one of the three is not known). pays_in,
    loses_in: where the row is better or worse than the baseline by more than 3 % and by more than repeated
    measurements differ. pays_at: for each that it
    loses in (for both where it pays in neither), the place of those tried where it is predicted to pay most;
    None: at none of them.
    """

    label: str
    kl_divergence: float | None = None
    top1_agreement: float | None = None
    perplexity: float | None = None
    weights: float | None = None
    cache: float | None = None
    bytes: float | None = None
    ttft: float | None = None
    tpot: float | None = None
    tokens_per_s: float | None = None
    on_front: bool | None = None
    pays_in: list[Gain] = Field(default_factory=list)
    loses_in: list[Gain] = Field(default_factory=list)
    pays_at: dict[Gain, Trial | None] = Field(default_factory=dict)

    @property
    def objectives(self) -> tuple[float, float, float] | None:
        """Quality, bytes and speed, each the less the better; None where one is not known."""
        if self.kl_divergence is None or self.bytes is None or self.tokens_per_s is None:
            return None
        return (0.0 if self.kl_divergence < _NO_LOSS else self.kl_divergence, self.bytes, -self.tokens_per_s)


class Contender(NamedTuple):
    """What is held against the baseline. beside: the baseline as measured in turn with it, None where it was
    measured by itself; trials: how it does at other places."""

    label: str
    result: Result
    beside: Result | None = None
    trials: Sequence[Trial] = ()


def tradeoffs(baseline: Result, rows: Iterable[Contender], label: str) -> list[Tradeoff]:
    """The baseline, called `label`, and each of `rows` over it."""
    made = [_over_baseline(Contender(label, baseline), baseline)]
    made += [_over_baseline(row, row.beside or baseline) for row in rows]
    return [row.model_copy(update={"on_front": _on_front(row, made)}) for row in made]


def _over_baseline(row: Contender, base: Result) -> Tradeoff:
    ours = row.result
    quality = ours.quality
    speed = _over(ours.tokens_per_s, base.tokens_per_s)
    size = _over(ours.memory.total, base.memory.total)
    # Of each the factor by which the row is better.
    better: Mapping[Gain, float] = {
        "speed": _clear(ours.tokens_per_s, base.tokens_per_s),
        "bytes": 1 / (_clear(ours.memory.total, base.memory.total) or 1.0),
    }
    pays = [gain for gain, factor in better.items() if factor > 1 + EVEN]
    loses = [gain for gain, factor in better.items() if factor < 1 - EVEN]
    wanted = [] if ours is base else loses if pays else list(better)
    return Tradeoff(
        label=row.label,
        kl_divergence=_mid(quality.kl_divergence) if quality else None,
        top1_agreement=_mid(quality.top1_agreement) if quality else None,
        perplexity=_over(quality.perplexity, quality.perplexity_baseline) if quality else None,
        weights=_over(ours.memory.weights, base.memory.weights),
        cache=_over(ours.memory.cache, base.memory.cache),
        bytes=size,
        ttft=_over(ours.ttft, base.ttft),
        tpot=_over(ours.tpot, base.tpot),
        tokens_per_s=speed,
        pays_in=pays,
        loses_in=loses,
        pays_at={gain: _best(row.trials, gain) for gain in wanted},
    )


def _best(trials: Sequence[Trial], gain: Gain) -> Trial | None:
    """Where the row is better than the baseline by the largest factor, if by more than what counts as
    equal."""
    best = max(trials, key=lambda trial: trial.factor(gain), default=None)
    return best if best is not None and (best.alone or best.factor(gain) > 1 + EVEN) else None


def _on_front(row: Tradeoff, rows: Sequence[Tradeoff]) -> bool | None:
    mine = row.objectives
    if mine is None:
        return None
    others = [found for other in rows if (found := other.objectives) is not None]
    return not any(
        theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True)) for theirs in others
    )


def _clear(ours: Figure | None, base: Figure | None) -> float:
    """The ratio of two figures where their intervals do not overlap; else, and where one is unknown, 1."""
    if ours is None or base is None or not base.mid:
        return 1.0
    apart = ours.low > base.high or ours.high < base.low
    return ours.mid / base.mid if apart else 1.0


def _over(ours: Figure | None, base: Figure | None) -> float | None:
    return None if ours is None or base is None or not base.mid else ours.mid / base.mid


def _per_instance(ratio: float | None, ours: Result, base: Result) -> float | None:
    """The ratio per instance of the engine, each of which has devices of its own."""
    if ratio is None:
        return None
    counts = [result.derived.get("instances", 1) for result in (ours, base)]
    mine, theirs = (count if isinstance(count, int) else 1 for count in counts)
    return ratio * theirs / mine


def _mid(figure: Figure | None) -> float | None:
    return None if figure is None else figure.mid
