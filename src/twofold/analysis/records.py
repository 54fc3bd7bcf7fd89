"""Requirements and the devices that meet them, as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from twofold.analysis.requirements import Phase, Requirement
from twofold.analysis.suitability import RESOURCES, Suitability, Trial
from twofold.analysis.use_cases import UseCase


def requirement_record(need: Requirement) -> dict[str, Any]:
    """What each of `devices` devices must offer: rates in SI units, counted work by phase."""
    return {
        "use_case": asdict(need.use_case),
        "batch": need.batch,
        "devices": need.devices,
        "precisions": need.precisions,
        "flop_per_s": need.flop_rate,
        "memory_bytes_per_s": need.bandwidth,
        "memory_bytes": {**asdict(need.held), "total": need.held.total},
        "link_bytes_per_s": need.link_bandwidth,
        "message_seconds": need.message_seconds,
        "phases": {phase.name: _phase(phase) for phase in need.phases},
    }


def _phase(phase: Phase) -> dict[str, Any]:
    return {
        "seconds": phase.seconds,
        "flop_per_s": phase.flop_rate,
        "memory_bytes_per_s": phase.bandwidth,
        "link_bytes_per_s": phase.link_bandwidth,
        "message_seconds": phase.message_seconds,
        "counted": asdict(phase.work),
    }


def suitability_record(found: Suitability, use_case: UseCase) -> dict[str, Any]:
    """What was tried of a device: `count` that meets everything (or None), the least number by resource, and
    every trial with its loads (required over offered) and predicted times."""
    enough = found.enough(use_case)
    return {
        "device": found.device,
        "count": enough.count if enough else None,
        "by_resource": {name: found.first(name) for name in RESOURCES},
        "trials": [_trial(trial, use_case) for trial in found.trials],
    }


def _trial(trial: Trial, use_case: UseCase) -> dict[str, Any]:
    return {
        "count": trial.count,
        "loads": trial.loads,
        "ttft": None if trial.ttft is None else trial.ttft.model_dump(),
        "tpot": None if trial.tpot is None else trial.tpot.model_dump(),
        "confidence": trial.confidence or None,
        "refused": trial.refused or None,
        "short": trial.short(use_case),
        "doubtful": trial.doubtful(use_case),
    }
