"""From arrays on nested grids to the cube: dims, coordinates, CRS, attributes."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xsen2.bands import BANDS
from xsen2.cube import DIMS, write_crs
from xsen2.errors import GridError
from xsen2.grid import centres, resized

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["assemble", "side_of"]


def assemble(
    arrays: Mapping[str, Any],
    gsd: Mapping[str, int],
    grid: GeoBox,
    times: Sequence[datetime],
    attrs: Mapping[str, Any],
    variable_attrs: Mapping[str, Mapping[str, Any]] | None = None,
) -> xr.Dataset:
    """Put arrays of shape (time, y, x), one per band or extra, into a cube.

    Parameters
    ----------
    arrays : mapping
        Name → array; each covers `grid` with pixels of its own size, `gsd[name]`.
    gsd : mapping
        Name → native ground sampling distance in metres.
    grid : GeoBox
        The outer edges that all grids share, and their CRS.
    times : sequence of datetime.datetime
        UTC, without time zone.
    attrs : mapping
        Attributes of the dataset.
    variable_attrs : mapping, optional
        Name → attributes of variables that are not bands.

    Returns
    -------
    xarray.Dataset
    """
    from rasterio.crs import CRS

    assert grid.crs is not None
    cube = xr.Dataset(attrs=dict(attrs))
    cube["time"] = ("time", np.array(times, "datetime64[ns]"), {"standard_name": "time"})
    for name, data in arrays.items():
        dims = DIMS[gsd[name]]
        for dim, values in zip(dims, centres(resized(grid, gsd[name])), strict=True):
            if dim not in cube.coords:
                axis = dim[0]
                about = {"standard_name": f"projection_{axis}_coordinate", "units": "metre", "axis": axis.upper()}
                cube[dim] = (dim, values, about)
        extra = (variable_attrs or {}).get(name, {})
        cube[name] = (("time", *dims), data, BANDS[name].attrs if name in BANDS else dict(extra))
    return write_crs(cube, CRS.from_epsg(grid.crs.epsg))


def side_of(chunks: int) -> int:
    """Pixels along y and x of a 10 m chunk: `chunks` rounded up to a multiple of 6, so that all grids can be cut alike.

    Raises
    ------
    GridError
        If `chunks` is not a positive integer.
    """
    try:
        value = operator.index(chunks)
    except TypeError:
        value = 0
    if value < 1:
        raise GridError(f"chunks={chunks!r}: give the pixels of a 10 m chunk, such as 1200, a multiple of 6")
    return -(-value // 6) * 6
