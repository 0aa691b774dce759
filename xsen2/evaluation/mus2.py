"""Real dates beside a real sharper image: MuS2 (Kowaleczko et al. 2023), and collections that are laid out alike.

91 scenes of 14 or 15 Sentinel-2 dates and a WorldView-2 image of the same ground, made 3 times finer than 10 m.

What is relied on, and all of it: a folder per scene; in it a folder for what Sentinel-2 saw, with a folder per band,
which holds one image per date, whose names sort alike in all bands; and a folder for what WorldView-2 saw, with one
image per band, named after the Sentinel-2 band that it stands for, 3 times as many pixels along each side, and perhaps
an image ``mask``, 0 where a pixel does not count. Images are single-band GeoTIFF, PNG or what else GDAL's GTiff, PNG
and JPEG2000 drivers read. That is after the benchmark's paper; the archive itself could not be looked into when this
was written. Where its folders are called otherwise, `Layout` says how.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import A, canonical
from xsen2.errors import BandError, MethodError, SourceError, printable
from xsen2.evaluation.ladder import made
from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import Method
from xsen2.methods.registry import resolve
from xsen2.training.dates import cube_of

__all__ = ["ZOOM", "Layout", "Real", "mus2", "scenes"]

Array = npt.NDArray[np.float32]

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
    found = sorted(p for p in folder.iterdir() if (p / layout.frames).is_dir()) if folder.is_dir() else []
    if not found:
        raise SourceError(
            f"no scenes in {folder}: give the folder that holds a folder per scene, each with "
            f"{layout.frames}/BAND/*.tif and {layout.reference}/BAND.tif; Layout() says other names"
        )
    for path in found:
        yield _scene(path, layout)


def _scene(path: Path, layout: Layout) -> Real:
    bands = {name: p for p in sorted((path / layout.frames).iterdir()) if p.is_dir() and (name := _band(p.name)) in A}
    sharper = {_band(p.stem): p for p in sorted((path / layout.reference).glob("*")) if p.is_file()}
    if missing := [b for b in A if b not in bands or b not in sharper]:
        raise SourceError(f"{path} has no {', '.join(missing)} in {layout.frames}/ or {layout.reference}/")
    stacks = []
    for band in A:
        files = sorted(p for p in bands[band].iterdir() if p.is_file())[:DATES]
        stacks.append([_read(p) * np.float32(layout.scale) for p in files])
    counts = {len(stack) for stack in stacks}
    shapes = {image.shape for stack in stacks for image in stack}
    if len(counts) != 1 or len(shapes) != 1 or 0 in counts:
        raise SourceError(f"{path} has {sorted(counts)} dates of {sorted(shapes)} pixels: all bands need the same")
    (shape,) = shapes
    want = (ZOOM * shape[0], ZOOM * shape[1])
    truth = np.stack([_read(sharper[band]) for band in A])
    if truth.shape[1:] != want:
        raise SourceError(f"{path}/{layout.reference} has {truth.shape[1:]} pixels, where {want} are {ZOOM} x as many")
    valid = np.isfinite(truth).all(axis=0) & (truth != 0).any(axis=0)
    masks = sorted((path / layout.reference).glob(f"{layout.mask}.*"))
    if masks:
        valid &= _read(masks[0]) > 0
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


def _read(file: Path) -> Array:
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
        base = _quality(upsample(_whole(scene.frames[0]), ZOOM), scene, border, reach)
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


def _whole(x: Array) -> Array:
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
