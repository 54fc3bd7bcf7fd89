"""Reference kernels in plain torch. Importing this package fills `kernels.registry.REFERENCE`."""

from twofold.kernels.reference import (
    attention,
    compaction,
    convolution,
    elementwise,
    linear,
    movement,
    schedules,
)

__all__ = ["attention", "compaction", "convolution", "elementwise", "linear", "movement", "schedules"]
