"""`twofold serve --ray`: a real local cluster, two workers, the API, a worker that is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from tests.models.tiny import tiny_gguf
from tests.waiting import PATIENCE, until

from twofold.plan import Plan
from twofold.server.ray_serve import serve_on_ray
from twofold.server.ray_workers import check_room, resources
from twofold.server.settings import ServerSettings

pytest.importorskip("ray.serve", reason="Ray Serve is not installed")


class Cluster:
    """A server on a cluster of its own, in a session and a directory of its own."""

    def __init__(self, model: Path, directory: str) -> None:
        limits = ["--threads", "1", "--max-num-seqs", "4", "--cache-blocks", "64"]
        where = ["--ray", "local", "--replicas", "2", "--port", "0", "--model-name", "tiny"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "twofold", "serve", "--model", str(model), *limits, *where],
            env={**os.environ, "RAY_TMPDIR": directory},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until(lambda: self.process.poll() is not None or any("serves tiny" in line for line in self.lines))
        assert self.process.poll() is None, "".join(self.lines)
        line = next(line for line in self.lines if "serves tiny" in line)
        self.url = line.split(" on ")[1].split()[0]
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=PATIENCE)

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def processes(self, title: str = "") -> list[int]:
        """Ids of the processes of its session whose command line begins with `title`."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
                command = (entry / "cmdline").read_text()
            except OSError:
                continue  # it has just ended
            if session == self.process.pid and command.startswith(title) and command:
                found.append(int(entry.name))
        return found

    def workers(self) -> dict[str, object]:
        """What the live page knows of each worker."""
        found: dict[str, object] = httpx.get(f"{self.url}/api/live", timeout=PATIENCE).json()["workers"]
        return found

    def stop(self) -> int:
        """Let it end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    model = tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as directory:
        found = Cluster(model, directory)
        try:
            yield found
        finally:
            for pid in [found.process.pid, *found.processes()]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            found.process.wait(PATIENCE)


@pytest.mark.long
def test_both_workers_answer_and_give_the_same_text(cluster: Cluster) -> None:
    until(lambda: len(cluster.workers()) == 2)
    assert len(cluster.processes("ray::Place")) == 2
    client = cluster.client
    assert [model.id for model in client.models.list()] == ["tiny"]
    texts = {}
    for beginning in ("Hello there", "Another beginning", "Hello there", "A third one"):
        prompt = 3 * beginning  # longer than a block
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=12, temperature=0)
        assert answer.usage is not None
        assert answer.usage.completion_tokens <= 12
        parts = client.completions.create(
            model="tiny", prompt=prompt, max_tokens=12, temperature=0, stream=True
        )
        assert "".join(part.choices[0].text for part in parts) == answer.choices[0].text
        assert texts.setdefault(prompt, answer.choices[0].text) == answer.choices[0].text
    # Conversations were spread: each worker has computed something.
    until(lambda: all(_steps(worker) > 0 for worker in cluster.workers().values()))


@pytest.mark.long
def test_errors_are_those_of_the_server(cluster: Cluster) -> None:
    request = {"model": "tiny", "prompt": "x", "max_tokens": -1}
    refused = httpx.post(f"{cluster.url}/v1/completions", json=request, timeout=PATIENCE)
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.long
def test_a_client_that_leaves_ends_its_request(cluster: Cluster) -> None:
    request = {"model": "tiny", "prompt": "Hello", "max_tokens": 200, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=request, timeout=PATIENCE) as answer:
        next(answer.iter_lines())
    until(lambda: httpx.get(f"{cluster.url}/health", timeout=PATIENCE).json()["running"] == 0)
    until(lambda: all(worker["used_blocks"] == 0 for worker in cluster.workers().values()))


@pytest.mark.long
def test_a_killed_worker_is_replaced(cluster: Cluster) -> None:
    until(lambda: len(cluster.workers()) == 2)
    before, names = cluster.processes("ray::Place"), set(cluster.workers())
    os.kill(before[0], signal.SIGKILL)
    # Meanwhile the other one answers.
    for _ in range(4):
        answer = cluster.client.completions.create(model="tiny", prompt="Hello there", max_tokens=4)
        assert answer.choices[0].finish_reason in ("length", "stop")
    until(lambda: len(set(cluster.processes("ray::Place")) - {before[0]}) == 2)
    until(lambda: len(cluster.workers()) == 2 and set(cluster.workers()) != names)


@pytest.mark.long
def test_it_ends_in_order_and_leaves_nothing_behind(cluster: Cluster) -> None:
    assert cluster.stop() == 0
    until(lambda: not cluster.processes())


def _steps(worker: object) -> int:
    assert isinstance(worker, dict)
    return int(worker["steps"])


def test_what_ray_sets_aside() -> None:
    assert resources(Plan(model="tiny")) == {"num_cpus": 1, "num_gpus": 0}
    given = Plan.from_dict({"model": "tiny", "engine": {"threads": 3}})
    assert resources(given) == {"num_cpus": 3, "num_gpus": 0}
    assert resources(Plan(model="tiny", device="cuda"))["num_gpus"] == 1


def test_ray_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = Plan(model=str(tiny_gguf(tmp_path / "tiny.gguf")))
    with pytest.raises(ValueError, match=r"twofold\[ray\]"):
        serve_on_ray(plan, ServerSettings(port=0), "local", lambda serving, address: None)


def test_a_cluster_that_is_too_small_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    plan = Plan.from_dict({"model": "tiny", "engine": {"threads": 2}})
    check_room(plan, 2)
    with pytest.raises(ValueError, match="6 CPUs, and the Ray cluster has 4"):
        check_room(plan, 3)
    with pytest.raises(ValueError, match="2 GPUs, and the Ray cluster has 0"):
        check_room(plan.model_copy(update={"device": "cuda"}), 2)
