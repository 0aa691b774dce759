"""s2super (MIT) with its trained weights, started by `benchmarks/s2super_peer.py`: a pair of files a line, in and out.

The package's own function for patches does the work. Its function for whole images needs GDAL in Python and merges
patches with that; here patches of 64 pixels overlap by half along both axes, and where they do, the network's
confidence and the distance to the patch's border are the weights, as there.
"""

from __future__ import annotations

import os
import sys
import types

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.modules["buteo"] = types.ModuleType("buteo")  # what reads rasters, through GDAL; not needed for arrays

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from bilinear import doubled  # noqa: E402
from s2super.super_sample import get_s2super_model  # noqa: E402

SIDE, STEP, GAIN = 64, 32, 10000.0


def corners(size: int) -> list[int]:
    """Where patches begin, the last one flush with the end."""
    return sorted({*range(0, size - SIDE, STEP), size - SIDE})


def sharpened(model: tf.keras.Model, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The bands `b` ``(band, H / 2, W / 2)`` beside B02, B03, B04 ``(3, H, W)``, DN."""
    height, width = a.shape[1:]
    pad = [(0, max(0, SIDE - n)) for n in (height, width)]
    rgb, low = (np.pad(x, [(0, 0), *pad], mode="symmetric") / GAIN for x in (a, doubled(b)))
    places = [(y, x) for y in corners(rgb.shape[1]) for x in corners(rgb.shape[2])]
    edge = np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1]) + 1.0
    near = np.minimum(edge[:, None], edge[None])
    cut = [rgb[:, y : y + SIDE, x : x + SIDE] for y, x in places]
    guide = np.stack(cut).transpose(0, 2, 3, 1).astype(np.float32)
    out = np.empty_like(low)
    for band, whole in enumerate(low):
        target = np.stack([whole[y : y + SIDE, x : x + SIDE] for y, x in places])[..., None].astype(np.float32)
        made = np.concatenate(
            [model([target[i : i + 16], guide[i : i + 16]], training=False) for i in range(0, len(target), 16)]
        )
        total, weight = np.zeros(whole.shape), np.zeros(whole.shape)
        for (y, x), one in zip(places, made, strict=True):
            share = near * np.clip(one[..., 1], 1e-3, 1)
            total[y : y + SIDE, x : x + SIDE] += share * one[..., 0]
            weight[y : y + SIDE, x : x + SIDE] += share
        out[band] = total / weight
    return (out[:, :height, :width] * GAIN).astype(np.float32)


def main() -> None:
    """Answer each line with ``DONE``."""
    model = get_s2super_model()
    print("DONE", flush=True)
    for line in sys.stdin:
        source, target = line.rstrip("\n").split("\t")
        with np.load(source) as pixels:
            np.save(target, sharpened(model, pixels["a"][:3], pixels["b"]))
        print("DONE", flush=True)


if __name__ == "__main__":
    main()
