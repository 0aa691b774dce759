"""From raw pixels on nested grids to the cube: DN, dates, dims, coordinates, CRS, attributes.

The tiles and copies of one pass are merged here, item by item, each with its own offset.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import tokenize

from xsen2.bands import BANDS, LAYERS
from xsen2.cube import DIMS, write_crs
from xsen2.errors import GridError, RadiometryError
from xsen2.grid import centres, resized
from xsen2.sources.calibration import Radiometry
from xsen2.sources.items import Item

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["assemble", "by_blocks", "calibrated", "classes", "first", "product_cube", "side_of"]


def assemble(
    arrays: Mapping[str, Any],
    grid: GeoBox,
    times: Sequence[datetime],
    attrs: Mapping[str, Any],
    gsds: Mapping[str, int] | None = None,
) -> xr.Dataset:
    """Put arrays of shape (time, y, x), one per band or layer, into a cube.

    Parameters
    ----------
    arrays : mapping
        Name → array; each covers `grid` with the pixels of its own native grid.
    grid : GeoBox
        The outer edges that all grids share, and their CRS.
    times : sequence of datetime.datetime
        UTC, without time zone.
    attrs : mapping
        Attributes of the dataset.
    gsds : mapping, optional
        Name → pixel size in metres, of arrays that are not on their native grid.

    Returns
    -------
    xarray.Dataset
    """
    from rasterio.crs import CRS

    assert grid.crs is not None
    cube = xr.Dataset(attrs=dict(attrs))
    cube["time"] = ("time", np.array(times, "datetime64[ns]"), {"standard_name": "time"})
    for name, data in arrays.items():
        what = BANDS.get(name) or LAYERS[name]
        gsd = (gsds or {}).get(name, what.gsd)
        dims = DIMS[gsd]
        for dim, values in zip(dims, centres(resized(grid, gsd)), strict=True):
            if dim not in cube.coords:
                axis = dim[0]
                about = {"standard_name": f"projection_{axis}_coordinate", "units": "metre", "axis": axis.upper()}
                cube[dim] = (dim, values, about)
        cube[name] = (("time", *dims), data, what.attrs | {"gsd": gsd})
    return write_crs(cube, CRS.from_epsg(grid.crs.epsg))


def product_cube(
    arrays: Mapping[str, Any],
    grid: GeoBox,
    time: datetime | None,
    meant: Mapping[str, Radiometry],
    *,
    product: str,
    tile: str,
    level: str,
    platform: str,
    baseline: str = "unknown",
    gsds: Mapping[str, int] | None = None,
) -> xr.Dataset:
    """The cube of one product and date, with what is known of it in its attributes; without the date if it is None.

    Parameters
    ----------
    arrays, grid, gsds
        As `assemble` takes them; bands are DN.
    time : datetime.datetime or None
        Of the tile, UTC, without time zone.
    meant : mapping
        Band → what its raw pixels meant.
    product, tile, level, platform, baseline : str
        For the attributes.
    """
    special: dict[str, float] = {}
    for radiometry in meant.values():
        # NaN, which is nodata in any product of floats, needs no mention.
        special |= ({} if np.isnan(radiometry.nodata) else {"NODATA": radiometry.nodata}) | dict(radiometry.special)
    attrs = {
        "product": product,
        "source": product,  # as a cube of any source has it
        "tile": tile,
        "level": level,
        "platform": platform,
        "processing_baseline": baseline,
        "units": "DN = 10000 x reflectance",
        "offset": _removed(meant),
        "special_values": ", ".join(f"{name} {value:g}" for name, value in special.items()),
        "attribution": f"contains modified Copernicus Sentinel data {time.year if time else ''}".strip(),
    }
    cube = assemble(arrays, grid, [time or datetime(1970, 1, 1)], attrs, gsds)
    added = sorted({radiometry.offset for radiometry in meant.values()})
    if len(added) == 1:
        about_offset = {"long_name": "added to the raw pixels to get DN", "units": "DN"}
        cube = cube.assign_coords(offset=("time", np.array(added, np.float32), about_offset))
    return cube if time else cube.isel(time=0, drop=True)


def _removed(meant: Mapping[str, Radiometry]) -> str:
    """What was done to the pixels, worded as `load` does."""
    values, gains = ({getattr(radiometry, key) for radiometry in meant.values()} for key in ("offset", "gain"))
    steps = " or ".join(f"{10000 / gain:g}" for gain in sorted(gains))
    then = "" if gains <= {1.0} else f", then multiplied by 10000 / {steps}"
    if len(values) == 1:
        return f"removed once: {values.pop():g} DN added to the raw pixels{then}; per date in the coordinate 'offset'"
    each = ", ".join(f"{name} {radiometry.offset:g}" for name, radiometry in meant.items()) or "nothing"
    return f"removed once: {each} DN added to the raw pixels{then}"


def by_blocks(
    read: Callable[..., Any],
    decode: Callable[..., Any],
    shape: Sequence[int],
    blocks: Sequence[int],
    side: int,
    dtype: npt.DTypeLike,
    label: str,
    *what: object,
) -> da.Array:
    """Lazy ``(1, y, x)`` pixels of an image that is read in blocks.

    Parameters
    ----------
    read : callable
        Gives the pixels of a chunk; takes `decode`, and dask's ``block_info``.
    decode : callable
        Of raw pixels.
    shape, blocks : sequence of int
        Rows and columns of the image, and of the blocks that it is stored in: chunks are whole ones.
    side : int
        About how wide a chunk is.
    label : str
        Of the tasks.
    *what
        What tells these pixels from all others, besides chunks and `decode`.
    """
    chunks = tuple(_chunk_sizes(n, block, side) for n, block in zip(shape, blocks, strict=True))
    out: da.Array = da.map_blocks(
        partial(read, decode=decode),
        chunks=((1,), *chunks),
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
        name=f"{label}-{tokenize(*what, chunks, decode)}",
    )
    return out


def _chunk_sizes(total: int, block: int, side: int) -> tuple[int, ...]:
    step = max(1, round(side / block)) * block
    return tuple(min(step, total - start) for start in range(0, total, step))


def side_of(chunks: int) -> int:
    """Pixels along y and x of a 10 m chunk: `chunks` rounded up to a multiple of 6, so that all grids can be cut alike.

    Raises
    ------
    GridError
        If `chunks` is not a positive integer.
    """
    try:
        value = operator.index(chunks)
    except TypeError:
        value = 0
    if value < 1:
        raise GridError(f"chunks={chunks!r}: give the pixels of a 10 m chunk, such as 1200, a multiple of 6")
    return -(-value // 6) * 6


_LOWEST = -500
"""DN, reflectance -0.05: noise and atmospheric correction leave single pixels below it, never half of a block."""

_ENOUGH = 900
"""Pixels with data from which on half of them is no accident. They must also be half of the block: along the edge of
a swath, pixels can be wrong."""


def calibrated(
    raw: da.Array, name: str, passes: Sequence[Sequence[Item]], offsets: Sequence[float], doubtful: Sequence[bool]
) -> da.Array:
    """Lazy (time, y, x) of one band: float32 DN with NaN.

    Where the tiles and copies of one pass have the same pixel, the first in their order that has data wins, pixel by
    pixel, each with its own offset. Tiles of one zone share their pixel grid, so nothing is resampled or blended.

    Parameters
    ----------
    raw : dask.array.Array
        (item, y, x), the items of each pass together, 0 where there are no data.
    name : str
    passes : sequence of sequence of Item
    offsets : sequence of float
        DN to add, item by item.
    doubtful : sequence of bool
        Items whose offset comes from metadata that may be wrong: their pixels are checked when they are read.
    """
    sizes = tuple(len(items) for items in passes)
    chunks = ((1,) * len(sizes), *raw.chunks[1:])
    raw = raw.rechunk({0: sizes})
    about = (np.array(offsets, np.float32), np.array([item.id for item in _flat(passes)]), np.array(doubtful))
    columns = [da.from_array(column[:, None, None], chunks=(sizes, 1, 1)) for column in about]
    empty = np.empty((0, 0, 0), np.float32)
    dn: da.Array = da.map_blocks(_to_dn, raw, *columns, band=name, dtype=np.float32, chunks=chunks, meta=empty)
    return dn


def _flat(passes: Sequence[Sequence[Item]]) -> list[Item]:
    return [item for items in passes for item in items]


def first(dn: da.Array, passes: Sequence[Sequence[Item]]) -> da.Array:
    """Lazy (time, y, x) of a band that is DN already, NaN where there are none: as `calibrated`, without offsets."""
    sizes = tuple(len(items) for items in passes)
    out: da.Array = da.map_blocks(
        _first,
        dn.rechunk({0: sizes}),
        dtype=np.float32,
        chunks=((1,) * len(sizes), *dn.chunks[1:]),
        meta=np.empty((0, 0, 0), np.float32),
    )
    return out


def _first(dn: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    out = dn[:1].copy()
    for layer in dn[1:]:
        np.copyto(out[0], layer, where=np.isnan(out[0]))
    return out


def classes(raw: da.Array, passes: Sequence[Sequence[Item]], bands: Sequence[da.Array]) -> da.Array:
    """Lazy (time, y, x) of a layer of classes: of the first item of a pass that has one, 0 where none has.

    Where a tile is there more than once, that is the first of those whose bands are used there, as each product
    classifies its own pixels; another's class fills in only where these have none.

    Parameters
    ----------
    raw : dask.array.Array
        (item, y, x), as in `calibrated`.
    passes : sequence of sequence of Item
    bands : sequence of dask.array.Array
        Raw pixels of bands that are loaded too, (item, y, x), in the chunks of `raw` on their own grid.
    """
    dates, start = [], 0
    for items in passes:
        part = slice(start, start + len(items))
        start += len(items)
        # Only copies of one tile part the ground between them; elsewhere bands would be read for nothing.
        beside = bands if len({item.tile for item in items}) < len(items) else ()
        layers = [array[part].rechunk({0: -1}) for array in (raw, *beside)]
        dates.append(
            da.map_blocks(
                _chosen,
                *layers,
                dtype=raw.dtype,
                chunks=((1,), *raw.chunks[1:]),
                meta=np.empty((0, 0, 0), raw.dtype),
            )
        )
    out: da.Array = da.concatenate(dates)
    return out


def _chosen(raw: np.ndarray[Any, Any], *bands: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    order = [raw]
    if bands:
        used = np.zeros(raw.shape, bool)
        for band in bands:
            used |= _onto(_used(band), raw.shape[1:])
        order.insert(0, np.where(used, raw, 0))
    out = np.zeros((1, *raw.shape[1:]), raw.dtype)
    for layers in order:
        for layer in layers:
            np.copyto(out[0], layer, where=out[0] == 0)
    return out


def _used(band: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which item's pixel of a band is used: the first that has data."""
    used: np.ndarray[Any, Any] = band != 0
    used[1:] &= ~np.logical_or.accumulate(used, axis=0)[:-1]
    return used


