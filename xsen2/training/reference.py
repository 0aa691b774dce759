"""A user's own sharper images as the truth: from other sensors and other days, slightly shifted.

The parts can be used separately: cleaning of a collection, matching of two sensors, a loss that tolerates an unknown
shift and brightness, and a task for `xsen2.training.fit.learn`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from xsen2.errors import MethodError, SourceError
from xsen2.methods.bicubic import upsample as bicubic
from xsen2.networks import kriging
from xsen2.networks.cards import GAIN, Card
from xsen2.networks.inference import filled
from xsen2.networks.load import tensors
from xsen2.progress import ProgressLike
from xsen2.training.dates import Sample, observe
from xsen2.training.export import write
from xsen2.training.fit import HALF, DatesRecipe, Run, learn

__all__ = [
    "Acquisition",
    "Loss",
    "ReferenceTask",
    "adapt",
    "alike",
    "clean",
    "corrected",
    "matched",
    "nearest",
]

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Acquisition:
    """A stack of dates, and a sharper image of the same ground from another sensor.

    Attributes
    ----------
    name : str
        Acquisitions of one name are of one place: those that judge must have another.
    frames : numpy.ndarray
        float32 DN ``(N, 4, H, W)``, B02, B03, B04, B08; the date nearest to the sharper image first; NaN where a date
        has no data, or is hidden.
    shifts : numpy.ndarray
        ``(N, 2)``: rows and columns, in pixels, by which what a frame shows lies further down and further right than in
        the first one, as `xsen2.multitemporal.registration` finds them.
    truth : numpy.ndarray
        float32 DN ``(4, zoom * H, zoom * W)``: the sharper image on the finer grid, NaN where it has no data.
    apart : float
        Days between the first frame and the sharper image.
    """

    name: str
    frames: Array
    shifts: npt.NDArray[np.float64]
    truth: Array
    apart: float = 0.0

    @property
    def zoom(self) -> int:
        """Finer pixels along each side of a frame's pixel."""
        return int(self.truth.shape[-1] // self.frames.shape[-1])

    def seen(self) -> Mask:
        """``(zoom * H, zoom * W)``: where the sharper image has all bands."""
        return np.asarray(np.isfinite(self.truth).all(axis=0))


# Cleaning: what is not of the same ground teaches the wrong thing.


def nearest(found: Sequence[Acquisition], days: float = 30.0) -> list[Acquisition]:
    """Of each place the acquisition whose dates lie closest in time, if that is within so many days.

    Examples
    --------
    >>> empty = np.zeros((1, 4, 2, 2), np.float32), np.zeros((1, 2)), np.zeros((4, 4, 4), np.float32)
    >>> acquisitions = [
    ...     Acquisition("a", *empty, apart=9),
    ...     Acquisition("a", *empty, apart=2),
    ...     Acquisition("b", *empty, apart=90),
    ... ]
    >>> [(acquisition.name, acquisition.apart) for acquisition in nearest(acquisitions)]
    [('a', 2)]
    """
    out: dict[str, Acquisition] = {}
    for acquisition in found:
        if abs(acquisition.apart) <= days and (
            acquisition.name not in out or abs(acquisition.apart) < abs(out[acquisition.name].apart)
        ):
            out[acquisition.name] = acquisition
    return list(out.values())


def alike(one: Acquisition) -> tuple[float, float]:
    """How like the first frame the sharper image is, once it is as coarse: SSIM and PSNR in dB, means over bands.

    Brightness and contrast of each band are matched first: sensors differ in them. 0 and -inf if nothing is seen.
    """
    zoom = one.zoom
    height, width = one.frames.shape[-2:]
    seen = one.seen().reshape(height, zoom, width, zoom).all(axis=(1, 3)) & np.isfinite(one.frames[0]).all(axis=0)
    if seen.sum() < 64:
        return 0.0, -np.inf
    level = np.nanmean(one.truth, axis=(1, 2), keepdims=True)
    filled_truth = np.where(np.isfinite(one.truth), one.truth, level).astype(np.float32)
    coarse = observe(filled_truth, (0, 0), zoom, (height, width), 0)
    ssim, psnr = [], []
    for mine, theirs in zip(one.frames[0], coarse, strict=True):
        x, y = mine[seen].astype(np.float64), theirs[seen].astype(np.float64)
        y = (y - y.mean()) * (x.std() / max(y.std(), 1e-6)) + x.mean()
        similarity = float(((x - x.mean()) * (y - y.mean())).mean() / max(x.var(), 1e-12))
        span = max(float(np.ptp(np.quantile(x, (0.01, 0.99)))), 1.0)
        ssim.append(similarity)
        psnr.append(20 * np.log10(span / max(float(np.sqrt(((x - y) ** 2).mean())), 1e-6)))
    return float(np.mean(ssim)), float(np.mean(psnr))


def clean(
    found: Sequence[Acquisition], *, clear: float = 0.8, ssim: float = 0.6, psnr: float = 15.0, days: float = 30.0
) -> list[Acquisition]:
    """Those that teach something: clear enough, of the same ground, of each place the closest in time.

    Parameters
    ----------
    found : sequence of Acquisition
    clear : float
        Share of the pixels that both the first frame and the sharper image must have.
    ssim, psnr : float
        What `alike` must give at least: what is less is snow, flood, harvest, or another place.
    days : float
        See `nearest`.

    Raises
    ------
    SourceError
        If none is left; the message counts what was left out by each criterion.
    """
    lost = {"clouds": 0, "difference": 0, "time": 0}
    left = []
    for acquisition in found:
        share = min(float(acquisition.seen().mean()), float(np.isfinite(acquisition.frames[0]).all(axis=0).mean()))
        if share < clear:
            lost["clouds"] += 1
            continue
        similarity, ratio = alike(acquisition)
        if similarity < ssim or ratio < psnr:
            lost["difference"] += 1
            continue
        left.append(acquisition)
    out = nearest(left, days)
    lost["time"] = len(left) - len(out)
    if not out:
        raise SourceError(
            f"none of {len(found)} acquisitions can be learnt from: {lost['clouds']} are under {clear:.0%} clear, "
            f"{lost['difference']} differ too much, {lost['time']} are over {days:g} days apart. Loosen clear=, ssim=, "
            "psnr= or days=, or add others"
        )
    return out


# What makes two sensors comparable.


def matched(image: Array, like: Array, levels: int = 256) -> Array:
    """An image whose bands have the histograms of another's: for targets of another sensor, whose bands differ.

    Parameters
    ----------
    image, like : numpy.ndarray
        ``(band, H, W)`` and ``(band, h, w)`` of the same ground, NaN for nodata; sizes may differ.
    levels : int
        Quantiles that are matched; between them values are interpolated, beyond them moved alike.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> ours = rng.normal(1000, 200, (1, 32, 32)).astype(np.float32)
    >>> bool(np.abs(matched(1.3 * ours + 50, ours) - ours).max() < 20)
    True
    """
    share = np.linspace(0, 1, levels)
    out = np.empty_like(image, np.float32)
    for i, (band, other) in enumerate(zip(image, like, strict=True)):
        seen = np.isfinite(band)
        if not seen.any() or not np.isfinite(other).any():
            out[i] = band
            continue
        source, goal = np.quantile(band[seen], share), np.quantile(other[np.isfinite(other)], share)
        out[i] = np.where(seen, np.interp(np.where(seen, band, source[0]), source, goal), np.nan)
    return out


def corrected(made: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What was made, as bright as the truth: the mean of ``truth - made`` of each band is added.

    Parameters
    ----------
    made, truth : torch.Tensor
        (B, band, H, W).
    weight : torch.Tensor
        (B, 1, H, W), 0 where the truth does not count.
    """
    count = weight.sum((2, 3), keepdim=True).clamp(min=1e-6)
    return made + ((truth - made) * weight).sum((2, 3), keepdim=True) / count


@dataclass(frozen=True)
class Loss:
    """How far an image is from a truth that was taken by another sensor, a little aside.

    Of all whole shifts up to `reach`, that which fits best counts, per patch; brightness is corrected per band.

    Attributes
    ----------
    reach : int
        Finer pixels, either way, that the truth may lie aside.
    soft : float
        Charbonnier's epsilon, in DN: errors are squared below it, and absolute above.
    structure : float
        Weight of 1 - SSIM, of 7 x 7 pixels.
    mean : float
        Weight of the difference of the means of each band, which the rest forgives: for a truth whose radiometry is to
        be kept.
    consistency : float
        Weight of how far the image, as coarse as the frames, is from the first of them.
    perceptual : torch.nn.Module, optional
        A frozen network of your own: (B, 4, H, W) in DN / 2000 to features. Its weights do not change; gradients flow
        through it to what is trained.
    perception : float
        Weight of the mean absolute difference of its features.
    """

    reach: int = 1
    soft: float = 2.0
    structure: float = 0.1
    mean: float = 0.0
    consistency: float = 0.1
    perceptual: nn.Module | None = None
    perception: float = 0.1

    def __call__(
        self, made: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, reference: torch.Tensor
    ) -> torch.Tensor:
        """The loss of a batch.

        Parameters
        ----------
        made, truth : torch.Tensor
            (B, 4, H, W), DN / 2000.
        weight : torch.Tensor
            (B, 1, H, W), 0 where the truth does not count.
        reference : torch.Tensor
            (B, 4, H / zoom, W / zoom): the first frame.

        Returns
        -------
        torch.Tensor
            A number, DN / 2000.
        """
        best, shift = self.aside(made, truth, weight)
        total = best.mean()
        if self.structure or self.mean or self.perceptual is not None:
            inner, goal, part = self._at(made, truth, weight, shift)
            if self.structure:
                total = total + self.structure * 0.05 * (1 - _ssim(corrected(inner, goal, part), goal, part))
            if self.mean:
                gap = ((goal - inner) * part).sum((2, 3)) / part.sum((2, 3)).clamp(min=1e-6)
                total = total + self.mean * gap.abs().mean()
            if self.perceptual is not None:
                bright = corrected(inner, goal, part)
                goal = torch.where(part > 0, goal, bright.detach())
                with torch.no_grad():
                    wanted = self.perceptual(goal)
                total = total + self.perception * (self.perceptual(bright) - wanted).abs().mean()
        if self.consistency:
            total = total + self.consistency * (_coarse(made, reference.shape[-1]) - reference).abs().mean()
        return total

    def aside(
        self, made: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """Per patch the least error over all shifts, and that shift: rows and columns that the truth lies aside."""
        soft = self.soft / GAIN
        steps = range(-self.reach, self.reach + 1)
        shifts = [(y, x) for y in steps for x in steps]
        errors = []
        for shift in shifts:
            inner, goal, part = self._at(made, truth, weight, [shift] * len(made))
            gap = corrected(inner, goal, part) - goal
            error = (gap.square() + soft**2).sqrt() - soft
            errors.append((error * part).sum((1, 2, 3)) / (made.shape[1] * part.sum((1, 2, 3))).clamp(min=1e-6))
        stack = torch.stack(errors)
        least, which = stack.min(0)
        return least, [shifts[i] for i in which.tolist()]

    def _at(
        self, estimate: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, shifts: Sequence[tuple[int, int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The pixels of the estimate that have a truth at every shift, and truth and weight at these shifts."""
        r = self.reach
        if not r:
            return estimate, truth, weight
        height, width = (n - 2 * r for n in estimate.shape[-2:])

        def cut(z: torch.Tensor) -> torch.Tensor:
            return torch.stack(
                [
                    image[:, r + y : r + y + height, r + x : r + x + width]
                    for image, (y, x) in zip(z, shifts, strict=True)
                ]
            )

        return estimate[..., r : r + height, r : r + width], cut(truth), cut(weight)


def _ssim(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean over windows of 7 x 7 pixels all of which count; constants for DN / 2000 of land."""

    def mean(z: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(z, 7, 1)

    complete = (mean(weight) > 1 - 1e-4).float()
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    index = (2 * mx * my + 1e-4) * (2 * cov + 1e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 1e-4))
    return (index * complete).sum() / (x.shape[1] * complete.sum()).clamp(min=1)


def _coarse(x: torch.Tensor, width: int) -> torch.Tensor:
    """As the sensor would show it: blurred by the ``mtf`` operator, and sampled at the centres of its pixels."""
    zoom = x.shape[-1] // width
    sigma = kriging.PSF * (zoom**2 - 1) ** 0.5
    reach = int(np.ceil(3 * sigma)) + zoom // 2
    offsets = torch.arange(-reach, reach + zoom, device=x.device, dtype=x.dtype) - (zoom - 1) / 2
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    batch, bands, height, long = x.shape
    out = F.pad(x.reshape(batch * bands, 1, height, long), [reach, reach, reach, reach], mode="replicate")
    out = F.conv2d(out, kernel[None, None, :, None], stride=(zoom, 1))
    return F.conv2d(out, kernel[None, None, None, :], stride=(1, zoom)).reshape(batch, bands, height // zoom, width)


# Training on it.


@dataclass(frozen=True)
class ReferenceTask:
    """To make images as another sensor shows them; see `xsen2.training.fit.Task`.

    Attributes
    ----------
    train, validation : sequence of Acquisition
        Of different places.
    recipe : xsen2.training.fit.DatesRecipe
    loss_of : Loss
    """

    train: Sequence[Acquisition]
    validation: Sequence[Acquisition]
    recipe: DatesRecipe
    loss_of: Loss = field(default_factory=Loss)

    def stream(self, first: int) -> Iterator[Sample]:
        """Batches from number `first` on: random patches of all acquisitions, turned and mirrored, of some dates."""
        zoom, patch, step = self.recipe.zoom, self.recipe.patch, first
        ready = [_ready(acquisition) for acquisition in self.train]
        if any(min(frames.shape[-2:]) < patch for frames, *_ in ready):
            raise SourceError(f"an acquisition is smaller than a patch of {patch} pixels: use smaller patches")
        while True:
            rng = np.random.default_rng((self.recipe.seed, step))
            most = min(len(frames) for frames, *_ in ready)
            count = min(int(rng.choice(list(self.recipe.counts))), most)
            rows = []
            for index in rng.choice(len(ready), self.recipe.batch):
                frames, mask, shifts, truth, seen = ready[index]
                dates = np.r_[0, 1 + rng.choice(len(frames) - 1, count - 1, replace=False)] if count > 1 else np.r_[0]
                y, x = (int(rng.integers(n - patch + 1)) for n in frames.shape[-2:])
                near = np.s_[..., y : y + patch, x : x + patch]
                fine = np.s_[..., y * zoom : (y + patch) * zoom, x * zoom : (x + patch) * zoom]
                cut = (frames[dates][near], mask[dates][near], shifts[dates], truth[fine], seen[fine])
                *given, truth_, seen_ = _turned(cut, int(rng.integers(8)))
                change, errors = np.zeros(count, np.float32), np.full(count, kriging.SHIFT, np.float32)
                rows.append((*given, change, errors, truth_, seen_))
            yield Sample(*(np.stack(part) for part in zip(*rows, strict=True)))
            step += 1

    def loss(self, network: nn.Module, batch: Sample, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss by `loss_of`; that of standard errors is by the errors left after brightness is corrected."""
        *inputs, truth, weight = (torch.from_numpy(x).to(device) for x in vars(batch).values())
        frames = inputs[0]
        weight = weight[:, None]
        uncertainty = bool(network.uncertainty)
        out = network(*inputs, uncertainty=uncertainty)
        estimate = out[:, : truth.shape[1]].float()
        total = self.loss_of(estimate, truth, weight, frames[:, 0])
        if not uncertainty:
            return total, torch.zeros(())
        error = (corrected(estimate, truth, weight) - truth).abs().detach()
        gap = error - out[:, truth.shape[1] :]
        pinball = torch.maximum(HALF * gap, (HALF - 1) * gap) * weight
        return total, pinball.sum() / (truth.shape[1] * weight.sum()).clamp(min=1)

    def judge(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
        """Gain of the network over bicubic interpolation of the first date in dB; both at their best shifts."""
        gains = []
        network.eval()
        for acquisition in self.validation:
            frames, mask, shifts, truth, seen = _ready(acquisition)
            with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                inputs = (torch.from_numpy(z[None]).to(device) for z in (frames, mask, shifts))
                estimate = network(*inputs)[0].float().cpu().numpy()
            base = bicubic(frames[0], self.recipe.zoom)
            gains.append(_forgiving(estimate, truth, seen) - _forgiving(base, truth, seen))
        return {"validation": round(float(np.mean(gains)), 3), "worst": round(min(gains), 3)} if gains else {}

    def start(self, network: nn.Module, initial: Mapping[str, torch.Tensor]) -> None:
        """All weights, in the network's shapes."""
        network.load_state_dict({k: v.float() for k, v in initial.items()})


Ready = tuple[Array, Array, Array, Array, Array]


def _ready(acquisition: Acquisition) -> Ready:
    """Frames with holes filled, their mask, shifts with the sign that networks take, the truth and its mask."""
    mask = np.asarray(np.isfinite(acquisition.frames).all(axis=1, keepdims=True))
    frames = filled(acquisition.frames, mask, max(acquisition.frames.shape[-2:])) / np.float32(GAIN)
    seen = acquisition.seen()
    truth = np.where(seen, acquisition.truth, 0).astype(np.float32) / np.float32(GAIN)
    return frames, mask.astype(np.float32), (-acquisition.shifts).astype(np.float32), truth, seen.astype(np.float32)


def _turned(cut: Ready, turn: int) -> Ready:
    """Turned by quarters, and mirrored; shifts with it."""
    frames, mask, shifts, truth, seen = cut
    y, x = shifts[:, 0], shifts[:, 1]
    for _ in range(turn % 4):  # as numpy.rot90: what was right is up
        y, x = -x, y
    if turn >= 4:
        x = -x

    def of(z: Array) -> Array:
        z = np.rot90(z, turn % 4, axes=(-2, -1))
        return np.ascontiguousarray(z[..., ::-1] if turn >= 4 else z)

    return of(frames), of(mask), np.stack([y, x], axis=1), of(truth), of(seen)


def _forgiving(estimate: Array, truth: Array, seen: Array, reach: int = 1) -> float:
    """CPSNR in dB, up to a constant, at the shift that fits best; mean over bands."""
    r = reach
    inner = estimate[:, r:-r, r:-r]
    height, width = inner.shape[-2:]
    best = -np.inf
    for y in range(2 * r + 1):
        for x in range(2 * r + 1):
            valid = seen[y : y + height, x : x + width] > 0
            error = (inner - truth[:, y : y + height, x : x + width])[:, valid].astype(np.float64)
            best = max(best, float(-10 * np.log10(np.maximum(error.var(axis=1), 1e-12)).mean()))
    return best


def adapt(
    card: Card,
    train: Sequence[Acquisition],
    validation: Sequence[Acquisition],
    folder: str | Path,
    *,
    steps: int = 300,
    loss: Loss | None = None,
    match: bool = True,
    batch: int = 8,
    patch: int = 32,
    rate: float = 0.01,
    seed: int = 0,
    device: str = "auto",
    progress: ProgressLike = True,
) -> Card:
    """Adapt a network for many dates to sharper images of your own.

    Parameters
    ----------
    card : Card
        Of the network to start from.
    train, validation : sequence of Acquisition
        Cleaned, see `clean`; of different places. The latter may be empty: then it is not measured whether it helped.
    folder : path
        Receives the weights, their card, a checkpoint and a log; resumable, as `xsen2.training.fit.learn` is.
    steps : int
    loss : Loss, optional
    match : bool
        Whether sharper images get the histograms of the first date: for another sensor, whose bands differ.
    batch, patch : int
        Patches in a batch, and their side in pixels of the frames.
    rate : float
        Learning rate of Muon.
    seed, device, progress
        As `xsen2.training.fit.learn` takes them.

    Returns
    -------
    Card
        Pass `folder` as ``method=``.

    Raises
    ------
    MethodError
        If the network is not one for many dates, or makes pixels of another size than the sharper images have.
    SourceError
        If there is nothing to train on.
    """
    if card.ratio != 1:
        raise MethodError(f"{card.name} makes 10 m bands of one date: use a network for many dates, as 'fusion'")
    zoom = round(10 / card.gsd)
    for acquisition in (*train, *validation):
        if acquisition.zoom != zoom or acquisition.truth.shape[-2] != zoom * acquisition.frames.shape[-2]:
            raise MethodError(
                f"{acquisition.name}: the sharper image has {acquisition.truth.shape[-2:]} pixels over frames of "
                f"{acquisition.frames.shape[-2:]}, but {card.name} makes {zoom} x {zoom} of each: resample it first"
            )
    if not train:
        raise SourceError("there is no acquisition to train on")
    if match:
        train, validation = (
            [
                replace(acquisition, truth=matched(acquisition.truth, acquisition.frames[0]))
                for acquisition in acquisitions
            ]
            for acquisitions in (train, validation)
        )
    arguments = {key: value for key, value in card.arguments.items() if key != "ratio"}
    recipe = DatesRecipe(
        card.architecture, steps, steps, arguments, rate=rate, fine_rate=rate / 20, batch=batch, patch=patch, ema=0.98,
        seed=seed,
    )  # fmt: skip
    task = ReferenceTask(train, validation, recipe, loss or Loss())
    every = max(1, min(100, steps))
    how = Run(folder, tensors(card), every, device, progress=progress, about="adapting")
    weights = learn(task, recipe, how)
    return write(
        weights,
        Path(folder),
        name=f"{card.name}-adapted",
        network=f"{card.network}-adapted",
        architecture=card.architecture,
        arguments=arguments,
        ratio=1,
        gsd=card.gsd,
        frames=card.frames,
        licence=card.licence,
        source=f"{card.source}; adapted to images of another sensor",
        spread=list(card.spread),
        training={
            "from": card.name,
            "steps": steps,
            "places": sorted({acquisition.name for acquisition in train}),
            "matched": match,
        },
    )
