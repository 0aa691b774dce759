"""Public data beside which methods are judged: SEN2NEON, the sharpening benchmark of Ciotola et al., MuS2.

**SEN2NEON** (CC BY 4.0) pairs Sentinel-2 L2A with AVIRIS-NG, made to have the bands and the radiometry of Sentinel-2 at
2.5 m. Its folder has a table, ``sen2neon_metadata.csv``, whose columns `lr` and `hr` (or `lr_path` and `hr_path`) name
two GeoTIFFs per scene: twelve bands at 10 m, those of 20 m and 60 m repeated, and the same at 2.5 m. What an estimate
lacks of such a truth is not the method's fault alone: dates, atmosphere and geometry differ.

**Sharpening** (Ciotola et al. 2025). Its folder has MATLAB files below ``Reduced_Resolution/20``,
``Reduced_Resolution/60`` and ``Full_Resolution``, each with arrays ``(y, x, band)`` of digital numbers: ``S2_10`` (B02,
B03, B04, B08), ``S2_20`` (B05, B06, B07, B8A, B11, B12) and ``S2_60`` (B01, B09, B10). At reduced resolution ``S2_GT``
is what is to be found of the bands of 20 or of 60 m; at full resolution nothing is known. Where a file lies does not
matter here: what it holds says which kind it is.

**MuS2** (Kowaleczko et al. 2023), and collections that are laid out alike: 91 scenes of 14 or 15 Sentinel-2 dates and a
WorldView-2 image of the same ground, made 3 times finer than 10 m. What is relied on, and all of it: a folder per
scene; in it a folder for what Sentinel-2 saw, with a folder per band, which holds one image per date, whose names sort
alike in all bands; and a folder for what WorldView-2 saw, with one image per band, named after the Sentinel-2 band that
it stands for, 3 times as many pixels along each side, and perhaps an image ``mask``, 0 where a pixel does not count.
Images are single-band GeoTIFF, PNG or what else GDAL's GTiff, PNG and JPEG2000 drivers read. That is after the
benchmark's paper; the archive itself could not be looked into when this was written. Where its folders are called
otherwise, `Layout` says how.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2 import files
from xsen2.bands import BANDS, GRIDS, A, B, C, canonical, find, grid_of
from xsen2.cube import DIMS
from xsen2.errors import BandError, MethodError, SourceError, printable
from xsen2.evaluation.ladder import made
from xsen2.evaluation.metrics import compare
from xsen2.evaluation.noreference import assess
from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import Array, Method
from xsen2.methods.registry import resolve
from xsen2.superresolve import superresolve
from xsen2.training.dates import cube_of
from xsen2.training.scenes import Scene

__all__ = [
    "FULL",
    "REDUCED",
    "ZOOM",
    "Image",
    "Layout",
    "Real",
    "Sample",
    "airborne",
    "images",
    "mus2",
    "samples",
    "scenes",
    "sharpening",
]

TABLE = "*metadata*.csv"
METRICS = ("rmse", "sre", "uiq")


class Sample(NamedTuple):
    """A scene and its truth."""

    name: str
    cube: xr.Dataset
    truth: xr.Dataset
    """On the 10 m grid, DN."""


def samples(folder: Path) -> Iterator[Sample]:
    """Read the scenes of a folder of SEN2NEON, one after the other.

    Raises
    ------
    SourceError
        If there is no table, if it names files that are missing, or if their bands or sizes are others.
    """
    tables = sorted(folder.glob(TABLE))
    if not tables:
        raise SourceError(f"{folder} has no {TABLE}: give the folder of SEN2NEON, with the table that names its files")
    with tables[0].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pairs = [c for c in (("lr", "hr"), ("lr_path", "hr_path")) if rows and set(c) <= rows[0].keys()]
    if not pairs:
        raise SourceError(f"{tables[0]}: has no rows with columns lr and hr, or lr_path and hr_path")
    low, high = pairs[0]
    for row in rows:
        yield _sample(row.get("name") or Path(row[low]).stem, _read(folder / row[low]), _read(folder / row[high]))


def airborne(
    folder: Path, methods: Sequence[str | Method], *, device: str = "auto", say: Callable[[str], None] = print
) -> xr.Dataset:
    """Judge methods on a folder of SEN2NEON; the bands of 20 m and 60 m at 10 m.

    Returns
    -------
    xarray.Dataset
        `METRICS`, dims ``(scene, method, band)``; bicubic is always among the methods.
    """
    names = ["bicubic", *[m for m in methods if m != "bicubic"]]
    scenes, scores = [], []
    for sample in samples(folder):
        results = []
        for method in names:
            sr = superresolve(sample.cube, [*B, *C], method, native=False, device=device)
            results.append(compare(sr, sample.truth, ratio=2)[list(METRICS)].compute())
        labels = [m if isinstance(m, str) else m.name for m in names]
        scores.append(xr.concat(results, xr.Variable("method", labels)))
        scenes.append(sample.name)
        ratio = (scores[-1]["rmse"] / scores[-1]["rmse"].sel({"method": "bicubic"})).mean("band")
        say(f"{sample.name}: " + ", ".join(f"{m} {float(r):.3f}" for m, r in zip(labels, ratio, strict=True)))
    out: xr.Dataset = xr.concat(scores, xr.Variable("scene", scenes))
    return out


def _read(file: Path) -> dict[str, Array]:
    """The bands of a GeoTIFF by their canonical names, NaN for nodata; DN."""
    import rasterio

    try:
        with rasterio.open(file) as source:
            pixels, described = source.read(masked=True), source.descriptions
    except rasterio.errors.RasterioIOError as error:
        raise SourceError(f"{file}: cannot be read: {error}") from error
    named = [find(text) if text else None for text in described]
    order = [str(band) for band in named] if all(named) else list(BANDS)
    if len(order) != len(pixels) or set(order) != set(BANDS):
        raise SourceError(f"{file}: has {len(pixels)} bands, where the twelve of Sentinel-2 without B10 are expected")
    values = pixels.astype(np.float32).filled(np.nan)
    if not np.nanquantile(values, 0.99) > 10:  # reflectance
        values *= np.float32(10000)
    return dict(zip(order, values, strict=True))


def _sample(name: str, low: dict[str, Array], high: dict[str, Array]) -> Sample:
    height, width = low["B02"].shape
    factor = high["B02"].shape[0] // height
    if factor < 1 or high["B02"].shape != (factor * height, factor * width):
        raise SourceError(f"{name}: {high['B02'].shape} pixels of truth for {height} x {width} do not nest")
    top, left = _origin(name, low)
    rows, columns = ((n - first) // 6 * 6 for n, first in ((height, top), (width, left)))
    if min(rows, columns) < 6:
        raise SourceError(f"{name}: {height} x {width} pixels are less than one of 60 m")
    variables, truth = {}, {}
    for band in BANDS:
        gsd = grid_of(band)
        ydim, xdim = DIMS[gsd]
        native = _mean(low[band][top : top + rows, left : left + columns], gsd // 10)
        coords = {ydim: -(np.arange(native.shape[0]) + 0.5) * gsd, xdim: (np.arange(native.shape[1]) + 0.5) * gsd}
        variables[band] = xr.DataArray(native, coords, (ydim, xdim), attrs={"units": "1e-4"})
        if gsd > 10:
            fine = _mean(high[band], factor)[top : top + rows, left : left + columns]
            truth[band] = (("y", "x"), fine)
    return Sample(name, xr.Dataset(variables), xr.Dataset(truth))


def _mean(x: Array, factor: int) -> Array:
    """Means of squares of pixels; NaN where one of them is."""
    height, width = (n // factor for n in x.shape)
    out: Array = x[: height * factor, : width * factor].reshape(height, factor, width, factor).mean(axis=(1, 3))
    return out


def _origin(name: str, low: dict[str, Array]) -> tuple[int, int]:
    """Where the first whole pixel of 60 m begins: pixels of 60 m are repeated, so nothing changes within one."""
    at = tuple(_phase(np.stack([low[b] for b in C]), axis, 6) for axis in (1, 2))
    if tuple(n % 2 for n in at) != tuple(_phase(np.stack([low[b] for b in B]), axis, 2) for axis in (1, 2)):
        raise SourceError(
            f"{name}: where its bands of 20 m repeat their pixels is not where those of 60 m do, so they were "
            "resampled in some other way: there are no native pixels to begin with"
        )
    return at[0], at[1]


def _phase(x: npt.NDArray[np.float32], axis: int, size: int) -> int:
    """After how many pixels values begin to change every `size` pixels."""
    steps = np.nansum(np.abs(np.diff(x, axis=axis)), axis=tuple(i for i in range(3) if i != axis))
    return int(np.argmax([steps[(first - 1) % size :: size].sum() for first in range(size)]))


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
    paths = sorted(folder.rglob("*.mat"))
    if not paths:
        raise SourceError(
            f"{folder} has no .mat files: give the folder of the benchmark, with Reduced_Resolution and Full_Resolution"
        )
    for path in paths:
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
        results = []
        for method in names:
            sr = superresolve(image.cube, bands, method, native=False, device=device)
            scores = assess(sr, image.cube) if image.truth is None else compare(sr, image.truth, ratio=ratio)
            results.append(scores[list(FULL if image.truth is None else REDUCED)].drop_dims("band", errors="ignore"))
            if image.truth is None:
                results[-1] = results[-1].assign(spatial=scores["spatial"].groupby(_grid_of_bands(scores)).mean())
        each = xr.concat([scores.compute() for scores in results], xr.Variable("method", labels))
        rows.setdefault(kind, []).append(each.expand_dims(image=[image.name]))
        first = each[(FULL if image.truth is None else REDUCED)[0]]
        shown = first.mean([dim for dim in first.dims if dim != "method"]).values
        say(f"{image.name}: {first.name} " + ", ".join(f"{m} {v:.3f}" for m, v in zip(labels, shown, strict=True)))
    return {kind: xr.concat(results, "image") for kind, results in rows.items()}


def _judged(image: Image) -> tuple[str, list[str], int]:
    """Which of the three kinds an image is, the bands that are judged, and the ratio of pixel sizes."""
    if image.truth is None:
        return "full", [*B, *C], 1
    bands = [str(name) for name in image.truth]
    ratio = grid_of(bands[0]) // 10
    return str(10 * ratio), bands, ratio


def _grid_of_bands(scores: xr.Dataset) -> xr.DataArray:
    return xr.DataArray([grid_of(band) for band in scores["band"].values], dims="band", name="grid")


def _arrays(path: Path) -> dict[str, Array]:
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


def _image(name: str, arrays: dict[str, Array]) -> Image:
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


def _named(name: str, x: npt.NDArray[np.float32], bands: Sequence[str], size: tuple[float, float]) -> dict[str, Array]:
    """Bands by their names; B10, the last of those of 60 m, is left out."""
    known = [*bands, CIRRUS] if tuple(bands) == tuple(C) and len(x) == len(C) + 1 else list(bands)
    if x.shape != (len(known), *size):
        raise ValueError(f"{name} has shape (y, x, band) {(*x.shape[1:], len(x))}, where {(*size, len(known))} is due")
    return {band: z for band, z in zip(known, x, strict=True) if band != CIRRUS}


ZOOM = 3
"""WorldView-2's images are brought to so many pixels per Sentinel-2 pixel, along each side."""

DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG", ".jp2": "JP2OpenJPEG"}
LARGEST = 12000  # pixels along a side
DATES = 64


@dataclass(frozen=True)
class Layout:
    """What folders and files of a scene are called.

    Attributes
    ----------
    frames, reference : str
        Folders in a scene's folder.
    mask : str
        Stem of the image in `reference` that is 0 where a pixel does not count; there need not be one.
    scale : float
        What the numbers of `frames` are multiplied by to be 10000 x reflectance.
    """

    frames: str = "lr"
    reference: str = "hr"
    mask: str = "mask"
    scale: float = 1.0


@dataclass(frozen=True)
class Real:
    """One scene.

    Attributes
    ----------
    name : str
    frames : numpy.ndarray
        ``(N, 4, H, W)`` DN, NaN where there are none.
    truth, valid : numpy.ndarray
        ``(4, 3 H, 3 W)`` in units of its own, and where it counts ``(3 H, 3 W)``.
    """

    name: str
    frames: Array
    truth: Array
    valid: npt.NDArray[np.bool_]


def scenes(folder: Path, layout: Layout | None = None) -> Iterator[Real]:
    """All scenes of a folder, in the order of their names.

    Raises
    ------
    SourceError
        If there is none, or one is not laid out so: it is named, and what is missing.
    """
    layout = layout or Layout()
    folders = sorted(p for p in folder.iterdir() if (p / layout.frames).is_dir()) if folder.is_dir() else []
    if not folders:
        raise SourceError(
            f"no scenes in {folder}: give the folder that holds a folder per scene, each with "
            f"{layout.frames}/BAND/*.tif and {layout.reference}/BAND.tif; Layout() says other names"
        )
    for path in folders:
        yield _scene(path, layout)


