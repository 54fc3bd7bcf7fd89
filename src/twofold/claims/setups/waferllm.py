"""WaferLLM's comparisons: single products and whole inferences on a WSE-2 against A100s, against the wafer
with other algorithms, and how long a cache may grow.

The wafer takes the squares of cores that the source names; A100s run one request at a time with SGLang's
scheduler and host time, on one card or on the eight of a node.
"""

from __future__ import annotations

from twofold.claims.setups.wafer_products import (
    SUMMA,
    TWICE_16K,
    TWICE_32K,
    best_wafer,
    gpu,
    product,
    seconds,
)
from twofold.devices.machine import Machine
from twofold.techniques.base import Claim

_WSE = "Cerebras WSE-2 (measured)"
_PAPER = "arXiv:2502.04563v3, OSDI 2025, "
_BOTH = "LLaMA3-8B and LLaMA2-13B, one request"
_ONE, _EIGHT = "one NVIDIA A100", "the best of one and eight NVIDIA A100 with SGLang"


def _claim(
    key: str,
    figure: str,
    claimed: tuple[float, float],
    baseline: str,
    model: str,
    where: str,
    setup: str = "",
    why_not: str = "",
    unit: str = "x",
) -> Claim:
    name, source = f"waferllm-{key}", _PAPER + where
    return Claim(name, figure, claimed, unit, baseline, model, _WSE, source, setup or None, why_not)


_SIZES = "2K, 4K and 8K on 720 x 720 cores"
_CANNON = "the same wafer with Cannon"
_NO_T10 = (
    "how {} lays data out on a mesh is not published: the source ported it, treating the wafer as {}; which "
    "cores talk at which time does not follow from that"
)

CLAIMS = (
    _claim(
        "gemv",
        "GEMV speedup",
        (606, 606),
        _ONE,
        TWICE_32K,
        "abstract, table 6",
        "wafer_products:gemv",
    ),
    _claim("gemv-16k", "GEMV speedup", (280, 280), _ONE, TWICE_16K, "table 6", "wafer_products:gemv"),
    _claim(
        "gemv-8",
        "GEMV speedup",
        (166, 210),
        "eight NVIDIA A100",
        "16K and 32K",
        "section 7.5",
        "wafer_products:gemv_8",
    ),
    _claim(
        "gemv-energy",
        "GEMV energy ratio",
        (16.17, 16.17),
        _ONE,
        TWICE_32K,
        "abstract, table 6",
        "wafer_products:gemv_energy",
    ),
    _claim(
        "gemv-pipeline",
        "GEMV speedup of K-tree all-reduce",
        (4, 8),
        "the same wafer with pipelined all-reduce",
        "2K to 16K on 720 x 720 cores",
        "section 1 (4.6 in section 7.3)",
        "wafer_products:gemv_pipeline",
    ),
    _claim(
        "gemm-summa",
        "GEMM speedup of MeshGEMM",
        (2, 3),
        SUMMA,
        _SIZES,
        "section 1, figure 9",
        "wafer_products:gemm",
    ),
    _claim(
        "gemm-cannon",
        "GEMM speedup of MeshGEMM",
        (2, 3),
        _CANNON,
        _SIZES,
        "section 1, figure 9",
        "wafer_products:gemm",
    ),
    _claim(
        "llm",
        "tokens/s of a request",
        (10, 20),
        _EIGHT,
        _BOTH + ", as long as table 2's",
        "abstract",
        "wafer_inference:llm",
    ),
    _claim(
        "llm-one",
        "tokens/s of a request",
        (30, 40),
        _ONE + " with SGLang",
        _BOTH,
        "section 1",
        "wafer_inference:llm_one",
    ),
    _claim(
        "llm-energy",
        "energy ratio of decoding",
        (2, 2.5),
        _EIGHT,
        _BOTH,
        "table 8",
        "wafer_inference:llm_energy",
    ),
    _claim(
        "decode",
        "decoding speed on 420 x 420 cores",
        (2699.9, 2699.9),
        "none",
        "LLaMA3-8B, 4K context",
        "table 4",
        "wafer_inference:decode",
        unit="tokens/s",
    ),
    _claim(
        "prefill",
        "prefill speed on 720 x 720 cores",
        (27686.5, 27686.5),
        "none",
        "LLaMA3-8B, 4K prompt",
        "table 3",
        "wafer_inference:prefill",
        unit="tokens/s",
    ),
    _claim(
        "cache",
        "longest output by shifting the cache",
        (360, 385),
        "entries appended where the last ones lie",
        _BOTH,
        "table 5",
        "wafer_inference:capacity",
    ),
    _claim(
        "t10",
        "tokens/s of a request",
        (100, 200),
        "the same wafer with T10",
        _BOTH,
        "section 1",
        why_not=_NO_T10.format("T10", "a crossbar"),
    ),
    _claim(
        "ladder",
        "tokens/s of a request",
        (200, 400),
        "the same wafer with Ladder",
        _BOTH,
        "section 1",
        why_not=_NO_T10.format("Ladder", "one memory"),
    ),
)

HEADLINE = f"GEMV {TWICE_32K}: times faster than one A100"
SHOWN = {
    "model": "llama-3.1-8b",
    "precision": "fp16",
    "workload": {"requests": 1, "prompt": 2048, "output": 2048},
}


def headline(machine: Machine) -> float:
    """See HEADLINE."""
    op = product(32768)
    return seconds(gpu(), op) / seconds(best_wafer(32768, machine.figures), op)
