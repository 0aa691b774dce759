"""What the network reaches against the machine's own ceiling: python benchmarks/roofline.py [--size 3660].

In one process and on two threads:

1. large matmuls in the dtype that networks compute in, the best, before and after all else: the ceiling;
2. the road (cube in memory -> superresolve of the six 20 m bands -> arrays) with each network. FLOP are counted by
   formula, a multiplication and an addition are two, convolutions only. *Useful* are those of a network that sees the
   image at once, *run* are those of the patches it was called with, their halos included;
3. where time goes, from a Zarr store into a Zarr store with tasks one at a time, by looking at the stack every few
   milliseconds: a moment belongs to the innermost function of xsen2, of zarr or dask if there is none;
4. one call of the network at the road's own patches, convolution by convolution, each against the same one alone:
   same shape, random numbers, best of several. That is what oneDNN makes of this shape. What is no convolution
   is listed by operation.

Writes `benchmarks/results/roofline.json` and `.md`; about two minutes on two cores with AMX.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import dask
import torch
import xarray as xr
from machine import RESULTS, command, describe, head, table, write
from torch.utils._python_dispatch import TorchDispatchMode
from whole_tile import THREADS, drop, seconds, tile

import xsen2.networks.inference as inference
from xsen2.bands import A, B
from xsen2.networks.cards import Card, cards

Shapes = tuple[tuple[int, ...], ...]
Key = tuple[tuple[int, ...], tuple[int, ...], tuple[int, int], tuple[int, int], tuple[int, ...]]
AIM = 0.5
# What a moment was spent on, by the module that it was found in.
PARTS = {
    "xsen2.networks.inference": "batches: cut, scale, cast, put together",
    "xsen2.networks.devices": "batches: cut, scale, cast, put together",
    "xsen2.networks": "the network",
    "torch": "the network",
    "xsen2.engine.halo": "windows: strips of neighbours, patch assembly",
    "xsen2.engine.block": "blocks: DN, nodata, trimming",
    "xsen2.radiometry": "blocks: DN, nodata, trimming",
    "xsen2.engine.fill": "blocks: DN, nodata, trimming",
    "xsen2.sinks": "Zarr: codec and files",
    "zarr": "Zarr: codec and files",
    "numcodecs": "Zarr: codec and files",
    "xarray": "decoding, slicing, planning",
    "dask": "tasks",
}


def matmul(dtype: torch.dtype, sides: tuple[int, ...] = (2048, 4096, 8192), repeat: int = 6) -> float:
    """TFLOP/s of the best of some large ones, the second factor as it is and transposed."""
    rates = []
    for side in sides:
        a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
        rates += [2 * side**3 / best(lambda a=a, b=b: a @ b, repeat) for b in (b, b.T)]
    return max(rates) / 1e12


def best(job: Callable[[], object], repeat: int) -> float:
    """Seconds of the fastest after one that warms up."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def card_of(name: str) -> Card:
    """The weights for the 20 m bands."""
    return next(card for card in cards()[name] if card.ratio == 2)


def network_of(name: str) -> torch.nn.Module:
    """The very object that the road runs."""
    device = inference.best_device()
    return inference.load(card_of(name), device, inference.best_dtype(device))


