"""Waiting for what a test means, however long a busy machine takes to bring it about."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 300.0
"""Seconds after which a test has failed. Nothing is measured by it: a machine that stalls is no fault."""


def until(condition: Callable[[], object]) -> None:
    """Returns once `condition` holds; fails after `PATIENCE` seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
