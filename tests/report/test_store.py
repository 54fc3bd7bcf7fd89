"""The results database: keeps, finds, exports, and loses nothing when the file is locked or damaged."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from tests.report.examples import MOMENT, comparison, result
from tests.waiting import PATIENCE

from twofold.report.export import to_csv, to_json
from twofold.report.schema import Figure, Result, TechniqueUse
from twofold.report.store import NotSavedError, Store, default_path


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "data" / "results.sqlite", wait=0.1, notify=said.append)


def damaged_copies(store: Store) -> list[Path]:
    return sorted(p for p in store.path.parent.glob("*.damaged-*") if not p.name.endswith(("-wal", "-shm")))


def fill(store: Store, count: int = 40) -> None:
    """Enough results for the file to have many pages."""
    for index in range(count):
        store.save(result(f"row {index}"))
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def test_save_get_find(store: Store, said: list[str]) -> None:
    kivi = result(
        "kivi",
        techniques=[TechniqueUse(name="kivi", params={"bits": 2}), TechniqueUse(name="sarathi")],
        created=MOMENT + timedelta(hours=1),
    )
    first, second = store.save(result()), store.save(kivi)
    third = store.save(result(kind="predict", device="h100-sxm", created=MOMENT + timedelta(hours=2)))
    assert store.get(second) == kivi
    assert [s.id for s in store.find()] == [third, second, first]
    assert [s.id for s in store.find(technique="sarathi")] == [second]
    assert [s.id for s in store.find(technique="kiv")] == []
    assert [s.id for s in store.find(kind="predict", device="h100-sxm")] == [third]
    assert [s.id for s in store.find(since=MOMENT + timedelta(hours=1))] == [third, second]
    assert [s.id for s in store.find(limit=1)] == [third]
    assert store.find(model="other") == []
    assert said == []
    with pytest.raises(ValueError, match="no result 99"):
        store.get(99)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        store.find(limit=0)
    with pytest.raises(ValueError, match="time zone"):
        store.find(since=MOMENT.replace(tzinfo=None))


def test_comparison_and_its_results(store: Store) -> None:
    made = comparison()
    number = store.save_comparison(made)
    assert store.get_comparison(number) == made
    assert len(store.find(comparison=number)) == len(made.results)
    with pytest.raises(ValueError, match="no comparison 7"):
        store.get_comparison(7)


def test_environment_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TWOFOLD_RESULTS", str(tmp_path / "mine.sqlite"))
    assert default_path() == tmp_path / "mine.sqlite"
    monkeypatch.delenv("TWOFOLD_RESULTS")
    assert default_path().name == "results.sqlite"


def test_many_writers_at_once(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "results.sqlite", wait=PATIENCE) for _ in range(4)]
    failures: list[BaseException] = []

    def work(mine: Store) -> None:
        try:
            for _ in range(5):
                mine.save(result())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(s,)) for s in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(stores[0].find()) == 20


def test_locked_file_keeps_the_result_beside_it(store: Store, said: list[str]) -> None:
    store.save(result("before"))
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(NotSavedError, match=r"locked \(waited 0.1 s\).*is kept in") as caught:
        store.save(result("kept"))
    kept = caught.value.path
    assert kept.parent == store.unsaved
    assert Result.model_validate_json(kept.read_text()).label == "kept"
    with pytest.raises(NotSavedError) as second:
        store.save_comparison(comparison())
    other.execute("ROLLBACK")
    other.close()

    store.save(result("after"))
    labels = [s.result.label for s in store.find()]
    assert {"before", "kept", "after"} <= set(labels)
    assert len(labels) == 3 + len(comparison().results)
    assert not kept.exists()
    assert not second.value.path.exists()
    assert "2 result(s) that could not be saved before" in said[0]


def test_locked_before_the_first_use(store: Store) -> None:
    store.path.parent.mkdir(parents=True)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(NotSavedError, match="locked"):
        store.save(result())
    with pytest.raises(ValueError, match="locked"):
        store.find()
    other.execute("ROLLBACK")
    other.close()
    store.save(result())
    assert len(store.find()) == 2


def test_unreadable_file_beside_the_database_stays(store: Store, said: list[str]) -> None:
    store.unsaved.mkdir(parents=True)
    (store.unsaved / "broken.json").write_text('{"kind": "run"')
    (store.unsaved / "strange.json").write_text('["not a result"]')
    store.save(result())
    assert len(store.find()) == 1
    assert (store.unsaved / "broken.json").exists()
    assert (store.unsaved / "strange.json").exists()
    assert len(said) == 2


def test_bytes_that_are_no_database_are_moved_aside(store: Store, said: list[str]) -> None:
    store.path.parent.mkdir(parents=True)
    rubbish = b"this was never a database" * 100
    store.path.write_bytes(rubbish)
    store.save(result())
    assert len(store.find()) == 1
    (aside,) = damaged_copies(store)
    assert aside.read_bytes() == rubbish
    assert str(aside) in said[0]


def test_corrupt_pages_are_moved_aside(store: Store, said: list[str], tmp_path: Path) -> None:
    fill(store)
    data = bytearray(store.path.read_bytes())
    data[4096 : len(data) // 2] = os.urandom(len(data) // 2 - 4096)
    store.path.write_bytes(data)
    fresh = Store(store.path, notify=said.append)
    assert fresh.find() == []
    (aside,) = damaged_copies(store)
    assert aside.read_bytes() == data
    assert len(said) == 1
    fresh.save(result())
    assert len(fresh.find()) == 1
    assert len(said) == 1


def test_truncated_file_is_moved_aside(store: Store, said: list[str]) -> None:
    fill(store)
    size = store.path.stat().st_size
    os.truncate(store.path, size // 3)
    fresh = Store(store.path, notify=said.append)
    number = fresh.save(result("new"))
    assert fresh.get(number).label == "new"
    (aside,) = damaged_copies(store)
    assert aside.stat().st_size == size // 3


def test_damage_while_in_use(store: Store, said: list[str]) -> None:
    fill(store, 3)
    store.path.write_bytes(b"x" * 5000)
    store.save(result("new"))
    assert [s.result.label for s in store.find()] == ["new"]
    assert len(damaged_copies(store)) == 1


def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photos (id INTEGER)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(NotSavedError, match="another program"):
        Store(path).save(result())
    with pytest.raises(ValueError, match="another program"):
        Store(path).find()
    assert path.read_bytes() == before


def test_a_newer_database_is_not_touched(store: Store) -> None:
    store.save(result())
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ValueError, match="newer Twofold"):
        store.find()


def test_a_folder_that_cannot_be_made_still_keeps_the_result(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotSavedError) as caught:
        Store(tmp_path / "file" / "results.sqlite").save(result("kept"))
    assert Result.model_validate_json(caught.value.path.read_text()).label == "kept"
    caught.value.path.unlink()


def test_export(store: Store) -> None:
    store.save(
        result(
            techniques=[TechniqueUse(name="kivi", params={"bits": 2})],
            itl=None,
            missing={"energy_per_token": "no meter", "itl": "one, token"},
        )
    )
    store.save(
        result(
            "fast", tpot=Figure(low=0.01, mid=0.02, high=0.03, unit="s"), created=MOMENT + timedelta(hours=1)
        )
    )
    rows = json.loads(to_json(store.find()))
    assert [row["label"] for row in rows] == ["fast", "baseline"]
    assert (
        Result.model_validate({k: v for k, v in rows[0].items() if k not in ("id", "comparison")}).label
        == "fast"
    )
    table = list(csv.DictReader(io.StringIO(to_csv(store.find()))))
    assert [float(table[0][f"tpot_{end}"]) for end in ("low", "mid", "high")] == [0.01, 0.02, 0.03]
    assert table[1]["itl_mid"] == ""
    assert table[1]["techniques"] == "kivi:bits=2"
    assert float(table[1]["passkey_2048"]) == 0.6
    assert to_csv([]) == "id\n"
