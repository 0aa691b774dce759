"""What a page asks of a result: a pixel in every band and date, and the course of an index over the dates."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2 import files
from xsen2.app.work import KINDS, STORE
from xsen2.index import differences, index

__all__ = ["INDICES", "formulas", "pixel", "series", "zipped"]

INDICES = ("NDWI", "MNDWI", "NDVI", "NDMI")
"""Indices that the page offers."""

_MOST = 4_000_000
"""Pixels of a date that its median is taken of: more are thinned out evenly."""


def formulas() -> list[dict[str, str]]:
    """The indices as the page's shaders compute them, see `xsen2.index.differences`."""
    return differences(INDICES)


def pixel(folder: Path, dates: Sequence[str], x: float, y: float) -> dict[str, Any] | None:
    """One pixel of a result, in every band and date.

    Parameters
    ----------
    folder : Path
        Of the job.
    dates : sequence of str
    x, y : float
        In the result's CRS.

    Returns
    -------
    dict or None
        ``row``, ``column``; of each date ``measured``, ``sharp`` (band → DN or None), ``error`` (band → DN) and
        ``indices`` (name → ``measured``, ``sharp``); None outside of the result.
    """
    import rasterio

    out: list[dict[str, Any]] = []
    place: tuple[int, int] | None = None
    for date in dates:
        entry: dict[str, Any] = {"date": date}
        for kind in KINDS:
            path = folder / kind / f"{date}.tif"
            if not path.is_file():
                continue
            with rasterio.open(path, driver="GTiff") as file:
                row, column = file.index(x, y, op=math.floor)
                if not (0 <= row < file.height and 0 <= column < file.width):
                    return None
                place = int(row), int(column)
                raw = file.read(window=((row, row + 1), (column, column + 1)))[:, 0, 0]
                entry[kind] = {
                    str(name).removesuffix("_se"): None if value == file.nodata else int(value)
                    for name, value in zip(file.descriptions, raw, strict=True)
                }
        out.append(entry)
    if place is None:
        return None
    for kind in ("measured", "sharp"):
        for name, values in _indices([entry.get(kind, {}) for entry in out]).items():
            for entry, value in zip(out, values, strict=True):
                entry.setdefault("indices", {}).setdefault(name, {})[kind] = value
    return {"row": place[0], "column": place[1], "dates": out}


def _indices(per_date: Sequence[dict[str, int | None]]) -> dict[str, list[float | None]]:
    """Each index of one pixel, by date."""
    names = [f["name"] for f in formulas() if all(f[side] in per_date[0] for side in "ab")]
    if not names:
        return {}
    bands = {
        band: (("time", "y", "x"), np.array([[[_number(by_band.get(band))]] for by_band in per_date], np.float32))
        for band in per_date[0]
    }
    ds = xr.Dataset(bands, {"y": [0.0], "x": [0.0]})
    for name in ds:
        ds[name].attrs["units"] = "1e-4"
    computed = index(ds, names)
    return {name: [_rounded(value) for value in computed[name].values[:, 0, 0]] for name in names}


def series(folder: Path, dates: Sequence[str], name: str) -> list[dict[str, Any]]:
    """The course of an index over the dates of a result.

    Parameters
    ----------
    folder : Path
    dates : sequence of str
    name : str
        One of `INDICES`.

    Returns
    -------
    list of dict
        ``date``, ``median``, ``low``, ``high`` (10th and 90th percentile) of the pixels with data, ``share`` of them;
        None where there are none.
    """
    spec = next(f for f in formulas() if f["name"] == name)
    out = []
    for date in dates:
        values = index(_bands(folder / "sharp" / f"{date}.tif", (spec["a"], spec["b"])), name).values
        kept = values[np.isfinite(values)]
        low, middle, high = np.percentile(kept, [10, 50, 90]) if kept.size else (np.nan,) * 3
        share = round(float(kept.size / values.size), 4)
        out.append({"date": date, "median": _rounded(middle), "low": _rounded(low), "high": _rounded(high),
                    "share": share})  # fmt: skip
    return out


def _bands(path: Path, names: Sequence[str]) -> xr.Dataset:
    """Bands of a GeoTIFF of `to_cog`, NaN where they have no data."""
    import rasterio

    with rasterio.open(path, driver="GTiff") as file:
        step = max(1, math.ceil(math.sqrt(file.width * file.height / _MOST)))
        shape = (math.ceil(file.height / step), math.ceil(file.width / step))
        arrays: dict[str, npt.NDArray[np.float32]] = {}
        for band in names:
            number = file.descriptions.index(band) + 1
            raw = file.read(number, out_shape=shape)
            arrays[band] = np.where(raw == file.nodata, np.nan, raw).astype(np.float32)
    ds = xr.Dataset({band: (("y", "x"), data, {"units": "1e-4"}) for band, data in arrays.items()})
    return ds.assign_coords(y=-np.arange(shape[0], dtype=float), x=np.arange(shape[1], dtype=float))


def _number(value: int | None) -> float:
    return math.nan if value is None else float(value)


def _rounded(value: Any) -> float | None:
    number = float(value)
    return round(number, 4) if math.isfinite(number) else None


_ZIPPING = threading.Lock()


def zipped(folder: Path) -> Path:
    """The Zarr store of a result in one file, which zarr and xarray open as it is; made on the first call."""
    import zipfile

    target = folder / f"{STORE}.zip"
    with _ZIPPING:
        if not target.is_file():
            store = folder / STORE
            with files.whole(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
                for path in sorted(p for p in store.rglob("*") if p.is_file() and not p.is_symlink()):
                    archive.write(path, path.relative_to(store).as_posix())
    return target
