"""Fill nodata from its surroundings, so that a method never sees it and its result depends on nothing far off."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["fill"]

_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def fill(x: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.float32]:
    """Grow valid pixels into nodata: each step gives its rim the mean of the valid neighbours.

    A pixel at Chebyshev distance ``d <= steps`` from the nearest valid one is filled from pixels at
    most ``d`` away, whatever lies further off: the same pixels come out however an image is cut into
    blocks. Pixels beyond `steps` become 0.

    Parameters
    ----------
    x : numpy.ndarray
        ``(band, H, W)``.
    valid : numpy.ndarray
        ``(band, H, W)``, False where `x` is nodata.
    steps : int
        Receptive field, in pixels, of what reads the result: nothing beyond it is ever seen from a
        valid pixel.
    """
    out = np.where(valid, x, np.float32(0))
    width = x.shape[2] + 2
    around = np.array([dy * width + dx for dy, dx in _NEIGHBOURS])
    for band, seen in zip(out, valid, strict=True):
        if seen.all() or not seen.any():
            continue
        values = np.pad(band, 1).ravel()
        known = np.pad(seen, 1).ravel()
        inside = np.pad(np.ones_like(seen), 1).ravel()
        near = np.pad(seen, 1)
        near = near[:-2] | near[1:-1] | near[2:]
        rim = np.flatnonzero(np.pad((near[:, :-2] | near[:, 1:-1] | near[:, 2:]) & ~seen, 1))
        for _ in range(steps):
            if not len(rim):
                break
            total = np.zeros(len(rim), np.float32)
            count = np.zeros(len(rim), np.float32)
            for step in around:
                there = known[rim + step]
                total += np.where(there, values[rim + step], np.float32(0))
                count += there
            values[rim] = total / count
            known[rim] = True
            # Only beside what was filled last can there be more to fill.
            beside = np.concatenate([rim + step for step in around])
            rim = np.unique(beside[inside[beside] & ~known[beside]])
        band[:] = values.reshape(x.shape[1] + 2, width)[1:-1, 1:-1]
    return out
