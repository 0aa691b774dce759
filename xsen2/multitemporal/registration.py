"""How far dates lie from each other, how much brighter they are and how much they differ: by spectra of tiles.

The image is cut into tiles of a lattice, `TILE` pixels wide, of which each date has a spectrum. What two dates have in
common turns the phase of their cross-spectrum by ``2 π f · shift`` (phase correlation); the sum over all tiles tells
the shift. How much they have in common at each frequency, their coherence, says how much a frequency counts: little
where the ground has changed, where there is noise, and where the bands alias. These sums are those of whole tiles,
and so do not depend on how an image is chunked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ALIKE", "CLEAR", "FARTHEST", "NOISE", "TILE", "Fit", "fitted", "sums_of"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

TILE = 60
"""Pixels, along each side, of the tiles whose spectra are taken; blocks begin on their borders."""

CLEAR = 0.95
"""Share of the pixels that a frame must have, of those that any candidate has."""

FARTHEST = 1.5
"""Pixels, in either direction, that a frame may be off."""

ALIKE = 1.0
"""Share of the target's variance that may differ in a frame: what differs by more tells nothing."""

NOISE = 0.005
"""Of a frame, as a share of a band's mean: Sentinel-2's signal-to-noise ratios are 150 to 250."""

_MOST = 0.4  # cycles per pixel: beyond that, aliases outweigh what two dates share
_RINGS = int(_MOST * TILE) + 1
_RANGE = 4.0  # pixels that shifts are looked for, in either direction
_SIDE = 16  # pixels that a tile must have along each side
_SHARE = 0.5  # of a tile that both dates must have
_DOUBT = 0.5  # pixels: what is known of a shift before the pixels are seen
_INDEPENDENT = 0.4  # frequencies of a tapered tile, as a share of all


@dataclass(frozen=True)
class Fit:
    """What sums over the whole image tell of the frames, the target first.

    Attributes
    ----------
    shifts : numpy.ndarray
        ``(N, 2)``, in 10 m pixels: rows and columns by which what a frame shows lies further down and further right
        than in the target, ``frame(p) = target(p - shift)``.
    errors : numpy.ndarray
        ``(N,)``, the standard error of the shifts along either axis.
    gains, offsets : numpy.ndarray
        ``(N, band)``: ``(frame - offset) / gain`` is as bright as the target on the whole; offsets in DN.
    change : numpy.ndarray
        ``(N, band)``: the variance of what differs from the target, as a share of the target's; 0 for itself.
    clear : numpy.ndarray
        ``(N,)``: the share of the pixels that any frame has.
    used : numpy.ndarray
        ``(N,)`` bool: whether it is a frame.
    power : numpy.ndarray
        ``(band, rings)``: the target's power spectrum, DN² per (cycle per pixel)², of frequencies of ``k / TILE``
        cycles per pixel.
    level : numpy.ndarray
        ``(band,)``: mean of the target in DN.
    """

    shifts: Floats
    errors: Floats
    gains: Floats
    offsets: Floats
    change: Floats
    clear: Floats
    used: Mask
    power: Floats
    level: Floats

    @classmethod
    def unknown(cls, frames: int, bands: int) -> Fit:
        """The fit of an image that shows nothing: frames are taken as they are."""
        by_band, ones = np.zeros((frames, bands)), np.ones(frames)
        return cls(
            shifts=np.zeros((frames, 2)),
            errors=np.full(frames, np.inf),
            gains=by_band + 1,
            offsets=by_band,
            change=np.where(np.arange(frames)[:, None] > 0, 0.1, by_band),
            clear=ones,
            used=ones.astype(bool),
            power=np.zeros((bands, _RINGS)),
            level=np.zeros(bands),
        )

    def take(self, index: npt.ArrayLike) -> Fit:
        """The fit of some of the frames."""
        chosen = np.asarray(index)
        names = ("shifts", "errors", "gains", "offsets", "change", "clear", "used")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


