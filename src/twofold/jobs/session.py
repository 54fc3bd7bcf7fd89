"""Talking to a model: one engine that answers prompt after prompt, streaming, with its speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twofold.devices.registry import is_real
from twofold.engine.build import Progress
from twofold.engine.engine import Prompt
from twofold.engine.request import SamplingParams
from twofold.jobs.predict import label_of
from twofold.jobs.run import load_engine
from twofold.models.find import find_checkpoint
from twofold.plan import Plan
from twofold.report.schema import Figure


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion and what it took. Seconds: to the first token, and per further token (None where there was
    none); cached: prompt tokens that were taken from the prefix cache; drafted, accepted: guessed tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    cached: int
    drafted: int
    accepted: int
    ttft: float | None
    tpot: float | None

    def record(self) -> dict[str, Any]:
        """The answer for JSON; figures as in the schema of results."""

        def figure(value: float | None, unit: str) -> dict[str, Any] | None:
            return None if value is None else Figure.exact(value, unit).model_dump()

        return {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached,
            "drafted_tokens": self.drafted,
            "accepted_tokens": self.accepted,
            "ttft": figure(self.ttft, "s"),
            "tpot": figure(self.tpot, "s"),
            "tokens_per_s": figure(1 / self.tpot if self.tpot else None, "token/s"),
        }

    def speed(self) -> str:
        """Lengths and speed in one line."""
        parts = [f"{self.prompt_tokens} tokens in" + (f" ({self.cached} cached)" if self.cached else "")]
        parts.append(f"{self.output_tokens} out")
        if self.ttft is not None:
            parts.append(f"first after {self.ttft:.2f} s")
        if self.tpot:
            parts.append(f"{1 / self.tpot:.1f} tokens/s")
        if self.drafted:
            parts.append(f"{self.accepted} of {self.drafted} guesses right")
        return ", ".join(parts) + f" ({self.finish_reason})"


class Session:
    """A loaded model that answers one prompt at a time, until it is closed.

    ValueError where the plan names a modelled device, or a model without weights or without a usable
    tokenizer.
    """

    def __init__(self, plan: Plan, progress: Progress | None = None) -> None:
        if not is_real(plan.device):
            raise ValueError(
                f"{plan.device!r} is a modelled device and computes no text; use 'cpu' or 'cuda'"
            )
        checkpoint = find_checkpoint(plan.model)
        self.tokenizer = checkpoint.text_tokenizer()
        self.engine = load_engine(plan, checkpoint, progress=progress)
        self.model = plan.model
        self.device = plan.device
        self.techniques = label_of(plan)

    def close(self) -> None:
        """End the processes that the engine holds, where there are any."""
        self.engine.close()

    def has_chat_template(self) -> bool:
        """Whether the model is made for chat."""
        try:
            self.tokenizer.chat([{"role": "user", "content": "Hello"}])
        except ValueError:
            return False
        return True

    def prompt_of(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation; ValueError where the model has no chat template."""
        return self.tokenizer.chat_ids(messages)

    def answer(
        self,
        prompt: Prompt,
        params: SamplingParams,
        on_text: Callable[[str], None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Complete `prompt`, giving each piece of text to `on_text` as it becomes certain.

        interrupted is asked between steps; where it says so, the answer ends there (reason "cancelled") and
        the engine is ready for the next one. ValueError where the prompt is too long for the model or its
        cache.
        """
        engine = self.engine
        request = engine.add(prompt, params)
        output = engine.output(request.id)
        while not request.is_finished:
            if interrupted():
                engine.cancel(request.id)
            engine.step()
            if piece := output.take():
                on_text(piece)
        if piece := output.take():
            on_text(piece)
        engine.forget(request.id)
        first, last, count = request.first_token_time, request.last_token_time, request.num_output_tokens
        return Answer(
            output.text,
            request.finish_reason or "error",
            request.num_prompt_tokens,
            count,
            request.num_cached_tokens,
            request.num_drafted,
            request.num_accepted,
            None if first is None else first - request.arrival_time,
            None if first is None or last is None or count < 2 else (last - first) / (count - 1),
        )


class Conversation:
    """Messages so far; `ask` adds a question and its answer."""

    def __init__(self, session: Session, system: str | None = None) -> None:
        self._session = session
        self._first = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, str]] = list(self._first)
        self.answers: list[Answer] = []

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = list(self._first)

    def ask(
        self,
        text: str,
        params: SamplingParams,
        on_text: Callable[[str], None],
        interrupted: Callable[[], bool],
    ) -> Answer:
        """The answer to `text` after everything said before. ValueError, and nothing is added, where it does
        not fit."""
        messages = [*self.messages, {"role": "user", "content": text}]
        answer = self._session.answer(self._session.prompt_of(messages), params, on_text, interrupted)
        self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        self.answers.append(answer)
        return answer

    def stats(self) -> str:
        """All answers together in one line."""
        return summary(self.answers)


def summary(answers: Sequence[Answer]) -> str:
    """How many answers, tokens, and the speed over all of them."""
    if not answers:
        return "no answers yet"
    times = [(a.tpot * (a.output_tokens - 1), a.output_tokens - 1) for a in answers if a.tpot]
    seconds, tokens = sum(t for t, _ in times), sum(n for _, n in times)
    speed = f", {tokens / seconds:.1f} tokens/s" if seconds else ""
    out, read = sum(a.output_tokens for a in answers), sum(a.prompt_tokens for a in answers)
    cached = sum(a.cached for a in answers)
    plural = "" if len(answers) == 1 else "s"
    return f"{len(answers)} answer{plural}, {read} tokens in ({cached} cached), {out} out{speed}"
