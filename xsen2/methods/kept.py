"""What classical methods make, kept within what was measured around."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xsen2.bands import C, grid_of
from xsen2.methods.common import smooth
from xsen2.methods.protocol import Array, Mask, Method

__all__ = ["Kept", "bounded", "kept"]

_ZERO = np.float32(100)  # DN added before anything is so many times as bright: reflectances come near 0, or below
_WIDER = np.float32(1.1)  # less costs accuracy on scenes as they are
_BRIGHTER = np.float32(1.5)  # than anything that any band shows there


def kept(methods: Iterable[Method]) -> list[Method]:
    """The methods, with results that are `bounded`."""
    return [Kept(one) for one in methods]


@dataclass(frozen=True)
class Kept(Method):
    """A method that makes bands of one native grid, and whose results are `bounded`.

    What a method is in its own file is what its paper says, exact where its model holds. This is what its name stands
    for in ``method=``.

    Attributes
    ----------
    method : Method
        It reads 10 m bands, and all bands that it makes; its halo is two coarse pixels or more.
    """

    method: Method

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def produces(self) -> tuple[str, ...]:
        return self.method.produces

    @property
    def needs(self) -> tuple[str, ...]:
        return self.method.needs

    @property
    def halo(self) -> int | Mapping[int, int]:
        return self.method.halo

    @property
    def lattice(self) -> int:
        return self.method.lattice

    @property
    def rounds(self) -> int:
        return self.method.rounds

    @property
    def gather_halo(self) -> int | Mapping[int, int]:
        return self.method.gather_halo

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> npt.NDArray[np.float64]:
        return self.method.gather(a, b, c, valid, own)

    def learn(self, sums: npt.NDArray[np.float64]) -> Kept:
        return Kept(self.method.learn(sums))

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        made = self.method(a, b, c)
        grid = grid_of(self.produces[0])
        own = [band for band in self.needs if grid_of(band) == grid]
        y = (c if self.produces[0] in C else b)[[own.index(band) for band in self.produces]]
        return bounded(made, y, a)


def bounded(out: Array, y: Array, a: Array) -> Array:
    """Keep bands within what was measured around, widened as far as 10 m pixels differ from coarse ones there.

    Models are fitted to a whole image. Where it does not hold, as at clouds, which every band sees elsewhere, what they
    add to a band has no bounds. Of the 3 x 3 coarse pixels around, the brightest 10 m pixel is so many times as bright
    as the brightest coarse mean, the darkest so much darker than the darkest; what counts is the 10 m band that differs
    most, and what is dark in it may be bright in others. Nothing may be more times as bright as the brightest coarse
    pixel around, or as many times darker than the darkest, and a tenth of that; nor half as bright again as anything
    that any band shows there. Brightness counts from -100 DN, for there are pixels near 0.

    On validation scenes the RMSE of no method grows by more than 0.12 %, at 20 m or 60 m, and of most it shrinks.

    Parameters
    ----------
    out : numpy.ndarray
        Bands ``(k, H, W)``, DN; changed in place.
    y : numpy.ndarray
        The same as measured, ``(k, H / ratio, W / ratio)``.
    a : numpy.ndarray
        10 m bands, ``(band, H, W)``.

    Examples
    --------
    >>> import numpy as np
    >>> wild = np.array([[[-900, 900], [5000, 1000]]], np.float32)
    >>> bounded(wild, np.full((1, 1, 1), 900, np.float32), np.full((4, 2, 2), 500, np.float32)).round()
    array([[[ 809.,  900.],
            [1000., 1000.]]], dtype=float32)
    """
    ratio = out.shape[-1] // y.shape[-1]
    bands, height, width = a.shape
    pixels = a.reshape(bands, height // ratio, ratio, width // ratio, ratio)
    # As a sensor's blur leaves them: coarse pixels see some of their neighbours.
    middle = smooth(pixels.mean(axis=(2, 4), dtype=np.float32), np.array([0.25, 0.5, 0.25]))
    one = np.float32(1)
    brightest = _around(pixels.max(axis=(2, 4)), np.maximum) + _ZERO
    darkest = _around(pixels.min(axis=(2, 4)), np.minimum) + _ZERO
    bright = np.maximum(_around(middle, np.maximum) + _ZERO, one)
    dark = np.maximum(_around(middle, np.minimum) + _ZERO, one)
    up = _WIDER * np.maximum(brightest / bright, 2 - darkest / dark).max(axis=0)
    down = _WIDER * np.maximum(brightest / bright, dark / np.maximum(darkest, one)).max(axis=0)
    most, least = _around(y, np.maximum) + _ZERO, _around(y, np.minimum) + _ZERO
    seen = np.maximum(most, brightest.max(axis=0))
    most = np.minimum(np.where(most > 0, most * up, most / up), np.maximum(most, _BRIGHTER * seen)) - _ZERO
    least = np.where(least > 0, least / down, least * down) - _ZERO
    cut = out.reshape(len(out), height // ratio, ratio, width // ratio, ratio)
    np.clip(cut, least[:, :, None, :, None], most[:, :, None, :, None], out=cut)
    return out


def _around(x: Array, of: np.ufunc) -> Array:
    """The largest, or the least, of the 3 x 3 pixels around each."""
    x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    x = of(of(x[..., :-2, :], x[..., 1:-1, :]), x[..., 2:, :])
    return np.asarray(of(of(x[..., :-2], x[..., 1:-1]), x[..., 2:]))
