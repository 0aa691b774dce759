"""s2super with its trained weights beside ours, on the same pixels: python benchmarks/s2super_peer.py DATA.

s2super (MIT, from the package index) sharpens the 20 m bands with a network that was trained on the near infrared of
3000 mosaics. It has an environment of its own, made under `.work/peers/s2super` on the first run (about 250 MB).
Validation scenes are degraded, and all methods get the same pixels in one run; a stack of patches is left out. Writes
`benchmarks/results/s2super_peer.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine import RESULTS
from peers.peer import HERE, environment

import xsen2  # noqa: F401  # gives datasets their accessor
from xsen2.evaluation.ladder import Site
from xsen2.evaluation.tables import interval
from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import Array
from xsen2.networks.cards import GAIN
from xsen2.training.patches import Blur, pairs
from xsen2.training.scenes import Scene, read_scenes

INSTALLS = [["tensorflow-cpu==2.15.1", "numpy<2"], ["--no-deps", "s2super==1.2.30"]]
METHODS = ("bicubic", "regression", "supreme", "default")
SIDE = 2400
"""Metres of each scene that are judged: the peer takes minutes for more."""
OPERATORS = ("product", "mtf", "dsen2")


class S2Super:
    """The peer in its process: whole images go there and come back."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        command = [environment("s2super", INSTALLS), HERE / "s2super_driver.py"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._wait()

    def __call__(self, a: Array, b: Array) -> Array:
        """The 20 m bands, on the grid of the 10 m ones, DN."""
        source, target = (f"{self._folder.name}/{name}" for name in ("in.npz", "out.npy"))
        np.savez(source, a=a, b=b)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{source}\t{target}\n")
        self._process.stdin.flush()
        self._wait()
        pixels: Array = np.load(target)
        return pixels

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()

    def _wait(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "DONE\n":
                return
        raise SystemExit(f"s2super ended with {self._process.wait()}: run {' '.join(map(str, self._process.args))}")


def cropped(scene: Scene) -> Scene:
    """The middle of a scene, `SIDE` metres at most, on the 120 m lattice of what is degraded."""
    bands, valid = {}, {}
    height, width = scene.valid[10].shape
    for gsd in (10, 20):
        part = []
        for n in (height, width):
            start = max(0, 10 * n - SIDE) // 2 // 120 * 120
            part.append(slice(start // gsd, min(start + SIDE, 10 * n // 120 * 120) // gsd))
        rows, columns = part
        bands[gsd], valid[gsd] = scene.bands[gsd][:, rows, columns], scene.valid[gsd][rows, columns]
    return replace(scene, bands=bands, valid=valid)


def markdown(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """One row per method and operator, and one per scene."""
    lines = [
        "# s2super beside ours",
        "",
        "RMSE of the six 20 m bands, 40 → 20 m, divided by that of Keys bicubic, on validation scenes that neither was",
        "trained on as far as is known. Mean over places, and the middle 95 % of 10000 draws of places. s2super 1.2.30",
        "with the weights that come with it, not fitted to the scene; patches of 64 pixels, overlapping by half;",
        "the middle of each scene, 2.4 x 2.4 km at most.",
        "`python benchmarks/s2super_peer.py DATA` writes this. Contains modified Copernicus Sentinel data 2015-2020.",
    ]
    for operator, scenes in rows.items():
        names = list(next(iter(scenes.values())))
        places = [Site(scene, (), np.zeros((0, 0), bool)).place for scene in scenes]
        lines += [
            "",
            f"## Degraded by `{operator}`",
            "",
            f"| scene | {' | '.join(names)} |",
            "|---|" + "---:|" * len(names),
        ]
        lines += [f"| {scene} | {' | '.join(f'{r:.3f}' for r in row.values())} |" for scene, row in scenes.items()]
        means = [interval([row[name] for row in scenes.values()], places) for name in names]
        lines.append("| **mean** | " + " | ".join(f"**{m:.3f}** ({lo:.3f} to {hi:.3f})" for m, lo, hi in means) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Judge, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=list(OPERATORS))
    args = parser.parse_args()
    peer = S2Super()
    rows: dict[str, dict[str, dict[str, float]]] = {operator: {} for operator in args.operators}
    for scene in read_scenes(args.data / "validation"):
        if "/" in scene.name:
            continue
        scene = cropped(scene)
        for operator in args.operators:
            scores = scene.cube().dsen2.evaluate(METHODS, scale=2, operator=operator, border=0)
            rmse = scores["rmse"].mean("band").to_series()
            row = {name: round(float(rmse[name] / rmse["bicubic"]), 4) for name in METHODS[1:]}
            (pair,) = pairs(scene, 2, [Blur(operator)])  # the same pixels, as arrays
            seen = pair.weight > 0
            errors = [x - GAIN * pair.truth for x in (peer(GAIN * pair.a, GAIN * pair.b), GAIN * upsample(pair.b, 2))]
            peer_error, cubic = (float(np.sqrt((x[:, seen] ** 2).mean(axis=1)).mean()) for x in errors)
            rows[operator][scene.name] = row | {"s2super": round(peer_error / cubic, 4)}
            print(scene.name, operator, rows[operator][scene.name], flush=True)
    peer.close()
    (RESULTS / "s2super_peer.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "s2super_peer.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
