"""Of all items given, those that make one cube: in the area, on one grid, one per acquisition and tile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from xsen2.errors import CRSError, SourceError
from xsen2.sources._area import Area, lonlat
from xsen2.sources._fields import as_number
from xsen2.sources._items import Item

__all__ = ["first_of_tiles", "one_grid", "passes", "touching"]

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
    one = f"xsen2.load([i for i in items if {get} == crs], bbox=bbox)"
    return f"Load a cube of each, and reproject the results if they have to be one: {{crs: {one} for crs in {values}}}"


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
    if item.extent != better.extent or not item.assets.keys() <= better.assets.keys():
        return False
    if all(asset["href"] == better.assets[name]["href"] for name, asset in item.assets.items()):
        return True
    empty, less = (as_number(of.properties.get("s2:nodata_pixel_percentage")) for of in (item, better))
    told = item.strip is not None and None not in (empty, less) and item.footprint and better.footprint
    return bool(told and item.strip == better.strip and less <= empty and _near(item, better))  # type: ignore[operator]


def _near(item: Item, other: Item) -> bool:
    """Whether two outlines are one: their corners' extremes are within 20 m of each other."""
    ends = [tuple(end(axis) for axis in zip(*of.footprint, strict=True) for end in (min, max)) for of in (item, other)]
    return all(abs(a - b) < 2e-4 for a, b in zip(*ends, strict=True))


def first_of_tiles(date: Sequence[Item]) -> list[Item]:
    """Of one pass, the best copy of each tile."""
    return list({item.tile: item for item in reversed(date)}.values())
