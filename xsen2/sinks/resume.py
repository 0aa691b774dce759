"""What a half-written store knows about itself, so that the next call can finish it.

The folder ``.xsen2`` inside the store holds ``names`` (of all that the store has at its top, so that nothing else is
ever deleted), ``run`` (which run this is), ``sources`` (what the files that it reads were like when it began),
``ready`` (all metadata is written), ``group.json`` (the group's metadata, put in place last) and ``done-G-N`` for each
finished region. Each step can be repeated after a kill at any point, a step that was cut short included.

A store that replaces another is written beside it, in the hidden folder ``.NAME.xsen2-new``; in the end the two
change places. A run holds a lock meanwhile: ``.NAME.xsen2-lock`` beside a local store, where it stays whatever changes
places, and ``.xsen2/lock`` in any other, where whoever may write to the store may write.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import dask.array as da
import numpy as np
from dask.blockwise import Blockwise

from xsen2.errors import StoreError
from xsen2.files import flush, named, refuse_link
from xsen2.sinks.lock import Claim, locked
from xsen2.sinks.store import HALF, Disk, Place

__all__ = ["ADDED", "RUN", "State", "as_zarr", "digest", "quiet", "sections", "stamp"]


# Which local files pixels are read from, and whether they are still what they were.


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
            status = os.stat(path)
            yield path, status.st_size, status.st_mtime_ns
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            if most <= 0:
                return
            most -= 1
            with suppress(OSError):
                status = os.stat(os.path.join(folder, name))
                yield os.path.relpath(os.path.join(folder, name), path), status.st_size, status.st_mtime_ns


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


RUN = "xsen2_run"
"""Attribute of a finished store that says which run wrote it."""

ADDED = ".xsen2-append"
"""Folder, in a finished store, of what is known about dates that are being added to it."""

_GROUP = {"zarr.json", ".zgroup", ".zmetadata", ".zarray"}
_ZARR = {*_GROUP, ".xsen2"}
_METADATA = {*_ZARR, ".zattrs", ADDED}
_CHUNK = re.compile(r"c|\d+([./]\d+)*")


class State:
    """A store on its way from nothing to finished.

    Parameters
    ----------
    place : Disk or Other
        Where it is.
    claim : Claim, optional
        The lock under which it is written; without one it is only looked at.
    """

    def __init__(self, place: Place, claim: Claim | None = None) -> None:
        self.place, self._claim = place, claim
        self.root, self.local = place.root, place.local
        #: What zarr and xarray open.
        self.opened = place.opened
        self._marks = {name for name in place.names(".xsen2") if not name.endswith(HALF)} - {"lock"}

    @contextmanager
    def locked(self) -> Iterator[State]:
        """The store as it is once this run alone may write to it.

        Raises
        ------
        StoreError
            Another run is writing to it.
        """
        lock: tuple[Place, str] = (self.place, ".xsen2/lock")
        with ExitStack() as stack:
            with named(self.root):
                if isinstance(self.place, Disk):
                    beside = self._sibling("lock")
                    for path in (beside, *map(self._sibling, ("new", "old")), *map(self.place.at, (".xsen2", ADDED))):
                        refuse_link(path)
                    lock = Disk(os.path.dirname(beside)), os.path.basename(beside)
                (claim,) = stack.enter_context(locked([lock], [self.root]))
            yield State(self.place, claim)

    @property
    def claim(self) -> Claim:
        """The lock that this run holds."""
        if self._claim is None:
            raise RuntimeError("a store is only written under a lock")
        return self._claim

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be done: finished, and no trace of the writing or of a replacement."""
        return self.complete and not self._marks and not (self.local and os.path.lexists(self._sibling("old")))

    def check(self, run: str) -> str | None:
        """Which run the store belongs to: None when there is nothing there yet.

        Raises
        ------
        StoreError
            The store is not ours, or differs from `run` in more than the names of its pixels.
        """
        names = self._names()
        if not names:
            return None
        recorded = self._run()
        if recorded is None:
            if names == {".xsen2"}:  # killed before its first file was complete
                return None
            replaceable = bool(names & _ZARR) and not self._foreign(names)
            raise StoreError(
                f"{self.root} exists and was not written by this call: write to another path"
                + (", or replace it with overwrite=True" if replaceable else "")
            )
        # Names of pixels may differ, as those of links that are signed anew do: `probe` then asks the pixels.
        old, new = sections(recorded), sections(run)
        differ = [name for name in new if name != "pixels" and old.get(name) != new[name]]
        if differ:
            raise StoreError(
                f"{self.root} belongs to another run, with other {', '.join(differ)}: write to another path, "
                "or replace it with overwrite=True"
            )
        return recorded

    def beside(self) -> State:
        """Where to write what shall replace this store: here, if there is nothing that can be read.

        Raises
        ------
        StoreError
            There is something that is not a Zarr store, or a store that cannot be replaced in one step.
        """
        names = self._names()
        if not names or (".xsen2" in names and not names & _GROUP):
            return self
        self._refuse_foreign(names)
        if not self.local:
            raise StoreError(
                f"{self.root} exists, and only stores on local disks are replaced, since others cannot be moved in one "
                "step: delete it first or write to another path"
            )
        return State(Disk(self._sibling("new")), self._claim)

    def replace(self, new: State) -> None:
        """Put a finished store in the place of this one."""
        self.claim.check()
        self._refuse_foreign(self._names())  # somebody may have put a file there meanwhile
        # A folder cannot be exchanged in one step. Between these two moves nothing is at the path; after a kill there
        # `mend` makes the second one: that there is an old store says that the new one was whole.
        place, old = os.path.realpath(self.root), self._sibling("old")
        Disk(place).move(old)
        Disk(new.root).move(place)
        Disk(old).delete("")

    def mend(self) -> None:
        """Finish a replacement that was cut short."""
        if self.local and os.path.lexists(old := self._sibling("old")):
            if not os.path.lexists(place := os.path.realpath(self.root)):
                Disk(self._sibling("new")).move(place)
            Disk(old).delete("")

    @property
    def complete(self) -> bool:
        """Whether the store is finished."""
        group = self.group
        if self.place.consolidates:
            return "consolidated_metadata" in group
        return bool(group) and (bool(self._run_of(group)) or not self._marks)

    @property
    def unfinished(self) -> bool:
        """Whether there is a trace of the writing."""
        return bool(self._marks)

    @property
    def ready(self) -> bool:
        """Whether all metadata is there, so that regions can be written."""
        return "ready" in self._marks

    def begin(self, run: str, variables: Iterable[str]) -> None:
        """Clear the place and claim it for `run`, which will write these variables.

        Raises
        ------
        StoreError
            There is something at the path that is not of a Zarr store.
        """
        self.claim.check()
        names = self._names()
        self._refuse_foreign(names)
        if self.ready:  # first, or a kill below would leave a store that goes on with metadata that are gone
            self.place.delete(".xsen2/ready")
        # What stands here and what will: whatever else is found here after a kill is somebody's.
        listing = json.dumps(sorted((names - _METADATA) | set(variables)))
        self.put(".xsen2/names", listing.encode(), flush=True)
        self.put(".xsen2/run", run.encode())
        # The group's metadata goes first: what is half deleted does not open.
        kept = {".xsen2"} if self.place.consolidates else {".xsen2", "zarr.json"}  # there, with all that is below
        for name in sorted(names - kept, key=lambda n: n not in _ZARR):
            self.place.delete(name)
        for name in self._marks - {"run", "ready", "names"}:
            self.place.delete(f".xsen2/{name}")
        self._marks = {"run", "names"}

    def adopt(self, run: str) -> None:
        """Let what another call has written count as written by `run`, which would write the same."""
        self.claim.check()
        self._hide(json.loads(self._note("group.json")), run)
        self.put(".xsen2/run", run.encode())  # last: until then the other run's name asks for another look

    def set_ready(self, run: str) -> None:
        """Hide the group's metadata, which then name the run, until the end; and note that regions can be written."""
        self._hide(self.group, run)
        # Chunks are flushed region by region, and a note of one is worth nothing after a power cut without these files.
        if isinstance(self.place, Disk):
            flush(str(path) for path in Path(self.root).rglob("*") if path.is_file())
        if self.place.consolidates:  # else nobody sees it before it is committed
            self.place.delete("zarr.json")
        self.put(".xsen2/ready")
        self._marks |= {"group.json", "ready"}

    def _hide(self, group: dict[str, Any], run: str) -> None:
        group["attributes"][RUN] = run
        self.put(".xsen2/group.json", as_zarr(group))

    def sweep(self) -> None:
        """Sweep up files that a killed writer or worker left half written beside the chunks."""
        if isinstance(self.place, Disk):
            for path in self.place.halves():
                path.unlink()

    def done(self, grid: int, region: int) -> bool:
        """Whether a region is on disk."""
        return f"done-{grid}-{region}" in self._marks

    def mark(self, grid: int, region: int) -> None:
        """Note that a region is on disk."""
        with named(self.root):
            self.claim.check()
            self.put(f".xsen2/done-{grid}-{region}")

    def finish(self) -> None:
        """Put the group's metadata in place and remove every trace of the writing."""
        import zarr

        self.claim.check()
        self.sweep()
        if not self.complete:
            self.put("zarr.json", self._note("group.json"))
            if self.place.consolidates:
                with quiet():
                    zarr.consolidate_metadata(self.opened)
        self.place.flush(["zarr.json"])
        if self._marks:
            # `run` goes last: without it the folder would look like a start, not an end.
            self.clear(".xsen2", last=("run",), keep=("lock",))

    first = 0
    """Where along its first axis a variable is written from."""

    def array(self, name: str, mode: str = "r+") -> Any:
        """A variable's array in the store."""
        import zarr

        return zarr.open_array(self.opened, path=name, mode=mode)

    @property
    def group(self) -> dict[str, Any]:
        """Metadata of the group, with those of its arrays if they are consolidated; empty where there is none."""
        return self._json("zarr.json")

    @property
    def described(self) -> dict[str, Any]:
        """Metadata of the group with those of its arrays, wherever they stand."""
        group = self.group
        if self.place.consolidates:
            return group
        return group | {"consolidated_metadata": {"metadata": dict(self._members(""))}}

    def _members(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in sorted(self.ls(folder)):
            if not name.startswith(".") and (about := self._json(f"{folder}{name}/zarr.json")):
                yield f"{folder}{name}", about
                if about.get("node_type") == "group":
                    yield from self._members(f"{folder}{name}/")

    def read(self, name: str) -> bytes | None:
        """The content of a small file in the store."""
        return self.place.read(name)

    def put(self, name: str, content: bytes = b"", *, flush: bool = False) -> None:
        """Write a small file: who reads it sees either the old content or the new one.

        Parameters
        ----------
        name : str
        content : bytes
        flush : bool
            Whether what follows relies on it after a power cut.
        """
        self.place.write(name, content)
        if flush:
            self.place.flush([name])

    def changed(self, note: str, now: Mapping[str, str]) -> list[str]:
        """Sources that differ now from what a note recorded of them; none where there is no such note."""
        was = self._json(note)
        return sorted(name for name in {*was, *now} if was.get(name) != now.get(name)) if was else []

    def ls(self, folder: str) -> list[str]:
        """Names in a folder of the store; none where it is not there."""
        return self.place.names(folder)

    def remove(self, name: str) -> None:
        """Delete a file or a folder."""
        self.place.delete(name)

    def clear(self, folder: str, last: tuple[str, ...] = (), keep: tuple[str, ...] = ()) -> None:
        """Delete a folder of notes, one by one, those of `last` at the end, in their order."""
        names = [name for name in self.ls(folder) if name not in keep]
        for name in sorted(names, key=lambda n: (n in last, last.index(n) if n in last else 0)):
            self.place.delete(f"{folder}/{name}")
        self.place.prune(folder)

    def _run(self) -> str | None:
        """The run that a finished or half-written store names."""
        run = self._run_of(self.group)
        return run or (self._note("run").decode(errors="replace") if "run" in self._marks else None) or None

    @staticmethod
    def _run_of(group: Mapping[str, Any]) -> str | None:
        attributes = group.get("attributes")
        return attributes.get(RUN) if isinstance(attributes, dict) else None

    def _note(self, name: str) -> bytes:
        return self.read(f".xsen2/{name}") or b""

    def _json(self, name: str) -> dict[str, Any]:
        try:
            document = json.loads(self.read(name) or b"{}")
        except (ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    def _names(self) -> set[str]:
        names = set(self.ls(""))
        # A lock alone makes that folder too, at a URL, and says nothing about what lies beside it.
        return names if self.local or self._marks else names - {".xsen2"}

    def _refuse_foreign(self, names: set[str]) -> None:
        """Refuse to delete what is not of this store: all that nothing lists as one of its arrays."""
        if names and not names & _ZARR:
            raise StoreError(f"{self.root} is not a Zarr store, so it is not deleted: write to another path")
        foreign = self._foreign(names)
        if foreign:
            listing = ", ".join(sorted(foreign)[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
            raise StoreError(
                f"{self.root} holds what is not of one Zarr store and would be deleted ({listing}): write to another "
                "path, or move that away first"
            )

    def _foreign(self, names: set[str]) -> set[str]:
        """What lies in the store and is not of it."""
        owned = self._owned(names)
        foreign = {name for name in names - owned if not name.endswith(HALF)}
        return foreign | {f"{name}/{inner}" for name in names & owned - _METADATA for inner in self._foreign_in(name)}

    def _owned(self, names: set[str]) -> set[str]:
        """Names at the top that are the store's own: its metadata, and arrays that these or a killed run name."""
        ours = set(_METADATA)
        group = self.group
        listed = group.get("consolidated_metadata")
        members = listed.get("metadata") if isinstance(listed, dict) else None
        if isinstance(members, dict):
            ours |= {str(name).split("/")[0] for name in members}
        old = self._json(".zmetadata").get("metadata")
        if isinstance(old, dict):
            ours |= {str(name).split("/")[0] for name in old}
        if group.get("node_type") == "array" or ".zarray" in names:
            ours |= {name for name in names if _CHUNK.fullmatch(name)}
        elif not isinstance(members, dict) and not isinstance(old, dict) and (names & _GROUP or "run" in self._marks):
            # Nothing lists them, so each has to say itself that it is an array. A group may be another store.
            ours |= {n for n in names - ours if self._is_array(n)}
        try:
            named_before = json.loads(self.read(".xsen2/names") or b"[]") if "names" in self._marks else []
        except ValueError:
            named_before = []
        return ours | ({str(name) for name in named_before} if isinstance(named_before, list) else set())

    def _is_array(self, name: str) -> bool:
        if self.place.is_link(name):
            return False
        return self._json(f"{name}/zarr.json").get("node_type") == "array" or "shape" in self._json(f"{name}/.zarray")

    def _foreign_in(self, name: str) -> list[str]:
        """Names in an array's folder that are not an array's."""
        if self._json(f"{name}/zarr.json").get("node_type") == "group" or self.read(f"{name}/.zgroup") is not None:
            return []  # one of a hierarchy, which is listed as a whole
        known = {"zarr.json", ".zarray", ".zattrs"}
        return [n for n in self.ls(name) if n not in known and not _CHUNK.fullmatch(n) and not n.endswith(HALF)]

    def _sibling(self, what: str) -> str:
        folder, name = os.path.split(os.path.realpath(self.root))
        return os.path.join(folder, f".{name}.xsen2-{what}")


def as_zarr(metadata: Any) -> bytes:
    """Metadata as Zarr writes them, to the byte."""
    return json.dumps(metadata, indent=2, allow_nan=True).encode()


def digest(content: Any) -> str:
    """Fingerprint of what makes a call what it is: text, numbers, and lists and dicts of them."""
    return hashlib.sha256(json.dumps(content, default=str, sort_keys=True).encode()).hexdigest()[:12]


def sections(run: str) -> dict[str, str]:
    """A run's fingerprint, by what it is the fingerprint of.

    Examples
    --------
    >>> sections("grid=1a;pixels=2b")
    {'grid': '1a', 'pixels': '2b'}
    """
    return dict(part.partition("=")[::2] for part in run.split(";"))


class quiet(warnings.catch_warnings):
    """Silences zarr's notes that consolidated metadata is young and that ``.xsen2`` is not an array."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", r"Object at \.xsen2")
