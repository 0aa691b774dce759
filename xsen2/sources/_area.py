"""Area of interest (AOI): from lon/lat to a box of whole 60 m pixels in the CRS of a tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pyproj import Transformer

from xsen2.errors import SourceError
from xsen2.geometry import dense
from xsen2.grid import snap

__all__ = ["CELL", "Area", "Box", "lonlat"]

Box = tuple[int, int, int, int]
"""Left, bottom, right, top in metres, on edges of 60 m pixels: `xsen2.grid.lattice` says where these are."""

CELL = 60
"""The coarsest pixel, in metres: its edges are shared by all three grids."""

_STEP = 0.01  # degrees between projected points: a parallel bulges less than 3 cm between two of them
_MARGIN = 1.0  # degrees kept round a tile, so that far-away vertices stay where UTM is well defined


@lru_cache
def lonlat(box: Box, epsg: int) -> tuple[float, float, float, float]:
    """West, south, east, north of a projected box; east may pass 180 when the box crosses it."""
    left, bottom, right, top = box
    ring = np.array([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)], float)
    x, y = dense(ring, (right - left) / 100).T
    lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)
    lon = lon[0] + (lon - lon[0] + 180) % 360 - 180
    return float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())


@dataclass(frozen=True)
class Area:
    """An area of interest in lon/lat.

    Attributes
    ----------
    vertices : numpy.ndarray
        Its outline, dense enough that straight lon/lat edges stay straight, (n, 2).
    """

    vertices: np.ndarray[Any, np.dtype[np.float64]]

    @classmethod
    def read(cls, bbox: Sequence[float] | None, geometry: object | None) -> Area | None:
        """The area that `bbox` or `geometry` describes; None when both are None."""
        if bbox is not None and geometry is not None:
            raise SourceError("both bbox= and geometry= were given: give the one to load")
        if bbox is not None:
            try:
                ring = _ring(bbox)
            except (TypeError, ValueError) as error:
                if isinstance(error, SourceError):
                    raise
                raise SourceError(f"bbox={bbox!r}: give four numbers, west, south, east, north in degrees") from error
            return cls(_outline([ring]))
        if geometry is not None:
            try:
                return cls(_outline(list(_paths(_geojson(geometry)))))
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                if isinstance(error, SourceError):
                    raise
                raise SourceError(f"geometry= is not GeoJSON ({type(error).__name__}: {error})") from error
        return None

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees."""
        (west, south), (east, north) = self.vertices.min(0), self.vertices.max(0)
        return float(west), float(south), float(east), float(north)

    def box(self, extent: Box, epsg: int) -> Box | None:
        """Bounding box of the area, snapped outward to cells of `extent` and clipped to it; None outside it."""
        tile_west, tile_south, tile_east, tile_north = lonlat(extent, epsg)
        west, _, east, _ = self.bounds
        turns = round(((tile_west + tile_east) - (west + east)) / 720)
        lon = np.clip(self.vertices[:, 0] + 360 * turns, tile_west - _MARGIN, tile_east + _MARGIN)
        lat = np.clip(self.vertices[:, 1], tile_south - _MARGIN, tile_north + _MARGIN)
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        own = (x.min(), y.min(), x.max(), y.max())
        left, bottom, right, top = (round(edge) for edge in snap(own, CELL, (extent[0], extent[1])))
        right, top = max(right, left + CELL), max(top, bottom + CELL)  # a point on an edge gets a cell
        left, bottom = max(left, extent[0]), max(bottom, extent[1])
        right, top = min(right, extent[2]), min(top, extent[3])
        return (left, bottom, right, top) if left < right and bottom < top else None


def _ring(bbox: Sequence[float]) -> list[tuple[float, float]]:
    values = [float(v) for v in bbox]
    if len(values) == 6:  # STAC allows heights: west, south, low, east, north, high
        values = [values[i] for i in (0, 1, 3, 4)]
    if len(values) != 4:
        raise SourceError(f"bbox= has {len(values)} numbers: give (west, south, east, north) in degrees")
    west, south, east, north = values
    if east < west:  # how STAC writes a box across the antimeridian
        east += 360
    if not south <= north:
        raise SourceError(f"bbox={tuple(bbox)}: south is above north; the order is (west, south, east, north)")
    return [(west, south), (east, south), (east, north), (west, north), (west, south)]


def _geojson(geometry: Any) -> Mapping[str, Any]:
    if getattr(geometry, "crs", None) is not None and hasattr(geometry, "to_crs"):  # geopandas, in any CRS
        geometry = geometry.to_crs(4326)
    found = getattr(geometry, "__geo_interface__", geometry)
    if not isinstance(found, Mapping) or "type" not in found:
        raise SourceError(
            f"geometry= is a {type(geometry).__name__}: give a GeoJSON dict, a shapely geometry, "
            "an object of geopandas, or one with __geo_interface__, in lon/lat"
        )
    return found


def _paths(shape: Mapping[str, Any]) -> Iterator[Sequence[Sequence[float]]]:
    """The lines and rings that a GeoJSON object is made of."""
    kind = shape["type"]
    if kind == "Feature":
        yield from _paths(shape["geometry"])
    elif kind in ("FeatureCollection", "GeometryCollection"):
        for part in shape["features" if kind == "FeatureCollection" else "geometries"]:
            yield from _paths(part)
    elif kind in ("Point", "MultiPoint"):
        for point in [shape["coordinates"]] if kind == "Point" else shape["coordinates"]:
            yield [point]
    elif kind in ("LineString", "LinearRing"):  # shapely has rings of its own
        yield shape["coordinates"]
    elif kind in ("MultiLineString", "Polygon"):
        yield from shape["coordinates"]
    elif kind == "MultiPolygon":
        for polygon in shape["coordinates"]:
            yield from polygon
    else:
        raise SourceError(f"geometry= has the type {kind!r}, which is not one of GeoJSON's")


def _outline(paths: Sequence[Sequence[Sequence[float]]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    lines = [np.array([position[:2] for position in path], float) for path in paths if len(path)]
    if not lines:
        raise SourceError("geometry= is empty: there is no area to load")
    corners = np.concatenate(lines)
    if not (np.abs(corners) <= (540, 90)).all():  # lon may pass 180 by one turn; NaN is refused too
        low, high = corners.min(0).tolist(), corners.max(0).tolist()
        raise SourceError(
            f"the area reaches from {low} to {high}, which is not lon/lat in degrees: reproject it to EPSG:4326"
        )
    return np.concatenate([dense(line, _STEP) for line in lines])
