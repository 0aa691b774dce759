"""Scores of a result at full scale, where no truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import GRIDS, grid_of
from xsen2.cube import Cube, lazy, recognise
from xsen2.engine.halo import Cut, Layer, blocks, common_dates, map_windows
from xsen2.engine.operators import OPERATORS, Operator, degrade_array, kernels, support
from xsen2.errors import BandError, GridError, MethodError
from xsen2.evaluation.metrics import Place, compare, pool
from xsen2.evaluation.windows import FLAT, whole
from xsen2.radiometry import scale_of, to_nan

__all__ = ["PER_BAND", "PER_GRID", "assess"]

Floats = npt.NDArray[np.float64]

PER_BAND: dict[str, tuple[str, str]] = {
    "consistency": ("RMSE of the degraded result against the measured band", "DN"),
    "d_lambda_band": ("1 - UIQ of the degraded result against the measured band", "1"),
    "spatial": ("multiple correlation of the Laplacian with those of the 10 m bands", "1"),
    "spatial_measured": ("spatial, of the measured band with the degraded 10 m bands", "1"),
}
"""Scores that every band has, with long name and units."""

PER_GRID: dict[str, tuple[str, str]] = {
    "d_lambda": ("Khan's spectral distortion: 1 - Q2n of the degraded result against the measured bands", "1"),
    "consistency_ergas": ("ERGAS of the degraded result against the measured bands", "1"),
    "consistency_sam": ("spectral angle of the degraded result to the measured bands, mean over pixels", "degree"),
}
"""Scores of all bands that were measured on one grid together."""

_LAPLACIAN = 3  # side of its window
_STRIP = 128  # rows that are worked on at a time, so that what is made of them stays in the cache
_RANK = 1e-10  # share of the largest eigenvalue below which a direction is rounding


def assess(
    estimate: xr.Dataset, cube: xr.Dataset | xr.DataTree, *, operator: Operator = "mtf", gain: float = 1.0
) -> xr.Dataset:
    """Scores of a result at full scale, lazily; all dates pooled.

    There are two kinds, to be reported apart, because each has a way to score well that helps nobody:

    - Consistency: the result, degraded, should be what was measured. `consistency`, `consistency_ergas`,
      `consistency_sam` and the spectral distortion of Khan et al. (2009), `d_lambda`: 1 - Q2n on 32 x 32 blocks, and
      per band, as `d_lambda_band`, 1 - UIQ on 8 x 8 windows. An image without any new detail scores well.
    - `spatial`: the detail should be that of the scene. Zhou, Civco & Silander (1998) correlate the Laplacian
      (8 in the middle, -1 around it) of a band with that of the panchromatic one. Sentinel-2 has four bands at 10 m
      instead, and two thirds of the others are outside their spectral ranges, so it is the multiple correlation here:
      of the Laplacian with the best linear combination of the four. With a single 10 m band it is the absolute value
      of theirs. An image whose detail is copied from the 10 m bands scores 1, which no band with detail of its own
      should: `spatial_measured` is the same of the measured band, on its own grid, with the degraded 10 m bands, so
      what `spatial` should be if scales are alike.

    Parameters
    ----------
    estimate : xarray.Dataset
        What `xsen2.superresolve.superresolve` makes of `cube`: ``(time, y, x)`` or ``(y, x)`` at 10 m under canonical
        names, NaN for nodata. Bands that are native at 10 m, and those that the cube does not have, are left out.
    cube : xarray.Dataset or xarray.DataTree
        The cube itself, in the same units.
    operator : {"mtf", "product", "dsen2", "box"}
        How the result is degraded, see `xsen2.engine.operators.taps`. Nodata is left out of every mean.
    gain : float
        DN per unit of the pixels: 10000 for reflectance.

    Returns
    -------
    xarray.Dataset
        float64, dask-backed: `PER_BAND` with dims ``(band,)``, `PER_GRID` with dims ``(grid,)``, 20 and 60 m. NaN
        where there is nothing to score: no valid pixel, or no Laplacian but 0; no 32 x 32 block for `d_lambda`.

    Raises
    ------
    BandError
        If they have no coarse band in common, or the cube no 10 m band.
    GridError
        If a band is not on the cube's 10 m grid.
    MethodError
        If the operator is unknown.

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample()
    >>> scores = assess(cube.dsen2.superresolve(method="bicubic"), cube)
    >>> scores["consistency"].dims, scores["d_lambda"].dims
    (('band',), ('grid',))
    """
    known = recognise(cube)
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise MethodError(f"unknown operator {operator!r}: use one of {', '.join(OPERATORS)}")
    bands = [b for gsd in GRIDS if gsd != 10 for b in GRIDS[gsd] if b in known.bands and b in estimate]
    fine = [b for b in GRIDS[10] if b in known.bands]
    if not bands or not fine:
        raise BandError(
            f"the result has {', '.join(map(str, estimate.data_vars))}, the cube {', '.join(known.bands)}: "
            "a band of 20 or 60 m in both and a 10 m band in the cube are needed"
        )
    estimates = {band: _on_grid(estimate, band, known) for band in bands}
    measured = {band: _measured(known.bands[band]) for band in (*fine, *bands)}
    arrays = common_dates(estimates | {b: measured[b] for b in fine})
    estimates, sharp = {b: arrays[b] for b in bands}, {b: arrays[b] for b in fine}
    grids = [gsd for gsd in (20, 60) if any(grid_of(b) == gsd for b in bands)]
    results, spatial, expected = [], [], []
    for gsd in grids:
        group = {b: a for b, a in estimates.items() if grid_of(b) == gsd}
        small, smooth = (_coarser(layer, gsd // 10, operator) for layer in (group, sharp))
        truth = {b: measured[b] for b in group}
        results.append(compare(_dataset(small), _dataset(truth), ratio=gsd / 10, gain=gain))
        spatial.append(_spatial(list(group.values()), list(sharp.values())))
        expected.append(_spatial(list(truth.values()), list(smooth.values())))
    each = {name: [scores[name] for scores in results] for name in ("rmse", "uiq", "q2n", "ergas", "sam")}
    values: dict[str, da.Array] = {
        "consistency": da.concatenate(each["rmse"]),
        "d_lambda_band": 1 - da.concatenate(each["uiq"]),
        "spatial": da.concatenate(spatial),
        "spatial_measured": da.concatenate(expected),
        "d_lambda": 1 - da.stack(each["q2n"]),
        "consistency_ergas": da.stack(each["ergas"]),
        "consistency_sam": da.stack(each["sam"]),
    }
    out = xr.Dataset(coords={"band": bands, "grid": ("grid", grids, {"units": "m"})})
    for name, (long_name, units) in (PER_BAND | PER_GRID).items():
        dims = ("band",) if name in PER_BAND else ("grid",)
        out[name] = xr.Variable(dims, values[name], {"long_name": long_name, "units": units})
    return out


def _on_grid(estimate: xr.Dataset, band: str, cube: Cube) -> da.Array:
    array, shape = estimate[band], (*cube.bands[band].shape[:-2], *cube.shape(10))
    if array.shape != shape:
        raise GridError(f"{band}: the result is {array.shape}, the cube's 10 m grid {shape}: they must be of one scene")
    return lazy(array.data)


def _measured(array: xr.DataArray) -> da.Array:
    out: da.Array = da.map_blocks(to_nan, lazy(array.data), scale_of(array), dtype=np.float32)
    return out


def _dataset(arrays: dict[str, da.Array]) -> xr.Dataset:
    return xr.Dataset({band: (("time", "y", "x")[-array.ndim :], array) for band, array in arrays.items()})


def _coarser(arrays: dict[str, da.Array], scale: int, operator: str) -> dict[str, da.Array]:
    """Bands of one grid, degraded."""
    layer = list(arrays.values())
    halo = -(-max(support(band, scale, operator) for band in arrays) // scale) * scale
    rows, columns = layer[0].chunks[-2:]
    out = map_windows(
        _Degrade(tuple(arrays), scale, operator, halo),
        [Layer(layer, 1)],
        Cut(layer[0].shape[-2:], blocks(rows, columns, scale, halo), halo, per_pixel=scale),
        bands=len(layer),
        label=f"xsen2-assess-{operator}",
    )
    return {band: out[i] for i, band in enumerate(arrays)}


@dataclass(frozen=True)
class _Degrade:
    bands: tuple[str, ...]
    scale: int
    operator: str
    halo: int

    def __call__(self, windows: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        edge = self.halo // self.scale
        done = [
            degrade_array(x, rows[0], rows[1], self.scale, columns)
            for x, (rows, columns) in zip(
                windows[0], (kernels(band, self.scale, self.operator) for band in self.bands), strict=True
            )
        ]
        return np.stack([x[..., edge : x.shape[-2] - edge, edge : x.shape[-1] - edge] for x in done])


def _spatial(arrays: Sequence[da.Array], sharp: Sequence[da.Array]) -> da.Array:
    """Multiple correlation ``(band,)`` of every array's Laplacian with those of `sharp`."""
    products = (len(sharp) + 2) ** 2
    block = partial(_laplacians, bands=len(arrays))
    sums = pool([*arrays, *sharp], block, _add, halo=_LAPLACIAN - 1, shape=(len(arrays), products + 1))
    out: da.Array = da.map_blocks(_correlation, sums, drop_axis=1, dtype=np.float64, meta=np.empty(0))
    return out


