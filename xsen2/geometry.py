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
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xsen2.errors import CRSError, SourceError
from xsen2.files import local
from xsen2.grid import Bounds

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["Area", "Shapes", "beside", "crs_from", "lonlat", "padded", "read", "reprojected", "within"]

Line = npt.NDArray[np.float64]
"""Positions: ``(n, 2)``."""

Shapes = npt.NDArray[np.object_]
"""Polygons, lines and points of shapely, none of them in a collection."""

MOST_VERTICES = 1_000_000
"""Of an area: coastlines of whole countries, drawn to the metre, stay below."""

LONLAT = "OGC:CRS84"
"""What coordinates are in where nobody says it."""

_MOST_POINTS = 2_000_000  # of an area near the pixels, those between its vertices included: 200 MB while they are moved
_MOST_BYTES = 64 * 2**20  # of a file: two million vertices as GDAL writes them
_MOST_DEEP = 64  # collections within each other
_STEP = {True: 0.01, False: 1000.0}  # degrees or metres between projected points: an edge bends less than 3 cm
_MARGIN = {True: 1.0, False: 1e5}  # kept round the cube, so that far-away vertices stay where its CRS is well defined
_SEAM = 2e-8  # degrees, 2 mm: by so much parts that are cut at 180 degrees overlap, lest a pixel falls in between


@dataclass(frozen=True)
class Area:
    """An area of interest, as `read` makes it.

    Attributes
    ----------
    parts : numpy.ndarray of shapely geometries
        Each without a jump where longitudes begin anew: they may pass 180.
    crs : pyproj.CRS
        Of their coordinates.
    name : str
        What the caller's argument is called, for messages.
    """

    # Not odc.geo.geom.Geometry, though one is read: it takes a ring that jumps from 180 to -180 degrees for one round
    # the world, and what RFC 7946 has cut there for two areas; it moves vertices far outside of the pixels' CRS with
    # the others; and its to_crs takes three times as long for a coastline of 100 000 vertices.
    parts: Shapes
    crs: Any
    name: str = "area="

    @property
    def lonlat(self) -> Bounds:
        """West, south, east, north in degrees of the least box round all parts; east may pass 180."""
        import shapely

        boxes, turn = shapely.bounds(self.parts), _turn(self.crs)
        if turn is None:
            boxes = np.array([reprojected(_around(boxes), self.crs, LONLAT)])
        elif not self.crs.is_geographic:
            boxes = _unrolled(boxes, self.crs, turn)
        return _around(boxes, degrees=True)

    def seen_from(self, pixels: Bounds) -> Bounds:
        """Bounds in the area's own CRS; where coordinates begin anew, those nearest to some pixels, for messages."""
        import shapely

        turn = _turn(self.crs)
        bounds = _around(shapely.bounds(self.parts), self.crs.is_geographic)
        return bounds if turn is None else beside(bounds, (pixels[0] + pixels[2]) / 2, turn)

    def near(self, target: Any, pixels: Bounds) -> Shapes:
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
        import shapely

        if self.crs.equals(target, ignore_axis_order=True):
            return self.parts
        degrees, turn = self.crs.is_geographic, _turn(self.crs)
        box = np.array(reprojected(pixels, target, self.crs))
        low, high = box[:2] - _MARGIN[degrees], box[2:] + _MARGIN[degrees]
        parts = within(_copies(self.parts, low[0], high[0], turn, degrees), low, high)
        points = int(shapely.get_num_coordinates(parts).sum() + shapely.length(parts).sum() / _STEP[degrees])
        if points > _MOST_POINTS:
            raise SourceError(
                f"{self.name} has edges that take {points} points near the pixels, about a kilometre apart, and "
                f"{_MOST_POINTS} can be held: simplify it, or give its bounds"
            )
        project = _transformer(self.crs, target).transform
        moved: Shapes = shapely.transform(shapely.segmentize(parts, _STEP[degrees]), project, interleaved=False)
        return moved


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
        A bbox (west, south, east, north); GeoJSON as a dict, or the path of a file with it; a geometry of shapely,
        geopandas or odc-geo; or a ``GeoBox`` of odc-geo, as ``cube.odc.geobox``.
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
    import shapely

    try:
        if isinstance(area, (str, os.PathLike)):
            area = _file(area, name)
        elif hasattr(area, "affine") and hasattr(area, "extent"):  # a GeoBox
            area = area.extent
        own_crs = getattr(area, "crs", None)
        shape: Any = area if isinstance(area, Mapping) else getattr(area, "__geo_interface__", area)
        box = isinstance(shape, Iterable) and not isinstance(shape, Mapping)
        if own_crs is None and isinstance(shape, Mapping) and shape.get("crs") is not None:
            # Not in GeoJSON any more since RFC 7946, and still written by GDAL for whatever is not lon/lat.
            own_crs = shape["crs"]["properties"]["name"]
        area_crs = crs_from(crs if crs is not None else own_crs if own_crs is not None else LONLAT)
        parts = np.array(
            [_rectangle(shape, name, area_crs.is_geographic)] if box else list(_parts(shape, name)), object
        )
    except (SourceError, CRSError):
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise SourceError(f"{name} is not GeoJSON as it should be ({type(error).__name__}: {error})") from error
    if not len(parts):
        raise SourceError(f"{name} is empty: it has no geometry")
    low, high = np.array(shapely.total_bounds(parts)).reshape(2, 2)
    if area_crs.is_geographic and not (np.abs([low, high]) <= (540, 90)).all():  # lon may pass 180 by one turn
        what = (
            "say what it is in, as area_crs='EPSG:32633'"
            if name == "area="
            else "reproject it to EPSG:4326, or give it with its CRS, as geopandas does"
        )
        raise SourceError(
            f"{name} reaches from {low.tolist()} to {high.tolist()}, which is not lon/lat in degrees: {what}"
        )
    turn = _turn(area_crs)
    if turn is not None and not box:
        boxes = shapely.bounds(parts)
        # Nothing else can jump, nor have a hole a turn away from its outline.
        for number in np.flatnonzero(
            (boxes[:, 2] - boxes[:, 0] > turn / 2) | (shapely.get_num_interior_rings(parts) > 0)
        ):
            parts[number] = _unwrapped(parts[number], turn, area_crs.is_geographic)
    return Area(parts, area_crs, name)


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
        return _named(given) if isinstance(given, str) else CRS.from_user_input(given)
    except Unknown as error:
        raise CRSError(f"area_crs={given!r} is not a CRS: give one as 'EPSG:32633'") from error


