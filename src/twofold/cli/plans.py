"""How a command gets its plan: a file, options on top of it, or neither."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from twofold.cli.plan_options import DISPLACES, PANELS, PLAN_OPTIONS, PlanOption

if TYPE_CHECKING:
    from twofold.plan import Plan

PlanFile = Annotated[
    Path | None, typer.Argument(help="A plan in YAML; options override it.", show_default=False)
]


class Given:
    """The options of a plan that were given on the command line: values by option."""

    def __init__(self, values: dict[PlanOption, Any]) -> None:
        self._values = {option: option.read(value) for option, value in values.items()}

    def __contains__(self, path: str) -> bool:
        return any(option.path == path for option in self._values)

    def plan(self, file: Path | None = None, default: Plan | None = None) -> Plan:
        """The plan in `file` (else `default`, else the plain one) with these options in place. ValueError
        names the file's key or the option that does not fit."""
        from twofold.plan import Plan

        base = Plan.load(file) if file is not None else default or Plan()
        where = "plan" if file is None else str(file)
        values = base.model_dump(exclude_unset=True)
        for option, value in self._values.items():
            for path in (option.path, *option.also):
                if path == option.path or path not in self:
                    _put(values, path, value)
            for other in DISPLACES.get(option.path, ()):
                if other not in self:
                    _drop(values, other)
        try:
            return Plan.from_dict(values, where)
        except ValueError as error:
            raise ValueError(self._in_flags(str(error), where)) from None

    def _in_flags(self, message: str, where: str) -> str:
        """`message` with the option's flag in place of the field that it set."""
        for option in self._values:
            message = message.replace(f"{where}: {option.path}:", f"{option.flag}:")
            message = message.replace(f"{where}: {option.path}.", f"{option.flag}: ")
        return message


def plan_options(
    *panels: str, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a command that takes `given: Given`: adds the options of those panels (default: all) but
    `without` (paths)."""
    options = [o for o in PLAN_OPTIONS if o.panel in (panels or PANELS) and o.path not in without]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            p.replace(annotation=hints[p.name])
            for p in inspect.signature(function).parameters.values()
            if p.name != "given"
        ]

        @functools.wraps(function)
        def command(**arguments: Any) -> None:
            values = {option: arguments.pop(option.parameter) for option in options}
            function(given=Given({o: v for o, v in values.items() if v is not None and v != []}), **arguments)

        parameters = [*own, *(_parameter(option) for option in options)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _parameter(option: PlanOption) -> inspect.Parameter:
    info = typer.Option(
        option.flags,
        help=option.help,
        rich_help_panel=option.panel,
        show_default=False,
        metavar=option.metavar,
        autocompletion=option.complete,
    )
    kind: Any = option.type
    annotation: Any = Annotated[kind | None, info]
    return inspect.Parameter(
        option.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *parts, last = path.split(".")
    for part in parts:
        values = values.setdefault(part, {})
    values[last] = value


def _drop(values: dict[str, Any], path: str) -> None:
    *parts, last = path.split(".")
    for part in parts:
        values = values.get(part, {})
    values.pop(last, None)
