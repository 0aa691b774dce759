"""How float pixels become integers on disk, and how metadata becomes what any store can hold."""

from __future__ import annotations

import datetime
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import find
from xsen2.errors import RadiometryError, StoreError

__all__ = ["PACKINGS", "Packing", "clean", "pack", "packing_of"]


@dataclass(frozen=True)
class Packing:
    """An integer type, its nodata value, the range that valid pixels are clipped to, and a scale.

    A value in memory is `scale` times the integer on disk. `dn` says that DN are expected.
    """

    dtype: str
    nodata: int
    low: int
    high: int
    scale: float = 1.0
    dn: bool = True


PACKINGS: dict[str, Packing] = {
    "int16": Packing("int16", nodata=-32768, low=-32767, high=32767),
    "uint16": Packing("uint16", nodata=0, low=1, high=65535),
}
"""Packings of bands by name. DN are stored as they are: no scale, no offset."""


def packing_of(variable: xr.DataArray, dtype: str) -> Packing | None:
    """How a variable of floats becomes integers, or None when it stays as it is.

    Parameters
    ----------
    variable : xarray.DataArray
        With the encoding it was read with: a class map that was decoded to floats becomes
        integers again, and bands that were decoded to reflectance get a scale.
    dtype : str
        What the caller wants for bands.
    """
    if variable.dtype.kind != "f":
        return None
    scale, nodata = variable.encoding.get("scale_factor"), variable.encoding.get("_FillValue")
    if find(variable.name):
        packing = PACKINGS.get(dtype)
        reflectance = scale is not None and abs(scale) < 0.01
        return replace(packing, scale=1e-4, dn=False) if packing and reflectance else packing
    kind = np.dtype(variable.encoding.get("dtype", "f4"))
    if kind.kind in "iu" and nodata is not None and scale is None and not variable.encoding.get("add_offset"):
        limits = np.iinfo(kind)
        return Packing(kind.name, int(nodata), int(limits.min), int(limits.max), dn=False)
    return None


def pack(block: npt.NDArray[Any], packing: Packing) -> npt.NDArray[Any]:
    """Round, clip, then cast: integers that are only cast wrap round.

    Parameters
    ----------
    block : array of float
        NaN where there is no data.
    packing : Packing

    Returns
    -------
    array of int
        Nodata exactly where `block` is NaN.

    Raises
    ------
    RadiometryError
        DN are expected, but a block of many pixels holds nothing but small fractions.

    Examples
    --------
    >>> pack(np.array([-3.4, 70000.0, np.nan]), PACKINGS["uint16"])
    array([    1, 65535,     0], dtype=uint16)
    """
    empty = np.isnan(block)
    if packing.dn:
        _check_dn(block, empty)
    out = block if packing.scale == 1.0 else block / packing.scale
    out = np.clip(np.rint(out), packing.low, packing.high)
    out[empty] = packing.nodata
    return out.astype(packing.dtype)


def _check_dn(block: npt.NDArray[Any], empty: npt.NDArray[np.bool_]) -> None:
    """Refuse to round reflectance to 0 and 1. A few dark pixels may well lie below 2 DN."""
    seen = block[~empty]
    if seen.size >= 10_000 and 0 < np.abs(seen).max() < 2 and not (seen == np.rint(seen)).all():
        raise RadiometryError(
            f"no value in a block of {seen.size} pixels is over {np.abs(seen).max():.3g}: that looks like "
            "reflectance, which would be rounded to 0 or 1. Use dtype='float32', or ds * 10000, "
            "which is DN"
        )


def clean(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with metadata that JSON and Zarr can hold, and without a former store's chunks.

    Arrays and numpy scalars in attributes become lists and numbers, dates and paths become text.
    Object coordinates (STAC loaders make many) become text; None becomes "".

    Raises
    ------
    StoreError
        An attribute or coordinate has no plain form; or an index spans several coordinates.
    """
    ds = ds.copy(deep=False)
    ds.attrs = _attrs(ds.attrs, "the dataset")
    for name in list(ds.variables):
        variable = ds.variables[name].copy(deep=False)
        kept = (
            ("dtype", "_FillValue", "scale_factor", "add_offset") if name in ds.data_vars and variable.ndim >= 2 else ()
        )
        variable.encoding = {k: v for k, v in variable.encoding.items() if k in kept}
        variable.attrs = _attrs(variable.attrs, str(name))
        if variable.dtype.kind in "OU" or isinstance(variable.dtype, np.dtypes.StringDType):
            variable = variable.copy(data=_text(variable.values, name))
        if getattr(ds.indexes.get(name), "nlevels", 1) > 1:
            raise StoreError(f"{name} is a MultiIndex, which Zarr cannot hold: use ds.reset_index({str(name)!r}) first")
        ds = ds.assign_coords({name: variable}) if name in ds.coords else ds.assign({name: variable})
    return ds


def _text(values: npt.NDArray[Any], name: Hashable) -> npt.NDArray[Any]:
    """Strings of any length, as objects: fixed-length text has no Zarr 3 specification."""
    out = np.empty(values.shape, dtype=object)
    for index in np.ndindex(values.shape):
        value = _plain(values[index], str(name), f"ds.drop_vars({str(name)!r})")
        out[index] = "" if value is None else str(value)
    return out


def _attrs(attrs: Mapping[Any, Any], where: str) -> dict[str, Any]:
    owner = "ds" if where == "the dataset" else f"ds[{where!r}]"
    return {str(k): _plain(v, f"attribute {k!r} of {where}", f"del {owner}.attrs[{k!r}]") for k, v in attrs.items()}


def _plain(value: Any, what: str, remedy: str) -> Any:
    """The nearest thing that JSON knows."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.datetime64 | np.timedelta64):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), what, remedy)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, what, remedy) for k, v in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_plain(v, what, remedy) for v in items]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise StoreError(f"{what} is a {type(value).__name__}, which a Zarr store cannot hold: leave it out with {remedy}")
