"""What a busy machine does to the classical methods: python benchmarks/under_load.py [--size 1200] [--methods …].

One run, ratios in it. Every method makes all bands of a cube of `--size` x `--size` 10 m pixels, twelve bands,
in blocks of a quarter of that, on dask's threads: first on an idle machine, then while as many other processes as there
are cores multiply matrices, with threads of their own (`--load`); in turn, the median of `--repeat`. With a core for
every thread and nothing that waits, a second process that computes as much makes everything take twice as long. What
takes many times as long has threads that wait for each other.

Also the processor's time of the process itself, idle and loaded: threads that wait in a loop add to it.

`--quick` takes seconds and shows only that it runs. Writes `benchmarks/results/under_load.json` and `.md`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from machine import RESULTS, command, describe, head, table, write

import xsen2
from xsen2.bands import GRIDS, B, C
from xsen2.cube import DIMS

AIM = 3.0  # times as long beside a process that computes: its share of the cores, and half as much again


def cube(size: int) -> xr.Dataset:
    """Smooth fields and noise, uint16, in memory; four blocks."""
    rng = np.random.default_rng(0)
    variables = {}
    for gsd, bands in GRIDS.items():
        n = size * 10 // gsd
        y, x = (np.arange(n) + 0.5) * gsd, (np.arange(n) + 0.5) * gsd
        coords = {DIMS[gsd][0]: 5_000_040 - y, DIMS[gsd][1]: 6e5 + x}
        for i, band in enumerate(bands):
            field = 1500 + 900 * np.sin(y[:, None] / 470 + i) * np.cos(x / 610) + rng.normal(0, 100, (n, n))
            variables[band] = xr.DataArray(field.clip(1).astype(np.uint16), coords, DIMS[gsd])
    ds = xr.Dataset(variables).rio.write_crs(32631)
    half = size // 2 // 6 * 6
    return ds.chunk({dim: half * 10 // gsd for gsd, dims in DIMS.items() for dim in dims})


def busy(stop: Any) -> None:
    """Multiply matrices, with as many threads as the BLAS takes, until told to stop."""
    x = np.random.default_rng(0).random((1500, 1500))
    while not stop.is_set():
        x @ x


@contextmanager
def loaded(processes: int) -> Iterator[None]:
    """Other processes compute meanwhile."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    others = [context.Process(target=busy, args=(stop,), daemon=True) for _ in range(processes)]
    for other in others:
        other.start()
    time.sleep(2 if processes else 0)  # until they do
    try:
        yield
    finally:
        stop.set()
        for other in others:
            other.join(60)


def spent(ds: xr.Dataset, method: str, bands: Sequence[str]) -> tuple[float, float]:
    """Seconds on the clock, and of the processor in all threads of this process."""
    sr = ds.dsen2.superresolve(bands, method, native=False)
    clock, processor = time.perf_counter(), time.process_time()
    sr.compute(scheduler="threads")
    return time.perf_counter() - clock, time.process_time() - processor


def measure(ds: xr.Dataset, methods: Sequence[str], load: int, repeat: int) -> list[dict[str, Any]]:
    bands = [*B, *C]
    for method in methods:  # caches and imports
        spent(ds, method, bands)
    idle: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    full: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    for _ in range(repeat):
        for method in methods:
            idle[method].append(spent(ds, method, bands))
        with loaded(load):
            for method in methods:
                full[method].append(spent(ds, method, bands))
    rows = []
    for method in methods:
        (a, b), (c, d) = (np.median(times[method], axis=0).tolist() for times in (idle, full))
        rows.append(
            {
                "method": method,
                "idle, s": round(a, 2),
                "loaded, s": round(c, 2),
                "times as long": round(c / a, 2),
                "idle, s of processor": round(b, 2),
                "loaded, s of processor": round(d, 2),
                "times the processor": round(d / b, 2),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1200, help="10 m pixels along each side, a multiple of 12")
    parser.add_argument("--methods", nargs="*", help="by default every classical one")
    parser.add_argument("--load", type=int, default=1, help="processes that compute meanwhile")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small cube, two methods, once")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    machine = describe()
    kinds = xsen2.methods()["kind"]
    methods = args.methods or [name for name in kinds.index if kinds[name] == "classical"]
    if args.quick:
        args.size, args.repeat, methods = 120, 1, args.methods or ["bicubic", "supreme"]
    rows = measure(cube(args.size), methods, args.load, args.repeat)
    worst = max(rows, key=lambda row: row["times as long"])
    results = {
        "command": command(),
        "machine": machine,
        "size": args.size,
        "load": args.load,
        "threads": dask.system.CPU_COUNT,
        "median": statistics.median(row["times as long"] for row in rows),
        "methods": rows,
    }
    text = f"""{head("Classical methods on a busy machine", results)}
A cube of {args.size} x {args.size} 10 m pixels, twelve bands, all of 20 m and 60 m made, in four blocks on
{dask.system.CPU_COUNT} threads of dask. Loaded: {args.load} other process(es) multiply matrices with all cores.

{table(list(rows[0]), [list(row.values()) for row in rows])}

Most: `{worst["method"]}`, {worst["times as long"]} times as long; median {results["median"]:.2f}; aim: at most {AIM:g}.
"""
    write("under_load", results, text, args.out)
    return int(not args.quick and worst["times as long"] > AIM)


if __name__ == "__main__":
    sys.exit(main())
