"""A whole tile in this process: python benchmarks/whole_tile.py [--size 10980] [--network NAME] [--parts six all].

`six`: a lazy cube of a tile's size, its pixels made from the embedded sample by repetition, goes through `superresolve`
into a sink that throws the six 20 m bands away.

`all`: a Zarr store of the same size becomes a Zarr store of all twelve bands. The whole road is timed first. Then its
parts, each alone and on as many threads: every chunk read and thrown away; the same cube, held in memory,
super-resolved and thrown away; blocks of the result, held in memory, written to a store. The parts of the whole road
overlap, so it may take less than their sum.

Computed in the dtype that the machine is fastest in. Compute depends on the size only, reading and writing on how well
pixels compress, so noise of up to 8 DN is added to what is repeated. About ten minutes on two cores with AMX.
Writes `benchmarks/results/whole_tile.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import torch
import xarray as xr
from machine import RESULTS, command, describe, head, peak_memory, table, write

import xsen2
from xsen2.bands import GRIDS, A, B, grid_of
from xsen2.cube import DIMS
from xsen2.networks.cards import DEFAULT

CHUNK = 1830
THREADS = 2


def tile(
    size: int | tuple[int, int], chunk: int = CHUNK, bands: tuple[str, ...] = (*A, *B), noise: int = 0
) -> xr.Dataset:
    """A cube of `size` 10 m pixels, lazily repeated from the sample, with up to `noise` DN added."""
    small = xsen2.sample().isel(time=0).compute()
    shape = (size, size) if isinstance(size, int) else size
    variables = {}
    for number, band in enumerate(bands):
        gsd = grid_of(band)
        pixels = small[band].values

        def block(pixels: np.ndarray = pixels, number: int = number, block_info: Any = None) -> np.ndarray:
            location = block_info[None]["array-location"]
            rows, columns = (np.arange(*span) % len(pixels) for span in location)
            values = pixels[np.ix_(rows, columns)]
            if noise:
                seed = [number, *(span[0] for span in location)]
                values = values + np.random.default_rng(seed).integers(0, noise, values.shape).astype(np.float32)
            return values

        sides = [n * 10 // gsd for n in shape]
        step = chunk * 10 // gsd
        sizes = tuple(tuple(min(step, n - start) for start in range(0, n, step)) for n in sides)
        data = da.map_blocks(block, chunks=sizes, dtype=pixels.dtype, meta=np.empty((0, 0), pixels.dtype))
        y, x = ((np.arange(n) + 0.5) * gsd for n in sides)
        ydim, xdim = DIMS[gsd]
        variables[band] = xr.DataArray(data, {ydim: 5000040 - y, xdim: 600000 + x}, (ydim, xdim))
    return xr.Dataset(variables).rio.write_crs(32632)


class Nowhere:
    """A sink that takes every block and keeps none."""

    def __setitem__(self, key: object, value: np.ndarray) -> None:
        assert np.isfinite(value).all()


def seconds(work: Callable[[], object]) -> float:
    """That `work` takes on two threads."""
    start = time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        work()
    return time.perf_counter() - start


def drop(ds: xr.Dataset) -> None:
    """Compute every band, keep nothing."""
    arrays = [v.data for v in ds.data_vars.values()]
    da.store(arrays, [Nowhere()] * len(arrays), lock=False)


def six(size: int, network: str) -> dict[str, Any]:
    """From pixels that are made on the way into nothing."""
    sr = tile(size).dsen2.superresolve(method=network, native=False)
    return {"seconds": round(seconds(lambda: drop(sr)), 1)}


def all_bands(size: int, network: str, folder: Path) -> dict[str, Any]:
    """From a store into a store, and the parts."""
    bands = tuple(band for grid in GRIDS.values() for band in grid)
    seconds(lambda: tile(size, bands=bands, noise=8).dsen2.to_zarr(folder / "in", dtype="uint16", progress=False))
    cube = xr.open_zarr(folder / "in", decode_coords="all", chunks={})

    def road() -> None:
        cube.dsen2.superresolve(method=network).dsen2.to_zarr(folder / "out", progress=False)

    results = {"seconds": round(seconds(road), 1), "peak memory, MiB": peak_memory()}
    results["read, s"] = round(seconds(lambda: drop(cube)), 1)
    results["compute, s"] = round(compute(cube.persist(scheduler="threads"), network), 1)
    ready = repeated(xr.open_zarr(folder / "out", decode_coords="all", chunks={}))
    results["write, s"] = round(seconds(lambda: ready.dsen2.to_zarr(folder / "again", progress=False)), 1)
    for part in ("in", "out"):
        results[f"{part}, MiB on disk"] = round(sum(f.stat().st_size for f in (folder / part).rglob("*")) / 2**20)
    return results


def compute(held: xr.Dataset, network: str) -> float:
    """Seconds from pixels in memory into nothing."""
    return seconds(lambda: drop(held.dsen2.superresolve(method=network)))


def repeated(out: xr.Dataset) -> xr.Dataset:
    """The size of `out`, its first row of chunks held in memory and repeated: all twelve bands would be 6 GB."""
    rows = out["B02"].chunks[0]
    first = out.isel(y=slice(0, rows[0])).persist(scheduler="threads")
    data = {}
    for band in out.data_vars:
        pieces = [first[band].data[:n] for n in rows]
        data[band] = out[band].copy(data=da.concatenate(pieces))
    return out.assign(data)


def markdown(kept: dict[str, Any], latest: dict[str, Any]) -> str:
    """All that has been measured, also in other runs."""
    columns = ["network", "size", "bands", "s", "10^6 pixels/s", "read", "compute", "write", "peak MiB", "dtype"]
    rows = []
    for row in kept.values():
        parts = [row.get(f"{part}, s", "–") for part in ("read", "compute", "write")]
        rate = round(row["pixels per second"] / 1e6, 2)
        cells = [row["network"], row["size"], row.get("bands", 6), row["seconds"], rate, *parts]
        rows.append([*cells, row["peak memory, MiB"], row["dtype"]])
    text = """
Six bands: from pixels made on the way into a sink that throws them away. Twelve: from a Zarr store into a Zarr store;
read, compute and write are seconds that these take alone, with all the rest in memory or left out. They overlap
when together.
"""
    return head("A whole tile", latest) + text + "\n" + table(columns, rows)


def main() -> None:
    """Time it and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10980, help="rows and columns of 10 m pixels, a multiple of 6")
    parser.add_argument("--network", default=DEFAULT)
    parser.add_argument("--parts", nargs="+", choices=["six", "all"], default=["six", "all"])
    parser.add_argument("--folder", type=Path, help="where the stores of `all` are made: 4 GB for a tile")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    machine = describe()
    path = args.out / "whole_tile.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    for part in args.parts:
        if part == "six":
            results = six(args.size, args.network)
            key = f"{args.network}, {args.size}"
        else:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                results = all_bands(args.size, args.network, Path(folder))
            key = f"{args.network}, {args.size}, all bands"
        kept[key] = {
            "network": args.network,
            "size": args.size,
            "bands": 6 if part == "six" else 12,
            **results,
            "pixels per second": round(args.size**2 / results["seconds"]),
            "peak memory, MiB": results.get("peak memory, MiB", peak_memory()),
            **{k: machine[k] for k in ("dtype", "device")},
            "amx": machine["AMX"],
            "threads": torch.get_num_threads(),
            "machine": machine,
            "command": command(),
        }
        write("whole_tile", kept, markdown(kept, kept[key]), args.out)


if __name__ == "__main__":
    main()
