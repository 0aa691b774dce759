"""Who writes to a place: one run at a time, and what dead runs have left is taken over.

The lock is a small file of JSON that names its owner. On a disk the owner holds a lock of the operating system on it as
well, which ends with its process. Elsewhere, and on disks that know no such locks, all that can be seen of a run is
whether it goes on changing its lock, as live ones do every few seconds.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from xsen2 import files
from xsen2.errors import StoreError
from xsen2.files import plain_file
from xsen2.sinks.store import Disk, Place

__all__ = ["Claim", "abandoned", "locked"]

BEAT = 10.0
"""Seconds after which a live run changes a lock that no operating system keeps."""

PATIENCE = 60.0
"""Seconds without a change after which such a run is taken for dead."""

SETTLING = 1.0
"""Seconds after which such a lock is read back: two runs may have written it at once, and the last one has it."""

MOST = 65536
"""Bytes that are read of a lock, which has some hundreds. What is longer was not written by a run."""

_HERE = uuid.uuid4().hex
"""Name of this process, as far as it is the one that imported this: forks have another number."""

_living: set[str] = set()
"""Runs of this process that are under way: the process outlives a run whose lock could not be given back."""


@dataclass(frozen=True)
class Claim:
    """A lock, and the run that holds it. Small: it travels to the workers.

    Attributes
    ----------
    place : Disk or Other
    key : str
        Of the lock, in `place`.
    target : str
        What it locks, as messages call it.
    run : str
        Random name of the run.
    """

    place: Place
    key: str
    target: str
    run: str

    @property
    def path(self) -> str:
        """Of the lock, for messages."""
        return f"{self.place.root}/{self.key}"

    def check(self) -> None:
        """Refuse to write for a run that does not hold the lock any more.

        Raises
        ------
        StoreError
            The lock was deleted, taken over by another run, or given back, and this is a task that was late.
        """
        owner = _owner(self.read())
        if owner.get("run") != self.run:
            raise StoreError(
                f"{self.target} is no longer this run's to write to: its lock {self.path} was "
                + (f"taken over by {_who(owner)}" if owner else "given back or deleted")
            )

    def read(self) -> bytes | None:
        """What the lock says now.

        Raises
        ------
        StoreError
            There is no lock in its place, but a link, a folder, or a file that is much too long.
        """
        if not isinstance(self.place, Disk):
            content = self.place.read(self.key)
        elif not plain_file(self.path):
            return None
        else:
            try:
                with files.opened(self.path, 2**63) as file:  # never waits for the other end of a pipe
                    content = file.read(MOST + 1)
            except FileNotFoundError:
                return None
        if content is not None and len(content) > MOST:
            raise StoreError(f"{self.path} is longer than any lock of xsen2, so it is none: look what it is, delete it")
        return content

    def refuse(self, owner: bytes | None) -> StoreError:
        """What to say when another run holds the lock."""
        return StoreError(
            f"{self.target} is being written by another run, {_who(_owner(owner))}. Wait for it, or write to "
            f"another path. If that run is surely dead, delete {self.path}"
        )


@contextmanager
def locked(locks: Sequence[tuple[Place, str]], targets: Sequence[str]) -> Iterator[list[Claim]]:
    """Hold locks, all or none.

    Parameters
    ----------
    locks : sequence of (Disk or Other, str)
        Where each is, and its key there. Folders are made.
    targets : sequence of str
        What each locks, for messages.

    Raises
    ------
    StoreError
        Another run holds one of them. Where the operating system does not tell, this takes up to a minute.
    """
    run = uuid.uuid4().hex
    claims = [Claim(place, key, target, run) for (place, key), target in zip(locks, targets, strict=True)]
    with ExitStack() as stack:
        for claim in claims:
            if isinstance(claim.place, Disk):
                os.makedirs(claim.place.path, exist_ok=True)
                if stack.enter_context(_by_the_system(claim)):
                    continue
            stack.enter_context(_by_beating(claim))
        yield claims


def abandoned(path: str) -> bool:
    """Whether there is a lock of a run on a disk that is seen, at once and for sure, to have ended."""
    from filelock import FileLock, Timeout

    try:
        if not plain_file(path):
            return False
        with FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False):
            return True
    except (OSError, StoreError, Timeout):
        return False


# Locks of the operating system.

_NONE = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What disks say that know no locks, as some parallel and network ones."""