@lru_cache(maxsize=1)
def _frequencies() -> tuple[npt.NDArray[np.intp], Floats, npt.NDArray[np.intp], Floats]:
    """Of half a tile's spectrum: which are kept, what they are ``(K, 2)``, their rings, and how often each counts."""
    rows, columns = np.fft.fftfreq(TILE), np.fft.rfftfreq(TILE)
    f = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    ring = np.rint(np.hypot(*f.T) * TILE).astype(int)
    kept = np.flatnonzero((ring < _RINGS) & (ring > 0))
    twice = np.where(f[kept, 1] > 0, 2.0, 1.0)  # the other half is its mirror image
    return kept, f[kept], ring[kept], twice


def sums_of(x: npt.NDArray[np.float32], own: Mask) -> Floats:
    """What a block adds to the sums of its image.

    Parameters
    ----------
    x : numpy.ndarray
        ``(frame, band, H, W)`` DN, the target first, NaN for nodata; from a tile's corner on.
    own : numpy.ndarray
        ``(H, W)``: pixels to count.

    Returns
    -------
    numpy.ndarray
        1-D; `fitted` reads it.
    """
    frames, bands = x.shape[:2]
    kept, _, rings, twice = _frequencies()
    seen = np.isfinite(x).all(axis=1) & own
    counts = np.zeros((frames, 4))  # pixels of its own, and those shared with the target; tiles, and their weight
    counts[:, 0] = seen.sum(axis=(1, 2))
    level = np.zeros((frames, 2, bands))
    cross = np.zeros((frames, bands, len(kept)), np.complex128)
    power = np.zeros((frames, 2, bands, _RINGS))
    for n in range(frames):
        both = seen[0] & seen[n]
        counts[n, 1] = both.sum()
        for k, i in enumerate((0, n)):
            level[n, k] = np.where(both, x[i], 0).sum(axis=(1, 2), dtype=np.float64)
    for rows, columns in _tiles(own.shape):
        valid = seen[:, rows, columns]
        known: dict[bytes, tuple[Any, Floats]] = {}
        for n in range(frames):
            both = valid[0] & valid[n]
            if both.sum() < _SHARE * both.size:
                continue
            key = both.tobytes()
            if key not in known:
                window = _window(both)
                known[key] = (_spectrum(x[0, :, rows, columns], both, window)[:, kept], window)
            target, window = known[key]
            other = target if n == 0 else _spectrum(x[n, :, rows, columns], both, window)[:, kept]
            counts[n, 2:] += 1, (window**2).sum()
            cross[n] += target.conj() * other
            for k, spectrum in enumerate((target, other)):
                weight = twice * np.abs(spectrum) ** 2
                for band in range(bands):
                    power[n, k, band] += np.bincount(rings, weight[band], _RINGS)
    pixels = np.array([seen.any(axis=0).sum()], np.float64)
    return np.concatenate([part.ravel() for part in (pixels, counts, level, cross.view(np.float64), power)])


def _tiles(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    for row in range(0, shape[0], TILE):
        for column in range(0, shape[1], TILE):
            size = min(TILE, shape[0] - row), min(TILE, shape[1] - column)
            if min(size) >= _SIDE:
                yield slice(row, row + size[0]), slice(column, column + size[1])


def _window(valid: Mask) -> Floats:
    """Weights that fall to zero at the edges of a tile and round its holes."""
    from scipy.ndimage import binary_erosion, uniform_filter  # here: importing it takes a while

    tapers = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in valid.shape]
    out = np.multiply.outer(*tapers)
    if not valid.all():
        out = out * uniform_filter(binary_erosion(valid, np.ones((7, 7)), border_value=1).astype(np.float64), 7)
    return np.asarray(out)


def _spectrum(x: npt.NDArray[np.float32], valid: Mask, window: Floats) -> npt.NDArray[np.complex128]:
    """Of a tile's bands, without their mean, ``(band, TILE * (TILE // 2 + 1))``."""
    y = np.where(valid, x, np.float32(0)).astype(np.float64)
    total = max(window.sum(), 1e-9)
    y -= (y * window).sum(axis=(1, 2), keepdims=True) / total
    return np.asarray(np.fft.rfft2(y * window, s=(TILE, TILE)).reshape(len(x), -1))


