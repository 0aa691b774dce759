"""Who writes to a place: one run at a time, and what dead runs have left is taken over.

The lock is a small file of JSON that names its owner. It only ever changes by "if it still says this, let it say
that", which is what a lock needs. A run is dead if its process is, which can be seen on the same machine; of a run
on another machine all that can be seen is whether it goes on changing its lock, as live ones do every few seconds.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xsen2.errors import StoreError
from xsen2.paths import plain_file

__all__ = ["Claim", "abandoned", "locked"]

BEAT = 10.0
"""Seconds after which a live run changes its lock."""

PATIENCE = 60.0
"""Seconds without a change after which a run on another machine is taken for dead."""

SETTLING = 1.0
"""Seconds after which a write to a disk or object store without exclusive writes is read back."""


MOST = 65536
"""Bytes that are read of a lock, which has some hundreds. What is longer was not written by a run."""


_living: set[str] = set()
"""Runs of this process that are under way: the process outlives a run whose lock could not be given back."""


@dataclass(frozen=True)
class Claim:
    """A lock file, and the run that holds it. Small: it travels to the workers.

    Attributes
    ----------
    fs : fsspec file system
    path : str
        Of the lock file.
    target : str
        What it locks, as messages call it.
    run : str
        Random name of the run.
    """

    fs: Any
    path: str
    target: str
    run: str

    def check(self) -> None:
        """Refuse to write for a run that does not hold the lock any more.

        Raises
        ------
        StoreError
            The lock was deleted, taken over by another run, or given back, and this is a task that was late.
        """
        found = _owner(self.read())
        if found.get("run") != self.run:
            raise StoreError(
                f"{self.target} is no longer this run's to write to: its lock {self.path} was "
                + (f"taken over by {_who(found)}" if found else "given back or deleted")
            )

    def read(self) -> bytes | None:
        """What the lock file says now.

        Raises
        ------
        StoreError
            There is no lock in its place, but a link, a folder, or a file that is much too long.
        """
        if _is_local(self.fs):
            return _read_local(self.path)
        try:
            content: bytes = self.fs.cat_file(self.path, end=MOST + 1)
        except FileNotFoundError:
            return None
        return _short(content, self.path)

    def swap(self, old: bytes | None, new: bytes | None) -> bool:
        """Let the file say `new` if it still says `old`; None is no file. Whether it did.

        On local disks this is one step, by a lock of the operating system. On others a file that is not there is
        made in one step where fsspec can (S3, memory). Else two runs that try in the same second may both be told
        that it did; the second to write stands, and the first sees that before it writes on.
        """
        if _is_local(self.fs):
            return _swap_local(self.path, old, new)
        if self.read() != old:
            return False
        if new is None:
            with suppress(FileNotFoundError):
                self.fs.rm_file(self.path)
            return True
        try:
            self.fs.pipe_file(self.path, new, mode="create" if old is None else "overwrite")
        except FileExistsError:
            return False
        self.fs.invalidate_cache()
        if _owner(old).get("run") != self.run:
            time.sleep(SETTLING)
        return self.read() == new

    def take(self) -> None:
        """Take the lock, from a dead run if need be.

        Raises
        ------
        StoreError
            Another run holds it.
        """
        while True:
            seen = self.read()
            if seen and _lives(self, seen):  # an empty one is of a run that was killed while it made it
                raise StoreError(
                    f"{self.target} is being written by another run, {_who(_owner(seen))}. Wait for it, or write to "
                    f"another path. If that run is surely dead, delete {self.path}"
                )
            _living.add(self.run)
            if self.swap(seen, _entry(self.run)):
                return

    def beat(self) -> None:
        """Show that this run lives."""
        seen = self.read()
        if _owner(seen).get("run") == self.run:
            self.swap(seen, _entry(self.run, seen))

    def give_back(self) -> None:
        """Remove the lock if it is still this run's."""
        seen = self.read()
        if _owner(seen).get("run") == self.run:
            self.swap(seen, None)


@contextmanager
def locked(fs: Any, paths: Sequence[str], targets: Sequence[str]) -> Iterator[list[Claim]]:
    """Hold locks, all or none.

    Parameters
    ----------
    fs : fsspec file system
    paths : sequence of str
        Lock files. Folders above them are made.
    targets : sequence of str
        What each locks, for messages.

    Raises
    ------
    StoreError
        Another run holds one of them. On disks and object stores where nothing tells whether that run still lives
        this takes up to a minute.
    """
    run = uuid.uuid4().hex
    wanted = [Claim(fs, path, target, run) for path, target in zip(paths, targets, strict=True)]
    over = threading.Event()
    held: list[Claim] = []
    heart = threading.Thread(target=_beating, args=(held, over), daemon=True)
    heart.start()
    try:
        for folder in {path.rpartition("/")[0] for path in paths}:
            fs.makedirs(folder, exist_ok=True)
        for claim in wanted:
            claim.take()
            held.append(claim)
        yield held
    finally:
        _living.discard(run)
        over.set()
        heart.join()  # a beat that came late would bring the lock back
        for claim in wanted:
            with suppress(Exception):  # what went wrong before is what the caller should see
                claim.give_back()


