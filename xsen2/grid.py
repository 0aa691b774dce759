"""Where the pixels of one grid lie: which dims are rows and columns, spacing, edges, lattice, CRS.

Everything here reads coordinates and attributes only, never pixels.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr

from xsen2.errors import CRSError, GridError, TimeError

if TYPE_CHECKING:
    from affine import Affine
    from odc.geo.geobox import GeoBox

__all__ = [
    "CELL",
    "Axes",
    "Bounds",
    "Origin",
    "affine_of",
    "axes_of",
    "centres",
    "crs_name",
    "crs_of",
    "edges",
    "edges_of",
    "filled",
    "geobox",
    "geotransform",
    "is_mapping",
    "lattice",
    "located",
    "mapping_names",
    "metres",
    "off",
    "resized",
    "same_crs",
    "snap",
    "spacing",
    "told_size",
    "touched",
    "without_place",
]

Bounds = tuple[float, float, float, float]
Origin = tuple[float, float]
"""Easting and northing of an edge that 60 m pixels have, the smallest that are not negative."""
_PLACED = frozenset(
    (
        *("transform", "resolution", "res", "spec", "bounds", "bbox", "shape", "GeoTransform", "geotransform"),
        *("AREA_OR_POINT", "is_tiled", "grid_mapping", "multiscales", "zarr_conventions", "gsd"),
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


def metres(*values: float) -> str:
    """Numbers as they can be pasted into code, to the millimetre: 4160040, never 4.16004e+06.

    Examples
    --------
    >>> metres(4160040.0, 19.9996, -0.0)
    '4160040, 20, 0'
    """
    # What rounds to nothing has no sign: -0.0 + 0.0 is 0.0.
    return ", ".join(f"{round(float(value), 3) + 0.0:.3f}".rstrip("0").rstrip(".") for value in values)


def filled(da: xr.DataArray, label: str) -> None:
    """Refuse a variable that has nothing along a dim.

    Raises
    ------
    TimeError
        If it is the time dim.
    GridError
        If it is any other.
    """
    for dim, size in da.sizes.items():
        if size:
            continue
        if dim in da.coords and np.issubdtype(da[dim].dtype, np.datetime64):
            raise TimeError(
                f"{label} has no pixels along {dim!r}: no date is left. Look at what chose the dates, .sel({dim}=…) or "
                "a filter, and widen it"
            )
        role = _named(dim)
        way = {
            "y": f". Rows run from north to south in most data: .sel({dim}=slice(north, south)), the larger one first",
            "x": f". Columns run from west to east in most data: .sel({dim}=slice(west, east)), the smaller one first",
        }.get(role or "", f", or is outside of what there is: look at what cut {dim!r}")
        raise GridError(f"{label} has no pixels along {dim!r}: a slice the wrong way round selects no pixel{way}")


def _is_time(da: xr.DataArray, dim: Hashable) -> bool:
    if dim not in da.coords:
        return False
    kind = da[dim].dtype
    if kind.kind == "O":  # cftime's dates and Python's; text along a spatial dim is no date
        values = da[dim].values
        return bool(len(values)) and (isinstance(values[0], datetime.date) or hasattr(values[0], "calendar"))
    return bool(np.issubdtype(kind, np.datetime64))


def axes_of(da: xr.DataArray, label: str) -> Axes:
    """Find rows, columns and time from coordinates, whatever the dims are called.

    Rows and columns are the last two dims that are not dates; or the first two, where only those
    have the same spacing. CF attributes decide which is which; else names, where both are plain ones
    (``y`` or ``lat``, ``x`` or ``lon`` …); else the coordinates: they are ``(x, y)`` where the first one
    rises and the second one falls. An image that is turned on both axes has that too, so names come first.

    Raises
    ------
    GridError
        If there are not two spatial dims with coordinates that are numbers, or a dim is empty.
    TimeError
        If more than one other dim is left, or there are no dates.
    """
    filled(da, label)
    rest = [d for d in da.dims if not _is_time(da, d)]
    if len(rest) < 2:
        raise GridError(f"{label} has dims {da.dims}: two spatial dims are needed")
    first, second = rest[-2:]
    if len(rest) > 2 and _step(da, rest[0]) == _step(da, rest[1]) != _step(da, second):
        first, second = rest[:2]  # (y, x, time) with numbers for dates
    for dim in (first, second):
        if dim not in da.coords or not np.issubdtype(da[dim].dtype, np.number):
            hint = "" if dim not in da.coords else f": its values are {da[dim].values[0]!r} …"
            raise GridError(
                f"{label} has no numeric coordinate along {dim!r}{hint}. Assign the pixel centres, in metres, "
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
    sizes = []
    for dim in (axes.y, axes.x):
        values = np.asarray(da[dim].values, np.float64)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise GridError(
                f"{label}: coordinate {dim!r} has {len(wrong)} of {len(values)} values that are not finite numbers, "
                f"the first at position {wrong[0]}: assign the pixel centres, in metres, with ds.assign_coords({dim}=…)"
            )
        if len(values) < 2:
            continue
        step = (values[-1] - values[0]) / (len(values) - 1)
        steps = np.diff(values)
        if step == 0 or np.abs(steps - step).max() > _SLACK * abs(step):
            raise GridError(f"{label}: coordinate {dim!r} is not evenly spaced, {_uneven(dim, steps)}")
        sizes.append(abs(step))
    if len(sizes) == 2 and abs(sizes[0] - sizes[1]) > _SLACK * sizes[0]:
        raise GridError(
            f"{label}: pixels are {sizes[1]:.10g} x {sizes[0]:.10g}, not square: reload it on its native grid"
        )
    return sizes[0] if sizes else None


def _uneven(dim: Hashable, steps: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """What is wrong with the steps of a coordinate, and what mends it."""
    if (steps == 0).any():
        return (
            f"{int((steps == 0).sum())} of its values stand there twice: keep one of each with "
            f"ds.drop_duplicates({dim!r})"
        )
    if (steps > 0).any() and (steps < 0).any():
        return f"it rises and falls: put it in order with ds.sortby({dim!r})"
    low, high = sorted((abs(steps[0]), *np.abs(steps[[steps.argmin(), steps.argmax()]])))[::2]
    return f"its steps go from {low:.10g} to {high:.10g}: select a contiguous window, or reindex to the full grid"


def edges(da: xr.DataArray, axes: Axes, size: float) -> Bounds:
    """Outer edges (west, south, east, north) of a grid whose coordinates are pixel centres."""
    y, x = (np.asarray(da[d].values, np.float64) for d in (axes.y, axes.x))
    half = size / 2
    return float(x.min() - half), float(y.min() - half), float(x.max() + half), float(y.max() + half)


# odc-geo's GeoBox is what a place is here: rows and columns, where they lie, and in which CRS. It is imported when one
# is made: with shapely, which it brings, that takes longer than half of what `import xsen2` does besides.


CELL = 60
"""The coarsest pixel, in metres: its edges are shared by all three grids."""


@lru_cache(maxsize=4096)
def geobox(bounds: Bounds, size: float, crs: Any) -> GeoBox:
    """The grid of pixels of one size between some edges, north up.

    Parameters
    ----------
    bounds : tuple of float
        West, south, east, north: whole pixels.
    size : float
    crs : CRS, EPSG code or None
        Of rasterio, pyproj or odc-geo.

    Examples
    --------
    >>> geobox((600000, 4999940, 600060, 5000000), 20, 32631).shape
    Shape2d(x=3, y=3)
    """
    from affine import Affine
    from odc.geo.geobox import GeoBox

    west, south, east, north = bounds
    shape = (round((north - south) / size), round((east - west) / size))
    return GeoBox(shape, Affine(size, 0, west, 0, -size, north), crs)


def resized(grid: GeoBox, size: float) -> GeoBox:
    """The grid with the same edges whose pixels have another size."""
    return geobox(grid.boundingbox.bbox, size, grid.crs)


def edges_of(grid: GeoBox) -> tuple[int, int, int, int]:
    """Left, bottom, right, top of a grid of Sentinel-2, whose edges are whole metres."""
    left, bottom, right, top = (round(edge) for edge in grid.boundingbox)
    return left, bottom, right, top


def centres(grid: GeoBox) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pixel centres, y falling and x rising."""
    dx, _, west, _, dy, north = grid.affine[:6]
    y, x = (np.arange(n, dtype=np.float64) + 0.5 for n in grid.shape)
    return north + y * dy, west + x * dx


