"""Linear regression of a coarser band on finer ones, round every place, for a blur that is not known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

__all__ = [
    "Fit",
    "along",
    "around",
    "convolved",
    "diagonal",
    "floored",
    "gaussian",
    "grow",
    "parted",
    "pooled",
    "precise",
    "products",
    "reduce",
    "regress",
    "solve",
    "window",
]


def gaussian(sigma: float, step: int, truncate: float = 3.5) -> tuple[list[float], int]:
    """Taps of a Gaussian for one coarse pixel of `step` fine ones, as `xsen2.engine.operators.taps` gives them."""
    centre = (step - 1) / 2
    first = min(0, math.ceil(centre - truncate * sigma))
    last = max(step - 1, math.floor(centre + truncate * sigma))
    weights = [math.exp(-0.5 * ((k - centre) / sigma) ** 2) for k in range(first, last + 1)]
    return [w / sum(weights) for w in weights], -first


def convolved(first: Sequence[float], second: Sequence[float]) -> tuple[list[float], int]:
    """Taps of one kernel after an odd, symmetric other."""
    out = [0.0] * (len(first) + len(second) - 1)
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            out[i + j] += x * y
    return out, len(second) // 2


def window(sigma: float, radius: int) -> list[float]:
    """Weights of the neighbours of a pixel along one axis."""
    return [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]


def along(x: torch.Tensor, dim: int, before: int, after: int, step: int = 1) -> torch.Tensor:
    """A view without `before` and `after` values at the ends of a dimension, of the rest every `step`-th.

    Counted from both ends: a traced network then computes no sizes, which would be a third of what it does.
    """
    return x[(slice(None),) * dim + (slice(before, -after or None, step),)]


def reduce(x: torch.Tensor, weights: Sequence[float], before: int, step: int) -> torch.Tensor:
    """Every `step`-th value of a separable correlation along the last two axes, whole steps; symmetric edges."""
    after = len(weights) - before - step
    for dim in (x.ndim - 2, x.ndim - 1):
        n = x.shape[dim]
        place = torch.arange(-before, n + after, device=x.device)
        place = torch.where(place < 0, -1 - place, place) % (2 * n)
        wide = x.index_select(dim, torch.where(place >= n, 2 * n - 1 - place, place))
        last = len(weights) - 1
        x = along(wide, dim, 0, last, step) * weights[0]
        for j, weight in enumerate(weights[1:], 1):
            x.add_(along(wide, dim, j, last - j, step), alpha=weight)
    return x


def around(x: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Weighted sums round every pixel, along the last two axes; what is beyond the edges counts as 0."""
    far = len(weights) // 2
    for dim in (x.ndim - 2, x.ndim - 1):
        edges = (0, 0, far, far) if dim == x.ndim - 2 else (far, far, 0, 0)
        wide = F.pad(x, edges)
        # Not a convolution of the library's: those round differently for other sizes, and a variance that is the
        # difference of two large numbers would show it.
        x = along(wide, dim, 0, 2 * far) * weights[0]
        for k, weight in enumerate(weights[1:], 1):
            x.add_(along(wide, dim, k, 2 * far - k), alpha=weight)
    return x


def grow(x: torch.Tensor, ratio: int) -> torch.Tensor:
    """Bilinear interpolation, half-pixel centres; each phase with its own two weights, wherever a block begins."""
    for dim in (x.ndim - 2, x.ndim - 1):
        n = x.shape[dim]
        wide = torch.cat([x.narrow(dim, 0, 1), x, x.narrow(dim, n - 1, 1)], dim)
        phases = []
        for phase in range(ratio):
            place = (phase + 0.5) / ratio + 0.5
            base = math.floor(place)
            low, high = along(wide, dim, base, 2 - base), along(wide, dim, base + 1, 1 - base)
            phases.append(torch.lerp(low, high, place - base))
        x = torch.stack(phases, dim + 1).flatten(dim, dim + 1)
    return x


def precise(x: torch.Tensor) -> torch.Tensor:
    """In float64, where the device has it.

    A variance is the difference of two large numbers: in float32 its last digits are noise, another one on every kind
    of processor and in every runtime, of up to some DN where bands hardly vary.
    """
    return x if x.device.type == "mps" else x.double()


def pooled(x: torch.Tensor, ratio: int) -> torch.Tensor:
    """Means over cells of `ratio` by `ratio` pixels, summed in one order whatever the size and the type."""
    for dim in (x.ndim - 2, x.ndim - 1):
        total = along(x, dim, 0, 0, ratio)
        for k in range(1, ratio):
            total = total + along(x, dim, k, 0, ratio)
        x = total / ratio
    return x


