"""Default against bicubic on every validation scene: python benchmarks/validate.py ../shared/data.

Each scene is degraded by 2 (20 m bands) and by 6 (60 m bands) with both operators, super-resolved
back and compared with itself, through the calls a user makes. A file that holds a stack of small patches
is one scene, its patches pooled; how each of them fares stands in the JSON file, and in the table if bicubic was
better. Writes `benchmarks/results/validation.json` and `.md`; `--card` puts the same numbers into the model cards.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import xsen2
from xsen2.networks import WEIGHTS
from xsen2.training.export import describe
from xsen2.training.patches import Scene, read_scenes

RESULTS = Path(__file__).parent / "results"
METHODS = ["bicubic", "default"]


def evaluate(scene: Scene, scale: int, operator: str) -> dict[str, Any] | None:
    """RMSE (DN) per band and SAM (degrees) of each method, and the mean ratio of RMSE to bicubic's."""
    if 10 * scale not in scene.bands:
        return None
    ds = scene.cube()
    if 10 * scale == 20:
        ds = ds.drop_vars(["B01", "B09"], errors="ignore")
    try:
        scores = ds.dsen2.evaluate(METHODS, scale=scale, operator=operator, border=0, dtype="float32")
    except xsen2.GridError:
        return None
    rmse = scores["rmse"].to_pandas()
    return {
        "pixels": int(scores["pixels"].max()),
        "rmse": {m: {b: round(float(rmse.loc[m, b]), 2) for b in rmse.columns} for m in METHODS},
        "sam": {m: round(float(scores["sam"].sel({"method": m})), 3) for m in METHODS},
        "ratio": round(float(rmse.loc["default"].mean() / rmse.loc["bicubic"].mean()), 4),
    }


def pool(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One row per file: the patches of a stack together, weighted by their pixels."""
    files: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for name, row in rows.items():
        files[name.split("/")[0]][name] = row
    out = {}
    for file, parts in files.items():
        weight = np.array([p["pixels"] for p in parts.values()], float)
        weight /= weight.sum()
        first = next(iter(parts.values()))
        rmse = {
            m: {
                b: round(float(np.sqrt(weight @ [p["rmse"][m][b] ** 2 for p in parts.values()])), 2)
                for b in first["rmse"][m]
            }
            for m in METHODS
        }
        means = {m: np.mean(list(r.values())) for m, r in rmse.items()}
        out[file] = {
            "level": first["level"],
            "pixels": sum(p["pixels"] for p in parts.values()),
            "rmse": rmse,
            "sam": {m: round(float(weight @ [p["sam"][m] for p in parts.values()]), 3) for m in METHODS},
            "ratio": round(float(means["default"] / means["bicubic"]), 4),
        }
        if len(parts) > 1:
            out[file]["patches"] = {n.split("/")[1]: {"ratio": p["ratio"], "rmse": p["rmse"]} for n, p in parts.items()}
    return out


def main() -> None:
    """Score all scenes and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, nargs="?", default=Path("../shared/data"), help="folder with validation/ and scenes.json"
    )
    parser.add_argument("--card", action="store_true", help="write the numbers into the model cards too")
    args = parser.parse_args()
    start = time.perf_counter()
    scenes = list(read_scenes(args.data / "validation"))
    single: dict[str, dict[str, Any]] = defaultdict(dict)
    for scale in (2, 6):
        for operator in ("mtf", "dsen2"):
            for scene in scenes:
                found = evaluate(scene, scale, operator)
                if found:
                    single[f"{10 * scale} m, {operator}"][scene.name] = {"level": scene.level, **found}
                    print(f"{10 * scale} m {operator:6} {scene.name:32} {found['ratio']:.3f}", flush=True)
    table = {name: pool(rows) for name, rows in single.items()}
    summary = {}
    for name, rows in table.items():
        ratios = [r["ratio"] for r in rows.values()]
        summary[name] = {
            "scenes": len(rows),
            "mean ratio": round(float(np.mean(ratios)), 3),
            "worst ratio": round(max(ratios), 3),
            "RMSE": {
                m: round(float(np.mean([np.mean(list(r["rmse"][m].values())) for r in rows.values()])), 1)
                for m in METHODS
            },
            "SAM": {m: round(float(np.mean([r["sam"][m] for r in rows.values()])), 2) for m in METHODS},
        }
        for level in ("L1C", "L2A"):
            some = [r["ratio"] for r in rows.values() if r["level"] == level]
            summary[name][level] = {"scenes": len(some), "mean ratio": round(float(np.mean(some)), 3)} if some else None
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"command": "python benchmarks/validate.py DATA", "summary": summary, "scenes": table}, indent=1)
    (RESULTS / "validation.json").write_text(text + "\n")
    (RESULTS / "validation.md").write_text(markdown(summary, table))
    if args.card:
        for path in WEIGHTS.glob("*.json"):
            card = json.loads(path.read_text())
            gsd = 10 * card["ratio"]
            card["validation"] = {k: v for k, v in summary.items() if k.startswith(f"{gsd} m")}
            path.write_text(json.dumps(card, indent=1) + "\n")
        describe()
    print(markdown(summary, table).split("## ")[0], f"{time.perf_counter() - start:.0f} s")


def markdown(summary: dict[str, Any], table: dict[str, dict[str, Any]]) -> str:
    """The summary, then every scene and band."""
    lines = [
        "# Validation: default against bicubic, at the lower scale",
        "",
        "RMSE in DN, mean over bands, then over scenes; SAM in degrees. Ratio: RMSE divided by that of Keys bicubic.",
        "Scenes: other places than those trained on. 40 → 20 m and 360 → 60 m; what a method does there is evidence",
        "for 20 → 10 m and 60 → 10 m, not proof. Contains modified Copernicus Sentinel data 2015-2020.",
        "",
        "| bands, operator | scenes | RMSE bicubic | RMSE default | ratio | worst scene | L1C | L2A "
        "| SAM bicubic | SAM default |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, s in summary.items():
        levels = [f"{s[v]['mean ratio']} ({s[v]['scenes']})" if s[v] else "–" for v in ("L1C", "L2A")]
        lines.append(
            f"| {name} | {s['scenes']} | {s['RMSE']['bicubic']} | {s['RMSE']['default']} | {s['mean ratio']} | "
            f"{s['worst ratio']} | {levels[0]} | {levels[1]} | {s['SAM']['bicubic']} | {s['SAM']['default']} |"
        )
    for name, rows in table.items():
        bands = list(next(iter(rows.values()))["rmse"]["default"])
        lines += [
            "",
            f"## {name}",
            "",
            "| scene | level | ratio | " + " | ".join(f"{b} bicubic → default" for b in bands) + " |",
        ]
        lines.append("|---|---|---|" + "---|" * len(bands))
        for scene, row in rows.items():
            cells = [f"{row['rmse']['bicubic'][b]} → {row['rmse']['default'][b]}" for b in bands]
            lines.append(f"| {scene} | {row['level']} | {row['ratio']} | " + " | ".join(cells) + " |")
        for scene, row in rows.items():
            lost = {n: p for n, p in row.get("patches", {}).items() if p["ratio"] >= 1}
            for n, p in lost.items():
                before, after = (np.mean(list(p["rmse"][m].values())) for m in METHODS)
                lines += ["", f"Patch {n} of {scene}: bicubic was better, {before:.2f} against {after:.2f} DN."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