def affine_of(y: npt.NDArray[Any], x: npt.NDArray[Any], size: float = math.nan) -> Affine:
    """Where pixels lie whose centres are evenly spaced, whichever way; a single one has the size that is given."""
    from affine import Affine

    # Each axis by its whole length: a step that is off by little is off by pixels at the far end.
    (top, dy), (left, dx) = (
        (float(values[0]), float(values[-1] - values[0]) / (len(values) - 1) if len(values) > 1 else sign * size)
        for values, sign in ((y, -1), (x, 1))
    )
    return Affine(dx, 0.0, left - dx / 2, 0.0, dy, top - dy / 2)


def geotransform(affine: Affine) -> str:
    """The `GeoTransform` of a grid mapping, as GDAL and rioxarray have it: the place of one grid.

    Examples
    --------
    >>> geotransform(geobox((600000, 4999940, 600060, 5000000), 20, 32631).affine)
    '600000.0 20.0 0.0 5000000.0 0.0 -20.0'
    """
    return " ".join(str(float(number)) for number in affine.to_gdal())


def told_size(da: xr.DataArray) -> float | None:
    """The pixel size in a variable's `GeoTransform`: coordinates do not show that of a single pixel."""
    mapping = da.coords.get(da.rio.grid_mapping)
    transform = "" if mapping is None else str(mapping.attrs.get("GeoTransform", ""))
    try:
        return abs(float(transform.split()[1]))
    except (IndexError, ValueError):
        return None


