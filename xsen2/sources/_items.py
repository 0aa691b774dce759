"""STAC items of every catalogue, reduced to what a cube needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pyproj import CRS
from pyproj.exceptions import CRSError as ProjError

from xsen2.errors import CRSError, GridError, SourceError, Xsen2Error
from xsen2.grid import lattice, metres, snap
from xsen2.sources._area import CELL, Box
from xsen2.sources._assets import EXTRAS, gsd_of, native_assets

__all__ = ["EXTRAS", "Item", "baseline", "gsd_of", "read"]

_TILE = re.compile(r"(?:MGRS-|_T|^T)?(\d{1,2}[C-X][A-Z]{2})(?:_|$)")


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
    epsg : int
    extent : tuple of int
        Outer edges of its assets: left, bottom, right, top.
    assets : dict
        Canonical name → the asset on the band's native grid, `href` made absolute.
    keys : dict
        Canonical name → the key of that asset.
    properties : dict
    """

    id: str
    time: datetime
    tile: str
    plain: bool
    level: str | None
    epsg: int
    extent: Box
    assets: dict[str, Mapping[str, Any]]
    keys: dict[str, str]
    properties: Mapping[str, Any]

    @property
    def rank(self) -> tuple[int, float, str, str]:
        """Orders copies of one acquisition: sequence, then processing; the greatest is the one to use."""
        sequence = str(self.properties.get("s2:sequence", ""))
        return (
            int(sequence) if sequence.isdigit() else -1,
            baseline(self.properties) or 0.0,
            str(self.properties.get("s2:generation_time", "")),
            str(self.properties.get("created", "")),
        )


def read(items: object) -> list[Item]:
    """Items of an ItemCollection, a FeatureCollection, an iterable of items or dicts, or a single one.

    Raises
    ------
    SourceError
        If there are none, or one cannot be understood.
    CRSError
        If an item has no CRS, two, or one that is not projected.
    GridError
        If the edges of an item are not those of 60 m pixels, as `xsen2.grid.lattice` has them.
    """
    found = [_item(raw, plain) for raw, plain in _dicts(items)]
    if not found:
        raise SourceError("there are no items: the search found nothing; widen its bbox, datetime or query")
    return found


def _dicts(items: object) -> Iterator[tuple[Mapping[str, Any], bool]]:
    if isinstance(items, Mapping) and items.get("type") == "FeatureCollection":
        items = items["features"]
    elif isinstance(items, Mapping) or hasattr(items, "assets"):
        items = [items]
    if not isinstance(items, Iterable) or isinstance(items, str):
        raise SourceError(
            f"items is a {type(items).__name__}: give an ItemCollection, Items or dicts, "
            "such as search.item_collection()"
        )
    for item in items:
        if isinstance(item, Mapping):
            yield item, True
        elif hasattr(item, "to_dict") and hasattr(item, "assets"):
            # Not transform_hrefs: that may read other catalogue files over the network.
            yield item.to_dict(transform_hrefs=False), False
        else:
            raise SourceError(f"an item is a {type(item).__name__}: give pystac Items or their dicts")


def _item(raw: Mapping[str, Any], plain: bool) -> Item:
    try:
        return _understood(raw, plain)
    except Xsen2Error:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise SourceError(
            f"item {raw.get('id', '?')!r} cannot be understood ({type(error).__name__}: {error}): one of its fields is "
            "not what STAC says it is"
        ) from error


def _understood(raw: Mapping[str, Any], plain: bool) -> Item:
    try:
        name, properties = str(raw["id"]), raw["properties"]
        when = properties["datetime"]
        given = raw["assets"]
    except KeyError as error:
        raise SourceError(f"item {raw.get('id', '?')!r} has no {error}: it is not a STAC item") from error
    epsg = _epsg(name, properties, given.values())
    native = native_assets(raw)
    assets = {band: asset for band, (_, asset) in native.items()}
    extent = _extent(name, epsg, properties, assets)
    product = str(properties.get("s2:product_type") or raw.get("collection") or "").upper()
    return Item(
        id=name,
        time=_utc(name, when),
        tile=_tile(properties) or f"EPSG:{epsg} {extent}",
        plain=plain,
        level=next((level for level in ("L1C", "L2A") if level[1:] in product), None),
        epsg=epsg,
        extent=extent,
        assets=assets,
        keys={band: key for band, (key, _) in native.items()},
        properties=properties,
    )


def _utc(name: str, when: object) -> datetime:
    try:
        time = datetime.fromisoformat(str(when))
    except ValueError as error:
        raise SourceError(f"item {name!r} has datetime {when!r}, which is not a time") from error
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def _epsg(name: str, properties: Mapping[str, Any], assets: Iterable[Mapping[str, Any]]) -> int:
    """The one EPSG code; pystac moves `proj:epsg` to `proj:code` when it reads an item."""
    found: set[int] = set()
    for holder in (properties, *assets):
        for value in (holder.get("proj:epsg"), holder.get("proj:code")):
            code = str(value or "").upper().removeprefix("EPSG:")
            if code.isdigit():
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
            "without them its grid is not known"
        )
    if len(found) > 1:
        raise GridError(
            f"assets of item {name!r} differ in extent: " + "; ".join(f"{key} {edges}" for edges, key in found.items())
        )
    (edges,) = found
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
    transform, shape = holder.get("proj:transform"), holder.get("proj:shape")
    if transform and shape:
        width, _, left, _, height, top = (float(v) for v in transform[:6])
        return left, top + height * shape[0], left + width * shape[1], top
    bbox = holder.get("proj:bbox")
    return tuple(float(v) for v in bbox) if bbox else None


def _tile(properties: Mapping[str, Any]) -> str | None:
    for key in ("grid:code", "s2:mgrs_tile", "s2:product_uri"):
        match = _TILE.search(str(properties.get(key, "")))
        if match:
            return match[1].zfill(5)
    return None


def baseline(properties: Mapping[str, Any]) -> float | None:
    """Processing baseline, such as 5.09; None where the item does not tell."""
    text = str(properties.get("s2:processing_baseline") or "")
    if not re.fullmatch(r"\d+\.\d+", text):
        match = re.search(r"_N(\d\d)(\d\d)_", str(properties.get("s2:product_uri", "")))
        if match is None:
            return None
        text = f"{match[1]}.{match[2]}"
    return float(text)
