"""From variables to what a GeoTIFF has: pixels of one type, nodata, scale, place, and tags."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, find
from xsen2.cube import lazy
from xsen2.errors import CRSError, GridError, StoreError, TimeError
from xsen2.grid import Axes, affine_of, axes_of, crs_of, spacing, told_size
from xsen2.radiometry import NODATA_ATTRS, UNPACKED, Values, nodata_of, pack
from xsen2.sinks.resume import RUN
from xsen2.version import __version__

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["Layer", "dates_of", "layer_of", "tags_of"]


# What a GeoTIFF says about its pixels: attributes and dates as text.


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
    # The run in the attributes is that of the store that the pixels are read from.
    attributes = {str(k): text(v) for k, v in ds.attrs.items() if v is not None and k != RUN}
    tags = {"xsen2_version": __version__} | attributes
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
    days, seconds = ([_as_text(v, form) for v in values] for form in ("%Y%m%d", "%Y%m%dT%H%M%S"))
    names = days if len(set(days)) == count else seconds
    if len(set(names)) < count:
        raise TimeError(f"{name} holds a date twice, so files cannot be named: merge them, or write one by one")
    return list(names)


def _as_text(value: Any, form: str) -> str:
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            raise TimeError("a date is missing (NaT), so its file cannot be named: ds.dropna('time')")
        value = value.astype("datetime64[s]").item()
    if not hasattr(value, "strftime"):
        raise TimeError(f"{value!r} is no date, so its file cannot be named")
    return str(value.strftime(form))


_INTEGERS = ("uint8", "uint16", "int16", "uint32", "int32")


@dataclass(frozen=True)
class Layer:
    """One variable as it goes to disk.

    Attributes
    ----------
    name : str
    data : dask array
        ``(time, y, x)``, north up, of the type on disk. Variables without dates have one.
    time : hashable or None
        The time dim.
    nodata : float or None
    scale : float
        What a value on disk is multiplied by.
    classes : bool
        Whether the values are classes or flags, of which there is no mean.
    geobox : GeoBox
    unit : str
    tags : dict
        Attributes as text.
    imagery : dict
        GDAL's IMAGERY domain.
    """

    name: str
    data: da.Array
    time: Hashable | None
    nodata: float | None
    scale: float
    classes: bool
    geobox: GeoBox
    unit: str
    tags: dict[str, str]
    imagery: dict[str, str]

    @property
    def dtype(self) -> str:
        """Type on disk."""
        return str(self.data.dtype)

    def __str__(self) -> str:
        scaled = "" if self.scale == 1 else f", scale {self.scale:g}"
        return f"{self.dtype} ({'no nodata' if self.nodata is None else f'nodata {self.nodata:g}'}{scaled})"


def layer_of(ds: xr.Dataset, name: str, values: Values) -> Layer:
    """A variable as it goes to disk, lazily.

    Parameters
    ----------
    ds : xarray.Dataset
    name : str
    values : Values
        What it holds, and how it is stored.

    Raises
    ------
    CRSError, GridError, TimeError
        If nobody could tell where its pixels are.
    StoreError
        If a GeoTIFF cannot hold it.
    """
    variable = ds[name]
    axes = axes_of(variable, name)
    grid, flips = _placed(ds, variable, axes)
    variable = variable.transpose(*(() if axes.time is None else (axes.time,)), axes.y, axes.x)
    data = lazy(variable.data)
    data = (data if data.ndim == 3 else data[None])[:, :: flips[0], :: flips[1]]
    stored, nodata, scale, classes = _stored(variable, data, values)
    band, unit = find(name), str(variable.attrs.get("units", ""))
    if values.scale is not None and values.scale.gain != 1:
        unit = values.scale.units
    left_out = (*UNPACKED, "grid_mapping", "units", "ancillary_variables")
    tags = {str(k): text(v) for k, v in variable.attrs.items() if k not in left_out and v is not None}
    imagery = {}
    if band:
        about = BANDS[band]
        tags = {"band": band, "wavelength": f"{about.wavelength:g}"} | tags
        imagery = {
            "CENTRAL_WAVELENGTH_UM": f"{about.wavelength / 1000:.4f}",
            "FWHM_UM": f"{about.bandwidth / 1000:.4f}",
        }
    return Layer(name, stored, axes.time, nodata, scale, classes, grid, unit, tags, imagery)


def _stored(variable: xr.DataArray, data: da.Array, values: Values) -> tuple[da.Array, float | None, float, bool]:
    """Pixels of the type on disk, nodata, scale, and whether they are classes."""
    kind, packing = variable.dtype, values.packing
    if values.scale is not None or kind.kind == "f":
        dtype = np.dtype(np.float32 if packing is None else packing.dtype)
        out = da.map_blocks(_block, data, values, dtype=dtype, meta=np.empty((0, 0, 0), dtype))
        if packing is None:
            return out, float("nan"), 1.0, False
        return out, packing.nodata, packing.scale, packing.classes
    if kind.kind == "b":
        return data.astype(np.uint8), None, 1.0, True
    if kind.name in _INTEGERS:
        declared = any(k in variable.attrs for k in NODATA_ATTRS)
        return data, nodata_of(variable) if declared else variable.encoding.get("_FillValue"), 1.0, True
    raise StoreError(
        f"{variable.name} is of dtype {kind}, which is not written to a GeoTIFF: use ds.astype with one of "
        f"{', '.join(_INTEGERS)}, float32, or leave it out with bands=[…]"
    )


def _block(block: npt.NDArray[Any], values: Values) -> npt.NDArray[Any]:
    clean = values(block).astype(np.float32, copy=False)
    return clean if values.packing is None else pack(clean, values.packing)


def _placed(ds: xr.Dataset, variable: xr.DataArray, axes: Axes) -> tuple[GeoBox, tuple[int, int]]:
    """Where the pixels are, and the steps that turn rows and columns north up."""
    from odc.geo.geobox import GeoBox

    name = str(variable.name)
    crs = crs_of(variable, ds)
    if crs is None:
        raise CRSError(f'{name} has no CRS, so nobody could place the file: ds.rio.write_crs("EPSG:…") first')
    size = spacing(variable, axes, name) or told_size(variable)
    if size is None:
        raise GridError(f"{name} is a single pixel, and nothing says how large: ds.rio.write_transform(…) first")
    y, x = (np.asarray(variable[dim].values, np.float64) for dim in (axes.y, axes.x))
    flips = (-1 if y[0] < y[-1] else 1, -1 if x[0] > x[-1] else 1)
    affine = affine_of(y[:: flips[0]], x[:: flips[1]], size)
    return GeoBox((len(y), len(x)), affine, crs), flips
