"""The forward pass: one function over ops for every family, on real tensors or on none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from twofold.devices.base import Device
from twofold.models.attention import AttentionBlock, LatentAttentionBlock
from twofold.models.cache import CacheLayer, CacheScheme
from twofold.models.context import Context, Maybe, NormWeights
from twofold.models.dense_cache import DenseCacheScheme
from twofold.models.mlp import ExpertsBlock, MLPBlock
from twofold.models.packed import PackedMatrix
from twofold.models.parallel import Parallel
from twofold.models.placement import Fetching, Placement
from twofold.models.rope import RotaryTables
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.weights import ACT_BYTES, DenseMatrix, Matrix
from twofold.ops import AddNorm, AllGather, Embedding, Gather, Norm, Send, Softcap
from twofold.ops.base import DEVICE, Precision

Attention = AttentionBlock | LatentAttentionBlock
MLP = MLPBlock | ExpertsBlock


class Residual:
    """The residual stream: a sublayer's output is added on the way into the next norm, in one op."""

    def __init__(self, model: Transformer, ctx: Context, x: Maybe) -> None:
        self.model, self.ctx, self.x = model, ctx, x
        self.delta: Maybe = None
        self.pending = False

    def normed(self, norm: NormWeights, tokens: int) -> Maybe:
        """The stream so far, normalised."""
        spec, act = self.model.spec, ACT_BYTES[self.model.precision]
        run = self.ctx.device.execute
        if not self.pending:
            out: Maybe = run(
                Norm(tokens, spec.hidden, spec.norm, act), self.x, norm.weight, norm.bias, spec.norm_eps
            )
            return out
        op = AddNorm(tokens, spec.hidden, spec.norm, act)
        out, self.x = run(op, self.x, self.delta, norm.weight, norm.bias, spec.norm_eps)
        self.pending = False
        return out

    def add(self, delta: Maybe) -> None:
        """Let `delta` be added before the next norm."""
        assert not self.pending
        self.delta, self.pending = delta, True

    def rows(self, rows: Maybe, count: int) -> Residual:
        """Those `count` rows, as a stream of their own."""
        op = Gather(count, self.model.spec.hidden, ACT_BYTES[self.model.precision])
        run = self.ctx.device.execute
        taken = Residual(self.model, self.ctx, run(op, self.x, rows))
        if self.pending:
            taken.add(run(op, self.delta, rows))
        return taken


@dataclass(slots=True)
class TransformerLayer:
    """One layer. A dropped sublayer is None: it is neither stored nor run, and its cache does not exist.
    fetching: what has its weights at hand, where they lie elsewhere."""

    index: int
    attention: Attention | None
    mlp: MLP | None
    attention_norm: NormWeights = field(default_factory=NormWeights)
    mlp_norm: NormWeights = field(default_factory=NormWeights)
    post_attention_norm: NormWeights | None = None
    post_mlp_norm: NormWeights | None = None
    fetching: Fetching | None = None
    signature: object = None

    def __call__(self, stream: Residual, ctx: Context) -> None:
        """Run the sublayers on the stream."""
        tokens = ctx.step.num_tokens
        if self.fetching is not None:
            ctx.device.execute(self.fetching.op, self.fetching.bring)
        if self.attention is not None:
            y = self.attention(stream.normed(self.attention_norm, tokens), ctx)
            stream.add(self._post(y, self.post_attention_norm, stream, tokens))
        if self.mlp is not None:
            y = self.mlp(stream.normed(self.mlp_norm, tokens), ctx)
            stream.add(self._post(y, self.post_mlp_norm, stream, tokens))

    @staticmethod
    def _post(y: Maybe, norm: NormWeights | None, stream: Residual, tokens: int) -> Maybe:
        if norm is None:
            return y
        spec = stream.model.spec
        op = Norm(tokens, spec.hidden, spec.norm, ACT_BYTES[stream.model.precision])
        out: Maybe = stream.ctx.device.execute(op, y, norm.weight, norm.bias, spec.norm_eps)
        return out

    def vectors(self) -> list[torch.Tensor]:
        """Norm weights and biases that are held."""
        norms = (self.attention_norm, self.mlp_norm, self.post_attention_norm, self.post_mlp_norm)
        found = [t for norm in norms if norm is not None for t in (norm.weight, norm.bias)]
        for sublayer in (self.attention, self.mlp):
            found += sublayer.vectors() if sublayer is not None else []
        return [t for t in found if t is not None]

    def matrices(self) -> list[Matrix]:
        """The stored matrices of the layer."""
        found = self.attention.matrices() if self.attention is not None else []
        return found + (self.mlp.matrices() if self.mlp is not None else [])

    @property
    def nbytes(self) -> int:
        """Bytes in the device's memory of the matrices, and of what the cache has learned."""
        learned = self.attention.cache.parameter_bytes() if self.attention is not None else 0
        return learned + sum(m.nbytes for m in self.matrices() if m.space == DEVICE)


