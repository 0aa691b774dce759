"""From lazy pixels to chunks on disk, and from chunks on disk to whether they are this run's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import compute

from xsen2.disk import flush, named
from xsen2.errors import StoreError
from xsen2.sinks.lock import Claim
from xsen2.sinks.pack import pack
from xsen2.sinks.regions import Grid, Region
from xsen2.sinks.state import State

__all__ = ["probe", "writes"]


@dataclass(frozen=True)
class _Target:
    """A variable in the store, which is written to by the run that holds the lock, and by no task that is late."""

    array: Any
    folder: str
    claim: Claim
    local: bool

    def __setitem__(self, index: Region, block: npt.NDArray[Any]) -> None:
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


def writes(grids: list[Grid], state: State, todo: list[tuple[int, int]]) -> Iterator[Any]:
    """One lazy write per region."""
    targets = [
        {name: _Target(state.array(name), f"{state.root}/{name}", state.claim, state.local) for name in grid.arrays}
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


def probe(state: State, grids: list[Grid]) -> None:
    """Compute one chunk of each region that was written before, and see that this run would write the same."""
    for g, grid in enumerate(grids):
        olds = {name: state.array(name, mode="r") for name in grid.arrays} if state.ready else {}
        for region in (region for r, region in enumerate(grid.regions) if state.done(g, r)):
            first = next(iter(olds.values()))
            windows = _windows(region, grid.chunks)
            window = next(
                (w for w in windows if not np.all(_is_fill(first[w], first))), next(_windows(region, grid.chunks))
            )
            news = compute(*(_stored(grid, name, window) for name in olds))
            for (name, old), new in zip(olds.items(), news, strict=True):
                if not np.array_equal(new, old[window], equal_nan=new.dtype.kind == "f"):
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
