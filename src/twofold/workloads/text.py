"""Real English prose that every Python carries: the standard library's own documentation
(`pydoc_data.topics`)."""

from __future__ import annotations

from functools import cache


@cache
def prose() -> str:
    """About 0.7 MB of text: the topics of the language reference, in order of their names."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip() for name in sorted(topics))
