"""What needs no model: the target date interpolated, and the median of all frames interpolated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import Array
from xsen2.multitemporal.fusion import Fit, Fusion
from xsen2.multitemporal.resample import resampled

__all__ = ["Interpolated", "Median"]


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
        fine = np.stack([resampled(x, shift, self.zoom) for x, shift in zip(frames, fit.shifts, strict=True)])
        missing = np.isnan(fine)
        fine[missing] = np.inf
        _sort(fine)
        if not missing.any():
            low, high = fine[(len(fine) - 1) // 2], fine[len(fine) // 2]
        else:
            there = len(fine) - missing.sum(axis=0)[None]
            low, high = (
                np.take_along_axis(fine, n, 0)[0] for n in (np.maximum(there - 1, 0) // 2, there // 2 % len(fine))
            )
        with np.errstate(invalid="ignore"):
            middle = (low + high) / np.float32(2)
        return np.where(np.isfinite(middle), middle, np.float32(np.nan))


def _sort(x: Array) -> None:
    """Along the first axis, in place: for few planes much faster than pixel by pixel."""
    for step in range(len(x)):
        for i in range(step % 2, len(x) - 1, 2):
            larger = np.maximum(x[i], x[i + 1])
            np.minimum(x[i], x[i + 1], out=x[i])
            x[i + 1] = larger
