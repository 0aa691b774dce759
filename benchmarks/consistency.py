"""What consistency does to the default method: python benchmarks/consistency.py ../shared/data.

Every validation scene is degraded by 2 (20 m bands) and by 6 (60 m bands), super-resolved back with and without
consistency, and compared with itself, through the calls a user makes. Three ways to degrade: `mtf`, `dsen2`, and
`resampled`, which is `mtf` with what happens to a real product besides: the instrument samples each band at a place of
its own, up to a third of a pixel off, the samples are interpolated onto the grid (here by Keys cubic), the blur is
known to 5 %, and there is noise of 3 DN. Consistency is asked for with `mtf` and with `dsen2`, one of which matches
at most.

Two numbers that need no truth show how real a way to degrade is, since scenes as they were measured have them too. How
much of the fine structure of B8A is a linear function of the 10 m bands, degraded to 20 m: B08 sees nearly the same
light, so what is missing is what the operator leaves out. And how far the default's own result is from being
consistent with `mtf`, as a share of how far bicubic is.

Also measures what the projection costs on a block of 1200 x 1200 pixels, beside bicubic and the network.
Writes `benchmarks/results/consistency.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

import xsen2
from xsen2.bands import A, B, grid_of
from xsen2.engine.consistency import project
from xsen2.engine.operators import degrade_array, taps
from xsen2.evaluation.metrics import compare
from xsen2.methods.bicubic import keys, upsample
from xsen2.training.scenes import Scene, read_scenes

Floats = npt.NDArray[np.float32]
RESULTS = Path(__file__).parent / "results"
WATER = ("bigearthnet_patches/5", "bigearthnet_patches/6", "bigearthnet_patches/8")
PHASE, BLUR, NOISE = 1 / 3, 0.05, 3.0  # pixels, share, DN
WAYS: dict[str, dict[str, Any]] = {
    "bicubic": {"method": "bicubic", "consistency": False},
    "default": {"method": "default", "consistency": False},
    "default, mtf": {"method": "default", "consistency": True, "operator": "mtf"},
    "default, dsen2": {"method": "default", "consistency": True, "operator": "dsen2"},
}


def degraded(ds: xr.Dataset, scale: int, how: str, rng: np.random.Generator) -> tuple[xr.Dataset, xr.Dataset]:
    """The coarse cube and the truth; `how` is an operator or ``"resampled"``."""
    coarse, truth = ds.degrade.pair(scale, "mtf" if how == "resampled" else how)
    coarse = coarse.compute()
    for band in coarse.data_vars if how == "resampled" else ():
        fine = ds[band].values[..., : coarse[band].shape[-2] * scale, : coarse[band].shape[-1] * scale]
        coarse[band] = coarse[band].copy(data=resampled(fine, str(band), scale, rng))
    return coarse, truth


def resampled(fine: Floats, band: str, scale: int, rng: np.random.Generator) -> Floats:
    """What an instrument measures at its own places, interpolated onto the grid."""
    blur, *phases = rng.uniform(1 - BLUR, 1 + BLUR), *rng.uniform(-PHASE, PHASE, 2)
    rows, columns = (taps(band, scale, blur=blur, shift=phase * scale) for phase in phases)
    out = degrade_array(fine, *rows, scale, columns)
    out += rng.normal(0, NOISE, out.shape).astype(np.float32)
    for axis, phase in enumerate(phases):
        padded = np.pad(out, [(2, 2) if a == axis else (0, 0) for a in (0, 1)], mode="symmetric")
        parts = (padded[k : k + len(out)] if axis == 0 else padded[:, k : k + out.shape[1]] for k in range(5))
        out = np.sum([np.float32(keys(phase + k - 2)) * part for k, part in enumerate(parts)], axis=0)
    return out


def realism(cube: xr.Dataset) -> tuple[float, float]:
    """How much of B8A's fine structure the 10 m bands explain; how far the default is from consistent, over bicubic."""
    known = [degrade_array(cube[b].values, *taps(b, 2), 2) for b in A]
    known.append(known[2] * known[3] / 3000)  # vegetation and soil together are not quite linear
    *x, y = (_fine(image) for image in (*known, cube["B8A"].values))
    seen = np.isfinite([*x, y]).all(axis=0)
    matrix = np.stack([image[seen] for image in x], axis=1)
    weights = np.linalg.lstsq(matrix, y[seen], rcond=None)[0]
    explained = 1 - np.mean((y[seen] - matrix @ weights) ** 2) / y[seen].var()
    off = {
        w: cube.dsen2.superresolve(list(B), native=False, dtype="float32", **WAYS[w]).compute() for w in list(WAYS)[:2]
    }
    shares = [np.divide(*(residual(off[w], cube, b, "mtf") for w in ("default", "bicubic"))) for b in B]
    return float(explained), float(np.sqrt(np.mean(shares)))


