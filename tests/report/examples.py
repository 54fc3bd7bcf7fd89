"""Constructed results for the tests: plausible in shape, invented in value."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from twofold.report.comparison import Comparison, Row
from twofold.report.host import Host
from twofold.report.schema import (
    BehaviourValue,
    Ceilings,
    Figure,
    Load,
    Memory,
    OpShare,
    Quality,
    Result,
    TechniqueUse,
)

LOAD = Load(
    summary="8 requests, 512 prompt + 128 output tokens, concurrency 4",
    requests=8,
    prompt_tokens=512,
    output_tokens=128,
    concurrency=4,
)
HOST = Host(
    system="Linux", processor="Example CPU", cores=2, memory_bytes=8 * 10**9, python="3.11.0", torch="2.13.0"
)
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NO_METER = "this machine has no readable energy counter"
KINDS = {
    "linear": 0.62,
    "attention": 0.2,
    "norm": 0.06,
    "cache-write": 0.03,
    "rotary": 0.03,
    "activation": 0.03,
    "sample": 0.03,
}
FLOP_SHARE = {
    "linear": 0.9,
    "attention": 0.09,
    "norm": 0.002,
    "rotary": 0.001,
    "activation": 0.002,
    "sample": 0.005,
}
BYTE_SHARE = {
    "linear": 0.8,
    "attention": 0.1,
    "norm": 0.03,
    "cache-write": 0.02,
    "rotary": 0.02,
    "activation": 0.03,
}


def breakdown(seconds: float, *, speed: float = 1.0, bound: str = "memory") -> list[OpShare]:
    return [
        OpShare(
            kind=kind,
            calls=3000,
            seconds=seconds * share,
            flop=4e11 * FLOP_SHARE.get(kind, 0),
            bytes=6e10 / speed * BYTE_SHARE.get(kind, 0),
            share=share,
            bound=bound,
        )
        for kind, share in KINDS.items()
    ]


def result(label: str = "baseline", kind: str = "run", **changes: Any) -> Result:
    """A complete run (or prediction) with `changes`."""
    run = kind == "run"
    values: dict[str, Any] = {
        "kind": kind,
        "label": label,
        "model": "smollm2-135m",
        "device": "this-cpu",
        "workload": LOAD,
        "ttft": Figure.exact(0.842, "s"),
        "tpot": Figure.exact(0.0312, "s"),
        "itl": Figure.exact(0.0312, "s"),
        "e2e": Figure.exact(4.8, "s"),
        "percentiles": {
            "ttft": {p: Figure.exact(0.8 + i / 10, "s") for i, p in enumerate(("p50", "p90", "p99"))}
        },
        "tokens_per_s": Figure.exact(118.0, "token/s"),
        "prefill_tokens_per_s": Figure.exact(610.0, "token/s"),
        "achieved_gb_s": Figure.exact(9.6, "GB/s"),
        "achieved_gflop_s": Figure.exact(48.0, "GFLOP/s"),
        "memory": Memory.of(
            weights=269e6, cache=61e6, activations=22e6, grown=371e6 if run else None, capacity=8e9
        ),
        "quality": Quality(
            tokens=4096,
            kl_divergence=Figure.exact(0.0, "nat"),
            top1_agreement=Figure.exact(1.0, "1"),
            perplexity=Figure.exact(19.4, "1"),
            perplexity_baseline=Figure.exact(19.4, "1"),
            passkey={512: Figure.exact(1.0, "1"), 1024: Figure.exact(1.0, "1"), 2048: Figure.exact(0.6, "1")},
            source="WikiText-2",
        ),
        "confidence": "measured" if run else "calibrated",
        "breakdown": breakdown(8.0),
        "ceilings": Ceilings(gb_s={"DRAM": 14.0}, gflop_s={"fp32": 95.0}, source="twofold calibrate"),
        "missing": {"energy_per_token": NO_METER},
        "derived": {"block_size": 16, "max_batched_tokens": 512},
        "seed": 1,
        "host": HOST,
        "created": MOMENT,
    }
    if not run:
        values["quality"] = None
        values["missing"] = {
            "quality": "a modelled device computes no logits",
            "energy_per_token": "no energy figures",
        }
    values.update(changes)
    return Result(**values)


_ROWS: tuple[tuple[str, float, float, float, float, float], ...] = (
    # label, speed over baseline, weights B, cache B, KL, passkey at 2048
    ("kivi(bits=2)", 0.94, 269e6, 11e6, 0.081, 0.4),
    ("int-vs-fp(format=mxint8)", 1.58, 143e6, 61e6, 0.0021, 0.6),
    ("int-vs-fp(format=nvfp4)", 1.91, 78e6, 61e6, 0.094, 0.5),
    ("gemfilter(layer=13, keep=256)", 1.22, 269e6, 34e6, 0.21, 0.3),
    ("llm-drop(layers=8)", 1.17, 241e6, 49e6, 0.38, 0.1),
    ("copyspec", 1.34, 269e6, 61e6, 0.0, 0.6),
    ("sarathi(chunk=256)", 1.04, 269e6, 61e6, 0.0, 0.6),
    ("int-vs-fp(format=mxint8) + copyspec", 2.05, 143e6, 61e6, 0.0021, 0.6),
)
DEVICES = (
    ("a100-80g-sxm", 38.0, 0.9),
    ("h100-sxm", 61.0, 0.8),
    ("rtx-4090", 33.0, 0.95),
    ("phone-soc", 0.8, 1.1),
)


def row(
    label: str, gain: float, weights: float, cache: float, kl: float, passkey: float, *, baseline: bool
) -> Row:
    """A full row: measured, predicted here with some error, predicted on four devices."""
    names = [] if baseline else [TechniqueUse(name=n.split("(")[0]) for n in label.split(" + ")]
    quality = Quality(
        tokens=4096,
        source="WikiText-2",
        kl_divergence=Figure.exact(kl, "nat"),
        top1_agreement=Figure.exact(1 - kl / 2, "1"),
        perplexity=Figure.exact(19.4 * (1 + kl), "1"),
        perplexity_baseline=Figure.exact(19.4, "1"),
        passkey={
            512: Figure.exact(1, "1"),
            1024: Figure.exact(min(1, passkey + 0.4), "1"),
            2048: Figure.exact(passkey, "1"),
        },
    )
    off = 1 + 0.3 * ((len(label) * 7 % 11) / 11 - 0.45)

    def timed(speed: float, *, spread: float = 0.0) -> dict[str, Any]:
        def figure(value: float, unit: str) -> Figure:
            return Figure(low=value * (1 - spread), mid=value, high=value * (1 + spread), unit=unit)

        return {
            "techniques": names,
            "ttft": figure(0.842 / speed**0.5, "s"),
            "tpot": figure(0.0312 / speed, "s"),
            "itl": figure(0.0312 / speed, "s"),
            "e2e": figure(4.8 / speed, "s"),
            "tokens_per_s": figure(118 * speed, "token/s"),
        }

    memory = {"weights": weights, "cache": cache, "activations": 22e6}
    return Row(
        label=label,
        measured=result(
            label,
            memory=Memory.of(**memory, grown=sum(memory.values()) * 1.06, capacity=8e9),
            quality=quality,
            breakdown=breakdown(8 / gain),
            achieved_gb_s=Figure.exact(9.6 * gain, "GB/s"),
            behaviour={"accepted": BehaviourValue(value=[0.7, 0.5, 0.3], source="measured")}
            if "copyspec" in label
            else {},
            counters={"engine": {"steps": 412.0, "preemptions": 0.0}},
            **timed(gain),
        ),
        predicted_here=result(
            label,
            "predict",
            memory=Memory.of(**memory),
            breakdown=breakdown(8 / gain / off),
            **timed(gain * off),
        ),
        predicted_elsewhere={
            name: result(
                label,
                "predict",
                device=name,
                confidence="datasheet",
                memory=Memory.of(**memory),
                **timed(factor * gain**power, spread=0.15 if name == "h100-sxm" else 0.0),
            )
            for name, factor, power in DEVICES
            if not (name == "phone-soc" and "nvfp4" in label)
        },
        refused_elsewhere={"phone-soc": "no kernel for nvfp4"} if "nvfp4" in label else {},
    )


def comparison() -> Comparison:
    """A baseline, eight rows, and one refused combination."""
    refused = Row(
        label="gemfilter + copyspec",
        refused="gemfilter drops prompt tokens that copyspec looks up; use either of the two alone",
    )
    return Comparison(
        title="Six techniques",
        model="smollm2-135m",
        device="this-cpu",
        workload=LOAD,
        baseline=row("baseline", 1.0, 269e6, 61e6, 0.0, 0.6, baseline=True),
        rows=[*(row(*values, baseline=False) for values in _ROWS), refused],
        created=MOMENT,
    )
