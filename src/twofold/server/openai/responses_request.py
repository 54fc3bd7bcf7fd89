"""The body of POST /v1/responses, and the chat that it asks for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from twofold.server.errors import bad
from twofold.server.openai.account import AccountFields
from twofold.server.openai.chat_request import ChatRequest
from twofold.server.openai.fields import Asked, Honoured, Refused
from twofold.server.openai.responses_input import CallOutput, Item, PastCall, chat_messages
from twofold.server.openai.tools import (
    ALWAYS,
    MAX_TOOLS,
    JsonObjectFormat,
    Name,
    Schema,
    TextFormat,
    kind_of_choice,
)

_STATELESS = "answers are not stored: send the whole conversation as input"
_SETTING = "the model has no such setting: say it in the instructions"
LOGPROBS = "message.output_text.logprobs"


class ResponsesTool(Asked):
    """A function that the model may call."""

    type: Annotated[Literal["function"], Honoured()]
    name: Annotated[Name, Honoured("letters, digits, _ and -, at most 64")]
    description: Annotated[str | None, Honoured("the model reads it")] = None
    parameters: Annotated[
        Schema | None, Honoured("the model reads it and its arguments follow it; without, there are none")
    ] = None
    strict: Annotated[bool | None, Honoured(ALWAYS)] = None
    allowed_callers: Annotated[Any, Refused("the model itself makes every call", (["direct"],))] = None
    defer_loading: Annotated[Any, Refused("the model sees every tool at once", (False,))] = None
    output_schema: Annotated[Any, Refused("what a function returns is read as it is")] = None


def _functions_only(tool: Any) -> Any:
    if isinstance(tool, dict) and isinstance(kind := tool.get("type"), str) and kind != "function":
        message = f"this server has no tool {kind!r}: tools are functions, which you execute"
        raise PydanticCustomError("unsupported", "{m}", {"m": message})
    return tool


class ResponsesNamedTool(Asked):
    """One of the tools by its name."""

    type: Annotated[Literal["function"], Honoured()]
    name: Annotated[Name, Honoured()]


class ResponsesAllowedTools(Asked):
    """Only some of the tools may be called."""

    type: Annotated[Literal["allowed_tools"], Honoured()]
    mode: Annotated[Literal["auto", "required"], Honoured()]
    tools: Annotated[
        list[Annotated[ResponsesNamedTool, BeforeValidator(_functions_only)]], Field(min_length=1), Honoured()
    ]


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[ResponsesNamedTool, BeforeValidator(_functions_only), Tag("named")]
    | Annotated[ResponsesAllowedTools, Tag("allowed")],
    Discriminator(kind_of_choice),
]


class ResponsesJsonSchema(Asked):
    """JSON that follows a schema."""

    type: Annotated[Literal["json_schema"], Honoured()]
    name: Annotated[Name, Honoured("the model reads it")]
    schema_: Annotated[Schema, Field(alias="schema"), Honoured("the model reads it")]
    description: Annotated[str | None, Honoured("the model reads it")] = None
    strict: Annotated[bool | None, Honoured(ALWAYS)] = None


class TextConfig(Asked):
    """What the answer's text is like."""

    format: Annotated[
        Annotated[TextFormat | JsonObjectFormat | ResponsesJsonSchema, Field(discriminator="type")] | None,
        Honoured("the answer follows it to the letter"),
    ] = None
    verbosity: Annotated[Any, Refused(_SETTING, ("medium",))] = None


class ResponsesStreamOptions(Asked):
    """How a stream is sent."""

    include_obfuscation: Annotated[
        Any, Refused("no padding is added to events, whose sizes tell the lengths of tokens", (False,))
    ] = None


