"""Sharing of values between neighbouring pixels, after Brodu (2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xsen2.bands import A
from xsen2.classical._common import OneGrid, of_grid
from xsen2.classical._sen2res_mixture import ROUNDS, at_nodes, guess, mix, pixels_of, shared
from xsen2.classical.bicubic import upsample
from xsen2.kernels import correlate, support, taps
from xsen2.protocol import Array

__all__ = ["Sen2Res", "make"]

_SOLVES = 3  # steps towards shared values that give what was measured; each looks further


def make(bands: tuple[str, ...], operator: str) -> list[Sen2Res]:
    """One object per native grid."""
    return [Sen2Res(some, operator) for some in of_grid(bands)]


@dataclass(frozen=True)
class Sen2Res(OneGrid):
    """Geometry that all bands have in common, taken from the 10 m bands: after Brodu (2017).

    Every 10 m pixel is a mixture of values that it shares with its neighbours, ``x = sum_j w_j s_j`` with ``w_j >= 0``
    and ``sum_j w_j = 1``. The weights are the geometry, the same for every band; the shared values are a band's own.

    1. From the four 10 m bands, weights and shared values are estimated in turn, a fixed number of times.
    2. For a coarse band the weights are kept, and shared values are found that give the measured coarse pixels.
    3. Its pixels are mixed from them, and what is still missing of each coarse pixel is spread over it.

    Bands of 60 m are made from the 10 m bands at once, not by way of 20 m.

    Parameters
    ----------
    bands : tuple of str
        Bands of one native grid.
    operator : str
        How they came about, see `xsen2.kernels.taps`. In the paper a coarse pixel is the mean of the fine ones under
        it: that is ``"box"``, and only with it the result reproduces what was measured exactly.

    Notes
    -----
    Written from a summary of the paper, without its full text or its code at hand. The model, its constraints, the
    order of the steps and the mean over coarse pixels are those of the summary; these details had to be chosen:

    - Shared values live where four coarse pixels meet, and a pixel mixes those at the four corners of its coarse
      pixel. There are then about as many unknowns as coarse pixels.
    - Weights start from those of bilinear interpolation, shared values from the mean of the four pixels around, and
      both are drawn towards these where the bands have little detail.
    - The equations of step 2 are badly conditioned. Their solution is sought, in a few steps, from a first guess: the
      combination of the four coarse pixels around that, in the 10 m bands, comes nearest to the shared values
      known there (`xsen2.classical._sen2res_mixture.guess`).
    - Shared values are bounded below by 0, or by the least pixel around where that is negative.
    - What is missing in the end is added by bicubic interpolation first, then as a constant per coarse pixel.

    The constants were set on scenes that are not among those for validation. All steps are local, and their number is
    fixed: a result does not depend on where an image is cut. The borders of 60 m pixels can show faintly.

    References
    ----------
    Brodu (2017). Super-resolving multiresolution images with band-independent geometry of multispectral pixels. IEEE
    Trans. Geosci. Remote Sens. 55(8). https://arxiv.org/abs/1609.07986

    Examples
    --------
    >>> import xsen2
    >>> from xsen2.classical.sen2res import Sen2Res
    >>> sr = xsen2.sample().dsen2.superresolve(["B05"], method=Sen2Res(("B05",), "box"))
    """

    bands: tuple[str, ...]
    operator: str = "mtf"
    name: str = "sen2res"

    @property
    def needs(self) -> tuple[str, ...]:
        return (*A, *self.bands)

    @property
    def halo(self) -> dict[int, int]:
        # In coarse pixels: what the weights and shared values see, then each step towards what was measured, then the
        # two additions at the end, of which bicubic interpolation sees two.
        ratio = self._ratio
        beyond = max(-(-support(band, ratio, self.operator) // ratio) for band in self.bands)
        return {10: ratio * (ROUNDS + 1 + _SOLVES * (1 + beyond) + 2 + 2 * beyond)}

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        ratio = self._ratio
        weights, values = shared(a, ratio)
        parts = weights.mean(axis=1)
        share = np.maximum(at_nodes(parts), np.float32(1e-6))
        out = np.empty((len(self.bands), *a.shape[1:]), np.float32)
        for i, (band, y) in enumerate(zip(self.bands, b if ratio == 2 else c, strict=True)):
            kernel = taps(band, ratio, self.operator)
            s, lowest = guess(values, correlate(a, *kernel, ratio), y)
            x = pixels_of(mix(weights, s), ratio)
            for _ in range(_SOLVES):
                missing = y - correlate(x, *kernel, ratio)
                s = np.maximum(s + at_nodes(parts * missing) / share, lowest)
                x = pixels_of(mix(weights, s), ratio)
            x += upsample(y - correlate(x, *kernel, ratio), ratio)
            missing = y - correlate(x, *kernel, ratio)
            out[i] = x + missing.repeat(ratio, axis=0).repeat(ratio, axis=1)
        return out
