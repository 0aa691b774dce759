"""What drivers give networks that want all bands on one grid; NumPy alone, as each has an environment of its own."""

from __future__ import annotations

import numpy as np


def doubled(x: np.ndarray) -> np.ndarray:
    """Bilinear interpolation to twice the size, half-pixel centres, along the axes 1 and 2."""
    for axis in (1, 2):
        n = x.shape[axis]
        before = x.take([0, *range(n - 1)], axis)
        after = x.take([*range(1, n), n - 1], axis)
        pair = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
    return x.astype(np.float32)
