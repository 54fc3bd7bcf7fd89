"""Recorded requests: when each arrived, was answered and ended, behind an engine whose settings are known.

A recording is a pair of files of the LLMServingSim project's benchmark: `requests-*.jsonl`, one request a
line, and `requests-*.meta.json` with the engine's settings. Arrivals are on the client's clock, all else on
the engine's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATTERN = "requests-*.jsonl"
FIELDS = ("input_toks", "output_toks", "arrival_time", "queued_ts", "first_token_ts", "last_token_ts")


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """Tokens of prompt and output; seconds after the first arrival at which it arrived, had its first and its
    last token."""

    prompt: int
    output: int
    arrival: float
    first_token: float
    last_token: float

    @property
    def ttft(self) -> float:
        """Seconds from arrival to the first token."""
        return self.first_token - self.arrival

    @property
    def tpot(self) -> float:
        """Seconds per token after the first; 0 where there is one only."""
        return (self.last_token - self.first_token) / (self.output - 1) if self.output > 1 else 0.0

    @property
    def e2e(self) -> float:
        """Seconds from arrival to the last token."""
        return self.last_token - self.arrival


@dataclass(frozen=True, slots=True)
class Recording:
    """Requests in order of arrival, and what served them. device: as its driver calls it; memory: bytes of
    one; cache_blocks: of block_size tokens."""

    name: str
    model: str
    software: str
    version: str
    device: str
    memory: int
    tp: int
    precision: str
    max_num_seqs: int
    max_num_batched_tokens: int
    max_context: int
    block_size: int
    cache_blocks: int
    overlapped: bool
    requests: tuple[RecordedRequest, ...]


def find_recordings(folder: Path) -> list[Path]:
    """The files of requests in `folder`, sorted."""
    return sorted(folder.glob(PATTERN))


def meta_of(path: Path) -> Path:
    """The file of settings that belongs to a file of requests."""
    return path.with_suffix(".meta.json")


def read_recording(path: Path) -> Recording:
    """The recording at `path`. ValueError names the file, and the line or key that does not fit."""
    meta, engine, resolved = _meta(meta_of(path))
    try:
        return Recording(
            name=path.stem.removeprefix("requests-"),
            model=meta["model"],
            software="vllm",
            version=meta["vllm_version"],
            device=meta["hardware"]["device_name"],
            memory=meta["hardware"]["device_total_memory_bytes"],
            tp=engine["tensor_parallel_size"],
            precision=engine["dtype"],
            max_num_seqs=engine["max_num_seqs"],
            max_num_batched_tokens=engine["max_num_batched_tokens"],
            max_context=engine["max_model_len"],
            block_size=meta["kv_cache"]["block_size"],
            cache_blocks=meta["kv_cache"]["num_gpu_blocks"],
            overlapped=bool(resolved["scheduler_config"]["async_scheduling"]),
            requests=_requests(path),
        )
    except KeyError as error:
        raise ValueError(f"{meta_of(path)} has no key {error.args[0]!r}") from None


def _meta(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        return meta, meta["engine_kwargs"], meta["resolved_config"]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; it holds the engine's settings") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except KeyError as error:
        raise ValueError(f"{path} has no key {error.args[0]!r}") from None


def _requests(path: Path) -> tuple[RecordedRequest, ...]:
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                rows.append({name: float(row[name]) for name in FIELDS})
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
            except KeyError as error:
                raise ValueError(f"{path}, line {number} has no key {error.args[0]!r}") from None
    if not rows:
        raise ValueError(f"{path} holds no requests")
    rows.sort(key=lambda row: row["arrival_time"])
    # The clocks differ by a constant; the request that was taken in soonest took no time.
    offset = min(row["queued_ts"] - row["arrival_time"] for row in rows)
    start = rows[0]["arrival_time"]
    return tuple(
        RecordedRequest(
            int(row["input_toks"]),
            int(row["output_toks"]),
            row["arrival_time"] - start,
            row["first_token_ts"] - offset - start,
            row["last_token_ts"] - offset - start,
        )
        for row in rows
    )
