"""Cambricon-LLM-M: 16 channels of 4 flash chips; see `cambricon_llm`."""

from __future__ import annotations

from twofold.devices.machines.cambricon_llm import CambriconLlm, with_flash


class CambriconLlmM(CambriconLlm):
    """The machine with a quarter of the flash dies."""

    name = "cambricon-llm-m"
    title = "Cambricon-LLM-M: NPU and flash chiplets with cores on the flash dies"
    usual = with_flash(16, 4)


MACHINE = CambriconLlmM
