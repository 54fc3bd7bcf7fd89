"""Tools that a model may call, and the format that its answer must have, as clients send them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from twofold.server.openai.fields import Asked, Honoured

MAX_TOOLS = 128
ALWAYS = "the schema is always followed to the letter, whatever this says"
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Schema = dict[str, Any]


class Function(Asked):
    """A function that the model may call."""

    name: Annotated[Name, Honoured("letters, digits, _ and -, at most 64")]
    description: Annotated[str | None, Honoured("the model reads it")] = None
    parameters: Annotated[
        Schema | None, Honoured("the model reads it and its arguments follow it; without, there are none")
    ] = None
    strict: Annotated[bool | None, Honoured(ALWAYS)] = None


def _functions_only(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get("type") == "custom":
        message = "custom tools are not supported: give a function whose parameter is a string"
        raise PydanticCustomError("unsupported", "{m}", {"m": message})
    return tool


class FunctionTool(Asked):
    """A tool."""

    type: Annotated[Literal["function"], Honoured()]
    function: Annotated[Function, Honoured()]


Tool = Annotated[FunctionTool, BeforeValidator(_functions_only)]


class NamedFunction(Asked):
    """A function by its name."""

    name: Annotated[Name, Honoured()]


class NamedTool(Asked):
    """One of the tools by its name."""

    type: Annotated[Literal["function"], Honoured()]
    function: Annotated[NamedFunction, Honoured()]


class AllowedTools(Asked):
    """Some of the tools."""

    mode: Annotated[Literal["auto", "required"], Honoured()]
    tools: Annotated[
        list[Annotated[NamedTool, BeforeValidator(_functions_only)]], Field(min_length=1), Honoured()
    ]


class AllowedChoice(Asked):
    """Only some of the tools may be called."""

    type: Annotated[Literal["allowed_tools"], Honoured()]
    allowed_tools: Annotated[AllowedTools, Honoured()]


def kind_of_choice(value: Any) -> str:
    """Which of the shapes of a tool choice `value` has, in JSON or read already."""
    if isinstance(value, dict | Asked):
        kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return "allowed" if kind == "allowed_tools" else "named"
    return "word"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[NamedTool, BeforeValidator(_functions_only), Tag("named")]
    | Annotated[AllowedChoice, Tag("allowed")],
    Discriminator(kind_of_choice),
]


class TextFormat(Asked):
    """Any text."""

    type: Annotated[Literal["text"], Honoured()]


class JsonObjectFormat(Asked):
    """A JSON object."""

    type: Annotated[
        Literal["json_object"], Honoured("any JSON object, whether the prompt asks for it or not")
    ]


class JsonSchema(Asked):
    """A schema with its name."""

    name: Annotated[Name, Honoured("the model reads it")]
    description: Annotated[str | None, Honoured("the model reads it")] = None
    schema_: Annotated[
        Schema | None, Field(alias="schema"), Honoured("the model reads it; without, any JSON object")
    ] = None
    strict: Annotated[bool | None, Honoured(ALWAYS)] = None


class JsonSchemaFormat(Asked):
    """JSON that follows a schema."""

    type: Annotated[Literal["json_schema"], Honoured()]
    json_schema: Annotated[JsonSchema, Honoured()]


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
