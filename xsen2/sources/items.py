"""STAC items of every catalogue, reduced to what a cube needs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from pyproj import CRS
from pyproj.exceptions import CRSError as ProjError

from xsen2 import bands as _bands
from xsen2.errors import CRSError, GridError, SourceError, Xsen2Error
from xsen2.geometry import read as read_area
from xsen2.grid import CELL, Bounds, edges_of, geobox, lattice, metres, snap
from xsen2.sources.calibration import version_of

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = [
    "EXTRAS",
    "MOST",
    "TILE",
    "Given",
    "Item",
    "as_list",
    "as_mapping",
    "as_number",
    "basics",
    "gsd_of",
    "is_remote",
    "level_of",
    "named",
    "platform_of",
    "read",
    "split",
    "tile_of",
    "zarr_root",
]


# Fields of metadata that other people wrote: what they should be, or nothing.


_LONGEST = 2000
"""Characters of a text that is read: names, ids and titles are far shorter."""


def as_mapping(value: object) -> Mapping[str, Any]:
    """A JSON object; empty when it is none."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: object) -> list[Any]:
    """A JSON array; empty when it is none."""
    return list(value) if isinstance(value, list | tuple) else []


def as_text(value: object) -> str:
    """A string; a whole number in digits; else the empty string."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**15 else ""
    return value[:_LONGEST] if isinstance(value, str) else ""


def as_number(value: object) -> float | None:
    """A finite number, or None; neither true nor a string is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_numbers(value: object, least: int) -> list[float] | None:
    """At least `least` finite numbers, or None."""
    numbers = [as_number(each) for each in as_list(value)]
    finite = [each for each in numbers if each is not None]
    return finite if len(finite) == len(numbers) >= least else None


def as_time(value: object) -> datetime | None:
    """A time in ISO 8601, UTC without time zone, or None."""
    try:
        time = datetime.fromisoformat(as_text(value))
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError):
        return None


# Where the files of an item may lie: what an item from elsewhere says must not open files of this machine.


