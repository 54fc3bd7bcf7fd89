"""What techniques that drop cache entries have in common."""

from __future__ import annotations

from twofold.engine.retention import counters
from twofold.models.spec import ModelSpec
from twofold.ops.compaction import Observed

EVERY = 16
"""Entries beyond the budget at which a sequence is cut back to it. Memory is given back by the block, and
what stays is moved together however few are dropped: one at a time would cost as much for every token."""

PROVIDES = ("retention",)
EXCLUDES = ("retention", "cache-storage")
REASONS = {
    "retention": "which entries stay is decided once; name one technique that drops or merges them",
    "cache-storage": (
        "it moves cache entries one by one, and what another technique packs in groups cannot be moved; "
        "engine.cache_format int8 or int4 stores entries that can"
    ),
}


class Budget:
    """Sequences keep `size` entries: once there are EVERY more, the surplus is dropped, in the prompt as
    well. No attention is watched."""

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
    """The same, but a prompt is computed in full and cut when its end is there; `size_of` says to what."""

    def __init__(self) -> None:
        super().__init__(0)

    def size_of(self, context: int) -> int:
        """Entries that stay of a prompt of `context` tokens, and later of what follows as well."""
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


def check_droppable(name: str, spec: ModelSpec) -> None:
    """ValueError where entries of `spec`'s cache cannot be dropped."""
    where = f"technique {name}"
    if spec.latent is not None:
        raise ValueError(
            f"{where}: {spec.name} caches one latent per token instead of keys and values; leave {name} out"
        )
    if any(not spec.is_global(i) for i in range(spec.num_layers)):
        raise ValueError(
            f"{where}: layers of {spec.name} attend to the last {spec.window} entries of their cache, which "
            f"would reach further back where entries are missing; leave {name} out"
        )


def check_counts(name: str, **counts: int) -> None:
    """ValueError for one that is below 1."""
    for parameter, value in counts.items():
        if value < 1:
            raise ValueError(f"technique {name}: {parameter} must be at least 1, not {value}")
