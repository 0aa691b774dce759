"""Which dates are made, and the coordinates that describe the dates that they are made of."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.cube import Cube
from xsen2.errors import TimeError
from xsen2.masks import Hidden
from xsen2.multitemporal.fusion import Fusion
from xsen2.multitemporal.registration import CLEAR

__all__ = ["Target", "at", "notes", "targets_of"]

Target = str | np.datetime64 | Sequence[str | np.datetime64]

LATEST = "latest"


def targets_of(cube: Cube, target: Target | None, hidden: Hidden | None) -> list[int] | None:
    """Positions of the dates that are asked for; None for all.

    Raises
    ------
    TimeError
        If the cube has no such date, or no dates.
    """
    if target is None:
        return None
    times = cube.times
    if times is None:
        raise TimeError(f"target={target!r} picks dates, but the cube has none: leave it out")
    if isinstance(target, str) and target == LATEST:
        return [_latest(times, hidden)]
    index = xr.DataArray(times, dims="time", coords={"time": times}).to_index()
    positions: list[int] = []
    for date in [target] if isinstance(target, str | np.datetime64) else list(target):
        try:
            place = index.get_loc(date)
        except (KeyError, TypeError, ValueError):
            near = ", ".join(str(t)[:10] for t in times[: 6 if len(times) > 6 else None])
            raise TimeError(
                f"target={date!r}: the cube has no such date, but {len(times)}: {near}"
                f"{', …' if len(times) > 6 else ''}; or use 'latest'"
            ) from None
        positions += np.atleast_1d(np.arange(len(times))[place]).tolist()
    if not positions:
        raise TimeError("target=[] names no date: leave it out for all")
    return sorted(dict.fromkeys(positions))


def _latest(times: npt.NDArray[np.datetime64], hidden: Hidden | None) -> int:
    order = np.argsort(times, kind="stable")[::-1].tolist()
    if hidden is None or hidden.pixels.ndim == 2:
        return int(order[0])
    for number in order:
        if float((~hidden.pixels[number]).mean().compute()) >= CLEAR:
            return int(number)
    raise TimeError(
        f"target='latest': {hidden.label} leaves {CLEAR:.0%} of the image on none of the {len(times)} dates. Name a "
        "date; what is masked there is made of others"
    )


def at(cube: Cube, dates: Sequence[int]) -> Cube:
    """The cube of some of its dates."""
    return replace(
        cube,
        bands={band: array.isel(time=list(dates)) for band, array in cube.bands.items()},
        extras={
            name: (gsd, v.isel(time=list(dates)) if "time" in v.dims else v) for name, (gsd, v) in cube.extras.items()
        },
    )


def notes(
    cube: Cube, method: Fusion, fitted: da.Array, near: Sequence[Sequence[int]]
) -> dict[Hashable, tuple[tuple[str, ...], Any, dict[str, Any]]]:
    """Coordinates that tell of the frames of each date: which they are, how far off, and whether they are used.

    Parameters
    ----------
    cube : Cube
    method : Fusion
    fitted : dask.array.Array
        ``([time])``: the method of each date, with the shifts that it has estimated.
    near : sequence
        What each date is made of, see `xsen2.engine.frames.neighbours`.
    """
    lead = ("time",) if fitted.ndim else ()
    times = cube.times
    most = method.candidates or (1 if times is None else len(times))
    about = _About(most, fitted.ndim)
    table = da.map_blocks(
        about,
        fitted,
        new_axis=[fitted.ndim, fitted.ndim + 1],
        chunks=(*fitted.chunks, (most,), (3,)),
        dtype=np.float64,
        meta=np.empty((0,) * (fitted.ndim + 2)),
    )
    metres = cube.resolution
    long_name = "content of a frame lies so many metres further {} than in the date that it is a frame of"
    dims = (*lead, "frame")
    out: dict[Hashable, tuple[tuple[str, ...], Any, dict[str, Any]]] = {
        "shift_y": (dims, 0.0 - metres * table[..., 0], {"units": "m", "long_name": long_name.format("north")}),
        "shift_x": (dims, metres * table[..., 1], {"units": "m", "long_name": long_name.format("east")}),
        "frame_used": (dims, table[..., 2] > 0, {"long_name": "whether it is clear, near enough and needed"}),
    }
    if times is not None:
        dates = np.full((len(near) or len(times), most), np.datetime64("NaT"), "datetime64[ns]")
        for row, frames in enumerate(near or [[i] for i in range(len(times))]):
            dates[row, : len(frames)] = times[frames]
        out["frame_time"] = (dims, dates, {"long_name": "date of the frame; the first is the date itself"})
    return out


class _About:
    """The table of one date: shifts in pixels, and whether a frame is used."""

    def __init__(self, most: int, lead: int) -> None:
        self.most, self.lead = most, lead

    def __call__(self, method: Any) -> npt.NDArray[np.float64]:
        out = np.full((self.most, 3), np.nan)
        out[:, 2] = 0
        fit = getattr(method, "fit", None)
        if fit is not None:
            out[: len(fit.used)] = np.column_stack([fit.shifts, fit.used])
        return out.reshape((1,) * self.lead + out.shape)
