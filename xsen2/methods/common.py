"""What classical methods share: whole cells, small filters, least squares, the played pan band, and bounds.

A 10 m band plays the panchromatic one for each low-resolution band. What a method makes is kept within what was
measured around.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xsen2.bands import GRIDS, A, B, C, factor_of, grid_of
from xsen2.engine.operators import correlate
from xsen2.methods.protocol import Array, Mask, Method

__all__ = [
    "PAN",
    "UNIT",
    "Kept",
    "OneGrid",
    "Sharpening",
    "bounded",
    "cells",
    "gaussian",
    "kept",
    "linear",
    "of_grid",
    "sharers",
    "smooth",
    "solve",
]

# What several classical methods share: the choice of the pan band, whole cells, small filters, least squares.


Floats = npt.NDArray[np.float64]

UNIT = 1e-4
"""DN to reflectance, so that sums of squares are near 1."""

PAN: dict[str, tuple[str, ...]] = {
    "B05": ("B02",),
    "B06": ("B08",),
    "B07": ("B08",),
    "B8A": ("B08",),
    "B11": ("B02", "B03", "B04"),
    "B12": ("B02", "B03", "B04"),
    "B01": ("B02",),
    "B09": ("B08",),
}
"""Band → 10 m bands whose mean is its panchromatic one. Those of the 20 m bands are the choice of Lanaras et al.
(2018); for the 60 m bands, which pansharpening is not used for there, the nearest in wavelength."""


class OneGrid(Method):
    """What all methods share that make bands of one native grid."""

    bands: tuple[str, ...]

    @property
    def produces(self) -> tuple[str, ...]:
        return self.bands

    @property
    def _ratio(self) -> int:
        return factor_of(self.bands[0])


def of_grid(bands: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Bands by native grid, canonical order: one method object makes those of one grid."""
    groups = (tuple(b for b in grid if b in bands) for grid in (B, C))
    return [group for group in groups if group]


def pan(a: Array, band: str, held: Sequence[str] = A) -> Array:
    """The panchromatic band that belongs to a low-resolution one, ``(H, W)``; `a` holds the 10 m bands `held`."""
    return np.asarray(a[[held.index(name) for name in PAN[band]]].mean(axis=0, dtype=np.float32))


def linear(x: Array, weights: Array, constant: np.float32) -> Array:
    """``constant + sum(weights * x)`` over the bands of `x`, ``(H, W)``, float32.

    One band after the other: BLAS adds in an order that depends on the size of the block, and would leave seams.
    """
    out = np.full(x.shape[1:], constant, np.float32)
    for i in np.flatnonzero(weights):
        out += weights[i] * x[i]
    return out


