"""Take native pixels back out of a dataset that was loaded onto one 10 m grid."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import find, grid_of
from xsen2.checks import check_crs, check_projection
from xsen2.cube import DIMS, write_crs
from xsen2.errors import BandError, GridError, once
from xsen2.grid import (
    Bounds,
    axes_of,
    crs_name,
    crs_of,
    edges,
    is_mapping,
    lattice,
    mapping_names,
    metres,
    off,
    snap,
    spacing,
    without_place,
)
from xsen2.halo import split
from xsen2.radiometry import PACKED

__all__ = ["native"]


def _take(block: npt.NDArray[Any], ratio: int, name: str) -> npt.NDArray[Any]:
    """One pixel of every ``ratio x ratio`` cell, after checking that the cell is constant."""
    if block.size == 0:
        return block[..., ::ratio, ::ratio]
    taken = block[..., ::ratio, ::ratio]
    again = np.repeat(np.repeat(taken, ratio, axis=-2), ratio, axis=-1)
    same = (again == block) | ((again != again) & (block != block))
    if not same.all():
        share = 1 - same.mean()
        raise GridError(
            f"{name}: {share:.1%} of the pixels differ inside {ratio} x {ratio} cells, so it was not loaded with "
            "nearest neighbour on an aligned grid: load the bands at their own resolutions (xsen2.load does)"
        )
    return taken


@once
def native(ds: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Take the native pixels back out of a single-grid 10 m dataset that was loaded with nearest.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        All bands on one 10 m grid, as one ``odc.stac.load`` or ``stackstac.stack`` call gives; a
        DataArray must have a ``band`` dim.

    Returns
    -------
    xarray.Dataset
        A cube: 20 m and 60 m bands on their own grids, in the caller's dtype.

    Raises
    ------
    GridError
        If the grid does not start and end on edges of 20 or 60 m pixels, as `xsen2.grid.lattice` has them; or, when
        the pixels are read, if the cells are not constant. Data in memory is checked at once.

    Warns
    -----
    ResampledWarning
        If the CRS is projected, but not UTM.

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample()
    >>> b05 = cube["B05"].data.repeat(2, axis=-2).repeat(2, axis=-1)
    >>> flat = cube[["B03"]].assign(B05=(("time", "y", "x"), b05))
    >>> xsen2.native(flat)["B05"].sizes["y_20m"] == cube.sizes["y_20m"]
    True
    """
    if not isinstance(ds, xr.Dataset | xr.DataArray):
        raise BandError(f"native() takes a Dataset or a DataArray with a 'band' dim, not a {type(ds).__name__}")
    if isinstance(ds, xr.DataArray):
        if "band" not in ds.dims:
            raise BandError(f"a DataArray needs a 'band' dim, this one has {ds.dims}: pass a Dataset of bands")
        # Per-band strings and numbers of stackstac would become variables of no use.
        ds = ds.drop_vars([n for n, c in ds.coords.items() if "band" in c.dims and n != "band"]).to_dataset(dim="band")
    bands: dict[str, xr.DataArray] = {}
    extras: dict[Hashable, xr.DataArray] = {}
    mappings = mapping_names(ds)
    for name, variable in ds.data_vars.items():
        if name in mappings:
            continue
        band = find(name)
        if band is None:
            extras[name] = variable
        else:
            if band in bands:
                raise BandError(
                    f"{band} is there more than once ({bands[band].name}, {name}): drop one with ds.drop_vars"
                )
            bands[band] = variable.rename(name)
    if not bands:
        raise BandError(f"no Sentinel-2 bands among {list(ds.data_vars)}")
    crs = check_crs({str(v.name): crs_of(v, ds) for v in bands.values()})
    check_projection(crs)
    out: dict[Hashable, xr.DataArray] = {}
    for band, variable in bands.items():
        out[variable.name] = _native_band(band, variable, crs)
    first = next(iter(bands.values()))
    axes = axes_of(first, str(first.name))
    to = {axes.y: "y", axes.x: "x"}  # the 10 m dims of the result; extra variables lie on that grid
    extras = {n: v.rename({d: to[d] for d in v.dims if to.get(d, d) != d}) for n, v in extras.items()}
    cube = xr.Dataset({**out, **extras}, attrs=ds.attrs)
    cube = cube.drop_vars(
        [n for n, c in cube.coords.items() if n not in cube.dims and (c.dtype == object or is_mapping(c))]
    )
    return cube if crs is None else write_crs(cube, crs)


