"""Map one function over blocks of nested grids, each block with context round it. Dask only.

Strategy: for every block of the *output*, find the source chunks that its window touches on each
grid. Whole chunks are passed as they are; of a neighbour only the strip that is needed is cut out
first, in a task of its own, so that a worker elsewhere sends a strip and not a chunk. One task then
pastes the pieces into windows and calls the function. No source is rechunked, however the
three grids were chunked, and no chunk is too small for its halo.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple

import dask.array as da
import dask.threaded
import numpy as np
import numpy.typing as npt
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import GraphNode, Task, TaskRef

__all__ = ["Cut", "Layer", "blocks", "common_dates", "map_windows", "renamed", "split", "thinnest", "trim"]

# What a forked process must not inherit: threads that the fork has left behind.
#
# A fork copies memory and one thread. The pool of dask's threaded scheduler, kept from one computation to the next,
# then names threads that are not there, and whatever is computed waits for them for ever. The same holds for OpenMP's,
# with which torch computes: `xsen2.networks.devices` sees to those.


def _forget_pools() -> None:
    """In the child: dask makes new pools when it computes."""
    dask.threaded.default_pool = None
    dask.threaded.pools.clear()
    dask.threaded.pools_lock = threading.Lock()
    dask.threaded.main_thread = threading.main_thread()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_pools)


Array = npt.NDArray[Any]
Span = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """The bands of one grid.

    Attributes
    ----------
    arrays : sequence of dask.array.Array
        One or more, a band each, ``(y, x)`` or ``(time, y, x)``, all of one shape.
    factor : int
        Pixel size, in pixels of the finest grid.
    """

    arrays: Sequence[da.Array]
    factor: int


DEARER = 2.0
"""How many times the work of the best blocks the chunks of a source may cost, context included."""

MOST = 2400
"""About the largest side of a block: nothing is gained by more."""


def thinnest(halo: int, total: int) -> int:
    """The least side of a block, so that no chunks cost more than `DEARER` times what the best do.

    Parameters
    ----------
    halo : int
        Pixels on each side of a block that are computed with it.
    total : int
        Side of the image.

    Examples
    --------
    >>> thinnest(34, 10980), thinnest(84, 10980), thinnest(6, 10980), thinnest(0, 10980)
    (150, 328, 29, 1)
    """
    along = math.sqrt(DEARER) * (1 + 2 * halo / max(min(total, MOST), 1))  # an axis has its part of the work
    return 1 if along == math.inf else max(1, math.ceil(2 * halo / (along - 1)))


def split(chunks: Sequence[int], cell: int, most: int = MOST, least: int = 1) -> tuple[int, ...]:
    """Sizes near `chunks` whose borders lie on multiples of `cell`, none over about `most`, none under `least`.

    Chunks that end off these multiples are taken together where that is enough; else their borders are moved, so that
    each of them is cut in two for its neighbours. Chunks that are thinner than `least` are taken together as well,
    twice that at a time, for what they cost is context.

    Examples
    --------
    >>> split((915, 915, 152), 6), split((1024, 1024, 1024), 6), split((5000,), 6)
    ((1830, 152), (1026, 1020, 1026), (1668, 1668, 1664))
    >>> split((1,) * 1000, 6, least=140), split((600, 600, 30), 6, least=140)
    ((282, 282, 282, 154), (600, 630))
    """
    total = sum(chunks)
    ends = np.cumsum([0, *chunks]).tolist()
    even = [b for b in ends if b % cell == 0 or b == total]
    borders = {0, total}
    # Between two borders that can stay, none can: what lies there is one block, as long as that is not too large. Then
    # its own chunks say about where it is cut, so that a block still reads few of them.
    for low, high in pairwise(even):
        inside = [b for b in ends if low <= b <= high] if high - low > most else [low, high]
        for start, stop in pairwise(inside):
            pieces = -(-(stop - start) // most)
            borders |= {round((start + (stop - start) * i / pieces) / cell) * cell for i in range(pieces)}
    sizes = np.diff(sorted(b for b in borders if b <= total)).tolist()
    return tuple(sizes if least <= cell else _thickened(sizes, cell, most, least))


def blocks(
    rows: Sequence[int], columns: Sequence[int], cell: int, halo: int, most: int = MOST
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns of blocks near chunks, none much thinner than their halo: see `split` and `thinnest`."""
    first, second = (split(n, cell, most, least=thinnest(halo, sum(n))) for n in (rows, columns))
    return first, second


