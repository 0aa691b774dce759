"""Training data for networks that make one finer image of many dates: scenes as a coarser sensor sees them repeatedly.

The truth is a 10 m image. Each frame is what a sensor with pixels `zoom` times larger would show of it: blurred by that
sensor, sampled at a random shift, with noise, another gain, haze, clouds and changes of the ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from scipy.ndimage import uniform_filter
from torch import nn

from xsen2.bands import A
from xsen2.networks.cards import GAIN
from xsen2.networks.inference import filled
from xsen2.networks.kriging import PSF
from xsen2.networks.twogrid import upsample
from xsen2.training.fit import HALF, DatesRecipe
from xsen2.training.scenes import Scene

__all__ = ["DatesTask", "Ground", "Sample", "cube_of", "gain", "grounds", "least", "observe", "samples"]

Array = npt.NDArray[np.float32]

MARGIN = 4
"""Native pixels round a patch that its frames depend on too: the reach of the blur and of the largest shift."""


@dataclass(frozen=True)
class Ground:
    """A place on the fine grid, at one date or several: DN / 2000."""

    name: str
    images: tuple[Array, ...]  # (4, H, W) each
    valid: npt.NDArray[np.bool_]  # (H, W)
    unit: float = 1.0  # what errors are divided by


@dataclass(frozen=True)
class Sample:
    """A batch: the inputs of a network, and the truth."""

    frames: Array  # (B, N, 4, h, w)
    mask: Array  # (B, N, 1, h, w)
    shifts: Array  # (B, N, 2), as estimated
    change: Array  # (B, N)
    errors: Array  # (B, N)
    truth: Array  # (B, 4, zoom * h, zoom * w)
    weight: Array  # (B, zoom * h, zoom * w)


def grounds(scenes: Sequence[Scene], side: int) -> list[Ground]:
    """Scenes as places; dates of one place that share a grid are kept together, and each of them is the first once.

    Parameters
    ----------
    scenes : sequence of Scene
    side : int
        Pixels of 10 m along each side that a place must have; smaller ones are mirrored.
    """
    out = []
    for scene in scenes:
        image = scene.bands[10] / np.float32(GAIN)
        others = tuple(
            other.bands[10] / np.float32(GAIN)
            for other in scenes
            if other is not scene
            and other.epsg is not None
            and (other.epsg, other.corner, other.level) == (scene.epsg, scene.corner, scene.level)
            and other.bands[10].shape == scene.bands[10].shape
        )
        valid = scene.valid[10].astype(bool)
        if not valid.any():
            continue
        missing = [max(0, side - n) for n in valid.shape]
        pad = [(gap // 2, gap - gap // 2) for gap in missing]
        images = tuple(np.pad(x, [(0, 0), *pad], mode="symmetric") for x in (image, *others))
        out.append(Ground(scene.name, images, np.pad(valid, pad, mode="constant")))
    return out


def observe(
    ground: Array,
    shift: tuple[float, float],
    zoom: int,
    size: tuple[int, int],
    margin: int,
    blur: tuple[float, float] = (1.0, 1.0),
) -> Array:
    """A patch of ground as a coarser sensor shows it.

    Parameters
    ----------
    ground : numpy.ndarray
        ``(band, H, W)``, with `margin` fine pixels on each side.
    shift : tuple of float
        Rows and columns, in coarse pixels, by which what a pixel shows lies beyond its place.
    zoom : int
    size : tuple of int
        Coarse pixels.
    margin : int
    blur : tuple of float
        Factors on the sigma of the ``mtf`` operator, along rows and columns.

    Returns
    -------
    numpy.ndarray
        ``(band, *size)``.
    """
    sigma = PSF * math.sqrt(zoom**2 - 1)
    kernels = []
    for n, u, b, length in zip(size, shift, blur, ground.shape[1:], strict=True):
        centres = margin + np.arange(n) * zoom + (zoom - 1) / 2 + u * zoom
        kernel = np.exp(-0.5 * ((np.arange(length) - centres[:, None]) / (sigma * b)) ** 2)
        kernels.append((kernel / kernel.sum(1, keepdims=True)).astype(np.float32))
    # By torch, which keeps to the threads it is given: NumPy's library takes all cores, and waits for them in a loop,
    # which made training beside other work six times as slow.
    with torch.autocast("cpu", enabled=False):
        rows, columns = (torch.from_numpy(kernel) for kernel in kernels)
        out: Array = (rows @ torch.from_numpy(np.ascontiguousarray(ground)) @ columns.T).numpy()
    return out


def _blob(rng: np.random.Generator, size: tuple[int, int], share: float) -> Array:
    """A smooth field from 0 to 1 that is over a half on about `share` of the pixels."""
    y, x = (
        np.arange(n, dtype=np.float32)[(slice(None), None) if i == 0 else (None, slice(None))]
        for i, n in enumerate(size)
    )
    field = np.zeros(size, np.float32)
    for _ in range(6):
        a, b, p = rng.normal(0, 0.25), rng.normal(0, 0.25), rng.uniform(0, 2 * np.pi)
        field += np.float32(rng.random()) * np.cos(a * y + b * x + p, dtype=np.float32)
    edge = np.quantile(field, 1 - share)
    return np.asarray(1 / (1 + np.exp(-(field - edge) * 8)), np.float32)


def least(recipe: DatesRecipe) -> int:
    """Pixels of 10 m along each side that a place must have."""
    return (recipe.patch + 2 * MARGIN) * recipe.zoom


def samples(places: Sequence[Ground], recipe: DatesRecipe, start: int = 0) -> Iterator[Sample]:
    """Random batches for ever; batch ``start + i`` is a function of the recipe's seed and that number alone.

    A patch picks a place by the root of its area.
    """
    chance = np.sqrt([p.valid.size for p in places])
    chance /= chance.sum()
    step = start
    while True:
        rng = np.random.default_rng((recipe.seed, step))
        count = int(rng.choice(list(recipe.counts)))
        rows = [_row(places[i], recipe, count, rng) for i in rng.choice(len(places), recipe.batch, p=chance)]
        yield Sample(*(np.stack(part) for part in zip(*rows, strict=True)))
        step += 1


def _row(place: Ground, recipe: DatesRecipe, count: int, rng: np.random.Generator) -> tuple[Array, ...]:
    zoom, patch = recipe.zoom, recipe.patch
    margin = MARGIN * zoom
    side = patch * zoom + 2 * margin
    height, width = place.valid.shape
    y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    turn = int(rng.integers(8))

    def cut(z: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        z = np.rot90(z[..., y : y + side, x : x + side], turn % 4, axes=(-2, -1))
        return z[..., ::-1] if turn >= 4 else z

    reference = np.ascontiguousarray(cut(place.images[0]))
    # Other dates of the place, if there are any; in some samples, some of the frames are taken from them.
    others = [np.ascontiguousarray(cut(z)) for z in place.images[1:]]
    share_of_others = float(rng.choice([0.0, 0.0, 0.3])) if others else 0.0
    wide = rng.random() < 0.15
    true_shifts = rng.uniform(-1, 1, (count, 2)) * (1.0 if wide else 0.5)
    true_shifts[0] = 0
    noise = rng.uniform(0.003, 0.01)
    blur = np.exp(rng.normal(0.03, 0.04, 2))
    level = reference.mean((1, 2), keepdims=True)
    size = (patch, patch)
    frames = np.empty((count, 4, patch, patch), np.float32)
    mask = np.ones((count, 1, patch, patch), np.float32)
    cloudy = rng.random() < 0.3
    changing = rng.random() < 0.15
    hazy = rng.random() < 0.15
    for i in range(count):
        ground = (
            others[int(rng.integers(len(others)))] if i and others and rng.random() < share_of_others else reference
        )
        z = observe(ground, (true_shifts[i, 0], true_shifts[i, 1]), zoom, size, margin, (blur[0], blur[1]))
        if i and changing and rng.random() < 0.4:
            part = _blob(rng, size, rng.uniform(0.02, 0.3)) > 0.5
            z = np.where(part, z[:, ::-1, ::-1] if rng.random() < 0.5 else z * np.float32(rng.uniform(0.6, 1.5)), z)
        if i and hazy and rng.random() < 0.5:
            z = z + np.float32(rng.uniform(-0.03, 0.15)) * _blob(rng, size, 0.4)
        if i:
            z = z * np.exp(rng.normal(0, 0.02) + rng.normal(0, 0.005, (4, 1, 1))).astype(np.float32)
        z = z + np.float32(noise) * np.abs(level) * rng.standard_normal(z.shape, np.float32)
        if cloudy and (i or rng.random() < 0.2) and rng.random() < 0.5:
            part = _blob(rng, size, float(rng.choice([0.05, 0.2, 0.5, 1.0], p=[0.3, 0.4, 0.25, 0.05]))) > 0.5
            if i or not part.all():
                mask[i, 0][part] = 0
        frames[i] = z
    frames = filled(frames, mask > 0, patch)
    error = rng.uniform(0, 0.07)
    estimated_shifts = true_shifts + rng.normal(0, error, true_shifts.shape)
    estimated_shifts[0] = 0
    change = [0.0] + [_change(frames[0], frame, part) for frame, part in zip(frames[1:], mask[1:, 0], strict=True)]
    if rng.random() < 0.03:
        estimated_shifts[1:] = np.nan
    inner = slice(margin, margin + patch * zoom)
    truth = reference[:, inner, inner]
    weight = cut(place.valid)[inner, inner].astype(np.float32) / np.float32(place.unit)
    return (
        frames,
        mask,
        estimated_shifts.astype(np.float32),
        np.array(change, np.float32),
        np.full(count, error, np.float32),
        np.ascontiguousarray(truth),
        np.ascontiguousarray(weight),
    )


def _change(first: Array, other: Array, valid: Array) -> float:
    """Variance of the difference at low frequencies, as a share of that of the first, estimated from whole images.

    The part that noise alone would make is subtracted.
    """
    if valid.mean() < 0.3:
        return 0.0
    smooth = [uniform_filter(z * valid, (1, 5, 5))[:, valid > 0] for z in (first, other)]
    x, y = (z - z.mean(axis=1, keepdims=True) for z in smooth)
    share = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1) + 1e-12)
    return float(np.clip(1 / np.clip(share, 0.3, 1) ** 2 - 1 - 0.02, 0, 2).mean())


def gain(made: Array, bicubic: Array, truth: Array, valid: npt.NDArray[np.bool_]) -> float:
    """How much better than bicubic, in dB of cPSNR: the mean error of each band is taken off; mean over bands.

    Parameters
    ----------
    made, bicubic, truth : numpy.ndarray
        ``(band, H, W)``.
    valid : numpy.ndarray
        ``(H, W)``: pixels that count.

    Examples
    --------
    >>> truth = np.arange(12.0).reshape(1, 3, 4) ** 2
    >>> round(gain(0.9 * truth, 0.8 * truth, truth, np.ones((3, 4), bool)), 2)
    6.02
    """
    mine, theirs = ((z - truth)[:, valid].astype(np.float64).var(axis=1) for z in (made, bicubic))
    return float((10 * np.log10(theirs / mine)).mean())


def cube_of(frames: Array, days: npt.NDArray[np.datetime64] | None = None) -> xr.Dataset:
    """Frames ``(N, 4, H, W)`` DN as a cube of 10 m bands, without a place, a date every fifth day."""
    n, _, height, width = frames.shape
    if days is None:
        days = np.datetime64("2020-01-01", "ns") + 5 * np.arange(n) * np.timedelta64(1, "D")
    y, x = -10.0 * np.arange(height) - 5, 10.0 * np.arange(width) + 5
    return xr.Dataset(
        {band: (("time", "y", "x"), frames[:, i]) for i, band in enumerate(A)}, {"time": days, "y": y, "x": x}
    )


@dataclass(frozen=True)
class DatesTask:
    """To make one finer image of many dates; see `xsen2.training.fit.Task`.

    Attributes
    ----------
    train, validation : sequence of Ground
        The latter are other places; the network's gain over bicubic interpolation at them is logged.
    recipe : DatesRecipe
    """

    train: Sequence[Ground]
    validation: Sequence[Ground]
    recipe: DatesRecipe

    def stream(self, first: int) -> Iterator[Sample]:
        """Batches from number `first` on, for ever."""
        recipe = self.recipe
        places = [replace(place, unit=_unit(place, recipe.zoom)) for place in self.train]
        return samples(places, recipe, first)

    def loss(self, network: nn.Module, batch: Sample, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean absolute errors, each patch's in units of the largest of three errors.

        Those are of bicubic interpolation in that place and in that patch, and of the network in that patch: so a
        desert and a city count alike, and patches whose dates show other ground do not outweigh all others.
        """
        *inputs, truth, weight = (torch.from_numpy(x).to(device) for x in vars(batch).values())
        frames = inputs[0]
        uncertainty = bool(network.uncertainty)
        out = network(*inputs, uncertainty=uncertainty)
        bands = truth.shape[1]
        error = (out[:, :bands] - truth).abs()
        with torch.no_grad():
            valid = (weight > 0).float()[:, None]
            count = bands * valid.sum((1, 2, 3))
            unit = 1 / weight.amax((1, 2)).clamp(min=1e-6)
            for absolute_error in (error, (upsample(frames[:, 0], self.recipe.zoom) - truth).abs()):
                unit = torch.maximum(unit, (absolute_error * valid).sum((1, 2, 3)) / count.clamp(min=1))
            share = valid / unit[:, None, None, None] / count.sum().clamp(min=1)
        loss = (error * share).sum()
        if not uncertainty:
            return loss, torch.zeros(())
        gap = error.detach() - out[:, bands:]
        return loss, (torch.maximum(HALF * gap, (HALF - 1) * gap) * share).sum()

    @cached_property
    def _judged(self) -> list[tuple[Array, Array, Array, npt.NDArray[np.bool_]]]:
        """Frames, estimated shifts, truth and valid pixels of each validation place: always the same eight dates."""
        zoom, most, margin = self.recipe.zoom, 40, MARGIN * self.recipe.zoom
        out = []
        for number, place in enumerate(self.validation):
            rng = np.random.default_rng(number)
            ground = place.images[0]
            size = tuple(min((n - 2 * margin) // zoom, most) for n in ground.shape[1:])
            height, width = (n * zoom + 2 * margin for n in size)
            ground = ground[:, :height, :width]
            true_shifts = rng.uniform(-0.5, 0.5, (8, 2))
            true_shifts[0] = 0
            frames = np.stack([observe(ground, (u[0], u[1]), zoom, (size[0], size[1]), margin) for u in true_shifts])
            frames *= np.where(np.arange(8) > 0, np.exp(rng.normal(0, 0.02, 8)), 1)[:, None, None, None]
            frames += 0.005 * ground.mean((1, 2))[:, None, None] * rng.standard_normal(frames.shape)
            estimated_shifts = true_shifts + rng.normal(0, 0.03, true_shifts.shape)
            estimated_shifts[0] = 0
            inner = slice(margin, -margin), slice(margin, -margin)
            valid = place.valid[:height, :width][inner]
            if valid.mean() > 0.3:
                truth = ground[(slice(None), *inner)]
                out.append((frames.astype(np.float32), estimated_shifts.astype(np.float32), truth, valid))
        return out

    def judge(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
        """Gain of the network over bicubic interpolation in dB, mean over places: with eight dates, and with one."""
        gains: dict[int, list[float]] = {8: [], 1: []}
        network.eval()
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            for frames, shifts, truth, valid in self._judged:
                bicubic = upsample(torch.from_numpy(frames[:1]), self.recipe.zoom)[0].numpy()
                for count, scores in gains.items():
                    x = torch.from_numpy(frames[None, :count]).to(device)
                    mask, errors = torch.ones_like(x[:, :, :1]), torch.full_like(x[:, :, 0, 0, 0], 0.03)
                    estimate = network(x, mask, torch.from_numpy(shifts[None, :count]).to(device), None, errors)
                    scores.append(gain(estimate[0].cpu().numpy(), bicubic, truth, valid))
        if not gains[8]:
            return {}
        return {
            "validation": round(float(np.mean(gains[8])), 3),
            "worst": round(min(gains[8]), 3),
            "one date": round(float(np.mean(gains[1])), 3),
        }

    def start(self, network: nn.Module, initial: Mapping[str, torch.Tensor]) -> None:
        """Take the weights whose shapes fit: of a network for another pixel size, those of its encoder of dates."""
        state = network.state_dict()
        network.load_state_dict(
            state | {k: v.float() for k, v in initial.items() if k in state and v.shape == state[k].shape}
        )


def _unit(place: Ground, zoom: int) -> float:
    """Mean absolute error of bicubic interpolation in a place, in DN / 2000; 5 DN are added because of dark water."""
    height, width = (n // zoom * zoom for n in place.valid.shape)
    truth = place.images[0][:, :height, :width]
    low = observe(truth, (0, 0), zoom, (height // zoom, width // zoom), 0)
    error = np.abs(upsample(torch.from_numpy(low)[None], zoom)[0].numpy() - truth)
    return float(error[:, place.valid[:height, :width]].mean()) + 5 / GAIN
