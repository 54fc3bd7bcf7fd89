"""`bench serve`: a server under load, measured from outside, with the prediction beside each figure where the
server is one of ours."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from twofold.cli import load_options as options
from twofold.cli import output, read, served
from twofold.cli.errors import FAILED, complain

if TYPE_CHECKING:
    from twofold.models.tensors import Tokenizer


def bench_serve(
    url: options.Url = "http://127.0.0.1:8000",
    concurrency: options.Concurrency = None,
    rate: options.Rate = None,
    arrivals: options.ArrivalKind = "poisson",
    burstiness: options.Burstiness = 1.0,
    trace: options.Trace = None,
    speed_up: options.SpeedUp = 1.0,
    requests: options.Requests = None,
    duration: options.Duration = None,
    seed: options.Seed = None,
    prompt: options.PromptLength = "256",
    answer: options.OutputLength = "64",
    prompts: options.Prompts = None,
    shared_prefix: options.SharedPrefix = 0.0,
    endpoint: options.Endpoint = "chat",
    stream: options.Stream = True,
    model: options.Model = None,
    tokenizer: options.TokenizerOf = None,
    api_key: options.ApiKey = None,
    headers: options.Headers = None,
    timeout: options.Timeout = "600s",
    warm_up: options.WarmUp = 2,
    slo: options.Slo = None,
    here: options.Here = None,
    json: options.Json = False,
    html: options.Html = None,
) -> None:
    """Load an OpenAI-compatible server and measure TTFT, TPOT, ITL, time to the end, throughput and goodput.

    Beside the figures of a `twofold serve` on this machine stands what its plan is predicted to do with the
    same requests; such results are kept with those of `run`.
    """
    from twofold.errors import nearest
    from twofold.loadgen.arrivals import PROCESSES, Arrivals
    from twofold.loadgen.client import ENDPOINTS
    from twofold.loadgen.lengths import Lengths
    from twofold.loadgen.load import Load
    from twofold.loadgen.measure import Objective
    from twofold.loadgen.session import Settings, run_session, sweep

    if endpoint not in ENDPOINTS:
        raise ValueError(f"--endpoint {endpoint!r}: {nearest(endpoint, ENDPOINTS)}")
    if arrivals not in PROCESSES:
        raise ValueError(f"--arrivals {arrivals!r}: {nearest(arrivals, PROCESSES)}")
    given = [
        flag
        for flag, value in (("--concurrency", concurrency), ("--rate", rate), ("--trace", trace))
        if value
    ]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other; give one")
    if rate is None and (arrivals, burstiness) != ("poisson", 1.0):
        raise ValueError("--arrivals and --burstiness shape what arrives at a --rate, and there is none")
    chosen = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    rates = read.numbers(rate) if rate is not None else []
    clients = [] if rates or trace else read.whole_numbers(concurrency or "1")
    first = Load(
        concurrency=clients[0] if clients else None,
        arrivals=Arrivals(rates[0], arrivals, burstiness) if rates else None,
        trace=trace,
        speed_up=speed_up,
        requests=requests,
        duration=read.seconds(duration),
        prompt=Lengths.parse(prompt),
        output=Lengths.parse(answer),
        prompts=_lines(prompts),
        shared_prefix=shared_prefix,
        seed=chosen,
    )
    loads = [first] if trace is not None else sweep(first, concurrencies=clients, rates=rates)
    settings = Settings(
        url=url,
        model=model,
        endpoint=endpoint,
        stream=stream,
        headers=_headers(api_key, headers or []),
        timeout=read.seconds(timeout) or 0.0,
        warm_up=warm_up,
        objective=Objective.parse(slo) if slo is not None else None,
    )
    served.check_stand_in(here)
    complain(str(chosen), "seed")
    found: list[tuple[Tokenizer, str] | None] = []

    def find(name: str) -> tuple[Tokenizer, str] | None:
        found.append(_tokenizer(tokenizer or name, asked=tokenizer is not None))
        return found[0]

    with output.progress_bar() as progress:
        session = run_session(settings, loads, find, progress)
    shown = served.predict(session, here, found[0] if found else None)
    served.show(session, shown, json, html)
    if not any(point.measured.completed for point in session.points):
        complain("no request was answered")
        raise typer.Exit(FAILED)


def _lines(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        found = tuple(x for x in path.read_text(encoding="utf-8").splitlines() if x.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompts file {str(path)!r} cannot be read: {error}") from None
    if not found:
        raise ValueError(f"prompts file {str(path)!r} is empty; write one prompt per line")
    return found


def _headers(api_key: str | None, given: list[str]) -> dict[str, str]:
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or any(c in text for c in "\r\n"):
            raise ValueError(f"--header {text!r}: write NAME:VALUE")
        headers[name.strip()] = value.strip()
    return headers


def _tokenizer(name: str, *, asked: bool) -> tuple[Tokenizer, str] | None:
    """The tokenizer of the model called `name`, where it is at hand; ValueError where it was asked for and is
    not."""
    from twofold.models.find import find_tokenizer_source

    try:
        source = find_tokenizer_source(name)
    except (ValueError, OSError):
        if asked:
            raise
        return None
    if source is None or source.tokenizer is None:
        if asked:
            why = source.tokenizer_problem if source is not None else "the model is not at hand"
            raise ValueError(f"--tokenizer {name}: {why}")
        return None
    return source.tokenizer, name
