"""SupReME: all bands as one blurred, sampled low-rank image, found by regularised inversion tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from xsen2.bands import BANDS, A, B, C, factor_of
from xsen2.engine.halo import trim
from xsen2.engine.operators import taps
from xsen2.methods.bicubic import upsample
from xsen2.methods.common import UNIT, OneGrid, cells, gaussian, of_grid, smooth
from xsen2.methods.protocol import Array, Mask

__all__ = ["Solver", "Supreme", "make", "make_matched", "sampling"]


# The quadratic problem of SupReME on one tile, in the basis where blurring and sampling are almost diagonal.
#
# Tiles are mirrored at their edges. The cosine transform (DCT-II) then makes differences diagonal, and blurring with a
# kernel that is symmetric about the coarse pixel, followed by sampling, adds up groups of ``ratio`` frequencies per
# axis: those that alias onto one. So with one weight for all pixels the normal equations are small systems, one per
# group, which are inverted once for all tiles. What the weights of the pixels change is left to conjugate gradients.


Floats = npt.NDArray[np.float64]
T = TypeVar("T", np.float32, np.float64)

_STEPS = 6
_WEIGHT = 0.85  # between the least and the largest weight, 0.5 and 1; most pixels are near the latter


@dataclass(frozen=True)
class Kernel:
    """How one coarse pixel comes about, along each axis: as `xsen2.engine.operators.taps` says it."""

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
    wait for each other inside those of dask, see `xsen2.engine.block`: on a busy machine that takes twenty times as
    long.
    """
    from scipy.fft import dctn  # here: importing it takes a while

    return np.asarray(dctn(x, axes=(1, 2), norm="ortho"))


def _inverse(hat: Array) -> Array:
    from scipy.fft import idctn

    return np.asarray(idctn(hat, axes=(1, 2), norm="ortho"))


def _dot(x: Array, y: Array) -> float:
    """Sum of products, without a BLAS."""
    return float((x * y).sum(dtype=np.float64))


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
            transfer = _transform(sampling(kernel, size)[None])[0][np.ix_(self.small[kernel.ratio], order.ravel())]
            line = np.arange(size)
            self.transfers.append(transfer[line % len(transfer), line].reshape(2, -1))
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
        aliases = np.arange(4)
        blocks[:, :, aliases, :, aliases] += fine.T @ fine  # (4, groups, p, p)
        dims = np.arange(p)[:, None]
        levels = (self._rows.smooth[:, None, :, None] + self._columns.smooth[None, :, None, :]).reshape(4, -1)
        blocks[:, dims, aliases, dims, aliases] += (penalty[:, None, None] * levels * _WEIGHT).transpose(2, 0, 1)
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


PENALTY = 0.005 * np.array([1, 1.5, 4, 8, 15, 15, 20])  # lambda q of the paper, one per dimension of the subspace

_OVERLAP = 24  # pixels of each side of a tile that are thrown away
_ENDS = (12, 60)  # what the last tile of an image may keep instead of a whole one

_EDGES = np.append(0, np.geomspace(1e-6, 1e6, 7001))  # of the histogram of gradients: bins of 0.4 %


def make(bands: tuple[str, ...], operator: str) -> list[Supreme]:
    """One object per native grid, with the PSF of the paper whatever the operator."""
    return [Supreme(group) for group in of_grid(bands)]


def make_matched(bands: tuple[str, ...], operator: str) -> list[Supreme]:
    """One object per native grid, whose PSF is the operator."""
    return [Supreme(group, operator, "supreme-matched") for group in of_grid(bands)]


