"""Metrics over datasets: one state per block, merged in a tree, finished once. Lazy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.errors import BandError, GridError
from xsen2.metrics import HALO, PER_BAND, ROWS, SPECTRAL, State, merge

__all__ = ["compare"]

Floats = npt.NDArray[np.float64]


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
    state = _reduce(arrays, gain)
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


def _reduce(arrays: Sequence[da.Array], gain: float) -> da.Array:
    """State ``(rows, bands)`` of the estimates, which come first, against the truths."""
    arrays = [a[None] if a.ndim == 2 else a for a in arrays]
    chunks = ((1,) * arrays[0].shape[0], _wide(arrays[0].chunks[1]), _wide(arrays[0].chunks[2]))
    # A window belongs to the block in which it starts, so blocks need context on two sides only.
    depth = {0: 0} | {axis: (0, HALO) if len(chunks[axis]) > 1 else 0 for axis in (1, 2)}
    wide = [da.overlap.overlap(a.rechunk(chunks), depth, "none", allow_rechunk=False) for a in arrays]
    states = da.map_blocks(
        partial(_block, gain=gain, own=chunks[1:]),
        *wide,
        new_axis=[3, 4],
        chunks=(*((1,) * len(c) for c in chunks), (ROWS,), (len(arrays) // 2,)),
        dtype=np.float64,
        meta=np.empty((0,) * 5),
    )
    out: da.Array = da.reduction(
        states,
        chunk=lambda x, axis, keepdims: x,
        combine=_merge_blocks,
        aggregate=_merge_blocks,
        axis=(0, 1, 2),
        dtype=np.float64,
        meta=np.empty((0, 0)),
    )
    return out


def _wide(chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of at least a halo's width: what is narrower joins its neighbour."""
    out: list[int] = []
    for size in chunks:
        if out and (size < HALO or out[-1] < HALO):
            out[-1] += size
        else:
            out.append(size)
    return tuple(out)


def _block(
    *arrays: npt.NDArray[Any], gain: float, own: tuple[tuple[int, ...], ...], block_id: tuple[int, ...]
) -> Floats:
    estimate, truth = (
        np.stack([a[0] for a in half]) for half in (arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :])
    )
    if gain != 1:
        estimate, truth = estimate * np.float64(gain), truth * np.float64(gain)
    rows, cols = (sizes[i] for sizes, i in zip(own, block_id[1:3], strict=True))
    return State.of(estimate, truth, own=(rows, cols)).values[None, None, None]


def _merge_blocks(x: Floats, axis: tuple[int, ...], keepdims: bool) -> Floats:
    merged = merge(x.reshape(-1, *x.shape[3:]))
    return merged[None, None, None] if keepdims else merged
