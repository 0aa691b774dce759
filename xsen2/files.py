"""Paths and files: where a sink writes, and files written whole or not at all.

All of the library reads paths in one way, and refuses by name what cannot be one. Of files from elsewhere no more is
read than a valid one can hold.
"""

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
from urllib.parse import unquote, urlsplit

from xsen2.errors import SourceError, StoreError, Xsen2Error

__all__ = [
    "FULL",
    "flush",
    "is_url",
    "local",
    "named",
    "opened",
    "plain_file",
    "read",
    "read_json",
    "refuse_link",
    "scratch",
    "sweep",
    "temporary",
    "whole",
    "write",
]

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
        path = os.fspath(target)
        if error.errno in FULL:
            raise StoreError(f"the disk is full while {path} is written: {full}, {after}") from error
        if error.errno in _FORBIDDEN:
            raise StoreError(f"{path} cannot be written ({error}): get the permission to, {after}") from error
        raise StoreError(f"{path} cannot be written ({error}): mend that, {after}") from error


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
    """The content of a JSON file.

    Raises
    ------
    OSError
        As `opened`.
    ValueError
        If it is not JSON, or nested more than `DEPTH` deep.
    """
    try:
        document = json.loads(read(path, most).decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEPTH} deep") from error
    level = [document]
    for _ in range(DEPTH):
        level = [x for item in level for x in _inside(item)]
        if not level:
            return document
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
    """A new folder that lives as long as this process, as readable to others as the umask allows.

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


# A path from the user: what ``~`` and ``file://`` mean, in one place.


_LOCAL = ("file://", "local://")


def is_url(path: object) -> bool:
    """Whether `path` is an address in the words of fsspec that leads elsewhere than to this machine's disks.

    Examples
    --------
    >>> is_url("https://example.com/a.zarr"), is_url("file:///data/a.zarr"), is_url("~/a.zarr")
    (True, False, False)
    """
    return isinstance(path, str) and ("://" in path or "::" in path) and not path.lower().startswith(_LOCAL)


def local(path: str | os.PathLike[str], error: type[Xsen2Error] = SourceError) -> Path:
    """The absolute path that a user means: ``~`` and ``~name`` are home folders, ``file://`` is no part of a name.

    Parameters
    ----------
    path : str or os.PathLike
    error : type
        What to raise.

    Returns
    -------
    pathlib.Path
        Absolute; links in it are kept as they are.

    Raises
    ------
    Xsen2Error
        Of the kind `error`, if it cannot be the path of anything.

    Examples
    --------
    >>> local("~/lake.tif") == Path.home() / "lake.tif"
    True
    >>> local("file:///data/a%20lake.tif").as_posix()
    '/data/a lake.tif'
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise error(f"{path!r}, a {type(path).__name__}, is no path: give a str or a pathlib.Path")
    if text.lower().startswith(_LOCAL):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise error(f"{text!r} names the machine {parts.netloc!r}: a path of this machine has three slashes")
        text = unquote(text.partition("://")[2].removeprefix(parts.netloc))
    if not text.strip():
        raise error(f"the path is empty: {path!r}")
    if "\0" in text:
        raise error(f"{text!r} holds a zero byte (NUL), which no path can: leave it out")
    try:
        return Path(os.path.expanduser(text)).absolute()
    except OSError as problem:  # the current folder is gone
        raise error(f"{text!r} cannot be made absolute: {problem}") from problem


_BESIDE = len("..xsen2-lock")
"""How much longer than its target's the longest name is that a sink writes beside it."""

_LONGEST = 255
"""Bytes in a name, on any disk that is usual."""


def writable(path: str | os.PathLike[str]) -> str:
    """A path on a local disk that can be written to, read as `xsen2.files.local` does.

    Raises
    ------
    StoreError
        It is empty, or can be no path, or leads through a file, through a link to nowhere or in a circle.

    Examples
    --------
    >>> writable("/data//a/../b.zarr")
    '/data/a/../b.zarr'
    >>> writable("")
    Traceback (most recent call last):
    ...
    xsen2.errors.StoreError: the path is empty: ''
    """
    full = str(local(path, StoreError))
    given = os.fspath(path)
    if given.startswith("~") and os.path.expanduser(given) == given and not os.path.lexists(given):
        raise StoreError(f"{given}: there is no such home directory; to write to a folder called ~, give ./{given}")
    try:
        name = os.fsencode(full)
    except UnicodeEncodeError as error:
        raise StoreError(f"{given!r} cannot be a name on this disk ({error}): give another") from None
    for part in name.split(os.fsencode(os.sep)):
        if len(part) > _LONGEST:
            raise StoreError(f"{given[:60]}… holds a name of {len(part)} bytes: names have {_LONGEST} at most")
    if len(os.path.basename(name.rstrip(b"/"))) > _LONGEST - _BESIDE:
        raise StoreError(
            f"{given[:60]}… ends in a name of {len(os.path.basename(name.rstrip(b'/')))} bytes: give one of "
            f"{_LONGEST - _BESIDE} at most, since files are written beside it whose names are longer"
        )
    _check_above(full, given)
    return full


def _check_above(full: str, given: str) -> None:
    """Refuse a path that leads through what is no folder."""
    try:
        os.stat(full)
        return
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise StoreError(f"{given[:60]}… is too long for a path ({len(given)} characters): give another") from None
        if error.errno == errno.ELOOP:
            raise StoreError(f"{given} leads in a circle, over links that point at each other: mend them") from None
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise StoreError(f"{given} cannot be looked at ({error}): get the permission to, or give another") from None
    if os.path.islink(full.rstrip("/")):
        raise StoreError(f"{given} is a link to nowhere: mend or delete it, or write to another path")
    above = os.path.dirname(full.rstrip("/"))
    while above and not os.path.lexists(above) and above != os.path.dirname(above):
        above = os.path.dirname(above)
    if os.path.islink(above) and not os.path.exists(above):
        raise StoreError(f"{above} is a link to nowhere, so nothing can be written to {given}: mend or delete it")
    if os.path.exists(above) and not os.path.isdir(above):
        raise StoreError(f"{above} is a file, so nothing can be written to {given}: give another path")


def refuse_link(path: str) -> None:
    """Refuse a link in the place of a file or folder that a sink makes for itself and never makes as a link.

    Raises
    ------
    StoreError
        There is a link, wherever it points. What it points at is not touched.
    """
    if os.path.islink(path):
        raise StoreError(
            f"{path} is a link, and xsen2 never makes that one: somebody else did. What it points at would be "
            "overwritten, so delete the link, or write to another path"
        )


def plain_file(path: str) -> bool:
    """Whether there is a plain file, no link, pipe or folder.

    Raises
    ------
    StoreError
        There is something else.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    refuse_link(path)
    if not stat.S_ISREG(mode):
        raise StoreError(f"{path} is in the place of a small file of xsen2's, and is none: delete it")
    return True
