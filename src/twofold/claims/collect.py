"""All claims there are: of every technique, of every machine that its source compares with something, and of
every tool."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from twofold.claims.ledger import Claims
from twofold.claims.setups import io_attention, longctx
from twofold.devices.registry import MACHINES
from twofold.techniques.base import Claim
from twofold.techniques.registry import technique_class, technique_names

_SETUPS = "twofold.claims.setups"


def machine_claims(name: str) -> Sequence[Claim]:
    """What the source of the machine called `name` claims; nothing for one that is only a baseline."""
    module = f"{_SETUPS}.{name.replace('-', '_')}"
    if find_spec(module) is None:
        return ()
    claims: Sequence[Claim] = getattr(import_module(module), "CLAIMS", ())
    return claims


def _own_claims(name: str) -> Sequence[Claim]:
    """Of a machine, those that are not of the technique of the same name, whose hardware it is."""
    technique = technique_class(name).claims if name in technique_names() else ()
    return [claim for claim in machine_claims(name) if claim not in technique]


def all_claims(only: str | None = None) -> list[Claims]:
    """The claims of each system, techniques first; with `only`, of the system of that name. ValueError for an
    unknown one."""
    systems = [Claims(name, "technique", technique_class(name).claims) for name in technique_names()]
    systems += [Claims(name, "device", claims) for name in MACHINES if (claims := _own_claims(name))]
    systems.append(Claims("longctx", "tool", longctx.CLAIMS))
    systems.append(Claims("io-attention", "tool", io_attention.CLAIMS))
    if only is None:
        return systems
    found = [system for system in systems if system.system == only]
    if not found:
        from twofold.errors import nearest

        raise ValueError(f"unknown system {only!r}; {nearest(only, [system.system for system in systems])}")
    return found
