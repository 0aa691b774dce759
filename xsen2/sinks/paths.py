"""Where a sink is told to write: one reading of a path for all of them, and what cannot be one is refused by name."""

from __future__ import annotations

import errno
import os
import stat

from xsen2 import paths
from xsen2.errors import StoreError

__all__ = ["local", "plain_file", "refuse_link"]

_BESIDE = len("..xsen2-lock")
"""How much longer than its target's the longest name is that a sink writes beside it."""

_LONGEST = 255
"""Bytes in a name, on any disk that is usual."""


def local(path: str | os.PathLike[str]) -> str:
    """A path on a local disk that can be written to, read as `xsen2.paths.local` does.

    Raises
    ------
    StoreError
        It is empty, or can be no path, or leads through a file, through a link to nowhere or in a circle.

    Examples
    --------
    >>> local("/data//a/../b.zarr")
    '/data/a/../b.zarr'
    >>> local("")
    Traceback (most recent call last):
    ...
    xsen2.errors.StoreError: the path is empty: ''
    """
    full = str(paths.local(path, StoreError))
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