def _thickened(sizes: Sequence[int], cell: int, most: int, least: int) -> list[int]:
    """Sizes of which none is under `least`, but for one that is all there is."""
    out: list[int] = []
    thin = 0
    for size in sizes:
        if size < least:
            thin += size
            # Not as soon as `least` is reached: blocks of twice that compute half as much context, and many chunks so
            # thin mean a reader that gives rows cheaply.
            if thin >= 2 * least:
                out.append(thin)
                thin = 0
        elif thin >= least:
            out += [thin, size]
            thin = 0
        else:
            out += _joined(thin, size, cell, most)
            thin = 0
    if thin >= least or not out:
        return [*out, thin] if thin else out
    return [*out[:-1], *_joined(out[-1], thin, cell, most)]


def _joined(left: int, right: int, cell: int, most: int) -> list[int]:
    """Two neighbouring sizes merged into one; into two of equal size, where one is too large."""
    both = left + right
    if both <= most or not left or not right:
        return [both]
    first = round(both / 2 / cell) * cell
    return [first, both - first]


def common_dates(arrays: Mapping[str, da.Array]) -> dict[str, da.Array]:
    """The arrays with one chunking along time: a border wherever any of them has one."""
    borders = sorted({b for a in arrays.values() if a.ndim == 3 for b in np.cumsum(a.chunks[0]).tolist()})
    dates = tuple(np.diff([0, *borders]).tolist())
    return {name: a.rechunk({0: dates}) if a.ndim == 3 and a.chunks[0] != dates else a for name, a in arrays.items()}


@dataclass(frozen=True)
class Cut:
    """How an image is cut into blocks.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns of the finest grid.
    chunks : tuple
        Rows and columns of the blocks, in pixels of the finest grid; `split` makes them.
    halo : int
        Context on each side, in pixels of the finest grid, a multiple of every factor.
    per_pixel : int
        Finest pixels per output pixel.
    zoom : int
        Output pixels per finest pixel, along each side.
    """

    shape: tuple[int, int]
    chunks: tuple[tuple[int, ...], tuple[int, ...]]
    halo: int = 0
    per_pixel: int = 1
    zoom: int = 1


