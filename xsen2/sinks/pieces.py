"""Compute pieces of work one after the other, or a few at a time on a cluster, and tell how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import dask
from dask.base import compute, get_scheduler, tokenize, unpack_collections
from dask.callbacks import Callback
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef
from dask.utils import ensure_dict

from xsen2.engine.halo import renamed
from xsen2.progress import ProgressLike, Reporter

__all__ = ["on_a_cluster", "run_pieces"]

RETRIES = 2
"""How often a task on a cluster is tried again that raises, unless ``dask.annotate(retries=…)`` says otherwise."""


def run_pieces(
    pieces: Iterable[Any],
    sizes: Sequence[int],
    finished: Callable[[int], None],
    *,
    progress: ProgressLike,
    about: str,
    after: str,
    before: int = 0,
) -> None:
    """Compute Dask objects for their side effects, in order, with bounded work in flight.

    Parameters
    ----------
    pieces : iterable of dask objects
        Made one by one, when their turn comes.
    sizes : sequence of int
        How many blocks each has.
    finished : callable
        Called with the number of each piece as soon as it is computed.
    progress : bool or callable
        See `xsen2.progress`. Blocks are counted by the share of a piece's tasks that is done.
    about, after : str
        What is done, and how to go on if it is stopped.
    before : int
        Blocks that are there already.

    Raises
    ------
    Cancelled
        `progress` asked for it. Blocks that were being computed are finished first, on a cluster those of a worker that
        has begun with them.
    """
    total = before + sum(sizes)
    with Reporter(progress, total, "block", about, done=before, after=after) as reporter:
        client = _client()
        if client is not None:
            _on_cluster(client, pieces, sizes, finished, reporter)
            return
        for number, piece in enumerate(pieces):
            _here(piece, before, sizes[number], reporter)
            finished(number)
            before += sizes[number]
            reporter.update(before)
            reporter.check()


def _here(piece: Any, before: int, size: int, reporter: Reporter) -> None:
    """Compute one piece, telling of its blocks where Dask tells of its tasks."""
    from dask import local, multiprocessing, threaded

    collections, _ = unpack_collections(piece)
    if reporter.wanted and get_scheduler(collections=collections) in (
        local.get_sync,
        threaded.get,
        multiprocessing.get,
    ):
        # Handed over, not registered: a registered one is used by whichever thread computes first.
        compute(piece, callbacks=[*Callback.active, _Watch(reporter, before, size)._callback])
    else:
        compute(piece)


class _Watch(Callback):
    """Counts the tasks of one computation; when it is to be stopped, waits for those that run, and begins no other."""

    def __init__(self, reporter: Reporter, before: int, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reporter, self._before, self._size = reporter, before, size
        self._held_back = False

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        finished = len(state["finished"])
        total = finished + sum(len(state[kind]) for kind in ("ready", "waiting", "running"))
        # The last block is told of when it is noted, with its piece.
        self._reporter.update(self._before + min(self._size * finished / total, self._size - 1))
        if self._reporter.stopped:
            self._held_back |= bool(state["ready"])
            state["ready"].clear()
            if not state["running"] and (state["waiting"] or self._held_back):
                self._reporter.check()


def on_a_cluster() -> bool:
    """Whether pieces are computed by workers, which get copies of what they work with."""
    return _client() is not None


def _client() -> Any:
    """The active distributed client, or None. A scheduler chosen by dask.config has precedence."""
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    owner = getattr(get_scheduler(), "__self__", None)
    return owner if isinstance(owner, Client) else None


def _on_cluster(
    client: Any, pieces: Iterable[Any], sizes: Sequence[int], finished: Callable[[int], None], reporter: Reporter
) -> None:
    """As many pieces in flight as keep all workers busy, two at least: the scheduler is not handed years of work."""
    from distributed import wait

    queue = enumerate(pieces)
    flight: dict[Any, int] = {}
    parts: dict[int, Any] = {}
    retries = dask.get_annotations().get("retries", RETRIES)  # type: ignore[attr-defined]
    more, run, before = True, uuid4().hex[:12], reporter.done
    try:
        while more or flight:
            while more and (len(flight) < 2 or sum(sizes[n] for n in flight.values()) < 4 * _threads(client)):
                number, piece = next(queue, (-1, None))
                more = number >= 0
                if more:
                    future = client.compute(_apart(piece, f"{run}-{number}"), retries=retries, optimize_graph=False)
                    flight[future] = number
                    if reporter.wanted:
                        parts[number] = _part(client, future)
            with suppress(TimeoutError):
                if flight:
                    wait(list(flight), timeout=0.2 if reporter.wanted else None, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]
            for future in [future for future in flight if future.done()]:
                future.result()
                number = flight.pop(future)
                finished(number)
                parts.pop(number, None)
                before += sizes[number]
            reporter.update(before + sum(sizes[number] * part.done for number, part in parts.items()))
            reporter.check()
    finally:
        if flight and client.status == "running":  # else it waits half a minute, and what went wrong is forgotten
            client.cancel(list(flight))


def _apart(piece: Any, suffix: str) -> Delayed:
    """A piece, optimised, whose tasks have names of their own, which end in `suffix`.

    Pieces have what they read round their borders in common, as other runs on the cluster may have, and Dask fuses it
    in other ways in each of them: a scheduler that is handed two tasks of one name may wait for ever
    (github.com/dask/dask/issues/9888).
    """
    collections, _ = unpack_collections(piece)
    keys = list(flatten([each.__dask_keys__() for each in collections]))
    # All at once: `dask.optimize` fuses what they have in common, the network say, into each of them.
    merged = HighLevelGraph.merge(*(each.__dask_graph__() for each in collections))
    graph = ensure_dict(collections[0].__dask_optimize__(merged, keys))
    names = {key: (f"{key[0]}-{suffix}", *key[1:]) if isinstance(key, tuple) else f"{key}-{suffix}" for key in graph}
    apart: dict[Any, Any] = renamed(graph, names)
    ends = [TaskRef(names[key]) for key in keys]
    last = f"written-{tokenize(ends)}"
    apart[last] = Task(last, _nothing, *ends)
    return Delayed(last, apart)


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
