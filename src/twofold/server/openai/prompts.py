"""From messages to the token ids that the model is given.

Templates that describe tools in the form of `grammar` get the tools themselves. For all others, a system
message of ours describes them, and calls and their results become text of that form.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twofold.models.tokenizer import TextTokenizer
from twofold.server.errors import bad
from twofold.server.openai.chat_request import ChatRequest
from twofold.server.openai.grammar import CLOSE, OPEN
from twofold.server.openai.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
    text_of,
)
from twofold.server.openai.tools import FunctionTool, JsonSchemaFormat, ResponseFormat

Rendered = dict[str, Any]


def chat_ids(request: ChatRequest, tokenizer: TextTokenizer) -> list[int]:
    """Token ids of the conversation, up to where the answer begins. ApiError 400 where the template refuses
    it. Takes milliseconds and more for long conversations: not for the event loop."""
    native = tokenizer.writes_tools(OPEN)
    messages = rendered(request.messages, native=native)
    tools = request.tools if request.calling != "none" else None
    notes = [format_note(request.response_format)]
    if tools and not native:
        notes.insert(0, tools_note(tools))
    _tell(messages, [note for note in notes if note])
    given = [tool.model_dump(exclude_none=True) for tool in tools] if tools and native else None
    try:
        return tokenizer.chat_ids(messages, tools=given)
    except ValueError as error:
        raise bad(str(error), "messages") from None


def rendered(messages: Sequence[Message], *, native: bool) -> list[Rendered]:
    """`messages` as templates take them. native: the template writes calls and results itself. ApiError 400
    where a result belongs to no call."""
    found: list[Rendered] = []
    called: dict[str, str] = {}
    for number, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            called |= {call.id: call.function.name for call in message.tool_calls or ()}
            found.append(_assistant(message, number, native))
        elif isinstance(message, ToolMessage):
            if message.tool_call_id not in called:
                raise bad(
                    f"messages[{number}]: {message.tool_call_id!r} is the id of no earlier call",
                    f"messages[{number}].tool_call_id",
                )
            found.append(_result(message, message.name or called[message.tool_call_id], native))
        else:
            role = "system" if isinstance(message, SystemMessage) else "user"
            found.append({"role": role, "content": _named(message, text_of(message.content) or "")})
    return found


def tools_note(tools: Sequence[FunctionTool]) -> str:
    """What the model is told of the tools."""
    lines = [json.dumps(tool.model_dump(exclude_none=True), ensure_ascii=False) for tool in tools]
    call = '{"name": NAME, "arguments": {…}}'
    return "\n".join(
        [
            "You can call functions. These are their definitions, one a line:",
            "<tools>",
            *lines,
            "</tools>",
            "To call one, write its name and its arguments as a JSON object, so:",
            f"{OPEN}\n{call}\n{CLOSE}",
        ]
    )


def format_note(form: ResponseFormat | None) -> str:
    """What the model is told of the schema that its answer follows."""
    if not isinstance(form, JsonSchemaFormat):
        return ""
    given = form.json_schema
    about = f" ({given.description})" if given.description else ""
    asked = f"Answer with JSON only, namely {given.name}{about}."
    if given.schema_ is None:
        return asked
    return f"{asked} It follows this JSON schema:\n{json.dumps(given.schema_, ensure_ascii=False)}"


def _tell(messages: list[Rendered], notes: Sequence[str]) -> None:
    """Add `notes` to the system message, or put one first."""
    if not notes:
        return
    if messages[0]["role"] == "system":
        messages[0]["content"] = "\n\n".join([messages[0]["content"], *notes])
    else:
        messages.insert(0, {"role": "system", "content": "\n\n".join(notes)})


def _named(message: SystemMessage | UserMessage | AssistantMessage, text: str) -> str:
    return f"{message.name}: {text}" if message.name else text


def _assistant(message: AssistantMessage, number: int, native: bool) -> Rendered:
    text = text_of(message.content)
    text = message.refusal if text is None else text
    calls = message.tool_calls or []
    if text is None and not calls:
        raise bad(f"messages[{number}] has neither content nor tool_calls", f"messages[{number}].content")
    text = _named(message, text or "")
    if not calls:
        return {"role": "assistant", "content": text}
    if native:
        return {"role": "assistant", "content": text, "tool_calls": [_call(call) for call in calls]}
    written = [f"{OPEN}\n{json.dumps(_call(c)['function'], ensure_ascii=False)}\n{CLOSE}" for c in calls]
    return {"role": "assistant", "content": "\n".join([text] * bool(text) + written)}


def _call(call: ToolCall) -> Rendered:
    """A call whose arguments are the value that they spell, as templates expect."""
    arguments: Any = call.function.arguments
    with suppress(ValueError, RecursionError):  # a call that was cut off is shown as it is
        arguments = json.loads(arguments)
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _result(message: ToolMessage, name: str, native: bool) -> Rendered:
    text = text_of(message.content) or ""
    if native:
        return {"role": "tool", "content": text, "name": name, "tool_call_id": message.tool_call_id}
    said = json.dumps({"name": name, "content": text}, ensure_ascii=False)
    return {"role": "user", "content": f"<tool_response>\n{said}\n</tool_response>"}
