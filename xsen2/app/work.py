"""What a job does: the library's calls one after the other, each of which goes on where a killed one was."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xsen2.app.guard import checked
from xsen2.app.schema import Job, Search
from xsen2.bands import BANDS, B, C, factor_of
from xsen2.errors import Cancelled, MethodError, SourceError, printable
from xsen2.geometry import padded, read, reprojected
from xsen2.methods.protocol import Array, Method
from xsen2.progress import Progress
from xsen2.radiometry import scale_of
from xsen2.sinks.cog import to_cog
from xsen2.sinks.zarr import to_zarr
from xsen2.superresolve import context_of, superresolve

__all__ = ["KINDS", "NATIVE", "STORE", "Measured", "perform", "sample_scenes", "scenes"]

KINDS = ("measured", "sharp", "error")
"""Folders of a job with a GeoTIFF for each date: as measured, at 10 m, and standard errors."""

STORE = "sharp.zarr"
"""The result as a Zarr store."""

NATIVE = "native.zarr"
"""What was read, with its context: needed until all is written."""

_CHUNK = 240  # 10 m pixels: small enough that a job of some kilometres shows how far it is

_STAGES = {"searching": (0.0, 0.03), "reading": (0.03, 0.25), "sharpening": (0.25, 0.9), "writing": (0.9, 1.0)}
"""Stage → its part of the whole."""

Report = Callable[[Mapping[str, Any]], bool]
"""Takes how far a job is, and gives whether to go on."""


@dataclass(frozen=True)
class Measured(Method):
    """Every native pixel as it was measured, on the 10 m grid: each 20 m pixel four times, each 60 m pixel 36 times.

    It sharpens nothing. It is what a result is compared with on a map.
    """

    band: str
    name: str = "measured"

    @property
    def produces(self) -> tuple[str, ...]:
        """The band."""
        return (self.band,)

    @property
    def needs(self) -> tuple[str, ...]:
        """The band."""
        return (self.band,)

    halo = 0

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        """Repeat the pixels."""
        x, ratio = (b, 2) if factor_of(self.band) == 2 else (c, 6)
        return x.repeat(ratio, axis=-2).repeat(ratio, axis=-1)


# What there is to work with.


def scenes(search: Search, api: str) -> tuple[list[dict[str, Any]], list[str]]:
    """What a search finds, as the page lists it, and what it warns of.

    Parameters
    ----------
    search : Search
    api : str

    Returns
    -------
    list of dict
        ``id``, ``time``, ``cloud`` in percent or None, ``platform``, ``tile``, ``covers`` (share of the area's box that
        lies in its footprint), ``footprint`` (GeoJSON); by time.
    list of str

    Raises
    ------
    NothingFound
        There are none.
    SourceError
        The API cannot be searched.
    """
    if search.source == "sample":
        return sample_scenes(), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        items = _search(search, api)
    out = []
    for item in items:
        cloud = item.properties.get("eo:cloud_cover")
        cloud = float(cloud) if isinstance(cloud, int | float) else None
        if cloud is not None and cloud > search.cloud:
            continue
        out.append(
            {
                "id": str(item.id)[:200],
                "time": _time(item),
                "cloud": cloud,
                "platform": str(item.properties.get("platform", ""))[:40],
                "tile": str(item.properties.get("grid:code", item.properties.get("s2:mgrs_tile", "")))[:20],
                "covers": _covers(item, search.area),
                "footprint": item.geometry,
            }
        )
    return sorted(out, key=lambda scene: str(scene["time"])), _words(caught)


def _search(search: Search, api: str) -> list[Any]:
    from xsen2.sources.search import items_at

    return items_at(api, read(search.area).lonlat, search.datetime)


def _time(item: Any) -> str:
    return str(item.datetime.isoformat() if item.datetime else item.properties.get("start_datetime", ""))[:40]


def _covers(item: Any, area: Any) -> float | None:
    """The share of an area's box that a scene covers."""
    import shapely

    from xsen2.geometry import beside

    try:
        shape = shapely.geometry.shape(item.geometry)
        west, south, east, north = read(area).lonlat
        box = shapely.box(*beside((west, south, east, north), float(shape.centroid.x)))
        return round(float(shape.intersection(box).area / box.area), 3) if box.area else None
    except (TypeError, ValueError, AttributeError, KeyError, shapely.errors.GEOSException):
        return None  # its outline is broken, which its pixels need not be


