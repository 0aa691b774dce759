"""Area of interest (AOI): where it lies in a cube, which blocks it takes, and how a result is cut to it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.cube import Cube
from xsen2.errors import CRSError, SourceError
from xsen2.geometry import crs_from, extent, projected, read
from xsen2.grid import Bounds
from xsen2.halo import split
from xsen2.radiometry import nodata_of

__all__ = ["Aoi", "locate"]

Chunks = tuple[tuple[int, ...], tuple[int, ...]]
Geometry = dict[str, Any]

_SLACK = 1e-3  # of a pixel: GeoJSON has seven decimals, about a centimetre
_SMALL = 2**16  # pixels of an area that is looked at before anything is computed


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
    geometries : tuple of dict
        Its parts as GeoJSON, in the CRS of the cube.
    """

    rows: slice
    columns: slice
    corner: tuple[float, float]
    size: float
    geometries: tuple[Geometry, ...]

    def blocks(self, chunks: Chunks, cell: int) -> Chunks:
        """Blocks of the whole grid, on multiples of `cell`, of which none holds more of the outside than it must."""
        return _round(chunks[0], self.rows, cell), _round(chunks[1], self.columns, cell)

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
        for name, variable in ds.data_vars.items():
            if set(dims) <= set(variable.dims):
                inside = da.map_blocks(
                    _block, self, chunks=variable.data.chunks[-2:], dtype=bool, meta=np.empty((0, 0), bool)
                )
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
        found: npt.NDArray[np.bool_] = rasterize(self.geometries, shape, transform=at, dtype="uint8").astype(bool)
        return found


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
    parts, own = read(area, crs)
    found, said, there = projected(parts, own, crs_from(cube.crs.to_wkt()), cube.bounds)
    boxes = [box for part in found if (box := _box(extent([part]), cube)) is not None]
    if not boxes:
        raise SourceError(
            f"area= lies outside the cube: it covers {_words(said)}, the cube {_words(there)} (west, south, east, "
            f"north in {own.to_string()}); in {cube.crs.to_string()}, its own CRS, the cube covers "
            f"{_words(cube.bounds)}"
        )
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return Aoi(
        slice(min(tops), max(bottoms)),
        slice(min(lefts), max(rights)),
        (cube.bounds[0], cube.bounds[3]),
        cube.resolution,
        tuple(part.geojson() for part in found),
    )


def _words(bounds: Bounds) -> str:
    return " ".join(f"{value:.10g}" for value in np.round(bounds, 4))


def _round(chunks: Sequence[int], span: slice, cell: int) -> tuple[int, ...]:
    """Chunks near `chunks`; those inside the span are of their own, of one size, and not larger than the largest."""
    total = sum(chunks)
    start, stop = span.start // cell * cell, min(-(-span.stop // cell) * cell, total)
    borders = np.cumsum([0, *chunks]).tolist()
    before = np.diff([*(b for b in borders if b < start), start]).tolist() if start else []
    after = np.diff([stop, *(b for b in borders if b > stop)]).tolist()
    return (*split(before, cell), *split((stop - start,), cell, min(max(chunks), 2400)), *split(after, cell))


def _box(extent: Bounds, cube: Cube) -> tuple[int, int, int, int] | None:
    """Top, left, bottom, right in pixels, snapped outward and cut to the cube; None outside it."""
    west, _, _, north = cube.bounds
    size, (height, width) = cube.resolution, cube.shape(10)
    top, left = (math.floor(n / size + _SLACK) for n in (north - extent[3], extent[0] - west))
    bottom, right = (math.ceil(n / size - _SLACK) for n in (north - extent[1], extent[2] - west))
    bottom, right = max(bottom, top + 1), max(right, left + 1)  # a point on an edge gets a pixel
    top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, height), min(right, width)
    return (top, left, bottom, right) if top < bottom and left < right else None


def _block(aoi: Aoi, block_info: Any = None) -> npt.NDArray[np.bool_]:
    return aoi.inside(*block_info[None]["array-location"])


def _nothing(variable: xr.DataArray) -> Any:
    """The value that means nodata."""
    if variable.dtype.kind in "fc":
        return np.nan
    declared = variable.encoding.get("_FillValue", nodata_of(variable))
    return 0 if declared is None else declared
