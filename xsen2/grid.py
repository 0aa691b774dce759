"""Geometry of one grid: which dims are rows and columns, spacing, outer edges, CRS.

Everything here reads coordinates and attributes only, never pixels.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr

from xsen2.errors import CRSError, GridError, TimeError

__all__ = ["Axes", "Bounds", "axes_of", "crs_of", "edges", "snap", "spacing", "without_place"]

Bounds = tuple[float, float, float, float]
_PLACED = frozenset(
    (
        *("transform", "resolution", "res", "spec", "bounds", "bbox", "shape", "GeoTransform", "geotransform"),
        *("AREA_OR_POINT", "is_tiled", "grid_mapping", "multiscales", "gsd"),
    )
)
_PLACED_PREFIXES = ("proj:", "raster:", "spatial:", "file:", "STATISTICS_", "TIFFTAG_")
_SLACK = 0.01  # of a pixel: coordinates that went through text or float32 are not exact


@dataclass(frozen=True)
class Axes:
    """Dims of a variable by role."""

    y: Hashable
    x: Hashable
    time: Hashable | None


def _is_time(da: xr.DataArray, dim: Hashable) -> bool:
    return dim in da.coords and (np.issubdtype(da[dim].dtype, np.datetime64) or da[dim].dtype == object)


def axes_of(da: xr.DataArray, label: str) -> Axes:
    """Find rows, columns and time from coordinates, whatever the dims are called.

    Rows and columns are the last two dims that are not dates; or the first two, where only those
    have the same spacing. Which is which is said by CF attributes; else by names, where both are plain ones
    (``y`` or ``lat``, ``x`` or ``lon`` …); else by the coordinates: they are ``(x, y)`` where the first one
    rises and the second one falls. An image that is turned on both axes has that too, so names come first.

    Raises
    ------
    GridError
        If there are not two spatial dims with coordinates.
    TimeError
        If more than one other dim is left.
    """
    rest = [d for d in da.dims if not _is_time(da, d)]
    if len(rest) < 2:
        raise GridError(f"{label} has dims {da.dims}: two spatial dims are needed")
    first, second = rest[-2:]
    if len(rest) > 2 and _step(da, rest[0]) == _step(da, rest[1]) != _step(da, second):
        first, second = rest[:2]  # (y, x, time) with numbers for dates
    for dim in (first, second):
        if dim not in da.coords or not np.issubdtype(da[dim].dtype, np.number):
            raise GridError(
                f"{label} has no numeric coordinate along {dim!r}: assign the pixel centres, in metres, "
                f"with ds.assign_coords({dim}=…)"
            )
    others = [d for d in da.dims if d not in (first, second)]
    if len(others) > 1:
        raise TimeError(f"{label} has dims {da.dims}: at most one dim besides rows and columns can be used")
    if _swapped(da, first, second):
        first, second = second, first
    return Axes(first, second, others[0] if others else None)


def _swapped(da: xr.DataArray, first: Hashable, second: Hashable) -> bool:
    """Whether two spatial dims stand as ``(x, y)``."""
    roles = (_role(da, first), _role(da, second))
    if roles != (None, None):
        return roles[0] == "x" or roles[1] == "y"
    named = (_named(first), _named(second))
    if named in (("y", "x"), ("x", "y")):
        return named == ("x", "y")
    rise, other = _slope(da, first), _slope(da, second)
    return named[0] == "x" if rise * other > 0 else rise > 0 > other


def _named(dim: Hashable) -> str | None:
    name = str(dim).lower()
    if name.startswith(("x", "east", "col", "lon")):
        return "x"
    return "y" if name.startswith(("y", "north", "row", "lat")) else None


def _step(da: xr.DataArray, dim: Hashable) -> float | None:
    if dim not in da.coords or not np.issubdtype(da[dim].dtype, np.number):
        return None
    return round(abs(_slope(da, dim)) / max(1, da.sizes[dim] - 1), 3)


def _role(da: xr.DataArray, dim: Hashable) -> str | None:
    attrs = da[dim].attrs
    name = str(attrs.get("standard_name", ""))
    axis = str(attrs.get("axis", "")).lower()
    if name.startswith("projection_") and name.endswith("_coordinate"):
        return name.split("_")[1]
    return axis if axis in ("x", "y") else None


def _slope(da: xr.DataArray, dim: Hashable) -> float:
    values = da[dim].values
    return float(values[-1] - values[0]) if len(values) > 1 else 0.0


def spacing(da: xr.DataArray, axes: Axes, label: str) -> float | None:
    """Pixel size in coordinate units, or None for a single pixel, which shows none.

    Raises
    ------
    GridError
        If the coordinates are not evenly spaced, or pixels are not square.
    """
    found = []
    for dim in (axes.y, axes.x):
        values = np.asarray(da[dim].values, np.float64)
        if len(values) < 2:
            continue
        step = (values[-1] - values[0]) / (len(values) - 1)
        if step == 0 or np.abs(np.diff(values) - step).max() > _SLACK * abs(step):
            raise GridError(
                f"{label}: coordinate {dim!r} is not evenly spaced (steps from {np.diff(values).min():g} to "
                f"{np.diff(values).max():g}): select a contiguous window, or reindex to the full grid"
            )
        found.append(abs(step))
    if len(found) == 2 and abs(found[0] - found[1]) > _SLACK * found[0]:
        raise GridError(f"{label}: pixels are {found[1]:g} x {found[0]:g}, not square: reload it on its native grid")
    return found[0] if found else None


def edges(da: xr.DataArray, axes: Axes, size: float) -> Bounds:
    """Outer edges (west, south, east, north) of a grid whose coordinates are pixel centres."""
    y, x = (np.asarray(da[d].values, np.float64) for d in (axes.y, axes.x))
    half = size / 2
    return float(x.min() - half), float(y.min() - half), float(x.max() + half), float(y.max() + half)


def without_place(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Attributes without those that are of one grid's pixels, which those of another are not.

    stackstac and rioxarray leave ``transform``, ``resolution``, ``spec`` and others behind, GDAL and STAC statistics
    and shapes. The CRS stays, where there is one: it is the same.

    Examples
    --------
    >>> without_place({"long_name": "blue", "resolution": 20.0, "proj:shape": [5490, 5490], "epsg": 32631})
    {'long_name': 'blue', 'epsg': 32631}
    """
    return {k: v for k, v in attrs.items() if k not in _PLACED and not str(k).startswith(_PLACED_PREFIXES)}


