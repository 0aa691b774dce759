"""Sharing of values between neighbouring pixels, after Brodu (2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xsen2.bands import A
from xsen2.engine.operators import observed, support
from xsen2.methods.bicubic import upsample
from xsen2.methods.common import OneGrid, of_grid
from xsen2.methods.protocol import Array

__all__ = ["Sen2Res", "at_nodes", "guess", "make", "mix", "pixels_of", "shared"]


# The mixtures behind `sen2res`: fine pixels share values that live where coarse pixels meet.
#
# A *cell* is a coarse pixel, a *node* the point where four cells meet; an image of ``h x w`` cells has ``(h + 1, w +
# 1)`` nodes. Sums run over planes in a fixed order, never through a matrix product, so that a pixel comes out to the
# last bit the same however large the array around it is.


ROUNDS = 6
"""How often shared values and weights are estimated in turn; each round looks one cell further."""

_STEPS = 4  # of gradient descent on the weights per round
_RELAXATION = 1.8  # of the steps of the shared values, which converge below 2
_WEIGHT = 1e2  # DN: detail smaller than this does not move the weights from those of the distance
_VALUE = 0.03  # weight of the first guess of a shared value, in pixels per pixel of a cell
_DETAIL = 5e1  # DN: differences between cells below this say nothing about a shared value

_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def _cells_of(x: Array, ratio: int) -> Array:
    """``(..., H, W)`` → ``(..., ratio², H / ratio, W / ratio)``."""
    *lead, height, width = x.shape
    parts = x.reshape(*lead, height // ratio, ratio, width // ratio, ratio)
    parts = np.moveaxis(parts, (-3, -1), (-4, -3))
    return np.ascontiguousarray(parts).reshape(*lead, ratio**2, height // ratio, width // ratio)


def pixels_of(x: Array, ratio: int) -> Array:
    """The inverse of `_cells_of`."""
    *lead, _, height, width = x.shape
    parts = np.moveaxis(x.reshape(*lead, ratio, ratio, height, width), (-4, -3), (-3, -1))
    return np.ascontiguousarray(parts).reshape(*lead, height * ratio, width * ratio)


def _corners(s: Array) -> list[Array]:
    """The nodes at the four corners of each cell: ``(..., h + 1, w + 1)`` → four of ``(..., h, w)``."""
    height, width = s.shape[-2] - 1, s.shape[-1] - 1
    return [s[..., i : i + height, j : j + width] for i, j in _CORNERS]


def at_nodes(parts: Sequence[Array]) -> Array:
    """Add up at the nodes what cells give to their four corners, the adjoint of taking corners."""
    *lead, height, width = parts[0].shape
    out = np.zeros((*lead, height + 1, width + 1), np.float32)
    for part, (i, j) in zip(parts, _CORNERS, strict=True):
        out[..., i : i + height, j : j + width] += part
    return out


def _around(x: Array, ratio: int = 1) -> Array:
    """The four pixels that touch each node, ``(4, ..., h + 1, w + 1)``, of an image of `ratio` pixels per cell."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)], mode="symmetric")
    height, width = x.shape[-2] // ratio + 1, x.shape[-1] // ratio + 1
    return np.stack([padded[..., i::ratio, j::ratio][..., :height, :width] for i, j in _CORNERS])


def _floor(touching: Array) -> Array:
    """The lower bound of shared values: 0, or the least of the pixels around where that is below."""
    return np.asarray(np.minimum(touching.min(axis=0), np.float32(0)))


def _products(pairs: Sequence[tuple[Array, Array]], out: Array | None = None) -> Array:
    """Sum of products, plane by plane."""
    total = pairs[0][0] * pairs[0][1] if out is None else out
    for a, b in pairs[1 if out is None else 0 :]:
        total += a * b
    return total


def mix(weights: Array, s: Array) -> Array:
    """The pixels ``(ratio², h, w)`` that weights ``(4, ratio², h, w)`` make of shared values ``(h + 1, w + 1)``."""
    return _products(list(zip(weights, _corners(s), strict=True)))


def _onto_simplex(w: Array) -> None:
    """Project four weights, along the first axis, onto those that are not negative and sum to one; in place."""
    a, b, c, d = w
    top, low = np.maximum(a, b), np.minimum(a, b)
    more, less = np.maximum(c, d), np.minimum(c, d)
    first, last = np.maximum(top, more), np.minimum(low, less)
    mid_a, mid_b = np.minimum(top, more), np.maximum(low, less)
    total = first - 1
    excess = total.copy()
    for n, value in enumerate((np.maximum(mid_a, mid_b), np.minimum(mid_a, mid_b), last), start=2):
        total += value
        np.maximum(excess, total / np.float32(n), out=excess)
    w -= excess
    np.maximum(w, 0, out=w)


