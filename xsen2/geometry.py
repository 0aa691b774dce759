"""Geometries: from a bbox, GeoJSON, shapely or geopandas to rings of coordinates, and from one CRS to another."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xsen2.errors import CRSError, SourceError
from xsen2.grid import Bounds
from xsen2.paths import local

__all__ = ["Part", "crs_from", "dense", "extent", "padded", "projected", "read"]

Line = npt.NDArray[np.float64]

_STEP = {True: 0.01, False: 1000.0}  # degrees or metres between projected points: an edge bends less than 3 cm
_MARGIN = {True: 1.0, False: 1e5}  # kept round the cube, so that far-away vertices stay where its CRS is well defined


@dataclass(frozen=True)
class Part:
    """A polygon, a line or a point.

    Attributes
    ----------
    kind : str
        As GeoJSON calls it: ``"Polygon"``, ``"LineString"`` or ``"Point"``.
    lines : list of numpy.ndarray
        Rings of a polygon, the outer one first; else one line; ``(n, 2)`` each.
    """

    kind: str
    lines: list[Line]

    def moved(self, move: Callable[[Line], Line]) -> Part:
        """The same with other coordinates."""
        return Part(self.kind, [move(line) for line in self.lines])

    def geojson(self) -> dict[str, Any]:
        """As GeoJSON has it, in lists."""
        lines: list[Any] = [line.tolist() for line in self.lines]
        coordinates = {"Polygon": lines, "LineString": lines[0], "Point": lines[0][0]}[self.kind]
        return {"type": self.kind, "coordinates": coordinates}


def padded(area: object, metres: float, crs: object | None = None) -> Bounds:
    """A lon/lat box round an area and some context: what to load, for the result to be cut to the area.

    Parameters
    ----------
    area, crs
        As `xsen2.superresolve.superresolve` takes them.
    metres : float
        Context on each side, as `xsen2.context.context_of` gives it; a little more is added.

    Returns
    -------
    tuple of float
        West, south, east, north in degrees; east may pass 180.

    Raises
    ------
    SourceError, CRSError
        If it is no area, or the CRS is none.

    Examples
    --------
    >>> [round(v, 4) for v in padded((15.0, 46.0, 15.1, 46.1), 1000)]
    [14.9868, 45.9909, 15.1132, 46.1091]
    """
    parts, own = read(area, crs)
    west, south, east, north = extent(parts) if own.is_geographic else _bounds(extent(parts), own, "OGC:CRS84")
    more = metres * 1.01 / 110574  # the shortest degree of latitude; UTM stretches by about a thousandth
    south, north = max(south - more, -90.0), min(north + more, 90.0)
    wide = more / max(math.cos(math.radians(max(abs(south), abs(north)))), 0.01)
    return west - wide, south, east + wide, north


def read(area: object, crs: object | None = None) -> tuple[list[Part], Any]:
    """The parts of an area, and the CRS of their coordinates.

    Parameters
    ----------
    area : object
        As `xsen2.superresolve.superresolve` takes it.
    crs : object, optional
        By default what the area says itself, else lon/lat.

    Raises
    ------
    SourceError
        If it is none, or its coordinates cannot be those of its CRS.
    CRSError
        If the CRS is none.
    """
    if isinstance(area, (str, os.PathLike)):
        area = _file(local(area))
    own = getattr(area, "crs", None)
    shape: Any = area
    if isinstance(area, (Sequence, np.ndarray)):
        shape = _rectangle(area)
    elif not isinstance(area, Mapping):
        shape = getattr(area, "__geo_interface__", area)
    try:
        if own is None and isinstance(shape, Mapping) and shape.get("crs") is not None:
            # Not in GeoJSON any more since RFC 7946, and still written by GDAL for whatever is not lon/lat.
            own = shape["crs"]["properties"]["name"]
        parts = list(_parts(shape))
    except SourceError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise SourceError(f"area= is not GeoJSON as it should be ({type(error).__name__}: {error})") from error
    found = crs_from(crs if crs is not None else own if own is not None else "OGC:CRS84")
    if not parts:
        raise SourceError("area= is empty: it has no geometry")
    low, high = np.array(extent(parts)).reshape(2, 2)
    if not np.isfinite([low, high]).all():
        raise SourceError("area= has coordinates that are not finite numbers")
    if found.is_geographic and not (np.abs([low, high]) <= (540, 90)).all():  # lon may pass 180 by one turn
        raise SourceError(
            f"area= reaches from {low.tolist()} to {high.tolist()}, which is not lon/lat in degrees: say what it is "
            "in, as area_crs='EPSG:32633'"
        )
    return parts, found


def crs_from(given: Any) -> Any:
    """The pyproj CRS that something stands for.

    Raises
    ------
    CRSError
        If it stands for none.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError as Unknown

    try:
        return CRS.from_user_input(given)
    except Unknown as error:
        raise CRSError(f"area_crs={given!r} is not a CRS: give one as 'EPSG:32633'") from error


