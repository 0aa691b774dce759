"""What one GPU does: python benchmarks/gpu.py [--size 10980]. Without a CUDA device it says so and ends.

In one process, with the default network and a whole tile of all eight bands that are not 10 m:

1. large bf16 matmuls, the best, before and after all else: the ceiling;
2. device time by dtype: the tile's blocks, already on the device, through both networks in the patches that the road
   takes there; and the same from arrays in memory, two threads handing in blocks, pinned copies to and fro included;
3. the same blocks with cuDNN's benchmark mode, with `torch.compile` and with CUDA graphs, none of which the road uses:
   one that is faster here is worth taking up;
4. end to end: a Zarr store of the tile becomes a Zarr store of all twelve bands, and reading alone.

FLOP are counted by formula, a multiplication and an addition are two, convolutions only. *Useful* are those of a
network that sees the image at once, *run* are those of the patches, halos included. Writes
`benchmarks/results/gpu.json` and `.md`. ``--device cpu --size 360`` tries the script itself where there is no GPU, and
writes nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import torch
import xarray as xr
from machine import RESULTS, command, describe, head, table, write
from torch.utils.flop_counter import FlopCounterMode
from whole_tile import drop, tile

from xsen2.bands import GRIDS
from xsen2.networks import devices, inference
from xsen2.networks.cards import DEFAULT, GAIN, Card, cards

CHUNK = 1830
DTYPES = ("bfloat16", "float16", "float32")
AIMS = {"device time, s": 3.0, "of the matmul": 0.5}

Network = Callable[..., torch.Tensor]


def seconds(work: Callable[[], object], device: torch.device, repeat: int = 3) -> float:
    """The least of some runs after one that warms up; the device has finished before the clock stops."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def matmul(device: torch.device) -> float:
    """TFLOP/s of the best of some large ones in bf16."""
    rates = []
    for side in (4096, 8192, 16384) if device.type == "cuda" else (1024,):
        a, b = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
        rates.append(2 * side**3 / seconds(lambda a=a, b=b: a @ b, device, 10))
    return max(rates) / 1e12


def flop(card: Card) -> float:
    """Per 10 m pixel that goes in."""
    side = 48
    network = inference.load(card, torch.device("cpu"), torch.float32)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(*(torch.rand(1, *shape) for shape in shapes(card, side, side)))
    return counter.get_total_flops() / side**2


