"""A lazy cube from STAC items of Earth Search or the Planetary Computer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from xsen2.area import part_of
from xsen2.bands import BANDS, GRIDS, canonical, find_layer
from xsen2.cube import DIMS, recognise
from xsen2.errors import BandError, CRSError, RadiometryError, SourceError, Xsen2Error
from xsen2.geometry import Area, lonlat
from xsen2.geometry import read as read_area
from xsen2.grid import CELL, edges_of, geobox, resized
from xsen2.sources.assemble import assemble, calibrated, classes, first, side_of
from xsen2.sources.engines import Grid, engine_named, read_all
from xsen2.sources.items import (
    EXTRAS,
    TILE,
    Given,
    Item,
    as_number,
    basics,
    gsd_of,
    level_of,
    named,
    platform_of,
    split,
    tile_of,
    zarr_root,
)
from xsen2.sources.offsets import doubtful, offsets_of
from xsen2.sources.reading import Reading, ReadWarning, Record, Skipped, recorded, skipped
from xsen2.sources.when import interval

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["EARTH_SEARCH", "PLANETARY_COMPUTER", "ReadWarning", "Skipped", "load", "skipped", "touching"]


# Of all items given, those that make one cube: in the area, on one grid, one per acquisition and tile.


_SAME_PASS = timedelta(minutes=30)
"""Two orbits see a place at least 50 minutes apart; copies of one acquisition differ by seconds."""


def touching(items: Sequence[Item], area: Area) -> list[Item]:
    """The items whose pixels lie in the area.

    Raises
    ------
    SourceError
        If there are none.
    """
    # By their numbers: GeoBox spells its CRS out for its hash, which takes as long as the rest of an item.
    grids = {id(item.geobox): item.geobox for item in items}  # few, however many the dates
    inside = {key for key, grid in grids.items() if part_of(grid, area) is not None}
    touched = [item for item in items if id(item.geobox) in inside]
    if not touched:
        tiles = {item.tile: _degrees(lonlat(item.geobox)) for item in items}
        raise SourceError(
            f"the area {_degrees(area.lonlat)} lies outside all items: "
            + "; ".join(f"tile {tile} {extent}" for tile, extent in sorted(tiles.items()))
            + " (west, south, east, north in degrees)"
        )
    return touched


def _degrees(bounds: Iterable[float]) -> str:
    return "(" + ", ".join(f"{v:.4f}" for v in bounds) + ")"


def one_grid(items: Sequence[Item]) -> None:
    """Refuse what cannot be one cube; several tiles can, if they share their CRS: all then have the same lattice.

    Raises
    ------
    CRSError
        If the items have several CRS.
    SourceError
        If they are of L1C and L2A.
    """
    tiles: dict[int, set[str]] = {}
    for item in items:
        tiles.setdefault(item.epsg, set()).add(item.tile)
    if len(tiles) > 1:
        named = "; ".join(f"EPSG:{epsg}: {', '.join(sorted(names))}" for epsg, names in sorted(tiles.items()))
        raise CRSError(
            f"the items are in {len(tiles)} CRS ({named}), and a cube has one; nothing is reprojected here. "
            f"{_hint(items)}"
        )
    levels = sorted({item.level for item in items if item.level})
    if len(levels) > 1:
        raise SourceError(f"the items are of both levels, {' and '.join(levels)}: search one collection at a time")


def _hint(items: Sequence[Item]) -> str:
    """How to split the items into one cube per CRS, as code that runs."""
    for key in ("proj:code", "proj:epsg"):
        values = list(dict.fromkeys(item.properties.get(key) for item in items))
        if len(values) > 1 and None not in values:
            break
    else:
        return "Load the items of each apart"
    get = f'i["properties"]["{key}"]' if items[0].plain else f'i.properties["{key}"]'
    call = f"xsen2.load([i for i in items if {get} == crs], bbox=bbox)"
    return f"Load a cube of each, and reproject the results if they have to be one: {{crs: {call} for crs in {values}}}"


def passes(items: Sequence[Item]) -> list[list[Item]]:
    """Items by acquisition, in the order of time: tiles in the order of their names, of each the best copy first.

    What one satellite saw within half an hour it saw in one pass. Two satellites that fly one behind the other, as
    after a launch, each have a pass of their own.

    A tile and pass is there more than once when it was processed anew, and when a datastrip ended in it: then each
    copy has its own part of the ground. So all copies count. The one of highest sequence, else of the newest
    processing, comes first. An older processing of the same part of the same datastrip is left out: it has nothing
    that the newer one does not have.
    """
    out: list[list[Item]] = []
    latest: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: item.time):
        here = latest.get(item.platform)
        if here is not None and item.time - here[0].time < _SAME_PASS:
            here.append(item)
        else:
            latest[item.platform] = [item]
            out.append(latest[item.platform])
    return [_ordered(copies) for copies in out]


def _ordered(copies: Sequence[Item]) -> list[Item]:
    by_tile: dict[str, list[Item]] = {}
    for item in sorted(copies, key=lambda item: (item.rank, item.id), reverse=True):
        better = by_tile.setdefault(item.tile, [])
        if not any(_superseded(item, other) for other in better):
            better.append(item)
    return [item for tile in sorted(by_tile) for item in by_tile[tile]]


def _superseded(item: Item, better: Item) -> bool:
    """Whether a better copy is known to have every pixel of an item: the same files, or the same part processed anew.

    The same part is the same datastrip with the same outline and no more nodata. Where that is not told, both are read.
    """
    if item.geobox != better.geobox or not item.assets.keys() <= better.assets.keys():
        return False
    if all(asset["href"] == better.assets[name]["href"] for name, asset in item.assets.items()):
        return True
    empty, less = (as_number(of.properties.get("s2:nodata_pixel_percentage")) for of in (item, better))
    told = item.strip is not None and None not in (empty, less) and item.footprint and better.footprint
    return bool(
        told
        and item.strip == better.strip
        and less <= empty  # type: ignore[operator]
        and np.allclose(item.footprint, better.footprint, rtol=0, atol=2e-4)  # type: ignore[arg-type]  # 20 m
    )


def first_of_tiles(date: Sequence[Item]) -> list[Item]:
    """Of one pass, the best copy of each tile."""
    return list({item.tile: item for item in reversed(date)}.values())


# STAC items whose pixels are EOPF products in Zarr: each opened as a product, then one cube of them all.


@dataclass(frozen=True)
class Store:
    """One item's product.

    Attributes
    ----------
    item : Item
        Its grid is that of the product, its assets are the product.
    cube : xarray.Dataset
        Of one date, lazy.
    """

    item: Item
    cube: xr.Dataset


def opened(given: Given, bands: Sequence[str] | None, chunks: int, offset: float | Mapping[str, float] | None) -> Store:
    """Open the product of an item, which reads its metadata.

    Raises
    ------
    SourceError
        If it cannot be opened, saying why and what else would open it.
    """
    from xsen2.sources.eopf import open_eopf

    with named(given):
        name, properties, time = basics(given)
        root = given.home.resolve({"href": zarr_root(given.raw)})
        added = offset.get(name) if isinstance(offset, Mapping) else offset
        try:
            cube = open_eopf(root, bands, chunks, offset=added)
        except Xsen2Error as error:
            message = f"item {name!r} has its pixels in Zarr, which load opens as an EOPF product: {error}. Else "
            raise SourceError(message + given.advice) from error
        if bands is None:  # as with raster files, layers come only when they are asked for
            cube = cube[[band for band in BANDS if band in cube]]
        recognised = recognise(cube)
        item = Item(
            id=name,
            time=time,
            tile=tile_of(properties, name) or str(cube.attrs["tile"]).removeprefix("T"),
            plain=given.plain,
            level=level_of(given.raw, properties) or cube.attrs.get("level"),
            platform=platform_of(properties, name),
            geobox=geobox(recognised.bounds, 10, recognised.crs.to_epsg()),
            assets={str(band): {"href": root} for band in cube.data_vars},
            keys={},
            properties=properties,
        )
    return Store(item, cube)


def placed(stores: Sequence[Store], name: str, grid: GeoBox, chunk: int) -> da.Array:
    """Lazy (item, y, x) of one variable, on a grid: NaN, or 0 in layers, where a product has none."""
    layers = []
    gsd = gsd_of(name)
    dtype = np.dtype("float32" if name in BANDS else "uint8")
    nothing = np.nan if name in BANDS else 0
    for store in stores:
        if name not in store.cube:  # a band that one product does not have
            layers.append(da.full((1, *grid.shape), nothing, dtype, chunks=(1, chunk, chunk)))
            continue
        left, _, _, top = edges_of(store.item.geobox)
        pixels = store.cube[name].transpose("time", *DIMS[gsd]).data
        cut, margins = [], [(0, 0)]
        starts = round((top - grid.affine.f) / gsd), round((grid.affine.c - left) / gsd)
        for start, size, length in zip(starts, pixels.shape[1:], grid.shape, strict=True):
            first = min(max(start, 0), size)
            last = max(min(start + length, size), first)
            cut.append(slice(first, last))
            margins.append((first - start, start + length - last))
        part = pixels[(slice(None), *cut)]
        layers.append(da.pad(part, margins, constant_values=nothing).rechunk((1, chunk, chunk)))
    out: da.Array = da.concatenate(layers)
    return out


EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
"""Earth Search v1: `sentinel-2-l2a`, `sentinel-2-c1-l2a`, `sentinel-2-l1c`. Open, no account."""

PLANETARY_COMPUTER = "https://planetarycomputer.microsoft.com/api/stac/v1"
"""Planetary Computer: `sentinel-2-l2a`; load its items with ``sign=planetary_computer.sign``."""


_APART = 25
"""Times the area of all its tiles that a cube without `bbox` or `geometry` may have."""


def load(
    items: Any,
    bbox: Sequence[float] | None = None,
    geometry: Any = None,
    bands: Sequence[str] | None = None,
    chunks: int = 1200,
    engine: str = "auto",
    *,
    offset: float | Mapping[str, float] | None = None,
    datetime: Any = None,
    sign: Callable[[str], str] | None = None,
    on_error: str = "raise",
) -> xr.Dataset:
    """Make a lazy cube of STAC items: every band on the grid that it was measured on.

    Nothing is read but the items, and of products in Zarr their metadata. They may be of several dates, and of
    several MGRS tiles in one CRS. Where a tile and pass is there more than once, all copies count: the pixels of
    the highest `s2:sequence`, else of the newest processing, and where it has none, those of the next one.

    Parameters
    ----------
    items : ItemCollection, iterable of pystac.Item or of dict, FeatureCollection, or one item
        From Earth Search v1 or the Planetary Computer, or of any catalogue whose assets are named after
        bands or say in `eo:bands` (STAC 0.9 and 1.0) or `bands` (1.1) which one they hold, such as the
        Copernicus Data Space's. Items whose assets are Zarr are opened as `open_eopf` does; then `engine`,
        `sign` and `on_error` mean nothing.
    bbox : sequence of float, optional
        Area to load: west, south, east, north in degrees, as in a STAC search.
    geometry : bbox, GeoJSON, geometry, GeoBox or path, optional
        The same for any shape, in whatever form ``superresolve(area=…)`` takes it: its bounding box in the tile's
        CRS is loaded. What has a CRS of its own, as those of geopandas and odc-geo, may be in any; all else is in
        lon/lat. The area is snapped outward to whole 60 m pixels and clipped to the tiles. Without `bbox` and
        `geometry`, all of them.
    bands : sequence of str, optional
        Bands in any catalogue's words (``"red"``, ``"B04"``), and ``"SCL"``. All bands that the items
        have by default, without SCL.
    chunks : int
        Pixels of the 10 m grid along y and x in one dask chunk, rounded up to a multiple of 6; the
        other grids get a half and a sixth of it. One date per chunk.
    engine : {"auto", "stackstac", "odc"}
        What reads the pixels: stackstac or odc-stac, which give the same cube. ``"auto"`` is what is installed,
        stackstac if both are.
    offset : float or mapping, optional
        DN to add to the pixels, when the metadata do not settle it or are known to be wrong: -1000
        where pixels carry ESA's +1000 (processing baseline 04.00 and later), 0 where not. One for all
        items, or item id → offset; items that a mapping leaves out follow their metadata.
    datetime : str, datetime.datetime or pair of them, optional
        Items outside this time or interval are left out. As in a STAC search: ``"2023-08"``,
        ``"2023-06-01/2023-09-30"``, ``"2023-06-01/.."``, or RFC 3339 times; both ends count.
    sign : callable, optional
        URL → URL that may be read, such as ``planetary_computer.sign``. It is called when a file is
        opened, by the worker that opens it, and again after a failure, so that a token which ran out
        between `load` and the computation, or during it, is replaced. It has to be picklable for
        distributed workers. Items that were signed in the search (``modifier=sign_inplace``) need none,
        but can be read only while their tokens last, at the Planetary Computer about an hour.
    on_error : {"raise", "skip"}
        What to do about a file that cannot be read, after four attempts in about four seconds, and about
        an asset that an item does not have. ``"raise"`` names item and asset. ``"skip"`` makes that
        block, or that band on that date, nodata and warns with `ReadWarning`. What is known to be missing
        at once is in the attribute `missing`; what fails to be read is known only when the cube is
        computed, and listed by `xsen2.skipped(cube)` then.

    Returns
    -------
    xarray.Dataset
        A cube: bands named B01 … B12, B8A, float32 DN (10000 x reflectance, offset removed), NaN where
        there is no data; dims ``(time, y, x)``, ``(time, y_20m, x_20m)``, ``(time, y_60m, x_60m)``;
        pixel centres as coordinates; `spatial_ref`. SCL is uint8 on the 20 m grid, 0 for no data. The
        coordinate `offset` along time tells what was added to the pixels, NaN where the tiles of one
        or copies of one date differ in that. The attributes name the tiles (`tile`) and all items whose pixels
        are used (`source`).

    Raises
    ------
    SourceError
        If there are no items, an area or a time outside the items, L1C with L2A, an unknown engine. When
        the cube is computed: if a file cannot be read, naming item and asset.
    CRSError
        If an item's CRS is unknown, or the items have several: the message lists the tiles of each, and
        how to load them apart. When the cube is computed: if a file is in another CRS than its item says.
    BandError
        If a band is unknown, or an item does not have it.
    RadiometryError
        If the metadata about the offset contradict each other. When the cube is computed: if pixels
        contradict them.
    GridError
        If the items are not on Sentinel-2's grid, or `chunks` is not a positive integer. When the cube is
        computed: if a file lies elsewhere, or has other pixels, than its item says.
    ImportError
        If the engine is not installed (``pip install 'xsen2[stac]'``, or ``'xsen2[odc]'`` for odc-stac alone).

    Notes
    -----
    What one satellite saw in one pass (within half an hour) is one date, at the time of the earliest tile, of
    its best copy; two satellites that fly minutes apart are two dates. Where tiles overlap, the first in the
    order of their names that has data wins, pixel by pixel and band by band. Tiles of one UTM zone share their
    pixel grid, so nothing is resampled or blended, and L1C has no seams; in L2A each tile has an atmospheric
    correction of its own, and steps of some DN can be seen.

    ESA cuts a long acquisition into datastrips, and delivers the tile at a cut twice, each copy with its own
    part of the ground; a tile that was processed anew is there twice, too. Each copy gets its own offset, then
    the nodata of the better one is filled from the next, band by band. SCL comes from the copy whose bands are
    used at a pixel, as far as it has a class there. All copies are read, but an older one of the same
    datastrip with the same outline, and no fewer pixels of nodata, is left out: it could add none.

    Items from elsewhere (by their `self` link, or found by a search) name files on http(s) and s3 alone: a
    path of this machine in one is refused. Only GeoTIFF and JPEG 2000 are read, by their content.

    Some Earth Search items of `sentinel-2-l2a` from 2022 and 2025 say that the offset has not been
    applied where it has: load them with ``offset=0``. Unless `offset` says it, a block of Earth Search's
    L2A that should carry +1000 is looked at when it is read: with half of its pixels below a reflectance
    of -0.05, a RadiometryError names the item. Bright or small blocks do not give the error away like
    that, so this finds some such items and not all; many values below 0 are the sign.

    Files are read with one thread of GDAL each, since with several a cut-off JPEG 2000 file gives random
    pixels; dask reads many files at once. Status 429 and 5xx are retried within each attempt.

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
    chunk = side_of(chunks)
    read_grid = engine_named(engine)
    reading = _reading(sign, on_error)
    area = _area(bbox, geometry)
    inside = None if datetime is None else interval(datetime)
    selected, given = split(items)
    _alike(selected, given, reading, offset)
    if inside is not None:
        times = sorted([*(item.time for item in selected), *(basics(item)[2] for item in given)])
        selected = [item for item in selected if inside(item.time)]
        given = [item for item in given if inside(basics(item)[2])]
        if not selected and not given:
            raise SourceError(f"no item lies in datetime={datetime!r}: they are from {times[0]} to {times[-1]}")
    stores = [opened(item, bands, chunk, offset) for item in given]
    of = {id(store.item): store for store in stores}
    selected = selected or [store.item for store in stores]
    if area is not None:
        selected = touching(selected, area)
    one_grid(selected)
    dates = passes(selected)
    selected = [item for date in dates for item in date]
    grid = _grid(selected, area)
    if stores:
        stores, missing = [of[id(item)] for item in selected], ""
        names = list(dict.fromkeys(str(name) for store in stores for name in store.cube.data_vars))
        offsets = [float(np.ravel(store.cube.get("offset", np.nan))[0]) for store in stores]
        arrays = {name: placed(stores, name, resized(grid, gsd_of(name)), chunk * 10 // gsd_of(name)) for name in names}
    else:
        names, missing = _names(bands, selected, reading.record is not None)
        offsets = offsets_of(selected, offset)
        arrays = {}
        for gsd in GRIDS:
            here = [name for name in names if gsd_of(name) == gsd]
            if here:
                arrays |= read_all(read_grid, selected, here, Grid(resized(grid, gsd), chunk * 10 // gsd), reading)
        if reading.record is not None:
            arrays = {name: recorded(data, reading.record) for name, data in arrays.items()}
    checks = doubtful(selected, offset, offsets)
    valid = {name: ~da.isnan(data) if stores else data for name, data in arrays.items() if name in BANDS}
    on = {gsd: [data for name, data in valid.items() if gsd_of(name) == gsd] for gsd in GRIDS}
    cube = assemble(
        {
            name: classes(data, dates, on[20] or on[10] or on[60])  # SCL is made of the 20 m bands
            if name in EXTRAS
            else first(data, dates)
            if stores
            else calibrated(data, name, dates, offsets, checks)
            for name, data in ((name, arrays[name]) for name in names)
        },
        grid,
        [min(item.time for item in first_of_tiles(date)) for date in dates],
        _attrs(selected, offsets) | ({"missing": missing} if missing else {}),
    )
    added = {"long_name": "added to the raw pixels to get DN", "units": "DN"}
    left = iter(offsets)
    each = [{next(left) for _ in date} for date in dates]
    common = [values.pop() if len(values) == 1 else np.nan for values in each]
    return cube.assign_coords(offset=("time", np.array(common, np.float32), added))


def _alike(
    files: Sequence[Item], stores: Sequence[Given], reading: Reading, offset: float | Mapping[str, float] | None
) -> None:
    """Refuse items that cannot be read in one way, and offsets of others."""
    if stores and files:
        raise SourceError(
            f"items {files[0].id!r} and {stores[0].id!r} have their pixels in raster files and in Zarr: load them apart"
        )
    if stores and (reading.record or reading.sign is not None):
        raise SourceError(
            f"item {stores[0].id!r} has its pixels in Zarr, where sign= and on_error= mean nothing: leave them out, or "
            "give xsen2.open_eopf a store of zarr's"
        )
    if isinstance(offset, Mapping):
        unknown = set(offset) - {item.id for item in files} - {item.id for item in stores}
        if unknown:
            raise RadiometryError(
                f"offset= names {', '.join(sorted(map(str, unknown)))}, which are not among the items"
            )


def _reading(sign: Callable[[str], str] | None, on_error: str) -> Reading:
    if on_error not in ("raise", "skip"):
        raise SourceError(f'on_error={on_error!r} is unknown: use "raise" or "skip"')
    if sign is not None and not callable(sign):
        raise SourceError(
            f"sign= is a {type(sign).__name__}: give a function of a URL, such as planetary_computer.sign"
        )
    return Reading(sign, Record.named() if on_error == "skip" else None)


def _names(bands: Sequence[str] | None, items: Sequence[Item], skip: bool) -> tuple[list[str], str]:
    """Canonical names to load, and what of them is missing in which item, in words."""
    if bands is None:
        names = [name for name in BANDS if any(name in item.assets for item in items)]
    else:
        given = [bands] if isinstance(bands, str) else list(bands)
        upper = {name: name.upper() for name in given if isinstance(name, str) and name.upper() in EXTRAS}
        other = [name for name in given if name not in upper and find_layer(name) and find_layer(name) not in EXTRAS]
        if other:
            raise BandError(
                f"bands= names {', '.join(map(str, other))}, layers that are not loaded from STAC: leave them out; of "
                f"layers {', '.join(EXTRAS)} is loaded, and open_safe and open_eopf give those of a product"
            )
        names = list(dict.fromkeys(upper.get(name) or canonical([name])[0] for name in given))
    if not names:
        raise BandError("bands= is empty: leave it out for all bands, or name those to load")
    lacking = []
    for item in items:
        missing = [name for name in names if name not in item.assets]
        everywhere = [name for name in missing if not any(name in other.assets for other in items)]
        if everywhere or (missing and not skip):
            raise BandError(
                f"item {item.id!r} has no asset for {', '.join(missing)} on the native grid; it has "
                f"{', '.join(item.assets)}: name those that all items have in bands=, leave the item out"
                + ("" if everywhere else ', or pass on_error="skip", which makes the band nodata on that date')
            )
        if missing:
            lacking.append(f"{item.id}: {', '.join(missing)}")
            message = f"item {item.id!r} has no asset for {', '.join(missing)}: nodata on {item.time:%Y-%m-%d}"
            warnings.warn(message, ReadWarning, stacklevel=3)
    return names, "; ".join(lacking)


def _area(bbox: object, geometry: object) -> Area | None:
    """The area that `bbox` or `geometry` describes; None when both are None."""
    if bbox is not None and geometry is not None:
        raise SourceError("both bbox= and geometry= were given: give the one to load")
    if bbox is not None:
        return read_area(bbox, name="bbox=")
    return None if geometry is None else read_area(geometry, name="geometry=")


def _grid(items: Sequence[Item], area: Area | None) -> GeoBox:
    """The 10 m pixels of a cube of some items, in an area."""
    left, bottom, right, top = zip(*(edges_of(item.geobox) for item in items), strict=True)
    union = geobox((min(left), min(bottom), max(right), max(top)), 10, items[0].epsg)
    most = _APART * (TILE // 10) ** 2 * len({edges_of(item.geobox) for item in items})
    if area is None and union.shape.y * union.shape.x > most:
        raise SourceError(
            f"the tiles {', '.join(sorted({item.tile for item in items}))} lie so far apart that a cube of them would "
            "be nearly all nodata: give bbox= or geometry=, or load them apart"
        )
    if area is None:
        return union
    clipped = part_of(union, area, CELL // 10)
    assert clipped is not None  # every item touches the area
    return clipped


def _attrs(items: Sequence[Item], offsets: Sequence[float]) -> dict[str, Any]:
    years = sorted({item.time.year for item in items})
    added = " or ".join(f"{offset:g}" for offset in sorted(set(offsets)))
    return {
        "tile": ", ".join(sorted({item.tile for item in items})),
        "source": ", ".join(dict.fromkeys(item.id for item in items)),
        **({"level": items[0].level} if items[0].level else {}),
        "units": "DN = 10000 x reflectance",
        "offset": f"removed once: {added} DN added to the raw pixels; per date in the coordinate 'offset'",
        "attribution": f"contains modified Copernicus Sentinel data {', '.join(map(str, years))}",
    }
