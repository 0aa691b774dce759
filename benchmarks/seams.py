"""Random shapes, chunks and nodata: chunked must equal one chunk. python benchmarks/seams.py [--cases 1000].

Every case draws an image of 1 to `--most` pixels of 60 m on each side, twice as many for classical methods and now and
then half as many more, so that halos are about as wide as images; chunks of random and uneven sizes, for every grid
apart; holes of nodata in some bands of most images, from one pixel to most of a band; dates or none; a method; whether
it is made consistent. It is super-resolved in these chunks and in one, networks in float32.
Both must be nodata in the same pixels, and nowhere more than 0.001 DN apart.

A failed case is written down with its number, which makes it again: `--first N --cases 1`. The exit status tells
whether there was one. Writes `benchmarks/results/seams.json` and `.md`; about three minutes on two cores with AMX.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from machine import RESULTS, command, describe, head, table, write

import xsen2.engine.halo
from xsen2.bands import GRIDS
from xsen2.cube import DIMS

AIM = 1e-3  # DN
xsen2.engine.halo.DEARER = math.inf  # blocks as thin as the chunks, in every process
PROCESSES = 2
# Default first: a quarter of the cases, the others share the rest.
METHODS = ("default", "bicubic", "regression", "bdsd", "pracs", "glp_hpm", "resr", "atprk")


def cube(rng: np.random.Generator, most: int) -> xr.Dataset:
    """A random image, in memory, in DN as reals are; NaN are its holes."""
    cells = rng.integers(1, most + 1, 2)
    if rng.random() < 0.1:
        cells[rng.integers(2)] += most // 2
    dates = int(rng.integers(1, 3)) if rng.random() < 0.15 else 0
    torn = 0.2 if rng.random() < 0.6 else 0.0  # share of the bands that have holes
    variables = {}
    waves = rng.uniform(200, 900, 2)  # m
    for gsd, bands in GRIDS.items():
        shape = tuple(int(n) * 60 // gsd for n in cells)
        y, x = (gsd * (np.arange(n) + 0.5) for n in shape)
        for i, band in enumerate(bands):
            smooth = 1500 + 900 * np.sin(y[:, None] / waves[0] + i) * np.cos(x / waves[1]) + 120 * i
            pixels = smooth + rng.normal(0, 150, (*([dates] if dates else []), *shape))
            pixels = pixels.clip(1, 16000).astype(np.float32)
            for _ in range(rng.integers(1, 4) if rng.random() < torn else 0):
                pixels[hole(rng, pixels.shape)] = np.nan
            coords: dict[str, Any] = {DIMS[gsd][0]: -y, DIMS[gsd][1]: x}
            if dates:
                coords["time"] = np.datetime64("2024-06-01", "ns") + np.arange(dates) * np.timedelta64(5, "D")
            variables[band] = xr.DataArray(pixels, coords, (*(("time",) if dates else ()), *DIMS[gsd]))
    return xr.Dataset(variables).rio.write_crs(32631)


def hole(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """A box: often small, at times most of the image."""
    out = []
    for n in shape:
        size = int(n * rng.random() ** 3) + 1
        start = int(rng.integers(0, n - size + 1))
        out.append(slice(start, start + size))
    return tuple(out)


def cut(rng: np.random.Generator, n: int, cell: int) -> tuple[int, ...]:
    """Sizes of chunks that make up `n`, every one at least a pixel; not too many."""
    most = max(1, n // max(1, cell))
    borders = rng.choice(np.arange(1, n), size=min(int(rng.integers(0, min(most, 4) + 1)), n - 1), replace=False)
    return tuple(np.diff([0, *sorted(borders.tolist()), n]).tolist())


def chunked(rng: np.random.Generator, ds: xr.Dataset) -> xr.Dataset:
    """In chunks that are random on every grid and axis."""
    return ds.chunk({dim: cut(rng, ds.sizes[dim], 60 // gsd) for gsd, dims in DIMS.items() for dim in dims})


def case(number: int, most: int) -> dict[str, Any]:
    """One case, drawn from its number alone."""
    rng = np.random.default_rng(number)
    method = METHODS[0] if rng.random() < 1 / 4 else METHODS[1 + number % (len(METHODS) - 1)]
    ds = cube(rng, most if method == METHODS[0] else 2 * most)
    options: dict[str, Any] = {"method": method, "dtype": "float32"}
    if rng.random() < 0.15:
        options["consistency"] = True
    expected = ds.chunk().dsen2.superresolve(**options).compute()
    parts = chunked(rng, ds)
    result = parts.dsen2.superresolve(**options).compute()
    worst, same, compared = 0.0, True, 0
    for band in expected.data_vars:
        x, y = expected[band].values, result[band].values
        same &= bool(np.array_equal(np.isnan(x), np.isnan(y)))
        seen = np.isfinite(x) & np.isfinite(y)
        compared += int(seen.sum()) if band not in GRIDS[10] else 0
        worst = max(worst, float(np.abs(x[seen] - y[seen]).max(initial=0)))
    return {
        "number": number,
        "method": method,
        "shape": tuple(ds["B02"].shape),
        "chunks": int(np.prod(parts["B02"].data.numblocks)),
        "holes": bool(any(np.isnan(v.values).any() for v in ds.data_vars.values())),
        "consistency": bool(options.get("consistency")),
        "compared": compared,
        "difference, DN": worst,
        "same nodata": same,
        "fails": not same or not worst <= AIM,
    }


def markdown(run: dict[str, Any]) -> str:
    """A row for each method, and the failures."""
    rows = [
        [
            m,
            row["cases"],
            row["in chunks"],
            row["with holes"],
            row["consistent"],
            row["compared"],
            f"{row['worst, DN']:.2g}",
            row["fail"],
        ]
        for m, row in run["methods"].items()
    ]
    columns = [
        "method",
        "cases",
        "more than one chunk",
        "with nodata",
        "made consistent",
        "pixels compared",
        "worst difference, DN",
        "fail",
    ]
    text = f"""
{run["cases"]} cases of random shape, chunks and nodata against one chunk, float32, in {run["seconds"]:.0f} s.
The worst difference is {run["worst, DN"]:.2g} DN, {run["fail"]} are more than {AIM} DN apart or have other nodata.
"""
    lines = [head("Seams", run) + text, table(columns, rows)]
    if run["failures"]:
        keys = list(run["failures"][0])
        lines += ["", "## Failures", "", table(keys, [list(row.values()) for row in run["failures"]])]
    return "\n".join(lines)


def main() -> int:
    """Run all cases and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument(
        "--most", type=int, default=10, help="60 m pixels on each side, twice as many for classical methods"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    results: dict[str, Any] = {"command": command(), "machine": describe(), "cases": args.cases}
    start = time.perf_counter()
    cases = []
    # Small cases leave no work for two threads, but a core each has enough.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, spawn, torch.set_num_threads, (1,)) as pool:
        for result in pool.map(case, range(args.first, args.first + args.cases), [args.most] * args.cases, chunksize=4):
            cases.append(result)
            if result["fails"]:
                print(result, flush=True)
    results["seconds"] = round(time.perf_counter() - start, 1)
    results["worst, DN"] = max(result["difference, DN"] for result in cases)
    results["fail"] = sum(result["fails"] for result in cases)
    results["methods"] = {}
    for method in METHODS:
        selected = [result for result in cases if result["method"] == method]
        results["methods"][method] = {
            "cases": len(selected),
            "in chunks": sum(result["chunks"] > 1 for result in selected),
            "with holes": sum(result["holes"] for result in selected),
            "consistent": sum(result["consistency"] for result in selected),
            "compared": sum(result["compared"] for result in selected),
            "worst, DN": max((result["difference, DN"] for result in selected), default=0.0),
            "fail": sum(result["fails"] for result in selected),
        }
    results["failures"] = [result for result in cases if result["fails"]]
    write("seams", results, markdown(results), args.out)
    return int(results["fail"] > 0)


if __name__ == "__main__":
    sys.exit(main())
