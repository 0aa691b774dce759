"""A lazy cube from STAC items of Earth Search or the Planetary Computer."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xsen2.bands import BANDS, GRIDS, canonical
from xsen2.errors import BandError, GridError, RadiometryError
from xsen2.sources._area import Area, Box
from xsen2.sources._assemble import assemble
from xsen2.sources._engines import Grid, engine_named
from xsen2.sources._items import EXTRAS, Item, gsd_of, read
from xsen2.sources._offsets import offsets_of
from xsen2.sources._select import latest, one_tile, touching

__all__ = ["EARTH_SEARCH", "PLANETARY_COMPUTER", "load"]

EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
"""Earth Search v1: `sentinel-2-l2a`, `sentinel-2-c1-l2a`, `sentinel-2-l1c`. Open, no account."""

PLANETARY_COMPUTER = "https://planetarycomputer.microsoft.com/api/stac/v1"
"""Planetary Computer: `sentinel-2-l2a`; open it with ``modifier=planetary_computer.sign_inplace``."""

_EXTRA_ATTRS: dict[str, dict[str, Any]] = {
    "SCL": {
        "long_name": "scene classification",
        "gsd": EXTRAS["SCL"],
        "flag_values": list(range(12)),
        "flag_meanings": "no_data saturated_or_defective dark_area cloud_shadow vegetation not_vegetated "
        "water unclassified cloud_medium_probability cloud_high_probability thin_cirrus snow_or_ice",
    }
}


def load(
    items: Any,
    bbox: Sequence[float] | None = None,
    geometry: Any = None,
    bands: Sequence[str] | None = None,
    chunks: int = 1200,
    engine: str = "stackstac",
    *,
    offset: float | Mapping[str, float] | None = None,
) -> xr.Dataset:
    """Make a lazy cube of STAC items: every band on the grid that it was measured on.

    Nothing is read but the items. They may be of several dates, but of one MGRS tile; where a date is
    there more than once, the highest `s2:sequence`, else the newest processing, is taken.

    Parameters
    ----------
    items : ItemCollection, iterable of pystac.Item or of dict, FeatureCollection, or one item
        From Earth Search v1 or the Planetary Computer.
    bbox : sequence of float, optional
        Area to load: west, south, east, north in degrees, as in a STAC search.
    geometry : GeoJSON dict, shapely geometry or object with ``__geo_interface__``, optional
        The same for any shape, in lon/lat: its bounding box in the tile's CRS is loaded. The area is
        snapped outward to whole 60 m pixels and clipped to the tile. Without `bbox` and `geometry`,
        all of the tile.
    bands : sequence of str, optional
        Bands in any catalogue's words (``"red"``, ``"B04"``), and ``"SCL"``. All bands that the items
        have by default, without SCL.
    chunks : int
        Pixels of the 10 m grid along y and x in one dask chunk, rounded up to a multiple of 6; the
        other grids get a half and a sixth of it. One date per chunk.
    engine : {"stackstac", "odc"}
        What reads the pixels. Both give the same cube.
    offset : float or mapping, optional
        DN to add to the pixels, when the metadata do not settle it or are known to be wrong: -1000
        where pixels carry ESA's +1000 (processing baseline 04.00 and later), 0 where not. One for all
        items, or item id → offset; items that a mapping leaves out follow their metadata.

    Returns
    -------
    xarray.Dataset
        A cube: bands named B01 … B12, B8A, float32 DN (10000 x reflectance, offset removed), NaN where
        there is no data; dims ``(time, y, x)``, ``(time, y_20m, x_20m)``, ``(time, y_60m, x_60m)``;
        pixel centres as coordinates; `spatial_ref`. SCL is uint8 on the 20 m grid, 0 for no data. The
        coordinate `offset` along time tells what was added to the pixels.

    Raises
    ------
    SourceError
        If there are no items, items of several tiles, an area outside the items, an unknown engine.
    CRSError
        If an item's CRS is unknown, or the items have several.
    BandError
        If a band is unknown, or an item does not have it.
    RadiometryError
        If the metadata about the offset contradict each other.
    GridError
        If the items are not on Sentinel-2's grid, or `chunks` is not a positive integer.
    ImportError
        If the engine is not installed (``pip install 'xsen2[stac]'``).

    Notes
    -----
    Some Earth Search items of `sentinel-2-l2a` from 2022 and 2025 say that the offset has not been
    applied where it has. Dark pixels far below 0 give them away: load them with ``offset=0``.

    Examples
    --------
    >>> import pystac_client, xsen2  # doctest: +SKIP
    >>> bbox = (15.3, 46.4, 15.4, 46.5)  # doctest: +SKIP
    >>> items = (
    ...     pystac_client.Client.open(xsen2.EARTH_SEARCH)
    ...     .search(collections=["sentinel-2-l2a"], bbox=bbox, datetime="2023-08-10/2023-08-20")
    ...     .item_collection()
    ... )  # doctest: +SKIP
    >>> cube = xsen2.load(items, bbox=bbox)  # doctest: +SKIP
    >>> cube.B05.dims  # doctest: +SKIP
    ('time', 'y_20m', 'x_20m')
    """
    chunk = _chunk(chunks)
    read_grid = engine_named(engine)
    area = Area.read(bbox, geometry)
    found = read(items)
    if isinstance(offset, Mapping):
        unknown = sorted(set(offset) - {item.id for item in found})
        if unknown:
            raise RadiometryError(f"offset= names {', '.join(unknown)}, which are not among the items")
    if area is not None:
        found = touching(found, area)
    one_tile(found)
    found = latest(found)
    names = _names(bands, found)
    offsets = offsets_of(found, offset)
    box, epsg = _box(found, area), found[0].epsg

    arrays: dict[str, da.Array] = {}
    for gsd in GRIDS:
        here = [name for name in names if gsd_of(name) == gsd]
        if here:
            arrays |= read_grid(found, here, Grid(gsd, box, epsg, chunk * 10 // gsd))
    cube = assemble(
        {name: arrays[name] if name in EXTRAS else _calibrate(arrays[name], offsets) for name in names},
        {name: gsd_of(name) for name in names},
        box,
        epsg,
        [item.time for item in found],
        _attrs(found, offsets),
        _EXTRA_ATTRS,
    )
    added = {"long_name": "added to the raw pixels to get DN", "units": "DN"}
    return cube.assign_coords(offset=("time", np.array(offsets, np.float32), added))


def _chunk(chunks: int) -> int:
    try:
        value = operator.index(chunks)
    except TypeError:
        value = 0
    if value < 1:
        raise GridError(f"chunks={chunks!r}: give the pixels of a 10 m chunk, such as 1200, a multiple of 6")
    return -(-value // 6) * 6


def _names(bands: Sequence[str] | None, items: Sequence[Item]) -> list[str]:
    """Canonical names to load, each of which every item has."""
    if bands is None:
        names = [name for name in BANDS if any(name in item.assets for item in items)]
    else:
        given = [bands] if isinstance(bands, str) else list(bands)
        upper = {name: name.upper() for name in given if isinstance(name, str) and name.upper() in EXTRAS}
        names = list(dict.fromkeys(upper.get(name) or canonical([name])[0] for name in given))
    if not names:
        raise BandError("bands= is empty: leave it out for all bands, or name those to load")
    for item in items:
        missing = [name for name in names if name not in item.assets]
        if missing:
            raise BandError(
                f"item {item.id!r} has no asset for {', '.join(missing)} on the native grid; it has "
                f"{', '.join(item.assets)}: name those that all items have in bands=, or leave the item out"
            )
    return names


def _box(items: Sequence[Item], area: Area | None) -> Box:
    left, bottom, right, top = zip(*(item.extent for item in items), strict=True)
    whole = (min(left), min(bottom), max(right), max(top))
    if area is None:
        return whole
    box = area.box(whole, items[0].epsg)
    assert box is not None  # every item touches the area
    return box


def _calibrate(raw: da.Array, offsets: Sequence[float]) -> da.Array:
    added = da.from_array(np.array(offsets, np.float32)[:, None, None], chunks=1)
    empty = np.empty((0, 0, 0), np.float32)
    dn: da.Array = da.map_blocks(_to_dn, raw, added, dtype=np.float32, meta=empty)
    return dn


def _to_dn(raw: np.ndarray[Any, Any], offset: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Float DN of raw pixels; raw 0 is nodata, and is told apart before the offset is added."""
    out: np.ndarray[Any, Any] = raw.astype(np.float32) + offset
    out[raw == 0] = np.nan
    return out


def _attrs(items: Sequence[Item], offsets: Sequence[float]) -> dict[str, Any]:
    years = sorted({item.time.year for item in items})
    added = " or ".join(f"{offset:g}" for offset in sorted(set(offsets)))
    return {
        "tile": items[0].tile,
        **({"level": items[0].level} if items[0].level else {}),
        "units": "DN = 10000 x reflectance",
        "offset": f"removed once: {added} DN added to the raw pixels; per date in the coordinate 'offset'",
        "attribution": f"contains modified Copernicus Sentinel data {', '.join(map(str, years))}",
    }
