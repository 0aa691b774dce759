"""How the bands of a product came about, as its pixels show it: effective blur and shift against the 10 m bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import A, factor_of, grid_of
from xsen2.cube import lazy, recognise
from xsen2.engine.halo import common_dates, split
from xsen2.engine.operators import Kernel, correlate
from xsen2.engine.statistics import each, fitted
from xsen2.errors import BandError
from xsen2.methods.common import UNIT, OneGrid, cells, of_grid, solve
from xsen2.methods.protocol import Array, Mask
from xsen2.radiometry import scales_of

__all__ = ["sensor"]

Floats = npt.NDArray[np.float64]

AXES = ("along", "across")
START = {2: 0.85, 6: 3.0}  # sigma in 10 m pixels
START_SWIR = 1.3
HALO = {2: 8, 6: 24}  # of the kernels, in 10 m pixels
LEAST = {2: 0.3, 6: 1.0}
MOST = {2: 2.0, 6: 5.5}
TERMS = 5  # of every 10 m band: itself, and its derivatives by the two shifts and the two variances
STEP = 1e-3


def sensor(
    ds: xr.Dataset | xr.DataTree, bands: Sequence[str] | None = None, *, quantification: float | None = None
) -> xr.Dataset:
    """Estimate how the 20 m and 60 m bands relate to the 10 m bands: their blur, their shift, and what is left.

    The image is modelled as ``y = sum(w * S(K(a))) + v``: `a` the four 10 m bands, `K` a Gaussian with its own width
    along each axis, `S` a sample at the centre of the coarse pixel plus a shift. Width, shift and weights are those
    with the least squares. They are found from sums over the image alone, by three rounds of Gauss and Newton.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        A cube with all 10 m bands.
    bands : sequence of str, optional
        20 m and 60 m bands; all of them by default.
    quantification : float, optional
        As `xsen2.superresolve.superresolve` takes it.

    Returns
    -------
    xarray.Dataset
        Lazy, dims ``([time,] band)``, and ``axis``: "along" the satellite's track, near enough from north to south,
        and "across" it. `blur`, sigma of `K`, and `shift` (southward, eastward) in pixels of 10 m; `residual`, the
        share of the band's variance that the model leaves. NaN where a date has no valid pixels. Where `residual` is
        large, blur and shift mean little.

    Raises
    ------
    BandError
        If the cube lacks 10 m bands, or has none of the others.

    Notes
    -----
    `xsen2.engine.operators.PRODUCT`, from which ``operator="product"`` is made, has the widths with which a degraded
    scene gives the same estimate as real ones do.

    Examples
    --------
    >>> import xsen2
    >>> estimate = xsen2.sample().isel(time=0).dsen2.sensor(["B8A"]).compute()
    >>> estimate["blur"].sel(axis="along").item() > 0.5
    True
    """
    cube = recognise(ds)
    if missing := [band for band in A if band not in cube.bands]:
        raise BandError(
            f"the cube has no {', '.join(missing)}: all four 10 m bands are needed to compare the others with"
        )
    low = [band for band in cube.bands if grid_of(band) != 10]
    if bands is not None:
        by_name = {name: band for band, name in cube.names.items()}
        if unknown := [band for band in bands if by_name.get(band, band) not in low]:
            raise BandError(
                f"{', '.join(unknown)}: not among the cube's 20 m and 60 m bands, {', '.join(low) or 'none'}"
            )
        low = [band for band in low if band in {by_name.get(b, b) for b in bands}]
    if not low:
        raise BandError("the cube has no 20 m or 60 m bands: there is nothing to compare with the 10 m ones")
    scales = scales_of(cube, quantification)
    arrays = common_dates({band: lazy(array.data) for band, array in cube.bands.items()})
    if cube.time:
        arrays = {band: array.rechunk({0: 1}) for band, array in arrays.items()}
    rows, columns = arrays["B02"].chunks[-2:]
    cell = max(cube.factor(band) for band in cube.bands)
    chunks = split(rows, cell), split(columns, cell)
    parts, names = [], []
    for group in of_grid(tuple(low)):
        fits = each(_table, fitted(cube, Estimate.of(group), chunks, scales, arrays))
        parts.append(_numbers(fits, len(group)))
        names += list(group)
    table = da.concatenate(parts, axis=-2)
    lead = ("time",) if cube.time else ()
    coords: dict[str, Any] = {"band": [cube.names[b] for b in names], "axis": list(AXES)}
    if cube.time:
        coords["time"] = cube.bands["B02"]["time"]
    return xr.Dataset(
        {
            "blur": ((*lead, "band", "axis"), table[..., :2], {"long_name": "sigma in 10 m pixels"}),
            "shift": ((*lead, "band", "axis"), table[..., 2:4], {"long_name": "shift in 10 m pixels"}),
            "residual": ((*lead, "band"), table[..., 4], {"long_name": "share of the variance that is left"}),
        },
        coords,
    )


def _table(method: Estimate) -> Floats:
    return method.fitted


def _numbers(objects: da.Array, bands: int) -> da.Array:
    """The tables of all dates as one array."""
    lead = objects.ndim

    def alone(table: Floats) -> Floats:  # a chunk is one date's table
        return table.reshape((1,) * lead + (bands, 5))

    out: da.Array = da.map_blocks(
        alone,
        objects,
        new_axis=[lead, lead + 1],
        chunks=(*objects.chunks, (bands,), (5,)),
        dtype=np.float64,
        meta=np.empty((0,) * (lead + 2)),
    )
    return out


@dataclass(frozen=True)
class Estimate(OneGrid):
    """One object per native grid; see `sensor`."""

    bands: tuple[str, ...]
    centres: Floats
    """``(band, 4)``: sigma along and across, shifts: round them the sums are linear."""
    fitted: Floats
    """``(band, 5)``: the same and what is left, NaN before anything was learnt."""
    name: str = "sensor"
    rounds: int = 3

    @classmethod
    def of(cls, bands: tuple[str, ...]) -> Estimate:
        """The estimate before the first round, when nothing is known."""
        ratio = factor_of(bands[0])
        sigmas = [START_SWIR if band in ("B11", "B12") else START[ratio] for band in bands]
        centres = np.array([[sigma, sigma, 0.0, 0.0] for sigma in sigmas])
        return cls(bands, centres, np.full((len(bands), 5), np.nan))

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return self.bands, self.centres.tobytes(), self.rounds

    @property
    def needs(self) -> tuple[str, ...]:
        return (*A, *self.bands)

    @property
    def gather_halo(self) -> dict[int, int]:
        return {10: HALO[self._ratio]}

    @property
    def halo(self) -> dict[int, int]:
        return self.gather_halo

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        raise NotImplementedError("an estimate makes no pixels: only its sums are gathered")

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> Floats:
        """Sums of products of the 10 m bands, as coarse as the others, their derivatives, and the band."""
        ratio = self._ratio
        counted = cells(own, ratio)
        sums = []
        for centre, y in zip(self.centres, b if ratio == 2 else c, strict=True):
            rows, columns = ([_gaussian(s, d, ratio) for s, d in _variants(*centre[i::2])] for i in (0, 1))
            low = [
                [correlate(a, *r, ratio, k) for k in columns[:n]] for r, n in zip(rows, (5, 1, 1, 1, 1), strict=True)
            ]
            here = [low[0][0]]
            here += [(low[1][0] - low[2][0]) / (2 * STEP), (low[0][1] - low[0][2]) / (2 * STEP)]
            here += [(low[3][0] - low[4][0]) / (2 * STEP), (low[0][3] - low[0][4]) / (2 * STEP)]
            x = np.stack(here, 1)[..., counted].reshape(4 * TERMS, -1)
            columns_ = np.concatenate([x * UNIT, np.ones((1, x.shape[1])), y[counted][None] * UNIT]).astype(np.float64)
            sums.append(columns_ @ columns_.T)
        return np.stack(sums).ravel()

    def learn(self, sums: Floats) -> Estimate:
        size = 4 * TERMS + 2
        ratio = self._ratio
        fitted = self.fitted.copy()
        for i, equations in enumerate(sums.reshape(len(self.bands), size, size)):
            fitted[i] = _fit(equations, self.centres[i], ratio)
        centres = np.where(np.isfinite(fitted[:, :4]), fitted[:, :4], self.centres)
        return replace(self, centres=centres, fitted=fitted)


def _variants(sigma: float, shift: float) -> list[tuple[float, float]]:
    """Sigma and shift, and those a step to either side: of the shift, of the variance."""
    more, less = (float(np.sqrt(sigma**2 + s)) for s in (STEP, -STEP))
    return [(sigma, shift), (sigma, shift + STEP), (sigma, shift - STEP), (more, shift), (less, shift)]


def _gaussian(sigma: float, shift: float, scale: int) -> Kernel:
    """A Gaussian at the centre of a coarse pixel, plus a shift; always of the same taps, so that it can be derived."""
    reach = HALO[scale] - 1
    offsets = np.arange(-reach, scale + reach)
    weights = np.exp(-0.5 * ((offsets - (scale - 1) / 2 - shift) / sigma) ** 2)
    return weights / weights.sum(), reach


def _fit(equations: Floats, centre: Floats, ratio: int) -> Floats:
    """The least squares over blur and shift: what they are, and the share of the variance that is left."""
    size = len(equations)
    total = equations[size - 2, size - 2]
    if total < 30:  # pixels, for nine unknowns
        return np.full(5, np.nan)
    # Without means: the constant takes them up.
    mean = equations[:, size - 2] / total
    moments = equations - total * np.outer(mean, mean)
    inner, mixed, power = moments[:-2, :-2], moments[:-2, -1], moments[-1, -1]
    if power <= 1e-12 * equations[-1, -1]:
        return np.full(5, np.nan)

    def left(change: Floats) -> float:
        mix = np.kron(np.eye(4), np.array([1.0, *change])[None])  # 4 x 20
        weights = solve(mix @ inner @ mix.T, mix @ mixed)
        return float((power - 2 * weights @ (mix @ mixed) + weights @ (mix @ inner @ mix.T) @ weights) / power)

    # Where the sums, which are linear round the centre, are still to be trusted; the next round has another centre.
    most = np.repeat([0.2 * ratio, 0.12 * ratio**2], 2)
    change = np.clip(_least(left, 0.02 * ratio), -most, most)
    shift = np.clip(centre[2:] + change[:2], -ratio / 2, ratio / 2)
    sigma = np.sqrt(np.clip(centre[:2] ** 2 + change[2:], LEAST[ratio] ** 2, MOST[ratio] ** 2))
    return np.array([*sigma, *shift, max(0.0, left(change))])


def _least(f: Callable[[Floats], float], step: float) -> Floats:
    """Newton's method with differences for derivatives, each step shortened until it gains."""
    x = np.zeros(4)
    unit = step * np.eye(4)
    for _ in range(12):
        here = f(x)
        ahead, behind = (np.array([f(x + sign * u) for u in unit]) for sign in (1, -1))
        slope = (ahead - behind) / (2 * step)
        bend = np.diag(ahead - 2 * here + behind)
        for i in range(4):
            for j in range(i):
                mixed = f(x + unit[i] + unit[j]) - ahead[i] - ahead[j] + here
                bend[i, j] = bend[j, i] = (mixed + f(x - unit[i] - unit[j]) - behind[i] - behind[j] + here) / 2
        values, vectors = np.linalg.eigh(bend / step**2)
        move = -vectors @ ((vectors.T @ slope) / np.maximum(np.abs(values), 1e-6))
        move *= min(1.0, 10 * step / max(np.abs(move).max(), 1e-12))
        while f(x + move) > here and np.abs(move).max() > 1e-5:
            move /= 2
        x = x + move
        if np.abs(move).max() < 1e-4:
            break
    return x
