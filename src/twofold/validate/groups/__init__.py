"""The groups of measurements that predictions are held against: one module each, see `validate.group`."""

from __future__ import annotations

from twofold.validate.group import Group, Progress
from twofold.validate.groups import (
    learned,
    linear_ops,
    maximum_load,
    operators,
    public,
    public_tables,
    recorded,
    replay,
    serving,
    serving_experts,
    single_stream,
)

__all__ = ["GROUPS", "Group", "Progress"]

GROUPS: tuple[Group, ...] = (
    linear_ops,
    operators,
    learned,
    single_stream,
    serving,
    serving_experts,
    replay,
    maximum_load,
    public,
    public_tables,
    recorded,
)
"""In reading order."""
