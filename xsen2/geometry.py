"""Areas: from a bbox, GeoJSON, shapely or geopandas to rings of coordinates, and to the pixels' own CRS.

Longitudes are a circle, and GeoJSON (RFC 7946, 3.1.9) cuts what crosses 180 degrees in two. So no part of an area is
ever placed as a whole: `Area.near` turns each ring on its own towards the pixels that are asked about, as often as it
reaches them, and what comes out is the union.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from xsen2.errors import CRSError, SourceError
from xsen2.grid import Bounds
from xsen2.paths import local

__all__ = ["Area", "Near", "Part", "crs_from", "dense", "extent", "extents", "padded", "read"]

Line = npt.NDArray[np.float64]

MOST_VERTICES = 1_000_000
"""Of an area: coastlines of whole countries, drawn to the metre, stay below."""

_MOST_POINTS = 2_000_000  # of an area near the pixels, those between its vertices included: 200 MB while they are moved
_MOST_BYTES = 64 * 2**20  # of a file: two million vertices as GDAL writes them
_MOST_DEEP = 64  # collections within each other
_STEP = {True: 0.01, False: 1000.0}  # degrees or metres between projected points: an edge bends less than 3 cm
_MARGIN = {True: 1.0, False: 1e5}  # kept round the cube, so that far-away vertices stay where its CRS is well defined
_SEAM = 2e-8  # degrees, 2 mm: by so much parts that are cut at 180 degrees overlap, lest a pixel falls in between


@dataclass(frozen=True)
class Part:
    """A polygon, a line or a point.

    Attributes
    ----------
    kind : str
        As GeoJSON calls it: ``"Polygon"``, ``"LineString"`` or ``"Point"``.
    lines : list of numpy.ndarray
        Rings of a polygon, the outer one first; else one line, or any number of points; ``(n, 2)`` each.
    """

    kind: str
    lines: list[Line]

    def geojson(self) -> dict[str, Any]:
        """As GeoJSON has it, in lists."""
        lines: list[Any] = [line.tolist() for line in self.lines]
        if self.kind == "Point":
            return {"type": "MultiPoint", "coordinates": lines[0]}
        return {"type": self.kind, "coordinates": lines if self.kind == "Polygon" else lines[0]}

    def within(self, low: Line, high: Line) -> Iterator[Part]:
        """What lies in a box, with straight edges along its border where a polygon goes on beyond."""
        if self.kind == "Point":
            inside = self.lines[0][((self.lines[0] >= low) & (self.lines[0] <= high)).all(axis=1)]
            if len(inside):
                yield Part("Point", [inside])
        elif all((line >= low).all() and (line <= high).all() for line in self.lines):
            yield self
        elif self.kind == "LineString":
            for piece in _cut_line(self.lines[0], low, high):
                yield Part("LineString", [piece])
        else:
            rings = []
            for ring in self.lines:
                for axis in (0, 1):
                    ring = _cut_ring(ring, axis, float(low[axis]), -1)
                    ring = _cut_ring(ring, axis, float(high[axis]), 1)
                rings.append(ring)
            if len(rings[0]):
                yield Part("Polygon", [ring for ring in rings if len(ring)])


@dataclass(frozen=True)
class Near:
    """What of an area lies near some pixels.

    Attributes
    ----------
    parts : tuple of Part
        In the CRS of the pixels; all points are one part. None, if nothing is near.
    area, pixels : tuple of float
        Bounds of both in the area's own CRS, for messages.
    """

    parts: tuple[Part, ...]
    area: Bounds
    pixels: Bounds


@dataclass(frozen=True)
class Area:
    """An area of interest, as `read` makes it.

    Attributes
    ----------
    parts : tuple of Part
        Each without a jump where longitudes begin anew: they may pass 180.
    crs : pyproj.CRS
        Of their coordinates.
    name : str
        What the caller's argument is called, for messages.
    """

    parts: tuple[Part, ...]
    crs: Any
    name: str = "area="

    @property
    def lonlat(self) -> Bounds:
        """West, south, east, north in degrees of the least box round all parts; east may pass 180."""
        turn = _turn(self.crs)
        if not self.crs.is_geographic:
            if turn is None:
                west, south, east, north = _bounds(extent(self.parts), self.crs, "OGC:CRS84")
                return _normal(west, east)[0], south, _normal(west, east)[1], north
            boxes = [_bounds(_within(extent([part]), turn), self.crs, "OGC:CRS84") for part in self.parts]
        else:
            boxes = [extent([part]) for part in self.parts]
        edges = np.array(boxes)
        west, east = _least(edges[:, 0], edges[:, 2])
        return west, float(edges[:, 1].min()), east, float(edges[:, 3].max())

    def near(self, target: Any, pixels: Bounds) -> Near:
        """The area in another CRS, as far as it is near some pixels.

        Parameters
        ----------
        target : pyproj.CRS
            Of the pixels.
        pixels : tuple of float
            Their bounds.

        Raises
        ------
        SourceError
            If that takes more points than can be held.
        """
        if self.crs.equals(target, ignore_axis_order=True):
            return Near(_one_of_points(self.parts), extent(self.parts), pixels)
        from pyproj import Transformer

        degrees, turn = self.crs.is_geographic, _turn(self.crs)
        whole = _outline(pixels, target, self.crs, turn)
        low, high = np.array(whole[:2]) - _MARGIN[degrees], np.array(whole[2:]) + _MARGIN[degrees]
        placed = [turned for part in self.parts for turned in _turned(part, low[0], high[0], turn, degrees)]
        parts = [cut for part in _one_of_points(placed) for cut in part.within(low, high)]
        lines = [line for part in parts for line in part.lines]
        counts = [_points(line, _STEP[degrees]) for line in lines]
        if sum(counts) > _MOST_POINTS:
            raise SourceError(
                f"{self.name} has edges that take {sum(counts)} points near the pixels, about a kilometre apart, and "
                f"{_MOST_POINTS} can be held: simplify it, or give its bounds"
            )
        dots = [part.kind == "Point" for part in parts for _ in part.lines]
        full = [line if dot else dense(line, _STEP[degrees]) for line, dot in zip(lines, dots, strict=True)]
        if full:
            moved = np.column_stack(
                Transformer.from_crs(self.crs, target, always_xy=True).transform(*np.concatenate(full).T)
            )
            full = np.split(moved, np.cumsum([len(line) for line in full])[:-1])
        queue = iter(full)
        done = tuple(Part(part.kind, [next(queue) for _ in part.lines]) for part in parts)
        return Near(done, self._said(whole, turn), whole)

    def _said(self, whole: Bounds, turn: float | None) -> Bounds:
        """Bounds in the area's own CRS, said from where the pixels are."""
        if turn is None:
            return extent(self.parts)
        centre = (whole[0] + whole[2]) / 2
        boxes = np.array([extent([part]) for part in self.parts])
        if self.crs.is_geographic:
            west, east = _least(boxes[:, 0], boxes[:, 2])
        else:
            west, east = boxes[:, 0].min(), boxes[:, 2].max()
        shift = turn * round((centre - (west + east) / 2) / turn)
        return west + shift, float(boxes[:, 1].min()), east + shift, float(boxes[:, 3].max())


