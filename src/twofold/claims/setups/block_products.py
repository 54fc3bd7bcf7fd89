"""The products of a model's blocks on a machine, by themselves: what simulators of accelerators count."""

from __future__ import annotations

from typing import NamedTuple

from twofold.devices.machine import Machine
from twofold.models.spec import ModelSpec
from twofold.ops import Linear
from twofold.ops.base import Precision
from twofold.techniques.base import Technique

_PRECISION: Precision = "fp16"


class Spent(NamedTuple):
    """What products take: seconds, and joules with the machine's idle power over that time."""

    seconds: float
    joules: float


def spent(machine: Machine, spec: ModelSpec, technique: Technique | None, tokens: int) -> Spent:
    """All products of stored weights in the blocks of a dense model for `tokens` tokens, the weights stored
    and multiplied as `technique` says, or in fp16."""
    works = [machine.linear(op) for op in products(spec, technique, tokens)]
    seconds = spec.num_layers * sum(work.seconds for work in works)
    joules = spec.num_layers * sum(work.total_joules for work in works)
    return Spent(seconds, joules + machine.idle_watts * seconds)


def products(spec: ModelSpec, technique: Technique | None, tokens: int) -> list[Linear]:
    """The products of one block: queries, keys and values together, attention's output, both halves of the
    MLP."""
    assert spec.experts is None, "blocks of experts have other products"
    up = spec.ffn_hidden * (2 if spec.gated else 1)
    shapes = (
        (spec.q_dim + 2 * spec.kv_dim, spec.hidden),
        (spec.hidden, spec.q_dim),
        (up, spec.hidden),
        (spec.hidden, spec.ffn_hidden),
    )
    scheme = None if technique is None else technique.weight_scheme()
    if scheme is None:
        return [Linear(tokens, i, o, "f16", 2 * i * o, _PRECISION, 2) for o, i in shapes]
    return [scheme.pack(None, o, i).op(tokens, _PRECISION) for o, i in shapes]
