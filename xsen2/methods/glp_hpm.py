"""MTF-GLP-HPM-PP: what the pan shows beyond its own low-pass multiplies the band; a median mends outliers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xsen2.engine.operators import observed, support
from xsen2.methods.bicubic import upsample
from xsen2.methods.common import UNIT, Sharpening, cells, of_grid
from xsen2.methods.protocol import Array, Mask

__all__ = ["GLP", "make"]

Floats = npt.NDArray[np.float64]

_FLAT = 1e-12  # variance of the reflectance that is no more than rounding
_SMALLEST = np.float32(1)  # DN, of what is divided by
_MOST = 10  # times its low-pass that the pan may be
_EDGE = 1.5  # times the mean of the band: where the Laplacian is above it is an outlier
_LAPLACIAN = np.array([[1, 4, 1], [4, -20, 4], [1, 4, 1]], np.float32) / 6


def make(bands: tuple[str, ...], operator: str) -> list[GLP]:
    """One object per native grid."""
    return [GLP(group, operator) for group in of_grid(bands)]


@dataclass(frozen=True)
class GLP(Sharpening):
    """Generalised Laplacian pyramid with high-pass modulation and post-processing, for the bands of one native grid.

    Degraded to the band's grid, the pan ``P`` is to have the band's mean and standard deviation: it is scaled so.
    ``P_L`` is ``P`` degraded and interpolated again. The fusion is ``F = MS clip(P / P_L, 0, 10)`` with the
    interpolated band ``MS``, shifted to the mean of ``MS``. Post-processing: where the Laplacian of ``F`` is above 1.5
    times the mean of the band, ``F`` becomes ``P - median(P - F)`` over 3 x 3 pixels.

    The ratio is bridged in one stage; the authors bridge 4 in two. Their low-pass is matched to the sensor's MTF; here
    it is that by which the bands came about.

    Parameters
    ----------
    bands : tuple of str
        Bands of one native grid.
    operator : str
        How pans are degraded, see `xsen2.engine.operators.taps`: as the bands themselves came about.
    equal : numpy.ndarray, optional
        ``(bands, 3)``: what `learn` found first: gain and offset (DN) of the pan, mean of the band (DN).
    shift : numpy.ndarray, optional
        ``(bands,)``: what `learn` found last: from the mean of ``F`` to that of ``MS``, in DN.

    References
    ----------
    Lee, Lee (2010). Fast and efficient panchromatic sharpening. IEEE Trans. GRS 48(1); formulas as in Vivone et al.
    (2015), IEEE Trans. GRS 53(5).

    Examples
    --------
    >>> import xsen2
    >>> sr = xsen2.sample().dsen2.superresolve(["B05"], method=make(("B05",), "mtf")[0])
    """

    bands: tuple[str, ...]
    operator: str = "mtf"
    equal: Floats | None = None
    shift: Floats | None = None
    name: str = "glp_hpm"
    rounds: int = 2

    @property
    def halo(self) -> dict[int, int]:
        # The median reaches one pixel, the pan's low-pass two coarse ones and the degradation's support.
        return {10: 1 + 2 * self._ratio + max(support(band, self._ratio, self.operator) for band in self.bands)}

    @property
    def gather_halo(self) -> dict[int, int]:
        return self.halo

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> Floats:
        """Moments of bands and degraded pans; then the sums of what is to have one mean."""
        ratio = self._ratio
        sums = []
        for k, (band, y) in enumerate(zip(self.bands, b if ratio == 2 else c, strict=True)):
            if self.equal is None:
                low = observed(self._pan(a, band), band, ratio, self.operator)
                constant, kept = np.full_like(y, 1 / UNIT), cells(own, ratio)
                columns = np.stack([constant, y, low])
            else:
                ms = upsample(y, ratio)
                constant, kept = np.full_like(ms, 1 / UNIT), own
                columns = np.stack([constant, ms, self._fused(a, ms, k)[0]])
            pixels = columns[:, kept].astype(np.float64) * UNIT
            sums.append((pixels @ pixels.T).ravel())
        return np.concatenate(sums)

    def learn(self, sums: Floats) -> GLP:
        products = sums.reshape(len(self.bands), 3, 3)
        moments = products / np.maximum(products[:, :1, :1], 1.0)
        mean, other = moments[:, 0, 1], moments[:, 0, 2]
        if self.equal is not None:
            return replace(self, shift=(mean - other) / UNIT)
        variance = np.maximum(moments[:, 1, 1] - mean**2, 0)
        known = moments[:, 2, 2] - other**2
        gain = np.sqrt(variance / np.where(known > _FLAT, known, np.inf))
        return replace(self, equal=np.stack([gain, (mean - gain * other) / UNIT, mean / UNIT], axis=1))

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        assert self.equal is not None
        assert self.shift is not None
        out = upsample(b if self._ratio == 2 else c, self._ratio)
        for k in range(len(self.bands)):
            fused, p = self._fused(a, out[k], k)
            out[k] = _mended(fused + np.float32(self.shift[k]), p, _EDGE * self.equal[k, 2])
        return out

    def _fused(self, a: Array, ms: Array, k: int) -> tuple[Array, Array]:
        """The fusion of band `k` before its mean is mended, and its scaled pan."""
        assert self.equal is not None
        gain, offset, _ = self.equal[k].astype(np.float32)
        p = gain * self._pan(a, self.bands[k]) + offset
        low = upsample(observed(p, self.bands[k], self._ratio, self.operator), self._ratio)
        # P / P_L, and no detail where both are nothing
        detail = (p - low) / np.where(np.abs(low) < _SMALLEST, np.copysign(_SMALLEST, low), low)
        return ms * np.clip(1 + detail, 0, _MOST), p


def _mended(fused: Array, p: Array, most: float) -> Array:
    """`fused` with the median rule where its Laplacian is above `most`, which has no meaning below 0."""
    if most <= 0:
        return fused
    near = np.lib.stride_tricks.sliding_window_view(np.pad(fused, 1, mode="symmetric"), (3, 3))
    laplacian = sum(_LAPLACIAN[i, j] * near[..., i, j] for i in range(3) for j in range(3))
    rows, columns = np.nonzero(laplacian > most)
    if not len(rows):
        return fused
    gap = np.lib.stride_tricks.sliding_window_view(np.pad(p - fused, 1, mode="symmetric"), (3, 3))
    out = fused.copy()
    out[rows, columns] = p[rows, columns] - np.median(gap[rows, columns], axis=(-2, -1))
    return out
