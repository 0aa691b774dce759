"""Which local files pixels are read from, and whether they are still what they were."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import dask.array as da
import numpy as np
from dask.blockwise import Blockwise

from xsen2.sinks.state import digest

__all__ = ["stamp"]

_VALUES = 20_000
"""Parts of graphs that are looked through: a long series of large images has some thousands that name a source."""

_FILES = 200_000
"""Files of which size and time are read: half a second for the chunks of some tiles and years."""

_STORES = ("zarr.json", ".zarray", ".zgroup", ".zmetadata", "manifest.safe")
"""Names by which a folder is told to be all one source."""

_HIDDEN = ("_thread", "threading", "_asyncio", "asyncio")


def stamp(arrays: Iterable[da.Array]) -> dict[str, str]:
    """Local files and stores that graphs name, each with a fingerprint of its sizes and times of change.

    No file is opened. What a graph names only by a URL, a file handle, or inside a function is not found.

    Parameters
    ----------
    arrays : iterable of dask arrays

    Examples
    --------
    >>> stamp([da.zeros(3)])
    {}
    """
    finder = _Finder()
    seen: set[str] = set()
    left = _VALUES
    for array in arrays:
        for name, layer in array.dask.layers.items():
            if name in seen or left <= 0:
                continue
            seen.add(name)
            values: list[Any] = []
            if isinstance(layer, Blockwise):
                values = [value for value, index in layer.indices if index is None]
            elif not array.dask.dependencies.get(name):  # what others are made of
                values = list(islice(layer.values(), left))
            left -= len(values)
            for value in values:
                finder.look(value)
    left, out = _FILES, {}
    for path in sorted(finder.paths):
        about = list(_about(path, left))
        left -= len(about)
        if about:
            out[path] = digest(about)
    return out


def _about(path: str, most: int) -> Iterable[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of all files of a store."""
    if not os.path.isdir(path):
        with suppress(OSError):
            found = os.stat(path)
            yield path, found.st_size, found.st_mtime_ns
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            if most <= 0:
                return
            most -= 1
            with suppress(OSError):
                found = os.stat(os.path.join(folder, name))
                yield os.path.relpath(os.path.join(folder, name), path), found.st_size, found.st_mtime_ns


class _Nowhere(io.RawIOBase):
    def write(self, content: Any) -> int:
        return len(content)


class _Finder(pickle.Pickler):
    """Visits all that an object is made of, as pickle does, and keeps what names a local file."""

    def __init__(self) -> None:
        super().__init__(_Nowhere(), protocol=5)
        self.paths: set[str] = set()
        self._inside: list[Any] = []
        self._functions: set[int] = set()

    def look(self, value: Any) -> None:
        """Visit one object; what cannot be visited is left out."""
        self._inside = [value]
        while self._inside:
            with suppress(Exception):
                self.dump(self._inside.pop())

    def persistent_id(self, obj: Any) -> str | None:
        """Called with each object; those that it names are not visited."""
        if isinstance(obj, np.ndarray):
            mapped: Any = obj if isinstance(obj, np.memmap) else None
            if mapped is not None and mapped.filename is not None:
                self._note(os.fspath(mapped.filename))
            return "pixels" if obj.dtype != object or obj.size > 1000 else None
        if isinstance(obj, str | os.PathLike):
            with suppress(TypeError, ValueError, OSError):
                self._note(os.fspath(obj))
            return None
        if isinstance(obj, FunctionType):  # pickle has only their names
            if id(obj) not in self._functions:
                self._functions.add(id(obj))
                with suppress(ValueError):  # a cell that is still empty
                    self._inside += [cell.cell_contents for cell in obj.__closure__ or ()]
                self._inside += [*(obj.__defaults__ or ()), *(obj.__kwdefaults__ or {}).values()]
            return "function"
        if isinstance(obj, type | BuiltinFunctionType | ModuleType) or type(obj).__module__ in _HIDDEN:
            return "no data"
        return None

    def _note(self, path: Any) -> None:
        if not isinstance(path, str) or len(path) > 4096 or "\0" in path or "\n" in path:
            return
        path = re.sub(r"^(file://|/vsi(zip|tar|gzip)/\{?)+", "", path).rstrip("}")
        if not os.path.isabs(path) or len(path) < 2:
            return
        while not os.path.lexists(path) and len(os.path.dirname(path)) > 1:  # inside an archive
            path = os.path.dirname(path)
        if os.path.isfile(path) or any(os.path.lexists(os.path.join(path, name)) for name in _STORES):
            self.paths.add(os.path.realpath(path))
