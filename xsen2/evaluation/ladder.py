"""What several dates give below 10 m, rung by rung: where the truth is known, and at full scale, where it is not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import A
from xsen2.errors import SourceError
from xsen2.evaluation.windows import similar
from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import Method
from xsen2.multitemporal.registration import fitted, sums_of
from xsen2.multitemporal.simulate import moved, simulate
from xsen2.superresolve import superresolve
from xsen2.training.dates import cube_of
from xsen2.training.scenes import Scene

__all__ = [
    "COPIES",
    "Series",
    "Site",
    "correlation",
    "falls",
    "full_scale",
    "shift_of",
    "simulated",
    "sites",
]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

COPIES = ", copies of one date"
"""Follows a method's name where it is fed one date again and again: what it gains then is prior, not fusion."""

SIDE = 120
"""Pixels of a frame, at most, along each side of what is judged of a scene."""


@dataclass(frozen=True)
class Site:
    """A place whose 10 m bands are the truth.

    Attributes
    ----------
    name : str
    images : tuple of numpy.ndarray
        ``(4, H, W)`` DN: the truth, and the same place on other dates.
    valid : numpy.ndarray
        ``(H, W)``: pixels that count.
    """

    name: str
    images: tuple[Array, ...]
    valid: npt.NDArray[np.bool_]

    @property
    def place(self) -> str:
        """Names that differ by a last number or a level are of one place; patches of a stack are places each."""
        return re.sub(r"(_\d|_L1C|_L2A)$", "", self.name)


