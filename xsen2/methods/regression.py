"""Regression on the 10 m bands: what they explain of a coarse band comes from them, the rest is interpolated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xsen2.bands import A
from xsen2.engine.operators import observed, support
from xsen2.methods.bicubic import upsample
from xsen2.methods.common import UNIT, OneGrid, cells, linear, of_grid, solve
from xsen2.methods.protocol import Array, Mask

__all__ = ["Regression", "make"]

Floats = npt.NDArray[np.float64]


def make(bands: tuple[str, ...], operator: str) -> list[Regression]:
    """One object per native grid."""
    return [Regression(group, operator) for group in of_grid(bands)]


@dataclass(frozen=True)
class Regression(OneGrid):
    """Each coarse band as a linear function of the four 10 m bands, and its residual by bicubic interpolation.

    With ``A`` for degrading, the coefficients minimise ``|y - A(w0 + sum w x)|²`` over the image; the result is
    ``p + bicubic(y - A(p))`` with the prediction ``p = w0 + sum w x``.

    Parameters
    ----------
    bands : tuple of str
        Bands of one native grid.
    operator : str
        How they came about, see `xsen2.engine.operators.taps`.
    weights : numpy.ndarray, optional
        ``(bands, 5)``: what `learn` found; the constant, in units of 10000 DN, comes last.

    Examples
    --------
    >>> import xsen2
    >>> sr = xsen2.sample().dsen2.superresolve(["B05"], method="regression")
    """

    bands: tuple[str, ...]
    operator: str = "mtf"
    weights: Floats | None = None
    name: str = "regression"
    rounds: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        return (*A, *self.bands)

    @property
    def gather_halo(self) -> dict[int, int]:
        return {10: max(support(band, self._ratio, self.operator) for band in self.bands)}

    @property
    def halo(self) -> dict[int, int]:
        return {10: self.gather_halo[10] + 3 * self._ratio}

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> Floats:
        """Normal equations of all bands."""
        ratio = self._ratio
        counted = cells(own, ratio)
        sums = []
        for band, y in zip(self.bands, b if ratio == 2 else c, strict=True):
            low = observed(a, band, ratio, self.operator)[:, counted]
            columns = np.concatenate([low, np.full((1, low.shape[1]), 1 / UNIT), y[counted][None]]).astype(np.float64)
            columns *= UNIT
            sums.append(columns @ columns[:-1].T)
        return np.stack(sums).ravel()

    def learn(self, sums: Floats) -> Regression:
        equations = sums.reshape(len(self.bands), 6, 5)
        return replace(self, weights=np.stack([solve(e[:5], e[5]) for e in equations]))

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        ratio = self._ratio
        assert self.weights is not None
        out = np.empty((len(self.bands), *a.shape[1:]), np.float32)
        for i, (band, y) in enumerate(zip(self.bands, b if ratio == 2 else c, strict=True)):
            weights = self.weights[i].astype(np.float32)
            p = linear(a, weights[:4], weights[4] / np.float32(UNIT))
            out[i] = p + upsample(y - observed(p, band, ratio, self.operator), ratio)
        return out
