"""The test images of a benchmark for sharpening Sentinel-2 (Ciotola et al. 2025), judged by its own scores.

Its folder has MATLAB files below ``Reduced_Resolution/20``, ``Reduced_Resolution/60`` and ``Full_Resolution``, each
with arrays ``(y, x, band)`` of digital numbers: ``S2_10`` (B02, B03, B04, B08), ``S2_20`` (B05, B06, B07, B8A, B11,
B12) and ``S2_60`` (B01, B09, B10). At reduced resolution ``S2_GT`` is what is to be found of the bands of 20 or of
60 m; at full resolution nothing is known. Where a file lies does not matter here: what it holds says which kind it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2 import files
from xsen2.bands import GRIDS, B, C, grid_of
from xsen2.errors import SourceError, printable
from xsen2.evaluation.metrics import compare
from xsen2.evaluation.noreference import assess
from xsen2.methods.protocol import Method
from xsen2.superresolve import superresolve
from xsen2.training.scenes import Scene

__all__ = ["FULL", "REDUCED", "Image", "images", "sharpening"]

REDUCED = ("ergas", "sam", "q2n")
"""Scores where the truth is known."""

FULL = ("d_lambda", "consistency_ergas", "consistency_sam", "spatial")
"""Scores at full resolution; see `xsen2.evaluation.noreference.assess`."""

MOST = 2**31
"""Bytes of a file, or of one of its arrays, at most: an image of 2400 x 2400 pixels has 0.2 GB."""

CIRRUS = "B10"


class Image(NamedTuple):
    """A test image."""

    name: str
    cube: xr.Dataset
    """Its bands, as if they had 10, 20 and 60 m; DN as they are in the file."""
    truth: xr.Dataset | None
    """The bands of 20 or 60 m on the grid of 10 m, or None at full resolution."""


def images(folder: Path) -> Iterator[Image]:
    """Read the images of a folder, one after the other, in the order of their paths.

    Raises
    ------
    SourceError
        If there is none, or if a file is something else: it is named, and never left out.
    """
    found = sorted(folder.rglob("*.mat"))
    if not found:
        raise SourceError(
            f"{folder} has no .mat files: give the folder of the benchmark, with Reduced_Resolution and Full_Resolution"
        )
    for path in found:
        try:
            yield _image(str(path.relative_to(folder).with_suffix("")), _arrays(path))
        except (ValueError, KeyError) as error:
            raise SourceError(
                f"{path} is no image of the benchmark: {printable(str(error), 300)}. Take it out of the folder"
            ) from error


def sharpening(
    folder: Path, methods: Sequence[str | Method], *, device: str = "auto", say: Callable[[str], None] = print
) -> dict[str, xr.Dataset]:
    """Judge methods on a folder of the benchmark.

    Parameters
    ----------
    folder : Path
    methods : sequence of str or Method
        As ``method=`` takes them; bicubic is always among them.
    device : str
        As `xsen2.superresolve.superresolve` takes it.
    say : callable
        Told a line about each image.

    Returns
    -------
    dict
        ``"20"`` and ``"60"`` → `REDUCED`, ``"full"`` → `FULL`, dims ``(image, method)``, and ``(image, method, grid)``
        at full resolution; those that the folder has.

    Raises
    ------
    SourceError
        As `images`.
    """
    names = ["bicubic", *[m for m in methods if m != "bicubic"]]
    labels = [m if isinstance(m, str) else m.name for m in names]
    rows: dict[str, list[xr.Dataset]] = {}
    for image in images(folder):
        kind, bands, ratio = _judged(image)
        found = []
        for method in names:
            sr = superresolve(image.cube, bands, method, native=False, device=device)
            scores = assess(sr, image.cube) if image.truth is None else compare(sr, image.truth, ratio=ratio)
            found.append(scores[list(FULL if image.truth is None else REDUCED)].drop_dims("band", errors="ignore"))
            if image.truth is None:
                found[-1] = found[-1].assign(spatial=scores["spatial"].groupby(_grid_of_bands(scores)).mean())
        each = xr.concat([scores.compute() for scores in found], xr.Variable("method", labels))
        rows.setdefault(kind, []).append(each.expand_dims(image=[image.name]))
        first = each[(FULL if image.truth is None else REDUCED)[0]]
        shown = first.mean([dim for dim in first.dims if dim != "method"]).values
        say(f"{image.name}: {first.name} " + ", ".join(f"{m} {v:.3f}" for m, v in zip(labels, shown, strict=True)))
    return {kind: xr.concat(found, "image") for kind, found in rows.items()}


def _judged(image: Image) -> tuple[str, list[str], int]:
    """Which of the three kinds an image is, the bands that are judged, and the ratio of pixel sizes."""
    if image.truth is None:
        return "full", [*B, *C], 1
    bands = [str(name) for name in image.truth]
    ratio = grid_of(bands[0]) // 10
    return str(10 * ratio), bands, ratio


def _grid_of_bands(scores: xr.Dataset) -> xr.DataArray:
    return xr.DataArray([grid_of(band) for band in scores["band"].values], dims="band", name="grid")


def _arrays(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The arrays of a MATLAB file, ``(band, y, x)``."""
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    known = [f"S2_{gsd}" for gsd in GRIDS] + ["S2_GT"]
    try:
        with files.opened(path, MOST) as stream:
            for name, shape, _ in whosmat(stream):
                if name in known and 8 * math.prod(shape) > MOST:
                    raise ValueError(f"{name} says that it has shape {shape}: no image of the benchmark is as large")
            stream.seek(0)
            held = loadmat(stream, variable_names=known)
    except NotImplementedError as error:
        raise ValueError("it is of MATLAB 7.3, which is HDF5: save it again with -v7") from error
    except (MatReadError, OSError, TypeError, EOFError) as error:
        raise ValueError(f"it cannot be read: {error}") from error
    out = {}
    for name in known:
        if name not in held:
            continue
        x = np.asarray(held[name])
        if x.ndim != 3 or x.dtype.kind not in "uif":
            raise ValueError(f"{name} has shape {x.shape} of {x.dtype}, not numbers (y, x, band)")
        out[name] = np.ascontiguousarray(np.moveaxis(x, -1, 0), np.float32)
    return out


