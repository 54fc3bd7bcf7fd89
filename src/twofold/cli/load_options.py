"""The options of `bench serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_LOAD, _REQUESTS, _CONNECTION, _REPORT = "Load", "Requests", "Connection", "Report"
_LENGTHS = "N|LOW-HIGH|normal:MEAN,SD|lognormal:MEAN,SD"


def _option(flags: str, panel: str, help: str, **rest: Any) -> Any:
    return typer.Option(flags, help=help, rich_help_panel=panel, **rest)


Url = Annotated[str, typer.Argument(help="The server.")]
Concurrency = Annotated[
    str | None,
    _option(
        "--concurrency",
        _LOAD,
        "Closed loop: so many clients, each sending again when it was answered; several with commas "
        "(default: 1).",
        metavar="N,N,…",
        show_default=False,
    ),
]
Rate = Annotated[
    str | None,
    _option(
        "--rate",
        _LOAD,
        "Open loop: so many requests arrive per second, whatever is unanswered; several with commas.",
        metavar="R,R,…",
        show_default=False,
    ),
]
ArrivalKind = Annotated[
    str, _option("--arrivals", _LOAD, "How they arrive at a rate: poisson, constant or gamma.")
]
Burstiness = Annotated[float, _option("--burstiness", _LOAD, "Shape of gamma arrivals: below 1 in bursts.")]
Trace = Annotated[
    Path | None,
    _option(
        "--trace", _LOAD, "Open loop: a CSV file of arrival times and lengths, instead.", show_default=False
    ),
]
SpeedUp = Annotated[float, _option("--speed-up", _LOAD, "How many times as fast to play it.")]
Requests = Annotated[
    int | None,
    _option(
        "--requests",
        _LOAD,
        "Requests per load, at most (default: 8 per client, 30 s at a rate, the whole trace).",
        show_default=False,
    ),
]
Duration = Annotated[
    str | None, _option("--duration", _LOAD, "Send nothing after so long: 60s, 300.", show_default=False)
]
Seed = Annotated[
    int | None,
    _option(
        "--seed",
        _LOAD,
        "Of texts, lengths and arrivals (default: a new one, so that no cache knows the texts).",
        show_default=False,
    ),
]
PromptLength = Annotated[str, _option("--prompt", _REQUESTS, "Tokens per prompt.", metavar=_LENGTHS)]
OutputLength = Annotated[str, _option("--output", _REQUESTS, "Tokens per answer.", metavar=_LENGTHS)]
Prompts = Annotated[
    Path | None,
    _option("--prompts", _REQUESTS, "A file with one prompt per line, instead.", show_default=False),
]
SharedPrefix = Annotated[
    float,
    _option("--shared-prefix", _REQUESTS, "Share of each prompt that all have in common, from 0 to 1."),
]
Endpoint = Annotated[str, _option("--endpoint", _REQUESTS, "chat or completions.")]
Stream = Annotated[bool, _option("--stream/--no-stream", _REQUESTS, "Whether answers are streamed.")]
Model = Annotated[
    str | None,
    _option(
        "--model",
        _REQUESTS,
        "The model's name there (default: the first that the server lists).",
        show_default=False,
    ),
]
TokenizerOf = Annotated[
    str | None,
    _option(
        "--tokenizer",
        _REQUESTS,
        "A model or its path, whose tokenizer counts (default: that of the server's model where it is at "
        "hand, else the server's /tokenize, else words).",
        show_default=False,
    ),
]
ApiKey = Annotated[
    str | None,
    _option(
        "--api-key",
        _CONNECTION,
        "Sent as a bearer token.",
        envvar="TWOFOLD_API_KEY",
        show_default=False,
    ),
]
Headers = Annotated[
    list[str] | None,
    _option(
        "--header",
        _CONNECTION,
        "Sent with every request; repeat for more.",
        metavar="NAME:VALUE",
        show_default=False,
    ),
]
Timeout = Annotated[str, _option("--timeout", _CONNECTION, "Time per request.")]
WarmUp = Annotated[int, _option("--warm-up", _CONNECTION, "Requests before, not counted.", min=0)]
Slo = Annotated[
    str | None,
    _option(
        "--slo",
        _REPORT,
        "Count as goodput what stays within these: ttft, tpot, e2e.",
        metavar="ttft=500ms,tpot=50ms",
        show_default=False,
    ),
]
Here = Annotated[
    str | None,
    _option(
        "--here",
        _REPORT,
        "The modelled device that stands for the server's machine, or 'none' (default: this-cpu where it was "
        "calibrated and the server is here).",
        show_default=False,
    ),
]
Json = Annotated[bool, _option("--json", _REPORT, "Print JSON.")]
Html = Annotated[
    Path | None, _option("--html", _REPORT, "Write a report with plots to this file.", show_default=False)
]
