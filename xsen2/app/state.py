"""What the app knows of its jobs: one SQLite file, which survives the server."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xsen2.errors import StoreError

__all__ = ["ENDED", "Record", "State"]

VERSION = 1

ENDED = ("done", "failed", "cancelled")
"""States of jobs that nobody works on: others are "waiting" and "running"."""

ATTEMPTS = 3
"""How often a job is begun whose server or worker ends under it."""

_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    created REAL NOT NULL,
    began REAL,
    ended REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    progress TEXT NOT NULL DEFAULT '{}',
    message TEXT NOT NULL DEFAULT '',
    result TEXT NOT NULL DEFAULT '{}',
    bytes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_owner ON jobs (owner, created);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, created);
"""


@dataclass(frozen=True)
class Record:
    """A job.

    Attributes
    ----------
    id, owner : str
    request : dict
        As `xsen2.app.schema.Job` wrote it.
    state : str
        "waiting", "running", "done", "failed" or "cancelled".
    created, began, ended : float or None
        Seconds since 1970.
    attempts : int
    progress : dict
        ``stage``, ``done``, ``total``, ``unit``, ``share`` of the whole.
    message : str
        Why it failed.
    result : dict
        What a page needs to show it.
    bytes : int
        Of its folder.
    """

    id: str
    owner: str
    request: dict[str, Any]
    state: str
    created: float
    began: float | None
    ended: float | None
    attempts: int
    progress: dict[str, Any]
    message: str
    result: dict[str, Any]
    bytes: int


class State:
    """Jobs in a file; every method is one transaction, from any thread.

    Parameters
    ----------
    path : Path

    Raises
    ------
    StoreError
        It is no file of this app, or one of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise StoreError(f"{path} was written by a newer xsen2: update this one, or give another --folder")
            self._db.executescript(_TABLE)
            self._db.execute(f"PRAGMA user_version={VERSION}")
        except sqlite3.Error as error:
            raise StoreError(f"{path} cannot be used ({error}): delete it, or give another --folder") from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _read(self, what: str, *values: Any) -> list[Record]:
        with self._lock:
            rows = self._db.execute(f"SELECT * FROM jobs {what}", values).fetchall()
        return [_record(row) for row in rows]

    def add(self, name: str, owner: str, request: dict[str, Any], most: int) -> bool:
        """Put a job into the queue, unless its owner has `most` in it; whether it was."""
        with self._change() as db:
            busy = "SELECT COUNT(*) FROM jobs WHERE owner = ? AND state IN ('waiting', 'running')"
            if db.execute(busy, (owner,)).fetchone()[0] >= most:
                return False
            db.execute(
                "INSERT INTO jobs (id, owner, request, state, created) VALUES (?, ?, ?, 'waiting', ?)",
                (name, owner, json.dumps(request), time.time()),
            )
        return True

    def of(self, owner: str) -> list[Record]:
        """All jobs of one owner, the newest first."""
        return self._read("WHERE owner = ? ORDER BY created DESC LIMIT 500", owner)

    def get(self, name: str, owner: str) -> Record | None:
        """One job, if it is this owner's."""
        records = self._read("WHERE id = ? AND owner = ?", name, owner)
        return records[0] if records else None

    def find(self, name: str) -> Record | None:
        """One job, whoever's it is: for the queue alone."""
        records = self._read("WHERE id = ?", name)
        return records[0] if records else None

    def take(self) -> Record | None:
        """The next job, which runs from now on: of users with the fewest running, the one that waits longest."""
        with self._change() as db:
            row = db.execute(
                "SELECT id FROM jobs AS one WHERE state = 'waiting' ORDER BY (SELECT COUNT(*) FROM jobs AS other WHERE "
                "other.owner = one.owner AND other.state = 'running'), created LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE jobs SET state = 'running', began = ?, ended = NULL, message = '', attempts = attempts + 1, "
                "progress = ? WHERE id = ?",
                (time.time(), json.dumps({"stage": "starting", "share": 0.0}), row["id"]),
            )
        return self.find(row["id"])

    def progress(self, name: str, progress: dict[str, Any]) -> None:
        """Note how far a job is."""
        with self._change() as db:
            db.execute("UPDATE jobs SET progress = ? WHERE id = ?", (json.dumps(progress), name))

    def end(
        self, name: str, state: str, message: str = "", result: dict[str, Any] | None = None, size: int = 0
    ) -> None:
        """Note that a job has ended, if it has not."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET state = ?, ended = ?, message = ?, result = ?, bytes = ? WHERE id = ? AND state IN "
                "('waiting', 'running')",
                (state, time.time(), message, json.dumps(result or {}), size, name),
            )

    def again(self, name: str, *, anew: bool = False) -> bool:
        """Put a job back into the queue: one that its worker left, or `anew` one that failed; whether it was."""
        states = ("failed", "cancelled") if anew else ("running",)
        with self._change() as db:
            changed = db.execute(
                f"UPDATE jobs SET state = 'waiting', ended = NULL, message = '', progress = '{{}}'"
                f"{', attempts = 0' if anew else ''} WHERE id = ? AND state IN ({', '.join('?' * len(states))})"
                f"{'' if anew else f' AND attempts < {ATTEMPTS}'}",
                (name, *states),
            ).rowcount
        return changed > 0

    def recover(self) -> None:
        """Put what ran when the server ended back into the queue; what it ended under several times has failed."""
        for record in self._read("WHERE state = 'running'"):
            if not self.again(record.id):
                self.end(record.id, "failed", f"the server ended {ATTEMPTS} times while this ran: it may take more "
                         "memory than there is; try a smaller area")  # fmt: skip

    def size(self, name: str, size: int) -> None:
        """Note how many bytes a job's folder has."""
        with self._change() as db:
            db.execute("UPDATE jobs SET bytes = ? WHERE id = ?", (size, name))

    def remove(self, name: str) -> None:
        """Forget a job."""
        with self._change() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (name,))

    def all(self) -> list[Record]:
        """Every job, the oldest first."""
        return self._read("ORDER BY created")


def _record(row: sqlite3.Row) -> Record:
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118  # a Row iterates over its values
    for key in ("request", "progress", "result"):
        values[key] = json.loads(values[key])
    return Record(**values)
