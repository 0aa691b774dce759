"""What one task does with its windows: to DN, fill nodata, run the method, make consistent, back to units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import dask.array as da
import numpy as np
import numpy.typing as npt

from xsen2.bands import GRIDS, grid_of
from xsen2.cube import Cube
from xsen2.engine.consistency import Projection, places
from xsen2.engine.fill import fill
from xsen2.engine.halo import Layer, map_windows, trim
from xsen2.engine.statistics import learnt
from xsen2.errors import MethodError
from xsen2.methods.protocol import Array, Mask, Method, Statistical, finest_halo, tile
from xsen2.radiometry import Scale, check_dn, to_dn

__all__ = ["Block", "apply", "block_of", "dot", "mixed"]


# Products that stay in the calling thread, for whatever runs inside a task of dask.
#
# A BLAS computes large products with threads of its own. Inside the threads of dask they wait for each other, and for
# any other program that computes: then a product takes many times as long as in one thread. Pieces below the size at
# which a BLAS begins to share its work are as fast as one large product in one thread, or faster, for they fit the
# caches.


T = TypeVar("T", np.float32, np.float64)

_ALONG = 8192  # numbers of a vector: OpenBLAS shares more than 10,000
_VOLUME = 2**17  # multiplications of a matrix product: it shares more than 2**18


def dot(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """The sum of ``x * y`` over two vectors.

    Examples
    --------
    >>> dot(np.ones(20000), np.full(20000, 0.5))
    10000.0
    """
    return float(sum(float(np.dot(x[i : i + _ALONG], y[i : i + _ALONG])) for i in range(0, len(x), _ALONG)))


def mixed(matrix: npt.NDArray[T], x: npt.NDArray[T], out: npt.NDArray[T] | None = None) -> npt.NDArray[T]:
    """``matrix @ x``, few rows by many columns.

    Parameters
    ----------
    matrix : numpy.ndarray
        ``(m, k)``.
    x : numpy.ndarray
        ``(k, n)``.
    out : numpy.ndarray, optional
        ``(m, n)``, which is filled and returned.

    Examples
    --------
    >>> mixed(np.array([[1.0, 2.0]]), np.ones((2, 3)))
    array([[3., 3., 3.]])
    """
    if out is None:
        out = np.empty((len(matrix), x.shape[1]), np.result_type(matrix, x))
    step = max(1, _VOLUME // max(matrix.size, 1))
    for start in range(0, x.shape[1], step):
        np.matmul(matrix, x[:, start : start + step], out=out[:, start : start + step])
    return out


@dataclass(frozen=True)
class Block:
    """A method, and what it takes to call it on windows.

    Attributes
    ----------
    method : Method
    windows : tuple
        Names of the bands in each window, which are of one grid each.
    scales : tuple
        Those of the same bands.
    projection : Projection or None
        What makes the bands consistent. It adds a last window, which tells the place.
    """

    method: Method
    windows: tuple[tuple[str, ...], ...]
    scales: tuple[tuple[Scale, ...], ...]
    projection: Projection | None

    @property
    def bands(self) -> int:
        """How many bands come out: estimates, and as many standard errors if the method gives them."""
        return len(self.method.produces) * (2 if getattr(self.method, "uncertainty", False) else 1)

    @property
    def reach(self) -> int:
        """Context that the projection needs of the method's result, in 10 m pixels."""
        return 0 if self.projection is None else self._on_tiles(self.projection.reach)

    def _on_tiles(self, n: int) -> int:
        """The least multiple of the method's tile that is not under `n`."""
        step = tile(self.method) or 1
        return -(-n // step) * step

    @property
    def computed(self) -> int:
        """Context that is computed with a block on each side, in 10 m pixels."""
        return finest_halo(self.method) + self.reach

    @property
    def halo(self) -> int:
        """Context that the windows carry on each side, in 10 m pixels."""
        # What fills nodata within the method's receptive field may lie as far off again.
        return 2 * finest_halo(self.method) + self.reach

    def with_method(self, method: Method) -> Block:
        """The same with the method after it has learnt."""
        return replace(self, method=method)

    def __call__(self, windows: list[npt.NDArray[Any]]) -> Array:
        """The block without halo, ``(bands, [time,] h, w)``, as `xsen2.engine.halo.map_windows` asks for it."""
        if windows[0].ndim == 3:
            return self._date(windows)
        return np.stack([self._date([w[:, t] for w in windows]) for t in range(windows[0].shape[1])], axis=1)

    def _date(self, windows: list[npt.NDArray[Any]]) -> Array:
        halo, reach = finest_halo(self.method), self.reach
        factor = grid_of(self.windows[0][0]) // 10
        size = (windows[0].shape[1] * factor, windows[0].shape[2] * factor)
        valid = np.ones((size[0] - 4 * halo, size[1] - 4 * halo), bool)
        inputs = {g // 10: np.empty((0, size[0] * 10 // g, size[1] * 10 // g), np.float32) for g in GRIDS}
        seen: dict[int, Mask] = {}
        measured: dict[str, Array] = {}
        for names, window, scales in zip(self.windows, windows, self.scales, strict=False):
            factor = grid_of(names[0]) // 10
            dn, there = to_dn(window, scales)
            if self.projection is not None:
                for band in set(names) & set(self.projection.measured):
                    i = names.index(band)
                    y = np.where(there[i], dn[i], np.float32(np.nan))
                    measured[band] = trim(y, 2 * halo // factor)
            needed = [i for i, band in enumerate(names) if band in self.method.needs]
            if not needed:
                continue
            if len(needed) < len(names):
                dn, there = dn[needed], there[needed]
            inputs[factor], seen[factor] = dn, there
            # One band alone may be as dark as that, in water; only classical methods, which are linear, read one.
            if len(needed) > 2 and scales[0].gain == 1 and not all(scales[i].sure for i in needed):
                check_dn(list(dn), list(there))
            inner = trim(seen[factor], 2 * halo // factor).all(axis=0)
            if not inner.all():
                valid &= inner.repeat(factor, axis=0).repeat(factor, axis=1)
        core = trim(valid, reach)
        if not core.any():
            return np.full((self.bands, *core.shape), np.nan, np.float32)
        if self.projection is not None and valid.all() and all(np.isfinite(y).all() for y in measured.values()):
            # Most blocks: the method need not run where only the passes that mend nodata would look.
            near = self._on_tiles(self.projection.near)
            spare, reach = reach - near, near
            size = (size[0] - 2 * spare, size[1] - 2 * spare)
            valid = trim(valid, spare)
            inputs = {factor: trim(x, spare // factor) for factor, x in inputs.items()}
            seen = {factor: trim(x, spare // factor) for factor, x in seen.items()}
            measured = {band: trim(y, 10 * spare // grid_of(band)) for band, y in measured.items()}
        for factor, x in inputs.items():
            if factor in seen and not seen[factor].all():
                x = fill(x, seen[factor], -(-halo // factor))
            inputs[factor] = np.ascontiguousarray(trim(x, halo // factor))
        out = self.method(inputs[1], inputs[2], inputs[6])
        want = (self.bands, size[0] - 2 * halo, size[1] - 2 * halo)
        if out.shape != want:
            raise MethodError(f"method {self.method.name!r} gave a block of shape {out.shape} where {want} is needed")
        out = trim(out, halo)
        if self.projection is not None:
            edge = self.halo // self.projection.cell
            out = self.projection(out, measured, valid, int(windows[-1][0, edge, edge]), reach)
        gain = self.scales[0][0].gain
        return np.where(core, out if gain == 1 else out / np.float32(gain), np.float32(np.nan))


def block_of(
    method: Method, bands: Sequence[str], scales: Mapping[str, Scale], operator: str | None, shape: tuple[int, int]
) -> Block:
    """What a task is for a cube that has some bands, see `apply`."""
    measured = tuple(b for b in method.produces if b in bands and grid_of(b) != 10) if operator else ()
    cell = max(grid_of(b) for b in (*method.needs, *method.produces)) // 10
    projection = Projection(method.produces, measured, operator, cell, shape) if operator and measured else None
    read = {*method.needs, *measured}
    windows = tuple(names for grid in GRIDS.values() if (names := tuple(b for b in grid if b in read)))
    return Block(method, windows, tuple(tuple(scales[b] for b in names) for names in windows), projection)


def apply(
    cube: Cube,
    method: Method,
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
    scales: Mapping[str, Scale],
    arrays: Mapping[str, da.Array],
    operator: str | None,
) -> da.Array:
    """Run a method over a cube, lazily: one task per block.

    Parameters
    ----------
    cube : Cube
    method : Method
    chunks : tuple
        Rows and columns of the blocks, in 10 m pixels, on borders that all grids share.
    scales, arrays : mapping
        Per band of the cube; the arrays have the same chunks along time.
    operator : str or None
        What the method's bands are made consistent with; None leaves them as the method gives them.

    Returns
    -------
    dask.array.Array
        ``(produces, [time,] y, x)``, float32 in the units of the cube, standard errors last.
    """
    shape = cube.shape(10)
    block = block_of(method, tuple(cube.bands), scales, operator, shape)
    projection, windows = block.projection, block.windows
    layers = [Layer([arrays[b] for b in names], grid_of(names[0]) // 10) for names in windows]
    if projection is not None:
        dates = arrays[windows[0][0]].chunks[:-2]
        layers.append(Layer([places(shape, projection.cell, chunks, dates)], projection.cell))
    return map_windows(
        learnt(cube, method, chunks, scales, arrays, block.with_method) if isinstance(method, Statistical) else block,
        layers,
        shape=shape,
        halo=block.halo,
        chunks=chunks,
        bands=block.bands,
        label=f"xsen2-{method.name}",
    )
