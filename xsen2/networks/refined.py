"""Refined: a regression on the 10 m bands, and a bounded correction by convolutions like those of TwoGrid."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from xsen2.networks.blend import inner, mean_around, up2
from xsen2.networks.fits import (
    diagonal,
    floored,
    gaussian,
    grow,
    parted,
    pooled,
    precise,
    products,
    reduce,
    solve,
    window,
)
from xsen2.networks.twogrid import Folded, _Block, _conv, upsample

__all__ = ["Refined"]

NEAR, WIDE = window(1.0, 2), window(2.0, 4)  # 60 m cells
BLURS = (0.6, 0.82, 1.04, 1.26)
"""Sigmas of the blurs that may have made 20 m pixels of 10 m ones, in 10 m pixels."""
CERTAIN = 20.0  # power of the evidence for a blur
RIDGE = 2.5e-5  # variance, in (DN / 2000)²: (10 DN)²
FLOOR = (2.5e-3) ** 2  # (5 DN)²: 10 m bands that vary by less are noise
LEAST, TRACE = 1e-9, 1e-5
"""Variances of a 20 m band that count as nothing: (0.06 DN)², and this share of the band's variance. Larger ones
in DN would make the outcome depend on the band's unit."""
LEVEL = (
    (-0.008, 0.113, 0.723, 0.214, -0.028),
    (0.039, -0.021, 0.214, 0.771, 0.009),
    (-0.043, -0.060, 0.145, 0.939, 0.068),
    (-0.060, -0.207, 0.158, 1.059, 0.105),
    (-1.691, -0.554, 2.107, 0.413, 0.645),
    (-1.408, -0.438, 1.991, 0.144, 0.474),
)
"""The usual mean of a 20 m band round a place, linear in those of the 10 m bands and 1: least squares over the training
scenes, DN / 2000. `SPREAD` likewise has the logarithm of its standard deviation, linear in those of the 10 m bands."""
SPREAD = (
    (-0.213, 0.537, 0.541, 0.144, -0.041),
    (0.012, 0.108, 0.021, 0.843, -0.124),
    (-0.002, -0.004, 0.052, 0.927, -0.080),
    (0.006, -0.050, 0.045, 0.976, -0.009),
    (-0.502, 0.055, 0.813, 0.534, -0.337),
    (-0.339, -0.343, 1.199, 0.345, -0.555),
)


class Start(NamedTuple):
    """The 20 m bands at 10 m by regression, and statistics of them round a place."""

    base: torch.Tensor
    """``(N, 6, H, W)``: bicubic interpolation."""
    detail: torch.Tensor
    """``(N, 6, H, W)``: the regression minus `base`."""
    left: torch.Tensor
    """``(N, 6, H / 2, W / 2)``: logarithm of the share of the variance that the regression leaves unexplained."""
    unit: torch.Tensor
    """``(N, 6, H / 2, W / 2)``: RMS of the detail and of half of the residual variance."""
    most: torch.Tensor
    """``(N, 6, H / 2, W / 2)``: the same, with less of the residual where the regression explains under half."""
    gain: torch.Tensor
    """``(N, 6, H / 2, W / 2)``: factor that gives the bands the spread that is usual over such 10 m bands."""
    alike: torch.Tensor
    """``(N, 6, H / 2, W / 2)``: the bands, with the mean and the spread that are usual over such 10 m bands."""
    blur: torch.Tensor
    """``(N, 6, H / 2, W / 2)``: the likely blur."""
    contrast: torch.Tensor
    """``(N, 1, H / 2, W / 2)``: logarithm of how much the 10 m bands vary."""


