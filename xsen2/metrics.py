"""How far an estimate is from the truth: sums that merge over any blocks, finished once.

One block gives a `State`, states merge, the last one is finished. Averaging the RMSE, SRE or PSNR of
blocks would be wrong. Numpy only; `xsen2.compare` puts it over datasets. What looks at more than one pixel is in
`xsen2.windows` (UIQ, SSIM), `xsen2.hypercomplex` (Q2n) and `xsen2.shifts` (cPSNR).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xsen2.errors import GridError
from xsen2.hypercomplex import BLOCK, quality
from xsen2.products import dot
from xsen2.shifts import SHIFTS, best, differences
from xsen2.windows import similar

__all__ = ["HALO", "PEAK", "PER_BAND", "ROWS", "SPECTRAL", "State", "merge"]

Floats = npt.NDArray[np.float64]

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
    >>> top = State.of(truth[:, :63] + 5, truth[:, :63], own=(32, 64))
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
        own: tuple[int, int] | None = None,
        at: tuple[int, int] = (0, 0),
    ) -> State:
        """State of one block.

        Parameters
        ----------
        estimate, truth : array_like
            ``(band, H, W)`` in DN, any dtype; NaN is nodata.
        valid : array_like of bool, optional
            ``(band, H, W)`` or ``(H, W)``: False marks more nodata.
        own : tuple of int, optional
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
        rows, cols = own or xs.shape[1:]
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
    xs: npt.NDArray[Any], ys: npt.NDArray[Any], mask: npt.NDArray[np.bool_], own: tuple[int, int], at: tuple[int, int]
) -> Floats:
    """The values of a state: of the `own` first rows and columns, what follows being context."""
    inside = slice(own[0]), slice(own[1])
    values = np.zeros((ROWS, len(xs)))
    for band, (y, x, seen) in enumerate(zip(ys, xs, mask, strict=True)):
        # float64 before anything is subtracted: unsigned integers wrap.
        x, y = np.where(seen, x, 0).astype(np.float64), np.where(seen, y, 0).astype(np.float64)
        values[:_UIQ, band] = _moments(x[inside][seen[inside]], y[inside][seen[inside]])
        values[_UIQ:_ANGLE, band] = similar(x, y, seen, *own, PEAK)
        values[_SHIFTS:, band] = differences(x, y, seen, *own).ravel()
    values[_ANGLE:_Q2N] = np.array(_angles(xs, ys, mask, inside))[:, None]
    values[_Q2N:_SHIFTS] = np.array(quality(ys, xs, np.all(mask, axis=0), *own, at))[:, None]
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