@lru_cache(maxsize=32)
def _named(crs: str) -> Any:
    from pyproj import CRS

    return CRS.from_user_input(crs)


def _transformer(source: Any, target: Any) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)


def _around(boxes: Line, degrees: bool = False) -> Bounds:
    """West, south, east and north of all of some boxes; in degrees on a circle."""
    (west, south), (east, north) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    if degrees:
        west, east = _least(boxes[:, 0], boxes[:, 2])
    return float(west), float(south), float(east), float(north)


# --- what a caller gives --------------------------------------------------------------------------


def _file(given: str | os.PathLike[str], name: str) -> Any:
    try:
        path = local(given)
        if not path.is_file():
            raise SourceError("there is no such file")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise SourceError(f"it has {size / 2**20:.0f} MB, and {_MOST_BYTES // 2**20} MB are read: simplify it")
        return json.loads(path.read_text(encoding="utf-8-sig"))  # some programs begin files with a mark
    except (OSError, ValueError, RuntimeError) as error:  # the last: nested too deep, the home of nobody
        why = getattr(error, "strerror", None) or error
        raise SourceError(f"{name}{str(given)[:200]!r} cannot be read as a file with GeoJSON: {why}") from error


def _rectangle(bbox: Any, name: str, degrees: bool) -> Any:
    import shapely

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
    return shapely.box(*_finite(np.array([west, south, east, north]), name))


