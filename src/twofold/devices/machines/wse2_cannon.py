"""The same wafer as WaferLLM's, with what supercomputers and pods of GPUs do: Cannon and ring all-reduce.

Source: He et al., "WaferLLM" (arXiv:2502.04563; OSDI 2025), sections 5.1 and 6.1: tiles go from neighbour to
neighbour, and from the last core of a line all the way back to the first. A baseline: only how cores talk
differs.
"""

from __future__ import annotations

from twofold.devices.machines.waferllm import WaferLlm


class Wse2Cannon(WaferLlm):
    """See `WaferLlm`."""

    name = "wse2-cannon"
    title = "Cerebras WSE-2 with ring all-reduce and Cannon's algorithm"
    source = "baselines of WaferLLM, arXiv:2502.04563; OSDI 2025"
    note = "not validated by measurement"
    reduction = "ring"
    shifting = "cannon"


MACHINE = Wse2Cannon
