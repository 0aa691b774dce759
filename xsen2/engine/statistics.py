"""Statistics of a whole image, gathered lazily: sums per block, added in a tree, from which the method learns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import clone_key, compute_as_if_collection, tokenize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.optimization import cull
from dask.task_spec import DataNode, GraphNode, Task, TaskRef
from dask.utils import ensure_dict

from xsen2.bands import GRIDS, factor_of
from xsen2.cube import Cube
from xsen2.engine.fill import fill
from xsen2.engine.frames import frames_of, layers_of
from xsen2.engine.halo import Cut, map_windows, renamed, trim
from xsen2.methods.protocol import Mask, Method, finest_halo
from xsen2.radiometry import Scale

__all__ = ["Settled", "each", "fitted"]

_LEARN = "learn-"  # begins the names of the tasks that fit methods
_KEPT = 256  # fitted methods, a date each: parts of an image come date by date
_MERGE = 16  # blocks whose sums one task adds up

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Gather:
    """One round over the windows of one block."""

    method: Method
    windows: tuple[tuple[str, ...], ...]
    scales: tuple[tuple[Scale, ...], ...]
    frames: int

    def with_method(self, method: Method) -> _Gather:
        return replace(self, method=method)

    @property
    def context(self) -> int:
        """What `gather` asks for, in 10 m pixels; the windows carry twice that, for filling nodata."""
        return finest_halo(self.method, self.method.gather_halo)

    def __call__(self, windows: list[npt.NDArray[Any]]) -> Sums | None:
        """The block's sums; None if none of its pixels is valid."""
        halo, fuses = self.context, self.method.frames != 1
        factor = factor_of(self.windows[0][0])
        size = tuple(n * factor for n in windows[0].shape[-2:])
        complete = np.ones((self.frames, size[0] - 2 * halo, size[1] - 2 * halo), bool)
        inputs = {
            g // 10: np.empty((self.frames, 0, *(n * 10 // g for n in complete.shape[1:])), np.float32) for g in GRIDS
        }
        for names, window, scales in zip(self.windows, windows, self.scales, strict=True):
            factor = factor_of(names[0])
            # Each date has statistics of its own, so a window holds one date, and the frames that it is made of.
            dn, seen = frames_of(window.reshape(-1, *window.shape[-2:]), scales, self.frames)
            steps = halo // factor
            complete &= trim(seen, steps).all(axis=1).repeat(factor, axis=1).repeat(factor, axis=2)
            if seen.all():
                x = dn
            elif fuses:
                x = np.where(seen, dn, np.float32(np.nan))
            else:
                x = fill(dn[0], seen[0], steps)[None]
            inputs[factor] = np.ascontiguousarray(trim(x, steps) if fuses else trim(x, steps)[0])
        valid: Mask = np.asarray(complete.any(axis=0))
        if not fuses:
            inputs = {factor: x if x.ndim == 3 else x[0] for factor, x in inputs.items()}
        counted = np.zeros_like(valid)
        trim(counted, halo)[:] = trim(valid, halo)
        if not counted.any():
            return None
        return self.method.gather(inputs[1], inputs[2], inputs[6], valid, counted)


def fitted(
    cube: Cube,
    method: Method,
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
    scales: Mapping[str, Scale],
    arrays: Mapping[str, da.Array],
    near: Sequence[Sequence[int]] = (),
) -> da.Array:
    """The method of each date, fitted to the statistics of the whole image, lazily.

    The pixels are read again for each round: to hold a whole image until its statistics are known would take memory
    without bound.

    Parameters
    ----------
    cube, method, chunks, scales, arrays
        As `xsen2.engine.block.apply` takes them; one date per chunk.
    near : sequence
        The dates that each date is made of, as `xsen2.engine.frames.neighbours` says.

    Returns
    -------
    dask.array.Array
        ``(time,)`` or ``()``, of objects, in chunks of one.
    """
    windows = tuple(names for grid in GRIDS.values() if (names := tuple(b for b in grid if b in method.needs)))
    frames = len(near[0]) if near else 1
    gather = _Gather(method, windows, tuple(tuple(scales[b] for b in names) for names in windows), frames)
    methods: da.Array | None = None
    for number in range(method.rounds):
        again = _copies({b: arrays[b] for names in windows for b in names}, f"{method.name}-{number}")
        layers = layers_of(windows, again, near)
        sums = map_windows(
            gather if methods is None else each(_with, methods, gather),
            layers,
            Cut(cube.shape(10), chunks, 2 * gather.context),
            bands=None,
            label=f"xsen2-{method.name}-statistics",
        )
        methods = _learn(method if methods is None else methods, sums)
    assert methods is not None
    return methods