def _parts(shape: Any, name: str) -> Iterator[Any]:
    """The polygons, lines and points that a GeoJSON object is made of."""
    import shapely

    # Not shapely.geometry.shape: it takes numbers in quotes and rings of three positions, and says of what it does not
    # take neither what nor where.
    if not isinstance(shape, Mapping) or "type" not in shape:
        raise SourceError(
            f"{name} is a {type(shape).__name__}: give a bbox, GeoJSON as a dict or a file, a geometry of shapely, "
            "geopandas or odc-geo, or a GeoBox"
        )
    left, vertices = [(shape, 0)], 0
    while left:
        geometry, depth = left.pop()
        if depth > _MOST_DEEP:
            raise SourceError(f"{name} has collections in collections, over {_MOST_DEEP} deep: flatten it")
        if not isinstance(geometry, Mapping):
            raise SourceError(f"{name} has a {type(geometry).__name__} where GeoJSON has a geometry")
        kind = geometry["type"]
        if kind == "Feature":
            if geometry["geometry"] is not None:
                left.append((geometry["geometry"], depth + 1))
        elif kind in ("FeatureCollection", "GeometryCollection"):
            inner = geometry["features" if kind == "FeatureCollection" else "geometries"]
            left += [(part, depth + 1) for part in reversed(inner)]
        else:
            for part in _geometries(kind, geometry.get("coordinates"), name):
                vertices += int(shapely.get_num_coordinates(part))
                if vertices > MOST_VERTICES:
                    raise SourceError(f"{name} has over {MOST_VERTICES} vertices, which is the most: simplify it")
                yield part


def _geometries(kind: Any, at: Any, name: str) -> Iterator[Any]:
    """The parts of one GeoJSON geometry."""
    import shapely

    if kind not in ("Polygon", "LineString", "LinearRing", "Point", "MultiPolygon", "MultiLineString", "MultiPoint"):
        raise SourceError(f"{name} has the type {kind!r}, which is not one of GeoJSON's")
    if not isinstance(at, (Sequence, np.ndarray)) or isinstance(at, str):
        raise SourceError(f"{name} is not GeoJSON as it should be: a {kind} has the coordinates {str(at)[:80]!r}")
    single = kind.removeprefix("Multi")
    several = [member for member in (at if kind.startswith("Multi") else [at]) if len(member)]
    if single == "Point":
        yield from shapely.points(_line(several, name)) if several else ()
        return
    for member in several:
        lines, least = (member, 4) if single == "Polygon" else ([member], 2)
        if any(len(line) < least for line in lines):
            raise SourceError(f"{name} has a {single} of under {least} positions")
        arrays = [_line(line, name) for line in lines]
        yield shapely.Polygon(arrays[0], arrays[1:]) if single == "Polygon" else shapely.LineString(arrays[0])


def _line(positions: Any, name: str) -> Line:
    if len(positions) > MOST_VERTICES:
        raise SourceError(f"{name} has over {MOST_VERTICES} vertices, which is the most: simplify it")
    vertices = np.array([position[:2] for position in positions])  # without heights
    if vertices.dtype.kind not in "iuf" or vertices.shape != (len(positions), 2):
        wrong = str(next(iter(positions)))[:80]
        raise SourceError(f"{name} is not GeoJSON as it should be: positions are two or three numbers, not {wrong}")
    return _finite(vertices.astype(np.float64), name)


def _finite(line: Line, name: str) -> Line:
    if not np.isfinite(line).all():
        raise SourceError(f"{name} has coordinates that are not finite numbers")
    return line


# --- longitudes are a circle ----------------------------------------------------------------------


@lru_cache(maxsize=32)
def _turn(crs: Any) -> float | None:
    """After how much the first coordinate begins anew: 360 degrees, the metres round a cylinder, or not at all."""
    from pyproj import Transformer

    if crs.is_geographic:
        return 360.0
    lon = np.arange(0.0, 361.0, 60.0)
    project = Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    x, other = (np.asarray(project.transform(lon, np.full(7, lat))[0]) for lat in (10.0, 50.0))
    if not np.isfinite([x, other]).all() or np.abs(x - other).max() > 1e-3:
        return None
    step = float(np.median(np.diff(x)))
    turns = (np.diff(x) - step) / (6 * step) if step > 0 else np.array([0.5])
    return 6 * step if np.abs(turns - np.round(turns)).max() < 1e-6 else None


