"""The tables of the results database: what they hold, who may write them, how a record goes in."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from twofold.report.comparison import Comparison
from twofold.report.schema import Result

_APPLICATION_ID = 0x32466F6C  # "2Fol", so that another program's database is never written to
_VERSION = 1
_TABLES = """
CREATE TABLE comparisons (
    id INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,
    created TEXT NOT NULL,
    title TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE results (
    id INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,
    created TEXT NOT NULL,
    kind TEXT NOT NULL,
    model TEXT NOT NULL,
    device TEXT NOT NULL,
    label TEXT NOT NULL,
    techniques TEXT NOT NULL,
    body TEXT NOT NULL,
    comparison INTEGER REFERENCES comparisons(id)
);
CREATE INDEX results_created ON results(created);
"""


def create(db: sqlite3.Connection, path: Path) -> None:
    """Create the tables in an empty file, unless another process has just done so."""
    db.execute("BEGIN IMMEDIATE")
    with db:
        if version(db, path) == 0:
            for statement in filter(str.strip, _TABLES.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {_VERSION}")


def version(db: sqlite3.Connection, path: Path) -> int:
    """The version of the tables, 0 for an empty file; ValueError for a file that is not ours to write."""
    # The owner last: where another process creates the tables in between, it is ours by then.
    tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    owner = int(db.execute("PRAGMA application_id").fetchone()[0])
    if owner != _APPLICATION_ID and (owner or version or tables):
        raise ValueError(f"{path} is a database of another program; name another file in TWOFOLD_RESULTS")
    if version > _VERSION:
        raise ValueError(
            f"{path} was written by a newer Twofold (tables {version}, this one knows {_VERSION}); upgrade"
        )
    return version


def insert(db: sqlite3.Connection, uid: str, result: Result, comparison: int | None) -> int:
    """Insert `result` under the unique key `uid`, unless it is there already; returns its number."""
    names = json.dumps([t.name for t in result.techniques])
    values = (
        uid,
        instant(result.created),
        result.kind,
        result.model,
        result.device,
        result.label,
        names,
        result.model_dump_json(),
        comparison,
    )
    db.execute(
        "INSERT OR IGNORE INTO results (uid, created, kind, model, device, label, techniques, body,"
        " comparison) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    )
    return int(db.execute("SELECT id FROM results WHERE uid = ?", (uid,)).fetchone()[0])


def insert_comparison(db: sqlite3.Connection, uid: str, comparison: Comparison) -> int:
    """Insert `comparison` and all its results, unless they are there already; returns the comparison's
    number."""
    values = (uid, instant(comparison.created), comparison.title, comparison.model_dump_json())
    db.execute("INSERT OR IGNORE INTO comparisons (uid, created, title, body) VALUES (?, ?, ?, ?)", values)
    number = int(db.execute("SELECT id FROM comparisons WHERE uid = ?", (uid,)).fetchone()[0])
    for index, result in enumerate(comparison.results):
        insert(db, f"{uid}-{index}", result, number)
    return number


def instant(moment: datetime) -> str:
    """UTC in a form whose alphabetical order is the order of time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
