"""Indices over sliding windows: UIQ and SSIM, as sums over the windows that start in a block's own pixels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from xsen2.engine.block import mixed

__all__ = ["BLOCK", "FLAT", "GAUSSIAN", "UIQ", "quality", "signs", "similar", "whole"]


# Q2n: the quality of all bands of an image at once, a pixel being one hypercomplex number.
#
# Alparone et al. (2004) for four bands (quaternions), Garzelli & Nencini (2009) for any number. With z the pixels of
# the truth and w those of the estimate, in a block of 32 x 32 pixels::
#
#     Q2n = |cov(z, w)| / (s_z s_w) · 2 s_z s_w / (s_z² + s_w²) · 2 |mean z| |mean w| / (|mean z|² + |mean w|²)
#
# where ``cov(z, w)`` is the mean of ``(z - mean z)(w - mean w)*``, a hypercomplex number, and ``s_z²`` the mean of
# ``|z - mean z|²``. Band i is the coefficient of the unit ``e_i``; missing bands up to a power of two are 0. The
# product is Cayley & Dickson's: ``(a, b)(c, d) = (ac - d*b, da + bc*)`` and ``(a, b)* = (a*, -b)``, so that ``e_1 e_2 =
# e_3``.


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
            indices = _index(_blocks(ys[cut], keep), _blocks(xs[cut], keep))
            total, count = total + float(indices.sum()), count + indices.size
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


Mask = npt.NDArray[np.bool_]

UIQ = 8
"""Side of the windows of UIQ; a power of two, see `_box`."""

GAUSSIAN = 11
"""Side of the windows of SSIM."""

FLAT = 1e-12
"""Variances below this share of the mean square are rounding."""

_SIGMA = 1.5  # of SSIM's windows, in pixels
_K = (0.01, 0.03)
_TILE = 16  # pixels that one product of matrices filters
_ROWS = 256  # at a time: a BLAS leaves so small a product in this thread, see `xsen2.engine.block`


def whole(seen: Mask, size: int) -> Mask:
    """Which windows of `size` x `size` pixels, stride 1, are valid in all their pixels.

    Parameters
    ----------
    seen : numpy.ndarray
        bool ``(H, W)``, not smaller than a window.
    size : int
        Side of the windows.

    Returns
    -------
    numpy.ndarray
        bool ``(H - size + 1, W - size + 1)``, by the window's first pixel.

    Examples
    --------
    >>> import numpy as np
    >>> whole(np.array([[True, True, False], [True, True, True]]), 2)
    array([[ True, False]])
    """
    for axis in (0, 1):
        covered = 1
        while covered < size:
            step = min(covered, size - covered)
            n = seen.shape[axis] - step
            seen = seen[:n] & seen[step:] if axis == 0 else seen[:, :n] & seen[:, step:]
            covered += step
    return seen


def similar(x: Floats, y: Floats, seen: Mask, rows: int, cols: int, peak: float) -> Floats:
    """Sums of UIQ and of SSIM over the windows that start in a block's own pixels.

    Windows with a pixel that is not valid, or that reach over the edge of the arrays, are left out.

    Parameters
    ----------
    x, y : numpy.ndarray
        ``(H, W)`` DN, 0 where not `seen`.
    seen : numpy.ndarray
        bool ``(H, W)``, False for nodata.
    rows, cols : int
        The block's own pixels come first; the others are context.
    peak : float
        R of SSIM, in DN.

    Returns
    -------
    numpy.ndarray
        Sum of UIQ, number of its windows, sum of SSIM, number of its windows.
    """
    out = np.zeros(4)
    if min(x.shape) < UIQ:
        return out
    # Both indices need of the squares their sum alone.
    fields = np.stack([x, y, x * x + y * y, x * y])
    out[:2] = _pool(_uiq(_box(fields[:, : rows + UIQ - 1, : cols + UIQ - 1])), seen, rows, cols, UIQ)
    if min(x.shape) >= GAUSSIAN:
        smooth = _smooth(fields[:, : rows + GAUSSIAN - 1, : cols + GAUSSIAN - 1])
        out[2:] = _pool(_ssim(smooth, peak), seen, rows, cols, GAUSSIAN)
    return out


def _pool(index: Floats, seen: Mask, rows: int, cols: int, size: int) -> tuple[float, int]:
    seen = seen[: rows + size - 1, : cols + size - 1]
    if not seen.all():
        index = index[whole(seen, size)]
    return float(index.sum()), index.size


def _box(values: Floats) -> Floats:
    """Sums over all 8 x 8 windows of the last two axes, stride 1.

    By doubling (pairs, pairs of pairs, …): a window's sum depends on its own 64 pixels alone, to the
    last bit, which integral images do not give.
    """
    for step in (1, 2, 4):
        values = values[..., :-step, :] + values[..., step:, :]
    for step in (1, 2, 4):
        values = values[..., :-step] + values[..., step:]
    return values


def _uiq(sums: Floats) -> Floats:
    """Wang & Bovik's (2002) index from sums of x, y, x² + y² and xy.

    As in the authors' code, two flat windows are compared by their means alone, and two of zeros are equal.
    """
    n = UIQ**2
    sx, sy, squares, sxy = sums
    means, energy = sx * sy, sx * sx + sy * sy
    squares = n * squares
    spread = squares - energy
    flat = spread <= FLAT * squares
    structure, luminance = 2 * (n * sxy - means), 2 * means
    with np.errstate(invalid="ignore", divide="ignore"):
        structure /= spread
        luminance /= energy
    structure[flat] = 1
    if flat.any():
        luminance[energy == 0] = 1
    index: Floats = structure * luminance
    return index


@lru_cache(maxsize=1)
def _band_matrix() -> Floats:
    """`_TILE` rows, each the Gaussian of a window, one pixel further on."""
    offsets = np.arange(GAUSSIAN) - GAUSSIAN // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    matrix = np.zeros((_TILE, _TILE + GAUSSIAN - 1))
    for row in range(_TILE):
        matrix[row, row : row + GAUSSIAN] = weights / weights.sum()
    return matrix


def _smooth(values: Floats) -> Floats:
    """Gaussian means over all 11 x 11 windows of the last two axes.

    Each axis tile by tile, as a product with a banded matrix. Most of what is multiplied are zeros, and still it takes
    a third of the time of eleven sums of shifted arrays.
    """
    fields, height, width = values.shape
    matrix, more = _band_matrix(), GAUSSIAN - 1
    across = np.empty((fields * height, width - more))
    flat = values.reshape(fields * height, width)
    for start in range(0, width - more, _TILE):
        n = min(_TILE, width - more - start)
        for row in range(0, len(flat), _ROWS):
            strip = np.s_[row : row + _ROWS]
            np.matmul(
                flat[strip, start : start + n + more], matrix[:n, : n + more].T, out=across[strip, start : start + n]
            )
    across = across.reshape(fields, height, width - more)
    out = np.empty((fields, height - more, width - more))
    for start in range(0, height - more, _TILE):
        n = min(_TILE, height - more - start)
        for field, target in zip(across[:, start : start + n + more], out[:, start : start + n], strict=True):
            mixed(matrix[:n, : n + more], field, out=target)
    return out


def _ssim(means: Floats, peak: float) -> Floats:
    """Wang et al.'s (2004) index, eq. 13, from weighted means of x, y, x² + y² and xy."""
    x, y, squares, xy = means
    c1, c2 = ((k * peak) ** 2 for k in _K)
    product, energy = x * y, x * x + y * y
    top = (2 * product + c1) * (2 * (xy - product) + c2)
    bottom = (energy + c1) * (squares - energy + c2)
    out: Floats = top / bottom
    return out
