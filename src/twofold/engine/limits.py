"""The engine's limits: what a plan says, and a default for everything that it leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twofold.devices.base import Device
from twofold.engine.active import Active, the_one
from twofold.engine.cache_format import block_parts, decide_format
from twofold.engine.serving_profile import served
from twofold.engine.weight_format import decide_weights
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.ops.base import Precision
from twofold.plan import Plan

DEFAULT_BLOCK_SIZE = 16
FEW_SEQS, MOST_SEQS = 16, 256
"""Sequences at once where a plan leaves it open: few where it keeps a stated number of requests going, else
many."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The plan's engine limits with every default decided.

    cache_format: how cache entries are stored: a native format, the activations' own, or a technique's name;
    plain_format: how they are where no technique stores them.
    weights: "stored" or "dense", or the kind of quantised checkpoint that the plan names.
    """

    precision: Precision
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_context: int
    capacity: int
    cache_format: str
    plain_format: str
    weights: str


def decide_limits(
    plan: Plan,
    device: Device,
    spec: ModelSpec,
    actives: Sequence[Active],
    checkpoint: Checkpoint | None = None,
) -> Limits:
    """Every engine default that the plan leaves open."""
    plan = served(plan)
    e = plan.engine
    multiple = max([getattr(a.cache, "block_multiple", 1) for a in actives], default=1)
    load = plan.workload
    closed = load.rate is None and (load.trace is None or load.concurrency is not None)
    few = min(MOST_SEQS, max(FEW_SEQS, load.concurrency or 1))
    seqs = e.max_num_seqs or (MOST_SEQS if device.cache_tokens is None and not closed else few)
    precision = plan.precision if plan.precision != "auto" else device.native_precision
    block_size = e.block_size or max(DEFAULT_BLOCK_SIZE, multiple)
    cache_format = decide_format(plan, device, spec, actives, precision, block_size)
    paging = the_one([a.paging for a in actives])
    if paging is not None:
        parts = block_parts(plan, spec, precision, block_size, cache_format)
        whole = block_size * paging.fit(parts, device.page_bytes)
        if e.block_size not in (None, whole):
            raise ValueError(
                f"blocks of {block_size} tokens are not whole pages; use block_size={whole}, or leave "
                "block_size out"
            )
        block_size = whole
    return Limits(
        precision,
        block_size,
        seqs,
        e.max_num_batched_tokens or max(seqs, device.step_tokens),
        min(e.max_context or spec.max_context, spec.max_context),
        e.memory or int(device.memory["device"] * e.memory_share),
        cache_format,
        decide_format(plan, device, spec, (), precision, block_size),
        decide_weights(plan, device, checkpoint),
    )