def residual(sr: xr.Dataset, cube: xr.Dataset, band: str, operator: str) -> float:
    """Mean square of what was given less the result degraded, DN²."""
    scale = grid_of(band) // 10
    back = degrade_array(sr[band].values, *taps(band, scale, operator), scale)
    return float(np.nanmean(np.square(cube[band].values - back)))


def _fine(x: Floats) -> Floats:
    return x[1:-1, 1:-1] - (x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]) / 4


def score(scene: Scene, scale: int, how: str) -> dict[str, Any] | None:
    """Per way: squared error and residual per band, DN²."""
    gsd = 10 * scale
    if gsd not in scene.bands:
        return None
    ds = scene.cube()
    if gsd == 20:
        ds = ds.drop_vars(["B01", "B09"], errors="ignore")
    try:
        coarse, truth = degraded(ds, scale, how, np.random.default_rng(0))
    except xsen2.GridError:
        return None
    bands = [str(b) for b in truth.data_vars]
    out: dict[str, Any] = {"ways": {}}
    for way, arguments in WAYS.items():
        sr = coarse.dsen2.superresolve(bands, native=False, dtype="float32", **arguments).compute()
        scores = compare(sr, truth, ratio=scale).compute()
        left = {b: residual(sr, coarse, b, arguments["operator"]) for b in bands if "operator" in arguments}
        out["weights"] = sr.attrs["xsen2_method"]
        out["ways"][way] = {
            "mse": {b: float(v) ** 2 for b, v in zip(bands, scores["rmse"].values, strict=True)},
            "left": left,
        }
    if scale == 2:
        out["degraded"] = realism(coarse)
        if how == "mtf":
            out["measured"] = realism(ds)
    return {"pixels": int(scores["pixels"].max()), **out}


