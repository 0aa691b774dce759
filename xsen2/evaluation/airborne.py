"""Real Sentinel-2 beside airborne truth: the folder of SEN2NEON, judged at 10 m.

SEN2NEON (CC BY 4.0) pairs Sentinel-2 L2A with AVIRIS-NG, made to have the bands and the radiometry of Sentinel-2 at
2.5 m. Its folder has a table, ``sen2neon_metadata.csv``, whose columns `lr` and `hr` (or `lr_path` and `hr_path`) name
two GeoTIFFs per scene: twelve bands at 10 m, those of 20 m and 60 m repeated, and the same at 2.5 m. What an estimate
lacks of such a truth is not the method's fault alone: dates, atmosphere and geometry differ.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, B, C, find, grid_of
from xsen2.cube import DIMS
from xsen2.errors import SourceError
from xsen2.evaluation.metrics import compare
from xsen2.methods.protocol import Array, Method
from xsen2.superresolve import superresolve

__all__ = ["Sample", "airborne", "samples"]

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
        found = []
        for method in names:
            sr = superresolve(sample.cube, [*B, *C], method, native=False, device=device)
            found.append(compare(sr, sample.truth, ratio=2)[list(METRICS)].compute())
        labels = [m if isinstance(m, str) else m.name for m in names]
        scores.append(xr.concat(found, xr.Variable("method", labels)))
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
        own = _mean(low[band][top : top + rows, left : left + columns], gsd // 10)
        coords = {ydim: -(np.arange(own.shape[0]) + 0.5) * gsd, xdim: (np.arange(own.shape[1]) + 0.5) * gsd}
        variables[band] = xr.DataArray(own, coords, (ydim, xdim), attrs={"units": "1e-4"})
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
