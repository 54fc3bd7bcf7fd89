"""The clients of the simulation: what each asks for, what it must get, and whether it does."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from twofold.engine.sampling_params import SamplingParams
from twofold.engine.simulated_model import expected_embedding, expected_output
from twofold.server.messages import Chunk, Embed, Embedded, Ended, Failed, Generate, Job, RequestEvent
from twofold.server.simulation.worker import SimulatedTokenizer, SimulatedWorker, text_of

NUM_WORDS = 3
"""Distinct tokens in prompts: few, so that equal blocks behind unequal ones are common."""


@dataclass(slots=True)
class Client:
    """A client that waits for the end of its answer.

    text: what it must get in the end; got: what has come; worker: who has its job, None while nobody has;
    num_sent: workers that have been given it.
    """

    job: Job
    deadline: float
    text: str = ""
    embedding: float = 0.0
    got: str = ""
    num_tokens: int = 0
    worker: SimulatedWorker | None = None
    num_sent: int = 0

    def receive(self, event: RequestEvent) -> str | None:
        """Check an event that its worker sent. Returns how the answer ended, None while it goes on."""
        job = self.job
        if isinstance(event, Chunk):
            assert isinstance(job, Generate), f"{event} answers {job}"
            self.got += event.text
            self.num_tokens += event.num_tokens
            assert self.text.startswith(self.got), f"{job} got {self.got!r}, alone it gives {self.text!r}"
            return None
        if isinstance(event, Embedded):
            assert isinstance(job, Embed), f"{event} answers {job}"
            assert event.vector == (self.embedding,), f"{job} got {event}, alone it gives {self.embedding}"
            return "embedded"
        if isinstance(event, Failed):
            self._check_failed(event)
            return event.kind
        self._check_ended(event)
        return event.reason

    def _check_failed(self, event: Failed) -> None:
        assert self.worker is not None, f"{event} comes from nowhere"
        if event.kind == "invalid":
            assert not self.worker.fits(self.job), f"{self.job} was refused without need"
        else:
            assert event.kind == "internal", f"a worker sent {event}"
            assert self.worker.runner.num_failures, f"{event}, but nothing has failed"

    def _check_ended(self, event: Ended) -> None:
        job, worker = self.job, self.worker
        assert worker is not None, f"{event} comes from nowhere"
        assert isinstance(job, Generate), f"{event} answers {job}"
        assert event.prompt_tokens == len(job.prompt_ids), f"{event} answers {job}"
        assert event.output_tokens == self.num_tokens, f"{event}, but chunks had {self.num_tokens}"
        assert event.reason in ("stop", "length", "capacity"), f"{event}, but nobody cancelled {job}"
        if self.got != self.text:
            total = event.prompt_tokens + event.output_tokens
            assert event.reason != "stop", f"{job} got {self.got!r}, alone it gives {self.text!r}"
            assert total >= worker.ready.max_context, f"{event}: {job} ended early, with {self.got!r}"


class Requests:
    """Random requests: prompts that share beginnings, some of them too long; a few stop strings, stop tokens
    and embeddings."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._beginnings = [rng.choices(range(NUM_WORDS), k=rng.randint(1, 24)) for _ in range(4)]
        self._too_long = tuple(rng.choices(range(NUM_WORDS), k=600))

    def next(self, id: str, deadline: float) -> Client:
        """A new client, to be answered until `deadline`."""
        rng = self._rng
        dice = rng.random()
        if dice < 0.01:
            return Client(Generate(id, self._too_long, SamplingParams()), deadline)
        prompt = rng.choice(self._beginnings)[: rng.randint(1, 24)]
        prompt = prompt + rng.choices(range(NUM_WORDS), k=rng.randint(0, 8))
        if dice < 0.08:
            return Client(Embed(id, tuple(prompt)), deadline, embedding=expected_embedding(prompt))
        return self._completion(id, prompt, deadline)

    def _completion(self, id: str, prompt: list[int], deadline: float) -> Client:
        rng = self._rng
        most = rng.choice((1, 2, 4, 8, 12))
        ignore_eos = rng.random() < 0.2
        ends = frozenset() if ignore_eos else SimulatedTokenizer.eos_ids
        output = expected_output(prompt, most, 0, ends)
        stop: tuple[str, ...] = ()
        stop_ids: frozenset[int] = frozenset()
        dice = rng.random()
        if dice < 0.1:
            token = rng.choice(output)
            stop_ids = frozenset((token,))
            output = output[: output.index(token) + 1]
        # The token that ends a text is not part of it.
        text = text_of(output[:-1] if output[-1] in ends or output[-1] in stop_ids else output)
        if dice > 0.9 and text:
            start = rng.randrange(len(text))
            stop = (text[start : start + rng.randint(1, 3)],)
            text = text[: text.index(stop[0])]
        params = SamplingParams(max_tokens=most, stop=stop, stop_token_ids=stop_ids, ignore_eos=ignore_eos)
        job = Generate(id, tuple(prompt), params, priority=rng.randint(0, 2))
        return Client(job, deadline, text=text)