def padded(area: object, metres: float, crs: object | None = None) -> Bounds:
    """A lon/lat box round an area and some context: what to load, for the result to be cut to the area.

    Parameters
    ----------
    area, crs
        As `xsen2.superresolve.superresolve` takes them.
    metres : float
        Context on each side, as `xsen2.superresolve.context_of` gives it; a little more is added.

    Returns
    -------
    tuple of float
        West, south, east, north in degrees, the least such box also of parts on both sides of 180 degrees: west is
        from -180 up to 180, and east may pass 180.

    Raises
    ------
    SourceError, CRSError
        If it is no area, or the CRS is none.

    Examples
    --------
    >>> [round(v, 4) for v in padded((15.0, 46.0, 15.1, 46.1), 1000)]
    [14.9868, 45.9909, 15.1132, 46.1091]
    >>> [round(v, 4) for v in padded((179.9, -17.0, -179.9, -16.9), 0)]
    [179.9, -17.0, 180.1, -16.9]
    """
    west, south, east, north = read(area, crs).lonlat
    more = metres * 1.01 / 110574  # the shortest degree of latitude; UTM stretches by about a thousandth
    south, north = max(south - more, -90.0), min(north + more, 90.0)
    wide = more / max(math.cos(math.radians(max(abs(south), abs(north)))), 0.01)
    west, east = _normal(west - wide, east + wide)
    return west, south, east, north


