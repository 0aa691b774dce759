"""DSen2 in Keras on TensorFlow, as its authors run it; written from the paper. Started by `benchmarks/keras_peer.py`.

Lanaras et al. (2018): ten bands at 10 m, the 20 m ones interpolated, a convolution of 128 features, six residual blocks
scaled by 0.1, a convolution to six bands, which are added to those interpolated. The image is mirrored at its
edges and cut into patches of 128 x 128 pixels, of which a border of 8 is thrown away. `predict` gets all patches
and takes 32 at a time, its default.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
from bilinear import doubled
from keras import layers

PATCH, BORDER, BATCH, GAIN = 128, 8, 32, 2000
THREADS = 2


def network() -> keras.Model:
    """Channels last: TensorFlow has no other convolutions for CPUs."""
    fine, coarse = keras.Input((None, None, 4)), keras.Input((None, None, 6))
    x = layers.Concatenate()([fine, coarse])
    x = layers.Conv2D(128, 3, padding="same", activation="relu", kernel_initializer="he_uniform")(x)
    for _ in range(6):
        y = layers.Conv2D(128, 3, padding="same", activation="relu", kernel_initializer="he_uniform")(x)
        y = layers.Conv2D(128, 3, padding="same", kernel_initializer="he_uniform")(y)
        x = layers.Add()([x, layers.Rescaling(0.1)(y)])
    x = layers.Conv2D(6, 3, padding="same", kernel_initializer="he_uniform")(x)
    return keras.Model([fine, coarse], layers.Add()([x, coarse]))


def corners(size: int) -> list[int]:
    """Where patches start in the mirrored image, the last one flush with its end."""
    step, last = PATCH - 2 * BORDER, size + 2 * BORDER - PATCH
    return [min(i * step, last) for i in range(-(-size // step))]


def patches(image: np.ndarray, factor: int) -> np.ndarray:
    """``(N, h, w, band)`` of an image ``(H, W, band)``, `factor` times coarser than 10 m."""
    edge, side = BORDER // factor, PATCH // factor
    padded = np.pad(image, ((edge, edge), (edge, edge), (0, 0)), mode="symmetric")
    starts = [[start // factor for start in corners(n * factor)] for n in image.shape[:2]]
    return np.stack([padded[y : y + side, x : x + side] for y in starts[0] for x in starts[1]])


def together(made: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Patches without their borders as one image ``(band, H, W)``."""
    out = np.empty((made.shape[-1], *shape), np.float32)
    inner = made[:, BORDER:-BORDER, BORDER:-BORDER].transpose(0, 3, 1, 2)
    places = [(y, x) for y in corners(shape[0]) for x in corners(shape[1])]
    for (y, x), patch in zip(places, inner, strict=True):
        out[:, y : y + patch.shape[1], x : x + patch.shape[2]] = patch
    return out


def main(folder: Path) -> None:
    """Warm up, then a run for every line."""
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    model = network()
    with np.load(folder / "pixels.npz") as stored:
        fine, coarse = (np.moveaxis(stored[name], 0, -1) for name in "ab")
        weights = [stored[f"w{i}"] for i in range(len(stored.files) - 2)]
    model.set_weights(weights)

    def run(fine: np.ndarray, coarse: np.ndarray) -> tuple[np.ndarray, float]:
        inputs = [patches(fine, 1) / GAIN, doubled(patches(coarse, 2) / GAIN)]
        start = time.perf_counter()
        made = model.predict(inputs, batch_size=BATCH, verbose=0)
        took = time.perf_counter() - start
        return together(made, fine.shape[:2]) * GAIN, took

    # Both sizes of batch that will come: the network is compiled for each.
    count = len(corners(fine.shape[0])) * len(corners(fine.shape[1]))
    for n in {min(BATCH, count), count % BATCH} - {0}:
        zeros = [np.zeros((n, PATCH, PATCH, bands), np.float32) for bands in (4, 6)]
        model.predict(zeros, batch_size=BATCH, verbose=0)
    about = {"tensorflow": tf.__version__, "keras": keras.__version__, "weights": model.count_params()}
    print("RESULT", json.dumps({**about, "patches": count}), flush=True)
    for turn, _ in enumerate(sys.stdin):
        start = time.perf_counter()
        out, predict = run(fine, coarse)
        answer = {"seconds": time.perf_counter() - start, "predict, s": predict}
        if turn == 0:
            np.save(folder / "out.npy", out)
        print("RESULT", json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
