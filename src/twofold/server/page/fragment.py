"""A fragment of a plan that a browser sent, as a plan that may be predicted here: nothing in it names a file,
and its size is bounded."""

from __future__ import annotations

import re
from typing import Any

from twofold.devices.registry import is_real, make_device, modelled_names
from twofold.errors import nearest
from twofold.models.catalog import model_names
from twofold.models.find import find_spec
from twofold.models.locate import is_path
from twofold.models.registry import registered_names
from twofold.plan import Plan
from twofold.techniques.pairs import check_together
from twofold.techniques.registry import make_technique

KEYS = ("model", "device", "precision", "parallel", "techniques", "workload", "engine")
MOST = {"requests": 4096, "prompt": 1 << 20, "output": 1 << 16, "concurrency": 1024, "rate": 10_000}
"""Bounds of a load, beside the time that a prediction may take."""
_PLACE = re.compile(r"plan: ([a-z_.0-9-]+): (.*)", re.DOTALL)


class FieldError(ValueError):
    """What is wrong with one field of the fragment, by its path ("workload.prompt")."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field, self.message = field, message

    def __str__(self) -> str:
        return self.message


def read(values: Any) -> Plan:
    """The plan that `values` is, `device` being a modelled one; FieldError for the first field that does not
    fit."""
    if isinstance(values, dict):
        for key in values:
            if key not in KEYS:
                raise FieldError(str(key), f"unknown key {key!r}; {nearest(str(key), KEYS)}")
    try:
        plan = Plan.from_dict(values, "plan")
    except ValueError as error:
        first = str(error).partition("\n")[0]
        found = _PLACE.fullmatch(first)
        if found is None:
            raise FieldError("plan", first.removeprefix("plan: ")) from None
        raise FieldError(found[1], found[2]) from None
    _check_names(plan)
    _check_load(plan)
    _check_techniques(plan)
    return plan


def _check_names(plan: Plan) -> None:
    models = [*model_names(aliases=True), *registered_names()]
    if is_path(plan.model) or plan.model.lower() not in models:
        raise FieldError("model", f"unknown model {plan.model!r}; {nearest(plan.model, models)}")
    devices = ["this-cpu", *modelled_names()]
    if is_real(plan.device):
        raise FieldError("device", f"{plan.device!r} is a real device; predict for 'this-cpu' instead")
    if plan.device not in devices:
        raise FieldError("device", f"unknown device {plan.device!r}; {nearest(plan.device, devices)}")
    try:
        make_device(plan.device, **plan.parallel.model_dump())
    except ValueError as error:
        raise FieldError("parallel", str(error)) from None


def _check_load(plan: Plan) -> None:
    for key in ("prompts", "trace"):
        if getattr(plan.workload, key) is not None:
            raise FieldError(f"workload.{key}", "a load is given by numbers here, not by a file")
    for key, most in MOST.items():
        value = getattr(plan.workload, key)
        if value is not None and value > most:
            raise FieldError(f"workload.{key}", f"at most {most:,} here (given: {value})")


def _check_techniques(plan: Plan) -> None:
    spec = find_spec(plan.model)
    techniques = []
    for use in plan.techniques:
        try:
            technique = make_technique(use.name, use.params)
            technique.check(spec)
        except ValueError as error:
            raise FieldError(f"techniques.{use.name}", str(error)) from None
        techniques.append(technique)
    try:
        check_together(techniques)
    except ValueError as error:
        raise FieldError("techniques", str(error)) from None