def _laplacians(arrays: list[npt.NDArray[Any]], place: Place, bands: int) -> Floats:
    """Sums of the products of 1, the sharp bands' Laplacians and a band's own, and last of its squares.

    Windows start in the block's own pixels; those with a pixel that is not valid in the band and all sharp ones are
    left out.
    """
    more = _LAPLACIAN - 1
    (rows, cols), size = place.inner, len(arrays) - bands + 2
    sums = np.zeros((bands, size * size + 1))
    for row in range(0, rows, _STRIP):
        cut = np.s_[row : min(row + _STRIP, rows) + more, : cols + more]
        stack = np.stack([array[cut] for array in arrays]).astype(np.float64)
        if min(stack.shape[1:]) < _LAPLACIAN:
            continue
        seen = np.isfinite(stack)
        windows = [whole(mask, _LAPLACIAN) for mask in seen]
        edges = _laplacian(np.where(seen, stack, 0))
        everywhere = np.logical_and.reduce(windows[bands:])
        for band in range(bands):
            valid = everywhere & windows[band]
            terms = np.stack([np.ones(int(valid.sum())), *(edge[valid] for edge in (*edges[bands:], edges[band]))])
            sums[band, :-1] += (terms @ terms.T).ravel()
            sums[band, -1] += np.square(stack[band, 1:-1, 1:-1][valid]).sum()
    return sums


def _laplacian(x: Floats) -> Floats:
    """Eight times every pixel less its neighbours; a constant gives exactly 0."""
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    out: Floats = 9 * x[..., 1:-1, 1:-1] - around
    return out


def _add(values: Floats) -> Floats:
    out: Floats = values.sum(axis=0)
    return out


def _correlation(sums: Floats) -> Floats:
    """Multiple correlation from the sums of `_laplacians`."""
    size = round((sums.shape[1] - 1) ** 0.5)
    out = np.full(len(sums), np.nan)
    for band, (*flat, squares) in enumerate(sums):
        products = np.reshape(flat, (size, size))
        n = products[0, 0]
        covariance = products[1:, 1:] - np.outer(products[0, 1:], products[0, 1:]) / max(n, 1)
        among, across, variance = covariance[:-1, :-1], covariance[:-1, -1], covariance[-1, -1]
        if variance > FLAT * squares:
            explained = across @ np.linalg.pinv(among, rcond=_RANK, hermitian=True) @ across
            out[band] = np.sqrt(np.clip(explained / variance, 0, 1))
    return out