def fitted(sums: Floats, bands: int, frames: int | None, least: float = CLEAR) -> Fit:
    """The fit of all frames, from the sums over an image.

    Parameters
    ----------
    sums : numpy.ndarray
        Those of `sums_of`, added up over the image.
    bands : int
    frames : int or None
        How many of the candidates may be used, the nearest of those that are clear, and neither off nor changed by
        too much.
    least : float
        Share of the pixels that a frame must have.
    """
    kept, _, rings, twice = _frequencies()
    each = 4 + 2 * bands + bands * (2 * len(kept) + 2 * _RINGS)
    n = (len(sums) - 1) // each
    any_pixel, rest = max(sums[0], 1.0), sums[1:]
    parts = []
    for shape in ((n, 4), (n, 2, bands), (n, bands, 2 * len(kept)), (n, 2, bands, _RINGS)):
        size = int(np.prod(shape))
        parts.append(rest[:size].reshape(shape))
        rest = rest[size:]
    counts, level, cross, power = parts
    complex_cross = np.ascontiguousarray(cross).view(np.complex128)
    fit = Fit.unknown(n, bands)
    members = np.maximum(np.bincount(rings, twice, _RINGS), 1)
    for i in range(n):
        if not counts[i, 1]:
            continue
        means = level[i] / counts[i, 1]
        if i == 0:
            fit.level[:] = means[0]
        if not counts[i, 2]:  # no tile: all that is known is how bright both are
            fit.gains[i] = _bounded(means[1], means[0])
        elif i == 0:
            fit.errors[0] = 0
        else:
            of = _Pair(complex_cross[i], power[i], counts[i, 2])
            shift, fit.errors[i] = of.shift()
            fit.shifts[i] = np.round(shift, 3) + 0.0  # what differs by machines is less
            noise = (NOISE * means[0]) ** 2 * counts[i, 3]
            fit.gains[i], fit.change[i] = of.gains(fit.shifts[i], _bounded(means[1], means[0]), noise)
        if i:
            fit.offsets[i] = means[1] - fit.gains[i] * means[0]
    best = 0 if counts[0, 2] else int(np.argmax(counts[:, 2]))
    if counts[best, 2]:
        fit.power[:] = power[best, 0] / members / max(counts[best, 3], 1e-9)
    fit.clear[:] = counts[:, 0] / any_pixel
    good = (fit.clear >= least) & (np.abs(fit.shifts).max(axis=1) <= FARTHEST) & (fit.change.mean(axis=1) <= ALIKE)
    good[0] = True
    fit.used[:] = good & (np.cumsum(good) <= (n if frames is None else frames))
    return fit


def _bounded(x: Floats, y: Floats) -> Floats:
    """How many times as bright; within bounds, since bands come near 0."""
    return np.asarray(np.clip(np.maximum(x, 1.0) / np.maximum(y, 1.0), 0.5, 2.0))


