"""Splitwise: prompts on one pool of machines, tokens on another, and caches sent from the one to the other.

Source: "Splitwise: Efficient generative LLM inference using phase splitting", arXiv:2311.18677. `pools` holds
the scheduler; `twofold explore` searches the sizes of the pools (section 4.4 there). Differs: an instance of
either pool keeps the engine's own batching (chunked prompts, decodes first), which mixed machines need. Only
predictions send the cache of a long prompt layer by layer while it is computed (section 4.3). A run sends all
of it once the prompt is done, in one process and over several: a step is one call into the kernels, and a
copy beside it would take the cores that compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.scheduling.pools import Pools

_PAPER = "arXiv:2311.18677"
_MODEL = "BLOOM-176B, conversation trace, tensor 8"

IN_BLOCKS = "a request's cache is sent block by block, and the other technique keeps a part of it elsewhere"
"""Why techniques that send caches are refused beside those that store them in ways of their own."""


@dataclass(frozen=True)
class Splitwise(Technique):
    """prompt, token: machines of either pool. token_device: of the token pool, in predictions (None: as the
    prompt pool's). prompt_max_pending_batch_tokens: prompt tokens that may queue at a machine before those of
    the other pool help. layerwise_tokens: prompts from this length on are sent layer by layer while they are
    computed, shorter ones at once.
    """

    prompt: int = 1
    token: int = 1
    token_device: str | None = None
    prompt_max_pending_batch_tokens: int = 8192
    layerwise_tokens: int = 512

    info: ClassVar[Info] = Info(
        name="splitwise",
        title="Splitwise: Efficient generative LLM inference using phase splitting",
        source=_PAPER,
        summary="computes prompts on some instances and tokens on others, and sends caches between them",
        seams=("scheduling",),
        lossless=True,
        provides=("fleet",),
        excludes=("fleet", "cache-storage", "retention"),
        reasons={
            "fleet": "one policy decides where requests run: name one technique over several instances",
            "cache-storage": f"{IN_BLOCKS}: use one of both",
            "retention": "entries that are dropped in place cannot be sent meanwhile: use one of both",
        },
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