def cells(mask: Mask, ratio: int) -> Mask:
    """Coarse pixels all of whose ``ratio x ratio`` fine ones are True."""
    height, width = mask.shape
    return np.asarray(mask.reshape(height // ratio, ratio, width // ratio, ratio).all(axis=(1, 3)))


def gaussian(sigma: float, radius: int | None = None) -> Floats:
    """Taps of a Gaussian, odd in number, cut at 4 sigma or at `radius`; they sum to one."""
    reach = int(np.ceil(4 * sigma)) if radius is None else radius
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def smooth(x: Array, taps: Floats) -> Array:
    """Filter the last two axes with one odd kernel along each; the size stays, edges are mirrored.

    Parameters
    ----------
    x : numpy.ndarray
        ``(..., H, W)``.
    taps : numpy.ndarray
        Odd in number. Pixels nearer than half of them to an edge see mirrored ones.
    """
    return correlate(x, taps, len(taps) // 2, 1)


def solve(normal: Floats, right: Floats) -> Floats:
    """Least squares from normal equations, finite even if they are singular.

    Directions in which the data hold nothing beyond rounding get no weight.

    Parameters
    ----------
    normal : numpy.ndarray
        ``(n, n)``, symmetric.
    right : numpy.ndarray
        ``(n,)`` or ``(n, m)``.
    """
    size = np.sqrt(np.maximum(np.diag(normal), 0))
    size = np.where(size > 0, size, 1.0)  # columns of unit length, so that one threshold fits all
    scaled = np.linalg.pinv(normal / np.outer(size, size), rcond=1e-10, hermitian=True)
    out = scaled @ (right.T / size).T
    return np.asarray((out.T / size).T)


class Sharpening(OneGrid):
    """What methods share that make bands of one native grid with the help of pans."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The 10 m bands that the pans are made of, and the bands of the grid that are read."""
        return (*(band for band in A if any(band in PAN[low] for low in self.bands)), *self._read)

    @property
    def _read(self) -> tuple[str, ...]:
        return self.bands

    def _pan(self, a: Array, band: str) -> Array:
        """The pan of a band, ``(H, W)``, from the 10 m bands of `needs`."""
        return pan(a, band, self.needs)


def sharers(bands: Sequence[str]) -> tuple[str, ...]:
    """All bands of the grid of `bands` that share a pan with one of them, canonical order.

    A method that fuses a multispectral image with one pan takes these for the image: what comes out does not
    depend on which bands are asked for.
    """
    pans = {PAN[band] for band in bands}
    return tuple(band for band in GRIDS[grid_of(bands[0])] if PAN[band] in pans)


_ZERO = np.float32(100)  # DN added before anything is so many times as bright: reflectances come near 0, or below
_WIDER = np.float32(1.1)  # less costs accuracy on scenes as they are
_BRIGHTER = np.float32(1.5)  # than anything that any band shows there


def kept(methods: Iterable[Method]) -> list[Method]:
    """The methods, with results that are `bounded`."""
    return [Kept(method) for method in methods]


@dataclass(frozen=True)
class Kept(Method):
    """A method that makes bands of one native grid, and whose results are `bounded`.

    What a method is in its own file is what its paper says, exact where its model holds. This is what its name stands
    for in ``method=``.

    Attributes
    ----------
    method : Method
        It reads 10 m bands, and all bands that it makes; its halo is two coarse pixels or more.
    """

    method: Method

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def produces(self) -> tuple[str, ...]:
        return self.method.produces

    @property
    def needs(self) -> tuple[str, ...]:
        return self.method.needs

    @property
    def halo(self) -> int | Mapping[int, int]:
        return self.method.halo

    @property
    def lattice(self) -> int:
        return self.method.lattice

    @property
    def rounds(self) -> int:
        return self.method.rounds

    @property
    def gather_halo(self) -> int | Mapping[int, int]:
        return self.method.gather_halo

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> npt.NDArray[np.float64]:
        return self.method.gather(a, b, c, valid, own)

    def learn(self, sums: npt.NDArray[np.float64]) -> Kept:
        return Kept(self.method.learn(sums))

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        out = self.method(a, b, c)
        grid = grid_of(self.produces[0])
        bands = [band for band in self.needs if grid_of(band) == grid]
        y = (c if self.produces[0] in C else b)[[bands.index(band) for band in self.produces]]
        return bounded(out, y, a)


def bounded(out: Array, y: Array, a: Array) -> Array:
    """Keep bands within what was measured around, widened as far as 10 m pixels differ from coarse ones there.

    Models are fitted to a whole image. Where it does not hold, as at clouds, which every band sees elsewhere, what they
    add to a band has no bounds. Of the 3 x 3 coarse pixels around, the brightest 10 m pixel is so many times as bright
    as the brightest coarse mean, the darkest so much darker than the darkest; what counts is the 10 m band that differs
    most, and what is dark in it may be bright in others. Nothing may be more times as bright as the brightest coarse
    pixel around, or as many times darker than the darkest, and a tenth of that; nor half as bright again as anything
    that any band shows there. Brightness counts from -100 DN, for there are pixels near 0.

    On validation scenes the RMSE of no method grows by more than 0.12 %, at 20 m or 60 m, and of most it shrinks.

    Parameters
    ----------
    out : numpy.ndarray
        Bands ``(k, H, W)``, DN; changed in place.
    y : numpy.ndarray
        The same as measured, ``(k, H / ratio, W / ratio)``.
    a : numpy.ndarray
        10 m bands, ``(band, H, W)``.

    Examples
    --------
    >>> import numpy as np
    >>> wild = np.array([[[-900, 900], [5000, 1000]]], np.float32)
    >>> bounded(wild, np.full((1, 1, 1), 900, np.float32), np.full((4, 2, 2), 500, np.float32)).round()
    array([[[ 809.,  900.],
            [1000., 1000.]]], dtype=float32)
    """
    ratio = out.shape[-1] // y.shape[-1]
    bands, height, width = a.shape
    pixels = a.reshape(bands, height // ratio, ratio, width // ratio, ratio)
    # As a sensor's blur leaves them: coarse pixels see some of their neighbours.
    middle = smooth(pixels.mean(axis=(2, 4), dtype=np.float32), np.array([0.25, 0.5, 0.25]))
    floor = np.float32(1)
    brightest = _around(pixels.max(axis=(2, 4)), np.maximum) + _ZERO
    darkest = _around(pixels.min(axis=(2, 4)), np.minimum) + _ZERO
    bright = np.maximum(_around(middle, np.maximum) + _ZERO, floor)
    dark = np.maximum(_around(middle, np.minimum) + _ZERO, floor)
    up = _WIDER * np.maximum(brightest / bright, 2 - darkest / dark).max(axis=0)
    down = _WIDER * np.maximum(brightest / bright, dark / np.maximum(darkest, floor)).max(axis=0)
    most, least = _around(y, np.maximum) + _ZERO, _around(y, np.minimum) + _ZERO
    seen = np.maximum(most, brightest.max(axis=0))
    most = np.minimum(np.where(most > 0, most * up, most / up), np.maximum(most, _BRIGHTER * seen)) - _ZERO
    least = np.where(least > 0, least / down, least * down) - _ZERO
    cut = out.reshape(len(out), height // ratio, ratio, width // ratio, ratio)
    np.clip(cut, least[:, :, None, :, None], most[:, :, None, :, None], out=cut)
    return out


def _around(x: Array, of: np.ufunc) -> Array:
    """The largest, or the least, of the 3 x 3 pixels around each."""
    x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    x = of(of(x[..., :-2, :], x[..., 1:-1, :]), x[..., 2:, :])
    return np.asarray(of(of(x[..., :-2], x[..., 1:-1]), x[..., 2:]))
