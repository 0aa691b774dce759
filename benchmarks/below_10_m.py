"""What the classical fusions of dates give where the truth is known: scenes moved, blurred, made coarser, with noise.

    python benchmarks/below_10_m.py ../shared/data/validation ../shared/data/train > below-10-m.md

Each scene is its own truth; `xsen2.multitemporal.simulate` makes the dates of it. Gains are in dB of cPSNR (brightness
apart) over bicubic interpolation of the first frame, means over the four 10 m bands, per scene.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

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
        whole = file["valid10"] if "valid10" in file else np.ones(pixels.shape[1:], bool)
    if pixels.ndim != 3 or not whole.all():  # patches, or cities that were regridded
        return None
    height, width = (min(n, SIDE) // (2 * zoom) * 2 * zoom for n in pixels.shape[1:])
    return pixels[:, :height, :width]


def made(method: Fusion, frames: np.ndarray, fit: Fit) -> np.ndarray:
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
            edge, found = 4 * zoom, []
            plain = cpsnr(upsample(frames[0], zoom), truth, edge)
            for n in FRAMES:
                some = frames[:n]
                fit = fitted(sums_of(some, np.ones(some.shape[2:], bool)), len(truth), None)
                known = replace(fit, shifts=shifts[:n])
                for method, one in ((Median, fit), (Wiener, known), (Wiener, fit)):
                    if method is Median and n == 1:
                        continue
                    found.append(cpsnr(made(method(gsd=10 / zoom, frames=n), some, one), truth, edge) - plain)
            found.append(float(np.sqrt(np.mean((fit.shifts - shifts) ** 2))))
            rows[path.stem] = found
        names = [
            f"{m}, {n}" for n in FRAMES for m in ("median", "Wiener, shifts known", "Wiener") if (m, n) != ("median", 1)
        ]
        print(f"\n## x{zoom}: {10 * zoom} m to 10 m\n")
        print("| scene | " + " | ".join(names) + " | error of shifts (px) |")
        print("|---" * (len(names) + 2) + "|")
        for name, row in rows.items():
            print(f"| {name} | " + " | ".join(f"{x:.2f}" for x in row[:-1]) + f" | {row[-1]:.3f} |", flush=True)
        mean = np.mean(list(rows.values()), axis=0)
        print(
            f"| **mean of {len(rows)}** | " + " | ".join(f"{x:.2f}" for x in mean[:-1]) + f" | {mean[-1]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
