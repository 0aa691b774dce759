"""Scenes whose 10 m truth is known, and scenes on which nothing odd may happen: python benchmarks/hard.py DATA.

`truth/`: scenes simulated from imaging spectrometers. Their 20 m and 60 m bands are made of the truth by the operator,
with and without noise; methods bring them back, at full scale as it were. `stress/` and `validation/`: native scenes,
degraded and brought back; listed are the bands on which a network is worse than bicubic by over 1 % where bicubic's
error is over 10 DN. Writes `benchmarks/results/hard.json` and `hard.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xsen2
from xsen2.bands import BANDS, GRIDS, C, find, grid_of
from xsen2.cube import DIMS
from xsen2.engine.operators import degrade_array, kernels
from xsen2.training.scenes import Scene, read_scenes

RESULTS = Path(__file__).parent / "results"
OPERATORS = ("mtf", "product", "dsen2")
CLASSICAL = ("regression", "supreme", "atprk-matched")
LEAST = 10.0  # DN: bicubic's error below which a ratio says nothing
NOISE = 5.0  # DN


def observed(file: Path, operator: str, noise: float) -> tuple[xr.Dataset, dict[str, Any]]:
    """A cube as the operator has it, and its truth per band."""
    with np.load(file) as data:
        names, truth = [str(n) for n in data["bands"]], data["truth"].astype(np.float32)
    truth = truth[:, : truth.shape[1] // 6 * 6, : truth.shape[2] // 6 * 6]
    known = {str(find(n)): x for n, x in zip(names, truth, strict=True)}
    rng = np.random.default_rng(0)
    variables = {}
    for band in BANDS:
        gsd = grid_of(band)
        ratio = gsd // 10
        x = known[band]
        if ratio > 1:
            rows, columns = kernels(band, ratio, operator)
            x = degrade_array(x, *rows, ratio, columns)
        x = x + noise * rng.standard_normal(x.shape).astype(np.float32)
        ydim, xdim = DIMS[gsd]
        coords = {
            ydim: 5200020 - (np.arange(x.shape[0]) + 0.5) * gsd,
            xdim: 600000 + (np.arange(x.shape[1]) + 0.5) * gsd,
        }
        variables[band] = xr.DataArray(x, coords, (ydim, xdim))
    return xr.Dataset(variables), known


def truths(data: Path, methods: Sequence[str], scales: Sequence[int] = (2, 6)) -> Iterator[dict[str, Any]]:
    """RMSE divided by bicubic's, per scene, operator, noise, grid, method and band."""
    for file in sorted((data / "truth").glob("*.npz")):
        for operator in OPERATORS:
            for noise in (0.0, NOISE):
                ds, known = observed(file, operator, noise)
                for gsd, bands in ((10 * scale, GRIDS[10 * scale]) for scale in scales):
                    cube = ds if gsd == 60 else ds.drop_vars(list(C))
                    errors: dict[str, list[float]] = {}
                    within: dict[str, dict[str, float]] = {}
                    for method in ("bicubic", *methods):
                        unsure = method == "default"
                        sr = cube.dsen2.superresolve(
                            list(bands), method, native=False, operator=operator, uncertainty=unsure
                        ).compute()
                        rmse = []
                        for band in bands:
                            gap = sr[band].values - known[band]
                            rmse.append(float(np.sqrt(np.nanmean(gap.astype(np.float64) ** 2))))
                            if unsure:
                                inside = (np.abs(gap) <= sr[f"{band}_se"].values)[np.isfinite(gap)]
                                within.setdefault(method, {})[band] = round(float(inside.mean()), 3)
                        errors[method] = rmse
                    cubic = np.array(errors.pop("bicubic"))
                    for method, rmse in errors.items():
                        yield {
                            "scene": file.stem,
                            "operator": operator,
                            "noise": noise,
                            "gsd": gsd,
                            "method": method,
                            "ratio": round(float(np.mean(rmse) / cubic.mean()), 3),
                            "bands": {b: round(float(x), 3) for b, x in zip(bands, rmse / cubic, strict=True)},
                            "within one": within.get(method, {}),
                        }


