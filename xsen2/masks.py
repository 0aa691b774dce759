"""Masks: the 10 m pixels that a scene classification, a cloud mask or the caller's own mask leaves out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.cube import Cube, carry, lazy, nearest, repeated
from xsen2.engine.halo import split
from xsen2.errors import BandError, GridError, MethodError, RadiometryError, TimeError
from xsen2.radiometry import nodata_of

__all__ = ["CLASSI", "SCL", "Hidden", "Mask", "automatic", "hide", "read"]

Mask = str | Sequence[int] | xr.DataArray | Callable[[xr.Dataset], xr.DataArray]

SCL = (0, 1, 3, 8, 9, 10)
"""Classes of SCL that ``mask="scl"`` leaves out: no data, saturated or defective, cloud shadow, cloud of medium and of
high probability, thin cirrus. Not dark areas (2), unclassified (7), which are seldom clouds, water (6) or snow (11)."""

CLASSI = 1 | 2
"""Bits of CLASSI that ``mask="classi"`` leaves out: opaque cloud and cirrus, not snow (4)."""


@dataclass(frozen=True)
class Hidden:
    """What a mask hides.

    Attributes
    ----------
    pixels : dask.array.Array
        bool ``([time,] y, x)`` on the 10 m grid, True where bands become nodata.
    label : str
        For the attributes of the result.
    """

    pixels: da.Array
    label: str

    def finer(self, zoom: int) -> Hidden:
        """The same for `zoom` pixels per 10 m pixel along each side."""
        return replace(self, pixels=repeated(self.pixels, zoom))

    def at(self, dates: Sequence[int]) -> Hidden:
        """The same on some of the dates."""
        return self if self.pixels.ndim == 2 else replace(self, pixels=self.pixels[list(dates)])

    def grown(self, pixels: int) -> Hidden:
        """The same and so many 10 m pixels around: clouds fade out at their edges."""
        from scipy.ndimage import maximum_filter  # here: importing it takes a while

        size = (1,) * (self.pixels.ndim - 2) + (2 * pixels + 1,) * 2
        depth = {self.pixels.ndim - 2: pixels, self.pixels.ndim - 1: pixels}
        dilated = da.map_overlap(
            maximum_filter, self.pixels, depth=depth, boundary="none", dtype=bool, meta=self.pixels._meta, size=size
        )
        return replace(self, pixels=dilated, label=f"{self.label} and {pixels} pixels around")

    def coarser(self, factor: int) -> Hidden:
        """The same for pixels of `factor` 10 m pixels along each side: hidden where any of those is."""
        if factor == 1:
            return self
        rows, columns = (split(sizes, factor) for sizes in self.pixels.chunks[-2:])
        blocks = self.pixels.rechunk((*self.pixels.chunks[:-2], rows, columns))
        return replace(self, pixels=da.coarsen(np.any, blocks, {blocks.ndim - 2: factor, blocks.ndim - 1: factor}))


def automatic(cube: Cube) -> Mask | None:
    """What ``mask="auto"`` stands for where clouds are to be masked: ``"scl"`` if the cube has SCL, else nothing."""
    return "scl" if any(str(name).upper() == "SCL" for name in cube.extras) else None


def read(cube: Cube, mask: Mask) -> Hidden:
    """The 10 m mask that `mask` stands for, lazily.

    Parameters
    ----------
    cube : Cube
    mask : str, sequence of int, xarray.DataArray or callable
        As `xsen2.superresolve.superresolve` takes it.

    Raises
    ------
    BandError
        If the cube has not the layer.
    GridError, TimeError
        If the mask is not on one of the cube's grids, or has other dates.
    RadiometryError
        If the layer holds what is no class, because it was interpolated or averaged: at once if it is in memory, else
        when it is computed.
    MethodError
        If it is no mask.
    """
    if isinstance(mask, str):
        if mask.lower() not in ("scl", "classi"):
            raise MethodError(
                f"mask={mask!r}: use 'scl', 'classi', a list of SCL's classes, a boolean DataArray or a function"
            )
        return _classes(cube, SCL) if mask.lower() == "scl" else _flags(cube)
    if isinstance(mask, xr.DataArray):
        return _from_array(cube, mask, "a DataArray")
    if callable(mask):
        layer = mask(cube.dataset())
        if not isinstance(layer, xr.DataArray):
            raise MethodError(f"the function of mask= gave a {type(layer).__name__}: a boolean DataArray is needed")
        return _from_array(cube, layer, getattr(mask, "__name__", "a function"))
    classes = tuple(mask) if isinstance(mask, Iterable) else ()
    if not classes or not all(isinstance(c, (int, np.integer)) and 0 <= c <= 11 for c in classes):
        raise MethodError(f"mask={mask!r}: the classes of SCL are whole numbers from 0 to 11, as mask=[8, 9, 10]")
    return _classes(cube, tuple(int(c) for c in classes))


def hide(data: da.Array, hidden: Hidden) -> da.Array:
    """Float pixels ``([time,] y, x)``, NaN where hidden."""
    hidden_pixels = hidden.pixels.rechunk(data.chunks[-hidden.pixels.ndim :])
    out: da.Array = da.where(hidden_pixels, np.asarray(np.nan, data.dtype), data)
    return out


def _classes(cube: Cube, classes: tuple[int, ...]) -> Hidden:
    return Hidden(_mapped(cube, "SCL", _Hides(classes=classes)), f"SCL {', '.join(map(str, classes))}")


def _flags(cube: Cube) -> Hidden:
    return Hidden(_mapped(cube, "CLASSI", _Hides(bits=CLASSI)), "CLASSI opaque_cloud, cirrus")


def _mapped(cube: Cube, layer: str, hides: _Hides) -> da.Array:
    names = [name for name in cube.extras if str(name).upper() == layer]
    if not names:
        others = [n for n in ("scl", "classi") if any(str(name).lower() == n for name in cube.extras)]
        hint = f"use mask={others[0]!r}" if others else f"load it too, with bands=[…, {layer!r}]"
        hint += ", or give a boolean DataArray; L1C products have no SCL" if layer == "SCL" else ""
        raise BandError(f"the cube has no {layer}, which the mask is made of: {hint}")
    gsd, variable = cube.extras[names[0]]
    if gsd is None:
        raise GridError(f"{names[0]} is on none of the cube's grids, so it cannot be carried to 10 m: reload it on one")
    if variable.dtype.kind not in "iuf":
        raise RadiometryError(f"{names[0]} is of dtype {variable.dtype}: whole numbers are needed, for classes")
    hides = replace(hides, name=str(names[0]), nodata=nodata_of(variable))
    if variable._in_memory:
        hides(variable.values)  # what is no class is refused here and now
    return nearest(variable.copy(data=da.map_blocks(hides, lazy(variable.data), dtype=bool)), gsd)


@dataclass(frozen=True)
class _Hides:
    """Where a layer has one of some classes, or one of some bits."""

    classes: tuple[int, ...] = ()
    bits: int = 0
    name: str = ""
    nodata: float | None = None

    def __call__(self, data: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        # Decoding puts NaN in the place of 0, no data in both layers; another value may be declared for it.
        empty = ~np.isfinite(data)
        if self.nodata is not None:
            empty |= data == self.nodata
        filled = np.where(empty, np.zeros((), data.dtype), data)
        most = 255 if self.bits else 11
        odd = (filled != np.rint(filled)) | (filled < 0) | (filled > most)
        if odd.any():
            raise RadiometryError(
                f"{self.name} holds {float(filled[odd][0]):g}, which is none of its classes (whole numbers from 0 to "
                f"{most}): it has been interpolated or averaged, so clouds would pass unseen. Load it with nearest "
                "neighbour (resampling='nearest'), and take it of one date, not as a mean or median over several; or "
                "give mask= a boolean DataArray"
            )
        hits: npt.NDArray[np.bool_]
        hits = (filled.astype(np.uint8) & np.uint8(self.bits)) != 0 if self.bits else np.isin(filled, self.classes)
        return hits


def _from_array(cube: Cube, mask: xr.DataArray, what: str) -> Hidden:
    if mask.dtype != bool:
        raise MethodError(f"mask= is of dtype {mask.dtype}: booleans are needed, True for what is left out")
    gsd, variable = carry("mask=", mask, cube)
    if gsd is None:
        raise GridError(
            f"mask= has dims {dict(mask.sizes)}, on none of the cube's grids of 10, 20 and 60 m: it needs their pixel "
            "centres as coordinates, and the whole cube's extent"
        )
    if "time" in variable.dims:
        dates = next(iter(cube.bands.values()))["time"].values
        if variable.sizes["time"] != len(dates) or not (variable["time"].values == dates).all():
            raise TimeError(
                f"mask= has other dates than the cube, which has {len(dates)}: select its dates, in their order"
            )
    return Hidden(nearest(variable, gsd), what)