@cache
def flop(name: str) -> float:
    """Per pixel of 10 m that goes in, halos included: all convolutions keep the size of what they read."""
    side = 48
    shapes = ((1, 4, side, side), (1, 6, side // 2, side // 2))
    network, device = network_of(name), inference.best_device()
    with torch.inference_mode(), Clock() as clock:
        network(*(torch.rand(shape, device=device) for shape in shapes))
    return sum(work(key) * len(times) for key, times in clock.convolutions.items()) / side**2


def work(key: Key) -> int:
    """FLOP of one convolution."""
    _, weight, _, _, out = key
    return 2 * math.prod(weight[1:]) * math.prod(out)


def pixels(shapes: Shapes) -> int:
    """Of 10 m, in a batch."""
    return shapes[0][0] * shapes[0][-2] * shapes[0][-1]


@contextmanager
def watched(name: str) -> Iterator[Counter[Shapes]]:
    """How often the network was called with which shapes."""
    calls: Counter[Shapes] = Counter()
    handle = network_of(name).register_forward_pre_hook(
        lambda _, args: calls.update([tuple(tuple(x.shape) for x in args)])
    )
    try:
        yield calls
    finally:
        handle.remove()


def road(name: str, size: int, repeat: int) -> dict[str, Any]:
    """Speed of the six bands of `size` x `size` pixels in memory, best of `repeat`."""
    ds = tile(size, bands=(*A, *B)).persist()
    sr = ds.dsen2.superresolve(method=name, native=False)
    with watched(name) as calls:
        seconds(lambda: drop(sr))
    useful, run = (flop(name) * n for n in (size**2, sum(n * pixels(shapes) for shapes, n in calls.items())))
    took = min(seconds(lambda: drop(sr)) for _ in range(repeat))
    return {
        "seconds": round(took, 2),
        "pixels per second": round(size**2 / took),
        "FLOP per pixel": round(flop(name)),
        "useful TFLOP/s": round(useful / took / 1e12, 3),
        "run TFLOP/s": round(run / took / 1e12, 3),
        "halo, share of the FLOP run": round(1 - useful / run, 3),
        "patch": calls.most_common(1)[0][0],
    }


def profile(name: str, size: int) -> dict[str, Any]:
    """Shares of the time from store to store, tasks one at a time, by part and by function."""
    with tempfile.TemporaryDirectory() as folder:
        tile(size, noise=8).dsen2.to_zarr(f"{folder}/in", dtype="uint16", progress=False)
        cube = xr.open_zarr(f"{folder}/in", decode_coords="all", chunks={})
        with dask.config.set(scheduler="synchronous"), Stacks() as stacks:
            start = time.perf_counter()
            cube.dsen2.superresolve(method=name, native=False).dsen2.to_zarr(f"{folder}/out", progress=False)
            took = time.perf_counter() - start
    total = sum(stacks.seen.values())
    parts: Counter[str] = Counter()
    for (module, _), n in stacks.seen.items():
        parts[next((part for start, part in PARTS.items() if module.startswith(start)), "other")] += n
    shares = {part: round(n / total, 4) for part, n in parts.most_common()}
    top = {f"{module}.{function}": round(n / total, 4) for (module, function), n in stacks.seen.most_common(15)}
    return {"seconds": round(took, 2), "samples": total, "parts": shares, "functions": top}


class Stacks:
    """Looks every 2 ms at where the thread that made it is."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self._watched, self._done = threading.get_ident(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Stacks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.002):
            frame = sys._current_frames().get(self._watched)
            frames: dict[str, tuple[str, str]] = {}
            while frame is not None:
                module = str(frame.f_globals.get("__name__", ""))
                for package in ("xsen2", "zarr", "dask", "xarray"):
                    if module.startswith(package):
                        frames.setdefault(package, (module, frame.f_code.co_name))
                frame = frame.f_back
            # Sinks call dask, which calls all else.
            inner = frames.get("xsen2")
            if inner is None or (inner[0].startswith("xsen2.sinks") and inner[1] != "pack"):
                inner = frames.get("zarr") or frames.get("xarray") or frames.get("dask") or inner or ("other", "")
            self.seen[inner] += 1


class Clock(TorchDispatchMode):
    """Seconds of every operation, convolutions by what goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: dict[Key, list[float]] = defaultdict(list)
        self.others: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        took = time.perf_counter() - start
        if arguments := convolution(func, args):
            x, weight, stride, padding = arguments
            key = (tuple(x.shape), tuple(weight.shape), _pair(stride), _pair(padding), tuple(out.shape))
            self.convolutions[key].append(took)
        else:
            self.others[func._schema.name.split("::")[-1]] += took
        return out


def convolution(func: Any, args: Any) -> tuple[Any, Any, Any, Any] | None:
    """Input, weights, stride and padding, if it is one: torch's own, or oneDNN's with what follows fused."""
    name = f"{func._schema.name.split('::')[-1]}.{func._overloadname}"
    if name.startswith(("convolution.", "conv2d.", "mkldnn_convolution.")):
        swapped = name.startswith("mkldnn")
        return args[0], args[1], args[4 if swapped else 3], args[3 if swapped else 4]
    first = {"_convolution_pointwise.default": (0, 1), "_convolution_pointwise.binary": (0, 2)}
    places = first.get(name, (1, 2) if name.startswith("_convolution_pointwise_.") else None)
    if places is None:
        return None
    x, w = places
    return args[x], args[w], args[w + 3], args[w + 2]


def _pair(x: Any) -> tuple[int, int]:
    return (int(x), int(x)) if isinstance(x, int) else (int(x[0]), int(x[-1]))


def layers(name: str, patch: Shapes, repeat: int) -> dict[str, Any]:
    """Every convolution of one call, in place and alone; the other operations."""
    network, device = network_of(name), inference.best_device()
    dtype = next(network.parameters()).dtype
    inputs = [torch.rand(shape, device=device) for shape in patch]
    with torch.inference_mode():
        call = best(lambda: network(*inputs), repeat)
        clocks = []
        for _ in range(repeat):
            with Clock() as clock:
                network(*inputs)
            clocks.append(clock)
        rows = []
        for key, first in clocks[0].convolutions.items():
            shape, weight, stride, padding, _ = key
            count = len(first)
            x, w = (torch.randn(s).to(dtype, memory_format=torch.channels_last) for s in (shape, weight))
            alone = best(lambda x=x, w=w, s=stride, p=padding: torch.conv2d(x, w, None, s, p), 2 * repeat)
            in_place = min(sum(c.convolutions[key]) / count for c in clocks)
            rows.append(
                {
                    "input": shape,
                    "weights": weight,
                    "stride": stride[0],
                    "count": count,
                    "ms": round(1e3 * in_place * count, 2),
                    "TFLOP/s": round(work(key) / in_place / 1e12, 3),
                    "alone, TFLOP/s": round(work(key) / alone / 1e12, 3),
                }
            )
    others = Counter({n: min(c.others[n] for c in clocks) for n in clocks[0].others})
    total = sum(row["ms"] for row in rows) / 1e3
    ceiling = sum(row["ms"] * row["TFLOP/s"] / row["alone, TFLOP/s"] for row in rows) / 1e3
    return {
        "patch": patch,
        "one call, ms": round(1e3 * call, 2),
        "TFLOP/s of the call": round(flop(name) * pixels(patch) / call / 1e12, 3),
        "convolutions, ms": round(1e3 * total, 2),
        "the same alone, ms": round(1e3 * ceiling, 2),
        "convolutions": rows,
        "other operations, ms": {n: round(1e3 * t, 2) for n, t in others.most_common(10) if t > 1e-4},
    }


def markdown(run: dict[str, Any]) -> str:
    """The tables."""
    ceiling, lines = run["matmul, TFLOP/s"], [head("Against the hardware", run)]
    lines += [
        f"Ceiling: the best of large matmuls, 2048 to 8192 square, in {run['machine']['dtype']}, {THREADS} threads, "
        f"same process: {ceiling:.2f} TFLOP/s.",
        "The road: six 20 m bands, from memory to memory. Aim: a share of at least "
        f"{AIM}. *run* counts the halos, *useful* does not.\n",
    ]
    columns = ["network", "10^6 pixels/s", "MFLOP/pixel", "TFLOP/s useful", "run", "share useful", "run", "halo"]
    rows = []
    for name, entry in run["networks"].items():
        r = entry["road"]
        cells = [name, round(r["pixels per second"] / 1e6, 2), round(r["FLOP per pixel"] / 1e6, 2)]
        cells += [r["useful TFLOP/s"], r["run TFLOP/s"], *(round(entry[f"share, {k}"], 2) for k in ("useful", "run"))]
        rows.append([*cells, f"{100 * r['halo, share of the FLOP run']:.0f} %"])
    lines.append(table(columns, rows))
    for name, entry in run["networks"].items():
        p, la = entry["profile"], entry["layers"]
        lines += [f"\n## {name}: where time goes\n", "Zarr to Zarr, tasks one at a time. Share of the time:\n"]
        lines.append(table(["part", "share"], [(k, f"{100 * v:.1f} %") for k, v in p["parts"].items()]))
        lines += ["", table(["function", "share"], [(f"`{k}`", f"{100 * v:.1f} %") for k, v in p["functions"].items()])]
        shape = ", ".join(" x ".join(map(str, s)) for s in la["patch"])
        lines += [
            f"\n## {name}: one call, layer by layer\n",
            f"Inputs {shape}: {la['one call, ms']} ms, {la['TFLOP/s of the call']} TFLOP/s, "
            f"{la['TFLOP/s of the call'] / ceiling:.2f} of the matmul. Convolutions take {la['convolutions, ms']} "
            f"ms in place, {la['the same alone, ms']} ms alone.\n",
        ]
        keys = ("input", "weights", "stride", "count", "ms", "TFLOP/s", "alone, TFLOP/s")
        cells = [
            [" x ".join(map(str, v)) if isinstance(v, tuple) else v for v in map(row.get, keys)]
            for row in la["convolutions"]
        ]
        shares = [f"{row['alone, TFLOP/s'] / ceiling:.2f}" for row in la["convolutions"]]
        lines.append(table([*keys, "alone / matmul"], [[*c, s] for c, s in zip(cells, shares, strict=True)]))
        lines += ["", table(["other operation", "ms"], la["other operations, ms"].items())]
    return "\n".join(lines)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=3660, help="rows and columns of 10 m pixels, a multiple of 6")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=["twogrid", "dsen2"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    results: dict[str, Any] = {"command": command(), "machine": describe(), "size": args.size}
    dtype = inference.best_dtype(inference.best_device())
    before = matmul(dtype)
    networks: dict[str, Any] = {}
    for name in args.networks:
        measured = road(name, args.size, args.repeat)
        networks[name] = {
            "road": measured,
            "profile": profile(name, args.size),
            "layers": layers(name, measured["patch"], args.repeat),
        }
        print(name, measured, flush=True)
    results["matmul, TFLOP/s"] = round(max(before, after := matmul(dtype)), 3)
    results["matmul before and after"] = [round(before, 3), round(after, 3)]
    for entry in networks.values():
        for kind in ("useful", "run"):
            entry[f"share, {kind}"] = round(entry["road"][f"{kind} TFLOP/s"] / results["matmul, TFLOP/s"], 3)
    results["networks"] = networks
    write("roofline", results, markdown(results), args.out)


if __name__ == "__main__":
    main()
