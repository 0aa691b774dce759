"""A path from the user: what ``~`` and ``file://`` mean, said once."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from xsen2.errors import SourceError, Xsen2Error

__all__ = ["is_url", "local"]

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
