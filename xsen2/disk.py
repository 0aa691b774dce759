"""Disks: their errors as errors of this package, and files that survive a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from xsen2.errors import StoreError

__all__ = ["ANEW", "FULL", "flush", "named"]

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
