"""Q2n: the quality of all bands of an image at once, a pixel being one hypercomplex number.

Alparone et al. (2004) for four bands (quaternions), Garzelli & Nencini (2009) for any number. With z the pixels of
the truth and w those of the estimate, in a block of 32 x 32 pixels::

    Q2n = |cov(z, w)| / (s_z s_w) · 2 s_z s_w / (s_z² + s_w²) · 2 |mean z| |mean w| / (|mean z|² + |mean w|²)

where ``cov(z, w)`` is the mean of ``(z - mean z)(w - mean w)*``, a hypercomplex number, and ``s_z²`` the mean of
``|z - mean z|²``. Band i is the coefficient of the unit ``e_i``; missing bands up to a power of two are 0. The product
is Cayley & Dickson's: ``(a, b)(c, d) = (ac - d*b, da + bc*)`` and ``(a, b)* = (a*, -b)``, so that ``e_1 e_2 = e_3``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from xsen2.windows import FLAT

__all__ = ["BLOCK", "quality", "signs"]

Floats = npt.NDArray[np.float64]

BLOCK = 32
"""Side of the blocks, in pixels."""


@lru_cache(maxsize=8)
def signs(size: int) -> npt.NDArray[np.int8]:
    """The multiplication table of the units: ``e_i e_j = signs[i, j] e_(i xor j)``.

    Parameters
    ----------
    size : int
        Number of units, a power of two.

    Returns
    -------
    numpy.ndarray
        ``(size, size)`` of 1 and -1.

    Examples
    --------
    >>> signs(4)  # quaternions: ij = k, ji = -k
    array([[ 1,  1,  1,  1],
           [ 1, -1,  1, -1],
           [ 1, -1, -1,  1],
           [ 1,  1, -1, -1]], dtype=int8)
    """
    if size == 1:
        return np.ones((1, 1), np.int8)
    half = signs(size // 2)
    star = _star(size // 2)
    return np.block([[half, half.T], [half * star, -half.T * star]]).astype(np.int8)


def _star(size: int) -> npt.NDArray[np.int8]:
    """Signs of the units in a conjugate."""
    return np.where(np.arange(size) > 0, -1, 1).astype(np.int8)


@lru_cache(maxsize=8)
def _products(bands: int) -> Floats:
    """Which unit, with which sign, band i times the conjugate of band j contributes to: ``(i * bands + j, unit)``."""
    size = 1 << (bands - 1).bit_length()
    i, j = np.indices((bands, bands))
    out = np.zeros((bands, bands, size))
    out[i, j, i ^ j] = (signs(size) * _star(size))[:bands, :bands]
    return out.reshape(bands * bands, size)


def quality(
    ys: npt.NDArray[Any],
    xs: npt.NDArray[Any],
    seen: npt.NDArray[np.bool_],
    rows: int,
    cols: int,
    at: tuple[int, int],
) -> tuple[float, int]:
    """Sum of Q2n over the blocks that start in an array's own pixels, and their number.

    Blocks do not overlap, and lie on a lattice that starts at the image's first pixel. Those that reach over the
    image's edge, or have a pixel that is not valid in all bands, are left out. Two flat blocks are compared by their
    means alone, and two of zeros are equal. Many implementations standardise every band of a block before they
    compare, which the papers do not say; their numbers are others.

    Parameters
    ----------
    ys, xs : numpy.ndarray
        Estimate and truth, ``(band, H, W)`` in DN.
    seen : numpy.ndarray
        bool ``(H, W)``, True where all bands are valid.
    rows, cols : int
        The array's own pixels come first; the others are context.
    at : tuple of int
        Row and column of the array's first pixel in the image.
    """
    height, width = seen.shape
    top, left = (-start % BLOCK for start in at)
    across = max(0, -(-(min(cols, width - BLOCK + 1) - left) // BLOCK))
    total, count = 0.0, 0
    for row in range(top, min(rows, height - BLOCK + 1), BLOCK):
        cut = np.s_[..., row : row + BLOCK, left : left + across * BLOCK]
        keep = np.all(seen[cut].reshape(BLOCK, across, BLOCK), axis=(0, 2))
        if keep.any():
            found = _index(_blocks(ys[cut], keep), _blocks(xs[cut], keep))
            total, count = total + float(found.sum()), count + found.size
    return total, count


def _blocks(slab: npt.NDArray[Any], keep: npt.NDArray[np.bool_]) -> Floats:
    """A row of blocks ``(band, 32, n * 32)`` as ``(block, band, pixel)``, those to keep."""
    cells = slab.reshape(len(slab), BLOCK, -1, BLOCK).transpose(2, 0, 1, 3)[keep]
    return cells.reshape(len(cells), len(slab), -1).astype(np.float64)


def _index(y: Floats, x: Floats) -> Floats:
    """Q2n of blocks ``(block, band, pixel)``."""
    bands, n = x.shape[1:]
    mean_x, mean_y = x.mean(axis=2), y.mean(axis=2)
    x, y = x - mean_x[..., None], y - mean_y[..., None]
    # By bilinearity a hypercomplex covariance is made of the real ones of every band with every other.
    covariance = np.matmul(x, y.transpose(0, 2, 1)).reshape(len(x), -1) @ _products(bands) / n
    spread = (np.square(x).sum(axis=(1, 2)) + np.square(y).sum(axis=(1, 2))) / n
    square_x, square_y = np.square(mean_x).sum(axis=1), np.square(mean_y).sum(axis=1)
    energy = square_x + square_y
    with np.errstate(invalid="ignore", divide="ignore"):
        structure = 2 * np.sqrt(np.square(covariance).sum(axis=1)) / spread
        luminance = 2 * np.sqrt(square_x * square_y) / energy
    structure[spread <= FLAT * energy] = 1
    luminance[energy == 0] = 1
    index: Floats = structure * luminance
    return index
