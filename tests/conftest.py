"""What all tests share: one thread (models are tiny, and spinning threads starve each other), fixed seeds
(hypothesis has the same examples every time, however long they take), optional data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "steady", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The optional folder of real text, traces and measurements; tests that want it are skipped without
    it."""
    folder = os.environ.get("TWOFOLD_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TWOFOLD_DATA does not name a folder of data")
    return Path(folder)
