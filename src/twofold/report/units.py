"""Numbers as people read them: three significant digits, SI prefixes, GB as 1e9."""

from __future__ import annotations

import math

from twofold.report.schema import Figure

_PREFIXES = (
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
)
UNKNOWN = "–"


def digits(value: float) -> str:
    """Three significant digits without an exponent ("0.0123", "1.20", "45.6", "1,234"); "0" for zero."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}") if abs(value) < 1000 else float(round(value))
    if abs(rounded) < 1e-4:
        return f"{rounded:.0e}"
    decimals = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}"


def si(value: float, unit: str) -> str:
    """`value` with the SI prefix that leaves one to three digits before the point: si(0.0123, "s") is
    "12.3 ms"."""
    if value == 0:
        return f"0 {unit}"
    size = abs(float(f"{value:.3g}"))
    # Bytes and FLOP have no milli: a fraction of a byte is a mean, and is shown as it is.
    whole = unit.startswith(("B", "FLOP"))
    for scale, prefix in _PREFIXES:
        if size >= scale and not (whole and scale < 1):
            return f"{digits(value / scale)} {prefix}{unit}"
    return f"{digits(value)} {unit}" if whole else f"{digits(value / 1e-9)} n{unit}"


def seconds(value: float) -> str:
    """Time: "850 µs", "12.3 ms", "4.56 s"; minutes and hours above 120 s."""
    if abs(value) >= 7200:
        return f"{digits(value / 3600)} h"
    if abs(value) >= 120:
        return f"{digits(value / 60)} min"
    return si(value, "s")


def ratio(value: float) -> str:
    """How many times as much: "1.32×"."""
    return f"{value:.2f}×" if value < 99.5 else f"{digits(value)}×"


def signed_percent(value: float) -> str:
    """A relative difference: 0.123 is "+12 %"."""
    rounded = round(value * 100)
    return f"{rounded:+d} %" if rounded else "0 %"


def percent(value: float) -> str:
    """A share: 0.9876 is "98.8 %", 1 is "100 %"."""
    return "100 %" if value == 1 else f"{value * 100:.1f} %"


def _value(value: float, unit: str) -> str:
    if unit == "s":
        return seconds(value)
    if unit in ("B", "J", "J/token", "FLOP"):
        return si(value, unit)
    return digits(value) if unit == "1" else f"{digits(value)} {unit}"


def figure(value: Figure | None, *, bare: bool = False) -> str:
    """A figure with its unit (`bare`: without, for units that need no prefix) and, where it has one, its
    interval in the same unit.

    "12.3 ms", "12.3 ms (10.1–15.0)"; UNKNOWN for None.
    """
    if value is None:
        return UNKNOWN
    text = middle(value, bare=bare)
    if value.is_exact:
        return text
    scale = _scale(value.mid, value.unit)
    low, high = digits(value.low / scale), digits(value.high / scale)
    return text if low == high else f"{text} ({low}–{high})"


def middle(value: Figure | None, *, bare: bool = False) -> str:
    """As `figure`, without the interval."""
    if value is None:
        return UNKNOWN
    unit = "1" if bare and value.unit not in ("s", "B", "J/token") else value.unit
    return _value(value.mid, unit)


def spread(value: Figure | None, *, bare: bool = False) -> str:
    """As `middle`, with half the width of the interval in percent where it is wide enough to see.

    "12.3 ms", "12.3 ms ±18 %"; UNKNOWN for None.
    """
    if value is None:
        return UNKNOWN
    text = middle(value, bare=bare)
    width = (value.high - value.low) / 2 / abs(value.mid) if value.mid else 0.0
    return f"{text} ±{width * 100:.0f} %" if width >= 0.005 else text


def interval(value: Figure) -> str:
    """The ends of an interval, relative to the middle: "−20/+31 %"."""
    low, high = (round((end / value.mid - 1) * 100) for end in (value.low, value.high))
    return f"{f'−{-low}' if low < 0 else low}/+{high} %"


def _scale(value: float, unit: str) -> float:
    """What `_value` divides `value` by, so that others can be written in the same unit."""
    if unit == "s" and abs(value) >= 120:
        return 3600.0 if abs(value) >= 7200 else 60.0
    if unit not in ("s", "B", "J", "J/token", "FLOP") or value == 0:
        return 1.0
    size = abs(float(f"{value:.3g}"))
    whole = unit.startswith(("B", "FLOP"))
    fitting = (scale for scale, _ in _PREFIXES if size >= scale and not (whole and scale < 1))
    return next(fitting, 1.0 if whole else 1e-9)
