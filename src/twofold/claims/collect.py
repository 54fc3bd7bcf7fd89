"""All claims there are: of every technique, of every machine that its source compares with something, and of
every tool."""

from __future__ import annotations

from twofold.claims.ledger import Claims
from twofold.claims.setups import io_attention, longctx, pim_gpt
from twofold.techniques.registry import technique_class, technique_names


def all_claims(only: str | None = None) -> list[Claims]:
    """The claims of each system, techniques first; with `only`, of the system of that name. ValueError for an
    unknown one."""
    systems = [Claims(name, "technique", technique_class(name).claims) for name in technique_names()]
    systems.append(Claims("pim-gpt", "device", pim_gpt.CLAIMS))
    systems.append(Claims("longctx", "tool", longctx.CLAIMS))
    systems.append(Claims("io-attention", "tool", io_attention.CLAIMS))
    if only is None:
        return systems
    found = [system for system in systems if system.system == only]
    if not found:
        from twofold.errors import nearest

        raise ValueError(f"unknown system {only!r}; {nearest(only, [system.system for system in systems])}")
    return found
