"""Which part of every weight one rank of a tensor-parallel group holds.

Matrices whose rows are cut (queries, keys, values, gate, up, the output projection) give a rank its part of
the result. Matrices whose columns are cut (o, down) take such a part and give a summand of the whole result,
so that a sublayer needs one all-reduce. Everything else is held whole by every rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from twofold.models.spec import ModelSpec
from twofold.models.tensors import StoredTensor
from twofold.ops.formats import PACKED_ROWS, get_format


@dataclass(frozen=True, slots=True)
class Cut:
    """Elements `start` … `stop` - 1 of a dimension of `total`."""

    start: int
    stop: int
    total: int

    @property
    def size(self) -> int:
        """How many elements."""
        return self.stop - self.start

    @property
    def is_whole(self) -> bool:
        """Whether these are all elements."""
        return self.size == self.total

    def times(self, width: int) -> Cut:
        """The same cut where each element is `width` elements wide (heads to rows)."""
        return Cut(self.start * width, self.stop * width, self.total * width)


def whole(total: int) -> Cut:
    """All of `total` elements."""
    return Cut(0, total, total)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows and columns of the tensor called `name` (`name#j`: of entry j of a stack); columns: None for
    a vector."""

    name: str
    rows: Cut
    columns: Cut | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the uncut tensor has."""
        return (self.rows.total,) if self.columns is None else (self.rows.total, self.columns.total)

    @property
    def key(self) -> str:
        """Names the part: the tensor's name, with the cut where there is one."""
        cuts = [self.rows] if self.columns is None else [self.rows, self.columns]
        if all(cut.is_whole for cut in cuts):
            return self.name
        return f"{self.name}[{','.join(f'{cut.start}:{cut.stop}' for cut in cuts)}]"


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank `rank` of `world`. Where shares differ, the first ranks have the larger ones, so that rank 0 is
    the one whose memory and time count."""

    rank: int = 0
    world: int = 1

    def share(self, total: int, unit: int = 1, what: str = "elements") -> Cut:
        """This rank's part of `total` elements, in units of `unit` that stay whole (the last may be short).

        ValueError where there is not one unit for each rank.
        """
        units = -(-total // unit)
        if units < self.world:
            raise ValueError(
                f"tp={self.world}: {total} {what} in units of {unit} cannot be cut {self.world} ways; "
                f"tp may be at most {units}"
            )
        each, extra = divmod(units, self.world)
        start = self.rank * each + min(self.rank, extra)
        stop = start + each + (1 if self.rank < extra else 0)
        return Cut(start * unit, min(stop * unit, total), total)

    def kv_heads(self, spec: ModelSpec) -> Cut:
        """KV heads: some of them, or one that several ranks hold."""
        if self.world <= spec.num_kv_heads:
            return self.share(spec.num_kv_heads)
        head = self.rank * spec.num_kv_heads // self.world
        return Cut(head, head + 1, spec.num_kv_heads)

    def heads(self, spec: ModelSpec) -> Cut:
        """Query heads: those of the rank's KV heads, or its share of one's."""
        if self.world <= spec.num_kv_heads:
            return self.kv_heads(spec).times(spec.num_heads // spec.num_kv_heads)
        return self.share(spec.num_heads)

    def vocabulary(self, spec: ModelSpec) -> Cut:
        """Rows of the output projection, in whole strips of packed rows."""
        return self.share(spec.vocab_size, PACKED_ROWS, "rows of the vocabulary")


def cut_stored(tensor: StoredTensor, part: Part) -> StoredTensor:
    """`part` of a stored matrix or vector, its bytes as they are stored. Columns are cut between blocks."""
    columns = part.columns
    data = tensor.data.view(part.rows.total, -1)[part.rows.start : part.rows.stop]
    shape = (part.rows.size,) if columns is None else (part.rows.size, columns.size)
    if columns is not None and not columns.is_whole:
        fmt = get_format(tensor.format)
        assert fits_blocks(columns, fmt.block), (part, fmt)
        block_bytes = fmt.row_bytes(fmt.block)
        data = data[:, columns.start // fmt.block * block_bytes : -(-columns.stop // fmt.block) * block_bytes]
    return StoredTensor(part.key, tensor.format, shape, data.reshape(-1), tensor.widen)


def fits_blocks(columns: Cut, block: int) -> bool:
    """Whether columns stored in blocks of `block` can be cut so."""
    return columns.start % block == 0 and (columns.stop % block == 0 or columns.stop == columns.total)
