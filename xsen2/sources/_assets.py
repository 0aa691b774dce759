"""Which asset of an item is which band or layer: by its key, by the bands that it says it has, or by its title."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from xsen2 import bands as _bands
from xsen2 import layers as _layers
from xsen2.errors import SourceError
from xsen2.sources._fields import as_list, as_mapping, as_number, as_numbers, as_text
from xsen2.sources._hrefs import Home

__all__ = ["EXTRAS", "EXTRA_ATTRS", "gsd_of", "native_assets", "zarr_root"]

EXTRAS: dict[str, int] = {"SCL": _layers.LAYERS["SCL"].gsd}
"""Layers that ride along when asked for by name → gsd in metres; integer classes, 0 is nodata."""

EXTRA_ATTRS: dict[str, dict[str, Any]] = {name: _layers.LAYERS[name].attrs for name in EXTRAS}
"""Their attributes in a cube."""

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
            if name is None or name in out or _layers.find(key) not in (None, name):
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
    found = [asset for asset in map(as_mapping, as_mapping(raw.get("assets")).values()) if is_zarr(asset)]
    roots = [match[1] for asset in found if (match := _ZARR.match(as_text(asset.get("href"))))]
    if roots:
        return max(sorted(set(roots)), key=roots.count)
    return next((as_text(asset.get("href")) for asset in found), None)


def _known(word: object) -> str | None:
    upper = as_text(word).upper()
    layer = _layers.find(upper)
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
    name = _layers.in_title(asset.get("title")) if _may_be_data(key, asset) else None
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
    for said in (asset.get("gsd"), asset.get("raster:spatial_resolution"), band.get("spatial_resolution")):
        number = as_number(said)
        if number is not None:
            return number
    return None


def _soundly_placed(asset: Mapping[str, Any]) -> None:
    """Refuse a band whose own grid cannot be understood: guessing would put its pixels elsewhere."""
    for key, least, what in (("proj:transform", 6, "six numbers"), ("proj:shape", 2, "two numbers")):
        if asset.get(key) is not None and as_numbers(asset[key], least) is None:
            raise SourceError(f"{key} is {asset[key]!r:.80}, not {what}: correct it, or take it out")