def floored(x: torch.Tensor, low: torch.Tensor, ratio: int) -> torch.Tensor:
    """`x`, but nowhere negative where none of the 3 x 3 coarse pixels of `low` round a place is.

    Dark water beside a bright shore has a few DN, and an error of ten times that is still small beside the shore's
    contrast: without a floor the short-wave infrared of water came out at -200 DN, and its index nowhere near 1. Where
    a measured band is negative itself, as after atmospheric correction, ten times as much is let through.
    """
    lowest = -F.max_pool2d(-low, 3, 1, 1)
    return torch.maximum(x, (10 * lowest).clamp(max=0).repeat_interleave(ratio, 2).repeat_interleave(ratio, 3))


def parted(x: torch.Tensor, *sizes: int) -> torch.Tensor:
    """Axis 1 split into several axes of these sizes."""
    return x.reshape(len(x), *sizes, *x.shape[2:])


def products(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Products of every two values of a dimension: the upper half of a matrix, row by row."""
    size = int(x.shape[dim])
    pairs = [(i, j) for i in range(size) for j in range(i, size)]
    rows, columns = (torch.tensor(places, device=x.device) for places in zip(*pairs, strict=True))
    return x.index_select(dim, rows) * x.index_select(dim, columns)


def diagonal(size: int) -> list[int]:
    """Positions of the squares in `products` of a dimension of this size.

    Examples
    --------
    >>> diagonal(3)
    [0, 3, 5]
    """
    return [i * size - i * (i - 1) // 2 for i in range(size)]


class Fit(NamedTuple):
    """A regression round every pixel."""

    slopes: torch.Tensor
    """``(N, K, P, h, w)``."""
    rest: torch.Tensor
    """``(N, K, h, w)``: residual of the pixel itself: its value minus the fit."""
    left: torch.Tensor
    """``(N, K, h, w)``: variance round the pixel that the fit leaves unexplained."""


def regress(x: torch.Tensor, y: torch.Tensor, weights: Sequence[float], ridge: float) -> Fit:
    """Least squares of ``y ~ slopes · x + constant`` round every pixel.

    Parameters
    ----------
    x : torch.Tensor
        ``(N, G, P, h, w)``, predictors: of one band each, or with G = 1 the same for all bands.
    y : torch.Tensor
        ``(N, K, h, w)``; K = G unless G = 1.
    weights : sequence of float
        Weights of the neighbours along one axis.
    ridge : float
        Added to the variances of the predictors.
    """
    p, dtype = x.shape[2], x.dtype
    x, y = precise(x), precise(y)
    squares = products(x, 2)
    mixed = x * y[:, :, None]
    g, k = x.shape[1], y.shape[1]
    ones = torch.ones_like(y[:, :1])
    parts = [ones, y, y * y, x.flatten(1, 2), squares.flatten(1, 2), mixed.flatten(1, 2)]
    sums = around(torch.cat(parts, 1), weights)
    sums = sums[:, 1:] / sums[:, :1]
    pairs = squares.shape[2]
    level, power, mean, squares, mixed = torch.split(sums, [k, k, g * p, g * pairs, k * p], 1)
    mean, squares, mixed = (parted(z, -1, q) for z, q in ((mean, p), (squares, pairs), (mixed, p)))
    mixed = mixed - level[:, :, None] * mean
    slopes = solve(squares - products(mean, 2), mixed, ridge)
    rest = y - level - (slopes * (x - mean)).sum(2)
    left = (power - level * level - (slopes * mixed).sum(2)).clamp(min=0)
    return Fit(slopes.to(dtype), rest.to(dtype), left.to(dtype))


def solve(normal: torch.Tensor, right: torch.Tensor, ridge: float) -> torch.Tensor:
    """Cholesky's method for a small matrix at every pixel: written out, since batched solvers take 100 times as long.

    `normal` holds the upper half, as `products` orders it, ``(N, G, pairs, h, w)``; `right` is ``(N, K, size, h, w)``.
    """
    size = right.shape[2]
    upper = dict(zip(((i, j) for i in range(size) for j in range(i, size)), normal.unbind(2), strict=True))
    root: dict[tuple[int, int], torch.Tensor] = {}
    for j in range(size):
        rest = upper[j, j] + ridge
        for k in range(j):
            rest = rest - root[j, k] ** 2
        root[j, j] = rest.clamp(min=ridge / 2).sqrt()
        for i in range(j + 1, size):
            rest = upper[j, i]
            for k in range(j):
                rest = rest - root[i, k] * root[j, k]
            root[i, j] = rest / root[j, j]
    half: list[torch.Tensor] = []
    for i in range(size):
        rest = right[:, :, i]
        for k in range(i):
            rest = rest - root[i, k] * half[k]
        half.append(rest / root[i, i])
    solution: list[torch.Tensor] = [half[0]] * size
    for i in reversed(range(size)):
        rest = half[i]
        for k in range(i + 1, size):
            rest = rest - root[k, i] * solution[k]
        solution[i] = rest / root[i, i]
    return torch.stack(solution, 2)
