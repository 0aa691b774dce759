"""What a cube is: recognise one in a caller's dataset, check it, give it canonical names.

Decisions rest on the names of bands and on coordinate spacing. No pixel is read here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, GRIDS, UNUSED, factor_of, find, grid_of
from xsen2.engine.halo import split
from xsen2.errors import BandError, CRSError, GridError, ResampledWarning, SingleGridError, TimeError, once, warn_once
from xsen2.grid import (
    Axes,
    Bounds,
    Origin,
    axes_of,
    centres,
    crs_name,
    crs_of,
    edges,
    geobox,
    is_mapping,
    lattice,
    mapping_names,
    metres,
    off,
    same_crs,
    snap,
    spacing,
    without_place,
)
from xsen2.radiometry import PACKED, UNPACKED

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = [
    "CHUNK",
    "DIMS",
    "Cube",
    "canonicalise",
    "carried",
    "carry",
    "lazy",
    "native",
    "nearest",
    "recognise",
    "snap",
    "write_crs",
]


# What a cube refuses, from names and coordinates alone, with errors that say what to do.


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
    sizes = {b: [c.size for c in options if c.size is not None] for b, options in candidates.items()}
    known = {b: min(steps) for b, steps in sizes.items() if steps}
    if not known:
        # A scene of single pixels in every band shows no spacing; the finest grid must be at its 10 m.
        raise GridError("every band is a single pixel, which shows no spacing: a cube is at least one whole 60 m pixel")
    grids = {grid_of(b) for b in known}
    if len(grids) > 1 and len({round(step, 6) for steps in sizes.values() for step in steps}) == 1:
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


def choose(band: str, candidates: list[Candidate], base: float) -> Candidate:
    """The variable that holds a band on its native grid."""
    want = base * grid_of(band) / 10
    fits = [c for c in candidates if c.size is not None and abs(c.size - want) < 0.01 * want]
    fits = fits or [c for c in candidates if c.size is None]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(c.name for c in fits)
        raise BandError(f"{band} is there more than once ({names}): drop all but one with ds.drop_vars")
    sizes = ", ".join(f"{metres(c.size)} m" for c in candidates if c.size is not None)
    raise GridError(
        f"{candidates[0].name} is on a grid of {sizes}, but {band}'s native grid is {metres(want)} m here: "
        "load it at that resolution; resampled pixels are not native ones"
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


def _close(box: Bounds, other: Bounds, base: float) -> bool:
    return max(abs(p - q) for p, q in zip(box, other, strict=True)) <= _SLACK * base


def _corners(
    boxes: Mapping[str, Bounds], sizes: Mapping[str, float], base: float, origin: Origin | None
) -> tuple[tuple[int, int], set[float]] | None:
    """The corner, and the grids whose coordinates are that corner of their pixels, if that is what is wrong.

    All four edges must then agree, and lie on the lattice if that is known.
    """
    grids = sorted(set(sizes.values()))
    fits = []
    for x, y in _CORNERS:
        for count in range(len(grids), 0, -1):
            for shifted in combinations(grids, count):
                moved = [
                    (box[0] + x * h, box[1] + y * h, box[2] + x * h, box[3] + y * h)
                    for b, box in boxes.items()
                    for h in [sizes[b] / 2 if sizes[b] in shifted else 0]
                ]
                if all(_close(box, moved[0], base) for box in moved) and (
                    origin is None or max(map(abs, off(moved[0], max(grids), origin))) <= _SLACK * base
                ):
                    fits.append(((x, y), set(shifted)))
    return fits[0] if fits else None


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
    mend = f", or ds.assign_coords({code})" if _apart_in_dims(chosen, sizes) else ", or move them by half a pixel"
    return (
        f"grids do not nest: {chosen[other].name} spans {_span(boxes[other])}, but {chosen[band].name} spans "
        f"{_span(boxes[band])}. That is half a pixel, as if coordinates of the {what} bands were those of "
        f"{_CORNERS[corner]} corners, where pixel centres are needed (stackstac: xy_coords='center'{mend}). If they "
        "are centres, these bands were resampled onto another grid: load them again (xsen2.load does)"
    )


def _apart_in_dims(chosen: Mapping[str, Candidate], sizes: Mapping[str, float]) -> bool:
    """Whether every grid has dims of its own, so that one Dataset holds them all."""
    owners: dict[Any, set[float]] = {}
    for band, c in chosen.items():
        for dim in (c.axes.x, c.axes.y):
            owners.setdefault(dim, set()).add(sizes[band])
    return all(len(grids) == 1 for grids in owners.values())


def _shift_in_words(shift: tuple[float, float]) -> str:
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
        f"{chosen[band].name} spans {_span(boxes[band])}, and so lies {_shift_in_words(astray[band])} for pixels of "
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
    edges = (
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
                f"{edges}Edges of pixels do not meet: {chosen[b].name} lies {_shift_in_words(shift)} for those of "
                f"{chosen[coarse].name}, which no cut mends. Load all grids again, on the same bounds of whole "
                f"pixels of {metres(cell)} m (xsen2.load does)"
            )
    shared = _common(boxes.values())
    inside = None if shared is None else snap(shared, cell, start, inward=True)
    if inside is None or inside[0] >= inside[2] or inside[1] >= inside[3]:
        return (
            f"{edges}They have no whole pixel of {metres(cell)} m in common, so there is nothing to cut them to: load "
            "all grids on the same bounds (xsen2.load does)"
        )
    west, south, east, north = (metres(edge) for edge in inside)
    code = ", ".join(_slices(chosen, inside)) if _apart_in_dims(chosen, sizes) else ""
    return (
        f"{edges}Load all grids with the same bounds (xsen2.load does), or cut them: x from {west} to {east}, y from "
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
        f"{name} lies {_shift_in_words(shift)} for pixels of Sentinel-2, whose edges at 10 m are multiples of 10 in "
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
        axis, other = first.axes.time, candidate.axes.time
        if (axis is None) != (other is None):
            dim = axis if other is None else other
            has, lacks = (first, candidate) if other is None else (candidate, first)
            raise TimeError(
                f"{has.name} has the time dim {dim!r} and {lacks.name} has none: select one date for all, with "
                f"ds.isel({dim}=0)"
            )
        if axis is not None and other is not None:
            _same_times(first, candidate, axis, other)


def _same_times(first: Candidate, candidate: Candidate, axis: Hashable, other: Hashable) -> None:
    """Refuse two bands whose dates differ."""
    ours, theirs = (
        np.asarray(c.array[dim].values if dim in c.array.coords else np.arange(c.array.sizes[dim]))
        for c, dim in ((first, axis), (candidate, other))
    )
    if np.array_equal(ours, theirs):
        return
    difference = (
        f"{candidate.name} has {len(theirs)} times that differ from the {len(ours)} of {first.name}, {theirs[0]} … and "
        f"{ours[0]} …"
    )
    if not np.isin(ours, theirs).any():
        raise TimeError(
            f"{difference}, and none in common. If they are the same acquisitions, whose times were noted differently, "
            f"say so with ds.assign_coords({other}=ds[{axis!r}].values); else load the bands again with the same dates"
        )
    if axis == other:
        how = (
            f"tree.map_over_datasets(lambda group: group.sel({axis}=common) if {axis!r} in group.dims else group), "
            f"where common is np.intersect1d of the {axis!r} of both groups"
        )
    else:
        how = (
            f"ds.isel({axis}=ds[{axis!r}].isin(ds[{other!r}].values).values, "
            f"{other}=ds[{other!r}].isin(ds[{axis!r}].values).values)"
        )
    raise TimeError(f"{difference}: keep those that both have, with {how}")


# Take native pixels back out of a dataset that was loaded onto one 10 m grid.


def _take(block: npt.NDArray[Any], ratio: int, name: str) -> npt.NDArray[Any]:
    """One pixel of every ``ratio x ratio`` cell, after checking that the cell is constant."""
    if block.size == 0:
        return block[..., ::ratio, ::ratio]
    taken = block[..., ::ratio, ::ratio]
    again = np.repeat(np.repeat(taken, ratio, axis=-2), ratio, axis=-1)
    same = (again == block) | ((again != again) & (block != block))
    if not same.all():
        share = 1 - same.mean()
        raise GridError(
            f"{name}: {share:.1%} of the pixels differ inside {ratio} x {ratio} cells, so it was not loaded with "
            "nearest neighbour on an aligned grid: load the bands at their own resolutions (xsen2.load does)"
        )
    return taken


@once
def native(ds: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Take the native pixels back out of a single-grid 10 m dataset that was loaded with nearest.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        All bands on one 10 m grid, as one ``odc.stac.load`` or ``stackstac.stack`` call gives; a
        DataArray must have a ``band`` dim.

    Returns
    -------
    xarray.Dataset
        A cube: 20 m and 60 m bands on their own grids, in the caller's dtype.

    Raises
    ------
    GridError
        If the grid does not start and end on edges of 20 or 60 m pixels, as `xsen2.grid.lattice` has them; or, when
        the pixels are read, if the cells are not constant. Data in memory is checked at once.

    Warns
    -----
    ResampledWarning
        If the CRS is projected, but not UTM.

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample()
    >>> b05 = cube["B05"].data.repeat(2, axis=-2).repeat(2, axis=-1)
    >>> flat = cube[["B03"]].assign(B05=(("time", "y", "x"), b05))
    >>> xsen2.native(flat)["B05"].sizes["y_20m"] == cube.sizes["y_20m"]
    True
    """
    if not isinstance(ds, xr.Dataset | xr.DataArray):
        raise BandError(f"native() takes a Dataset or a DataArray with a 'band' dim, not a {type(ds).__name__}")
    if isinstance(ds, xr.DataArray):
        if "band" not in ds.dims:
            raise BandError(f"a DataArray needs a 'band' dim, this one has {ds.dims}: pass a Dataset of bands")
        # Per-band strings and numbers of stackstac would become variables of no use.
        ds = ds.drop_vars([n for n, c in ds.coords.items() if "band" in c.dims and n != "band"]).to_dataset(dim="band")
    bands: dict[str, xr.DataArray] = {}
    extras: dict[Hashable, xr.DataArray] = {}
    mappings = mapping_names(ds)
    for name, variable in ds.data_vars.items():
        if name in mappings:
            continue
        band = find(name)
        if band is None:
            extras[name] = variable
        else:
            if band in bands:
                raise BandError(
                    f"{band} is there more than once ({bands[band].name}, {name}): drop one with ds.drop_vars"
                )
            bands[band] = variable.rename(name)
    if not bands:
        raise BandError(f"no Sentinel-2 bands among {list(ds.data_vars)}")
    crs = check_crs({str(v.name): crs_of(v, ds) for v in bands.values()})
    check_projection(crs)
    out: dict[Hashable, xr.DataArray] = {}
    for band, variable in bands.items():
        out[variable.name] = _native_band(band, variable, crs)
    first = next(iter(bands.values()))
    axes = axes_of(first, str(first.name))
    to = {axes.y: "y", axes.x: "x"}  # the 10 m dims of the result; extra variables lie on that grid
    extras = {n: v.rename({d: to[d] for d in v.dims if to.get(d, d) != d}) for n, v in extras.items()}
    cube = xr.Dataset({**out, **extras}, attrs=ds.attrs)
    cube = cube.drop_vars(
        [n for n, c in cube.coords.items() if n not in cube.dims and (c.dtype == object or is_mapping(c))]
    )
    return cube if crs is None else write_crs(cube, crs)


