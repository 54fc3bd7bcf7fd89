"""Plan: model, devices, techniques, workload, engine limits and metrics, in one YAML file or as keyword
arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from twofold.errors import nearest

PositiveInt = Annotated[int, Field(ge=1, strict=True)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """Base of the plan's parts: unknown keys are refused, nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TechniqueUse(Part):
    """A technique by name with the parameters that differ from its defaults."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> TechniqueUse:
        """From `name` or `name:key=value,key=value`, as on the command line."""
        name, _, rest = text.partition(":")
        params: dict[str, Any] = {}
        for item in filter(None, rest.split(",")):
            key, equals, value = item.partition("=")
            if not equals:
                raise ValueError(
                    f"technique {text!r}: {item!r} is not key=value; write {name}:key=value,key=value"
                )
            params[key.strip()] = yaml.safe_load(value)
        return cls(name=name.strip(), params=params)


def _technique(value: Any) -> Any:
    if isinstance(value, str):
        return TechniqueUse.parse(value)
    if not isinstance(value, dict):
        return value
    if "name" in value and "params" not in value:
        rest = {k: v for k, v in value.items() if k != "name"}
        return {"name": value["name"], "params": rest}
    if len(value) == 1 and isinstance(params := next(iter(value.values())), dict):
        return {"name": next(iter(value)), "params": params}  # `- kivi: {bits: 2}`
    return value


Use = Annotated[TechniqueUse, BeforeValidator(_technique)]


class WorkloadPlan(Part):
    """Requests and when they arrive.

    Lengths in tokens. One of: a synthetic load (`requests` of `prompt` and `output` tokens), a `prompts` file
    (one prompt per line), or a `trace` (CSV with arrival time, prompt and output tokens). Arrivals:
    `concurrency` requests at a time (each replaced as it ends), or `rate` per second (Poisson, from `seed`),
    or as the trace says.
    text: what synthetic prompts are cut from: prose, or prose to be rewritten word by word.
    """

    requests: PositiveInt | None = None
    prompt: PositiveInt = 256
    output: PositiveInt = 64
    concurrency: PositiveInt | None = None
    rate: Rate | None = None
    prompts: Path | None = None
    trace: Path | None = None
    text: Literal["prose", "rewrite", "mixed"] = "prose"
    seed: int = 0

    @model_validator(mode="after")
    def _one_kind(self) -> WorkloadPlan:
        if self.prompts is not None and self.trace is not None:
            raise ValueError("workload has both prompts and trace; give one of them")
        if self.rate is not None and self.concurrency is not None:
            raise ValueError("workload has both rate and concurrency; give one of them")
        if self.trace is not None and self.rate is not None:
            raise ValueError(
                "a trace has its own arrival times; drop rate, or give lengths instead of a trace"
            )
        return self


class EnginePlan(Part):
    """Limits of the engine; None is derived, and the derivation can be printed.

    serving: the software whose scheduler defaults and host time are taken ("plain": none; see
    `engine/serving/`).
    memory: bytes of the device to use (None = `memory_share` of it); cache_blocks: exact number of blocks;
    swap_memory: bytes of host memory for swapped requests (with preemption "swap").

    kernels: those of device "cpu": "native" (activations of products in 8 bits), "native-fp32" (in float32),
    "reference" (plain torch), "auto": native where they are installed; threads: how many they use.
    processes: a run on device "cpu" gives every instance of a technique over several instances a process of
    its own; without, they take turns in this one. The machines of a prediction are apart anyway.
    weights: "stored" keeps quantised matrices as the checkpoint stores them, "dense" widens them to the
    activations' precision; "auto": stored where the device's kernels multiply them so. In a prediction also a
    kind of quantised checkpoint (`models.quantised`), which then need not be at hand.
    cache_format: how cache entries are stored; "auto": f16 where the native kernels take that, else in the
    activations' precision; a technique that stores them its own way leaves no choice. "fp8" is for
    predictions.
    """

    serving: str = "plain"
    block_size: PositiveInt | None = None
    max_num_seqs: PositiveInt | None = None
    max_num_batched_tokens: PositiveInt | None = None
    max_context: PositiveInt | None = None
    chunked_prefill: bool = True
    prefix_caching: bool = True
    preemption: Literal["recompute", "swap"] = "recompute"
    policy: Literal["mixed", "prefill-first"] = "mixed"
    memory: PositiveInt | None = None
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    cache_blocks: PositiveInt | None = None
    swap_memory: PositiveInt | None = None
    kernels: Literal["auto", "native", "native-fp32", "reference"] = "auto"
    threads: PositiveInt | None = None
    processes: bool = False
    weights: Literal[
        "auto", "stored", "dense", "fp8", "nvfp4", "mxfp4-experts", "int8wo", "int4wo-32", "int4wo-128"
    ] = "auto"
    cache_format: Literal["auto", "f32", "f16", "int8", "int4", "fp8"] = "auto"

    @property
    def device_options(self) -> dict[str, Any]:
        """What `devices.registry.make_device` takes of this."""
        return {"kernels": self.kernels, "threads": self.threads}


class ParallelPlan(Part):
    """How the model is cut: tensor, pipeline, data and expert parallelism."""

    tp: PositiveInt = 1
    pp: PositiveInt = 1
    dp: PositiveInt = 1
    ep: PositiveInt = 1


class QualityPlan(Part):
    """What quality is measured on: tokens of text for KL divergence, agreement and perplexity; passkey
    prompts by length."""

    enabled: bool = True
    tokens: PositiveInt = 1024
    window: PositiveInt = 512
    passkey: tuple[PositiveInt, ...] = (256, 512, 1024)
    passkey_trials: PositiveInt = 3
    text: Path | None = None


class Plan(Part):
    """Everything that a run or a prediction depends on.

    device: where `run` executes; devices: where `compare` and `predict` predict; combinations: lists of
    technique names (or uses) that `compare` also tries together. `behaviour` overrides data-dependent
    quantities of a prediction.
    """

    model: str = "smollm2-135m"
    device: str = "cpu"
    devices: tuple[str, ...] = ()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    parallel: ParallelPlan = Field(default_factory=ParallelPlan)
    techniques: tuple[Use, ...] = ()
    combinations: tuple[tuple[Use, ...], ...] = ()
    workload: WorkloadPlan = Field(default_factory=WorkloadPlan)
    engine: EnginePlan = Field(default_factory=EnginePlan)
    quality: QualityPlan = Field(default_factory=QualityPlan)
    behaviour: dict[str, float] = Field(default_factory=dict)
    seed: int = 0

    @field_validator("techniques")
    @classmethod
    def _each_once(cls, uses: tuple[TechniqueUse, ...]) -> tuple[TechniqueUse, ...]:
        names = [use.name for use in uses]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"technique {min(twice)!r} is named twice; give it once with all its parameters")
        return uses

    @classmethod
    def from_dict(cls, values: Any, where: str = "plan") -> Plan:
        """A validated plan; ValueError in plain words, naming the nearest known key, for anything that does
        not fit."""
        if not isinstance(values, dict):
            raise ValueError(f"{where}: a plan is a mapping of keys to values, not {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError("\n".join(f"{where}: {_explain(cls, e)}" for e in error.errors())) from None

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """The plan in a YAML file; relative paths in it are relative to it."""
        return cls.from_dict(read_values(path), str(path))

    def with_techniques(self, uses: tuple[TechniqueUse, ...]) -> Plan:
        """This plan with exactly those techniques on."""
        return self.model_copy(update={"techniques": uses})


def read_values(path: str | Path) -> Any:
    """What a plan file says, its file names made absolute; not validated. ValueError where it cannot be
    read."""
    file = Path(path)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no plan file {str(path)!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"plan file {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"plan file {str(path)!r} is not YAML: {error}") from None
    if isinstance(values, dict):
        _resolve(values, file.parent)
    return {} if values is None else values


def _resolve(values: dict[str, Any], folder: Path) -> None:
    """Make the plan's file names absolute, seen from the folder of the plan."""
    for part, keys in (("workload", ("prompts", "trace")), ("quality", ("text",))):
        section = values.get(part)
        if isinstance(section, dict):
            for key in keys:
                if isinstance(section.get(key), str):
                    section[key] = str(folder / section[key])


def _explain(model: type[BaseModel], error: Any) -> str:
    """One validation error in words."""
    place = [str(p) for p in error["loc"] if not isinstance(p, int)]
    path = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        known: type[BaseModel] | None = model
        for step in place[:-1]:
            annotation = known.model_fields[step].annotation if known and step in known.model_fields else None
            known = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        fields = known.model_fields if known else TechniqueUse.model_fields
        return f"unknown key {path!r}; {nearest(place[-1], fields)}"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{path}: {message}{shown}" if path else f"{message}{shown}"
