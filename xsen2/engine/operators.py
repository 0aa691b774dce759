"""Degradation kernels: how a band looks when it is measured on a grid `scale` times coarser.

All operators are one thing, a strided separable correlation, so they share one mask-aware routine.
It works on numpy arrays; `xsen2.degrade` puts it over cubes.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from xsen2.bands import BANDS
from xsen2.errors import MethodError

__all__ = [
    "OPERATORS",
    "PRODUCT",
    "Kernel",
    "Operator",
    "correlate",
    "degrade_array",
    "kernels",
    "observed",
    "support",
    "taps",
]

Operator = Literal["mtf", "dsen2", "box", "product"]
OPERATORS: tuple[str, ...] = get_args(Operator)

PRODUCT: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), (1.0, 1.0)),  # which the others are compared with
    "B05": (1.22, 1.12),
    "B06": (1.11, 1.05),
    "B07": (1.13, 1.03),
    "B8A": (1.11, 1.04),
    "B11": (1.23, 1.25),
    "B12": (1.21, 1.25),
    "B01": (1.06, 1.08),
    "B09": (0.98, 0.99),
}
"""Band → sigma of what made its pixels, in units of that of ``"mtf"``, along and across the satellite's track: a scene
degraded so shows the blur that products show. Medians of six scenes, see ``benchmarks/results/sensor.md``."""

Kernel = tuple[npt.NDArray[np.float64], int]
"""Weights along one axis, and how many of them lie before a coarse pixel's first fine one."""

_TRUNCATE = 4.0  # standard deviations kept of every Gaussian


def taps(
    band: str, scale: int, operator: str = "mtf", *, axis: int | None = None, blur: float = 1.0, shift: float = 0.0
) -> tuple[npt.NDArray[np.float64], int]:
    """Weights of the 1-D kernel that makes one coarse pixel, and where it starts.

    Coarse pixel ``i`` is ``sum_j weights[j] * fine[i * scale - before + j]``, along each axis.

    Parameters
    ----------
    band : str
        Canonical band name; only ``"mtf"`` and ``"product"`` differ between bands.
    scale : int
        How many times coarser, 1 or more.
    operator : {"mtf", "product", "dsen2", "box"}
        ``"mtf"``: Gaussian with the band's own MTF, ``sigma = psf_sigma * sqrt(scale**2 - 1)``
        input pixels, sampled at the centre of the coarse pixel. ``"dsen2"`` (Lanaras et al. 2018):
        Gaussian of sigma ``1 / scale`` input pixels, then the mean. ``"box"``: the mean. ``"product"``:
        as ``"mtf"``, with the widths that products show, which differ along and across the track, see `PRODUCT`.
    axis : {0, 1}, optional
        For ``"product"``: 0 along the satellite's track, near enough an image's columns of pixels from north to south,
        1 across it. By default the mean of both.
    blur : float
        Factor on the sigma of ``"mtf"`` and ``"product"``, for training with a sensor that is not known exactly.
    shift : float
        Displacement of the sampling point of the same two, in input pixels, likewise.

    Returns
    -------
    weights : numpy.ndarray
        1-D, sums to one.
    before : int
        Number of weights before the coarse pixel's own first fine pixel.
    """
    if scale < 1 or int(scale) != scale:
        raise MethodError(f"scale={scale!r}: use a whole number, 1 or more")
    box = np.full(scale, 1.0 / scale)
    if operator == "box" or scale == 1:
        return box, 0
    if operator == "dsen2":
        sigma = 1.0 / scale
        radius = int(_TRUNCATE * sigma + 0.5)
        offsets = np.arange(-radius, radius + 1)
        gauss = np.exp(-0.5 * (offsets / sigma) ** 2)
        return np.convolve(gauss / gauss.sum(), box), radius
    if operator in ("mtf", "product"):
        # The input carries the blur of its own pixel, the target must carry `scale` times that:
        # variances add, so what is missing is sigma * sqrt(scale^2 - 1).
        sigma = BANDS[band].psf_sigma * float(np.sqrt(scale**2 - 1.0)) * blur
        if operator == "product":
            sigma *= sum(PRODUCT[band]) / 2 if axis is None else PRODUCT[band][axis]
        centre = (scale - 1) / 2 + shift
        first = int(np.ceil(centre - _TRUNCATE * sigma))
        last = int(np.floor(centre + _TRUNCATE * sigma))
        weights = np.exp(-0.5 * ((np.arange(first, last + 1) - centre) / sigma) ** 2)
        return weights / weights.sum(), -first
    raise MethodError(f"unknown operator {operator!r}: use one of {', '.join(OPERATORS)}")