def sites(scenes: Sequence[Scene], zoom: int) -> list[Site]:
    """Scenes as sites: the middle of each, `SIDE` pixels at most, with the same place on other dates if there are some.

    What is too small for frames that are coarser is left out, and scenes half of which is not valid.
    """
    out = []
    cell = 6 * zoom
    for scene in scenes:
        height, width = scene.valid[10].shape
        if min(height, width) < 24 * zoom:
            continue
        size = [min(n, SIDE * zoom) // cell * cell for n in (height, width)]
        rows, columns = (slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip((height, width), size, strict=True))
        valid = scene.valid[10][rows, columns].astype(bool)
        if valid.mean() < 0.5:
            continue
        same = [
            other
            for other in scenes
            if other is not scene
            and other.epsg is not None
            and (other.epsg, other.corner, other.level) == (scene.epsg, scene.corner, scene.level)
            and other.bands[10].shape == scene.bands[10].shape
        ]
        images = tuple(x.bands[10][:, rows, columns].astype(np.float32) for x in (scene, *same))
        out.append(Site(scene.name, images, valid))
    return out


def made(ds: xr.Dataset, method: str | Method, gsd: float, frames: int, target: int = 0, device: str = "auto") -> Array:
    """One date of a cube, finer: ``(4, H, W)``, as a user's call makes it; NaN where nothing was seen."""
    day = ds["time"].values[target]
    sr = superresolve(
        ds, list(A), method, False, gsd=gsd, frames=1 if method == "bicubic" else frames, target=day, device=device
    )
    return np.stack([sr[band].values[0] for band in A])


def gains_of(estimate: Array, base: Array, truth: Array, valid: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """How much better than `base`: in dB of cPSNR, which takes the mean error off, and in SSIM; means over bands."""
    seen = valid & np.isfinite(estimate).all(axis=0)
    variance, base_variance = ((z - truth)[:, seen].astype(np.float64).var(axis=1) for z in (estimate, base))
    psnr = float((10 * np.log10(base_variance / variance)).mean())
    return psnr, _ssim(estimate, truth, seen) - _ssim(base, truth, seen)


def _ssim(x: Array, truth: Array, seen: npt.NDArray[np.bool_]) -> float:
    scores = []
    for band, target in zip(x, truth, strict=True):
        a, b = (np.where(seen, z, 0).astype(np.float64) for z in (band, target))
        b += a[seen].mean() - b[seen].mean()
        b[~seen] = 0
        low, high = np.quantile(b[seen], (0.01, 0.99))
        sums = similar(a, b, seen, a.shape[0], a.shape[1], max(float(high - low), 100.0))
        scores.append(sums[2] / max(sums[3], 1))
    return float(np.mean(scores))


def simulated(
    site: Site,
    methods: Mapping[str, str | Method],
    gsd: float,
    frames: int,
    *,
    noise: float = 0.005,
    dates: bool = False,
    alone: bool = True,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, tuple[float, float]]:
    """The first rung: the site, seen by a sensor with pixels 10 / `gsd` times larger, brought back.

    Parameters
    ----------
    site : Site
    methods : mapping
        Label → what ``method=`` takes; all but bicubic are judged with one frame, with all, and with copies of one.
    gsd : float
        5 or 2.5: what is judged is the factor 10 / `gsd`.
    frames : int
    noise : float
        Of frames, as a share of each band's mean.
    dates : bool
        Whether half of the frames, but not the target, show the place on its other dates, which it must have then.
    alone : bool
        Whether methods are judged with one frame and with copies of one, too.
    seed : int
        For shifts, noise and gains, with the site's name.
    device : str
        As `xsen2.superresolve.superresolve` takes it.

    Returns
    -------
    dict
        Label → dB of cPSNR and SSIM beyond bicubic interpolation of the target.
    """
    zoom = round(10 / gsd)
    rng = np.random.default_rng([seed, *site.name.encode()])
    images: list[Array] = [site.images[0]] * frames
    if dates:
        images = [site.images[1 + i % (len(site.images) - 1)] if i % 2 else site.images[0] for i in range(frames)]
    seen, _ = simulate(images, zoom, frames, rng, noise=noise)
    base, truth = upsample(seen[0], zoom), site.images[0]
    single = cube_of(seen[:1])
    series = cube_of(seen)
    copies = cube_of(np.repeat(seen[:1], frames, axis=0))
    out = {}
    for label, method in methods.items():
        if label == "bicubic":
            continue
        for name, ds, count in ((f"{label}, 1", single, 1), (f"{label}, {frames}", series, frames),
                                (f"{label}{COPIES}", copies, frames)):  # fmt: skip
            if alone or ds is series:
                out[name] = gains_of(made(ds, method, gsd, count, device=device), base, truth, site.valid)
    return out


# Full scale: the truth is not known, but other dates have seen the same ground.


def shift_of(image: Array, reference: Array) -> Floats:
    """Rows and columns, in pixels, by which an image ``(band, H, W)`` lies beyond a reference."""
    stack = np.stack([reference, image]).astype(np.float32)
    sums = sums_of(stack, np.ones(stack.shape[-2:], bool))
    return np.asarray(fitted(sums, len(image), None).shifts[1])


def correlation(one: Array, other: Array) -> tuple[Floats, Floats]:
    """Fourier ring correlation of two images ``(band, H, W)``: frequencies in cycles per pixel, and mean over bands.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    >>> frequency, shared = correlation(image, image)
    >>> round(float(shared.min()), 3)
    1.0
    """
    height, width = one.shape[-2:]
    window = np.outer(np.hanning(height), np.hanning(width))
    spectra = [np.fft.rfft2((x - x.mean(axis=(1, 2), keepdims=True)) * window) for x in (one, other)]
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    rings = min(height, width) // 2
    ring = np.minimum((f * 2 * rings).round().astype(int), rings).ravel()
    cross = np.stack([np.bincount(ring, z.ravel(), rings + 1) for z in (spectra[0] * spectra[1].conj()).real])
    power = [np.stack([np.bincount(ring, z.ravel(), rings + 1) for z in np.abs(x) ** 2]) for x in spectra]
    shared = (cross / np.sqrt(np.maximum(power[0] * power[1], 1e-30))).mean(axis=0)
    return np.arange(rings + 1)[1:-1] / (2 * rings), shared[1:-1]


def falls(frequency: Floats, shared: Floats, under: float = 1 / 7) -> float:
    """The frequency at which a curve, smoothed over five rings, first falls under a threshold; else the last one."""
    smooth = np.convolve(np.pad(shared, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    below = np.flatnonzero(smooth < under)
    return float(frequency[below[0]] if below.size else frequency[-1])


@dataclass
class Series:
    """Scores at full scale of one method: lists over targets.

    Attributes
    ----------
    reflectance, angle, shift : list of float
        How the result, degraded, differs from the target: mean absolute difference in DN, mean spectral angle in
        degrees, how far it is off in 10 m pixels.
    unseen : list of float
        RMSE of a date that was not in the stack, predicted from the result, divided by that from bicubic interpolation.
    agree : list of float
        Cycles per 10 m pixel at which results of two disjoint stacks cease to agree. What one date can hold ends at
        0.5.
    """

    reflectance: list[float] = field(default_factory=list)
    angle: list[float] = field(default_factory=list)
    shift: list[float] = field(default_factory=list)
    unseen: list[float] = field(default_factory=list)
    agree: list[float] = field(default_factory=list)


def full_scale(
    ds: xr.Dataset,
    methods: Mapping[str, str | Method],
    gsd: float,
    frames: int,
    *,
    targets: int = 4,
    device: str = "auto",
) -> dict[str, Series]:
    """The other rungs, of real dates of one place.

    Parameters
    ----------
    ds : xarray.Dataset
        Clear dates alone: the four 10 m bands in DN, ``(time, y, x)``, with at least twice as many dates as `frames`.
    methods : mapping
        Label → what ``method=`` takes, bicubic among them.
    gsd, frames, device
        As `simulated` takes them.
    targets : int
        Dates that are made, spread evenly.

    Raises
    ------
    SourceError
        If there are too few dates.
    """
    values = np.stack([ds[band].values for band in A], axis=1).astype(np.float32)
    days = ds["time"].values
    if len(days) < 2 * frames:
        raise SourceError(f"{len(days)} clear dates: {2 * frames} are needed to compare results of {frames} dates each")
    out = {label: Series() for label in methods}
    zoom = round(10 / gsd)
    for target in np.linspace(1, len(days) - 2, targets).round().astype(int):
        near = np.argsort(np.abs(days - days[target]), kind="stable")[1:]
        held, rest = near[0], near[1:]
        stack = np.sort(np.r_[target, rest[: frames - 1]])
        mine = np.sort(np.r_[target, rest[0 : 2 * frames : 2][: frames - 1]])
        yours = np.sort(np.r_[held, rest[1 : 2 * frames : 2][: frames - 1]])
        reference, other = values[target], values[held]
        away = shift_of(other, reference)
        errors = {}
        for label, method in methods.items():
            sr = made(
                cube_of(values[stack], days[stack]), method, gsd, frames, int(np.searchsorted(stack, target)), device
            )
            back = _observed(sr, zoom, np.zeros(2))
            scores = out[label]
            scores.reflectance.append(float(np.abs(back - reference).mean()))
            scores.angle.append(_angle(back, reference))
            scores.shift.append(float(np.hypot(*shift_of(back, reference))))
            errors[label] = _predicted(_observed(sr, zoom, away), other)
            pair = [
                made(cube_of(values[dates], days[dates]), method, gsd, frames, int(np.searchsorted(dates, of)), device)
                for dates, of in ((mine, target), (yours, held))
            ]
            pair[1] = _moved_back(pair[1], away * zoom)
            frequency, shared = correlation(pair[0], pair[1])
            scores.agree.append(falls(frequency * zoom, shared))
        for label, error in errors.items():
            out[label].unseen.append(error / errors["bicubic"])
    return out


def _observed(sr: Array, zoom: int, shift: Floats) -> Array:
    """What the sensor would show of a fine image, so many 10 m pixels aside."""
    rng = np.random.default_rng(0)
    frames, _ = simulate([sr, sr], zoom, 2, rng, noise=0.0, gain=0.0, shifts=[[0.0, 0.0], list(shift)])
    out: Array = frames[1]
    return out


def _moved_back(x: Array, shift: Floats) -> Array:
    pad = 16
    wide = np.pad(x, [(0, 0), (pad, pad), (pad, pad)], mode="symmetric")
    return np.asarray(moved(wide, -shift)[:, pad:-pad, pad:-pad], np.float32)


def _angle(x: Array, y: Array) -> float:
    cosine = (x * y).sum(axis=0) / np.maximum(np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0), 1e-6)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())


def _predicted(x: Array, seen: Array) -> float:
    """RMSE of a date's bands, each predicted by a line from an image; mean over bands, without three pixels of edge."""
    errors = []
    for band, target in zip(x[:, 3:-3, 3:-3], seen[:, 3:-3, 3:-3], strict=True):
        slope, offset = np.polyfit(band.ravel(), target.ravel(), 1)
        errors.append(float(np.sqrt(np.mean((slope * band + offset - target) ** 2))))
    return float(np.mean(errors))


def series_of(path: Path, clear: float = 0.98) -> xr.Dataset:
    """The clear dates of an ``.npz`` file with ``b10`` ``(T, 4, H, W)``, ``time`` and ``clear``, shares of pixels.

    Raises
    ------
    SourceError
        If it is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            bands, times, share = file["b10"], file["time"], file["clear"]
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{path} holds no series with b10, time and clear: {error}") from error
    kept = np.flatnonzero((share >= clear) & (bands.min(axis=(1, 2, 3)) > 0))
    height, width = (n // 6 * 6 for n in bands.shape[-2:])
    days = np.array([str(t)[:19] for t in times[kept]], "datetime64[ns]")
    order = np.argsort(days, kind="stable")
    return cube_of(bands[kept][order][:, :, :height, :width].astype(np.float32), days[order])


def as_dict(series: Mapping[str, Series]) -> dict[str, dict[str, Any]]:
    """Means over targets, for a table."""
    return {
        label: {name: float(np.mean(values)) for name, values in vars(scores).items() if values}
        for label, scores in series.items()
    }
