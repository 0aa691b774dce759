"""Which asset of an item is which band: by its key, else by the bands that it says it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from xsen2 import bands as _bands

__all__ = ["EXTRAS", "EXTRA_ATTRS", "gsd_of", "native_assets"]

EXTRAS: dict[str, int] = {"SCL": 20}
"""Layers that ride along when asked for by name → gsd in metres; integer classes, 0 is nodata."""

EXTRA_ATTRS: dict[str, dict[str, Any]] = {
    "SCL": {
        "long_name": "scene classification",
        "gsd": EXTRAS["SCL"],
        "flag_values": list(range(12)),
        "flag_meanings": "no_data saturated_or_defective dark_area cloud_shadow vegetation not_vegetated "
        "water unclassified cloud_medium_probability cloud_high_probability thin_cirrus snow_or_ice",
    }
}
"""Their attributes in a cube."""

_COMMON = {"REDEDGE071": "B05", "REDEDGE075": "B06", "REDEDGE078": "B07"}
"""Common names of eo 2.0 that no catalogue uses as keys; plain ``rededge`` may be any of three bands."""


def gsd_of(name: str) -> int:
    """Native ground sampling distance of a band or an extra, in metres."""
    return EXTRAS[name] if name in EXTRAS else _bands.grid_of(name)


def native_assets(raw: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Canonical name → key and asset, `href` made absolute, without those resampled away from the native grid.

    A key in any catalogue's words comes first (``B02``, ``blue``). A band that has none is looked for in the
    `eo:bands` (STAC 1.0) or `bands` (1.1) of the other assets: one with exactly one band, of that name or common
    name, on the native grid by `proj:transform` or `gsd`. Keys that end in ``-jp2`` are left out there: Earth
    Search keeps the files before its harmonisation under them, and its offset flag does not speak of these.
    """
    here = next((str(link["href"]) for link in raw.get("links", ()) if link.get("rel") == "self"), "")
    out: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for certain in (True, False):
        for key, asset in raw["assets"].items():
            name = _known(key) if certain else None if _known(key) or key.lower().endswith("-jp2") else _band(asset)
            if name is None or name in out:
                continue
            spacing = _spacing(asset)
            if spacing == gsd_of(name) or (spacing is None and certain):
                out[name] = key, {**asset, "href": _absolute(str(asset["href"]), here)}
    return out


def _known(word: object) -> str | None:
    upper = str(word).upper()
    return upper if upper in EXTRAS else _bands.find(word) or _COMMON.get(upper)


def _band(asset: Mapping[str, Any]) -> str | None:
    """The one band that an asset says it has."""
    if "data" not in (asset.get("roles") or ["data"]):
        return None  # thumbnails and overviews
    about = asset.get("eo:bands") or asset.get("bands") or []
    if len(about) != 1:
        return None
    words = [about[0].get(key) for key in ("name", "eo:common_name", "common_name")]
    return next((name for name in map(_known, words) if name), None)


def _spacing(asset: Mapping[str, Any]) -> float | None:
    transform = asset.get("proj:transform")
    if transform is not None:
        return float(transform[0])
    gsd = asset.get("gsd")
    return None if gsd is None else float(gsd)


def _absolute(href: str, here: str) -> str:
    if urlsplit(href).scheme:
        return href
    return urljoin(here, href) if here else os.path.abspath(href)
