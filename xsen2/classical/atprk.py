"""ATPRK: regression on a 10 m band, and area-to-point kriging of what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from xsen2.bands import A
from xsen2.classical._common import UNIT, OneGrid, cells, linear, of_grid, solve
from xsen2.classical._variogram import LAGS, deconvolve, fit, kriging, pairs
from xsen2.halo import trim
from xsen2.kernels import correlate, support, taps
from xsen2.products import mixed
from xsen2.protocol import Array, Mask, finest_halo

__all__ = ["ATPRK", "make", "make_matched"]

Floats = npt.NDArray[np.float64]
T = TypeVar("T", bound=np.generic)


def make(bands: tuple[str, ...], operator: str) -> list[ATPRK]:
    """One object per native grid. The paper has a point spread function of its own, whatever the operator."""
    return [ATPRK(some) for some in of_grid(bands)]


def make_matched(bands: tuple[str, ...], operator: str) -> list[ATPRK]:
    """The same with the point spread function by which the bands came about."""
    return [ATPRK(some, operator=operator, name="atprk-matched") for some in of_grid(bands)]


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
        ``"gaussian"``, as in the paper; or how the bands came about, see `xsen2.kernels.taps`.
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
    >>> from xsen2.classical.atprk import ATPRK
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
        """Whether it is the first round; a method that has learnt already begins anew."""
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
        whole = cells(own, ratio)
        if self._learns_weights:
            sums = []
            for band, y in zip(self.bands, b if ratio == 2 else c, strict=True):
                low = correlate(a, *self._taps(band), ratio)[:, whole]
                columns = np.concatenate([low, np.full((1, low.shape[1]), 1 / UNIT), y[whole][None]])
                columns = columns.astype(np.float64) * UNIT
                sums.append(columns @ columns.T)
            return np.stack(sums).ravel()
        edge = finest_halo(self, self.gather_halo) // ratio
        side = self.lattice // ratio
        residuals = [trim(r, edge) * np.float32(UNIT) for _, r in self._split(a, b, c)]
        return pairs(_tiles(np.stack(residuals), side), _tiles(trim(whole, edge), side)).ravel()

    def learn(self, sums: Floats) -> ATPRK:
        if self._learns_weights:
            size = len(A) + 1
            weights = np.zeros((len(self.bands), size))
            for row, products in zip(weights, sums.reshape(-1, size + 1, size + 1), strict=True):
                used = [*range(size)] if self.synthesis else [_best(products), len(A)]
                row[used] = solve(products[np.ix_(used, used)], products[used, size])
            return replace(self, weights=weights, variograms=None, filters=None)
        *squares, counts = sums.reshape(-1, LAGS)
        variograms = [deconvolve(*fit(some, counts), self._ratio) for some in squares]
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
    one = len(A)
    sums, squares = products[one], np.diag(products)
    covariances = products - np.outer(sums, sums) / max(sums[one], 1)
    variances = np.diag(covariances)
    variances = np.where(variances > 1e-10 * squares, variances, np.inf)  # of a constant band, rounding is left
    return int(np.argmax(covariances[-1, :one] ** 2 / variances[:one]))


def _kriged(x: Array, weights: Floats) -> Array:
    """The fixed filter from 3 x 3 coarse pixels to the fine pixels of the one in the middle, edges repeated.

    The weights sum to one, so what the neighbours add are their differences from the middle.
    """
    ratio = len(weights)
    height, width = x.shape
    padded = np.pad(x, 1, mode="edge")
    around = [padded[i : i + height, j : j + width] - x for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    some = np.delete(weights.reshape(-1, 9), 4, axis=1).astype(np.float32)
    fine = mixed(some, np.stack(around).reshape(8, -1))
    fine += x.ravel()
    return np.asarray(fine.reshape(ratio, ratio, height, width).transpose(2, 0, 3, 1).reshape(height * ratio, -1))


def _tiles(x: npt.NDArray[T], side: int) -> npt.NDArray[T]:
    """The last two axes cut into ``side x side`` tiles, ``(..., rows, columns, side, side)``; zeros fill the last."""
    *lead, height, width = x.shape
    size = [-(-n // side) * side for n in (height, width)]
    x = np.pad(x, [(0, 0)] * len(lead) + [(0, size[0] - height), (0, size[1] - width)])
    return x.reshape(*lead, size[0] // side, side, size[1] // side, side).swapaxes(-3, -2)
