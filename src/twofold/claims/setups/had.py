"""Claims of arXiv:2502.01770 on custom hardware: the area and the power that binary attention saves.

The source simulates a circuit of its own; here both are blocks of the machines `had` and
`standard-attention`, counted from the same units and memories, at equal throughput: an entry in every cycle.
"""

from __future__ import annotations

from dataclasses import fields

from twofold.claims.ledger import Outcome
from twofold.claims.setups.batch import BatchLoad, predicted_engine, predicted_seconds
from twofold.devices.machine import Machine
from twofold.devices.machines.had import Had
from twofold.devices.machines.standard_attention import AttentionFigures, StandardAttention
from twofold.techniques.attention.had import Had as HadTechnique

CLAIMS = tuple(claim for claim in HadTechnique.claims if claim.setup is not None)

HEADLINE = "share of the area of an attention block that signs save"
SHOWN = {
    "model": "gpt2-xl",
    "techniques": ["had"],
    "workload": {"requests": 1, "prompt": 768, "output": 32},
}
_LOAD = BatchLoad(1, 1, 1023)
_MODEL = "gpt2-xl"


def headline(machine: Machine) -> float:
    """See HEADLINE."""
    assert isinstance(machine, Had)
    return 1 - machine.block_mm2 / _standard(machine).block_mm2


def _standard(machine: Had) -> StandardAttention:
    """Its counterpart in the same surroundings."""
    f = machine.figures
    return StandardAttention(
        AttentionFigures(**{each.name: getattr(f, each.name) for each in fields(AttentionFigures)})
    )


def area() -> Outcome:
    """Share of a block's area that is saved."""
    had, standard = Had(), StandardAttention()
    f = had.figures
    saved = 1 - had.block_mm2 / standard.block_mm2
    memory = had.logic.sram_area(2 * f.context * f.dim)
    units = 1 - (had.block_mm2 - memory) / (standard.block_mm2 - memory)
    return Outcome(
        (saved, saved),
        f"{standard.block_mm2:.2f} mm2 shrink to {had.block_mm2:.2f}, {memory:.2f} of which hold the values, "
        f"in 16 bits as before; without this memory {units:.2f} would be saved. That values of few entries "
        "need few multipliers is taken for granted. The source's circuit could not be read",
        _how(had),
    )


def power() -> Outcome:
    """Share of a block's power that is saved."""
    had, standard = Had(), StandardAttention()
    saved = 1 - had.block_watts / standard.block_watts
    seconds = [_attention_seconds(*each) for each in (("standard-attention", []), ("had", ["had"]))]
    return Outcome(
        (saved, saved),
        f"{standard.entry_joules * 1e12:.0f} pJ an entry shrink to {had.entry_joules * 1e12:.0f}: keys are "
        "read and compared as bits, and values of 12 % of the entries are read and multiplied at all. "
        "Clocks, wires and leakage, which the source's figure may include, are left out",
        f"{_how(had)}; {_MODEL} with {_LOAD.output} tokens out, predicted: attention takes "
        f"{seconds[0] * 1e3:.0f} ms on standard-attention and {seconds[1] * 1e3:.0f} ms on had",
    )


def _how(had: Had) -> str:
    f = had.figures
    return f"counted: units and memories at {f.node:g} nm, a head of {f.dim}, {f.kept} entries of {f.context}"


def _attention_seconds(device: str, techniques: list[str]) -> float:
    engine = predicted_engine(_MODEL, device, techniques, _LOAD)
    predicted_seconds(engine, _LOAD)
    totals = engine.device.totals
    return totals["attention"].seconds
