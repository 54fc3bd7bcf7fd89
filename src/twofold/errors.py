"""Help for the errors that a user can cause: what was given, what is allowed, the nearest fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(given: str, allowed: Iterable[str]) -> str:
    """A phrase naming the closest allowed word, or all of them where none is close."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"allowed: {', '.join(names)}" if names else "there is none to choose from"
