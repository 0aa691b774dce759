"""What a cube refuses, from names and coordinates alone, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from xsen2.bands import grid_of
from xsen2.errors import BandError, CRSError, GridError, ResampledWarning, SingleGridError, TimeError, warn_once
from xsen2.grid import Axes, Bounds, Origin, crs_name, edges, lattice, metres, off, same_crs, snap

__all__ = ["Candidate", "base_spacing", "check_crs", "check_projection", "check_times", "choose", "nested"]


@dataclass(frozen=True)
class Candidate:
    """A variable that has the name of a band: its axes, and its spacing if it shows one."""

    band: str
    name: str
    array: xr.DataArray
    axes: Axes
    size: float | None


def check_crs(crs: Mapping[str, Any]) -> Any | None:
    """The CRS of all bands (name → CRS or None); several are refused, and geographic ones."""
    groups: list[tuple[Any, list[str]]] = []
    for name, value in crs.items():
        if value is None:
            continue
        group = next((names for known, names in groups if same_crs(known, value)), None)
        if group is None:
            groups.append((value, [name]))
        else:
            group.append(name)
    if not groups:
        return None
    if len(groups) > 1:
        groups.sort(key=lambda group: -len(group[1]))
        others = [name for _, names in groups[1:] for name in names]
        raise CRSError(
            "bands in more than one CRS: "
            + "; ".join(f"{', '.join(names)} in {crs_name(value)}" for value, names in groups)
            + f". A cube has one: leave the others out with ds.drop_vars({others!r}), and load what is in another zone "
            "as a cube of its own"
        )
    (value, _) = groups[0]
    if not value.is_projected:
        raise CRSError(
            f"the CRS {crs_name(value)} is geographic: its pixels are degrees, not metres. Load the bands again in the "
            "tile's own UTM zone, as xsen2.load does; reprojected pixels are not native ones"
        )
    return value


def base_spacing(candidates: dict[str, list[Candidate]], done: bool = False) -> float:
    """Spacing that plays the 10 m part: every band's is 1, 2 or 6 times this."""
    sizes = {b: [c.size for c in found if c.size is not None] for b, found in candidates.items()}
    known = {b: min(found) for b, found in sizes.items() if found}
    if not known:
        # A scene of single pixels in every band shows no spacing; the finest grid must be at its 10 m.
        raise GridError("every band is a single pixel, which shows no spacing: a cube is at least one whole 60 m pixel")
    grids = {grid_of(b) for b in known}
    if len(grids) > 1 and len({round(s, 6) for found in sizes.values() for s in found}) == 1:
        size = next(iter(known.values()))
        if done:
            raise SingleGridError("this dataset has been super-resolved: all its bands are at 10 m already")
        raise SingleGridError(
            f"all {len(known)} bands are on one grid of {metres(size)} m: if they were loaded with nearest neighbour "
            "at 10 m, xsen2.native(ds) takes the native pixels back out; otherwise load each at its own resolution "
            "(xsen2.load does)"
        )
    finest = min(grid_of(b) for b in known)
    base = min(size for b, size in known.items() if grid_of(b) == finest) * 10 / finest
    if base < 9.9 or abs(base / 10 - round(base / 10)) > 1e-3:
        raise GridError(
            f"the {finest} m bands are spaced {base * finest / 10:.10g} in the units of their coordinates: native "
            "Sentinel-2 grids are 10, 20 and 60 m (or whole multiples, after .degrade). Load them in the tile's CRS"
        )
    return float(round(base / 10) * 10)


def choose(band: str, found: list[Candidate], base: float) -> Candidate:
    """The variable that holds a band on its native grid."""
    want = base * grid_of(band) / 10
    fits = [c for c in found if c.size is not None and abs(c.size - want) < 0.01 * want]
    fits = fits or [c for c in found if c.size is None]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(c.name for c in fits)
        raise BandError(f"{band} is there more than once ({names}): drop all but one with ds.drop_vars")
    sizes = ", ".join(f"{metres(c.size)} m" for c in found if c.size is not None)
    raise GridError(
        f"{found[0].name} is on a grid of {sizes}, but {band}'s native grid is {metres(want)} m here: load it at that "
        "resolution; resampled pixels are not native ones"
    )


