"""Draw the pictures of the documentation: ``python docs/pictures.py ../shared/data/validation``.

Contains modified Copernicus Sentinel data 2015-2020.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import xsen2  # noqa: F401  registers the accessors
from xsen2.training.scenes import read_scenes

mpl.use("agg")
IMAGES = Path(__file__).parent / "images"
SWIR = ("B12", "B11", "B8A")
PLACES = {"wroclaw": (0.35, 0.35), "para": (0.5, 0.5), "terramind_433D_629L_3_1_L1C": (0.4, 0.4)}
SIDE = 96  # 10 m pixels of each picture


def opened(folder, name):
    """A scene of the folder as a cube."""
    return next(scene for scene in read_scenes(folder) if scene.name == name).cube()


def crop(ds, place, side=SIDE):
    """A window at a share of the height and width, on edges of 60 m pixels."""
    rows, columns = (6 * (n // 6) for n in (ds.sizes["y"], ds.sizes["x"]))
    y, x = (min(int(share * n) // 6 * 6, n - side) for share, n in zip(place, (rows, columns), strict=True))
    return {f: (slice(y // f, (y + side) // f), slice(x // f, (x + side) // f)) for f in (1, 2, 6)}


def rgb(layers, low, high):
    """Bands as colours, between two levels of each."""
    return np.clip((np.stack(layers, -1) - low) / (high - low), 0, 1) ** 0.8


def places(folder):
    """Three places, as measured, by bicubic interpolation, and by the default."""
    fig, axes = plt.subplots(3, 3, figsize=(9.6, 9.8))
    for number, (row, (name, place)) in enumerate(zip(axes, PLACES.items(), strict=True)):
        cube = opened(folder, name)
        window = crop(cube, place)
        native = [cube[b].values[window[2]] for b in SWIR]
        low, high = (np.percentile(np.stack(native, -1), q, axis=(0, 1)) for q in (1, 99))
        pictures = [rgb([x.repeat(2, 0).repeat(2, 1) for x in native], low, high)]
        for method in ("bicubic", "default"):
            sr = cube.dsen2.superresolve(SWIR, method=method, native=False)
            pictures.append(rgb([sr[b].values[window[1]] for b in SWIR], low, high))
        for axis, picture, title in zip(row, pictures, ("as measured, 20 m", "bicubic", "xsen2, 10 m"), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
            if number == 0:
                axis.set_title(title, fontsize=11)
    fig.tight_layout(pad=0.4)
    fig.savefig(IMAGES / "places.png", dpi=110)


def grids(folder):
    """One area on its three grids."""
    cube = opened(folder, "wroclaw")
    window = crop(cube, PLACES["wroclaw"], 60)
    fig, axes = plt.subplots(1, 3, figsize=(9.6, 3.5))
    for axis, (band, factor) in zip(axes, (("B08", 1), ("B8A", 2), ("B09", 6)), strict=True):
        x = cube[band].values[window[factor]]
        axis.imshow(x, cmap="gray", interpolation="nearest", vmin=np.percentile(x, 2), vmax=np.percentile(x, 98))
        axis.set_title(f"{band}, {10 * factor} m: {x.shape[0]} x {x.shape[1]} pixels", fontsize=10)
        axis.set_axis_off()
    fig.tight_layout(pad=0.4)
    fig.savefig(IMAGES / "grids.png", dpi=110)


def steps(folder):
    """What the regression makes of a band, and what the network adds."""
    import torch

    from xsen2.networks.refined import start

    cube = opened(folder, "wroclaw")
    window = crop(cube, PLACES["wroclaw"])
    a, b = (
        torch.from_numpy(np.stack([cube[x].values for x in names]).astype(np.float32))[None] / 2000
        for names in (("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12"))
    )
    rows, columns = (6 * (n // 6) for n in a.shape[-2:])
    a, b = a[..., :rows, :columns], b[..., : rows // 2, : columns // 2]
    with torch.no_grad():
        begun = start(a, b)
    number = 4  # B11
    regression = 2000 * (begun.base + begun.detail)[0, number].numpy()[window[1]]
    measured = cube["B11"].values[window[2]].repeat(2, 0).repeat(2, 1)
    result = cube.dsen2.superresolve(["B11"], native=False)["B11"].values[window[1]]
    added = result - regression
    low, high = np.percentile(measured, 1), np.percentile(measured, 99)
    most = np.percentile(np.abs(added), 99)
    fig, axes = plt.subplots(1, 4, figsize=(12, 3.3))
    for axis, picture, title in zip(
        axes,
        (measured, regression, added, result),
        ("as measured", "local regression", f"what the network adds, ±{most:.0f} DN", "result"),
        strict=True,
    ):
        one = picture is added
        axis.imshow(
            picture,
            cmap="RdBu" if one else "gray",
            vmin=-most if one else low,
            vmax=most if one else high,
            interpolation="nearest",
        )
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    fig.tight_layout(pad=0.4)
    fig.savefig(IMAGES / "steps.png", dpi=110)


if __name__ == "__main__":
    data = Path(sys.argv[1])
    for draw in (places, grids, steps):
        draw(data)
