"""What several techniques require of a model's attention, with one message each."""

from __future__ import annotations

from twofold.models.spec import ModelSpec


def require_keys(technique: str, spec: ModelSpec) -> None:
    """ValueError where `spec` caches latents instead of keys and values."""
    if spec.latent is not None:
        raise ValueError(
            f"technique {technique}: {spec.name} caches one latent per token instead of keys and values; "
            f"leave {technique} out, or use a model without latent attention"
        )


def require_global_layer(technique: str, spec: ModelSpec) -> None:
    """ValueError where no layer of `spec` attends to the whole context by keys and values."""
    require_keys(technique, spec)
    if not any(spec.is_global(layer) for layer in range(spec.num_layers)):
        raise ValueError(
            f"technique {technique}: every layer of {spec.name} attends only to the last {spec.window} "
            f"tokens; leave {technique} out, or use a model with layers that attend to the whole context"
        )
