"""PRACS: for every band a pan that is partly replaced by the band, and its details as far as the image bears them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xsen2.engine.operators import correlate
from xsen2.methods.bicubic import keys, upsample
from xsen2.methods.common import PAN, UNIT, Sharpening, of_grid, sharers, solve
from xsen2.methods.protocol import Array, Mask

__all__ = ["PRACS", "make"]

Floats = npt.NDArray[np.float64]

_FLAT = 1e-12  # variance of the reflectance that is no more than rounding
_BETA = 0.95
_MOST = 10  # that L may be; it has no bounds where I is near zero
_SMALLEST = np.float32(1)  # DN, of what is divided by


def make(bands: tuple[str, ...], operator: str) -> list[PRACS]:
    """One object per native grid; the operator plays no part, the method degrades by bicubic interpolation."""
    return [PRACS(group) for group in of_grid(bands)]


@dataclass(frozen=True)
class PRACS(Sharpening):
    """Partial replacement adaptive component substitution, for the bands of one native grid.

    Bands with the same pan ``P`` are one multispectral image ``MS``, interpolated. ``MS'`` is ``MS`` with the mean and
    the standard deviation of ``P``, not below 0; ``low`` interpolates down and up again. In turn:

    - ``I`` is the regression of ``low(P)`` on ``[1, MS']``; ``P_k = r P + (1 - r) MS'_k`` with ``r = corr(I, MS'_k)``
    - ``I_k`` is the regression of ``low(P_k)`` on ``[1, MS']``; the details ``d_k`` are ``P_k - I_k`` less the mean
    - ``w_k = 0.95 corr(I_k, MS_k) std(MS_k) / mean std``; ``L_k = 1 - |1 - corr(I, MS_k) MS_k / I_k|``, within ±10
    - the result is ``MS_k + w_k L_k d_k``

    Parameters
    ----------
    bands : tuple of str
        Bands of one native grid. Bands with the same pans are needed too.
    equal : numpy.ndarray, optional
        ``(bands read, 2)``: what `learn` found first: gain and offset (DN) of ``MS'``.
    synthetic : numpy.ndarray, optional
        ``(bands read, 1 + bands read)``: what `learn` found last: coefficients of ``I_k``, the constant (DN) first.
    terms : numpy.ndarray, optional
        ``(bands read, 4)``, likewise: ``r``, mean of ``P_k - I_k`` (DN), ``w_k``, ``corr(I, MS_k)``.

    References
    ----------
    Choi, Yu, Kim (2011). A new adaptive component-substitution-based satellite image fusion by using partial
    replacement. IEEE Trans. GRS 49(1); formulas as in Vivone et al. (2015), IEEE Trans. GRS 53(5).

    Examples
    --------
    >>> import xsen2
    >>> sr = xsen2.sample().dsen2.superresolve(["B05"], method=make(("B05",), "mtf")[0])
    """

    bands: tuple[str, ...]
    equal: Floats | None = None
    synthetic: Floats | None = None
    terms: Floats | None = None
    name: str = "pracs"
    rounds: int = 2

    @property
    def _read(self) -> tuple[str, ...]:
        return sharers(self.bands)

    @property
    def _images(self) -> list[list[int]]:
        """Which of the bands that are read have the same pan."""
        pans = [PAN[band] for band in self._read]
        return [[i for i, other in enumerate(pans) if other == pan] for pan in dict.fromkeys(pans)]

    @property
    def halo(self) -> dict[int, int]:
        return {10 * self._ratio: 2}

    @property
    def gather_halo(self) -> dict[int, int]:
        return {10 * self._ratio: 6}  # interpolation 2, down 1.5, up again 2

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> Floats:
        """Moments of each band and its pan; then, for each image, the products of all that is regressed."""
        ms = upsample(b if self._ratio == 2 else c, self._ratio)
        constant = np.full((1, *own.shape), 1 / UNIT, np.float32)
        standard = None if self.equal is None else self._standard(ms)
        sums = []
        for image in self._images:
            p = self._pan(a, self._read[image[0]])[None]
            if standard is None:
                columns = [constant, ms[image], p]
            else:
                full = np.concatenate([standard[image], p])
                columns = [constant, full, ms[image], _low(full, self._ratio)]
            kept = np.concatenate([x[:, own] for x in columns]).astype(np.float64) * UNIT
            sums.append((kept @ kept.T).ravel())
        return np.concatenate(sums)

    def learn(self, sums: Floats) -> PRACS:
        read = len(self._read)
        equal, synthetic, terms = np.zeros((read, 2)), np.zeros((read, 1 + read)), np.zeros((read, 4))
        for image in self._images:
            n = len(image)
            size = n + 2 if self.equal is None else 3 * n + 3
            products, sums = sums[: size**2].reshape(size, size), sums[size**2 :]
            moments = products / max(products[0, 0], 1.0)
            if self.equal is None:
                equal[image] = _equal(moments)
                continue
            regressed, terms[image] = _fit(moments, n)
            synthetic[np.ix_(image, [0, *(1 + i for i in image)])] = regressed
        return replace(self, equal=equal) if self.equal is None else replace(self, synthetic=synthetic, terms=terms)

    def _standard(self, ms: Array) -> Array:
        assert self.equal is not None
        gain, offset = self.equal.T.astype(np.float32)[:, :, None, None]
        return np.asarray(np.maximum(gain * ms + offset, 0))

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        assert self.synthetic is not None
        assert self.terms is not None
        ms = upsample(b if self._ratio == 2 else c, self._ratio)
        standard = self._standard(ms)
        out = np.empty((len(self.bands), *ms.shape[1:]), np.float32)
        for k, band in enumerate(self.bands):
            i = self._read.index(band)
            r, mean, weight, like = self.terms[i].astype(np.float32)
            constant, *slopes = self.synthetic[i].astype(np.float32)
            smooth = np.full_like(standard[i], constant)
            for slope, x in zip(slopes, standard, strict=True):
                if slope:  # 0 for the bands of another image; a BLAS would round each shape in its own way
                    smooth += slope * x
            detail = r * self._pan(a, band) + (1 - r) * standard[i] - smooth - mean
            smooth = np.where(np.abs(smooth) < _SMALLEST, np.copysign(_SMALLEST, smooth), smooth)
            local = np.clip(1 - np.abs(1 - like * ms[i] / smooth), -_MOST, _MOST)
            out[k] = ms[i] + weight * local * detail
        return out


def _low(x: Array, ratio: int) -> Array:
    """Bicubic interpolation down, with the kernel stretched against aliasing, and up again."""
    weights = np.array([keys((j + 0.5) / ratio - 2) for j in range(4 * ratio)])
    return upsample(correlate(x, weights / weights.sum(), 3 * ratio // 2, ratio), ratio)


def _equal(moments: Floats) -> Floats:
    """Gain and offset (DN) that give each of an image's bands the moments of its pan; columns: 1, bands, pan."""
    mean = moments[0, 1:]
    variance = np.diag(moments)[1:] - mean**2
    known = np.where(variance[:-1] > _FLAT, variance[:-1], np.inf)
    gain = np.sqrt(max(variance[-1], 0.0) / known)
    return np.stack([gain, (mean[-1] - gain * mean[:-1]) / UNIT], axis=1)


def _fit(moments: Floats, n: int) -> tuple[Floats, Floats]:
    """Coefficients of ``I_k`` and terms of an image's `n` bands; columns: 1, MS', P, MS, low(MS'), low(P)."""
    covariance = moments - np.outer(moments[0], moments[0])
    columns = np.eye(len(moments))
    standard, p, ms = columns[1 : n + 1], columns[n + 1], columns[n + 2 : 2 * n + 2]
    low_standard, low_p = columns[2 * n + 2 : -1], columns[-1]

    def regressed(of: Floats) -> Floats:
        out = np.zeros(len(moments))
        out[: n + 1] = solve(moments[: n + 1, : n + 1], moments[: n + 1] @ of)
        return out

    def alike(first: Floats, second: Floats) -> float:
        variances = np.array([first @ covariance @ first, second @ covariance @ second])
        return float(first @ covariance @ second / np.sqrt(variances.prod())) if variances.min() > _FLAT else 0.0

    common = regressed(low_p)
    spread = np.sqrt(np.maximum(np.diag(covariance)[n + 2 : 2 * n + 2], 0))
    synthetic, terms = [], []
    for k in range(n):
        r = alike(common, standard[k])
        coefficients = regressed(r * low_p + (1 - r) * low_standard[k])
        mean = (r * p + (1 - r) * standard[k] - coefficients) @ moments[0]
        weight = _BETA * alike(coefficients, ms[k]) * spread[k] / max(spread.mean(), 1e-9)
        synthetic.append(coefficients[: n + 1] / np.where(np.arange(n + 1) == 0, UNIT, 1.0))
        terms.append([r, mean / UNIT, weight, alike(common, ms[k])])
    return np.array(synthetic), np.array(terms)
