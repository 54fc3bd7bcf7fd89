"""The completions that one HTTP request asks for: started together, ended together."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from starlette.types import Receive

from twofold.engine.sampling_params import SamplingParams
from twofold.server.dispatcher import Refused
from twofold.server.errors import ApiError, ClientGoneError, bad, of_failed, of_refused
from twofold.server.messages import Chunk, Ended, Failed, Generate, Ready, RequestEvent

if TYPE_CHECKING:
    from twofold.server.service import Service, Stream

log = logging.getLogger(__name__)
T = TypeVar("T")
FinishReason = Literal["stop", "length"]


def check_name(service: Service, name: str) -> None:
    """ApiError 404 where `name` is not that of the model."""
    if name != service.model_name:
        raise ApiError(
            404,
            f"the model {name!r} is not here; this server has {service.model_name!r}",
            param="model",
            code="model_not_found",
        )


def check_model(service: Service, name: str) -> Ready:
    """What the model that `name` asks for can take. ApiError 404 for another model, 503 while none is up."""
    check_name(service, name)
    if service.ready is None:
        raise ApiError(503, "the model is being loaded", code="unavailable", retry_after=5)
    return service.ready


def room(service: Service, ready: Ready, prompt: int, asked: int | None, param: str) -> int:
    """Tokens that may be generated behind a prompt of `prompt` tokens: those `asked` for, else all that fit.
    ApiError 400 where prompt and answer do not fit; param: the field of the prompt."""
    longest = service.settings.max_prompt
    if longest is not None and prompt > longest:
        raise _too_long(f"the prompt has {prompt} tokens; this server takes at most {longest}", param)
    context = min(ready.max_context, ready.num_blocks * ready.block_size)
    if prompt >= context:
        raise _too_long(
            f"the prompt has {prompt} tokens, and with at least one of the answer that is more than this "
            f"model's context of {context}",
            param,
        )
    if asked is not None and prompt + asked > context:
        raise _too_long(
            f"a prompt of {prompt} tokens and up to {asked} of the answer are more than this model's context "
            f"of {context}: ask for at most {context - prompt}, or shorten the prompt",
            param,
        )
    return context - prompt if asked is None else asked


def _too_long(message: str, param: str) -> ApiError:
    return bad(message, param, "context_length_exceeded")


def new_id(prefix: str) -> str:
    """A name that no other request has."""
    return f"{prefix}-{uuid.uuid4().hex}"


def note_user(id: str, **who: str | None) -> None:
    """Write into the log whom request `id` is for, where the client says so."""
    said = {name: value for name, value in who.items() if value}
    if said:
        log.info("%s is for %r", id, said)


def copies(params: SamplingParams, count: int) -> list[SamplingParams]:
    """Parameters of `count` choices that differ in their seeds."""
    if params.seed is None:
        return [params] * count
    return [replace(params, seed=params.seed + i) for i in range(count)]


class Generation:
    """The completions of one HTTP request, by index. ApiError where they are refused: all or none run."""

    def __init__(
        self,
        service: Service,
        id: str,
        prompts: Sequence[tuple[tuple[int, ...], SamplingParams]],
        *,
        priority: int = 0,
    ) -> None:
        self._streams: list[Stream] = []
        most = service.settings.max_queue + (service.ready.max_num_seqs if service.ready else 0)
        if len(prompts) > most:
            raise bad(f"{len(prompts)} answers are asked for at once; this server takes {most}", "n")
        try:
            for index, (ids, params) in enumerate(prompts):
                job = Generate(id if len(prompts) == 1 else f"{id}-{index}", ids, params, priority)
                self._streams.append(service.submit(job))
        except Refused as refused:
            self.close()
            raise of_refused(refused) from None

    def close(self) -> None:
        """End what still runs."""
        for stream in self._streams:
            stream.close()

    async def collect(self, receive: Receive) -> list[tuple[Chunk, Ended]]:
        """All answers, whole. ApiError where one fails; ClientGoneError where nobody waits any more."""
        try:
            return await unless_gone(receive, self._collect())
        finally:
            self.close()

    async def _collect(self) -> list[tuple[Chunk, Ended]]:
        return await asyncio.gather(*map(_whole, self._streams))

    async def events(self) -> AsyncIterator[tuple[int, RequestEvent]]:
        """(index, event) as they come; ends once all have ended or `close` was called."""
        if len(self._streams) == 1:
            async for event in self._streams[0]:
                yield 0, event
            return
        waiting = {_next(stream): index for index, stream in enumerate(self._streams)}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=waiting.__getitem__):
                    index, found = waiting.pop(task), task.result()
                    if found is not None:
                        waiting[_next(self._streams[index])] = index
                        yield index, found
        finally:
            for task in waiting:
                task.cancel()


Events = AsyncIterator[tuple[int, RequestEvent]]


async def first_event(generation: Generation, events: Events, receive: Receive) -> tuple[int, RequestEvent]:
    """The first of `events`, of a stream that has not begun: what fails before it gets an HTTP status of its
    own. ApiError, or ClientGoneError; the generation is closed then."""

    async def first() -> tuple[int, RequestEvent]:
        return await anext(events)

    try:
        index, event = await unless_gone(receive, first())
        if isinstance(event, Failed):
            raise of_failed(event)
    except BaseException:
        generation.close()
        raise
    return index, event


async def _whole(stream: Stream) -> tuple[Chunk, Ended]:
    chunk, last = await stream.collect()
    if isinstance(last, Failed):
        raise of_failed(last)
    assert isinstance(last, Ended)
    return chunk, last


def _next(stream: Stream) -> asyncio.Task[RequestEvent | None]:
    async def one() -> RequestEvent | None:
        with suppress(StopAsyncIteration):
            return await anext(stream)
        return None

    return asyncio.create_task(one())


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled where the client goes before: ClientGoneError."""
    task, gone = asyncio.create_task(work), asyncio.create_task(client_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        task.cancel()
        gone.cancel()


async def client_gone(receive: Receive) -> None:
    """Returns once the client has closed the connection; its body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def finish_reason(ended: Ended) -> FinishReason:
    """OpenAI's word for how an answer ended."""
    if ended.reason == "stop":
        return "stop"
    assert ended.reason in ("length", "capacity"), ended
    return "length"


def usage(prompt_tokens: int, ended: Sequence[Ended], per_prompt: int) -> dict[str, Any]:
    """OpenAI's usage. prompt_tokens: of all prompts, each counted once, however many answers (`per_prompt`)
    it got; what the first answer found of it in the prefix cache counts as cached."""
    output = sum(e.output_tokens for e in ended)
    cached = sum(min(e.cached_tokens, e.prompt_tokens) for e in ended[::per_prompt])
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output,
        "total_tokens": prompt_tokens + output,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
