"""Cascades of Einsums, and how many passes over a rank any mapping of one must take.

An Einsum says how a tensor follows from others, index by index; a cascade is a list of them. An element may
be needed again after every other element along a rank has been seen: an Einsum that walks along the rank
reads something that was reduced over all of it. Then the rank is passed once more, however the loops are
ordered or fused, and what was made in an earlier pass is kept, whole, or made again.

Source: Nayak et al., "FuseMax: Leveraging Extended Einsums to Optimize Attention Accelerator Design"
(arXiv:2406.10491), sections III and IV; the cascades below are its cascade 4, its description of the 2-pass
one, and its cascade 5 (which is FlashAttention-2's).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

THREE_PASS = """
QK[m,p] = Q[e,p] K[e,m]
GM[p] = max QK[m,p]
SN[m,p] = exp QK[m,p] GM[p]
SD[p] = SN[m,p]
A[m,p] = SN[m,p] / SD[p]
AV[f,p] = A[m,p] V[f,m]
"""
"""A softmax with its maximum, as frameworks and FLAT compute it."""

TWO_PASS = """
QK[m1,m0,p] = Q[e,p] K[e,m1,m0]
LM[m1,p] = max QK[m1,m0,p]
SLN[m1,m0,p] = exp QK[m1,m0,p] LM[m1,p]
SLD[m1,p] = SLN[m1,m0,p]
GM[p] = max LM[m1,p]
PLM[m1,p] = exp LM[m1,p] GM[p]
SD[p] = SLD[m1,p] PLM[m1,p]
A[m1,m0,p] = SLN[m1,m0,p] PLM[m1,p] / SD[p]
AV[f,p] = A[m1,m0,p] V[f,m1,m0]
"""
"""Partitions with maxima of their own, which are corrected in the end. Maxima and sums of partitions are few
and cheap to keep; a pass along partitions alone (for SD) is none along their elements."""

ONE_PASS = """
QK[m1,m0,p] = Q[e,p] K[e,m1,m0]
LM[m1,p] = max QK[m1,m0,p]
RM[m1+1,p] = max RM[m1,p] LM[m1,p]
SLN[m1,m0,p] = exp QK[m1,m0,p] RM[m1+1,p]
SLD[m1,p] = SLN[m1,m0,p]
SLNV[f,m1,p] = SLN[m1,m0,p] V[f,m1,m0]
PRM[m1,p] = exp RM[m1,p] RM[m1+1,p]
SPD[m1,p] = RD[m1,p] PRM[m1,p]
RD[m1+1,p] = SLD[m1,p] SPD[m1,p]
SPNV[f,m1,p] = RNV[f,m1,p] PRM[m1,p]
RNV[f,m1+1,p] = SLNV[f,m1,p] SPNV[f,m1,p]
AV[f,p] = RNV[f,M1,p] / RD[M1,p]
"""
"""A running maximum, denominator and numerator: M1 is where they end."""


class Access(NamedTuple):
    """A tensor and the indices by which an Einsum writes or reads it; a capital index is a fixed place."""

    tensor: str
    indices: tuple[str, ...]

    def moves(self, rank: str) -> set[str]:
        """Which of `rank` or its partitions (m, or m1 and m0) it moves along."""
        return {i.removesuffix("+1") for i in self.indices if re.fullmatch(rf"{rank}\d*(\+1)?", i)}


@dataclass(frozen=True, slots=True)
class Einsum:
    """`output` from `inputs`: reduced over what indices the output lacks."""

    output: Access
    inputs: tuple[Access, ...]


def parse(cascade: str) -> tuple[Einsum, ...]:
    """Einsums of lines such as "AV[f,p] = A[m,p] V[f,m]"; words and signs between accesses are for readers.
    ValueError for a line that is not one."""
    found = []
    for line in filter(None, map(str.strip, cascade.splitlines())):
        left, equals, right = line.partition("=")
        outputs, inputs = _accesses(left), _accesses(right)
        if not equals or len(outputs) != 1 or not inputs:
            raise ValueError(f"{line!r} is not an Einsum such as 'AV[f,p] = A[m,p] V[f,m]'")
        found.append(Einsum(outputs[0], tuple(inputs)))
    return tuple(found)


def _accesses(text: str) -> list[Access]:
    return [
        Access(name, tuple(index.strip() for index in indices.split(",")))
        for name, indices in re.findall(r"(\w+)\[([^\]]*)\]", text)
    ]


def pass_by_tensor(cascade: str, rank: str) -> dict[str, int]:
    """The pass over `rank` in which each tensor of the cascade is made at the earliest (0: it does not depend
    on the rank).

    An Einsum that walks along the rank's elements reads other elements in the pass that makes them, but what
    was reduced over all of the rank, and what follows from that, only after it.
    """
    einsums = parse(cascade)
    finest = _finest(einsums, rank)
    made: dict[str, tuple[int, bool]] = {}  # the pass, and whether it must have ended
    for einsum in einsums:
        known = [_known(access, made, rank) for access in einsum.inputs]
        if finest & _partitions(einsum, rank):
            number, ended = max(1, *(before + after for before, after in known)), False
        else:
            number, ended = max(known)
        made[einsum.output.tensor] = number, ended or not einsum.output.moves(rank)
    return {tensor: number for tensor, (number, _) in made.items()}


def _known(access: Access, made: dict[str, tuple[int, bool]], rank: str) -> tuple[int, bool]:
    number, ended = made.get(access.tensor, (0, False))
    return number, number > 0 and (ended or not access.moves(rank))


def _partitions(einsum: Einsum, rank: str) -> set[str]:
    return set().union(*(access.moves(rank) for access in (einsum.output, *einsum.inputs)))


def _finest(einsums: tuple[Einsum, ...], rank: str) -> set[str]:
    """The rank itself, or its innermost partition (m0)."""
    found = sorted(set().union(*(_partitions(einsum, rank) for einsum in einsums)))
    if not found:
        raise ValueError(f"the cascade has no rank {rank!r}")
    return {found[0]}


def passes(cascade: str, rank: str) -> int:
    """How often any mapping of the cascade must pass along `rank`."""
    return max(pass_by_tensor(cascade, rank).values())


def kept(cascade: str, rank: str) -> tuple[str, ...]:
    """Tensors with all elements of `rank` that a later pass reads: they are buffered whole, spilled, or made
    again."""
    made = pass_by_tensor(cascade, rank)
    einsums = parse(cascade)
    finest = _finest(einsums, rank)
    later = {
        access.tensor
        for einsum in einsums
        for access in einsum.inputs
        if finest & access.moves(rank) and 0 < made.get(access.tensor, 0) < made[einsum.output.tensor]
    }
    return tuple(tensor for tensor in made if tensor in later)


def accesses(cascade: str, rank: str) -> int:
    """How often an element of an intermediate tensor of all of `rank` is written and read, where each Einsum
    is done by itself."""
    einsums = parse(cascade)
    finest = _finest(einsums, rank)
    made = [einsum.output for einsum in einsums if finest & einsum.output.moves(rank)]
    names = {access.tensor for access in made}
    read = [access for einsum in einsums for access in einsum.inputs if access.tensor in names]
    return len(made) + len(read)