def _scene(path: Path, layout: Layout) -> Real:
    bands = {name: p for p in sorted((path / layout.frames).iterdir()) if p.is_dir() and (name := _band(p.name)) in A}
    sharper = {_band(p.stem): p for p in sorted((path / layout.reference).glob("*")) if p.is_file()}
    if missing := [b for b in A if b not in bands or b not in sharper]:
        raise SourceError(f"{path} has no {', '.join(missing)} in {layout.frames}/ or {layout.reference}/")
    stacks = []
    for band in A:
        files = sorted(p for p in bands[band].iterdir() if p.is_file())[:DATES]
        stacks.append([_layer(p) * np.float32(layout.scale) for p in files])
    counts = {len(stack) for stack in stacks}
    shapes = {image.shape for stack in stacks for image in stack}
    if len(counts) != 1 or len(shapes) != 1 or 0 in counts:
        raise SourceError(f"{path} has {sorted(counts)} dates of {sorted(shapes)} pixels: all bands need the same")
    (shape,) = shapes
    want = (ZOOM * shape[0], ZOOM * shape[1])
    truth = np.stack([_layer(sharper[band]) for band in A])
    if truth.shape[1:] != want:
        raise SourceError(f"{path}/{layout.reference} has {truth.shape[1:]} pixels, where {want} are {ZOOM} x as many")
    valid = np.isfinite(truth).all(axis=0) & (truth != 0).any(axis=0)
    masks = sorted((path / layout.reference).glob(f"{layout.mask}.*"))
    if masks:
        valid &= _layer(masks[0]) > 0
    frames = np.stack([np.stack(stack) for stack in stacks], axis=1)
    return Real(printable(path.name), np.where(frames == 0, np.float32(np.nan), frames), truth, valid)


