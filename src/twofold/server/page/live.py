"""What the server does now, for the instruments beside the chat."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from twofold.jobs.predict import label_of

if TYPE_CHECKING:
    from twofold.server.service import Service


def live(service: Service) -> dict[str, Any]:
    """`model, label` (of the plan's techniques), `techniques, limits` (None until a worker is ready),
    `waiting, running`, and `workers`: by name, the fields of its newest snapshot."""
    ready = service.ready
    return {
        "model": service.model_name,
        "label": label_of(service.plan),
        "techniques": [use.model_dump(mode="json") for use in service.plan.techniques],
        "limits": None
        if ready is None
        else {
            "max_context": ready.max_context,
            "max_num_seqs": ready.max_num_seqs,
            "block_size": ready.block_size,
            "num_blocks": ready.num_blocks,
        },
        "waiting": service.num_waiting,
        "running": service.num_running,
        "workers": {name: dataclasses.asdict(seen) for name, seen in service.snapshots().items()},
    }
