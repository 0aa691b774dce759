"""DSen2 and VDSen2 as Keras stores them: from HDF5 to the names and layout of `xsen2.networks.dsen2.DSen2`.

What a file holds is told by the shapes in it, never by its name. Layers are numbered by whatever else was
made in the same session, and HDF5 lists them by the alphabet: their order is that of the attribute ``layer_names``,
in which Keras writes them from the input to the output.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xsen2.bands import A, B, C
from xsen2.errors import WeightsError

__all__ = ["FED", "read_keras"]

FED = ("B04", "B03", "B02", "B08")
"""The 10 m bands in the order that the released code feeds them; all others are fed in the library's."""

Numbers = npt.NDArray[Any]
Tensors = dict[str, npt.NDArray[np.float32]]


def read_keras(file: Path) -> tuple[Tensors, dict[str, str]]:
    """Read the weights of a DSen2, of any depth and width, from what Keras 1 or 2 saved.

    Parameters
    ----------
    file : Path
        What ``save_weights`` or ``save`` wrote, kernels ``(3, 3, in, out)``.

    Returns
    -------
    dict
        float32, kernels ``(out, in, 3, 3)``; the first convolution takes the bands in the library's order.
    dict
        What the file says of itself: name, hash, version and backend of Keras.

    Raises
    ------
    WeightsError
        If the file is not HDF5, not of Keras, damaged, or of another network.
    ImportError
        If h5py is missing.

    References
    ----------
    Lanaras, Bioucas-Dias, Galliani, Baltsavias, Schindler (2018). Super-resolution of Sentinel-2 images:
    learning a globally applicable deep neural network. ISPRS J. 146, 305-319: figures 3 and 4.
    """
    arrays, said = _read(file)
    convolutions = _convolutions(file, arrays)
    if said["backend"] == "theano":  # which turns kernels by 180 degrees, where all others correlate
        convolutions = [(kernel[::-1, ::-1], bias) for kernel, bias in convolutions]
    kernel, bias = convolutions[0]
    order = [FED.index(band) for band in A] + list(range(len(A), kernel.shape[2]))
    convolutions[0] = kernel[:, :, order], bias
    names = ["head", *(f"body.{i // 2}.conv{i % 2 + 1}" for i in range(len(convolutions) - 2)), "tail"]
    tensors: Tensors = {}
    for name, (kernel, bias) in zip(names, convolutions, strict=True):
        tensors[f"{name}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), np.float32)
        tensors[f"{name}.bias"] = np.ascontiguousarray(bias, np.float32)
    return tensors, said


def _read(file: Path) -> tuple[list[tuple[str, Numbers]], dict[str, str]]:
    """All arrays, named, in the order of the layers."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Keras weights are read with h5py: pip install 'xsen2[keras]'") from error

    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error
    try:
        with h5py.File(file, "r") as root:
            top = root if "layer_names" in root.attrs else root.get("model_weights")
            if top is None or "layer_names" not in top.attrs:
                raise WeightsError(
                    f"{file} is HDF5, but not what Keras 1 or 2 saves: it names no layers, neither at its top nor "
                    "under model_weights"
                )
            said = {key: _text(top.attrs.get(key, root.attrs.get(key, ""))) for key in ("keras_version", "backend")}
            arrays = [
                (f"{layer}/{name}", np.asarray(top[layer][name]))
                for layer in map(_text, top.attrs["layer_names"])
                for name in map(_text, top[layer].attrs["weight_names"])
            ]
    except WeightsError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        # Any of these comes out of h5py where a file is cut off, overwritten, or of another kind.
        raise WeightsError(f"{file} is not HDF5 that Keras saved, or is damaged: {error}") from error
    return arrays, {"file": file.name, "file_sha256": digest, **said}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _convolutions(file: Path, arrays: list[tuple[str, Numbers]]) -> list[tuple[Numbers, Numbers]]:
    """Kernels ``(3, 3, in, out)`` and biases, if they chain up to a DSen2."""

    def refuse(why: str) -> WeightsError:
        return WeightsError(f"{file} does not hold a DSen2, or not all of one: {why}")

    for name, array in arrays:
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise refuse(f"{name} ({array.dtype}) has values that are not finite numbers")
    found = []
    for i in range(0, len(arrays), 2):
        name, kernel = arrays[i]
        bias = arrays[i + 1][1] if i + 1 < len(arrays) else np.empty(0)
        if kernel.ndim != 4 or kernel.shape[:2] != (3, 3) or bias.shape != kernel.shape[3:]:
            raise refuse(
                f"{name} has shape {kernel.shape} and what follows it {bias.shape}, where the kernel (3, 3, in, out) "
                "and the bias (out,) of a 3x3 convolution should be"
            )
        found.append((kernel, bias))
    if len(found) < 4 or len(found) % 2:
        raise refuse(f"it has {len(found)} convolutions, not one, two for each residual block, and one more")
    shapes = [kernel.shape[2:] for kernel, _ in found]
    bands, features = shapes[0]
    made = shapes[-1][1]
    if (bands, made) not in ((len(A + B), len(B)), (len(A + B + C), len(C))):
        raise refuse(f"it makes {made} bands of {bands}, neither 6 of 10 (20 m) nor 2 of 12 (60 m)")
    wanted = [(bands, features), *[(features, features)] * (len(shapes) - 2), (features, made)]
    for number, (shape, want) in enumerate(zip(shapes, wanted, strict=True), 1):
        if shape != want:
            raise refuse(f"convolution {number} makes {shape[1]} features of {shape[0]}, not {want[1]} of {want[0]}")
    return found