def snap(bounds: Bounds, cell: float = 60) -> Bounds:
    """Move bounds outward to multiples of `cell`, so that grids of 10, 20 and 60 m nest.

    Parameters
    ----------
    bounds : tuple of float
        West, south, east, north in metres.
    cell : float
        60 for cubes with 60 m bands. The origins of Sentinel-2 tiles are multiples of it north of the equator; south
        of it their northings are 40 modulo 60, so give bounds that are relative to the tile's corner.

    Examples
    --------
    >>> snap((600035, 4999970, 603035, 5003000))
    (600000, 4999920, 603060, 5003040)
    """
    west, south, east, north = bounds
    slack = 1e-6  # a bound that is a multiple but for rounding stays where it is
    return (
        math.floor(west / cell + slack) * cell,
        math.floor(south / cell + slack) * cell,
        math.ceil(east / cell - slack) * cell,
        math.ceil(north / cell - slack) * cell,
    )


def crs_of(da: xr.DataArray, *contexts: Mapping[Any, Any]) -> Any | None:
    """CRS of a variable: from its grid mapping, a scalar ``epsg`` coordinate, or attributes.

    Parameters
    ----------
    contexts : mapping
        Further attributes to look in, nearest first: those of the dataset or group.

    Returns
    -------
    rasterio.crs.CRS or None
    """
    from rasterio.crs import CRS

    found = da.rio.crs
    if found is not None:
        return found
    said: list[Any] = [
        da.coords[n].item() for n in ("epsg", "proj:epsg", "proj:code") if n in da.coords and da.coords[n].ndim == 0
    ]
    for attrs in (da.attrs, *contexts):
        said += [attrs[n] for n in ("proj:code", "proj:epsg", "epsg", "crs") if attrs.get(n)]
        nested = attrs.get("other_metadata")
        if isinstance(nested, Mapping) and nested.get("horizontal_CRS_code"):
            said.append(nested["horizontal_CRS_code"])
    for value in said:
        try:
            return CRS.from_user_input(int(value) if str(value).isdigit() else value)
        except Exception as error:
            raise CRSError(f"{da.name}: {value!r} is not a CRS: use ds.rio.write_crs('EPSG:…')") from error
    return None