def _native_band(band: str, variable: xr.DataArray, crs: Any) -> xr.DataArray:
    label = str(variable.name)
    axes = axes_of(variable, label)
    size = spacing(variable, axes, label)
    if size is None or abs(size - 10) > 0.1:
        is_on = "a single pixel" if size is None else f"on a grid of {metres(size)} m"
        raise GridError(f"{label} is {is_on}: native() takes bands that were loaded at 10 m")
    gsd = grid_of(band)
    _check_cells(label, gsd, edges(variable, axes, 10.0), crs)
    ratio = gsd // 10
    variable = variable.transpose(*([] if axes.time is None else [axes.time]), axes.y, axes.x)
    if ratio == 1:
        return variable.rename({axes.y: "y", axes.x: "x"} if (axes.y, axes.x) != ("y", "x") else {})
    data = variable.data
    if isinstance(data, da.Array):
        side = tuple(split(c, ratio) for c in data.chunks[-2:])
        data = data.rechunk({data.ndim - 2: side[0], data.ndim - 1: side[1]})
        chunks = (*data.chunks[:-2], *(tuple(n // ratio for n in c) for c in data.chunks[-2:]))
        taken: Any = da.map_blocks(_take, data, ratio, label, chunks=chunks, dtype=data.dtype, meta=data._meta)
    else:
        taken = _take(np.asarray(data), ratio, label)
    ydim, xdim = DIMS[gsd]
    coords = {ydim: _middle(variable, axes.y, ratio), xdim: _middle(variable, axes.x, ratio)}
    if axes.time is not None and axes.time in variable.coords:
        coords[str(axes.time)] = variable[axes.time].values
    dims = (*([] if axes.time is None else [axes.time]), ydim, xdim)
    out = xr.DataArray(taken, coords, dims, attrs=without_place(variable.attrs), name=variable.name)
    out.encoding = {
        k: v for k, v in variable.encoding.items() if k in PACKED
    }  # decoded reflectance is recognised by it
    return out


def _check_cells(label: str, gsd: int, box: Bounds, crs: Any) -> None:
    """Refuse a grid that does not start and end on edges of the pixels that it repeats.

    Where no lattice is known, without a CRS or in one that is not UTM, the pixels alone can tell: cells that begin
    elsewhere than the grid are not constant.
    """
    known = lattice(crs)
    origin = (box[0], box[3]) if known is None else known
    # Both ends, each axis by itself.
    wrong = [off(edge, gsd, origin) for edge in (box, (box[2], 0, 0, box[1]))]
    if max(abs(by) for pair in wrong for by in pair) <= 0.01:
        return
    halves = [off(edge, 10, origin) for edge in (box, (box[2], 0, 0, box[1]))]
    hint = ""
    if all(abs(abs(by) - 5) < 0.01 for pair in halves for by in pair):
        hint = "its coordinates may be pixel corners (stackstac: use xy_coords='center'). "
    inside = snap(box, 60, origin, inward=True)
    cut = ""
    if not hint and inside[0] < inside[2] and inside[1] < inside[3] and all(by % 10 == 0 for by in halves[0]):
        west, south, east, north = (metres(edge) for edge in inside)
        cut = f", or cut it: x from {west} to {east}, y from {south} to {north} is whole pixels of 60 m"
    misfit = (
        f"not whole pixels of {gsd} m"
        if known is None
        else f"not on multiples of {gsd} m from ({metres(origin[0] % gsd, origin[1] % gsd)}), where pixels of "
        f"Sentinel-2 are in {crs_name(crs)}"
    )
    raise GridError(
        f"{label}: the grid's outer edges ({metres(*box)}) are {misfit}. {hint}Its cells cannot be told apart: load "
        f"the bounds ({metres(*snap(box, 60, origin))}){cut}"
    )


def _middle(variable: xr.DataArray, dim: Hashable, ratio: int) -> npt.NDArray[Any]:
    centres: npt.NDArray[Any] = np.asarray(variable[dim].values, np.float64).reshape(-1, ratio).mean(axis=1)
    return centres


DIMS: dict[int, tuple[str, str]] = {10: ("y", "x"), 20: ("y_20m", "x_20m"), 60: ("y_60m", "x_60m")}
"""Canonical dims of each native grid."""

CHUNK = 1200
"""10 m pixels: side of the chunks of data that are not chunked yet."""


@dataclass(frozen=True)
class Cube:
    """A checked cube: bands on nested grids, with canonical names and dims.

    Attributes
    ----------
    bands : dict
        Canonical name → DataArray with dims ``(time, y, x)`` in the names of `DIMS`, north up.
    names : dict
        Canonical name → the caller's name.
    extras : dict
        Variables that are not bands: name → the grid they lie on, or None, and the variable, with
        canonical dims if it lies on a grid.
    dims : tuple
        The caller's names of the 10 m dims.
    time : hashable or None
        The caller's name of the time dim.
    crs : rasterio.crs.CRS or None
    resolution : float
        Pixel size of the finest grid: 10 m, or ``10 * scale`` for a degraded cube.
    bounds : tuple of float
        Outer edges (west, south, east, north), the same for all grids.
    attrs : dict
        Attributes of the caller's dataset.
    """

    bands: dict[str, xr.DataArray]
    names: dict[str, str]
    extras: dict[Hashable, tuple[int | None, xr.DataArray]]
    dims: tuple[Hashable, Hashable]
    time: Hashable | None
    crs: Any
    resolution: float
    bounds: Bounds
    attrs: dict[Any, Any]

    @property
    def grids(self) -> tuple[int, ...]:
        """Native grids (10, 20, 60) that the cube has bands on."""
        return tuple(g for g in GRIDS if any(grid_of(b) == g for b in self.bands))

    @property
    def times(self) -> npt.NDArray[np.datetime64] | None:
        """The dates; None for a cube without."""
        if self.time is None:
            return None
        times: npt.NDArray[np.datetime64] = next(iter(self.bands.values()))["time"].values
        return times

    def factor(self, band: str) -> int:
        """How many pixels of the finest grid a pixel of the band is wide."""
        return factor_of(band)

    def shape(self, gsd: float) -> tuple[int, int]:
        """Rows and columns of the grid of nominal `gsd` that these bounds hold."""
        return self.geobox(gsd).shape.yx

    def geobox(self, gsd: float = 10) -> GeoBox:
        """The grid of nominal `gsd` that these bounds hold."""
        return geobox(self.bounds, self.resolution * gsd / 10, self.crs)

    def centres(self, gsd: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Pixel centres, y falling and x rising, of the grid of nominal `gsd`."""
        return centres(self.geobox(gsd))

    def dataset(self) -> xr.Dataset:
        """The cube as a Dataset with canonical names and dims."""
        extras = {name: variable for name, (_, variable) in self.extras.items()}
        ds = xr.Dataset({**self.bands, **extras}, attrs=self.attrs)
        return ds if self.crs is None else write_crs(ds, self.crs)


def write_crs(ds: xr.Dataset, crs: Any) -> xr.Dataset:
    """Put the CRS into a scalar ``spatial_ref`` and point every variable at it."""
    ds = ds.drop_vars("spatial_ref", errors="ignore").assign_coords(spatial_ref=0)
    ds["spatial_ref"].attrs = {"crs_wkt": crs.to_wkt(), "spatial_ref": crs.to_wkt()}
    ds = ds.rio.write_crs(crs)
    for variable in ds.data_vars.values():
        if any(dim in variable.dims for pair in DIMS.values() for dim in pair):
            variable.attrs.pop("grid_mapping", None)
            variable.encoding["grid_mapping"] = "spatial_ref"
    return ds


NamedVariable = tuple[str, xr.DataArray, tuple[Mapping[Any, Any], ...]]
"""Name, variable, and where else its CRS may be said, nearest first."""


def _groups(tree: xr.DataTree) -> Iterator[NamedVariable]:
    """Candidate variables of a tree: those of sibling groups that hold bands on several grids."""
    families = []
    for node in tree.subtree:
        homes = [c for c in node.children.values() if any(find(v) for v in c.data_vars)]
        if len(homes) > 1:
            families.append((node, homes))
    # Masks repeat the names of bands (EOPF: quality/mask/r10m/b02); reflectance is never one byte.
    real = [
        (node, homes)
        for node, homes in families
        if any(v.dtype.itemsize > 1 for c in homes for k, v in c.data_vars.items() if find(k))
    ]
    if not real:
        flat = [n for n in tree.subtree if any(find(v) for v in n.data_vars)]
        if len(flat) == 1:
            real = [(tree, flat)]
    if len(real) != 1:
        paths = ", ".join(node.path for node, _ in real) or "none"
        raise BandError(
            f"expected one family of sibling resolution groups (r10m, r20m, r60m) with bands, found: {paths}. "
            "Pass the group that holds them, as in tree['/measurements/reflectance'].dsen2"
        )
    node, homes = real[0]
    for home in homes:
        mappings = mapping_names(home)
        for name, variable in home.data_vars.items():
            if name not in mappings:
                yield str(name), variable, (home, *home.parents)


def recognise(obj: xr.Dataset | xr.DataTree) -> Cube:
    """Check that an object is a cube, and give its bands canonical names and dims.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataTree
        Bands under any known name, each on its native grid; or sibling groups per resolution.

    Returns
    -------
    Cube

    Raises
    ------
    BandError
        No known bands, or one band twice.
    SingleGridError
        All bands on one grid.
    GridError
        A band is not on its native grid, or has no pixels; grids do not nest, or lie where no pixel of Sentinel-2 does.
    TimeError
        Bands with different times, or no dates.
    CRSError
        More than one CRS, a geographic one, or one that cannot be read.

    Warns
    -----
    ResampledWarning
        Of a projected CRS that is not UTM; and of 10 m bands alone that lie off the lattice. Of a cube without a CRS
        nobody knows where it lies.
    """
    if isinstance(obj, xr.DataTree):
        source = _groups(obj)
    elif isinstance(obj, xr.Dataset):
        mappings = mapping_names(obj)
        source = ((str(name), variable, (obj,)) for name, variable in obj.data_vars.items() if name not in mappings)
    else:
        raise TypeError(f"a Dataset or DataTree is needed, not {type(obj).__name__}")

    candidates: dict[str, list[Candidate]] = {}
    extras: dict[Hashable, xr.DataArray] = {}
    crs_by_name: dict[str, Any] = {}
    for name, variable, context in source:
        band = find(name)
        if band is None:
            # A tree may hold a mask at several resolutions: the finest is kept.
            if name.upper() not in UNUSED and variable.size >= getattr(extras.get(name), "size", 0):
                extras[name] = variable
            continue
        axes = axes_of(variable, name)
        crs_by_name.setdefault(name, crs_of(variable, *context))
        candidates.setdefault(band, []).append(Candidate(band, name, variable, axes, spacing(variable, axes, name)))
    if not candidates:
        what = ", ".join(map(str, extras)) or "nothing"
        raise BandError(
            f"no Sentinel-2 bands found, only: {what}. Name them {', '.join(BANDS)}, or as Earth Search does; "
            "a DataArray with a band dim becomes a Dataset with .to_dataset(dim='band')"
        )
    crs = check_crs(crs_by_name)
    base = base_spacing(candidates, done="xsen2_method" in obj.attrs)
    chosen = {band: choose(band, options, base) for band, options in candidates.items()}
    order = [b for b in BANDS if b in chosen]
    bounds = nested(chosen, base, crs)
    check_projection(crs)
    # The output has the names of the 10 m dims; a cube without 10 m bands is still a cube.
    first = min(chosen.values(), key=lambda c: grid_of(c.band))
    cube = Cube(
        bands={},
        names={b: chosen[b].name for b in order},
        extras={},
        dims=(first.axes.y, first.axes.x),
        time=first.axes.time,
        crs=crs,
        resolution=base,
        bounds=bounds,
        attrs=dict(obj.attrs),
    )
    check_times({b: chosen[b] for b in order})
    for band in order:
        candidate = chosen[band]
        cube.bands[band] = _straighten(candidate.array, candidate.axes, cube, grid_of(band))
        about = BANDS[band].attrs
        if candidate.array.dtype.kind == "f":
            del about["units"]  # only the metadata of floats can tell whether they are DN
        cube.bands[band].attrs = {**about, **candidate.array.attrs}
    for extra, variable in extras.items():
        cube.extras[extra] = carry(str(extra), variable, cube)
    return cube


def canonicalise(obj: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """The object as a cube with canonical names (``B01`` …) and dims (``y``, ``y_20m``, ``y_60m``).

    Examples
    --------
    >>> import xsen2
    >>> ds = xsen2.sample().rename(B05="rededge1", y_20m="v", x_20m="u")
    >>> canonicalise(ds)["B05"].dims
    ('time', 'y_20m', 'x_20m')
    """
    return recognise(obj).dataset()


def _straighten(array: xr.DataArray, axes: Axes, cube: Cube, gsd: int) -> xr.DataArray:
    """North up, canonical dims, exact centres, no coordinates but those of time and scalars."""
    if not array._in_memory and array.chunks is None:
        # A variable of an unchunked file: its data would be read as a whole, here and now.
        array = array.chunk({axes.y: CHUNK, axes.x: CHUNK} | ({} if axes.time is None else {axes.time: 1}))
    if array.sizes[axes.x] > 1 and array[axes.x].values[0] > array[axes.x].values[-1]:
        array = array.isel({axes.x: slice(None, None, -1)})
    if array.sizes[axes.y] > 1 and array[axes.y].values[0] < array[axes.y].values[-1]:
        array = array.isel({axes.y: slice(None, None, -1)})
    lead = [] if axes.time is None else [axes.time]
    array = array.transpose(*lead, axes.y, axes.x)
    ydim, xdim = DIMS[gsd]
    y, x = cube.centres(gsd)
    coords: dict[Hashable, Any] = {ydim: (ydim, y, _AXIS["y"]), xdim: (xdim, x, _AXIS["x"])}
    for name, coord in array.coords.items():
        if is_mapping(coord):
            continue  # the cube has one CRS, which `write_crs` puts where all look for it
        if name == axes.time or (coord.dims in ((), (axes.time,)) and coord.dtype != object and name != "spatial_ref"):
            new = "time" if name == axes.time else name
            coords[new] = (("time",) if coord.dims else (), coord.data, coord.attrs)
    out = xr.DataArray(array.variable.data, coords, (*(("time",) if lead else ()), ydim, xdim), attrs=array.attrs)
    out.encoding = dict(array.encoding)
    return out


_AXIS = {
    axis: {"standard_name": f"projection_{axis}_coordinate", "axis": axis.upper(), "units": "m"} for axis in ("y", "x")
}


def carry(name: str, variable: xr.DataArray, cube: Cube) -> tuple[int | None, xr.DataArray]:
    """An extra variable: canonical dims if it lies on one of the grids, else as it is."""
    for gsd in GRIDS:
        size = cube.resolution * gsd / 10
        try:
            axes = axes_of(variable, name)
            step = spacing(variable, axes, name) or size
            placed = np.allclose(edges(variable, axes, size), cube.bounds, rtol=0, atol=0.1)
            same = abs(step - size) < 0.01 * size and placed
        except (GridError, TimeError):
            break
        if same and axes.time in (None, cube.time):
            return gsd, _straighten(variable, axes, cube, gsd)
    plain = variable.drop_vars(
        [n for n, c in variable.coords.items() if c.dtype == object or n in variable.dims or is_mapping(c)]
    )
    plain.attrs = {k: v for k, v in plain.attrs.items() if k != "grid_mapping"}
    # Its dims may have the names that the grids get: those of the time stay, others are made its own.
    taken = {"time", *cube.dims, *(d for pair in DIMS.values() for d in pair)}
    rename: dict[Hashable, Hashable] = {d: f"{d}_{name}" for d in variable.dims if d in taken and d != cube.time}
    if cube.time in variable.dims:
        rename[cube.time] = "time"
    keep = {rename.get(d, d): (rename.get(d, d), variable[d].values) for d in variable.dims if d in variable.coords}
    return None, plain.rename({k: v for k, v in rename.items() if k != v}).assign_coords(keep)


def lazy(data: Any) -> da.Array:
    """The data of a variable as a dask array; arrays in memory are cut into chunks."""
    if isinstance(data, da.Array):
        return data
    chunks = (*(1,) * (data.ndim - 2), CHUNK, CHUNK)
    out: da.Array = da.from_array(np.asarray(data), chunks=chunks)
    return out


def nearest(array: xr.DataArray, gsd: int, zoom: int = 1) -> da.Array:
    """A variable of the grid of `gsd` on the 10 m grid, or on one that is `zoom` times finer, lazily."""
    return repeated(lazy(array.data), gsd // 10 * zoom)


def repeated(data: da.Array, ratio: int) -> da.Array:
    """Every pixel of ``(…, y, x)`` `ratio` times along each side."""
    if ratio == 1:
        return data
    wide = (*data.chunks[:-2], *(tuple(n * ratio for n in c) for c in data.chunks[-2:]))
    out: da.Array = da.map_blocks(_repeat, data, ratio, chunks=wide, dtype=data.dtype, meta=data._meta)
    return out


def _repeat(x: npt.NDArray[Any], ratio: int) -> npt.NDArray[Any]:
    return np.repeat(np.repeat(x, ratio, axis=-2), ratio, axis=-1)


def carried(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Attributes of what was measured, or of its dataset, that are true of float pixels on another grid."""
    return {k: v for k, v in without_place(attrs).items() if k not in UNPACKED}
