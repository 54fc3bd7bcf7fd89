"""FlightLLM on the Versal VHK158: a core more, and HBM2e of nearly twice the bandwidth. The source simulates
this machine with the profiler of its artefact."""

from __future__ import annotations

from twofold.devices.machines.flightllm import ARTEFACT, PAPER, SOURCES, FlightLlm, FlightLlmFigures


class FlightLlmVhk158(FlightLlm):
    """The modelled machine. `figures`: its numbers."""

    name = "flightllm-vhk158"
    title = "FlightLLM on a Versal VHK158: chains of DSP58 with HBM2e"
    sources = SOURCES | {
        "cores": ARTEFACT + "config.yaml: SLR_NUM",
        "channel_bandwidth": ARTEFACT + "config.yaml: 819.2 GB/s over 32 channels",
        "static_watts": "assumption: as the U280's for each core; no figure of this board was found",
        "memory_bytes": "AMD PG313: two stacks of HBM2e of up to 16 GB; the VHK158 has the larger (assumed)",
    }
    default = FlightLlmFigures(
        cores=4, channel_bandwidth=819.2e9 / 32, static_watts=52.7, memory_bytes=32 << 30
    )
    source = f"FlightLLM, FPGA 2024, {PAPER}, simulated there too"


MACHINE = FlightLlmVhk158
