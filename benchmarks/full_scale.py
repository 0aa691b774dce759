"""At true full scale, without degrading what is judged: python benchmarks/full_scale.py ../shared/data.

A 10 m band is hidden and plays a coarser one. B04, degraded to 20 m, stands where B05 stands, and B03 in place of
B04; it is brought back to 10 m and compared with what was measured. Likewise B02, degraded to 60 m, plays B01. So the
inputs are at the scale of real use: 10 m detail makes 10 m detail. But the bands are not those that the
network was trained for, and the neighbour that would help most is missing, so this bounds the quality from
below; what it tests is whether the skill seen at 40 → 20 m is still there at 20 → 10 m.
Writes `benchmarks/results/full_scale.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xsen2.engine.operators import degrade_array, taps
from xsen2.networks.cards import DEFAULT
from xsen2.training.scenes import Scene, read_scenes

RESULTS = Path(__file__).parent / "results"
PLAYS = {2: ("B04", "B05", "B03"), 6: ("B02", "B01", "B03")}  # hidden, whom it plays, who stands in for it


def play(scene: Scene, scale: int, operator: str) -> tuple[xr.Dataset, xr.DataArray] | None:
    """The cube with a 10 m band in the place of a coarser one, and that band as it was."""
    if 10 * scale not in scene.bands:
        return None
    ds = scene.cube()
    if scale == 2:
        ds = ds.drop_vars(["B01", "B09"], errors="ignore")
    hidden, role, stand_in = PLAYS[scale]
    rows, columns = (n // scale * scale for n in ds[hidden].shape)
    coarse = degrade_array(ds[hidden].values[:rows, :columns], *taps(hidden, scale, operator), scale)
    seen = np.isfinite(ds[role].values)
    ds[role] = ds[role].copy(data=np.where(seen, coarse[: seen.shape[0], : seen.shape[1]], np.nan))
    truth = ds[hidden].copy()
    ds[hidden] = ds[stand_in]
    return ds, truth


def evaluate(scene: Scene, scale: int, operator: str) -> dict[str, float] | None:
    """RMSE in DN of bicubic and of the default network over the same pixels."""
    scene_and_truth = play(scene, scale, operator)
    if scene_and_truth is None:
        return None
    ds, truth = scene_and_truth
    role = PLAYS[scale][1]
    estimates = {
        m: ds.dsen2.superresolve([role], m, native=False, operator=operator, dtype="float32")[role].values
        for m in ("bicubic", DEFAULT)
    }
    seen = np.isfinite(truth.values) & np.logical_and.reduce([np.isfinite(x) for x in estimates.values()])
    return {
        m: round(float(np.sqrt(np.mean(np.square(x - truth.values, dtype=np.float64)[seen]))), 2)
        for m, x in estimates.items()
    }


def main() -> None:
    """Score all validation scenes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"), help="folder with validation/")
    scenes = list(read_scenes(parser.parse_args().data / "validation"))
    table: dict[str, dict[str, Any]] = {}
    lines = [
        "# At full scale: a hidden 10 m band, brought back",
        "",
        "RMSE in DN of bicubic and of the default network, and their ratio; patches of a stack pooled. B04 plays B05,",
        "B02 plays B01. Contains modified Copernicus Sentinel data 2015-2020.",
        "",
        "| hidden, operator | scene | bicubic | network | ratio |",
        "|---|---|---|---|---|",
    ]
    for scale, (hidden, _, _) in PLAYS.items():
        for operator in ("mtf", "dsen2"):
            name = f"{hidden}, {10 * scale} → 10 m, {operator}"
            squares: dict[str, list[dict[str, float]]] = {}
            for scene in scenes:
                if errors := evaluate(scene, scale, operator):
                    squares.setdefault(scene.name.split("/")[0], []).append({m: x**2 for m, x in errors.items()})
            rows = {
                file: {m: round(float(np.sqrt(np.mean([p[m] for p in parts]))), 2) for m in parts[0]}
                for file, parts in squares.items()
            }
            ratios = {file: round(row[DEFAULT] / row["bicubic"], 3) for file, row in rows.items()}
            mean = round(float(np.mean(list(ratios.values()))), 3)
            table[name] = {"mean ratio": mean, "scenes": {f: {**rows[f], "ratio": r} for f, r in ratios.items()}}
            lines += [f"| {name} | {f} | {r['bicubic']} | {r[DEFAULT]} | {ratios[f]} |" for f, r in rows.items()]
            lines.append(f"| {name} | **mean** | | | **{mean}** |")
            print(name, mean, flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "full_scale.json").write_text(json.dumps(table, indent=1) + "\n")
    (RESULTS / "full_scale.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
