"""Which variables are written together, in which chunks, and in which regions."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise, product

import dask.array as da
import numpy as np
import xarray as xr

from xsen2.sinks.pack import Packing, Values, values_of

__all__ = ["Grid", "Stored", "plan"]

CHUNK = 1200
"""Longest side of a chunk on disk, in pixels, unless the caller chooses."""

REGION = 64 * 1024 * 1024
"""Pixels per band after which a region is closed. Less is lost by a kill if it is small, but what borders on two
regions is read twice: half of a full tile is a fair price."""

Region = tuple[slice, ...]


@dataclass(frozen=True)
class Stored:
    """How a variable lies in a store that is added to: the name of its dtype, and the shape of a chunk."""

    dtype: str
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """Variables of the same dims: one block of a method gives them all, so they are written together.

    Attributes
    ----------
    dims : tuple
        Of every variable here; rows and columns come last.
    arrays : dict
        Name → pixels.
    packings : dict
        Name → how its floats become integers; those that stay as they are are not in it.
    units : dict
        Name → the unit of bands that are floats, as an attribute.
    chunks : tuple of int
        Shape of a chunk on disk.
    regions : tuple
        Every pixel is in one region, every chunk too.
    """

    dims: tuple[Hashable, ...]
    arrays: dict[str, da.Array]
    packings: dict[str, Packing]
    units: dict[str, str]
    chunks: tuple[int, ...]
    regions: tuple[Region, ...]

    def blocks(self, region: Region) -> int:
        """How many chunks one variable has in a region."""
        return int(np.prod([-(-(s.stop - s.start) // c) for s, c in zip(region, self.chunks, strict=True)]))


def plan(ds: xr.Dataset, dtype: str, chunks: int | None, like: Mapping[str, Stored] | None = None) -> list[Grid]:
    """Gather the pixels of a dataset by grid, and choose chunks and regions.

    Parameters
    ----------
    ds : xarray.Dataset
    dtype : str
        What float bands become on disk.
    chunks : int or None
        Side of a chunk of the finest grid, or None to follow the Dask chunks.
    like : mapping, optional
        Name → how it lies in the store that is added to, which decides both for it.
    """
    like = like or {}
    gathered: dict[tuple[tuple[Hashable, ...], tuple[int, ...] | None], dict[str, da.Array]] = {}
    planes = [str(n) for n, v in ds.data_vars.items() if v.ndim >= 2 and v.dtype.kind in "buif" and v.size]
    kinds = {name: like[name].dtype if name in like else dtype for name in planes}
    values: dict[str, Values] = {}
    for kind in dict.fromkeys(kinds.values()):
        some = [name for name in planes if kinds[name] == kind]
        values |= values_of(ds, some, kind, errors="float32", repack=False)
    for name in planes:
        meaning, variable = values[name], ds[name]
        data = (variable.chunk() if variable.chunks is None else variable).data
        if meaning.scale is not None or variable.dtype.kind == "f":
            of = np.dtype(np.float32) if meaning.scale is not None and data.dtype.kind == "f" else data.dtype
            data = da.map_blocks(meaning, data, dtype=of, meta=np.empty((0,) * data.ndim, of))
        gathered.setdefault((variable.dims, like[name].chunks if name in like else None), {})[name] = data
    finest = max((next(iter(arrays.values())).shape[-1] for arrays in gathered.values()), default=1)
    grids = []
    for (dims, given), arrays in gathered.items():
        first = next(iter(arrays.values()))
        most = CHUNK if chunks is None else max(1, round(chunks * first.shape[-1] / finest))
        sides = [min(most, sum(b)) if chunks else _side(b) for b in first.chunks[-2:]]
        disk = given or (*(1 for _ in first.shape[:-2]), *sides)
        packed = {n: p for n in arrays if (p := values[n].packing) is not None}
        units = {n: s.units for n in arrays if (s := values[n].scale) is not None and ds[n].dtype.kind == "f"}
        grids.append(Grid(dims, arrays, packed, units, disk, tuple(_regions(first.chunks, disk))))
    return grids


def _side(blocks: tuple[int, ...]) -> int:
    """Side of a chunk on disk: the largest divisor of even Dask chunks, else `CHUNK`."""
    even = len(blocks) > 1 and set(blocks[:-1]) == {blocks[0]} and blocks[-1] <= blocks[0]
    if even:
        divisor = max(d for d in range(1, min(blocks[0], CHUNK) + 1) if blocks[0] % d == 0)
        if 4 * divisor >= min(blocks[0], CHUNK):  # many small files cost more than rechunking
            return divisor
    return min(CHUNK, sum(blocks))


def _regions(blocks: tuple[tuple[int, ...], ...], disk: tuple[int, ...]) -> Iterator[Region]:
    """Cut where Dask's blocks and chunks on disk both end, so that no block is computed for two regions."""
    *lead, rows, columns = (list(accumulate(b, initial=0)) for b in blocks)
    rows = [r for r in rows if r % disk[-2] == 0 or r == rows[-1]]
    dates = lead[0] if lead else [0, 1]
    middle = [slice(0, borders[-1]) for borders in lead[1:]]
    row = columns[-1] * int(np.prod([m.stop for m in middle], dtype=int))
    date = row * rows[-1]
    if dates[1] * date < REGION:
        rows, dates = [0, rows[-1]], _merge(dates, date)
    else:
        rows = _merge(rows, row * dates[1])
    for (start, stop), (top, bottom) in product(pairwise(dates), pairwise(rows)):
        first = [slice(start, stop)] if lead else []
        yield (*first, *middle, slice(top, bottom), slice(0, columns[-1]))


def _merge(borders: list[int], weight: int) -> list[int]:
    """Leave out borders until each span weighs at least `REGION`."""
    kept = [borders[0]]
    for border in borders[1:-1]:
        if (border - kept[-1]) * weight >= REGION:
            kept.append(border)
    return [*kept, borders[-1]]
