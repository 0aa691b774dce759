"""A whole tile, six 20 m bands, in this process: python benchmarks/whole_tile.py [--size 10980] [--network NAME].

A lazy cube of a tile's size, its pixels made from the embedded sample by repetition, goes through `superresolve` into a
sink that throws the pixels away, with the dtype that the machine is fastest in. Times depend on the size only.
Writes `benchmarks/results/whole_tile.json`.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import torch
import xarray as xr

import xsen2
from xsen2.bands import A, B, grid_of
from xsen2.cube import DIMS
from xsen2.inference import best_device, best_dtype
from xsen2.networks import DEFAULT

RESULTS = Path(__file__).parent / "results"
CHUNK = 1830


def tile(size: int) -> xr.Dataset:
    """A cube of `size` x `size` 10 m pixels, lazily repeated from the sample."""
    small = xsen2.sample().isel(time=0).compute()
    variables = {}
    for band in (*A, *B):
        gsd = grid_of(band)
        n, chunk = size * 10 // gsd, CHUNK * 10 // gsd
        pixels = small[band].values

        def block(pixels: np.ndarray = pixels, block_info: Any = None) -> np.ndarray:
            where = block_info[None]["array-location"]
            rows, columns = (np.arange(*span) % len(pixels) for span in where)
            return pixels[np.ix_(rows, columns)]

        sizes = tuple(min(chunk, n - start) for start in range(0, n, chunk))
        data = da.map_blocks(block, chunks=(sizes, sizes), dtype=pixels.dtype, meta=np.empty((0, 0), pixels.dtype))
        centres = (np.arange(n) + 0.5) * gsd
        ydim, xdim = DIMS[gsd]
        variables[band] = xr.DataArray(data, {ydim: 5000040 - centres, xdim: 600000 + centres}, (ydim, xdim))
    return xr.Dataset(variables).rio.write_crs(32632)


class Nowhere:
    """A sink that takes every block and keeps none."""

    def __setitem__(self, key: object, value: np.ndarray) -> None:
        assert np.isfinite(value).all()


def main() -> None:
    """Time it and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10980)
    parser.add_argument("--network", default=DEFAULT)
    args = parser.parse_args()
    torch.set_num_threads(2)
    sr = tile(args.size).dsen2.superresolve(method=args.network, native=False)
    arrays = [sr[b].data for b in B]
    start = time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=2):
        da.store(arrays, [Nowhere()] * len(arrays), lock=False)
    seconds = time.perf_counter() - start
    device = best_device()
    found = {
        "network": args.network,
        "size": args.size,
        "seconds": round(seconds, 1),
        "pixels per second": round(args.size**2 / seconds),
        "dtype": str(best_dtype(device)).removeprefix("torch."),
        "device": str(device),
        "amx": bool(torch.cpu._is_amx_tile_supported()),
        "threads": torch.get_num_threads(),
        "peak memory, MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(found, indent=1))
    path = RESULTS / "whole_tile.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[f"{args.network}, {args.size}"] = found
    path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
