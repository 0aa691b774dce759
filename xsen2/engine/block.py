"""What one task does with its windows: to DN, fill nodata, run the method, make consistent, back to units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import dask.array as da
import numpy as np
import numpy.typing as npt

from xsen2.bands import GRIDS, factor_of
from xsen2.cube import Cube
from xsen2.engine.consistency import Projection, places
from xsen2.engine.fill import fill, fill_together
from xsen2.engine.frames import frames_of, layers_of, neighbours
from xsen2.engine.halo import Cut, Layer, map_windows, trim
from xsen2.engine.statistics import each, fitted
from xsen2.errors import MethodError
from xsen2.methods.protocol import Array, Mask, Method, finest_halo, tile, zoom_of
from xsen2.radiometry import Scale, check_dn

__all__ = ["Applied", "Block", "apply", "block_of", "dot", "mixed", "projection_of"]


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

    Sizes are in 10 m pixels, also where the method makes smaller ones.

    Attributes
    ----------
    method : Method
    windows : tuple
        Names of the bands in each window, which are of one grid each.
    scales : tuple
        Scale of each of these bands.
    projection : Projection or None
        Makes the bands consistent. It adds a last window, which holds the position of the block in the image.
    frames : int
        How many dates each window holds for one of the result; they are ordered by band, then by frame.
    """

    method: Method
    windows: tuple[tuple[str, ...], ...]
    scales: tuple[tuple[Scale, ...], ...]
    projection: Projection | None
    frames: int = 1

    @property
    def bands(self) -> int:
        """How many planes come out: bands, as many standard errors if the method gives them, how many dates."""
        return len(self.method.produces) * (2 if self.method.uncertainty else 1) + self.method.counts

    @property
    def zoom(self) -> int:
        """How many pixels come out, along each side, per 10 m pixel."""
        return zoom_of(self.method)

    @property
    def fuses(self) -> bool:
        """Whether the method reads several dates: it then sees nodata as NaN."""
        return self.method.frames != 1

    @property
    def reach(self) -> int:
        """Context that the projection needs of the method's result."""
        return 0 if self.projection is None else self._on_tiles(self.projection.reach // self.zoom)

    def _on_tiles(self, n: int) -> int:
        """The least multiple of the method's tile that is not under `n`."""
        step = tile(self.method) or 1
        return -(-n // step) * step

    @property
    def computed(self) -> int:
        """Context that is computed with a block on each side."""
        return finest_halo(self.method) + self.reach

    @property
    def spare(self) -> int:
        """Context round the method's receptive field that only fills nodata within it."""
        # What fills nodata within the receptive field may lie as far off again.
        return 0 if self.fuses else finest_halo(self.method)

    @property
    def halo(self) -> int:
        """Context that the windows carry on each side."""
        return self.spare + finest_halo(self.method) + self.reach

    def with_method(self, method: Method) -> Block:
        """The same block with the fitted method."""
        return replace(self, method=method)

    def __call__(self, windows: list[npt.NDArray[Any]]) -> Array:
        """The block without halo, ``(bands, [time,] h, w)``, as `xsen2.engine.halo.map_windows` asks for it."""
        if windows[0].ndim == 3:
            return self._date(windows)
        return np.stack([self._date([w[:, t] for w in windows]) for t in range(windows[0].shape[1])], axis=1)

    def _filled(self, layers: dict[int, Array], valid: dict[int, Mask]) -> dict[int, Array]:
        """The layers with nodata filled, as far as the method sees from a pixel that has all bands."""
        cell = max(layers)
        if len(layers) > 1:  # bands of one grid alone are interpolated, each by itself
            return fill_together(layers, valid, -(-self.spare // cell))
        return {cell: fill(layers[cell], valid[cell], -(-self.spare // cell))}

    def _date(self, windows: list[npt.NDArray[Any]]) -> Array:
        """One date of the block: read, look for nodata, fill it, run the method, make consistent, back to units.

        Three frames lie within each other: the windows, `halo` pixels wider than the block; what the method makes,
        `reach` wider, since the projection degrades it; the block.
        """
        reach, zoom = self.reach, self.zoom
        first = factor_of(self.windows[0][0])
        size = (windows[0].shape[1] * first, windows[0].shape[2] * first)
        margin = self.spare + finest_halo(self.method)  # from the windows' edge to what the method makes
        inputs = {g // 10: np.empty((self.frames, 0, size[0] * 10 // g, size[1] * 10 // g), np.float32) for g in GRIDS}
        seen: dict[int, Mask] = {}
        measured: dict[str, Array] = {}
        complete = np.ones((self.frames, size[0] - 2 * margin, size[1] - 2 * margin), bool)  # all bands have data
        for names, window, scales in zip(self.windows, windows, self.scales, strict=False):
            factor = factor_of(names[0])
            dn, mask = frames_of(window, scales, self.frames)
            if self.projection is not None:
                for band in set(names) & set(self.projection.measured):
                    i = names.index(band)
                    y = np.where(mask[0, i], dn[0, i], np.float32(np.nan))  # the first frame is the date itself
                    measured[band] = trim(y, margin // factor)
            needed = [i for i, band in enumerate(names) if band in self.method.needs]
            if not needed:
                continue
            if len(needed) < len(names):
                dn, mask = dn[:, needed], mask[:, needed]
            inputs[factor], seen[factor] = dn, mask
            # One band alone may be as dark as that, in water; only classical methods, which are linear, read one.
            if len(needed) > 2 and scales[0].gain == 1 and not all(scales[i].sure for i in needed):
                for frame, known in zip(dn, mask, strict=True):
                    check_dn(list(frame), list(known))
            inner = trim(mask, margin // factor).all(axis=1)
            if not inner.all():
                complete &= inner.repeat(factor, axis=1).repeat(factor, axis=2)
        # A pixel is nodata where no frame is complete: of one date, where a band has no data.
        valid: Mask = np.asarray(complete.any(axis=0))
        core = trim(valid, reach)
        if not core.any():  # nothing that the method could make would be kept
            return np.full((self.bands, core.shape[0] * zoom, core.shape[1] * zoom), np.nan, np.float32)
        if self.projection is not None and valid.all() and all(np.isfinite(y).all() for y in measured.values()):
            # Most blocks: the method need not run where only the passes that mend nodata would look.
            near = self._on_tiles(self.projection.near // zoom)
            less, reach = reach - near, near
            size = (size[0] - 2 * less, size[1] - 2 * less)
            valid = trim(valid, less)
            inputs = {factor: trim(x, less // factor) for factor, x in inputs.items()}
            seen = {factor: trim(x, less // factor) for factor, x in seen.items()}
            measured = {band: trim(y, less // factor_of(band)) for band, y in measured.items()}
        holes = not all(mask.all() for mask in seen.values())
        if self.fuses:
            inputs |= {f: np.where(seen[f], inputs[f], np.float32(np.nan)) for f in seen if holes}
        else:
            single = {factor: x[0] for factor, x in inputs.items()}
            if holes:
                single |= self._filled({f: single[f] for f in seen}, {f: mask[0] for f, mask in seen.items()})
            inputs = {f: np.ascontiguousarray(trim(x, self.spare // f)) for f, x in single.items()}
        out = self.method(inputs[1], inputs[2], inputs[6])
        want = (self.bands, *((n - 2 * self.spare) * zoom for n in size))
        if out.shape != want:
            raise MethodError(f"method {self.method.name!r} gave a block of shape {out.shape} where {want} is needed")
        out = trim(out, finest_halo(self.method) * zoom)
        fine, kept = (x.repeat(zoom, axis=0).repeat(zoom, axis=1) if zoom > 1 else x for x in (valid, core))
        if self.projection is not None:
            edge = self.halo * zoom // self.projection.cell
            out = self.projection(out, measured, fine, int(windows[-1][0, edge, edge]), reach * zoom)
        gain = self.scales[0][0].gain
        if gain != 1:
            values = len(out) - self.method.counts
            out = np.concatenate([out[:values] / np.float32(gain), out[values:]])
        return np.where(kept, out, np.float32(np.nan))


def projection_of(
    method: Method, bands: Sequence[str], operator: str | None, shape: tuple[int, int]
) -> Projection | None:
    """What makes a method's bands consistent with those of a cube that has `bands`; None if nothing is to be."""
    zoom = zoom_of(method)
    measured = tuple(b for b in method.produces if b in bands and factor_of(b) * zoom > 1) if operator else ()
    if not operator or not measured:
        return None
    cell = max(factor_of(b) for b in (*method.needs, *method.produces)) * zoom
    return Projection(method.produces, measured, operator, cell, (shape[0] * zoom, shape[1] * zoom), zoom)


def block_of(
    method: Method,
    bands: Sequence[str],
    scales: Mapping[str, Scale],
    operator: str | None,
    shape: tuple[int, int],
    frames: int = 1,
) -> Block:
    """The block that `apply` runs on a cube with these bands."""
    projection = projection_of(method, bands, operator, shape)
    read = {*method.needs, *(projection.measured if projection else ())}
    windows = tuple(names for grid in GRIDS.values() if (names := tuple(b for b in grid if b in read)))
    return Block(method, windows, tuple(tuple(scales[b] for b in names) for names in windows), projection, frames)


class Applied(NamedTuple):
    """What a method makes of a cube, lazily.

    Attributes
    ----------
    planes : dask.array.Array
        ``(plane, [time,] y, x)``, float32: bands in the units of the cube, their standard errors, numbers of dates.
    methods : dask.array.Array or None
        ``([time])``: the fitted method of each date; None if nothing is fitted to the image.
    """

    planes: da.Array
    methods: da.Array | None


def apply(
    cube: Cube,
    method: Method,
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
    scales: Mapping[str, Scale],
    arrays: Mapping[str, da.Array],
    operator: str | None,
    targets: Sequence[int] | None = None,
    like: da.Array | None = None,
) -> Applied:
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
    targets : sequence of int, optional
        Dates that are made; by default all. Blocks are of one date then, and so must be the arrays' chunks.
    like : dask.array.Array, optional
        Fusions of the same dates, which know how these lie: `Applied.methods` of other bands.
    """
    shape = cube.shape(10)
    near = neighbours(cube.times, method.candidates, targets)
    frames = len(near[0]) if near else 1
    block = block_of(method, tuple(cube.bands), scales, operator, shape, frames)
    projection = block.projection
    layers = layers_of(block.windows, arrays, near)
    if projection is not None:
        dates = layers[0].arrays[0].chunks[:-2]
        cell = projection.cell // block.zoom
        layers.append(Layer([places(shape, cell, chunks, dates)], cell))
    methods = fitted(cube, method, chunks, scales, arrays, near) if method.rounds else None
    if methods is not None and like is not None:
        methods = each(_alike, methods, like)
    planes = map_windows(
        block if methods is None else each(_with_method, methods, block),
        layers,
        Cut(shape, chunks, block.halo, zoom=block.zoom),
        bands=block.bands,
        label=f"xsen2-{method.name}",
    )
    return Applied(planes, methods)


def _alike(method: Any, other: Any) -> Any:
    return method.alike(other)


def _with_method(method: Method, block: Block) -> Block:
    return block.with_method(method)
