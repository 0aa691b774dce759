"""Compute pieces of work one after the other, or in batches on a cluster, and show how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import islice
from timeit import default_timer
from typing import Any

from dask.base import compute
from dask.diagnostics.progress import ProgressBar

__all__ = ["run_pieces"]


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
        Show a bar: Dask's own, or ``distributed``'s when a client is active.
    """
    client = _client()
    if client is not None:
        _on_cluster(client, pieces, sizes, finished, progress)
        return
    bar = _Bar(sizes) if progress else None
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
    client: Any, pieces: Iterable[Any], sizes: list[int], finished: Callable[[int], None], progress: bool
) -> None:
    """Batches that keep all workers busy without handing the scheduler years of work at once."""
    from distributed import as_completed
    from distributed import progress as show  # it blocks in a terminal, and gives a widget in a notebook

    queue, start = iter(pieces), 0
    while start < len(sizes):
        want, stop, blocks = 4 * max(1, sum(client.nthreads().values())), start, 0
        while stop < len(sizes) and blocks < want:
            blocks += sizes[stop]
            stop += 1
        futures = client.compute(list(islice(queue, stop - start)))
        numbers = {future.key: number for number, future in enumerate(futures, start)}
        if progress:
            widget = show(futures)  # type: ignore[no-untyped-call]
            if widget is not None:
                from IPython.display import display

                display(widget)  # type: ignore[no-untyped-call]
        for future in as_completed(futures):  # type: ignore[no-untyped-call]
            future.result()
            finished(numbers[future.key])
        start = stop


class _Bar(ProgressBar):
    """Dask's bar over several computations: one line, from 0 to 100 % of all of them."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes, self._number, self._began = sizes, 0, default_timer()

    def _draw_bar(self, frac: float, elapsed: float) -> None:
        before = sum(self._sizes[: self._number])
        whole = (before + frac * self._sizes[self._number]) / sum(self._sizes)
        super()._draw_bar(whole, default_timer() - self._began)  # type: ignore[no-untyped-call]

    def _finish(self, dsk: Any, state: Any, errored: bool) -> None:
        out, last = self._file, self._number == len(self._sizes) - 1
        if not (last or errored):
            self._file = None  # the line ends only with the last piece
        super()._finish(dsk, state, errored)  # type: ignore[no-untyped-call]
        self._file = out
        self._number += 1
