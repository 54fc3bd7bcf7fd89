"""Serving points of dense models: TTFT and TPOT of a closed loop, predicted by the engine with the software's
profile. Mixtures of experts are a group of their own (`serving_experts`)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from twofold.devices.catalog import device_names, get_device
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.request import Request, SamplingParams
from twofold.engine.serving_profile import serving_names
from twofold.measured.serving import PATTERN, ServingPoint, find_serving, read_serving
from twofold.models.catalog import get_spec, model_names
from twofold.plan import EnginePlan, ParallelPlan, Plan
from twofold.validate.group import Progress
from twofold.validate.sample import Quantity, Sample

NAME = "serving"
TITLE = "Serving dense models in a closed loop"
FILES = (PATTERN,)

DEVICES = {
    "a30": "a30",
    "a100_pcie": "a100-80g-pcie",
    "a100_sxm": "a100-80g-sxm",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "h100_pcie": "h100-pcie",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "l4": "l4",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
"""Systems of the tables as devices of the catalogue."""
WEIGHTS = {
    "": "dense",
    "bfloat16": "dense",
    "float16": "dense",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "int8_wo": "int8wo",
    "int4_wo": "int4wo-128",
}
"""Quantisation modes of the tables as weights of a plan."""
MARGIN = 1500
"""Tokens of context beyond prompt and output (the same generator's max_seq_len)."""
SPREAD = 0.8
"""Shortest length by the longest in InferenceMAX (its benchmark's random range ratio)."""
_SUFFIX = re.compile(r"(-instruct|-fp8|-nvfp4|-fp4|-bf16|-hf)+$")
SIMULATED = 3
"""Rounds of `concurrency` requests that are simulated; the later ones stand for the rest of the measured."""
ROUNDS, ROUNDS_VLLM = 10, 20
"""Rounds of the measurements: of AIConfigurator's runs of genai-perf and of InferenceMAX; of the benchmark
script that AIConfigurator generates since it serves vLLM."""
HEADROOM = {"trtllm": 500, "vllm": 1500, "vllm-sync": 1500}
"""Tokens in a step beside one prompt and the decodes, by software: that generator's rules for max_num_tokens,
which is the largest batch + the prompt + this. Without a rule the software's own default stands."""
STEP_TOKENS = 8192
"""Tokens in a step of the InferenceMAX series (its max-num-batched-tokens)."""
QUEUED = 3
"""Lifetimes of a request that it waits for its first token in InferenceMAX where the table's concurrency is
the load generator's alone: the server runs less than a quarter of it at once, whatever its cache would
hold."""
OVERLAPPED_SINCE = (0, 14)
"""The version of vLLM from which scheduling overlaps with the step by default."""


def wanted(folder: Path) -> list[Path]:
    """The tables of serving points."""
    return find_serving(folder)


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """TTFT and TPOT of every point that can be predicted (see `left_out` for the others)."""
    yield from samples_of(NAME, folder, progress, experts=False)


def samples_of(
    group: str, folder: Path, progress: Progress | None = None, *, experts: bool
) -> Iterator[Sample]:
    """The samples of `group`: of models with or without a mixture of experts."""
    points = [p for path in find_serving(folder) for p in read_serving(path)]
    points = [p for p in points if not reason_to_skip(p) and has_experts(p) is experts]
    for done, point in enumerate(points, 1):
        predicted = predict(point)
        if progress is not None:
            progress("serving points", done, len(points))
        yield from _beside(group, point, predicted)


def has_experts(point: ServingPoint) -> bool:
    """Whether the point's model, which is known, is a mixture of experts."""
    return get_spec(model_of(point.model)).experts is not None


def left_out(folder: Path) -> dict[str, int]:
    """Why points are not predicted, and how many each reason concerns."""
    reasons: dict[str, int] = {}
    for path in find_serving(folder):
        for point in read_serving(path):
            if reason := reason_to_skip(point):
                reasons[reason] = reasons.get(reason, 0) + 1
    return reasons


class Means(NamedTuple):
    """Mean TTFT and mean TPOT of some requests, in seconds."""

    ttft: float
    tpot: float


def reason_to_skip(point: ServingPoint) -> str:
    """Why a point cannot be predicted; empty where it can."""
    if point.system not in DEVICES or DEVICES[point.system] not in device_names():
        return f"no device for system {point.system!r}"
    if point.software not in serving_names():
        return f"no profile of serving software {point.software!r}"
    if model_of(point.model) not in _models():
        return f"no architecture for model {point.model!r}"
    if spread_lengths(point) and point.ttft > QUEUED * point.output * point.tpot:
        return "queued behind a limit of the server that the table does not give"
    if point.ep not in (1, point.tp * point.dp):
        return f"experts cut both in width ({point.tp * point.dp // point.ep}) and in number ({point.ep})"
    for mode in (point.products, point.experts):
        if mode not in WEIGHTS:
            return f"unknown quantisation {mode!r}"
    return ""


def model_of(path: str) -> str:
    """The catalogue's name of a model of the Hugging Face hub: without its owner and the words that do not
    change the architecture."""
    name = path.rpartition("/")[2].lower().removeprefix("meta-")
    return _SUFFIX.sub("", name)


def fitted(point: ServingPoint) -> bool:
    """Whether the figures of a profile were chosen on this point (see the sources in `engine/serving/`)."""
    if point.software == "sglang":
        return point.system == "h100_sxm" and point.tp == 1
    return point.system == "h100_sxm" and point.output == 128 and not spread_lengths(point)


def spread_lengths(point: ServingPoint) -> bool:
    """Whether the point is of the InferenceMAX series, whose rows begin with a date."""
    return re.match(r"\d{4}_\d\d_\d\d_", point.id) is not None


def profile_of(point: ServingPoint) -> str:
    """The profile of the point's software. InferenceMAX switches overlapped scheduling on."""
    version = tuple(int(part) for part in point.version.split(".")[:2]) if point.version else OVERLAPPED_SINCE
    if point.software == "vllm" and version < OVERLAPPED_SINCE and not spread_lengths(point):
        return "vllm-sync"
    return point.software


def plan_of(point: ServingPoint) -> Plan:
    """The plan of a point: its software's profile, with the limits that the benchmark sets."""
    model, profile = model_of(point.model), profile_of(point)
    weights = "mxfp4-experts" if model.startswith("gpt-oss") else WEIGHTS[point.products]
    limits: dict[str, Any] = {"max_num_seqs": point.concurrency, "weights": weights}
    if profile == "trtllm" and weights == "fp8":
        limits["cache_format"] = "fp8"  # as that generator configures it
    if spread_lengths(point):
        limits["max_num_batched_tokens"] = STEP_TOKENS
    elif profile in HEADROOM:
        limits["max_num_batched_tokens"] = point.concurrency + point.prompt + HEADROOM[profile]
    return Plan(
        model=model,
        device=DEVICES[point.system],
        parallel=ParallelPlan(tp=point.tp, pp=point.pp, ep=point.ep, dp=point.dp),
        engine=EnginePlan(serving=profile, max_context=point.prompt + point.output + MARGIN, **limits),
    )


def predict(point: ServingPoint) -> Means:
    """Mean TTFT and TPOT of the closed loop, its first round included as the measurement does."""
    first, later = rounds(point)
    share = 1 / (ROUNDS_VLLM if profile_of(point) == "vllm-sync" else ROUNDS)
    ttft, tpot = (share * a + (1 - share) * b for a, b in zip(first, later, strict=True))
    return Means(ttft, tpot)


def rounds(point: ServingPoint) -> tuple[Means, Means]:
    """The first round, in which all requests start at once, and the later ones."""
    plan = plan_of(point)
    device = make_device(plan.device, **plan.parallel.model_dump())
    engine = build_engine(plan, device, get_spec(plan.model))
    concurrency = max(1, point.concurrency // point.dp)
    items = list(_requests(point, SIMULATED * concurrency))
    ended = sorted(engine.play(items, concurrency=concurrency), key=lambda r: r.arrival_time)
    return _means(ended[:concurrency]), _means(ended[concurrency:])


def _requests(point: ServingPoint, count: int) -> Iterator[tuple[float, int, SamplingParams]]:
    """What the load generator sends: equal requests, or lengths spread evenly over the range of its own."""
    rng = random.Random(0)
    low = SPREAD if spread_lengths(point) else 1.0
    for _ in range(count):
        prompt, output = (max(1, round(n * rng.uniform(low, 1.0))) for n in (point.prompt, point.output))
        yield 0.0, prompt, SamplingParams(max_tokens=output, ignore_eos=True)


def _means(requests: Sequence[Request]) -> Means:
    ttft = tpot = 0.0
    for r in requests:
        assert r.first_token_time is not None
        assert r.last_token_time is not None
        ttft += r.first_token_time - r.arrival_time
        tpot += (r.last_token_time - r.first_token_time) / max(1, r.num_output_tokens - 1)
    return Means(ttft / len(requests), tpot / len(requests))


def _beside(group: str, point: ServingPoint, predicted: Means) -> Iterator[Sample]:
    device, plan = get_device(DEVICES[point.system]), plan_of(point)
    words = [point.software, point.version, plan.model, plan.engine.weights, f"tp{point.tp}"]
    words += [f"ep{point.ep}"] * (point.ep > 1) + [f"dp{point.dp}"] * (point.dp > 1)
    words += [f"{point.prompt}+{point.output}", f"x{point.concurrency}"]
    if spread_lengths(point):
        words.append(point.id[:10])
    case = " ".join(word for word in words if word)
    both: tuple[tuple[Quantity, float, float], ...] = (
        ("ttft", point.ttft, predicted.ttft),
        ("tpot", point.tpot, predicted.tpot),
    )
    for quantity, measured, value in both:
        yield Sample(
            group=group,
            case=f"{case} {quantity}",
            quantity=quantity,
            unit="s",
            measured=measured,
            predicted=value,
            device=device.name,
            generation=device.generation,
            precision="fp8" if plan.engine.weights == "fp8" else "bf16",
            fitted=fitted(point),
            label=device.confidence,
            model=plan.model,
            tokens=float(point.concurrency),
            context=point.prompt + point.output / 2,
        )


@cache
def _models() -> frozenset[str]:
    return frozenset(model_names(aliases=True))
