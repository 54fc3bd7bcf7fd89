"""Chat templates: Jinja text that comes with a model; run in a sandbox, for it is somebody else's program."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateError, meta
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    """Today's date in words, for templates that tell the model which day it is."""
    return datetime.datetime.now().strftime(form)


def _tojson(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes HTML, which would change the prompt.
    return json.dumps(value, ensure_ascii=False, indent=indent)


class ChatTemplate:
    """A compiled chat template.

    special: the strings that templates name as bos_token, eos_token and the like.
    """

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
            self._names = meta.find_undeclared_variables(environment.parse(source))
        except TemplateError as error:
            raise ValueError(f"the model's chat template does not compile: {error}") from None
        self._source = source
        self._special = dict(special)

    def writes_tools(self, marker: str) -> bool:
        """Whether the template describes tools itself and has the model begin a call with `marker`."""
        return "tools" in self._names and marker in self._source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generate: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt for `messages`; with `generate`, it ends where the assistant's answer begins.

        A message has the strings "role" and "content"; the latter may be None where there are "tool_calls",
        whose arguments are objects. tools: definitions as OpenAI writes them, for templates that take any.
        Raises ValueError for other messages, and for what the template itself refuses.
        """
        for number, message in enumerate(messages):
            content = message.get("content")
            whole = isinstance(content, str) or (content is None and message.get("tool_calls"))
            if not isinstance(message.get("role"), str) or not whole:
                raise ValueError(
                    f"message {number} must have the strings 'role' and 'content', given {dict(message)!r}"
                )
        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=generate,
                tools=None if tools is None else list(tools),
                documents=None,
                **self._special,
            )
        except (TemplateError, TypeError, AttributeError, KeyError, IndexError) as error:
            raise ValueError(f"the model's chat template refuses these messages: {error}") from None
