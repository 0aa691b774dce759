"""Make a result consistent: degraded, it gives back the band that was measured.

Degrading, `A`, is linear, so all images that degrade to the measured band `y` form a plane, and the smallest change
that brings an image `x` onto it is its orthogonal projection ``x + Aᵀ(AAᵀ)⁻¹(y − Ax)``: it lessens the error of every
`x` if the truth lies on the plane. ``Aᵀ(AAᵀ)⁻¹`` reaches infinitely far. Here a `spreader` `P` of few cells stands in
for it: of all kernels of its length with ``AP = 1``, the one of least norm. So ``x + P(y − Ax)`` lies on the plane
exactly, after one pass, and differs from the projection by no more than `EXCESS`. Everything is separable: a few
1-D correlations per band.

Next to nodata, where `xsen2.engine.operators.degrade_array` divides by the weight of the valid pixels, no fixed kernel
is exact. What `degrade_array` asks for is ``A(Mx) = y · A(M)``, `M` being 1 on valid pixels and 0 elsewhere. Further
passes with that residual, divided by a power of the share of the kernel's energy that falls on valid pixels, are
preconditioned steps towards it. Their lengths are those of Chebyshev's semi-iteration (Golub & Varga 1961): fixed
numbers that, unlike those of conjugate gradients, depend on no pixel, so that a block comes out as it would from the
whole image, and far fewer passes than with equal steps. Where a third of all pixels is lost, speckled, they bring real
scenes under 0.1 DN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import dask.array as da
import numpy as np
import numpy.typing as npt

from xsen2.bands import factor_of
from xsen2.engine.fill import fill
from xsen2.engine.operators import Kernel, correlate, kernels, support, taps

__all__ = ["EXCESS", "PASSES", "Projection", "places", "project", "spreader"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

EXCESS = 0.015
"""How much longer than 1 the norm of ``PA`` may be, along one axis; an orthogonal projection's is 1."""

PASSES = {2: 9, 6: 6}
"""By scale, where there is nodata; elsewhere the first one is exact."""

_CELLS = {2: 1, 6: 2}
"""By scale, how far a pass after the first one reaches, in coarse pixels: passes and reach both cost context."""

_SPECTRUM = {2: (0.7, 1.7), 6: (0.6, 1.4)}
"""By scale, where the eigenvalues of a preconditioned step lie, as found by trial on real scenes with holes of many
kinds. Those outside are damped less, or a little raised, over so few passes."""

_WIDE = (5, 5, (0.5, 2.2))
"""Where the first pass reaches further than so many coarse pixels, as of short-wave infrared with the widths that
products show: how far a pass after it reaches, and where its eigenvalues lie. With those above, passes diverge."""

_ENERGY = 0.75
"""Power of the share of energy. With 1, small holes are overdone, with 0.5 thin remains take too many passes."""


@lru_cache(maxsize=256)
def spreader(
    band: str, scale: int, operator: str, most: int | None = None, *, axis: int | None = None
) -> npt.NDArray[np.float64]:
    """Weights of the 1-D kernel that turns residuals of coarse pixels into a correction of fine ones.

    Parameters
    ----------
    band, scale, operator, axis
        As `xsen2.engine.operators.taps` takes them.
    most : int, optional
        Coarse pixels to reach on either side at most; by default as many as `EXCESS` asks for.

    Returns
    -------
    numpy.ndarray
        ``(2 n + 1, scale)``: row `k` is what the residual of coarse pixel ``i + n - k`` adds to the `scale` fine
        pixels of coarse pixel `i`. Correlating it as `taps` say gives 1 for ``k = n`` and 0 elsewhere.

    Examples
    --------
    >>> spreader("B11", 2, "box")
    array([[1., 1.]])
    >>> len(spreader("B11", 2, "mtf")), len(spreader("B05", 2, "mtf"))
    (9, 5)
    """
    weights, before = taps(band, scale, operator, axis=axis)
    cells = 0
    # The shortest that is near enough: every coarse pixel of reach is context that each block has to compute.
    while True:
        kernel = _least(weights, before, scale, cells)
        if cells == most or _norm(kernel, weights, before, scale) <= 1 + EXCESS:
            return kernel
        cells += 1


