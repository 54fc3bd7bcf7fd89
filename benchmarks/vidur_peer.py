"""Vidur's simulator on the same trace: Agrawal et al., "Vidur: A Large-Scale Simulation Framework For LLM
Inference", MLSys 2024 (arXiv:2405.05465); repository microsoft/vidur, MIT licence.

What is compared is how fast it simulates, not what it predicts. It takes operator times from profiles of the
GPU; where the checkout lacks `attention.csv` (it is stored with git-lfs), this writes a stand-in with Vidur's
columns from a plain roofline of the H100, so that the simulator has numbers to work with: its figures then
mean nothing, its speed does. Predictors are linear regressions, since the default search over random forests
takes minutes before the first request; they are trained on the first run and cached in the checkout.
"""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from twofold.workloads.workload import Item

MODEL = "meta-llama/Llama-2-70b-hf"
"""The model of Llama-3.1-70B's layers of which the repository holds H100 profiles."""
LAYERS_IN, Q_HEADS, KV_HEADS, HEAD = 8192, 64, 8, 128
BLOCK, CHUNK, BATCH, LONGEST = 16, 2048, 256, 16384
"""Cache block, tokens and sequences of a step as in our prediction; the longest request, rounded up."""
BANDWIDTH, FLOPS = 3.35e12, 989e12
"""H100 SXM datasheet: bytes/s, FLOP/s in bf16; only the stand-in uses them."""

PREDICTOR = "linear_regression_execution_time_predictor_config"


def how_to() -> str:
    """What a user has to do to have the peer run."""
    return (
        "To compare with Vidur: git clone https://github.com/microsoft/vidur; python -m venv vidur-env; "
        "vidur-env/bin/pip install -r vidur/requirements.txt; then add "
        "--peer vidur --peer-path vidur --peer-python vidur-env/bin/python"
    )


def simulate(items: list[Item], tp: int, checkout: Path, python: Path) -> dict[str, float]:
    """Simulate the requests `items` (time, prompt tokens, parameters) on `tp` H100.

    Returns setup_s (training or loading predictors), cpu_s of the simulation itself, simulated_s. ValueError
    where the checkout cannot run, with what it said.
    """
    if not (checkout / "vidur" / "simulator.py").is_file():
        raise ValueError(f"{checkout} is no checkout of Vidur. {how_to()}")
    with tempfile.TemporaryDirectory() as folder:
        trace, attention = Path(folder) / "trace.csv", _attention(checkout, tp, Path(folder))
        with trace.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("arrived_at", "num_prefill_tokens", "num_decode_tokens"))
            writer.writerows((i.time, i.prompt, i.params.max_tokens) for i in items)
        driver = Path(__file__).with_name("vidur_driver.py").resolve()
        command = [str(python.absolute()), str(driver), str(checkout.resolve())]
        done = subprocess.run(
            [*command, *_options(tp, trace, attention, folder)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise ValueError(f"Vidur failed: {done.stderr.strip().splitlines()[-1]}")
    times: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return times


def _options(tp: int, trace: Path, attention: Path, folder: str) -> Iterator[str]:
    values = {
        "replica_config_device": "h100",
        "replica_config_network_device": "h100_dgx",
        "replica_config_model_name": MODEL,
        "replica_config_tensor_parallel_size": tp,
        "cluster_config_num_replicas": 1,
        "request_generator_config_type": "trace_replay",
        "trace_request_generator_config_trace_file": trace,
        "trace_request_generator_config_max_tokens": LONGEST,
        "replica_scheduler_config_type": "sarathi",
        "sarathi_scheduler_config_chunk_size": CHUNK,
        "sarathi_scheduler_config_batch_size_cap": BATCH,
        "sarathi_scheduler_config_block_size": BLOCK,
        "execution_time_predictor_config_type": "linear_regression",
        f"{PREDICTOR}_attention_input_file": attention,
        f"{PREDICTOR}_prediction_max_prefill_chunk_size": CHUNK,
        f"{PREDICTOR}_prediction_max_batch_size": BATCH,
        f"{PREDICTOR}_prediction_max_tokens_per_request": LONGEST,
        f"{PREDICTOR}_num_training_job_threads": 1,
        f"{PREDICTOR}_k_fold_cv_splits": 2,
        f"{PREDICTOR}_polynomial_degree": 2,
        "metrics_config_output_dir": folder,
    }
    for name, value in values.items():
        yield from (f"--{name}", str(value))
    for off in ("write_metrics", "enable_chrome_trace", "store_plots", "store_request_metrics"):
        yield f"--no-metrics_config_{off}"
    for off in ("store_batch_metrics", "store_utilization_metrics"):
        yield f"--no-metrics_config_{off}"


def _attention(checkout: Path, tp: int, folder: Path) -> Path:
    """The profile of attention, or the stand-in for it."""
    there = checkout / "data" / "profiling" / "compute" / "h100" / MODEL / "attention.csv"
    if there.is_file() and there.stat().st_size > 10_000:  # a pointer of git-lfs is smaller
        return there.resolve()
    path = folder / "attention.csv"
    print(f"{there} is absent: a stand-in is used, so Vidur's predictions mean nothing, only its speed does")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(_row(tp, 1, 0, 0)))
        writer.writeheader()
        for kv in (0, 64, 256, 1024, 4096, 16384):
            writer.writerows(_row(tp, batch, kv, 0) for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256))
            writer.writerows(_row(tp, 1, kv, chunk) for chunk in (32, 64, 128, 256, 512, 1024, 2048))
    return path


def _row(tp: int, batch: int, kv: int, chunk: int) -> dict[str, float]:
    """One line of the stand-in: milliseconds of a roofline; a chunk of a prompt, or decodes where it is 0."""
    queries = chunk or batch
    saved = 2 * queries * KV_HEADS * HEAD * 2 / tp / BANDWIDTH
    if chunk:
        busy = 4 * chunk * (kv + chunk / 2) * Q_HEADS * HEAD / tp / FLOPS
    else:
        busy = 2 * batch * kv * KV_HEADS * HEAD * 2 / tp / BANDWIDTH
    return {
        "n_embd": LAYERS_IN,
        "n_q_head": Q_HEADS,
        "n_kv_head": KV_HEADS,
        "block_size": BLOCK,
        "num_tensor_parallel_workers": tp,
        "batch_size": batch,
        "kv_cache_size": kv,
        "prefill_chunk_size": chunk,
        "time_stats.attn_kv_cache_save.median": 1e3 * saved,
        "time_stats.attn_prefill.median": 1e3 * busy if chunk else 0.0,
        "time_stats.attn_decode.median": 0.0 if chunk else 1e3 * busy,
    }
