"""Sampling options, shared by the commands that produce text."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from twofold.engine.sampling_params import SamplingParams

PANEL = "Sampling"

_HELP: dict[str, tuple[Any, str]] = {
    "max_tokens": (int, "Most tokens to generate [default: 256]."),
    "temperature": (float, "0 takes the most likely token always [default: 0]."),
    "top_k": (int, "Only the k most likely tokens; 0 is off."),
    "top_p": (float, "Only the most likely tokens that together have this probability; 1 is off."),
    "min_p": (float, "Only tokens with this share of the best one's probability; 0 is off."),
    "repetition_penalty": (float, "Above 1, tokens seen before become less likely."),
    "presence_penalty": (float, "Subtracted from the logits of tokens already generated."),
    "frequency_penalty": (float, "Subtracted once per occurrence among the generated tokens."),
    "min_tokens": (int, "End tokens do not count before so many tokens."),
    "seed": (int, "Seed of the random choice."),
    "stop": (list[str], "A string that ends the answer; repeat for more."),
}


def sampling_options(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a command that takes `sampling`, a function to SamplingParams: adds the sampling
    options."""
    hints = get_type_hints(function, include_extras=True, localns={"SamplingParams": Any})
    own = [
        p.replace(annotation=hints[p.name])
        for p in inspect.signature(function).parameters.values()
        if p.name != "sampling"
    ]

    @functools.wraps(function)
    def command(**arguments: Any) -> None:
        given = {
            name: value for name in _HELP if (value := arguments.pop(f"sampling_{name}")) not in (None, [])
        }

        def params() -> SamplingParams:
            from twofold.engine.sampling_params import SamplingParams

            return SamplingParams(**given)

        function(sampling=params, **arguments)

    parameters = [*own, *(_parameter(name) for name in _HELP)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _parameter(name: str) -> inspect.Parameter:
    kind, text = _HELP[name]
    flag = "--" + name.replace("_", "-")
    info = typer.Option(flag, help=text, rich_help_panel=PANEL, show_default=False)
    return inspect.Parameter(
        f"sampling_{name}",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, info],
    )