def projected(parts: Sequence[Part], own: Any, target: Any, cube: Bounds) -> tuple[list[Part], Bounds, Bounds]:
    """Parts in the CRS of a cube, as far as they are near it.

    Parameters
    ----------
    parts : sequence of Part
    own, target : pyproj.CRS
        Of the parts, and of the cube.
    cube : tuple of float
        Bounds of the cube.

    Returns
    -------
    parts : list of Part
    area, cube : tuple of float
        Bounds of both in `own`, for messages.
    """
    from pyproj import Transformer

    degrees = own.is_geographic
    whole = _bounds(cube, target, own)
    if degrees:
        west, _, east, _ = extent(parts)
        turns = np.array([360 * round((whole[0] + whole[2] - west - east) / 720), 0])
        parts = [part.moved(lambda line: line + turns) for part in parts]
    if own.equals(target, ignore_axis_order=True):
        return list(parts), extent(parts), whole
    low, high = np.array(whole[:2]) - _MARGIN[degrees], np.array(whole[2:]) + _MARGIN[degrees]
    project = Transformer.from_crs(own, target, always_xy=True).transform

    def move(line: Line) -> Line:
        # Clipping each point leaves the part inside as it is, for the points are dense.
        return np.column_stack(project(*dense(line, _STEP[degrees]).clip(low, high).T))

    return [part.moved(move) for part in parts], extent(parts), whole


def extent(parts: Sequence[Part]) -> Bounds:
    """West, south, east and north of all parts."""
    points = np.concatenate([line for part in parts for line in part.lines])
    (west, south), (east, north) = points.min(0), points.max(0)
    return float(west), float(south), float(east), float(north)


def _file(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"area={os.fspath(path)!r} cannot be read as a file with GeoJSON: {error}") from error


def _rectangle(bbox: Any) -> dict[str, Any]:
    try:
        values = [float(v) for v in bbox]
    except (TypeError, ValueError):
        values = []
    if len(values) == 6:  # STAC allows heights: west, south, low, east, north, high
        values = [values[i] for i in (0, 1, 3, 4)]
    if len(values) != 4:
        raise SourceError(f"area={bbox!r}: a bbox is (west, south, east, north)")
    west, south, east, north = values
    if east < west and max(abs(west), abs(east)) <= 180:  # how STAC writes a box across the antimeridian
        east += 360
    if east < west or north < south:
        raise SourceError(f"area={tuple(values)}: the order is (west, south, east, north)")
    ring = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return {"type": "Polygon", "coordinates": [ring]}


def _parts(shape: Any) -> Iterator[Part]:
    """The polygons, lines and points that a GeoJSON object is made of."""
    if not isinstance(shape, Mapping) or "type" not in shape:
        raise SourceError(
            f"area= is a {type(shape).__name__}: give a bbox, a GeoJSON dict or file, or a geometry of shapely or "
            "geopandas"
        )
    kind = shape["type"]
    if kind == "Feature":
        if shape["geometry"] is not None:
            yield from _parts(shape["geometry"])
    elif kind in ("FeatureCollection", "GeometryCollection"):
        for part in shape["features" if kind == "FeatureCollection" else "geometries"]:
            yield from _parts(part)
    elif kind in ("MultiPolygon", "MultiLineString", "MultiPoint"):
        for part in shape["coordinates"]:
            yield from _parts({"type": kind.removeprefix("Multi"), "coordinates": part})
    elif kind in ("Polygon", "LineString", "LinearRing", "Point"):
        at = shape["coordinates"]
        if not len(at):
            return
        lines = at if kind == "Polygon" else [[at]] if kind == "Point" else [at]
        least = {"Polygon": 4, "Point": 1}.get(kind, 2)
        if any(len(line) < least for line in lines):
            raise SourceError(f"area= has a {kind} of under {least} positions")
        arrays = [np.array([position[:2] for position in line], float).reshape(-1, 2) for line in lines]
        yield Part(kind.replace("LinearRing", "LineString"), arrays)
    else:
        raise SourceError(f"area= has the type {kind!r}, which is not one of GeoJSON's")


def _bounds(bounds: Bounds, source: Any, target: Any) -> Bounds:
    """Bounds in another CRS; east may pass 180."""
    from pyproj import Transformer

    west, south, east, north = Transformer.from_crs(source, target, always_xy=True).transform_bounds(*bounds)
    return west, south, east + 360 if east < west else east, north


def dense(line: Line, step: float) -> Line:
    """Points on every edge, about `step` apart, at most 2000 an edge."""
    parts = [line[:1]]
    for start, end in pairwise(line):
        number = min(max(math.ceil(float(np.abs(end - start).max()) / step), 1), 2000)
        parts.append(start + (end - start) * np.linspace(0, 1, number + 1)[1:, None])
    return np.concatenate(parts)
