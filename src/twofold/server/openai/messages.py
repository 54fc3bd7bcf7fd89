"""The messages of a conversation, as clients send them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from twofold.server.openai.fields import Asked, Honoured, Refused

_NAME = Honoured(
    "the text of the message begins with the name and a colon, for templates have no place for it"
)
_TEXT = Honoured("a string, or parts of type text, which are joined by line ends")


class TextPart(Asked):
    """Text within a message."""

    type: Annotated[Literal["text"], Honoured()]
    text: Annotated[str, Honoured()]
    prompt_cache_breakpoint: Annotated[
        None, Refused("every block of a prompt is cached by its content; nothing is marked")
    ] = None


class RefusalPart(Asked):
    """What an assistant refused with."""

    type: Annotated[Literal["refusal"], Honoured("read as text")]
    refusal: Annotated[str, Honoured()]


_TEXT_ONLY = "this server reads text only"


def text_only(*others: str) -> BeforeValidator:
    """Refuses parts of the types `others`, and says why."""

    def check(part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in others:
            raise PydanticCustomError("unsupported", "{m}", {"m": f"{_TEXT_ONLY}, not {kind}"})
        return part

    return BeforeValidator(check)


def string_or_parts(value: Any) -> str:
    """Which of the two shapes of a content `value` has."""
    return "parts" if isinstance(value, list) else "string"


_OTHERS = text_only("image_url", "input_audio", "file")
_String = Annotated[str, Tag("string")]
_Part = Annotated[TextPart, _OTHERS]
Content = Annotated[
    _String | Annotated[list[_Part], Field(min_length=1), Tag("parts")], Discriminator(string_or_parts)
]
_AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type"), _OTHERS]
AssistantContent = Annotated[
    _String | Annotated[list[_AssistantPart], Field(min_length=1), Tag("parts")],
    Discriminator(string_or_parts),
]


class SystemMessage(Asked):
    """What the assistant is told to be."""

    role: Annotated[Literal["system", "developer"], Honoured("a developer's message is a system message")]
    content: Annotated[Content, _TEXT]
    name: Annotated[str | None, _NAME] = None


class UserMessage(Asked):
    """What a user says."""

    role: Annotated[Literal["user"], Honoured()]
    content: Annotated[Content, _TEXT]
    name: Annotated[str | None, _NAME] = None


class CalledFunction(Asked):
    """Which function is called, and with what."""

    name: Annotated[str, Honoured()]
    arguments: Annotated[str, Honoured("a JSON object as a string; another string is shown as it is")]


class ToolCall(Asked):
    """A call that the assistant made."""

    id: Annotated[str, Honoured("what the tool's message refers to")]
    type: Annotated[Literal["function"], Honoured()]
    function: Annotated[CalledFunction, Honoured()]


class AssistantMessage(Asked):
    """What the assistant said, or called."""

    role: Annotated[Literal["assistant"], Honoured()]
    content: Annotated[AssistantContent | None, _TEXT] = None
    name: Annotated[str | None, _NAME] = None
    refusal: Annotated[str | None, Honoured("read as the text, where there is no other")] = None
    tool_calls: Annotated[list[ToolCall] | None, Honoured()] = None
    function_call: Annotated[None, Refused("functions are the older form of tools: use tool_calls")] = None
    audio: Annotated[None, Refused(_TEXT_ONLY)] = None
    annotations: Annotated[Any, Refused("this server cites nothing", ([],))] = None


class ToolMessage(Asked):
    """What a call returned."""

    role: Annotated[Literal["tool"], Honoured()]
    content: Annotated[Content, _TEXT]
    tool_call_id: Annotated[str, Honoured("of a call in an earlier message")]
    name: Annotated[str | None, Honoured("the name of the function that was called")] = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


def text_of(content: str | list[Any] | None) -> str | None:
    """The text of a message's content."""
    if content is None or isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)
