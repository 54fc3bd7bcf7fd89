"""CopySpec's comparisons, predicted: how often it drafts and how much is accepted comes from replaying the
method over answers that its authors publish; what that is worth in seconds comes from the engine.

The replays: repository RazvanDu/CopySpec (February 2025), greedy answers, the repository's own prompts, gamma
3 and 10 copied tokens, in Qwen's tokens. The authors run Hugging Face transformers one request at a time, in
the precision that it loads models in by default (fp32), layers spread over GPUs, and time the prompt too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from twofold.claims.ledger import Outcome
from twofold.devices.catalog import get_device
from twofold.devices.cluster import Cluster
from twofold.engine.build import build_engine
from twofold.engine.sampling_params import SamplingParams
from twofold.models.catalog import get_spec
from twofold.plan import EnginePlan, ParallelPlan, Plan, TechniqueUse

_DEVICE, _MEMORY = "a100-80g-sxm", 80 << 30


class Replay(NamedTuple):
    """Means over a set of answers: tokens of prompt and output, share of decode steps with a draft, tokens
    drafted and accepted in such a step."""

    prompt: int
    output: int
    rate: float
    drafted: float
    accepted: float


# MT-Redundant, second turn, the category in which most is copied (roleplay, 10 conversations), by model.
ROLEPLAY = {
    "qwen2.5-72b": Replay(502, 391, 0.524, 9.83, 7.00),
    "qwen2.5-32b": Replay(373, 269, 0.435, 9.84, 7.05),
}
# GSM-8K, third turn, 104 conversations of a Qwen2.5 model that the published file does not name.
GSM8K = Replay(433, 76, 0.626, 9.38, 7.64)
_STAGES = {"qwen2.5-72b": 4, "qwen2.5-32b": 2, "qwen2.5-7b": 1}


@lru_cache(maxsize=32)
def seconds(model: str, replay: Replay, *, drafts: bool, precision: str = "fp32") -> float:
    """Seconds that one request takes on A100 80 GB, prompt included."""
    techniques = (TechniqueUse(name="copyspec"),) if drafts else ()
    behaviour = {
        "draft_rate": replay.rate,
        "draft_length": replay.drafted,
        "accepted_length": replay.accepted,
    }
    stages = _STAGES[model]
    plan = Plan(
        model=model,
        precision="fp32" if precision == "fp32" else "bf16",
        techniques=techniques,
        parallel=ParallelPlan(pp=stages),
        engine=EnginePlan(max_num_seqs=1, max_context=4096, memory=_MEMORY, prefix_caching=False),
        behaviour=behaviour if drafts else {},
    )
    engine = build_engine(plan, Cluster(get_device(_DEVICE), pp=stages).rank(), get_spec(model))
    engine.play([(0.0, replay.prompt, SamplingParams(max_tokens=replay.output, ignore_eos=True))])
    return engine.clock.now()


def speedup(model: str, replay: Replay, precision: str = "fp32") -> float:
    """Seconds without drafts over seconds with them."""
    plain = seconds(model, replay, drafts=False, precision=precision)
    return plain / seconds(model, replay, drafts=True, precision=precision)


def _outcome(found: dict[str, float], why: str, replayed: str) -> Outcome:
    values = ", ".join(f"{model} {value:.2f}" for model, value in found.items())
    how = f"predicted on {_DEVICE}, fp32, one request at a time, with acceptance {replayed}: {values}"
    return Outcome((min(found.values()), max(found.values())), why, how)


def mt_redundant() -> Outcome:
    """Speedup on the second turn of MT-Redundant in the category that gains most."""
    return _outcome(
        {model: speedup(model, replay) for model, replay in ROLEPLAY.items()},
        "two of the five models, whose answers and tokens are at hand; host time of the authors' Python loop "
        "is left out",
        "from the published answers (roleplay)",
    )


def gsm8k_third_turn() -> Outcome:
    """Speedup on the third turn of GSM-8K self-correction."""
    found = {model: speedup(model, GSM8K) for model in _STAGES}
    return _outcome(
        found,
        "most is copied, but the prompt, which drafts do not shorten, takes a large share of so short an "
        "answer in fp32; the published file does not name its model",
        "from the published answers (third turn)",
    )
