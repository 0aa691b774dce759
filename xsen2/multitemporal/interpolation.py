"""What needs no model: the target date interpolated, and the median of all frames interpolated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from warnings import catch_warnings, simplefilter

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
        stack = np.stack([resampled(x, shift, self.zoom) for x, shift in zip(frames, fit.shifts, strict=True)])
        with catch_warnings():
            simplefilter("ignore", RuntimeWarning)  # nothing there: see `Fusion`
            return np.asarray(np.nanmedian(stack, axis=0), np.float32)
