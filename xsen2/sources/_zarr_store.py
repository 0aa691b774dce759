"""From what a user calls a Zarr store (a folder, a zip, an address, an object of zarr's) to one that can be trusted."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsen2.errors import SourceError
from xsen2.paths import is_url, local

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from xsen2.sources._zarr_guard import Guarded

__all__ = ["ROOTS", "Opened", "is_store", "named", "opened", "said"]

ROOTS = ("zarr.json", ".zmetadata", ".zgroup")
"""What a folder has that is the root of a store."""


@dataclass(frozen=True)
class Opened:
    """A store that is ready to be read.

    Attributes
    ----------
    store : Guarded
    prefix : str
        Path of the root group in it.
    where : str
        What the user calls it, for messages.
    stamp : tuple of int
        Sizes and times of the local files that tell of a replaced store.
    """

    store: Guarded
    prefix: str
    where: str
    stamp: tuple[int, ...]


def named(store: object) -> str:
    """`store` for messages."""
    return os.fspath(store) if isinstance(store, (str, os.PathLike)) else str(store)


def said(error: BaseException) -> str:
    """What is wrong, in one line; of the guard's own words, without the names of classes."""
    from xsen2.sources._zarr_chunks import Refused

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Refused):
            return str(cause)[:400]
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: {str(error)[:300]}"


def opened(store: str | os.PathLike[str] | Store) -> Opened:
    """The store behind a guard.

    Raises
    ------
    SourceError
        If there is none, or it cannot be read.
    ImportError
        If the address needs a package that is not installed.
    """
    from xsen2.sources._zarr_guard import Guarded

    where = named(store)
    try:
        inner, prefix = _inner(store)
    except SourceError:
        raise
    except ImportError as error:
        hint = "pip install 'xsen2[remote]'" if where.startswith("http") else "install that package"
        raise ImportError(f"{where} cannot be opened: {error}: {hint}") from error
    except Exception as error:  # zarr, fsspec and their backends raise a dozen kinds
        raise SourceError(f"{where} cannot be read as a Zarr store: {said(error)}") from error
    return Opened(Guarded(inner), prefix, where, _stamp(store))


def is_store(path: str) -> bool:
    """Whether a path on disk is that of a store: a folder with its root, or a zip with one in it."""
    here = local(path)
    if here.is_dir():
        return any(os.path.lexists(here / root) for root in ROOTS)
    if here.suffix.lower() != ".zip" or not here.is_file():
        return False
    try:
        with zipfile.ZipFile(here) as archive:
            return any(name.rpartition("/")[2] in ROOTS for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError):
        return False


def _stamp(store: object) -> tuple[int, ...]:
    if not isinstance(store, (str, os.PathLike)) or is_url(store):
        return ()
    path = local(store)
    found = [file.stat() for file in (path, *(path / root for root in ROOTS)) if file.exists()]
    return tuple(value for about in found for value in (about.st_size, about.st_mtime_ns))


def _inner(store: str | os.PathLike[str] | Store) -> tuple[Store, str]:
    """What zarr reads from, and the path of the root in it."""
    from zarr.storage import FsspecStore, LocalStore, ZipStore

    if not isinstance(store, (str, os.PathLike)):
        return store, ""
    if is_url(store):
        name = os.fspath(store).rstrip("/")
        if not name.lower().endswith(".zip"):
            return FsspecStore.from_url(name, read_only=True), ""
        import fsspec  # type: ignore[import-untyped]
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper  # type: ignore[import-untyped]

        archive = fsspec.filesystem("zip", fo=name)
        inside = _root(archive.find(""), name)
        return FsspecStore(AsyncFileSystemWrapper(archive, asynchronous=True), read_only=True, path=inside), ""
    path = local(store)
    if path.is_dir():
        return LocalStore(path, read_only=True), ""
    if not path.is_file():
        raise SourceError(f"{path} does not exist: give a .zarr folder, a .zarr.zip or an address")
    try:
        with zipfile.ZipFile(path) as archive:
            inside = _root(archive.namelist(), str(path))
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path} is not a zip that can be read ({error}): download it again") from error
    return ZipStore(path, mode="r", read_only=True), inside


def _root(names: Iterable[str], where: str) -> str:
    """The highest folder in a zip that is a Zarr group."""
    homes = {folder for folder, _, name in (n.strip("/").rpartition("/") for n in names) if name in ROOTS}
    depth = min((home.count("/") + bool(home) for home in homes), default=0)
    highest = sorted(home for home in homes if home.count("/") + bool(home) == depth)
    if len(highest) != 1:
        found = f"{len(highest)} Zarr stores ({', '.join(highest)})" if highest else "no Zarr store"
        raise SourceError(f"{where} holds {found}: give a zip with one")
    return highest[0]
