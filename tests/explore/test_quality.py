"""Quality comes from recorded measurements, or is unknown."""

from __future__ import annotations

from collections.abc import Sequence

from tests.report.examples import result

from twofold.explore.plan import QualityFloor
from twofold.explore.quality import KnownQuality, known_quality
from twofold.plan import TechniqueUse
from twofold.report.schema import Figure, Quality
from twofold.report.schema import TechniqueUse as Used
from twofold.report.store import Stored
from twofold.techniques.registry import make_technique

KIVI = (TechniqueUse.parse("kivi:bits=2"),)


def _run(model: str, kl: float, name: str = "kivi", **params: object) -> Stored:
    technique = make_technique(name, params)
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in technique.params.items()}
    quality = Quality(
        tokens=512, kl_divergence=Figure.exact(kl, "nat"), top1_agreement=Figure.exact(0.9, "1")
    )
    run = result("technique", model=model, quality=quality, techniques=[Used(name=name, params=plain)])
    return Stored(7, None, run)


def _known(uses: Sequence[TechniqueUse], runs: Sequence[Stored], **formats: str) -> KnownQuality:
    asked = {"weights": "auto", "cache_format": "auto"} | formats
    return known_quality(uses, "llama-3.1-8b", runs, **asked)


def test_nothing_on_is_the_unmodified_model() -> None:
    assert _known((), ()).source == "unmodified"
    assert _known((TechniqueUse.parse("sarathi"),), ()).source == "lossless"


def test_a_measurement_counts_with_equal_parameters_only() -> None:
    assert _known(KIVI, [_run("llama-3.1-8b", 0.05, bits=4)]).source == "unknown"
    found = _known(KIVI, [_run("llama-3.1-8b", 0.05, bits=2)])
    assert (found.source, found.kl, found.top1) == ("measured", 0.05, 0.9)


def test_the_models_own_measurement_comes_before_that_of_another() -> None:
    other, own = _run("smollm2-135m", 0.2, bits=2), _run("llama-3.1-8b", 0.05, bits=2)
    assert _known(KIVI, [other]).source == "measured on another model"
    assert "smollm2-135m" in _known(KIVI, [other]).note
    assert _known(KIVI, [other, own]).kl == 0.05


def test_lossless_techniques_beside_it_change_nothing() -> None:
    both = (*KIVI, TechniqueUse.parse("sarathi"))
    assert _known(both, [_run("llama-3.1-8b", 0.05, bits=2)]).source == "measured"


def test_lossy_formats_are_unknown() -> None:
    assert _known((), (), cache_format="int4").source == "unknown"
    assert _known((), (), weights="fp8").source == "unknown"


def test_the_floor() -> None:
    floor = QualityFloor(kl_max=0.1, top1_min=0.8)
    assert KnownQuality("measured", 0.05, 0.9).refusal(floor) == ""
    assert KnownQuality("measured", 0.2, 0.9).refusal(floor) == "quality floor"
    assert KnownQuality("measured", 0.05, 0.7).refusal(floor) == "quality floor"
    assert KnownQuality("measured", None, 0.9).refusal(floor) == "quality floor"
    assert KnownQuality("unknown").refusal(floor) == "quality unknown"
    assert KnownQuality("unknown").refusal(QualityFloor(kl_max=0.1, unknown="admit")) == ""
    assert KnownQuality("unmodified").refusal(floor) == ""
