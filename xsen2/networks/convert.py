"""A user's own download of the authors' Keras weights, DSen2 and VDSen2, into the library's format."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xsen2.bands import A, B, C
from xsen2.cube import DIMS
from xsen2.degrade import pair
from xsen2.errors import WeightsError
from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import Array
from xsen2.networks import local
from xsen2.networks.cards import GAIN, Card
from xsen2.networks.dsen2 import DSen2
from xsen2.networks.keras import FED, read_keras
from xsen2.networks.load import halo_of
from xsen2.sources.sample import sample

__all__ = ["SCORE", "STORAGE", "convert"]

RELEASED = {(6, 128): ("DSen2", "dsen2-official"), (32, 256): ("VDSen2", "vdsen2-official")}
"""What the authors have released, by blocks and features, and the names that it gets."""
GPL = "GPL-3.0; the authors' own, from the user's download, not part of xsen2"
UNKNOWN = "unknown; ask who trained them (what comes of the authors' own weights stays under GPL-3.0)"
TOLERANCE = 0.5
"""DN. Half precision may move no pixel further: rounding to whole numbers does as much."""
SIDE = 72
"""Pixels of the 10 m grid, once degraded, that a network is tried on."""

SCORE = "embedded sample, operator dsen2"
STORAGE = "float16 against float32"
"""Keys of the card's `validation`."""


def convert(file: Path, out: Path | None = None) -> Card:
    """Convert Keras weights of DSen2, of any depth and width, for the 20 m or the 60 m bands.

    They are stored in half precision if that moves no pixel of the embedded sample by more than half a DN,
    else in float32.

    Parameters
    ----------
    file : Path
        As `xsen2.networks.keras.read_keras` takes it.
    out : Path, optional
        Folder for weights and card. By default the user's own, `xsen2.networks.local.folder`, where ``method=``
        finds them by the name of their network.

    Returns
    -------
    Card
        Its `validation` tells how much half precision moves pixels, and how the network does on a part of the
        embedded sample, degraded: RMSE divided by that of bicubic interpolation, mean over the bands.

    Raises
    ------
    WeightsError
        If the file is not HDF5, not of Keras, damaged, or of another network; or if the folder has other
        weights of that name.
    StoreError
        If nothing can be written, because the disk is full or may not be written to.
    ImportError
        If h5py is missing.
    """
    from safetensors.numpy import save

    tensors, said = read_keras(file)
    features, bands = tensors["head.weight"].shape[:2]
    blocks = (len(tensors) - 4) // 4  # weight and bias of head and tail, and of two convolutions in each block
    ratio = 2 if bands == len(A + B) else 6
    network = DSen2(ratio, blocks, features).eval().requires_grad_(False)
    with np.errstate(over="ignore"):
        half = {key: value.astype(np.float16) for key, value in tensors.items()}
    inputs, truth, bicubic = _trial(ratio)
    exact, rough = (_run(network, weights, inputs) for weights in (tensors, half))
    if not np.isfinite(exact).all():
        raise WeightsError(f"{file} gives pixels that are not finite: it is damaged, or of another network")
    moved = float(np.abs(rough - exact).max())  # NaN where half precision overflows
    stored = half if moved <= TOLERANCE else tensors
    raw = save(stored)
    released = (blocks, features) in RELEASED
    kind, name = RELEASED.get((blocks, features), ("DSen2", f"dsen2-{blocks}x{features}-keras"))
    origin = "the authors' weights" if released else "weights of unknown origin"
    card = Card(
        name=f"{name}-{10 * ratio}m",
        network=name,
        architecture="dsen2.DSen2",
        arguments={"ratio": ratio, "blocks": blocks, "features": features},
        ratio=ratio,
        halo=halo_of(network, ratio),
        sha256=hashlib.sha256(raw).hexdigest(),
        licence=GPL if released else UNKNOWN,
        source=f"Lanaras et al. 2018 ({kind}, {blocks} x {features}), {origin}, converted from Keras",
        training={"command": f"xsen2 weights convert {file.name}", "10 m bands as fed": ", ".join(FED), **said},
        validation={
            SCORE: {"mean ratio": round(float(np.mean(_rmse(exact, truth) / _rmse(bicubic, truth))), 3)},
            STORAGE: {
                "largest difference, DN": round(moved, 4) if np.isfinite(moved) else "overflow",
                "stored as": str(stored["head.weight"].dtype),
            },
        },
    )
    return card.write(local.folder() if out is None else out, raw)


def _trial(ratio: int) -> tuple[list[torch.Tensor], Array, Array]:
    """What the network takes, and the truth and bicubic interpolation in DN, ``(band, H, W)``."""
    part = {dim: slice(SIDE * ratio * 10 // gsd) for gsd, dims in DIMS.items() for dim in dims}
    coarse, fine = pair(sample().isel(time=0).isel(part), ratio, "dsen2")
    bands = (A, B) if ratio == 2 else (A, B, C)
    grids = [np.stack([coarse[band].values for band in names]) for names in bands]
    truth = np.stack([fine[band].values for band in bands[-1]])
    return [torch.from_numpy(x)[None] / GAIN for x in grids], truth, upsample(grids[-1], ratio)


def _run(network: DSen2, weights: Mapping[str, npt.NDArray[Any]], inputs: list[torch.Tensor]) -> Array:
    network.load_state_dict({key: torch.from_numpy(value).float() for key, value in weights.items()})
    out: Array = (network(*inputs)[0] * GAIN).numpy()
    return out


def _rmse(estimate: Array, truth: Array) -> Array:
    """Per band, without the border, where context is missing."""
    inner = (slice(None), slice(6, -6), slice(6, -6))
    out: Array = np.sqrt(np.mean((estimate[inner] - truth[inner]) ** 2, axis=(1, 2)))
    return out