def _least(weights: npt.NDArray[np.float64], before: int, scale: int, cells: int) -> npt.NDArray[np.float64]:
    """The kernel of least norm that reaches `cells` and whose correlation is 1 in its own cell, 0 in others."""
    size = (2 * cells + 1) * scale
    beyond = cells + -(-len(weights) // scale)
    rows = np.zeros((2 * beyond + 1, size))
    for row, cell in enumerate(range(-beyond, beyond + 1)):
        position = (cell + cells) * scale - before + np.arange(len(weights))
        inside = (position >= 0) & (position < size)
        rows[row, position[inside]] = weights[inside]
    # Far cells touch the kernel with the tails of theirs only. To hold those at exactly 0 would cost norm for
    # nothing: the small number leaves 1e-6 of freedom.
    dual = np.linalg.solve(rows @ rows.T + 1e-12 * np.eye(len(rows)), np.eye(len(rows))[beyond])
    return (rows.T @ dual).reshape(2 * cells + 1, scale)


def _norm(kernel: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], before: int, scale: int) -> float:
    """Norm of degrading and spreading again; infinity if degrading does not undo spreading."""
    n = 64  # coarse pixels of a periodic line: many times what either kernel reaches
    ours, theirs = np.zeros((2, n, scale))
    cells = len(kernel) // 2
    ours[np.arange(-cells, cells + 1)] = kernel
    # Both repeat with the coarse pixels, so the frequencies of the coarse line do not mix: each has a norm of its own,
    # and the largest is that of the whole.
    position = np.arange(len(weights)) - before
    theirs[position // scale, position % scale] = weights
    p, a = np.fft.fft(ours, axis=0), np.fft.fft(theirs, axis=0)
    if np.abs((a.conj() * p).sum(axis=1) - 1).max() > 1e-5:
        return np.inf
    return float(np.sqrt(((np.abs(a) ** 2).sum(axis=1) * (np.abs(p) ** 2).sum(axis=1)).max()))


Pair = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _spread(residual: Floats, kernels: Pair) -> Floats:
    """Apply spreaders along both axes of ``(h, w)``, rows and columns; symmetric edges."""
    for axis, kernel in enumerate(kernels):
        cells, scale = len(kernel) // 2, kernel.shape[1]
        shape = list(residual.shape)
        padded = np.pad(residual, [(cells, cells) if a == axis else (0, 0) for a in (0, 1)], mode="symmetric")
        phases = []
        for phase in range(scale):
            out = np.zeros(shape, np.float32)
            for k, weight in enumerate(kernel[::-1, phase]):
                part = padded[k : k + shape[0]] if axis == 0 else padded[:, k : k + shape[1]]
                out += part * np.float32(weight)
            phases.append(out)
        shape[axis] *= scale
        residual = np.stack(phases, axis + 1).reshape(shape)
    return residual


def _kernels(band: str, scale: int, operator: str) -> tuple[list[Pair], tuple[float, float]]:
    """The spreaders of each pass, and where the eigenvalues of those after the first lie."""

    def both(most: int | None) -> Pair:
        return spreader(band, scale, operator, most, axis=0), spreader(band, scale, operator, most, axis=1)

    first = both(None)
    # After the first, little is left and the change small anyway: a short reach matters more than least change.
    if max(len(kernel) // 2 for kernel in first) > _WIDE[0]:
        cells, spectrum = _WIDE[1:]
    else:
        cells, spectrum = _CELLS.get(scale, 1), _SPECTRUM.get(scale, (0.6, 1.4))
    return [first, *[both(cells)] * (PASSES.get(scale, 6) - 1)], spectrum


def _squared(kernel: Kernel) -> Kernel:
    weights, before = kernel
    return weights**2 / (weights**2).sum(), before


def project(x: Floats, y: Floats, valid: Mask, band: str, operator: str) -> Floats:
    """The image near `x` that gives `y` when it is degraded.

    Parameters
    ----------
    x : numpy.ndarray
        One band ``(H, W)``, float32, finite everywhere.
    y : numpy.ndarray
        What was measured, ``(H / scale, W / scale)``, NaN for nodata.
    valid : numpy.ndarray
        ``(H, W)``, False where the result will be nodata: those pixels stay as they are, and count for nothing.
    band, operator : str
        As `xsen2.engine.operators.taps` takes them.

    Returns
    -------
    numpy.ndarray
        float32 ``(H, W)``. Degraded by `xsen2.engine.operators.degrade_array` it equals `y` to rounding in every pixel
        whose kernel meets valid pixels only. In the others, next to nodata, about a ten-thousandth of the difference
        remains; more, up to a hundredth in single pixels, where most of what is around them is lost.

    Examples
    --------
    >>> x, y = np.zeros((2, 4), np.float32), np.array([[1, 3]], np.float32)
    >>> project(x, y, np.ones(x.shape, bool), "B11", "box")
    array([[1., 1., 3., 3.],
           [1., 1., 3., 3.]], dtype=float32)
    """
    scale = x.shape[0] // y.shape[0]
    rows, columns = kernels(band, scale, operator)
    spreaders, (low, high) = _kernels(band, scale, operator)
    ok = np.isfinite(y)
    if ok.all() and valid.all():  # the spreader undoes the kernel: one step is all there is to do
        return x + _spread(y - correlate(x, *rows, scale, columns), spreaders[0])
    h, w = y.shape
    ok &= valid.reshape(h, scale, w, scale).mean(axis=(1, 3)) >= 0.5  # the others are nodata once degraded
    lost = (~valid).astype(np.float32)
    share = 1 - correlate(lost, *rows, scale, columns)  # exactly 1 where nothing is lost
    energy = (1 - correlate(lost, *_squared(rows), scale, _squared(columns))) ** np.float32(_ENERGY)
    # Beside nodata a kernel is cut, and one step leaves a rest. The passes after it are Chebyshev's iteration, which
    # needs no more than bounds of the eigenvalues: conjugate gradients would need sums over the whole image, which a
    # block does not see, and would leave seams.
    middle, half = (high + low) / 2, (high - low) / 2
    step, weight = np.zeros_like(x), half / middle
    for number, kernel in enumerate(spreaders):
        total = correlate(np.where(valid, x, np.float32(0)), *rows, scale, columns)
        residual = np.zeros(y.shape, np.float32)
        np.divide(y * share - total, energy, where=ok, out=residual)
        if number:
            residual[share == 1] = 0  # rounding: must not depend on whether there is nodata elsewhere
            residual = fill(residual[None], ok[None], 1)[0]
        change = _spread(residual, kernel)
        if number < 2:  # the first pass is as where nothing is lost, and what follows starts afresh after it
            step = change if number == 0 else change / np.float32(middle)
        else:
            new = 1 / (2 * middle / half - weight)
            step = np.float32(new * weight) * step + np.float32(2 * new / half) * change
            weight = new
        x = np.where(valid, x + step, x)
    return x


@dataclass(frozen=True)
class Projection:
    """Makes a method's block consistent with what was measured, band by band.

    Attributes
    ----------
    bands : tuple of str
        The method's bands in their order, those left as they are as well.
    measured : tuple of str
        Those of `bands` that the cube has.
    operator : str
        What consistency is measured with.
    cell : int
        Size of the coarsest pixels of a block, in pixels of the result.
    shape : tuple of int
        Rows and columns of the whole result.
    zoom : int
        Pixels of the result, along each side, per 10 m pixel.
    """

    bands: tuple[str, ...]
    measured: tuple[str, ...]
    operator: str
    cell: int
    shape: tuple[int, int]
    zoom: int = 1

    @property
    def near(self) -> int:
        """Context that a pixel of the result depends on, on each side, if there is no nodata within `reach`."""
        return self._reach(complete=True)

    @property
    def reach(self) -> int:
        """Context that a pixel depends on in any case."""
        return self._reach(complete=False)

    def _reach(self, complete: bool) -> int:
        most = 0
        for band in self.measured:
            scale = factor_of(band) * self.zoom
            # Residuals within a kernel's reach, after the first pass those that fill nodata one further, and the
            # pixels that they read.
            pairs = _kernels(band, scale, self.operator)[0][: 1 if complete else None]
            cells = sum(max(len(kernel) // 2 for kernel in pair) for pair in pairs) + len(pairs) - 1
            most = max(most, cells * scale + len(pairs) * support(band, scale, self.operator))
        return -(-most // self.cell) * self.cell

    def __call__(self, out: Floats, measured: Mapping[str, Floats], valid: Mask, place: int, reach: int) -> Floats:
        """Project a block.

        Parameters
        ----------
        out : numpy.ndarray
            DN, ``(bands or more, H, W)``, the context included; what follows the bands is left as it is.
        measured : mapping
            Per band ``(H / scale, W / scale)`` DN, NaN for nodata.
        valid : numpy.ndarray
            ``(H, W)``, False where the result will be nodata.
        place : int
            Number of the first coarsest pixel inside the context, as `places` counts.
        reach : int
            The context, `reach` or `near`.

        Returns
        -------
        numpy.ndarray
            As `out`, without the context.
        """
        # Outside the image the windows are mirrored, and what a method makes of that is not the mirror image of what
        # it makes inside: degrading must see the latter.
        row, column = divmod(place, self.shape[1] // self.cell)
        (height, width), (rows, columns) = valid.shape, self.shape
        north, west = max(0, reach - row * self.cell), max(0, reach - column * self.cell)
        south = max(0, row * self.cell + height - reach - rows)
        east = max(0, column * self.cell + width - reach - columns)
        done = out[:, reach : height - reach, reach : width - reach].copy()
        for i, band in enumerate(self.bands):
            if band in self.measured:
                x = np.pad(
                    out[i, north : height - south, west : width - east], ((north, south), (west, east)), "symmetric"
                )
                x = project(x, measured[band], valid, band, self.operator)
                done[i] = x[reach : height - reach, reach : width - reach]
        return done


def places(
    shape: tuple[int, int],
    cell: int,
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
    dates: Sequence[tuple[int, ...]],
) -> da.Array:
    """The number of each coarsest pixel, row by row: by it a block knows where in the image it lies.

    Parameters
    ----------
    shape, chunks
        Of the image, in 10 m pixels.
    cell : int
        Size of a coarsest pixel in 10 m pixels.
    dates : sequence of tuple
        Chunks along time, if there is such a dim.

    Examples
    --------
    >>> places((4, 6), 2, ((4,), (4, 2)), ()).compute()
    array([[0, 1, 2],
           [3, 4, 5]])
    """
    columns = shape[1] // cell
    numbers = da.fromfunction(
        lambda row, column: row * columns + column,
        shape=(shape[0] // cell, columns),
        chunks=tuple(tuple(n // cell for n in sizes) for sizes in chunks),
        dtype=np.int64,
    )
    lead = tuple(sum(c) for c in dates)
    out: da.Array = da.broadcast_to(numbers, (*lead, *numbers.shape), chunks=(*dates, *numbers.chunks))
    return out
