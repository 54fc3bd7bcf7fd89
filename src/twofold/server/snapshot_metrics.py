"""What `/metrics` tells of each engine, read from its newest snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from twofold.server.snapshot import Snapshot

Values = Iterable[tuple[tuple[str, ...], float]]
"""Values of a metric, each with those of its labels that come after model and replica."""


class Described(NamedTuple):
    """A metric: its name, kind, names of labels, and what it tells."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


def _one(read: Callable[[Snapshot], float | None]) -> Callable[[Snapshot], Values]:
    """A single value; none where it is None."""

    def values(snapshot: Snapshot) -> Values:
        value = read(snapshot)
        return [] if value is None else [((), value)]

    return values


def _by_place(counts: tuple[int, ...]) -> Values:
    return [((str(place),), count) for place, count in enumerate(counts)]


def _by_name(found: Mapping[str, float]) -> Values:
    return [((name,), value) for name, value in sorted(found.items())]


def _step_times(snapshot: Snapshot) -> Values:
    times = {"measured": snapshot.recent_step, "predicted": snapshot.recent_predicted}
    return [((kind,), value) for kind, value in times.items() if value is not None]


def _techniques(snapshot: Snapshot) -> Values:
    return [
        ((technique, counter), value)
        for technique, counters in sorted(snapshot.techniques.items())
        for counter, value in sorted(counters.items())
    ]


_REPLICA = ("model", "replica")


def _gauge(name: str, help: str, *labels: str) -> Described:
    return Described(name, "gauge", _REPLICA + labels, help)


def _counter(name: str, help: str, *labels: str) -> Described:
    return Described(name, "counter", _REPLICA + labels, help)


PER_REPLICA: tuple[tuple[Described, Callable[[Snapshot], Values]], ...] = (
    (
        _gauge("kv_cache_usage_perc", "Share of the cache blocks in use: 1 is all of them."),
        _one(lambda s: s.used_blocks / s.num_blocks),
    ),
    (_gauge("cache_blocks", "Cache blocks that there are."), _one(lambda s: s.num_blocks)),
    (_gauge("cache_blocks_used", "Cache blocks that requests hold."), _one(lambda s: s.used_blocks)),
    (
        _gauge("cache_blocks_cached", "Cache blocks whose content later prompts can share."),
        _one(lambda s: s.cached_blocks),
    ),
    (
        _counter("prefix_cache_queries", "Prompt tokens looked for in the prefix cache."),
        _one(lambda s: s.prefix_queries),
    ),
    (_counter("prefix_cache_hits", "Prompt tokens found there."), _one(lambda s: s.prefix_hits)),
    (
        _counter("num_preemptions", "Requests thrown out of memory for others."),
        _one(lambda s: s.preemptions),
    ),
    (
        _counter("prefill_tokens", "Prompt tokens computed, again after a preemption."),
        _one(lambda s: s.prompt_tokens),
    ),
    (_counter("engine_steps", "Batches run."), _one(lambda s: s.steps)),
    (_counter("engine_step_seconds", "Seconds that they took."), _one(lambda s: s.step_seconds)),
    (
        _counter("engine_step_predicted_seconds", "Seconds predicted for the same batches on this machine."),
        _one(lambda s: s.predicted_seconds),
    ),
    (_gauge("engine_step_time_seconds", "Mean of recent batches.", "kind"), _step_times),
    (
        _counter("spec_decode_num_draft_tokens", "Guessed tokens that were verified."),
        _one(lambda s: sum(s.drafted)),
    ),
    (
        _counter("spec_decode_num_accepted_tokens", "Guessed tokens that were right."),
        _one(lambda s: sum(s.accepted)),
    ),
    (
        _counter("spec_decode_num_draft_tokens_per_pos", "By place in the draft, from 0.", "position"),
        lambda s: _by_place(s.drafted),
    ),
    (
        _counter("spec_decode_num_accepted_tokens_per_pos", "By place in the draft, from 0.", "position"),
        lambda s: _by_place(s.accepted),
    ),
    (_counter("technique_events", "What techniques counted.", "technique", "counter"), _techniques),
    (
        _gauge("memory_bytes", "Bytes of weights, cache (also what of it is in use), activations.", "part"),
        lambda s: _by_name(s.memory),
    ),
    (
        _counter("moved_bytes", "Bytes that ops read and wrote, counted.", "op"),
        lambda s: _by_name(s.moved),
    ),
)
