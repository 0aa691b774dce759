"""The quadratic problem of SupReME on one tile, in the basis where blurring and sampling are almost diagonal.

Tiles are mirrored at their edges. The cosine transform (DCT-II) then makes differences diagonal, and blurring with a
kernel that is symmetric about the coarse pixel, followed by sampling, adds up groups of ``ratio`` frequencies per
axis: those that alias onto one. So with one weight for all pixels the normal equations are small systems, one per
group, which are inverted once for all tiles. What the weights of the pixels change is left to conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from xsen2.protocol import Array

__all__ = ["Kernel", "Solver", "sampling"]

Floats = npt.NDArray[np.float64]
T = TypeVar("T", np.float32, np.float64)

_STEPS = 6
_WEIGHT = 0.85  # between the least and the largest weight, 0.5 and 1; most pixels are near the latter


@dataclass(frozen=True)
class Kernel:
    """How one coarse pixel comes about, along each axis: as `xsen2.kernels.taps` says it."""

    weights: Floats
    before: int
    ratio: int


def sampling(kernel: Kernel, size: int) -> Floats:
    """The matrix ``(size / ratio, size)`` of blurring and sampling along one axis, mirrored at both ends."""
    out = np.zeros((size // kernel.ratio, size))
    row = np.arange(len(out))
    for j, weight in enumerate(kernel.weights):
        at = (row * kernel.ratio - kernel.before + j) % (2 * size)
        np.add.at(out, (row, np.minimum(at, 2 * size - 1 - at)), weight)
    return out


def _transform(x: npt.NDArray[T]) -> npt.NDArray[T]:
    """Cosine transform (DCT-II, orthonormal) of ``(k, H, W)``.

    By FFT and in this thread alone. A product with a matrix is as fast on an idle machine; but the threads of a BLAS
    wait for each other inside those of dask, see `xsen2.products`: on a busy machine that takes twenty times as long.
    """
    from scipy.fft import dctn  # here: importing it takes a while

    return np.asarray(dctn(x, axes=(1, 2), norm="ortho"))


def _inverse(hat: Array) -> Array:
    from scipy.fft import idctn

    return np.asarray(idctn(hat, axes=(1, 2), norm="ortho"))


def _dot(one: Array, other: Array) -> float:
    """Sum of products, without a BLAS."""
    return float((one * other).sum(dtype=np.float64))


def _aliases(size: int, coarsest: int) -> npt.NDArray[np.intp]:
    """Frequencies as ``(2, coarsest / 2, n)``: those of one column alias at `coarsest`, pairs along the first at 2.

    Onto the frequency ``k`` of ``m`` samples fold ``k``, ``2m - k``, ``2m + k``, ``4m - k``, …; what folds onto ``m``
    is not seen at all, and joins the group of ``k = 0``, which is short.
    """
    n = size // coarsest
    k = np.arange(n)
    low = np.stack([k, 2 * n - k, 2 * n + k][: coarsest // 2])
    if coarsest == 6:
        low[1, 0] = n
    high = size - low
    high[low == 0] = size // 2
    return np.stack([low, high])


class _Axis:
    """One axis of a tile.

    Attributes
    ----------
    order : numpy.ndarray
        ``(2, size / 2)``: frequencies in the order of `_aliases`.
    small : dict
        Ratio → the frequencies of the coarse pixels, in the order of the fine ones that carry them.
    transfers : list of numpy.ndarray
        For each kernel, what it leaves of each fine frequency, ``(2, size / 2)``.
    smooth : numpy.ndarray
        Eigenvalues of the squared differences, likewise.
    """

    def __init__(self, size: int, kernels: Sequence[Kernel], coarsest: int):
        order = _aliases(size, coarsest)
        self.small = {2: order[0].ravel()}
        if coarsest == 6:
            self.small[6] = np.arange(size // 6)
        self.transfers = []
        for kernel in kernels:
            whole = _transform(sampling(kernel, size)[None])[0][np.ix_(self.small[kernel.ratio], order.ravel())]
            line = np.arange(size)
            self.transfers.append(whole[line % len(whole), line].reshape(2, -1))
        self.smooth = 2 - 2 * np.cos(np.pi * order.reshape(2, -1) / size)
        self.order = order.reshape(2, -1)


class Solver:
    """Minimises ``sum_b |A_b (u_b z) - y_b|² / 2 + sum_i penalty_i sum w |grad z_i|² / 2`` over ``z``.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of a tile in fine pixels, multiples of 6.
    fine : numpy.ndarray
        ``(bands, p)``: ``u_b`` of the bands that are measured on the fine grid.
    coarse : sequence of (Kernel, numpy.ndarray)
        How each coarse band is measured, and its ``u_b``; those of ratio 2 first, then those of ratio 6, if any.
    penalty : numpy.ndarray
        ``(p,)``.
    """

    def __init__(self, shape: tuple[int, int], fine: Floats, coarse: Sequence[tuple[Kernel, Floats]], penalty: Floats):
        self._fine = fine.astype(np.float32)
        self._penalty = penalty.astype(np.float32)[:, None, None]
        kernels = [kernel for kernel, _ in coarse]
        self._ratios = [kernel.ratio for kernel in kernels]
        self._u = np.array([u for _, u in coarse], np.float32)
        self._rows, self._columns = (_Axis(n, kernels, max(self._ratios)) for n in shape)
        self._groups = (2, 2, shape[0] // 2, shape[1] // 2)
        self._at = (slice(None), self._rows.order[:, None, :, None], self._columns.order[None, :, None, :])
        self._spreads = [
            np.einsum("yi,xj->yxij", y, x).astype(np.float32)
            for y, x in zip(self._rows.transfers, self._columns.transfers, strict=True)
        ]
        self._invert(fine, np.array([u for _, u in coarse]), penalty)

    def _invert(self, fine: Floats, u: Floats, penalty: Floats) -> None:
        """Invert the normal equations for one weight, group by group."""
        p = len(penalty)
        seen = np.stack(self._spreads).reshape(len(u), 4, -1).transpose(2, 1, 0)[:, None] * u.T[:, None]
        seen = seen.reshape(len(seen), 4 * p, len(u))  # what each band sees of the unknowns of a group
        normal = seen @ seen.transpose(0, 2, 1)
        blocks = normal.reshape(-1, p, 4, p, 4)
        own = np.arange(4)
        blocks[:, :, own, :, own] += fine.T @ fine  # (4, groups, p, p)
        one = np.arange(p)[:, None]
        levels = (self._rows.smooth[:, None, :, None] + self._columns.smooth[None, :, None, :]).reshape(4, -1)
        blocks[:, one, own, one, own] += (penalty[:, None, None] * levels * _WEIGHT).transpose(2, 0, 1)
        inverse = np.asarray(np.linalg.inv(normal), np.float64)
        self._inverse = inverse.astype(np.float32).transpose(1, 2, 0).copy()
        if 6 in self._ratios:
            self._join(seen[:, :, self._ratios.index(6) :], inverse)

    def _join(self, wide: Floats, inverse: Floats) -> None:
        """What the coarsest bands say across groups: nine of pairs alias onto one of their frequencies.

        Within each group they have been added before inverting, which leaves ``W (1 - I) Wᵀ``: Woodbury's formula adds
        that. Added as a whole, frequencies that hardly another band sees would lose all digits of float32.
        """
        bands = wide.shape[2]
        ny, nx = (n // 3 for n in self._groups[2:])
        solved = inverse @ wide
        self._wide = solved.astype(np.float32).transpose(2, 1, 0).copy()
        within = (wide.transpose(0, 2, 1) @ solved).reshape(3, ny, 3, nx, bands, bands)
        inner = np.zeros((ny, nx, bands, 3, 3, bands, 3, 3))
        y, x = np.mgrid[:3, :3]
        inner[:, :, :, y, x, :, y, x] = within.transpose(0, 2, 1, 3, 4, 5)
        across = np.kron(np.eye(bands), 1 - np.eye(9))
        joined = np.eye(9 * bands) + inner.reshape(ny, nx, 9 * bands, 9 * bands) @ across
        self._across = (across @ np.linalg.inv(joined)).astype(np.float32)

    def _precondition(self, r: Array) -> Array:
        """Solve for one weight: ``(p, 2, 2, h, w)`` to the same."""
        flat = r.reshape(len(self._inverse), -1)
        out = np.einsum("jig,jg->ig", self._inverse, flat)
        if 6 in self._ratios:
            bands, (ny, nx) = len(self._wide), self._across.shape[:2]
            seen = np.einsum("big,ig->bg", self._wide, flat).reshape(bands, 3, ny, 3, nx).transpose(2, 4, 0, 1, 3)
            part = (self._across @ seen.reshape(ny, nx, -1, 1)).reshape(ny, nx, bands, 3, 3).transpose(2, 3, 0, 4, 1)
            for solved, scale in zip(self._wide, part.reshape(bands, -1), strict=True):
                out -= solved * scale
        return np.asarray(out.reshape(r.shape))

    def _forward(self, x: Array) -> Array:
        """Cosine transform of ``(k, H, W)``, grouped: ``(k, 2, 2, h, w)``."""
        return np.ascontiguousarray(_transform(x)[self._at])

    def _back(self, hat: Array) -> Array:
        flat = np.empty((len(hat), 2 * self._groups[2], 2 * self._groups[3]), hat.dtype)
        flat[self._at] = hat
        return _inverse(flat)

    def _right(self, a: Array, coarse: dict[int, Array]) -> Array:
        """The right-hand side of the normal equations."""
        out = np.einsum("bp,bijyx->pijyx", self._fine, self._forward(a))
        hats: list[Array] = []
        for ratio in sorted(set(self._ratios)):
            hat = _transform(coarse[ratio])[:, self._rows.small[ratio][:, None], self._columns.small[ratio]]
            hats += list(np.tile(hat, (1, ratio // 2, ratio // 2)))
        for hat, spread, u in zip(hats, self._spreads, self._u, strict=True):
            out += u[:, None, None, None, None] * (spread * hat)
        return np.asarray(out, np.float32)

    def _unequal(self, hat: Array, weight: Array) -> Array:
        """What the normal equations are more than those for one weight, applied to `hat`."""
        z = self._back(hat)
        excess = weight - np.float32(_WEIGHT)
        down = np.diff(z, axis=1) * excess[:-1]
        across = np.diff(z, axis=2) * excess[:, :-1]
        z = np.zeros_like(z)
        z[:, 1:] += down
        z[:, :-1] -= down
        z[:, :, 1:] += across
        z[:, :, :-1] -= across
        z *= self._penalty
        return self._forward(z)

    def __call__(self, a: Array, coarse: dict[int, Array], weight: Array) -> Array:
        """Coefficients of the subspace in the cosine basis, which `image` makes pixels of.

        Weights between 0.5 and 1 leave a condition number of at most 2 after preconditioning: every step of
        conjugate gradients divides the bound of the error, in the energy norm, by 5.8.
        """
        r = self._right(a, coarse)
        out = np.zeros_like(r)
        direction, image, before = out, out, 1.0
        for _ in range(_STEPS):
            z = self._precondition(r)
            size = _dot(r, z)
            if not size > 1e-30:  # nothing left that float32 could tell from zero
                break
            # The preconditioner inverts all but the excess, so that the normal equations need not be applied.
            turned = np.float32(size / before)
            direction, image = z + turned * direction, r + self._unequal(z, weight) + turned * image
            before = size
            length = np.float32(size / _dot(direction, image))
            out += length * direction
            r = r - length * image
        return out

    def image(self, hat: Array, u: Array) -> Array:
        """Bands ``(k, H, W)`` from coefficients; `u` is ``(k, p)``."""
        return self._back(np.einsum("kp,pijyx->kijyx", u, hat))