@cache
def sample_scenes() -> list[dict[str, Any]]:
    """The dates of the embedded sample, as `scenes` lists those of an API."""
    import xsen2

    cube = xsen2.sample()
    west, south, east, north = reprojected(cube.rio.bounds(), cube.rio.crs.to_wkt(), "OGC:CRS84")
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return [
        {
            "id": f"sample-{str(when)[:10].replace('-', '')}",
            "time": f"{str(when)[:19]}Z",
            "cloud": 0.0,
            "platform": "drawn by code",
            "tile": "31U",
            "covers": None,
            "footprint": {"type": "Polygon", "coordinates": [ring]},
        }
        for when in cube["time"].values
    ]


def _cube(job: Job, api: str) -> xr.Dataset:
    """The lazy cube of a job's scenes, with the context that its method needs round the area."""
    import xsen2

    if job.source == "sample":
        cube = xsen2.sample()
        wanted = [number for number, scene in enumerate(sample_scenes()) if scene["id"] in job.scenes]
        if len(wanted) < len(job.scenes):
            raise SourceError("the sample has no such scene: search anew")
        return cube.isel(time=wanted)
    wanted_ids = set(job.scenes)
    items = [item for item in _search(job, api) if item.id in wanted_ids]
    missing = wanted_ids - {item.id for item in items}
    if missing:
        raise SourceError(f"{api} does not have {', '.join(sorted(missing))[:400]} any more: search anew")
    context = context_of(job.method, job.bands)
    return xsen2.load(checked(items, api), bbox=padded(job.area, context), chunks=_CHUNK, sign=_sign(api))


def _sign(api: str) -> Any:
    """What makes the Planetary Computer's addresses ones that may be read; None for others."""
    from xsen2.sources.stac import PLANETARY_COMPUTER

    if not api.startswith(PLANETARY_COMPUTER):
        return None
    try:
        import planetary_computer
    except ImportError as error:
        raise SourceError("the Planetary Computer signs its files: pip install planetary-computer") from error
    return planetary_computer.sign


# From scenes to files.


