"""Every field of a plan as an option: one table, from which all commands that take a plan get their options.

The table is written out, not derived from `Plan`, so that `--help` loads neither pydantic nor torch; a test
holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.cli import complete, read

MODEL, LOAD, ENGINE, QUALITY = "Model, device and techniques", "Workload", "Engine", "Quality"
PANELS = (MODEL, LOAD, ENGINE, QUALITY)


@dataclass(frozen=True, slots=True)
class PlanOption:
    """One option and the field of the plan that it sets.

    path: the field, dotted; flags: as typer takes them; type: what the shell's text becomes; read: from that
    to the plan's value; complete: names for shell completion; also: further fields that get the same value.
    """

    path: str
    flags: str
    type: Any
    panel: str
    help: str
    read: Callable[[Any], Any] = read.unchanged
    complete: Callable[[str], list[str]] | None = None
    metavar: str | None = None
    also: tuple[str, ...] = ()

    @property
    def parameter(self) -> str:
        """Name of the Python parameter."""
        return "plan_" + self.path.replace(".", "_")

    @property
    def flag(self) -> str:
        """The option as the user writes it."""
        return self.flags.split("/")[0]


_NAMES = list[str]

PLAN_OPTIONS: tuple[PlanOption, ...] = (
    PlanOption(
        "model",
        "--model",
        str,
        MODEL,
        "Model: a name, a .gguf file or a Hugging Face directory.",
        complete=complete.models,
    ),
    PlanOption(
        "device",
        "--device",
        str,
        MODEL,
        "Device to run or predict on: a name or a YAML file.",
        complete=complete.devices,
    ),
    PlanOption(
        "devices",
        "--devices",
        str,
        MODEL,
        "Modelled devices to predict on, with commas, or 'all'.",
        read.devices,
        complete.devices,
    ),
    PlanOption("precision", "--precision", str, MODEL, "auto, fp32, bf16 or fp16."),
    PlanOption("parallel.tp", "--tp", int, MODEL, "Tensor parallelism."),
    PlanOption("parallel.pp", "--pp", int, MODEL, "Pipeline parallelism."),
    PlanOption("parallel.dp", "--dp", int, MODEL, "Data parallelism: replicas."),
    PlanOption("parallel.ep", "--ep", int, MODEL, "Expert parallelism."),
    PlanOption(
        "techniques",
        "--technique",
        _NAMES,
        MODEL,
        "A technique, with parameters where they differ from its defaults; repeat for more. Replaces "
        "those of the plan.",
        complete=complete.techniques,
        metavar="NAME[:KEY=VALUE,…]",
    ),
    PlanOption(
        "combinations",
        "--combine",
        _NAMES,
        MODEL,
        "Techniques that `compare` also tries together; repeat for more.",
        read.combinations,
        complete.techniques,
        "NAME+NAME",
    ),
    PlanOption(
        "behaviour",
        "--behaviour",
        _NAMES,
        MODEL,
        "What depends on real data, for predictions (see `twofold techniques`); repeat for more.",
        read.behaviour,
        metavar="NAME=VALUE",
    ),
    PlanOption("workload.requests", "--requests", int, LOAD, "Number of requests."),
    PlanOption("workload.prompt", "--prompt", int, LOAD, "Tokens per prompt."),
    PlanOption("workload.output", "--output", int, LOAD, "Tokens per answer."),
    PlanOption("workload.concurrency", "--concurrency", int, LOAD, "Requests kept going at a time."),
    PlanOption(
        "workload.rate",
        "--rate",
        float,
        LOAD,
        "Requests per second that arrive (Poisson), instead of --concurrency.",
    ),
    PlanOption("workload.prompts", "--prompts", Path, LOAD, "A file with one prompt per line.", read.path),
    PlanOption(
        "workload.trace", "--trace", Path, LOAD, "A CSV file of arrival times and lengths.", read.path
    ),
    PlanOption("workload.text", "--text", str, LOAD, "What prompts are cut from: prose, rewrite or mixed."),
    PlanOption("seed", "--seed", int, LOAD, "Seed of everything random.", also=("workload.seed",)),
    PlanOption("workload.seed", "--workload-seed", int, LOAD, "Seed of prompts and arrivals alone."),
    PlanOption(
        "engine.serving",
        "--serving",
        str,
        ENGINE,
        "Serving software whose defaults and host time are taken: plain, vllm, trtllm, sglang or gpt-fast.",
        complete=complete.serving,
    ),
    PlanOption("engine.block_size", "--block-size", int, ENGINE, "Tokens per cache block."),
    PlanOption("engine.max_num_seqs", "--max-num-seqs", int, ENGINE, "Most requests that run at a time."),
    PlanOption(
        "engine.max_num_batched_tokens", "--max-num-batched-tokens", int, ENGINE, "Most tokens per step."
    ),
    PlanOption("engine.max_context", "--max-context", int, ENGINE, "Most tokens per request."),
    PlanOption(
        "engine.chunked_prefill",
        "--chunked-prefill/--no-chunked-prefill",
        bool,
        ENGINE,
        "Whether prompts may be cut into chunks.",
    ),
    PlanOption(
        "engine.prefix_caching",
        "--prefix-caching/--no-prefix-caching",
        bool,
        ENGINE,
        "Whether equal beginnings are shared.",
    ),
    PlanOption("engine.preemption", "--preemption", str, ENGINE, "recompute or swap."),
    PlanOption("engine.policy", "--policy", str, ENGINE, "mixed or prefill-first."),
    PlanOption(
        "engine.memory",
        "--memory",
        str,
        ENGINE,
        "Memory of the device to use: 4GB, 8GiB or bytes.",
        read.size,
        metavar="SIZE",
    ),
    PlanOption(
        "engine.memory_share",
        "--memory-share",
        float,
        ENGINE,
        "Share of the device's memory to use, where --memory is not given.",
    ),
    PlanOption("engine.cache_blocks", "--cache-blocks", int, ENGINE, "Exact number of cache blocks."),
    PlanOption(
        "engine.swap_memory",
        "--swap-memory",
        str,
        ENGINE,
        "Host memory for swapped requests.",
        read.size,
        metavar="SIZE",
    ),
    PlanOption(
        "engine.kernels",
        "--kernels",
        str,
        ENGINE,
        "Kernels of device cpu: auto, native, native-fp32 (activations are not quantised) or reference.",
        complete=complete.kernels,
    ),
    PlanOption("engine.threads", "--threads", int, ENGINE, "Threads of device cpu."),
    PlanOption(
        "engine.processes",
        "--processes/--no-processes",
        bool,
        ENGINE,
        "Whether a run gives every instance of splitwise or llumnix a process of its own (device cpu).",
    ),
    PlanOption(
        "engine.weights",
        "--weights",
        str,
        ENGINE,
        "Quantised matrices: stored (as the checkpoint has them), dense (widened) or auto; in predictions "
        "also fp8, nvfp4, mxfp4-experts, int8wo, int4wo-32 or int4wo-128.",
        complete=complete.weights,
    ),
    PlanOption(
        "engine.cache_format",
        "--cache-format",
        str,
        ENGINE,
        "How cache entries are stored: auto, f32, f16, int8, int4 or (in predictions) fp8.",
        complete=complete.cache_formats,
    ),
    PlanOption("quality.enabled", "--quality/--no-quality", bool, QUALITY, "Whether to measure quality."),
    PlanOption("quality.tokens", "--quality-tokens", int, QUALITY, "Tokens of text to evaluate."),
    PlanOption("quality.window", "--quality-window", int, QUALITY, "Tokens per stretch of text."),
    PlanOption(
        "quality.passkey",
        "--passkey",
        str,
        QUALITY,
        "Lengths of passkey prompts, with commas.",
        read.whole_numbers,
        metavar="N,N,…",
    ),
    PlanOption("quality.passkey_trials", "--passkey-trials", int, QUALITY, "Passkey prompts per length."),
    PlanOption(
        "quality.text",
        "--quality-text",
        Path,
        QUALITY,
        "A text file to evaluate on, instead of the built-in prose.",
        read.path,
    ),
)

# A field given as an option takes the place of those in the file that it excludes.
DISPLACES = {
    "workload.rate": ("workload.concurrency",),
    "workload.concurrency": ("workload.rate",),
    "workload.prompts": ("workload.trace",),
    "workload.trace": ("workload.prompts", "workload.rate"),
}
