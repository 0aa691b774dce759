"""A user's own download of the authors' Keras weights, DSen2 and VDSen2, into the library's format.

What a file holds is told by the shapes in it, never by its name. Layers are numbered by whatever else was made in the
same run of Keras, and HDF5 lists them by the alphabet: their order is that of the attribute ``layer_names``, in which
Keras writes them from the input to the output.

HDF5 can also name other files whose bytes become arrays, point elsewhere, run code of plugins to unpack, and declare
arrays of any size. Keras does none of that, so it is refused, by what is declared and before anything is read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xsen2 import files
from xsen2.bands import A, B, C
from xsen2.cube import DIMS
from xsen2.degrade import pair
from xsen2.errors import WeightsError, printable
from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import Array
from xsen2.networks import local
from xsen2.networks.cards import GAIN, LARGEST, Card
from xsen2.networks.dsen2 import DSen2
from xsen2.networks.load import halo_of
from xsen2.sources.sample import sample

__all__ = ["FED", "SCORE", "STORAGE", "convert", "read_keras"]

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
        As `xsen2.networks.convert.read_keras` takes it.
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

    tensors, metadata = read_keras(file)
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
        training={"command": f"xsen2 weights convert {file.name}", "10 m bands as fed": ", ".join(FED), **metadata},
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


FED = ("B04", "B03", "B02", "B08")
"""The 10 m bands in the order that the released code feeds them; all others are fed in the library's."""

MOST = 2**30
"""Bytes of a file at most: VDSen2 has 150 MB, and three times that with what its training has left."""

WEIGHTS = 2**27
"""Numbers at most, of all arrays together and in one chunk: VDSen2 has 38 million."""

LAYERS = 4096
"""Names at most that an attribute lists: VDSen2 has some two hundred layers."""

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
"""What h5py unpacks by itself."""

Shape = tuple[int, ...]
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
        Metadata of the file: name, hash, version and backend of Keras.

    Raises
    ------
    WeightsError
        If the file is not HDF5, not of Keras, damaged, or of another network; or if it has what Keras does not write:
        links, arrays in other files or of unheard-of size, filters of plugins.
    ImportError
        If h5py is missing.

    References
    ----------
    Lanaras, Bioucas-Dias, Galliani, Baltsavias, Schindler (2018). Super-resolution of Sentinel-2 images:
    learning a globally applicable deep neural network. ISPRS J. 146, 305-319: figures 3 and 4.
    """
    arrays, metadata = _read(file)
    convolutions = _convolutions(file, arrays)
    if metadata["backend"] == "theano":  # which turns kernels by 180 degrees, where all others correlate
        convolutions = [(kernel[::-1, ::-1], bias) for kernel, bias in convolutions]
    kernel, bias = convolutions[0]
    order = [FED.index(band) for band in A] + list(range(len(A), kernel.shape[2]))
    convolutions[0] = kernel[:, :, order], bias
    names = ["head", *(f"body.{i // 2}.conv{i % 2 + 1}" for i in range(len(convolutions) - 2)), "tail"]
    tensors: Tensors = {}
    for name, (kernel, bias) in zip(names, convolutions, strict=True):
        tensors[f"{name}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), np.float32)
        tensors[f"{name}.bias"] = np.ascontiguousarray(bias, np.float32)
    return tensors, metadata


def _read(file: Path) -> tuple[list[tuple[str, Numbers]], dict[str, str]]:
    """All arrays, named, in the order of the layers."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Keras weights are read with h5py: pip install 'xsen2[keras]'") from error

    try:
        raw = files.read(file, MOST)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error
    metadata = {"file": file.name, "file_sha256": hashlib.sha256(raw).hexdigest()}
    try:
        # From memory: the bytes that have been counted, and no driver that looks for other files.
        with _without_plugins(), h5py.File(h5py.h5f.open_file_image(raw)) as root:
            top = root if "layer_names" in root.attrs else _inside(file, root, "model_weights")
            if not isinstance(top, h5py.Group) or "layer_names" not in top.attrs:
                raise WeightsError(
                    f"{file} is HDF5, but not what Keras 1 or 2 saves: it names no layers, neither at its top nor "
                    "under model_weights"
                )
            for key in ("keras_version", "backend"):
                owner = next((x for x in (top, root) if key in x.attrs), None)
                metadata[key] = "" if owner is None else printable(_names(file, owner, key)[0], 100)
            datasets: list[tuple[str, Any]] = []
            for layer in _names(file, top, "layer_names"):
                group = _inside(file, top, layer)
                if group is None:
                    raise KeyError(f"{printable(layer, 100)} is named, but not there")
                names = _names(file, group, "weight_names")
                datasets += [(printable(f"{layer}/{name}", 200), _inside(file, group, name)) for name in names]
            _check(file, datasets)
            arrays = [(name, np.asarray(dataset)) for name, dataset in datasets]
    except WeightsError:
        raise
    except Exception as error:  # h5py raises nearly everything where a file is cut off, overwritten, or of another kind
        reason = printable(str(error), 300)
        raise WeightsError(f"{file} is not HDF5 that Keras saved, or is damaged: {reason}") from error
    return arrays, metadata