def _native_band(band: str, variable: xr.DataArray, crs: Any) -> xr.DataArray:
    label = str(variable.name)
    axes = axes_of(variable, label)
    size = spacing(variable, axes, label)
    if size is None or abs(size - 10) > 0.1:
        is_on = "a single pixel" if size is None else f"on a grid of {metres(size)} m"
        raise GridError(f"{label} is {is_on}: native() takes bands that were loaded at 10 m")
    gsd = grid_of(band)
    _check_cells(label, gsd, edges(variable, axes, 10.0), crs)
    ratio = gsd // 10
    variable = variable.transpose(*([] if axes.time is None else [axes.time]), axes.y, axes.x)
    if ratio == 1:
        return variable.rename({axes.y: "y", axes.x: "x"} if (axes.y, axes.x) != ("y", "x") else {})
    data = variable.data
    if isinstance(data, da.Array):
        side = tuple(split(c, ratio) for c in data.chunks[-2:])
        data = data.rechunk({data.ndim - 2: side[0], data.ndim - 1: side[1]})
        chunks = (*data.chunks[:-2], *(tuple(n // ratio for n in c) for c in data.chunks[-2:]))
        taken: Any = da.map_blocks(_take, data, ratio, label, chunks=chunks, dtype=data.dtype, meta=data._meta)
    else:
        taken = _take(np.asarray(data), ratio, label)
    ydim, xdim = DIMS[gsd]
    coords = {ydim: _middle(variable, axes.y, ratio), xdim: _middle(variable, axes.x, ratio)}
    if axes.time is not None and axes.time in variable.coords:
        coords[str(axes.time)] = variable[axes.time].values
    dims = (*([] if axes.time is None else [axes.time]), ydim, xdim)
    out = xr.DataArray(taken, coords, dims, attrs=without_place(variable.attrs), name=variable.name)
    out.encoding = {k: v for k, v in variable.encoding.items() if k in PACKED}  # by it decoded reflectance is told
    return out


def _check_cells(label: str, gsd: int, box: Bounds, crs: Any) -> None:
    """Refuse a grid that does not start and end on edges of the pixels that it repeats.

    Where no lattice is known, without a CRS or in one that is not UTM, the pixels alone can tell: cells that begin
    elsewhere than the grid are not constant.
    """
    known = lattice(crs)
    origin = (box[0], box[3]) if known is None else known
    # Both ends, each axis by itself.
    wrong = [off(edge, gsd, origin) for edge in (box, (box[2], 0, 0, box[1]))]
    if max(abs(by) for pair in wrong for by in pair) <= 0.01:
        return
    halves = [off(edge, 10, origin) for edge in (box, (box[2], 0, 0, box[1]))]
    hint = ""
    if all(abs(abs(by) - 5) < 0.01 for pair in halves for by in pair):
        hint = "its coordinates may be pixel corners (stackstac: use xy_coords='center'). "
    inside = snap(box, 60, origin, inward=True)
    cut = ""
    if not hint and inside[0] < inside[2] and inside[1] < inside[3] and all(by % 10 == 0 for by in halves[0]):
        west, south, east, north = (metres(edge) for edge in inside)
        cut = f", or cut it: x from {west} to {east}, y from {south} to {north} is whole pixels of 60 m"
    where = (
        f"not whole pixels of {gsd} m"
        if known is None
        else f"not on multiples of {gsd} m from ({metres(origin[0] % gsd, origin[1] % gsd)}), where pixels of "
        f"Sentinel-2 are in {crs_name(crs)}"
    )
    raise GridError(
        f"{label}: the grid's outer edges ({metres(*box)}) are {where}. {hint}Its cells cannot be told apart: load the "
        f"bounds ({metres(*snap(box, 60, origin))}){cut}"
    )


def _middle(variable: xr.DataArray, dim: Hashable, ratio: int) -> npt.NDArray[Any]:
    centres: npt.NDArray[Any] = np.asarray(variable[dim].values, np.float64).reshape(-1, ratio).mean(axis=1)
    return centres
