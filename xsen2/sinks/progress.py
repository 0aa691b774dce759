"""Compute pieces of work one after the other, or a few at a time on a cluster, and show how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from timeit import default_timer
from typing import Any
from uuid import uuid4

import dask
from dask.base import compute, tokenize, unpack_collections
from dask.core import flatten
from dask.delayed import Delayed
from dask.diagnostics.progress import ProgressBar
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import GraphNode, Task, TaskRef
from dask.utils import ensure_dict

__all__ = ["run_pieces"]

RETRIES = 2
"""How often a task on a cluster is tried again that raises, unless ``dask.annotate(retries=…)`` says otherwise."""


def run_pieces(
    pieces: Iterable[Any], sizes: list[int], finished: Callable[[int], None], *, progress: bool = True
) -> None:
    """Compute Dask objects for their side effects, in order, with bounded work in flight.

    Parameters
    ----------
    pieces : iterable of dask objects
        Made one by one, when their turn comes.
    sizes : list of int
        How many blocks each has.
    finished : callable
        Called with the number of each piece as soon as it is computed.
    progress : bool
        Show a bar, of text: it is the same in a terminal and in a notebook, with a cluster and without.
    """
    client = _client()
    bar = _Bar(sizes) if progress and sizes else None
    if client is not None:
        _on_cluster(client, pieces, sizes, finished, bar)
        return
    for number, piece in enumerate(pieces):
        if bar is None:
            compute(piece)
        else:
            with bar:
                compute(piece)
        finished(number)


def _client() -> Any:
    """The active distributed client, or None. A scheduler chosen by dask.config has precedence."""
    if "distributed" not in sys.modules:
        return None
    from dask.base import get_scheduler
    from distributed import Client

    owner = getattr(get_scheduler(), "__self__", None)
    return owner if isinstance(owner, Client) else None


def _on_cluster(
    client: Any, pieces: Iterable[Any], sizes: list[int], finished: Callable[[int], None], bar: _Bar | None
) -> None:
    """As many pieces in flight as keep all workers busy, two at least: the scheduler is not handed years of work."""
    from distributed import wait

    queue = enumerate(pieces)
    flight: dict[Any, int] = {}
    parts: dict[int, Any] = {}
    retries = dask.get_annotations().get("retries", RETRIES)  # type: ignore[attr-defined]
    more, run = True, uuid4().hex[:12]
    try:
        while more or flight:
            while more and (len(flight) < 2 or sum(sizes[n] for n in flight.values()) < 4 * _threads(client)):
                number, piece = next(queue, (-1, None))
                more = number >= 0
                if more:
                    future = client.compute(_apart(piece, f"{run}-{number}"), retries=retries, optimize_graph=False)
                    flight[future] = number
                    if bar is not None:
                        parts[number] = _part(client, future)
            with suppress(TimeoutError):
                if flight:
                    wait(list(flight), timeout=None if bar is None else 0.2, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]
            for future in [future for future in flight if future.done()]:
                future.result()
                number = flight.pop(future)
                finished(number)
                if bar is not None:
                    del parts[number]
                    bar.finish(number)
            if bar is not None:
                bar.show({number: parts[number].done for number in flight.values()})
    finally:
        if flight and client.status == "running":  # else it waits half a minute, and what went wrong is forgotten
            client.cancel(list(flight))
        if bar is not None:
            bar.end()


def _apart(piece: Any, own: str) -> Delayed:
    """A piece, optimised, whose tasks have names of their own, which end in `own`.

    Pieces have what they read round their borders in common, as other runs on the cluster may have, and Dask fuses it
    in other ways in each of them: a scheduler that is handed two tasks of one name may wait for ever
    (github.com/dask/dask/issues/9888).
    """
    collections, _ = unpack_collections(piece)
    keys = list(flatten([each.__dask_keys__() for each in collections]))
    # All at once: `dask.optimize` fuses what they have in common, the network say, into each of them.
    merged = HighLevelGraph.merge(*(each.__dask_graph__() for each in collections))
    graph = _nodes(ensure_dict(collections[0].__dask_optimize__(merged, keys)))
    names = {key: (f"{key[0]}-{own}", *key[1:]) if isinstance(key, tuple) else f"{key}-{own}" for key in graph}
    apart: dict[Any, Any] = {names[key]: node.substitute(names, key=names[key]) for key, node in graph.items()}
    ends = [TaskRef(names[key]) for key in keys]
    last = f"written-{tokenize(ends)}"
    apart[last] = Task(last, _nothing, *ends)
    return Delayed(last, apart)


def _nodes(graph: dict[Any, Any]) -> dict[Any, Any]:
    """A graph whose tasks can be renamed; those of old, tuples with a function, still come from other libraries."""
    if all(isinstance(node, GraphNode) for node in graph.values()):
        return graph
    # The one thing of dask's that is private: so it is not imported before a graph needs it, on a cluster.
    from dask._task_spec import convert_legacy_graph

    converted: dict[Any, Any] = convert_legacy_graph(graph)
    return converted


def _nothing(*_: Any) -> None:
    """What is left of a piece: pixels are on disk."""


def _threads(client: Any) -> int:
    return int(sum(client.nthreads().values()))


def _part(client: Any, future: Any) -> Any:
    """Listens to the scheduler for how much of one piece is done."""
    from distributed.diagnostics.progressbar import ProgressBar as Listener

    class Part(Listener):
        done = 0.0

        def _draw_bar(self, remaining: int, all: int, **more: Any) -> None:
            self.done = 1 - remaining / all if all else 0.0  # drawn by the thread that waits: a notebook's cell

    part = Part([future], scheduler=client.scheduler.address)  # type: ignore[no-untyped-call]
    client.loop.add_callback(part.listen)
    return part


class _Bar(ProgressBar):
    """Dask's bar over several computations: one line, from 0 to 100 % of all of them."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes, self._number, self._began = sizes, 0, default_timer()
        self._before = 0

    def show(self, parts: dict[int, float]) -> None:
        """Draw what has been finished, and so much of others."""
        blocks = self._before + sum(self._sizes[number] * done for number, done in parts.items())
        super()._draw_bar(blocks / (sum(self._sizes) or 1), default_timer() - self._began)  # type: ignore[no-untyped-call]

    def finish(self, number: int) -> None:
        """Note that a piece is finished."""
        self._before += self._sizes[number]

    def end(self) -> None:
        """End the line."""
        if self._file is not None:
            self._file.write("\n")
            self._file.flush()

    def _draw_bar(self, frac: float, elapsed: float) -> None:
        if self._number < len(self._sizes):
            self.show({self._number: frac})

    def _finish(self, dsk: Any, state: Any, errored: bool) -> None:
        out, last = self._file, self._number == len(self._sizes) - 1
        if not (last or errored):
            self._file = None  # the line ends only with the last piece
        super()._finish(dsk, state, errored)  # type: ignore[no-untyped-call]
        self._file = out
        self.finish(self._number)
        self._number += 1
