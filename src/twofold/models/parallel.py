"""How a model is cut over devices: tensor, pipeline, expert and data parallelism."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Parallel:
    """Degrees of parallelism. The deployment takes tp · pp · dp devices.

    Tensor parallelism cuts heads by whole KV groups, an MLP by whole blocks of its weights' format, as evenly
    as that goes (see `models.shard`). ep spreads experts whole: 1 = every expert is cut `tp` ways; tp = whole
    experts within each tensor-parallel group; tp · dp = whole experts over all replicas, which then exchange
    tokens.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "dp", "ep"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if self.ep not in (1, self.tp, self.tp * self.dp):
            allowed = sorted({1, self.tp, self.tp * self.dp})
            raise ValueError(f"ep={self.ep} does not fit tp={self.tp}, dp={self.dp}; allowed: {allowed}")

    @property
    def devices(self) -> int:
        """Devices of the whole deployment."""
        return self.tp * self.pp * self.dp

    def check(self, spec: ModelSpec) -> None:
        """ValueError where `spec` cannot be cut this way."""
        if self.tp > spec.num_kv_heads and (spec.num_heads % self.tp or self.tp % spec.num_kv_heads):
            allowed = [*range(1, spec.num_kv_heads + 1), *_shared_heads(spec)]
            raise ValueError(
                f"{spec.name} has {spec.num_heads} heads in {spec.num_kv_heads} KV groups, which "
                f"{self.tp} devices cannot share; tp may be {allowed}"
            )
        if self.pp > spec.num_layers:
            raise ValueError(f"{spec.name} has {spec.num_layers} layers, fewer than pp={self.pp} stages")
        if self.ep > 1:
            if spec.experts is None:
                raise ValueError(f"{spec.name} has no experts to spread over ep={self.ep} devices")
            if spec.experts.num % self.ep:
                raise ValueError(
                    f"{spec.name}: {spec.experts.num} experts are not a multiple of ep={self.ep}"
                )


def _shared_heads(spec: ModelSpec) -> list[int]:
    """The numbers of devices of which several hold the same KV head, each with as many query heads of it."""
    return [n * spec.num_kv_heads for n in divisors(spec.num_heads // spec.num_kv_heads)[1:]]


def divisors(n: int) -> list[int]:
    """The divisors of n, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]
