"""Which matrices weight formats apply to: the linear layers of all blocks."""

from __future__ import annotations


def is_block_linear(name: str) -> bool:
    """Whether the matrix of that canonical name is a linear layer of a block. What chooses experts is not:
    it is small, and everything after it depends on it."""
    return name.startswith("layers.") and name.rpartition(".")[2] not in ("router", "shared_gate")


class BlockLinears:
    """The part of a weight scheme that chooses the linear layers of all blocks, and with `lm_head` the output
    projection."""

    lm_head: bool = False

    def applies(self, name: str, out_features: int, in_features: int) -> bool:
        """Whether the matrix `name` is one of them."""
        del out_features, in_features
        return self.lm_head if name == "lm_head" else is_block_linear(name)