def shapes(card: Card, height: int, width: int) -> list[tuple[int, int, int]]:
    """Of the inputs, by grid."""
    bands = [(4, 1), (6, 2)] + ([(2, 6)] if card.ratio == 6 else [])
    return [(n, height // f, width // f) for n, f in bands]


def block(card: Card, side: int) -> list[np.ndarray]:
    """A block of `side` pixels with its halo, of noise: time does not depend on what is seen."""
    rng = np.random.default_rng(0)
    padded = -(-(side + 2 * card.halo * card.ratio) // 6) * 6
    arrays = [rng.integers(300, 5000, shape).astype(np.float32) for shape in shapes(card, padded, padded)]
    return [*arrays, np.empty((0, padded // 6, padded // 6), np.float32)][:3]


class Resident:
    """A block on the device, cut into the patches that the road cuts it into there."""

    def __init__(self, card: Card, device: torch.device, dtype: str, size: int) -> None:
        self.kind = devices.best_dtype(device, dtype)
        arrays, halo = block(card, size), card.halo * card.ratio
        inference.infer(card, *arrays, device=str(device), dtype=dtype)  # memory may run out: then it knows
        side = inference._side(inference.load(card, device, self.kind))
        room = inference._room((card.sha256, str(device), str(self.kind)), device, self.kind, halo, side)
        corners, self.size, self.many = inference._patches(arrays[0].shape[1:], halo, card.ratio, room)
        self.pixels = len(corners) * self.size[0] * self.size[1]
        self.batches = []
        factors = (1, 2, 6)[: 2 if card.ratio == 2 else 3]
        layers = [(torch.from_numpy(x).to(device) / GAIN, f) for x, f in zip(arrays, factors, strict=False)]
        height, width = self.size
        for i in range(0, len(corners), self.many):
            cuts = [
                [x[:, y // f : (y + height) // f, z // f : (z + width) // f] for y, z in corners[i : i + self.many]]
                for x, f in layers
            ]
            self.batches.append([torch.stack(cut) for cut in cuts])

    def through(self, network: Network) -> None:
        """All patches."""
        with torch.inference_mode():
            for batch in self.batches:
                network(*batch)


def by_dtype(dtype: str, size: int, device: torch.device, peak: float) -> dict[str, Any]:
    """Device time of a tile, and with copies, by both networks."""
    side = min(CHUNK, size)
    count = round((size / side) ** 2)
    share = (size / side) ** 2 / count  # an edge that is no whole block counts by its pixels
    alone = run = useful = 0.0
    patches = {}
    work = []
    for card in cards()[DEFAULT]:
        resident = Resident(card, device, dtype, side)
        network = inference.load(card, device, resident.kind)
        with devices.turn(device, resident.kind):
            alone += share * count * seconds(lambda r=resident, n=network: r.through(n), device)
        run += share * count * resident.pixels * flop(card)
        useful += size**2 * flop(card)
        patches[card.name] = f"{len(resident.batches[0][0])} x {resident.size[0]} x {resident.size[1]}"
        work += [(card, block(card, side))] * count

    def copies() -> None:
        with ThreadPoolExecutor(devices.STREAMS) as pool:
            for _ in pool.map(lambda w: inference.infer(w[0], *w[1], device=str(device), dtype=dtype), work):
                pass

    both = share * seconds(copies, device, 1)
    return {
        "device time, s": round(alone, 3),
        "with copies, s": round(both, 3),
        "10^6 pixels/s": round(size**2 / both / 1e6, 2),
        "useful TFLOP/s": round(useful / alone / 1e12, 2),
        "run TFLOP/s": round(run / alone / 1e12, 2),
        "of the matmul": round(run / alone / 1e12 / peak, 3),
        "patches": patches,
    }


def variants(size: int, device: torch.device) -> dict[str, Any]:
    """Seconds for a block of the 20 m network in bf16, in the ways that torch has to be faster."""
    card = next(card for card in cards()[DEFAULT] if card.ratio == 2)
    resident = Resident(card, device, "bfloat16", min(CHUNK, size))
    network = inference.load(card, device, torch.bfloat16)
    times: dict[str, Any] = {"as the road does": round(seconds(lambda: resident.through(network), device), 5)}
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        times["cuDNN benchmark"] = round(seconds(lambda: resident.through(network), device), 5)
    finally:
        torch.backends.cudnn.benchmark = before
    torch._dynamo.config.recompile_limit = 64  # one for each shape of a convolution
    for name, mode in {"torch.compile": "default", "CUDA graphs": "reduce-overhead"}.items():
        try:
            compiled = torch.compile(network, mode=mode)
            times[name] = round(seconds(lambda compiled=compiled: resident.through(compiled), device), 5)
        except Exception as error:
            times[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    return times


def end_to_end(size: int, device: torch.device, folder: Path) -> dict[str, Any]:
    """Seconds from a store into a store, with as many threads as there are cores."""
    threads = len(os.sched_getaffinity(0))
    bands = tuple(band for grid in GRIDS.values() for band in grid)
    with dask.config.set(scheduler="threads", num_workers=threads):
        tile(size, bands=bands, noise=8).dsen2.to_zarr(folder / "in", dtype="uint16", progress=False)
        cube = xr.open_zarr(folder / "in", decode_coords="all", chunks={})
        start = time.perf_counter()
        cube.dsen2.superresolve(device=str(device)).dsen2.to_zarr(folder / "out", progress=False)
        total = time.perf_counter() - start
        start = time.perf_counter()
        drop(cube)
        read = time.perf_counter() - start
    return {"seconds": round(total, 2), "read alone, s": round(read, 2), "threads": threads}


def markdown(results: dict[str, Any]) -> str:
    """The page."""
    names = [name for name in next(iter(results["dtypes"].values())) if name != "patches"]
    rows = [[dtype, *(row[name] for name in names)] for dtype, row in results["dtypes"].items()]
    first = next(iter(results["dtypes"].values()))
    end = results["end to end"]
    parts = [
        head(f"One GPU: {results['machine']['device']}", results),
        f"A tile of {results['size']} x {results['size']} pixels, all eight bands that are not 10 m, method "
        f"`{results['network']}`, blocks of {CHUNK}. Large bf16 matmul: {results['matmul, TFLOP/s']} TFLOP/s.\n",
        table(["dtype", *names], rows),
        f"\nAims: device time at most {AIMS['device time, s']} s, of the matmul {AIMS['of the matmul']} or more. "
        f"Patches of bf16: {', '.join(f'{name} {patch}' for name, patch in first['patches'].items())}.\n",
        "Other ways, one block of the 20 m network in bf16, s:\n",
        table(["way", "s"], results["variants, s"].items()),
        f"\nFrom Zarr to twelve bands in Zarr: {end['seconds']} s with {end['threads']} threads; "
        f"reading alone takes {end['read alone, s']} s.",
    ]
    return "\n".join(parts)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10980)
    parser.add_argument("--device", default="cuda", help="cpu tries the script, and writes nothing")
    parser.add_argument("--folder", type=Path, help="where the stores are made: 2 GB for a tile")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("No CUDA device here: nothing was measured, and nothing was written.")
        return
    device = devices.best_device(args.device)
    results: dict[str, Any] = {"command": command(), "machine": describe(), "size": args.size, "network": DEFAULT}
    peak = matmul(device)
    results["dtypes"] = {dtype: by_dtype(dtype, args.size, device, peak) for dtype in DTYPES}
    results["variants, s"] = variants(args.size, device)
    results["matmul, TFLOP/s"] = [round(x, 1) for x in (peak, matmul(device))]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        results["end to end"] = end_to_end(args.size, device, Path(folder))
    if device.type == "cuda":
        write("gpu", results, markdown(results), RESULTS)
    else:
        print(markdown(results))


if __name__ == "__main__":
    main()
