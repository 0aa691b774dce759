"""Metrics over datasets: one state per block, merged in a tree, finished once. Lazy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.engine.block import dot
from xsen2.errors import BandError, GridError
from xsen2.evaluation.windows import BLOCK, quality, similar

__all__ = ["HALO", "PEAK", "PER_BAND", "SPECTRAL", "Place", "State", "compare", "pool"]


# cPSNR: the PSNR that forgives a difference in brightness, and a displacement of a few pixels.
#
# The score of Märtens et al. (2019) for images that were made of many dates: the estimate's pixels that are 3 or more
# from the edge are compared with the truth displaced by up to 3 pixels in each direction; for every displacement the
# mean difference is taken off, and the displacement with the least mean squared error counts.


Floats = npt.NDArray[np.float64]

SHIFT = 3
"""The largest displacement, in pixels."""

_SIDE = 2 * SHIFT + 1

SHIFTS = _SIDE**2
"""Number of displacements."""

_ROUNDING = 1e-9  # DN²: less than float32 can tell of DN

_ROWS = 16  # worked on at a time: all displacements of few rows stay in the cache


def differences(x: Floats, y: Floats, seen: npt.NDArray[np.bool_], rows: int, cols: int) -> Floats:
    """Moments of truth minus estimate for every displacement of the truth.

    Parameters
    ----------
    x, y : numpy.ndarray
        Truth and estimate, ``(H, W)`` DN, 0 where not `seen`.
    seen : numpy.ndarray
        bool ``(H, W)``; a pair counts if both its pixels do.
    rows, cols : int
        A pixel of the estimate is counted if the first pixel of the 7 x 7 around it is one of these.

    Returns
    -------
    numpy.ndarray
        ``(3, 49)``: number of pairs, mean, sum of squares about the mean.
    """
    height, width = (min(count, n - _SIDE + 1) for count, n in zip((rows, cols), x.shape, strict=True))
    if height < 1 or width < 1:
        return np.zeros((3, SHIFTS))
    centre = np.s_[SHIFT : SHIFT + height, SHIFT : SHIFT + width]
    valid = seen[: height + 2 * SHIFT, : width + 2 * SHIFT]
    weights = None if valid.all() else valid.astype(np.float64)
    # All means are near that of no displacement: taken off before squaring, it leaves the squares their digits.
    pairs = seen[centre]
    pilot = float((x[centre] - y[centre])[pairs].mean()) if pairs.any() else 0.0
    sums = np.zeros((3, SHIFTS))
    for top in range(0, height, _ROWS):
        part = np.s_[top : min(top + _ROWS, height) + 2 * SHIFT]
        sums += _sums(x[part], y[part] + pilot, None if weights is None else weights[part], width)
    n, total, squares = sums
    divisor = np.maximum(n, 1)
    return np.stack([n, np.where(n > 0, pilot + total / divisor, 0), np.maximum(squares - total * total / divisor, 0)])


def _sums(x: Floats, y: Floats, weights: Floats | None, width: int) -> Floats:
    """Number, sum and sum of squares of differences."""
    height = len(x) - 2 * SHIFT
    centre = np.s_[SHIFT : SHIFT + height, SHIFT : SHIFT + width]
    base, gap = np.ascontiguousarray(y[centre]), np.empty((height, width))
    centre_weights = None if weights is None else np.ascontiguousarray(weights[centre])
    flat, n = gap.reshape(-1), float(gap.size)
    out = np.empty((3, SHIFTS))
    for shift in range(SHIFTS):
        row, column = divmod(shift, _SIDE)
        cut = np.s_[row : row + height, column : column + width]
        np.subtract(x[cut], base, out=gap)
        if weights is not None and centre_weights is not None:
            both = centre_weights * weights[cut]
            gap *= both
            n = float(both.sum())
        out[:, shift] = n, flat.sum(), dot(flat, flat)
    return out


def best(moments: Floats) -> Floats:
    """The least mean squared error about the mean, per band, over the displacements.

    Parameters
    ----------
    moments : numpy.ndarray
        ``(3, 49, band)``, merged over all blocks.

    Returns
    -------
    numpy.ndarray
        ``(band,)`` DN², NaN where there are not two pairs. Displacements that nodata leaves less than half as many
        pairs as the others are not considered.
    """
    n, _, squares = moments
    enough = (n > 1) & (2 * n >= n.max(axis=0))
    mse = squares / np.maximum(n, 1)
    mse = np.where(mse <= _ROUNDING, 0, mse)
    return np.where(enough.any(axis=0), np.where(enough, mse, np.inf).min(axis=0), np.nan)


# How far an estimate is from the truth: sums that merge over any blocks, finished once.
#
# One block gives a `State`, states merge, the last one is finished. Averaging the RMSE, SRE or PSNR of
# blocks would be wrong. Numpy only; `xsen2.evaluation.metrics` puts it over datasets. What looks at more than one pixel
# is in `xsen2.evaluation.windows` (UIQ, SSIM), `xsen2.evaluation.windows` (Q2n) and `xsen2.evaluation.metrics` (cPSNR).


PEAK = 10_000.0
"""R of PSNR, SSIM and cPSNR: the DN of reflectance 1."""

PER_BAND: dict[str, tuple[str, str]] = {
    "rmse": ("root mean squared error", "DN"),
    "nrmse": ("RMSE over the root mean square of the truth", "1"),
    "bias": ("mean of estimate minus truth", "DN"),
    "sre": ("signal to reconstruction error: 10 log10(mean^2 / MSE)", "dB"),
    "psnr": (f"10 log10({PEAK:.0f}^2 / MSE)", "dB"),
    "cc": ("correlation coefficient", "1"),
    "uiq": ("universal image quality index, mean over 8 x 8 windows", "1"),
    "ssim": (f"structural similarity, mean over Gaussian windows, R = {PEAK:.0f} DN", "1"),
    "cpsnr": ("PSNR without the mean difference, best of displacements up to 3 pixels", "dB"),
    "pixels": ("valid pixels compared", "1"),
}
"""Metrics that every band has, with long name and units."""

SPECTRAL: dict[str, tuple[str, str]] = {
    "sam": ("spectral angle between the bands, mean over pixels", "degree"),
    "ergas": ("relative dimensionless global error", "1"),
    "q2n": ("hypercomplex quality index, mean over 32 x 32 blocks", "1"),
}
"""Metrics over all bands together."""

HALO = BLOCK - 1
"""Pixels below and to the right of a block that windows which start in it may read."""

_STRIP = 4 * BLOCK  # rows that are worked on at a time, so that what is made of them stays in the cache

# A state is a float64 array (rows, bands). The first row counts; means and centred second moments
# merge after Chan et al.; the rest are plain sums. x is the truth, y the estimate. Last come, for every
# displacement of cPSNR, a count, a mean and a centred second moment.
_N, _MEAN_X, _MEAN_Y, _M2_X, _M2_Y, _C_XY, _SSE = range(7)
_UIQ, _UIQ_WINDOWS, _SSIM, _SSIM_WINDOWS, _ANGLE, _ANGLES, _Q2N, _BLOCKS = range(7, 15)
_SHIFTS = 15
ROWS = _SHIFTS + 3 * SHIFTS
"""Rows of a state."""


@dataclass(frozen=True)
class State:
    """What has to be known of some pixels to finish every metric.

    Attributes
    ----------
    values : numpy.ndarray
        float64 ``(ROWS, band)``.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).uniform(0, 3000, (2, 64, 64))
    >>> top = State.of(truth[:, :63] + 5, truth[:, :63], inner=(32, 64))
    >>> bottom = State.of(truth[:, 32:] + 5, truth[:, 32:], at=(32, 0))
    >>> float(State.merge([top, bottom]).finish()["rmse"][0].round(6))
    5.0
    """

    values: Floats

    @classmethod
    def of(
        cls,
        estimate: npt.ArrayLike,
        truth: npt.ArrayLike,
        valid: npt.ArrayLike | None = None,
        inner: tuple[int, int] | None = None,
        at: tuple[int, int] = (0, 0),
    ) -> State:
        """State of one block.

        Parameters
        ----------
        estimate, truth : array_like
            ``(band, H, W)`` in DN, any dtype; NaN is nodata.
        valid : array_like of bool, optional
            ``(band, H, W)`` or ``(H, W)``: False marks more nodata.
        inner : tuple of int, optional
            Rows and columns that the block answers for; up to `HALO` more below and to the right are
            context, read only by windows that start in its own ones. By default all.
        at : tuple of int
            Row and column of the block's first pixel in the image, on whose lattice the blocks of Q2n lie.

        Returns
        -------
        State
        """
        ys, xs = np.asarray(estimate), np.asarray(truth)
        if xs.ndim != 3 or xs.shape != ys.shape:
            raise GridError(f"estimate {ys.shape} and truth {xs.shape} must both be (band, H, W): cut them to one grid")
        mask = np.isfinite(xs) & np.isfinite(ys)
        if valid is not None:
            mask &= np.asarray(valid, bool)
        rows, cols = inner or xs.shape[1:]
        strips = []
        for row in range(0, rows, _STRIP):
            n = min(_STRIP, rows - row)
            cut = np.s_[:, row : row + n + HALO]
            strips.append(_values(xs[cut], ys[cut], mask[cut], (n, cols), (at[0] + row, at[1])))
        return cls(merge(np.stack(strips)) if strips else np.zeros((ROWS, len(xs))))

    @staticmethod
    def merge(states: Iterable[State]) -> State:
        """State of all the pixels of several states, in any order."""
        return State(merge(np.stack([state.values for state in states])))

    def finish(self, ratio: float | None = None) -> dict[str, Any]:
        """Every metric: arrays ``(band,)`` for those of `PER_BAND`, numbers for those of `SPECTRAL`.

        Parameters
        ----------
        ratio : float, optional
            Coarse over fine pixel size, for ERGAS, which is NaN without it.

        Returns
        -------
        dict
            NaN where nothing was valid. SRE and PSNR of a perfect estimate are infinite.
        """
        v = self.values
        with np.errstate(invalid="ignore", divide="ignore"):
            n = np.where(v[_N] > 0, v[_N], np.nan)
            mse, mean = v[_SSE] / n, np.where(v[_N] > 0, v[_MEAN_X], np.nan)
            return {
                "rmse": np.sqrt(mse),
                "nrmse": np.sqrt(mse / (mean**2 + v[_M2_X] / n)),
                "bias": v[_MEAN_Y] - mean,
                "sre": 10 * np.log10(mean**2 / mse),
                "psnr": 10 * np.log10(PEAK**2 / mse),
                "cc": v[_C_XY] / np.sqrt(v[_M2_X] * v[_M2_Y]),
                "uiq": v[_UIQ] / v[_UIQ_WINDOWS],
                "ssim": v[_SSIM] / v[_SSIM_WINDOWS],
                "cpsnr": 10 * np.log10(PEAK**2 / best(v[_SHIFTS:].reshape(3, SHIFTS, -1))),
                "pixels": v[_N],
                "sam": float(np.degrees(v[_ANGLE, 0] / v[_ANGLES, 0])),
                "ergas": 100 / (ratio or np.nan) * float(np.sqrt(np.mean(mse / mean**2))),
                "q2n": float(v[_Q2N, 0] / v[_BLOCKS, 0]),
            }


def merge(values: Floats) -> Floats:
    """Merge the values of states, ``(state, ROWS, band)``: Chan, Golub & LeVeque (1983), for many at once."""
    out: Floats = values.sum(axis=0)
    n, total = values[:, _N], np.maximum(out[_N], 1)
    out[_MEAN_X] = (n * values[:, _MEAN_X]).sum(axis=0) / total
    out[_MEAN_Y] = (n * values[:, _MEAN_Y]).sum(axis=0) / total
    dx, dy = values[:, _MEAN_X] - out[_MEAN_X], values[:, _MEAN_Y] - out[_MEAN_Y]
    out[_M2_X] += (n * dx * dx).sum(axis=0)
    out[_M2_Y] += (n * dy * dy).sum(axis=0)
    out[_C_XY] += (n * dx * dy).sum(axis=0)
    shifts = values[:, _SHIFTS:].reshape(len(values), 3, SHIFTS, -1)
    n, mean, squares = shifts.swapaxes(0, 1)
    pooled = (n * mean).sum(axis=0) / np.maximum(n.sum(axis=0), 1)
    squares = squares.sum(axis=0) + (n * (mean - pooled) ** 2).sum(axis=0)
    out[_SHIFTS:] = np.concatenate([n.sum(axis=0), pooled, squares])
    return out


def _values(
    xs: npt.NDArray[Any], ys: npt.NDArray[Any], mask: npt.NDArray[np.bool_], inner: tuple[int, int], at: tuple[int, int]
) -> Floats:
    """The values of a state: of the `inner` first rows and columns, what follows being context."""
    inside = slice(inner[0]), slice(inner[1])
    values = np.zeros((ROWS, len(xs)))
    for band, (y, x, seen) in enumerate(zip(ys, xs, mask, strict=True)):
        # float64 before anything is subtracted: unsigned integers wrap.
        x, y = np.where(seen, x, 0).astype(np.float64), np.where(seen, y, 0).astype(np.float64)
        values[:_UIQ, band] = _moments(x[inside][seen[inside]], y[inside][seen[inside]])
        values[_UIQ:_ANGLE, band] = similar(x, y, seen, *inner, PEAK)
        values[_SHIFTS:, band] = differences(x, y, seen, *inner).ravel()
    values[_ANGLE:_Q2N] = np.array(_angles(xs, ys, mask, inside))[:, None]
    values[_Q2N:_SHIFTS] = np.array(quality(ys, xs, np.all(mask, axis=0), *inner, at))[:, None]
    return values


def _moments(x: Floats, y: Floats) -> tuple[float, ...]:
    """The rows up to _SSE, of valid pixels."""
    if not x.size:
        return (0.0,) * _UIQ
    mean_x, mean_y = float(x.mean()), float(y.mean())
    error = y - x
    dx, dy = x - mean_x, y - mean_y
    sums = (dot(a, b) for a, b in ((dx, dx), (dy, dy), (dx, dy), (error, error)))
    return (float(x.size), mean_x, mean_y, *sums)


def _angles(
    xs: npt.NDArray[Any], ys: npt.NDArray[Any], mask: npt.NDArray[np.bool_], inside: tuple[slice, slice]
) -> tuple[float, int]:
    """Sum of spectral angles in radians over pixels valid in all bands, and their count."""
    seen = np.all(mask, axis=0)[inside]
    # Band by band, so that few copies in float64 are held at a time.
    pairs = [(x[inside][seen], y[inside][seen]) for x, y in zip(xs, ys, strict=True)]
    length_x, length_y = (np.sqrt(sum(np.square(p[i], dtype=np.float64) for p in pairs)) for i in (0, 1))
    nonzero = (length_x > 0) & (length_y > 0)
    apart, together = np.zeros((2, int(nonzero.sum())))
    for x, y in pairs:
        unit_x, unit_y = x[nonzero] / length_x[nonzero], y[nonzero] / length_y[nonzero]
        apart += (unit_x - unit_y) ** 2
        together += (unit_x + unit_y) ** 2
    # Kahan's form of arccos(<x, y>), exact for small angles too.
    return float((2 * np.arctan2(np.sqrt(apart), np.sqrt(together))).sum()), len(apart)


class Place(NamedTuple):
    """Where a block lies in the image."""

    inner: tuple[int, int]
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
    scores = State(values).finish(ratio)
    return np.stack([np.broadcast_to(scores[name], values.shape[1:]) for name in (*PER_BAND, *SPECTRAL)])


def _block(arrays: list[npt.NDArray[Any]], place: Place, gain: float) -> Floats:
    half = len(arrays) // 2
    estimate, truth = np.stack(arrays[:half]), np.stack(arrays[half:])
    if gain != 1:
        estimate, truth = estimate * np.float64(gain), truth * np.float64(gain)
    return State.of(estimate, truth, inner=place.inner, at=place.at).values


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
    inner, at = zip(*((n[i], sum(n[:i])) for n, i in zip(sizes, block_id[1:3], strict=True)), strict=True)
    return block([a[0] for a in arrays], Place(inner, at))[None, None, None]


def _merge_blocks(merge: Callable[[Floats], Floats], x: Floats, axis: tuple[int, ...], keepdims: bool) -> Floats:
    merged = merge(x.reshape(-1, *x.shape[3:]))
    return merged[None, None, None] if keepdims else merged
