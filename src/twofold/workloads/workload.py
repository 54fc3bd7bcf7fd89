"""From a workload plan to requests: prompts, lengths and arrival times. Everything random comes from the
plan's seed."""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from twofold.engine.engine import Prompt
from twofold.engine.request import SamplingParams
from twofold.models.tensors import Tokenizer
from twofold.plan import WorkloadPlan
from twofold.workloads.text import prose

_TIME = ("timestamp", "arrival_time", "time", "arrival")
_PROMPT = ("contexttokens", "prompt_tokens", "input_toks", "prompt")
_OUTPUT = ("generatedtokens", "output_tokens", "output_toks", "output")
REWRITE = "Repeat the following text word for word:\n\n{text}"


class Item(NamedTuple):
    """One request: arrival in seconds after the start, prompt, sampling parameters."""

    time: float
    prompt: Prompt
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival; concurrency: how many are kept going (None: they arrive by their
    times)."""

    items: list[Item]
    concurrency: int | None
    summary: str

    @property
    def prompt_tokens(self) -> float:
        """Mean prompt length."""
        return sum(i.prompt if isinstance(i.prompt, int) else len(i.prompt) for i in self.items) / len(
            self.items
        )

    @property
    def output_tokens(self) -> float:
        """Mean output length asked for."""
        return sum(i.params.max_tokens for i in self.items) / len(self.items)


def make_workload(plan: WorkloadPlan, tokenizer: Tokenizer | None, *, real: bool, vocab: int) -> Workload:
    """The requests of `plan`. Where nothing is computed (`real` false) prompts are numbers of tokens.

    A model without a tokenizer is given random token ids. ValueError for files that cannot be read.
    """
    rng = random.Random(plan.seed)
    if plan.prompts is not None:
        return _from_prompts(plan, plan.prompts, tokenizer, real=real)
    if plan.trace is not None:
        lengths = read_trace(plan.trace, plan.requests)
        summary = f"trace {plan.trace.name}, {len(lengths)} requests"
    else:
        count = plan.requests or max(4, 4 * (plan.concurrency or 1))
        times = _arrivals(count, plan.rate, rng)
        lengths = [(t, plan.prompt, plan.output) for t in times]
        how = f"{plan.rate:g} requests/s" if plan.rate else f"{plan.concurrency or 1} at a time"
        summary = f"{count} requests of {plan.prompt} + {plan.output} tokens, {how}"
    prompts: list[Prompt] = [n for _, n, _ in lengths]
    if real:
        source = _Text(plan.text, tokenizer, vocab, plan.seed)
        prompts = [source.prompt(i, n) for i, (_, n, _) in enumerate(lengths)]
    items = [
        Item(time, prompt, SamplingParams(max_tokens=output, ignore_eos=True))
        for prompt, (time, _, output) in zip(prompts, lengths, strict=True)
    ]
    timed = plan.rate is not None or (plan.trace is not None and plan.concurrency is None)
    return Workload(items, None if timed else plan.concurrency or 1, summary)


def read_trace(path: Path, limit: int | None = None) -> list[tuple[float, int, int]]:
    """(arrival in seconds after the first, prompt tokens, output tokens) of a CSV file with a header, sorted
    by arrival.

    Column names as in the Azure traces (TIMESTAMP, ContextTokens, GeneratedTokens) or arrival_time,
    prompt_tokens, output_tokens; times as ISO dates or seconds. ValueError names the line that does not fit.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
            time, prompt, output = (_column(path, columns, names) for names in (_TIME, _PROMPT, _OUTPUT))
            rows = []
            for number, row in enumerate(reader, start=2):
                try:
                    entry = (_moment(row[time]), int(row[prompt]), int(row[output]))
                except (TypeError, ValueError):
                    raise ValueError(
                        f"{path}, line {number}: {row!r} is not time, prompt tokens, output tokens"
                    ) from None
                if entry[1] < 1 or entry[2] < 1:
                    raise ValueError(
                        f"{path}, line {number}: lengths must be positive, not {entry[1]} and {entry[2]}"
                    )
                rows.append(entry)
    except OSError as error:
        raise ValueError(f"trace {str(path)!r} cannot be read: {error}") from None
    if not rows:
        raise ValueError(f"trace {str(path)!r} holds no requests")
    rows.sort(key=lambda row: row[0])
    first = rows[0][0]
    return [(t - first, p, o) for t, p, o in rows[:limit]]


