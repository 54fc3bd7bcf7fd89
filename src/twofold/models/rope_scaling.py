"""Stretched rotary frequencies, as the configurations of checkpoints state them."""

from __future__ import annotations

import math

from twofold.models.spec import RopeScaling


def yarn(
    *,
    dim: int,
    theta: float,
    factor: float,
    original_context: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    attention_factor: float | None = None,
    truncate: bool = True,
) -> RopeScaling:
    """YaRN (arXiv 2309.00071, section 3.2) with its blend of interpolated and kept frequencies as explicit
    divisors.

    dim: rotating elements of a head; theta: base of the frequencies. Frequencies that turn more than
    `beta_fast` times in the original context are kept, those that turn less than `beta_slow` times are
    divided by `factor`, linear in between. `attention_factor` is 0.1·ln(factor) + 1 where it is not given.
    The result is of kind "longrope", which is what divisors given one by one are called, with the same ones
    for every context.
    """

    def dimension(turns: float) -> float:
        return dim * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(beta_fast), dimension(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    divisors = []
    for index in range(dim // 2):
        interpolated = min(max((index - low) / (high - low), 0.0), 1.0)
        divisors.append(1.0 / (interpolated / factor + 1.0 - interpolated))
    if attention_factor is None:
        attention_factor = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    return RopeScaling(
        kind="longrope",
        factor=factor,
        original_context=original_context,
        short=tuple(divisors),
        long=tuple(divisors),
        attention_factor=attention_factor,
    )


def longrope(
    *,
    dim: int,
    short: list[float],
    long: list[float],
    original_context: int,
    max_context: int,
    factor: float | None = None,
    attention_factor: float | None = None,
) -> RopeScaling:
    """LongRoPE (arXiv 2402.13753): one divisor per frequency, `short` within the original context and `long`
    beyond it.

    `factor` is max_context / original_context and `attention_factor` sqrt(1 + ln(factor) /
    ln(original_context)) where they are not given. Raises ValueError where a list does not hold one divisor
    for each of the dim / 2 frequencies.
    """
    for name, given in (("short", short), ("long", long)):
        if len(given) != dim // 2:
            raise ValueError(
                f"rope scaling: {name} factors are {len(given)}, "
                f"one for each of {dim // 2} frequencies wanted"
            )
    factor = factor if factor is not None else max_context / original_context
    if attention_factor is None:
        attention_factor = math.sqrt(1 + math.log(factor) / math.log(original_context)) if factor > 1 else 1.0
    return RopeScaling(
        kind="longrope",
        factor=factor,
        original_context=original_context,
        short=tuple(short),
        long=tuple(long),
        attention_factor=attention_factor,
    )
