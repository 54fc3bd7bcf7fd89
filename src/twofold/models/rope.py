"""Rotary position tables. Frequencies follow Hugging Face's definitions of the scalings, written anew."""

from __future__ import annotations

import math

import torch

from twofold.models.spec import ModelSpec, RopeScaling


def inverse_frequencies(
    rotated: int, theta: float, scaling: RopeScaling | None, max_context: int
) -> torch.Tensor:
    """Angular frequency per rotated pair: [rotated / 2], float32 (computed in float64).

    max_context: the longest context that will be run; a model with short and long factors uses the short ones
    up to its original context.
    """
    exponents = torch.arange(0, rotated, 2, dtype=torch.float64) / rotated
    freq = theta**-exponents
    if scaling is None:
        return freq.float()
    match scaling.kind:
        case "linear":
            freq = freq / scaling.factor
        case "llama3":
            wavelength = 2 * math.pi / freq
            low = scaling.original_context / scaling.low_freq_factor
            high = scaling.original_context / scaling.high_freq_factor
            smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
                scaling.high_freq_factor - scaling.low_freq_factor
            )
            blended = (1 - smooth) * freq / scaling.factor + smooth * freq
            freq = torch.where(
                wavelength > low, freq / scaling.factor, torch.where(wavelength < high, freq, blended)
            )
        case "longrope":
            factors = scaling.long if max_context > scaling.original_context else scaling.short
            freq = freq / torch.tensor(factors, dtype=torch.float64)
        case _:
            raise ValueError(f"rope scaling {scaling.kind!r} cannot be run; it can be predicted")
    return freq.float()


CosSin = tuple[torch.Tensor, torch.Tensor]


class RotaryTables:
    """cos and sin by position for the global layers and, where they differ, for the sliding ones."""

    def __init__(self, spec: ModelSpec, max_positions: int, where: torch.device, dtype: torch.dtype) -> None:
        scaling = spec.rope_scaling
        attention = 1.0 if scaling is None else scaling.attention_factor
        freq = inverse_frequencies(spec.rope_dim, spec.rope_theta, scaling, max_positions)
        self._global = _table(freq, max_positions, attention, where, dtype)
        self._local = self._global
        if spec.rope_local_theta is not None:
            local = inverse_frequencies(spec.rope_dim, spec.rope_local_theta, None, max_positions)
            self._local = _table(local, max_positions, 1.0, where, dtype)
        self._local_differs = spec.rope_local_theta is not None

    def tensors(self) -> list[torch.Tensor]:
        """The tables that are held."""
        return [*self._global, *(self._local if self._local_differs else ())]

    def table(self, *, local: bool) -> CosSin:
        """cos and sin of all positions, [positions, 1, rotated]: of the sliding layers (`local`), which share
        the global ones where they do not differ, or of the others."""
        return self._local if local else self._global


def _table(
    freq: torch.Tensor, positions: int, factor: float, where: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), freq)
    cos = torch.cat((angles.cos(), angles.cos()), dim=-1) * factor
    sin = torch.cat((-angles.sin(), angles.sin()), dim=-1) * factor
    return cos[:, None].to(where, dtype), sin[:, None].to(where, dtype)


def table_elements(spec: ModelSpec, max_positions: int) -> int:
    """Elements of all tables of `spec`."""
    kinds = 1 if spec.rope_local_theta is None else 2
    return 2 * kinds * max_positions * spec.rope_dim
