"""What comes out: bands and other variables on the 10 m grid, under the caller's names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, grid_of
from xsen2.cube import CHUNK, Cube, write_crs
from xsen2.grid import NODATA_ATTRS

__all__ = ["assemble", "lazy", "nearest"]


def lazy(data: Any) -> da.Array:
    """The data of a variable as a dask array; arrays in memory are cut into chunks."""
    if isinstance(data, da.Array):
        return data
    chunks = (*(1,) * (data.ndim - 2), CHUNK, CHUNK)
    out: da.Array = da.from_array(np.asarray(data), chunks=chunks)
    return out


def nearest(array: xr.DataArray, gsd: int) -> da.Array:
    """A variable of the grid of `gsd` on the 10 m grid, lazily."""
    data, ratio = lazy(array.data), gsd // 10
    if ratio > 1:
        wide = (*data.chunks[:-2], *(tuple(n * ratio for n in c) for c in data.chunks[-2:]))
        data = da.map_blocks(_repeat, data, ratio, chunks=wide, dtype=data.dtype, meta=data._meta)
    return data


def _repeat(x: npt.NDArray[Any], ratio: int) -> npt.NDArray[Any]:
    return np.repeat(np.repeat(x, ratio, axis=-2), ratio, axis=-1)


def assemble(
    cube: Cube,
    made: Mapping[str, da.Array],
    errors: Mapping[str, da.Array],
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
    attrs: Mapping[str, str],
    gain: float,
) -> xr.Dataset:
    """Put together what was made.

    Parameters
    ----------
    cube : Cube
    made, errors : mapping
        Band → ``([time,] y, x)`` pixels, and their standard errors.
    chunks : tuple
        Rows and columns of the blocks.
    attrs : mapping
        Attributes that are added to the cube's.
    gain : float
        DN per unit of the pixels.

    Returns
    -------
    xarray.Dataset
        With the cube's other variables, and the caller's names of bands and dims.
    """
    lead = () if cube.time is None else ("time",)
    size = round(cube.resolution) if cube.resolution == round(cube.resolution) else cube.resolution
    like = next(a for b, a in cube.bands.items() if grid_of(b) == 10)
    variables: dict[Hashable, xr.DataArray] = {}
    coords = {n: c for n, c in like.coords.items() if n != "spatial_ref"}
    for band in (b for b in BANDS if b in made):
        out = xr.DataArray(made[band], coords, (*lead, "y", "x"), attrs=dict(cube.bands[band].attrs))
        for stale in (*NODATA_ATTRS, "grid_mapping", "scale_factor", "add_offset"):
            out.attrs.pop(stale, None)
        if gain != 1:  # reflectance: said in the way that CF decoding leaves behind, for whatever comes after
            out.attrs["units"], out.encoding["scale_factor"] = "1", 1 / gain
        out.attrs |= {"gsd": size, "native_gsd": round(size * grid_of(band) / 10)}
        own_name = cube.names[band]
        variables[own_name] = out
        if band in errors:
            out.attrs["ancillary_variables"] = f"{own_name}_se"
            attrs_se = {"long_name": f"standard error of {own_name}", "gsd": size}
            attrs_se |= {k: out.attrs[k] for k in ("units",) if k in out.attrs}
            variables[f"{own_name}_se"] = xr.DataArray(errors[band], coords, (*lead, "y", "x"), attrs=attrs_se)
            variables[f"{own_name}_se"].encoding = dict(out.encoding)
    dates = next(iter(made.values())).chunks[:-2]
    for name, (gsd, extra) in cube.extras.items():
        if gsd is None:
            variables[name] = extra
            continue
        dims = (*(("time",) if "time" in extra.dims else ()), "y", "x")
        own = {n: c for n, c in coords.items() if set(c.dims) <= set(dims)}
        target = (*(dates if "time" in extra.dims else ()), *chunks)
        variables[name] = xr.DataArray(nearest(extra, gsd).rechunk(target), own, dims, attrs=extra.attrs)
        kept = ("dtype", "_FillValue", "scale_factor", "add_offset")
        variables[name].encoding = {k: v for k, v in extra.encoding.items() if k in kept}
    from xsen2 import __version__  # not importable yet while this module is being imported

    ds = xr.Dataset(variables, attrs={**cube.attrs, **attrs, "xsen2_version": __version__})
    if cube.crs is not None:
        ds = write_crs(ds, cube.crs)
    back = {"y": cube.dims[0], "x": cube.dims[1]} | ({"time": cube.time} if lead else {})
    return ds.rename({k: v for k, v in back.items() if k != v and k in ds.dims})
