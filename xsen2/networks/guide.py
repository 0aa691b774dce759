"""What the 10 m bands say of a coarser one, place by place: local linear regression, in torch."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from xsen2.engine.operators import support, taps
from xsen2.networks.fits import products, solve

__all__ = ["OPERATORS", "guess", "reach", "regress"]

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
    after = len(weights) - before - ratio
    for dim in (2, 3):
        n = a.shape[dim]
        place = torch.arange(-before, n + after, device=a.device)
        place = torch.where(place < 0, -1 - place, place) % (2 * n)
        x = a.index_select(dim, torch.where(place >= n, 2 * n - 1 - place, place))
        cells = n // ratio
        step = (slice(None),) * dim + (slice(None, None, ratio),)
        a = x.narrow(dim, 0, ratio * (cells - 1) + 1)[step] * float(weights[0])
        for j, weight in enumerate(weights[1:], 1):
            a.add_(x.narrow(dim, j, ratio * (cells - 1) + 1)[step], alpha=float(weight))
    return a


def _around(x: torch.Tensor, weights: list[float]) -> torch.Tensor:
    """Weighted sums round every pixel of ``(N, C, h, w)``; what is beyond the edges counts as 0."""
    far = len(weights) // 2
    for dim in (2, 3):
        edges = (0, 0, far, far) if dim == 2 else (far, far, 0, 0)
        wide, n = F.pad(x, edges), x.shape[dim]
        # Not a convolution of the library's: those round differently for other sizes, and a variance that is the
        # difference of two large numbers would show it.
        x = wide.narrow(dim, 0, n) * weights[0]
        for k, weight in enumerate(weights[1:], 1):
            x.add_(wide.narrow(dim, k, n), alpha=weight)
    return x


def _fine(x: torch.Tensor, ratio: int) -> torch.Tensor:
    """Bilinear interpolation, half-pixel centres; each phase with its own two weights, wherever a block begins."""
    for dim in (2, 3):
        n = x.shape[dim]
        wide = torch.cat([x.narrow(dim, 0, 1), x, x.narrow(dim, n - 1, 1)], dim)
        phases = []
        for phase in range(ratio):
            place = (phase + 0.5) / ratio + 0.5
            base = math.floor(place)
            low, high = wide.narrow(dim, base, n), wide.narrow(dim, base + 1, n)
            phases.append(torch.lerp(low, high, place - base))
        x = torch.stack(phases, dim + 1).flatten(dim, dim + 1)
    return x


def guess(a: torch.Tensor, y: torch.Tensor, ratio: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The coarse bands at 10 m as a local regression on the 10 m bands has them, and how they seem to have come about.

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
    found : torch.Tensor
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
    wide = _fine(slopes.flatten(1, 2), ratio).view(*slopes.shape[:3], *a.shape[2:])
    found: torch.Tensor = (wide * a[:, None]).sum(2) + _fine(constant, ratio)
    return found, counts[0] / total


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
    bands, made = low.shape[1], y.shape[1]
    pairs = bands * (bands + 1) // 2
    terms = [torch.ones_like(low[:, :1]), low, y, y * y]
    terms += [products(low, 1), (low[:, None] * y[:, :, None]).flatten(1, 2)]
    sums = _around(torch.cat(terms, 1), _NEAR)
    sums = sums[:, 1:] / sums[:, :1]
    mean, level, power, squares, mixed = torch.split(sums, [bands, made, made, pairs, made * bands], 1)
    mixed = mixed.view(len(mixed), made, bands, *mixed.shape[2:]) - level[:, :, None] * mean[:, None]
    slopes = solve((squares - products(mean, 1))[:, None], mixed, _RIDGE)
    constant = level - (slopes * mean[:, None]).sum(2)
    error = (y - (slopes * low[:, None]).sum(2) - constant) ** 2
    share = (error / ((power - level * level).clamp(min=0) + _LEAST)).mean(1, keepdim=True)
    ones = torch.ones_like(share)
    return Fit(slopes, constant, _around(share, _WIDE) / _around(ones, _WIDE) + 1e-6)