def perform(job: Job, api: str, folder: Path, report: Report) -> dict[str, Any]:
    """Do a job; killed, the same call goes on where it was.

    Parameters
    ----------
    job : Job
    api : str
        The STAC API that is searched.
    folder : Path
        For the job's files: ``measured/DATE.tif``, ``sharp/DATE.tif``, ``error/DATE.tif`` (int16 DN; errors uint16) and
        ``sharp.zarr``.
    report : callable
        Called with ``stage``, ``done``, ``total``, ``unit`` and ``share``; stops the job if it returns False.

    Returns
    -------
    dict
        What a page needs to show the result: ``dates``, ``bands``, ``errors``, ``crs``, ``bounds``, ``size``,
        ``stretch`` (band → 2nd and 98th percentile in DN), ``valid`` (date → share of pixels with data),
        ``method``, ``notes``, ``attribution``, …

    Raises
    ------
    Cancelled
        `report` stopped it.
    Xsen2Error
        As the calls that it makes.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _tell(report, "searching", None)
        cube = _cube(job, api)
        _tell(report, "reading", None)
        native = to_zarr(cube, folder / NATIVE, dtype="float32", progress=partial(_tell, report, "reading"))
        _require_data(native, job)
        _tell(report, "sharpening", None)
        bands = list(job.bands) if job.bands else None
        coarse = [band for band in (*B, *C) if band in native and (bands is None or band in bands)]
        try:
            sr = superresolve(native, bands, job.method, area=job.area, clip=job.clip, uncertainty=True)
        except MethodError:  # it has no standard errors; anything else that is wrong shows in the next line
            sr = superresolve(native, bands, job.method, area=job.area, clip=job.clip)
        sharp = to_zarr(sr, folder / STORE, progress=partial(_tell, report, "sharpening"))
        written = _files(native, sharp, job, coarse, folder, report)
    dates = [path.stem for path in written]
    stretch, valid = _statistics(sharp)
    return {
        "dates": dates,
        "times": [f"{str(when)[:19]}Z" for when in np.atleast_1d(sharp["time"].values)],
        "bands": [band for band in BANDS if band in sharp],
        "made": coarse,
        "errors": [band for band in BANDS if f"{band}_se" in sharp],
        "crs": f"EPSG:{sharp.rio.crs.to_epsg()}",
        "bounds": [float(edge) for edge in sharp.rio.bounds()],
        "size": [sharp.sizes["x"], sharp.sizes["y"]],
        "stretch": stretch,
        "valid": dict(zip(dates, valid, strict=True)),
        "method": str(sharp.attrs.get("xsen2_method", job.method)),
        "attribution": str(sharp.attrs.get("attribution", "")),
        "notes": _words(caught),
    }


def _files(
    native: xr.Dataset, sharp: xr.Dataset, job: Job, coarse: list[str], folder: Path, report: Report
) -> list[Path]:
    """Write the GeoTIFFs that the page reads; paths of those at 10 m."""
    parts = [superresolve(native, [band], Measured(band), area=job.area, clip=job.clip) for band in coarse]
    planes = [part[[band]] for band, part in zip(coarse, parts, strict=True)]
    measured = xr.merge([parts[0], *planes], compat="override", combine_attrs="override")
    bands = [band for band in BANDS if band in sharp]
    errors = [f"{band}_se" for band in bands if f"{band}_se" in sharp]
    todo: list[tuple[str, xr.Dataset, list[str], str]] = [
        ("measured", measured, bands, "int16"),
        ("sharp", sharp, bands, "int16"),
        *([("error", sharp, errors, "uint16")] if errors else []),
    ]
    written: dict[str, list[Path]] = {}
    for number, (kind, ds, names, dtype) in enumerate(todo):
        template = str(folder / kind / "{date}.tif")
        telling = partial(_tell, report, "writing", start=number / len(todo), part=1 / len(todo))
        written[kind] = to_cog(ds, template, bands=names, dtype=dtype, progress=telling)
    return written["sharp"]


def _tell(report: Report, stage: str, progress: Progress | None, start: float = 0.0, part: float = 1.0) -> bool:
    """Say how far a job is.

    Raises
    ------
    Cancelled
        It is to be stopped, and no call of the library is there to do it.
    """
    first, last = _STAGES[stage]
    within = 0.0
    about: dict[str, Any] = {"stage": stage}
    if progress is not None:
        within = progress.done / progress.total if progress.total else 0.0
        about |= {"done": progress.done, "total": progress.total, "unit": progress.unit}
    go_on = report({**about, "share": round(first + (last - first) * (start + part * within), 4)})
    if not go_on and progress is None:
        raise Cancelled("the job was cancelled")
    return go_on


def _require_data(native: xr.Dataset, job: Job) -> None:
    """Refuse scenes that have no pixel in the area; all of a network's work would be for nothing.

    Raises
    ------
    SourceError
    """
    from xsen2.area import locate
    from xsen2.cube import recognise

    aoi = locate(recognise(native), job.area)
    seen = native["B04"].isel(y=aoi.rows, x=aoi.columns)
    if not np.isfinite(seen.values).any():
        raise SourceError("the scenes have no data in this area, nodata alone: choose others, or another area")


def _statistics(sharp: xr.Dataset) -> tuple[dict[str, list[float]], list[float]]:
    """The stretch of each band over all dates, and the share of pixels with data of each date."""
    stretch: dict[str, list[float]] = {}
    for name in map(str, sharp.data_vars):
        step = max(1, round((sharp[name].size / 4e6) ** 0.5))  # a few million pixels tell
        values = sharp[name][..., ::step, ::step].values
        gain = scale_of(sharp[name]).gain
        values = values[np.isfinite(values)] * gain
        low, high = np.percentile(values, [2, 98]) if len(values) else (0.0, 1.0)
        stretch[name] = [round(float(low), 1), round(float(max(high, low + 1)), 1)]
    first = next(name for name in sharp.data_vars if name in BANDS)
    shares = [float(np.isfinite(date.values).mean()) for date in sharp[first]]
    return stretch, [round(share, 4) for share in shares]


def _words(caught: list[Any]) -> list[str]:
    """Warnings as sentences, each once; those of other packages are for programmers."""
    ours = [w for w in caught if issubclass(w.category, UserWarning) and not issubclass(w.category, DeprecationWarning)]
    return list(dict.fromkeys(printable(" ".join(str(w.message).split()), 400) for w in ours))[:10]
