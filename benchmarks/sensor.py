"""How real products' bands relate, beside the same scenes degraded: python benchmarks/sensor.py ../shared/data.

For every native scene (never regridded: no pixel is marked as not real) `ds.dsen2.sensor()` at full scale, and once it
has been degraded by 2 (20 m bands) or 6 (60 m bands) with `mtf` and with `product`. From the three follow, per band and
direction, the multiples of `mtf`'s sigma with which the degraded scene would show the blur of the real one: what
`xsen2.engine.operators.PRODUCT` should hold. Writes `benchmarks/results/sensor.json` and `sensor.md`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from xsen2.bands import B, C, grid_of
from xsen2.cube import DIMS
from xsen2.engine.operators import PRODUCT
from xsen2.errors import GridError
from xsen2.training.scenes import Scene, read_scenes

RESULTS = Path(__file__).parent / "results"
SIDE = 1440  # 10 m pixels of a scene, at most
KEEP = 0.1  # residuals over this say nothing about blur; those of the short-wave infrared are larger everywhere


def estimates(ds: xr.Dataset) -> dict[str, list[float]]:
    """Band → blur along and across, shift along and across, residual."""
    fit = ds.dsen2.sensor().compute()
    table = np.concatenate([fit["blur"], fit["shift"], fit["residual"].values[:, None]], axis=1)
    return {str(b): [round(float(x), 4) for x in row] for b, row in zip(fit["band"].values, table, strict=True)}


def measure(scene: Scene) -> dict[str, Any] | None:
    """All estimates of a scene; None if it has been regridded, or is too small."""
    if not all(valid.all() for valid in scene.valid.values()) or min(scene.valid[10].shape) < 240:
        return None
    ds = scene.cube()
    ds = ds.isel({d: slice(SIDE * 10 // g) for g, (y, x) in DIMS.items() for d in (y, x) if d in ds.dims})
    out: dict[str, Any] = {"level": scene.level, "real": estimates(ds)}
    for operator in ("mtf", "product"):
        out[operator] = {}
        for scale, drop in ((2, C), (6, B)):
            try:
                coarse = ds.drop_vars([b for b in drop if b in ds]).degrade(scale, operator)
                out[operator] |= estimates(coarse)
            except (GridError, xr.MergeError, ValueError):
                continue
    return out


def multiple(scene: dict[str, Any], band: str, axis: int) -> float:
    """The multiple of `mtf`'s sigma that gives the real blur: variances are linear in its square."""
    real, plain, wide = (scene[k].get(band, [np.nan] * 5) for k in ("real", "mtf", "product"))
    if real[4] > (KEEP if band not in ("B11", "B12") else 0.2):
        return float("nan")
    low, high, want = plain[axis] ** 2, wide[axis] ** 2, real[axis] ** 2
    known = PRODUCT[band][axis] ** 2 - 1
    if abs(high - low) < 1e-3:
        return float("nan")
    square = 1 + known * (want - low) / (high - low)
    return float(np.sqrt(square)) if square > 0.2 else float("nan")


def markdown(scenes: dict[str, Any]) -> str:
    """Medians over scenes, with quartiles."""
    lines = [
        "# Effective blur of products, and of scenes degraded",
        "",
        "`python benchmarks/sensor.py DATA` writes this. `ds.dsen2.sensor()` on the native scenes, medians, in",
        "brackets the quartiles; sigmas in pixels of the finest grid, along / across the track. Multiple: of the",
        "sigma of `mtf` with which a degraded scene shows the blur of the real one. Residual: share of the variance.",
        "Scenes: " + ", ".join(f"{name} ({scene['level']})" for name, scene in scenes.items()) + ".",
        "",
        "| band | scenes | full scale | shift | residual | degraded by `mtf` | by `product` | multiple | across |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def middle(values: list[float], form: str = "{:.2f}") -> str:
        finite = np.array([v for v in values if np.isfinite(v)])
        if not len(finite):
            return "–"
        low, mid, high = np.percentile(finite, (25, 50, 75))
        return f"{form.format(mid)} ({form.format(low)} to {form.format(high)})"

    for band in (*B, *C):
        shown = [s for s in scenes.values() if band in s["real"] and np.isfinite(s["real"][band][0])]
        if not shown:
            continue
        cells = [band, str(len(shown))]
        cells.append(" / ".join(middle([s["real"][band][i] for s in shown]) for i in (0, 1)))
        cells.append(" / ".join(middle([s["real"][band][i] for s in shown], "{:+.2f}") for i in (2, 3)))
        cells.append(middle([s["real"][band][4] for s in shown], "{:.3f}"))
        for operator in ("mtf", "product"):
            degraded = [s[operator][band] for s in shown if band in s[operator]]
            cells.append(" / ".join(middle([t[i] for t in degraded]) for i in (0, 1)))
        cells += [middle([multiple(s, band, i) for s in shown]) for i in (0, 1)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Contains modified Copernicus Sentinel data 2015-2020.", ""])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    args = parser.parse_args()
    scenes: dict[str, Any] = {}
    with dask.config.set(scheduler="sync"):
        for part in ("train", "validation"):
            for scene in read_scenes(args.data / part):
                if (entry := measure(scene)) is not None:
                    scenes[scene.name] = entry
                    print(scene.name, {b: entry["real"][b][:2] for b in entry["real"]}, flush=True)
    assert grid_of("B01") == 60
    (RESULTS / "sensor.json").write_text(
        json.dumps({"command": "python benchmarks/sensor.py DATA", "scenes": scenes}, indent=1) + "\n"
    )
    (RESULTS / "sensor.md").write_text(markdown(scenes))


if __name__ == "__main__":
    main()
