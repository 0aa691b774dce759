"""What needs no model: the target date interpolated, and the median of all frames interpolated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import Array
from xsen2.multitemporal.fusion import Fit, Fusion
from xsen2.multitemporal.resample import resampled

__all__ = ["Interpolated", "Median", "middle"]


@dataclass(frozen=True)
class Interpolated(Fusion):
    """Bicubic interpolation of the target date: what every fusion is held against."""

    frames: int | None = 1
    name: str = "bicubic"

    @property
    def halo(self) -> Mapping[int, int]:
        return {10: 2}

    @property
    def rounds(self) -> int:
        return 0

    @property
    def lattice(self) -> int:
        return 1

    def fuse(self, frames: Array, fit: Fit) -> Array:
        return upsample(frames[0], self.zoom)


@dataclass(frozen=True)
class Median(Fusion):
    """The median of all frames, each interpolated where the target's pixels are.

    It leaves out what is seen on few dates only, clouds that no mask shows included, and what has changed since.
    """

    name: str = "median"

    @property
    def halo(self) -> Mapping[int, int]:
        return {10: 5}

    def fuse(self, frames: Array, fit: Fit) -> Array:
        return np.stack([self._band(frames[:, i], fit) for i in range(len(self.bands))])

    def _band(self, frames: Array, fit: Fit) -> Array:
        """One after the other: so many fine frames take memory."""
        return middle(np.stack([resampled(x, shift, self.zoom) for x, shift in zip(frames, fit.shifts, strict=True)]))


def middle(x: Array) -> Array:
    """The median along the first axis, without NaN; `x` is used up.

    Examples
    --------
    >>> middle(np.array([[1, 5], [3, np.nan], [7, 6]], np.float32))
    array([3. , 5.5], dtype=float32)
    """
    missing = np.isnan(x)
    x[missing] = np.inf
    if len(x) > _FEW:
        x.sort(axis=0)
    else:  # plane by plane, which is much faster for few
        for step in range(len(x)):
            for i in range(step % 2, len(x) - 1, 2):
                larger = np.maximum(x[i], x[i + 1])
                np.minimum(x[i], x[i + 1], out=x[i])
                x[i + 1] = larger
    if missing.any():
        there = len(x) - missing.sum(axis=0)[None]
        places = np.maximum(there - 1, 0) // 2, np.minimum(there // 2, len(x) - 1)
        low, high = (np.take_along_axis(x, place, 0)[0] for place in places)
    else:
        low, high = x[(len(x) - 1) // 2], x[len(x) // 2]
    half = low / np.float32(2) + high / np.float32(2)
    return np.where(np.isfinite(half), half, np.float32(np.nan))


_FEW = 16
