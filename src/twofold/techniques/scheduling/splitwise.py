"""Splitwise: one pool of machines computes prompts, another generates tokens, and caches are sent in between.

Source: "Splitwise: Efficient generative LLM inference using phase splitting", arXiv:2311.18677. `pools` holds
the scheduler; `twofold explore` searches the sizes of the pools (section 4.4 there). The cache of a long
prompt goes layer by layer beside the computation (section 4.3, `fleet.layerwise`), that of a short one once
it is done: below 512 tokens on the paper's H100 (section 6.1). Differs: an instance of either pool keeps the
engine's own batching (chunked prompts, decodes first), which mixed machines need; of a prompt that takes
several steps the layers go in the last of them. On a GPU the copies would queue behind each layer on its own
stream; that was never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.scheduling.pools import Pools

_PAPER = "arXiv:2311.18677"
_MODEL = "BLOOM-176B, conversation trace, tensor 8"

REASONS = {
    "cache-storage": "a request's cache is sent block by block, and the other technique keeps a part of it "
    "elsewhere: name one of the two",
    "retention": "a cache cannot be sent while entries are dropped from it: name one of the two",
}
"""Why techniques that send caches are refused beside those that store them in their own way, or drop
entries."""


@dataclass(frozen=True)
class Splitwise(Technique):
    """prompt, token: machines in each pool. token_device: the device of the token pool in predictions (None:
    that of the prompt pool). prompt_max_pending_batch_tokens: prompt tokens that may queue at a machine
    before the other pool helps. layerwise_tokens: caches of prompts from this length on are sent layer by
    layer while they are computed, those of shorter ones at once."""

    prompt: int = 1
    token: int = 1
    token_device: str | None = None
    prompt_max_pending_batch_tokens: int = 8192
    layerwise_tokens: int = 512

    info: ClassVar[Info] = Info(
        name="splitwise",
        title="Splitwise: Efficient generative LLM inference using phase splitting",
        source=_PAPER,
        summary="computes prompts on some instances, generates on others, and sends caches between them",
        seams=("scheduling",),
        lossless=True,
        provides=("fleet",),
        excludes=("fleet", "cache-storage", "retention"),
        reasons=REASONS,
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "throughput-over-h100",
            "throughput within the service levels at equal power and 20 % lower cost (up to)",
            (1.4, 1.4),
            "x",
            baseline="as many DGX-H100 as the power allows, batching prompts and tokens together",
            model=_MODEL,
            hardware="70 DGX-A100 against 40 DGX-H100 (simulated)",
            source=f"{_PAPER}, abstract; machines of section 6.2 (section 6.3: the same at equal cost and "
            "25 % more power)",
            setup="splitwise:throughput_over_h100",
        ),
        Claim(
            "throughput-over-a100",
            "throughput within the service levels at equal power and cost (up to)",
            (2.35, 2.35),
            "x",
            baseline="the same DGX-A100, batching prompts and tokens together",
            model=_MODEL,
            hardware="70 DGX-A100 (simulated)",
            source=f"{_PAPER}, abstract (section 6.2 and figure 18a say 2.15)",
            setup="splitwise:throughput_over_a100",
        ),
    )

    def __post_init__(self) -> None:
        least = {"prompt": 1, "token": 1, "prompt_max_pending_batch_tokens": 1, "layerwise_tokens": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(
                    f"technique splitwise: {name} must be a whole number from {low} up, not {value!r}"
                )
        if self.token_device is not None and not isinstance(self.token_device, str):
            raise ValueError(
                f"technique splitwise: token_device must be a device's name, not {self.token_device!r}"
            )

    def fleet_policy(self) -> Pools:
        """The pools."""
        return Pools(
            self.prompt,
            self.token,
            self.prompt_max_pending_batch_tokens,
            self.layerwise_tokens,
            self.token_device,
        )
