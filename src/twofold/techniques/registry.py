"""All techniques by name, imported when asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from twofold.errors import nearest
from twofold.techniques.base import Technique

# name -> module:class. One line per technique; its seam's folder says where it lives.
_WHERE = {
    "copyspec": "decoding.copyspec:CopySpec",
    "gemfilter": "attention.gemfilter:GemFilter",
    "int-vs-fp": "weights.int_vs_fp:IntVsFp",
    "kivi": "cache.kivi:Kivi",
    "llm-drop": "layers.llm_drop:LlmDrop",
    "sarathi": "scheduling.sarathi:Sarathi",
}


def technique_names() -> list[str]:
    """All technique names, sorted."""
    return sorted(_WHERE)


@cache
def technique_class(name: str) -> type[Technique]:
    """The class of the technique called `name`; ValueError with the nearest name where there is none."""
    if name not in _WHERE:
        raise ValueError(f"unknown technique {name!r}; {nearest(name, _WHERE)}")
    module, _, attribute = _WHERE[name].partition(":")
    found: type[Technique] = getattr(import_module(f"twofold.techniques.{module}"), attribute)
    return found


def make_technique(name: str, params: dict[str, Any] | None = None) -> Technique:
    """The technique called `name` with `params`, validated."""
    return technique_class(name).from_params(params or {})
