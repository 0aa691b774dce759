"""SupReME: all bands as one blurred, sampled low-rank image, found by regularised inversion tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from xsen2.bands import BANDS, A, B, C
from xsen2.classical._common import UNIT, OneGrid, cells, gaussian, of_grid, ratio_of, smooth
from xsen2.classical._supreme_solver import Kernel, Solver
from xsen2.classical.bicubic import upsample
from xsen2.halo import trim
from xsen2.kernels import taps
from xsen2.protocol import Array, Mask

__all__ = ["Supreme", "make", "make_matched"]

Floats = npt.NDArray[np.float64]

PENALTY = 0.005 * np.array([1, 1.5, 4, 8, 15, 15, 20])  # lambda q of the paper, one per dimension of the subspace

_OVERLAP = 24  # pixels of each side of a tile that are thrown away
_ENDS = (12, 60)  # what the last tile of an image may keep instead of a whole one

_EDGES = np.append(0, np.geomspace(1e-6, 1e6, 7001))  # of the histogram of gradients: bins of 0.4 %


def make(bands: tuple[str, ...], operator: str) -> list[Supreme]:
    """One object per native grid, with the PSF of the paper whatever the operator."""
    return [Supreme(some) for some in of_grid(bands)]


def make_matched(bands: tuple[str, ...], operator: str) -> list[Supreme]:
    """One object per native grid, whose PSF is the operator."""
    return [Supreme(some, operator, "supreme-matched") for some in of_grid(bands)]


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
        takes the 10 m bands for sharp. Otherwise an operator of `xsen2.kernels.taps`.
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
    >>> from xsen2.classical.supreme import Supreme
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
            weights = _kernel(band, self.psf).weights if ratio_of(band) > 1 else np.ones(1)
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
            whole = out[:, top : top + height, left : left + width]
            trim(whole, _OVERLAP)[:] = trim(self._solved(solver, tile), _OVERLAP)
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
        made = solver.image(solver(a, {2: b, 6: c}, weight), subspace[rows].astype(np.float32))
        return np.asarray((made + level[rows, None, None]) * scale[rows, None, None])


def _kernel(band: str, psf: str) -> Kernel:
    ratio = ratio_of(band)
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
    """A quantile of what a histogram over `_EDGES` counted; the least one that is told apart if there is nothing."""
    rising = np.cumsum(counts)
    found = int(np.searchsorted(rising, share * rising[-1])) if rising[-1] > 0 else 0
    return float(_EDGES[found + 1])
