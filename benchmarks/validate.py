"""Every network against bicubic on every validation scene: python benchmarks/validate.py ../shared/data.

Each scene is degraded by 2 (20 m bands) and by 6 (60 m bands) with both operators, super-resolved
back and compared with itself, through the calls a user makes. A file that holds a stack of small patches
is one scene, its patches pooled; how each of them fares stands in the JSON file, and in the table if bicubic was
better. Networks that say how sure they are are held to it. Writes `benchmarks/results/validation.json` and `.md`;
`--card` puts each network's numbers into its model cards.
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
from xsen2.networks.cards import WEIGHTS, Card, cards
from xsen2.training.calibrate import errors_of
from xsen2.training.export import describe
from xsen2.training.scenes import Scene, read_scenes

RESULTS = Path(__file__).parent / "results"
NETWORKS = [name for name, group in cards().items() if any(card.ratio > 1 for card in group)]
OPERATORS = ("mtf", "product", "dsen2")
KEPT = (0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the pixels, the surest first


def evaluate(scene: Scene, scale: int, operator: str, methods: list[str] | None = None) -> dict[str, Any] | None:
    """RMSE (DN) per method and band, SAM (degrees) per method, and mean RMSE divided by bicubic's."""
    methods = ["bicubic", *(NETWORKS if methods is None else methods)]
    if 10 * scale not in scene.bands:
        return None
    ds = scene.cube()
    if scale == 2:
        ds = ds.drop_vars(["B01", "B09"], errors="ignore")
    try:
        scores = ds.dsen2.evaluate(methods, scale=scale, operator=operator, border=0, dtype="float32")
    except xsen2.GridError:
        return None
    rmse = scores["rmse"].to_pandas()
    return {
        "pixels": int(scores["pixels"].max()),
        "rmse": {m: {b: round(float(rmse.loc[m, b]), 2) for b in rmse.columns} for m in methods},
        "sam": {m: round(float(scores["sam"].sel({"method": m})), 3) for m in methods},
        "ratio": {m: round(float(rmse.loc[m].mean() / rmse.loc["bicubic"].mean()), 4) for m in methods},
    }