@dataclass(frozen=True)
class _Pair:
    """Spectra of the target and a frame, summed over tiles.

    Attributes
    ----------
    cross : numpy.ndarray
        ``(band, K)`` complex.
    power : numpy.ndarray
        ``(2, band, rings)`` of both.
    tiles : float
    """

    cross: npt.NDArray[np.complex128]
    power: Floats
    tiles: float

    def coherence(self, shift: Floats) -> Floats:
        """Per band and ring, what both share once the shift is undone: 1 for all, negative for less than nothing."""
        _, f, rings, twice = _frequencies()
        turned = (self.cross * np.exp(2j * np.pi * (f @ shift))).real * twice
        shared = np.stack([np.bincount(rings, band, _RINGS) for band in turned])
        return np.asarray(np.clip(shared / np.sqrt(np.maximum(self.power.prod(axis=0), 1e-30)), -1, 0.995))

    def shift(self) -> tuple[Floats, float]:
        """The likeliest shift, and its standard error."""
        _, f, rings, twice = _frequencies()
        norm = np.sqrt(np.maximum(self.power.prod(axis=0), 1e-30))[:, rings] / self._members[rings]
        phases = self.cross / norm
        weight = np.where((rings > 1) & (rings <= TILE // 4), 1.0, 0.0) * np.ones((len(self.cross), 1))
        shift, error = np.zeros(2), np.inf
        for number in range(4):
            total = (weight * phases).sum(axis=0) * twice
            if number == 0:
                shift = _highest(total, f)
            shift, error = _climb(total, f, shift)
            shared = self.coherence(shift)
            # Chance alone makes spectra of so few waves look alike.
            floor = 1.5 / np.sqrt(np.maximum(self.tiles * self._members * _INDEPENDENT, 1))
            shared = np.where(shared > floor, shared, 0)
            shared[:, :1] = 0
            ratio = shared / (1 - shared**2)
            # Bands show the same ground: together they know little more than the best of them.
            ratio = ratio * ratio.max(axis=0) / np.maximum(ratio.sum(axis=0), 1e-12)
            weight = (ratio * self.tiles * _INDEPENDENT)[:, rings]
        return shift, error

    @property
    def _members(self) -> Floats:
        _, _, rings, twice = _frequencies()
        return np.asarray(np.maximum(np.bincount(rings, twice, _RINGS), 1))

    def gains(self, shift: Floats, bright: Floats, noise: Floats) -> tuple[Floats, Floats]:
        """Per band the factor on contrast, near `bright`, that on brightness; and the share of what differs.

        Every wave counts alike, however strong: change falls off with frequency as the scene does, and if strong waves
        counted for more it would be a few of the longest that decide. `noise` is the power of each band's noise.
        """
        _, f, rings, twice = _frequencies()
        turned = (self.cross * np.exp(2j * np.pi * (f @ shift))).real * twice
        used = slice(2, TILE // 4 + 1)
        members = self._members[used]
        shared = np.stack([np.bincount(rings, band, _RINGS) for band in turned])[:, used]
        mine, theirs = np.maximum(self.power[:, :, used], 1e-9)
        noise = noise[:, None] * members
        signal = np.maximum(mine - noise, 0.1 * mine)
        each = shared / signal
        slope = each @ members / members.sum()
        alike = np.clip(slope / np.sqrt(np.maximum((theirs - noise) / signal, 0.1) @ members / members.sum()), 1e-3, 1)
        waves = max(self.tiles * members.sum() / 2 * _INDEPENDENT, 1)
        variance = slope**2 * (1 / alike**2 - 1) / waves  # variance of the slope
        trust = 0.05**2 / (0.05**2 + variance)
        gain = np.clip(trust * slope + (1 - trust) * bright, 0.5, 2.0)[:, None]
        left = theirs / gain**2 - 2 * shared / gain + mine - noise * (1 + 1 / gain**2)
        return gain[:, 0], np.maximum(left / signal, 0) @ members / members.sum()


def _highest(total: npt.NDArray[np.complex128], f: Floats) -> Floats:
    """The highest point of a correlation surface, to a quarter of a pixel."""
    part = 4
    size = part * TILE
    rows, columns = np.rint(f * TILE).astype(int).T
    spectrum = np.zeros((size, size // 2 + 1), np.complex128)
    spectrum[rows % size, columns] = total / np.where(columns > 0, 2, 1)  # `total` counts both halves
    surface = np.fft.irfft2(spectrum, s=(size, size))
    steps = np.arange(-int(_RANGE * part), int(_RANGE * part) + 1)
    near = surface[np.ix_(steps % size, steps % size)]
    return np.asarray(steps[list(np.unravel_index(np.argmax(near), near.shape))] / part)


def _climb(total: npt.NDArray[np.complex128], f: Floats, start: Floats) -> tuple[Floats, float]:
    """Newton's steps to the top from near it, with what was known before; and the standard error there."""
    at = start
    two_pi_f = 2 * np.pi * f
    curve = np.eye(2)
    for _ in range(8):
        turned = total * np.exp(1j * (two_pi_f @ at))
        slope = -(turned.imag @ two_pi_f) - at / _DOUBT**2
        curve = (two_pi_f * turned.real[:, None]).T @ two_pi_f + np.eye(2) / _DOUBT**2
        values, axes = np.linalg.eigh(curve)
        step = axes @ ((axes.T @ slope) / np.maximum(np.abs(values), 1e-6))
        at = at + np.clip(step, -0.25, 0.25)
        if np.abs(step).max() < 1e-4:
            break
    error = float(np.sqrt(np.trace(np.linalg.inv(curve)) / 2)) if np.linalg.eigvalsh(curve)[0] > 0 else np.inf
    return at, error