def _by_distance(ratio: int) -> Array:
    """Bilinear weights of a cell's corners, ``(4, ratio², 1, 1)``."""
    far = (np.arange(ratio) + 0.5) / ratio
    sides = (1 - far, far)
    weights = np.stack([np.outer(sides[i], sides[j]).ravel() for i, j in _CORNERS])
    return np.asarray(weights[:, :, None, None], np.float32)


def shared(a: Array, ratio: int) -> tuple[Array, Array]:
    """Write every pixel as a mixture of the values at its cell's four corners, in all bands with the same weights.

    Minimises ``sum |x - sum w s|²`` over weights and shared values in turn; the weights stay near those of the
    distance, the shared values near the mean of the four pixels around them, as far as the data allow both.

    Parameters
    ----------
    a : numpy.ndarray
        ``(band, H, W)``, DN; sizes are multiples of `ratio`.
    ratio : int
        How many pixels a cell is wide.

    Returns
    -------
    weights : numpy.ndarray
        ``(4, ratio², H / ratio, W / ratio)``: corners, pixels, cells. Not negative, sums over corners are one.
    values : numpy.ndarray
        ``(band, H / ratio + 1, W / ratio + 1)``, DN.
    """
    touching = _around(a, ratio)
    lowest, start = _floor(touching), touching.mean(axis=0)
    x = _cells_of(a, ratio)
    mean = x.mean(axis=1)
    x -= mean[:, None]
    bands, count = x.shape[:2]
    s = start
    near = _by_distance(ratio)
    pull = np.float32(_WEIGHT**2)
    rest = np.float32(_VALUE * count)
    w = np.broadcast_to(near, (4, *x.shape[1:])).copy()
    for _ in range(ROUNDS):
        corners = [corner - mean for corner in _corners(s)]  # weights sum to one: a cell's level is nothing to them
        gram: list[list[Any]] = [[None] * 4 for _ in range(4)]
        for k in range(4):
            for j in range(k, 4):
                pairs = [(corners[k][band], corners[j][band]) for band in range(bands)]
                gram[k][j] = gram[j][k] = _products(pairs)
            gram[k][k] += pull
        step = 1 / (gram[0][0] + gram[1][1] + gram[2][2] + gram[3][3])
        wanted = np.empty_like(w)
        for k in range(4):
            wanted[k] = pull * near[k]
            _products([(corners[k][band], x[band]) for band in range(bands)], wanted[k])
        for _ in range(_STEPS):
            moves = [wanted[k] - _products([(gram[k][j], w[j]) for j in range(4)]) for k in range(4)]
            for k in range(4):
                moves[k] *= step
                w[k] += moves[k]
            _onto_simplex(w)
        share = at_nodes(w.sum(axis=1)) + rest
        updated = np.empty_like(s)
        for band in range(bands):
            error = x[band] - _products([(w[k], corners[k][band]) for k in range(4)])
            asked = at_nodes([(w[k] * error).sum(axis=0) for k in range(4)])
            asked -= rest * (s[band] - start[band])
            updated[band] = s[band] + np.float32(_RELAXATION) * asked / share
        s = np.maximum(updated, lowest)
    return w, s


def guess(values: Array, low: Array, y: Array) -> tuple[Array, Array]:
    """A first guess of a coarse band's shared values, made of the four cells around in the way the fine bands' are.

    Where the fine bands, degraded, have the cells ``c_j`` around a node and their shared value there is ``s``, the
    weights ``m`` minimise ``|s - mean c - sum m_j (c_j - mean c)|²`` over the bands, with a ridge. The same weights
    serve the coarse band.

    Parameters
    ----------
    values : numpy.ndarray
        ``(band, h + 1, w + 1)``: shared values of the fine bands.
    low : numpy.ndarray
        ``(band, h, w)``: the fine bands as the coarse one sees them.
    y : numpy.ndarray
        ``(h, w)``: the coarse band.

    Returns
    -------
    numpy.ndarray
        ``(h + 1, w + 1)``: the guess.
    numpy.ndarray
        The same shape: the lower bound.
    """
    differences, middle = _differences(_around(low))
    bands = len(values)
    normal: npt.NDArray[np.float64] = np.empty((*values.shape[1:], bands, bands))
    for i in range(bands):
        for j in range(i, bands):
            pairs = [(d[i], d[j]) for d in differences]
            normal[..., i, j] = normal[..., j, i] = _products(pairs)
        normal[..., i, i] += _DETAIL**2
    right = np.moveaxis((values - middle).astype(np.float64), 0, -1)
    solution = np.linalg.solve(normal, right[..., None])[..., 0].astype(np.float32)
    touching = _around(y)
    coarse, base = _differences(touching)
    out = base
    for k in range(4):
        out = out + coarse[k] * _products([(differences[k][band], solution[..., band]) for band in range(bands)])
    lowest = _floor(touching)
    return np.maximum(out, lowest), lowest


