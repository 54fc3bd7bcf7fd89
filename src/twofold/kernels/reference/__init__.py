"""Reference kernels in plain torch. Importing this package fills `kernels.registry.REFERENCE`."""

from twofold.kernels.reference import attention, elementwise, linear, movement

__all__ = ["attention", "elementwise", "linear", "movement"]
