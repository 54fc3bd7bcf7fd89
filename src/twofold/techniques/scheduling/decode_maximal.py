"""DecodeMaximal: the scheduling policy of SARATHI (arXiv:2308.16369), one prompt chunk per batch with decodes
piggybacked on it.

The chunk saturates the compute units, the decodes ride along at almost no cost, and since all batches have
the same number of tokens, pipeline stages take equal time. The chunk shrinks by the number of decodes, so
that the whole batch stays a multiple of the matrix tile.
"""

from __future__ import annotations

import math

from twofold.engine.batch import Batch
from twofold.engine.policy import Mixed
from twofold.engine.request import Request


class DecodeMaximal(Mixed):
    """All running decodes, plus at most one chunk that fills the batch to `chunk_size` tokens.

    chunk_size: tokens of a batch with a prompt in it. tile: where something else cuts the batch short (the
    scheduler's token budget), it is cut to a multiple of this. patience: see `Mixed`. With as many decodes as
    `chunk_size` or more, the batch is filled to the next multiple, so that prompts never starve (the paper
    has fewer decodes than that).
    """

    name = "decode-maximal"
    needs_chunking = True

    def __init__(self, chunk_size: int = 256, tile: int = 128, patience: float = math.inf) -> None:
        super().__init__(patience)
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 token, not {chunk_size}")
        if tile < 1 or chunk_size % tile:
            divisors = [d for d in range(1, chunk_size + 1) if not chunk_size % d]
            best = min(divisors, key=lambda d: abs(d - tile))
            raise ValueError(
                f"tile must divide chunk_size ({chunk_size}), not be {tile}; the nearest that does is {best}"
            )
        self.chunk_size = chunk_size
        self.tile = tile

    def chunk(self, request: Request, remaining: int, batch: Batch, tokens_left: int) -> int:
        """What fills the batch; nothing where it has its chunk."""
        if batch.num_prefills:
            return 0
        decodes = batch.num_decode_tokens
        num = self.chunk_size - decodes % self.chunk_size
        if tokens_left < num:
            cut = (decodes + tokens_left) // self.tile * self.tile - decodes
            num = cut if cut > 0 else tokens_left
        return min(remaining, num)
