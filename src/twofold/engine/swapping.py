"""Swapping: how caches of preempted requests go to host memory and come back. A technique's seam."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Swapping:
    """group: blocks that a request's cache is laid out in a row by, on the device and in host memory (0: as
    they come); overlapped: copies go on beside the computation of a step, which takes part in neither;
    reuse: copies of full blocks stay in host memory when a request comes back, so that only newer blocks are
    copied when it goes again, and when it ends, so that the next turn of a conversation finds its beginning
    there.
    """

    group: int = 0
    overlapped: bool = False
    reuse: bool = False


PLAIN_SWAPPING = Swapping()
