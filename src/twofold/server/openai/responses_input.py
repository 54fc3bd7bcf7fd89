"""The input of /v1/responses: messages, calls that were made, and what they returned, as chat messages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from twofold.server.openai.fields import Accepted, Asked, Honoured, Refused
from twofold.server.openai.messages import RefusalPart, string_or_parts, text_only

_TEXT = Honoured("a string, or parts of text, which are joined by line ends")
_SHOWN = Accepted("a label of an item that was returned earlier; the item is read the same without it")
_LABEL = Annotated[str | None, _SHOWN]
_STATUS = Annotated[Literal["in_progress", "completed", "incomplete"] | None, _SHOWN]
_DIRECT = "the model itself makes every call"
_ITEMS = ("message", "function_call", "function_call_output")


class InputText(Asked):
    """Text that was given."""

    type: Annotated[Literal["input_text"], Honoured()]
    text: Annotated[str, Honoured()]
    prompt_cache_breakpoint: Annotated[
        Any, Refused("every block of a prompt is cached by its content; nothing is marked")
    ] = None


class PastText(Asked):
    """Text that was generated."""

    type: Annotated[Literal["output_text"], Honoured()]
    text: Annotated[str, Honoured()]
    annotations: Annotated[Any, Refused("this server reads no citations", ([],))] = None
    logprobs: Annotated[list[Any] | None, Accepted("the text is read, whatever its probability was")] = None


_OTHERS = text_only("input_image", "input_file", "input_audio")
_Part = Annotated[InputText | PastText | RefusalPart, Field(discriminator="type"), _OTHERS]
_Texts = Annotated[InputText, _OTHERS]


class InputMessage(Asked):
    """What somebody said."""

    type: Annotated[Literal["message"], Honoured("may be left out")] = "message"
    role: Annotated[
        Literal["user", "assistant", "system", "developer"], Honoured("a developer's is a system message")
    ]
    content: Annotated[
        Annotated[
            Annotated[str, Tag("string")] | Annotated[list[_Part], Field(min_length=1), Tag("parts")],
            Discriminator(string_or_parts),
        ],
        _TEXT,
    ]
    id: _LABEL = None
    status: _STATUS = None
    phase: Annotated[Any, Refused("the model knows no phases of an answer")] = None


class PastCall(Asked):
    """A call that the model made."""

    type: Annotated[Literal["function_call"], Honoured()]
    call_id: Annotated[str, Honoured("what the call's output refers to")]
    name: Annotated[str, Honoured()]
    arguments: Annotated[str, Honoured("a JSON object as a string; another string is shown as it is")]
    id: _LABEL = None
    status: _STATUS = None
    caller: Annotated[Any, Refused(_DIRECT, ({"type": "direct"},))] = None
    namespace: Annotated[Any, Refused("functions have no namespaces")] = None
    async_: Annotated[Any, Field(alias="async"), Refused("calls are waited for", (False,))] = None


class CallOutput(Asked):
    """What a call returned."""

    type: Annotated[Literal["function_call_output"], Honoured()]
    call_id: Annotated[str, Honoured("of a function_call before it")]
    output: Annotated[
        Annotated[
            Annotated[str, Tag("string")] | Annotated[list[_Texts], Field(min_length=1), Tag("parts")],
            Discriminator(string_or_parts),
        ],
        _TEXT,
    ]
    id: _LABEL = None
    status: _STATUS = None
    caller: Annotated[Any, Refused(_DIRECT, ({"type": "direct"},))] = None


def _known(item: Any) -> Any:
    if isinstance(item, dict):
        kind = item.get("type", "message")
        if kind == "item_reference":
            message = "nothing is stored that could be referred to: send the item itself"
            raise PydanticCustomError("unsupported", "{m}", {"m": message})
        if kind not in _ITEMS:
            message = f"items of type {kind!r} are not supported; there are {', '.join(_ITEMS)}"
            raise PydanticCustomError("unsupported", "{m}", {"m": message})
    return item


def _kind(item: Any) -> Any:
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")


Item = Annotated[
    Annotated[
        Annotated[InputMessage, Tag("message")]
        | Annotated[PastCall, Tag("function_call")]
        | Annotated[CallOutput, Tag("function_call_output")],
        Discriminator(_kind),
    ],
    BeforeValidator(_known),
]


def chat_messages(instructions: str | None, given: str | list[Item]) -> list[dict[str, Any]]:
    """The messages that /v1/chat/completions would get for the same conversation."""
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for item in given:
        if isinstance(item, PastCall):
            # Calls, and the words before them, are one message in a chat.
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant"})
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            messages[-1].setdefault("tool_calls", []).append(call)
        elif isinstance(item, CallOutput):
            text = _text_of(item.output)
            messages.append({"role": "tool", "content": text, "tool_call_id": item.call_id})
        else:
            messages.append({"role": item.role, "content": _text_of(item.content)})
    return messages


def _text_of(content: str | list[Any]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)
