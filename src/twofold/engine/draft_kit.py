"""What a drafter with a model is given when the engine is built: the engine's own model, and the means to
load another or to take a part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from twofold.devices.base import Device
from twofold.engine.cache_format import cache_scheme, decide_format
from twofold.engine.draft_model import DraftModel
from twofold.engine.limits import Limits, decide_limits
from twofold.engine.share import load_model, model_options
from twofold.models.build import build_model
from twofold.models.cache import CacheLayer
from twofold.models.dense_cache import DenseCacheScheme
from twofold.models.find import find_checkpoint, find_spec, find_stored
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.models.transformer import Transformer, TransformerLayer
from twofold.plan import ParallelPlan, Plan

SELF = "self"
"""Names a draft model that is a part of the target: two thirds of its layers, or `self:8` of them."""
MakeCache = Callable[[CacheLayer, int], CacheLayer]
"""Makes the cache of a draft model's layer from the target's and the layer's number."""
_SAMPLE = "The quick brown fox jumps over 13 lazy dogs; déjà vu?\n\tdef f(x): return x**2  # ok"
_PADDING = 0.01
"""Share by which two vocabularies may differ in size and still be one, padded differently."""


def layers_of(name: str, num_layers: int) -> int | None:
    """How many of its `num_layers` layers the draft model called `name` has of the target; None where it is
    another model. ValueError where the target has no such part."""
    if name == SELF:
        return max(1, round(num_layers * 2 / 3))
    if not name.startswith(f"{SELF}:"):
        return None
    text = name.removeprefix(f"{SELF}:")
    if not text.isdecimal() or not 1 <= int(text) < num_layers:
        raise ValueError(
            f"draft {name!r}: behind {SELF}: comes how many of the model's {num_layers} layers draft, 1 … "
            f"{num_layers - 1}"
        )
    return int(text)


def outer_layers(count: int, num_layers: int) -> list[int]:
    """`count` of `num_layers` layers, as many of the first as of the last: what lies between matters
    least."""
    last = count // 2
    return [*range(count - last), *range(num_layers - last, num_layers)]


@dataclass(frozen=True, slots=True)
class DraftKit:
    """plan, device, limits: the engine's; target: its model; checkpoint: where the target comes from (None
    where only its shapes are known); load: whether models are loaded with weights."""

    plan: Plan
    device: Device
    limits: Limits
    target: Transformer
    checkpoint: Checkpoint | None
    load: bool

    def check(self) -> None:
        """ValueError where the plan's parallelism leaves no room for a second model."""
        if self.plan.parallel.pp > 1:
            raise ValueError(
                "a draft model runs before each step on the devices of the first pipeline stage while the "
                f"others would idle; pp={self.plan.parallel.pp} is not supported beside one: cut the model "
                "by tp, or draft with copyspec, which needs no model"
            )

    def draft_model(self, name: str) -> DraftModel:
        """The draft model called `name`: a part of the target, or a model of the same tokenizer by name or
        path."""
        count = layers_of(name, self.target.spec.num_layers)
        if count is not None:
            return self.of_target(outer_layers(count, self.target.spec.num_layers))
        model, longest = self._load(name)
        return DraftModel(
            model,
            self.device,
            block_size=self.limits.block_size,
            max_context=longest,
            own_weights=model.weight_bytes(),
        )

    def of_target(self, layers: Sequence[int]) -> DraftModel:
        """Those layers of the target, with a cache of its own."""
        return DraftModel(
            self.with_caches(layers, self.plain_cache()),
            self.device,
            block_size=self.limits.block_size,
            max_context=self.limits.max_context,
            own_weights=0,
        )

    def plain_cache(self) -> MakeCache:
        """Makes caches of the format that the device would have without techniques."""
        size = self.limits.block_size
        fmt = decide_format(self.plan, self.device, self.target.spec, [], self.limits.precision, size)
        scheme = cache_scheme(fmt) or DenseCacheScheme()
        return lambda of_target, layer: scheme.cache_layer(of_target.heads, size, layer)

    def with_caches(self, layers: Sequence[int], make: MakeCache) -> Transformer:
        """The target's `layers`, whose weights it shares, with the caches that `make` makes."""
        if self.load and self.target.parallel.tp > 1:
            raise ValueError(
                "a draft model that is a part of a model cut by tp can be predicted, not run: draft with a "
                "model of its own, or with tp=1"
            )
        wanted = set(layers)
        taken = [_with_cache(layer, make) for layer in self.target.layers if layer.index in wanted]
        return replace(self.target, stages=[taken])

    def _load(self, name: str) -> tuple[Transformer, int]:
        """A model of its own, whole on each device, and the longest text that it takes."""
        plan = self.plan.model_copy(update={"parallel": ParallelPlan(), "model": name})
        checkpoint = find_checkpoint(name) if self.load else find_stored(name)
        spec = find_spec(name) if checkpoint is None else checkpoint.spec
        _check_tokenizer(self.target.spec, spec, self.checkpoint, checkpoint)
        limits = decide_limits(plan, self.device, spec, [], checkpoint)
        limits = replace(limits, block_size=self.limits.block_size, precision=self.limits.precision)
        if self.load:
            return load_model(plan, self.device, spec, checkpoint, [], limits), limits.max_context
        options = model_options(plan, [], limits, checkpoint, load=False)
        return build_model(spec, options), limits.max_context


def _with_cache(layer: TransformerLayer, make: MakeCache) -> TransformerLayer:
    attention = layer.attention
    if attention is None:
        return layer
    cache = make(attention.cache, layer.index)
    assert isinstance(layer.signature, tuple)
    signature = ((cache.heads.window, type(cache), cache.block_bytes()), *layer.signature[1:])
    return replace(layer, attention=replace(attention, cache=cache), signature=signature)


def _check_tokenizer(
    target: ModelSpec, draft: ModelSpec, of_target: Checkpoint | None, of_draft: Checkpoint | None
) -> None:
    """ValueError where the two models do not speak in the same tokens."""
    problem = ""
    if abs(target.vocab_size - draft.vocab_size) > _PADDING * target.vocab_size:
        problem = f"vocabularies of {target.vocab_size} and {draft.vocab_size} tokens"
    elif of_target is not None and of_draft is not None:
        one, other = of_target.tokenizer, of_draft.tokenizer
        if one is not None and other is not None and one.encode(_SAMPLE) != other.encode(_SAMPLE):
            problem = "different tokens for the same text"
    if problem:
        raise ValueError(
            f"{draft.name} cannot draft for {target.name}: they have {problem}; take a smaller model of the "
            f"same family, or a part of the model itself ({SELF}:N)"
        )
