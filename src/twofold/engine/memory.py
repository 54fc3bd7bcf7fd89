"""What a deployment holds in a device's memory, counted before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from twofold.models.shard import Shard
from twofold.models.transformer import Transformer
from twofold.models.weights import ACT_BYTES
from twofold.ops.base import DEVICE


class Held(NamedTuple):
    """Bytes that a drafter holds beside the model: of weights, for each cache block of the engine, and for
    each sequence that may run at once."""

    weights: int = 0
    block: int = 0
    sequence: int = 0

    def total(self, blocks: int, seqs: int) -> int:
        """Bytes with `blocks` blocks and `seqs` sequences."""
        return self.weights + blocks * self.block + seqs * self.sequence


NOTHING_HELD = Held()


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes per device by part. cache: what is reserved, num_blocks blocks of block_bytes, and a store of
    sequence_bytes for every sequence that may run at once; drafter: what is
    reserved for one, as `held` says. capacity: of all memories; cache_capacity: of one that the cache has to
    itself (0: there is none).
    """

    capacity: int
    weights: int
    cache: int
    activations: int
    num_blocks: int
    block_bytes: int = 0
    sequence_bytes: int = 0
    drafter: int = 0
    held: Held = NOTHING_HELD
    cache_capacity: int = 0

    @property
    def total(self) -> int:
        """Bytes in use when every block is."""
        return self.weights + self.cache + self.activations + self.drafter

    def cache_in_use(self, blocks: int, seqs: int) -> int:
        """Bytes of the cache when `blocks` blocks are taken and `seqs` sequences run."""
        return blocks * self.block_bytes + seqs * self.sequence_bytes

    def table(self) -> str:
        """The breakdown in words, in GB (1e9 bytes)."""
        parts = {"weights": self.weights, "cache": self.cache, "activations": self.activations}
        if self.drafter:
            parts["drafter"] = self.drafter
        lines = [f"{name} {size / 1e9:.2f} GB" for name, size in parts.items()]
        if self.cache_capacity:
            beside, room = self.total - self.cache, self.capacity - self.cache_capacity
            return (
                f"{', '.join(lines)}; {beside / 1e9:.2f} GB of {room / 1e9:.2f} GB, and the cache of "
                f"{self.cache_capacity / 1e9:.2f} GB of its own"
            )
        return f"{', '.join(lines)}; total {self.total / 1e9:.2f} GB of {self.capacity / 1e9:.2f} GB"


class DoesNotFitError(ValueError):
    """A plan needs more memory than its device has."""


def activation_bytes(model: Transformer, max_tokens: int, max_logits: int) -> int:
    """Largest live set of a step: the residual stream and its sum, the widest sublayer's input and output,
    the logits."""
    spec, act, tp = model.spec, ACT_BYTES[model.precision], model.parallel.tp
    shard = Shard(0, tp)
    q_dim, kv_dim = (heads.size * spec.head_dim for heads in (shard.heads(spec), shard.kv_heads(spec)))
    attention = 2 * q_dim + 2 * kv_dim
    mlp = (3 if spec.gated else 2) * spec.ffn_hidden // tp
    if spec.experts is not None:
        e = spec.experts
        dense = mlp if e.first_dense or e.every > 1 else 0
        mlp = max(dense, 3 * (e.active * e.hidden + e.shared_hidden) // tp)
    widest = max(attention, mlp)
    logits = shard.vocabulary(spec).size
    return max_tokens * (3 * spec.hidden + widest) * act + max_logits * logits * 4


def plan_memory(
    model: Transformer,
    capacity: int,
    *,
    block_size: int,
    max_seqs: int,
    max_tokens: int,
    max_cache_tokens: int,
    min_cache_tokens: int,
    num_blocks: int | None = None,
    held: Held = NOTHING_HELD,
    cache_memory: int | None = None,
) -> MemoryPlan:
    """Blocks that fit beside weights, activations and what is `held` for a drafter in `capacity` bytes, at
    most `max_cache_tokens` of them. cache_memory: bytes beside those that the cache has to itself.

    DoesNotFitError with the breakdown where not even `min_cache_tokens` fit.
    """
    weights = model.weight_bytes()
    activations = activation_bytes(model, max_tokens, max_seqs)
    stages = len(model.stages)
    per_block = sum(cache.block_bytes() for cache in model.caches if cache.space == DEVICE)
    per_seq = sum(cache.sequence_bytes() for cache in model.caches)
    # Each stage holds the cache of its own layers; stages are nearly even.
    per_block, per_seq = -(-per_block // stages), -(-per_seq // stages)
    beside = weights + activations + held.total(0, max_seqs)
    room = capacity - beside if cache_memory is None else cache_memory
    left = room - max_seqs * per_seq
    wanted = -(-max_cache_tokens // block_size)
    least = -(-min_cache_tokens // block_size)
    fits = left // (per_block + held.block) if per_block else wanted
    count = num_blocks if num_blocks is not None else max(0, min(wanted, fits))
    needed = num_blocks if num_blocks is not None else least
    plan = MemoryPlan(
        capacity + (cache_memory or 0),
        weights,
        max(count, needed) * per_block + max_seqs * per_seq,
        activations,
        count,
        per_block,
        per_seq,
        held.total(max(count, needed), max_seqs),
        held,
        cache_memory or 0,
    )
    if needed > fits or left < 0 or beside > capacity:
        raise DoesNotFitError(plan.table())
    return plan
