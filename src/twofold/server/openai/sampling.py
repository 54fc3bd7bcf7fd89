"""The fields of a request that say how tokens are chosen, and the engine's SamplingParams made of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from twofold.engine.sampling_params import SamplingParams
from twofold.server.errors import bad
from twofold.server.openai.fields import Asked, Body, Honoured, Refused

MAX_CHOICES = 128
MAX_STOPS = 4
_INT64 = 2**63
_LIKELIEST_ONLY = 1e-9  # the engine's top_p is above 0, and never leaves fewer than one token

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Stop = Annotated[str, Field(min_length=1)]


class StreamOptions(Asked):
    """How a stream is sent."""

    include_usage: Annotated[
        bool | None, Honoured("a last chunk without choices carries the usage; all others say null")
    ] = None
    continuous_usage_stats: Annotated[
        bool | None, Honoured("as in vLLM, beside include_usage: every chunk carries the usage so far")
    ] = None
    include_obfuscation: Annotated[
        bool | None,
        Refused("no padding is added to chunks, whose sizes tell the lengths of tokens", (False,)),
    ] = None


class SamplingFields(Body):
    """What chat and plain completions share. None means OpenAI's default."""

    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2), Honoured()] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2), Honoured()] = None
    temperature: Annotated[float | None, Field(ge=0, le=2), Honoured("1 by default; 0 is greedy")] = None
    top_p: Annotated[float | None, Field(ge=0, le=1), Honoured("0 leaves the likeliest token")] = None
    seed: Annotated[
        int | None,
        Field(ge=-_INT64, lt=_INT64),
        Honoured(
            "the same seed and request give the same tokens, whatever else is being answered; choice i of "
            "several gets seed + i"
        ),
    ] = None
    stop: Annotated[
        Annotated[
            Annotated[Stop, Tag("string")] | Annotated[list[Stop], Field(max_length=MAX_STOPS), Tag("list")],
            Discriminator(lambda value: "list" if isinstance(value, list) else "string"),
        ]
        | None,
        Honoured(f"a string, or up to {MAX_STOPS} of them"),
    ] = None
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]] | None,
        Honoured("by token id, fractions too; -100 and 100 are strong, not absolute"),
    ] = None
    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES), Honoured("each choice is a request of its own")] = (
        None
    )
    stream: Annotated[bool | None, Honoured("server-sent events, ended by [DONE]")] = None
    stream_options: Annotated[StreamOptions | None, Honoured("only with stream: true")] = None

    top_k: Annotated[
        int | None, Field(ge=-1, lt=2**31), Honoured("ours: the k likeliest tokens only; 0 or -1 is off")
    ] = None
    min_p: Annotated[
        float | None,
        Field(ge=0, le=1),
        Honoured("ours: no tokens below this share of the likeliest one's probability"),
    ] = None
    repetition_penalty: Annotated[
        float | None, Field(ge=0.01, le=100), Honoured("ours: above 1, tokens seen so far become less likely")
    ] = None
    min_tokens: Annotated[
        int | None, Field(ge=0, lt=2**31), Honoured("ours: end and stop tokens do not count before")
    ] = None
    ignore_eos: Annotated[bool | None, Honoured("ours: the model's end tokens are tokens like others")] = None
    stop_token_ids: Annotated[
        list[TokenId] | None, Field(max_length=128), Honoured("ours: further tokens that end the answer")
    ] = None
    priority: Annotated[
        int | None,
        Field(ge=-_INT64, lt=_INT64),
        Honoured("ours: lower ones run sooner, where the plan's scheduling policy goes by it"),
    ] = None

    def check(self) -> None:
        """ApiError for fields that do not go together."""
        if self.stream_options is not None and not self.stream:
            raise bad("stream_options is for streams: set stream to true, or leave it out", "stream_options")
        options = self.stream_options
        if options is not None and options.continuous_usage_stats and not options.include_usage:
            raise bad("continuous_usage_stats goes with include_usage: set that too", "stream_options")

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def usage_everywhere(self) -> bool:
        """Whether every chunk of the stream carries the usage so far."""
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    @property
    def choices(self) -> int:
        """How many are asked for."""
        return 1 if self.n is None else self.n

    def sampling(
        self, *, max_tokens: int, logprobs: int | None, grammar: str | None, vocab: int
    ) -> SamplingParams:
        """The engine's parameters of the first choice; ApiError where they cannot be."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        try:
            return SamplingParams(
                max_tokens=max_tokens,
                temperature=_or(self.temperature, 1.0),
                top_k=max(_or(self.top_k, 0), 0),
                top_p=max(_or(self.top_p, 1.0), _LIKELIEST_ONLY),
                min_p=_or(self.min_p, 0.0),
                repetition_penalty=_or(self.repetition_penalty, 1.0),
                presence_penalty=_or(self.presence_penalty, 0.0),
                frequency_penalty=_or(self.frequency_penalty, 0.0),
                logit_bias=_bias(self.logit_bias or {}, vocab),
                grammar=grammar,
                seed=self.seed,
                logprobs=logprobs,
                min_tokens=_or(self.min_tokens, 0),
                stop=tuple(stop),
                stop_token_ids=frozenset(self.stop_token_ids or ()),
                ignore_eos=bool(self.ignore_eos),
            )
        except ValueError as error:
            field = str(error).partition(" ")[0]
            raise bad(str(error), field if field in type(self).model_fields else None) from None


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _bias(given: dict[str, float], vocab: int) -> tuple[tuple[int, float], ...]:
    for id in given:
        if not (id.isascii() and id.isdecimal() and len(id) <= 10 and int(id) < vocab):
            raise bad(
                f"logit_bias: {id!r} is not a token of this model; ids are whole numbers from 0 to "
                f"{vocab - 1}",
                "logit_bias",
            )
    if len({int(id) for id in given}) < len(given):
        raise bad("logit_bias names a token twice", "logit_bias")
    return tuple((int(id), bias) for id, bias in given.items())
