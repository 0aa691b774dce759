"""s2super with its trained weights beside ours, on the same pixels: python benchmarks/s2super_peer.py DATA.

s2super (MIT, from the package index) sharpens the 20 m bands with a network that was trained on the near infrared of
3000 mosaics. It has an environment of its own, made under `.work/peers/s2super` on the first run (about 250 MB).
Validation scenes are degraded and brought back by all methods in one call; a stack of patches is left out. Writes
`benchmarks/results/s2super_peer.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS
from peers.peer import HERE, environment

import xsen2  # noqa: F401  # gives datasets their accessor
from xsen2.bands import A, B
from xsen2.cube import DIMS
from xsen2.evaluation.ladder import Site, interval
from xsen2.methods.protocol import Array, Method
from xsen2.training.scenes import read_scenes

INSTALLS = [["tensorflow-cpu==2.15.1", "numpy<2"], ["--no-deps", "s2super==1.2.30"]]
METHODS = ("bicubic", "regression", "supreme", "default")
SIDE = 1920
"""Metres of each scene that are judged: the peer takes minutes for more."""
DIMS_OF = {name: gsd for gsd, names in DIMS.items() for name in names}
OPERATORS = ("product", "mtf", "dsen2")


class S2Super(Method):
    """The peer as a method: whole images go to its process and come back."""

    name = "s2super"
    produces = B
    needs = (*A, *B)
    halo = 64

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        command = [environment("s2super", INSTALLS), HERE / "s2super_driver.py"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._wait()

    def __call__(self, a: Array, b: Array, c: Array) -> Array:  # noqa: D102  # as of any method
        source, target = (f"{self._folder.name}/{name}" for name in ("in.npz", "out.npy"))
        np.savez(source, a=a, b=b)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{source}\t{target}\n")
        self._process.stdin.flush()
        self._wait()
        made: Array = np.load(target)
        return made

    def __dask_tokenize__(self) -> str:
        return "s2super-1.2.30"

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


def middle(size: int, gsd: int) -> slice:
    """The middle of a scene, `SIDE` metres at most, on the 60 m lattice."""
    most = SIDE // gsd
    start = max(0, size - most) // 2 * gsd // 120 * 120 // gsd
    return slice(start, min(start + most, size // (120 // gsd) * (120 // gsd)))


def markdown(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """One row per method and operator, and one per scene."""
    lines = [
        "# s2super beside ours",
        "",
        "RMSE of the six 20 m bands, 40 → 20 m, divided by that of Keys bicubic, on validation scenes that neither was",
        "trained on as far as is known. Mean over places, and the middle 95 % of 10000 draws of places. s2super 1.2.30",
        "with the weights that come with it, not fitted to the scene; patches of 64 pixels, overlapping by half;",
        "the middle of each scene, 1.9 x 1.9 km at most.",
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
        ds: Any = scene.cube().drop_vars(["B01", "B09"], errors="ignore")
        ds = ds.isel({dim: middle(n, DIMS_OF[dim]) for dim, n in ds.sizes.items()})
        ds = ds.chunk(dict.fromkeys(ds.dims, -1))
        for operator in args.operators:
            scores = ds.dsen2.evaluate([*METHODS, peer], scale=2, operator=operator, border=0)
            rmse = scores["rmse"].mean("band").to_series()
            rows[operator][scene.name] = {
                name: round(float(rmse[name] / rmse["bicubic"]), 4) for name in rmse.index[1:]
            }
            print(scene.name, operator, rows[operator][scene.name], flush=True)
    peer.close()
    (RESULTS / "s2super_peer.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "s2super_peer.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
