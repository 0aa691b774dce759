"""STAC items of every catalogue, reduced to what a cube needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any

from pyproj import CRS
from pyproj.exceptions import CRSError as ProjError

from xsen2.errors import CRSError, GridError, RadiometryError, SourceError, Xsen2Error
from xsen2.grid import lattice, metres, snap
from xsen2.sources._area import CELL, Box
from xsen2.sources._assets import EXTRAS, gsd_of, native_assets, zarr_root
from xsen2.sources._fields import as_list, as_mapping, as_numbers, as_text, as_time
from xsen2.sources._hrefs import Home, is_remote

__all__ = [
    "EXTRAS",
    "MOST",
    "TILE",
    "Given",
    "Item",
    "baseline",
    "basics",
    "gsd_of",
    "level_of",
    "named",
    "platform_of",
    "read",
    "split",
    "tile_of",
]

MOST = 10_000
"""Items in one call: more than all that a tile has seen. A server that pages without end stops here."""

TILE = 109_800
"""Side of a tile in metres: no item is larger."""

_FARTHEST = 20_000_000
"""Metres from the origin of any projected CRS; all of UTM lies within half of that."""

_TILE = re.compile(
    r"(?:MGRS-|^)(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z]{2})$|(?:_T?|^T)(\d\d[C-HJ-NP-X][A-HJ-NP-Z]{2})(?=_|\.|$)"
)

_IDS = (
    "s2:product_uri",
    "sentinel:product_id",
    "sentinel2:product_title",
    "s2:granule_id",
    "s2:tile_id",
    "s2:datastrip_id",
    "s2:datatake_id",
    "title",
)
"""Properties that hold the name of a product or of a part of it, whatever the catalogue and its age; then the id."""

_BASELINES = ("s2:processing_baseline", "sentinel2:processing_baseline", "sentinel:processing_baseline")


@dataclass(frozen=True)
class Item:
    """What is needed of one STAC item.

    Attributes
    ----------
    id : str
    time : datetime.datetime
        Acquisition, UTC, without time zone.
    tile : str
        MGRS name, such as ``"33TWM"``; CRS and extent where the item does not tell.
    plain : bool
        Whether the item was given as a dict.
    level : str or None
        ``"L1C"`` or ``"L2A"`` where the item tells.
    platform : str
        ``"S2A"`` and so on; empty where the item does not tell.
    epsg : int
    extent : tuple of int
        Outer edges of its assets: left, bottom, right, top.
    assets : dict
        Canonical name → the asset on the band's native grid, `href` made absolute.
    keys : dict
        Canonical name → the key of that asset.
    properties : dict
    footprint : tuple of tuple of float
        Corners of its geometry, in degrees; empty where it has none.
    """

    id: str
    time: datetime
    tile: str
    plain: bool
    level: str | None
    platform: str
    epsg: int
    extent: Box
    assets: dict[str, Mapping[str, Any]]
    keys: dict[str, str]
    properties: Mapping[str, Any]
    footprint: tuple[tuple[float, float], ...] = ()

    @property
    def rank(self) -> tuple[int, float, datetime, datetime]:
        """Orders copies of one acquisition: sequence, then processing; the greatest comes first."""
        found = (as_text(self.properties.get(key)) for key in ("s2:sequence", "sentinel:sequence"))
        sequence = next((text for text in found if re.fullmatch(r"\d{1,9}", text)), "-1")
        try:
            version = self.baseline or 0.0
        except RadiometryError:  # that it contradicts itself is said where its offset is asked for
            version = 0.0
        times = [
            [as_time(self.properties.get(key)) for key in keys]
            for keys in (("s2:generation_time", "sentinel2:generation_time"), ("created", "sentinel:created"))
        ]
        generated, created = (next((time for time in each if time), datetime.min) for each in times)
        return int(sequence), version, generated, created

    @property
    def baseline(self) -> float | None:
        """Processing baseline, such as 5.09; None where the item does not tell.

        Raises
        ------
        RadiometryError
            If it tells two, one of before ESA's +1000 and one of after it.
        """
        found = dict(_baselines(self.properties, self.id))
        shifted = {key: value for key, value in found.items() if value >= 4}
        if shifted and len(shifted) < len(found):
            said = ", ".join(f"{value:05.2f} in {key}" for key, value in found.items())
            raise RadiometryError(
                f"item {self.id!r} gives several processing baselines: {said}: pass offset=-1000 if the pixels carry "
                "+1000, offset=0 if not, or offset={item id: offset}"
            )
        return next(iter(found.values()), None)

    @property
    def strip(self) -> tuple[str, str] | None:
        """Platform and sensing time of the datastrip that it was cut from; None where the item does not tell."""
        match = re.search(r"^(S2[A-D])_.*_S(\d{8}T\d{6})(?=_|$)", as_text(self.properties.get("s2:datastrip_id")))
        return (match[1], match[2]) if match else None


def read(items: object) -> list[Item]:
    """Items of an ItemCollection, a FeatureCollection, an iterable of items or dicts, or a single one.

    Raises
    ------
    SourceError
        If there are none or too many, or one cannot be understood.
    CRSError
        If an item has no CRS, two, or one that is not projected.
    GridError
        If the edges of an item are not those of 60 m pixels, as `xsen2.grid.lattice` has them, or it is larger than
        a tile.
    """
    found, stores = split(items)
    for given in stores:
        raise SourceError(f"item {given.id!r} has its pixels in Zarr: {given.advice}")
    return found


@dataclass(frozen=True)
class Given:
    """An item as it was given.

    Attributes
    ----------
    raw : dict
    plain : bool
        Whether it was given as a dict.
    searched : bool
        Whether it was found by a client of an API.
    """

    raw: Mapping[str, Any]
    plain: bool
    searched: bool

    @property
    def id(self) -> str:
        return as_text(self.raw.get("id")) or "?"

    @property
    def home(self) -> Home:
        return Home.of(self.raw, self.searched)

    @property
    def advice(self) -> str:
        """What to do with an item whose pixels are in Zarr."""
        root = zarr_root(self.raw)
        return (
            f"open the product with xsen2.open_eopf({root!r}), or in a shell by that address, or with "
            f"xarray.open_datatree({root!r}) where it is a GeoZarr store"
        )


def split(items: object) -> tuple[list[Item], list[Given]]:
    """Items with raster files, understood, and those whose pixels are in Zarr, as they were given.

    Raises
    ------
    Xsen2Error
        As `read`.
    """
    found: list[Item] = []
    stores: list[Given] = []
    for given in _dicts(items):
        with named(given):
            native = native_assets(given.raw, given.home)
            if not native and zarr_root(given.raw) is not None:
                stores.append(given)
            else:
                found.append(_understood(given, native))
    if not found and not stores:
        raise SourceError(
            "there are no items: the search found nothing, or all have been filtered out; widen its bbox, datetime or "
            "query"
        )
    return found, stores


def _dicts(items: object) -> Iterator[Given]:
    if isinstance(items, Mapping) and items.get("type") == "FeatureCollection":
        items = as_list(items.get("features"))
    elif isinstance(items, Mapping) or hasattr(items, "assets"):
        items = [items]
    if not isinstance(items, Iterable) or isinstance(items, str | bytes):
        raise SourceError(
            f"items is a {type(items).__name__}: give an ItemCollection, Items or dicts, "
            "such as search.item_collection()"
        )
    for count, item in enumerate(items):
        if count >= MOST:
            raise SourceError(
                f"there are more than {MOST} items, which no cube is made of at once: narrow the search with datetime= "
                "or bbox=, and load the parts apart"
            )
        if isinstance(item, Mapping):
            yield Given(item, True, False)
        elif hasattr(item, "to_dict") and hasattr(item, "assets"):
            # Not transform_hrefs: that may read other catalogue files over the network.
            yield Given(item.to_dict(transform_hrefs=False), False, _searched(item))
        else:
            raise SourceError(f"an item is a {type(item).__name__}: give pystac Items or their dicts")


def _searched(item: Any) -> bool:
    """Whether an item was found by a client of an API: its root is the client, not only a link."""
    link = item.get_root_link() if hasattr(item, "get_root_link") else None
    return bool(link is not None and link.is_resolved() and is_remote(link.target.get_self_href()))


def _understood(given: Given, native: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Item:
    name, properties, time = basics(given)
    assets = {band: asset for band, (_, asset) in native.items()}
    epsg = _epsg(name, properties, assets.values())
    extent = _extent(name, epsg, properties, assets)
    return Item(
        id=name,
        time=time,
        tile=tile_of(properties, name) or f"EPSG:{epsg} {extent}",
        plain=given.plain,
        level=level_of(given.raw, properties),
        platform=platform_of(properties, name),
        epsg=epsg,
        extent=extent,
        assets=assets,
        keys={band: key for band, (key, _) in native.items()},
        properties=properties,
        footprint=_footprint(given.raw),
    )


@contextmanager
def named(given: Given) -> Iterator[None]:
    """Errors of whatever kind that an item leads to are named ones."""
    try:
        yield
    except Xsen2Error:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise SourceError(
            f"item {given.id!r} cannot be understood ({type(error).__name__}: {error}): one of its fields is not what "
            "STAC says it is"
        ) from error


def basics(given: Given) -> tuple[str, Mapping[str, Any], datetime]:
    """Id, properties and time, which every item has."""
    for key in ("id", "properties", "assets"):
        if not (as_text(given.raw.get("id")) if key == "id" else isinstance(given.raw.get(key), Mapping)):
            raise SourceError(f"item {given.id!r} has no {key!r}: it is not a STAC item")
    properties = as_mapping(given.raw["properties"])
    return given.id, properties, _utc(given.id, properties)


def level_of(raw: Mapping[str, Any], properties: Mapping[str, Any]) -> str | None:
    """L1C or L2A, by the type of the product or the collection; None where neither tells."""
    keys = ("s2:product_type", "sentinel2:product_type", "product:type", "processing:level")
    for said in (*(properties.get(key) for key in keys), raw.get("collection")):
        for level in ("L1C", "L2A"):
            if level[1:] in as_text(said).upper():
                return level
    return None


def platform_of(properties: Mapping[str, Any], name: str) -> str:
    """S2A and so on, by its field or the names of the product; empty where none tells."""
    for said in (properties.get("platform"), *(properties.get(key) for key in _IDS), name):
        match = re.match(r"G?S(?:ENTINEL)?[ _-]?2([A-D])(?![A-Z])", as_text(said).upper())
        if match:
            return f"S2{match[1]}"
    return ""


def _footprint(raw: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """The outline, for comparison alone: any nesting of rings, flat."""

    def corners(node: object, depth: int) -> Iterator[tuple[float, float]]:
        pair = as_numbers(node, 2)
        if pair is not None:
            yield pair[0], pair[1]
        elif depth:
            for child in as_list(node)[:1000]:
                yield from corners(child, depth - 1)

    return tuple(islice(corners(as_mapping(raw.get("geometry")).get("coordinates"), 4), 2000))


def _utc(name: str, properties: Mapping[str, Any]) -> datetime:
    when = properties.get("datetime") or properties.get("start_datetime")
    time = as_time(when)
    if time is None:
        raise SourceError(f"item {name!r} has datetime {when!r:.80}, which is not a time")
    if not 2015 <= time.year < 2100:
        raise SourceError(f"item {name!r} is of {time.year}, when no Sentinel-2 flew: correct its datetime")
    return time


def _epsg(name: str, properties: Mapping[str, Any], assets: Iterable[Mapping[str, Any]]) -> int:
    """The one EPSG code; pystac moves `proj:epsg` to `proj:code` when it reads an item."""
    found: set[int] = set()
    for holder in (properties, *assets):
        for value in (holder.get("proj:epsg"), holder.get("proj:code")):
            code = as_text(value).upper().removeprefix("EPSG:")
            if re.fullmatch(r"[0-9]{1,9}", code):
                found.add(int(code))
    if not found:
        raise CRSError(
            f"item {name!r} has neither proj:epsg nor proj:code: put it in, "
            "such as item.properties['proj:code'] = 'EPSG:32633'"
        )
    if len(found) > 1:
        raise CRSError(f"item {name!r} has several CRS, EPSG {sorted(found)}: correct its proj:epsg or proj:code")
    (epsg,) = found
    try:
        projected = _is_projected(epsg)
    except ProjError as error:
        raise CRSError(f"item {name!r} is in EPSG:{epsg}, which PROJ does not know") from error
    if not projected:
        raise CRSError(
            f"item {name!r} is in EPSG:{epsg}, which is not projected: Sentinel-2's grids are in metres (UTM)"
        )
    return epsg


@cache
def _is_projected(epsg: int) -> bool:
    return CRS.from_epsg(epsg).is_projected


def _extent(name: str, epsg: int, properties: Mapping[str, Any], assets: Mapping[str, Mapping[str, Any]]) -> Box:
    found: dict[tuple[float, ...], str] = {}
    for key, asset in assets.items():
        edges = _edges(asset) or _edges(properties)
        if edges is not None:
            found.setdefault(edges, key)
    if not found:
        raise SourceError(
            f"item {name!r} has no Sentinel-2 band with proj:transform and proj:shape, or proj:bbox: "
            "without them its grid is not known; put them in, as (10, 0, left, 0, -10, top) and (rows, columns)"
        )
    if len(found) > 1:
        raise GridError(
            f"assets of item {name!r} differ in extent: " + "; ".join(f"{key} {edges}" for edges, key in found.items())
        )
    (edges,) = found
    width, height = edges[2] - edges[0], edges[3] - edges[1]
    if not (0 < width <= TILE and 0 < height <= TILE and max(map(abs, edges)) <= _FARTHEST):
        raise GridError(
            f"item {name!r} reaches from {edges[0]:.0f}, {edges[1]:.0f} to {edges[2]:.0f}, {edges[3]:.0f}, but a tile "
            f"of Sentinel-2 has at most {TILE} m a side: correct its proj:shape and proj:transform, or leave it out"
        )
    box = tuple(round(edge) for edge in edges)
    origin = lattice(epsg) or (0, 0)  # in a CRS that is not UTM there is none; what it costs is said of the cube
    on_grid = snap((box[0], box[1], box[2], box[3]), CELL, origin) == box
    if not on_grid or any(abs(edge - exact) > 1e-3 for edge, exact in zip(box, edges, strict=True)):
        raise GridError(
            f"item {name!r} has its edges at ({metres(*edges)}), not on multiples of {CELL} m from "
            f"({metres(*origin)}): these are not the pixels of a Sentinel-2 tile"
        )
    return box[0], box[1], box[2], box[3]


def _edges(holder: Mapping[str, Any]) -> tuple[float, ...] | None:
    transform, shape = as_numbers(holder.get("proj:transform"), 6), as_numbers(holder.get("proj:shape"), 2)
    if transform and shape:
        width, _, left, _, height, top = transform[:6]
        return left, top + height * shape[0], left + width * shape[1], top
    bbox = as_numbers(holder.get("proj:bbox"), 4)
    return tuple(bbox[:4]) if bbox and len(bbox) == 4 else None


def tile_of(properties: Mapping[str, Any], name: str) -> str | None:
    """MGRS name of the tile, by its field or the names of the product; None where none tells."""
    for said in (properties.get("grid:code"), properties.get("s2:mgrs_tile"), *map(properties.get, _IDS), name):
        match = _TILE.search(as_text(said))
        if match:
            return (match[1] or match[2]).zfill(5)
    return None


def _baselines(properties: Mapping[str, Any], name: str) -> Iterator[tuple[str, float]]:
    """Where a processing baseline is said → the baseline: the field for it first, then names of products."""
    for key in (*_BASELINES, "processing:version"):
        text = as_text(properties.get(key))
        # Elsewhere this may be the version of any software; ESA's baselines have two digits and two.
        if re.fullmatch(r"\d\d\.\d\d" if key == "processing:version" else r"\d{1,2}\.\d{1,4}", text):
            yield key, float(text)
    for key, said in (*((key, properties.get(key)) for key in _IDS), ("its id", name)):
        match = re.search(r"_N(\d\d)\.?(\d\d)(?=_|\.|$)", as_text(said))
        if match and match[0][:6] != "_N9999":  # what users process themselves
            yield key, float(f"{match[1]}.{match[2]}")


def baseline(properties: Mapping[str, Any]) -> float | None:
    """Processing baseline that properties tell, such as 5.09; None where they do not."""
    return next((value for _, value in _baselines(properties, "")), None)
