"""The load that a server of this package was given, played by its plan on a modelled device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twofold.engine.build import Progress
from twofold.engine.engine import Prompt
from twofold.engine.request import SamplingParams
from twofold.jobs.compare import with_derived
from twofold.jobs.predict import predict_plan
from twofold.loadgen.client import EndpointKind, Exchange
from twofold.loadgen.session import Point
from twofold.plan import Plan
from twofold.report.schema import Result
from twofold.workloads.workload import Item, Workload

if TYPE_CHECKING:
    from twofold.models.tensors import Tokenizer


def served_plan(about: Mapping[str, Any]) -> Plan:
    """The plan of the server that said `about` (GET /plan), with the defaults that its engine decided.
    ValueError where this version does not know such a plan."""
    return with_derived(Plan.from_dict(about["given"], "the server's plan"), about["derived"])


def predict_point(
    plan: Plan,
    device: str,
    point: Point,
    tokenizer: Tokenizer | None,
    endpoint: EndpointKind,
    progress: Progress | None = None,
) -> Result:
    """What `plan` on `device` makes of the requests of `point` that were answered: sent at the same times (or
    by as many clients), with the same prompts and lengths. ValueError where it cannot be predicted."""
    workload = as_workload(point, tokenizer, endpoint)
    return predict_plan(plan, device, workload=workload, progress=progress)


def as_workload(point: Point, tokenizer: Tokenizer | None, endpoint: EndpointKind) -> Workload:
    """The answered requests of `point`. Prompts are token ids where these are known, so that what requests
    share is found in the cache; else numbers of tokens."""
    items = [
        Item(
            x.intended,
            _prompt(x, tokenizer, endpoint),
            SamplingParams(max_tokens=x.output_tokens, ignore_eos=True),
        )
        for x in point.exchanges
        if x.error is None and x.output_tokens
    ]
    if not items:
        raise ValueError("no request was answered, so there is nothing to predict")
    start = items[0].time
    items = [item._replace(time=item.time - start) for item in items]
    return Workload(items, point.load.concurrency, str(point.load))


def _prompt(exchange: Exchange, tokenizer: Tokenizer | None, endpoint: EndpointKind) -> Prompt:
    told = exchange.prompt_tokens
    if tokenizer is not None:
        text = exchange.ask.text
        try:
            if endpoint == "chat":
                text = tokenizer.chat([{"role": "user", "content": text}])
            ids = tokenizer.encode(text)
        except ValueError:
            ids = []
        if ids and told in (None, len(ids)):
            return ids
    return told or max(1, exchange.ask.prompt_tokens)
