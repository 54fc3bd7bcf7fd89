"""Where the entries of a cache with retrieval are stored: a static window on the device, all others in host
memory.

Shape letters: N visible entries, K KV heads, D head dimension, W entries of the window, L entries of the
longest sequence.
"""

from __future__ import annotations

import torch

from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.step import StepInput
from twofold.models.weights import TORCH_DTYPES
from twofold.techniques.attention.key_graph import KeyGraph
from twofold.techniques.attention.retrieval_layout import Layout


class RetrievalStore(CacheLayer):
    """Tensors: k_window, v_window [max_seqs, W, K, D]: the `initial` first entries, then a ring of the newest
    (longer by the most drafts, so that what drafts push out is not lost when they are voided). host: k, v
    [max_seqs, K, L, D] and neighbours int32 [max_seqs, K, L, width] in host memory, which takes pages as it
    is written.

    Not shareable: entries lie by sequence, in no blocks.
    """

    shareable = False

    def __init__(self, heads: Heads, block_size: int, layout: Layout) -> None:
        super().__init__(heads, block_size)
        self.layout = layout
        self.host: dict[str, torch.Tensor] = {}
        self._graphs: list[list[KeyGraph]] = []

    # --- bytes

    @property
    def _entry_bytes(self) -> int:
        return self.heads.stored_width * self.heads.act_bytes

    @property
    def _turn(self) -> int:
        """Length of the ring of the newest entries."""
        return self.layout.recent + self.max_drafts

    def block_bytes(self) -> int:
        """0: nothing lies in blocks."""
        return 0

    def sequence_bytes(self) -> int:
        """The static window."""
        return (self.layout.initial + self._turn) * self._entry_bytes

    def host_bytes(self, entries: int) -> int:
        """Bytes of host memory for a sequence of `entries`: keys, values and graphs."""
        links = self.heads.kv_heads * self.layout.width * 4
        return self.layout.hosted(entries) * (self._entry_bytes + links)

    @property
    def cost_key(self) -> object:
        """All layers with these heads cost the same."""
        return type(self), self.heads, self.sequence_bytes()

    # --- storage

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """The window where attention runs, and the host's store."""
        h, lay = self.heads, self.layout
        assert not h.shared_kv, "latent attention has no real kernels"
        dtype, rows = TORCH_DTYPES[h.compute], size.max_seqs
        window = (rows, lay.initial + self._turn, h.kv_heads)
        self.tensors = {
            "k_window": reserve((*window, h.head_dim), dtype, where),
            "v_window": reserve((*window, h.v_dim), dtype, where),
        }
        host, store = torch.device("cpu"), (rows, h.kv_heads, size.num_blocks * size.block_size)
        self.host = {
            "k": reserve((*store, h.head_dim), torch.float32, host),
            "v": reserve((*store, h.v_dim), dtype, host),
            "neighbours": reserve((*store, lay.width), torch.int32, host),
        }
        k, neighbours = self.host["k"], self.host["neighbours"]
        self._graphs = [
            [KeyGraph(k[row, head], neighbours[row, head], lay.degree) for head in range(h.kv_heads)]
            for row in range(rows)
        ]

    def _places(self, first: int, last: int, where: torch.device) -> torch.Tensor:
        """Where the entries first … last - 1, all newer than the initial ones, lie in the window: int64."""
        initial = self.layout.initial
        return (torch.arange(first, last, device=where) - initial) % self._turn + initial

    def _offload(self, step: StepInput, k: torch.Tensor | None, v: torch.Tensor | None) -> None:
        """Put into the host's store what the step's entries push out of the window, or find no room there."""
        assert k is not None
        assert v is not None
        lay, initial = self.layout, self.layout.initial
        for row, start, before, after in step.parts():
            first, last = lay.hosted(before), lay.hosted(after)
            middle = min(last, max(first, before - initial))  # up to there they lie in the window
            for name, new in (("k", k), ("v", v)):
                store = self.host[name][row]
                if first < middle:
                    at = self._places(initial + first, initial + middle, new.device)
                    old = self.tensors[f"{name}_window"][row].index_select(0, at)
                    store[:, first:middle] = old.transpose(0, 1)
                if middle < last:
                    begin = start + initial + middle - before
                    store[:, middle:last] = new[begin : begin + last - middle].transpose(0, 1)

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put what stays near into the window."""
        lay, initial = self.layout, self.layout.initial
        for row, start, before, after in step.parts():
            if not before:
                for graph in self._graphs[row]:
                    graph.count = 0
            for name, new in (("k", k), ("v", v)):
                window = self.tensors[f"{name}_window"][row]
                if before < initial:
                    end = min(initial, after)
                    window[before:end] = new[start : start + end - before]
                first = max(before, initial + lay.hosted(after), initial)
                if first < after:
                    at = self._places(first, after, new.device)
                    window.index_copy_(0, at, new[start + first - before : start + after - before])

    def read(self, step: StepInput, seq: int, *new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All visible entries, from both memories, in order."""
        lay, initial, keys = self.layout, self.layout.initial, step.spans[seq].keys
        row, hosted = step.rows[seq], self.layout.hosted(keys)
        found = []
        for name in "kv":
            window = self.tensors[f"{name}_window"][row]
            recent = window[:0]
            if keys > initial:
                at = self._places(initial + hosted, keys, window.device)
                recent = window.index_select(0, at)
            far = self.host[name][row][:, :hosted].transpose(0, 1).to(window.device, window.dtype)
            found.append(torch.cat((window[: min(lay.initial, keys)], far, recent)))
        return found[0], found[1]