def kept(methods: Sequence[str], scales: Sequence[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the results file that are of other methods."""
    try:
        before = json.loads((RESULTS / "hard.json").read_text())
    except FileNotFoundError:
        return [], []
    known, beside = before["truth"], before["beside bicubic"]
    done = {10 * scale for scale in scales}
    return (
        [r for r in known if r["method"] not in methods or r["gsd"] not in done],
        [r for r in beside if r["method"] not in methods or grid_of(r["band"]) not in done],
    )


def worse(scenes: Sequence[Scene], methods: Sequence[str], scales: Sequence[int] = (2, 6)) -> Iterator[dict[str, Any]]:
    """All bands of scenes degraded, beside bicubic."""
    for scene in scenes:
        for scale in scales:
            if 10 * scale not in scene.bands:
                continue
            ds = scene.cube()
            ds = ds.drop_vars([b for b in GRIDS[60] if b in ds]) if scale == 2 else ds
            for operator in OPERATORS:
                try:
                    scores = ds.dsen2.evaluate(["bicubic", *methods], scale=scale, operator=operator, border=0)
                except xsen2.GridError:
                    continue
                rmse = scores["rmse"].to_pandas()
                for method in methods:
                    for band in rmse.columns:
                        yield {
                            "scene": scene.name,
                            "operator": operator,
                            "method": method,
                            "band": str(band),
                            "bicubic": round(float(rmse.loc["bicubic", band]), 2),
                            "ratio": round(float(rmse.loc[method, band] / rmse.loc["bicubic", band]), 3),
                        }


def markdown(known: list[dict[str, Any]], beside: list[dict[str, Any]]) -> str:
    """Both tables."""
    methods = list(dict.fromkeys(r["method"] for r in known))
    lines = [
        "# Scenes whose truth is known, and scenes that are hard",
        "",
        "`python benchmarks/hard.py DATA` writes this.",
    ]
    lines += [
        "RMSE divided by that of Keys bicubic.",
        "",
        f"| scene | bands | operator | noise, DN | {' | '.join(methods)} |",
    ]
    lines.append("|---|---|---|---|" + "---|" * len(methods))
    for scene, gsd, operator, noise in dict.fromkeys((r["scene"], r["gsd"], r["operator"], r["noise"]) for r in known):
        ratios = {
            r["method"]: r["ratio"]
            for r in known
            if (r["scene"], r["gsd"], r["operator"], r["noise"]) == (scene, gsd, operator, noise)
        }
        lines.append(
            f"| {scene} | {gsd} m | {operator} | {noise:g} | {' | '.join(f'{ratios[m]:.3f}' for m in methods)} |"
        )
    lines += ["", "## Standard errors where the truth is known", ""]
    lines += ["Share of the default's errors within one standard error, which is calibrated on other places at the"]
    lines += [f"lower scale with `product`. Noise: {NOISE:g} DN.", ""]
    names = [b for b in BANDS if any(b in r.get("within one", {}) for r in known)]
    lines += [f"| scene | operator | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for scene, operator in dict.fromkeys((r["scene"], r["operator"]) for r in known):
        rows = [r for r in known if (r["scene"], r["operator"], r["noise"]) == (scene, operator, NOISE)]
        inside = {b: share for r in rows for b, share in r.get("within one", {}).items()}
        lines.append(f"| {scene} | {operator} | {' | '.join(f'{inside[b]:.2f}' for b in names)} |")
    lines += ["", "## Worse than bicubic", "", f"By over 1 %, where bicubic's error is over {LEAST:g} DN.", ""]
    lines += ["| scene | operator | method | band | bicubic, DN | ratio |", "|---|---|---|---|---|---|"]
    bad = [r for r in beside if r["ratio"] > 1.01 and r["bicubic"] > LEAST]
    lines += [
        f"| {r['scene']} | {r['operator']} | {r['method']} | {r['band']} | {r['bicubic']} | {r['ratio']} |" for r in bad
    ]
    lines += ["", f"{len(bad)} of {len(beside)}."]
    return "\n".join([*lines, "", "Contains modified Copernicus Sentinel data 2015-2020.", ""])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["default", *CLASSICAL],
        help="names or paths of weights; of all others, what the results file says is kept",
    )
    parser.add_argument("--only", type=int, choices=[2, 6], help="do one scale, and keep what there is of the other")
    args = parser.parse_args()
    scales = [args.only] if args.only else [2, 6]
    known, beside = kept(args.methods, scales)
    for row in truths(args.data, args.methods, scales):
        print(row, flush=True)
        known.append(row)
    known.sort(key=lambda row: (row["scene"], -row["gsd"], row["operator"], row["noise"], row["method"] in CLASSICAL))
    scenes = [*read_scenes(args.data / "stress"), *read_scenes(args.data / "validation")]
    networks = [method for method in args.methods if method not in CLASSICAL]
    beside += worse([s for s in scenes if "/" not in s.name], networks, scales) if networks else []
    results = {"command": "python benchmarks/hard.py DATA", "truth": known, "beside bicubic": beside}
    (RESULTS / "hard.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "hard.md").write_text(markdown(known, beside))
    print(markdown(known, beside))


if __name__ == "__main__":
    main()
