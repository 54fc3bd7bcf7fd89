"""The canonical tensors of an architecture."""

from __future__ import annotations

import math

import pytest

from twofold.models.catalog import get_spec, model_names
from twofold.models.names import tensor_shapes


@pytest.mark.parametrize("name", model_names())
def test_elements_add_up_to_the_parameters(name: str) -> None:
    spec = get_spec(name)
    if spec.latent is not None:
        with pytest.raises(ValueError, match="only predicted"):
            tensor_shapes(spec)
        return
    shapes = tensor_shapes(spec)
    assert sum(math.prod(shape) for shape in shapes.values()) == spec.num_parameters()
    assert shapes["layers.0.o"] == (spec.hidden, spec.q_dim)
