"""Networks that make one finer image of many dates."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from xsen2.networks import kriging
from xsen2.networks.network import Network
from xsen2.networks.twogrid import _conv, upsample

__all__ = ["HighResNet", "ManyDates", "MultiDate"]

CHANNELS = 4  # B02, B03, B04, B08

SURE = 0.02
"""Native pixels: no shift is known better than that, whatever is said of it, since relief and sensors add to it."""

STEP = 0.1
"""Factor on the last convolution: with it one step of the optimiser moves pixels by a few DN, not by tens."""


class _Block(nn.Module):
    """A residual block that starts as the identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = _conv(features, features)
        self.conv2 = _conv(features, features, gain=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return out


class MultiDate(Network):
    """A network that makes one image of many dates, on a finer grid.

    Attributes
    ----------
    zoom : int
        Finer pixels along each side of a native one.
    """

    zoom: int
    side = 384

    def forward(  # type: ignore[override]
        self,
        frames: torch.Tensor,
        mask: torch.Tensor,
        shifts: torch.Tensor,
        change: torch.Tensor | None = None,
        errors: torch.Tensor | None = None,
        *,
        uncertainty: bool = False,
    ) -> torch.Tensor:
        """Make one batch.

        Parameters
        ----------
        frames : torch.Tensor
            DN / 2000, float32 (B, N, 4, H, W), the date that is made first, and without holes, as
            `xsen2.networks.inference.filled` makes it; of the others any numbers where `mask` is 0.
        mask : torch.Tensor
            (B, N, 1, H, W), 1 where a frame counts.
        shifts : torch.Tensor
            (B, N, 2): rows and columns in native pixels by which the ground that a frame's pixel shows lies beyond that
            of the first frame's pixel; NaN where not known.
        change : torch.Tensor, optional
            (B, N): variance of what differs between a frame and the first, as a share of the first's; none by default.
        errors : torch.Tensor, optional
            (B, N): standard errors of the shifts, in native pixels; a twentieth by default.
        uncertainty : bool
            Whether standard errors follow.

        Returns
        -------
        torch.Tensor
            float32 (B, 4 or 8, zoom * H, zoom * W), DN / 2000.
        """
        raise NotImplementedError


class ManyDates(MultiDate):
    """Kriging of all dates, and what a network adds: of which date to believe where, and of what images look like.

    What another date has beyond what the reference predicts of it, its innovation, carries all that it can add, at
    frequencies that only differences of sampling can tell: slow differences between dates are haze, sun and season, and
    are taken off. Innovations that a small network finds likely to be changes of the ground are damped. Kriging joins
    reference and innovations, exactly for the shifts at hand; features of all dates, joined by attention, whatever
    their number and order, and residual blocks correct it.

    Parameters
    ----------
    zoom : int
        Finer pixels along each side of a native one: 2 or 4.
    thin, wide : int
        Features of each date, and of their joint image.
    blocks : int
        Residual blocks on the joint image.
    ratio : int
        1: native pixels of 10 m.

    Notes
    -----
    The last convolution starts at zero: an untrained network is kriging. What a mask hides changes nothing. In use, not
    in training, what is made gives way to bicubic interpolation where the first date shows no more than noise.
    """

    RADIUS, WINDOW, SLOW = 3, 2, 7
    NOISE = (7e-4, 2e-2)
    QUIET = 0.016  # of the level, divided by the root of the number of dates: contrast that may be noise

    def __init__(self, zoom: int, thin: int = 32, wide: int = 64, blocks: int = 4, ratio: int = 1) -> None:
        super().__init__()
        self.zoom, self.ratio = zoom, ratio
        self.thin = thin
        phases = zoom**2
        self.gate = nn.Sequential(_conv(4, 16), nn.ReLU(), _conv(16, 1, gain=0.0))
        assert self.gate[-1].bias is not None
        nn.init.constant_(self.gate[-1].bias, 3.0)  # type: ignore[arg-type]
        self.enter = _conv(2 * CHANNELS + 2 + 6, thin)
        self.encode = _Block(thin)
        self.score = _conv(thin, thin, 1, gain=0.1)
        self.against = _conv(thin, thin, 1, gain=0.1)
        self.join = _conv(2 * CHANNELS * phases + CHANNELS + 2 * thin + phases + 1, wide)
        self.body = nn.Sequential(*(_Block(wide) for _ in range(blocks)))
        self.tail = _conv(wide, CHANNELS * phases, gain=0.0)
        self.uncertainty_head = nn.Sequential(
            _conv(wide, wide // 2), nn.ReLU(), _conv(wide // 2, CHANNELS * phases, gain=0.0)
        )

    @property
    def radius(self) -> int:
        innovation = self.RADIUS + 2 * (self.SLOW // 2)
        # Gate, then kriging of what it lets through, or encoder; then join, body and `uncertainty_head`, which reaches
        # farther than the tail.
        return innovation + 2 + max(self.WINDOW + 1, 3) + 1 + 2 * len(self.body) + 2

    def prepare(
        self, shifts: torch.Tensor, change: torch.Tensor | None = None, errors: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Kernels for the shifts at hand, float32: they are the same for all blocks of an image."""
        with torch.no_grad(), torch.autocast(shifts.device.type, enabled=False):
            # On the CPU: there are few numbers, and not every device has double precision.
            device, exact = shifts.device, shifts.cpu().double()
            change, errors = (None if z is None else z.cpu() for z in (change, errors))
            predictors = kriging.predictors(exact, self.zoom, self.RADIUS, self.NOISE[0])
            window = self.WINDOW if exact.shape[1] > 2 else self.RADIUS
            spread = kriging.SHIFT if errors is None else errors.double().clamp(min=SURE)
            kernels = kriging.weights(exact, self.zoom, window, self.NOISE, spread, change)
            kept = (predictors, kernels[0][0], kernels[1][0], kernels[0][1])
            return tuple(z.float().to(device) for z in kept)

    def forward(  # type: ignore[override]
        self,
        frames: torch.Tensor,
        mask: torch.Tensor,
        shifts: torch.Tensor,
        change: torch.Tensor | None = None,
        errors: torch.Tensor | None = None,
        *,
        uncertainty: bool = False,
    ) -> torch.Tensor:
        batch, count, channels, height, width = frames.shape
        predictors, sharp, calm, variance = self.prepare(shifts, change, errors)
        with torch.autocast(frames.device.type, enabled=False):
            reference = frames[:, 0]
            expected = kriging.predict(reference, predictors)
            new = torch.where(mask > 0, frames - expected, 0.0)
            flat, seen = new.flatten(0, 1), mask.flatten(0, 1)
            flat = (flat - kriging.smooth(flat, seen, self.SLOW)) * seen
            level = F.avg_pool2d(F.pad(reference, [3] * 4, mode="replicate"), 7, 1)
            contrast = (reference - level).abs().mean(1, keepdim=True)
            size = flat.abs().mean(1, keepdim=True).reshape(batch, count, 1, height, width)
            others = size[:, 1:].mean(1, keepdim=True) if count > 1 else size
            about = torch.cat([size, others.expand_as(size), contrast[:, None].expand_as(size), mask], 2).flatten(0, 1)
        weight = torch.sigmoid(self.gate(10 * about).float())
        with torch.autocast(frames.device.type, enabled=False):
            new = (flat * weight).reshape(batch, count, channels, height, width)
            cleaned = torch.cat([reference[:, None], (expected + new)[:, 1:]], 1)
            fine = kriging.estimate(cleaned, sharp)
            soft = kriging.estimate(cleaned, calm) - fine
            detail = fine - reference[:, :, None]
            known = torch.isfinite(shifts).all(-1)
            place = shifts.nan_to_num(0.0).float()
            place = torch.cat([place, place.abs(), place.square().sum(-1, keepdim=True), known[..., None].float()], -1)
            planes = place.flatten(0, 1)[:, :, None, None].expand(-1, -1, height, width)
            slow = (reference - level)[:, None].expand_as(frames).flatten(0, 1)
        x = F.relu(self.enter(torch.cat([4 * flat, 4 * slow, seen, weight, planes], 1)))
        x = self.encode(x)
        # Attention over dates: each feature of each date against the mean of all.
        here = seen.to(x.dtype)
        x = x * here
        stack = x.reshape(batch, count, self.thin, height, width)
        valid = seen.reshape(batch, count, 1, height, width)
        mean_x = stack.sum(1) / valid.sum(1).clamp(min=1)
        score = self.score(x).reshape(stack.shape) + self.against(mean_x)[:, None]
        score = score.masked_fill(valid == 0, -1e4)
        fused = (torch.softmax(score, 1).to(x.dtype) * stack).sum(1)
        clear = valid.sum(1).log1p()
        certain = variance[:, :, None, None].expand(-1, -1, height, width)
        given = [4 * detail.flatten(1, 2), 4 * soft.flatten(1, 2), reference, fused, mean_x, certain, clear]
        y = self.body(F.relu(self.join(torch.cat(given, 1))))
        out: torch.Tensor = F.pixel_shuffle(fine.flatten(1, 2) + STEP * self.tail(y).float(), self.zoom)
        if not self.training:
            with torch.autocast(frames.device.type, enabled=False):
                out = self._calm(out, reference, level, contrast, count)
        if not uncertainty:
            return out
        log_error = STEP * self.uncertainty_head(y.detach()).float()
        spread = torch.exp(F.pixel_shuffle(log_error, self.zoom).clamp(-10, 6)) * 0.01
        return torch.cat([out, spread], 1)

    def _calm(
        self, out: torch.Tensor, reference: torch.Tensor, level: torch.Tensor, contrast: torch.Tensor, count: int
    ) -> torch.Tensor:
        """Where the first date shows no more than noise, as on open water, bicubic interpolation of it."""
        around = F.avg_pool2d(F.pad(contrast, [3] * 4, mode="replicate"), 7, 1).square()
        noise = (self.QUIET * level.abs().mean(1, keepdim=True)).square() / count
        share = F.interpolate(around / (around + noise + 1e-9), scale_factor=self.zoom, mode="bilinear")
        base = upsample(reference, self.zoom)
        return base + share * (out - base)


class HighResNet(MultiDate):
    """HighRes-Net (Deudon et al. 2020): dates are joined two by two, until one is left.

    Without two defects of what was published: no date is dropped where their number is no power of two, and pixels are
    shuffled, which leaves no fixed grid.

    Parameters
    ----------
    zoom : int
        Finer pixels along each side of a native one.
    features : int
    blocks : int
        Residual blocks of the encoder of each date.
    ratio : int
        1: native pixels of 10 m.
    """

    def __init__(self, zoom: int, features: int = 64, blocks: int = 2, ratio: int = 1) -> None:
        super().__init__()
        self.zoom, self.ratio = zoom, ratio
        self.enter = nn.Sequential(_conv(2 * CHANNELS, features), nn.PReLU())
        self.encode = nn.Sequential(*(_Rectified(features) for _ in range(blocks)), _conv(features, features, gain=1.0))
        self.pair = nn.Sequential(_Rectified(2 * features), _conv(2 * features, features), nn.PReLU())
        self.head = nn.Sequential(_conv(features, features), nn.PReLU())
        self.tail = _conv(features, CHANNELS * zoom**2, gain=0.0)

    @property
    def radius(self) -> int:
        # The number of dates decides how often pairs are joined: five times for up to 32.
        return 1 + 2 * (len(self.encode) - 1) + 1 + 5 * 3 + 2 + 2

    def forward(  # type: ignore[override]
        self,
        frames: torch.Tensor,
        mask: torch.Tensor,
        shifts: torch.Tensor,
        change: torch.Tensor | None = None,
        errors: torch.Tensor | None = None,
        *,
        uncertainty: bool = False,
    ) -> torch.Tensor:
        if uncertainty:
            raise NotImplementedError("HighResNet has no branch for standard errors")
        batch, count, _, height, width = frames.shape
        reference = frames[:, :1]
        filled = torch.where(mask > 0, frames, reference)
        both = torch.cat([filled, reference.expand_as(filled)], 2).flatten(0, 1)
        x = self.encode(self.enter(both)).reshape(batch, count, -1, height, width)
        states = list(x.unbind(1))
        seen = list(mask.unbind(1))
        while len(states) > 1:
            half = (len(states) + 1) // 2
            joined, open_ = [], []
            for i in range(half):
                j = len(states) - 1 - i
                if i == j:  # the odd one waits for the next round
                    joined.append(states[i])
                    open_.append(seen[i])
                    continue
                joined.append(states[i] + seen[j] * self.pair(torch.cat([states[i], states[j]], 1)))
                open_.append(torch.maximum(seen[i], seen[j]))
            states, seen = joined, open_
        out = F.pixel_shuffle(STEP * self.tail(self.head(states[0])).float(), self.zoom)
        return out + upsample(reference[:, 0], self.zoom)


class _Rectified(nn.Module):
    """The residual block of HighRes-Net: ``x + PReLU(conv(PReLU(conv(x))))``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1, self.act1 = _conv(features, features), nn.PReLU()
        self.conv2, self.act2 = _conv(features, features, gain=0.1), nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.act2(self.conv2(self.act1(self.conv1(x))))
        return out
