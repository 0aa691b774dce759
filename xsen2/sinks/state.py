"""What a half-written store knows about itself, so that the next call can finish it.

The folder ``.xsen2`` inside the store holds ``run`` (which run this is), ``ready`` (all metadata is
written), ``group.json`` (the group's metadata, put in place last) and ``done-G-N`` for each finished region.
Each step can be repeated after a kill at any point, a step that was cut short included.

A store that replaces another is written beside it, in the hidden folder ``.NAME.xsen2-new``; in the end the two
change places. A run holds a lock meanwhile: ``.NAME.xsen2-lock`` beside a local store, where it stays whatever changes
places, and ``.xsen2/lock`` at a URL, where whoever may write to the store may write.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from xsen2.disk import flush, named
from xsen2.errors import StoreError
from xsen2.sinks.lock import Claim, locked

__all__ = ["RUN", "State", "digest"]

RUN = "xsen2_run"
"""Attribute of a finished store that says which run wrote it."""

_GROUP = {"zarr.json", ".zgroup", ".zmetadata", ".zarray"}
_ZARR = {*_GROUP, ".xsen2"}


class State:
    """A store on its way from nothing to finished.

    Parameters
    ----------
    store : str
        Local path, or a URL that fsspec knows.
    claim : Claim, optional
        The lock under which it is written; without one it is only looked at.
    """

    def __init__(self, store: str, claim: Claim | None = None) -> None:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
        from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

        self._fs, self._path = url_to_fs(store)
        self._claim = claim
        self.local = isinstance(self._fs, LocalFileSystem)
        #: Where zarr and xarray find the store, from any working directory.
        self.root: str = self._path if self.local else store.rstrip("/")
        if self.root.endswith(".zip"):
            raise StoreError(f"{store}: a zip cannot be written in pieces; write a folder and zip it afterwards")
        if self.local and os.path.isfile(self._path):
            raise StoreError(f"{store} is a file: give the path of a new folder")
        self._marks = {name.rpartition("/")[2] for name in self._ls(self._at(".xsen2"))} - {"lock"}

    @contextmanager
    def locked(self) -> Iterator[State]:
        """The store as it is once this run alone may write to it.

        Raises
        ------
        StoreError
            Another run is writing to it.
        """
        path = self._sibling("lock") if self.local else self._at(".xsen2/lock")
        with ExitStack() as stack:
            with named(self.root):
                (claim,) = stack.enter_context(locked(self._fs, [path], [self.root]))
            yield State(self.root, claim)

    @property
    def claim(self) -> Claim:
        """The lock that this run holds."""
        if self._claim is None:
            raise RuntimeError("a store is only written under a lock")
        return self._claim

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be done: finished, and no trace of the writing or of a replacement."""
        return self.complete and not self._marks and not (self.local and self._fs.exists(self._sibling("old")))

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
        found = self._run()
        if found is None:
            if names == {".xsen2"}:  # killed before its first file was complete
                return None
            raise StoreError(
                f"{self.root} exists and was not written by this call: write to another path"
                + (", or replace it with overwrite=True" if names & _ZARR else "")
            )
        old, new = sections(found), sections(run)
        differ = [name for name in new if name != "pixels" and old.get(name) != new[name]]
        if differ:
            raise StoreError(
                f"{self.root} belongs to another run, with other {', '.join(differ)}: write to another path, "
                "or replace it with overwrite=True"
            )
        return found

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
        self._check_zarr(names)
        if not self.local:
            raise StoreError(
                f"{self.root} exists, and stores at a URL are not replaced, since they cannot be moved in one step: "
                "delete it first or write to another path"
            )
        return State(self._sibling("new"), self._claim)

    def replace(self, new: State) -> None:
        """Put a finished store in the place of this one."""
        self.claim.check()
        place, old = os.path.realpath(self._path), self._sibling("old")
        self._fs.mv(place, old)
        self._fs.mv(new._path, place)
        self._fs.rm(old, recursive=True)

    def mend(self) -> None:
        """Finish a replacement that was cut short."""
        if self.local and self._fs.exists(old := self._sibling("old")):
            if not self._fs.exists(place := os.path.realpath(self._path)):
                self._fs.mv(self._sibling("new"), place)
            self._fs.rm(old, recursive=True)

    @property
    def complete(self) -> bool:
        """Whether the store is finished."""
        return "consolidated_metadata" in self._group()

    @property
    def ready(self) -> bool:
        """Whether all metadata is there, so that regions can be written."""
        return "ready" in self._marks

    def begin(self, run: str) -> None:
        """Clear the place and claim it for `run`.

        Raises
        ------
        StoreError
            There is something at the path that is not a Zarr store.
        """
        self.claim.check()
        names = self._names()
        self._check_zarr(names)
        if self.ready:
            self._fs.rm(self._at(".xsen2/ready"))
        self._fs.makedirs(self._at(".xsen2"), exist_ok=True)
        self._put(".xsen2/run", run.encode())
        # The group's metadata goes first: what is half deleted does not open.
        for name in sorted(names - {".xsen2"}, key=lambda n: n not in _ZARR):
            self._fs.rm(self._at(name), recursive=True)
        for name in self._marks - {"run", "ready"}:
            self._fs.rm(self._at(f".xsen2/{name}"))
        self._marks = {"run"}

    def adopt(self, run: str) -> None:
        """Let what another call has written count as written by `run`, which would write the same."""
        self.claim.check()
        group = json.loads(self._fs.cat_file(self._at(".xsen2/group.json")))
        group["attributes"][RUN] = run
        self._put(".xsen2/group.json", json.dumps(group).encode())
        self._put(".xsen2/run", run.encode())  # last: until then the other run's name asks for another look

    def set_ready(self) -> None:
        """Hide the group's metadata until the end, and note that regions can be written."""
        self._put(".xsen2/group.json", self._fs.cat_file(self._at("zarr.json")))
        if self.local:
            flush(str(path) for path in Path(self._path).rglob("*") if path.is_file())
        self._fs.rm(self._at("zarr.json"))
        self._put(".xsen2/ready", b"")
        self._marks |= {"group.json", "ready"}

    def sweep(self) -> None:
        """Sweep up files that a killed writer or worker left half written beside the chunks."""
        if self.local:
            for path in Path(self._path).rglob("*.partial"):
                path.unlink()

    def done(self, grid: int, region: int) -> bool:
        """Whether a region is on disk."""
        return f"done-{grid}-{region}" in self._marks

    def mark(self, grid: int, region: int) -> None:
        """Note that a region is on disk."""
        with named(self.root):
            self.claim.check()
            self._put(f".xsen2/done-{grid}-{region}", b"")

    def finish(self) -> None:
        """Put the group's metadata in place and remove every trace of the writing."""
        import zarr

        self.claim.check()
        self.sweep()
        if not self.complete:
            self._put("zarr.json", self._fs.cat_file(self._at(".xsen2/group.json")))
            with quiet():
                zarr.consolidate_metadata(self.root)
        if self.local:
            flush([self._at("zarr.json")])
        if self._marks:
            # `run` goes last: without it the folder would look like a start, not an end.
            for name in sorted(self._ls(self._at(".xsen2")), key=lambda n: n.endswith("/run")):
                if not name.endswith("/lock"):
                    self._fs.rm(name)
            if self.local:
                self._fs.rmdir(self._at(".xsen2"))

    def array(self, name: str, mode: str = "r+") -> Any:
        """A variable's array in the store."""
        import zarr

        return zarr.open_array(f"{self.root}/{name}", mode=mode)

    def _run(self) -> str | None:
        """The run that a finished or half-written store names."""
        group = self._group()
        if "consolidated_metadata" in group:
            run = group.get("attributes", {}).get(RUN)
        else:
            run = self._fs.cat_file(self._at(".xsen2/run")).decode() if "run" in self._marks else None
        return run or None

    def _group(self) -> dict[str, Any]:
        try:
            found = json.loads(self._fs.cat_file(self._at("zarr.json")))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _names(self) -> set[str]:
        names = {name.rpartition("/")[2] for name in self._ls(self._path)}
        # A lock alone makes that folder too, at a URL, and says nothing about what lies beside it.
        return names if self.local or self._marks else names - {".xsen2"}

    def _check_zarr(self, names: set[str]) -> None:
        if names and not names & _ZARR:
            raise StoreError(f"{self.root} is not a Zarr store, so it is not deleted: write to another path")

    def _sibling(self, what: str) -> str:
        folder, name = os.path.split(os.path.realpath(self._path))
        return os.path.join(folder, f".{name}.xsen2-{what}")

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"

    def _put(self, name: str, content: bytes) -> None:
        self._fs.pipe_file(self._at(name), content)

    def _ls(self, path: str) -> list[str]:
        self._fs.invalidate_cache()
        try:
            return [str(name).rstrip("/") for name in self._fs.ls(path, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []


def digest(said: Any) -> str:
    """Fingerprint of what makes a call what it is: text, numbers, and lists and dicts of them."""
    return hashlib.sha256(json.dumps(said, default=str, sort_keys=True).encode()).hexdigest()[:12]


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
