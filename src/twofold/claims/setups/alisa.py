"""Claims of arXiv:2403.17312 on throughput: prompts of 128 tokens, 512 tokens out, a batch of 64, the largest
of its figure 9; OPT-6.7B and OPT-13B on a V100 with 32 GB, OPT-30B and LLaMA-33B on an H100 with 80 GB, all
in fp16 with 20 GB/s to the host.

FlexGen keeps all weights on the GPU, as the source has it do, and the caches of as many layers as fit; to the
rest the host attends, as FlexGen's own search for a policy has it (experimental/cost_model.py,
cpu_cache_compute): what then crosses the link is too little to count, and the host's memory is what is read.
Which processor the source has could not be read: a Xeon Gold 6154 is assumed. vLLM is the engine alone, where
requests wait for room. ALISA has the source's caching ratio and codes; p1 is the
most that fits beside the inputs of what is deleted, which is searched for as the source does. Throughput
counts generated tokens over the time of prompts and generation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from twofold.claims.ledger import Outcome
from twofold.devices.base import Device
from twofold.devices.catalog import get_device
from twofold.devices.cluster import Cluster
from twofold.devices.figures import Figure
from twofold.devices.registry import make_device
from twofold.devices.roofline import Roofline
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.memory import DoesNotFitError
from twofold.engine.request import SamplingParams
from twofold.models.catalog import get_spec
from twofold.plan import Plan

_PROMPT, _OUTPUT, _BATCH = 128, 512, 64
_LENGTH, _BLOCK = _PROMPT + _OUTPUT, 16
_PLACES = (
    ("opt-6.7b", "v100-32g-sxm2"),
    ("opt-13b", "v100-32g-sxm2"),
    ("opt-30b", "h100-pcie"),
    ("llama-33b", "h100-pcie"),
)
_LINK = 20e9
"""Bytes/s between GPU and host."""
_HOST = "xeon-6154"
_DELETED = (0, 64, 128)
"""Tokens of a sequence that phase III may delete, of which the best number is taken."""


def _host_bandwidth() -> float:
    """Bytes/s at which the host's processor goes through its memory."""
    host = make_device(_HOST)
    assert isinstance(host, Roofline)
    return host.bandwidth


def _device(name: str, to_host: float = _LINK) -> Device:
    """The device, with bytes/s at which a cache on the host is gone through: by the source's link where the
    device attends."""
    file = get_device(name)
    assert file.host is not None
    source = {"alisa": "arXiv:2403.17312, section VI.A"}
    host = file.host.model_copy(update={"bandwidth": Figure(value=to_host, source="alisa")})
    return Cluster(file.model_copy(update={"host": host, "sources": file.sources | source})).rank()


