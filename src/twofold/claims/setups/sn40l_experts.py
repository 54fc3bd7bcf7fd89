"""A composition of experts: a router reads every prompt and names one of many models, which is copied to
where it can run unless it is there already, and answers the prompt.

The memory beside the arithmetic holds the router and as many experts as fit, the least recently used one
leaving first; all experts lie in the larger memory behind it. Both a node of SN40L and one of GPUs are
charged for the same ops: the requests of router and expert, played by the engine, and a `Copy` for every
expert that is not there.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from functools import cache
from typing import NamedTuple

from twofold.claims.setups.inference import inference
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import make_device
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.ops import Copy
from twofold.ops.base import DEVICE, HOST

MODEL, TP = "llama-2-7b", 8
PROMPT = 200
"""Tokens of a prompt. Assumption: those of the published table of Llama 2 latencies that the source takes for
the GPUs."""
PROMPTS = 20_000
"""Of the stream that a share of misses is counted on."""


class Node(NamedTuple):
    """Eight devices. serving: the software on them; host_bytes: of the memory that holds all experts; links:
    how many of their ways from there a copy takes at a time."""

    device: str
    serving: str
    host_bytes: float
    links: int


SN40L = Node("sn40l", "plain", 8 * 1.5 * 2**40, 8)
DGX_A100 = Node("a100-80g-sxm", "trtllm-offline", 2e12, 1)
DGX_H100 = Node("h100-sxm", "trtllm-offline", 2e12, 1)
"""Two terabytes of host memory each (datasheets), and, as the source counts, one PCIe link at a time."""


def device_of(node: Node) -> ModelledDevice:
    """One of its eight."""
    device = make_device(node.device, tp=TP)
    assert isinstance(device, ModelledDevice)
    return device


@cache
def expert_bytes() -> int:
    """Of an expert's weights, in 16 bits."""
    return build_model(get_spec(MODEL), ModelOptions(precision="bf16")).weight_bytes()


def resident(node: Node) -> int:
    """Experts that fit beside the router into the memories of a node's devices."""
    return TP * device_of(node).memory[DEVICE] // expert_bytes() - 1


def held(node: Node) -> int:
    """Experts that the larger memory holds."""
    return int(node.host_bytes // expert_bytes())


def misses(experts: int, room: int, seed: int = 0) -> float:
    """The share of prompts whose expert, one of `experts` by chance, is not among the `room` used last."""
    draw = random.Random(seed)
    there: OrderedDict[int, None] = OrderedDict((expert, None) for expert in range(min(room, experts)))
    missed = 0
    for _ in range(PROMPTS):
        expert = draw.randrange(experts)
        if expert in there:
            there.move_to_end(expert)
            continue
        missed += 1
        there[expert] = None
        if len(there) > room:
            there.popitem(last=False)
    return missed / PROMPTS


def switch_seconds(node: Node, links: int | None = None) -> float:
    """Of bringing an expert from the larger memory, over `links` ways at a time."""
    device = device_of(node)
    op = Copy(expert_bytes() // (links or node.links), HOST, DEVICE, "weights")
    return device.charge(op, op.cost()).seconds


@cache
def expert_seconds(node: Node, output: int) -> float:
    """Of an expert that answers one prompt."""
    return inference(device_of(node), MODEL, PROMPT, output, node.serving, precision="bf16").seconds


@cache
def router_seconds(node: Node, batch: int) -> float:
    """Of the router, which reads a batch of prompts and names an expert for each."""
    on = device_of(node)
    return inference(on, MODEL, PROMPT, 1, node.serving, precision="bf16", requests=batch).seconds


def answer_seconds(node: Node, experts: int, batch: int, output: int, links: int | None = None) -> float:
    """Of a batch of prompts: the router reads all, then each expert that is not there is copied, and answers
    its prompt, one after the other."""
    missed = misses(experts, resident(node))
    each = missed * switch_seconds(node, links) + expert_seconds(node, output)
    return router_seconds(node, batch) + batch * each
