"""Of all items given, those that make one cube: in the area, on one grid, one per acquisition and tile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from xsen2.errors import CRSError, GridError, SourceError
from xsen2.sources._area import CELL, Area, lonlat
from xsen2.sources._items import Item

__all__ = ["one_grid", "passes", "touching"]

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


def one_grid(items: Sequence[Item]) -> None:
    """Refuse what cannot be one cube; several tiles can, if they share their CRS and their pixel grid.

    Raises
    ------
    CRSError
        If the items have several CRS.
    GridError
        If their 60 m pixels do not coincide.
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
    corners = {tuple(edge % CELL for edge in item.extent[:2]): item.tile for item in items}
    if len(corners) > 1:
        raise GridError(
            f"the 60 m pixels of tiles {' and '.join(sorted(corners.values()))} do not coincide: load them apart"
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
    one = f"xsen2.load([i for i in items if {get} == crs], bbox=bbox)"
    return f"Load a cube of each, and reproject the results if they have to be one: {{crs: {one} for crs in {values}}}"


def passes(items: Sequence[Item]) -> list[list[Item]]:
    """Items by acquisition, in the order of time: of every tile one, in the order of their names.

    Of several copies of a tile it is the one of highest sequence, else of the newest processing. Tiles that were
    seen within half an hour were seen in one pass.
    """
    out: list[list[Item]] = []
    for item in sorted(items, key=lambda item: item.time):
        if out and item.time - out[-1][0].time < _SAME_PASS:
            out[-1].append(item)
        else:
            out.append([item])
    return [_best(copies) for copies in out]


def _best(copies: Sequence[Item]) -> list[Item]:
    best: dict[str, Item] = {}
    for item in sorted(copies, key=lambda item: (item.rank, item.id)):
        best[item.tile] = item
    return [best[tile] for tile in sorted(best)]