def map_windows(
    func: Callable[[list[Array]], Any] | da.Array,
    layers: Sequence[Layer],
    cut: Cut,
    bands: int | None,
    dtype: npt.DTypeLike = np.float32,
    label: str = "windows",
) -> da.Array:
    """Apply `func` to every block, with context on each side.

    Parameters
    ----------
    func : callable, or dask.array.Array of callables
        One for all dates, or a lazy array with one for each, ``(time,)`` or ``()``, in chunks of one.
        Takes one array ``(band, [time,] h, w)`` per layer: the block and its halo, mirrored
        at the outer edges of the image (symmetric, the edge pixel repeats). Gives
        ``(bands, [time,] h, w)`` of the block alone, on the grid that `cut` says.
    layers : sequence of Layer
        Nested grids with the same outer edges.
    cut : Cut
    bands : int or None
        How many bands `func` gives; None if it reduces a block to one object, of whatever kind.
    dtype : numpy.dtype
    label : str
        What the tasks' names begin with.

    Returns
    -------
    dask.array.Array
        ``(bands, [time,] y, x)``, one task and one chunk per block and date; of size 1 if `func` reduces.
    """
    shape, halo, chunks = cut.shape, cut.halo, cut.chunks
    layers = [Layer(_same_chunks(layer.arrays), layer.factor) for layer in layers]
    lead = layers[0].arrays[0].chunks[:-2]
    if any(array.chunks[:-2] != lead for layer in layers for array in layer.arrays):
        raise ValueError("all layers need the same chunks along time: see common_dates")
    # The same windows of the same pixels have the same name in every process: what is computed once is recognised.
    what = tokenize(func.name if isinstance(func, da.Array) else func, [[a.name for a in la.arrays] for la in layers])
    name = f"{label}-{tokenize(what, shape, halo, chunks, cut.per_pixel, cut.zoom)}"
    graph: dict[Any, Task] = {}
    rows, columns = (_spans(c) for c in chunks)
    plans = [_plan(layer, rows, columns, shape, halo) for layer in layers]
    chunk_refs = [_refs(layer) for layer in layers]
    for date in np.ndindex(*(len(c) for c in lead)):
        call = TaskRef((func.name, *date)) if isinstance(func, da.Array) else func
        for (i, _), (j, _) in product(enumerate(rows), enumerate(columns)):
            refs: list[TaskRef] = []
            layout = []
            # What the halo needs of a neighbouring chunk is cut off by a task of its own: that runs where the chunk is,
            # and on a cluster only the strip travels, a hundredth of it or so.
            strips: dict[tuple[int, int], list[tuple[slice, slice, list[TaskRef]]]] = {}
            for layer, (vertical, horizontal), known in zip(layers, plans, chunk_refs, strict=True):
                pasted = []
                for (ci, si, oi), (cj, sj, oj) in product(vertical[i].pieces, horizontal[j].pieces):
                    sources = known[(*date, ci, cj)]
                    if si is None and sj is None:
                        pasted.append(_Paste(oi, oj, len(refs), None))
                        refs += sources
                    else:
                        # Grids that are chunked alike send one parcel per neighbour, not one each.
                        parcel = strips.setdefault((ci, cj), [])
                        pasted.append(_Paste(oi, oj, (ci, cj), len(parcel)))
                        parcel.append((si or slice(None), sj or slice(None), sources))
                layout.append((len(layer.arrays), vertical[i], horizontal[j], pasted))
            positions = {}
            for corner, parcel in strips.items():
                key = (f"strips-{name}", *date, i, j, *corner)
                cuts = tuple((si, sj, len(sources)) for si, sj, sources in parcel)
                graph[key] = Task(key, _cut, cuts, *(ref for *_, sources in parcel for ref in sources))
                positions[corner] = len(refs)
                refs.append(TaskRef(key))
            plan = tuple((*rest, tuple(p.resolved(positions) for p in pasted)) for *rest, pasted in layout)
            key = (name, 0, *date, i, j)
            graph[key] = Task(key, _run, call, plan, *refs)
    sizes = (tuple(1 if bands is None else n * cut.zoom // cut.per_pixel for n in c) for c in chunks)
    out_chunks = ((bands or 1,), *lead, *sizes)
    arrays: list[Any] = [a for layer in layers for a in layer.arrays] + ([func] if isinstance(func, da.Array) else [])
    meta = np.empty((0,) * len(out_chunks), dtype=dtype)
    return da.Array(HighLevelGraph.from_collections(name, graph, dependencies=arrays), name, out_chunks, meta=meta)


def trim(x: Array, edge: int) -> Array:
    """The inner part of the last two axes, without `edge` pixels on each side."""
    return x[..., edge : x.shape[-2] - edge, edge : x.shape[-1] - edge]


def _refs(layer: Layer) -> dict[tuple[int, ...], list[TaskRef]]:
    """References to the chunks of all bands, by chunk: most are used nine times."""
    names = [a.name for a in layer.arrays]
    return {index: [TaskRef((n, *index)) for n in names] for index in np.ndindex(*layer.arrays[0].numblocks)}


class _Paste(NamedTuple):
    """One piece of a window: where it goes, which argument it comes in, and which part of a parcel."""

    row: int
    column: int
    source: Any  # number of the argument; before the parcels are numbered, the chunk they are cut from
    part: int | None  # None: a whole chunk, one argument per band

    def resolved(self, positions: dict[Any, int]) -> _Paste:
        return self if self.part is None else self._replace(source=positions[self.source])


@dataclass(frozen=True)
class _Window:
    """Where one block's window lies along one axis of one grid."""

    size: int  # pixels inside the image
    pad: Span  # pixels outside it, before and after
    pieces: tuple[tuple[int, slice | None, int], ...]  # chunk, part of it or None for all, offset


def _spans(chunks: Sequence[int]) -> list[Span]:
    return list(pairwise(np.cumsum([0, *chunks]).tolist()))


def _plan(
    layer: Layer, rows: list[Span], columns: list[Span], shape: tuple[int, int], halo: int
) -> tuple[list[_Window], list[_Window]]:
    out = []
    for axis, spans in ((0, rows), (1, columns)):
        total = shape[axis] // layer.factor
        borders = _spans(layer.arrays[0].chunks[axis - 2])
        windows = []
        for start, stop in spans:
            # Outwards on coarser grids: a border of blocks need not be one of their pixels.
            low, high = (start - halo) // layer.factor, -(-(stop + halo) // layer.factor)
            inside = (max(low, 0), min(high, total))
            pieces = []
            for chunk, (first, last) in enumerate(borders):
                lo, hi = max(first, inside[0]), min(last, inside[1])
                if lo < hi:
                    part = None if (lo, hi) == (first, last) else slice(lo - first, hi - first)
                    pieces.append((chunk, part, lo - inside[0]))
            windows.append(_Window(inside[1] - inside[0], (inside[0] - low, high - inside[1]), tuple(pieces)))
        out.append(windows)
    return out[0], out[1]


def _same_chunks(arrays: Sequence[da.Array]) -> list[da.Array]:
    return [a if a.chunks == arrays[0].chunks else a.rechunk(arrays[0].chunks) for a in arrays]


def _cut(cuts: Sequence[tuple[slice, slice, int]], *bands: Array) -> list[Array]:
    """Strips of neighbouring chunks, the bands of a grid stacked."""
    queue = iter(bands)
    return [np.stack([next(queue)[..., rows, columns] for _ in range(n)]) for rows, columns, n in cuts]


def _run(func: Callable[[list[Array]], Array], plan: Sequence[Any], *pieces: Any) -> Array:
    """Paste the pieces into one window per layer, mirror at the image's edges, call `func`."""
    windows: list[Array] = []
    for bands, vertical, horizontal, pasted in plan:
        parts = [pieces[p.source : p.source + bands] if p.part is None else pieces[p.source][p.part] for p in pasted]
        shape = (bands, *parts[0][0].shape[:-2], vertical.size, horizontal.size)
        window = np.empty(shape, np.result_type(*parts[0]))  # the pieces cover it
        for paste, part in zip(pasted, parts, strict=True):
            height, width = part[0].shape[-2:]
            for band in range(bands):
                window[band, ..., paste.row : paste.row + height, paste.column : paste.column + width] = part[band]
        # Only where the image ends: a network sees its own pixels there once more, not an edge that no scene has.
        if any(vertical.pad) or any(horizontal.pad):
            around = [(0, 0)] * (window.ndim - 2) + [vertical.pad, horizontal.pad]
            window = np.pad(window, around, mode="symmetric")
        windows.append(window)
    return func(windows)


def renamed(graph: Mapping[Any, Any], names: Mapping[Any, Any]) -> dict[Any, GraphNode]:
    """The tasks of a graph under other names, and with those in what they refer to.

    Parameters
    ----------
    graph : mapping
        Key → task; tuples with a function, as of old, still come from other libraries.
    names : mapping
        Key → new one: of all of the graph's, and of others that its tasks refer to.
    """
    nodes: dict[Any, GraphNode] = dict(graph)
    if not all(isinstance(node, GraphNode) for node in nodes.values()):
        # The one thing of dask's that is private: so it is not imported before a graph needs it.
        from dask._task_spec import convert_legacy_graph

        nodes = convert_legacy_graph(nodes, all_keys=set(names))
    other: dict[Any, Any] = dict(names)
    return {names[key]: node.substitute(other, key=names[key]) for key, node in nodes.items()}
