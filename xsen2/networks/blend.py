"""Blend: regressions at several widths, how far each is to be trusted, and a bounded remainder."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from xsen2.networks.fits import (
    Fit,
    around,
    convolved,
    floored,
    gaussian,
    grow,
    parted,
    pooled,
    precise,
    products,
    reduce,
    regress,
    solve,
    window,
)
from xsen2.networks.network import Network, conv
from xsen2.networks.twogrid import _Block, _conv, upsample

__all__ = ["Blend"]

NEAR, WIDE, WIDER = window(1.0, 2), window(2.5, 5), window(4.0, 8)
BLURS = (0.0, 1.05, 1.25, 1.45, 1.7)
"""Sigmas of the blurs that may have made 60 m pixels of 20 m ones, in 20 m pixels; 0 stands for a mean over them."""
SIGMA_A, SIGMA_B = 0.36, 0.46  # of the blur that 10 m bands averaged to 20 m, and 20 m bands, already have
SHARP = 0.8  # sigma of the blur that makes 20 m pixels of 10 m ones, in 10 m pixels
CERTAIN = 20.0  # power of the evidence for a blur
# Variances, in (DN / 2000)²: bands that vary by less say little. 9, 3 and 4.5 DN.
RIDGE_NEAR, RIDGE, RIDGE_MANY = 2e-5, 3e-6, 5e-6
BOUND = 4.0  # most that convolutions may add, in units of the residuals, where regressions leave little
KEPT = 0.5
"""Share of what convolutions add to regressions that is taken in use. With the operators `product` and `mtf` half of it
leaves no more error than all of it at places that were not trained on and where the truth at 10 m is known, and less
over clouds: part of what a network adds is specific to the scale of its training. With `dsen2` all leaves less."""
MARGIN = len(NEAR) // 2 + 3  # 60 m pixels: interpolation, means, interpolation
FLOOR = 1.5e-3  # 3 DN: 10 m and 20 m bands that vary by less are noise
LEAST, TRACE = 1e-8, 1e-4
"""Variances of a 60 m band that count as nothing: (0.2 DN)², and this share of the band's variance. Larger ones
in DN would make the outcome depend on the band's unit."""


class Fits(NamedTuple):
    """The 60 m bands by three regressions, on the 20 m grid."""

    base: torch.Tensor
    """``(N, 2, H, W)``: bicubic interpolation."""
    detail: torch.Tensor
    """``(N, 2, 3, H, W)``: each of three regressions minus `base`."""
    slopes: torch.Tensor
    """``(N, 2, 3, 4, H, W)``: slopes on the 10 m bands, for detail finer than 20 m."""
    scale: torch.Tensor
    """``(N, 2, H / 3, W / 3)``: RMS of `detail` round a place."""
    most: torch.Tensor
    """``(N, 2, H / 3, W / 3)``: the same, but no more than `BOUND` times the residuals of the regressions."""
    unsure: torch.Tensor
    """``(N, 2, H / 3, W / 3)``: RMS of `detail` and of the residuals together."""
    left: torch.Tensor
    """``(N, 2, 3, H / 3, W / 3)``: share of the variance that a regression leaves unexplained, round a place."""
    box: torch.Tensor
    """``(N, 2, H / 3, W / 3)``: weight of the hypothesis that a 60 m pixel is a plain mean, without any blur."""
    facts: torch.Tensor
    """``(N, …, H / 3, W / 3)``: further inputs: shares left, size of the detail, contrasts, blur, residuals."""
    levels: torch.Tensor
    """``(N, …, H, W)``: all bands, without their mean, in units of their spread round a place."""


