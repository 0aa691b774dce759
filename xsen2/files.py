"""Files: written whole or not at all, and of other people's files never more than there can be."""

from __future__ import annotations

import atexit
import errno
import glob
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from xsen2.errors import StoreError

__all__ = ["FULL", "flush", "named", "opened", "read", "read_json", "scratch", "sweep", "temporary", "whole", "write"]


# Disks: their errors as errors of this package, and files that survive a power cut.


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}

AGAIN = "then run the same call again: it goes on where it was"
ANEW = "then run the same call again"


@contextmanager
def named(target: str | os.PathLike[str], after: str = AGAIN, full: str = "free space") -> Iterator[None]:
    """Turn errors of the disk into a StoreError that says what to do.

    Parameters
    ----------
    target : path
        What is being written.
    after : str
        What to do when the cause is gone.
    full : str
        What to do about a full disk.

    Examples
    --------
    >>> with named("a.zarr"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    ...
    xsen2.errors.StoreError: the disk is full while a.zarr is written: free space, then run the same call again: ...
    """
    try:
        yield
    except BrokenPipeError:  # who reads what is printed has gone: no disk is to blame
        raise
    except OSError as error:
        where = os.fspath(target)
        if error.errno in FULL:
            raise StoreError(f"the disk is full while {where} is written: {full}, {after}") from error
        if error.errno in _FORBIDDEN:
            raise StoreError(f"{where} cannot be written ({error}): get the permission to, {after}") from error
        raise StoreError(f"{where} cannot be written ({error}): mend that, {after}") from error


def flush(paths: Iterable[str]) -> None:
    """Have local files on disk when this returns, their names included; what is not there is left out.

    File by file, in the threads that write them, costs next to nothing; ``os.sync`` would wait for all that any
    program on the machine has written.
    """
    folders = set()
    for path in paths:
        with suppress(FileNotFoundError):
            _fsync(path)
            folders.add(os.path.dirname(path))
    for folder in folders:
        with suppress(OSError):  # not every system can do this to a folder
            _fsync(folder)


def _fsync(path: str) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


JSON = 2**20
"""Bytes of a JSON file at most."""

DEPTH = 32
"""Levels of a JSON file at most: deeper ones break what walks through them."""

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def opened(path: str | os.PathLike[str], most: int) -> Iterator[BufferedReader]:
    """A file to read, if it is one and has at most `most` bytes.

    Raises
    ------
    OSError
        If it cannot be opened, is a folder, a pipe or a device, or is larger.
    """
    number = os.open(path, _READ)  # without waiting for the other end of a pipe
    about = os.fstat(number)
    if not stat.S_ISREG(about.st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
    with os.fdopen(number, "rb") as file:
        if about.st_size > most:
            raise OSError(errno.EINVAL, f"it has {about.st_size} bytes, {most} at most are expected", os.fspath(path))
        yield file


def read(path: str | os.PathLike[str], most: int) -> bytes:
    """All of a file, as `opened` opens it."""
    with opened(path, most) as file:
        raw = file.read(most + 1)
    if len(raw) > most:  # it has grown
        raise OSError(errno.EINVAL, f"it has more than {most} bytes", os.fspath(path))
    return raw


def read_json(path: str | os.PathLike[str], most: int = JSON) -> Any:
    """What a JSON file says.

    Raises
    ------
    OSError
        As `opened`.
    ValueError
        If it is not JSON, or nested more than `DEPTH` deep.
    """
    try:
        found = json.loads(read(path, most).decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEPTH} deep") from error
    level = [found]
    for _ in range(DEPTH):
        level = [x for item in level for x in _inside(item)]
        if not level:
            return found
    raise ValueError(f"it is nested more than {DEPTH} deep")


def _inside(item: Any) -> Any:
    return item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()


@contextmanager
def scratch(target: Path, *, folder: bool = False) -> Iterator[Path]:
    """A hidden file or folder beside `target` to prepare it in, which is gone when the block ends.

    What killed processes have left of the same name is swept up first: each holds a lock of the operating system on its
    own, which ends with it.
    """
    sweep(target.parent, f".{glob.escape(target.name[:48])}.*.part")
    path, lock = _make(target.parent, f".{target.name[:48]}", ".part", folder)  # names have an end
    try:
        yield path
    finally:
        _remove(path)
        _let_go(lock)


@contextmanager
def whole(target: Path, *, folder: bool = False) -> Iterator[Path]:
    """What the block writes to the path that it gets takes the place of `target` in the end: all of it or nothing.

    A folder takes the place of nothing, or of an empty folder.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with whole(target) as part:
    ...     size = part.write_text("all of it")
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('all of it', 1)
    """
    with scratch(target, folder=folder) as part:
        yield part
        flush(str(p) for p in (part.rglob("*") if folder else [part]) if p.is_file())
        if folder and target.is_dir():
            target.rmdir()
        part.replace(target)
        flush([str(target)])


def write(target: Path, content: bytes | str) -> None:
    """Write all of a file or nothing; text as UTF-8."""
    with whole(target) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def temporary(name: str) -> Path:
    """A new folder that lives as long as this process, as readable to others as the umask says.

    It is removed when the process ends; if that is killed, by the next call of its user.
    """
    place = Path(tempfile.gettempdir())
    sweep(place, f"{glob.escape(name)}.*")
    path, lock = _make(place, name, "", True)
    atexit.register(_end, path, lock, os.getpid())
    return path


def _end(path: Path, lock: int | None, owner: int) -> None:
    if os.getpid() == owner:  # a fork ends too, and owns nothing
        _remove(path)
        _let_go(lock)


def sweep(folder: Path, pattern: str) -> None:
    """Remove what `scratch` or `temporary` made in `folder`, if the process that made it has ended."""
    for path in folder.glob(pattern):
        lock = _hold(path)
        if lock is not None:
            _remove(path)
            _let_go(lock)


def _make(folder: Path, start: str, end: str, is_folder: bool) -> tuple[Path, int | None]:
    while True:
        path = folder / f"{start}.{secrets.token_hex(4)}{end}"
        try:
            path.mkdir() if is_folder else path.touch(exist_ok=False)
        except FileExistsError:
            if os.path.lexists(path):
                continue
            raise
        lock = _hold(path)
        if lock is None and not os.path.lexists(path):  # swept up between the two steps
            continue
        return path, lock


def _hold(path: Path) -> int | None:
    """Lock what is this user's own and nobody holds; None if it is not to be had, or there are no such locks here."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        number = os.open(path, _READ | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen = os.fstat(number)
        plain = stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode)
        if plain and seen.st_uid == os.geteuid() and os.path.samestat(seen, os.lstat(path)):
            return number
    except OSError:
        pass
    os.close(number)
    return None


def _let_go(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