def start(a: torch.Tensor, b: torch.Tensor, spare: int = 0) -> Start:
    """Local regressions of the 20 m bands on the 10 m ones, for the blur that fits best; statistics of 60 m cells.

    What comes back lacks `spare` pixels of 10 m on every side.
    """
    p, k = a.shape[1], b.shape[1]
    exact = precise(b)
    moments = torch.cat([exact, exact * exact], 1)
    level, power = torch.split(mean_around(pooled(moments, 3), WIDE), [k, k], 1)
    variance = (power - level * level).clamp(min=0)
    lows, slopes_, lefts = [], [], []
    for sigma in BLURS:
        low = reduce(a, *gaussian(sigma, 2), 2)
        x = precise(low)
        squares = products(x, 1)
        parts = [x, squares, (x[:, None] * exact[:, :, None]).flatten(1, 2)]
        sums = mean_around(pooled(torch.cat(parts, 1), 3), WIDE)
        mean, squares, mixed = torch.split(sums, [p, squares.shape[1], k * p], 1)
        mixed = parted(mixed, k, p) - level[:, :, None] * mean[:, None]
        slopes = solve((squares - products(mean, 1))[:, None], mixed, RIDGE)
        lefts.append(((variance - (slopes * mixed).sum(2)).clamp(min=0) + TRACE * variance + LEAST).to(b.dtype))
        lows.append(low)
        slopes_.append(slopes.to(b.dtype))
    left = torch.stack(lefts)
    likely = vertex(left)
    level, variance = level.to(b.dtype), variance.to(b.dtype)
    # From here on without the margin, but for what interpolation and the next means see of it.
    skip = max(0, spare // 6 - len(NEAR) // 2 - 2)
    likely, level, variance = (inner(x, skip) for x in (likely, level, variance))
    left, mean, squares = (inner(x, skip) for x in (left, mean, squares))
    slopes_ = [inner(s, skip) for s in slopes_]
    a, b = inner(a, 6 * skip), inner(b, 3 * skip)
    mixed_slopes = sum(n[:, :, None] * s for n, s in zip(likely, slopes_, strict=True))
    assert isinstance(mixed_slopes, torch.Tensor)
    # Slopes change from cell to cell: times the level of the 10 m bands, that would be steps of 20 m. What is the same
    # at both scales is taken out of them first, which changes nothing where slopes do not change.
    level20 = inner(lows[1], 3 * skip)
    a = a - upsample(level20, 2)
    rest = b.clone()
    for n, s, low in zip(likely, slopes_, lows, strict=True):
        on_a = parted(grow((n[:, :, None] * s).flatten(1, 2), 3), k, p)
        rest -= (on_a * (inner(low, 3 * skip) - level20)[:, None]).sum(2)
    fine = parted(up2(grow(mixed_slopes.flatten(1, 2), 3)), k, p)
    base = upsample(b, 2)
    detail = (fine * a[:, None]).sum(2) + upsample(rest, 2) - base
    remains = (likely * left).sum(0)
    energy = mean_around(F.avg_pool2d(detail * detail, 6), NEAR)
    unit = (energy + 0.5 * remains).sqrt()
    # The residual variance counts in full where the fit explains half of the variance or more, and not at all where it
    # explains nothing.
    known = (2 - 2 * remains / (variance + LEAST)).clamp(0, 1)
    most = (energy + 0.5 * known * remains + LEAST).sqrt()
    spread = (squares[:, diagonal(p)] - mean * mean).clamp(min=0).to(b.dtype) + FLOOR
    mean = mean.to(b.dtype)
    size = 0.5 * torch.log(spread)
    gain = torch.exp(_linear(size, SPREAD)) / (variance + 100 * LEAST).sqrt()
    gain3 = grow(gain, 3)
    alike = (b - grow(level, 3)) * gain3 + grow(_linear(mean, LEVEL).clamp(0, 6), 3)
    share = torch.log(remains / (variance + LEAST)).clamp(max=0)
    contrast = size.mean(1, keepdim=True) - 0.5 * math.log(FLOOR) - 3
    sigmas = torch.tensor(BLURS, device=a.device)[:, None, None, None, None]
    rest_of = spare - 6 * skip
    return Start(
        base=inner(base, rest_of),
        detail=inner(detail, rest_of),
        left=inner(grow(share, 3), rest_of // 2),
        unit=inner(grow(unit, 3), rest_of // 2),
        most=inner(grow(most, 3), rest_of // 2),
        gain=inner(gain3, rest_of // 2),
        alike=inner(alike, rest_of // 2),
        blur=inner(grow((likely * sigmas).sum(0), 3), rest_of // 2),
        contrast=inner(grow(contrast, 3), rest_of // 2),
    )


def _linear(x: torch.Tensor, weights: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    """Every output from all channels and a constant; written out, so that it is the same wherever a block is cut."""
    rows = []
    for *slopes, constant in weights:
        row = torch.full_like(x[:, 0], constant)
        for i, slope in enumerate(slopes):
            row.add_(x[:, i], alpha=slope)
        rows.append(row)
    return torch.stack(rows, 1)


def vertex(left: torch.Tensor) -> torch.Tensor:
    """Weights of two neighbours of four equidistant blurs, such that their mean is the blur that leaves least variance.

    Between the blurs the variance left is a parabola through three of them: the first three and the last three are
    weighted by how little their middle ones leave.
    """
    evidence = left / left.amin(0)
    places = []
    for k in (1, 2):
        before, here, after = evidence[k - 1], evidence[k], evidence[k + 1]
        curvature = (before - 2 * here + after).clamp(min=1e-3)
        places.append(k + ((before - after) / (2 * curvature)).clamp(-1, 1))
    first = torch.sigmoid(CERTAIN * torch.log(left[2] / left[1]))
    place = first * places[0] + (1 - first) * places[1]
    return torch.stack([(1 - (place - k).abs()).clamp(min=0) for k in range(len(evidence))])


class Refined(Folded):
    """TwoGrid that starts from a regression, sees no unusual gain or offset of a 20 m band, and is bounded.

    A regression of every 20 m band on the 10 m bands is made round every place, for the blur that fits best there.
    Convolutions as those of `xsen2.networks.twogrid.TwoGrid` see the bands with the mean and the spread that are usual
    over such 10 m bands. They estimate how far the regression is to be trusted, and what replaces it, which is no more
    than a few times what the regression adds to interpolation or leaves unexplained.
    """

    lattice = 6

    def __init__(self, ratio: int = 2, thin: int = 32, wide: int = 128, blocks: int = 4) -> None:
        super().__init__()
        self.ratio, outputs = ratio, 6
        self.side = 600  # the halo is wide, and only the regressions see most of it
        self.stem = nn.ModuleList([_conv(4 + outputs, thin), _conv(thin, thin)])
        self.enter = _conv(4 * thin + 10 + 3 * outputs, wide, gain=1.0)
        self.body = nn.Sequential(*(_Block(wide) for _ in range(blocks)))
        self.leave = _conv(wide, 4 * thin, gain=1.0)
        self.join = _conv(2 * thin, thin)
        self.tail = _conv(thin, outputs, gain=0.0)
        self.gate = _conv(thin, outputs, gain=0.0)
        self.uncertainty_head = nn.Sequential(_conv(thin, thin), nn.ReLU(), _conv(thin, outputs, gain=0.0))

    @property
    def radius(self) -> int:
        """Receptive field in 10 m pixels on either side."""
        return self.spare + 4 + 2 + 2 * (2 + 2 * len(self.body))

    @property
    def spare(self) -> int:
        """Part of `radius` that the regressions see and the convolutions do not: whole 60 m cells."""
        return 6 * (len(WIDE) // 2 + len(NEAR) // 2 + 2)

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

        The first pixel lies on a border of 60 m. `spare` pixels of 10 m along all edges, whole 60 m cells, are context
        of the regressions alone: the result has none there.
        """
        size = a.shape[2:]
        edges = [-n % 6 for n in size]
        if any(edges):
            a, b = (F.pad(x, (0, edges[1] // f, 0, edges[0] // f), mode="replicate") for x, f in ((a, 1), (b, 2)))
        out = self._super_resolve(a, b, uncertainty, spare)
        return out[..., : size[0] - 2 * spare, : size[1] - 2 * spare] if any(edges) else out

    def _super_resolve(self, a: torch.Tensor, b: torch.Tensor, uncertainty: bool, spare: int) -> torch.Tensor:
        """`forward` for sizes that are multiples of 60 m."""
        with torch.no_grad(), torch.autocast(a.device.type, enabled=False):
            fit = start(a, b, spare)
            a = inner(a, spare)
            gain = up2(fit.gain)
            scaled_detail = (fit.detail * gain).clamp(-1, 1)
            bound = (4 * up2(fit.most) + 2 * fit.detail.abs()) * gain
            prior = -up2(fit.left) - 6
            # A regression that leaves but a few thousandths of the variance can hardly be improved on, whatever was
            # trained on: with a gentle slope here, longer training made scenes of known truth worse, where bands are
            # nearly linear.
            prior = prior + 8 * torch.relu(prior + 0.5)
            mean = F.avg_pool2d(a, 2)
            contrast = fit.contrast.expand(-1, 6, -1, -1) / 4
            facts = [fit.left / 4, contrast, 4 * (fit.blur - 0.88)]
            levels = torch.cat([mean, fit.alike.clamp(-1, 6), *facts], 1)
            fine = 4 * torch.cat([a - up2(mean), scaled_detail], 1)
        x = self._features(fine, levels)
        trust = torch.sigmoid(prior + self.gate(x).float())
        more = bound * torch.tanh(self.tail(x).float() / bound)
        out: torch.Tensor = fit.base + trust * fit.detail + (1 - trust) * more / gain
        if not self.training:  # floored values would have no gradient
            out = floored(out, inner(b, spare // 2), 2)
        if not uncertainty:
            return out
        log_error: torch.Tensor = self.uncertainty_head(x.detach()).float().clamp(-8, 8)
        return torch.cat([out, up2(fit.unit) * torch.exp(log_error - 1)], 1)
