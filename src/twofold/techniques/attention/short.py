"""Which new tokens choose what they attend to: generated ones, but not those of a prompt."""

from __future__ import annotations

from twofold.ops.attention import Span

SHORT = 32
"""Most new tokens of a sequence that count as generated: drafts that are verified, the end of a prompt. More
are a prompt, which attends to everything."""


def is_generated(span: Span) -> bool:
    """Whether the new tokens of a sequence are few, and follow others."""
    return span.queries <= SHORT and span.keys > span.queries
