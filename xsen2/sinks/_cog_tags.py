"""What a GeoTIFF says about its pixels: attributes and dates as text."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr

from xsen2.errors import TimeError
from xsen2.sinks.state import RUN

__all__ = ["dates_of", "tags_of", "text"]


def tags_of(ds: xr.Dataset, dim: Hashable | None, number: int) -> dict[str, str]:
    """Tags of the file of one date: the dataset's attributes, and the coordinates of that date.

    Parameters
    ----------
    ds : xarray.Dataset
    dim : hashable or None
        The time dim.
    number : int
        Of the date.
    """
    from xsen2 import __version__  # not importable yet while this module is being imported

    said = {str(k): text(v) for k, v in ds.attrs.items() if v is not None and k != RUN}  # that of a store it is from
    tags = {"xsen2_version": __version__} | said
    for name, coordinate in ds.coords.items():
        if coordinate.dims == (dim,):
            coordinate = coordinate[number]
        if coordinate.ndim == 0 and not ({"crs_wkt", "spatial_ref", "grid_mapping_name"} & set(coordinate.attrs)):
            key = f"{name}_of_date" if str(name) in tags else str(name)
            tags[key] = text(coordinate.values)
    tags["TIFFTAG_SOFTWARE"] = f"xsen2 {__version__}"
    if "attribution" in ds.attrs:
        tags["TIFFTAG_COPYRIGHT"] = text(ds.attrs["attribution"])
    return tags


def text(value: Any) -> str:
    """A value of an attribute as text; JSON where it is more than one.

    Examples
    --------
    >>> text("a"), text(np.float32(0.5)), text([1, 2])
    ('a', '0.5', '[1, 2]')
    """
    if isinstance(value, np.datetime64) or (isinstance(value, np.ndarray) and value.dtype.kind == "M"):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


def dates_of(ds: xr.Dataset, dim: Hashable | None, count: int) -> list[str | None]:
    """Names of the dates: days where they differ, else seconds; None where there is no date.

    Raises
    ------
    TimeError
        If there are several dates which their names would not tell apart.
    """
    name = "time" if dim is None else dim
    known = name in ds.coords and (dim is not None or ds[name].ndim == 0)
    values = np.atleast_1d(ds[name].values) if known else np.empty(0)
    if values.dtype.kind not in "MO":
        if count == 1:
            return [None]
        raise TimeError(f"{dim} has {count} steps, which are no dates, so files cannot be named: ds.isel({dim}=0)")
    days, seconds = ([_said(v, form) for v in values] for form in ("%Y%m%d", "%Y%m%dT%H%M%S"))
    names = days if len(set(days)) == count else seconds
    if len(set(names)) < count:
        raise TimeError(f"{name} holds a date twice, so files cannot be named: merge them, or write one by one")
    return list(names)


def _said(value: Any, form: str) -> str:
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            raise TimeError("a date is missing (NaT), so its file cannot be named: ds.dropna('time')")
        value = value.astype("datetime64[s]").item()
    if not hasattr(value, "strftime"):
        raise TimeError(f"{value!r} is no date, so its file cannot be named")
    return str(value.strftime(form))
