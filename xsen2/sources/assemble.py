"""From arrays on nested grids to the cube: dims, coordinates, CRS, attributes."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import xarray as xr

from xsen2.area import Box
from xsen2.bands import BANDS
from xsen2.cube import DIMS, write_crs
from xsen2.errors import GridError

__all__ = ["assemble", "side_of"]


def assemble(
    arrays: Mapping[str, Any],
    gsd: Mapping[str, int],
    box: Box,
    epsg: int,
    times: Sequence[datetime],
    attrs: Mapping[str, Any],
    variable_attrs: Mapping[str, Mapping[str, Any]] | None = None,
) -> xr.Dataset:
    """Put arrays of shape (time, y, x), one per band or extra, into a cube.

    Parameters
    ----------
    arrays : mapping
        Name → array; each covers `box` at the resolution `gsd[name]`.
    gsd : mapping
        Name → native ground sampling distance in metres.
    box : tuple of int
        Outer edges shared by all grids: left, bottom, right, top in metres.
    epsg : int
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

    left, _, _, top = box
    cube = xr.Dataset(attrs=dict(attrs))
    cube["time"] = ("time", np.array(times, "datetime64[ns]"), {"standard_name": "time"})
    for name, data in arrays.items():
        step = gsd[name]
        dims = DIMS[step]
        for dim, size, first, sign in zip(dims, data.shape[1:], (top, left), (-1, 1), strict=True):
            if dim not in cube.coords:
                axis = dim[0]
                cube[dim] = (
                    dim,
                    first + sign * step * (np.arange(size) + 0.5),
                    {
                        "standard_name": f"projection_{axis}_coordinate",
                        "units": "metre",
                        "axis": axis.upper(),
                    },
                )
        extra = (variable_attrs or {}).get(name, {})
        cube[name] = (("time", *dims), data, BANDS[name].attrs if name in BANDS else dict(extra))
    return write_crs(cube, CRS.from_epsg(epsg))


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
