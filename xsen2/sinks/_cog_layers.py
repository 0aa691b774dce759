"""From variables to what a GeoTIFF has: pixels of one type, nodata, scale, place, and tags."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, find
from xsen2.errors import CRSError, GridError, StoreError
from xsen2.grid import Axes, axes_of, crs_of, spacing
from xsen2.radiometry import NODATA_ATTRS, UNPACKED, nodata_of
from xsen2.result import lazy
from xsen2.sinks._cog_tags import text
from xsen2.sinks.pack import Values, pack

__all__ = ["Layer", "Place", "layer_of"]

_INTEGERS = ("uint8", "uint16", "int16", "uint32", "int32")


@dataclass(frozen=True)
class Place:
    """Where a grid lies: CRS as WKT, GDAL's six numbers, rows and columns."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]


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
    place : Place
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
    place: Place
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
    place, flips = _place(ds, variable, axes)
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
    return Layer(name, stored, axes.time, nodata, scale, classes, place, unit, tags, imagery)


def _stored(variable: xr.DataArray, data: da.Array, values: Values) -> tuple[da.Array, float | None, float, bool]:
    """Pixels of the type on disk, nodata, scale, and whether they are classes."""
    kind, packing = variable.dtype, values.packing
    if values.scale is not None or kind.kind == "f":
        found = np.dtype(np.float32 if packing is None else packing.dtype)
        out = da.map_blocks(_block, data, values, dtype=found, meta=np.empty((0, 0, 0), found))
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


def _place(ds: xr.Dataset, variable: xr.DataArray, axes: Axes) -> tuple[Place, tuple[int, int]]:
    """Where the pixels are, and the steps that turn rows and columns north up."""
    name = str(variable.name)
    crs = crs_of(variable, ds)
    if crs is None:
        raise CRSError(f'{name} has no CRS, so nobody could place the file: ds.rio.write_crs("EPSG:…") first')
    size = spacing(variable, axes, name) or _declared_size(variable)
    corners, steps, flips = [], [], []
    for dim, sign in ((axes.y, -1), (axes.x, 1)):
        values = np.asarray(variable[dim].values, np.float64)
        if not np.isfinite(values).all():
            raise GridError(f"{name}: coordinate {dim!r} has values that are not numbers")
        # Each axis by its whole length: a step that is off by little is off by pixels at the far end.
        step = sign * size if len(values) == 1 else float(values[-1] - values[0]) / (len(values) - 1)
        flip = 1 if step * sign > 0 else -1
        corners.append(float(values[0] if flip == 1 else values[-1]) - flip * step / 2)
        steps.append(flip * step)
        flips.append(flip)
    transform = (corners[1], steps[1], 0.0, corners[0], 0.0, steps[0])
    place = Place(crs.to_wkt(), transform, (variable.sizes[axes.y], variable.sizes[axes.x]))
    return place, (flips[0], flips[1])


def _declared_size(variable: xr.DataArray) -> float:
    """Size of a single pixel, which its coordinates do not show."""
    mapping = variable.coords.get(variable.rio.grid_mapping)
    said = "" if mapping is None else str(mapping.attrs.get("GeoTransform", ""))
    try:
        return abs(float(said.split()[1]))
    except (IndexError, ValueError):
        raise GridError(
            f"{variable.name} is a single pixel, and nothing says how large: ds.rio.write_transform(…) first"
        ) from None
