"""Area of interest (AOI): where it lies in a cube, which blocks it takes, and how a result is cut to it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from pyproj import Transformer

from xsen2.cube import Cube
from xsen2.engine.halo import MOST, split
from xsen2.errors import CRSError, SourceError
from xsen2.geometry import Area as Shape
from xsen2.geometry import Part, crs_from, dense, extent, extents, read
from xsen2.geometry import extent as bounds_of
from xsen2.grid import Bounds, snap
from xsen2.radiometry import nodata_of

__all__ = ["CELL", "Aoi", "Area", "Box", "locate", "lonlat"]


# Area of interest (AOI): from any form of it to a box of whole 60 m pixels in the CRS of a tile.


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


Chunks = tuple[tuple[int, ...], tuple[int, ...]]

_SLACK = 1e-3  # of a pixel: GeoJSON has seven decimals, about a centimetre
_SMALL = 2**16  # pixels of an area that is looked at before anything is computed
_MANY = 1000  # points of a part that is cut to a block before it is drawn there
_BEYOND = 8  # pixels round a block that are kept of it then


@dataclass(frozen=True)
class Aoi:
    """An area in a cube.

    Attributes
    ----------
    rows, columns : slice
        The 10 m pixels that it touches, from the cube's north and west edges on.
    corner : tuple of float
        West and north edges of the cube.
    size : float
        Of a pixel.
    parts : tuple of Part
        In the CRS of the cube.
    """

    rows: slice
    columns: slice
    corner: tuple[float, float]
    size: float
    parts: tuple[Part, ...]

    def finer(self, zoom: int) -> Aoi:
        """The same area in pixels of which `zoom` along each side make one of the cube's."""
        rows, columns = (slice(span.start * zoom, span.stop * zoom) for span in (self.rows, self.columns))
        return replace(self, rows=rows, columns=columns, size=self.size / zoom)

    def blocks(self, chunks: Chunks, cell: int, least: tuple[int, int] = (1, 1)) -> Chunks:
        """Blocks of the whole grid, on multiples of `cell`, of which none holds more of the outside than it must.

        Nor is any of them thinner than `least` along rows and columns, unless the area or what is left beside it is.
        """
        return _round(chunks[0], self.rows, cell, least[0]), _round(chunks[1], self.columns, cell, least[1])

    def cut(self, ds: xr.Dataset, dims: tuple[Hashable, Hashable], clip: bool) -> xr.Dataset:
        """The part of a result that lies in the area.

        Parameters
        ----------
        ds : xarray.Dataset
            On the cube's 10 m grid.
        dims : tuple
            Names of its rows and columns.
        clip : bool
            Whether pixels whose centre is outside of every polygon, and that no point or line touches, become nodata.

        Raises
        ------
        SourceError
            If `clip` would leave nothing of a small area.
        """
        out = ds.isel({dims[0]: self.rows, dims[1]: self.columns})
        if min(out.sizes[dim] for dim in dims) == 1 and "spatial_ref" in out.coords:
            # One coordinate does not tell the size of a pixel.
            west = self.corner[0] + self.columns.start * self.size
            north = self.corner[1] - self.rows.start * self.size
            out = out.assign_coords(spatial_ref=out["spatial_ref"].copy())
            out["spatial_ref"].attrs["GeoTransform"] = f"{west} {self.size} 0.0 {north} 0.0 {-self.size}"
        return self._clipped(out, dims) if clip else out

    def _clipped(self, ds: xr.Dataset, dims: tuple[Hashable, Hashable]) -> xr.Dataset:
        shape = (ds.sizes[dims[0]], ds.sizes[dims[1]])
        if math.prod(shape) <= _SMALL and not self.inside((0, shape[0]), (0, shape[1])).any():
            raise SourceError("area= holds the centre of no pixel, so clip=True would leave nothing: use clip=False")
        new = {}
        draw = _Drawn(self)
        for name, variable in ds.data_vars.items():
            if set(dims) <= set(variable.dims):
                inside = da.map_blocks(draw, chunks=variable.data.chunks[-2:], dtype=bool, meta=np.empty((0, 0), bool))
                nothing = np.asarray(_nothing(variable), variable.dtype)
                new[name] = variable.copy(data=da.where(inside, variable.data, nothing))
        return ds.assign(new)

    def inside(self, rows: tuple[int, int], columns: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Where the area is among some of its own pixels."""
        from rasterio.features import rasterize
        from rasterio.transform import Affine

        west = self.corner[0] + (self.columns.start + columns[0]) * self.size
        north = self.corner[1] - (self.rows.start + rows[0]) * self.size
        shape = (rows[1] - rows[0], columns[1] - columns[0])
        at = Affine(self.size, 0, west, 0, -self.size, north)
        shapes = list(self._near((west, north - shape[0] * self.size, west + shape[1] * self.size, north)))
        if not shapes:
            return np.zeros(shape, bool)
        found: npt.NDArray[np.bool_] = rasterize(shapes, shape, transform=at, dtype="uint8").astype(bool)
        return found

    def _near(self, block: Bounds) -> Iterator[dict[str, Any]]:
        """What may touch a block, as GeoJSON."""
        low = np.array(block[:2]) - _BEYOND * self.size
        high = np.array(block[2:]) + _BEYOND * self.size
        bounds = np.array([extent([part]) for part in self.parts])
        near = (bounds[:, :2] <= high).all(axis=1) & (bounds[:, 2:] >= low).all(axis=1)
        for number in np.flatnonzero(near):
            part = self.parts[number]
            if part.kind != "LineString" and sum(map(len, part.lines)) > _MANY:
                yield from (cut.geojson() for cut in part.within(low, high))
            else:
                yield part.geojson()


def locate(cube: Cube, area: object, crs: object | None = None) -> Aoi:
    """Find an area in a cube.

    Parameters
    ----------
    cube : Cube
    area : object
        As `xsen2.superresolve.superresolve` takes it.
    crs : object, optional
        What its coordinates are in, if neither lon/lat nor what it says itself.

    Raises
    ------
    SourceError
        If it is no area, or lies outside the cube.
    CRSError
        If the CRS is none, or the cube has none.
    """
    if cube.crs is None:
        raise CRSError("area= needs to know where the cube is, but it has no CRS: use ds.rio.write_crs('EPSG:…')")
    wanted = read(area, crs)
    found = wanted.near(crs_from(cube.crs.to_wkt()), cube.bounds)
    boxes = _boxes(extents(found.parts), cube)
    if not len(boxes):
        raise SourceError(
            f"area= lies outside the cube: it covers {_words(found.area)}, the cube {_words(found.pixels)} (west, "
            f"south, east, north in {wanted.crs.to_string()}); in {cube.crs.to_string()}, its own CRS, the cube covers "
            f"{_words(cube.bounds)}"
        )
    top, left = boxes[:, :2].min(axis=0).tolist()
    bottom, right = boxes[:, 2:].max(axis=0).tolist()
    return Aoi(
        slice(top, bottom),
        slice(left, right),
        (cube.bounds[0], cube.bounds[3]),
        cube.resolution,
        found.parts,
    )


def _words(bounds: Bounds) -> str:
    return " ".join(f"{value:.10g}" for value in np.round(bounds, 4))


def _round(chunks: Sequence[int], span: slice, cell: int, least: int) -> tuple[int, ...]:
    """Chunks near `chunks`; those inside the span are of their own, of one size, and not larger than the largest."""
    total = sum(chunks)
    start, stop = span.start // cell * cell, min(-(-span.stop // cell) * cell, total)
    borders = np.cumsum([0, *chunks]).tolist()
    before = np.diff([*(b for b in borders if b < start), start]).tolist() if start else []
    after = np.diff([stop, *(b for b in borders if b > stop)]).tolist()
    most = max(min(max(chunks), MOST), 2 * least)
    return (
        *split(before, cell, least=least),
        *split((stop - start,), cell, most),
        *split(after, cell, least=least),
    )


def _boxes(bounds: npt.NDArray[np.float64], cube: Cube) -> npt.NDArray[np.int64]:
    """Top, left, bottom, right in pixels, snapped outward and cut to the cube, of those that are not outside it."""
    west, _, _, north = cube.bounds
    size, (height, width) = cube.resolution, cube.shape(10)
    first = np.floor((np.stack([north - bounds[:, 3], bounds[:, 0] - west], axis=1)) / size + _SLACK)
    last = np.ceil((np.stack([north - bounds[:, 1], bounds[:, 2] - west], axis=1)) / size - _SLACK)
    last = np.maximum(last, first + 1)  # a point on an edge gets a pixel
    first, last = np.maximum(first, 0), np.minimum(last, (height, width))
    found: npt.NDArray[np.int64] = np.concatenate([first, last], axis=1)[(first < last).all(axis=1)].astype(np.int64)
    return found


class _Drawn:
    """`Aoi.inside` of a block; dask looks for its own objects in arguments that are dataclasses, part by part."""

    def __init__(self, aoi: Aoi) -> None:
        self.aoi = aoi

    def __call__(self, block_info: Any = None) -> npt.NDArray[np.bool_]:
        return self.aoi.inside(*block_info[None]["array-location"])

    def __dask_tokenize__(self) -> tuple[str, str]:
        aoi = self.aoi
        found = hashlib.sha256(repr((aoi.rows, aoi.columns, aoi.corner, aoi.size)).encode())
        for part in aoi.parts:
            for line in part.lines:
                found.update(f"{part.kind} {len(line)} ".encode() + np.ascontiguousarray(line).tobytes())
        return "xsen2-area", found.hexdigest()


def _nothing(variable: xr.DataArray) -> Any:
    """The value that means nodata."""
    if variable.dtype.kind in "fc":
        return np.nan
    declared = variable.encoding.get("_FillValue", nodata_of(variable))
    return 0 if declared is None else declared
