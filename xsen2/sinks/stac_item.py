"""A STAC item beside what a sink has written: made from the files themselves, so that it says what they hold."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xsen2 import files
from xsen2.bands import BANDS, find
from xsen2.errors import StoreError
from xsen2.files import local
from xsen2.geometry import beside, lonlat
from xsen2.version import __version__

__all__ = ["stac_item", "write_item"]

EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("eo/v2.0.0", "projection/v2.0.0", "raster/v2.0.0", "processing/v1.2.0")
)
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
ZARR = "application/vnd.zarr; version=3"


def stac_item(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """A STAC 1.1 item of what `to_cog` or `to_zarr` has written.

    Parameters
    ----------
    path : path or sequence of path
        A Zarr store, or GeoTIFFs of one date.

    Returns
    -------
    dict
        With ``bands``, the extensions ``proj``, ``raster``, ``eo`` and ``processing``, and assets whose addresses are
        relative to the folder of the first path. ``processing:lineage`` says by which method, weights included;
        ``xsen2:…`` are the attributes that say how pixels were made.

    Raises
    ------
    StoreError
        If there is nothing there that can be described, or it has no date.

    Examples
    --------
    >>> import tempfile, xsen2
    >>> from xsen2.sinks.stac_item import stac_item
    >>> sr = xsen2.sample().isel(time=[0]).dsen2.superresolve(["B11"], method="bicubic")
    >>> files = sr.dsen2.to_cog(tempfile.mkdtemp() + "/lake.tif", progress=False)
    >>> item = stac_item(files)
    >>> item["id"], item["properties"]["proj:code"], item["properties"]["gsd"]
    ('lake', 'EPSG:32631', 10)
    """
    given = [path] if isinstance(path, str | os.PathLike) else list(path)
    paths = [local(place, StoreError) for place in given]
    if not paths:
        raise StoreError("there are no files to describe: give the paths that to_cog has returned")
    described = [_zarr(place) if place.is_dir() else _cog(place) for place in paths]
    first = described[0]
    if any(entry["proj:code"] != first["proj:code"] for entry in described):
        raise StoreError(f"{paths[0]} and others have several CRS: describe those of one CRS at a time")
    times = sorted({time for entry in described for time in entry["times"]})
    if not times:
        raise StoreError(
            f"{paths[0]} has no date, which a STAC item needs: ds.assign_coords(time=…) or ds.expand_dims(time=[…]) "
            "before it is written"
        )
    tags = first["tags"]
    west, south, east, north = _around([entry["lonlat"] for entry in described])
    gsds = [band["gsd"] for entry in described for band in entry["bands"] if "gsd" in band]
    properties: dict[str, Any] = {"datetime": times[0] if len(times) == 1 else None}
    if len(times) > 1:
        properties |= {"start_datetime": times[0], "end_datetime": times[-1]}
    properties |= {
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "processing:lineage": _lineage(tags),
        "processing:software": {"xsen2": str(tags.get("xsen2_version", __version__))},
    }
    for key in ("proj:code", "proj:wkt2"):
        if first.get(key):
            properties[key] = first[key]
    for key in sorted(tags):
        if _is_about_pixels(key):
            properties[f"xsen2:{key.removeprefix('xsen2_')}"] = tags[key]
    if gsds:
        properties["gsd"] = min(gsds)
    if attribution := tags.get("attribution"):
        properties["description"] = str(attribution)
    links = []
    for source in re.split(r",\s*", str(tags.get("source", ""))):
        if source and "://" in source:
            links.append({"rel": "derived_from", "href": source})
        elif source:
            properties.setdefault("xsen2:source_items", []).append(source)
    folder = paths[0].parent
    assets: dict[str, dict[str, Any]] = {}
    for entry, place in zip(described, paths, strict=True):
        name = entry["bands"][0]["name"] if len(paths) > 1 and len(entry["bands"]) == 1 else place.stem
        asset: dict[str, Any] = {
            "href": f"./{os.path.relpath(place, folder)}".replace(os.sep, "/"),
            "type": entry["type"],
            "roles": ["data"],
            "bands": entry["bands"],
        }
        for key in ("proj:shape", "proj:transform", "proj:bbox"):
            if key in entry:
                asset[key] = entry[key]
        assets[name if len(paths) > 1 else "data"] = asset
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS),
        "id": _common(paths),
        "geometry": _outline(west, south, east, north),
        "bbox": [west, south, east - 360 if east > 180 else east, north],
        "properties": properties,
        "links": links,
        "assets": assets,
    }


def write_item(path: Path | Sequence[Path]) -> Path:
    """Write the item of `stac_item` beside what it describes, whole or not at all; where it is."""
    item = stac_item(path)
    first = path if isinstance(path, Path) else path[0]
    target = first.with_name(f"{item['id']}.json")
    with files.named(target, files.ANEW):
        files.write(target, json.dumps(item, indent=1, ensure_ascii=False) + "\n")
    return target


def _common(paths: Sequence[Path]) -> str:
    """A name for files of one date: what theirs begin with, else that of their folder."""
    first, last = min(path.stem for path in paths), max(path.stem for path in paths)
    shared = "".join(x for x, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return shared.rstrip("_-. ") or paths[0].parent.name


def _is_about_pixels(key: str) -> bool:
    return key in ("xsen2_method", "xsen2_consistency", "xsen2_mask", "offset")


def _lineage(tags: Mapping[str, Any]) -> str:
    method, consistency = str(tags.get("xsen2_method", "")), str(tags.get("xsen2_consistency", "none"))
    lineage = f"bands on a finer grid by xsen2, method {method}" if method else "written by xsen2"
    return (
        lineage if consistency == "none" else f"{lineage}, consistent with what was measured (operator {consistency})"
    )


def _around(boxes: Sequence[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    w, s, e, n = zip(*(beside(box, boxes[0][0]) for box in boxes), strict=True)
    return min(w), min(s), max(e), max(n)


def _outline(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    """A box in degrees as GeoJSON: of two parts where it passes 180 (RFC 7946, 3.1.9)."""
    sides = [(west, min(east, 180.0)), *([(-180.0, east - 360)] if east > 180 else [])]
    rings = [[[[w, south], [e, south], [e, north], [w, north], [w, south]]] for w, e in sides]
    return (
        {"type": "Polygon", "coordinates": rings[0]}
        if len(rings) == 1
        else {"type": "MultiPolygon", "coordinates": rings}
    )


def _band(name: str, dtype: Any, nodata: Any, scale: float, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """A band object of STAC 1.1, with the fields of `eo` and `raster`."""
    out: dict[str, Any] = {"name": name, "data_type": str(np.dtype(dtype))}
    if nodata is not None:
        out["nodata"] = "nan" if isinstance(nodata, float) and np.isnan(nodata) else float(nodata)
    if text := attrs.get("long_name"):
        out["description"] = str(text)
    if scale != 1:
        out |= {"raster:scale": scale, "raster:offset": 0.0}
    elif (unit := attrs.get("units")) not in (None, "", "1"):
        out["unit"] = str(unit)
    gsd = attrs.get("gsd")
    if gsd is not None:
        out["gsd"] = float(gsd) if float(gsd) != int(float(gsd)) else int(float(gsd))
        out["raster:spatial_resolution"] = out["gsd"]
    if (band := find(name)) and band in BANDS:
        out["eo:center_wavelength"] = round(BANDS[band].wavelength / 1000, 4)
    return out


def _times(values: Any) -> list[str]:
    stamps = np.atleast_1d(np.asarray(values, dtype="datetime64[s]"))
    return [f"{stamp}Z" for stamp in stamps[~np.isnat(stamps)]]


def _place(crs: Any, affine: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """Where a grid lies, in the words of `proj`, and as a box in degrees."""
    from odc.geo.geobox import GeoBox

    grid = GeoBox(shape, affine, crs.to_wkt())
    code = crs.to_epsg()
    return {
        "proj:code": f"EPSG:{code}" if code else None,
        "proj:wkt2": None if code else crs.to_wkt(),
        "proj:shape": list(shape),
        "proj:transform": [float(x) for x in tuple(affine)[:6]],
        "proj:bbox": [float(x) for x in grid.boundingbox.bbox],
        "lonlat": tuple(round(x, 7) for x in lonlat(grid)),
    }


def _cog(path: Path) -> dict[str, Any]:
    import rasterio

    try:
        with rasterio.open(path, driver="GTiff") as file:
            tags = file.tags()
            bands = [
                _band(
                    file.descriptions[i] or f"band{i + 1}",
                    file.dtypes[i],
                    file.nodatavals[i],
                    file.scales[i],
                    {"units": file.units[i], **file.tags(i + 1)},
                )
                for i in range(file.count)
            ]
            place = _place(file.crs, file.transform, file.shape)
    except (rasterio.errors.RasterioError, AttributeError) as error:
        raise StoreError(f"{path} is no GeoTIFF that could be described: {error}") from error
    time = tags.get("time") or tags.get("time_of_date")
    for band in bands:
        band.setdefault("gsd", int(abs(place["proj:transform"][0])))
    return {"type": COG, "bands": bands, "tags": tags, "times": _times(time) if time else [], **place}


def _zarr(path: Path) -> dict[str, Any]:
    import rioxarray  # noqa: F401  registers .rio

    from xsen2.grid import affine_of

    try:
        ds = xr.open_zarr(path, decode_coords="all", chunks={})
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{path} is no Zarr store that could be described: {error}") from error
    planes = {str(n): v for n, v in ds.data_vars.items() if v.ndim >= 2 and set(v.dims[-2:]) <= set(ds.coords)}
    if not planes or ds.rio.crs is None:
        raise StoreError(f"{path} has no bands with a place: write it by ds.dsen2.to_zarr")
    bands = [
        _band(
            name,
            v.encoding.get("dtype", v.dtype),
            v.encoding.get("_FillValue"),
            float(v.encoding.get("scale_factor", 1)),
            v.attrs,
        )
        for name, v in planes.items()
    ]
    finest = max(planes.values(), key=lambda v: v.shape[-1] * v.shape[-2])
    y, x = (finest[d].values.astype(float) for d in finest.dims[-2:])
    place = _place(ds.rio.crs, affine_of(y, x, 10.0), (len(y), len(x)))
    dates = [c for c in ds.coords.values() if c.dtype.kind == "M" and c.ndim <= 1]
    if len({v.shape[-2:] for v in planes.values()}) > 1:  # several grids: what holds for one does not for all
        place = {k: v for k, v in place.items() if k not in ("proj:shape", "proj:transform")}
    tags = {str(k): v for k, v in ds.attrs.items()}
    return {"type": ZARR, "bands": bands, "tags": tags, "times": _times(dates[0].values) if dates else [], **place}
