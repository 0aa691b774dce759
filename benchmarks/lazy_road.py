"""What the lazy road costs: python benchmarks/lazy_road.py [--size 2400] [--out FILE].

One run, ratios in it:

1. pixels per second of the lazy road (cube -> superresolve -> compute) against a bare loop over the same
   network and the same pixels, in turn, the median of `--repeat`; the loop's windows are the road's chunks,
   a half and a third of them, which suit some CPUs better: the fastest counts;
2. peak memory of a process that writes 1, 4 and 12 dates to Zarr;
3. tasks, and the time to build the graph, for 12 dates of a whole 10980 x 10980 tile.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import xarray as xr

from xsen2.bands import GRIDS, B
from xsen2.networks.cards import DEFAULT, GAIN, cards

DIMS = {10: ("y", "x"), 20: ("y_20m", "x_20m"), 60: ("y_60m", "x_60m")}


def cube(size: int, dates: int, chunk: int, grids: tuple[int, ...] = (10, 20, 60)) -> xr.Dataset:
    """A lazy cube of noise: chunks are made when they are read, as from a file."""
    variables = {}
    for gsd in grids:
        n, c = size * 10 // gsd, chunk * 10 // gsd
        coords = {d: s * (np.arange(n) + 0.5) * gsd for d, s in zip(DIMS[gsd], (-1, 1), strict=True)}
        coords["time"] = np.datetime64("2024-01-01", "ns") + np.arange(dates) * np.timedelta64(5, "D")
        for i, band in enumerate(GRIDS[gsd]):
            state = da.random.RandomState(1000 * gsd + i)
            data = state.randint(300, 5000, size=(dates, n, n), chunks=(1, c, c)).astype(np.uint16)
            variables[band] = xr.DataArray(data, coords, ("time", *DIMS[gsd]))
    return xr.Dataset(variables).rio.write_crs(32631)


def bare_loop(a: np.ndarray, b: np.ndarray, side: int) -> np.ndarray:
    """What a script would do: mirror the image, cut windows, run the network, paste."""
    import torch

    from xsen2.networks.inference import best_device, best_dtype, load

    card = next(c for c in cards()[DEFAULT] if c.ratio == 2)
    device = best_device()
    network = load(card, device, best_dtype(device))
    h = 2 * card.halo
    a = np.pad(a, ((0, 0), (h, h), (h, h)), mode="symmetric")
    b = np.pad(b, ((0, 0), (h // 2, h // 2), (h // 2, h // 2)), mode="symmetric")
    size = a.shape[1] - 2 * h
    out = np.empty((6, size, size), np.float32)
    with torch.inference_mode():
        for y in range(0, size, side):
            for x in range(0, size, side):
                ta = torch.from_numpy(a[None, :, y : y + side + 2 * h, x : x + side + 2 * h].astype(np.float32)) / GAIN
                tb = b[None, :, y // 2 : (y + side) // 2 + h, x // 2 : (x + side) // 2 + h]
                result = network(ta.to(device), (torch.from_numpy(tb.astype(np.float32)) / GAIN).to(device))
                out[:, y : y + side, x : x + side] = (result[0, :, h:-h, h:-h] * GAIN).cpu().numpy()
    return out


def speed(size: int, chunk: int, repeat: int) -> dict[str, float]:
    """Both in turn on the same pixels in memory; the results must agree."""
    ds = cube(size, 1, chunk, (10, 20)).isel(time=0, drop=True).compute()
    chunks = {d: chunk * 10 // g for g in (10, 20) for d in DIMS[g]}
    a, b = (np.stack([ds[n].values for n in GRIDS[g]]) for g in (10, 20))
    # The networks' regressions are of cells of 60 m: windows that begin elsewhere are other pixels.
    sides = [chunk // parts // 6 * 6 for parts in (1, 2, 3)]
    loops = {f"bare loop, windows of {side}": side for side in sides}
    times: dict[str, list[float]] = {name: [] for name in (*loops, "lazy road")}
    for _ in range(repeat):
        for name, side in loops.items():
            start = time.perf_counter()
            bare = bare_loop(a, b, side)
            times[name].append(time.perf_counter() - start)
        start = time.perf_counter()
        sr = ds.chunk(chunks).dsen2.superresolve(native=False).compute()
        times["lazy road"].append(time.perf_counter() - start)
    worst = max(float(np.abs(sr[n].values - bare[i]).max()) for i, n in enumerate(B))
    typical = {name: float(np.median(took)) for name, took in times.items()}
    rates = {f"{k}, 10 m pixels/s": round(size * size / v) for k, v in typical.items()}
    same_windows, fastest = typical[next(iter(loops))], min(typical[name] for name in loops)
    ratios = {
        "lazy / bare, same windows": round(typical["lazy road"] / same_windows, 3),
        "lazy / bare, fastest windows": round(typical["lazy road"] / fastest, 3),
    }
    return {**rates, **ratios, "largest difference, DN": worst}


def peak(dates: int, size: int, chunk: int) -> float:
    """Peak memory, MiB, of a fresh process that super-resolves and writes so many dates."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, __file__, "--write", f"{folder}/out.zarr", "--dates", str(dates)]
        run += ["--size", str(size), "--chunk", str(chunk)]
        out = subprocess.run(run, check=True, capture_output=True, text=True)
    return round(int(out.stdout.split()[-1]) / 1024, 1)


def graph(dates: int = 12) -> dict[str, float]:
    """A whole tile, 12 dates, all bands: time until the graph stands, and its tasks."""
    ds = cube(10980, dates, 1200)
    start = time.perf_counter()
    sr = ds.dsen2.superresolve()
    graph = dict(sr.__dask_graph__())
    seconds = time.perf_counter() - start
    blocks = [k for k in graph if str(k[0] if isinstance(k, tuple) else k).startswith(f"xsen2-{DEFAULT}-")]
    return {"build, s": round(seconds, 2), "tasks": len(graph), "of these, blocks through a network": len(blocks)}


def main() -> None:
    """Run all parts and print, or write, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2400)
    parser.add_argument("--chunk", type=int, default=1200)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--dates", type=int, default=1)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.write:
        cube(args.size, args.dates, args.chunk).dsen2.superresolve().dsen2.to_zarr(args.write, progress=False)
        # VmHWM, not getrusage: the latter starts at the peak of the process that started this one.
        print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
        return
    import torch

    from xsen2.networks.inference import best_device, best_dtype

    result = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}, {best_dtype(best_device())}",
        "scheduler": f"dask {dask.__version__}, threads",
        "speed": {"size": args.size, "chunk": args.chunk, **speed(args.size, args.chunk, args.repeat)},
        "graph, 12 dates of a tile": graph(),
        "peak memory, MiB, of 240 px in chunks of 120": {f"{n} dates": peak(n, 240, 120) for n in (1, 4, 12)},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
