"""Cambricon-LLM-S: 8 channels of 2 flash chips; see `cambricon_llm`."""

from __future__ import annotations

from twofold.devices.machines.cambricon_llm import CambriconLlm, with_flash


class CambriconLlmS(CambriconLlm):
    """The machine with a sixteenth of the flash dies."""

    name = "cambricon-llm-s"
    title = "Cambricon-LLM-S: NPU and flash chiplets with cores on the flash dies"
    usual = with_flash(8, 2)


MACHINE = CambriconLlmS