def abandoned(fs: Any, path: str) -> bool:
    """Whether there is a lock of a run that is seen, at once and for sure, to have ended on this machine."""
    try:
        seen = Claim(fs, path, path, "").read()
    except (OSError, StoreError):
        return False
    if seen is None:
        return False
    return not seen or _known(_owner(seen)) is False


def _beating(claims: Sequence[Claim], over: threading.Event) -> None:
    while not over.wait(BEAT):
        for claim in claims:
            if not over.is_set():
                with suppress(Exception):  # a network that fails for a while: the next beat tries again
                    claim.beat()


def _lives(claim: Claim, seen: bytes) -> bool:
    """Whether the owner of a lock is alive."""
    known = _known(_owner(seen))
    if known is not None:
        return known
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(min(1.0, PATIENCE / 20))
        now = claim.read()
        if now != seen:
            return now is not None
    return False


def _known(owner: dict[str, Any]) -> bool | None:
    """Whether the owner of a lock is alive, if this machine can tell at once."""
    machine = _machine()
    if not machine or owner.get("machine") != machine:
        return None
    if owner.get("pid") == os.getpid():
        return owner.get("run") in _living
    return _runs(owner.get("pid"), owner.get("began"))


def _entry(run: str, before: bytes | None = None) -> bytes:
    since = _owner(before).get("since") or datetime.now(UTC).isoformat(timespec="seconds")
    pid = os.getpid()
    said = {
        "host": socket.gethostname(),
        "pid": pid,
        "since": since,
        "run": run,
        "machine": _machine(),
        "began": _began(pid),
        # Last and of one length: all that a beat changes, so that nobody ever reads half an entry.
        "beat": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    return json.dumps(said, indent=1).encode()


def _owner(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _who(owner: dict[str, Any]) -> str:
    if not owner:
        return "of which nothing is known"
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"


def _machine() -> str:
    """Name of a boot of a machine and of its numbering of processes, which containers have of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _began(pid: Any) -> str | None:
    """When a process was started, in ticks since the boot, which tells it from a later one of the same number.

    Empty if it has ended and nobody has asked how, None if there is none to be seen.
    """
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, TypeError, ValueError):
        return None
    state, *rest = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if state in "ZX" else rest[18]


def _runs(pid: Any, began: Any) -> bool | None:
    """Whether a process of this machine still runs; None if that is hidden, as other users' are on some clusters."""
    found = _began(pid)
    if found is not None:
        return bool(found == began)
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, TypeError, ValueError, OverflowError):
        pass  # another's, or no number
    return None


def _is_local(fs: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

    return isinstance(fs, LocalFileSystem)


# Never through a link, and never waiting for whoever is at the other end of a pipe. (Windows knows neither flag.)
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _short(content: bytes, path: str) -> bytes:
    if len(content) > MOST:
        raise StoreError(f"{path} is longer than any lock of xsen2, so it is none: look what it is, and delete it")
    return content


def _read_all(file: int) -> bytes:
    """What an open file holds, but no more of it than shows that it is too long."""
    content = b""
    while len(content) <= MOST and (more := os.read(file, MOST + 1 - len(content))):
        content += more
    return content


def _read_local(path: str) -> bytes | None:
    if not plain_file(path):
        return None
    try:
        file = os.open(path, os.O_RDONLY | _SAFELY)
    except FileNotFoundError:
        return None
    try:
        return _short(_read_all(file), path)
    finally:
        os.close(file)


def _swap_local(path: str, old: bytes | None, new: bytes | None) -> bool:
    plain_file(path)
    try:
        file = os.open(path, os.O_RDWR | _SAFELY | (0 if old else os.O_CREAT), 0o666)
    except FileNotFoundError:
        if old:
            return False
        raise
    try:
        with suppress(ImportError, OSError):  # a system or disk without: two runs in one instant would both have it
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            same = os.path.samestat(os.fstat(file), os.lstat(path))
        except FileNotFoundError:
            same = False
        found = _short(_read_all(file), path)
        if not same or found != (old or b""):
            return False
        if new is None:
            os.unlink(path)
        else:
            try:
                os.pwrite(file, new, 0)
            except OSError:
                if not found:  # leave no empty file on a full disk
                    os.unlink(path)
                raise
            os.ftruncate(file, len(new))
        return True
    finally:
        os.close(file)
