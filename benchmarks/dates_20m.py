"""Do other dates help the 20 m bands? See with: python benchmarks/dates_20m.py ../shared/data.

On real dates of one place, one scale up: 40 → 20 m. The target date's six 20 m bands are made (a) of that date alone,
by the default network; (b) of the same, plus a share of what a fusion of its N nearest clear dates, all at 40 m, has
beyond the fusion of that date alone: the least-squares share, found on the other target dates. Writes
`benchmarks/results/dates_20m.md`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

import xsen2  # noqa: F401  # the accessor
from xsen2.bands import GRIDS
from xsen2.engine.operators import observed
from xsen2.multitemporal.registration import fitted, sums_of
from xsen2.multitemporal.wiener import Wiener

RESULTS = Path(__file__).parent / "results"
SERIES = Path("timeseries/T31UDS_2017_2018_L2A.npz")


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--targets", type=int, default=10)
    args = parser.parse_args()
    with np.load(args.data / SERIES, allow_pickle=False) as file:
        kept = np.flatnonzero((file["clear"] >= 0.98) & (file["b10"].min(axis=(1, 2, 3)) > 0))
        days = np.array([str(t)[:19] for t in file["time"][kept]], "datetime64[ns]")
        order = np.argsort(days, kind="stable")
        b10, b20 = (file[name][kept][order].astype(np.float32) for name in ("b10", "b20"))
        days = days[order]
    size = b20.shape[-1] // 6 * 6, b20.shape[-2] // 6 * 6
    b20 = b20[:, :, : size[1], : size[0]]
    b10 = b10[:, :, : 2 * size[1], : 2 * size[0]]
    low = coarser(b10, b20)
    targets = np.linspace(1, len(days) - 2, args.targets).round().astype(int)
    lines = ["# The 20 m bands from several dates, 40 → 20 m on real dates", "", __doc__.split("\n\n")[1], ""]
    lines += [
        "| dates | RMSE of one date, DN | with the others | change | share, least squares |",
        "|---|---|---|---|---|",
    ]
    for frames in args.frames:
        alone, extra, truth = [], [], []
        for target in targets:
            near = np.sort(np.argsort(np.abs(days - days[target]), kind="stable")[:frames])
            alone.append(network(low, target))
            extra.append(fused(low[1], b20, near, target) - fused(low[1], b20, near[:0], target))
            truth.append(b20[target])
        before, after, shares = [], [], []
        for i in range(len(targets)):
            others = [j for j in range(len(targets)) if j != i]
            gap = np.stack([truth[j] - alone[j] for j in others])
            more = np.stack([extra[j] for j in others])
            share = (gap * more).sum(axis=(0, 2, 3)) / (more**2).sum(axis=(0, 2, 3))
            shares.append(share)
            before.append(rmse(alone[i] - truth[i]))
            after.append(rmse(alone[i] + share[:, None, None] * extra[i] - truth[i]))
        single, several = np.mean(before), np.mean(after)
        cells = " ".join(f"{b} {x:.2f}" for b, x in zip(GRIDS[20], np.mean(shares, axis=0), strict=True))
        lines.append(f"| {frames} | {single:.2f} | {several:.2f} | {several / single - 1:+.1%} | {cells} |")
        print(lines[-1], flush=True)
    lines += ["", f"{len(targets)} target dates, {b20.shape[-2]} x {b20.shape[-1]} pixels of 20 m, one place."]
    (RESULTS / "dates_20m.md").write_text("\n".join(lines) + "\n")


def rmse(error: np.ndarray) -> float:
    """Mean over bands, without two pixels of edge."""
    return float(np.sqrt((error[:, 2:-2, 2:-2] ** 2).mean(axis=(1, 2))).mean())


def coarser(b10: np.ndarray, b20: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both stacks degraded by 2 with the operator mtf."""
    return tuple(
        np.stack([observed(stack[:, i], band, 2, "mtf") for i, band in enumerate(GRIDS[gsd])], axis=1)
        for gsd, stack in ((10, b10), (20, b20))
    )


def network(low: tuple[np.ndarray, np.ndarray], target: int) -> np.ndarray:
    """The default network on one date: six bands at 20 m."""
    a, b = (stack[target] for stack in low)
    fine, coarse = a.shape[-2:], b.shape[-2:]
    variables = {name: (("y", "x"), band) for name, band in zip(GRIDS[10], a, strict=True)}
    variables |= {name: (("y_20m", "x_20m"), band) for name, band in zip(GRIDS[20], b, strict=True)}
    coords = {"y": -10.0 * np.arange(fine[0]) - 5, "x": 10.0 * np.arange(fine[1]) + 5}
    coords |= {"y_20m": -20.0 * np.arange(coarse[0]) - 10, "x_20m": 20.0 * np.arange(coarse[1]) + 10}
    sr = xr.Dataset(variables, coords).dsen2.superresolve(native=False)
    return np.stack([sr[name].values for name in GRIDS[20]])


def fused(b: np.ndarray, native: np.ndarray, near: np.ndarray, target: int) -> np.ndarray:
    """The linear fusion of some dates, four bands at a time in the place of the 10 m ones.

    Shifts are found on the 20 m grid, where there are pixels enough to find them.
    """
    order = np.r_[target, near[near != target]]
    parts = []
    for chosen in ((0, 1, 2, 3), (4, 5, 4, 5)):
        bands = list(chosen)
        stack = native[order][:, bands]
        fit = fitted(sums_of(stack, np.ones(stack.shape[-2:], bool)), 4, None)
        fit = replace(fit, shifts=fit.shifts / 2, errors=fit.errors / 2)
        names = tuple(GRIDS[20][k] for k in bands)
        method = replace(Wiener(gsd=5, frames=len(order)).of(names), fit=fit)
        edge = method.halo[10]
        x = np.pad(b[order][:, bands], [(0, 0), (0, 0), (edge, edge), (edge, edge)], mode="symmetric")
        parts.append(method(x, x[:0], x[:0])[:4, 2 * edge : -2 * edge, 2 * edge : -2 * edge])
    return np.concatenate([parts[0], parts[1][:2]])


if __name__ == "__main__":
    main()