def coverage(parts: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Share of errors within one standard error, per band; and RMSE over the surest pixels, in units of all."""
    out: dict[str, Any] = {"within one": {}, "risk": {}}
    for band in parts[0]:
        error, sigma = np.concatenate([p[band] for p in parts], axis=1).astype(np.float64)
        out["within one"][band] = round(float(np.mean(np.abs(error) <= sigma)), 3)
        order = np.square(error)[np.argsort(sigma)]
        total = np.sqrt(order.mean())
        out["risk"][band] = [round(float(np.sqrt(order[: int(k * len(order))].mean()) / total), 3) for k in KEPT]
    return out


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
            for m in first["rmse"]
        }
        means = {m: np.mean(list(r.values())) for m, r in rmse.items()}
        out[file] = {
            "level": first["level"],
            "pixels": sum(p["pixels"] for p in parts.values()),
            "rmse": rmse,
            "sam": {m: round(float(weight @ [p["sam"][m] for p in parts.values()]), 3) for m in rmse},
            "ratio": {m: round(float(means[m] / means["bicubic"]), 4) for m in rmse},
        }
        if len(parts) > 1:
            out[file]["patches"] = {n.split("/")[1]: {k: p[k] for k in ("ratio", "rmse")} for n, p in parts.items()}
    return out


def merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Put the methods of a row into one of other methods."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            merge(old[key], value)
        else:
            old[key] = value


def drop(table: dict[str, Any], summary: dict[str, Any], sure: dict[str, Any], gone: set[str]) -> None:
    """Leave out networks that are no longer there."""
    for rows in (*summary.values(), *sure.values()):
        for name in gone & rows.keys():
            del rows[name]
    for files in table.values():
        for row in files.values():
            for scores in (row["rmse"], row["ratio"], row.get("sam", {})):
                for name in gone & scores.keys():
                    del scores[name]


def summarise(rows: dict[str, dict[str, Any]], method: str) -> dict[str, Any]:
    """One method over all scenes."""
    ratios = [r["ratio"][method] for r in rows.values()]
    sam = [r["sam"][method] / r["sam"]["bicubic"] for r in rows.values()]
    out: dict[str, Any] = {
        "scenes": len(rows),
        "mean ratio": round(float(np.mean(ratios)), 3),
        "worst ratio": round(max(ratios), 3),
        "RMSE": round(float(np.mean([np.mean(list(r["rmse"][method].values())) for r in rows.values()])), 1),
        "SAM": round(float(np.mean([r["sam"][method] for r in rows.values()])), 2),
        "SAM ratio": round(float(np.mean(sam)), 3),
    }
    for level in ("L1C", "L2A"):
        of_level = [r["ratio"][method] for r in rows.values() if r["level"] == level]
        out[level] = {"scenes": len(of_level), "mean ratio": round(float(np.mean(of_level)), 3)} if of_level else None
    return out


def main() -> None:
    """Score all scenes and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, nargs="?", default=Path("../shared/data"), help="folder with validation/ and scenes.json"
    )
    parser.add_argument("--card", action="store_true", help="write the numbers into the model cards too")
    parser.add_argument(
        "--only", choices=["2", "6"], help="do one scale, and take what the results file says of the other"
    )
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, help="do these, and take what the results file says of the others"
    )
    args = parser.parse_args()
    start = time.perf_counter()
    scenes = list(read_scenes(args.data / "validation"))
    table: dict[str, dict[str, Any]] = {}
    summary: dict[str, dict[str, Any]] = {}
    sure: dict[str, dict[str, Any]] = defaultdict(dict)
    if args.only or args.networks != NETWORKS:
        before = json.loads((RESULTS / "validation.json").read_text())
        for target, key in ((table, "scenes"), (summary, "summary"), (sure, "standard errors")):
            target |= {name: rows for name, rows in before[key].items() if name != "kept"}
        drop(table, summary, sure, {*before["summary"]["20 m, mtf"]} - {"bicubic", *NETWORKS})
    for scale in (2, 6) if not args.only else (int(args.only),):
        for operator in OPERATORS:
            name = f"{10 * scale} m, {operator}"
            single = {}
            for scene in scenes:
                if scores := evaluate(scene, scale, operator, args.networks):
                    single[scene.name] = {"level": scene.level, **scores}
                    print(f"{name:10} {scene.name:32} {scores['ratio']}", flush=True)
            pooled = pool(single)
            for file, row in pooled.items():
                merge(table.setdefault(name, {}).setdefault(file, {}), row)
            summaries = {m: summarise(pooled, m) for m in ("bicubic", *args.networks)}
            summary[name] = {m: summaries.get(m) or summary[name][m] for m in ("bicubic", *NETWORKS)}
            for network in args.networks:
                if any(c.spread and c.ratio == scale for c in cards()[network]):
                    parts = [p for scene in scenes if (p := errors_of(scene, network, scale, operator, "float32"))]
                    sure[name][network] = coverage(parts)
    RESULTS.mkdir(exist_ok=True)
    results = {
        "command": "python benchmarks/validate.py DATA",
        "summary": summary,
        "standard errors": {"kept": KEPT, **sure},
        "scenes": table,
    }
    (RESULTS / "validation.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "validation.md").write_text(markdown(summary, sure, table))
    if args.card:
        for path in WEIGHTS.glob("*.json"):
            fill_card(path, summary, sure)
        describe()
    print(markdown(summary, sure, table).split("## Every")[0], f"{time.perf_counter() - start:.0f} s")


def fill_card(path: Path, summary: dict[str, Any], sure: dict[str, Any]) -> None:
    """Put the numbers of a card's network and grid into it."""
    fields, card = json.loads(path.read_text()), Card.read(path)
    if card.ratio == 1:  # of many dates: `benchmarks/finer.py`
        return
    fields["validation"] = {}
    for name, rows in summary.items():
        if name.startswith(f"{10 * card.ratio} m"):
            scores = dict(rows[card.network])
            if card.network in sure.get(name, {}):
                scores["standard errors"] = {"kept": KEPT, **sure[name][card.network]}
            fields["validation"][name] = scores
    path.write_text(json.dumps(fields, indent=1) + "\n")


def markdown(summary: dict[str, Any], sure: dict[str, Any], table: dict[str, Any]) -> str:
    """The summary, then every scene and band."""
    lines = [
        "# Validation: every network against bicubic, at the lower scale",
        "",
        "RMSE in DN, mean over bands, then over scenes. Ratio: RMSE divided by Keys bicubic's per scene, then the mean",
        "over scenes; SAM likewise. Networks as `method=` gives them.",
        "Scenes: other places than those trained on. 40 → 20 m and 360 → 60 m; what a method does there is evidence",
        "for 20 → 10 m and 60 → 10 m, not proof. Contains modified Copernicus Sentinel data 2015-2020.",
        "",
        "| bands, operator | method | scenes | RMSE | ratio | worst scene | L1C | L2A | SAM | SAM ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in summary.items():
        for method, s in rows.items():
            levels = [f"{s[v]['mean ratio']} ({s[v]['scenes']})" if s[v] else "–" for v in ("L1C", "L2A")]
            lines.append(
                f"| {name} | {method} | {s['scenes']} | {s['RMSE']} | {s['mean ratio']} | {s['worst ratio']} | "
                f"{levels[0]} | {levels[1]} | {s['SAM']} | {s['SAM ratio']} |"
            )
    lines += [
        "",
        "## Standard errors",
        "",
        "Share of the errors within one standard error (0.683 is aimed at), and the RMSE over the surest 20, 40, 60,",
        "80 % of the pixels divided by that over all: it must grow. All scenes pooled.",
        "",
        "| bands, operator | network | band | within one | 20 % | 40 % | 60 % | 80 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, networks in sure.items():
        for network, scores in networks.items():
            for band, share in scores["within one"].items():
                risk = " | ".join(str(x) for x in scores["risk"][band][:-1])
                lines.append(f"| {name} | {network} | {band} | {share} | {risk} |")
    lines += ["", "## Every scene and band", "", "RMSE in DN."]
    for name, rows in table.items():
        bands = list(next(iter(rows.values()))["rmse"]["bicubic"])
        lines += [
            "",
            f"### {name}",
            "",
            f"| scene | level | method | ratio | {' | '.join(bands)} |",
            "|---|---|---|---|" + "---|" * len(bands),
        ]
        for scene, row in rows.items():
            for method, errors in row["rmse"].items():
                cells = " | ".join(str(errors[b]) for b in bands)
                lines.append(f"| {scene} | {row['level']} | {method} | {row['ratio'][method]} | {cells} |")
        for scene, row in rows.items():
            for n, part in row.get("patches", {}).items():
                for method, ratio in part["ratio"].items():
                    if ratio <= 1:
                        continue
                    before, after = (np.mean(list(part["rmse"][m].values())) for m in ("bicubic", method))
                    lines += ["", f"Patch {n} of {scene}: bicubic {before:.2f}, {method} {after:.2f} DN."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
