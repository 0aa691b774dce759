"""Coarser levels of what a store holds, each made of the one before it when that is on disk, block by block.

A level is a group of its own, with its coordinates and CRS, so that whatever opens the store opens a level as well. The
levels of a store lie side by side in the group ``overviews``, which lists them as the ``multiscales`` convention has it
(https://github.com/zarr-conventions/multiscales). They do not lie beside the bands themselves: dims of one name but
of two lengths in a group and the groups below it are what no `xarray.DataTree` may have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import tokenize

from xsen2.arguments import whole
from xsen2.bands import find
from xsen2.errors import StoreError
from xsen2.grid import affine_of
from xsen2.progress import ProgressLike
from xsen2.sinks.geozarr import PROJ, SPATIAL, listed
from xsen2.sinks.regions import Grid, Place, georeferenced, regions_of, skeleton, write_regions
from xsen2.sinks.resume import quiet
from xsen2.sources.zarr import OVERVIEWS

__all__ = ["HOME", "Level", "averaged", "declare", "factors_in", "factors_of", "levels_of", "write_levels"]

HOME = OVERVIEWS
LEAST = 256
"""Levels are halved until no side of the finest grid is longer than a tile of a map."""


def factors_of(overviews: bool | Sequence[int], grids: Iterable[Grid]) -> tuple[int, ...]:
    """By how much each level is coarser than the bands, from what a caller wants.

    Raises
    ------
    StoreError
        These are no factors, or not multiples of each other in rising order.
    """
    if isinstance(overviews, bool | np.bool_):
        side = max((max(grid.regions[-1][-2].stop, grid.regions[-1][-1].stop) for grid in grids), default=0)
        out = [2] if overviews and side > 1 else []
        while out and side / out[-1] > LEAST:
            out.append(2 * out[-1])
        return tuple(out)
    try:
        wanted = list(overviews)
    except TypeError:
        wanted = [overviews]  # type: ignore[list-item]
    hint = "is no factor: use True, or factors in rising order such as (2, 4, 8)"
    factors = [whole(factor, "overviews", StoreError, least=2, hint=hint) for factor in wanted]
    if any(after <= before or after % before for before, after in pairwise(factors)):
        raise StoreError(
            f"overviews={factors}: each level is made of the one before, so give rising multiples: (2, 4, 8)"
        )
    return tuple(factors)


def factors_in(arrays: Iterable[str]) -> tuple[int, ...]:
    """The factors of the levels that a store has, from the names of its arrays.

    Examples
    --------
    >>> factors_in(["B02", "overviews/4/B02", "overviews/2/B02", "overviews/2/x"])
    (2, 4)
    """
    parts = (name.split("/") for name in arrays)
    names = {part[1] for part in parts if len(part) > 2 and part[0] == HOME and part[1].isdecimal()}
    return tuple(sorted(map(int, names)))


@dataclass(frozen=True)
class Level:
    """A coarser group.

    Attributes
    ----------
    factor : int
        Pixels of the bands along one side of a pixel here.
    step : int
        The same for those of the level before, or of the bands where there is none.
    path : str
        Of the group in the store.
    before : str
        Of the group that it is made of; empty for the root.
    ds : xarray.Dataset
        Its coordinates, and lazy zeros in the place of pixels.
    grids : list of Grid
        The same variables, by name.
    """

    factor: int
    step: int
    path: str
    before: str
    ds: xr.Dataset
    grids: list[Grid]

    def targets(self, place: Place) -> list[Grid]:
        """Grids with the pixels that this level is to have, read from the one before once they are computed."""
        return [self._read(grid, place) for grid in self.grids]

    def _read(self, grid: Grid, place: Place) -> Grid:
        arrays = {}
        for name, empty in grid.arrays.items():
            source = place.array(f"{self.before}/{name}" if self.before else name, mode="r")
            mean = averaged(self.ds[name], grid)
            read = partial(_coarser, source=source, step=self.step, first=place.first, mean=mean)
            label = f"overview-{tokenize(place.root, self.path, name, self.factor, empty.chunks)}"
            meta = np.empty((0,) * empty.ndim, source.dtype)
            arrays[f"{self.path}/{name}"] = da.map_blocks(
                read, chunks=empty.chunks, dtype=source.dtype, meta=meta, name=label
            )
        return replace(grid, arrays=arrays, packings={}, units={})


def averaged(variable: xr.DataArray, grid: Grid) -> bool:
    """Whether coarser pixels are means: not of classes and flags, of which there is none."""
    packing = grid.packings.get(str(variable.name))
    kind = variable.dtype.kind
    return bool(find(variable.name)) or (kind == "f" and not (packing and packing.classes))


def levels_of(ds: xr.Dataset, grids: Sequence[Grid], factors: Sequence[int], base: str = "") -> list[Level]:
    """What a store of these bands has besides them.

    Parameters
    ----------
    ds : xarray.Dataset
        Georeferenced, with all but the pixels in memory.
    grids : sequence of Grid
        Its pixels, by name.
    factors : sequence of int
    base : str
        Path of the group that holds the bands: levels lie beside it, ``r10m_2x`` beside ``r10m``, where nothing takes
        them for what was measured; those of the root lie in `HOME`, named by their factor.

    Raises
    ------
    StoreError
        A variable has the name that the levels need.
    """
    if factors and not base and HOME in ds.variables:
        raise StoreError(f"a variable is called {HOME!r}, as the group of the overviews is: ds.rename it first")
    out, before, done = [], base, 1
    for factor in factors:
        path = f"{base}_{factor}x" if base else f"{HOME}/{factor}"
        coarse, smaller = _coarse(ds, grids, factor)
        out.append(Level(factor, factor // done, path, before, coarse, smaller))
        before, done = path, factor
    return out


def _coarse(ds: xr.Dataset, grids: Sequence[Grid], factor: int) -> tuple[xr.Dataset, list[Grid]]:
    """The dataset as it is at a level, with zeros for pixels; what lies on no map is left out."""
    planes = [grid for grid in grids if all(_is_axis(ds, dim) for dim in grid.dims[-2:])]
    names = {name for grid in planes for name in grid.arrays}
    dims = {dim for grid in planes for dim in grid.dims[-2:]}
    coords = {n: c for n, c in ds.coords.items() if n not in dims and not dims & set(c.dims)}
    out = xr.Dataset(coords=coords)  # attributes of the whole would not grow with the dates
    for y, x in {grid.dims[-2:] for grid in planes}:
        affine = affine_of(ds[y].values.astype(float), ds[x].values.astype(float))
        for dim, edge, size in ((y, affine.f, affine.e), (x, affine.c, affine.a)):
            centres = edge + size * factor * (np.arange(-(-ds.sizes[dim] // factor)) + 0.5)
            out = out.assign_coords({dim: (dim, centres, ds[dim].attrs)})
    smaller = []
    for grid in planes:
        first = next(iter(grid.arrays.values()))
        shape = (*first.shape[:-2], *(-(-n // factor) for n in first.shape[-2:]))
        disk = tuple(min(chunk, n) for chunk, n in zip(grid.chunks, shape, strict=True))
        arrays = {name: da.zeros(shape, dtype=array.dtype, chunks=disk) for name, array in grid.arrays.items()}
        regions = tuple(regions_of(next(iter(arrays.values())).chunks, disk))
        smaller.append(replace(grid, arrays=arrays, chunks=disk, regions=regions))
        for name, array in arrays.items():
            out[name] = xr.Variable(grid.dims, array, ds[name].attrs, dict(ds[name].encoding))
    return georeferenced(out[[str(n) for n in ds.data_vars if n in names]]), smaller


def _is_axis(ds: xr.Dataset, dim: Any) -> bool:
    return dim in ds.coords and ds[dim].dtype.kind in "fiu" and ds.sizes[dim] > 1


def declare(
    ds: xr.Dataset, levels: Sequence[Level], store: Any, times: Mapping[str, Mapping[str, Any]], consolidate: bool
) -> None:
    """Write all but the pixels of the levels, and the list of them into the group that they lie in.

    With `consolidate`, the group gathers the metadata of its levels too: readers in a browser are given its address,
    not that of the store, and learn from there what stands for nodata.
    """
    import zarr

    if not levels:
        return
    for level in levels:
        skeleton(level.ds, level.grids, store, None, times, level.path)
    home = levels[0].path.rpartition("/")[0]
    layout: list[dict[str, Any]] = []
    finest = levels[0].before
    steps = [(finest, ds, 1), *((level.path, level.ds, level.step) for level in levels)]
    shown = steps if finest else steps[1:]  # the root is no child of the group that lists
    for number, (path, coarse, step) in enumerate(shown):
        entry: dict[str, Any] = {"asset": path.rpartition("/")[2]}
        if number:
            entry |= {
                "derived_from": shown[number - 1][0].rpartition("/")[2],
                "transform": {"scale": [float(step)] * 2, "translation": [0.0, 0.0]},
                "resampling_method": "average",
            }
        layout.append(entry | {k: v for k, v in coarse.attrs.items() if k in _PLACE})
    told = {k: v for k, v in shown[0][1].attrs.items() if k.startswith("proj:") or k in _PLACE}
    conventions = [PROJ, SPATIAL] if "spatial:shape" in told else [PROJ]
    zarr.open_group(store, path=home, mode="a").attrs.update(listed(layout, conventions) | told)
    if consolidate:
        with quiet():
            zarr.consolidate_metadata(store, path=home)


_PLACE = ("spatial:dimensions", "spatial:shape", "spatial:transform", "spatial:bbox", "spatial:registration")


def write_levels(levels: Sequence[Level], place: Place, progress: ProgressLike, before: int) -> None:
    """Compute and write the levels one after the other, as `write_regions` does the bands, which are on disk.

    Parameters
    ----------
    levels : sequence of Level
    place : Place
    progress : bool or callable
    before : int
        How many grids the notes have numbered before.
    """
    for level in levels:
        write_regions(level.targets(place), place, progress, before=before, what="overviews of ")
        before += len(level.grids)


def _coarser(
    block_info: Mapping[Any, Any] | None = None, *, source: Any, step: int, first: int, mean: bool
) -> npt.NDArray[Any]:
    """A block of a level, of the pixels under it as they are stored."""
    assert block_info is not None
    *lead, (top, bottom), (left, right) = block_info[None]["array-location"]
    window = [slice(start, stop) for start, stop in lead]
    if window:
        window[0] = slice(window[0].start + first, window[0].stop + first)
    rows, columns = (slice(a * step, b * step) for a, b in ((top, bottom), (left, right)))
    pixels = np.asarray(source[(*window, rows, columns)])
    return _mean(pixels, step, source.fill_value) if mean else np.ascontiguousarray(pixels[..., ::step, ::step])


def _mean(block: npt.NDArray[Any], step: int, nodata: Any) -> npt.NDArray[Any]:
    """Means of the valid pixels of each square, of which those at the lower and right edge may be cut.

    Examples
    --------
    >>> _mean(np.array([[1, 2, 9], [-5, 6, -5]], np.int16), 2, -5)
    array([[3, 9]], dtype=int16)
    """
    floats = block.dtype.kind == "f"
    shape = (*block.shape[:-2], *(-(-n // step) for n in block.shape[-2:]))
    total, count = np.zeros(shape), np.zeros(shape, np.int32)
    for row, column in np.ndindex(
        step, step
    ):  # no copy of the block, which is as many times larger than what comes out
        part = block[..., row::step, column::step]
        valid = np.isfinite(part) if floats else part != nodata
        corner = (..., slice(part.shape[-2]), slice(part.shape[-1]))
        total[corner] += np.where(valid, part, 0)
        count[corner] += valid
    out = total / np.maximum(count, 1)
    if floats:
        return np.where(count > 0, out, np.nan).astype(block.dtype)
    out = np.rint(out).astype(block.dtype)
    out[(out == nodata) & (count > 0)] += 1  # a mean that happens to equal the nodata value
    out[count == 0] = nodata
    return out
