"""The results database: every result that was ever made here, in one SQLite file that is never thrown away.

A file that is locked is waited for; if it stays locked, or cannot be written, the result goes to a JSON file
beside it and enters the database with the next save. A file that is damaged is moved aside, and a new one
begun.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import platformdirs
from pydantic import ValidationError

from twofold.report import database
from twofold.report.comparison import Comparison
from twofold.report.schema import Result

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
T = TypeVar("T")


class NotSavedError(ValueError):
    """The database could not be written; `path` is the JSON file that holds the result instead."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


class Stored(NamedTuple):
    """A result with its number in the database, and that of the comparison it belongs to."""

    id: int
    comparison: int | None
    result: Result


def default_path() -> Path:
    """The database file: `TWOFOLD_RESULTS`, or `results.sqlite` in the user's data folder."""
    given = os.environ.get("TWOFOLD_RESULTS")
    return (
        Path(given).expanduser() if given else Path(platformdirs.user_data_dir("twofold")) / "results.sqlite"
    )


class Store:
    """The database at `path` (default: `default_path()`).

    wait: seconds to wait for a lock. notify: called with one sentence when a damaged file was moved aside or
    waiting results were taken in (default: logged as a warning). Every call opens and closes its own
    connection, so one store may be used from several threads and many processes may share the file.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        wait: float = 5.0,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.path = Path(path) if path is not None else default_path()
        self.wait = wait
        self._notify = notify or logging.getLogger(__name__).warning
        self._checked = False

    @property
    def unsaved(self) -> Path:
        """The folder for results that could not be written to the database."""
        return self.path.with_name(self.path.name + ".unsaved")

    def save(self, result: Result) -> int:
        """Keep a result; returns its number. NotSavedError (which names the file that holds it) if that
        cannot be done."""
        uid = uuid.uuid4().hex
        return self._write(uid, result, lambda db: database.insert(db, uid, result, None))

    def save_comparison(self, comparison: Comparison) -> int:
        """Keep a comparison and all its results, all or none; returns the comparison's number.
        NotSavedError as `save`."""
        uid = uuid.uuid4().hex
        return self._write(uid, comparison, lambda db: database.insert_comparison(db, uid, comparison))

    def get(self, number: int) -> Result:
        """The result with that number; ValueError if there is none."""
        found = self._read(
            lambda db: db.execute("SELECT body FROM results WHERE id = ?", (number,)).fetchone()
        )
        if found is None:
            raise ValueError(f"no result {number} in {self.path}; `twofold results` lists them")
        return Result.model_validate_json(found[0])

    def get_comparison(self, number: int) -> Comparison:
        """The comparison with that number; ValueError if there is none."""
        found = self._read(
            lambda db: db.execute("SELECT body FROM comparisons WHERE id = ?", (number,)).fetchone()
        )
        if found is None:
            raise ValueError(f"no comparison {number} in {self.path}; `twofold results` lists them")
        return Comparison.model_validate_json(found[0])

    def find(
        self,
        *,
        kind: str | None = None,
        model: str | None = None,
        device: str | None = None,
        technique: str | None = None,
        comparison: int | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[Stored]:
        """Results that match all filters given, newest first, at most `limit`. A result with several
        techniques matches each of them; `since` must carry a time zone."""
        query = "SELECT id, comparison, body FROM results WHERE 1"
        values: list[object] = []
        for column, wanted in (
            ("kind", kind),
            ("model", model),
            ("device", device),
            ("comparison", comparison),
        ):
            if wanted is not None:
                query += f" AND {column} = ?"
                values.append(wanted)
        if technique is not None:
            query += " AND EXISTS (SELECT 1 FROM json_each(techniques) WHERE value = ?)"
            values.append(technique)
        if since is not None:
            if since.tzinfo is None:
                raise ValueError(f"since={since} has no time zone; add one, such as +00:00")
            query += " AND created >= ?"
            values.append(database.instant(since))
        query += " ORDER BY created DESC, id DESC"
        if limit is not None:
            if limit < 1:
                raise ValueError(f"limit must be at least 1, not {limit}")
            query += " LIMIT ?"
            values.append(limit)
        rows = self._read(lambda db: db.execute(query, values).fetchall())
        return [Stored(number, group, Result.model_validate_json(body)) for number, group, body in rows]

    def _write(
        self, uid: str, record: Result | Comparison, insert: Callable[[sqlite3.Connection], int]
    ) -> int:
        def work(db: sqlite3.Connection) -> int:
            db.execute("BEGIN IMMEDIATE")
            with db:
                number = insert(db)
                waiting = self._take_in(db)
            for path in waiting:  # only now are they safe in the database
                path.unlink(missing_ok=True)
            return number

        try:
            return self._with_database(work)
        except (sqlite3.Error, OSError, ValueError) as error:
            path = self._write_aside(uid, record)
            reason = (
                str(error) if isinstance(error, ValueError) else f"{self.path}: {_plain(error, self.wait)}"
            )
            message = f"{reason}. The result is kept in {path}"
            raise NotSavedError(
                message
                + (" and enters the database with the next save." if path.parent == self.unsaved else "."),
                path,
            ) from error

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._with_database(work)
        except (sqlite3.Error, OSError) as error:
            raise ValueError(f"{self.path}: {_plain(error, self.wait)}") from error

    def _with_database(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` on an open database; once more on a new one if the file turns out to be damaged."""
        seen = _identity(self.path)
        try:
            with self._open() as db:
                return work(db)
        except sqlite3.DatabaseError as error:
            if _code(error) not in _DAMAGED:
                raise
            if _identity(self.path) == seen:  # otherwise another process has replaced it already
                self._move_aside(error)
            with self._open() as db:
                return work(db)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=self.wait, isolation_level=None)
        try:
            self._prepare(db)
            yield db
        finally:
            db.close()

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Check the file once per store, and create the tables in a new one."""
        if not self._checked:
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                damage = sqlite3.DatabaseError(found)
                damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise damage
        version = database.version(db, self.path)
        if version == 0:
            try:
                db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if _code(error) not in _BUSY:  # busy: another process is creating the file
                    raise
            database.create(db, self.path)
        self._checked = True

    def _move_aside(self, error: sqlite3.DatabaseError) -> None:
        """Rename the damaged file, with its write-ahead log under the matching name, so that SQLite's
        tools can recover it."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        self._checked = False
        self._notify(
            f"the results database {self.path} is damaged ({error}); it was moved to {aside}, and a new one "
            "begun"
        )

    def _write_aside(self, uid: str, record: Result | Comparison) -> Path:
        """Write `record` as JSON beside the database, or in the temporary folder where that cannot be
        written."""
        text = record.model_dump_json(indent=1)
        for folder in (self.unsaved, Path(tempfile.gettempdir()) / "twofold-unsaved"):
            path = folder / f"{uid}.json"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(".part")
                part.write_text(text, encoding="utf-8")
                part.replace(path)
                return path
            except OSError:
                continue
        raise ValueError(
            f"none of {self.path}, {self.unsaved} and {tempfile.gettempdir()} can be written; free some space"
        )

    def _take_in(self, db: sqlite3.Connection) -> list[Path]:
        """Insert what could not be saved before (twice is harmless: the file's name is its unique key)."""
        taken = []
        for path in sorted(self.unsaved.glob("*.json")):
            text = path.read_text(encoding="utf-8")
            try:
                if "baseline" in json.loads(text):
                    database.insert_comparison(db, path.stem, Comparison.model_validate_json(text))
                else:
                    database.insert(db, path.stem, Result.model_validate_json(text), None)
            except (ValidationError, json.JSONDecodeError):
                self._notify(f"{path} holds no result that this version can read; it stays where it is")
                continue
            taken.append(path)
        if taken:
            self._notify(f"{len(taken)} result(s) that could not be saved before are now in {self.path}")
        return taken


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells one file from another under the same name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _code(error: BaseException) -> int:
    """The primary SQLite error code, 0 where there is none."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _plain(error: BaseException, wait: float) -> str:
    """What went wrong, as a user would say it."""
    if _code(error) in _BUSY:
        return f"another program holds the results database locked (waited {wait:g} s)"
    return str(error)