def read(area: object, crs: object | None = None, name: str = "area=") -> Area:
    """An area in any of the forms that it may have.

    A ring or line whose neighbouring vertices are more than half a turn apart crosses 180 degrees there, unless they
    are a whole turn apart, as those of a box round the world. A ring that ends a turn from where it began goes round a
    pole, and is closed over it.

    Parameters
    ----------
    area : object
        As `xsen2.superresolve.superresolve` takes it.
    crs : object, optional
        By default what the area says itself, else lon/lat.
    name : str
        What the caller's argument is called, for messages.

    Raises
    ------
    SourceError
        If it is none, or its coordinates cannot be those of its CRS.
    CRSError
        If the CRS is none.
    """
    try:
        if isinstance(area, (str, os.PathLike)):
            area = _file(area, name)
        own = getattr(area, "crs", None)
        shape: Any = area if isinstance(area, Mapping) else getattr(area, "__geo_interface__", area)
        box = isinstance(shape, Iterable) and not isinstance(shape, Mapping)
        if own is None and isinstance(shape, Mapping) and shape.get("crs") is not None:
            # Not in GeoJSON any more since RFC 7946, and still written by GDAL for whatever is not lon/lat.
            own = shape["crs"]["properties"]["name"]
        found = crs_from(crs if crs is not None else own if own is not None else "OGC:CRS84")
        parts = [_rectangle(shape, name, found.is_geographic)] if box else list(_parts(shape, name))
    except (SourceError, CRSError):
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise SourceError(f"{name} is not GeoJSON as it should be ({type(error).__name__}: {error})") from error
    if not parts:
        raise SourceError(f"{name} is empty: it has no geometry")
    low, high = np.array(extent(parts)).reshape(2, 2)
    if not np.isfinite([low, high]).all():
        raise SourceError(f"{name} has coordinates that are not finite numbers")
    if found.is_geographic and not (np.abs([low, high]) <= (540, 90)).all():  # lon may pass 180 by one turn
        what = (
            "say what it is in, as area_crs='EPSG:32633'"
            if name == "area="
            else "reproject it to EPSG:4326, or give it with its CRS, as geopandas does"
        )
        raise SourceError(
            f"{name} reaches from {low.tolist()} to {high.tolist()}, which is not lon/lat in degrees: {what}"
        )
    turn = _turn(found)
    if turn is not None and not box:
        parts = [_unwrapped(part, turn, found.is_geographic) for part in parts]
    return Area(tuple(parts), found, name)


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


def extent(parts: Sequence[Part]) -> Bounds:
    """West, south, east and north of all parts."""
    edges = np.array([(*line.min(0), *line.max(0)) for part in parts for line in part.lines])
    (west, south), (east, north) = edges[:, :2].min(0), edges[:, 2:].max(0)
    return float(west), float(south), float(east), float(north)


def extents(parts: Sequence[Part]) -> npt.NDArray[np.float64]:
    """West, south, east and north of each part, and of each single point: ``(n, 4)``."""
    rows = [np.tile(part.lines[0], 2) if part.kind == "Point" else np.array([extent([part])]) for part in parts]
    return np.concatenate(rows) if rows else np.empty((0, 4))


def dense(line: Line, step: float) -> Line:
    """Points on every edge, about `step` apart."""
    if len(line) < 2:
        return line
    moves = np.diff(line, axis=0)
    many = np.maximum(np.ceil(np.abs(moves).max(axis=1) / step), 1).astype(np.intp)
    edge = np.repeat(np.arange(len(many)), many)
    along = (np.arange(len(edge)) - np.repeat(np.cumsum(many) - many, many)) / many[edge]
    return np.concatenate([line[:-1][edge] + moves[edge] * along[:, None], line[-1:]])


def _points(line: Line, step: float) -> int:
    """How many points `dense` would make."""
    return 1 + int(np.maximum(np.ceil(np.abs(np.diff(line, axis=0)).max(axis=1, initial=0) / step), 1).sum())


# --- what a caller gives --------------------------------------------------------------------------


