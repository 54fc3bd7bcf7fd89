"""Heads that learn to attend by signs: what distillation trains, and the layer in which it trains it.

Shape letters: W texts, T tokens of one, H heads, K KV heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from twofold.devices.base import Device
from twofold.kernels.reference.attention import attend_sequence
from twofold.models.cache import CacheLayer, Heads
from twofold.models.step import StepInput
from twofold.techniques.attention.had_cache import HeadCodes
from twofold.techniques.attention.had_layout import TopN
from twofold.techniques.attention.hamming import SignMap

_HIDDEN = -1e9
"""Score of an entry that a query does not see: its weight is zero, and its gradient is no NaN."""


def soften(x: torch.Tensor, c: float) -> torch.Tensor:
    """What stands for the sign while it is learned (arXiv:2502.01770, section 3.2): c · tanh(x / c) for c
    >= 1, nearly x where c is large; tanh(x / c) below, nearly the sign where c is small; for c = 0 the
    sign, with the gradient of x where |x| <= 1."""
    if c >= 1:
        return c * torch.tanh(x / c)
    if c > 0:
        return torch.tanh(x / c)
    slope = x.clamp(-1, 1)
    sign = torch.where(x >= 0, 1.0, -1.0)
    return slope + (sign - slope).detach()


class StudentHeads:
    """The heads of one layer: per head a matrix and thresholds before the sign, and a factor on scores.
    It starts with none of the former, queries and keys in units of their standard deviations q_unit [H]
    and k_unit [K].
    """

    def __init__(self, heads: Heads, q_unit: torch.Tensor, k_unit: torch.Tensor) -> None:
        self.heads = heads
        self.group = heads.heads // heads.kv_heads
        self.q_unit, self.k_unit = q_unit, k_unit

        def eye(count: int) -> torch.Tensor:
            return torch.eye(heads.head_dim).repeat(count, 1, 1).requires_grad_()

        def zeros(count: int) -> torch.Tensor:
            return torch.zeros(count, heads.head_dim, requires_grad=True)

        self.q_map, self.k_map = eye(heads.heads), eye(heads.kv_heads)
        self.q_threshold, self.k_threshold = zeros(heads.heads), zeros(heads.kv_heads)
        scale = heads.scale * q_unit * k_unit.repeat_interleave(self.group)
        self.log_scale = scale.log().requires_grad_()

    @property
    def maps(self) -> list[torch.Tensor]:
        """The matrices."""
        return [self.q_map, self.k_map]

    @property
    def rest(self) -> list[torch.Tensor]:
        """Thresholds and factors."""
        return [self.q_threshold, self.k_threshold, self.log_scale]

    def scores(self, q: torch.Tensor, k: torch.Tensor, c: float) -> torch.Tensor:
        """q [W, H, T, D] and k [W, K, T, D] to scores [W, H, T, T], hidden where a query does not see an
        entry."""
        x = (q / self.q_unit[:, None, None]) @ self.q_map - self.q_threshold.unsqueeze(1)
        y = (k / self.k_unit[:, None, None]) @ self.k_map - self.k_threshold.unsqueeze(1)
        signs = soften(x, c), soften(y, c).repeat_interleave(self.group, 1)
        scores = signs[0] @ signs[1].transpose(-1, -2) * self.log_scale.exp()[:, None, None]
        return self.finish(scores)

    def finish(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores [..., T, T] with the model's softcap, hidden where a query does not see an entry."""
        h, tokens = self.heads, scores.shape[-1]
        if h.softcap is not None:
            scores = h.softcap * torch.tanh(scores / h.softcap)
        distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
        hidden = (distance < 0) | (distance >= (h.window or tokens))
        return scores.masked_fill(hidden, _HIDDEN)

    def plain_scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """The teacher's scores [W, H, T, T]."""
        return self.finish(q @ k.repeat_interleave(self.group, 1).transpose(-1, -2) * self.heads.scale)

    def codes(self) -> HeadCodes:
        """What was learned, for queries and keys as they are: a sign knows no unit."""

        def signs(turn: torch.Tensor, threshold: torch.Tensor, unit: torch.Tensor) -> SignMap:
            return SignMap(turn.detach().clone(), (threshold * unit[:, None]).detach())

        q = signs(self.q_map, self.q_threshold, self.q_unit)
        return HeadCodes(q, signs(self.k_map, self.k_threshold, self.k_unit), self.log_scale.detach().exp())


def keep_nearest(scores: torch.Tensor, top: TopN, window: int | None) -> torch.Tensor:
    """Scores of hard signs [H, T, T] with all hidden but those that `top` keeps of what each query sees,
    the newer one of equals."""
    tokens = scores.shape[-1]
    sees = [min(row + 1, window or tokens) for row in range(tokens)]
    kept = torch.tensor([top.kept(seen) for seen in sees])
    # Stable, and from the newest on: of equals the newer comes first.
    order = scores.detach().flip(-1).sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(tokens).expand_as(order)).flip(-1)
    return scores.masked_fill(rank >= kept[:, None], _HIDDEN)


class TaughtLayer(CacheLayer):
    """Attention over one whole text, which is cached nowhere and lets gradients through: by the student's
    signs, or plainly, where `see` looks at queries [T, H, D] and keys [T, K, D]."""

    def __init__(self, heads: Heads, block_size: int, top: TopN) -> None:
        super().__init__(heads, block_size)
        self.top = top
        self.student: StudentHeads | None = None
        self.see: Callable[[torch.Tensor, torch.Tensor], None] = lambda q, k: None

    def block_bytes(self) -> int:
        """0: nothing is stored."""
        return 0

    def attend(
        self,
        device: Device,
        step: StepInput,
        q: torch.Tensor | None,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """q [T, H, D] to [T, H · v_dim]."""
        assert q is not None
        assert k is not None
        assert v is not None
        if self.student is None:
            self.see(q, k)
            return attend_sequence(q.contiguous(), k, v, self.heads)
        scores = self.student.scores(q.transpose(0, 1)[None], k.transpose(0, 1)[None], 0.0)[0]
        weights = keep_nearest(scores, self.top, self.heads.window).softmax(-1)
        values = v.transpose(0, 1).repeat_interleave(self.student.group, 0)
        return (weights @ values).transpose(0, 1).flatten(1)
