"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from twofold.server.errors import bad
from twofold.server.openai.account import LOGGED
from twofold.server.openai.fields import Accepted, Honoured, Refused
from twofold.server.openai.sampling import MAX_CHOICES, SamplingFields, TokenId

MAX_PROMPTS = 128


def kind_of_prompt(value: Any) -> str:
    """Which of the shapes of a prompt `value` has."""
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else None
    if isinstance(first, list):
        return "lists of token ids"
    return "token ids" if isinstance(first, int) else "texts"


Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS), Tag("texts")]
    | Annotated[list[TokenId], Field(min_length=1), Tag("token ids")]
    | Annotated[
        list[Annotated[list[TokenId], Field(min_length=1)]],
        Field(min_length=1, max_length=MAX_PROMPTS),
        Tag("lists of token ids"),
    ],
    Discriminator(kind_of_prompt),
]


class CompletionRequest(SamplingFields):
    """Text, or token ids, that are to be continued."""

    model: Annotated[str, Honoured("the name that /v1/models lists; another one is not found")]
    prompt: Annotated[
        Prompt | None,
        Honoured(
            f"a text, token ids, or up to {MAX_PROMPTS} of either; null is the token that begins a text"
        ),
    ]
    max_tokens: Annotated[int | None, Field(ge=1, lt=2**31), Honoured("16 by default")] = None
    logprobs: Annotated[
        int | None,
        Field(ge=0, le=20),
        Honoured(
            "up to 20; the model's own log-probabilities, before temperature, penalties, bias and grammar; "
            "not with echo"
        ),
    ] = None
    echo: Annotated[bool | None, Honoured("not with logprobs")] = None
    best_of: Annotated[
        int | None,
        Field(ge=1, le=MAX_CHOICES),
        Honoured("the n with the highest mean log-probability per token; not streamed"),
    ] = None
    suffix: Annotated[Any, Refused("this server does not fill in between two texts", ("",))] = None
    user: Annotated[str | None, Accepted(LOGGED)] = None

    def check(self) -> None:
        """ApiError for fields that do not go together."""
        super().check()
        if self.echo and self.logprobs is not None:
            raise bad("log-probabilities of prompt tokens are not computed: drop echo, or logprobs", "echo")
        if self.best_of is not None and self.best_of < self.choices:
            raise bad(f"best_of is {self.best_of}, but n is {self.choices}: raise it", "best_of")
        if self.ranked and self.stream:
            raise bad("the best are known at the end only: drop best_of, or stream", "best_of")

    @property
    def ranked(self) -> bool:
        """Whether more are generated than returned."""
        return self.best_of is not None and self.best_of > self.choices

    @property
    def num_prompts(self) -> int:
        """How many prompts there are."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return len(self.prompt) if several and self.prompt is not None else 1
