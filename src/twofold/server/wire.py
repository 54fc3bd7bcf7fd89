"""JSON as it goes over the wire."""

from __future__ import annotations

from typing import Any

import orjson


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8; whole numbers as keys become strings."""
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