def nested(chosen: Mapping[str, Candidate], base: float, crs: Any = None) -> Bounds:
    """Outer edges that all grids share.

    Parameters
    ----------
    chosen : mapping
        Band → the variable that holds it.
    base : float
        Pixel size of the finest grid.
    crs : rasterio.crs.CRS, optional
        Says where native pixels may lie, if they are native: those of a degraded cube lie where they were cut from.

    Raises
    ------
    GridError
        If they do not share them, or lie where no pixel of Sentinel-2 does.
    """
    sizes = {b: base * grid_of(b) / 10 for b in chosen}
    boxes = {b: edges(c.array, c.axes, sizes[b]) for b, c in chosen.items()}
    for band, box in boxes.items():
        for length in (box[2] - box[0], box[3] - box[1]):
            if abs(length / sizes[band] - round(length / sizes[band])) > _SLACK:
                raise GridError(
                    f"{chosen[band].name}: an extent of {metres(length)} m is not a whole number of pixels of "
                    f"{metres(sizes[band])} m, so its pixels are not quite of that size: reload it on its native grid"
                )
    origin = lattice(crs) if base == 10 else None
    alike = all(_close(box, boxes[next(iter(boxes))], base) for box in boxes.values())
    astray = {b: d for b in chosen if origin and max(map(abs, d := off(boxes[b], sizes[b], origin))) > _SLACK * base}
    if alike and not any(sizes[b] > 10 for b in astray):
        if astray:  # 10 m bands alone
            _warn_astray(chosen[next(iter(astray))].name, next(iter(astray.values())), crs)
        return next(iter(boxes.values()))
    if (corner := _corners(boxes, sizes, base, origin)) is not None:
        raise GridError(_say_corners(chosen, boxes, sizes, base, *corner))
    if origin is not None and astray:
        raise GridError(_say_astray(chosen, boxes, sizes, astray, crs, origin))
    raise GridError(_say_apart(chosen, boxes, sizes, base, origin))


_SLACK = 0.01  # of a pixel of the finest grid

_CORNERS = {(1, -1): "upper left", (1, 1): "lower left", (-1, -1): "upper right", (-1, 1): "lower right"}
"""Which corner of a pixel coordinates are of: where its centre lies from there."""


def _close(one: Bounds, other: Bounds, base: float) -> bool:
    return max(abs(p - q) for p, q in zip(one, other, strict=True)) <= _SLACK * base


def _corners(
    boxes: Mapping[str, Bounds], sizes: Mapping[str, float], base: float, origin: Origin | None
) -> tuple[tuple[int, int], set[float]] | None:
    """The corner, and the grids whose coordinates are that corner of their pixels, if that is what is wrong.

    All four edges must then agree, and lie on the lattice if that is known.
    """
    grids = sorted(set(sizes.values()))
    found = []
    for x, y in _CORNERS:
        for count in range(len(grids), 0, -1):
            for some in combinations(grids, count):
                moved = [
                    (box[0] + x * h, box[1] + y * h, box[2] + x * h, box[3] + y * h)
                    for b, box in boxes.items()
                    for h in [sizes[b] / 2 if sizes[b] in some else 0]
                ]
                if all(_close(box, moved[0], base) for box in moved) and (
                    origin is None or max(map(abs, off(moved[0], max(grids), origin))) <= _SLACK * base
                ):
                    found.append(((x, y), set(some)))
    return found[0] if found else None


def _span(box: Bounds) -> str:
    west, south, east, north = (metres(edge) for edge in box)
    return f"x {west}…{east}, y {south}…{north}"


def _say_corners(
    chosen: Mapping[str, Candidate],
    boxes: Mapping[str, Bounds],
    sizes: Mapping[str, float],
    base: float,
    corner: tuple[int, int],
    grids: set[float],
) -> str:
    band = next(b for b in chosen if sizes[b] in grids)
    other = next((b for b in chosen if not _close(boxes[b], boxes[band], base)), band)
    what = " and ".join(f"{metres(size)} m" for size in sorted(grids))
    shifts = {
        str(dim): (sign * sizes[b] / 2)
        for b, c in chosen.items()
        if sizes[b] in grids
        for dim, sign in ((c.axes.x, corner[0]), (c.axes.y, corner[1]))
    }
    code = ", ".join(f"{dim}=ds.{dim} {'-' if by < 0 else '+'} {metres(abs(by))}" for dim, by in shifts.items())
    mend = f", or ds.assign_coords({code})" if _own_dims(chosen, sizes) else ", or move them by half a pixel"
    return (
        f"grids do not nest: {chosen[other].name} spans {_span(boxes[other])}, but {chosen[band].name} spans "
        f"{_span(boxes[band])}. That is half a pixel, as if coordinates of the {what} bands were those of "
        f"{_CORNERS[corner]} corners, where pixel centres are needed (stackstac: xy_coords='center'{mend}). If they "
        "are centres, these bands were resampled onto another grid: load them again (xsen2.load does)"
    )


