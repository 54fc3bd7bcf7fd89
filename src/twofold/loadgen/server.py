"""What a server says of itself before it is loaded: its model, the fields it knows, how it counts tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from twofold.loadgen.client import Ask, Client, Exchange, Style
from twofold.loadgen.connection import Http
from twofold.loadgen.counting import Counter, LocalCounter, ServerCounter, WordCounter
from twofold.loadgen.prompts import PromptMaker

if TYPE_CHECKING:
    from twofold.models.tensors import Tokenizer

_PROBE_WORDS = 20


@dataclass(frozen=True, slots=True)
class Server:
    """A server as it was found. about: what GET /plan says where it is this package's own, else None; around:
    tokens that it adds to a text (None where it tells no usage); notes: what it does not know."""

    style: Style
    counter: Counter
    around: int | None
    about: dict[str, Any] | None
    notes: tuple[str, ...]


async def find_model(http: Http) -> str:
    """The first model that the server lists. OSError where nothing listens, ValueError where it lists
    none."""
    try:
        status, body = await http.get("/v1/models")
    except OSError as error:
        raise ConnectionError(f"no server answers at {http.host}:{http.port}: {error}") from None
    try:
        models = json.loads(body)["data"] if status == 200 else []
        return str(models[0]["id"])
    except (ValueError, KeyError, TypeError, IndexError):
        raise ValueError(
            f"{http.host}:{http.port}{http.path}/v1/models lists no model (status {status}); name it with "
            "--model"
        ) from None


async def find_about(http: Http) -> dict[str, Any] | None:
    """GET /plan of this package's own server (some seconds, the first time); None for every other."""
    status, body = await http.get("/plan")
    try:
        found = json.loads(body) if status == 200 else None
    except ValueError:
        return None
    known = isinstance(found, dict) and {"given", "derived", "memory", "replicas"} <= found.keys()
    return found if known else None


async def explore(
    http: Http,
    client: Client,
    style: Style,
    about: dict[str, Any] | None,
    tokenizer: tuple[Tokenizer, str] | None,
) -> Server:
    """Ask one short question to learn which fields the server knows and how it counts.

    tokenizer: the model's, with its name, where it is at hand. ValueError with the server's own words where
    it refuses even the plainest question.
    """
    counter = await _counter(http, style.model, tokenizer)
    text = await PromptMaker(WordCounter(1.0), seed="probe").make(0, _PROBE_WORDS)
    style, answer = await _accepted(client, style, Ask(text, _PROBE_WORDS, 2))
    notes = []
    if not style.ignore_eos:
        notes.append("the server does not know ignore_eos: answers may be shorter than asked for")
    if answer.counted == "pieces":
        notes.append("the server tells no usage: output tokens are pieces of its stream")
    told = answer.prompt_tokens
    around = None
    if told is not None and isinstance(counter, WordCounter):
        counter, around = WordCounter(told / _PROBE_WORDS), 0
    elif told is not None:
        around = max(0, told - await counter.count(text))
    return Server(style, counter, around, about, tuple(notes))


async def _counter(http: Http, model: str, tokenizer: tuple[Tokenizer, str] | None) -> Counter:
    if tokenizer is not None:
        return LocalCounter(*tokenizer)
    counter = ServerCounter(http, model)
    try:
        await counter.count("one two three")
    except ValueError:
        return WordCounter()
    return counter


async def _accepted(client: Client, style: Style, ask: Ask) -> tuple[Style, Exchange]:
    """The style with the most fields that the server takes, and its answer."""
    first: Exchange | None = None
    for ignore_eos, usage in ((True, True), (False, True), (True, False), (False, False)):
        if ignore_eos > style.ignore_eos or usage > style.usage:
            continue
        tried = replace(style, ignore_eos=ignore_eos, usage=usage)
        answer = await client.send(tried, ask, 0.0, 0.0)
        if answer.error not in ("HTTP 400", "HTTP 422"):
            break
        first = first or answer
    else:
        assert first is not None
        answer = first
    if answer.error is not None and answer.error != "no text":
        raise ValueError(f"the server answers the first request with {answer.error}: {answer.message}")
    return tried, answer
