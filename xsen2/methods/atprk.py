"""ATPRK: regression on a 10 m band, and area-to-point kriging of what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from xsen2.bands import A
from xsen2.engine.block import dot, mixed
from xsen2.engine.halo import trim
from xsen2.engine.operators import correlate, support, taps
from xsen2.methods.common import UNIT, OneGrid, cells, linear, of_grid, solve
from xsen2.methods.protocol import Array, Mask, finest_halo

__all__ = ["ATPRK", "LAGS", "deconvolve", "fit", "kriging", "make", "make_matched", "pairs", "regularised"]


# Exponential semivariograms: fitted to sums over pairs, brought to point support, and the kriging that follows.
#
# Lengths are in pixels of the coarse grid for cells, and in fine pixels for points. A cell is its ``ratio x ratio``
# fine pixels; means over pairs of them are sums over displacements, of which there are only ``(2 ratio - 1)²``.


Floats = npt.NDArray[np.float64]

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
    semivariances = squares / np.maximum(counts, 1) / 2
    if not semivariances.any():
        return 0.0, 1.0
    shapes = 1 - np.exp(-lags / _RANGES[:, None])
    products = (shapes * semivariances) @ counts
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
    points, around = np.arange(ratio), np.arange(-ratio, 2 * ratio)
    apart = around - points[:, None]
    near = np.exp(-np.hypot(apart[:, None, :, None], apart[None, :, None, :]) / length)
    right = np.ones((10, ratio * ratio))
    right[:9] = near.reshape(ratio * ratio, 3, ratio, 3, ratio).mean(axis=(2, 4)).reshape(-1, 9).T
    return np.asarray(np.linalg.solve(system, right)[:9].T.reshape(ratio, ratio, 9))


def _shifts(ratio: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Displacements along an axis between the points of two cells, less that of the cells, and their shares."""
    shifts = np.arange(1 - ratio, ratio)
    return shifts, (ratio - np.abs(shifts)) / ratio**2


T = TypeVar("T", bound=np.generic)


def make(bands: tuple[str, ...], operator: str) -> list[ATPRK]:
    """One object per native grid. The paper has a point spread function of its own, whatever the operator."""
    return [ATPRK(group) for group in of_grid(bands)]


def make_matched(bands: tuple[str, ...], operator: str) -> list[ATPRK]:
    """The same with the point spread function by which the bands came about."""
    return [ATPRK(group, operator=operator, name="atprk-matched") for group in of_grid(bands)]