REMOTE = ("http", "https", "s3")
"""Schemes that an item from elsewhere may name: everything that GDAL knows besides would be opened by this machine."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_ELSEWHERE = ("self", "root", "parent", "collection")


def is_remote(href: object) -> bool:
    """Whether an address is one of the web or of an object store."""
    return as_text(href).strip().lower().startswith(tuple(f"{scheme}://" for scheme in REMOTE))


@dataclass(frozen=True)
class Home:
    """Where an item itself lies.

    Attributes
    ----------
    base : str
        What relative addresses are relative to: the item's own, or empty.
    remote : bool
        Whether it came from elsewhere. Then its files lie there, too, and nothing else is opened.
    """

    base: str
    remote: bool

    @classmethod
    def of(cls, raw: Mapping[str, Any], searched: bool = False) -> Home:
        """The home of an item, by its `self` link; without one by the links to what it belongs to.

        `searched` says that it came out of the search of an API, whatever its links say.
        """
        links: dict[str, str] = {}
        for link in map(as_mapping, as_list(raw.get("links"))):
            links.setdefault(as_text(link.get("rel")), as_text(link.get("href")))
        base = links.get("self", "")
        scheme = _SCHEME.match(base)
        if base:
            elsewhere = searched or bool(scheme and scheme[1].lower() != "file")
        else:
            elsewhere = searched or any(is_remote(links.get(rel)) for rel in _ELSEWHERE)
        return cls(base if is_remote(base) or not elsewhere else "", elsewhere)

    def resolve(self, asset: Mapping[str, Any]) -> str:
        """Absolute address of an asset's file: its `href`, or where that cannot be read from here, an alternate.

        Raises
        ------
        SourceError
            If there is none, or it may not be read.
        """
        reasons = []
        for href in _given(asset):
            try:
                return self._absolute(href)
            except SourceError as error:
                reasons.append(str(error))
        if not reasons:
            raise SourceError(f"its href is {asset.get('href')!r:.80}, not an address: correct it")
        raise SourceError(reasons[0])

    def _absolute(self, href: str) -> str:
        scheme = _SCHEME.match(href)
        if not scheme and not href.startswith(("/", "\\", "<")) and is_remote(self.base):
            href = urljoin(self.base, href) if not self.base.startswith("s3://") else _joined(self.base, href)
        if is_remote(href) and not re.search(r"[\x00-\x1f\x7f]", href):
            kind, _, rest = href.partition("://")
            return f"{kind.lower()}://{rest}"
        if self.remote:
            raise SourceError(
                f"its href {href!r:.120} is neither http(s) nor s3, and the item is from elsewhere, so no file of this "
                "machine is opened for it; if the item and its files lie here, give it a self link with its own path "
                "(for one of pystac's: item.set_root(None), item.set_self_href(path))"
            )
        if scheme and scheme[1].lower() == "file":
            parts = urlsplit(href)
            if parts.netloc not in ("", "localhost"):
                raise SourceError(f"its href {href!r:.120} names a file of another machine: give its path here")
            return os.path.abspath(unquote(parts.path))
        if (scheme and len(scheme[1]) > 1) or href.startswith("<"):
            raise SourceError(
                f"its href {href!r:.120} is none that is read: give a path, or an http(s) or s3 address, of a GeoTIFF "
                "or JPEG 2000 file"
            )
        return os.path.abspath(os.path.join(os.path.dirname(_local(self.base)), href))


def _given(asset: Mapping[str, Any]) -> Iterator[str]:
    """The addresses of an asset: its own, then its alternates."""
    for holder in (asset, *map(as_mapping, as_mapping(asset.get("alternate")).values())):
        href = as_text(holder.get("href")).strip()
        if href and len(href) < 2000:
            yield href


def _joined(base: str, href: str) -> str:
    """A relative address in an object store, which `urljoin` does not know; never above the bucket."""
    joined = urlsplit(urljoin("http" + base[2:], href))
    return f"s3://{joined.netloc}{joined.path}"


def _local(base: str) -> str:
    """Path of a local self link."""
    return unquote(urlsplit(base).path) if base.lower().startswith("file:") else base


# Which asset of an item is which band or layer: by its key, by the bands that it says it has, or by its title.


EXTRAS: dict[str, int] = {"SCL": _bands.LAYERS["SCL"].gsd}
"""Layers that ride along when asked for by name → gsd in metres; integer classes, 0 is nodata."""

_COMMON = {"REDEDGE071": "B05", "REDEDGE075": "B06", "REDEDGE078": "B07"}
"""Common names of eo 2.0 that no catalogue uses as keys; plain ``rededge`` may be any of three bands."""

_SIZED = re.compile(r"(.+)[_-](\d\d)m", re.IGNORECASE)
"""A key with the size of its pixels, as the Copernicus Data Space has it: B02_10m."""

_BEFORE = ("-jp2",)
"""Earth Search keeps the files before its harmonisation under keys that end so; its offset flag does not speak of
these, so they are never bands."""

_ZARR = re.compile(r"^(.*?\.zarr)(?=/|$)", re.IGNORECASE)


def gsd_of(name: str) -> int:
    """Native ground sampling distance of a band or an extra, in metres."""
    return EXTRAS[name] if name in EXTRAS else _bands.grid_of(name)


def native_assets(raw: Mapping[str, Any], home: Home) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Canonical name → key and asset, `href` made absolute, without those resampled away from the native grid.

    In this order: a key in any catalogue's words (``B02``, ``blue``); such a key with the size of a native pixel
    (``B02_10m``, ``SCL_20m``); the one band that an asset names in `eo:bands` (STAC 0.9 and 1.0, where numbers
    point into a table of the item) or `bands` (1.1); a title that speaks of one layer. All but the first must lie on
    the native grid by what they say.

    Raises
    ------
    SourceError
        If an asset that is a band by its key has no usable `href` or grid, or may not be read from where the item is.
    """
    out: dict[str, tuple[str, Mapping[str, Any]]] = {}
    table = as_list(as_mapping(raw.get("properties")).get("eo:bands"))
    given = [(str(key), as_mapping(asset)) for key, asset in as_mapping(raw.get("assets")).items()]
    given = [(key, asset) for key, asset in given if asset and not is_zarr(asset)]
    for words in (_by_key, _by_sized_key, _by_bands, _by_title):
        for key, asset in given:
            name = words(key, asset, table)
            if name is None or name in out or _bands.find_layer(key) not in (None, name):
                continue
            certain = words is _by_key
            spacing = _spacing(asset) or (float(_sized(key)[1]) if words is _by_sized_key else None)
            if spacing == gsd_of(name) or (spacing is None and certain):
                try:
                    _soundly_placed(asset)
                    out[name] = key, {**asset, "href": home.resolve(asset)}
                except SourceError as error:
                    if certain or words is _by_sized_key:
                        raise SourceError(f"item {as_text(raw.get('id'))!r}, asset {key!r}: {error}") from error
    return out


