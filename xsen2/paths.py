"""Where a sink is told to write: one reading of a path for all of them, and what cannot be one is refused by name."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from xsen2.errors import SourceError, StoreError, Xsen2Error

__all__ = ["is_url", "local", "plain_file", "refuse_link"]


# A path from the user: what ``~`` and ``file://`` mean, said once.


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
    """A path on a local disk that can be written to, read as `xsen2.paths.local` does.

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
