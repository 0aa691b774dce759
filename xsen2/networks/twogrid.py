"""TwoGrid: a thin path at 10 m round a wide body at 20 m, and the local regression that may guide it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from xsen2.engine.operators import support, taps
from xsen2.methods.bicubic import keys
from xsen2.networks.fits import along, around, grow, products, reduce, solve
from xsen2.networks.network import Network, conv

__all__ = ["OPERATORS", "TwoGrid", "guess", "reach", "regress", "upsample"]


def upsample(x: torch.Tensor, ratio: int) -> torch.Tensor:
    """Keys bicubic (a = -0.5), half-pixel centres, symmetric edges: `xsen2.methods.bicubic` in torch.

    Parameters
    ----------
    x : torch.Tensor
        ``(N, band, H, W)``.
    ratio : int

    Returns
    -------
    torch.Tensor
        ``(N, band, ratio * H, ratio * W)``.
    """
    for dim in (2, 3):
        n = x.shape[dim]
        edge = min(1, n - 1)
        padded = torch.cat(
            [x.narrow(dim, edge, 1), x.narrow(dim, 0, 1), x, x.narrow(dim, n - 1, 1), x.narrow(dim, n - 1 - edge, 1)],
            dim,
        )
        phases = []
        for phase in range(ratio):
            position = (phase + 0.5) / ratio - 0.5
            base = math.floor(position)
            taps = [keys(position - base - k) * along(padded, dim, 2 + base + k, 2 - base - k) for k in (-1, 0, 1, 2)]
            phases.append(taps[0] + taps[1] + taps[2] + taps[3])
        x = torch.stack(phases, dim + 1).flatten(dim, dim + 1)
    return x


def _conv(inputs: int, outputs: int, size: int = 3, *, gain: float = 2.0) -> nn.Conv2d:
    """A convolution with He initialisation: variance ``gain / fan_in``, 2 before a ReLU."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    assert layer.bias is not None
    if layer.weight.is_meta:  # shapes alone: drawing numbers would import all of torch's compiler, to no effect
        return layer
    nn.init.normal_(layer.weight, std=math.sqrt(gain / (inputs * size**2)))
    nn.init.zeros_(layer.bias)
    return layer