_NEAR = 0.01  # metres: GeoJSON has seven decimals, about a centimetre


def touched(boxes: npt.NDArray[np.float64], grid: GeoBox) -> tuple[slice, slice] | None:
    """Rows and columns of a grid that boxes touch; None if they lie outside of it.

    Parameters
    ----------
    boxes : numpy.ndarray
        ``(n, 4)``: west, south, east, north, in the CRS of the grid. One without extent, a point, has a pixel.
    grid : GeoBox

    Examples
    --------
    >>> touched(
    ...     np.array([(600025, 4999970, 600039.999, 4999980)]), geobox((600000, 4999940, 600060, 5000000), 20, 32631)
    ... )
    (slice(1, 2, None), slice(1, 2, None))
    """
    west, _, _, north = grid.boundingbox
    size, slack = grid.resolution.x, _NEAR / grid.resolution.x
    first = np.floor(np.stack([north - boxes[:, 3], boxes[:, 0] - west], axis=1) / size + slack)
    last = np.ceil(np.stack([north - boxes[:, 1], boxes[:, 2] - west], axis=1) / size - slack)
    last = np.maximum(last, first + 1)  # a point on an edge gets a pixel
    first, last = np.maximum(first, 0), np.minimum(last, grid.shape)
    inside = (first < last).all(axis=1)  # of several boxes, those that are outside do not count
    if not inside.any():
        return None
    (top, left), (bottom, right) = first[inside].min(0).astype(int).tolist(), last[inside].max(0).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


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


def lattice(crs: Any) -> Origin | None:
    """Where native pixels lie in a CRS: all edges of 60 m pixels are multiples of 60 m away from this origin.

    Tiles are cut in whole 60 m pixels from the equator and from easting 0 on. South of the equator UTM counts
    northings from 10 000 000 m, which leaves 40. Edges of 10 m and 20 m pixels are on multiples of 10 m and 20 m of
    the same origin.

    Parameters
    ----------
    crs : CRS, EPSG code or None
        Of rasterio, pyproj, or what pyproj makes a CRS of. What counts are the parameters of its projection: it need
        not have a code.

    Returns
    -------
    tuple of float or None
        None where no product of Sentinel-2 has its pixels, so that those that are there have been resampled: what is
        not UTM on the ellipsoid of WGS 84, or one that differs from it by less than a millimetre.

    Examples
    --------
    >>> lattice(32631), lattice(32722), lattice(3035)
    ((0.0, 0.0), (0.0, 40.0), None)
    """
    return None if crs is None else _lattice(crs.to_wkt() if hasattr(crs, "to_wkt") else crs)


@lru_cache(maxsize=256)
def _lattice(crs: Any) -> Origin | None:
    from pyproj import CRS

    parameters = CRS.from_user_input(crs).to_cf()
    utm = {
        "latitude_of_projection_origin": 0,
        "false_easting": 500_000,
        "scale_factor_at_central_meridian": 0.9996,
        "semi_major_axis": 6_378_137,
        "longitude_of_prime_meridian": 0,
    }
    meridian, north = parameters.get("longitude_of_central_meridian", 0.0), parameters.get("false_northing", 0.0)
    if (
        parameters.get("grid_mapping_name") != "transverse_mercator"
        or any(abs(parameters.get(name, math.nan) - value) > 1e-9 for name, value in utm.items())
        or abs(parameters.get("inverse_flattening", 0) - 298.2572) > 1e-3
        or (meridian - 3) % 6
        or north not in (0, 10_000_000)
        or any(axis.unit_conversion_factor != 1 for axis in CRS.from_user_input(crs).axis_info[:2])
    ):
        return None
    return 0.0, north % 60.0