def _file(given: str | os.PathLike[str], name: str) -> Any:
    said = f"{name}{str(given)[:200]!r} cannot be read as a file with GeoJSON"
    try:
        try:
            path = local(given)
        except SourceError as error:
            raise SourceError(f"{said}: {error}") from error
        if not path.is_file():
            raise SourceError(f"{said}: there is no such file")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise SourceError(
                f"{said}: it has {size / 2**20:.0f} MB, and {_MOST_BYTES // 2**20} MB are read: simplify it"
            )
        return json.loads(path.read_text(encoding="utf-8-sig"))  # some programs begin files with a mark
    except OSError as error:
        raise SourceError(f"{said}: {error.strerror or type(error).__name__}") from error
    except SourceError:
        raise
    except (ValueError, RuntimeError) as error:  # not JSON, not UTF-8, nested too deep, the home of nobody
        raise SourceError(f"{said}: {error}") from error


def _rectangle(bbox: Any, name: str, degrees: bool) -> Part:
    values = list(bbox)
    try:
        values = [float(v) for v in values]
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"{name}{str(values)[:200]} is not made of numbers: a bbox is (west, south, east, north)"
        ) from error
    if len(values) == 6:  # STAC allows heights: west, south, low, east, north, high
        values = [values[i] for i in (0, 1, 3, 4)]
    if len(values) != 4:
        raise SourceError(f"{name}{str(values)[:200]} has {len(values)} numbers: a bbox is (west, south, east, north)")
    west, south, east, north = values
    if degrees and east < west and max(abs(west), abs(east)) <= 360:  # how STAC writes a box across the antimeridian
        east += 360
    if not south <= north:
        raise SourceError(f"{name}{tuple(values)}: south is above north; the order is (west, south, east, north)")
    if east < west:
        raise SourceError(f"{name}{tuple(values)}: west is east of east; the order is (west, south, east, north)")
    return Part("Polygon", [np.array([(west, south), (east, south), (east, north), (west, north), (west, south)])])


def _parts(shape: Any, name: str) -> Iterator[Part]:
    """The polygons, lines and points that a GeoJSON object is made of."""
    if not isinstance(shape, Mapping) or "type" not in shape:
        raise SourceError(
            f"{name} is a {type(shape).__name__}: give a bbox, a GeoJSON dict or file, or a geometry of shapely or "
            "geopandas"
        )
    left, vertices = [(shape, 0)], 0
    while left:
        one, depth = left.pop()
        if depth > _MOST_DEEP:
            raise SourceError(f"{name} has collections in collections, over {_MOST_DEEP} deep: flatten it")
        if not isinstance(one, Mapping):
            raise SourceError(f"{name} has a {type(one).__name__} where GeoJSON has a geometry")
        kind = one["type"]
        if kind == "Feature":
            if one["geometry"] is not None:
                left.append((one["geometry"], depth + 1))
        elif kind in ("FeatureCollection", "GeometryCollection"):
            inner = one["features" if kind == "FeatureCollection" else "geometries"]
            left += [(part, depth + 1) for part in reversed(inner)]
        else:
            for part in _geometries(kind, one.get("coordinates"), name):
                vertices += sum(len(line) for line in part.lines)
                if vertices > MOST_VERTICES:
                    raise SourceError(f"{name} has over {MOST_VERTICES} vertices, which is the most: simplify it")
                yield part


def _geometries(kind: Any, at: Any, name: str) -> Iterator[Part]:
    """The parts of one GeoJSON geometry."""
    if kind not in ("Polygon", "LineString", "LinearRing", "Point", "MultiPolygon", "MultiLineString", "MultiPoint"):
        raise SourceError(f"{name} has the type {kind!r}, which is not one of GeoJSON's")
    if not isinstance(at, (Sequence, np.ndarray)) or isinstance(at, str):
        raise SourceError(f"{name} is not GeoJSON as it should be: a {kind} has the coordinates {str(at)[:80]!r}")
    single = kind.removeprefix("Multi")
    for one in at if kind.startswith("Multi") else [at]:
        if not len(one):
            continue
        lines = one if single == "Polygon" else [[one]] if single == "Point" else [one]
        least = {"Polygon": 4, "Point": 1}.get(single, 2)
        if any(len(line) < least for line in lines):
            raise SourceError(f"{name} has a {single} of under {least} positions")
        arrays = [_line(line, name) for line in lines]
        if single == "Polygon":  # rings end where they began, also those of writers that leave that out
            arrays = [ring if (ring[0] == ring[-1]).all() else np.concatenate([ring, ring[:1]]) for ring in arrays]
        yield Part(single.replace("LinearRing", "LineString"), arrays)


