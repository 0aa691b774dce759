"""The queue: jobs in the order in which they came, each in a worker process and a folder of its own."""

from __future__ import annotations

import json
import os
import queue
import secrets
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xsen2.app.schema import Job, Limits
from xsen2.app.state import ENDED, Record, State
from xsen2.app.work import NATIVE
from xsen2.errors import StoreError

__all__ = ["Jobs"]

_GRACE = 15.0
"""Seconds in which a worker that is told to stop may finish the blocks that it computes; then it is ended."""

_TIDY = 600.0
"""Seconds between two looks at what is old."""

GB = 10**9


class Jobs:
    """Jobs of all users, in one folder.

    Parameters
    ----------
    folder : Path
        Made if it is not there, readable by its owner alone. One server at a time uses it.
    api : str
        The STAC API that jobs search.
    limits : Limits
    workers : int
        Processes: so many jobs are done at a time.
    keep_days, keep_gb : float
        Results older than this are deleted, and the oldest while all together are larger.

    Raises
    ------
    StoreError
        Another server uses the folder, or it cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        api: str,
        limits: Limits | None = None,
        *,
        workers: int = 1,
        keep_days: float = 30.0,
        keep_gb: float = 20.0,
    ) -> None:
        self.folder, self.api, self.limits = folder, api, limits or Limits()
        self.keep_days, self.keep_gb = keep_days, keep_gb
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / "jobs").mkdir(exist_ok=True, mode=0o700)
            self._folder_lock = FileLock(folder / "server.lock")
            self._folder_lock.acquire(timeout=5)
        except Timeout as error:
            raise StoreError(f"another xsen2 app uses {folder}: end it, or give another --folder") from error
        except OSError as error:
            raise StoreError(f"{folder} cannot be used ({error}): give another --folder") from error
        self.state = State(folder / "state.sqlite3")
        self.state.recover()
        self._stop, self._work = threading.Event(), threading.Event()
        self._cancel: dict[str, threading.Event] = {}
        self._slots = [threading.Thread(target=self._serve, daemon=True, name=f"slot {n}") for n in range(workers)]
        self._tidier = threading.Thread(target=self._keep_tidy, daemon=True, name="tidier")

    def start(self) -> None:
        """Begin to work."""
        for thread in (*self._slots, self._tidier):
            thread.start()

    def close(self) -> None:
        """End the workers; the next server takes up the jobs that they were doing."""
        self._stop.set()
        self._work.set()
        for thread in self._slots:
            if thread.is_alive():
                thread.join(_GRACE)
        self.state.close()
        self._folder_lock.release()

    def place(self, name: str) -> Path:
        """The folder of a job."""
        return self.folder / "jobs" / name

    # What users do. Each names the owner: of others' jobs nobody learns that they are there.

    def add(self, job: Job, owner: str) -> Record | None:
        """Put a job into the queue; None if the owner has too many there."""
        name = secrets.token_hex(16)
        self.place(name).mkdir(mode=0o700)
        if not self.state.add(name, owner, job.model_dump(mode="json"), self.limits.waiting):
            self.place(name).rmdir()
            return None
        self._work.set()
        return self.state.get(name, owner)

    def cancel(self, record: Record) -> None:
        """Stop a job; one that waits has ended at once, one that runs soon."""
        event = self._cancel.get(record.id)
        if event is not None:
            event.set()
        else:
            self.state.end(record.id, "cancelled")

    def again(self, record: Record) -> bool:
        """Try a job again, whether it is queued: one that was cancelled goes on, one that failed begins anew."""
        if record.state == "failed":
            for path in self.place(record.id).glob("*"):
                shutil.rmtree(path, ignore_errors=True)
        done = self.state.again(record.id, anew=True)
        self._work.set()
        return done

    def measure(self, record: Record) -> None:
        """Note how large a job's folder is, after files came or went."""
        self.state.size(record.id, _bytes(self.place(record.id)))

    def remove(self, record: Record) -> bool:
        """Delete a job that has ended, and its files; whether it had."""
        if record.state not in ENDED:
            return False
        self.state.remove(record.id)
        shutil.rmtree(self.place(record.id), ignore_errors=True)
        return True

    # What slots do.

    def _serve(self) -> None:
        worker: _Worker | None = None
        while not self._stop.is_set():
            if worker is None or not worker.alive:
                worker = _Worker(self.folder, len(self._slots))
            record = self.state.take()
            if record is None:
                self._work.wait(0.5)
                self._work.clear()
                continue
            event = self._cancel[record.id] = threading.Event()
            try:
                self._do(worker, record, event)
            finally:
                del self._cancel[record.id]
        if worker is not None:
            worker.end()

    def _do(self, worker: _Worker, record: Record, cancelled: threading.Event) -> None:
        """See a job through in a worker."""
        place = self.place(record.id)
        place.mkdir(exist_ok=True, mode=0o700)
        began, told = time.monotonic(), 0.0
        worker.send(kind="job", request=record.request, api=self.api, folder=str(place))
        while True:
            message = worker.receive(0.1)
            now = time.monotonic()
            late = now - began > 60 * self.limits.minutes
            if self._stop.is_set():
                worker.end()
                self.state.again(record.id)
                return
            if message is None:
                if (cancelled.is_set() or late) and not told:
                    worker.send(kind="cancel")
                    told = now
                if told and now - told > _GRACE:
                    worker.end()
                    self._ended(record, "cancelled", late)
                    return
                continue
            kind = message["kind"]
            if kind == "progress":
                self.state.progress(record.id, message["progress"])
            elif kind == "done":
                result = message["result"] | {"seconds": round(now - began, 1)}
                self.state.end(record.id, "done", result=result, size=_bytes(place))
                shutil.rmtree(place / NATIVE, ignore_errors=True)  # not before: a killed job would lack it
                self.measure(record)
                return
            elif kind == "cancelled":
                self._ended(record, "cancelled", late)
                return
            elif kind == "failed":
                self.state.end(record.id, "failed", message["message"], size=_bytes(place))
                return
            elif kind == "gone":
                if cancelled.is_set():
                    self._ended(record, "cancelled", late)
                elif not self.state.again(record.id):
                    self.state.end(
                        record.id,
                        "failed",
                        "its process ended without a word, several times: there may not be enough memory; try a "
                        "smaller area or fewer dates",
                    )
                return

    def _ended(self, record: Record, state: str, late: bool) -> None:
        if late:
            minutes = self.limits.minutes
            self.state.end(record.id, "failed", f"it was stopped after {minutes:g} minutes: try a smaller area")
        else:
            self.state.end(record.id, state, size=_bytes(self.place(record.id)))

    # What is old goes.

    def tidy(self) -> None:
        """Delete results that are old, the oldest while all are too large, and folders that are no job's."""
        records = self.state.all()
        ended = sorted((r for r in records if r.state in ENDED), key=lambda r: r.ended or 0.0)
        size = sum(record.bytes for record in records)
        now = time.time()
        for record in ended:
            if now - (record.ended or 0.0) > 86400 * self.keep_days or size > self.keep_gb * GB:
                size -= record.bytes
                self.remove(record)
        known = {record.id for record in self.state.all()}
        for place in (self.folder / "jobs").iterdir():
            if place.name not in known and now - place.lstat().st_mtime > 60:
                shutil.rmtree(place, ignore_errors=True)

    def _keep_tidy(self) -> None:
        while not self._stop.is_set():
            with suppress(OSError):
                self.tidy()
            self._stop.wait(_TIDY)


class _Worker:
    """A process of `xsen2.app.worker`."""

    def __init__(self, folder: Path, of: int) -> None:
        log = folder / "workers.log"
        if log.is_file() and log.stat().st_size > 10**7:
            log.unlink()
        threads = str(max(1, (os.cpu_count() or 1) // of))
        environment = {"DASK_NUM_WORKERS": threads, **os.environ}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "xsen2.app.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env=environment,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # an interrupt from the keyboard is the server's
            )
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with suppress(OSError, ValueError):
            for line in self._process.stdout:
                message = json.loads(line)
                if message["kind"] != "ready":
                    self._messages.put(message)
        self._messages.put({"kind": "gone"})

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, **message: Any) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended, which `receive` says
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Its next message; of kind "gone" when it has ended; None if nothing comes in time."""
        with suppress(queue.Empty):
            return self._messages.get(timeout=seconds)
        return None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()


def _bytes(folder: Path) -> int:
    """Of all files of a folder."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_size
    return total
