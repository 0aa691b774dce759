"""ResSR: a low-dimensional spectral subspace, solved for pixel by pixel, and the residual interpolated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xsen2.bands import GRIDS, A, B, C, factor_of, grid_of
from xsen2.engine.operators import correlate, taps
from xsen2.methods.bicubic import upsample
from xsen2.methods.common import UNIT, OneGrid, cells, linear, of_grid
from xsen2.methods.protocol import Array, Mask

__all__ = ["ResSR", "make"]

Floats = npt.NDArray[np.float64]

_LOWEST, _HIGHEST = -1000, 20000  # of the histograms, in DN; what lies beyond counts as the last bin
_PERCENTILES = (2, 98)
_RANK = 2  # K of the paper
_SHARE = 0.99  # gamma_HR
_PENALTY = 0.5  # lambda
_NOISE = 0.02  # sigma


def make(bands: tuple[str, ...], operator: str) -> list[ResSR]:
    """One object per native grid; the operator plays no part, ResSR takes the mean for the degradation."""
    return [ResSR(group) for group in of_grid(bands)]


@dataclass(frozen=True)
class ResSR(OneGrid):
    """ResSR, for the bands of one native grid.

    Every band is scaled by its 2nd and 98th percentile. The bands of all grids, interpolated to 10 m, have the mean
    ``m`` and the leading directions ``V`` with singular values ``s``. A pixel is ``x = m + V z``; its ``z`` minimises
    ``sum_b g_b (y_b - x_b)² + lambda sigma² / K |z / s|²``, where ``y_b`` is the pixel of band ``b`` that covers it,
    and ``g`` sums to one over the grids, 0.99 of it the 10 m grid's. The result is ``x + bicubic(y - mean(x))``.

    The means, percentiles and directions are those of all pixels; the authors draw as many at random as an image is
    wide, which is what ``s`` counts here too. For the 20 m bands those of 10 m and 20 m are used, for the 60 m bands
    all.

    Parameters
    ----------
    bands : tuple of str
        Bands of one native grid.
    weights : numpy.ndarray, optional
        ``(bands, needs)``: what `learn` found; DN of a band per DN of another.
    constants : numpy.ndarray, optional
        ``(bands,)``, likewise, in DN.

    References
    ----------
    Duba-Sullivan, Reid, Voisin, Bouman, Buzzard: ResSR: a computationally efficient residual approach to
    super-resolving multispectral images. arXiv:2408.13225.

    Examples
    --------
    >>> import xsen2
    >>> sr = xsen2.sample().dsen2.superresolve(["B05"], method=make(("B05",), "mtf")[0])
    """

    bands: tuple[str, ...]
    weights: Floats | None = None
    constants: Floats | None = None
    name: str = "resr"
    rounds: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        return (*A, *B) if self._ratio == 2 else (*A, *B, *C)

    @property
    def halo(self) -> dict[int, int]:
        return {grid_of(self.bands[0]): 2}

    @property
    def gather_halo(self) -> dict[int, int]:
        return self.halo

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> Floats:
        """Histograms of every band on its own grid, and the moments of all at 10 m."""
        columns = np.empty((len(self.needs) + 1, int(own.sum())))
        columns[-1] = 1
        counts = []
        for grid, factor in ((a, 1), (b, 2), (c, 6)):
            counted = cells(own, factor) if len(grid) else own
            for x in grid:
                near = np.rint(np.clip(x[counted], _LOWEST, _HIGHEST)).astype(np.int64) - _LOWEST
                counts.append(np.bincount(near, minlength=_HIGHEST - _LOWEST + 1))
                columns[len(counts) - 1] = (x if factor == 1 else upsample(x, factor))[own] * np.float32(UNIT)
        return np.concatenate([*counts, (columns @ columns.T).ravel()]).astype(np.float64)

    def learn(self, sums: Floats) -> ResSR:
        bands = len(self.needs)
        moments = sums[-((bands + 1) ** 2) :].reshape(bands + 1, bands + 1)
        count = max(moments[-1, -1], 1.0)
        mean = moments[-1, :-1] / count / UNIT
        covariance = moments[:-1, :-1] / count / UNIT**2 - np.outer(mean, mean)
        low, high = np.transpose([_percentiles(h) for h in sums[: -moments.size].reshape(bands, -1)])
        span = np.maximum(high - low, 1.0)  # a constant band has no range
        variances, directions = np.linalg.eigh(covariance / np.outer(span, span))
        # Directions times singular values, so that the penalty stays finite where there is no variance.
        basis = directions[:, -_RANK:] * np.sqrt(np.sqrt(count) * np.maximum(variances[-_RANK:], 0))
        solution = closed_form(basis, _shares(self.needs))
        rows = [self.needs.index(band) for band in self.bands]
        weights = (solution * span[:, None] / span)[rows]
        return replace(self, weights=weights, constants=mean[rows] - weights @ mean)

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        ratio = self._ratio
        assert self.weights is not None
        assert self.constants is not None
        weights = self.weights.astype(np.float32)
        constants = self.constants.astype(np.float32)
        out = np.stack([linear(a, w[: len(A)], constant) for w, constant in zip(weights, constants, strict=True)])
        coarse = {2: weights[:, len(A) : len(A) + len(B)], 6: weights[:, len(A) + len(B) :]}
        for x, factor in ((b, 2), (c, 6)):
            if len(x):
                low = np.stack([linear(x, w, np.float32(0)) for w in coarse[factor]])
                out += low.repeat(factor, axis=1).repeat(factor, axis=2)
        low = correlate(out, *taps(self.bands[0], ratio, "box"), ratio)
        y = (b if ratio == 2 else c)[[GRIDS[10 * ratio].index(band) for band in self.bands]]
        return out + upsample(y - low, ratio)


def closed_form(basis: Floats, shares: Floats) -> Floats:
    """The matrix that gives the estimate of all bands from what was measured, both less their means.

    Parameters
    ----------
    basis : numpy.ndarray
        ``(bands, K)``: directions times singular values.
    shares : numpy.ndarray
        ``(bands,)``: ``g``.
    """
    weighted = shares[:, None] * basis
    normal = basis.T @ weighted + _PENALTY * _NOISE**2 / _RANK * np.eye(_RANK)
    return np.asarray(basis @ np.linalg.solve(normal, weighted.T))


def _shares(needs: tuple[str, ...]) -> Floats:
    """Weight of each band: 0.99 at 10 m, the rest shared by the coarser grids as one over their ratios."""
    rest = sum(1 / ratio for ratio in {factor_of(band) for band in needs} - {1})
    return np.array([_SHARE if band in A else (1 - _SHARE) / rest / factor_of(band) for band in needs])


def _percentiles(counts: Floats) -> Floats:
    """2nd and 98th percentile in DN, linear within a bin; 0 for no pixels."""
    total = np.cumsum(counts)
    wanted = np.array(_PERCENTILES) / 100 * total[-1]
    at = np.minimum(np.searchsorted(total, wanted), len(counts) - 1)
    before = total[at] - counts[at]
    part = (wanted - before) / np.maximum(counts[at], 1)
    return np.asarray(np.where(total[-1] > 0, at + part + _LOWEST - 0.5, 0.0))