def snap(bounds: Bounds, cell: float = 60, origin: Origin = (0, 0), *, inward: bool = False) -> Bounds:
    """Move bounds outward to edges of pixels of `cell` metres, so that grids of 10, 20 and 60 m nest.

    Parameters
    ----------
    bounds : tuple of float
        West, south, east, north in metres.
    cell : float
        60 for cubes with 60 m bands.
    origin : tuple of float
        An edge of such pixels: what `lattice` says of the CRS, or a corner of the tile.
    inward : bool
        Move them inward: what is left can be empty.

    Examples
    --------
    >>> snap((600035, 4999970, 603035, 5003000))
    (600000, 4999920, 603060, 5003040)
    >>> snap((600035, 4999970, 603035, 5003000), 60, lattice(32722))
    (600000.0, 4999960.0, 603060.0, 5003020.0)
    """
    slack = -1e-6 if inward else 1e-6  # a bound that is on an edge but for rounding stays where it is
    least, most = (math.ceil, math.floor) if inward else (math.floor, math.ceil)
    (x, y), (west, south, east, north) = origin, bounds
    return (
        least((west - x) / cell + slack) * cell + x,
        least((south - y) / cell + slack) * cell + y,
        most((east - x) / cell - slack) * cell + x,
        most((north - y) / cell - slack) * cell + y,
    )


def off(bounds: Bounds, size: float, origin: Origin) -> tuple[float, float]:
    """How far a grid of pixels of `size` lies east and north of the nearest that has an edge at `origin`.

    Examples
    --------
    >>> off((600000, 8299980, 600060, 8300040), 60, lattice(32722))
    (0.0, 20.0)
    """
    east, north = (
        (edge - start + size / 2) % size - size / 2 for edge, start in zip((bounds[0], bounds[3]), origin, strict=True)
    )
    return east, north


def crs_name(crs: Any) -> str:
    """What a CRS is called, in short.

    Examples
    --------
    >>> import rasterio
    >>> crs_name(rasterio.CRS.from_epsg(32722))
    'EPSG:32722 (WGS 84 / UTM zone 22S)'
    """
    from pyproj import CRS

    code, name = crs.to_epsg(), CRS.from_wkt(crs.to_wkt()).name
    return name if code is None else f"EPSG:{code} ({name})"


def same_crs(first_crs: Any, other: Any) -> bool:
    """Whether two CRS place pixels alike, however each is written down."""
    if first_crs == other:
        return True
    from pyproj import CRS

    first, second = (CRS.from_wkt(crs.to_wkt()) for crs in (first_crs, other))
    return bool(first.equals(second, ignore_axis_order=True)) or first_crs.to_epsg() == other.to_epsg() is not None


_MAPPING_ATTRS = ("crs_wkt", "spatial_ref", "grid_mapping_name")


def is_mapping(variable: Any) -> bool:
    """Whether a variable is a grid mapping (CF conventions, section 5.6): no pixels, and a CRS in its attributes.

    It has a time dim where files of several dates were opened as one.
    """
    return variable.ndim < 2 and any(isinstance(variable.attrs.get(name), str) for name in _MAPPING_ATTRS)


def mapping_names(ds: Any) -> set[Hashable]:
    """The variables of a Dataset or group that are grid mappings, or that others name as theirs."""
    named = {name for variable in ds.variables.values() for name in _named_mappings(variable)}
    return {n for n, v in ds.variables.items() if is_mapping(v) or (n in named and v.ndim < 2)}


def _named_mappings(variable: Any) -> list[str]:
    """Names of the grid mappings of a variable: ``crs``, or ``crs: x y other: lat lon``."""
    names = variable.encoding.get("grid_mapping") or variable.attrs.get("grid_mapping")
    if not isinstance(names, str):
        return []
    words = names.split()
    return [word[:-1] for word in words if word.endswith(":")] or words


