"""Which dates one date is made of, and how they come into a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt

from xsen2.bands import factor_of
from xsen2.engine.halo import Layer
from xsen2.methods.protocol import Array, Mask
from xsen2.radiometry import Scale, to_dn

__all__ = ["frames_of", "layers_of", "neighbours"]


def neighbours(
    times: npt.NDArray[np.datetime64] | None, frames: int | None, targets: Sequence[int] | None = None
) -> list[list[int]]:
    """The dates that each date is made of: itself, then the others by how near in time they are, the earlier first.

    Parameters
    ----------
    times : numpy.ndarray or None
        Of the series, in any order; None for a cube without dates.
    frames : int or None
        How many at most; None for all. 1 gives nothing: every date is by itself.
    targets : sequence of int, optional
        The dates to be made; by default all of them.

    Examples
    --------
    >>> days = np.array(["2024-06-01", "2024-06-06", "2024-06-16"], "datetime64[D]")
    >>> neighbours(days, 2), neighbours(days, None, [0])
    ([[0, 1], [1, 0], [2, 1]], [[0, 1, 2]])
    """
    if times is None or (frames == 1 and targets is None):
        return []
    most = len(times) if frames is None else min(frames, len(times))
    out = []
    for number in range(len(times)) if targets is None else targets:
        apart = np.abs((times - times[number]) / np.timedelta64(1, "s"))
        order = sorted(range(len(times)), key=lambda i: (i != number, apart[i], times[i], i))
        out.append(order[:most])
    return out


def layers_of(
    windows: Sequence[tuple[str, ...]], arrays: Mapping[str, da.Array], near: Sequence[Sequence[int]]
) -> list[Layer]:
    """What windows are cut from: the bands of each grid, of every frame, those of the first band first.

    Parameters
    ----------
    windows : sequence of tuple
        Names of bands, of one grid each.
    arrays : mapping
        Band → ``([time,] y, x)``.
    near : sequence
        What `neighbours` gives; nothing if every date is by itself.
    """
    if not near or arrays[windows[0][0]].ndim == 2:
        return [Layer([arrays[b] for b in names], factor_of(names[0])) for names in windows]
    orders = [np.array(dates) for dates in zip(*near, strict=True)]
    # Each date of the result reads several, so that blocks are of one date.
    return [
        Layer([arrays[b][order].rechunk({0: 1}) for b in names for order in orders], factor_of(names[0]))
        for names in windows
    ]


def frames_of(window: npt.NDArray[Any], scales: tuple[Scale, ...], frames: int) -> tuple[Array, Mask]:
    """DN of a window of `layers_of`, and which are valid, ``(frame, band, h, w)``."""
    if frames == 1:
        dn, valid = to_dn(window, scales)
        return dn[None], valid[None]
    pairs = [to_dn(window[frame::frames], scales) for frame in range(frames)]
    return np.stack([dn for dn, _ in pairs]), np.stack([valid for _, valid in pairs])
