"""Integrity: what must hold of scheduler and block manager between steps, checked by recounting everything.

The engine calls `check` when it is idle; simulation and tests call it all along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from twofold.engine.blocks import BlockManager
from twofold.engine.request import Request, RequestStatus
from twofold.engine.scheduler import Scheduler


class IntegrityError(AssertionError):
    """A bug in the engine: blocks or requests do not add up."""


def check(scheduler: Scheduler) -> None:
    """Raise IntegrityError, naming everything that is wrong, unless each block is in exactly one place, each
    unfinished request in exactly one queue, and, where nothing is left to do, all memory free."""
    problems = [*block_problems(scheduler.blocks, scheduler.requests.values()), *request_problems(scheduler)]
    if problems:
        raise IntegrityError("; ".join(problems))


def block_problems(blocks: BlockManager, requests: Iterable[Request]) -> Iterator[str]:
    """What is wrong with the accounting of blocks, given all requests that may hold some."""
    requests = list(requests)
    tables = [*(request.block_table for request in requests), *blocks._lent]
    held = Counter(block for table in tables for block in table)
    seen = Counter([*blocks._free, *blocks._idle, *blocks._withheld, *held])
    for block in range(blocks.num_blocks):
        if seen[block] != 1:
            yield f"block {block} is in {seen[block]} places" + (" (lost)" if not seen[block] else "")
        if blocks._refs[block] != held[block]:
            yield f"block {block} has {blocks._refs[block]} references and is in {held[block]} tables"
        if held[block] > 1 and not blocks.prefix_caching:
            yield f"block {block} is shared without prefix caching"
    for block in blocks._idle:
        if block not in blocks._content:
            yield f"idle block {block} has no cached content"
    for block in [*blocks._free, *blocks._withheld]:
        if block in blocks._content:
            yield f"block {block} is free and yet findable"
    by_key = {block: key for key, block in blocks._block_of_key.items()}
    by_identity = {block: identity for identity, block in blocks._block_of_identity.items()}
    if {
        block: (by_key.get(block), by_identity.get(block)) for block in by_key | by_identity
    } != blocks._content:
        yield "the indices of cached content differ"
    copies = [table for request in requests for table in (request.host_table, request.host_copy)]
    host = Counter([*blocks._free_host, *blocks._kept, *(block for table in copies for block in table)])
    for block in range(blocks.num_host_blocks):
        if host[block] != 1:
            yield f"host block {block} is in {host[block]} places"
    for request in requests:
        size = blocks.block_size
        table = request.block_table or request.host_table
        if request.block_table and request.host_table:
            yield f"{request!r} is on device and host"
        if request.host_copy and len(request.host_copy) * size > request.num_slots:
            yield f"{request!r} has copies of blocks that are not full"
        if request.num_slots > len(table) * size:
            yield f"{request!r} has no room for its slots"
        if not request.num_slots <= request.num_computed <= request.num_tokens:
            yield f"{request!r} has lengths that cannot be"
        if len(request.chain) * size > request.num_slots:
            yield f"{request!r} shares blocks that are not full"
        for block in request.block_table[len(request.chain) :]:
            if held[block] > 1 or block in blocks._content:
                yield f"{request!r} may write to shared block {block}"


def request_problems(scheduler: Scheduler) -> Iterator[str]:
    """What is wrong with the queues."""
    queued = Counter(id(r) for _, _, r in scheduler._waiting if not r.is_finished)
    prefilling = Counter(id(r) for r in scheduler._prefilling)
    decoding = Counter(id(r) for r in scheduler._decoding)
    flying = Counter(id(e.request) for b in scheduler._in_flight.values() for e in b.entries)
    busy = prefilling.keys() | decoding.keys() | flying.keys()
    for request in scheduler.requests.values():
        key = id(request)
        if request.status is RequestStatus.WAITING and queued[key] == 1 and key not in busy:
            # The many that only wait: quickly done.
            if request.block_table or request.host_table or request.num_computed or request.in_flight:
                yield f"{request!r} waits with a cache"
            continue
        places = (queued[key], prefilling[key] + decoding[key])
        if places != ((0, 1) if request.status is RequestStatus.RUNNING else (1, 0)) or request.is_finished:
            yield f"{request!r} is queued {places[0]} times and running {places[1]} times"
        if flying[key] != request.in_flight:
            yield f"{request!r} is in {flying[key]} batches, in_flight={request.in_flight}"
        if bool(request.host_table) != (request.status is RequestStatus.SWAPPED):
            yield f"{request!r} has {len(request.host_table)} host blocks"
        if decoding[key] and not request.in_flight and request.num_computed != request.num_tokens - 1:
            yield f"{request!r} decodes with the wrong number of tokens computed"
    for name, (table, _, kept, *_) in scheduler._compactions.items():
        owner = scheduler.requests.get(name)
        if owner is None or owner.status is not RequestStatus.RUNNING or owner.num_slots != kept:
            yield f"entries of {name!r} wait to be moved, and it has no {kept} of them"
        elif table[: (used := scheduler.blocks.blocks_for(kept))] != owner.block_table[:used]:
            yield f"entries of {owner!r} wait to be moved to blocks of others"
    count = len(scheduler.requests)
    if len(queued.keys() | busy) > count:
        yield "ended requests are still in a queue"
    if scheduler.num_waiting != queued.total():
        yield f"{scheduler.num_waiting} requests are said to wait, {queued.total()} do"
    for running in (scheduler._prefilling, scheduler._decoding):
        if any(a.order >= b.order for a, b in pairwise(running)):
            yield "running requests are out of order"
    if not count and not scheduler.blocks._lent:
        if scheduler.num_in_flight:
            yield f"{scheduler.num_in_flight} batches are in flight without requests"
        if scheduler.blocks.num_used:
            yield f"{scheduler.blocks.num_used} blocks are in use without requests"
        if scheduler.blocks.num_free_host + scheduler.blocks.num_kept != scheduler.blocks.num_host_blocks:
            yield "host blocks are in use without requests"
