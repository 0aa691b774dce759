"""What a network learnt at one scale is worth at the next: python benchmarks/transfer.py --out RUN.

A network is trained from nothing on the training scenes degraded by 2 beforehand, that is at 80 → 40 m, and judged on
the validation scenes at 40 → 20 m, as in Table 3 of Lanaras et al. (2018): beside bicubic and the network of the same
architecture that was trained at 40 → 20 m. Give the same command again to go on after a stop. Writes
`benchmarks/results/transfer.json` and `.md`; the weights stay in RUN.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import xsen2
from xsen2.training.fit import Run
from xsen2.training.run import Source, recipe_for, run
from xsen2.training.scenes import Scene, read_scenes

RESULTS = Path(__file__).parent / "results"
STEPS, COOL = 1600, 800


def train(data: Path, out: Path, threads: int | None) -> None:
    """The network of the default architecture, at 80 → 40 m, with the paper's operator at both scales."""
    recipe = recipe_for("twogrid", 2, steps=STEPS, cool=COOL, haze=0.05)
    run("twogrid", Source(data, operator="dsen2", coarser=True), recipe, Run(out, every=100, threads=threads))


def judge(scene: Scene, methods: list[str]) -> dict[str, Any] | None:
    """RMSE and SAM at 40 → 20 m."""
    ds = scene.cube().drop_vars(["B01", "B09"], errors="ignore")
    try:
        scores = ds.dsen2.evaluate(methods, scale=2, operator="dsen2", border=0, dtype="float32")
    except xsen2.GridError:
        return None
    rmse = scores["rmse"].mean("band").values
    return {"pixels": int(scores["pixels"].max()), "rmse": rmse.tolist(), "sam": scores["sam"].values.tolist()}


def main() -> None:
    """Train, judge, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"), help="holds train/, validation/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    train(args.data, args.out, args.threads)
    names = ["bicubic", "trained at 80 → 40 m", "trained at 40 → 20 m"]
    files: dict[str, list[dict[str, Any]]] = {}
    for scene in read_scenes(args.data / "validation"):
        if scores := judge(scene, ["bicubic", str(args.out.resolve()), "twogrid-paper"]):
            files.setdefault(scene.name.split("/")[0], []).append(scores)
    rows = {}
    for file, parts in files.items():  # the patches of a stack are one scene
        weight = np.array([p["pixels"] for p in parts], float)
        weight /= weight.sum()
        rmse = np.sqrt(weight @ np.square([p["rmse"] for p in parts]))
        rows[file] = dict(zip(names, rmse.round(2).tolist(), strict=True))
    table = np.array([list(r.values()) for r in rows.values()])
    ratios = (table / table[:, :1]).mean(axis=0)
    RESULTS.mkdir(exist_ok=True)
    summary = dict(zip(names, ratios.round(4).tolist(), strict=True))
    (RESULTS / "transfer.json").write_text(json.dumps({"ratio": summary, "rmse": rows}, indent=1) + "\n")
    lines = [
        "# Scale transfer",
        "",
        "RMSE in DN, mean of the six 20 m bands, at 40 → 20 m on the validation scenes, operator `dsen2`; last,",
        "the mean over scenes of the RMSE divided by bicubic's. `python benchmarks/transfer.py --out RUN` makes both.",
        "Contains modified Copernicus Sentinel data 2015-2020.",
        "",
        f"| scene | {' | '.join(names)} |",
        "|---|" + "---:|" * len(names),
        *(f"| {scene} | {' | '.join(f'{v:.1f}' for v in row.values())} |" for scene, row in rows.items()),
        f"| **ratio** | {' | '.join(f'{v:.3f}' for v in ratios)} |",
    ]
    (RESULTS / "transfer.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
