"""Drafting on repetitive text: seconds of generation with a technique that copies, over those without, on
this machine.

    python benchmarks/decoding_speedup.py [--model smollm2-135m] [--runs 5] [--json FILE]

Tasks are what people ask of an editor: code to be given back with comments, a text with its typos corrected,
a table to be copied. Engines take turns, task by task; a figure is the median over the runs, and greedy
outputs must be equal token for token.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.jobs.run import load_engine
from twofold.models.find import find_checkpoint
from twofold.plan import Plan

CODE = """
class Inventory:
    def __init__(self, name):
        self.name = name
        self.items = {}

    def add_item(self, item, count):
        if item in self.items:
            self.items[item] = self.items[item] + count
        else:
            self.items[item] = count

    def remove_item(self, item, count):
        if item not in self.items:
            raise KeyError(item)
        if self.items[item] < count:
            raise ValueError("not enough items")
        self.items[item] = self.items[item] - count

    def total_count(self):
        total = 0
        for item in self.items:
            total = total + self.items[item]
        return total
"""

TEXT = """
The library opens at nine in the mornning and closes at six in the evening. On Saturdays it opens at ten and
closes at four. Members may borrow up to eight books at a time for three weeks. Books that are retuned late
cost ten cents for each day. Members who lose a book have to pay for a new one. The reading room on the second
floor is open to everyone, and no card is needed to use it. Children under twelve have to be acompanied by an
adult. The computers on the first floor may be used for one hour a day, and printing costs five cents a page.
"""

ROWS = "\n".join(
    f"| {name} | {city} | {year} |"
    for name, city, year in (
        ("Alice Johnson", "Amsterdam", 1998),
        ("Bob Martinez", "Barcelona", 2001),
        ("Carol Nguyen", "Copenhagen", 1987),
        ("David Osei", "Dublin", 1992),
        ("Emma Petrov", "Edinburgh", 2004),
        ("Frank Rossi", "Florence", 1979),
        ("Grace Silva", "Geneva", 1995),
        ("Henry Tanaka", "Helsinki", 1983),
    )
)

TASKS = {
    "code": "Add a docstring to every method of this Python class. Return the whole class.\n"
    f"```python{CODE}```",
    "text": f"Correct the spelling mistakes in this text and return the corrected text:\n{TEXT}",
    "table": f"Copy this table exactly as it is.\n| Name | City | Born |\n|---|---|---|\n{ROWS}\n",
}
OUTPUT = 192

TECHNIQUES: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "copyspec": [{"name": "copyspec"}],
    "aggressive-decoding": [{"name": "aggressive-decoding"}],
}


def engines_of(model: str, names: Sequence[str]) -> dict[str, Engine]:
    """An engine for each of `names`, one request at a time."""
    checkpoint = find_checkpoint(model)
    limits = {"max_num_seqs": 1, "max_context": 2048, "prefix_caching": True}
    plans = {n: {"model": model, "techniques": TECHNIQUES[n], "engine": limits} for n in names}
    return {name: load_engine(Plan.from_dict(plan), checkpoint) for name, plan in plans.items()}


def prompt_of(engine: Engine, task: str) -> list[int]:
    """The task as a turn of a chat, or as text to be gone on with where the model is not made for chat."""
    assert engine.tokenizer is not None
    try:
        return engine.tokenizer.chat_ids([{"role": "user", "content": task}])
    except ValueError:
        return engine.tokenizer.encode(task + "\n")


def generate(engine: Engine, prompt: list[int]) -> tuple[float, list[int]]:
    """Seconds from the first token to the last, and the output."""
    request = engine.add(prompt, SamplingParams(max_tokens=OUTPUT))
    while not request.is_finished:
        engine.step()
    engine.forget(request.id)
    assert request.first_token_time is not None
    assert request.last_token_time is not None
    return request.last_token_time - request.first_token_time, list(request.output_ids)


def measure(model: str, runs: int) -> dict[str, Any]:
    """Milliseconds per token by task and technique, the speedups, and how many guesses were right."""
    engines = engines_of(model, list(TECHNIQUES))
    prompts = {task: prompt_of(engines["plain"], text) for task, text in TASKS.items()}
    seconds: dict[tuple[str, str], list[float]] = {}
    tokens: dict[str, list[int]] = {}
    for run in range(runs + 1):
        if run == 1:  # the first run records what later ones replay
            for engine in engines.values():
                engine.reset_totals()
        for task, prompt in prompts.items():
            for name, engine in engines.items():
                taken, output = generate(engine, prompt)
                expected = tokens.setdefault(task, output)
                assert output == expected, f"{name} changed the output of {task}"
                if run:
                    seconds.setdefault((task, name), []).append(taken)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    total = {name: sum(medians[task, name] for task in TASKS) for name in TECHNIQUES}
    return {
        "model": model,
        "runs": runs,
        "tokens": {task: len(ids) for task, ids in tokens.items()},
        "ms_per_token": {
            task: {name: 1e3 * medians[task, name] / (len(tokens[task]) - 1) for name in TECHNIQUES}
            for task in TASKS
        },
        "speedup": {
            name: {task: medians[task, "plain"] / medians[task, name] for task in TASKS}
            | {"all": total["plain"] / total[name]}
            for name in TECHNIQUES
        },
        "drafts": {name: _drafts(engine) for name, engine in engines.items() if engine.drafter is not None},
    }


def _drafts(engine: Engine) -> dict[str, float]:
    totals = engine.totals
    return {
        "draft_rate": totals.drafts / totals.decodes,
        "draft_length": totals.drafted / max(1, totals.drafts),
        "accepted_length": totals.accepted / max(1, totals.drafts),
    }


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.model, args.runs)
    print(f"{found['model']}, medians of {args.runs} interleaved runs")
    for task, by_name in found["ms_per_token"].items():
        cells = [f"{name} {ms:.2f} ms ({found['speedup'][name][task]:.2f} x)" for name, ms in by_name.items()]
        print(f"{task} ({found['tokens'][task]} tokens): {', '.join(cells)}")
    for name, means in found["drafts"].items():
        cells = [f"{key} {value:.2f}" for key, value in means.items()]
        print(f"{name}: {found['speedup'][name]['all']:.2f} x over all; {', '.join(cells)}")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
