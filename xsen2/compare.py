"""Metrics over datasets: one state per block, merged in a tree, finished once. Lazy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.errors import BandError, GridError
from xsen2.metrics import HALO, PER_BAND, ROWS, SPECTRAL, State, merge

__all__ = ["Place", "compare", "pool"]

Floats = npt.NDArray[np.float64]


class Place(NamedTuple):
    """Where a block lies in the image."""

    own: tuple[int, int]
    """Rows and columns that it answers for; what follows them is context."""
    at: tuple[int, int]
    """Row and column of its first pixel."""


def compare(estimate: xr.Dataset, truth: xr.Dataset, *, ratio: float, gain: float = 1.0) -> xr.Dataset:
    """Metrics of an estimate against the truth, lazily; all dates pooled.

    Parameters
    ----------
    estimate, truth : xarray.Dataset
        The same bands on the same grid, ``(time, y, x)`` or ``(y, x)`` each, NaN for nodata. Bands
        that only one of them has are left out.
    ratio : float
        Coarse over fine pixel size, for ERGAS.
    gain : float
        DN per unit of the pixels: 10000 for reflectance.

    Returns
    -------
    xarray.Dataset
        float64, dask-backed: `PER_BAND` with dims ``(band,)``, `SPECTRAL` without dims. The same to
        1e-9 however the arrays are chunked.

    Raises
    ------
    BandError
        If they have no band in common.
    GridError
        If a band has another shape in each.

    Examples
    --------
    >>> import xsen2
    >>> truth = xsen2.sample(truth=True)[["B02", "B03"]]
    >>> float(compare(truth + 3, truth, ratio=2)["rmse"].mean().round(3))
    3.0
    """
    names = [name for name in truth.data_vars if name in estimate]
    if not names:
        raise BandError(
            f"the estimate has {', '.join(map(str, estimate.data_vars))}, the truth "
            f"{', '.join(map(str, truth.data_vars))}: there is nothing to compare"
        )
    for name in names:
        if estimate[name].shape != truth[name].shape:
            raise GridError(
                f"{name}: the estimate is {estimate[name].shape}, the truth {truth[name].shape}: "
                "both must be on the same grid"
            )
    arrays = [da.asarray(ds[name].data) for ds in (estimate, truth) for name in names]
    state = pool(arrays, partial(_block, gain=gain), merge, halo=HALO, shape=(ROWS, len(names)))
    kinds = [*PER_BAND, *SPECTRAL]
    table = da.map_blocks(
        _finish, state, ratio, chunks=((len(kinds),), (len(names),)), dtype=np.float64, meta=np.empty((0, 0))
    )
    out = xr.Dataset(coords={"band": [str(name) for name in names]})
    for row, (name, (long_name, units)) in enumerate((PER_BAND | SPECTRAL).items()):
        dims, value = (("band",), table[row]) if name in PER_BAND else ((), table[row, 0])
        out[name] = xr.Variable(dims, value, {"long_name": long_name, "units": units})
    return out


def _finish(values: Floats, ratio: float) -> Floats:
    found = State(values).finish(ratio)
    return np.stack([np.broadcast_to(found[name], values.shape[1:]) for name in (*PER_BAND, *SPECTRAL)])


def _block(arrays: list[npt.NDArray[Any]], place: Place, gain: float) -> Floats:
    half = len(arrays) // 2
    estimate, truth = np.stack(arrays[:half]), np.stack(arrays[half:])
    if gain != 1:
        estimate, truth = estimate * np.float64(gain), truth * np.float64(gain)
    return State.of(estimate, truth, own=place.own, at=place.at).values


def pool(
    arrays: Sequence[da.Array],
    block: Callable[[list[npt.NDArray[Any]], Place], Floats],
    merge: Callable[[Floats], Floats],
    *,
    halo: int,
    shape: tuple[int, int],
) -> da.Array:
    """One state of everything, from states of blocks that merge.

    Parameters
    ----------
    arrays : sequence of dask.array.Array
        ``(time, y, x)`` or ``(y, x)``, all of one shape.
    block : callable
        Takes the pixels ``(y, x)`` of every array for one date and block, and the block's `Place`; gives its state.
    merge : callable
        Makes one state of many, ``(state, *shape)``.
    halo : int
        Pixels of context that a block gets below and to the right, where the image has them: a window belongs to
        the block in which it starts.
    shape : tuple of int
        Shape of a state.

    Returns
    -------
    dask.array.Array
        float64, of `shape`, in one chunk.
    """
    arrays = [a[None] if a.ndim == 2 else a for a in arrays]
    chunks = ((1,) * arrays[0].shape[0], _wide(arrays[0].chunks[1], halo), _wide(arrays[0].chunks[2], halo))
    depth = {0: 0} | {axis: (0, halo) if len(chunks[axis]) > 1 else 0 for axis in (1, 2)}
    wide = [da.overlap.overlap(a.rechunk(chunks), depth, "none", allow_rechunk=False) for a in arrays]
    states = da.map_blocks(
        partial(_placed, block, chunks[1:]),
        *wide,
        new_axis=[3, 4],
        chunks=(*((1,) * len(c) for c in chunks), *((n,) for n in shape)),
        dtype=np.float64,
        meta=np.empty((0,) * 5),
    )
    merging = partial(_merge_blocks, merge)
    out: da.Array = da.reduction(
        states,
        chunk=lambda x, axis, keepdims: x,
        combine=merging,
        aggregate=merging,
        axis=(0, 1, 2),
        dtype=np.float64,
        meta=np.empty((0, 0)),
    )
    return out


def _wide(chunks: tuple[int, ...], halo: int) -> tuple[int, ...]:
    """Chunks of at least a halo's width: what is narrower joins its neighbour."""
    out: list[int] = []
    for size in chunks:
        if out and (size < halo or out[-1] < halo):
            out[-1] += size
        else:
            out.append(size)
    return tuple(out)


def _placed(
    block: Callable[[list[npt.NDArray[Any]], Place], Floats],
    sizes: tuple[tuple[int, ...], ...],
    *arrays: npt.NDArray[Any],
    block_id: tuple[int, ...],
) -> Floats:
    own, at = zip(*((n[i], sum(n[:i])) for n, i in zip(sizes, block_id[1:3], strict=True)), strict=True)
    return block([a[0] for a in arrays], Place(own, at))[None, None, None]


def _merge_blocks(merge: Callable[[Floats], Floats], x: Floats, axis: tuple[int, ...], keepdims: bool) -> Floats:
    merged = merge(x.reshape(-1, *x.shape[3:]))
    return merged[None, None, None] if keepdims else merged
