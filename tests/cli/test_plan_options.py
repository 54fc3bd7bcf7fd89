"""Every field of a plan is an option, and options win over the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.cli.conftest import Twofold

from twofold.cli import read
from twofold.cli.plan_options import DISPLACES, PLAN_OPTIONS
from twofold.plan import Plan

GIVEN: dict[str, tuple[str, Any]] = {
    "model": ("llama-3.1-8b", "llama-3.1-8b"),
    "device": ("h100-sxm", "h100-sxm"),
    "devices": ("t4, b200", ["t4", "b200"]),
    "precision": ("fp16", "fp16"),
    "parallel.tp": ("4", 4),
    "parallel.pp": ("2", 2),
    "parallel.dp": ("3", 3),
    "parallel.ep": ("4", 4),
    "techniques": (
        "gemfilter:keep=512,kernel_size=7",
        [{"name": "gemfilter", "params": {"keep": 512, "kernel_size": 7}}],
    ),
    "combinations": (
        "copyspec+sarathi",
        [[{"name": "copyspec", "params": {}}, {"name": "sarathi", "params": {}}]],
    ),
    "behaviour": ("draft_rate=0.25", {"draft_rate": 0.25}),
    "workload.requests": ("7", 7),
    "workload.prompt": ("96", 96),
    "workload.output": ("24", 24),
    "workload.concurrency": ("5", 5),
    "workload.rate": ("2.5", 2.5),
    "workload.prompts": ("p.txt", "p.txt"),
    "workload.trace": ("t.csv", "t.csv"),
    "workload.text": ("rewrite", "rewrite"),
    "workload.seed": ("8", 8),
    "seed": ("9", 9),
    "engine.serving": ("vllm", "vllm"),
    "engine.block_size": ("32", 32),
    "engine.max_num_seqs": ("12", 12),
    "engine.max_num_batched_tokens": ("640", 640),
    "engine.max_context": ("2048", 2048),
    "engine.chunked_prefill": ("", False),
    "engine.prefix_caching": ("", False),
    "engine.preemption": ("swap", "swap"),
    "engine.policy": ("prefill-first", "prefill-first"),
    "engine.memory": ("4GB", 4 * 10**9),
    "engine.memory_share": ("0.5", 0.5),
    "engine.cache_blocks": ("100", 100),
    "engine.swap_memory": ("8GiB", 8 * 2**30),
    "engine.kernels": ("reference", "reference"),
    "engine.weights": ("dense", "dense"),
    "engine.threads": ("1", 1),
    "engine.processes": ("", True),
    "engine.cache_format": ("int8", "int8"),
    "quality.enabled": ("", False),
    "quality.tokens": ("200", 200),
    "quality.window": ("128", 128),
    "quality.passkey": ("100,300", [100, 300]),
    "quality.passkey_trials": ("2", 2),
    "quality.text": ("q.txt", "q.txt"),
}


def leaves(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Dotted paths of all fields that are no parts themselves."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{before}{name}.")
        else:
            yield before + name


def test_every_field_of_a_plan_has_exactly_one_option() -> None:
    paths = [option.path for option in PLAN_OPTIONS]
    assert sorted(paths) == sorted(leaves(Plan))
    assert sorted(paths) == sorted(GIVEN)
    flags = [flag for option in PLAN_OPTIONS for flag in option.flags.split("/")]
    assert len(flags) == len(set(flags))


def flags_for(paths: list[str]) -> list[str]:
    """The command line that sets those fields as in GIVEN."""
    args = []
    for option in PLAN_OPTIONS:
        if option.path in paths:
            text, wanted = GIVEN[option.path]
            args += [option.flag, text] if text else [option.flags.split("/")[not wanted]]
    return args


def at(values: dict[str, Any], path: str) -> Any:
    """The value at a dotted path."""
    for part in path.split("."):
        values = values[part]
    return values


@pytest.mark.parametrize(
    "without",
    [("workload.rate", "workload.trace"), ("workload.concurrency", "workload.prompts", "workload.rate")],
)
def test_each_option_sets_its_field(without: tuple[str, ...], twofold: Twofold) -> None:
    paths = [path for path in GIVEN if path not in without]
    result = twofold("plan", "show", *flags_for(paths), "--technique", "copyspec", "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    for path in paths:
        wanted = GIVEN[path][1]
        if path == "techniques":
            wanted = [*wanted, {"name": "copyspec", "params": {}}]
        assert at(plan, path) == wanted, path
    assert plan["derived"]["max_num_seqs"] == 12


def test_options_win_over_the_file_and_displace_what_they_exclude(tmp_path: Path, twofold: Twofold) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        "model: llama-3.1-8b\nworkload: {prompt: 100, output: 20, concurrency: 4}\ntechniques: [kivi]\n"
    )
    args = ("plan", "show", file, "--rate", "2", "--prompt", "50", "--technique", "sarathi", "--json")
    plan = json.loads(twofold(*args).stdout)
    load = plan["workload"]
    assert (load["prompt"], load["output"], load["rate"], load["concurrency"]) == (50, 20, 2.0, None)
    assert [use["name"] for use in plan["techniques"]] == ["sarathi"]
    assert set(DISPLACES) <= {option.path for option in PLAN_OPTIONS}


def test_seed_reaches_the_workload_unless_it_has_its_own(twofold: Twofold) -> None:
    plan = json.loads(twofold("plan", "show", "--seed", "5", "--json").stdout)
    assert (plan["seed"], plan["workload"]["seed"]) == (5, 5)
    plan = json.loads(twofold("plan", "show", "--seed", "5", "--workload-seed", "6", "--json").stdout)
    assert (plan["seed"], plan["workload"]["seed"]) == (5, 6)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--prompt", "-5"], "--prompt: Input should be greater than or equal to 1 (given: -5)"),
        (["--rate", "nan"], "--rate: Input should be a finite number"),
        (["--rate", "inf"], "--rate: Input should be a finite number"),
        (["--memory-share", "1.5"], "--memory-share: Input should be less than or equal to 1"),
        (["--memory", "-4GB"], "must be finite and not negative"),
        (["--memory", "4XB"], "'4XB' is not in B"),
        (["--memory", "0"], "at least one byte"),
        (["--passkey", "1,x"], "'1,x' is not a list of whole numbers"),
        (["--passkey", "0"], "--passkey"),
        (["--policy", "fastest"], "--policy: Input should be 'mixed' or 'prefill-first'"),
        (["--rate", "1", "--concurrency", "2"], "both rate and concurrency"),
        (["--behaviour", "draft_rate"], "write NAME=VALUE with a finite number"),
        (["--behaviour", "draft_rate=nan"], "write NAME=VALUE with a finite number"),
        (["--behaviour", "draft_rate=0.5"], "'draft_rate' belongs to no technique of the plan"),
        (["--technique", "kivi:bits"], "'bits' is not key=value"),
        (["--technique", "kivi", "--technique", "kivi"], "named twice"),
        (["--technique", "kivi:bits=nan"], "bits must be int"),
    ],
)
def test_values_that_make_no_sense(args: list[str], said: str, twofold: Twofold) -> None:
    result = twofold("plan", "show", *args)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.startswith("error: ")


def test_an_unknown_key_of_the_file_is_refused_with_the_nearest(tmp_path: Path, twofold: Twofold) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("workload: {promt: 3}\n")
    result = twofold("plan", "show", file)
    assert result.exit_code == 2
    assert f"{file}: unknown key 'workload.promt'; did you mean 'prompts'?" in result.stderr or (
        "unknown key 'workload.promt'; did you mean 'prompt'?" in result.stderr
    )


def test_all_devices_are_the_modelled_ones() -> None:
    names = read.devices("all")
    assert {"h100-sxm", "pim-gpt"} <= set(names)
    assert not {"cpu", "cuda", "this-cpu"} & set(names)


@pytest.mark.parametrize(
    "written",
    [
        "kivi:bits=4,residual=64",
        {"kivi": {"bits": 4, "residual": 64}},
        {"name": "kivi", "bits": 4, "residual": 64},
        {"name": "kivi", "params": {"bits": 4, "residual": 64}},
    ],
)
def test_a_technique_is_written_in_any_usual_way(written: object) -> None:
    (use,) = Plan.from_dict({"techniques": [written]}).techniques
    assert (use.name, use.params) == ("kivi", {"bits": 4, "residual": 64})
