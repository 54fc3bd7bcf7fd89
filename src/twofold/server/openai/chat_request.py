"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from twofold.server.errors import bad
from twofold.server.openai.account import AccountFields
from twofold.server.openai.fields import Honoured, Refused
from twofold.server.openai.messages import Message
from twofold.server.openai.sampling import SamplingFields
from twofold.server.openai.tools import MAX_TOOLS, AllowedChoice, NamedTool, ResponseFormat, Tool, ToolChoice

_OLD = "functions are the older form of tools: use tools and tool_choice"


class ChatRequest(SamplingFields, AccountFields):
    """A conversation that is to be continued by one message of the assistant."""

    model: Annotated[str, Honoured("the name that /v1/models lists; another one is not found")]
    messages: Annotated[list[Message], Field(min_length=1), Honoured()]
    max_completion_tokens: Annotated[
        int | None, Field(ge=1, lt=2**31), Honoured("by default what is left of the context")
    ] = None
    max_tokens: Annotated[
        int | None, Field(ge=1, lt=2**31), Honoured("the older name of max_completion_tokens")
    ] = None
    logprobs: Annotated[
        bool | None,
        Honoured("the model's own log-probabilities, before temperature, penalties, bias and grammar"),
    ] = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20), Honoured("only with logprobs: true")] = None
    response_format: Annotated[ResponseFormat | None, Honoured("the answer follows it to the letter")] = None
    tools: Annotated[list[Tool] | None, Field(max_length=MAX_TOOLS), Honoured("functions only")] = None
    tool_choice: Annotated[
        ToolChoice | None, Honoured("enforced: none, auto, required, a function, or allowed tools")
    ] = None
    parallel_tool_calls: Annotated[bool | None, Honoured("false: at most one call")] = None

    store: Annotated[Any, Refused("answers are not stored", (False,))] = None
    modalities: Annotated[Any, Refused("this server writes text only", (["text"],))] = None
    audio: Annotated[Any, Refused("this server writes text only")] = None
    verbosity: Annotated[Any, Refused("the model has no such setting: say it in a message", ("medium",))] = (
        None
    )
    reasoning_effort: Annotated[Any, Refused("the model has no such setting: say it in a message")] = None
    prediction: Annotated[Any, Refused("predicted outputs are not supported")] = None
    web_search_options: Annotated[Any, Refused("this server does not search the web")] = None
    moderation: Annotated[Any, Refused("this server runs no moderation")] = None
    functions: Annotated[Any, Refused(_OLD)] = None
    function_call: Annotated[Any, Refused(_OLD)] = None

    def check(self) -> None:
        """ApiError for fields that do not go together."""
        super().check()
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise bad("max_tokens is the older name of max_completion_tokens: give one of them", "max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            raise bad("top_logprobs needs logprobs: true", "top_logprobs")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise bad("two tools have the same name", "tools")
        if not names and self.tool_choice not in (None, "none", "auto"):
            raise bad("tool_choice asks for a call, but there are no tools to call", "tool_choice")
        for name in self.wanted_names() or ():
            if name not in names:
                raise bad(f"tool_choice names {name!r}, which is none of the tools: {names}", "tool_choice")

    def wanted_names(self) -> list[str] | None:
        """The tools that `tool_choice` names; None where it names none."""
        if isinstance(self.tool_choice, NamedTool):
            return [self.tool_choice.function.name]
        if isinstance(self.tool_choice, AllowedChoice):
            return [tool.function.name for tool in self.tool_choice.allowed_tools.tools]
        return None

    @property
    def calling(self) -> Literal["none", "auto", "required", "named"]:
        """Whether the answer may be, or must be, a call."""
        if not self.tools:
            return "none"
        if isinstance(self.tool_choice, NamedTool):
            return "named"
        if isinstance(self.tool_choice, AllowedChoice):
            return self.tool_choice.allowed_tools.mode
        return self.tool_choice or "auto"

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are wanted beside each chosen one; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None