def _line(positions: Any, name: str) -> Line:
    if len(positions) > MOST_VERTICES:
        raise SourceError(f"{name} has over {MOST_VERTICES} vertices, which is the most: simplify it")
    found = np.array([position[:2] for position in positions])  # without heights
    if found.dtype.kind not in "iuf" or found.shape != (len(positions), 2):
        wrong = str(next(iter(positions)))[:80]
        raise SourceError(f"{name} is not GeoJSON as it should be: positions are two or three numbers, not {wrong}")
    return found.astype(np.float64)


# --- longitudes are a circle ----------------------------------------------------------------------


@lru_cache(maxsize=32)
def _turn(crs: Any) -> float | None:
    """After how much the first coordinate begins anew: 360 degrees, the metres round a cylinder, or not at all."""
    from pyproj import Transformer

    if crs.is_geographic:
        return 360.0
    lon = np.arange(0.0, 361.0, 60.0)
    to_own = Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    x, other = (np.asarray(to_own.transform(lon, np.full(7, lat))[0]) for lat in (10.0, 50.0))
    if not np.isfinite([x, other]).all() or np.abs(x - other).max() > 1e-3:
        return None
    step = float(np.median(np.diff(x)))
    turns = (np.diff(x) - step) / (6 * step) if step > 0 else np.array([0.5])
    return 6 * step if np.abs(turns - np.round(turns)).max() < 1e-6 else None


def _unwrapped(part: Part, turn: float, degrees: bool) -> Part:
    """The same without jumps of nearly a turn; the holes of a polygon lie where its outline does."""
    if part.kind == "Point" or all(np.ptp(line[:, 0]) <= turn / 2 for line in part.lines):
        lines = part.lines
    else:
        lines = [_smooth(line, turn, part.kind == "Polygon") for line in part.lines]
    if part.kind != "Polygon":
        return Part(part.kind, lines)
    outline, *holes = lines
    if degrees and abs(around := outline[-1, 0] - outline[0, 0]) > 180:  # round a pole
        pole = math.copysign(90.0, float(outline[:, 1].mean()))
        over = np.array([(outline[-1, 0], pole), (outline[-1, 0] - around, pole), tuple(outline[0])])
        outline = np.concatenate([outline, over])
    middle = float(outline[:, 0].min() + outline[:, 0].max()) / 2
    shifts = [turn * round((middle - float(hole[:, 0].min() + hole[:, 0].max()) / 2) / turn) for hole in holes]
    return Part("Polygon", [outline, *(hole + np.array([by, 0]) for hole, by in zip(holes, shifts, strict=True))])


def _smooth(line: Line, turn: float, closed: bool) -> Line:
    jumps = np.diff(line[:, 0]) / turn
    whole = np.abs(np.abs(jumps) - 1) < 1e-9  # round the world, as a box or over a pole
    turns = np.where((np.abs(jumps) > 0.5) & ~whole, np.round(jumps), 0)
    if closed and turns.sum():  # or from 180 to -180, which are one place
        turns[whole] = np.round(jumps[whole])
    return np.column_stack([line[:, 0] - turn * np.append(0, np.cumsum(turns)), line[:, 1]])


def _turned(part: Part, west: float, east: float, turn: float | None, degrees: bool) -> Iterator[Part]:
    """The part as often as it reaches between two edges, from turn to turn."""
    if turn is None:
        yield part
        return
    low, _, high, _ = extent([part])
    if degrees and part.kind == "Polygon":
        part = _overlapping(part, low, high)
    for number in range(math.ceil((west - high) / turn), math.floor((east - low) / turn) + 1):
        shift = np.array([number * turn, 0.0])
        yield Part(part.kind, [line + shift for line in part.lines]) if number else part


def _overlapping(part: Part, low: float, high: float) -> Part:
    """A polygon that ends at 180 or 0 degrees, where others cut what goes on beyond, a hair wider there."""
    edges = [(edge, by) for edge, by in ((low, -_SEAM), (high, _SEAM)) if edge % 180 == 0]
    if not edges:
        return part
    outline, *holes = part.lines
    x = outline[:, 0].copy()
    for edge, by in edges:
        x[outline[:, 0] == edge] += by
    return Part(part.kind, [np.column_stack([x, outline[:, 1]]), *holes])


