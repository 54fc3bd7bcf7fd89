"""What techniques that drop cache entries have in common."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.engine.retention import counters
from twofold.models.spec import ModelSpec
from twofold.ops.compaction import Observed
from twofold.techniques.base import Info, Technique
from twofold.techniques.requirements import require_keys

EVERY = 16
"""A sequence is cut back to its budget once it has so many entries more. Memory is freed by the block, and
all that stays is moved however few are dropped: dropping one entry per token would cost as much for each."""


@dataclass(frozen=True)
class Dropping(Technique):
    """A technique that drops cache entries, or merges them."""

    def check(self, spec: ModelSpec) -> None:
        """Entries must be keys and values that every layer attends to, wherever they stand."""
        name = self.info.name
        require_keys(name, spec)
        if any(not spec.is_global(layer) for layer in range(spec.num_layers)):
            raise ValueError(
                f"technique {name}: some layers of {spec.name} attend to the last {spec.window} entries of "
                f"their cache, which would reach further back once entries are dropped; leave {name} out"
            )


def dropping_info(name: str, title: str, source: str, summary: str) -> Info:
    """What all of them say of themselves: lossy, and refused beside what packs cache entries together."""
    return Info(
        name,
        title,
        source,
        summary,
        seams=("cache",),
        lossless=False,
        provides=("retention",),
        excludes=("retention", "cache-storage"),
        reasons={
            "cache-storage": "it moves cache entries one by one, which another technique packs together; "
            "engine.cache_format int8 or int4 stores entries that can be moved"
        },
    )


class Budget:
    """Sequences keep `size` entries: once there are EVERY more, the surplus is dropped, also within a prompt.
    No attention is watched."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.counters = counters()

    def kept(self, slots: int, computed: int, context: int) -> int:
        """`size` where there are EVERY entries too many."""
        del computed, context
        return self.size if slots >= self.size + EVERY else slots

    def most(self, tokens: int, context: int) -> int:
        """Nearly EVERY beyond `size`."""
        del context
        return min(tokens, self.size + EVERY - 1)

    def observed(self, start: int, queries: int, context: int) -> Observed | None:
        """None: lengths decide."""
        del start, queries, context
        return None


class PromptBudget(Budget):
    """The same, but a prompt is computed in full and then cut to `size_of` entries."""

    def __init__(self) -> None:
        super().__init__(0)

    def size_of(self, context: int) -> int:
        """Entries that a sequence with a prompt of `context` tokens keeps."""
        raise NotImplementedError

    def kept(self, slots: int, computed: int, context: int) -> int:
        """All until the prompt is computed, then no more than `size_of`."""
        size = self.size_of(context)
        if computed == context:
            return min(slots, size)
        return size if computed > context and slots >= size + EVERY else slots

    def most(self, tokens: int, context: int) -> int:
        """The prompt before it is cut."""
        return min(tokens, max(context, self.size_of(context) + EVERY - 1))


def check_counts(name: str, **counts: int) -> None:
    """ValueError for one that is below 1."""
    for parameter, value in counts.items():
        if value < 1:
            raise ValueError(f"technique {name}: {parameter} must be at least 1, not {value}")
