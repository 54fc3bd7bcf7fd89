"""The rotary settings of a Hugging Face config.json, in the layout of any version, to fields of ModelSpec.

Before version 5 of transformers they are `rope_theta`, `rope_local_base_freq`, `partial_rotary_factor` and
`rope_scaling`; since then they are one dictionary `rope_parameters`, which holds one dictionary per type of
layer where those differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from twofold.models.rope_scaling import longrope, yarn
from twofold.models.spec import RopeScaling

ROPE_KEYS = (
    "rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq", "partial_rotary_factor",
    "max_position_embeddings", "original_max_position_embeddings",
)  # fmt: skip
"""Keys of config.json that `rope_fields` reads."""

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_GEMMA3_THETAS = {_GLOBAL: 1_000_000.0, _LOCAL: 10_000.0}  # defaults of Gemma 3's configuration
_MIXTRAL_THETA = 1_000_000.0
_THETA = 10_000.0

_KEYS = {
    "default": set[str](),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor", "attention_factor", "beta_fast", "beta_slow",
        "truncate", "original_max_position_embeddings",
    },
    "longrope": {
        "factor", "attention_factor", "short_factor", "long_factor", "original_max_position_embeddings",
    },
}  # fmt: skip
_ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


def rope_fields(config: Mapping[str, Any], family: str, head_dim: int, where: str) -> dict[str, Any]:
    """rope_theta, rope_local_theta, rope_fraction and rope_scaling of the spec, from the `ROPE_KEYS` of a
    config.json.

    Raises ValueError for a scaling that is not known, lacks a setting or has one that is not known.
    """
    for key in ("rope_parameters", "rope_scaling"):
        if config.get(key) is not None and not isinstance(config[key], Mapping):
            raise ValueError(f"{where}: {key} must be an object, not {config[key]!r}")
    given = dict(config.get("rope_parameters") or {})
    nested = {key: value for key, value in given.items() if isinstance(value, Mapping)}
    if not nested and family == "gemma3":
        given = nested = _gemma3_layers(config, given)
    if not nested:
        return _fields(_flat(config, given, family), config, family, head_dim, where)
    if len(nested) != len(given) or not nested.keys() <= {_GLOBAL, _LOCAL}:
        raise ValueError(f"{where}: rope_parameters {sorted(given)} are not understood")
    full = dict(nested.get(_GLOBAL) or {})
    local = dict(nested.get(_LOCAL) or {})
    if family == "gemma3":
        full.setdefault("rope_theta", config.get("rope_theta", _GEMMA3_THETAS[_GLOBAL]))
        local.setdefault("rope_theta", config.get("rope_local_base_freq", _GEMMA3_THETAS[_LOCAL]))
    if not full or not local:
        raise ValueError(f"{where}: rope_parameters name only {sorted(nested)}")
    local_fields = _fields(local, config, family, head_dim, where)
    fields = _fields(full, config, family, head_dim, where)
    if local_fields["rope_scaling"] is not None or local_fields["rope_fraction"] != fields["rope_fraction"]:
        raise ValueError(f"{where}: rope scaling of sliding layers {local} is not supported")
    return fields | {"rope_local_theta": local_fields["rope_theta"]}


def _gemma3_layers(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Older Gemma 3 files: the scaling is that of global layers alone."""
    return {_GLOBAL: {**(config.get("rope_scaling") or {}), **given}, _LOCAL: {"rope_type": "default"}}


def _flat(config: Mapping[str, Any], given: Mapping[str, Any], family: str) -> dict[str, Any]:
    rope = {**given, **(config.get("rope_scaling") or {})}
    default = _MIXTRAL_THETA if family == "mixtral" else _THETA
    rope.setdefault("rope_theta", config.get("rope_theta", default))
    rope.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    return rope


def _fields(
    rope: Mapping[str, Any], config: Mapping[str, Any], family: str, head_dim: int, where: str
) -> dict[str, Any]:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if family == "phi3" and kind in ("su", "yarn"):  # early Phi-3 files' words for it
        kind = "longrope"
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ValueError(f"{where}: rope scaling {kind!r} is not supported; allowed: {', '.join(_KEYS)}")
    unknown = {k for k, v in rope.items() if v is not None} - _KEYS[kind] - _ALWAYS
    if unknown and kind != "default":
        raise ValueError(f"{where}: settings {sorted(unknown)} of rope scaling {kind!r} are not understood")
    try:
        fraction, theta = float(rope.get("partial_rotary_factor") or 1.0), float(rope["rope_theta"])
        dim = int(head_dim * fraction)
        if not 0 < theta < math.inf or not 0 < fraction <= 1:
            raise ValueError(f"rope_theta {theta} and partial_rotary_factor {fraction} make no sense")
        scaling = _scaling(kind, rope, config, dim, theta)
    except KeyError as error:
        raise ValueError(f"{where}: rope scaling {kind!r} lacks {error.args[0]!r}") from None
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{where}: rope scaling {kind!r}: {error}") from None
    return {"rope_theta": theta, "rope_fraction": fraction, "rope_scaling": scaling}


def _scaling(
    kind: str, rope: Mapping[str, Any], config: Mapping[str, Any], dim: int, theta: float
) -> RopeScaling | None:
    max_context = config["max_position_embeddings"]
    # A value beside the dictionary (Phi-3) has priority over one in it.
    original = (
        config.get("original_max_position_embeddings")
        or rope.get("original_max_position_embeddings")
        or max_context
    )
    match kind:
        case "linear":
            return RopeScaling(kind="linear", factor=float(rope["factor"]))
        case "llama3":
            return RopeScaling(
                kind="llama3",
                factor=float(rope["factor"]),
                low_freq_factor=float(rope["low_freq_factor"]),
                high_freq_factor=float(rope["high_freq_factor"]),
                original_context=original,
            )
        case "yarn":
            return yarn(
                dim=dim,
                theta=theta,
                factor=float(rope["factor"]),
                original_context=original,
                beta_fast=float(rope.get("beta_fast") or 32),
                beta_slow=float(rope.get("beta_slow") or 1),
                attention_factor=rope.get("attention_factor"),
                truncate=rope.get("truncate", True),
            )
        case "longrope":
            return longrope(
                dim=dim,
                short=list(rope["short_factor"]),
                long=list(rope["long_factor"]),
                original_context=original,
                max_context=max_context,
                factor=rope.get("factor"),
                attention_factor=rope.get("attention_factor"),
            )
    return None
