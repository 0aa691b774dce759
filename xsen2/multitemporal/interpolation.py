"""Images between their pixels, with short kernels, and what needs no model: a date interpolated, the median of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xsen2.methods.bicubic import keys, upsample
from xsen2.methods.protocol import Array
from xsen2.multitemporal.fusion import Fit, Fusion

__all__ = ["LANCZOS", "Interpolated", "Median", "lanczos", "middle", "resampled"]


@dataclass(frozen=True)
class Interpolated(Fusion):
    """Bicubic interpolation of the target date: the reference for every fusion."""

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
        count = len(x) - missing.sum(axis=0)[None]
        places = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(x) - 1)
        low, high = (np.take_along_axis(x, place, 0)[0] for place in places)
    else:
        low, high = x[(len(x) - 1) // 2], x[len(x) // 2]
    half = low / np.float32(2) + high / np.float32(2)
    return np.where(np.isfinite(half), half, np.float32(np.nan))


_FEW = 16


Floats = npt.NDArray[np.float64]

LANCZOS = 3
"""Half the width of `lanczos`, in pixels; that of Keys' kernel is 2."""

_LEAST = 0.5  # share of a kernel's weight that valid pixels must carry


def lanczos(distance: float) -> float:
    """A sinc within the main lobe of one that is three times as wide, 0 outside.

    Examples
    --------
    >>> lanczos(0), round(lanczos(1), 9), lanczos(3.2)
    (1.0, 0.0, 0.0)
    """
    return float(np.sinc(distance) * np.sinc(distance / LANCZOS)) if abs(distance) < LANCZOS else 0.0


def resampled(
    x: Array,
    shift: npt.ArrayLike = (0, 0),
    zoom: int = 1,
    kernel: Callable[[float], float] = keys,
    reach: int = 2,
) -> Array:
    """The values of ``(…, H, W)`` at ``p + shift``, for every pixel `p` of a grid that is `zoom` times finer.

    Parameters
    ----------
    x : numpy.ndarray
        NaN for nodata.
    shift : array_like
        Rows down and columns to the right, in pixels of `x`. So a frame that is off by `shift` is brought back.
    zoom : int
    kernel : callable
        Weight by distance in pixels. For each place they are made to add up to 1, and a plane to be a plane.
    reach : int
        Half of the kernel's width.

    Returns
    -------
    numpy.ndarray
        float32 ``(…, zoom * H, zoom * W)``; beyond the edges `x` is mirrored. Where pixels are nodata, the weights of
        the others are divided by their sum; NaN where that is less than half of all.

    Examples
    --------
    >>> row = np.arange(8, dtype=np.float32)[None].repeat(4, axis=0)
    >>> resampled(row, (0, 0.25))[0, 3]
    np.float32(3.25)
    """
    down, right = np.asarray(shift, np.float64)
    seen = np.isfinite(x)
    if seen.all():
        return _along(_along(x, -2, down, zoom, kernel, reach), -1, right, zoom, kernel, reach)
    both = np.stack([np.where(seen, x, np.float32(0)), seen.astype(np.float32)])
    total, share = _along(_along(both, -2, down, zoom, kernel, reach), -1, right, zoom, kernel, reach)
    enough = share >= _LEAST
    return np.where(enough, total / np.where(enough, share, np.float32(1)), np.float32(np.nan))


def _exact(weights: Floats, distances: Floats, reach: int) -> Floats:
    """Weights that a plane comes out of as it is. Those of Keys' are; Lanczos' lose an eighth of a small shift."""
    window = np.cos(np.pi * distances / (2 * reach)) ** 2
    tilt = window * (distances - (window @ distances) / window.sum())
    return np.asarray(weights - tilt * (weights @ distances) / (tilt @ distances))


def _along(x: Array, axis: int, shift: float, zoom: int, kernel: Callable[[float], float], reach: int) -> Array:
    n = x.shape[axis]
    edge = reach + int(np.ceil(abs(shift))) + 1
    pad = [(0, 0)] * x.ndim
    pad[axis] = (edge, edge)
    padded = np.moveaxis(np.pad(x, pad, mode="symmetric"), axis, 0)
    out = np.zeros((n, zoom, *padded.shape[1:]), np.float32)
    for phase in range(zoom):
        position = (phase + 0.5) / zoom - 0.5 + shift
        base = int(np.floor(position))
        places = range(base - reach + 1, base + reach + 1)
        weights = np.array([kernel(position - place) for place in places])
        weights = _exact(weights / weights.sum(), position - np.array(places), reach)
        for place, weight in zip(places, weights, strict=True):
            if weight:
                out[:, phase] += padded[edge + place : edge + place + n] * np.float32(weight)
    return np.ascontiguousarray(np.moveaxis(out.reshape(n * zoom, *padded.shape[1:]), 0, axis))
