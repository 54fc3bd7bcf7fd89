"""The file of what the heads of a model learned for attention over signs: one safetensors file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from twofold.models.spec import ModelSpec
from twofold.techniques.attention.had_cache import HeadCodes

_PARTS = ("q_map", "q_threshold", "k_map", "k_threshold", "scale")


def save_codes(path: Path, codes: Sequence[HeadCodes], notes: dict[str, str]) -> None:
    """Write what each layer learned, with `notes` on how."""
    tensors = {
        f"layers.{i}.{name}": tensor.contiguous().cpu()
        for i, layer in enumerate(codes)
        for name, tensor in layer.tensors.items()
    }
    save_file(tensors, path, {"technique": "had", **notes})


def load_codes(path: Path) -> list[HeadCodes]:
    """What each layer learned, as `save_codes` wrote it."""
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        count = sum(name.endswith(".scale") for name in names)
        return [
            HeadCodes.of({part: file.get_tensor(f"layers.{i}.{part}").float() for part in _PARTS})
            for i in range(count)
        ]


def check_codes(path: Path, spec: ModelSpec) -> None:
    """ValueError unless `path` holds what the heads of all layers of `spec` learned."""
    h, k, d = spec.num_heads, spec.num_kv_heads, spec.head_dim
    shapes = {
        "q_map": [h, d, d],
        "q_threshold": [h, d],
        "k_map": [k, d, d],
        "k_threshold": [k, d],
        "scale": [h],
    }
    wanted = {f"layers.{i}.{part}": shapes[part] for i in range(spec.num_layers) for part in _PARTS}
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"technique had: {path} is not a file of `twofold distill` ({error})") from None
    if found != wanted:
        raise ValueError(
            f"technique had: {path} was distilled from another model than {spec.name}; distil it anew with "
            "`twofold distill`"
        )
