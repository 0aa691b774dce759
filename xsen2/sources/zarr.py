"""A Zarr store that is no product, opened by xarray, whose damage has a name also when it shows in a chunk."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from xsen2.errors import SourceError
from xsen2.files import is_url, local

if TYPE_CHECKING:
    from zarr.abc.store import Store

    from xsen2.sources.zarr_guard import Guarded

__all__ = ["is_store", "message", "open_tree", "opened"]


# From what a user calls a Zarr store (a folder, a zip, an address, an object of zarr's) to one that can be trusted.


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
    location : str
        What the user calls it, for messages.
    stamp : tuple of int
        Sizes and times of the local files that tell of a replaced store.
    """

    store: Guarded
    prefix: str
    location: str
    stamp: tuple[int, ...]


def named(store: object) -> str:
    """`store` for messages."""
    return os.fspath(store) if isinstance(store, (str, os.PathLike)) else str(store)


def message(error: BaseException) -> str:
    """What is wrong, in one line; where the guard has refused something, its message without the names of classes."""
    from xsen2.sources.zarr_guard import Refused

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
    from xsen2.sources.zarr_guard import Guarded

    location = named(store)
    try:
        inner, prefix = _inner(store)
    except SourceError:
        raise
    except ImportError as error:
        hint = "pip install 'xsen2[remote]'" if location.startswith("http") else "install that package"
        raise ImportError(f"{location} cannot be opened: {error}: {hint}") from error
    except Exception as error:  # zarr, fsspec and their backends raise a dozen kinds
        raise SourceError(f"{location} cannot be read as a Zarr store: {message(error)}") from error
    return Opened(Guarded(inner), prefix, location, _stamp(store))


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
    states = [file.stat() for file in (path, *(path / root for root in ROOTS)) if file.exists()]
    return tuple(value for about in states for value in (about.st_size, about.st_mtime_ns))


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


def _root(names: Iterable[str], location: str) -> str:
    """The highest folder in a zip that is a Zarr group."""
    homes = {folder for folder, _, name in (n.strip("/").rpartition("/") for n in names) if name in ROOTS}
    depth = min((home.count("/") + bool(home) for home in homes), default=0)
    highest = sorted(home for home in homes if home.count("/") + bool(home) == depth)
    if len(highest) != 1:
        contents = f"{len(highest)} Zarr stores ({', '.join(highest)})" if highest else "no Zarr store"
        raise SourceError(f"{location} holds {contents}: give a zip with one")
    return highest[0]


OVERVIEWS = "overviews"
"""The group of a store in which its coarser levels lie, which say nothing that the store does not."""


def open_tree(source: str) -> xr.DataTree:
    """All groups of a store but those of its overviews, lazily, in the chunks that they are stored in.

    Parameters
    ----------
    source : str
        A folder, a zip with one, or a URL in the words of fsspec.

    Raises
    ------
    SourceError
        If it is no store, or its metadata are damaged. When the cube is computed: if a chunk cannot be read.
    """
    handle = opened(source)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated metadata")
            groups = xr.open_groups(
                handle.store,  # type: ignore[arg-type]  # takes what zarr takes
                engine="zarr",
                group=handle.prefix or None,
                chunks=None,
                cache=False,
                decode_coords="all",
            )
            return xr.DataTree.from_dict(dict(_groups(groups, source, handle.stamp)))
    except Exception as error:  # zarr, fsspec and xarray raise a dozen kinds for a store that is not there or broken
        raise SourceError(f"{source} cannot be read as a Zarr store: {message(error)}") from error


def _groups(groups: Mapping[str, xr.Dataset], source: str, stamp: tuple[int, ...]) -> Iterator[tuple[str, xr.Dataset]]:
    levels = next((p for p, ds in groups.items() if p.strip("/") == OVERVIEWS and "multiscales" in ds.attrs), "")
    for path, ds in groups.items():
        if levels and f"{path.rstrip('/')}/".startswith(f"{levels.rstrip('/')}/"):
            continue
        for name, variable in ds.variables.items():
            if name in ds.indexes:
                continue
            location = f"{source}: {path.rstrip('/')}/{name}"
            if variable.ndim < 2:
                new = variable.load()
            else:
                preferred = variable.encoding.get("preferred_chunks", {})
                chunks = tuple(preferred.get(dim, -1) for dim in variable.dims)
                token = tokenize(location, stamp, variable.shape, str(variable.dtype), variable.encoding)
                read = _Named(variable, location)
                lazy = da.from_array(read, chunks, name=f"zarr-{name}-{token}", asarray=False)
                new = variable.copy(data=lazy)
            ds = ds.assign_coords({name: new}) if name in ds.coords else ds.assign({name: new})
        yield path, ds


class _Named:
    """A lazy variable as an array whose failures are named: zarr's codecs raise whatever they like."""

    def __init__(self, variable: xr.Variable, location: str) -> None:
        self.variable, self.location = variable, location
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, key: Any) -> Any:
        try:
            return np.asarray(self.variable[key].values)
        except Exception as error:
            raise SourceError(
                f"{self.location} cannot be read at {key} ({message(error)}): the store is "
                "damaged, or its server failed; try again, or write it anew"
            ) from error
