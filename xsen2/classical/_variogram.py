"""Exponential semivariograms: fitted to sums over pairs, brought to point support, and the kriging that follows.

Lengths are in pixels of the coarse grid for cells, and in fine pixels for points. A cell is its ``ratio x ratio``
fine pixels; means over pairs of them are sums over displacements, of which there are only ``(2 ratio - 1)²``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xsen2.products import dot

__all__ = ["LAGS", "deconvolve", "fit", "kriging", "pairs", "regularised"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LAGS = 20  # coarse pixels

_RANGES = np.geomspace(0.1, 100, 601)  # of the fit: beyond these, 20 lags show pure noise or a straight line
_SILLS = 1 + 0.1 * np.arange(20)  # of points, relative to those of cells
_STRETCH = 0.5 + 0.1 * np.arange(20)  # likewise, of ranges


def pairs(x: npt.NDArray[np.float32], valid: Mask) -> Floats:
    """Squared differences at lags 1 to 20 along rows and columns, summed, and how many there are.

    Parameters
    ----------
    x : numpy.ndarray
        ``(band, ..., H, W)``: pairs lie within one of the leading axes.
    valid : numpy.ndarray
        ``(..., H, W)``.

    Returns
    -------
    numpy.ndarray
        float64 ``(band + 1, 20)``; the counts come last.
    """
    x = np.where(valid, x, np.float32(0))
    out = np.zeros((len(x) + 1, LAGS))
    for _ in range(2):
        for lag in range(1, min(LAGS + 1, x.shape[-1])):
            both = valid[..., lag:] & valid[..., :-lag]
            out[-1, lag - 1] += np.count_nonzero(both)
            for i, band in enumerate(x):
                d = (band[..., lag:] - band[..., :-lag])[both]
                out[i, lag - 1] += dot(d, d)
        x, valid = x.swapaxes(-1, -2), valid.swapaxes(-1, -2)
    return out


def fit(squares: Floats, counts: Floats) -> tuple[float, float]:
    """Sill and range of ``c (1 - exp(-h / a))`` nearest to the semivariances, every pair of equal weight.

    Parameters
    ----------
    squares, counts : numpy.ndarray
        ``(20,)``, as `pairs` gives them. Without any pair, or any difference, the sill is 0 and the range 1.
    """
    lags = np.arange(1, LAGS + 1)
    found = squares / np.maximum(counts, 1) / 2
    if not found.any():
        return 0.0, 1.0
    shapes = 1 - np.exp(-lags / _RANGES[:, None])
    products = (shapes * found) @ counts
    sizes = shapes**2 @ counts
    best = int(np.argmax(products**2 / sizes))  # what the best sill of each range takes off the squared error
    return float(products[best] / sizes[best]), float(_RANGES[best])


def regularised(ranges: Floats, ratio: int) -> Floats:
    """Semivariances of cells at lags 1 to 20 along an axis, if points have sill 1 and these ranges.

    The mean over all ``ratio⁴`` pairs of points of two cells, less that within one cell.

    Parameters
    ----------
    ranges : numpy.ndarray
        ``(n,)``, fine pixels.

    Returns
    -------
    numpy.ndarray
        ``(n, 20)``.
    """
    shifts, weights = _shifts(ratio)
    along = np.arange(LAGS + 1)[:, None] * ratio + shifts
    distance = np.hypot(along[:, :, None], shifts)
    gamma = np.einsum("rlij,i,j->rl", 1 - np.exp(-distance / ranges[:, None, None, None]), weights, weights)
    return np.asarray(gamma[:, 1:] - gamma[:, :1])


def deconvolve(sill: float, length: float, ratio: int) -> tuple[float, float]:
    """Sill and range (fine pixels) of points whose cells come nearest to the model ``sill, length`` of cells.

    The best of 20 x 20 candidates: 1 to 2.9 times the sill of the cells, 0.5 to 2.4 times their range.
    """
    ranges = np.asarray(length * ratio * _STRETCH, np.float64)
    goal = 1 - np.exp(-np.arange(1, LAGS + 1) / length)
    gaps = np.square(_SILLS[:, None, None] * regularised(ranges, ratio) - goal).sum(axis=-1)
    i, j = np.unravel_index(np.argmin(gaps), gaps.shape)
    return float(sill * _SILLS[i]), float(ranges[j])


def kriging(length: float, ratio: int) -> Floats:
    """Weights of ordinary area-to-point kriging from a cell and its eight neighbours; any sill gives the same.

    For every point of the cell in the middle, with covariances ``exp(-d / length)`` of points: those of cells with
    cells are means over pairs, those of the point with cells means over a cell. The right sides of a cell's points
    have the mean ``(K e, 1)``, with ``K`` the left side's covariances and ``e`` the cell itself; so their solutions
    have the mean ``e``: the points of every cell have the mean that was measured, exactly.

    Parameters
    ----------
    length : float
        Range of points, fine pixels.

    Returns
    -------
    numpy.ndarray
        ``(ratio, ratio, 9)``: row and column of the point, neighbour in row-major order.
    """
    shifts, weights = _shifts(ratio)
    rows, columns = (i.ravel() - 1 for i in np.indices((3, 3)))
    down = (rows - rows[:, None])[..., None] * ratio + shifts
    across = (columns - columns[:, None])[..., None] * ratio + shifts
    system = np.ones((10, 10))
    system[9, 9] = 0
    distance = np.hypot(down[..., :, None], across[..., None, :])
    system[:9, :9] = np.einsum("klij,i,j->kl", np.exp(-distance / length), weights, weights)
    own, other = np.arange(ratio), np.arange(-ratio, 2 * ratio)
    apart = other - own[:, None]
    near = np.exp(-np.hypot(apart[:, None, :, None], apart[None, :, None, :]) / length)
    right = np.ones((10, ratio * ratio))
    right[:9] = near.reshape(ratio * ratio, 3, ratio, 3, ratio).mean(axis=(2, 4)).reshape(-1, 9).T
    return np.asarray(np.linalg.solve(system, right)[:9].T.reshape(ratio, ratio, 9))


def _shifts(ratio: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Displacements along an axis between the points of two cells, less that of the cells, and their shares."""
    shifts = np.arange(1 - ratio, ratio)
    return shifts, (ratio - np.abs(shifts)) / ratio**2
