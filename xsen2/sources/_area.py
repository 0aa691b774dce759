"""Area of interest (AOI): from any form of it to a box of whole 60 m pixels in the CRS of a tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pyproj import Transformer

from xsen2.errors import SourceError
from xsen2.geometry import Area as Shape
from xsen2.geometry import crs_from, dense, read
from xsen2.geometry import extent as bounds_of
from xsen2.grid import snap

__all__ = ["CELL", "Area", "Box", "lonlat"]

Box = tuple[int, int, int, int]
"""Left, bottom, right, top in metres, on edges of 60 m pixels: `xsen2.grid.lattice` says where these are."""

CELL = 60
"""The coarsest pixel, in metres: its edges are shared by all three grids."""


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
    """An area of interest.

    Attributes
    ----------
    shape : xsen2.geometry.Area
    """

    shape: Shape

    @classmethod
    def read(cls, bbox: Sequence[float] | None, geometry: object | None) -> Area | None:
        """The area that `bbox` or `geometry` describes; None when both are None."""
        if bbox is not None and geometry is not None:
            raise SourceError("both bbox= and geometry= were given: give the one to load")
        if bbox is not None:
            return cls(read(bbox, name="bbox="))
        return None if geometry is None else cls(read(geometry, name="geometry="))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees; east may pass 180."""
        return self.shape.lonlat

    def box(self, extent: Box, epsg: int) -> Box | None:
        """Bounding box of the area, snapped outward to cells of `extent` and clipped to it; None outside it."""
        boxes = []
        for part in self.shape.near(crs_from(epsg), extent).parts:
            inside = [part] if part.kind != "Point" else list(part.within(np.array(extent[:2]), np.array(extent[2:])))
            if not inside:
                continue
            snapped = snap(bounds_of(inside), CELL, (extent[0], extent[1]))
            left, bottom, right, top = (round(edge) for edge in snapped)
            right, top = max(right, left + CELL), max(top, bottom + CELL)  # a point on an edge gets a cell
            left, bottom = max(left, extent[0]), max(bottom, extent[1])
            right, top = min(right, extent[2]), min(top, extent[3])
            if left < right and bottom < top:
                boxes.append((left, bottom, right, top))
        if not boxes:
            return None
        lefts, bottoms, rights, tops = zip(*boxes, strict=True)
        return min(lefts), min(bottoms), max(rights), max(tops)