@contextmanager
def _by_the_system(claim: Claim) -> Iterator[bool]:
    """Hold a lock that ends with this process; False where the disk has none."""
    from filelock import FileLock, Timeout

    while True:
        plain_file(claim.path)
        lock = FileLock(claim.path, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            raise claim.refuse(claim.read()) from None
        except OSError as error:
            if error.errno not in _NONE:
                raise
            yield False
            return
        try:
            claim.read()  # somebody else's file is not written over
        except StoreError:
            lock.release()
            raise
        try:
            with open(claim.path, "r+b") as file:
                file.truncate(file.write(_entry(claim.run)))
            break
        except FileNotFoundError:  # its last owner deleted it between two steps
            lock.release()
        except BaseException:
            with suppress(OSError):  # leave no empty file on a full disk
                os.unlink(claim.path)
            lock.release()
            raise
    try:
        yield True
    finally:
        with suppress(Exception):  # what went wrong before is what the caller should see
            if _owner(claim.read()).get("run") == claim.run:
                os.unlink(claim.path)  # before it is free: who waits for it looks whether it is still there
        lock.release()


# Locks that are kept by changing them.


@contextmanager
def _by_beating(claim: Claim) -> Iterator[None]:
    over = threading.Event()
    heart = threading.Thread(target=_beating, args=(claim, over), daemon=True)
    _living.add(claim.run)
    try:
        _take(claim)
        heart.start()
        yield
    finally:
        _living.discard(claim.run)
        over.set()
        if heart.ident is not None:
            heart.join()  # a beat that came late would bring the lock back
        with suppress(Exception):  # what went wrong before is what the caller should see
            if _owner(claim.read()).get("run") == claim.run:
                claim.place.delete(claim.key)
                if folder := os.path.dirname(claim.key):
                    claim.place.prune(folder)


def _take(claim: Claim) -> None:
    """Write the lock, unless another run lives."""
    while True:
        seen = claim.read()
        if seen and _lives(claim, seen):  # an empty one is of a run that was killed while it made it
            raise claim.refuse(seen)
        if claim.read() != seen:
            continue
        entry = _entry(claim.run)
        claim.place.write(claim.key, entry)
        time.sleep(SETTLING)
        if claim.read() == entry:
            return


def _beating(claim: Claim, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with suppress(Exception):  # a network that fails for a while: the next beat tries again
            seen = claim.read()
            if _owner(seen).get("run") == claim.run:
                claim.place.write(claim.key, _entry(claim.run, seen))


def _lives(claim: Claim, seen: bytes) -> bool:
    """Whether the owner of a lock is alive."""
    owner = _owner(seen)
    if owner.get("process") == _process():
        return owner.get("run") in _living
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(min(1.0, PATIENCE / 20))
        now = claim.read()
        if now != seen:
            return now is not None
    return False


# What a lock says.


def _process() -> str:
    return f"{_HERE}-{os.getpid()}"


def _entry(run: str, before: bytes | None = None) -> bytes:
    now = datetime.now(UTC)
    entry = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": _owner(before).get("since") or now.isoformat(timespec="seconds"),
        "run": run,
        "process": _process(),
        "beat": now.isoformat(timespec="microseconds"),
    }
    return json.dumps(entry, indent=1).encode()


def _owner(content: bytes | None) -> dict[str, Any]:
    try:
        owner = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _who(owner: dict[str, Any]) -> str:
    if not owner:
        return "of which nothing is known"
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"