@dataclass(frozen=True)
class Supreme(OneGrid):
    """SupReME of Lanaras et al. (2017): ``X = U Z`` from all bands at once.

    With every band in units of its root mean square, ``U`` spans the first 7 dimensions of the image's spectra, and
    ``Z`` minimises ``sum_b |A_b (U Z)_b - y_b|² / 2 + lambda / 2 sum_i q_i sum w |grad Z_i|²``: ``A_b`` blurs and
    samples as the band was, and ``w`` is small where the 10 m bands have edges. ``U``, the root mean squares and the
    scale of the edges come from the whole image. 20 m bands are made from the ten bands of 10 m and 20 m, 60 m bands
    from all twelve.

    Parameters
    ----------
    bands : tuple of str
        Bands of one native grid.
    psf : {"published", "mtf", "dsen2", "box"}
        ``"published"``: a Gaussian of ``ratio * psf_sigma`` 10 m pixels in a 12 x 12 window, as in the paper, which
        takes the 10 m bands for sharp. Otherwise an operator of `xsen2.engine.operators.taps`.
    name : str
    rms : tuple of float, optional
        Root mean square of each band of `needs`, in DN; learnt.
    subspace : tuple, optional
        ``U``, a row per band of `needs`; learnt.
    edge : float, optional
        95th percentile of the gradient, in units of the root mean square; learnt.

    Notes
    -----
    The paper solves blocks of 256 or 240 px, taken for periodic, by up to 100 steps of ADMM. Here preconditioned
    conjugate gradients find the same minimum to about 0.1 DN in 6 steps, on tiles of 168 px that are mirrored at their
    edges, and of which 24 px on each side are thrown away: on real scenes tiles of any other size give the same
    pixels to about 0.4 DN, most to 0.1 DN.

    References
    ----------
    Lanaras, Bioucas-Dias, Baltsavias, Schindler (2017). Super-resolution of multispectral multiresolution images from
    a single sensor. CVPR Workshops.

    Examples
    --------
    >>> import xsen2
    >>> from xsen2.methods.supreme import Supreme
    >>> sr = xsen2.sample().dsen2.superresolve(["B05"], method=Supreme(("B05",), "mtf"))
    """

    bands: tuple[str, ...]
    psf: str = "published"
    name: str = "supreme"
    rms: tuple[float, ...] | None = None
    subspace: tuple[tuple[float, ...], ...] | None = None
    edge: float | None = None
    lattice: int = 120
    rounds: int = 2

    @property
    def needs(self) -> tuple[str, ...]:
        return (*A, *B) if self._ratio == 2 else (*A, *B, *C)

    @property
    def _sizes(self) -> list[int]:
        """How many bands of each grid it reads."""
        return [len(A), len(B), len(C)][: 2 if self._ratio == 2 else 3]

    @property
    def halo(self) -> dict[int, int]:
        # The last tile of an image reaches beyond its edges by all but one pixel of itself.
        return {10: self.lattice + _OVERLAP}

    @property
    def gather_halo(self) -> dict[int, int]:
        reach = max(len(kernel) // 2 for kernel in self._sharpest() if kernel is not None)
        return {10: 2 * self._ratio + reach}

    def _sharpest(self) -> list[Floats | None]:
        """What blurs each band of `needs` as much as the most blurred one is; None for the latter."""
        spread = []
        for band in self.needs:
            weights = _kernel(band, self.psf).weights if factor_of(band) > 1 else np.ones(1)
            at = np.arange(len(weights))
            spread.append(float(weights @ (at - weights @ at) ** 2))
        lacking = [float(np.sqrt(max(spread) - s)) for s in spread]
        return [gaussian(sigma) if sigma > 0 else None for sigma in lacking]

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> Floats:
        """Squares of the bands and second moments of their spectra; then the histogram of gradients."""
        if self.rms is not None:
            return np.histogram(_gradient(a, self.rms)[own], _EDGES)[0].astype(np.float64)
        squares, levels = [], []
        for x, ratio in ((a, 1), (b, 2), (c, 6))[: len(self._sizes)]:
            flat = x[:, cells(own, ratio)].astype(np.float64) * UNIT
            squares += [np.einsum("bi,bi->b", flat, flat), [flat.shape[1]]]
            levels += list(upsample(x, ratio) if ratio > 1 else x)
        for i, blur in enumerate(self._sharpest()):
            levels[i] = (levels[i] if blur is None else smooth(levels[i], blur))[own]
        spectra = np.stack(levels).astype(np.float64) * UNIT
        return np.concatenate([*squares, (spectra @ spectra.T).ravel()])

    def learn(self, sums: Floats) -> Supreme:
        """The statistics that the sums say, one round after the other."""
        if self.rms is not None:
            return replace(self, edge=_percentile(sums, 0.95))
        means = []
        for n in self._sizes:
            means.append(sums[:n] / max(sums[n], 1.0))
            sums = sums[n + 1 :]
        rms = np.sqrt(np.concatenate(means))
        rms = np.where(rms > 0, rms, 1.0)
        moments = sums.reshape(len(rms), len(rms)) / np.outer(rms, rms)
        vectors = np.linalg.eigh((moments + moments.T) / 2)[1][:, ::-1][:, : len(PENALTY)]
        largest = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest, np.arange(len(PENALTY))])
        vectors = vectors.round(6)  # so that the order in which the blocks were added up is forgotten
        return replace(self, rms=tuple((rms / UNIT).tolist()), subspace=tuple(map(tuple, vectors.tolist())))

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        assert self.subspace is not None
        out = np.zeros((len(self.bands), *a.shape[1:]), np.float32)
        for (top, height), (left, width) in product(*map(self._tiles, a.shape[1:])):
            tile = [
                x[:, top // r : (top + height) // r, left // r : (left + width) // r]
                for x, r in ((a, 1), (b, 2), (c, 6))
            ]
            solver = _solver(self.needs, self.psf, self.subspace, (height, width))
            target = out[:, top : top + height, left : left + width]
            trim(target, _OVERLAP)[:] = trim(self._solved(solver, tile), _OVERLAP)
        return out

    def _tiles(self, size: int) -> Iterator[tuple[int, int]]:
        """First pixel and size, along one axis, of the tiles that the interior of a window needs."""
        end = size - self.halo[10]
        for first in range(self.halo[10], end, self.lattice):
            kept = next((n for n in _ENDS if n >= end - first), self.lattice)
            yield first - _OVERLAP, kept + 2 * _OVERLAP

    def _solved(self, solver: Solver, tile: Sequence[Array]) -> Array:
        """The bands of a tile."""
        assert self.rms is not None
        assert self.edge is not None
        rms, subspace = np.array(self.rms), np.array(self.subspace)
        strength = _gradient(tile[0], self.rms) / np.float32(self.edge)
        weight = np.maximum(np.exp(-0.5 * strength**2), np.float32(0.5))
        # What is constant has no gradient and comes back as it is. Without it, rounding errors are smaller.
        mean = subspace.T @ (np.concatenate([x.mean(axis=(1, 2), dtype=np.float64) for x in tile]) / rms)
        level, scale = (subspace @ mean).astype(np.float32), rms.astype(np.float32)
        a, b, c = (
            x / scale[i, None, None] - level[i, None, None]
            for x, i in zip(tile, (slice(4), slice(4, 10), slice(10, 12)), strict=True)
        )
        rows = [self.needs.index(band) for band in self.bands]
        image = solver.image(solver(a, {2: b, 6: c}, weight), subspace[rows].astype(np.float32))
        return np.asarray((image + level[rows, None, None]) * scale[rows, None, None])


def _kernel(band: str, psf: str) -> Kernel:
    ratio = factor_of(band)
    if psf != "published":
        return Kernel(*taps(band, ratio, psf), ratio)
    offsets = np.arange(12) - 5.5
    weights = np.exp(-0.5 * (offsets / (ratio * BANDS[band].psf_sigma)) ** 2)
    return Kernel(weights / weights.sum(), (12 - ratio) // 2, ratio)


@lru_cache(maxsize=4)  # nearly all tiles of an image take the same one, of some 25 MB
def _solver(
    needs: tuple[str, ...], psf: str, subspace: tuple[tuple[float, ...], ...], shape: tuple[int, int]
) -> Solver:
    rows = np.array(subspace)
    coarse = [(_kernel(band, psf), row) for band, row in zip(needs[4:], rows[4:], strict=True)]
    return Solver(shape, rows[:4], coarse, PENALTY)


def _gradient(a: Array, rms: tuple[float, ...]) -> Array:
    """Largest gradient of the 10 m bands, each in units of its root mean square: forward differences."""
    x = a / np.array(rms[: len(a)], np.float32)[:, None, None]
    down = np.diff(x, axis=1, append=x[:, -1:])
    across = np.diff(x, axis=2, append=x[:, :, -1:])
    return np.asarray(np.sqrt((down**2 + across**2).max(axis=0)))


def _percentile(counts: Floats, share: float) -> float:
    """A quantile of what a histogram over `_EDGES` counted; the first edge above 0 if it counted nothing."""
    rising = np.cumsum(counts)
    index = int(np.searchsorted(rising, share * rising[-1])) if rising[-1] > 0 else 0
    return float(_EDGES[index + 1])
