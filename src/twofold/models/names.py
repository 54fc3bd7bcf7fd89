"""The canonical tensors of an architecture: which a checkpoint must hold, and their shapes."""

from __future__ import annotations

from collections.abc import Mapping

from twofold.models.spec import ModelSpec
from twofold.models.stored import Source

Shapes = dict[str, tuple[int, ...]]


def _attention(spec: ModelSpec) -> Shapes:
    shapes: Shapes = {
        "q": (spec.q_dim, spec.hidden),
        "k": (spec.kv_dim, spec.hidden),
        "v": (spec.kv_dim, spec.hidden),
        "o": (spec.hidden, spec.q_dim),
    }
    if spec.qkv_bias:
        shapes |= {f"{name}_bias": shapes[name][:1] for name in "qkv"}
    if spec.out_bias:
        shapes["o_bias"] = (spec.hidden,)
    if spec.qk_norm:
        shapes |= {"q_norm": (spec.head_dim,), "k_norm": (spec.head_dim,)}
    return shapes


def _mlp(spec: ModelSpec, layer: int) -> Shapes:
    def matrices(hidden: int, prefix: str = "", lead: tuple[int, ...] = ()) -> Shapes:
        shapes: Shapes = {
            f"{prefix}up": (*lead, hidden, spec.hidden),
            f"{prefix}down": (*lead, spec.hidden, hidden),
        }
        if spec.gated:
            shapes[f"{prefix}gate"] = (*lead, hidden, spec.hidden)
        return shapes

    if not spec.has_experts(layer):
        shapes = matrices(spec.ffn_hidden)
        if spec.mlp_bias:
            shapes |= {f"{name}_bias": shape[:1] for name, shape in list(shapes.items())}
        return shapes
    experts = spec.experts
    assert experts is not None
    shapes = matrices(experts.hidden, "experts.", (experts.num,))
    shapes["router"] = (experts.num, spec.hidden)
    if experts.scoring == "sigmoid":
        shapes["router_bias"] = (experts.num,)
    if experts.shared_hidden:
        shapes |= matrices(experts.shared_hidden, "shared.")
        if experts.shared_gate:
            shapes["shared_gate"] = (1, spec.hidden)
    return shapes


def _norm(spec: ModelSpec, name: str) -> Shapes:
    shapes: Shapes = {name: (spec.hidden,)}
    if spec.norm == "layer":
        shapes[f"{name}_bias"] = (spec.hidden,)
    return shapes


def tensor_shapes(spec: ModelSpec) -> Shapes:
    """Shapes of all canonical tensors of `spec`, by name; their elements add up to `spec.num_parameters()`.

    Raises ValueError for latent attention, of which no checkpoint can be loaded.
    """
    if spec.latent is not None:
        raise ValueError(
            f"{spec.name}: weights of models with latent attention cannot be loaded, only predicted"
        )
    shapes: Shapes = {"embed": (spec.vocab_size, spec.hidden), **_norm(spec, "norm")}
    if spec.positions == "learned":
        shapes["positions"] = (spec.max_context + spec.position_offset, spec.hidden)
    if not spec.tied_embeddings:
        shapes["lm_head"] = (spec.vocab_size, spec.hidden)
    norms = ["attn_norm", "mlp_norm"] + (["post_attn_norm", "post_mlp_norm"] if spec.post_norms else [])
    for layer in range(spec.num_layers):
        parts = _attention(spec) | _mlp(spec, layer)
        for norm in norms:
            parts |= _norm(spec, norm)
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in parts.items()}
    return shapes


def check_tensors(spec: ModelSpec, sources: Mapping[str, Source], where: str) -> None:
    """ValueError where `sources` lack a tensor of `spec`, hold one too many, or one of another shape."""
    if spec.num_layers > len(sources):  # before a damaged count makes billions of names
        raise ValueError(f"{where}: {spec.num_layers:,} layers cannot be made of {len(sources)} tensors")
    shapes = tensor_shapes(spec)
    if missing := [name for name in shapes if name not in sources]:
        raise ValueError(
            f"{where}: {_some(missing)} missing: the file is incomplete or not a {spec.family} model"
        )
    if extra := [name for name in sources if name not in shapes]:
        raise ValueError(
            f"{where}: {_some(extra)} would be ignored: the model has parts that its header does not name"
        )
    for name, shape in shapes.items():
        if sources[name].shape != shape:
            raise ValueError(
                f"{where}: tensor {name} has shape {list(sources[name].shape)}, "
                f"the header implies {list(shape)}"
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{more}"