def _own_dims(chosen: Mapping[str, Candidate], sizes: Mapping[str, float]) -> bool:
    """Whether every grid has dims of its own, so that one Dataset holds them all."""
    owners: dict[Any, set[float]] = {}
    for band, c in chosen.items():
        for dim in (c.axes.x, c.axes.y):
            owners.setdefault(dim, set()).add(sizes[band])
    return all(len(grids) == 1 for grids in owners.values())


def _where(shift: tuple[float, float]) -> str:
    """A shift in words: 20 m too far north."""
    words = []
    for by, (more, less) in zip(shift, (("east", "west"), ("north", "south")), strict=True):
        if abs(by) > 1e-3:
            words.append(f"{metres(abs(by))} m too far {more if by > 0 else less}")
    return " and ".join(words)


def _say_astray(
    chosen: Mapping[str, Candidate],
    boxes: Mapping[str, Bounds],
    sizes: Mapping[str, float],
    astray: Mapping[str, tuple[float, float]],
    crs: Any,
    origin: Origin,
) -> str:
    band = max(astray, key=lambda b: sizes[b])
    size, cell = sizes[band], max(sizes.values())
    bounds = metres(*snap(_common(boxes.values()) or boxes[band], cell, origin))
    code = crs.to_epsg()
    named = f"'EPSG:{code}'" if code else "crs"
    return (
        f"{chosen[band].name} spans {_span(boxes[band])}, and so lies {_where(astray[band])} for pixels of "
        f"Sentinel-2: in {crs_name(crs)} their edges are on multiples of {metres(size)} m from "
        f"({metres(origin[0] % size, origin[1] % size)}). It was resampled onto another grid, which no "
        "cut undoes. xsen2.load gives native pixels. With odc.stac.load, load each resolution with geobox="
        f"odc.geo.geobox.GeoBox.from_bbox(({bounds}), {named}, resolution=…, tight=True); with stackstac.stack, with "
        f"bounds=({bounds}), snap_bounds=False, xy_coords='center'"
    )


def _common(boxes: Iterable[Bounds]) -> Bounds | None:
    """What all have; None if that is nothing."""
    wests, souths, easts, norths = zip(*boxes, strict=True)
    box = max(wests), max(souths), min(easts), min(norths)
    return box if box[0] < box[2] and box[1] < box[3] else None


def _say_apart(
    chosen: Mapping[str, Candidate],
    boxes: Mapping[str, Bounds],
    sizes: Mapping[str, float],
    base: float,
    origin: Origin | None,
) -> str:
    """Grids that differ in extent, and where to cut them, if that helps."""
    first = next(iter(boxes))
    band = next(b for b in boxes if not _close(boxes[b], boxes[first], base))
    said = (
        f"grids do not nest: {chosen[first].name} spans {_span(boxes[first])}, but {chosen[band].name} spans "
        f"{_span(boxes[band])}. "
    )
    cell = max(sizes.values())
    coarse = next(b for b in boxes if sizes[b] == cell)
    start = origin or (boxes[coarse][0], boxes[coarse][3])
    for b, box in boxes.items():
        shift = off(box, sizes[b], start)
        if max(map(abs, shift)) > _SLACK * base:
            return (
                f"{said}Edges of pixels do not meet: {chosen[b].name} lies {_where(shift)} for those of "
                f"{chosen[coarse].name}, which no cut mends. Load all grids again, on the same bounds of whole "
                f"pixels of {metres(cell)} m (xsen2.load does)"
            )
    shared = _common(boxes.values())
    inside = None if shared is None else snap(shared, cell, start, inward=True)
    if inside is None or inside[0] >= inside[2] or inside[1] >= inside[3]:
        return (
            f"{said}They have no whole pixel of {metres(cell)} m in common, so there is nothing to cut them to: load "
            "all grids on the same bounds (xsen2.load does)"
        )
    west, south, east, north = (metres(edge) for edge in inside)
    code = ", ".join(_slices(chosen, inside)) if _own_dims(chosen, sizes) else ""
    return (
        f"{said}Load all grids with the same bounds (xsen2.load does), or cut them: x from {west} to {east}, y from "
        f"{south} to {north} is common to all" + (f", ds.sel({code})" if code else "")
    )