def _onto(used: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """On another grid of the same block: there where any of the pixels in it is, or the one round it."""
    rows, columns = shape
    height, width = used.shape[1:]
    if height > rows:
        blocks = used.reshape(len(used), rows, height // rows, columns, width // columns)
        return np.asarray(blocks.any((2, 4)))
    return used.repeat(rows // height, axis=1).repeat(columns // width, axis=2)


def _to_dn(
    raw: np.ndarray[Any, Any],
    offset: np.ndarray[Any, Any],
    item: np.ndarray[Any, Any],
    doubtful: np.ndarray[Any, Any],
    band: str,
) -> np.ndarray[Any, Any]:
    """Float DN of raw pixels; raw 0 is nodata, and becomes NaN before the offset is added."""
    out: np.ndarray[Any, Any] = np.full((1, *raw.shape[1:]), np.nan, np.float32)
    for layer, add, name, check in zip(raw, offset.flat, item.flat, doubtful.flat, strict=True):
        if check:
            _check(layer, float(add), str(name), band)
        free = np.isnan(out[0]) & (layer != 0)
        out[0][free] = layer[free] + add
    return out


def _check(raw: np.ndarray[Any, Any], offset: float, item: str, band: str) -> None:
    seen = np.count_nonzero(raw)
    if seen < max(_ENOUGH, raw.size // 2):
        return
    low = np.count_nonzero(raw < _LOWEST - offset) - (raw.size - seen)
    if 2 * low > seen:
        raise RadiometryError(
            f"item {item!r}: its metadata say that pixels carry {-offset:+g}, but then {100 * low / seen:.0f} % of "
            f"{seen} pixels of {band} have a reflectance below {_LOWEST / 10000:g}, which no ground has: the offset "
            "has been removed already, as in some items of Earth Search from 2022 and 2025. Pass "
            f"offset={{{item!r}: 0}}, or offset={{{item!r}: {offset:g}}} if the pixels are right"
        )