@contextmanager
def _without_plugins() -> Iterator[None]:
    """HDF5 looks for code in the folders of ``HDF5_PLUGIN_PATH`` as soon as something says it is packed with it."""
    from h5py import h5pl

    folders = [h5pl.get(i) for i in range(h5pl.size())]
    for _ in folders:
        h5pl.remove(0)
    try:
        yield
    finally:
        for folder in folders:
            h5pl.append(folder)


def _inside(file: Path, group: Any, path: str) -> Any:
    """What lies in a group by a path of hard links; None if nothing does."""
    import h5py

    for part in filter(None, path.split("/")):
        if not isinstance(group, h5py.Group):
            return None
        link = group.get(part, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            kind = {"SoftLink": "a soft link", "ExternalLink": "a link into another file"}.get(type(link).__name__)
            raise WeightsError(
                f"{file} is not what Keras saves: {printable(path, 100)} is {kind or 'a link of another kind'}. "
                "Get the file anew from whoever trained the network"
            )
        group = group[part]
    return group


def _names(file: Path, owner: Any, key: str) -> list[str]:
    """An attribute that holds a text, or a list of them."""
    import h5py

    about = owner.attrs.get_id(key)
    if h5py.check_string_dtype(about.dtype) is None:
        if math.prod(about.shape) == 0:  # Keras writes an empty list as one of numbers
            return []
        raise TypeError(f"{key} is not text")
    if math.prod(about.shape) > LAYERS or math.prod(about.shape) * about.dtype.itemsize > 256 * LAYERS:
        raise WeightsError(f"{file} is not what Keras saves: its attribute {key} has {math.prod(about.shape)} entries")
    return [_text(value) for value in np.atleast_1d(owner.attrs[key])]


def _check(file: Path, datasets: list[tuple[str, Any]]) -> None:
    """Refuse what is not plain arrays inside this file, before any of them is read."""
    import h5py

    def refuse(name: str, why: str) -> WeightsError:
        return WeightsError(
            f"{file} is not what Keras saves: {name} {why}. Get the file anew from whoever trained the network"
        )

    total = 0
    for name, dataset in datasets:
        if not isinstance(dataset, h5py.Dataset):
            raise KeyError(f"{name} is named, but is not an array")
        plan = dataset.id.get_create_plist()
        if dataset.is_virtual:
            raise refuse(name, "is put together from other files (a virtual dataset)")
        if plan.get_external_count():
            raise refuse(name, "has its numbers in another file (external storage)")
        if dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8:
            raise refuse(name, f"holds {dataset.dtype}, not floating point numbers")
        if dataset.shape is None:
            raise refuse(name, "holds nothing")
        for i in range(plan.get_nfilters()):
            if (number := plan.get_filter(i)[0]) not in FILTERS:
                raise refuse(name, f"is packed with the filter {number} of a plugin")
        total += math.prod(dataset.shape)
        if total > WEIGHTS or math.prod(dataset.chunks or ()) > WEIGHTS:
            raise refuse(name, f"of shape {dataset.shape}, in chunks of {dataset.chunks}, is more than a network has")
    _shapes(file, [(name, tuple(dataset.shape)) for name, dataset in datasets])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _refuse(file: Path, why: str) -> WeightsError:
    return WeightsError(f"{file} does not hold a DSen2, or not all of one: {why}")


def _convolutions(file: Path, arrays: list[tuple[str, Numbers]]) -> list[tuple[Numbers, Numbers]]:
    """Kernels ``(3, 3, in, out)`` and biases, whose shapes have been checked."""
    for name, array in arrays:
        if not np.isfinite(array).all():
            raise _refuse(file, f"{name} ({array.dtype}) has values that are not finite numbers")
    values = [array for _, array in arrays]
    return list(zip(values[::2], values[1::2], strict=True))


def _shapes(file: Path, arrays: list[tuple[str, Shape]]) -> None:
    """Refuse shapes that do not chain up to a DSen2."""
    shapes = []
    for i in range(0, len(arrays), 2):
        name, kernel = arrays[i]
        bias = arrays[i + 1][1] if i + 1 < len(arrays) else (0,)
        if len(kernel) != 4 or kernel[:2] != (3, 3) or bias != kernel[3:]:
            raise _refuse(
                file,
                f"{name} has shape {kernel} and what follows it {bias}, where the kernel (3, 3, in, out) "
                "and the bias (out,) of a 3x3 convolution should be",
            )
        shapes.append(kernel[2:])
    if len(shapes) < 4 or len(shapes) % 2:
        raise _refuse(file, f"it has {len(shapes)} convolutions, not one, two for each residual block, and one more")
    bands, features = shapes[0]
    produced = shapes[-1][1]
    if (bands, produced) not in ((len(A + B), len(B)), (len(A + B + C), len(C))):
        raise _refuse(file, f"it makes {produced} bands of {bands}, neither 6 of 10 (20 m) nor 2 of 12 (60 m)")
    wanted = [(bands, features), *[(features, features)] * (len(shapes) - 2), (features, produced)]
    for number, (shape, want) in enumerate(zip(shapes, wanted, strict=True), 1):
        if shape != want:
            raise _refuse(
                file, f"convolution {number} makes {shape[1]} features of {shape[0]}, not {want[1]} of {want[0]}"
            )
    for what, count in (("residual blocks", len(shapes) // 2 - 1), ("features", features)):
        if not 1 <= count <= LARGEST:
            raise _refuse(file, f"it has {count} {what}, not 1 to {LARGEST}")
