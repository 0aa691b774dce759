"""What grows with the number of dates, and what must not: python benchmarks/memory.py [--size 720].

Three parts, for 1, 4 and 16 dates:

1. a fresh process super-resolves and writes them to Zarr with threads: its peak memory and open files;
2. the same in a worker process of a cluster: peak memory and open files of the worker, and the most tasks that its
   scheduler has at a time;
3. whole tiles, with the computing left out: seconds and tasks of the graph, of the largest region, which is what Dask
   is given at a time, and seconds per region for all but the pixels: cutting, optimising, locks and markers.

Regions are cut as those of a whole tile are, two to a date. Small dates of one region are in lazy_road.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
from lazy_road import cube, graph
from machine import command, describe, head, peak_memory, table, write

from xsen2.sinks import regions

DATES = (1, 4, 16)


@contextmanager
def most(value: Callable[[], int]) -> Iterator[list[int]]:
    """The largest value seen while the context is open, in a list of one."""
    largest, over = [value()], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            largest[0] = max(largest[0], value())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield largest
    finally:
        over.set()
        thread.join()


def open_files() -> int:
    """Of this process."""
    return len(os.listdir("/proc/self/fd"))


def writing(dates: int, size: int, chunk: int) -> dict[str, float]:
    """Super-resolve and write so many dates, in this process or on the active cluster."""
    regions.REGION = size * size // 2
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cube(size, dates, chunk).dsen2.superresolve().dsen2.to_zarr(f"{folder}/out.zarr", progress=False)
        return {"seconds": round(time.perf_counter() - start, 1)}


def threads(dates: int, size: int, chunk: int) -> dict[str, float]:
    """In this process."""
    with most(open_files) as files:
        timing = writing(dates, size, chunk)
    return {"peak memory, MiB": peak_memory(), "open files": files[0], **timing}


class _Watch:
    """Counts a worker's open files."""

    def setup(self, worker: Any) -> None:
        self._context = most(open_files)
        worker.most_files = self._context.__enter__()

    def teardown(self, worker: Any) -> None:
        self._context.__exit__(None, None, None)


def cluster(dates: int, size: int, chunk: int) -> dict[str, float]:
    """In the one worker process of a cluster, whose scheduler is in this process."""
    from distributed import Client, LocalCluster, WorkerPlugin

    class Watch(_Watch, WorkerPlugin):
        name = "watch"

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as local,
        Client(local) as client,
    ):
        client.register_plugin(Watch())
        with most(lambda: len(local.scheduler.tasks)) as tasks:
            timing = writing(dates, size, chunk)
        memory = client.run(peak_memory)
        files = client.run(lambda dask_worker: dask_worker.most_files[0])
    return {
        "peak memory, MiB": next(iter(memory.values())),
        "open files": next(iter(files.values())),
        "client and scheduler, MiB": peak_memory(),
        "tasks at a time": tasks[0],
        **timing,
    }


def overhead(dates: int, size: int, chunk: int) -> dict[str, float]:
    """All but computing, for tiles of 10980 x 10980 whatever `size` is."""
    tasks: list[int] = []

    def count(dsk: Any, keys: Any, **kwargs: Any) -> list[None]:
        tasks.append(len(dsk.__dask_graph__() if hasattr(dsk, "__dask_graph__") else dsk))
        return [None] * len(keys)

    built = graph(dates)
    with tempfile.TemporaryDirectory() as folder:
        sr = cube(10980, dates, 1200).dsen2.superresolve()
        start = time.perf_counter()
        with dask.config.set(scheduler=count):
            sr.dsen2.to_zarr(f"{folder}/out.zarr", progress=False)
        seconds = time.perf_counter() - start
    return {
        "graph, s": built["build, s"],
        "tasks": built["tasks"],
        "regions": len(tasks),
        "tasks of a region": max(tasks),
        "seconds per region": round(seconds / len(tasks), 3),
        "peak memory, MiB": peak_memory(),
    }


PARTS = {"threads": threads, "cluster": cluster, "overhead": overhead}


def apart(part: str, dates: int, size: int, chunk: int) -> dict[str, float]:
    """One part for one number of dates, in a fresh process."""
    numbers = ["--dates", str(dates), "--size", str(size), "--chunk", str(chunk)]
    done = subprocess.run(
        [sys.executable, __file__, "--part", part, *numbers], check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def markdown(run: dict[str, Any]) -> str:
    """The tables."""
    titles = {
        "threads": "One process, two threads",
        "cluster": "A worker process of a cluster, two threads",
        "overhead": "Whole tiles, all but the computing",
    }
    lines = [
        head("What grows with the number of dates", run),
        f"{run['size']} x {run['size']} pixels of 10 m, all bands, in chunks of {run['chunk']}; two regions to a "
        "date, as of a whole tile. Every line is a process of its own. Last, dates of 10980 x 10980 in chunks of 1200.",
    ]
    for part, title in titles.items():
        rows = run[part]
        columns = list(next(iter(rows.values())))
        lines += ["", f"## {title}", "", table(["dates", *columns], [[n, *row.values()] for n, row in rows.items()])]
        if part != "overhead":
            first, *_, last = (row["peak memory, MiB"] for row in rows.values())
            lines += ["", f"Peak memory, {DATES[-1]} dates / {DATES[0]}: {last / first:.2f}."]
    return "\n".join(lines)


def main() -> None:
    """Run all parts and write the results, or one part for one number of dates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=720)
    parser.add_argument("--chunk", type=int, default=360)
    parser.add_argument("--dates", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args.dates, args.size, args.chunk)))
        return
    results: dict[str, Any] = {"command": command(), "machine": describe(), "size": args.size, "chunk": args.chunk}
    for part in PARTS:
        results[part] = {str(dates): apart(part, dates, args.size, args.chunk) for dates in DATES}
        print(part, results[part], file=sys.stderr)
    write("memory", results, markdown(results))


if __name__ == "__main__":
    main()
