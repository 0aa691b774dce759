"""What a store says about its pixels before it has any: coordinates, metadata, and whose they are."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xsen2.bands import find
from xsen2.errors import CRSError
from xsen2.radiometry import UNPACKED, nodata_of
from xsen2.sinks.regions import Grid
from xsen2.sinks.state import RUN, digest, quiet

__all__ = ["fingerprint", "georeferenced", "loaded", "said_times", "skeleton"]

EPOCH = "1970-01-01"
DATES = 1024
"""Dates in a chunk of what has one value per date. Fixed, so that a date which is added changes no chunk's shape."""

_COARSE = ("day", "hour", "minute", "second", "week", "month", "year")


def loaded(ds: xr.Dataset, grids: list[Grid]) -> xr.Dataset:
    """The dataset with all but the pixels in memory: only pixels are written region by region."""
    rest = ds.drop_vars([name for grid in grids for name in grid.arrays]).load()
    return ds.assign_coords(rest.coords).assign(rest.data_vars)


def georeferenced(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with its CRS in a scalar coordinate that every variable on a grid points at."""
    crs = ds.rio.crs
    if crs is None:
        raise CRSError('the dataset has no CRS, so nobody could place the store: ds.rio.write_crs("EPSG:…") first')
    if ds.rio.grid_mapping not in ds.coords:
        ds = ds.rio.write_crs(crs)
    mapping = ds.rio.grid_mapping
    where = ds[mapping].variable.copy(deep=False)
    # One transform speaks for one grid only, and rioxarray would use it for all of them.
    where.attrs = {k: v for k, v in where.attrs.items() if k != "GeoTransform"}
    planes = {v.dims[-2:] for v in ds.data_vars.values() if v.ndim >= 2}
    if len(planes) == 1 and all(d in ds.coords and ds.sizes[d] > 1 for d in next(iter(planes))):
        y, x = (ds[d].values.astype(float) for d in next(iter(planes)))
        dy, dx = (float(v[-1] - v[0]) / (len(v) - 1) for v in (y, x))
        where.attrs["GeoTransform"] = f"{float(x[0]) - dx / 2} {dx} 0.0 {float(y[0]) - dy / 2} 0.0 {dy}"
    elif len(planes) == 1 and "GeoTransform" in ds[mapping].attrs:  # one pixel wide: coordinates do not tell its size
        where.attrs["GeoTransform"] = ds[mapping].attrs["GeoTransform"]
    ds = ds.assign_coords({mapping: where})
    for variable in ds.data_vars.values():
        variable.attrs.pop("grid_mapping", None)  # xarray wants it in the encoding alone
        if variable.ndim >= 2:
            variable.encoding["grid_mapping"] = mapping
    return ds


def fingerprint(ds: xr.Dataset, grids: list[Grid]) -> str:
    """What makes two calls the same run, without computing a pixel."""
    pixels = {name: array for grid in grids for name, array in grid.arrays.items()}
    layers = {layer for array in pixels.values() for layer in array.dask.layers}
    variables = sorted(((str(n), v) for n, v in ds.variables.items()), key=lambda pair: pair[0])
    said: dict[str, Any] = {
        "grids": [(n, v.dims, v.shape, str(v.dtype)) for n, v in variables],
        "coordinates": [(n, hashlib.sha256(_bytes(v)).hexdigest()) for n, v in variables if n not in pixels],
        "attributes": [{k: v for k, v in ds.attrs.items() if k != RUN}, [v.attrs for _, v in variables]],
        "storage": [(g.packings, g.chunks, g.regions) for g in grids],
        "steps": sorted(_TOKEN.sub("", layer) for layer in layers),
        "pixels": sorted((name, array.name) for name, array in pixels.items()),
    }
    return ";".join(f"{k}={digest(v)}" for k, v in said.items())


_TOKEN = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}")
"""What Dask adds to the name of a step: a hash of all that goes in, or a random number."""


def _bytes(variable: xr.Variable) -> bytes:
    values = np.asarray(variable.values)
    return repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()


def said_times(ds: xr.Dataset) -> dict[str, dict[str, Any]]:
    """How times are to be stored, by name: as the caller has said in ``ds.time.encoding``, else in fixed units.

    Left alone, xarray counts in the units that the dates at hand happen to fit ("days since 2024-05-12 10:46:31"), and
    a date that is added later does not. What it has guessed so is still in the encoding when a store is opened again,
    beside the chunks it was read in: nobody has said it.
    """
    out = {}
    for name, variable in ds.variables.items():
        if variable.dtype.kind not in "Mm":
            continue
        said = {k: v for k, v in variable.encoding.items() if k in ("units", "calendar", "dtype")}
        units = str(said.get("units", ""))
        guessed = bool({"chunks", "preferred_chunks", "original_shape", "source"} & set(variable.encoding))
        if not units or (guessed and units.lower().startswith(_COARSE)) or not _exact(variable, said):
            said.pop("dtype", None)
            said = {k: v for k, v in said.items() if k == "calendar"} | {"units": _units(variable)}
            if not _exact(variable, said):  # a calendar that does not know these dates
                said.pop("calendar", None)
        out[str(name)] = {"dtype": np.dtype("int64")} | said
        if variable.dtype.kind == "m":
            out[str(name)].pop("calendar", None)
    return out


def _units(variable: xr.Variable) -> str:
    """Nanoseconds, which hold all that numpy's usual dates can be; microseconds where dates are too far for these."""
    values = variable.values
    values = values[~np.isnat(values)]
    far = values.size and (values.astype("M8[us]" if values.dtype.kind == "M" else "m8[us]").astype("int64"))
    step = "microseconds" if np.size(far) and np.abs(far).max() > 9.2e15 else "nanoseconds"
    return f"{step} since {EPOCH}" if values.dtype.kind == "M" else step


def _exact(variable: xr.Variable, said: dict[str, Any]) -> bool:
    """Whether times are the same to the last digit after they are encoded and decoded."""
    wanted = xr.Variable(variable.dims, variable.values, encoding={"dtype": np.dtype("int64")} | said)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoded = xr.conventions.encode_cf_variable(wanted, name="time")
            found = xr.conventions.decode_cf_variable("time", encoded, decode_timedelta=True).values
    except (ValueError, OverflowError, TypeError, ImportError, AttributeError):  # xarray's, of what it cannot read
        return False
    if str(encoded.attrs.get("units")).split()[:1] != str(said["units"]).split()[:1]:
        return False  # xarray takes finer units where the given ones do not fit: others for every date
    a, b = np.asarray(found), variable.values
    return bool(a.dtype.kind == b.dtype.kind and ((a == b) | (np.isnat(a) & np.isnat(b))).all())


def skeleton(
    ds: xr.Dataset, grids: list[Grid], store: Any, run: str, said: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Write all but the pixels: metadata, coordinates and small variables.

    Parameters
    ----------
    ds : xarray.Dataset
    grids : list of Grid
    store : path, URL or Zarr store
    run : str
    said : mapping, optional
        Name → encoding of variables that are not pixels, as `said_times` gives it.
    """
    from zarr.codecs import BloscCodec

    codec = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    encoding: dict[str, dict[str, Any]] = {}
    lazy: dict[Hashable, Any] = {}
    for grid in grids:
        for name, array in grid.arrays.items():
            variable = ds[name].variable
            attrs = dict(variable.attrs)
            packing = grid.packings.get(name)
            kind = array.dtype if packing is None else np.dtype(packing.dtype)
            nodata: Any = packing.nodata if packing else np.nan if kind.kind == "f" else _declared(ds[name])
            for key in ("_FillValue", "missing_value", "nodata"):
                attrs.pop(key, None)
            if name in grid.units:
                attrs = {k: v for k, v in attrs.items() if k not in UNPACKED} | {"units": grid.units[name]}
            if packing and packing.scale != 1:
                attrs["scale_factor"] = packing.scale
            encoding[name] = {
                "chunks": grid.chunks,
                "compressors": (codec,),
                "grid_mapping": variable.encoding["grid_mapping"],
            }
            if nodata is not None and kind.kind != "b":
                value = kind.type(nodata)
                # fill_value is what a chunk that is not on disk reads as; 0 would be a measurement.
                encoding[name] |= {"_FillValue": value, "fill_value": value}
            lazy[name] = (grid.dims, da.zeros(array.shape, dtype=kind, chunks=-1), attrs)
    dates: set[Hashable] = {dim for grid in grids for dim in grid.dims[:-2]}
    dates |= {dim for dim in ds.dims if dim in ds.coords and ds[dim].dtype.kind == "M"}
    for own, small in ds.variables.items():
        if own in lazy:
            continue
        encoding[str(own)] = dict((said or {}).get(str(own), {}))
        if dates & set(small.dims):
            each = DATES if small.ndim == 1 else 1
            encoding[str(own)]["chunks"] = tuple(each if d in dates else ds.sizes[d] for d in small.dims)
    template = ds.assign(lazy).assign_attrs({RUN: run})
    with quiet():
        template.to_zarr(store, mode="a", encoding=encoding, compute=False, zarr_format=3, consolidated=False)


def _declared(variable: xr.DataArray) -> float | None:
    """Nodata of integers. Bands that declare none have Sentinel-2's own, 0; other variables have none."""
    said = any(k in variable.attrs for k in ("_FillValue", "missing_value", "nodata"))
    return nodata_of(variable) if said or find(variable.name) else None