def is_zarr(asset: Mapping[str, Any]) -> bool:
    """Whether an asset is a Zarr group or array: no image, and nothing that GDAL's readers here take."""
    return "zarr" in as_text(asset.get("type")).lower() or bool(_ZARR.match(as_text(asset.get("href"))))


def zarr_root(raw: Mapping[str, Any]) -> str | None:
    """Address of the product whose parts an item's Zarr assets are, or None when it has none."""
    assets = [asset for asset in map(as_mapping, as_mapping(raw.get("assets")).values()) if is_zarr(asset)]
    roots = [match[1] for asset in assets if (match := _ZARR.match(as_text(asset.get("href"))))]
    if roots:
        return max(sorted(set(roots)), key=roots.count)
    return next((as_text(asset.get("href")) for asset in assets), None)


def _known(word: object) -> str | None:
    upper = as_text(word).upper()
    layer = _bands.find_layer(upper)
    return (layer if layer in EXTRAS else None) or _bands.find(upper) or _COMMON.get(upper)


def _by_key(key: str, asset: Mapping[str, Any], table: list[Any]) -> str | None:
    return _known(key)


def _sized(key: str) -> tuple[str, int]:
    match = _SIZED.fullmatch(key)
    return (match[1], int(match[2])) if match else (key, 0)


def _by_sized_key(key: str, asset: Mapping[str, Any], table: list[Any]) -> str | None:
    word, size = _sized(key)
    return _known(word) if size else None


def _by_bands(key: str, asset: Mapping[str, Any], table: list[Any]) -> str | None:
    """The one band that an asset says it has."""
    if not _may_be_data(key, asset):
        return None
    about = as_list(asset.get("eo:bands")) or as_list(asset.get("bands"))
    if len(about) != 1:
        return None
    return next((name for name in map(_known, _words(about[0], table)) if name), None)


def _words(entry: object, table: list[Any]) -> Iterator[object]:
    """What an entry of `eo:bands` calls its band; in STAC 0.8 and 0.9 it points into a table, by number or name."""
    if isinstance(entry, Mapping):
        for key in ("name", "eo:common_name", "common_name"):
            yield entry.get(key)
    elif isinstance(entry, int) and not isinstance(entry, bool):
        if 0 <= entry < len(table):
            yield from _words(as_mapping(table[entry]), [])
    elif isinstance(entry, str):
        yield entry
        for row in map(as_mapping, table):
            if row.get("name") == entry:
                yield from _words(row, [])


def _by_title(key: str, asset: Mapping[str, Any], table: list[Any]) -> str | None:
    """The layer that a title speaks of; bands are not looked for there, whose titles are too many."""
    name = _bands.in_title(asset.get("title")) if _may_be_data(key, asset) else None
    return name if name in EXTRAS else None


def _may_be_data(key: str, asset: Mapping[str, Any]) -> bool:
    """Not what Earth Search has replaced, nor thumbnails, overviews and metadata."""
    roles = [role for role in as_list(asset.get("roles")) if isinstance(role, str)]
    return not _known(key) and not key.lower().endswith(_BEFORE) and "data" in (roles or ["data"])


def _spacing(asset: Mapping[str, Any]) -> float | None:
    transform = as_numbers(asset.get("proj:transform"), 6)
    if transform is not None:
        return transform[0]
    band = as_mapping(next(iter(as_list(asset.get("raster:bands"))), None))
    for value in (asset.get("gsd"), asset.get("raster:spatial_resolution"), band.get("spatial_resolution")):
        number = as_number(value)
        if number is not None:
            return number
    return None


