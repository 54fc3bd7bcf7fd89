"""Fixtures of the model tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from twofold.models.registry import cached_path


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real default model; skips where it was not pulled."""
    path = cached_path("smollm2-135m")
    if path is None:
        pytest.skip("the default model is not here: run `twofold pull smollm2-135m`")
    return path
