"""GemFilter: the first layers read the whole prompt once; at one of them, the last token's query scores all
keys, and the model goes on with the tokens of the highest scores alone.

Source: "Discovering the Gems in Early Layers: Accelerating Long-Context LLMs with 1000x Input Token
Reduction", arXiv:2409.17422, algorithm 1 and appendix C.1. Differs: the selecting layer computes no attention
and no MLP, only the projections that the selection needs; the whole prompt goes through one layer after the
other in chunks; all weights stay in memory (the source counts only those of the first layers while it
selects). Its text speaks of maximum pooling, its code averages: this follows the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from twofold.devices.base import Device
from twofold.models.attention import AttentionBlock
from twofold.models.layer_pass import LayerPass
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer, TransformerLayer
from twofold.ops.movement import AllReduce
from twofold.techniques.attention.token_scores import LastQueryScores, SelectTokens
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.requirements import require_keys

_PAPER = "arXiv:2409.17422v1"
_SPEED_AND_MEMORY = f"{_PAPER}, section 4.4 and figure 3; hardware: appendix C.2"
_MODEL = "Llama-3.1-8B-Instruct"
_FULL_ATTENTION = "full attention (Hugging Face with FlashAttention)"

# Layer 13 of 32 (Llama 3.1 8B), 19 of 40 (Mistral Nemo), 19 of 32 (Phi 3.5 mini): section 4.
_DEPTHS = {"llama": 13 / 32, "mistral": 19 / 40, "phi3": 19 / 32}
_OTHER_DEPTH = 13 / 32


@dataclass(frozen=True)
class GemFilter(Technique):
    """keep: tokens that stay of a longer prompt (the source's k). layer: where they are chosen (its r, from
    0); None: at the source's share of the model's depth (19/40 for Mistral, 19/32 for Phi-3, 13/32 for Llama
    and all others), at the nearest layer that attends to the whole prompt. kernel_size: neighbours over which
    scores are averaged, odd."""

    layer: int | None = None
    keep: int = 1024
    kernel_size: int = 5

    info: ClassVar[Info] = Info(
        name="gemfilter",
        title=(
            "Discovering the Gems in Early Layers: Accelerating Long-Context LLMs with 1000x Input Token "
            "Reduction"
        ),
        source="arXiv:2409.17422",
        summary="early layers read the whole prompt and choose the tokens that the rest of the model reads",
        seams=("attention",),
        lossless=False,
        provides=("prompt-filter",),
        excludes=("prompt-filter",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "speedup-over-full-attention",
            "time from prompt to last token, full attention over GemFilter (131072 tokens, k=1024)",
            (2.4, 2.4),
            "×",
            _FULL_ATTENTION,
            _MODEL,
            "H100-80GB",
            _SPEED_AND_MEMORY,
            "gemfilter:speedup_over_full_attention",
        ),
        Claim(
            "memory-under-full-attention",
            "reduction of peak GPU memory (131072 tokens, k=1024)",
            (0.70, 0.70),
            "share",
            _FULL_ATTENTION,
            _MODEL,
            "H100-80GB",
            _SPEED_AND_MEMORY,
            "gemfilter:memory_under_full_attention",
        ),
        Claim(
            "memory-under-snapkv",
            "reduction of peak GPU memory against SnapKV (131072 tokens, k=1024)",
            (0.30, 0.30),
            "share",
            "SnapKV",
            _MODEL,
            "H100-80GB",
            _SPEED_AND_MEMORY,
            "gemfilter:memory_under_snapkv",
        ),
        Claim(
            "needle-reduction",
            "prompt tokens per kept token with which a needle in a haystack is still found",
            (1000.0, 1000.0),
            "×",
            "full attention",
            _MODEL,
            "A100-40GB",
            f"{_PAPER}, title and figure 2",
            why_not="needs the model's weights and tokenizer, which are not available offline",
        ),
    )

    def __post_init__(self) -> None:
        where = "technique gemfilter"
        if self.keep < 1:
            raise ValueError(f"{where}: keep must be at least 1 token, not {self.keep}")
        if self.layer is not None and self.layer < 0:
            raise ValueError(f"{where}: layer must be 0 or more, not {self.layer}")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"{where}: kernel_size must be odd and positive, not {self.kernel_size}")

    def check(self, spec: ModelSpec) -> None:
        """ValueError where the model has no layer to select at, or `layer` is not one."""
        require_keys("gemfilter", spec)
        self.selecting_layer(spec, [i for i in range(spec.num_layers) if spec.is_global(i)])

    def selecting_layer(self, spec: ModelSpec, able: list[int]) -> int:
        """The layer to select at, among those `able` to: layers that attend to the whole prompt."""
        where = "technique gemfilter"
        if not able:
            raise ValueError(
                f"{where}: no layer of {spec.name} attends to the whole prompt (window: {spec.window} "
                "tokens), so none can choose among all its tokens; use a model with global layers"
            )
        if self.layer is None:
            wanted = round(_DEPTHS.get(spec.family, _OTHER_DEPTH) * spec.num_layers)
            return min(able, key=lambda i: abs(i - wanted))
        if self.layer not in able:
            asked = self.layer
            what = "does not exist" if asked >= spec.num_layers else "does not attend to the whole prompt"
            raise ValueError(
                f"{where}: layer {asked} of {spec.name} {what}; "
                f"the nearest that does is {min(able, key=lambda i: abs(i - asked))}"
            )
        return self.layer

    def prompt_filter(self) -> TokenFilter:
        """A filter with counters of its own."""
        return TokenFilter(self)


class TokenFilter:
    """Selects the tokens of a prompt. counters: prompts filtered, their tokens kept and dropped."""

    def __init__(self, technique: GemFilter) -> None:
        self.technique = technique
        self.counters = {"prompts_filtered": 0, "tokens_kept": 0, "tokens_dropped": 0}
        self._pass: LayerPass | None = None
        self._selecting: TransformerLayer | None = None

    def kept(self, num_prompt_tokens: int) -> int:
        """At most `keep`; a prompt that is no longer than that is left alone."""
        return min(num_prompt_tokens, self.technique.keep)

    def pass_bytes(self, model: Transformer, num_prompt_tokens: int) -> int:
        """Bytes that filtering a prompt that long takes beside the activations of a step of
        `layer_pass.CHUNK` tokens; 0 where it is left alone."""
        if self.kept(num_prompt_tokens) == num_prompt_tokens:
            return 0
        return self._prepare(model)[0].held_bytes(num_prompt_tokens)

    def select(self, model: Transformer, device: Device, step: StepInput) -> torch.Tensor | None:
        """Positions of the kept tokens of the one sequence of `step`: int64 [kept], ascending; None on a
        modelled device."""
        layers, selecting = self._prepare(model)
        attention = selecting.attention
        assert isinstance(attention, AttentionBlock)
        heads = attention.cache.heads
        chunks = layers.begin(step, device)
        layers.run(chunks, device)
        layers.end()
        query: torch.Tensor | None = None
        parts: list[torch.Tensor] = []
        # The last chunk first: its last query scores the keys of all chunks, so that none need be held.
        for stream, ctx in reversed(chunks):
            count = ctx.step.num_tokens
            q, k, _ = attention.project(stream.normed(selecting.attention_norm, count), ctx)
            if query is None and q is not None:
                query = q[-1].clone()
            op = LastQueryScores(count, heads.heads, heads.kv_heads, heads.head_dim, heads.act_bytes)
            parts.append(device.execute(op, query, k))
        scores = torch.cat(parts[::-1]) if device.real else None
        tokens, keep = step.num_tokens, self.kept(step.num_tokens)
        if model.parallel.tp > 1:
            scores = device.execute(AllReduce(4 * tokens, model.parallel.tp, "tp"), scores)
        choice = SelectTokens(tokens, keep, self.technique.kernel_size)
        chosen: torch.Tensor | None = device.execute(choice, scores)
        self.counters["prompts_filtered"] += 1
        self.counters["tokens_kept"] += keep
        self.counters["tokens_dropped"] += tokens - keep
        return chosen

    def _prepare(self, model: Transformer) -> tuple[LayerPass, TransformerLayer]:
        """The layers before the selecting one, and that one."""
        if self._pass is None or self._selecting is None or self._pass.model is not model:
            present = [layer.index for layer in model.layers if layer.attention is not None]
            able = [i for i in present if model.spec.is_global(i)]
            index = self.technique.selecting_layer(model.spec, able)
            self._pass, self._selecting = LayerPass(model, index), model.layers[index]
        return self._pass, self._selecting
