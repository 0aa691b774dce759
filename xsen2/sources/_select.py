"""Of all items given, those that make one cube: in the area, of one tile, one per acquisition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from xsen2.errors import CRSError, SourceError
from xsen2.sources._area import Area, lonlat
from xsen2.sources._items import Item

__all__ = ["latest", "one_tile", "touching"]

_SAME_PASS = timedelta(minutes=30)
"""Two orbits see a place at least 50 minutes apart; copies of one acquisition differ by seconds."""


def touching(items: Sequence[Item], area: Area) -> list[Item]:
    """The items whose pixels lie in the area.

    Raises
    ------
    SourceError
        If there are none.
    """
    places = {(item.extent, item.epsg) for item in items}  # few, however many the dates
    inside = {place for place in places if area.box(*place) is not None}
    found = [item for item in items if (item.extent, item.epsg) in inside]
    if not found:
        tiles = {item.tile: _degrees(lonlat(item.extent, item.epsg)) for item in items}
        raise SourceError(
            f"the area {_degrees(area.bounds)} lies outside all items: "
            + "; ".join(f"tile {tile} {where}" for tile, where in sorted(tiles.items()))
            + " (west, south, east, north in degrees)"
        )
    return found


def _degrees(bounds: Iterable[float]) -> str:
    return "(" + ", ".join(f"{v:.4f}" for v in bounds) + ")"


def one_tile(items: Sequence[Item]) -> None:
    """Refuse several tiles.

    Raises
    ------
    CRSError
        If they have several CRS, which never can be one cube.
    SourceError
        If they are of several tiles, or of L1C and L2A.
    """
    tiles = sorted({(item.tile, item.epsg) for item in items})
    codes = {epsg for _, epsg in tiles}
    named = ", ".join(f"{tile} in EPSG:{epsg}" for tile, epsg in tiles)
    if len(codes) > 1:
        raise CRSError(f"the items are in {len(codes)} CRS: tiles {named}; a cube has one. {_hint(items)}")
    if len(tiles) > 1:
        raise SourceError(f"the items are of {len(tiles)} tiles: {named}; a cube has one. {_hint(items)}")
    levels = sorted({item.level for item in items if item.level})
    if len(levels) > 1:
        raise SourceError(f"the items are of both levels, {' and '.join(levels)}: search one collection at a time")


def _hint(items: Sequence[Item]) -> str:
    """How to split the items into cubes, as code that runs."""
    for key in ("grid:code", "s2:mgrs_tile", "proj:code", "proj:epsg"):
        values = list(dict.fromkeys(item.properties.get(key) for item in items))
        if len(values) > 1 and None not in values:
            break
    else:
        return "Load the items of each apart"
    get = f'i["properties"]["{key}"]' if items[0].plain else f'i.properties["{key}"]'
    one = f"xsen2.load([i for i in items if {get} == tile], bbox=bbox)"
    return f"Load them apart: {{tile: {one} for tile in {values}}}"


def latest(items: Sequence[Item]) -> list[Item]:
    """One item per acquisition, in the order of time: the highest sequence, else the newest processing."""
    out: list[list[Item]] = []
    for item in sorted(items, key=lambda item: item.time):
        if out and item.time - out[-1][0].time < _SAME_PASS:
            out[-1].append(item)
        else:
            out.append([item])
    return [max(copies, key=lambda item: (item.rank, item.id)) for copies in out]
