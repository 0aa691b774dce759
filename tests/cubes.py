"""Small cubes for tests: any size, chunks, names and nodata, with values like those of real scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any

import dask
import dask.array
import numpy as np
import xarray as xr
from hypothesis import settings

from xsen2.bands import GRIDS

ORIGIN = (600000.0, 5000040.0)  # west, north: multiples of 60; south of the equator 40 m more
DIMS = {10: ("y", "x"), 20: ("y_20m", "x_20m"), 60: ("y_60m", "x_60m")}


def make_cube(
    rows: int = 4,
    columns: int = 5,
    *,
    dates: int | None = None,
    dtype: Any = np.float32,
    chunks: int | Mapping[int, int] | None = None,
    dims: Mapping[int, tuple[str, str]] = DIMS,
    grids: tuple[int, ...] = (10, 20, 60),
    epsg: int | None = 32631,
    seed: int = 0,
    scale: float = 1.0,
) -> xr.Dataset:
    """A cube of `rows` x `columns` 60 m pixels; `chunks` in pixels, of each grid or of the 10 m one."""
    rng = np.random.default_rng(seed)
    west, north = ORIGIN if epsg is None or not 32700 < epsg <= 32760 else (ORIGIN[0], ORIGIN[1] + 40)
    variables = {}
    for gsd in grids:
        ydim, xdim = dims[gsd]
        shape = (rows * 60 // gsd, columns * 60 // gsd)
        y = north - (np.arange(shape[0]) + 0.5) * gsd
        x = west + (np.arange(shape[1]) + 0.5) * gsd
        for i, band in enumerate(GRIDS[gsd]):
            smooth = 1500 + 900 * np.sin(y[:, None] / 47 + i) * np.cos(x / 61) + 120 * i
            data = (smooth + rng.normal(0, 150, (*([dates] if dates else []), *shape))).clip(1, 16000)
            data = (data * scale).astype(dtype)
            lead = ("time",) if dates else ()
            coords: dict[str, Any] = {ydim: y, xdim: x}
            if dates:
                coords["time"] = np.datetime64("2024-06-01", "ns") + np.arange(dates) * np.timedelta64(5, "D")
            variables[band] = xr.DataArray(data, coords, (*lead, ydim, xdim))
    ds = xr.Dataset(variables)
    if epsg:
        ds = ds.rio.write_crs(epsg)
    if chunks is not None:
        sizes = chunks if isinstance(chunks, Mapping) else {g: max(1, chunks * 10 // g) for g in grids}
        ds = ds.chunk({d: sizes[g] for g in grids for d in dims[g]} | ({"time": 1} if dates else {}))
    return ds


def examples(count: int) -> settings:
    """So many examples for a property; under HYPOTHESIS_PROFILE=search as many times more as of all others."""
    return settings(max_examples=round(count * max(1, settings.default.max_examples / 30)))


@contextmanager
def no_compute() -> Any:
    """Fail if dask computes anything inside."""

    def refuse(dsk: Any, keys: Any, **kwargs: Any) -> Any:
        raise AssertionError("dask computed where nothing should be")

    with dask.config.set(scheduler=refuse):
        yield


def change(ds: xr.Dataset, band: str, edit: Callable[[np.ndarray], None]) -> xr.Dataset:
    """A copy with one band edited in place by `edit`."""
    data = ds[band].values.copy()
    edit(data)
    new = ds[band].copy(data=data)
    chunks = ds[band].chunksizes
    return ds.assign({band: new.chunk(chunks) if chunks else new})
