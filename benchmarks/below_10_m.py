"""What the classical fusions of dates give where the truth is known: scenes moved, blurred, made coarser, with noise.

    python benchmarks/below_10_m.py ../shared/data/validation ../shared/data/train ../shared/data/timeseries

Each scene is its own truth; `xsen2.multitemporal.simulate` makes the dates of it. Gains are in dB of cPSNR (brightness
apart) over bicubic interpolation of the first frame, means over the four 10 m bands, per scene. A folder with a series
of dates gives what real dates do: they lie where they lie, and the ground changes between them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from xsen2.bands import A
from xsen2.engine.operators import observed
from xsen2.methods.bicubic import upsample
from xsen2.multitemporal.fusion import Fusion
from xsen2.multitemporal.interpolation import Median
from xsen2.multitemporal.registration import Fit, fitted, sums_of
from xsen2.multitemporal.simulate import simulate
from xsen2.multitemporal.wiener import Wiener

SIDE = 480  # pixels of a scene that are used
FRAMES = (1, 4, 8)


def truth_of(path: Path, zoom: int) -> np.ndarray | None:
    with np.load(path) as file:
        pixels = file["b10"].astype(np.float32)
        valid = file["valid10"] if "valid10" in file else np.ones(pixels.shape[1:], bool)
    if pixels.ndim != 3 or not valid.all():  # patches, or cities that were regridded
        return None
    height, width = (min(n, SIDE) // (2 * zoom) * 2 * zoom for n in pixels.shape[1:])
    return pixels[:, :height, :width]


def fuse(method: Fusion, frames: np.ndarray, fit: Fit) -> np.ndarray:
    edge, zoom = max(method.halo.values()), method.zoom
    wide = np.pad(frames, [(0, 0), (0, 0), (edge, edge), (edge, edge)], mode="symmetric")
    out = replace(method, fit=fit)(wide, None, None)[: frames.shape[1]]
    return out[:, edge * zoom : -edge * zoom, edge * zoom : -edge * zoom]


def cpsnr(x: np.ndarray, truth: np.ndarray, edge: int) -> float:
    off = (truth - x)[:, edge:-edge, edge:-edge]
    return float(np.mean(-10 * np.log10(off.var(axis=(1, 2)))))


def main(folders: list[str]) -> None:
    paths = sorted(path for folder in folders for path in Path(folder).glob("*.npz"))
    for zoom in (2, 4):
        rows: dict[str, list[float]] = {}
        for path in paths:
            truth = truth_of(path, zoom)
            if truth is None:
                continue
            frames, shifts = simulate(truth, zoom, max(FRAMES), np.random.default_rng(0))
            edge, scores = 4 * zoom, []
            plain = cpsnr(upsample(frames[0], zoom), truth, edge)
            for n in FRAMES:
                subset = frames[:n]
                fit = fitted(sums_of(subset, np.ones(subset.shape[2:], bool)), len(truth), None)
                known = replace(fit, shifts=shifts[:n])
                for method, registered in ((Median, fit), (Wiener, known), (Wiener, fit)):
                    if method is Median and n == 1:
                        continue
                    scores.append(cpsnr(fuse(method(gsd=10 / zoom, frames=n), subset, registered), truth, edge) - plain)
            scores.append(float(np.sqrt(np.mean((fit.shifts - shifts) ** 2))))
            rows[path.stem] = scores
        if not rows:
            continue
        methods = ("median", "Wiener, shifts known", "Wiener")
        names = [f"{m}, {n}" for n in FRAMES for m in methods if (m, n) != ("median", 1)]
        print(f"\n## x{zoom}: {10 * zoom} m to 10 m\n")
        print("| scene | " + " | ".join(names) + " | error of shifts (px) |")
        print("|---" * (len(names) + 2) + "|")
        mean = {f"**mean of {len(rows)}**": np.mean(list(rows.values()), axis=0)}
        for name, row in (rows | mean).items():
            print(f"| {name} | " + " | ".join(f"{x:.2f}" for x in row[:-1]) + f" | {row[-1]:.3f} |", flush=True)
    for path in paths:
        with np.load(path) as file:
            if "time" in file:
                time = file["time"].astype("datetime64[s]").astype(float)
                of_dates(path.stem, file["b10"].astype(np.float32), time, file["clear"])


def of_dates(name: str, pixels: np.ndarray, time: np.ndarray, clear: np.ndarray, zoom: int = 2) -> None:
    """Every second clear date from itself and the seven nearest, all degraded: the same at 20 m, against 10 m."""
    good = np.flatnonzero(clear > 0.99)
    coarse = {i: np.stack([observed(x, band, zoom, "mtf") for x, band in zip(pixels[i], A, strict=True)]) for i in good}
    rows = []
    for i in good[::2]:
        near = sorted(good, key=lambda j, i=i: (j != i, abs(time[j] - time[i])))[: max(FRAMES)]
        frames = np.stack([coarse[j] for j in near])
        plain = cpsnr(upsample(frames[0], zoom), pixels[i], 3 * zoom)
        row: list[float] = []
        for method, subset in ((Wiener, frames[:1]), (Wiener, frames[[0] * 8]), (Wiener, frames), (Median, frames)):
            fit = fitted(sums_of(subset, np.ones(subset.shape[2:], bool)), len(A), None)
            used = np.flatnonzero(fit.used)
            estimate = fuse(method(gsd=10 / zoom, frames=len(used)), subset[used], fit.take(used))
            row.append(cpsnr(estimate, pixels[i], 3 * zoom) - plain)
        rows.append([*row, row[2] - row[0], len(used)])
    table = np.array(rows)
    print(f"\n## {name}, {len(table)} dates, {10 * zoom} m to 10 m, real neighbours in time\n")
    print("| | Wiener, 1 | Wiener, 8 copies | Wiener, 8 dates | median, 8 dates | 8 dates less 1 | dates used |")
    print("|---" * 7 + "|")
    for what, of in (("mean", np.mean), ("least", np.min), ("most", np.max)):
        print(f"| {what} | " + " | ".join(f"{x:.2f}" for x in of(table, axis=0)) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
