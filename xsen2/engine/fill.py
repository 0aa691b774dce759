"""Fill nodata from its surroundings, so that a method never sees it and its result depends on nothing far off."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["fill", "fill_together"]

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
        rim = np.flatnonzero(np.pad(_widened(seen) & ~seen, 1))
        for _ in range(steps):
            if not len(rim):
                break
            total = np.zeros(len(rim), np.float32)
            count = np.zeros(len(rim), np.float32)
            for step in around:
                present = known[rim + step]
                total += np.where(present, values[rim + step], np.float32(0))
                count += present
            values[rim] = total / count
            known[rim] = True
            # Only beside what was filled last can there be more to fill.
            beside = np.concatenate([rim + step for step in around])
            rim = np.unique(beside[inside[beside] & ~known[beside]])
        band[:] = values.reshape(x.shape[1] + 2, width)[1:-1, 1:-1]
    return out


def fill_together(
    layers: Mapping[int, npt.NDArray[np.float32]], valid: Mapping[int, npt.NDArray[np.bool_]], steps: int
) -> dict[int, npt.NDArray[np.float32]]:
    """Fill nodata of several nested grids so that bands are related there as they are beside it.

    Relations between bands that a method fits, such as a regression, then also hold beyond the edge of the data: what
    is linear in pixels holds for means of them. Grown band by band and grid by grid, as `fill` does, what lies there
    follows no relation. Cells are the pixels of the coarsest grid. Where no pixel of a cell has all bands, the cell is
    the mean of its neighbours, mirrored at their common edge, one step at a time; in all others what is missing grows
    from the pixels of the same cell and band.

    Parameters
    ----------
    layers : mapping
        Factor → ``(band, h, w)``, whole cells, nested, with the same outer edges.
    valid : mapping
        Factor → ``(band, h, w)``, False where a layer is nodata.
    steps : int
        Reach in cells: those farther from the nearest with a pixel of all bands become 0, and nothing comes from
        farther than that.

    Examples
    --------
    >>> fine, coarse = np.float32([[[1, 2, 0, 0]] * 2]), np.float32([[[10, 0]]])
    >>> fill_together({1: fine, 2: coarse}, {1: fine > 0, 2: coarse > 0}, 1)[1]
    array([[[1., 2., 2., 1.],
            [1., 2., 2., 1.]]], dtype=float32)
    """
    finest, cell = min(layers), max(layers)
    ratio = cell // finest
    height, width = layers[cell].shape[1:]
    complete = np.ones((height * ratio, width * ratio), bool)
    for factor, mask in valid.items():
        times = factor // finest
        complete &= mask.all(axis=0).repeat(times, axis=0).repeat(times, axis=1)
    known = np.pad(complete.reshape(height, ratio, width, ratio).any(axis=(1, 3)), 1)
    # (band, h, side, w, side), with a border of cells that are not known.
    cells = {}
    for factor, x in layers.items():
        side = cell // factor
        y = np.where(valid[factor], x, np.float32(0)).reshape(len(x), height, side, width, side)
        ok = valid[factor].reshape(y.shape)
        rows, columns = np.nonzero(known[1:-1, 1:-1] & ~ok.all(axis=(0, 2, 4)))
        if len(rows):
            y[:, rows, :, columns] = _grown_within(y[:, rows, :, columns], ok[:, rows, :, columns])
        cells[factor] = np.pad(y, [(0, 0), (1, 1), (0, 0), (1, 1), (0, 0)])
    for y in cells.values():
        y.swapaxes(2, 3)[:, ~known] = 0
    inside = np.pad(np.ones((height, width), bool), 1)
    for _ in range(steps):
        rim = _widened(known) & inside & ~known
        rows, columns = np.nonzero(rim)
        if not len(rows):
            break
        beside = [known[rows + dy, columns + dx] for dy, dx in _NEIGHBOURS]
        count = np.stack(beside).sum(axis=0, dtype=np.float32).reshape(-1, 1, 1, 1)
        for y in cells.values():
            total = np.zeros_like(y[:, rows, :, columns])  # (cell, band, side, side)
            for (dy, dx), present in zip(_NEIGHBOURS, beside, strict=True):
                at = np.flatnonzero(present)
                part = y[:, rows[at] + dy, :, columns[at] + dx]
                total[at] += part[..., :: -1 if dy else 1, :: -1 if dx else 1]
            y[:, rows, :, columns] = total / count
        known = known | rim
    return {factor: y[:, 1:-1, :, 1:-1].reshape(layers[factor].shape) for factor, y in cells.items()}


def _widened(x: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask, grown by one pixel on every side."""
    wide = np.pad(x, 1)
    rows = wide[:-2] | wide[1:-1] | wide[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])


def _grown_within(x: npt.NDArray[np.float32], ok: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """As `fill`, many small images ``(…, side, side)`` at a time, each of which has a valid pixel at least."""
    side = x.shape[-1]
    edge = [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)]
    while not ok.all():
        values, present = np.pad(np.where(ok, x, np.float32(0)), edge), np.pad(ok, edge)
        total, count = np.zeros_like(x), np.zeros_like(x)
        for dy, dx in _NEIGHBOURS:
            part = (..., slice(1 + dy, 1 + dy + side), slice(1 + dx, 1 + dx + side))
            total += values[part]
            count += present[part]
        new = ~ok & (count > 0)
        x = np.where(new, total / np.maximum(count, 1), x)
        ok = ok | new
    return x
