"""`distill`: heads that attend by signs, learned from a model for the technique `had`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import output
from twofold.cli.errors import complain


def distill(
    out: Annotated[Path, typer.Argument(help="The file to write; give it to had as `distilled`.")],
    model: Annotated[str, typer.Option("--model", help="A name or path, as for `run`.")] = "smollm2-135m",
    text: Annotated[
        Path | None,
        typer.Option("--text", help="Text to learn from [default: built-in prose].", show_default=False),
    ] = None,
    windows: Annotated[int, typer.Option("--windows", help="Stretches of the text.", min=1)] = 16,
    window: Annotated[int, typer.Option("--window", help="Tokens of each.", min=16)] = 256,
    steps: Annotated[int, typer.Option("--steps", help="Steps of each layer.", min=0)] = 150,
    tuning: Annotated[int, typer.Option("--tuning", help="Steps of all layers together.", min=0)] = 40,
    n: Annotated[int, typer.Option("--n", help="Entries that a query attends to of `context`.", min=1)] = 30,
    context: Annotated[int, typer.Option("--context", help="See `n`.", min=1)] = 256,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of the text.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print what came out as JSON.")] = False,
) -> None:
    """Distil a model's attention into signs of queries and keys (HAD), on this CPU, within minutes.

    Per head it learns a matrix and thresholds before the sign and the factor on scores: each layer alone,
    by its attention weights, while tanh turns into the sign, then all layers together by the model's
    output. Text that is not learned from says what it was worth: the divergence from the model with plain
    signs and with what was learned.
    """
    from twofold.jobs.distill import distill_model
    from twofold.techniques.attention.had_distill import Lessons
    from twofold.techniques.attention.had_layout import TopN

    lessons = Lessons(steps=steps, tuning=tuning, seed=seed)
    with output.progress_bar() as progress:
        found = distill_model(
            model,
            out,
            lessons,
            TopN(n, context),
            windows=windows,
            window=window,
            text=text,
            progress=progress,
        )
    if json:
        output.show_json({"file": str(out), "kl_before": found.before, "kl_after": found.after})
        return
    output.plain_table(
        "KL divergence from the unmodified model, on text not learned from",
        ("attention", "nat per token"),
        [("plain signs", f"{found.before:.3f}"), ("distilled", f"{found.after:.3f}")],
        right=(1,),
    )
    complain(f"{out}; use it with --technique had:distilled={out}", "written")
