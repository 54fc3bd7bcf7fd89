"""Serving software as the engine imitates it: the scheduler's defaults, what the host does in a step, what
lies between a client and the engine. One YAML file each in `serving/`, found by name.

A figure is the same for all models and devices: `{value: 2 ms, source: fit}`, where `source` is a key of the
file's `sources`.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from twofold.devices.efficiency.kernels import Kernels
from twofold.devices.figures import Count, Figure, Ratio, Seconds, Strict
from twofold.errors import nearest
from twofold.plan import EnginePlan, Plan

PLAIN = "plain"


class SchedulerDefaults(Strict):
    """What the software schedules by where its user says nothing. None: the engine's own default."""

    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    block_size: Count | None = None
    memory_share: Ratio | None = None
    chunked_prefill: bool | None = None
    prefix_caching: bool | None = None
    policy: Literal["mixed", "prefill-first"] | None = None
    source: str = ""


class HostWork(Strict):
    """What the host does in a step.

    step, sequence, token: seconds per step, per sequence and per token in it; overlapped: the host prepares a
    step while the device computes the one before, so that new requests wait for one more; launch: seconds to
    launch an op; graph_seqs: the largest batch of decodes that is launched as one captured graph.
    """

    step: Seconds
    sequence: Seconds
    token: Seconds
    overlapped: bool
    launch: Seconds
    graph_seqs: Count


class Frontend(Strict):
    """What lies between clients and the engine: requests are taken in one after the other, and so are tokens
    handed out.

    request, prompt_token: seconds to take a request in (HTTP, tokenising), per request and per token of its
    prompt; streamed_token: seconds to hand on one token (detokenising, an event of the stream); response:
    seconds that an answer is under way besides.
    """

    request: Seconds
    prompt_token: Seconds
    streamed_token: Seconds
    response: Seconds


class OwnKernels(Strict):
    """How the software's kernels differ from those that a generation's efficiencies were measured with: see
    `devices.efficiency.kernels.Kernels`."""

    narrow: Ratio | None = None
    decode: Ratio | None = None


class ServingProfile(Strict):
    """One serving software. host, frontend: None where they take no time; kernels: by generation, those that
    are the software's own."""

    name: str
    title: str
    sources: dict[str, str] = Field(default_factory=dict)
    scheduler: SchedulerDefaults = SchedulerDefaults()
    host: HostWork | None = None
    frontend: Frontend | None = None
    kernels: dict[str, OwnKernels] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sourced(self) -> ServingProfile:
        for part in (self.scheduler, self.host, self.frontend, *self.kernels.values()):
            for name, value in part or ():
                key = value.source if isinstance(value, Figure) else None
                if key is not None and key not in self.sources:
                    raise ValueError(
                        f"{self.name}: {name} names source {key!r}; {nearest(key, self.sources)}"
                    )
        return self

    def kernels_on(self, generation: str) -> Kernels:
        """The factors by which the software's kernels differ on a generation of devices."""
        own = self.kernels.get(generation, ())
        return Kernels(**{name: figure.value for name, figure in own if figure is not None})

    def fill(self, plan: Plan) -> Plan:
        """`plan` with the software's scheduler defaults where it gives no value of its own."""
        engine = plan.engine
        found: dict[str, Any] = {}
        for name, value in self.scheduler:
            if value is None or name == "source" or name in engine.model_fields_set:
                continue
            whole = isinstance(value, Figure) and EnginePlan.model_fields[name].annotation is not float
            found[name] = int(value.value) if whole else getattr(value, "value", value)
        return plan.model_copy(update={"engine": engine.model_copy(update=found)}) if found else plan


def serving_names() -> list[str]:
    """Names of the profiles, sorted."""
    names = (resources.files("twofold.engine") / "serving").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in names if f.name.endswith(".yaml"))


@cache
def get_serving(name: str) -> ServingProfile:
    """The profile called `name`; ValueError with the nearest name where there is none."""
    if name not in serving_names():
        raise ValueError(f"unknown serving software {name!r}; {nearest(name, serving_names())}")
    file = resources.files("twofold.engine") / "serving" / f"{name}.yaml"
    return ServingProfile(**yaml.safe_load(file.read_text(encoding="utf-8")))


def served(plan: Plan) -> Plan:
    """`plan` with the defaults of the serving software that it names. ValueError for an unknown one."""
    return get_serving(plan.engine.serving).fill(plan)
