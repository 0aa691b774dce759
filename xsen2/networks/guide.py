"""What the 10 m bands say of a coarser one, place by place: local linear regression, in torch."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from xsen2.kernels import support, taps

__all__ = ["REACH", "guess", "reach", "regress"]

REACH = 2
"""Coarse pixels on either side that a local regression sees."""

_SIGMA = 1.0  # of its weights, in coarse pixels
_RIDGE = 1e-4  # variance, in (DN / 2000)²: bands that vary by less than 20 DN say little


def reach(ratio: int, operator: str) -> int:
    """Coarse pixels on either side that a value of `guess` depends on."""
    return 1 + REACH + -(-support("B08", ratio, operator) // ratio)


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


def _local(x: torch.Tensor) -> torch.Tensor:
    """Weighted means round every pixel of ``(N, C, h, w)``; the weights beyond the edges count for nothing."""
    weights = [math.exp(-0.5 * (k / _SIGMA) ** 2) for k in range(-REACH, REACH + 1)]
    for dim in (2, 3):
        edges = (0, 0, REACH, REACH) if dim == 2 else (REACH, REACH, 0, 0)
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


def guess(a: torch.Tensor, y: torch.Tensor, ratio: int, operator: str) -> torch.Tensor:
    """The coarse bands at 10 m, as `regress` would have them: ``(N, K, H, W)``, float32."""
    slopes, constant = regress(a, y, ratio, operator)
    wide = _fine(slopes.flatten(1, 2), ratio).view(*slopes.shape[:3], *a.shape[2:])
    found: torch.Tensor = (wide * a[:, None]).sum(2) + _fine(constant, ratio)
    return found


def regress(a: torch.Tensor, y: torch.Tensor, ratio: int, operator: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Slopes and constant of ``y ~ w · A(a) + v`` round every coarse pixel.

    Least squares with Gaussian weights, as in a guided filter (He et al. 2013), with a ridge that holds the slopes near
    zero where the 10 m bands hardly vary.

    Parameters
    ----------
    a : torch.Tensor
        ``(N, 4, H, W)``, DN / 2000.
    y : torch.Tensor
        ``(N, K, H / ratio, W / ratio)``.

    Returns
    -------
    slopes : torch.Tensor
        ``(N, K, 4, H / ratio, W / ratio)``.
    constant : torch.Tensor
        ``(N, K, H / ratio, W / ratio)``.
    """
    low = _degrade(a, ratio, operator)
    bands, made = low.shape[1], y.shape[1]
    upper = [(i, j) for i in range(bands) for j in range(i, bands)]
    terms = [torch.ones_like(low[:, :1]), low, y]
    terms += [torch.stack([low[:, i] * low[:, j] for i, j in upper], 1), (low[:, None] * y[:, :, None]).flatten(1, 2)]
    sums = _local(torch.cat(terms, 1))
    sums = sums[:, 1:] / sums[:, :1]
    mean, level, squares, mixed = torch.split(sums, [bands, made, len(upper), made * bands], 1)
    mixed = mixed.view(len(mixed), made, bands, *mixed.shape[2:]) - level[:, :, None] * mean[:, None]
    slopes = _solve({(i, j): squares[:, k] - mean[:, i] * mean[:, j] for k, (i, j) in enumerate(upper)}, mixed)
    return slopes, level - (slopes * mean[:, None]).sum(2)


def _solve(normal: dict[tuple[int, int], torch.Tensor], right: torch.Tensor) -> torch.Tensor:
    """Cholesky's method for a small matrix at every pixel: written out, since batched solvers take 100 times as long.

    `normal` holds the upper half, ``(N, h, w)`` each; `right` is ``(N, K, size, h, w)``.
    """
    size = right.shape[2]
    root: dict[tuple[int, int], torch.Tensor] = {}
    for j in range(size):
        rest = normal[j, j] + _RIDGE
        for k in range(j):
            rest = rest - root[j, k] ** 2
        root[j, j] = rest.clamp(min=_RIDGE / 2).sqrt()
        for i in range(j + 1, size):
            rest = normal[j, i]
            for k in range(j):
                rest = rest - root[i, k] * root[j, k]
            root[i, j] = rest / root[j, j]
    half: list[torch.Tensor] = []
    for i in range(size):
        rest = right[:, :, i]
        for k in range(i):
            rest = rest - root[i, k][:, None] * half[k]
        half.append(rest / root[i, i][:, None])
    found: list[torch.Tensor] = [half[0]] * size
    for i in reversed(range(size)):
        rest = half[i]
        for k in range(i + 1, size):
            rest = rest - root[k, i][:, None] * found[k]
        found[i] = rest / root[i, i][:, None]
    return torch.stack(found, 2)
