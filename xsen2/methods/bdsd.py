"""BDSD: every band's own gains in its neighbours and the pan, by least squares one scale down."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xsen2.bands import BANDS, factor_of
from xsen2.engine.operators import observed, support
from xsen2.methods.bicubic import upsample
from xsen2.methods.common import PAN, UNIT, Sharpening, cells, gaussian, of_grid, sharers, smooth, solve
from xsen2.methods.protocol import Array, Mask

__all__ = ["BDSD", "make"]

Floats = npt.NDArray[np.float64]


def make(bands: tuple[str, ...], operator: str) -> list[BDSD]:
    """One object per native grid."""
    return [BDSD(group, operator) for group in of_grid(bands)]


@dataclass(frozen=True)
class BDSD(Sharpening):
    """Band-dependent spatial detail, for the bands of one native grid; one set of gains for the whole image.

    Bands with the same pan ``P`` are one multispectral image ``MS``. The result is ``MS_k + [MS, P] g_k``, with
    ``MS`` interpolated. The gains are those that bring the measured bands ``y`` back after they have been blurred
    once more: ``g_k`` minimises ``|y_k - G y_k - [G y, D P] g_k|²`` over the image. ``G`` is the Gaussian with a
    band's MTF at the Nyquist frequency of the next coarser grid, ``D`` degrades to the grid of ``y``.

    Parameters
    ----------
    bands : tuple of str
        Bands of one native grid. Bands with the same pans are needed too.
    operator : str
        How ``D`` degrades, see `xsen2.engine.operators.taps`: as the bands themselves came about.
    gains : numpy.ndarray, optional
        ``(bands, bands read + 1)``: what `learn` found, that of the pan last.

    References
    ----------
    Garzelli, Nencini, Capobianco (2008). Optimal MMSE pan sharpening of very high resolution multispectral images.
    IEEE Trans. GRS 46(1); formulas as in Vivone et al. (2015), IEEE Trans. GRS 53(5).

    Examples
    --------
    >>> import xsen2
    >>> sr = xsen2.sample().dsen2.superresolve(["B05"], method=make(("B05",), "mtf")[0])
    """

    bands: tuple[str, ...]
    operator: str = "mtf"
    gains: Floats | None = None
    name: str = "bdsd"
    rounds: int = 1

    @property
    def _read(self) -> tuple[str, ...]:
        return sharers(self.bands)

    @property
    def halo(self) -> dict[int, int]:
        return {10 * self._ratio: 2}

    @property
    def gather_halo(self) -> dict[int, int]:
        pans = [band for band in self.needs if band not in self._read]
        blur = max(len(_blur(band)) // 2 for band in self._read)
        return {10: max(support(band, self._ratio, self.operator) for band in pans), 10 * self._ratio: blur}

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> Floats:
        """Products of all columns: blurred bands, degraded pans, and what the blur took away."""
        ratio = self._ratio
        y = b if ratio == 2 else c
        blurred = np.stack([smooth(x, _blur(band)) for band, x in zip(self._read, y, strict=True)])
        low = [observed(x, band, ratio, self.operator) for band, x in zip(self.needs, a, strict=False)]
        pans = np.stack([self._pan(np.stack(low), band) for band in self.bands])
        lost = (y - blurred)[[self._read.index(band) for band in self.bands]]
        counted = cells(own, ratio)
        columns = np.concatenate([x[:, counted] for x in (blurred, pans, lost)]).astype(np.float64) * UNIT
        return np.asarray((columns @ columns.T).ravel())

    def learn(self, sums: Floats) -> BDSD:
        read, count = self._read, len(self.bands)
        products = sums.reshape(len(read) + 2 * count, -1)
        gains = np.zeros((count, len(read) + 1))
        for k, band in enumerate(self.bands):
            image = [i for i, other in enumerate(read) if PAN[other] == PAN[band]]
            columns = [*image, len(read) + k]
            right = products[columns, len(read) + count + k]
            gains[k, [*image, -1]] = solve(products[np.ix_(columns, columns)], right)
        return replace(self, gains=gains)

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        assert self.gains is not None
        gains = self.gains.astype(np.float32)
        ms = upsample(b if self._ratio == 2 else c, self._ratio)
        out = ms[[self._read.index(band) for band in self.bands]]
        for k, band in enumerate(self.bands):
            for gain, x in zip(gains[k], [*ms, self._pan(a, band)], strict=True):
                if gain:  # 0 for the bands of another image; a BLAS would round each shape in its own way
                    out[k] += gain * x
        return out


def _blur(band: str) -> Floats:
    """Gaussian, on the band's own grid, with its MTF at the Nyquist frequency of the next coarser one."""
    return gaussian(factor_of(band) * BANDS[band].psf_sigma)
