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
from xsen2.grid import without_place
from xsen2.radiometry import STORED, UNPACKED, Scale, finite

__all__ = ["assemble", "carried", "lazy", "nearest"]


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


def carried(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Attributes of what was measured, or of its dataset, that are true of float pixels on another grid."""
    return {k: v for k, v in without_place(attrs).items() if k not in UNPACKED}


def assemble(
    cube: Cube,
    made: Mapping[str, da.Array],
    errors: Mapping[str, da.Array],
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
    attrs: Mapping[str, str],
    scales: Mapping[str, Scale],
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
    scales : mapping
        Band → what its values mean.

    Returns
    -------
    xarray.Dataset
        With the cube's other variables, and the caller's names of bands and dims.
    """
    lead = () if cube.time is None else ("time",)
    size = round(cube.resolution) if cube.resolution == round(cube.resolution) else cube.resolution
    like = next(a for b, a in cube.bands.items() if grid_of(b) == 10)
    variables: dict[Hashable, xr.DataArray] = {}
    coords = {n: c for n, c in like.coords.items() if n != "spatial_ref" and n in without_place({n: c})}
    for band in (b for b in BANDS if b in made):
        out = xr.DataArray(made[band], coords, (*lead, "y", "x"), attrs=carried(cube.bands[band].attrs))
        scale = scales[band]
        if scale.gain != 1:  # reflectance: said in the way that CF decoding leaves behind too, for whatever comes after
            out.encoding["scale_factor"] = 1 / scale.gain
        units = {"units": scale.units} if scale.told else {}  # else whoever reads it must look at the pixels again
        out.attrs |= units | {"gsd": size, "native_gsd": round(size * grid_of(band) / 10)}
        own_name = cube.names[band]
        variables[own_name] = out
        if band in errors:
            out.attrs["ancillary_variables"] = f"{own_name}_se"
            attrs_se = {"long_name": f"standard error of {own_name}", "gsd": size} | units
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
        data = nearest(extra, gsd).rechunk(target)
        if data.dtype.kind == "f":
            data = da.map_blocks(finite, data, dtype=data.dtype, meta=data._meta)
        variables[name] = xr.DataArray(data, own, dims, attrs=without_place(extra.attrs))
        variables[name].encoding = {k: v for k, v in extra.encoding.items() if k in STORED}
    from xsen2 import __version__  # not importable yet while this module is being imported

    ds = xr.Dataset(variables, attrs={**carried(cube.attrs), **attrs, "xsen2_version": __version__})
    if cube.crs is not None:
        ds = write_crs(ds, cube.crs)
    back = {"y": cube.dims[0], "x": cube.dims[1]} | ({"time": cube.time} if lead else {})
    return ds.rename({k: v for k, v in back.items() if k != v and k in ds.dims})