def _unwrapped(part: Any, turn: float, degrees: bool) -> Any:
    """The same without jumps of nearly a turn; the holes of a polygon lie where its outline does."""
    import shapely

    closed = part.geom_type == "Polygon"
    lines = [shapely.get_coordinates(line) for line in ((part.exterior, *part.interiors) if closed else (part,))]
    if any(np.ptp(line[:, 0]) > turn / 2 for line in lines):
        lines = [_smooth(line, turn, closed) for line in lines]
    if not closed:
        return shapely.LineString(lines[0])
    outline, *holes = lines
    if degrees and abs(around := outline[-1, 0] - outline[0, 0]) > 180:  # round a pole
        pole = math.copysign(90.0, float(outline[:, 1].mean()))
        over = np.array([(outline[-1, 0], pole), (outline[-1, 0] - around, pole), tuple(outline[0])])
        outline = np.concatenate([outline, over])
    middle = float(outline[:, 0].min() + outline[:, 0].max()) / 2
    shifts = [turn * round((middle - float(hole[:, 0].min() + hole[:, 0].max()) / 2) / turn) for hole in holes]
    return shapely.Polygon(outline, [hole + np.array([by, 0]) for hole, by in zip(holes, shifts, strict=True)])


def _smooth(line: Line, turn: float, closed: bool) -> Line:
    jumps = np.diff(line[:, 0]) / turn
    full_turns = np.abs(np.abs(jumps) - 1) < 1e-9  # round the world, as a box or over a pole
    turns = np.where((np.abs(jumps) > 0.5) & ~full_turns, np.round(jumps), 0)
    if closed and turns.sum():  # or from 180 to -180, which are one place
        turns[full_turns] = np.round(jumps[full_turns])
    return np.column_stack([line[:, 0] - turn * np.append(0, np.cumsum(turns)), line[:, 1]])


def _copies(parts: Shapes, west: float, east: float, turn: float | None, degrees: bool) -> Shapes:
    """The parts, each as often as it reaches between two edges, from turn to turn."""
    import shapely

    if turn is None:
        return parts
    boxes = shapely.bounds(parts)
    if degrees:
        parts = parts.copy()
        for number in np.flatnonzero((boxes[:, [0, 2]] % 180 == 0).any(axis=1)):
            parts[number] = _overlapping(parts[number])
    first, last = np.ceil((west - boxes[:, 2]) / turn), np.floor((east - boxes[:, 0]) / turn)
    turns = range(int(first.min()), int(last.max()) + 1)
    copies = [shapely.transform(parts[(first <= n) & (n <= last)], partial(np.add, (n * turn, 0.0))) for n in turns]
    return np.concatenate([parts[:0], *copies])


def _overlapping(part: Any) -> Any:
    """A polygon that ends at 180 or 0 degrees, where others cut what goes on beyond, a hair wider there."""
    import shapely

    if part.geom_type != "Polygon":
        return part
    low, _, high, _ = part.bounds

    def wider(at: Line) -> Line:
        out = at.copy()
        for edge, by in ((low, -_SEAM), (high, _SEAM)):
            if edge % 180 == 0:
                out[at[:, 0] == edge, 0] += by
        return out

    return shapely.transform(part, wider)


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
    shortest = _normal(first, max(first, first + 360 - float(gaps[at])))
    plain = float(west.min()), float(east.max())  # the caller's own digits, where they will do
    return plain if np.allclose(plain, shortest, rtol=0, atol=1e-9) else shortest


def _normal(west: float, east: float) -> tuple[float, float]:
    """The same interval beginning from -180 up to 180; all of the circle if it is longer."""
    if east - west >= 360:
        return -180.0, 180.0
    shift = 0.0 if -180 <= west < 180 else 360 * math.floor((west + 180) / 360)
    return west - shift, east - shift