@dataclass(frozen=True)
class ATPRK(OneGrid):
    """Area-to-point regression kriging: each coarse band as a linear function of one 10 m band, its residual kriged.

    With ``A`` for degrading, by default with a Gaussian of sigma ``ratio / 2``, each band ``y`` gets the 10 m band
    whose ``A(x)`` correlates best with it, and the least-squares line ``y = w x + w0``. The result is
    ``p + K(y - A(p))`` with the prediction ``p = w x + w0`` and ordinary area-to-point kriging ``K`` from 3 x 3
    coarse pixels. Its exponential semivariogram is fitted to the residuals at lags of 1 to 20 coarse pixels along rows
    and columns, and then brought from pixels to points. All of that is learnt from the whole image.

    Parameters
    ----------
    bands : tuple of str
        Bands of one native grid.
    synthesis : bool
        Whether all four 10 m bands together predict a band, by least squares: the paper's "synthesised band", in
        place of its "selected band".
    operator : str
        ``"gaussian"``, as in the paper; or how the bands came about, see `xsen2.engine.operators.taps`.
    weights : numpy.ndarray, optional
        ``(bands, 5)``: what the first round found; the constant, in units of 10000 DN, comes last.
    variograms : numpy.ndarray, optional
        ``(bands, 2)``: what the second round found: sill (reflectance squared) and range (10 m pixels) of points.
    filters : numpy.ndarray, optional
        ``(bands, ratio, ratio, 9)``: the weights of the kriging that follows.

    Notes
    -----
    The mean of what ``K`` makes of the ``ratio x ratio`` pixels of a cell is the residual, exactly, which the paper
    calls coherence. So the mean over a cell of the result is ``y + box(p) - A(p)``: with the operator ``"box"`` it is
    ``y``; with another, it differs by what the two operators make of the prediction.

    Pairs are counted within tiles of `lattice` pixels, for beyond the image's edges there is nothing to pair with;
    a tile has 60 coarse pixels along each side, or 180.

    References
    ----------
    Wang, Shi, Li, Atkinson (2016). Fusion of Sentinel-2 images. Remote Sensing of Environment 187.

    Examples
    --------
    >>> import xsen2
    >>> from xsen2.methods.atprk import ATPRK
    >>> sr = xsen2.sample().dsen2.superresolve(["B05"], method=ATPRK(("B05",)))
    """

    bands: tuple[str, ...]
    synthesis: bool = False
    operator: str = "gaussian"
    weights: Floats | None = None
    variograms: Floats | None = None
    filters: Floats | None = None
    name: str = "atprk"
    rounds: int = 2
    lattice: int = 360

    @property
    def needs(self) -> tuple[str, ...]:
        return (*A, *self.bands)

    @property
    def _learns_weights(self) -> bool:
        """Whether it is the first round; a fitted method starts again."""
        return self.weights is None or self.filters is not None

    def _taps(self, band: str) -> tuple[Floats, int]:
        ratio = self._ratio
        if self.operator != "gaussian":
            return taps(band, ratio, self.operator)
        # Cut where the neighbours of the coarse pixel end.
        weights = np.exp(-0.5 * ((np.arange(-ratio, 2 * ratio) - (ratio - 1) / 2) / (ratio / 2)) ** 2)
        return weights / weights.sum(), ratio

    @property
    def gather_halo(self) -> dict[int, int]:
        if self.operator == "gaussian":
            return {10: self._ratio}
        return {10: max(support(band, self._ratio, self.operator) for band in self.bands)}

    @property
    def halo(self) -> dict[int, int]:
        return {10: self.gather_halo[10] + 2 * self._ratio}

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> Floats:
        """Products of all columns; in the second round, squared differences of the residuals by lag."""
        ratio = self._ratio
        counted = cells(own, ratio)
        if self._learns_weights:
            sums = []
            for band, y in zip(self.bands, b if ratio == 2 else c, strict=True):
                low = correlate(a, *self._taps(band), ratio)[:, counted]
                columns = np.concatenate([low, np.full((1, low.shape[1]), 1 / UNIT), y[counted][None]])
                columns = columns.astype(np.float64) * UNIT
                sums.append(columns @ columns.T)
            return np.stack(sums).ravel()
        edge = finest_halo(self, self.gather_halo) // ratio
        side = self.lattice // ratio
        residuals = [trim(r, edge) * np.float32(UNIT) for _, r in self._split(a, b, c)]
        return pairs(_tiles(np.stack(residuals), side), _tiles(trim(counted, edge), side)).ravel()

    def learn(self, sums: Floats) -> ATPRK:
        if self._learns_weights:
            size = len(A) + 1
            weights = np.zeros((len(self.bands), size))
            for row, products in zip(weights, sums.reshape(-1, size + 1, size + 1), strict=True):
                used = [*range(size)] if self.synthesis else [_best(products), len(A)]
                row[used] = solve(products[np.ix_(used, used)], products[used, size])
            return replace(self, weights=weights, variograms=None, filters=None)
        *squares, counts = sums.reshape(-1, LAGS)
        variograms = [deconvolve(*fit(differences, counts), self._ratio) for differences in squares]
        filters = np.stack([kriging(length, self._ratio) for _, length in variograms])
        return replace(self, variograms=np.array(variograms), filters=filters)

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        assert self.filters is not None
        out = np.empty((len(self.bands), *a.shape[1:]), np.float32)
        for band, weights, (p, residual) in zip(out, self.filters, self._split(a, b, c), strict=True):
            np.add(p, _kriged(residual, weights), out=band)
        return out

    def _split(self, a: Array, b: Array, c: Array) -> Iterator[tuple[Array, Array]]:
        """The prediction of each band, at 10 m, and what it leaves of the coarse one."""
        assert self.weights is not None
        ratio = self._ratio
        low = b if ratio == 2 else c
        for band, weights, y in zip(self.bands, self.weights.astype(np.float32), low, strict=True):
            p = linear(a, weights[:-1], weights[-1] / np.float32(UNIT))
            yield p, y - correlate(p, *self._taps(band), ratio)


def _best(products: Floats) -> int:
    """The 10 m band that correlates best with the coarse one, whether or not the sign is the same."""
    constant = len(A)
    sums, squares = products[constant], np.diag(products)
    covariances = products - np.outer(sums, sums) / max(sums[constant], 1)
    variances = np.diag(covariances)
    variances = np.where(variances > 1e-10 * squares, variances, np.inf)  # of a constant band, rounding is left
    return int(np.argmax(covariances[-1, :constant] ** 2 / variances[:constant]))


def _kriged(x: Array, weights: Floats) -> Array:
    """The fixed filter from 3 x 3 coarse pixels to the fine pixels of the one in the middle, edges repeated.

    The weights sum to one, so what the neighbours add are their differences from the middle.
    """
    ratio = len(weights)
    height, width = x.shape
    padded = np.pad(x, 1, mode="edge")
    around = [padded[i : i + height, j : j + width] - x for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    neighbour_weights = np.delete(weights.reshape(-1, 9), 4, axis=1).astype(np.float32)
    fine = mixed(neighbour_weights, np.stack(around).reshape(8, -1))
    fine += x.ravel()
    return np.asarray(fine.reshape(ratio, ratio, height, width).transpose(2, 0, 3, 1).reshape(height * ratio, -1))


def _tiles(x: npt.NDArray[T], side: int) -> npt.NDArray[T]:
    """The last two axes cut into ``side x side`` tiles, ``(..., rows, columns, side, side)``; zeros fill the last."""
    *lead, height, width = x.shape
    size = [-(-n // side) * side for n in (height, width)]
    x = np.pad(x, [(0, 0)] * len(lead) + [(0, size[0] - height), (0, size[1] - width)])
    return x.reshape(*lead, size[0] // side, side, size[1] // side, side).swapaxes(-3, -2)
