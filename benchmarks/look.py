"""Look at what is made at full scale: python benchmarks/look.py DATA.

Five native scenes of places that no network was trained on, and the stress scenes. Each is shown where it has most
detail, as measured, by bicubic interpolation, by the best classical method there is for the grid, and by the default,
zoomed: once the 20 m bands B12, B11, B8A as colours, once B01, and B09, as grey. No truth is known; what is looked for
is ringing along roads and shores, dark rims, texture on water and cloud, and seams. Writes
`benchmarks/results/look/NAME.png`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.figure import Figure

import xsen2  # noqa: F401  # gives datasets their accessor
from xsen2.bands import grid_of
from xsen2.training.scenes import read_scenes

mpl.use("agg")
OUT = Path(__file__).parent / "results" / "look"
NATIVE = ("crop_coastalA", "crop_usa", "para", "terramind_433D_629L_3_1_L1C", "wroclaw")
ROWS: tuple[tuple[tuple[str, ...], str], ...] = ((("B12", "B11", "B8A"), "regression"), (("B01",), "atprk-matched"))
SIDE = 72  # pixels of 10 m


def busiest(ds: xr.Dataset, side: int = SIDE) -> tuple[int, int]:
    """Where B08 and B11 change most from pixel to pixel: the corner of a window on the 60 m lattice."""
    x = np.nan_to_num(ds["B08"].values.astype(np.float64))
    change = np.abs(np.diff(x, axis=0))[:, :-1] + np.abs(np.diff(x, axis=1))[:-1]
    rows, columns = (range(0, n - side, 24) for n in x.shape)
    detail = {(y, z): np.log1p(change[y : y + side, z : z + side]).mean() for y in rows for z in columns}
    y, z = max(detail, key=lambda place: detail[place]) if detail else (0, 0)
    return y // 6 * 6, z // 6 * 6


def picture(layers: list[npt.NDArray[Any]], low: list[float], high: list[float]) -> npt.NDArray[np.float64]:
    """Bands between two levels each, as colours or grey."""
    parts = [np.clip((x - lo) / max(hi - lo, 1), 0, 1) ** 0.8 for x, lo, hi in zip(layers, low, high, strict=True)]
    return np.stack(parts * (3 if len(parts) == 1 else 1), -1)


def draw(ds: xr.Dataset, name: str) -> Figure:
    """One scene."""
    y, x = busiest(ds)
    rows = [(bands, best) for bands, best in ROWS if all(b in ds for b in bands)]
    fig, axes = plt.subplots(len(rows), 4, figsize=(13, 3.4 * len(rows)), squeeze=False)
    for row, (bands, best) in zip(axes, rows, strict=True):
        factor = grid_of(bands[0]) // 10
        measured = [ds[b].values[y // factor :, x // factor :][: SIDE // factor, : SIDE // factor] for b in bands]
        levels = [np.nanpercentile(z, q) for q in (1, 99) for z in measured]
        low, high = levels[: len(bands)], levels[len(bands) :]
        shown = {"as measured": [z.repeat(factor, 0).repeat(factor, 1) for z in measured]}
        for method in ("bicubic", best, "default"):
            sr = ds.dsen2.superresolve(list(bands), method, native=False)
            shown[method] = [sr[b].isel(y=slice(y, y + SIDE), x=slice(x, x + SIDE)).values for b in bands]
        for axis, (title, layers) in zip(row, shown.items(), strict=True):
            axis.imshow(picture(layers, low, high), interpolation="nearest")
            axis.set_title(f"{title}: {' '.join(bands)}", fontsize=9)
            axis.set_axis_off()
    fig.suptitle(f"{name}. Contains modified Copernicus Sentinel data", fontsize=9)
    fig.tight_layout()
    return fig


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", help="names of scenes")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    scenes = [s for s in read_scenes(args.data / "validation") if s.name in NATIVE]
    for scene in [*scenes, *read_scenes(args.data / "stress")]:
        if args.only and scene.name not in args.only:
            continue
        fig = draw(scene.cube(), scene.name)
        fig.savefig(OUT / f"{scene.name}.png", dpi=72)
        plt.close(fig)
        print(scene.name, flush=True)


if __name__ == "__main__":
    main()
