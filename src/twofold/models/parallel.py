"""How a model is cut over devices: tensor, pipeline, expert and data parallelism."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Parallel:
    """Degrees of parallelism. The deployment takes tp · pp · dp devices.

    ep spreads experts whole: 1 = every expert is cut `tp` ways; tp = whole experts within each
    tensor-parallel group; tp · dp = whole experts over all replicas, which then exchange tokens.
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
        if spec.num_heads % self.tp:
            raise ValueError(
                f"{spec.name} has {spec.num_heads} heads, which {self.tp} devices cannot share evenly; "
                f"tp may be {divisors(spec.num_heads)}"
            )
        if spec.num_kv_heads % self.tp and self.tp % spec.num_kv_heads:
            raise ValueError(
                f"{spec.name}: tp={self.tp} and {spec.num_kv_heads} KV heads do not divide each other"
            )
        if spec.ffn_hidden % self.tp:
            raise ValueError(f"{spec.name}: MLP width {spec.ffn_hidden} is not a multiple of tp={self.tp}")
        if self.pp > spec.num_layers:
            raise ValueError(f"{spec.name} has {spec.num_layers} layers, fewer than pp={self.pp} stages")
        if self.ep > 1:
            if spec.experts is None:
                raise ValueError(f"{spec.name} has no experts to spread over ep={self.ep} devices")
            if spec.experts.num % self.ep:
                raise ValueError(
                    f"{spec.name}: {spec.experts.num} experts are not a multiple of ep={self.ep}"
                )


def divisors(n: int) -> list[int]:
    """The divisors of n, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]