def support(band: str, scale: int, operator: str) -> int:
    """Fine pixels that a coarse pixel reads beyond its own edges, on either side."""
    return max(
        0, *(n for weights, before in kernels(band, scale, operator) for n in (before, len(weights) - before - scale))
    )


def kernels(band: str, scale: int, operator: str) -> tuple[Kernel, Kernel]:
    """What `taps` gives along both axes: rows, then columns.

    Examples
    --------
    >>> rows, columns = kernels("B05", 2, "product")
    >>> rows[0].max() < columns[0].max()
    np.True_
    """
    return taps(band, scale, operator, axis=0), taps(band, scale, operator, axis=1)


def _along(
    x: npt.NDArray[np.float32], axis: int, weights: npt.NDArray[np.float64], before: int, scale: int
) -> npt.NDArray[np.float32]:
    """Correlate along one axis, keeping one sample per coarse pixel; symmetric edges."""
    n = x.shape[axis] // scale
    after = max(0, len(weights) - before - scale)
    pad = [(0, 0)] * x.ndim
    pad[axis] = (max(0, before), after)
    padded = np.pad(x, pad, mode="symmetric")
    index: list[slice] = [slice(None)] * x.ndim
    out: npt.NDArray[np.float32] | None = None
    for j, weight in enumerate(weights):
        start = j - min(0, before)  # a negative `before` starts inside the coarse pixel
        index[axis] = slice(start, start + scale * (n - 1) + 1, scale)
        part = padded[tuple(index)] * np.float32(weight)
        out = part if out is None else np.add(out, part, out=out)
    assert out is not None
    return out


def correlate(
    x: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    before: int,
    scale: int,
    columns: tuple[npt.NDArray[np.float64], int] | None = None,
) -> npt.NDArray[np.float32]:
    """Degrade the last two axes by `scale`; as `degrade_array`, but ignoring nodata."""
    rows = _along(x, x.ndim - 2, weights, before, scale)
    return _along(rows, x.ndim - 1, *(columns or (weights, before)), scale)


def observed(x: npt.NDArray[np.float32], band: str, scale: int, operator: str) -> npt.NDArray[np.float32]:
    """The last two axes as the operator has the band on a grid `scale` times coarser, ignoring nodata."""
    rows, columns = kernels(band, scale, operator)
    return correlate(x, *rows, scale, columns)


def degrade_array(
    x: npt.NDArray[np.floating],
    weights: npt.NDArray[np.float64],
    before: int,
    scale: int,
    columns: tuple[npt.NDArray[np.float64], int] | None = None,
) -> npt.NDArray[np.float32]:
    """Degrade the last two axes by `scale`, leaving nodata (NaN) out of every mean.

    A coarse pixel is NaN where fewer than half of the ``scale x scale`` pixels under it are
    valid; elsewhere the weights are renormalised over the valid pixels.

    Parameters
    ----------
    x : numpy.ndarray
        ``(..., H, W)``, sizes multiples of `scale`, NaN for nodata.
    weights, before
        As `taps` gives them, for rows, and for columns unless `columns` is given.
    columns : tuple, optional
        Weights and start for columns, when they differ from those of rows.

    Returns
    -------
    numpy.ndarray
        float32 ``(..., H / scale, W / scale)``.
    """
    x = np.asarray(x, np.float32)
    valid = np.isfinite(x)
    if valid.all():
        return correlate(x, weights, before, scale, columns)
    share = correlate(valid.astype(np.float32), weights, before, scale, columns)
    total = correlate(np.where(valid, x, np.float32(0)), weights, before, scale, columns)
    *lead, height, width = x.shape
    cells = valid.reshape(*lead, height // scale, scale, width // scale, scale)
    enough = cells.mean(axis=(-3, -1)) >= 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(enough, total / share, np.float32(np.nan)).astype(np.float32)
