"""Bicubic interpolation: the baseline of every table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xsen2.bands import grid_of
from xsen2.methods.protocol import Array, Method

__all__ = ["Bicubic", "keys", "upsample"]


def keys(distance: float, a: float = -0.5) -> float:
    """Keys' cubic convolution kernel; ``a = -0.5`` makes it exact for quadratics.

    References
    ----------
    Keys (1981). Cubic convolution interpolation for digital image processing. IEEE Trans. ASSP 29.
    """
    d = abs(distance)
    if d < 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def upsample(x: Array, ratio: int) -> Array:
    """Keys bicubic along the last two axes, half-pixel centres, symmetric edges.

    Fine pixel ``i`` lies at coarse coordinate ``(i + 0.5) / ratio - 0.5``. There are only `ratio`
    different sets of weights, so the result does not depend on where an image is cut.

    Parameters
    ----------
    x : numpy.ndarray
        ``(..., H, W)``.

    Returns
    -------
    numpy.ndarray
        float32 ``(..., ratio * H, ratio * W)``.
    """
    for axis in (x.ndim - 2, x.ndim - 1):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (2, 2)
        padded = np.moveaxis(np.pad(x, pad, mode="symmetric"), axis, 0)
        n = x.shape[axis]
        out = np.empty((n, ratio, *padded.shape[1:]), np.float32)
        for phase in range(ratio):
            position = (phase + 0.5) / ratio - 0.5
            base = int(np.floor(position))
            taps = [
                padded[2 + base + k : 2 + base + k + n] * np.float32(keys(position - base - k)) for k in (-1, 0, 1, 2)
            ]
            out[:, phase] = taps[0] + taps[1] + taps[2] + taps[3]
        x = np.moveaxis(out.reshape(n * ratio, *padded.shape[1:]), 0, axis)
    return np.ascontiguousarray(x, np.float32)


@dataclass(frozen=True)
class Bicubic(Method):
    """Bicubic interpolation of one band; it reads nothing else, so nothing else can blank it."""

    band: str
    name: str = "bicubic"

    @property
    def produces(self) -> tuple[str, ...]:
        return (self.band,)

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.band,)

    @property
    def halo(self) -> Mapping[int, int]:
        return {grid_of(self.band): 2}

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        x, ratio = (b, 2) if grid_of(self.band) == 20 else (c, 6)
        return upsample(x, ratio)