def _soundly_placed(asset: Mapping[str, Any]) -> None:
    """Refuse a band whose own grid cannot be understood: guessing would put its pixels elsewhere."""
    for key, least, what in (("proj:transform", 6, "six numbers"), ("proj:shape", 2, "two numbers")):
        if asset.get(key) is not None and as_numbers(asset[key], least) is None:
            raise SourceError(f"{key} is {asset[key]!r:.80}, not {what}: correct it, or take it out")


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
    geobox : GeoBox
        The 10 m pixels of the tile, or as many as its assets have.
    assets : dict
        Canonical name → the asset on the band's native grid, `href` made absolute.
    keys : dict
        Canonical name → the key of that asset.
    properties : dict
    geometry : object
        Its outline, as the item has it.
    """

    id: str
    time: datetime
    tile: str
    plain: bool
    level: str | None
    platform: str
    geobox: GeoBox
    assets: dict[str, Mapping[str, Any]]
    keys: dict[str, str]
    properties: Mapping[str, Any]
    geometry: object = None

    @cached_property
    def footprint(self) -> Bounds | None:
        """What its outline spans, west, south, east, north in degrees; None where it has none that can be read."""
        try:
            return read_area(as_mapping(self.geometry), name="its geometry").lonlat
        except (SourceError, CRSError):
            return None

    @property
    def epsg(self) -> int:
        """EPSG code of its CRS."""
        assert self.geobox.crs is not None
        assert self.geobox.crs.epsg is not None
        return self.geobox.crs.epsg

    @property
    def rank(self) -> tuple[int, float, datetime, datetime]:
        """Orders copies of one acquisition: sequence, then processing; the greatest comes first."""
        sequences = (as_text(self.properties.get(key)) for key in ("s2:sequence", "sentinel:sequence"))
        sequence = next((text for text in sequences if re.fullmatch(r"\d{1,9}", text)), "-1")
        versions = map(version_of, self.baselines.values())
        version = next((version for version in versions if version is not None), 0.0)
        times = [
            [as_time(self.properties.get(key)) for key in keys]
            for keys in (("s2:generation_time", "sentinel2:generation_time"), ("created", "sentinel:created"))
        ]
        generated, created = (next((time for time in each if time), datetime.min) for each in times)
        return int(sequence), version, generated, created

    @property
    def baselines(self) -> dict[str, str]:
        """Name of a metadata field → the processing baseline in it, such as ``"05.09"``; the dedicated field first."""
        return dict(_baselines(self.properties, self.id))

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
    parsed, stores = split(items)
    for given in stores:
        raise SourceError(f"item {given.id!r} has its pixels in Zarr: {given.advice}")
    return parsed


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
        """The item's id, or a question mark."""
        return as_text(self.raw.get("id")) or "?"

    @property
    def home(self) -> Home:
        """Where the item came from."""
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
    parsed: list[Item] = []
    stores: list[Given] = []
    for given in _dicts(items):
        with named(given):
            # Raster files come first: some catalogues list both, and a cube of files can be cut and chunked as asked.
            native = native_assets(given.raw, given.home)
            if not native and zarr_root(given.raw) is not None:
                stores.append(given)
            else:
                parsed.append(_understood(given, native))
    if not parsed and not stores:
        raise SourceError(
            "there are no items: the search found nothing, or all have been filtered out; widen its bbox, datetime or "
            "query"
        )
    return parsed, stores


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
    grid = _grid(name, epsg, properties, assets)
    return Item(
        id=name,
        time=time,
        tile=tile_of(properties, name) or f"EPSG:{epsg} {edges_of(grid)}",
        plain=given.plain,
        level=level_of(given.raw, properties),
        platform=platform_of(properties, name),
        geobox=grid,
        assets=assets,
        keys={band: key for band, (key, _) in native.items()},
        properties=properties,
        geometry=given.raw.get("geometry"),
    )


@contextmanager
def named(given: Given) -> Iterator[None]:
    """Turn errors of any kind that an item causes into errors of this package that name the item."""
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
    for value in (*(properties.get(key) for key in keys), raw.get("collection")):
        for level in ("L1C", "L2A"):
            if level[1:] in as_text(value).upper():
                return level
    return None