def pool(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Patches of one file together: mean over bands of the RMSE, its ratio to bicubic's, the largest residual."""
    weight = np.array([p["pixels"] for p in parts], float)
    weight /= weight.sum()
    rmse, left = {}, {}
    for way in WAYS:
        ways = [p["ways"][way] for p in parts]
        rmse[way] = float(np.mean([np.sqrt(weight @ [w["mse"][b] for w in ways]) for b in ways[0]["mse"]]))
        if ways[0]["left"]:
            left[way] = float(np.sqrt(max(v for w in ways for v in w["left"].values())))
    real = {key: [p[key] for p in parts if key in p] for key in ("degraded", "measured")}
    return {
        **{key: np.mean(values, axis=0).round(3).tolist() for key, values in real.items() if values},
        "rmse": {w: round(v, 2) for w, v in rmse.items()},
        "ratio": {w: round(rmse[w] / rmse["bicubic"], 4) for w in WAYS if w != "bicubic"},
        "residual": {w: round(v, 5) for w, v in left.items()},
    }


def clock() -> dict[str, float]:
    """Seconds of CPU for one block of 1200 x 1200 pixels, six 20 m bands or two 60 m bands; the best of three."""
    rng = np.random.default_rng(0)
    out = {}
    for gsd, names in ((20, ("B05", "B06", "B07", "B8A", "B11", "B12")), (60, ("B01", "B09"))):
        scale = gsd // 10
        y = rng.normal(1500, 300, (1200 // scale, 1200 // scale)).astype(np.float32)
        holed = np.where(rng.random(y.shape) < 0.02, np.float32(np.nan), y)
        valid = np.isfinite(holed).repeat(scale, 0).repeat(scale, 1)
        x = upsample(y, scale)
        everywhere = np.ones_like(valid)
        jobs = {
            "bicubic": lambda b, y=y, s=scale: upsample(y, s),
            "projection": lambda b, x=x, y=y, v=everywhere: project(x, y, v, b, "mtf"),
            "projection, 2 % nodata": lambda b, x=x, y=holed, v=valid: project(x, y, v, b, "mtf"),
        }
        for name, job in jobs.items():
            times = []
            for _ in range(3):
                start = time.process_time()
                for band in names:
                    job(band)
                times.append(time.process_time() - start)
            out[f"{gsd} m, {name}"] = round(min(times), 3)
    rng = np.random.default_rng(0)
    for gsd in (20, 60):
        ds = block(rng, 1200)
        bands = [b for b in ds.data_vars if grid_of(str(b)) == gsd]
        for name, on in (("default", False), ("default, consistent", True)):
            sr = ds.dsen2.superresolve(bands, "default", native=False, dtype="float32", consistency=on)
            times = []
            for _ in range(3):
                start = time.process_time()
                sr.compute(scheduler="synchronous")
                times.append(time.process_time() - start)
            out[f"{gsd} m, {name}"] = round(min(times), 2)
    return out


def block(rng: np.random.Generator, size: int) -> xr.Dataset:
    """A cube of `size` pixels of 10 m, one chunk."""
    noise = {10: (4, size, size), 20: (6, size // 2, size // 2), 60: (2, size // 6, size // 6)}
    bands = {g: rng.normal(1500, 300, shape).astype(np.float32) for g, shape in noise.items()}
    return Scene("noise", bands, {g: np.ones(s[1:], bool) for g, s in noise.items()}, epsg=32631).cube().chunk()


def main() -> None:
    """Score all scenes, time, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"), help="holds validation/")
    args = parser.parse_args()
    table: dict[str, dict[str, Any]] = {}
    for scale in (2, 6):
        for how in ("mtf", "dsen2", "resampled"):
            files: dict[str, list[dict[str, Any]]] = defaultdict(list)
            water = {}
            for scene in read_scenes(args.data / "validation"):
                if result := score(scene, scale, how):
                    files[scene.name.split("/")[0]].append(result)
                    if scene.name in WATER:
                        water[scene.name] = pool([result])
            rows = {file: pool(parts) for file, parts in files.items()}
            weights = next(iter(files.values()))[0]["weights"]
            table[f"{10 * scale} m, {how}"] = {"weights": weights, "scenes": rows, "water": water}
            print(f"{10 * scale} m, {how}", {w: mean(rows, w) for w in WAYS if w != "bicubic"}, flush=True)
    seconds = clock()
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(
        {"command": "python benchmarks/consistency.py DATA", "seconds": seconds, "scores": table}, indent=1
    )
    (RESULTS / "consistency.json").write_text(text + "\n")
    (RESULTS / "consistency.md").write_text(markdown(table, seconds))
    print(markdown(table, seconds))


def mean(rows: dict[str, Any], way: str) -> float:
    """Of the ratios to bicubic over the scenes."""
    return round(float(np.mean([row["ratio"][way] for row in rows.values()])), 4)


def markdown(table: dict[str, dict[str, Any]], seconds: dict[str, float]) -> str:
    """The tables."""
    ways = [w for w in WAYS if w != "bicubic"]
    lines = [
        "# Consistency of the default method",
        "",
        "RMSE divided by that of Keys bicubic, mean over scenes (worst scene), without consistency and made consistent",
        "with either operator; on how many scenes that is better than without; and the largest RMSE, in DN, between",
        "what was given and the result degraded, over all scenes and bands. `resampled` is `mtf` with every band",
        f"sampled up to {PHASE:.2f} pixels off and interpolated onto the grid, the blur up to {100 * BLUR:g} % off,",
        f"and {NOISE:g} DN of noise. Contains modified Copernicus Sentinel data 2015-2020.",
        f"Weights: {', '.join(dict.fromkeys(result['weights'] for result in table.values()))}.",
        "",
        "| bands, degraded by | scenes | " + " | ".join(ways) + " | residual after, DN |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in table.items():
        rows = result["scenes"]
        cells = []
        for way in ways:
            better = sum(r["ratio"][way] < r["ratio"]["default"] for r in rows.values())
            worst = max(r["ratio"][way] for r in rows.values())
            cells.append(f"{mean(rows, way):.3f} ({worst:.3f})" + ("" if way == "default" else f", {better} better"))
        left = max(v for r in rows.values() for v in r["residual"].values())
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + f" | {left:.5f} |")
    lines += [
        "",
        "How real that is, median over scenes, 20 m bands: how much of the fine structure of B8A is a linear function",
        "of that of the 10 m bands (R²); and how far the default is from being consistent with `mtf`, divided by how",
        "far bicubic is.",
        "",
        "| | B8A explained | default / bicubic |",
        "|---|---|---|",
    ]
    for name, result in table.items():
        for key, what in (("degraded", f"degraded by {name.split()[-1]}"), ("measured", "as measured")):
            if rows := [row[key] for row in result["scenes"].values() if key in row]:
                lines.append("| {} | {:.2f} | {:.2f} |".format(what, *np.median(rows, axis=0)))
    for title, key in (("Every scene", "scenes"), ("Patches of featureless water", "water")):
        lines += ["", f"## {title}", "", "RMSE in DN, mean over bands.", ""]
        lines += ["| bands, degraded by | scene | " + " | ".join(WAYS) + " |", "|---|---|" + "---|" * len(WAYS)]
        for name, result in table.items():
            for scene, row in result[key].items():
                lines.append(f"| {name} | {scene} | " + " | ".join(f"{row['rmse'][w]:.2f}" for w in WAYS) + " |")
    lines += ["", "## Cost", "", "CPU seconds for 1200 x 1200 pixels of 10 m, all bands of a grid.", ""]
    lines += ["| what | seconds |", "|---|---|", *(f"| {name} | {value} |" for name, value in seconds.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
