"""cPSNR: the PSNR that forgives a difference in brightness, and a displacement of a few pixels.

The score of Märtens et al. (2019) for images that were made of many dates: the estimate's pixels that are 3 or more
from the edge are compared with the truth displaced by up to 3 pixels in each direction; for every displacement the
mean difference is taken off, and the displacement with the least mean squared error counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xsen2.products import dot

__all__ = ["SHIFT", "SHIFTS", "best", "differences"]

Floats = npt.NDArray[np.float64]

SHIFT = 3
"""The largest displacement, in pixels."""

_SIDE = 2 * SHIFT + 1

SHIFTS = _SIDE**2
"""Number of displacements."""

_ROUNDING = 1e-9  # DN²: less than float32 can tell of DN

_ROWS = 16  # worked on at a time: all displacements of few rows stay in the cache


def differences(x: Floats, y: Floats, seen: npt.NDArray[np.bool_], rows: int, cols: int) -> Floats:
    """Moments of truth minus estimate for every displacement of the truth.

    Parameters
    ----------
    x, y : numpy.ndarray
        Truth and estimate, ``(H, W)`` DN, 0 where not `seen`.
    seen : numpy.ndarray
        bool ``(H, W)``; a pair counts if both its pixels do.
    rows, cols : int
        A pixel of the estimate is counted if the first pixel of the 7 x 7 around it is one of these.

    Returns
    -------
    numpy.ndarray
        ``(3, 49)``: number of pairs, mean, sum of squares about the mean.
    """
    height, width = (min(own, n - _SIDE + 1) for own, n in zip((rows, cols), x.shape, strict=True))
    if height < 1 or width < 1:
        return np.zeros((3, SHIFTS))
    centre = np.s_[SHIFT : SHIFT + height, SHIFT : SHIFT + width]
    there = seen[: height + 2 * SHIFT, : width + 2 * SHIFT]
    weights = None if there.all() else there.astype(np.float64)
    # All means are near that of no displacement: taken off before squaring, it leaves the squares their digits.
    pairs = seen[centre]
    pilot = float((x[centre] - y[centre])[pairs].mean()) if pairs.any() else 0.0
    sums = np.zeros((3, SHIFTS))
    for top in range(0, height, _ROWS):
        part = np.s_[top : min(top + _ROWS, height) + 2 * SHIFT]
        sums += _sums(x[part], y[part] + pilot, None if weights is None else weights[part], width)
    n, total, squares = sums
    some = np.maximum(n, 1)
    return np.stack([n, np.where(n > 0, pilot + total / some, 0), np.maximum(squares - total * total / some, 0)])


def _sums(x: Floats, y: Floats, weights: Floats | None, width: int) -> Floats:
    """Number, sum and sum of squares of differences."""
    height = len(x) - 2 * SHIFT
    centre = np.s_[SHIFT : SHIFT + height, SHIFT : SHIFT + width]
    base, gap = np.ascontiguousarray(y[centre]), np.empty((height, width))
    own = None if weights is None else np.ascontiguousarray(weights[centre])
    flat, n = gap.reshape(-1), float(gap.size)
    out = np.empty((3, SHIFTS))
    for shift in range(SHIFTS):
        row, column = divmod(shift, _SIDE)
        cut = np.s_[row : row + height, column : column + width]
        np.subtract(x[cut], base, out=gap)
        if weights is not None and own is not None:
            both = own * weights[cut]
            gap *= both
            n = float(both.sum())
        out[:, shift] = n, flat.sum(), dot(flat, flat)
    return out


def best(moments: Floats) -> Floats:
    """The least mean squared error about the mean, per band, over the displacements.

    Parameters
    ----------
    moments : numpy.ndarray
        ``(3, 49, band)``, merged over all blocks.

    Returns
    -------
    numpy.ndarray
        ``(band,)`` DN², NaN where there are not two pairs. Displacements that nodata leaves less than half as many
        pairs as the others are not considered.
    """
    n, _, squares = moments
    enough = (n > 1) & (2 * n >= n.max(axis=0))
    mse = squares / np.maximum(n, 1)
    mse = np.where(mse <= _ROUNDING, 0, mse)
    return np.where(enough.any(axis=0), np.where(enough, mse, np.inf).min(axis=0), np.nan)
