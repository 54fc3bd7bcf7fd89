"""Figures with units and sources: how the device catalogue writes down a number.

In a file a figure is `{value: 3.35 TB/s, source: datasheet}`; `source` is a key of the file's `sources`.
Read, it is a `Figure` in SI units. Prefixes are decimal (GB is 1e9 bytes); binary ones are written GiB, MiB,
KiB.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from twofold.errors import nearest

_PREFIX = {
    "": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "m": 1e-3,
    "u": 1e-6,
    "n": 1e-9,
    "p": 1e-12,
}
_BINARY = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
_NUMBER = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(.*?)\s*")


class Strict(BaseModel):
    """Base of the catalogue's schema: unknown keys are refused, with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {key!r}; {nearest(str(key), cls.model_fields)}")
        return data


class Figure(Strict):
    """A number in SI units and the key of the source it comes from."""

    value: float
    source: str


def parse_quantity(text: str | float, unit: str) -> float:
    """`text` ("3.35 TB/s", "18 us", 0.8) in SI `unit`; a bare number is already in it. ValueError for
    another unit."""
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise ValueError(f"{text!r} is not a quantity in {unit}")
    match = _NUMBER.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity; write a number and a unit, as in '1.5 T{unit}'")
    number, given = float(match[1]), match[2]
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{text!r} must be finite and not negative")
    if given in ("", unit):
        return number
    head, _, tail = given.partition("/")
    if head in _BINARY and unit == "B" + ("/" + tail if tail else ""):
        return number * _BINARY[head]
    if given.endswith(unit) and unit and given[: -len(unit)] in _PREFIX:
        return number * _PREFIX[given[: -len(unit)]]
    raise ValueError(f"{text!r} is not in {unit or 'plain numbers'} (with or without an SI prefix)")


def _reader(unit: str) -> BeforeValidator:
    def read(raw: Any) -> Any:
        if isinstance(raw, dict) and "value" in raw:
            return {**raw, "value": parse_quantity(raw["value"], unit)}
        if isinstance(raw, Figure):
            return raw
        raise ValueError(f"a figure is written {{value: …, source: …}}, not {raw!r}")

    return BeforeValidator(read)


Bytes = Annotated[Figure, _reader("B")]
Bandwidth = Annotated[Figure, _reader("B/s")]
FlopRate = Annotated[Figure, _reader("FLOP/s")]
ElementRate = Annotated[Figure, _reader("/s")]
Seconds = Annotated[Figure, _reader("s")]
Watts = Annotated[Figure, _reader("W")]
EnergyPerByte = Annotated[Figure, _reader("J/B")]
EnergyPerFlop = Annotated[Figure, _reader("J/FLOP")]
Ratio = Annotated[Figure, _reader("")]
Count = Annotated[Figure, _reader("")]
Money = Annotated[Figure, _reader("USD")]
