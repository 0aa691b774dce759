"""Area of interest (AOI): where it lies in a cube, which blocks it takes, and how a result is cut to it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.cube import Cube
from xsen2.engine.halo import MOST, split
from xsen2.errors import CRSError, SourceError
from xsen2.geometry import Area, Shapes, read, reprojected, within
from xsen2.grid import Bounds, geotransform, resized, touched
from xsen2.radiometry import nodata_of

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["Aoi", "locate", "part_of"]


def part_of(grid: GeoBox, area: Area, cell: int = 1) -> GeoBox | None:
    """The pixels of a grid that an area touches, as a grid of their own; None if it lies outside.

    Parameters
    ----------
    grid : GeoBox
    area : Area
    cell : int
        Pixels are taken in cells of so many along each side, counted from the grid's corner.
    """
    import shapely

    assert grid.crs is not None
    spans = touched(shapely.bounds(area.near(grid.crs.proj, grid.boundingbox.bbox)), grid)
    if spans is None:
        return None
    rows, columns = (
        slice(span.start // cell * cell, min(-(-span.stop // cell) * cell, size))
        for span, size in zip(spans, grid.shape, strict=True)
    )
    return grid[rows, columns]


Chunks = tuple[tuple[int, ...], tuple[int, ...]]

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
    geobox : GeoBox
        The grid of these pixels.
    parts : numpy.ndarray of shapely geometries
        In the CRS of the cube.
    """

    rows: slice
    columns: slice
    geobox: GeoBox
    parts: Shapes

    def finer(self, zoom: int) -> Aoi:
        """The same area in pixels of which `zoom` along each side make one of the cube's."""
        rows, columns = (slice(span.start * zoom, span.stop * zoom) for span in (self.rows, self.columns))
        return replace(self, rows=rows, columns=columns, geobox=resized(self.geobox, self.geobox.resolution.x / zoom))

    def blocks(self, chunks: Chunks, cell: int, least: tuple[int, int] = (1, 1), most: int = MOST) -> Chunks:
        """Blocks of the whole grid, on multiples of `cell`, of which none holds more of the outside than it must.

        Nor is any of them thinner than `least` along rows and columns, unless the area or what is left beside it is.
        """
        return (
            _round(chunks[0], self.rows, cell, least[0], most),
            _round(chunks[1], self.columns, cell, least[1], most),
        )

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
            # One coordinate does not show the size of a pixel.
            out = out.assign_coords(spatial_ref=out["spatial_ref"].copy())
            out["spatial_ref"].attrs["GeoTransform"] = geotransform(self.geobox.affine)
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
        import shapely
        from rasterio.features import rasterize

        block = self.geobox[slice(*rows), slice(*columns)]
        low = np.array(block.boundingbox[:2]) - _BEYOND * block.resolution.x
        high = np.array(block.boundingbox[2:]) + _BEYOND * block.resolution.x
        boxes = shapely.bounds(self.parts)
        near = self.parts[(boxes[:, :2] <= high).all(axis=1) & (boxes[:, 2:] >= low).all(axis=1)]
        large = (shapely.get_type_id(near) == 3) & (shapely.get_num_coordinates(near) > _MANY)  # polygons
        dots = shapely.get_type_id(near) == 0
        shapes = [*near[~large & ~dots], *within(near[large], low, high)]
        if dots.any():  # one by one, a million of them would take minutes
            shapes.append(shapely.multipoints(near[dots]))
        if not shapes:
            return np.zeros(block.shape, bool)
        drawn: npt.NDArray[np.uint8] = rasterize(shapes, block.shape, transform=block.affine, dtype="uint8")
        return drawn.astype(bool)


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
    import shapely

    wanted, grid = read(area, crs), cube.geobox()
    assert grid.crs is not None
    parts = wanted.near(grid.crs.proj, cube.bounds)
    spans = touched(shapely.bounds(parts), grid)
    if spans is None:
        pixels = reprojected(cube.bounds, grid.crs.proj, wanted.crs)
        raise SourceError(
            f"area= lies outside the cube: it covers {_words(wanted.seen_from(pixels))}, the cube {_words(pixels)} "
            f"(west, south, east, north in {wanted.crs.to_string()}); in {cube.crs.to_string()}, its own CRS, the cube "
            f"covers {_words(cube.bounds)}"
        )
    return Aoi(*spans, grid[spans], parts)


def _words(bounds: Bounds) -> str:
    return " ".join(f"{value:.10g}" for value in np.round(bounds, 4))


def _round(chunks: Sequence[int], span: slice, cell: int, least: int, most: int) -> tuple[int, ...]:
    """Chunks near `chunks`; those inside the span are of their own, of one size, and not larger than the largest."""
    total = sum(chunks)
    start, stop = span.start // cell * cell, min(-(-span.stop // cell) * cell, total)
    borders = np.cumsum([0, *chunks]).tolist()
    before = np.diff([*(b for b in borders if b < start), start]).tolist() if start else []
    after = np.diff([stop, *(b for b in borders if b > stop)]).tolist()
    inside = max(min(max(chunks), most), 2 * least)
    return (
        *split(before, cell, most, least=least),
        *split((stop - start,), cell, inside),
        *split(after, cell, most, least=least),
    )


class _Drawn:
    """`Aoi.inside` of a block; dask looks for its own objects in arguments that are dataclasses, part by part."""

    def __init__(self, aoi: Aoi) -> None:
        self.aoi = aoi

    def __call__(self, block_info: Any = None) -> npt.NDArray[np.bool_]:
        return self.aoi.inside(*block_info[None]["array-location"])

    def __dask_tokenize__(self) -> tuple[str, str]:
        import shapely

        content = hashlib.sha256(repr(self.aoi.geobox).encode())
        for shape in shapely.to_wkb(self.aoi.parts):
            content.update(shape)
        return "xsen2-area", content.hexdigest()


def _nothing(variable: xr.DataArray) -> Any:
    """The value that means nodata."""
    if variable.dtype.kind in "fc":
        return np.nan
    declared = variable.encoding.get("_FillValue", nodata_of(variable))
    return 0 if declared is None else declared
