"""Against DSen2 as its authors run it, in Keras on TensorFlow: python benchmarks/keras_peer.py [--size 1344].

The peer is `benchmarks/peers/keras_driver.py`: the paper's network, 6 residual blocks of 128 features, in float32, with
the patches of 128 pixels and borders of 8 of its authors' code and the 32 patches a batch that Keras takes by default.
It has an environment of its own, made under `.work/peers/tf` on the first run (about 300 MB from the package index),
and the weights of this library's dsen2, so that both results can be compared; they do not change its speed.

Same pixels, in memory, to six bands in memory; both use both cores, in turn. About four minutes on two cores with AMX.
Writes `benchmarks/results/keras_peer.json` and `.md`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from machine import RESULTS, command, describe, head, table, write
from peers.peer import Peer, in_turn
from whole_tile import THREADS, drop, seconds, tile

from xsen2.bands import GRIDS, A, B
from xsen2.networks.cards import cards
from xsen2.networks.inference import best_device, best_dtype, load

INSTALLS = [["tensorflow-cpu==2.21.0", "keras==3.15.1"]]
OURS = [("twogrid", "auto"), ("dsen2", "auto"), ("twogrid", "float32"), ("dsen2", "float32")]
RADIUS = 14  # of DSen2's convolutions
AIM = 20


def weights() -> dict[str, np.ndarray]:
    """Those of our dsen2, as Keras orders them."""
    card = next(card for card in cards()["dsen2"] if card.ratio == 2)
    network = load(card, torch.device("cpu"), torch.float32)
    out = [p.numpy() for p in network.state_dict().values()]
    return {f"w{i}": w.transpose(2, 3, 1, 0) if w.ndim == 4 else w for i, w in enumerate(out)}


def difference(peer: np.ndarray, cube: xr.Dataset) -> dict[str, float]:
    """From our dsen2 in float32, DN: where a patch of the peer sees all that it needs, and elsewhere."""
    sr = cube.dsen2.superresolve(method="dsen2", native=False, dtype="float32").compute()
    off = np.abs(peer - np.stack([sr[b].values for b in B])).max(axis=0)
    step, lost = 112, RADIUS - 8
    near = [(np.minimum(np.arange(n) % step, step - 1 - np.arange(n) % step) < lost) for n in off.shape]
    edge = near[0][:, None] | near[1]
    edge[:RADIUS] = edge[-RADIUS:] = edge[:, :RADIUS] = edge[:, -RADIUS:] = True
    return {"inside": round(float(off[~edge].max()), 4), "near borders": round(float(off[edge].max()), 2)}


def markdown(run: dict[str, Any]) -> str:
    """One row each."""
    peer, pixels = run["peer"], run["size"] ** 2
    rows = [["Keras on TensorFlow, DSen2, float32", peer["seconds"], round(pixels / 1e6 / peer["seconds"], 3), "1", ""]]
    for name, row in run["ours"].items():
        spread = " to ".join(map(str, row["times, range"]))
        rows.append([name, row["seconds"], round(pixels / 1e6 / row["seconds"], 3), row["times"], spread])
    off = run["difference, DN"]
    about = run["peer is"]
    text = f"""
Six 20 m bands of {run["size"]} x {run["size"]} pixels of 10 m, from memory to memory, {run["rounds"]} rounds in
turn, medians. The peer: TensorFlow {about["tensorflow"]}, Keras {about["keras"]}, {about["patches"]} patches of 128
pixels that overlap by 16, batches of 32; {peer["predict, s"]} s of its time are `predict` itself. Aim: {AIM} times for
the default, which has another network.
"""
    note = f"""
The peer with the weights of our dsen2 gives the same as that to {off["inside"]} DN where its patches see far enough,
and is up to {off["near borders"]} DN off elsewhere: its borders of 8 pixels are narrower than the 14 that the network
sees, so its result depends on how it is cut.
"""
    columns = ["", "s", "10^6 pixels/s", "times as fast", "lowest to highest"]
    return head("Against the paper's network in Keras", run) + text + "\n" + table(columns, rows) + "\n" + note


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=int, default=1344, help="pixels on each side, a multiple of 112 to waste nothing"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.size < 128 or args.size % 2:
        parser.error("--size must be even and at least 128")
    torch.set_num_threads(THREADS)
    results: dict[str, Any] = {"command": command(), "machine": describe(), "size": args.size, "rounds": args.rounds}
    cube = tile(args.size, chunk=args.size // 4 * 2, bands=(*A, *B)).persist()
    a, b = (np.stack([cube[n].values for n in GRIDS[gsd]]) for gsd in (10, 20))
    auto = str(best_dtype(best_device())).removeprefix("torch.")
    ours = {}
    for method, dtype in OURS:
        name = f"xsen2, {method}, {auto if dtype == 'auto' else dtype}"
        sr = cube.dsen2.superresolve(method=method, native=False, dtype=dtype)
        ours[name] = partial(seconds, partial(drop, sr))
    with Peer("tf", "keras_driver.py", INSTALLS, {"a": a, "b": b, **weights()}) as peer:
        results["peer is"] = peer.about
        results["peer"], results["ours"] = in_turn(peer, ours, args.rounds)
        results["difference, DN"] = difference(peer.out, cube)
    write("keras_peer", results, markdown(results), args.out)


if __name__ == "__main__":
    main()
