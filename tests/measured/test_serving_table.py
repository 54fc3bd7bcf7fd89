"""Reading tables of serving points and recorded requests: what is taken, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twofold.measured.requests import FIELDS, read_recording
from twofold.measured.serving import COLUMNS, find_serving, read_serving

ROW = {
    "id": "qwen_c8_7", "backend": "vllm", "backend_version": "0.12.0", "model_path": "Qwen/Qwen3-32B",
    "system": "h100_sxm", "precision": "", "mode": "agg", "isl": "1024", "osl": "128",
    "gemm_quant_mode": "", "moe_quant_mode": "", "batch_size": "8", "tp_size": "2", "pp_size": "1",
    "moe_ep_size": "0", "attention_dp_size": "", "silicon_ttft_ms": "154.5", "silicon_tpot_ms": "18.0",
}  # fmt: skip


def table(folder: Path, *rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
    """A table of `rows`, each ROW with changes."""
    path = folder / "serving-x.csv"
    lines = [",".join(columns), *(",".join({**ROW, **row}[c] for c in columns) for row in rows)]
    path.write_text("\n".join(lines))
    return path


def test_a_row_is_read_in_seconds_and_blank_counts_are_one(tmp_path: Path) -> None:
    path = table(tmp_path, {})
    assert find_serving(tmp_path) == [path]
    (point,) = read_serving(path)
    assert (point.software, point.prompt, point.output, point.concurrency) == ("vllm", 1024, 128, 8)
    assert (point.tp, point.pp, point.ep, point.dp) == (2, 1, 1, 1)
    assert (point.ttft, point.tpot) == pytest.approx((0.1545, 0.018))


def test_a_repeated_measurement_counts_once(tmp_path: Path) -> None:
    path = table(tmp_path, {}, {"id": "qwen_c8_9"}, {"id": "qwen_c16_9", "batch_size": "16"})
    assert len(read_serving(path)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": "0"}, "line 2: batch_size is '0'"),
        ({"isl": "many"}, "line 2: could not convert"),
        ({"mode": "disagg"}, "only 'agg'"),
        ({"silicon_ttft_ms": "-1"}, "times must be positive"),
    ],
)
def test_a_row_that_does_not_fit_is_named(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_serving(table(tmp_path, changes))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    columns = tuple(c for c in COLUMNS if c != "batch_size")
    with pytest.raises(ValueError, match="no column 'batch_size'"):
        read_serving(table(tmp_path, {}, columns=columns))


META = {
    "model": "meta-llama/Llama-3.1-8B",
    "vllm_version": "0.19.0",
    "engine_kwargs": {
        "tensor_parallel_size": 1,
        "dtype": "bfloat16",
        "max_num_seqs": 4,
        "max_num_batched_tokens": 256,
        "max_model_len": 4096,
    },
    "kv_cache": {"block_size": 16, "num_gpu_blocks": 512},
    "hardware": {"device_name": "NVIDIA GeForce RTX 4090", "device_total_memory_bytes": 25_250_627_584},
    "resolved_config": {"scheduler_config": {"async_scheduling": True}},
}
LINES = [
    {"input_toks": 100, "output_toks": 5, "arrival_time": 1001.0, "queued_ts": 6.5, "first_token_ts": 7.0,
     "last_token_ts": 7.4},
    {"input_toks": 50, "output_toks": 1, "arrival_time": 1000.0, "queued_ts": 5.0, "first_token_ts": 5.25,
     "last_token_ts": 5.25},
]  # fmt: skip


def recording(folder: Path, meta: object = META, lines: list[dict[str, float]] = LINES) -> Path:
    """A pair of files of a recording."""
    path = folder / "requests-x.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "requests-x.meta.json").write_text(json.dumps(meta))
    return path


def test_a_recording_has_its_times_on_one_clock(tmp_path: Path) -> None:
    found = read_recording(recording(tmp_path))
    assert (found.name, found.cache_blocks, found.overlapped) == ("x", 512, True)
    first, second = found.requests
    assert (first.arrival, first.ttft, first.tpot) == pytest.approx((0.0, 0.25, 0.0))
    # 1.5 s after the first on the engine's clock, of which half a second was the way in.
    assert (second.arrival, second.ttft, second.e2e) == pytest.approx((1.0, 1.0, 1.4))
    assert second.tpot == pytest.approx(0.1)


def test_a_recording_names_what_it_lacks(tmp_path: Path) -> None:
    lacking = [{k: v for k, v in LINES[0].items() if k != FIELDS[2]}]
    with pytest.raises(ValueError, match=r"line 1 has no key 'arrival_time'"):
        read_recording(recording(tmp_path, lines=lacking))
    with pytest.raises(ValueError, match=r"meta\.json has no key 'kv_cache'"):
        read_recording(recording(tmp_path, {k: v for k, v in META.items() if k != "kv_cache"}))
    with pytest.raises(ValueError, match="holds no requests"):
        read_recording(recording(tmp_path, lines=[]))
    (tmp_path / "requests-x.meta.json").unlink()
    with pytest.raises(ValueError, match="it holds the engine's settings"):
        read_recording(tmp_path / "requests-x.jsonl")
