"""Tags: every exclusion has its reason, and none is left over."""

from __future__ import annotations

import pytest

from twofold.techniques.base import Info
from twofold.techniques.registry import technique_class, technique_names
from twofold.techniques.tags import ONLY_ONE

INFOS = [technique_class(name).info for name in technique_names()]


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_every_exclusion_has_a_reason(info: Info) -> None:
    assert all(info.reason(tag) for tag in info.excludes)
    assert set(info.reasons) <= set(info.excludes)


@pytest.mark.parametrize("tag", sorted(ONLY_ONE))
def test_tags_of_one_provider_are_excluded_by_it(tag: str) -> None:
    providers = [info for info in INFOS if tag in info.provides]
    assert providers
    assert all(tag in info.excludes for info in providers)