@dataclass(frozen=True, slots=True)
class _Place:
    """A model on a device."""

    model: str
    device: str

    def engine(self, technique: str, *, together: bool, to_host: float = _LINK) -> Engine:
        """An engine with `technique` ("": none). together: DoesNotFitError where not all requests fit at
        their full length; to_host: see `_device`."""
        limits = {"max_num_seqs": _BATCH, "max_context": _LENGTH, "block_size": _BLOCK}
        if together:
            limits["cache_blocks"] = _BATCH * _LENGTH // _BLOCK
        plan = Plan.from_dict(
            {
                "model": self.model,
                "precision": "fp16",
                "techniques": [technique] if technique else [],
                "workload": {"requests": _BATCH, "prompt": _PROMPT, "output": _OUTPUT},
                "engine": limits,
            }
        )
        return build_engine(plan, _device(self.device, to_host), get_spec(self.model))

    def seconds(self, technique: str, *, together: bool, to_host: float = _LINK) -> float:
        """From the arrival of all prompts to the last token of all."""
        engine = self.engine(technique, together=together, to_host=to_host)
        params = SamplingParams(max_tokens=_OUTPUT, ignore_eos=True)
        engine.play((0.0, _PROMPT, params) for _ in range(_BATCH))
        engine.check_techniques()
        return engine.clock.now()

    def most(self, technique: Callable[[int], str], most: int) -> int | None:
        """The greatest number up to `most` for which `technique` fits with all requests; None: not even 1."""
        low, high = 0, most + 1
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self.engine(technique(middle), together=True)
            except DoesNotFitError:
                high = middle
            else:
                low = middle
        return low or None

    def flexgen(self) -> float:
        """Seconds with the caches of as many layers on the device as fit; all of them: the engine alone."""
        layers = get_spec(self.model).num_layers

        def uses(device_layers: int) -> str:
            if device_layers == layers:
                return ""
            return f"flexgen-offload:weights_device=1,cache_device={device_layers / layers}"

        return self.seconds(uses(self.most(uses, layers) or 0), together=True, to_host=_host_bandwidth())

    def alisa(self, deleted: int) -> float | None:
        """Seconds where phase III, once they are on the host, deletes so many tokens; None: does not fit."""

        def uses(p1: int) -> str:
            p2 = p1 + max(1, deleted)
            return f"alisa:p1={p1},p2={p2},beta={deleted / p2}"

        p1 = self.most(uses, _LENGTH - deleted)
        return None if p1 is None else self.seconds(uses(p1), together=True)


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds of the whole batch. alisa: by tokens that are deleted."""

    flexgen: float
    vllm: float
    alisa: dict[int, float]

    @property
    def best(self) -> int:
        """The number of deleted tokens with which ALISA is fastest."""
        return min(self.alisa, key=self.alisa.__getitem__)


@cache
def _times(model: str, device: str) -> _Times:
    place = _Place(model, device)
    found = {deleted: place.alisa(deleted) for deleted in _DELETED}
    return _Times(
        place.flexgen(),
        place.seconds("", together=False),
        {deleted: seconds for deleted, seconds in found.items() if seconds is not None},
    )


def _setting(line: Callable[[_Times], str]) -> str:
    return "predicted: batch of 64, 128 tokens in, 512 out, fp16, 20 GB/s to the host: " + "; ".join(
        f"{model} on {device}: {line(_times(model, device))}" for model, device in _PLACES
    )


def _speeds(name: str) -> tuple[list[float], str]:
    """Seconds of the baseline `name` over ALISA's for every model, and how they came about."""
    times = [_times(*place) for place in _PLACES]
    ratios = [getattr(t, name) / t.alisa[t.best] for t in times]

    def line(t: _Times) -> str:
        return f"{getattr(t, name):.0f} s, ALISA {t.alisa[t.best]:.0f} s ({t.best} tokens deleted)"

    return ratios, _setting(line)


def over_flexgen() -> Outcome:
    """Throughput over that of FlexGen, at best."""
    ratios, how = _speeds("flexgen")
    return Outcome(
        (max(ratios), max(ratios)),
        "the host attends to what does not fit on the GPU, at the pace of its memory, while ALISA fetches "
        "the fifth that it chose: the more lies on the host, the larger the ratio. What the source's own "
        "engine takes beside this, which would bring all ratios down, is not known; the processor is assumed",
        how,
    )


def over_vllm() -> Outcome:
    """Throughput over that of vLLM, at best."""
    ratios, how = _speeds("vllm")
    return Outcome(
        (max(ratios), max(ratios)),
        "with vLLM requests that find no room wait, in batches that still read all weights once a step; "
        "with ALISA all run at once, with cache entries of half the size and a fifth of the attention. What "
        "the source's own engine takes beside this is not known",
        how,
    )


def recomputation() -> Outcome:
    """Time of OPT-30B without recomputation over that with it."""
    times = _times("opt-30b", "h100-pcie")
    with_it = {deleted: seconds for deleted, seconds in times.alisa.items() if deleted}
    ratio = times.alisa[0] / min(with_it.values())
    seconds = ", ".join(f"{s:.1f} s with {deleted} tokens deleted" for deleted, s in times.alisa.items())
    return Outcome(
        (ratio, ratio),
        "one copy brings the chosen entries of all requests, so that fetching takes a few percent of a step "
        "and there is little to save; computing entries again reads the weights of the projections and keeps "
        "their inputs in memory. The source's fetching presumably gathers tokens one by one on the host",
        f"predicted: opt-30b on h100-pcie, batch of 64, 128 tokens in, 512 out: {seconds}",
    )
