"""From lazy pixels to chunks on disk, and from chunks on disk to whether they are this run's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import compute

from xsen2.disk import flush, named
from xsen2.errors import StoreError
from xsen2.sinks.lock import Claim
from xsen2.sinks.pack import pack
from xsen2.sinks.regions import Grid, Region
from xsen2.sinks.run import run_pieces

__all__ = ["Place", "checks", "probe", "put", "write_regions"]


class Place(Protocol):
    """Where regions are written, and which of them have been: a whole store, or dates that are added to one.

    Attributes
    ----------
    root : str
    local : bool
    first : int
        Where along its first axis a variable is written from.
    claim : Claim
    ready : bool
        Whether there can be regions.
    """

    root: str
    local: bool
    first: int

    @property
    def claim(self) -> Claim: ...
    @property
    def ready(self) -> bool: ...
    def array(self, name: str, mode: str = "r+") -> Any:
        """An array of the store, which has room for what is written."""

    def done(self, grid: int, region: int) -> bool:
        """Whether a region is on disk."""

    def mark(self, grid: int, region: int) -> None:
        """Note that a region is on disk."""


@dataclass(frozen=True)
class _Target:
    """A variable in the store, which is written to by the run that holds the lock, and by no task that is late."""

    array: Any
    folder: str
    claim: Claim
    local: bool
    first: int = 0

    def __setitem__(self, index: Region, block: npt.NDArray[Any]) -> None:
        index = _shifted(index, self.first)
        with named(self.claim.target):
            self.claim.check()
            self.array[index] = block
            if self.local:  # the region's marker must not outlive its chunks in a power cut
                flush(self._files(index))

    def _files(self, index: Region) -> Iterator[str]:
        """Files of the chunks in a window."""
        encode = self.array.metadata.chunk_key_encoding.encode_chunk_key
        spans = (range(s.start // c, -(-s.stop // c)) for s, c in zip(index, self.array.chunks, strict=True))
        for chunk in product(*spans):
            yield f"{self.folder}/{encode(chunk)}"


@dataclass(frozen=True)
class _Check:
    """A variable in the store, with which blocks are compared instead of being written."""

    array: Any
    name: str
    target: str
    where: tuple[int, ...] | None
    dates: tuple[str, ...]

    def __setitem__(self, index: Region, block: npt.NDArray[Any]) -> None:
        if self.where is None:
            pairs = [(block, self.array[index], "")]
        else:
            days = range(index[0].start, index[0].stop)
            pairs = [
                (block[i], self.array[(self.where[day], *index[1:])], f" on {self.dates[day]}")
                for i, day in enumerate(days)
            ]
        for new, old, when in pairs:
            if not np.array_equal(new, old, equal_nan=new.dtype.kind == "f"):
                remedy = "with ds.drop_sel of that date" if when else f"with ds.drop_vars({self.name!r})"
                raise StoreError(
                    f"{self.target} holds {self.name}{when} already, with other pixels: leave it out {remedy}, or "
                    "write all anew, here with overwrite=True or to another path"
                )


def checks(grids: list[Grid], place: Place, dim: str, where: Sequence[int], dates: Sequence[str]) -> Iterator[Any]:
    """One lazy comparison per region with what the store holds.

    Parameters
    ----------
    grids : list of Grid
    place : Place
    dim : str
        Along which dates lie.
    where : sequence of int
        Position in the store of each date.
    dates : sequence of str
        Names of the dates, for messages.
    """
    for grid in grids:
        dated = dim in grid.dims
        at = (tuple(where), tuple(dates)) if dated else (None, ())
        targets: list[Any] = [_Check(place.array(name, mode="r"), name, place.root, *at) for name in grid.arrays]
        for region in grid.regions:
            sources = [_stored(grid, name, region) for name in grid.arrays]
            yield da.store(sources, targets, regions=[region] * len(sources), lock=False, compute=False)


def put(place: Place, values: Mapping[str, npt.NDArray[Any]], first: int) -> None:
    """Write what has one value per date, from `first` on, with all that lies in the same chunks."""
    for name, new in values.items():
        array = place.array(name)
        begin = first - first % array.chunks[0]
        old = array[begin:first]
        target = _Target(array, f"{place.root}/{name}", place.claim, place.local)
        both = np.concatenate([old, new]) if len(old) else new
        target[(slice(begin, begin + len(both)), *(slice(0, n) for n in array.shape[1:]))] = both


def _shifted(index: Region, first: int) -> Region:
    return (slice(index[0].start + first, index[0].stop + first), *index[1:]) if first else index


def write_regions(grids: list[Grid], state: Place, progress: bool) -> None:
    """Compute and write the regions that are not on disk yet, and note each as soon as it is."""
    todo = [(g, r) for g, grid in enumerate(grids) for r in range(len(grid.regions)) if not state.done(g, r)]
    run_pieces(
        _writes(grids, state, todo),
        [grids[g].blocks(grids[g].regions[r]) * len(grids[g].arrays) for g, r in todo],
        lambda i: state.mark(*todo[i]),
        progress=progress,
    )


def _writes(grids: list[Grid], state: Place, todo: list[tuple[int, int]]) -> Iterator[Any]:
    """One lazy write per region."""
    targets = [
        {
            name: _Target(state.array(name), f"{state.root}/{name}", state.claim, state.local, state.first)
            for name in grid.arrays
        }
        for grid in grids
    ]
    for g, r in todo:
        grid, region = grids[g], grids[g].regions[r]
        sources = [_stored(grid, name, region) for name in grid.arrays]
        stores: list[Any] = list(targets[g].values())
        yield da.store(sources, stores, regions=[region] * len(sources), lock=False, compute=False)


def _stored(grid: Grid, name: str, region: Region) -> da.Array:
    """A region of a variable as it goes to disk: whole chunks, packed."""
    array = grid.arrays[name][region]
    packing = grid.packings.get(name)
    whole = tuple(
        b if all(n % c == 0 for n in b[:-1]) else c * max(1, round(max(b) / c))
        for b, c in zip(array.chunks, grid.chunks, strict=True)
    )
    out: da.Array = array.rechunk(whole)
    if packing is not None:
        meta = np.empty((0,) * array.ndim, packing.dtype)
        out = da.map_blocks(pack, out, packing, dtype=packing.dtype, meta=meta)
    elif out.dtype.kind == "b":
        out = out.astype(np.int8)  # as xarray stores booleans
    return out


def probe(state: Place, grids: list[Grid]) -> None:
    """Compute one chunk of each region that was written before, and see that this run would write the same."""
    for g, grid in enumerate(grids):
        olds = {name: state.array(name, mode="r") for name in grid.arrays} if state.ready else {}
        for region in (region for r, region in enumerate(grid.regions) if state.done(g, r)):
            first = next(iter(olds.values()))
            windows = _windows(region, grid.chunks)
            window = next(
                (w for w in windows if not np.all(_is_fill(first[_shifted(w, state.first)], first))),
                next(_windows(region, grid.chunks)),
            )
            news = compute(*(_stored(grid, name, window) for name in olds))
            for (name, old), new in zip(olds.items(), news, strict=True):
                if not np.array_equal(new, old[_shifted(window, state.first)], equal_nan=new.dtype.kind == "f"):
                    raise StoreError(
                        f"{state.root} belongs to another run: its {name} has other pixels. Write to "
                        "another path, or replace it with overwrite=True"
                    )


def _windows(region: Region, chunks: tuple[int, ...]) -> Iterator[Region]:
    counts = [-(-(s.stop - s.start) // c) for s, c in zip(region, chunks, strict=True)]
    for index in np.ndindex(*counts):
        yield tuple(
            slice(s.start + i * c, min(s.stop, s.start + (i + 1) * c))
            for i, s, c in zip(index, region, chunks, strict=True)
        )


def _is_fill(block: Any, array: Any) -> Any:
    return np.isnan(block) if block.dtype.kind == "f" else block == array.fill_value
