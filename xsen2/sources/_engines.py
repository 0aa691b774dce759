"""Raw pixels of one native grid through stackstac or odc-stac: lazy, uint, one chunk a date and tile.

Both are handed the same small items with nothing left to interpret: canonical names as asset keys, one
CRS in the spelling that they read, the outer edges of the tile, no scale, no offset. What they read is
then the same by construction, and no key of a catalogue can change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dask.array as da
import numpy as np

from xsen2.errors import SourceError
from xsen2.sources._area import Box, lonlat
from xsen2.sources._items import EXTRAS, Item

__all__ = ["Grid", "engine_named"]


@dataclass(frozen=True)
class Grid:
    """One native grid of a cube: where it lies, how it is chunked.

    Attributes
    ----------
    gsd : int
    box : tuple of int
        Outer edges: left, bottom, right, top.
    epsg : int
    chunk : int
        Pixels along y and x.
    """

    gsd: int
    box: Box
    epsg: int
    chunk: int


_COLLECTION = "sentinel-2"

Engine = Callable[[Sequence[Item], Sequence[str], Grid], dict[str, da.Array]]


def engine_named(name: str) -> Engine:
    """The function that reads: items, names and a grid → name → (time, y, x) array with nodata 0.

    Raises
    ------
    SourceError
        If there is no such engine.
    ImportError
        If its package is not installed.
    """
    if name not in _ENGINES:
        raise SourceError(f"engine={name!r} is unknown: use {' or '.join(map(repr, _ENGINES))}")
    try:
        return _ENGINES[name]()
    except ImportError as error:
        raise ImportError(f"engine={name!r} needs {error.name}: pip install 'xsen2[stac]'") from error


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype("uint8" if name in EXTRAS else "uint16")


def _small(item: Item, names: Sequence[str], grid: Grid, projection: dict[str, Any]) -> dict[str, Any]:
    left, bottom, right, top = item.extent
    west, south, east, north = lonlat(item.extent, grid.epsg)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    placed = {
        "proj:transform": [grid.gsd, 0, left, 0, -grid.gsd, top],
        "proj:shape": [(top - bottom) // grid.gsd, (right - left) // grid.gsd],
        "type": "image/tiff",
        "roles": ["data"],
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
        "id": item.id,
        "collection": _COLLECTION,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, south, east, north],
        "properties": {"datetime": _iso(item.time), **projection},
        "assets": {name: {"href": item.assets[name]["href"], **placed} for name in names},
        "links": [],
    }


def _iso(time: datetime) -> str:
    return time.isoformat() + "Z"


def _stackstac() -> Engine:
    import stackstac

    def read(items: Sequence[Item], names: Sequence[str], grid: Grid) -> dict[str, da.Array]:
        # stackstac 0.5 reads proj:epsg alone, and without it guesses a grid from the lon/lat box.
        plain = [_small(item, names, grid, {"proj:epsg": grid.epsg}) for item in items]
        out = {}
        for name in names:
            dtype = _dtype(name)
            stack = stackstac.stack(
                plain,
                assets=[name],
                epsg=grid.epsg,
                resolution=grid.gsd,
                bounds=grid.box,
                snap_bounds=False,
                chunksize=grid.chunk,
                dtype=dtype,
                fill_value=dtype.type(0),
                rescale=False,  # else an offset that the pixels have lost already is taken off once more
                sortby_date=False,
                xy_coords=False,
                properties=False,
                band_coords=False,
                errors_as_nodata=(),  # the default turns a missing file into nodata
            )
            out[name] = stack.data[:, 0]
        return out

    return read


def _odc() -> Engine:
    import odc.stac
    import pystac
    from affine import Affine
    from odc.geo.geobox import GeoBox

    def read(items: Sequence[Item], names: Sequence[str], grid: Grid) -> dict[str, da.Array]:
        left, bottom, right, top = grid.box
        geobox = GeoBox(
            ((top - bottom) // grid.gsd, (right - left) // grid.gsd),
            Affine(grid.gsd, 0, left, 0, -grid.gsd, top),
            f"EPSG:{grid.epsg}",
        )
        code = {"proj:code": f"EPSG:{grid.epsg}"}
        kinds = {name: {"data_type": str(_dtype(name)), "nodata": 0} for name in names}
        found = odc.stac.load(
            [pystac.Item.from_dict(_small(item, names, grid, code)) for item in items],
            bands=list(names),
            geobox=geobox,
            chunks={"time": 1, "y": grid.chunk, "x": grid.chunk},
            groupby="id",  # every item is one date already; "solar_day" may keep the older of two
            resampling="nearest",
            stac_cfg={_COLLECTION: {"assets": kinds}},
        )
        return {name: found[name].data for name in names}

    return read


_ENGINES: dict[str, Callable[[], Engine]] = {"stackstac": _stackstac, "odc": _odc}
