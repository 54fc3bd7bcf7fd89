"""Names for shell completion. Nothing here loads torch: a shell waits for the answer."""

from __future__ import annotations


def models(incomplete: str) -> list[str]:
    """Models that begin with what was typed."""
    from twofold.models.catalog import model_names
    from twofold.models.registry import registered_names

    return _matching({*model_names(), *registered_names()}, incomplete)


def pullable(incomplete: str) -> list[str]:
    """Models that can be pulled."""
    from twofold.models.registry import registered_names

    return _matching(registered_names(), incomplete)


def devices(incomplete: str) -> list[str]:
    """Devices; after a comma, the list so far with one more."""
    from twofold.devices.registry import device_names

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _matching(device_names(), last)]


def techniques(incomplete: str) -> list[str]:
    """Techniques by name."""
    from twofold.techniques.registry import technique_names

    return _matching(technique_names(), incomplete)


def kernels(incomplete: str) -> list[str]:
    """Kernels of the device `cpu`."""
    return _matching(("auto", "native", "native-fp32", "reference"), incomplete)


def cache_formats(incomplete: str) -> list[str]:
    """Formats of cache entries."""
    return _matching(("auto", "f32", "f16", "int8", "int4", "fp8"), incomplete)


def weights(incomplete: str) -> list[str]:
    """How quantised matrices are held."""
    from twofold.models.quantised import CHECKPOINTS

    return _matching(("auto", "stored", "dense", *CHECKPOINTS), incomplete)


def serving(incomplete: str) -> list[str]:
    """Serving software by name."""
    from twofold.engine.serving_profile import serving_names

    return _matching(serving_names(), incomplete)


def use_cases(incomplete: str) -> list[str]:
    """Use cases by name."""
    from twofold.analysis.use_cases import use_cases as known

    return _matching(known(), incomplete)


def _matching(names: object, incomplete: str) -> list[str]:
    return sorted(n for n in names if n.startswith(incomplete.lower()))  # type: ignore[attr-defined]
