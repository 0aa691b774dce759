"""From arrays on nested grids to the cube: dims, coordinates, CRS, attributes."""

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
from xsen2.errors import GridError
from xsen2.grid import centres, resized
from xsen2.sources.calibration import Radiometry

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["assemble", "by_blocks", "product_cube", "side_of"]


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
    for one in meant.values():
        # NaN, which is nodata in any product of floats, needs no mention.
        special |= ({} if np.isnan(one.nodata) else {"NODATA": one.nodata}) | dict(one.special)
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
    added = sorted({one.offset for one in meant.values()})
    if len(added) == 1:
        about_offset = {"long_name": "added to the raw pixels to get DN", "units": "DN"}
        cube = cube.assign_coords(offset=("time", np.array(added, np.float32), about_offset))
    return cube if time else cube.isel(time=0, drop=True)


def _removed(meant: Mapping[str, Radiometry]) -> str:
    """What was done to the pixels, in the words that `load` has for it."""
    values, gains = ({getattr(one, key) for one in meant.values()} for key in ("offset", "gain"))
    steps = " or ".join(f"{10000 / gain:g}" for gain in sorted(gains))
    then = "" if gains <= {1.0} else f", then multiplied by 10000 / {steps}"
    if len(values) == 1:
        return f"removed once: {values.pop():g} DN added to the raw pixels{then}; per date in the coordinate 'offset'"
    each = ", ".join(f"{name} {one.offset:g}" for name, one in meant.items()) or "nothing"
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
    chunks = tuple(_whole(n, block, side) for n, block in zip(shape, blocks, strict=True))
    out: da.Array = da.map_blocks(
        partial(read, decode=decode),
        chunks=((1,), *chunks),
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
        name=f"{label}-{tokenize(*what, chunks, decode)}",
    )
    return out


def _whole(total: int, block: int, side: int) -> tuple[int, ...]:
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