@dataclass(slots=True, weakref_slot=True)
class Transformer:
    """A model ready to run or to be costed: what one rank of the deployment holds.

    stages: the layers of each pipeline stage; rotary: position tables (None without rotary positions or on
    modelled devices);
    embed: [vocab, hidden]; head: the matrix of the logits; small_bytes: counted bytes of everything else
    (norms, biases, position tables); vocabulary: the share of each tensor-parallel rank in the logits;
    placement: what keeps weights elsewhere. plain_cache: how entries are stored that no technique stores.
    """

    spec: ModelSpec
    parallel: Parallel
    precision: Precision
    stages: Sequence[Sequence[TransformerLayer]]
    head: Matrix
    embed: Maybe | PackedMatrix = None
    positions: Maybe = None
    rotary: RotaryTables | None = None
    norm: NormWeights = field(default_factory=NormWeights)
    small_bytes: int = 0
    vocabulary: Sequence[int] = ()
    placement: Placement | None = None
    plain_cache: CacheScheme = field(default_factory=DenseCacheScheme)

    @property
    def layers(self) -> list[TransformerLayer]:
        """All layers in order."""
        return [layer for stage in self.stages for layer in stage]

    @property
    def caches(self) -> list[CacheLayer]:
        """The cache layers, of layers that have attention."""
        return [layer.attention.cache for layer in self.layers if layer.attention is not None]

    def forward(self, step: StepInput, device: Device) -> Maybe:
        """Logits [step.num_logits, vocab] in float32, or None on a modelled device. The hidden states that
        the step wants, after the final norm, are left in it."""
        stream, ctx = self.start(step, device)
        for number, stage in enumerate(self.stages):
            if number:
                size = step.num_tokens * self.spec.hidden * ACT_BYTES[self.precision]
                device.execute(Send(size, self.parallel.pp, "pp"))
            for layer in device.each(stage):
                layer(stream, ctx)
        if step.hidden_rows is not None:
            wanted = len(step.hidden_rows)
            step.hidden = stream.rows(step.hidden_rows, wanted).normed(self.norm, wanted)
        return self.logits(stream, ctx)

    def start(self, step: StepInput, device: Device) -> tuple[Residual, Context]:
        """Embed the step's tokens."""
        spec, act = self.spec, ACT_BYTES[self.precision]
        ctx = Context(device, step, self.rotary)
        tables = 2 if spec.positions == "learned" else 1
        row = (
            self.embed.nbytes // spec.vocab_size
            if isinstance(self.embed, PackedMatrix)
            else spec.hidden * act
        )
        op = Embedding(step.num_tokens, spec.hidden, row, act, tables)
        x: Maybe = device.execute(
            op,
            step.token_ids,
            self.embed,
            spec.embedding_scale,
            step.positions,
            self.positions,
            spec.position_offset,
        )
        return Residual(self, ctx, x), ctx

    def logits(self, stream: Residual, ctx: Context) -> Maybe:
        """Final norm and vocabulary projection of the rows that want logits."""
        step, device = ctx.step, ctx.device
        if step.num_logits == 0:
            return None
        if step.num_logits < step.num_tokens:
            stream = stream.rows(step.logit_rows, step.num_logits)
        x = stream.normed(self.norm, step.num_logits)
        out: Maybe = device.execute(self.head.op(step.num_logits, self.precision), x, self.head)
        if (cap := self.spec.final_softcap) is not None:
            out = device.execute(Softcap(step.num_logits, self.head.out_features), out, cap)
        if self.parallel.tp > 1:
            op = AllGather(step.num_logits * max(self.vocabulary) * 4, self.parallel.tp, "tp")
            out = device.execute(op, out, self.vocabulary)
        return None if out is None else out.float()

    def weight_bytes(self) -> int:
        """Bytes that weights take in the memory of one rank (of the heaviest pipeline stage), counted."""
        act = ACT_BYTES[self.precision]
        packed = self.embed if isinstance(self.embed, PackedMatrix) else None
        embed = self.spec.vocab_size * self.spec.hidden * act if packed is None else packed.nbytes
        stages = [sum(layer.nbytes for layer in stage) for stage in self.stages]
        if packed is None:
            tied = self.spec.tied_embeddings and isinstance(self.head, DenseMatrix)
        else:
            tied = isinstance(self.head, PackedMatrix) and packed in (self.head, self.head.of)
        stages[0] += embed
        if len(stages) > 1 or not tied:
            stages[-1] += self.head.nbytes
        staging = 0 if self.placement is None else self.placement.staging_bytes()
        return max(stages) + self.small_bytes + staging

    def allocated(self) -> int:
        """Bytes of the weight tensors that are really held; memory that is shared counts once."""
        matrices = [*(m for layer in self.layers for m in layer.matrices()), self.head]
        tensors = [t for m in matrices if m.space == DEVICE for t in m.tensors.values()]
        tensors += [t for layer in self.layers for t in layer.vectors()]
        tensors += [t for cache in self.caches for t in cache.parameters.values()]
        embed = self.embed.tensors["packed"] if isinstance(self.embed, PackedMatrix) else self.embed
        tensors += [t for t in (embed, self.positions, self.norm.weight, self.norm.bias) if t is not None]
        if self.rotary is not None:
            tensors += self.rotary.tensors()
        total = end = 0
        if self.placement is not None:
            total += self.placement.allocated()
        for start, size in sorted((t.data_ptr(), t.numel() * t.element_size()) for t in tensors):
            total += max(0, start + size - max(start, end))
            end = max(end, start + size)
        return total