def _band(name: str) -> str:
    """The band that a name is of, or the name: ``b2``, ``B02``, ``b08`` and what catalogues call them."""
    short = re.fullmatch(r"[bB]0*(\d+)", name)
    if short:
        return f"B{int(short[1]):02d}"
    try:
        return canonical([name])[0]
    except BandError:
        return name


def _layer(file: Path) -> Array:
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(file.absolute(), driver=DRIVERS[file.suffix.lower()]) as image:
            if image.count != 1 or max(image.shape) > LARGEST:
                raise SourceError(f"{file} has {image.count} bands of {image.shape} pixels: one, not over {LARGEST}")
            return np.asarray(image.read(1), np.float32)
    except (KeyError, RasterioError) as error:
        raise SourceError(f"{file} is no image that can be read: {printable(str(error), 200)}") from error


def mus2(
    folder: Path,
    methods: Mapping[str, str | Method],
    *,
    frames: int = 8,
    layout: Layout | None = None,
    border: int = 6,
    reach: int = 3,
    device: str = "auto",
) -> xr.Dataset:
    """Scores of methods beside WorldView-2's images.

    The first date of each scene is made. Sensors differ in gain and offset, and images lie a little aside: of all whole
    shifts up to `reach` finer pixels that is taken which fits best, and there each band is fitted by a line.

    Parameters
    ----------
    folder : Path
    methods : mapping
        Label → what ``method=`` takes. Those that do not make pixels of 10 / 3 m make 2.5 m ones, of which means are
        taken; bicubic interpolation is added.
    frames : int
        Dates that each result is made of.
    layout : Layout, optional
    border : int
        Finer pixels along the edges that do not count.
    reach : int
    device : str
        As `xsen2.superresolve.superresolve` takes it.

    Returns
    -------
    xarray.Dataset
        ``gain`` (scene, method): dB of PSNR beyond bicubic interpolation, mean over bands.

    Raises
    ------
    MethodError, SourceError
        As `scenes`, or if a method makes neither size.
    """
    third = {label: _makes_thirds(method) for label, method in methods.items() if label != "bicubic"}
    rows: dict[str, dict[str, float]] = {}
    for scene in scenes(folder, layout):
        base = _quality(upsample(_filled(scene.frames[0]), ZOOM), scene, border, reach)
        ds = cube_of(scene.frames)
        row = {"bicubic": 0.0}
        for label, exact in third.items():
            out = made(ds, methods[label], 10 / ZOOM if exact else 2.5, frames, device=device)
            row[label] = _quality(out if exact else _thirds(out), scene, border, reach) - base
        rows[scene.name] = row
    values = np.array([list(row.values()) for row in rows.values()])
    coords: dict[str, Any] = {"scene": list(rows), "method": list(next(iter(rows.values())))}
    return xr.Dataset({"gain": (("scene", "method"), values, {"units": "dB"})}, coords)


