"""A cache in block floating point, whose keys may be permuted before they fill blocks.

Shape letters: B blocks of the cache, b tokens of one, K KV heads, D head dimension, n channels that share an
exponent, N entries.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from twofold.devices.base import Device
from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.step import StepInput
from twofold.techniques.cache.block_floats import PACK_FLOP, WIDEN_FLOP, Blocks, decode, encode


class BfpCache(CacheLayer):
    """Keys and values in blocks of n channels of one token and head.

    order: which channel of a key comes where in its blocks, [K, D]; None where they stay as they are.
    Tensors: k_codes, v_codes uint8 [B, b, K, D / n, n · bits / 8]; k_exponents, v_exponents uint8 [B, b, K, D
    / n]. counters: entries stored.
    """

    def __init__(
        self,
        heads: Heads,
        block_size: int,
        bits: tuple[int, int],
        block: int,
        order: torch.Tensor | None,
        counters: dict[str, int],
    ) -> None:
        super().__init__(heads, block_size)
        self.bits, self.block, self.counters = dict(zip("kv", bits, strict=True)), block, counters
        self.stored_as = f"bfp-{bits[0]}-{bits[1]}"
        self.order = order
        self._there = None if order is None else _flat(order)
        self._back = None if order is None else _flat(order.argsort(1))

    # --- bytes

    def _side(self, name: str) -> int:
        """Bytes of an entry's keys ("k") or values, of all heads."""
        dim = self.heads.head_dim if name == "k" else self.heads.v_dim
        return self.heads.kv_heads * (dim * self.bits[name] // 8 + dim // self.block)

    @property
    def entry_bytes(self) -> int:
        """Bytes of one token: codes and exponents of keys and values."""
        return self._side("k") + self._side("v")

    def block_bytes(self) -> int:
        """Bytes of one block of the cache, scores included."""
        return self.block_size * (self.entry_bytes + self.score_bytes)

    def block_parts(self) -> tuple[int, ...]:
        """Codes and exponents of keys, then of values."""
        h, size = self.heads, self.block_size
        return tuple(
            size * h.kv_heads * part
            for name, dim in (("k", h.head_dim), ("v", h.v_dim))
            for part in (dim * self.bits[name] // 8, dim // self.block)
        )

    def read_bytes(self, step: StepInput) -> int:
        """Every visible entry once, for all query heads of its group."""
        return step.totals(self.heads.window).keys * self.entry_bytes

    def attend(
        self,
        device: Device,
        step: StepInput,
        q: torch.Tensor | None,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """As any cache; counts what it packs."""
        self.counters["entries_packed"] += step.num_tokens
        return super().attend(device, step, q, k, v)

    def write_bytes(self, step: StepInput) -> int:
        """One entry per token."""
        return step.num_tokens * self.entry_bytes

    def _flop(self, entries: int, each: dict[int, int]) -> int:
        h = self.heads
        return entries * h.kv_heads * (h.head_dim * each[self.bits["k"]] + h.v_dim * each[self.bits["v"]])

    def widen_flop(self, step: StepInput) -> int:
        """WIDEN_FLOP per element that is read."""
        return self._flop(step.totals(self.heads.window).keys, WIDEN_FLOP)

    def pack_flop(self, step: StepInput) -> int:
        """PACK_FLOP per new element."""
        return self._flop(step.num_tokens, PACK_FLOP)

    def key_cost(self, entries: int) -> tuple[int, int]:
        """Keys alone."""
        widen = entries * self.heads.kv_heads * self.heads.head_dim * WIDEN_FLOP[self.bits["k"]]
        return entries * self._side("k"), widen

    # --- storage

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """The tensors named above, zero."""
        h = self.heads
        self.tensors = {}
        for name, dim in (("k", h.head_dim), ("v", h.v_dim)):
            shape = (size.num_blocks, size.block_size, h.kv_heads, dim // self.block)
            width = self.block * self.bits[name] // 8
            self.tensors[f"{name}_codes"] = reserve((*shape, width), torch.uint8, where)
            self.tensors[f"{name}_exponents"] = reserve(shape, torch.uint8, where)
        self.allocate_scores(size, where)

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
        """Pack and scatter to `step.slots`."""
        assert step.slots is not None
        self.store(step.slots, k, v)

    def store(self, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Pack and scatter."""
        if self._there is not None:
            k = k.flatten(1).index_select(1, self._there).view_as(k)
        for name, x in (("k", k), ("v", v)):
            packed = encode(x.reshape(*x.shape[:-1], -1, self.block), self.bits[name])
            for part, new in zip(self._parts(name), packed, strict=True):
                part.index_copy_(0, slots, new)

    def read(self, step: StepInput, seq: int, *new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather the sequence's slots and widen them: [N, K, D] in float32."""
        return self.load(step.tables[seq])

    def load(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather and widen."""
        return self._keys(slots), self._wide("v", slots)

    def load_keys(self, slots: torch.Tensor) -> torch.Tensor:
        """Gather and widen the keys."""
        return self._keys(slots).permute(1, 2, 0)

    def by_slot(self) -> Iterator[torch.Tensor]:
        """The tensors as they are."""
        yield from self.tensors.values()

    def _keys(self, slots: torch.Tensor) -> torch.Tensor:
        keys = self._wide("k", slots)
        return keys if self._back is None else keys.flatten(1).index_select(1, self._back).view_as(keys)

    def _wide(self, name: str, slots: torch.Tensor) -> torch.Tensor:
        codes, exponents = (part.index_select(0, slots) for part in self._parts(name))
        return decode(Blocks(codes, exponents), self.bits[name]).flatten(-2)

    def _parts(self, name: str) -> Blocks:
        """Codes and exponents of keys or values by slot."""
        return Blocks(*(self.tensors[f"{name}_{part}"].flatten(0, 1) for part in Blocks._fields))


def _flat(order: torch.Tensor) -> torch.Tensor:
    """Places in each row of a matrix [K, D] as places in all rows one behind the other, [K · D]."""
    first = torch.arange(order.shape[0], device=order.device) * order.shape[1]
    return (order + first[:, None]).flatten()
