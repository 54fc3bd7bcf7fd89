"""What the techniques that map cache pages have in common: which others they work beside, and their
checks."""

from __future__ import annotations

PROVIDES = ("page-mapping",)
EXCLUDES = ("page-mapping", "cache-storage", "retention")
REASONS = {
    "page-mapping": "pages of the cache are mapped by one manager; name one of the two",
    "cache-storage": (
        "scales and codes of such a cache lie in tensors of their own, a page of which would hold "
        "thousands of tokens; leave one of the two out"
    ),
    "retention": (
        "entries that stay are moved between blocks by number, and pages appear by sequence; leave one "
        "of the two out"
    ),
}
_LEAST_PAGE = 4096


def check_page_size(technique: str, parameter: str, nbytes: int | None) -> None:
    """ValueError where `nbytes` cannot be the size of a page."""
    if nbytes is not None and (nbytes < _LEAST_PAGE or nbytes % _LEAST_PAGE):
        fit = max(1, round(nbytes / _LEAST_PAGE)) * _LEAST_PAGE
        raise ValueError(
            f"technique {technique}: {parameter} must be a positive multiple of {_LEAST_PAGE} bytes, not "
            f"{nbytes}; use {fit}"
        )
