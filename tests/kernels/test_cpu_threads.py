from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from twofold.kernels.cpu.threads import VARIABLE, cpu_quota, default_threads, physical_cores


def in_fresh_process(code: str, **environment: str) -> list[str]:
    """The words that `code` prints in an interpreter that has only those of the variables that are given."""
    ours = {VARIABLE, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_variable_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "3")
    assert default_threads() == 3


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_variable_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match="whole number from 1 up"):
        default_threads()


def test_by_default_no_more_than_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert 1 <= default_threads() <= (os.cpu_count() or 1)


def test_an_affinity_mask_is_honoured() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity on this system")
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from twofold.kernels.cpu.threads import default_threads; print(default_threads())"
    )
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "1"


def test_hyper_threads_of_a_core_count_once(tmp_path: Path) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert physical_cores(range(4), tmp_path) == 2
    assert physical_cores([0, 2], tmp_path) == 1
    assert physical_cores([0, 1, 7], tmp_path) == 3  # 7 is not described


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, ["passive", "5000", "0"]),
        ({"KMP_BLOCKTIME": "7"}, ["passive", "5000", "7"]),
        ({"GOMP_SPINCOUNT": "9"}, ["passive", "9", "0"]),
        ({"OMP_WAIT_POLICY": "active"}, ["active", "None", "0"]),
    ],
)
def test_openmp_is_told_what_its_user_has_not(theirs: dict[str, str], ours: list[str]) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    code = (
        "import os, sys; from twofold.kernels.cpu.threads import quiet_openmp; quiet_openmp()\n"
        f"assert 'torch' not in sys.modules; print(*map(os.environ.get, {names}))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in names} | theirs
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ours
