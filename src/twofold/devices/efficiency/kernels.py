"""Kernels of serving software beside those that a generation's efficiencies were measured with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kernels:
    """Factors on what a generation's efficiencies say; 1: the same.

    narrow: on the rate of products of fewer than 16 bits; decode: on the seconds that a unit takes to start
    and end an attention item of one query.
    """

    narrow: float = 1.0
    decode: float = 1.0


USUAL = Kernels()
"""The kernels that the efficiencies were measured with (vLLM's, mostly)."""