def _slices(chosen: Mapping[str, Candidate], box: Bounds) -> list[str]:
    """``x=slice(600000, 600060)`` for every dim, in the order of its coordinate."""
    out: dict[str, str] = {}
    for c in chosen.values():
        for dim, low, high in ((c.axes.x, box[0], box[2]), (c.axes.y, box[1], box[3])):
            values = c.array[dim].values
            ends = (high, low) if values[0] > values[-1] else (low, high)
            out[str(dim)] = f"{dim}=slice({metres(*ends)})"
    return list(out.values())


def check_projection(crs: Any) -> None:
    """Warn of a CRS in which no native pixels are."""
    if crs is not None and lattice(crs) is None:
        code = crs.to_epsg()
        back = f"'EPSG:{code}'" if code else "cube.rio.crs"
        warn_once(
            f"the cube is in {crs_name(crs)}, and Sentinel-2's pixels are in UTM (WGS 84): it has been reprojected, "
            f"and {_WORSE}. Super-resolve in the tile's own UTM zone (xsen2.load gives it) and reproject the result, "
            f"with sr.rio.reproject({back})",
            ResampledWarning,
        )


_WORSE = "what methods make of resampled pixels has errors two to five times as large"


def _warn_astray(name: str, shift: tuple[float, float], crs: Any) -> None:
    warn_once(
        f"{name} lies {_where(shift)} for pixels of Sentinel-2, whose edges at 10 m are multiples of 10 in "
        f"{crs_name(crs)}: it was resampled onto another grid, and {_WORSE}. Load it on its native grid, as xsen2.load "
        "does",
        ResampledWarning,
    )


def check_times(chosen: Mapping[str, Candidate]) -> None:
    """Refuse bands with different times, and times that are none."""
    for candidate in chosen.values():
        axis = candidate.axes.time
        if axis is not None and axis in candidate.array.coords:
            values = candidate.array[axis].values
            if values.dtype.kind == "M" and np.isnat(values).any():
                raise TimeError(
                    f"{candidate.name} has {int(np.isnat(values).sum())} of {len(values)} dates that are NaT along "
                    f"{axis!r}, the first at position {int(np.isnat(values).argmax())}: leave them out with "
                    f"ds.isel({axis}=ds[{axis!r}].notnull())"
                )
    first = next(iter(chosen.values()))
    for candidate in chosen.values():
        one, other = first.axes.time, candidate.axes.time
        if (one is None) != (other is None):
            dim = one if other is None else other
            has, lacks = (first, candidate) if other is None else (candidate, first)
            raise TimeError(
                f"{has.name} has the time dim {dim!r} and {lacks.name} has none: select one date for all, with "
                f"ds.isel({dim}=0)"
            )
        if one is not None and other is not None:
            _same_times(first, candidate, one, other)


def _same_times(first: Candidate, candidate: Candidate, one: Hashable, other: Hashable) -> None:
    """Refuse two bands whose dates differ."""
    here, there = (
        np.asarray(c.array[dim].values if dim in c.array.coords else np.arange(c.array.sizes[dim]))
        for c, dim in ((first, one), (candidate, other))
    )
    if np.array_equal(here, there):
        return
    said = (
        f"{candidate.name} has {len(there)} times that differ from the {len(here)} of {first.name}, {there[0]} … and "
        f"{here[0]} …"
    )
    if not np.isin(here, there).any():
        raise TimeError(
            f"{said}, and none in common. If they are the same acquisitions, whose times were noted differently, say "
            f"so with ds.assign_coords({other}=ds[{one!r}].values); else load the bands again with the same dates"
        )
    if one == other:
        how = (
            f"tree.map_over_datasets(lambda group: group.sel({one}=common) if {one!r} in group.dims else group), where "
            f"common is np.intersect1d of the {one!r} of both groups"
        )
    else:
        how = (
            f"ds.isel({one}=ds[{one!r}].isin(ds[{other!r}].values).values, "
            f"{other}=ds[{other!r}].isin(ds[{one!r}].values).values)"
        )
    raise TimeError(f"{said}: keep those that both have, with {how}")
