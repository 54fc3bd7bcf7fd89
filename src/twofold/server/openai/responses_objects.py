"""What /v1/responses answers: the response object with its output items, as OpenAI shapes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Status = Literal["in_progress", "completed", "incomplete", "failed"]


class TopLogprob(BaseModel):
    """One of the likeliest tokens at a place."""

    token: str
    bytes: list[int]
    logprob: float


class Logprob(TopLogprob):
    """A generated token with its log-probability."""

    top_logprobs: list[TopLogprob] = []


class OutputText(BaseModel):
    """A piece of an answer. annotations: always empty, for nothing is cited."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[dict[str, Any]] = Field(default=[], max_length=0)
    logprobs: list[Logprob] = []


class OutputMessage(BaseModel):
    """The answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: list[OutputText]


class FunctionCall(BaseModel):
    """A call that the model wants made. arguments: a JSON object as text."""

    id: str
    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


OutputItem = OutputMessage | FunctionCall


class InputDetails(BaseModel):
    """cached_tokens: those found in the prefix cache; cache_write_tokens: always 0 (not counted)."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    """reasoning_tokens: always 0; reasoning is not told from the rest."""

    reasoning_tokens: int = 0


class Usage(BaseModel):
    """Tokens that the response took."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class IncompleteDetails(BaseModel):
    """Why an answer is cut short."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseError(BaseModel):
    """Why a response failed."""

    code: str
    message: str


class ResponseObject(BaseModel):
    """A response: what was asked, as far as it shaped the answer, and the answer."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    usage: Usage | None = None
    background: Literal[False] = False
    store: Literal[False] = False
    service_tier: Literal["default"] = "default"
    truncation: Literal["disabled"] = "disabled"
    previous_response_id: None = None
