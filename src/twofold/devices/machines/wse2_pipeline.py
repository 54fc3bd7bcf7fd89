"""The same wafer as WaferLLM's, with what Cerebras' own examples do: sums from core to core and SUMMA.

Source: He et al., "WaferLLM" (arXiv:2502.04563; OSDI 2025), sections 5.1 and 6.1: GEMV by an all-reduce that
is a pipeline of cores to one end and back, GEMM by broadcasts of tiles along rows and columns. A baseline:
only how cores talk differs.
"""

from __future__ import annotations

from twofold.devices.machines.waferllm import WaferLlm


class Wse2Pipeline(WaferLlm):
    """See `WaferLlm`."""

    name = "wse2-pipeline"
    title = "Cerebras WSE-2 with pipelined all-reduce and SUMMA"
    source = "baselines of WaferLLM, arXiv:2502.04563; OSDI 2025"
    note = "not validated by measurement"
    reduction = "pipeline"
    shifting = "summa"


MACHINE = Wse2Pipeline
