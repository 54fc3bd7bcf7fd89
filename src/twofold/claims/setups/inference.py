"""Requests of equal length, all at once, on a modelled device: what claims of latency are measured with."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from twofold.devices.modelled import ModelledDevice
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.models.catalog import get_spec
from twofold.plan import Plan


class Inference(NamedTuple):
    """Seconds until the first request has its first token, and until all have all of theirs; joules of
    all."""

    first: float
    seconds: float
    joules: float


def inference(
    device: ModelledDevice,
    model: str,
    prompt: int,
    output: int,
    serving: str = "plain",
    *,
    precision: str = "fp16",
    requests: int = 1,
) -> Inference:
    """`requests` of `prompt` and `output` tokens under the scheduler and with the host time of the software
    `serving`; "plain" reads a prompt in one piece. A model's context is taken to be as long as they are,
    since some sources go past it."""
    engine_plan = {"max_num_seqs": requests, "max_context": prompt + output, "serving": serving}
    if serving == "plain":
        engine_plan["max_num_batched_tokens"] = prompt * requests
    plan = Plan.from_dict(
        {
            "model": model,
            "precision": precision,
            "parallel": {"tp": device.ranks},
            "workload": {"requests": requests, "prompt": prompt, "output": output},
            "engine": engine_plan,
        }
    )
    spec = get_spec(model)
    spec = replace(spec, max_context=max(spec.max_context, prompt + output))
    engine = build_engine(plan, device, spec)
    params = SamplingParams(max_tokens=output, ignore_eos=True)
    done = engine.play((0.0, prompt, params) for _ in range(requests))
    first, joules = done[0].first_token_time, engine.totals.joules
    assert first is not None
    assert joules is not None
    return Inference(first, engine.clock.now(), joules)
