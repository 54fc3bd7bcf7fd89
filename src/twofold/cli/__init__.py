"""The command `twofold`: one function per command, thin; what they do lives in `twofold.jobs` and below.

Nothing heavy is imported here: a command imports what it needs when it runs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer

from twofold.cli import (
    analyse,
    bench_serve,
    catalogues,
    dissect,
    distill,
    evaluate,
    explore,
    fit,
    machine,
    microbench,
    results,
    serve,
    talk,
    validate,
)
from twofold.cli.errors import Commands, show_warning
from twofold.kernels.cpu.threads import quiet_openmp

app = typer.Typer(
    name="twofold",
    cls=Commands,
    help="Run LLMs with published efficiency techniques switched on, and predict the same plan on hardware "
    "that is not there.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EVALUATE, TALK, CATALOGUES, MACHINE = "Plans", "Text", "What there is", "This machine and this engine"
ANALYSES = "Analyses"

_POINT = "--device h100-sxm --concurrency 8 --prompt 1024 --output 128"

_COMMANDS: tuple[tuple[Callable[..., None], str, tuple[str, ...]], ...] = (
    (
        evaluate.compare,
        EVALUATE,
        (
            "twofold compare",
            "twofold compare plan.yaml --devices h100-sxm,mi300x --html report.html",
            "twofold compare --technique kivi:bits=2 --technique sarathi --combine kivi+sarathi --no-quality",
        ),
    ),
    (
        evaluate.run,
        EVALUATE,
        ("twofold run plan.yaml", "twofold run --technique copyspec --text rewrite --concurrency 4 --json"),
    ),
    (
        evaluate.predict,
        EVALUATE,
        (
            "twofold predict plan.yaml --devices all",
            f"twofold predict --model llama-3.1-8b {_POINT}",
            f"twofold predict --model llama-3.1-8b {_POINT} --technique kivi:bits=2,residual=64 --json",
            "twofold predict --model llama-3.1-70b --device h100-sxm --tp 8 --trace trace.csv",
        ),
    ),
    (
        explore.explore,
        EVALUATE,
        (
            "twofold explore examples/explore.yaml",
            "twofold explore plan.yaml --html pareto.html --confirm",
            "twofold explore plan.yaml --ray auto --json",
        ),
    ),
    (
        talk.generate,
        TALK,
        (
            'twofold generate "Why is the sky blue?"',
            'twofold generate "Once upon a time" --raw --max-tokens 64 --temperature 0.8 --seed 1',
            "twofold generate - --technique copyspec < question.txt",
        ),
    ),
    (talk.chat, TALK, ("twofold chat", "twofold chat --model model.gguf --temperature 0.7 --top-p 0.9")),
    (
        serve.serve,
        TALK,
        (
            "twofold serve",
            "twofold serve plan.yaml --port 8080",
            "twofold serve --technique kivi --host 0.0.0.0 --api-key secret --replicas 2",
        ),
    ),
    (catalogues.pull, CATALOGUES, ("twofold pull smollm2-135m",)),
    (catalogues.models, CATALOGUES, ()),
    (catalogues.devices, CATALOGUES, ()),
    (catalogues.techniques, CATALOGUES, ("twofold techniques --pairs",)),
    (catalogues.claims, CATALOGUES, ("twofold claims", "twofold claims kivi --json")),
    (machine.calibrate, MACHINE, ("twofold calibrate --quick", "twofold calibrate --device cuda")),
    (microbench.stream, MACHINE, ("twofold stream", "twofold stream --threads 1 --size 64MiB --json")),
    (
        machine.bench,
        MACHINE,
        (
            "twofold bench",
            "twofold bench -p 512 -n 128 -d 0,1024 -r 3 -o csv",
            "twofold bench --model llama-3.1-8b --device h100-sxm -d 0,4096",
        ),
    ),
    (
        bench_serve.bench_serve,
        MACHINE,
        (
            "twofold bench serve http://127.0.0.1:8000 --concurrency 1,2,4,8",
            "twofold bench serve --rate 0.5,1,2 --duration 60s --slo ttft=500ms,tpot=50ms --html load.html",
            "twofold bench serve --trace trace.csv --speed-up 4 --endpoint completions --json",
        ),
    ),
    (fit.fit, MACHINE, ("twofold fit", "twofold fit --data measurements --generation ada --write")),
    (
        distill.distill,
        MACHINE,
        (
            "twofold distill heads.safetensors",
            "twofold distill heads.safetensors --model model.gguf --windows 32 --tuning 100",
        ),
    ),
    (
        validate.validate,
        MACHINE,
        ("twofold validate", "twofold validate --data measurements --group serving --plots plots"),
    ),
    (
        analyse.requirements,
        ANALYSES,
        (
            "twofold requirements --model llama-3.1-70b --use-case chat",
            "twofold requirements --model llama-3.1-8b --use-case rag --batch 8 --devices h100-sxm,l40s",
            "twofold requirements --list",
        ),
    ),
    (
        analyse.longctx,
        ANALYSES,
        (
            "twofold longctx --model llama-3.1-8b --device h100-sxm",
            "twofold longctx --model yi-34b-200k --device a100-80g-sxm --peak --html longctx.html",
        ),
    ),
    (
        analyse.attention_io,
        ANALYSES,
        ("twofold attention-io --model llama-3.1-8b --device h100-sxm --cache 227KiB --html attention.html",),
    ),
    (
        dissect.breakdown,
        ANALYSES,
        (
            "twofold breakdown --prompt 256 --output 32",
            "twofold breakdown --model llama-3.1-8b --device h100-sxm --devices l40s --concurrency 16 --json",
        ),
    ),
    (
        dissect.measure,
        MACHINE,
        ("twofold measure --duration 60s", "twofold measure --requests 20 --technique kivi --html run.html"),
    ),
    (machine.simulate, MACHINE, ("twofold simulate", "twofold simulate --requests 5000 --seed 42")),
    (results.schema, EVALUATE, ("twofold schema", "twofold schema plan")),
)


# Commands of two words, of which the first is a command of its own.
_NAMES: dict[Callable[..., None], str] = {bench_serve.bench_serve: "bench serve"}


def _paragraphs(function: Callable[..., None]) -> str:
    """The docstring with one line per paragraph, for rich breaks lines where the terminal needs it."""
    return "\n\n".join(" ".join(part.split()) for part in (function.__doc__ or "").split("\n\n"))


for _function, _panel, _examples in _COMMANDS:
    # A paragraph each, or rich would join them to one line.
    _epilog = (
        "\n\n".join(("[bold]Examples[/bold]", *(f"  {line}" for line in _examples))) if _examples else None
    )
    _name = _NAMES.get(_function)  # None: as the function is called
    app.command(_name, help=_paragraphs(_function), rich_help_panel=_panel, epilog=_epilog)(_function)
app.add_typer(results.app, name="results", rich_help_panel=EVALUATE)
app.add_typer(results.plans, name="plan", rich_help_panel=EVALUATE)


def _version(asked: bool) -> None:
    if asked:
        from twofold.report.host import twofold_version

        print(f"twofold {twofold_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_version, is_eager=True
    ),
) -> None:
    del version


def main(args: list[str] | None = None) -> Any:
    """Run the command in `args` (default: the process's own) and exit with its code (see
    `twofold.cli.errors`)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # units have characters that not every terminal's encoding has
            stream.reconfigure(errors="replace")
    warnings.showwarning = show_warning
    if "torch" not in sys.modules:
        quiet_openmp()
    app(args=args, prog_name="twofold")
