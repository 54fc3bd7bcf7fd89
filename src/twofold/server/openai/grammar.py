"""Grammars that force an answer into shape, for the package llguidance: JSON by a schema, calls of tools.

A call is written as `<tool_call>`, a line with {"name": …, "arguments": …}, `</tool_call>`, as many models
were trained to. JSON has the white space that is written here and no other, of which a small model may
produce any amount.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

from twofold.server.errors import ApiError, bad
from twofold.server.openai.chat_request import ChatRequest
from twofold.server.openai.tools import Function, JsonSchemaFormat, ResponseFormat, TextFormat

OPEN, CLOSE = "<tool_call>", "</tool_call>"
HEAD, MIDDLE, TAIL = '\n{"name": ', ', "arguments": ', "}\n" + CLOSE
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
}
KEPT = 256
"""Grammars whose verdict is remembered."""


def grammar_of(request: ChatRequest) -> str | None:
    """What the answer to `request` follows, None where it is free; ApiError 400 where llguidance cannot hold
    a schema."""
    schema = schema_of(request.response_format)
    if request.calling == "none":
        return None if schema is None else json_grammar(schema, "response_format")
    assert request.tools is not None
    names = request.wanted_names()
    tools = [t.function for t in request.tools if names is None or t.function.name in names]
    several = request.parallel_tool_calls is not False and request.calling != "named"
    return call_grammar(tools, answer=_answer(request.calling, schema), several=several)


def schema_of(form: ResponseFormat | None) -> dict[str, Any] | None:
    """The schema of the JSON that `form` asks for; None for text."""
    if form is None or isinstance(form, TextFormat):
        return None
    given = form.json_schema.schema_ if isinstance(form, JsonSchemaFormat) else None
    return {"type": "object"} if given is None else given


def json_grammar(schema: dict[str, Any], param: str, where: str = "the schema") -> str:
    """JSON by `schema`. ApiError 400 where llguidance does not take it; param: the field it came in."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS)  # type: ignore[arg-type]
    except ValueError as error:
        raise _not_enforced(str(error), param, where) from None
    _check(grammar, param, where)
    return grammar


def call_grammar(tools: Sequence[Function], *, answer: str | None, several: bool) -> str:
    """Calls of `tools`, or an answer by the rule `answer` instead (None: calls only). A text that is the
    answer may precede calls. several: more than one call is allowed. ApiError 400 as `json_grammar`."""
    for tool in tools:
        json_grammar(arguments_of(tool), "tools", f"the parameters of {tool.name}")
    more = f'("\\n" {json.dumps(OPEN)} call)*' if several else ""
    rules = [f"calls: first call {more}"]
    if answer is None:
        rules += ["start: calls", f"first: {json.dumps(OPEN)}"]
    elif answer == "TEXT":
        # The lazy rule ends with the first mark, so that what follows a mark is always a call.
        rules += ["start: TEXT | calls", f"first[lazy]: TEXT {json.dumps(OPEN)}", r"TEXT: /(.|\n)*/"]
    else:
        rules += ["start: answer | calls", f"first: {json.dumps(OPEN)}", f"answer: {answer}"]
    rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(tools))))
    for i, tool in enumerate(tools):
        head, tail = json.dumps(f"{HEAD}{json.dumps(tool.name)}{MIDDLE}"), json.dumps(TAIL)
        rules.append(f"call_{i}: {head} arguments_{i} {tail}")
        rules.append(f"arguments_{i}: {_embedded(arguments_of(tool))}")
    grammar = "\n".join(rules) + "\n"
    _check(grammar, "tools", "the calls of these tools")
    return grammar


def arguments_of(tool: Function) -> dict[str, Any]:
    """The schema of the arguments: an object, whatever else it says; without parameters an empty one."""
    if tool.parameters is None:
        return NO_ARGUMENTS
    if tool.parameters.get("type", "object") != "object":
        raise bad(f"tools: the parameters of {tool.name} must be a schema of type 'object'", "tools")
    return {"type": "object", **tool.parameters}


def _answer(calling: str, schema: dict[str, Any] | None) -> str | None:
    if calling != "auto":
        return None
    if schema is None:
        return "TEXT"
    json_grammar(schema, "response_format")
    return _embedded(schema)


def _embedded(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _OPTIONS})


def _check(grammar: str, param: str, where: str) -> None:
    if problem := _problem(grammar):
        raise _not_enforced(problem, param, where)


def _not_enforced(problem: str, param: str, where: str) -> ApiError:
    return bad(f"{param}: {where} cannot be enforced: {problem}", param, "invalid_schema")


@lru_cache(maxsize=KEPT)
def _problem(grammar: str) -> str:
    """Why llguidance does not take `grammar`; empty where it does."""
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return "; ".join(messages) if is_error else ""
