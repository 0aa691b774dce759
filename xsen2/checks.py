"""What a cube refuses, from names and coordinates alone, with errors that say what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xsen2.bands import grid_of
from xsen2.errors import BandError, CRSError, GridError, SingleGridError, TimeError
from xsen2.grid import Axes, Bounds, edges, snap

__all__ = ["Candidate", "base_spacing", "check_crs", "check_times", "choose", "nested"]


@dataclass(frozen=True)
class Candidate:
    """A variable that has the name of a band: its axes, and its spacing if it shows one."""

    band: str
    name: str
    array: xr.DataArray
    axes: Axes
    size: float | None


def check_crs(crs: dict[str, Any]) -> None:
    """Refuse several CRS (name → CRS), and geographic ones."""
    if len(crs) > 1:
        raise CRSError(
            f"bands in more than one CRS ({', '.join(crs)}): work on one at a time, "
            "{epsg: xsen2.load(group) for epsg, group in …}"
        )
    for name, value in crs.items():
        if not value.is_projected:
            raise CRSError(
                f"the CRS {name} is geographic: its pixels are degrees, not metres. Load the bands again in the "
                "tile's own UTM zone; reprojected pixels are not native ones"
            )


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
            f"all {len(known)} bands are on one grid of {size:g} m: if they were loaded with nearest neighbour at "
            "10 m, xsen2.native(ds) takes the native pixels back out; otherwise load each at its own resolution "
            "(xsen2.load does)"
        )
    finest = min(grid_of(b) for b in known)
    base = min(size for b, size in known.items() if grid_of(b) == finest) * 10 / finest
    if base < 9.9 or abs(base / 10 - round(base / 10)) > 1e-3:
        raise GridError(
            f"the {finest} m bands are spaced {base * finest / 10:g} in the units of their coordinates: native "
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
    sizes = ", ".join(f"{c.size:g} m" for c in found)
    raise GridError(
        f"{found[0].name} is on a grid of {sizes}, but {band}'s native grid is {want:g} m here: load it at that "
        "resolution; resampled pixels are not native ones"
    )


def nested(chosen: dict[str, Candidate], base: float) -> Bounds:
    """Outer edges that all grids share."""
    boxes = {b: edges(c.array, c.axes, base * grid_of(b) / 10) for b, c in chosen.items()}
    first = next(iter(boxes))
    for band, box in boxes.items():
        if max(abs(p - q) for p, q in zip(box, boxes[first], strict=True)) > 0.01 * base:
            # What all grids share, cut to whole pixels of the coarsest grid.
            cell = base * max(grid_of(b) for b in chosen) / 10
            lower = [max(b[side] for b in boxes.values()) for side in (0, 1)]
            upper = [min(b[side] for b in boxes.values()) for side in (2, 3)]
            # Inward is outward with the signs turned.
            west, south, east, north = (-v for v in snap((-lower[0], -lower[1], -upper[0], -upper[1]), cell))
            shift = box[0] - boxes[first][0]
            hint = (
                "That is half a pixel: coordinates must be pixel centres (stackstac: xy_coords='center'). "
                if any(abs(abs(shift) - h * base / 10) < 0.01 * base for h in (5, 20, 25))
                else ""
            )
            raise GridError(
                f"grids do not nest: {chosen[first].name} spans x {boxes[first][0]:.2f}…{boxes[first][2]:.2f}, "
                f"y {boxes[first][1]:.2f}…{boxes[first][3]:.2f}, but {chosen[band].name} spans "
                f"x {box[0]:.2f}…{box[2]:.2f}, y {box[1]:.2f}…{box[3]:.2f}. {hint}Load all grids with bounds on "
                f"multiples of {cell:g} m (xsen2.load does), or cut them: x from {west:g} to {east:g}, y from "
                f"{south:g} to {north:g} is common to all"
            )
    box = boxes[first]
    size = {b: base * grid_of(b) / 10 for b in chosen}
    for band, s in size.items():
        for length in (box[2] - box[0], box[3] - box[1]):
            if abs(length / s - round(length / s)) > 0.01:
                raise GridError(
                    f"{chosen[band].name}: an extent of {length:g} m is not a whole number of {s:g} m pixels"
                )
    return box


def check_times(chosen: dict[str, Candidate]) -> None:
    """Refuse bands with different times."""
    first_band, first = next(iter(chosen.items()))
    reference = None if first.axes.time is None else first.array[first.axes.time].values
    for band, candidate in chosen.items():
        axis = candidate.axes.time
        values = None if axis is None else candidate.array[axis].values
        if (values is None) != (reference is None):
            raise TimeError(f"{first_band} and {band} disagree on having a time dim: select one date with .isel first")
        if values is not None and reference is not None and not np.array_equal(values, reference):
            raise TimeError(
                f"{candidate.name} has {len(values)} times that differ from the {len(reference)} of {first.name}: keep "
                "common dates with xr.align(…, join='inner')"
            )