def _image(name: str, arrays: dict[str, npt.NDArray[np.float32]]) -> Image:
    height, width = arrays["S2_10"].shape[1:]
    bands = {}
    for gsd, names in GRIDS.items():
        size = height / (gsd // 10), width / (gsd // 10)
        bands[gsd] = np.stack([*_named(f"S2_{gsd}", arrays[f"S2_{gsd}"], names, size).values()])
    cube = Scene(name, bands, {gsd: np.ones(x.shape[1:], bool) for gsd, x in bands.items()}).cube()
    if "S2_GT" not in arrays:
        return Image(name, cube, None)
    truth = arrays["S2_GT"]
    here = _named("S2_GT", truth, B if len(truth) == len(B) else C, (height, width))
    return Image(name, cube, xr.Dataset({band: (("y", "x"), z) for band, z in here.items()}))


def _named(
    name: str, x: npt.NDArray[np.float32], bands: Sequence[str], size: tuple[float, float]
) -> dict[str, npt.NDArray[np.float32]]:
    """Bands by their names; B10, the last of those of 60 m, is left out."""
    known = [*bands, CIRRUS] if tuple(bands) == tuple(C) and len(x) == len(C) + 1 else list(bands)
    if x.shape != (len(known), *size):
        raise ValueError(f"{name} has shape (y, x, band) {(*x.shape[1:], len(x))}, where {(*size, len(known))} is due")
    return {band: z for band, z in zip(known, x, strict=True) if band != CIRRUS}