def fits(a: torch.Tensor, a2: torch.Tensor, b: torch.Tensor, c: torch.Tensor, spare: int = 0) -> Fits:
    """Regressions of the 60 m bands on the others; see `Blend`. `a2` are the 10 m bands averaged to 20 m.

    What comes back lacks `spare` pixels of 10 m on every side.
    """
    # How the 60 m bands came about: the blur with which the 10 m bands explain them best.
    coarse = []
    exact = precise(c)
    size = (mean_around(exact * exact, WIDE) - mean_around(exact, WIDE) ** 2).clamp(min=0).to(c.dtype)
    for sigma in BLURS:
        if sigma:
            kernels = [
                gaussian(math.sqrt(sigma**2 + SIGMA_A**2 - band_sigma**2), 3) for band_sigma in (SIGMA_A, SIGMA_B)
            ]
        else:
            kernels = [convolved([1 / 3] * 3, gaussian(0.25, 1)[0])] * 2
        coarse.append(torch.cat([reduce(a2, *kernels[0], 3), reduce(b, *kernels[1], 3)], 1))
    evidence = regress(torch.cat(coarse)[:, None, :4], c.repeat(len(coarse), 1, 1, 1), WIDE, RIDGE).left
    likely = torch.softmax(
        -CERTAIN * torch.log(evidence.reshape(len(coarse), -1, *evidence.shape[1:]) + (TRACE * size + LEAST)), 0
    )
    x = sum(n[:, :, None] * z[:, None] for n, z in zip(likely, coarse, strict=True))
    assert isinstance(x, torch.Tensor)
    a_low = reduce(a, *gaussian(SHARP, 2), 2)
    slopes_b = sharpen(a_low, b)
    regressions = [
        regress(x[:, :, :number], c, weights, ridge)
        for number, weights, ridge in ((4, NEAR, RIDGE_NEAR), (4, WIDER, RIDGE), (10, WIDER, RIDGE_MANY))
    ]
    bands = torch.cat([F.avg_pool2d(torch.cat([a2, b], 1), 3), c], 1)
    middle = mean_around(bands, WIDE)
    # A two-pass variance: a difference of large squares would show where blocks are cut.
    power = mean_around((bands - middle) ** 2, WIDE)
    spread = torch.cat([power[:, :10] + 1e-4, power[:, 10:] + 100 * LEAST], 1).rsqrt()
    contrast = torch.stack([power[:, :4].mean(1), power[:, 4:10].mean(1)], 1)
    # From here on without the margin, but for what interpolation and the next means see of it.
    skip = max(0, spare // 6 - MARGIN)
    regressions = [Fit(*(inner(z, skip) for z in fit)) for fit in regressions]
    c, x, likely, slopes_b = (inner(z, skip) for z in (c, x, likely, slopes_b))
    middle, spread, contrast = (inner(z, skip) for z in (middle, spread, contrast))
    a2, a_low, b = (inner(z, 3 * skip) for z in (a2, a_low, b))
    lost = a2 - a_low  # what 20 m bands lack of the 10 m bands at 20 m already
    base = upsample(c, 3)
    detail, left, rests, fine = [], [], [], []
    for slopes, rest, _ in regressions:
        number = slopes.shape[2]
        level = c - rest - (slopes * x[:, :, :number]).sum(2)
        on_a = slopes[:, :, :4]
        extra = grow(level, 3) + upsample(rest, 3) - base
        if number > 4:
            on_b = slopes[:, :, 4:]
            wide = parted(grow(on_b.flatten(1, 2), 3), 2, -1)
            extra += (wide * b[:, None]).sum(2)
            by_b = parted(grow((on_b[:, :, :, None] * slopes_b[:, None]).sum(2).flatten(1, 2), 3), 2, -1)
            extra += (by_b * lost[:, None]).sum(2)
        wide = parted(grow(on_a.flatten(1, 2), 3), 2, -1)
        extra += (wide * a2[:, None]).sum(2)
        fine.append(wide if number == 4 else wide + by_b)
        detail.append(extra)
        left.append(mean_around(rest * rest, NEAR))
        rests.append(rest)
    details = torch.stack(detail, 2)
    scale2 = mean_around(F.avg_pool2d((details * details).mean(2), 3), NEAR) + LEAST
    near = mean_around((c - mean_around(c, NEAR)) ** 2, NEAR) + LEAST
    remains = torch.stack(left, 2)
    share = remains / near[:, :, None] + 10 * TRACE
    scale = scale2.sqrt()
    sigmas = torch.tensor([s or 0.8 for s in BLURS], device=a.device)
    blur = (likely * sigmas[:, None, None, None, None]).sum(0)
    facts = [
        torch.log(share.flatten(1, 2)),
        torch.log(scale2 / near),
        0.5 * torch.log(contrast / FLOOR**2 + 1) - 3,
        4 * (blur - 1.4),
        *(rest / scale for rest in rests),
    ]
    levels = (torch.cat([a2, b, base], 1) - grow(middle, 3)) * grow(spread, 3)
    edge = spare // 6 - skip
    return Fits(
        base=inner(base, 3 * edge),
        detail=inner(details, 3 * edge),
        slopes=inner(torch.stack(fine, 2), 3 * edge),
        scale=inner(scale, edge),
        most=inner(torch.minimum(scale2, BOUND**2 * remains.mean(2) + LEAST).sqrt(), edge),
        unsure=inner((scale2 + remains.mean(2)).sqrt(), edge),
        left=inner(share, edge),
        box=inner(likely[0], edge),
        facts=inner(torch.cat(facts, 1), edge),
        levels=inner(levels, 3 * edge),
    )


def inner(x: torch.Tensor, edge: int) -> torch.Tensor:
    """Without `edge` pixels on every side."""
    return x[..., edge:-edge, edge:-edge] if edge else x


def mean_around(x: torch.Tensor, weights: list[float]) -> torch.Tensor:
    """Weighted mean round every pixel."""
    return around(x, weights) / around(torch.ones_like(x[:1, :1]), weights)


def sharpen(low: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The 20 m bands as linear in the 10 m ones: slopes ``(N, 6, 4, h, w)`` on the 60 m grid."""
    p, k, dtype = low.shape[1], b.shape[1], b.dtype
    low, b = precise(low), precise(b)
    squares = products(low, 1)
    parts = [b, low, squares, (low[:, None] * b[:, :, None]).flatten(1, 2)]
    sums = mean_around(pooled(torch.cat(parts, 1), 3), NEAR)
    level, mean, squares, mixed = torch.split(sums, [k, p, squares.shape[1], k * p], 1)
    mixed = parted(mixed, k, p) - level[:, :, None] * mean[:, None]
    normal = (squares - products(mean, 1))[:, None]
    return solve(normal, mixed, 1e-4).to(dtype)


class Blend(Network):
    """The 60 m bands from regressions on the 10 m and 20 m ones.

    Three regressions are made round every 60 m pixel, for the blur that fits best there: on the 10 m bands, near and
    wide, and on all ten, wide. Convolutions on the 20 m grid estimate how far each and plain interpolation are to be
    trusted, and add what all of them miss: no more than the regressions add to interpolation, and no more than a few
    times what they leave unexplained. What the convolutions see of a 60 m band has neither its gain nor its offset.
    """

    lattice = 6

    def __init__(self, ratio: int = 6, features: int = 64, blocks: int = 3) -> None:
        super().__init__()
        self.ratio, self.side = ratio, 600
        self.fine = _conv(4, 8)
        self.enter = _conv(4 * 8 + 6 + 18 + 12, features, gain=1.0)
        self.body = nn.Sequential(*(_Block(features) for _ in range(blocks)))
        self.gate = _conv(features, 8, gain=0.0)
        self.more = _conv(features, 8, gain=0.0)
        self.trust = nn.Parameter(torch.tensor(1.5))
        # Where 60 m bands are hardly blurred, 10 m bands are sharper than the result should be: half of their detail.
        self.soften = nn.Parameter(torch.tensor(-1.1))
        self.uncertainty_head = nn.Sequential(_conv(features, 32), nn.ReLU(), _conv(32, 8, gain=0.0))

    @property
    def radius(self) -> int:
        """Receptive field in 10 m pixels on either side."""
        return self.spare + 2 * (1 + 2 * len(self.body)) + 14

    @property
    def spare(self) -> int:
        """Part of `radius` that the regressions see and the convolutions do not: whole 60 m pixels."""
        return 6 * (2 + len(WIDE) // 2 + len(WIDER) // 2 + MARGIN)  # blur, evidence, a regression

    def forward(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor | None = None,
        *,
        uncertainty: bool = False,
        spare: int = 0,
    ) -> torch.Tensor:
        """Super-resolve one batch, as `xsen2.networks.twogrid.TwoGrid` does.

        `spare` pixels of 10 m along all edges, whole 60 m pixels, are context of the regressions alone: the result has
        none there.
        """
        assert c is not None
        with torch.no_grad(), torch.autocast(a.device.type, enabled=False):
            a2 = F.avg_pool2d(a, 2)
            fit = fits(a, a2, b, c, spare)
            a, a2 = inner(a, spare), inner(a2, spare // 2)
            unit = grow(fit.scale, 3)
            relative = (fit.detail / unit[:, :, None]).flatten(1, 2)
            high = a - up2(a2)
            size = (mean_around(F.avg_pool2d(high * high, 6), NEAR) + 2.5e-5).rsqrt()
            coarse = torch.cat([relative, grow(fit.facts, 3), fit.levels], 1)
            prior = -torch.log(fit.left)
            prior = torch.cat([torch.zeros_like(prior[:, :, :1]), prior], 2)  # interpolation leaves all
            prior = parted(grow(prior.flatten(1, 2), 3), 2, 4)
            box = grow(fit.box, 3)
            fine = high * grow(size, 6)
        dtype = self.gate.weight.dtype
        last = torch.channels_last
        x = conv(fine.clamp(-8, 8).to(dtype, memory_format=last), self.fine.weight, self.fine.bias, relu=True)
        x = torch.cat([F.pixel_unshuffle(x, 2), coarse.clamp(-8, 8).to(x.dtype)], 1).contiguous(memory_format=last)
        x = self.body(conv(x, self.enter.weight, self.enter.bias))
        gate = parted(self.gate(x).float(), 2, 4)
        more = F.pixel_shuffle(torch.tanh(self.more(x).float()), 2)
        share = torch.softmax(self.trust.float() * prior + gate, 2)
        estimate = fit.base + (share[:, :, 1:] * fit.detail).sum(2)
        slopes = (
            2 * torch.sigmoid(self.soften.float() * box[:, :, None]) * (share[:, :, 1:, None] * fit.slopes).sum(2)
        ).flatten(1, 2)
        wide = upsample(torch.cat([estimate, a2, grow(fit.most, 3), grow(fit.unsure, 3)], 1), 2)
        finer = (parted(up2(slopes), 2, 4) * (a - wide[:, 2:6])[:, None]).sum(2)
        if not self.training:
            more = KEPT * more
        out: torch.Tensor = wide[:, :2] + finer + wide[:, 6:8] * more
        if not self.training:  # floored values would have no gradient
            out = floored(out, inner(c, spare // 6), 6)
        if not uncertainty:
            return out
        log_error = F.pixel_shuffle(self.uncertainty_head(x.detach()).float(), 2).clamp(-8, 8)
        return torch.cat([out, wide[:, 8:].abs() * torch.exp(log_error - 1)], 1)


def up2(x: torch.Tensor) -> torch.Tensor:
    """Every pixel twice, along both axes."""
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
