"""Where a Zarr sink writes: a folder on a disk of this machine, or any store that zarr-python knows.

Both are small files by key. A folder gives more: a file is replaced in one step, is on disk when that is asked for,
and folders are moved. Other stores promise no more than zarr's own interface does.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xsen2 import files
from xsen2.errors import StoreError
from xsen2.files import is_url, writable

__all__ = ["HALF", "Disk", "Other", "Place", "Session", "place_of"]

HALF = ".partial"
"""How names of files end that are being written, by Zarr as well."""

NOTES = ".xsen2"
"""How the names of the folders begin that hold what a sink notes in a store."""


@dataclass(frozen=True)
class Disk:
    """A folder on a disk of this machine, which may be one that it shares with others.

    Attributes
    ----------
    path : str
        Absolute.
    """

    path: str
    local = True
    consolidates = True

    @property
    def root(self) -> str:
        """What messages call it."""
        return self.path

    @property
    def opened(self) -> Any:
        """What zarr and xarray open."""
        return self.path

    def at(self, key: str) -> str:
        """The path of a key."""
        return f"{self.path.rstrip('/')}/{key}"

    def read(self, key: str) -> bytes | None:
        """What a file holds; None where there is none."""
        try:
            return Path(self.at(key)).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def write(self, key: str, content: bytes) -> None:
        """Write a file: who reads it sees what it held or what it holds, and no half of that."""
        path = self.at(key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path + HALF).write_bytes(content)
        os.replace(path + HALF, path)

    def flush(self, keys: Iterable[str]) -> None:
        """Have files on disk, should the power go."""
        files.flush(self.at(key) for key in keys)

    def delete(self, key: str) -> None:
        """Delete a file, or a folder with all that is in it."""
        path = self.at(key)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def prune(self, folder: str) -> None:
        """Delete a folder if nothing is in it."""
        with suppress(OSError):
            os.rmdir(self.at(folder))

    def names(self, folder: str = "") -> list[str]:
        """What is in a folder; nothing where there is none."""
        try:
            return os.listdir(self.at(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if error.errno == errno.ELOOP:  # links in a circle, in the place of a folder of notes: refused elsewhere
                return []
            raise StoreError(
                f"{self.root} cannot be read ({error}): get the permission to, or write elsewhere"
            ) from error

    def move(self, target: str) -> None:
        """Call the folder something else, in one step."""
        os.rename(os.path.realpath(self.path), target)

    def is_link(self, key: str) -> bool:
        """Whether there is a link."""
        return os.path.islink(self.at(key))

    def halves(self, folder: str = "") -> Iterable[Path]:
        """Files that were never whole, of killed writers."""
        return Path(self.at(folder)).rglob(f"*{HALF}")


@dataclass(frozen=True)
class Other:
    """A store of zarr-python: an object store, memory, a session of a store with a history.

    Attributes
    ----------
    store : zarr.abc.store.Store
    root : str
        What messages call it.
    opened : object
        What zarr and xarray open: the store, or the URL that it was made of.
    """

    store: Any
    root: str
    opened: Any
    local = False
    consolidates = True

    def read(self, key: str) -> bytes | None:
        """What a key holds; None where there is none."""
        from zarr.core.buffer import default_buffer_prototype

        value = _wait(self.store.get(key, default_buffer_prototype()))
        return None if value is None else bytes(value.to_bytes())

    def write(self, key: str, content: bytes) -> None:
        """Let a key hold something."""
        from zarr.core.buffer import default_buffer_prototype

        _wait(self.store.set(key, default_buffer_prototype().buffer.from_bytes(content)))

    def flush(self, keys: Iterable[str]) -> None:
        """Nothing to do: what a store has taken, it has."""

    def delete(self, key: str) -> None:
        """Delete a key, and all below it."""
        _wait(self.store.delete_dir(key))
        _wait(self.store.delete(key))

    def prune(self, folder: str) -> None:
        """Nothing to do: folders are only in the names of keys."""

    def names(self, folder: str = "") -> list[str]:
        """What is in a folder; nothing where there is none."""
        remembering = getattr(self.store, "fs", None)
        if remembering is not None:  # fsspec's list of what others may have written since
            remembering.invalidate_cache()

        async def listed() -> list[str]:
            return [name async for name in self.store.list_dir(folder)]

        return [name.rstrip("/").rpartition("/")[2] for name in _wait(listed())]

    def is_link(self, key: str) -> bool:
        """There are none."""
        return False

    @property
    def in_memory(self) -> bool:
        """Whether it is in the memory of this process: what is written to a copy of it is never seen."""
        from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
        from zarr.storage import MemoryStore

        fs = getattr(self.store, "fs", None)
        return isinstance(self.store, MemoryStore) or isinstance(getattr(fs, "sync_fs", fs), MemoryFileSystem)


class Session(Other):
    """A store without consolidated metadata, as a session of icechunk: others see what is in it when it is committed.

    It may take Zarr's own documents and chunks alone, the chunks within the shape of their array, and lose all that is
    in a group when that is deleted. So notes are groups here, which hold their text as an attribute.
    """

    consolidates = False

    def read(self, key: str) -> bytes | None:
        """As `Other.read`."""
        if not _is_note(key):
            return super().read(key)
        note = super().read(f"{key}/zarr.json")
        return None if note is None else str(json.loads(note)["attributes"]["xsen2"]).encode()

    def write(self, key: str, content: bytes) -> None:
        """As `Other.write`."""
        if not _is_note(key):
            super().write(key, content)
            return
        above = f"{key.partition('/')[0]}/zarr.json"
        if super().read(above) is None:
            super().write(above, _group(b""))  # or its notes would not be listed
        super().write(f"{key}/zarr.json", _group(content))

    def delete(self, key: str) -> None:
        """As `Other.delete`."""
        if _is_note(key):
            key = f"{key}/zarr.json"
        if key.endswith("zarr.json"):
            _wait(self.store.delete(key))
        else:
            _wait(self.store.delete_dir(key))

    def prune(self, folder: str) -> None:
        """As `Other.prune`."""
        if not self.names(folder):
            self.delete(f"{folder}/zarr.json")

    def names(self, folder: str = "") -> list[str]:
        """As `Other.names`."""
        return [name for name in super().names(folder) if name != "zarr.json" or not folder.startswith(NOTES)]


def _is_note(key: str) -> bool:
    return key.startswith(NOTES) and "/" in key and not key.endswith("/zarr.json")


def _group(text: bytes) -> bytes:
    attributes = {"xsen2": text.decode()}
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()


Place = Disk | Other


def place_of(given: Any) -> Place:
    """Where a caller wants a Zarr store.

    Parameters
    ----------
    given : path, URL or Zarr store
        A path is one of this machine; a URL one that fsspec knows.

    Raises
    ------
    StoreError
        It is none of these, or can be none, or may not be written to.
    """
    from zarr.abc.store import Store
    from zarr.storage import FsspecStore, LocalStore

    if isinstance(given, Store):
        if given.read_only:
            raise StoreError(f"{given} is read-only: give a store that can be written to")
        if not isinstance(given, LocalStore):
            kind = Other if given.supports_consolidated_metadata else Session
            return kind(given, str(given), given)
        given = given.root
    text = os.fspath(given) if isinstance(given, os.PathLike) else given
    if isinstance(text, str) and is_url(text):
        _check_zip(text)
        return Other(FsspecStore.from_url(text), text.rstrip("/"), text.rstrip("/"))
    path = writable(text)
    _check_zip(path)
    if os.path.exists(path) and not os.path.isdir(path):
        raise StoreError(f"{given} is a file: give the path of a new folder")
    return Disk(path)


def _check_zip(path: str) -> None:
    if path.rstrip("/").endswith(".zip"):
        raise StoreError(f"{path}: a zip cannot be written in pieces; write a folder and zip it afterwards")


def _wait(answer: Any) -> Any:
    """What an asynchronous call gives."""
    from zarr.core.sync import sync

    return sync(answer)