def beside(bounds: Bounds, x: float, turn: float = 360.0) -> Bounds:
    """The same bounds, as many turns on as it takes to lie nearest to `x`."""
    west, south, east, north = bounds
    shift = turn * round((x - (west + east) / 2) / turn)
    return west + shift, south, east + shift, north


def _unrolled(boxes: Line, crs: Any, turn: float) -> Line:
    """Boxes on a cylinder in degrees, none wider than a turn."""
    to_degrees = _transformer(crs, LONLAT).transform
    west, south = to_degrees(boxes[:, 0], boxes[:, 1])
    wide = 360 * np.minimum((boxes[:, 2] - boxes[:, 0]) / turn, 1 - 1e-12)
    return np.column_stack([west, south, west + wide, to_degrees(boxes[:, 0], boxes[:, 3])[1]])


def reprojected(bounds: Bounds, source: Any, target: Any) -> Bounds:
    """Bounds in another CRS. Where its first coordinate begins anew they may pass its end; in degrees, only east may.

    Raises
    ------
    CRSError
        If the other CRS does not reach there.
    """
    import shapely

    west, south, east, north = bounds
    target = crs_from(target)
    ring = shapely.segmentize(shapely.box(*bounds).exterior, max(east - west, north - south) / 100 or 1.0)
    points = np.stack(_transformer(source, target).transform(*shapely.get_coordinates(ring).T))
    x, y = points[:, np.isfinite(points).all(axis=0)]
    if not len(x):
        raise CRSError(f"({west:.10g}, {south:.10g}, {east:.10g}, {north:.10g}) is nowhere in {target.name}")
    turn = _turn(target)
    if turn is not None:
        x = np.unwrap(x, period=turn)
    if target.is_geographic and abs(x[-1] - x[0]) > 180:  # round a pole
        pole = math.copysign(90.0, float(y.mean()))
        return -180.0, min(float(y.min()), pole), 180.0, max(float(y.max()), pole)
    west, east = _normal(float(x.min()), float(x.max())) if target.is_geographic else (float(x.min()), float(x.max()))
    return west, float(y.min()), east, float(y.max())


@lru_cache(maxsize=4096)
def lonlat(grid: GeoBox) -> Bounds:
    """West, south, east, north of a grid, in degrees; east may pass 180."""
    assert grid.crs is not None
    return reprojected(grid.boundingbox.bbox, grid.crs.proj, LONLAT)


# --- what is near ---------------------------------------------------------------------------------


def within(parts: Shapes, low: Line, high: Line) -> Shapes:
    """What lies in a box, with straight edges along its border where a polygon goes on beyond."""
    import shapely

    boxes = shapely.bounds(parts)
    near = (boxes[:, :2] <= high).all(axis=1) & (boxes[:, 2:] >= low).all(axis=1)
    inside = (boxes[:, :2] >= low).all(axis=1) & (boxes[:, 2:] <= high).all(axis=1)
    cut = [piece for part in parts[near & ~inside] for piece in _cut(part, low, high)]
    clipped: Shapes = np.concatenate([parts[inside], np.array(cut, object)])
    return clipped


def _cut(part: Any, low: Line, high: Line) -> list[Any]:
    import shapely

    if part.geom_type != "Polygon":
        return list(shapely.get_parts(shapely.clip_by_rect(part, *low, *high)))
    # Not shapely's clip_by_rect: with polygons that touch the box in a corner it fails ("Invalid number of points in
    # LinearRing"), and of polygons that cross themselves, as people draw them, it keeps other pixels.
    rings = []
    for ring in (part.exterior, *part.interiors):
        line = shapely.get_coordinates(ring)
        for axis in (0, 1):
            line = _cut_ring(line, axis, float(low[axis]), -1)
            line = _cut_ring(line, axis, float(high[axis]), 1)
        if len(line):  # shapely has no rings of under four positions
            rings.append(np.concatenate([line, *[line[-1:]] * (4 - len(line))]))
        elif not rings:
            return []
    return [shapely.Polygon(rings[0], rings[1:])]


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
