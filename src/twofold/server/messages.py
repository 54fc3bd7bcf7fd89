"""What crosses between the server and its workers: plain frozen data, pickled.

Commands go to a worker, events come back. Nothing here imports torch, a web framework or reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from twofold.engine.request import FinishReason
from twofold.engine.sampling_params import SamplingParams

FailureKind = Literal["invalid", "lost", "timeout", "draining", "internal"]
"""Why a request got no proper end: it could never run, its worker died, it took too long, the server stops,
a bug."""


@dataclass(frozen=True, slots=True)
class Generate:
    """Command: complete `prompt_ids`."""

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Embed:
    """Command: the mean of the last hidden states over `prompt_ids`."""

    id: str
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Command: end a request and free its cache now. Unknown and ended ids are fine: the two may cross."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Command: leave, once what runs has ended."""


Command = Generate | Embed | Cancel | Stop
Job = Generate | Embed
"""A command that is answered by events, the last of which is an Ended, Embedded or Failed."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A generated token with its log-probability and those of the likeliest tokens by id."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Event: text that became certain since the last one (may be empty), and the tokens generated since.

    num_tokens: how many; tokens: their log-probabilities, only where the parameters ask for some.
    """

    id: str
    text: str
    num_tokens: int
    tokens: tuple[TokenInfo, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: there is one for every token, and this takes a quarter of what dataclasses do."""
        return Chunk, (self.id, self.text, self.num_tokens, self.tokens)


@dataclass(frozen=True, slots=True)
class Ended:
    """Event: a completion's end, after its last Chunk.

    Times in seconds as the engine saw them: waiting until first scheduled, from arrival to the first and to
    the last token. stop: the stop string or token id that ended it, where one did.
    """

    id: str
    reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    queued: float
    first_token: float
    total: float
    stop: str | int | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """Event: the answer to Embed."""

    id: str
    vector: tuple[float, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Event: a request that gets no proper end. message: for the user."""

    id: str
    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Event: the engine is built. model: what the plan calls it; limits and derived defaults for display."""

    model: str
    max_context: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    num_blocks: int
    vocab_size: int
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loading:
    """Event: progress before Ready."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Broken:
    """Event: the worker cannot go on (bad plan, no memory, a bug) and exits."""

    message: str
    by_user: bool


@dataclass(frozen=True, slots=True)
class Status:
    """Event: what the engine is doing; `snapshot` is a `server.snapshot.Snapshot`. A few times a second
    while it works, and once when it falls idle."""

    snapshot: Any


RequestEvent = Chunk | Ended | Embedded | Failed
Event = RequestEvent | Ready | Loading | Broken | Status
