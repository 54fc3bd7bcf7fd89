"""From the text of an option to the value of a plan's field. ValueError where the text says nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def unchanged(value: Any) -> Any:
    """The value itself."""
    return value


def path(value: Path) -> str:
    """A file's name, seen from the current folder."""
    return str(value.expanduser())


def devices(text: str) -> list[str]:
    """Names with commas; `all` is every modelled device of the catalogue."""
    if text.strip() == "all":
        from twofold.devices.registry import modelled_names

        return modelled_names()
    return _items(text)


def names(text: str) -> list[str]:
    """Names with commas. ValueError where there is none."""
    found = _items(text)
    if not found:
        raise ValueError(f"{text!r} names nothing; write names with commas, such as llama-2-7b,llama-2-13b")
    return found


def combinations(texts: Sequence[str]) -> list[list[str]]:
    """`a+b` to the list of a and b, for each text."""
    return [[name.strip() for name in text.split("+") if name.strip()] for text in texts]


def behaviour(texts: Sequence[str]) -> dict[str, float]:
    """`name=value` pairs; values are finite numbers."""
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        number = _number(value) if equals else None
        if number is None or not name.strip():
            raise ValueError(
                f"--behaviour {text!r}: write NAME=VALUE with a finite number, such as draft_rate=0.4"
            )
        found[name.strip()] = number
    return found


def whole_numbers(text: str) -> list[int]:
    """Whole numbers with commas."""
    try:
        return [int(item) for item in _items(text)]
    except ValueError:
        raise ValueError(f"{text!r} is not a list of whole numbers with commas, such as 256,512") from None


def numbers(text: str) -> list[float]:
    """Finite numbers with commas."""
    found = [_number(item) for item in _items(text)]
    given = [number for number in found if number is not None]
    if len(given) < len(found) or not found:
        raise ValueError(f"{text!r} is not a list of numbers with commas, such as 0.5,1,2")
    return given


def size(text: str) -> int:
    """Bytes from `4GB` (1e9), `8GiB` (2**30) or a bare number."""
    from twofold.devices.figures import parse_quantity

    number = parse_quantity(text, "B")
    if not math.isfinite(number) or number < 1:
        raise ValueError(
            f"{text!r} is no size: it must be at least one byte, such as 4GB, 8GiB or 4000000000"
        )
    return round(number)


def seconds(text: str | None) -> float | None:
    """Seconds from `300ms`, `2 s` or a bare number; None stays None."""
    from twofold.devices.figures import parse_quantity

    return None if text is None else parse_quantity(text, "s")


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