class Settled:
    """Fitted methods, kept from one part of an image that is computed to the next.

    Each part depends on sums over the whole image; without this they would be gathered again for each.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Any, Any] = OrderedDict()

    def __call__(self, arrays: Sequence[da.Array]) -> list[da.Array]:
        """The same arrays, with the fitted methods in their graphs; those not known yet are computed now."""
        out = []
        for array in arrays:
            graph: HighLevelGraph = array.dask
            layers = [name for name in graph.layers if str(name).startswith(_LEARN)]
            last = [n for n in layers if not any(n in _above(graph, other) for other in layers if other != n)]
            if not last:
                out.append(array)
                continue
            ends = list(flatten(array.__dask_keys__()))
            tasks, _ = cull(ensure_dict(graph.cull(ends)), ends)  # that of layers alone keeps other dates
            keys: dict[str, list[Any]] = {name: [] for name in last}
            for key in tasks:
                if isinstance(key, tuple) and key[0] in keys:
                    keys[str(key[0])].append(key)
            unknown = [key for group in keys.values() for key in group if key not in self._known]
            if unknown:
                results = compute_as_if_collection(da.Array, graph, unknown)
                self._known |= dict(zip(unknown, results, strict=True))
            values = {
                name: MaterializedLayer({key: DataNode(key, self._known[key]) for key in group})
                for name, group in keys.items()
            }
            links = {name: set() if name in values else deps for name, deps in graph.dependencies.items()}
            settled = HighLevelGraph({**graph.layers, **values}, links)
            out.append(da.Array(settled, array.name, array.chunks, meta=array._meta))
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return out


def _above(graph: HighLevelGraph, name: str) -> set[str]:
    """All layers that a layer depends on, directly or not."""
    seen: set[str] = set()
    queue = [name]
    while queue:
        new = graph.dependencies[queue.pop()] - seen
        seen |= new
        queue += new
    return seen


def _copies(arrays: Mapping[str, da.Array], seed: str) -> dict[str, da.Array]:
    """The same arrays under other names, all the way down to what is read: nothing of them is kept for the originals.

    dask's own `clone` does not look into tasks, and leaves the copies depending on the originals in part.
    """
    graph = HighLevelGraph.merge(*(a.dask for a in arrays.values()))
    layers: dict[str, dict[Any, GraphNode]] = {}
    names = {key: clone_key(key, seed) for layer in graph.layers.values() for key in layer}
    for name, layer in graph.layers.items():
        layers[clone_key(name, seed)] = renamed(layer, names)
    links = {clone_key(k, seed): {clone_key(x, seed) for x in deps} for k, deps in graph.dependencies.items()}
    copied = HighLevelGraph(layers, links)
    return {b: da.Array(copied, clone_key(a.name, seed), a.chunks, meta=a._meta) for b, a in arrays.items()}


def _with(method: Method, gather: _Gather) -> _Gather:
    return gather.with_method(method)


def each(function: Callable[..., Any], of: da.Array, *more: Any) -> da.Array:
    """`function` of each object of a lazy array and further arguments; of lazy arrays, the object at the same place."""
    others = [x for x in more if isinstance(x, da.Array)]
    name = f"{function.__name__.strip('_')}-{tokenize(function, of.name, more)}"
    graph = {
        (name, *d): Task(
            (name, *d), function, *(TaskRef((x.name, *d)) if isinstance(x, da.Array) else x for x in (of, *more))
        )
        for d in np.ndindex(*of.shape)
    }
    return _objects(name, graph, [of, *others], of.shape)


def _learn(method: Method | da.Array, sums: da.Array) -> da.Array:
    """Add up the sums of all blocks of a date, and let the method learn from them."""
    name = f"{_LEARN}{tokenize(method.name if isinstance(method, da.Array) else method, sums.name)}"
    dates = sums.numblocks[1:-2]
    graph: dict[Any, Task] = {}
    for date in np.ndindex(*dates):
        level = [TaskRef((sums.name, 0, *date, *place)) for place in np.ndindex(*sums.numblocks[-2:])]
        depth = 0
        while len(level) > _MERGE:
            groups = [level[i : i + _MERGE] for i in range(0, len(level), _MERGE)]
            level = []
            for number, group in enumerate(groups):
                key = (f"add-{name}", depth, number, *date)
                graph[key] = Task(key, _add, *group)
                level.append(TaskRef(key))
            depth += 1
        current = TaskRef((method.name, *date)) if isinstance(method, da.Array) else method
        graph[name, *date] = Task((name, *date), _taught, current, *level)
    return _objects(name, graph, [sums, *([method] if isinstance(method, da.Array) else [])], dates)


def _add(*sums: Sums | None) -> Sums | None:
    present = [s for s in sums if s is not None]
    return np.sum(present, axis=0) if present else None


def _taught(method: Method, *sums: Sums | None) -> Method:
    total = _add(*sums)
    return method if total is None else method.learn(total)  # without a valid pixel nothing is ever asked of it


def _objects(name: str, graph: dict[Any, Task], of: Sequence[da.Array], shape: tuple[int, ...]) -> da.Array:
    layers = HighLevelGraph.from_collections(name, graph, dependencies=list[Any](of))
    return da.Array(layers, name, tuple((1,) * n for n in shape), meta=np.empty((0,) * len(shape), object))
