"""GemFilter: the first layers read the whole prompt once; the keys that the last token's query likes best at one of
them decide which tokens stay, and the model goes on with those alone.

Source: "Discovering the Gems in Early Layers: Accelerating Long-Context LLMs with 1000x Input Token Reduction",
arXiv:2409.17422, algorithm 1 and appendix C.1. Differs: the selecting layer computes no attention and no MLP, only the
projections that the selection needs; the whole prompt goes through one layer after the other in chunks; all weights stay
in memory (the source counts only those of the first layers while it selects). Its text speaks of maximum pooling, its
code averages: this follows the code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from twofold.devices.base import Device
from twofold.kernels.registry import reference
from twofold.models.blocks import AttentionBlock
from twofold.models.layer_pass import LayerPass
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer, TransformerLayer
from twofold.models.weights import ACT_BYTES
from twofold.ops.base import Cost, Op, Traffic
from twofold.ops.movement import AllReduce
from twofold.techniques.base import Claim, Info, Technique

_PAPER = "arXiv:2409.17422v1"
_FIGURE_3 = f"{_PAPER}, figure 3 (bar heights read from the figure); hardware: appendix C.2"
_NEEDS_LLAMA = "needs the weights of Llama-3.1-8B-Instruct and its tokenizer, which are not available offline"

# Layer 13 of 32 (Llama 3.1 8B), 19 of 40 (Mistral Nemo), 19 of 32 (Phi 3.5 mini): section 4, "Filter Layer".
_DEPTHS = {"llama": 13 / 32, "mistral": 19 / 40, "phi3": 19 / 32}
_OTHER_DEPTH = 13 / 32


# --- ops ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LastQueryScores(Op):
    """Inner products of one query with the keys of `tokens` tokens, summed over heads: [tokens], float32.

    Heads that share a KV head are summed before the product: the sum over heads of q · k is (sum of q) · k.
    """

    kind: ClassVar[str] = "select-tokens"
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    act_bytes: int

    def cost(self) -> Cost:
        """2 FLOP per key element in float32; keys are read once and widened."""
        keys, query = self.tokens * self.kv_heads * self.head_dim, self.heads * self.head_dim
        return Cost(
            flop=2.0 * keys,
            vector_flop=float(query + keys),
            precision="fp32",
            traffic=(Traffic("activations", (keys + query) * self.act_bytes, 4 * self.tokens),),
        )


@dataclass(frozen=True, slots=True)
class SelectTokens(Op):
    """Average `tokens` scores over `kernel_size` neighbours, take the `keep` highest: their positions, ascending."""

    kind: ClassVar[str] = "select-tokens"
    tokens: int
    keep: int
    kernel_size: int

    def cost(self) -> Cost:
        """One addition per score and neighbour, one comparison per score, and a sort of what is kept."""
        work = self.tokens * (self.kernel_size + 1.0) + self.keep * math.log2(max(2, self.keep))
        return Cost(vector_flop=work, traffic=(Traffic("activations", 4 * self.tokens, 8 * self.keep),))


@reference(LastQueryScores)
def last_query_scores(op: LastQueryScores, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """query [H, D] and keys [T, K, D] to [T] in float32."""
    summed = query.float().view(op.kv_heads, -1, op.head_dim).sum(1)
    return (keys.float().flatten(1) @ summed.view(-1, 1)).squeeze(1)


@reference(SelectTokens)
def select_tokens(op: SelectTokens, scores: torch.Tensor) -> torch.Tensor:
    """scores [T] to positions [keep], int64. Neighbours beyond either end count as zero, as in the source."""
    pad = op.kernel_size // 2
    pooled = F.avg_pool1d(scores[None, None], op.kernel_size, stride=1, padding=pad)[0, 0]
    return pooled.topk(op.keep).indices.sort().values


# --- the filter -----------------------------------------------------------------------------------------------------


class TokenFilter:
    """Selects the tokens of a prompt. counters: prompts filtered, tokens kept and dropped of those prompts."""

    def __init__(self, technique: GemFilter) -> None:
        self.technique = technique
        self.counters = {"prompts_filtered": 0, "tokens_kept": 0, "tokens_dropped": 0}
        self._pass: LayerPass | None = None
        self._selecting: TransformerLayer | None = None

    def kept(self, num_prompt_tokens: int) -> int:
        """At most `keep`; a prompt that is no longer than that is left alone."""
        return min(num_prompt_tokens, self.technique.keep)

    def pass_bytes(self, model: Transformer, num_prompt_tokens: int) -> int:
        """Bytes that filtering a prompt that long takes beside the activations of a step of `layer_pass.CHUNK` tokens."""
        if self.kept(num_prompt_tokens) == num_prompt_tokens:
            return 0
        return self._prepare(model)[0].held_bytes(num_prompt_tokens)

    def select(self, model: Transformer, device: Device, step: StepInput) -> torch.Tensor | None:
        """Positions of the kept tokens of the one sequence of `step`: int64 [kept], ascending; None on a modelled device."""
        layers, selecting = self._prepare(model)
        attention = selecting.attention
        assert isinstance(attention, AttentionBlock)
        heads, tokens = attention.cache.heads, step.num_tokens
        chunks = layers.begin(step, device)
        layers.run(chunks, device)
        layers.end()
        query: torch.Tensor | None = None
        scores: list[torch.Tensor] = []
        # The last chunk first: its last query scores all the others, and no keys need be held.
        for stream, ctx in reversed(chunks):
            count = ctx.step.num_tokens
            q, k, _ = attention.project(stream.normed(selecting.attention_norm, count), ctx)
            if query is None and q is not None:
                query = q[-1].clone()
            op = LastQueryScores(count, heads.heads, heads.kv_heads, heads.head_dim, heads.act_bytes)
            scores.append(device.execute(op, query, k))
        whole = torch.cat(scores[::-1]) if device.real else None
        if model.parallel.tp > 1:
            whole = device.execute(AllReduce(4 * tokens, model.parallel.tp, "tp"), whole)
        keep = self.kept(tokens)
        chosen: torch.Tensor | None = device.execute(
            SelectTokens(tokens, keep, self.technique.kernel_size), whole
        )
        self.counters["prompts_filtered"] += 1
        self.counters["tokens_kept"] += keep
        self.counters["tokens_dropped"] += tokens - keep
        return chosen

    def _prepare(self, model: Transformer) -> tuple[LayerPass, TransformerLayer]:
        """The layers before the selecting one, and that one."""
        if self._pass is None or self._selecting is None or self._pass.model is not model:
            able = [
                x.index for x in model.layers if x.attention is not None and model.spec.is_global(x.index)
            ]
            index = self.technique.selecting_layer(model.spec, able)
            self._pass, self._selecting = LayerPass(model, index), model.layers[index]
        return self._pass, self._selecting


# --- the technique --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GemFilter(Technique):
    """Keep `keep` tokens of each longer prompt (the source's k), chosen at layer `layer` (its r, counted from 0).

    layer None: the source's share of the model's depth (13/32 for Llama and where it names none, 19/40 for Mistral,
    19/32 for Phi-3), at the nearest layer that attends to the whole prompt. kernel_size: neighbours over which scores
    are averaged, odd.
    """

    layer: int | None = None
    keep: int = 1024
    kernel_size: int = 5

    info: ClassVar[Info] = Info(
        name="gemfilter",
        title="Discovering the Gems in Early Layers: Accelerating Long-Context LLMs with 1000x Input Token Reduction",
        source="arXiv:2409.17422",
        summary="early layers read the whole prompt and choose the few tokens of it that the model goes on with",
        seams=("attention",),
        lossless=False,
        provides=("prompt-filter",),
        excludes=("prompt-filter",),
        reasons={"prompt-filter": "a prompt is shortened once; name one technique that does it"},
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "speedup-over-standard",
            "time from prompt to last token, full attention over GemFilter (131072 tokens of context, k=1024)",
            (2.4, 2.4),
            "x",
            "full attention (FlashAttention, Hugging Face)",
            "Llama-3.1-8B-Instruct",
            "H100-80GB",
            f"{_PAPER}, section 4.4; {_FIGURE_3}",
            "speedup_over_standard",
        ),
        Claim(
            "memory-over-standard",
            "reduction of peak GPU memory against full attention (131072 tokens of context, k=1024)",
            (0.70, 0.70),
            "share",
            "full attention (FlashAttention, Hugging Face)",
            "Llama-3.1-8B-Instruct",
            "H100-80GB",
            f"{_PAPER}, section 4.4; {_FIGURE_3}",
            "memory_over_standard",
        ),
        Claim(
            "memory-over-snapkv",
            "reduction of peak GPU memory against SnapKV",
            (0.30, 0.30),
            "share",
            "SnapKV",
            "Llama-3.1-8B-Instruct",
            "H100-80GB",
            f"{_PAPER}, abstract and section 4.4",
            why_not="the baseline, SnapKV, is not among the techniques here; full attention is compared instead",
        ),
        Claim(
            "needle-reduction",
            "prompt tokens per kept token with which a needle in a haystack is still found (128K to 100)",
            (1000.0, 1000.0),
            "x",
            "full attention",
            "Llama-3.1-8B-Instruct",
            "A100-40GB",
            f"{_PAPER}, title and figure 2",
            why_not=_NEEDS_LLAMA,
        ),
    )

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"technique gemfilter: keep must be at least 1 token, not {self.keep}")
        if self.layer is not None and self.layer < 0:
            raise ValueError(f"technique gemfilter: layer counts from 0, so it cannot be {self.layer}")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(
                f"technique gemfilter: kernel_size must be odd and positive, not {self.kernel_size}"
            )

    def check(self, spec: ModelSpec) -> None:
        """ValueError where the model has no layer to select at, or `layer` is not one."""
        if spec.latent is not None:
            raise ValueError(
                f"technique gemfilter: {spec.name} caches latents, not keys that a query could be compared with; "
                "use a model with ordinary attention"
            )
        self.selecting_layer(spec, [i for i in range(spec.num_layers) if spec.is_global(i)])

    def selecting_layer(self, spec: ModelSpec, able: list[int]) -> int:
        """The layer to select at, of those in `able`: layers that have attention over the whole prompt."""
        if not able:
            raise ValueError(
                f"technique gemfilter: no layer of {spec.name} attends to the whole prompt (window: {spec.window} "
                "tokens), so none can choose among all its tokens; use a model with global layers"
            )
        if self.layer is None:
            wanted = round(_DEPTHS.get(spec.family, _OTHER_DEPTH) * spec.num_layers)
            return min(able, key=lambda i: abs(i - wanted))
        if self.layer not in able:
            near = min(able, key=lambda i: abs(i - (self.layer or 0)))
            why = (
                "does not exist"
                if self.layer >= spec.num_layers
                else "has no attention over the whole prompt"
            )
            raise ValueError(
                f"technique gemfilter: layer {self.layer} {why} ({spec.name} has {spec.num_layers} layers); "
                f"the nearest that does is {near}"
            )
        return self.layer

    def prompt_filter(self) -> TokenFilter:
        """A filter of its own counters."""
        return TokenFilter(self)