class ResponseRequest(AccountFields):
    """A conversation that is to be continued. None means OpenAI's default."""

    model: Annotated[str, Honoured("the name that /v1/models lists; another one is not found")]
    input: Annotated[
        Annotated[
            Annotated[str, Tag("text")] | Annotated[list[Item], Field(min_length=1), Tag("items")],
            Discriminator(lambda value: "items" if isinstance(value, list) else "text"),
        ],
        Honoured("a text, or messages, function calls and their outputs"),
    ]
    instructions: Annotated[str | None, Honoured("a system message before the input")] = None
    max_output_tokens: Annotated[
        int | None, Field(ge=1, lt=2**31), Honoured("by default what is left of the context")
    ] = None
    temperature: Annotated[float | None, Field(ge=0, le=2), Honoured("1 by default; 0 is greedy")] = None
    top_p: Annotated[float | None, Field(ge=0, le=1), Honoured("0 leaves the likeliest token")] = None
    stream: Annotated[bool | None, Honoured("semantic events, each with a sequence number")] = None
    stream_options: Annotated[ResponsesStreamOptions | None, Honoured("only with stream: true")] = None
    text: Annotated[TextConfig | None, Honoured()] = None
    tools: Annotated[
        list[Annotated[ResponsesTool, BeforeValidator(_functions_only)]] | None,
        Field(max_length=MAX_TOOLS),
        Honoured("functions only"),
    ] = None
    tool_choice: Annotated[
        ToolChoice | None, Honoured("enforced: none, auto, required, a function, or allowed tools")
    ] = None
    parallel_tool_calls: Annotated[bool | None, Honoured("false: at most one call")] = None
    top_logprobs: Annotated[
        int | None, Field(ge=0, le=20), Honoured("the likeliest tokens beside each chosen one")
    ] = None
    include: Annotated[
        list[Literal["message.output_text.logprobs"]] | None,
        Honoured("the log-probabilities of the answer's tokens; there is nothing else to include"),
    ] = None

    store: Annotated[Any, Refused("answers are not stored, also where this is left out", (False,))] = None
    truncation: Annotated[Any, Refused("nothing is dropped from a conversation", ("disabled",))] = None
    previous_response_id: Annotated[Any, Refused(_STATELESS)] = None
    conversation: Annotated[Any, Refused(_STATELESS)] = None
    background: Annotated[Any, Refused("answers are not stored, so they are waited for", (False,))] = None
    background_options: Annotated[Any, Refused("there are no responses in the background")] = None
    context_management: Annotated[Any, Refused("nothing is dropped from a conversation", ([],))] = None
    prompt: Annotated[Any, Refused("no prompts are stored: send the text as input")] = None
    reasoning: Annotated[Any, Refused(_SETTING, ({},))] = None
    max_tool_calls: Annotated[Any, Refused("it limits built-in tools, and there are none")] = None
    image: Annotated[Any, Refused("this server reads text only")] = None
    moderation: Annotated[Any, Refused("this server runs no moderation")] = None
    access_programs: Annotated[Any, Refused("there are no access programs")] = None

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are wanted beside each chosen one; None: no log-probabilities."""
        return self.top_logprobs or 0 if LOGPROBS in (self.include or ()) or self.top_logprobs else None

    def chat(self) -> ChatRequest:
        """The same as a chat completion; ApiError for fields that do not go together."""
        if self.stream_options is not None and not self.stream:
            raise bad("stream_options is for streams: set stream to true, or leave it out", "stream_options")
        self._check_outputs()
        logprobs = self.num_logprobs
        return ChatRequest.model_validate(
            {
                "model": self.model,
                "messages": chat_messages(self.instructions, self.input),
                "max_completion_tokens": self.max_output_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "stream": self.stream,
                "response_format": self._format(),
                "tools": [_nested(tool) for tool in self.tools or ()],
                "tool_choice": self._choice(),
                "parallel_tool_calls": self.parallel_tool_calls,
                "logprobs": logprobs is not None,
                "top_logprobs": logprobs,
                "user": self.user,
                "safety_identifier": self.safety_identifier,
            }
        )

    def _check_outputs(self) -> None:
        """Every output belongs to a call before it."""
        called = set()
        for number, item in enumerate(self.input if isinstance(self.input, list) else ()):
            if isinstance(item, PastCall):
                called.add(item.call_id)
            elif isinstance(item, CallOutput) and item.call_id not in called:
                where = f"input[{number}].call_id"
                raise bad(f"{where}: {item.call_id!r} is that of no call before it", where)

    def _format(self) -> dict[str, Any] | None:
        wanted = self.text and self.text.format
        if isinstance(wanted, ResponsesJsonSchema):
            return {"type": "json_schema", "json_schema": wanted.model_dump(by_alias=True, exclude={"type"})}
        return wanted.model_dump() if wanted else None

    def _choice(self) -> str | dict[str, Any] | None:
        if isinstance(self.tool_choice, ResponsesNamedTool):
            return _nested(self.tool_choice)
        if isinstance(self.tool_choice, ResponsesAllowedTools):
            allowed = {"mode": self.tool_choice.mode, "tools": [_nested(t) for t in self.tool_choice.tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
        return self.tool_choice


def _nested(tool: ResponsesTool | ResponsesNamedTool) -> dict[str, Any]:
    """A function as chat completions write it."""
    refused = {"allowed_callers", "defer_loading", "output_schema"}
    return {"type": "function", "function": tool.model_dump(exclude={"type", *refused})}