def _least(west: npt.NDArray[np.float64], east: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The least interval of longitudes that holds all of some; its beginning is from -180 up to 180."""
    order = np.argsort(west % 360)
    begins = (west % 360)[order]
    ends = np.maximum.accumulate(begins + (east - west)[order])
    # What lies beyond a turn covers the beginning anew.
    gaps = np.append(begins[1:], begins[0] + 360) - np.maximum(ends, ends[-1] - 360)
    at = int(np.argmax(gaps))
    if gaps[at] <= 0:
        return -180.0, 180.0
    first = float(begins[(at + 1) % len(begins)])
    found = _normal(first, max(first, first + 360 - float(gaps[at])))
    plain = float(west.min()), float(east.max())  # the caller's own digits, where they will do
    return plain if np.allclose(plain, found, rtol=0, atol=1e-9) else found


def _normal(west: float, east: float) -> tuple[float, float]:
    """The same interval beginning from -180 up to 180; all of the circle if it is longer."""
    if east - west >= 360:
        return -180.0, 180.0
    shift = 0.0 if -180 <= west < 180 else 360 * math.floor((west + 180) / 360)
    return west - shift, east - shift


def _within(bounds: Bounds, turn: float) -> Bounds:
    """Bounds on a cylinder, no wider than it."""
    west, south, east, north = bounds
    return west, south, min(east, west + turn * (1 - 1e-12)), north


def _bounds(bounds: Bounds, source: Any, target: Any) -> Bounds:
    """Bounds in another CRS; east may pass 180."""
    from pyproj import Transformer

    west, south, east, north = Transformer.from_crs(source, target, always_xy=True).transform_bounds(*bounds)
    return west, south, east + 360 if east < west else east, north


def _outline(bounds: Bounds, source: Any, target: Any, turn: float | None) -> Bounds:
    """Bounds in another CRS whose first coordinate begins anew after `turn`: they may pass its end."""
    if turn is None or target.is_geographic:
        return _bounds(bounds, source, target)
    from pyproj import Transformer

    west, south, east, north = bounds
    ring = np.array([(west, south), (east, south), (east, north), (west, north), (west, south)])
    x, y = Transformer.from_crs(source, target, always_xy=True).transform(
        *dense(ring, max(east - west, north - south) / 50).T
    )
    x = np.unwrap(x, period=turn)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


# --- what is near ---------------------------------------------------------------------------------


def _one_of_points(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts, all points as one."""
    points = [part.lines[0] for part in parts if part.kind == "Point"]
    others = tuple(part for part in parts if part.kind != "Point")
    return (*others, Part("Point", [np.concatenate(points)])) if points else others


def _cut_ring(ring: Line, axis: int, edge: float, sign: int) -> Line:
    """A closed ring on one side of a line, after Sutherland and Hodgman (1974)."""
    if not len(ring):
        return ring
    over = sign * (ring[:, axis] - edge)
    if not (over > 0).any():
        return ring
    start, end = ring[:-1], ring[1:]
    before, after = over[:-1], over[1:]
    crossing = (before > 0) != (after > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(crossing, before / (before - after), 0.0)
    crossed = start + (end - start) * share[:, None]
    crossed[:, axis] = edge
    kept = np.stack([crossed, end], axis=1)[np.stack([crossing, after <= 0], axis=1)]
    return np.concatenate([kept, kept[:1]]) if len(kept) else kept


def _cut_line(line: Line, low: Line, high: Line) -> list[Line]:
    """The pieces of a line inside a box, after Liang and Barsky (1984)."""
    start, move = line[:-1], np.diff(line, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        one, other = (low - start) / move, (high - start) / move
    still = move == 0
    outside = (still & ((start < low) | (start > high))).any(axis=1)
    first = np.where(still, 0.0, np.minimum(one, other)).max(axis=1).clip(0, 1)
    last = np.where(still, 1.0, np.maximum(one, other)).min(axis=1).clip(0, 1)
    hit = ~outside & (first <= last)
    begins, ends = start + move * first[:, None], np.where(last[:, None] < 1, start + move * last[:, None], line[1:])
    numbers = np.flatnonzero(hit)
    broken = np.flatnonzero((np.diff(numbers) > 1) | (last[numbers[:-1]] < 1) | (first[numbers[1:]] > 0)) + 1
    runs = [run for run in np.split(numbers, broken) if len(run)]
    return [np.concatenate([begins[run[:1]], ends[run]]) for run in runs]
