"""What the pansharpening methods share: a 10 m band plays the panchromatic one for each low-resolution band."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xsen2.bands import GRIDS, A, B, C, factor_of, grid_of
from xsen2.engine.operators import correlate
from xsen2.methods.protocol import Array, Method

__all__ = [
    "PAN",
    "UNIT",
    "OneGrid",
    "Sharpening",
    "cells",
    "gaussian",
    "linear",
    "of_grid",
    "sharers",
    "smooth",
    "solve",
]


# What several classical methods share: the choice of the pan band, whole cells, small filters, least squares.


Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

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
    found = (tuple(b for b in grid if b in bands) for grid in (B, C))
    return [some for some in found if some]


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

    A method that fuses a multispectral image with one pan takes these for the image: what comes out does not hang
    on which bands are asked for.
    """
    pans = {PAN[band] for band in bands}
    return tuple(band for band in GRIDS[grid_of(bands[0])] if PAN[band] in pans)
