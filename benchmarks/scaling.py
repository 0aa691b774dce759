"""Throughput against workers and chunks, Zarr in and Zarr out: python benchmarks/scaling.py.

For each chunk size, in turn: one worker process on one core, two on a core each, and this process with two threads and
no cluster. Workers are those of a `distributed.LocalCluster`, as it sets them up, a thread each, pinned to their cores;
both clusters stand all the time, one of them idle. Six 20 m bands of some whole chunks, so the image differs in
size from chunk to chunk, not from worker to worker. The store lies in memory where there is `/dev/shm`, so
that this measures the road and not the disk.

About nine minutes on two cores with AMX. Writes `benchmarks/results/scaling.json`, `.md` and `.png`.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask
import torch
import xarray as xr
from distributed import Client, LocalCluster
from machine import RESULTS, command, describe, head, table, write
from whole_tile import THREADS, tile

from xsen2.bands import A, B

CHUNKS = (600, 1200, 1800, 2400, 3660)
AIM = 1.8
WAYS = ("1 worker", "2 workers", "threads")
LABELS = {"1 worker": "1 worker, 1 core", "2 workers": "2 workers, 1 core each", "threads": "1 process, 2 threads"}


def shape_of(chunk: int, megapixels: float) -> tuple[int, int]:
    """Rows and columns: about so many pixels, in an even number of chunks, and no less than four blocks."""
    if chunk > 2400:  # computed in parts
        return chunk, chunk
    count = max(4, round(megapixels * 1e6 / chunk**2 / 2) * 2)
    return 2 * chunk, count // 2 * chunk


def pin(core: int) -> int:
    """Put every thread of this process on one core; how many threads torch would use."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})
    return torch.get_num_threads()


def cluster(workers: int) -> Client:
    """That many processes, each on a core of its own."""
    local = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        memory_limit=0,
        silence_logs=logging.ERROR,
    )
    client = Client(local, set_as_default=False)
    cores = sorted(os.sched_getaffinity(0))
    for core, worker in zip(cores, client.scheduler_info()["workers"], strict=False):
        client.run(pin, core, workers=[worker])
    return client


def once(folder: Path, client: Client | None) -> float:
    """Seconds from store to store."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    with ExitStack() as stack:
        if client is None:
            stack.enter_context(dask.config.set(scheduler="threads", num_workers=THREADS))
        else:
            stack.enter_context(client.as_current())
            stack.enter_context(dask.config.set(scheduler=client))
        start = time.perf_counter()
        cube = xr.open_zarr(folder / "in", decode_coords="all", chunks={})
        cube.dsen2.superresolve(native=False).dsen2.to_zarr(out, progress=False)
        return time.perf_counter() - start


def measure(
    chunk: int, megapixels: float, repeat: int, place: str | None, clients: dict[str, Client | None]
) -> dict[str, Any]:
    """All ways in turn, the best of each."""
    shape = shape_of(chunk, megapixels)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        source = tile(shape, chunk=chunk, bands=(*A, *B), noise=8)
        source.dsen2.to_zarr(f"{folder}/in", dtype="uint16", chunks=chunk, progress=False)
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(repeat):
            for way in WAYS:
                times[way].append(once(Path(folder), clients[way]))
    best = {way: min(took) for way, took in times.items()}
    return {
        "shape": shape,
        "seconds": {way: round(took, 2) for way, took in best.items()},
        "pixels per second": {way: round(shape[0] * shape[1] / took) for way, took in best.items()},
        "2 workers / 1": round(best["1 worker"] / best["2 workers"], 2),
    }


def plot(results: dict[str, Any], file: Path) -> None:
    """Throughput against chunk size, and for each chunk size against workers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chunks = [int(c) for c in results["chunks"]]
    rates = {way: [entry["pixels per second"][way] / 1e6 for entry in results["chunks"].values()] for way in WAYS}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for way, colour, marker in zip(WAYS, ("#4477aa", "#ee6677", "#228833"), "os^", strict=True):
        left.plot(chunks, rates[way], color=colour, marker=marker, label=LABELS[way])
    left.set_xticks(chunks, [str(c) for c in chunks])
    left.set_xlabel("chunk, 10 m pixels on each side")
    left.set_ylabel("10⁶ pixels of 10 m per second")
    left.legend(frameon=False)
    shades = plt.get_cmap("viridis").resampled(len(chunks) + 1)
    for i, chunk in enumerate(chunks):
        right.plot([1, 2], [rates[way][i] for way in WAYS[:2]], color=shades(i), marker="o", label=str(chunk))
    steepest = max(rates["1 worker"])
    right.plot([1, 2], [steepest, 2 * steepest], color="#999999", linestyle=":", label="twice the best of one")
    right.set_xticks([1, 2])
    right.set_xlim(0.8, 2.2)
    right.set_xlabel("worker processes, one core each")
    right.legend(title="chunk", frameon=False)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Six 20 m bands, Zarr to Zarr", fontsize=11)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def markdown(run: dict[str, Any]) -> str:
    """A row for each chunk size."""
    rows = []
    for chunk, entry in run["chunks"].items():
        speeds = [round(entry["pixels per second"][way] / 1e6, 2) for way in WAYS]
        rows.append([chunk, " x ".join(map(str, entry["shape"])), *speeds, entry["2 workers / 1"]])
    columns = ["chunk", "image", *(LABELS[way] for way in WAYS), "2 workers / 1"]
    text = f"""
10^6 pixels of 10 m per second, six 20 m bands, Zarr to Zarr in {run["stores"]}, best of {run["repeat"]} in turn.
torch threads in a worker: {", ".join(map(str, run["torch threads in workers"]))}. Aim: 2 workers at least {AIM} times
one. Chunks over 2400 are computed in parts.
"""
    picture = "\n![Throughput against chunks and workers](scaling.png)\n"
    return head("Workers and chunks", run) + text + "\n" + table(columns, rows) + "\n" + picture


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=list(CHUNKS), help="multiples of 6")
    parser.add_argument(
        "--megapixels", type=float, default=8, help="of 10 m in an image, about; more where chunks are large"
    )
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--folder", help="where the stores are made; default /dev/shm if it is there")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if any(chunk % 6 for chunk in args.chunks):
        parser.error("--chunks must be multiples of 6")
    place = args.folder or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    torch.set_num_threads(THREADS)
    logging.disable(logging.WARNING)  # clusters tell how they close
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"command": command(), "machine": describe(), "repeat": args.repeat}
    results["stores"] = "memory (tmpfs)" if place == "/dev/shm" else "files"
    clients: dict[str, Client | None] = {"1 worker": cluster(1), "2 workers": cluster(2), "threads": None}
    try:
        results["torch threads in workers"] = [
            n for c in clients.values() if c for n in c.run(torch.get_num_threads).values()
        ]
        measure(600, 1.5, 1, place, clients)  # every process loads the network
        results["chunks"] = {}
        for chunk in args.chunks:
            results["chunks"][str(chunk)] = entry = measure(chunk, args.megapixels, args.repeat, place, clients)
            print(chunk, entry, flush=True)
    finally:
        for client in clients.values():
            if client:
                client.cluster.close()
                client.close()
    plot(results, args.out / "scaling.png")
    write("scaling", results, markdown(results), args.out)


if __name__ == "__main__":
    main()
