"""How far the dates of a cube lie from each other, in parts of a pixel; and the cube with that undone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import A, factor_of
from xsen2.cube import Cube, carried, lazy, recognise, write_crs
from xsen2.dates import Target, targets_of
from xsen2.engine.halo import Cut, Layer, blocks, common_dates, map_windows, trim
from xsen2.engine.statistics import each, fitted
from xsen2.errors import BandError, ShiftWarning, TimeError, warn_once
from xsen2.masks import Mask, automatic, hide, read
from xsen2.methods.protocol import Array
from xsen2.multitemporal.fusion import Fit, Fusion
from xsen2.multitemporal.interpolation import LANCZOS, lanczos, middle, resampled
from xsen2.multitemporal.registration import FARTHEST, TILE
from xsen2.radiometry import Scale, scales_of, to_nan

__all__ = ["align"]

MEDIAN = "median"

_ROOM = 5  # 10 m pixels that shifts are found in, and one more
_MEMORY = 2**24  # numbers of all dates that one median is made of


def align(
    ds: xr.Dataset | xr.DataTree,
    reference: Target | None = None,
    apply: bool = False,
    *,
    mask: Mask | None = "auto",
    quantification: float | None = None,
) -> xr.Dataset:
    """The sub-pixel shift of every date against a reference, by phase correlation; lazily.

    Dates of Sentinel-2 lie a part of a pixel off each other: those of 2017 and 2018 over farmland 3 m along either
    axis, root mean square, and nearly 9 m at most. That blurs series and their differences; it is also what makes
    several dates tell more than one: `xsen2.superresolve.superresolve` with ``gsd=5`` finds shifts by itself.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        A cube with dates and 10 m bands, all of which are used.
    reference : date or "median", optional
        What dates are held against: a date of the cube, which should be a clear one; or ``"median"``, the default, the
        median of all dates, pixel by pixel.
    apply : bool
        Whether the cube comes back moved, so that all dates lie where the reference does: by a Lanczos kernel of 6 x 6
        pixels, which adds up to 1 and leaves a plane a plane.
    mask : str, sequence of int, xarray.DataArray or callable, optional
        What is not looked at, as `xsen2.superresolve.superresolve` takes it. By default, ``"auto"``, what ``"scl"``
        says if the cube has SCL. Nodata never is.
    quantification : float, optional
        As `xsen2.superresolve.superresolve` takes it.

    Returns
    -------
    xarray.Dataset
        The cube with coordinates ``(time,)`` in metres, not computed yet. ``shift_x`` and ``shift_y``: what a date
        shows lies so far further east and further north than in the reference; NaN where nothing tells.
        ``shift_error``: the standard error of either. With `apply`, bands are float32 in the units of the input, NaN
        for nodata: where less than half of the kernel's weight falls on pixels with data. Classes, masks and other
        variables on a grid are moved by whole pixels, if they lie more than half a pixel off. What nothing is known of
        stays where it is.

    Raises
    ------
    TimeError
        If the cube has no dates, or not that of `reference`.
    BandError
        If it has no 10 m bands.

    Warns
    -----
    ShiftWarning
        When shifts are computed: of a date that is off by more than 1.5 pixels.

    Notes
    -----
    Shifts are those of whole dates, from sums over tiles of 60 x 60 pixels which do not hang on chunks. Each frequency
    counts as much as both dates agree there, which is little where the ground has changed or bands alias. So a shift
    is good to a hundredth of a pixel where dates are alike, and to a tenth across seasons.

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample().dsen2.align()
    >>> cube["shift_x"].dims, bool((abs(cube["shift_x"]) < 10).all())
    (('time',), True)
    """
    cube = recognise(ds)
    times = cube.times
    if times is None or cube.time is None:
        raise TimeError("align() tells dates apart, but the cube has none: ds.expand_dims(time=[…])")
    bands = tuple(b for b in A if b in cube.bands)
    if not bands:
        raise BandError(f"align() looks at 10 m bands, but the cube has only {', '.join(cube.names.values())}")
    scales = scales_of(cube, quantification)
    seen = _seen(cube, bands, mask, scales)
    first, second = seen[bands[0]].chunks[-2:]
    chunks = blocks(first, second, TILE, 0, 20 * TILE)
    number = _position(cube, reference)
    if number is None:
        seen = {band: da.concatenate([_median(array)[None], array]).rechunk({0: 1}) for band, array in seen.items()}
        near = [[0, i + 1] for i in range(len(times))]
    else:
        near = [[number, i] for i in range(len(times))]
    plain = {b: Scale(str(cube.names[b]), scales[b].gain, None, sure=True) for b in bands}
    shifts = fitted(cube, Shifts(bands), chunks, plain, seen, near)
    what = MEDIAN if number is None else str(times[number])[:19]
    coords = _told(shifts, times, cube)
    out = _moved(cube, shifts, scales) if apply else (ds if isinstance(ds, xr.Dataset) else cube.dataset())
    dim = cube.time
    if dim not in out.dims:
        dim = "time"
    return out.assign_coords({n: (dim, data, about | {"reference": what}) for n, (data, about) in coords.items()})


@dataclass(frozen=True)
class Shifts(Fusion):
    """Statistics of two dates, of which nothing is made."""

    frames: int | None = 2
    name: str = "align"
    halo: int = 0

    def fuse(self, frames: Array, fit: Fit) -> Array:
        raise NotImplementedError


def _position(cube: Cube, reference: Target | None) -> int | None:
    """Of the reference among the dates; None for their median."""
    if reference is None or (isinstance(reference, str) and reference == MEDIAN):
        return None
    positions = targets_of(cube, reference, None)
    if positions is None or len(positions) != 1:
        raise TimeError(f"reference={reference!r} is {len(positions or [])} dates of the cube: name one, or 'median'")
    return positions[0]


def _seen(cube: Cube, bands: Sequence[str], mask: Mask | None, scales: Mapping[str, Scale]) -> dict[str, da.Array]:
    """The bands, one date a chunk, NaN where there is nothing or it is masked."""
    if isinstance(mask, str) and mask == "auto":
        mask = automatic(cube)
    hidden = None if mask is None else read(cube, mask)
    out = {}
    for band, array in common_dates({b: lazy(cube.bands[b].data) for b in bands}).items():
        x = da.map_blocks(to_nan, array.rechunk({0: 1}), scales[band], dtype=np.float32)
        out[band] = x if hidden is None else hide(x, hidden)
    return out


def _median(array: da.Array) -> da.Array:
    """Of all dates, in pieces that take the same memory however many they are."""
    side = max(TILE, int(np.sqrt(_MEMORY / array.shape[0])) // TILE * TILE)
    pieces = array.rechunk({0: -1, 1: side, 2: side})
    out: da.Array = da.map_blocks(_middle, pieces, drop_axis=0, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return out


def _middle(x: Array) -> Array:
    return middle(x.copy())


def _told(
    shifts: da.Array, times: npt.NDArray[np.datetime64], cube: Cube
) -> dict[Hashable, tuple[da.Array, dict[str, Any]]]:
    table = da.map_blocks(
        _Numbers(tuple(str(t)[:19] for t in times), FARTHEST * cube.resolution),
        each(_shift, shifts),
        new_axis=[1],
        chunks=(*shifts.chunks, (3,)),
        dtype=np.float64,
        meta=np.empty((0, 0)),
    )
    metres = cube.resolution
    long_name = "content of the date lies so many metres further {} than in the reference"
    return {
        "shift_y": (0.0 - metres * table[:, 0], {"units": "m", "long_name": long_name.format("north")}),
        "shift_x": (metres * table[:, 1], {"units": "m", "long_name": long_name.format("east")}),
        "shift_error": (metres * table[:, 2], {"units": "m", "long_name": "standard error of either shift"}),
    }


def _shift(method: Any) -> npt.NDArray[np.float64]:
    """Rows down, columns to the right, and their error, in pixels; NaN if it cannot be estimated."""
    fit = method.fit
    if fit is None or not np.isfinite(fit.errors[1]):
        return np.full(3, np.nan)
    return np.array([*fit.shifts[1], fit.errors[1]])


class _Numbers:
    """The shift of a date as part of a table; warns of dates that lie far off."""

    def __init__(self, dates: tuple[str, ...], far: float) -> None:
        self.dates, self.far = dates, far

    def __call__(self, shift: npt.NDArray[np.float64], block_info: Any = None) -> npt.NDArray[np.float64]:
        if np.abs(shift[:2]).max() > FARTHEST:
            number = block_info[0]["array-location"][0][0]
            by = shift[:2] * self.far / FARTHEST
            offset = f"{abs(by[0]):.1f} m {'south' if by[0] > 0 else 'north'}"
            offset += f" and {abs(by[1]):.1f} m {'east' if by[1] > 0 else 'west'}"
            warn_once(
                f"{self.dates[number]} lies {offset} of the reference, more than {self.far:g} m: superresolve() takes "
                "no such date for a frame. Leave it out, or use align(apply=True) first",
                ShiftWarning,
            )
        return shift[None]


def _moved(cube: Cube, shifts: da.Array, scales: Mapping[str, Scale]) -> xr.Dataset:
    """The cube with every date where the reference lies."""
    new: dict[str, xr.DataArray] = {}
    for band, array in cube.bands.items():
        factor = factor_of(band)
        data = _move(lazy(array.data), each(_shift, shifts), factor, scales[band])
        scale = scales[band]
        attrs = carried(array.attrs) | ({"units": scale.units} if scale.told else {})
        new[band] = xr.DataArray(data, array.coords, array.dims, attrs=attrs)
        if scale.gain != 1:
            new[band].encoding["scale_factor"] = 1 / scale.gain
    extras: dict[Hashable, xr.DataArray] = {}
    for name, (gsd, variable) in cube.extras.items():
        extras[name] = variable
        if gsd is not None and "time" in variable.dims:
            data = _move(lazy(variable.data), each(_shift, shifts), gsd // 10, None)
            extras[name] = variable.copy(data=data)
    names = {band: name for band, name in cube.names.items() if band != name}
    out = xr.Dataset({**new, **extras}, attrs={**carried(cube.attrs), "xsen2_aligned": "True"}).rename(names)
    out = out if cube.time in ("time", None) else out.rename(time=cube.time)
    return out if cube.crs is None else write_crs(out, cube.crs)


def _move(data: da.Array, shifts: da.Array, factor: int, scale: Scale | None) -> da.Array:
    halo = LANCZOS + -(-_ROOM // factor)
    rows, columns = data.chunks[-2:]
    kind = np.float32 if scale is not None else data.dtype
    out: da.Array = map_windows(
        each(_Move, shifts, factor, halo, scale),
        [Layer([data.rechunk({0: 1})], 1)],
        Cut((data.shape[-2], data.shape[-1]), blocks(rows, columns, 1, halo), halo),
        bands=1,
        dtype=kind,
        label="xsen2-align",
    )[0]
    return out


@dataclass(frozen=True)
class _Move:
    """Moves one date's block of a grid back by its shift."""

    shift: npt.NDArray[np.float64]
    factor: int
    halo: int
    scale: Scale | None

    def __call__(self, windows: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        x = windows[0]
        by = np.nan_to_num(self.shift[:2]) / self.factor
        by = np.clip(by, -self.halo + LANCZOS, self.halo - LANCZOS)
        if self.scale is None:
            down, right = np.rint(by).astype(int)
            return np.roll(x, (-down, -right), (-2, -1))[..., self.halo : -self.halo, self.halo : -self.halo]
        x = to_nan(x, self.scale)
        return trim(resampled(x, by, 1, lanczos, LANCZOS) if by.any() else x, self.halo)
