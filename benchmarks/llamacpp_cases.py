"""What `cpu_vs_llamacpp.py` measures: the cases, and how each side times one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from counted_reads import counted_reads
from peer import Peer

from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams

SEQUENCES = 8
BEFORE_BATCH = 32
"""Prompt tokens of each of the sequences that decode together."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: tokens of each case, rounds, llama.cpp's flash attention settings; `seconds`: no
    further round begins after so many, all models together (None: all rounds are done)."""

    rounds: int = 7
    prompt: int = 512
    output: int = 128
    batch_output: int = 64
    depth: int = 4096
    depth_output: int = 64
    flash: tuple[bool, ...] = (True, False)
    seconds: float | None = None


QUICK = Sizes(
    rounds=2,
    prompt=256,
    output=32,
    batch_output=8,
    depth=1024,
    depth_output=16,
    flash=(True,),
    seconds=30.0,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure: its name, tokens and bytes of a timing, and how each side times it (seconds)."""

    name: str
    tokens: int
    read: float
    ours: Callable[[], float]
    theirs: dict[str, Callable[[], float]]


def token_ids(count: int, vocab: int, seed: int = 0) -> list[int]:
    """Token ids that do not repeat with a short period."""
    return [(7919 * i * i + 104729 * (i + seed) + 17) % vocab for i in range(count)]


def time_prompt(engine: Engine, ids: Sequence[int]) -> float:
    """Seconds from the first step to the first token of a prompt, nothing cached."""
    engine.scheduler.blocks.forget_cached()
    return _time(engine, [ids], before=lambda requests: True, tokens=1)


def time_decode(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int) -> float:
    """Seconds of the `tokens` steps after all of `prompts` have their first token. A prompt whose blocks are
    still cached is not computed again."""
    return _time(engine, prompts, before=lambda requests: all(r.num_output_tokens for r in requests),
                 tokens=tokens + 1)  # fmt: skip


def _time(
    engine: Engine, prompts: Sequence[Sequence[int]], *, before: Callable[[Any], bool], tokens: int
) -> float:
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    requests = [engine.add(ids, params) for ids in prompts]
    while not before(requests):
        engine.step()
    assert len({r.num_output_tokens for r in requests}) == 1, "sequences that decode together start together"
    start = engine.clock.now()
    while not all(r.is_finished for r in requests):
        engine.step()
    seconds = engine.clock.now() - start
    for request in requests:
        engine.forget(request.id)
    return seconds


def make_cases(engine: Engine, peer: Peer, sizes: Sizes, vocab: int) -> list[Case]:
    """The four cases of the loaded model. Computes the long context once on either side."""
    model = engine.runner.model
    chunk = engine.scheduler.config.max_num_batched_tokens
    ids = token_ids(sizes.prompt, vocab)
    short = ids[:1]
    many = [token_ids(BEFORE_BATCH, vocab, seed) for seed in range(SEQUENCES)]
    deep = token_ids(sizes.depth, vocab, 99)

    def peer_prompt(flash: bool) -> Callable[[], float]:
        context = peer.ask("open", tokens=sizes.prompt, sequences=1, flash=flash)["context"]
        return lambda: peer.ask("prompt", context=context, ids=ids)["seconds"]

    def peer_decode(flash: bool, before: Sequence[int], count: int, sequences: int) -> Callable[[], float]:
        room = len(before) + count + 8
        context = peer.ask("open", tokens=room, sequences=sequences, flash=flash)["context"]
        peer.ask("prompt", context=context, ids=list(before))
        peer.ask("keep", context=context)
        new = token_ids(count, vocab, 7)
        return lambda: peer.ask("decode", context=context, ids=new, sequences=sequences)["seconds"]

    def both(make: Callable[[bool], Callable[[], float]]) -> dict[str, Callable[[], float]]:
        return {"flash attention " + ("on" if flash else "off"): make(flash) for flash in sizes.flash}

    def decode_reads(start: int, count: int, sequences: int = 1) -> float:
        return sum(counted_reads(model, [(1, start + i + 1)] * sequences) for i in range(count))

    pieces = [min(chunk, sizes.prompt - first) for first in range(0, sizes.prompt, chunk)]
    return [
        Case(
            f"pp{sizes.prompt}",
            sizes.prompt,
            sum(counted_reads(model, [(piece, i * chunk + piece)]) for i, piece in enumerate(pieces)),
            lambda: time_prompt(engine, ids),
            both(peer_prompt),
        ),
        Case(
            f"tg{sizes.output}",
            sizes.output,
            decode_reads(1, sizes.output),
            lambda: time_decode(engine, [short], sizes.output),
            both(lambda flash: peer_decode(flash, short, sizes.output, 1)),
        ),
        Case(
            f"{SEQUENCES} x tg{sizes.batch_output}",
            SEQUENCES * sizes.batch_output,
            decode_reads(BEFORE_BATCH, sizes.batch_output, SEQUENCES),
            lambda: time_decode(engine, many, sizes.batch_output),
            both(lambda flash: peer_decode(flash, many[0], sizes.batch_output, SEQUENCES)),
        ),
        Case(
            f"tg{sizes.depth_output} @ d{sizes.depth}",
            sizes.depth_output,
            decode_reads(sizes.depth, sizes.depth_output),
            lambda: time_decode(engine, [deep], sizes.depth_output),
            both(lambda flash: peer_decode(flash, deep, sizes.depth_output, 1)),
        ),
    ]