def _column(path: Path, columns: dict[str, str], names: tuple[str, ...]) -> str:
    for name in names:
        if name in columns:
            return columns[name]
    raise ValueError(
        f"trace {str(path)!r} has no column {' or '.join(names)}; it has {', '.join(columns.values())}"
    )


def _moment(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        # Seven digits after the point are more than Python 3.11 to 3.13 parse.
        return datetime.fromisoformat(text[:26]).timestamp()


def _arrivals(count: int, rate: float | None, rng: random.Random) -> list[float]:
    """Poisson arrivals at `rate` per second, or all at once."""
    times, now = [], 0.0
    for _ in range(count):
        times.append(now)
        now += rng.expovariate(rate) if rate else 0.0
    return times


def _from_prompts(plan: WorkloadPlan, path: Path, tokenizer: Tokenizer | None, *, real: bool) -> Workload:
    if tokenizer is None:
        raise ValueError(
            f"prompts from {str(path)!r} need a tokenizer, and this model is known by its architecture only; "
            f"give prompt and output lengths, or a trace"
        )
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompts file {str(path)!r} cannot be read: {error}") from None
    if not lines:
        raise ValueError(f"prompts file {str(path)!r} is empty; write one prompt per line")
    ids = [tokenizer.encode(line) for line in lines[: plan.requests]]
    times = _arrivals(len(ids), plan.rate, random.Random(plan.seed))
    params = SamplingParams(max_tokens=plan.output, ignore_eos=True)
    items = [Item(t, i if real else len(i), params) for t, i in zip(times, ids, strict=True)]
    concurrency = None if plan.rate else plan.concurrency or 1
    return Workload(items, concurrency, f"{len(ids)} prompts of {path.name}, {plan.output} tokens each")


@lru_cache(maxsize=2)
def _encoded_prose(tokenizer: Tokenizer) -> list[int]:
    """The prose that prompts are cut from; a comparison cuts the same for each of its rows."""
    return tokenizer.encode(prose()[:400_000], special=False)


class _Text:
    """Cuts prompts of an exact number of tokens out of prose, each from another place."""

    def __init__(self, kind: str, tokenizer: Tokenizer | None, vocab: int, seed: int) -> None:
        self.kind, self.tokenizer, self.vocab, self.seed = kind, tokenizer, vocab, seed
        self.stream: list[int] = [] if tokenizer is None else _encoded_prose(tokenizer)  # type: ignore[arg-type]  # by identity

    def prompt(self, index: int, length: int) -> list[int]:
        """Prompt number `index`, `length` tokens."""
        rng = random.Random(f"{self.seed}:{index}")
        if self.tokenizer is None:
            return [rng.randrange(self.vocab) for _ in range(length)]
        if self.kind == "rewrite" or (self.kind == "mixed" and index % 2):
            return self._rewrite(rng, length)
        return self._slice(rng, length)

    def _slice(self, rng: random.Random, length: int) -> list[int]:
        start = rng.randrange(len(self.stream))
        ids = self.stream[start : start + length]
        while len(ids) < length:
            ids += self.stream[: length - len(ids)]
        return ids

    def _rewrite(self, rng: random.Random, length: int) -> list[int]:
        """A chat turn that asks for a passage again, so that the answer repeats the prompt."""
        assert self.tokenizer is not None
        mark = "\x1e"
        before, _, after = self.tokenizer.chat(
            [{"role": "user", "content": REWRITE.format(text=mark)}]
        ).partition(mark)
        head, tail = self.tokenizer.encode(before), self.tokenizer.encode(after)
        if tail and tail[0] == self.tokenizer.bos_id:
            tail = tail[1:]
        room = length - len(head) - len(tail)
        if room < 1:
            raise ValueError(
                f"a rewriting prompt needs more than {length - room} tokens, not {length}; raise "
                "workload.prompt"
            )
        return head + self._slice(rng, room) + tail
