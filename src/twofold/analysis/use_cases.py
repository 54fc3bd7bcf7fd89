"""What people want of a model, as data: lengths of prompts and answers, and how fast both must be."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import yaml

from twofold.errors import nearest


@dataclass(frozen=True, slots=True)
class UseCase:
    """Lengths in tokens; beams: answers generated at once for a prompt; ttft, tpot: the objective in seconds;
    sources: where the lengths and the objective come from."""

    name: str
    title: str
    prompt: int
    output: int
    beams: int
    ttft: float
    tpot: float
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("prompt", "output", "beams"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"use case {self.name}: {field} must be a positive integer, not {value!r}")
        for field in ("ttft", "tpot"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"use case {self.name}: {field} must be positive seconds, not {value!r}")

    def with_changes(self, **changes: float | None) -> UseCase:
        """This use case with every figure that is not None in place of its own."""
        given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
        return replace(self, **given, sources=(*self.sources, "the user")) if given else self

    def describe(self) -> str:
        """Lengths and objective in one line."""
        beams = f" × {self.beams} beams" if self.beams > 1 else ""
        return (
            f"{self.prompt:,} tokens in, {self.output:,} out{beams}; "
            f"TTFT {self.ttft * 1e3:g} ms, TPOT {self.tpot * 1e3:g} ms"
        )


@cache
def use_cases() -> dict[str, UseCase]:
    """All use cases that come with the package. Where a source gives a range for an objective, its middle."""
    text = (resources.files("twofold.analysis") / "use_cases.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    found = {}
    for name, entry in document["use_cases"].items():
        lengths, objective = dict(entry["lengths"]), entry["objective"]
        keys = dict.fromkeys((lengths.pop("source"), objective["source"]))
        found[name] = UseCase(
            name,
            entry["title"],
            **{"beams": 1, **lengths},
            ttft=sum(objective["ttft"]) / 2,
            tpot=sum(objective["tpot"]) / 2,
            sources=tuple(document["sources"][key] for key in keys),
        )
    return found


def get_use_case(name: str) -> UseCase:
    """The use case called `name`; ValueError with the nearest name where there is none."""
    found = use_cases().get(name.lower())
    if found is None:
        raise ValueError(f"unknown use case {name!r}; {nearest(name, use_cases())}")
    return found