def crs_of(da: xr.DataArray, *contexts: Mapping[Any, Any]) -> Any | None:
    """CRS of a variable: from its grid mapping, a scalar ``epsg`` coordinate, or attributes.

    Parameters
    ----------
    contexts : mapping
        Where else to look, nearest first: the Dataset or group that the variable is from, whose grid mapping is a
        variable among others unless it was opened with ``decode_coords="all"``; or attributes alone.

    Returns
    -------
    rasterio.crs.CRS or None

    Raises
    ------
    CRSError
        If what says it cannot be read; or nothing tells which of several it is.
    """
    from rasterio.crs import CRS

    mapped: list[tuple[Hashable, Any]] = []
    for name, mapping in _mappings(da, contexts):
        crs = _mapped(name, mapping.attrs)
        if crs is not None and not any(same_crs(crs, other) for _, other in mapped):
            mapped.append((name, crs))
    if len(mapped) > 1:
        several = ", ".join(f"{name} is {crs_name(crs)}" for name, crs in mapped)
        raise CRSError(
            f"{da.name} does not say which grid mapping is its own: {several}. Say it with "
            f"ds[{da.name!r}].attrs['grid_mapping'] = {mapped[0][0]!r}, or drop the wrong one, with "
            f"ds.drop_vars({mapped[1][0]!r})"
        )
    if mapped:
        return mapped[0][1]
    try:
        plain = da.rio.crs
    except Exception as error:
        raise CRSError(f"{da.name}: its CRS cannot be read ({error}): use ds.rio.write_crs('EPSG:…')") from error
    if plain is not None:
        return plain
    codes: list[Any] = [
        da.coords[n].item() for n in ("epsg", "proj:epsg", "proj:code") if n in da.coords and da.coords[n].ndim == 0
    ]
    for context in (da.attrs, *contexts):
        attrs = getattr(context, "attrs", context)
        codes += [attrs[n] for n in ("proj:code", "proj:epsg", "epsg", "crs") if attrs.get(n)]
        nested = attrs.get("other_metadata")
        if isinstance(nested, Mapping) and nested.get("horizontal_CRS_code"):
            codes.append(nested["horizontal_CRS_code"])
    for value in codes:
        try:
            return CRS.from_user_input(int(value) if str(value).isdigit() else value)
        except Exception as error:
            raise CRSError(f"{da.name}: {value!r} is not a CRS: use ds.rio.write_crs('EPSG:…')") from error
    return None


def _mappings(da: xr.DataArray, contexts: tuple[Mapping[Any, Any], ...]) -> Iterator[tuple[Hashable, Any]]:
    """The grid mapping of a variable: what it names, or ``spatial_ref``; else all of the nearest place with some."""
    places = [da.coords, *(context.variables for context in contexts if hasattr(context, "variables"))]
    for name in (*_named_mappings(da), "spatial_ref"):  # rioxarray's default name
        for place in places:
            if name in place and is_mapping(place[name]):
                yield name, place[name]
                return
    for place in places:
        mappings = [(name, variable) for name, variable in place.items() if is_mapping(variable)]
        if mappings:
            yield from mappings
            return


def _mapped(name: Hashable, attrs: Mapping[Any, Any]) -> Any | None:
    """The CRS in the attributes of a grid mapping; None where they hold none."""
    from pyproj import CRS as AnyCRS
    from rasterio.crs import CRS

    key = next((key for key in _MAPPING_ATTRS if isinstance(attrs.get(key), str) and attrs[key].strip()), None)
    if key is None:
        return None
    try:
        if key == "grid_mapping_name":
            return CRS.from_wkt(AnyCRS.from_cf(dict(attrs)).to_wkt())
        return CRS.from_user_input(attrs[key])
    except Exception as error:
        raise CRSError(
            f"the grid mapping {name!r} has no CRS that can be read: its {key} is {attrs[key][:60]!r} "
            f"({type(error).__name__}). Write the right one over it: "
            f"ds.rio.write_crs('EPSG:…', grid_mapping_name={name!r})"
        ) from error


def located(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with its CRS where rioxarray and all sinks look for it: in a scalar coordinate ``spatial_ref``.

    What was opened without ``decode_coords="all"`` has it among its variables, perhaps under another name, and with a
    time dim if it was several files.

    Raises
    ------
    CRSError
        If a grid mapping cannot be read, or the variables are in several CRS.
    """
    planes = {str(name): v for name, v in ds.data_vars.items() if v.ndim >= 2}
    crs_by_name = {name: crs for name, v in planes.items() if (crs := crs_of(v, ds)) is not None}
    first = next(iter(crs_by_name.values()), None)
    for name, crs in crs_by_name.items():
        if not same_crs(crs, first):
            raise CRSError(
                f"{next(iter(crs_by_name))} is in {crs_name(first)} and {name} in {crs_name(crs)}: a file has one CRS, "
                f"so write them apart, with ds[[{name!r}]]"
            )
    names = mapping_names(ds)
    here = ds.coords.get("spatial_ref")
    if first is None or (names == {"spatial_ref"} and here is not None and here.ndim == 0 and is_mapping(here)):
        return ds
    more = next((ds[n].attrs["GeoTransform"] for n in names if "GeoTransform" in ds[n].attrs), None)
    attrs = {} if more is None else {"GeoTransform": more}
    ds = ds.drop_vars(names).assign_coords(spatial_ref=((), 0, attrs)).rio.write_crs(first, "spatial_ref")
    for name in planes:
        ds[name].attrs.pop("grid_mapping", None)
        ds[name].encoding["grid_mapping"] = "spatial_ref"
    return ds
