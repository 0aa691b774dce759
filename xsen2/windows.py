"""Indices over sliding windows: UIQ and SSIM, as sums over the windows that start in a block's own pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from xsen2.products import mixed

__all__ = ["FLAT", "GAUSSIAN", "UIQ", "similar", "whole"]

Floats = npt.NDArray[np.float64]
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
_ROWS = 256  # at a time: a BLAS leaves so small a product in this thread, see `xsen2.products`


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
            some = np.s_[row : row + _ROWS]
            np.matmul(
                flat[some, start : start + n + more], matrix[:n, : n + more].T, out=across[some, start : start + n]
            )
    across = across.reshape(fields, height, width - more)
    out = np.empty((fields, height - more, width - more))
    for start in range(0, height - more, _TILE):
        n = min(_TILE, height - more - start)
        for field, made in zip(across[:, start : start + n + more], out[:, start : start + n], strict=True):
            mixed(matrix[:n, : n + more], field, out=made)
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