def _makes_thirds(method: str | Method) -> bool:
    try:
        resolve(method, list(A), gsd=10 / ZOOM)
    except MethodError:
        resolve(method, list(A), gsd=2.5)
        return False
    return True


def _thirds(x: Array) -> Array:
    """Means of 2.5 m pixels over pixels of 10 / 3 m."""
    bands, height, width = x.shape
    wide = x.repeat(3, axis=1).repeat(3, axis=2)
    out: Array = wide.reshape(bands, height * 3 // 4, 4, width * 3 // 4, 4).mean(axis=(2, 4))
    return out


def _filled(x: Array) -> Array:
    level = np.nanmean(x, axis=(1, 2), keepdims=True)
    return np.where(np.isfinite(x), x, level).astype(np.float32)


def _quality(image: Array, scene: Real, border: int, reach: int) -> float:
    """PSNR in dB, up to a constant that is the scene's, at the shift that fits best."""
    edge = max(border, reach)
    height, width = (n - 2 * edge for n in image.shape[1:])
    inner = image[:, edge : edge + height, edge : edge + width]
    best = -np.inf
    for y in range(edge - reach, edge + reach + 1):
        for x in range(edge - reach, edge + reach + 1):
            goal = scene.truth[:, y : y + height, x : x + width]
            seen = scene.valid[y : y + height, x : x + width] & np.isfinite(inner).all(axis=0)
            if seen.sum() < 64:
                continue
            shared = [np.corrcoef(a[seen], b[seen])[0, 1] for a, b in zip(inner, goal, strict=True)]
            # What a line leaves of the variance; the variance itself is the scene's.
            best = max(best, float(np.mean([-10 * np.log10(max(1 - r**2, 1e-9)) for r in shared])))
    return best
