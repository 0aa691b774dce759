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
    for band, seen in zip(out, valid, strict=True):
        if seen.all() or not seen.any():
            continue
        values = np.pad(band, 1)
        known = np.pad(seen, 1)
        for _ in range(steps):
            near = known[:-2] | known[1:-1] | known[2:]
            rim = (near[:, :-2] | near[:, 1:-1] | near[:, 2:]) & ~known[1:-1, 1:-1]
            y, z = np.nonzero(rim)
            if not len(y):
                break
            total = np.zeros(len(y), np.float32)
            count = np.zeros(len(y), np.float32)
            for dy, dx in _NEIGHBOURS:
                there = known[y + 1 + dy, z + 1 + dx]
                total += np.where(there, values[y + 1 + dy, z + 1 + dx], np.float32(0))
                count += there
            values[y + 1, z + 1] = total / count
            known[y + 1, z + 1] = True
        band[:] = values[1:-1, 1:-1]
    return out
