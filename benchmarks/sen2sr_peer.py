"""Against SEN2SR's package on its task at 20 -> 10 m: python benchmarks/sen2sr_peer.py [--size 1376].

The peer is `benchmarks/peers/sen2sr_driver.py`: the package (CC0) as its README runs large images, with the network
of its lighter model and random weights, in float32. It has an environment of its own, made under `.work/peers/sen2sr`
on the first run, with the same torch as ours. `timm`, which only its other networks import, is left out.

Same pixels, in memory, to six bands in memory; both use both cores, in turn. The two networks differ, and what
either makes of the pixels is not compared: its weights are random. About a minute on two cores with AMX.
Writes `benchmarks/results/sen2sr_peer.json` and `.md`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, command, describe, head, table, write
from peers.peer import Peer, in_turn
from whole_tile import THREADS, drop, seconds, tile

from xsen2.bands import GRIDS, A, B
from xsen2.networks.inference import best_device, best_dtype

INSTALLS = [["torch==2.13.0"], ["numpy==2.4.6", "tqdm", "einops"], ["--no-deps", "sen2sr==0.8.5"]]

TEXT = """
| | SEN2SR | xsen2 |
| --- | --- | --- |
| bands | B05 B06 B07 B8A B11 B12 from these and B02 B03 B04 B08, all on one 10 m grid | the same six, from bands on \
their own grids |
| network | SPAN-like CNN, 6 blocks of 24 features on the 10 m grid, 0.21 MFLOP per pixel | TwoGrid, most of it on \
the 20 m grid, 0.80 MFLOP per pixel |
| then | low frequencies replaced in Fourier space, patch by patch | nothing by default |
| patches | 128 pixels that overlap by 32: 1.8 times the pixels, the last row and column perhaps twice | \
blocks with as much context as the network sees: 1.2 to 1.4 times the pixels |
| seams | cut in the middle of the overlap; the Fourier step sees a whole patch, so results depend on how it is cut | \
any cut gives the same pixels (`benchmarks/seams.py`) |
| memory | the whole image | some blocks |
"""


def markdown(run: dict[str, Any]) -> str:
    """One row each, and what each does."""
    peer, pixels = run["peer"], run["size"] ** 2
    rows = [["SEN2SR, x2, float32", peer["seconds"], round(pixels / 1e6 / peer["seconds"], 3), "1", ""]]
    for name, row in run["ours"].items():
        spread = " to ".join(map(str, row["times, range"]))
        rows.append([name, row["seconds"], round(pixels / 1e6 / row["seconds"], 3), row["times"], spread])
    about = run["peer is"]
    text = f"""
Six 20 m bands of {run["size"]} x {run["size"]} pixels of 10 m, from memory to memory, {run["rounds"]} rounds in
turn, medians. The peer: sen2sr {about["sen2sr"]} on torch {about["torch"]}.
"""
    columns = ["", "s", "10^6 pixels/s", "times as fast", "lowest to highest"]
    return head("Against SEN2SR at 20 to 10 m", run) + text + "\n" + table(columns, rows) + "\n" + TEXT


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1376, help="pixels on each side, even")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.size < 256 or args.size % 2:
        parser.error("--size must be even and at least 256")
    torch.set_num_threads(THREADS)
    results: dict[str, Any] = {"command": command(), "machine": describe(), "size": args.size, "rounds": args.rounds}
    cube = tile(args.size, chunk=args.size // 4 * 2, bands=(*A, *B)).persist()
    a, b = (np.stack([cube[n].values for n in GRIDS[gsd]]) for gsd in (10, 20))
    auto = str(best_dtype(best_device())).removeprefix("torch.")
    ours = {}
    for dtype in dict.fromkeys([auto, "float32"]):
        sr = cube.dsen2.superresolve(native=False, dtype=dtype)
        ours[f"xsen2, default, {dtype}"] = partial(seconds, partial(drop, sr))
    with Peer("sen2sr", "sen2sr_driver.py", INSTALLS, {"a": a, "b": b}) as peer:
        results["peer is"] = peer.about
        results["peer"], results["ours"] = in_turn(peer, ours, args.rounds)
        if peer.out.shape != (6, args.size, args.size) or not np.isfinite(peer.out).all():
            raise SystemExit("the peer did not make six whole bands")
    write("sen2sr_peer", results, markdown(results), args.out)


if __name__ == "__main__":
    main()
