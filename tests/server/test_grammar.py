"""Grammars of answers: what may be written and what may not, by llguidance itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from tests.server.fakes import FakeService

from twofold.server.errors import ApiError
from twofold.server.openai.chat_request import ChatRequest
from twofold.server.openai.grammar import grammar_of

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"$ref": "#/$defs/word"}, "age": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"word": {"type": "string", "maxLength": 8}},
}
ADD = {"type": "function", "function": {"name": "add", "parameters": PERSON}}
NOW = {"type": "function", "function": {"name": "now"}}
CALL_ADD = '<tool_call>\n{"name": "add", "arguments": {"name": "Ada", "age": 36}}\n</tool_call>'
CALL_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer(api_service: FakeService) -> LLTokenizer:
    tokenizer = api_service.tokenizer
    return LLTokenizer(tokenizer.to_json(), eos_token=list(tokenizer.eos_ids))


@pytest.fixture(scope="module")
def follows(tokenizer: LLTokenizer) -> Any:
    """Whether a text is a whole answer by the grammar of a request with these fields."""

    def check(text: str, **fields: Any) -> bool:
        grammar = grammar_of(request(**fields))
        assert grammar is not None
        matcher = LLMatcher(tokenizer, grammar)
        assert not matcher.is_error(), matcher.get_error()
        ids = tokenizer.tokenize_str(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return check


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate(
        {"model": "tiny", "messages": [{"role": "user", "content": "x"}], **fields}
    )


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def test_a_free_answer_has_none() -> None:
    assert grammar_of(request()) is None
    assert grammar_of(request(response_format={"type": "text"}, tools=[])) is None
    assert grammar_of(request(tools=[NOW], tool_choice="none")) is None


def test_json_follows_its_schema(follows: Any) -> None:
    form = json_schema(PERSON)
    assert follows('{"name": "Ada", "age": 36}', response_format=form)
    assert follows('{"name": "Ada"}', response_format=form)
    assert not follows('{"age": 36}', response_format=form)
    assert not follows('{"name": "Ada", "size": 1}', response_format=form)
    assert not follows('{"name": "far too long a name"}', response_format=form)
    assert not follows('{"name":\n\n"Ada"}', response_format=form)  # no white space but our own
    assert not follows("Ada", response_format=form)


def test_a_json_object_is_any_object(follows: Any) -> None:
    form = {"type": "json_object"}
    assert follows('{"a": [1, null, {"b": "é"}]}', response_format=form)
    assert follows("{}", response_format=form)
    assert not follows("[]", response_format=form)
    assert follows("{}", response_format={"type": "json_schema", "json_schema": {"name": "x"}})


def test_auto_takes_text_or_calls_and_text_before_calls(follows: Any) -> None:
    for text in ("", "just text", "a < b", f"I look.\n{CALL_NOW}", f"{CALL_ADD}\n{CALL_NOW}"):
        assert follows(text, tools=[ADD, NOW]), text
    for text in (f"{CALL_NOW} and text", "<tool_call>x", CALL_NOW.replace("now", "then"), CALL_NOW[:-1]):
        assert not follows(text, tools=[ADD, NOW]), text
    assert not follows(CALL_ADD.replace('"Ada"', "1"), tools=[ADD, NOW])


def test_required_takes_calls_only(follows: Any) -> None:
    fields = {"tools": [ADD, NOW], "tool_choice": "required"}
    assert follows(CALL_NOW, **fields)
    assert follows(f"{CALL_ADD}\n{CALL_NOW}", **fields)
    assert not follows("text", **fields)
    assert not follows(f"text {CALL_NOW}", **fields)
    assert not follows(f"{CALL_ADD}\n{CALL_NOW}", **fields, parallel_tool_calls=False)


def test_a_named_function_is_the_only_one(follows: Any) -> None:
    fields = {"tools": [ADD, NOW], "tool_choice": {"type": "function", "function": {"name": "now"}}}
    assert follows(CALL_NOW, **fields)
    assert not follows(CALL_ADD, **fields)
    assert not follows(f"{CALL_NOW}\n{CALL_NOW}", **fields)


def test_with_a_format_the_answer_is_json_or_calls(follows: Any) -> None:
    fields = {"tools": [NOW], "response_format": json_schema(PERSON)}
    assert follows('{"name": "Ada"}', **fields)
    assert follows(CALL_NOW, **fields)
    assert not follows("text", **fields)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"not": {"type": "string"}}, "not"),
        ({"$ref": "#/$defs/nowhere"}, "nowhere"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ],
)
@pytest.mark.parametrize("where", ["response_format", "tools"])
def test_what_cannot_be_enforced_is_refused(schema: Any, says: str, where: str) -> None:
    if where == "tools":
        whole = {"type": "object", "properties": {"a": schema}, "$defs": {}}
        fields: Any = {"tools": [{"type": "function", "function": {"name": "f", "parameters": whole}}]}
    else:
        fields = {"response_format": json_schema(schema)}
    with pytest.raises(ApiError) as caught:
        grammar_of(request(**fields))
    assert caught.value.status_code == 400
    assert caught.value.param == where
    assert says in caught.value.detail


def test_options_in_a_schema_do_not_loosen_it() -> None:
    schema = {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}
    with pytest.raises(ApiError):
        grammar_of(request(response_format=json_schema(schema)))


def test_parameters_are_an_object(follows: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert follows(
        f'<tool_call>\n{{"name": "f", "arguments": {json.dumps({"a": 1})}}}\n</tool_call>', tools=[tool]
    )
    bad = {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
    with pytest.raises(ApiError, match="object"):
        grammar_of(request(tools=[bad]))