def _unfolded(weight: torch.Tensor) -> torch.Tensor:
    """The kernel that does at 10 m, in steps of 2, what `weight` does after ``pixel_unshuffle(x, 2)``.

    ``(out, 4 * in, 3, 3)`` to ``(out, in, 6, 6)``.
    """
    outputs, inputs = weight.shape[:2]
    split = weight.reshape(outputs, inputs // 4, 2, 2, 3, 3)  # …, row and column in a cell, row and column of the cell
    return split.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


class _Block(nn.Module):
    """A residual block that starts as the identity, so that depth costs nothing at first."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = _conv(features, features)
        self.conv2 = _conv(features, features, gain=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = conv(x, self.conv1.weight, self.conv1.bias, relu=True)
        return conv(y, self.conv2.weight, self.conv2.bias, onto=x)


class Folded(Network):
    """Base of networks that see detail at 10 m and levels at 20 m, and join features of both.

    Layers are made by the networks themselves, each with the bands that it sees.
    """

    stem: nn.ModuleList
    enter: nn.Conv2d
    body: nn.Sequential
    leave: nn.Conv2d
    join: nn.Conv2d
    tail: nn.Conv2d

    def widened(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of a network with fewer features or blocks at 20 m, made to fit this one, which then does the same.

        What is new reads all features, and nothing that was there reads it yet: its weights are zero until they are
        trained (Net2Net, Chen et al. 2016). Weights that do not fit for another reason come back as they are.
        """
        out = {}
        blocks = {name.split(".")[1] for name in weights if name.startswith("body.")}
        for name, fresh in self.state_dict().items():
            layer, block, *_ = name.split(".")
            if blocks and layer == "body" and block not in blocks:
                out[name] = fresh  # a block that starts as the identity
            if layer not in ("enter", "body", "leave") or name not in weights:
                continue
            value = weights[name]
            if value.ndim == fresh.ndim and all(n <= m for n, m in zip(value.shape, fresh.shape, strict=True)):
                rows, *columns = (slice(n) for n in value.shape)
                out[name] = fresh.clone()
                out[name][rows] = 0
                out[name][(rows, *columns)] = value.to(fresh.dtype)
        return {**weights, **out}

    def _features(self, fine: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """Features at 10 m of what is seen at 10 m and at 20 m; computed in the dtype of the weights."""
        dtype, thin = self.tail.weight.dtype, self.tail.in_channels
        x = fine.to(dtype).contiguous(memory_format=torch.channels_last)
        for layer in self.stem:
            assert isinstance(layer, nn.Conv2d)
            x = conv(x, layer.weight, layer.bias, relu=True)
        levels = levels.to(x.dtype, memory_format=torch.channels_last)
        # A convolution of what is joined is the sum of two: a fifth of the time went into folding and joining.
        weight = self.enter.weight
        y = conv(x, _unfolded(weight[:, : 4 * thin]), stride=2, padding=2)
        y = conv(levels, weight[:, 4 * thin :], self.enter.bias, onto=y)
        y = self.leave(self.body(y))
        y = F.pixel_shuffle(y, 2).contiguous(memory_format=torch.channels_last)
        weight = self.join.weight
        x = conv(x, weight[:, :thin], self.join.bias)
        return conv(y, weight[:, thin:], onto=x, relu=True)


class TwoGrid(Folded):
    """Predict what bicubic interpolation misses; most of the work is done on the 20 m grid.

    Detail can only come from the 10 m bands, but what to make of it depends on what a place *is*, which
    can be seen as well on the 20 m grid, at a quarter of the cost. So a thin stem reads what the 10 m bands have
    over their own 20 m means, and is folded (pixel-unshuffle) to 20 m; a wide residual body works there, beside
    all bands at 20 m; its features are unfolded and joined to the stem's, and thin convolutions make
    the detail.

    Parameters
    ----------
    ratio : {2, 6}
        2 makes the 20 m bands from the 10 m and 20 m ones; 6 makes the 60 m bands from all three.
    thin, wide : int
        Features at 10 m and at 20 m.
    blocks : int
        Residual blocks of the body.
    guide : bool
        Whether to start from a local regression on the 10 m bands instead of from interpolation, see
        `xsen2.networks.twogrid`.

    Notes
    -----
    Folding as in ESPCN (Shi et al. 2016), residual blocks without normalisation as in EDSR (Lim et al.
    2017). The last convolution starts at zero: an untrained network is bicubic interpolation.
    """

    def __init__(self, ratio: int, thin: int = 32, wide: int = 128, blocks: int = 4, guide: bool = False) -> None:
        super().__init__()
        self.ratio, self.guide = ratio, guide
        if ratio == 6:  # wide halos: half of what goes through would be context at the usual side of a patch
            self.side = 600
        bands, outputs = (10, 6) if ratio == 2 else (12, 2)
        guided = outputs if guide else 0
        self.stem = nn.ModuleList([_conv(4 + guided, thin), _conv(thin, thin)])
        self.enter = _conv(4 * thin + bands + guided + guide, wide, gain=1.0)
        self.body = nn.Sequential(*(_Block(wide) for _ in range(blocks)))
        self.leave = _conv(wide, 4 * thin, gain=1.0)
        self.join = _conv(2 * thin, thin)
        self.tail = _conv(thin, outputs, gain=0.0)
        # A separate branch, which the estimate never reads: training it cannot change the estimate.
        self.uncertainty_head = nn.Sequential(_conv(thin, thin), nn.ReLU(), _conv(thin, outputs, gain=0.0))

    @property
    def radius(self) -> int:
        """Receptive field in 10 m pixels on either side, interpolation of the inputs included."""
        fine = 4  # stem, join, tail
        coarse = 2 + 2 * len(self.body)
        # One more where pixels are folded, one where means are taken, and what bicubic interpolation reads.
        reads = reach(self.ratio) * self.ratio if self.guide else 2 * self.ratio + self.ratio // 2
        return fine + 2 + 2 * coarse + reads

    def forward(
        self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None, *, uncertainty: bool = False
    ) -> torch.Tensor:
        """Super-resolve one batch.

        Parameters
        ----------
        a, b, c : torch.Tensor
            DN / 2000 on their native grids: ``(N, 4, H, W)``, ``(N, 6, H/2, W/2)`` and, for
            ratio 6, ``(N, 2, H/6, W/6)``. float32.
        uncertainty : bool
            Whether the standard errors follow the estimates, along the band axis.

        Returns
        -------
        torch.Tensor
            float32 ``(N, 6 or 2, H, W)``, or twice the bands, DN / 2000. The convolutions run in the dtype of the
            weights; interpolation and the final sum stay in float32, so radiometry is exact where
            the network adds nothing.
        """
        low = b if c is None else c
        coarse = [b] if c is None else [b, upsample(c, 3)]
        # Without autocast: squares of reflectance need the digits.
        with torch.autocast(a.device.type, enabled=False):
            if self.guide:
                base, share = guess(a, low, self.ratio)
                a = torch.cat([a, base], 1)
                coarse.append(upsample(share, self.ratio // 2) if self.ratio > 2 else share)
            else:
                base = upsample(low, self.ratio)
        mean = F.avg_pool2d(a, 2)
        # Four times: detail is weaker than reflectance by about that.
        detail = 4 * (a - mean.repeat_interleave(2, 2).repeat_interleave(2, 3))
        x = self._features(detail, torch.cat([mean, *coarse], dim=1))
        out: torch.Tensor = self.tail(x).float().add_(base)
        if not uncertainty:
            return out
        return torch.cat([out, self._spread(x.detach())], dim=1)

    def _spread(self, x: torch.Tensor) -> torch.Tensor:
        # exp: positive and scale-free; 0 at the start stands for 20 DN.
        log_error: torch.Tensor = self.uncertainty_head(x).float()
        return torch.exp(log_error.clamp(-10, 6)) * 0.01


OPERATORS = ("mtf", "dsen2")
"""How coarse bands may have come about: as the sensor blurs, and with hardly any blur."""

_NEAR = [math.exp(-0.5 * k * k) for k in range(-2, 3)]  # weights of a local regression, along one axis
_WIDE = [1.0] * 7  # of the evidence
_RIDGE = 1e-4  # variance, in (DN / 2000)²: bands that vary by less than 20 DN say little
_LEAST = 1e-5  # likewise, of a band that is flat
_SHARP = 4  # power of the evidence


def reach(ratio: int) -> int:
    """Coarse pixels on either side that a value of `guess` depends on."""
    blur = max(-(-support("B08", ratio, operator) // ratio) for operator in OPERATORS)
    return 1 + len(_WIDE) // 2 + len(_NEAR) // 2 + blur


def _degrade(a: torch.Tensor, ratio: int, operator: str) -> torch.Tensor:
    """The 10 m bands as coarse as the others, all with the blur of B08; symmetric edges."""
    weights, before = taps("B08", ratio, operator)
    return reduce(a, [float(weight) for weight in weights], before, ratio)


def guess(a: torch.Tensor, y: torch.Tensor, ratio: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The coarse bands at 10 m by local regression on the 10 m bands, and the operator that probably degraded them.

    How a band was blurred is not known for sure, and slopes found with the wrong blur give far too much detail, or too
    little. But with the right one the regression fits better. So it is made for each of `OPERATORS`, and each counts by
    the inverse fourth power of what it leaves of the variance of the coarse bands round a place.

    Parameters
    ----------
    a : torch.Tensor
        ``(N, 4, H, W)``, DN / 2000, float32.
    y : torch.Tensor
        ``(N, K, H / ratio, W / ratio)``.
    ratio : int

    Returns
    -------
    estimate : torch.Tensor
        ``(N, K, H, W)``.
    share : torch.Tensor
        ``(N, 1, H / ratio, W / ratio)``: of the first of `OPERATORS`, 0 to 1.
    """
    fits = [regress(a, y, ratio, operator) for operator in OPERATORS]
    counts = [fit.left**-_SHARP for fit in fits]
    total = torch.stack(counts).sum(0)
    slopes = sum(fit.slopes * (n / total)[:, :, None] for fit, n in zip(fits, counts, strict=True))
    constant = sum(fit.constant * (n / total) for fit, n in zip(fits, counts, strict=True))
    assert isinstance(slopes, torch.Tensor)
    assert isinstance(constant, torch.Tensor)
    wide = grow(slopes.flatten(1, 2), ratio).view(*slopes.shape[:3], *a.shape[2:])
    estimate: torch.Tensor = (wide * a[:, None]).sum(2) + grow(constant, ratio)
    return estimate, counts[0] / total


class Fit(NamedTuple):
    """A regression round every coarse pixel."""

    slopes: torch.Tensor
    """``(N, K, 4, h, w)``."""
    constant: torch.Tensor
    """``(N, K, h, w)``."""
    left: torch.Tensor
    """``(N, 1, h, w)``: share of the variance that is not explained, mean over bands and 7 x 7 pixels."""


def regress(a: torch.Tensor, y: torch.Tensor, ratio: int, operator: str) -> Fit:
    """Least squares of ``y ~ w · A(a) + v`` round every coarse pixel, `A` degrading as the operator does.

    Weights are Gaussian, as in a guided filter (He et al. 2013), and a ridge holds the slopes near zero where the 10 m
    bands hardly vary.
    """
    low = _degrade(a, ratio, operator)
    bands, targets = low.shape[1], y.shape[1]
    pairs = bands * (bands + 1) // 2
    terms = [torch.ones_like(low[:, :1]), low, y, y * y]
    terms += [products(low, 1), (low[:, None] * y[:, :, None]).flatten(1, 2)]
    sums = around(torch.cat(terms, 1), _NEAR)
    sums = sums[:, 1:] / sums[:, :1]
    mean, level, power, squares, mixed = torch.split(sums, [bands, targets, targets, pairs, targets * bands], 1)
    mixed = mixed.view(len(mixed), targets, bands, *mixed.shape[2:]) - level[:, :, None] * mean[:, None]
    slopes = solve((squares - products(mean, 1))[:, None], mixed, _RIDGE)
    constant = level - (slopes * mean[:, None]).sum(2)
    error = (y - (slopes * low[:, None]).sum(2) - constant) ** 2
    share = (error / ((power - level * level).clamp(min=0) + _LEAST)).mean(1, keepdim=True)
    ones = torch.ones_like(share)
    return Fit(slopes, constant, around(share, _WIDE) / around(ones, _WIDE) + 1e-6)