def platform_of(properties: Mapping[str, Any], name: str) -> str:
    """S2A and so on, by its field or the names of the product; empty where none tells."""
    for value in (properties.get("platform"), *(properties.get(key) for key in _IDS), name):
        match = re.match(r"G?S(?:ENTINEL)?[ _-]?2([A-D])(?![A-Z])", as_text(value).upper())
        if match:
            return f"S2{match[1]}"
    return ""


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
    codes: set[int] = set()
    # All of them have to agree: an asset of another zone would be read at places that are not its own.
    for holder in (properties, *assets):
        for value in (holder.get("proj:epsg"), holder.get("proj:code")):
            code = as_text(value).upper().removeprefix("EPSG:")
            if re.fullmatch(r"[0-9]{1,9}", code):
                codes.add(int(code))
    if not codes:
        raise CRSError(
            f"item {name!r} has neither proj:epsg nor proj:code: put it in, "
            "such as item.properties['proj:code'] = 'EPSG:32633'"
        )
    if len(codes) > 1:
        raise CRSError(f"item {name!r} has several CRS, EPSG {sorted(codes)}: correct its proj:epsg or proj:code")
    (epsg,) = codes
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


def _grid(name: str, epsg: int, properties: Mapping[str, Any], assets: Mapping[str, Mapping[str, Any]]) -> GeoBox:
    extents: dict[tuple[float, ...], str] = {}
    # An asset speaks for itself; the item's own fields, often those of its 10 m bands, stand in where it is silent.
    for key, asset in assets.items():
        edges = _edges(asset) or _edges(properties)
        if edges is not None:
            extents.setdefault(edges, key)
    if not extents:
        raise SourceError(
            f"item {name!r} has no Sentinel-2 band with proj:transform and proj:shape, or proj:bbox: "
            "without them its grid is not known; put them in, as (10, 0, left, 0, -10, top) and (rows, columns)"
        )
    if len(extents) > 1:
        raise GridError(
            f"assets of item {name!r} differ in extent: "
            + "; ".join(f"{key} {edges}" for edges, key in extents.items())
        )
    (edges,) = extents
    width, height = edges[2] - edges[0], edges[3] - edges[1]
    if not (0 < width <= TILE and 0 < height <= TILE and max(map(abs, edges)) <= _FARTHEST):
        raise GridError(
            f"item {name!r} reaches from {edges[0]:.0f}, {edges[1]:.0f} to {edges[2]:.0f}, {edges[3]:.0f}, but a tile "
            f"of Sentinel-2 has at most {TILE} m a side: correct its proj:shape and proj:transform, or leave it out"
        )
    box = tuple(round(edge) for edge in edges)
    origin = lattice(epsg) or (0, 0)  # in a CRS that is not UTM there is none; the cube's checks warn of it
    on_grid = snap((box[0], box[1], box[2], box[3]), CELL, origin) == box
    if not on_grid or any(abs(edge - exact) > 1e-3 for edge, exact in zip(box, edges, strict=True)):
        raise GridError(
            f"item {name!r} has its edges at ({metres(*edges)}), not on multiples of {CELL} m from "
            f"({metres(*origin)}): these are not the pixels of a Sentinel-2 tile"
        )
    return geobox((box[0], box[1], box[2], box[3]), 10, epsg)


def _edges(holder: Mapping[str, Any]) -> tuple[float, ...] | None:
    transform, shape = as_numbers(holder.get("proj:transform"), 6), as_numbers(holder.get("proj:shape"), 2)
    if transform and shape:
        width, _, left, _, height, top = transform[:6]
        return left, top + height * shape[0], left + width * shape[1], top
    bbox = as_numbers(holder.get("proj:bbox"), 4)
    return tuple(bbox[:4]) if bbox and len(bbox) == 4 else None


def tile_of(properties: Mapping[str, Any], name: str) -> str | None:
    """MGRS name of the tile, by its field or the names of the product; None where none tells."""
    for value in (properties.get("grid:code"), properties.get("s2:mgrs_tile"), *map(properties.get, _IDS), name):
        match = _TILE.search(as_text(value))
        if match:
            return (match[1] or match[2]).zfill(5)
    return None


def _baselines(properties: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Name of a field and the processing baseline in it: the dedicated field first, then names of products."""
    for key in (*_BASELINES, "processing:version"):
        text = as_text(properties.get(key))
        # Elsewhere this may be the version of any software; ESA's baselines have two digits and two.
        if re.fullmatch(r"\d\d\.\d\d" if key == "processing:version" else r"\d{1,2}\.\d{1,4}", text):
            yield key, text
    for key, value in (*((key, properties.get(key)) for key in _IDS), ("its id", name)):
        match = re.search(r"_N(\d\d)\.?(\d\d)(?=_|\.|$)", as_text(value))
        if match and match[0][:6] != "_N9999":  # what users process themselves
            yield key, f"{match[1]}.{match[2]}"
