"""Wiener fusion: the linear estimate of the fine image from frames that are moved, blurred and coarse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt

from xsen2.bands import BANDS
from xsen2.engine.block import mixed
from xsen2.engine.fill import fill
from xsen2.methods.protocol import Array, Mask
from xsen2.multitemporal.fusion import Fit, Fusion
from xsen2.multitemporal.registration import FARTHEST, NOISE, TILE

__all__ = ["Wiener"]

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.intp]

SLOPE = 2.6
"""Power falls off as frequency to the minus this, before any blur: as of most scenes."""

_RADIUS = 2  # pixels of a frame, round the one that is nearest, from which a fine pixel is made
_ROUNDED = int(np.ceil(FARTHEST))
_LARGEST = 1 / 100  # cycles per pixel under which power does not grow any more
_STEP = 0.01  # pixels between distances that covariances are tabled for
_DARK = 5.0  # DN, of noise where there is no light
_SHARED = 0.5  # correlation of what has changed from the target to two other dates: it stays so for a while
_USUAL = 3e-2  # noise, as a share of the scene's power, on land
_CALIBRATED = 1.2  # standard errors are so many times what the model says, where the truth is known
_STRIP = 2**15  # pixels that are made at once


@lru_cache(maxsize=64)
def _covariance(sigma: float, other: float, slope: float, farthest: float) -> Floats:
    """Covariances by distance, in steps of `_STEP`, of two images with Gaussian blurs of these sigmas in pixels.

    The scene's power falls as ``(f² + f0²)^(-slope / 2)``, in every direction alike; they are its Hankel transform.
    """
    from scipy.special import j0  # here: importing it takes a while

    highest = 2.5 / (np.pi * np.hypot(sigma, other))  # cycles per pixel: beyond it the blurs leave nothing
    f = np.concatenate([np.linspace(0, 0.1, 200, endpoint=False), np.linspace(0.1, highest, 600)])
    middle, width = (f[1:] + f[:-1]) / 2, np.diff(f)
    power = (middle**2 + _LARGEST**2) ** (-slope / 2) * np.exp(-2 * (np.pi * middle) ** 2 * (sigma**2 + other**2))
    distances = np.arange(int(farthest / _STEP) + 3) * _STEP
    return np.asarray(2 * np.pi * j0(2 * np.pi * np.outer(distances, middle)) @ (power * middle * width))


def _at(table: Floats, distance: Floats) -> Floats:
    place = distance / _STEP
    low = place.astype(int)
    part = place - low
    return np.asarray(table[low] * (1 - part) + table[low + 1] * part)


@dataclass(frozen=True)
class Wiener(Fusion):
    """Linear minimum mean square estimate of the fine image, local.

    Each frame is the scene moved by its shift, blurred as the band's MTF says and sampled, with noise; what has changed
    since the target's date is noise that looks like a scene. The scene is a random one whose power falls off with
    frequency. Then the best linear estimate of a fine pixel, from 5 x 5 pixels of each frame, has the same weights
    everywhere: one bank of filters for each set of frames that is clear at a pixel. Weights add up to one.

    Nothing goes further beyond what the target shows within 3 x 3 pixels than it differs there, or below 0.

    Standard errors are those of the model, scaled by how much the image varies round a pixel.
    """

    name: str = "wiener"

    @property
    def halo(self) -> Mapping[int, int]:
        return {10: 2 * (_RADIUS + _ROUNDED)}

    def with_uncertainty(self) -> Self:
        return replace(self, uncertainty=True)

    def fuse(self, frames: Array, fit: Fit) -> Array:
        from scipy.ndimage import minimum_filter

        edge, zoom = 2 * (_RADIUS + _ROUNDED), self.zoom
        seen = np.isfinite(frames[:, 0])
        complete = seen.all()
        height, width = (n - 2 * edge for n in frames.shape[-2:])
        out = np.zeros((len(self.bands), height, zoom, width, zoom), np.float32)
        errors = np.zeros_like(out) if self.uncertainty else None
        offsets = np.rint(fit.shifts).astype(np.intp)
        code = np.zeros((height, width), np.int64)
        if not complete:
            frames = _filled(frames, seen)
            for n, (down, right) in enumerate(offsets):
                near = minimum_filter(seen[n], 2 * _RADIUS + 1, mode="nearest")
                code |= (_cut(near, edge, down, right)).astype(np.int64) << n
            alone = np.zeros_like(code)
            for n in range(len(frames)):
                alone |= _cut(seen[n], edge, 0, 0).astype(np.int64) << n
            code = np.where(code == 0, alone, code)
        else:
            code += (1 << len(frames)) - 1
        for subset in np.unique(code):
            used = np.flatnonzero([subset >> n & 1 for n in range(len(frames))])
            if not len(used):
                continue
            rows, columns = np.nonzero(code == subset)
            for band in range(len(self.bands)):
                weights, variance = self.weights(fit.take(used), band)
                taps, places = weights.astype(np.float32), (rows + edge, columns + edge)
                self._apply(out[band], frames[used, band], offsets[used], taps, *places, edge)
                if errors is not None:
                    errors[band, rows, :, columns] = np.sqrt(variance).reshape(zoom, zoom)
        _bound(out, frames[0], edge)
        if errors is not None:
            busy = [_busy(frames[0, band], edge) / self._expected(fit, band) for band in range(len(self.bands))]
            errors *= _CALIBRATED * np.sqrt(np.stack(busy), dtype=np.float32)[:, :, None, :, None]
            errors = np.hypot(
                errors, np.maximum(NOISE * fit.level, _DARK).astype(np.float32)[:, None, None, None, None]
            )
            out = np.concatenate([out, errors])
        out = out.reshape(len(out), height * zoom, width * zoom)
        return np.pad(out, [(0, 0), (edge * zoom, edge * zoom), (edge * zoom, edge * zoom)])

    def _apply(
        self, out: Array, frames: Array, offsets: Whole, weights: Array, rows: Whole, columns: Whole, edge: int
    ) -> None:
        width = frames.shape[-1]
        flat = frames.reshape(len(frames), -1)
        taps = np.arange(-_RADIUS, _RADIUS + 1)
        steps = [(taps[:, None] + down) * width + taps + right for down, right in offsets]
        zoom = self.zoom
        for start in range(0, len(rows), _STRIP):
            r, c = rows[start : start + _STRIP], columns[start : start + _STRIP]
            place = r * width + c
            middle = flat[0][place + offsets[0][0] * width + offsets[0][1]]
            x = np.empty((weights.shape[1], len(place)), np.float32)
            k = 0
            for n, step in enumerate(steps):
                for by in step.ravel():
                    np.subtract(flat[n][place + by], middle, out=x[k])
                    k += 1
            fine = mixed(weights, x) + middle
            out[r - edge, :, c - edge] = fine.T.reshape(-1, zoom, zoom)

    def weights(self, fit: Fit, band: int) -> tuple[Floats, Floats]:
        """``(zoom², frames * taps)``: what the taps of the frames add to each fine pixel; and its relative variance."""
        sigma = BANDS[(self.sensed or self.bands)[band]].psf_sigma
        taps = np.stack(np.meshgrid(*[np.arange(-_RADIUS, _RADIUS + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
        offsets = np.rint(fit.shifts)
        at = (taps + (offsets - fit.shifts)[:, None]).reshape(-1, 2)
        whose = np.repeat(np.arange(len(fit.shifts)), len(taps))
        fine = (np.stack(np.meshgrid(*[np.arange(self.zoom)] * 2, indexing="ij"), -1).reshape(-1, 2) + 0.5) / self.zoom
        fine -= 0.5
        farthest = 2.0 * (_RADIUS + 1) * 1.5
        same = _covariance(sigma, sigma, SLOPE, farthest)
        cross = _covariance(sigma, sigma / self.zoom, SLOPE, farthest)
        fine_variance = _covariance(sigma / self.zoom, sigma / self.zoom, SLOPE, farthest)[0]
        near = _at(same, np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1)))
        change = np.sqrt(fit.change[whose, band])
        shared = np.where(whose[:, None] == whose[None], 1.0, _SHARED)
        k = near * (1 + shared * np.outer(change, change)) + np.eye(len(at)) * self._noise(fit, band)
        right = _at(cross, np.hypot(*(at[:, None] - fine[None]).transpose(2, 0, 1)))
        system = np.block([[k, np.ones((len(k), 1))], [np.ones((1, len(k))), np.zeros((1, 1))]])
        goal = np.vstack([right, np.ones((1, len(fine)))])
        solution = np.linalg.solve(system, goal)
        variance = fine_variance - (solution * goal).sum(axis=0)
        return solution[:-1].T, np.maximum(variance, 0)

    def _expected(self, fit: Fit, band: int) -> float:
        """The variance, as a share of the scene's power, that a frame has within 3 x 3 pixels, see `_busy`."""
        sigma = BANDS[(self.sensed or self.bands)[band]].psf_sigma
        same = _covariance(sigma, sigma, SLOPE, 4.0)
        at = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 2, indexing="ij"), -1).reshape(-1, 2)
        weights = np.full(9, -1 / 9)
        weights[4] += 1
        near = _at(same, np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1))) + np.eye(9) * self._noise(fit, band)
        return float(weights @ near @ weights)

    def _noise(self, fit: Fit, band: int) -> float:
        """The variance of noise, as a share of the scene's power."""
        if not fit.power[band].any():  # an image too small, or too cloudy, to tell
            return _USUAL
        rings = np.arange(3, TILE // 4)
        f = rings / TILE
        sigma = BANDS[(self.sensed or self.bands)[band]].psf_sigma
        model = (f**2 + _LARGEST**2) ** (-SLOPE / 2) * np.exp(-4 * (np.pi * f * sigma) ** 2)
        noise = (NOISE * fit.level[band]) ** 2
        power = np.maximum(fit.power[band, rings] - noise, 1e-3 * noise + 1e-6)
        amplitude = float(np.exp(np.log(power / model).mean()))
        return float(np.clip(noise / amplitude, 1e-6, 1e3))


def _bound(out: Array, frame: Array, edge: int) -> None:
    """Keep fine pixels within what 3 x 3 pixels around show, and as much again; and from 0, where all around is."""
    from scipy.ndimage import maximum_filter, minimum_filter

    low, high = (f(frame, (1, 3, 3))[:, edge:-edge, edge:-edge] for f in (minimum_filter, maximum_filter))
    least, most = 2 * low - high, 2 * high - low
    least = np.where(low >= 0, np.maximum(least, 0), least)
    np.clip(out, least[:, :, None, :, None], most[:, :, None, :, None], out=out)


def _busy(x: Array, edge: int) -> Floats:
    """How much an image varies round each pixel: the mean square of what differs from the mean of 3 x 3 pixels."""
    from scipy.ndimage import uniform_filter

    x = x.astype(np.float64)
    fine = uniform_filter((x - uniform_filter(x, 3)) ** 2, 2 * _RADIUS + 3)
    return np.asarray(np.maximum(fine[edge:-edge, edge:-edge], 0))


def _cut(x: Mask, edge: int, down: int, right: int) -> Mask:
    height, width = x.shape
    return x[edge + down : height - edge + down, edge + right : width - edge + right]


def _filled(frames: Array, seen: Mask) -> Array:
    """NaN filled with the mean of the other frames, and where none has a pixel, from around."""
    count = seen.sum(axis=0)
    total = np.where(seen[:, None], frames, np.float32(0)).sum(axis=0)
    mean = total / np.maximum(count, 1)
    valid = np.broadcast_to(count > 0, mean.shape)
    if not valid.all():
        mean = fill(mean, valid, _RADIUS + _ROUNDED)
    return np.where(seen[:, None], frames, mean)