def _differences(touching: Array) -> tuple[Array, Array]:
    mean = touching.mean(axis=0)
    return touching - mean, mean


_SOLVES = 3  # steps towards shared values that give what was measured; each looks further


def make(bands: tuple[str, ...], operator: str) -> list[Sen2Res]:
    """One object per native grid."""
    return [Sen2Res(group, operator) for group in of_grid(bands)]


@dataclass(frozen=True)
class Sen2Res(OneGrid):
    """Geometry that all bands have in common, taken from the 10 m bands: after Brodu (2017).

    Every 10 m pixel is a mixture of values that it shares with its neighbours, ``x = sum_j w_j s_j`` with ``w_j >= 0``
    and ``sum_j w_j = 1``. The weights are the geometry, the same for every band; the shared values are a band's own.

    1. From the four 10 m bands, weights and shared values are estimated in turn, a fixed number of times.
    2. For a coarse band the weights are kept, and shared values are found that give the measured coarse pixels.
    3. Its pixels are mixed from them, and what is still missing of each coarse pixel is spread over it.

    Bands of 60 m are made from the 10 m bands at once, not by way of 20 m.

    Parameters
    ----------
    bands : tuple of str
        Bands of one native grid.
    operator : str
        How they came about, see `xsen2.engine.operators.taps`. In the paper a coarse pixel is the mean of the fine ones
        under it: that is ``"box"``, and only with it the result reproduces what was measured exactly.

    Notes
    -----
    Written from a summary of the paper, without its full text or its code at hand. The model, its constraints, the
    order of the steps and the mean over coarse pixels are those of the summary; these details had to be chosen:

    - Shared values live where four coarse pixels meet, and a pixel mixes those at the four corners of its coarse
      pixel. There are then about as many unknowns as coarse pixels.
    - Weights start from those of bilinear interpolation, shared values from the mean of the four pixels around, and
      both are drawn towards these where the bands have little detail.
    - The equations of step 2 are badly conditioned. Their solution is sought, in a few steps, from a first guess: the
      combination of the four coarse pixels around that, in the 10 m bands, comes nearest to the shared values
      known there (`xsen2.methods.sen2res.guess`).
    - Shared values are bounded below by 0, or by the least pixel around where that is negative.
    - What is missing in the end is added by bicubic interpolation first, then as a constant per coarse pixel.

    The constants were set on scenes that are not among those for validation. All steps are local, and their number is
    fixed: a result does not depend on where an image is cut. The borders of 60 m pixels can show faintly.

    References
    ----------
    Brodu (2017). Super-resolving multiresolution images with band-independent geometry of multispectral pixels. IEEE
    Trans. Geosci. Remote Sens. 55(8). https://arxiv.org/abs/1609.07986

    Examples
    --------
    >>> import xsen2
    >>> from xsen2.methods.sen2res import Sen2Res
    >>> sr = xsen2.sample().dsen2.superresolve(["B05"], method=Sen2Res(("B05",), "box"))
    """

    bands: tuple[str, ...]
    operator: str = "mtf"
    name: str = "sen2res"

    @property
    def needs(self) -> tuple[str, ...]:
        return (*A, *self.bands)

    @property
    def halo(self) -> dict[int, int]:
        # In coarse pixels: what the weights and shared values see, then each step towards what was measured, then the
        # two additions at the end, of which bicubic interpolation sees two.
        ratio = self._ratio
        beyond = max(-(-support(band, ratio, self.operator) // ratio) for band in self.bands)
        return {10: ratio * (ROUNDS + 1 + _SOLVES * (1 + beyond) + 2 + 2 * beyond)}

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        ratio = self._ratio
        weights, values = shared(a, ratio)
        parts = weights.mean(axis=1)
        share = np.maximum(at_nodes(parts), np.float32(1e-6))
        out = np.empty((len(self.bands), *a.shape[1:]), np.float32)
        for i, (band, y) in enumerate(zip(self.bands, b if ratio == 2 else c, strict=True)):
            s, lowest = guess(values, observed(a, band, ratio, self.operator), y)
            x = pixels_of(mix(weights, s), ratio)
            for _ in range(_SOLVES):
                missing = y - observed(x, band, ratio, self.operator)
                s = np.maximum(s + at_nodes(parts * missing) / share, lowest)
                x = pixels_of(mix(weights, s), ratio)
            x += upsample(y - observed(x, band, ratio, self.operator), ratio)
            missing = y - observed(x, band, ratio, self.operator)
            out[i] = x + missing.repeat(ratio, axis=0).repeat(ratio, axis=1)
        return out
