"""How float pixels become integers on disk, and how metadata becomes what any store can hold."""

from __future__ import annotations

import datetime
import os
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import find
from xsen2.errors import RadiometryError, StoreError
from xsen2.radiometry import NODATA_ATTRS, STORED, Scale, finite, nodata_of, scale_of, seen_in, stored, warn_doubtful

__all__ = ["PACKINGS", "Packing", "Values", "clean", "pack", "values_of"]


@dataclass(frozen=True)
class Packing:
    """An integer type, its nodata value, the range that valid pixels are clipped to, and a scale.

    A value in memory is `scale` times the integer on disk. `classes` says that values are whole numbers by their
    nature, of which no mean is one.
    """

    dtype: str
    nodata: int
    low: int
    high: int
    scale: float = 1.0
    classes: bool = False
    name: str = ""


PACKINGS: dict[str, Packing] = {
    "int16": Packing("int16", nodata=-32768, low=-32767, high=32767),
    "uint16": Packing("uint16", nodata=0, low=1, high=65535),
}
"""Packings of bands by name. DN are stored as they are: no scale, no offset."""


@dataclass(frozen=True)
class Values:
    """What a variable holds, and how it goes to disk: the same for every kind of file.

    Attributes
    ----------
    scale : Scale or None
        Of bands and their standard errors; None for all other variables.
    nodata : float or None
        Of other floats, besides NaN.
    packing : Packing or None
        How floats become integers; None: they stay floats.
    as_is : bool
        Whether a band that is integers stays that.
    """

    scale: Scale | None
    nodata: float | None
    packing: Packing | None
    as_is: bool = False

    def __call__(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A block with NaN where there are no measurements; integers, if they stay integers, are only looked at.

        Raises
        ------
        RadiometryError
            If the pixels contradict what the metadata say of them.
        """
        kind = block.dtype.kind
        if self.scale is None:
            return finite(block, self.nodata) if kind == "f" else block
        if not self.as_is:
            return stored(block, self.scale)
        seen_in(block, self.scale)
        return block


def values_of(ds: xr.Dataset, names: Iterable[Hashable], dtype: str, *, errors: str, repack: bool) -> dict[str, Values]:
    """What variables of pixels hold, and how they are stored.

    Parameters
    ----------
    ds : xarray.Dataset
    names : iterable of str
    dtype, errors : str
        What the caller wants for bands, and for their standard errors.
    repack : bool
        Whether bands that are integers are stored like those that are floats.

    Raises
    ------
    RadiometryError
        If bands are raw, with a scale and offset still to be applied.
    """
    out = {str(name): _values(ds, ds[name], str(name), dtype, errors, repack) for name in names}
    warn_doubtful(values.scale for values in out.values() if values.scale is not None)
    return out


def _values(ds: xr.Dataset, variable: xr.DataArray, name: str, dtype: str, errors: str, repack: bool) -> Values:
    kind, own = variable.dtype.kind, name.removesuffix("_se")
    if kind not in "iuf" or not find(own):
        # Not 0: of a probability that became floats it is as likely to be a value.
        said = nodata_of(variable) if kind == "f" and any(k in variable.attrs for k in NODATA_ATTRS) else None
        return Values(None, said or None, _classes(variable))
    if kind != "f" and not repack:
        return Values(Scale(name, 1.0, nodata_of(variable), sure=True, dtype=str(variable.dtype)), None, None, True)
    scale = scale_of(variable)
    if own != name and own in ds and "units" not in variable.attrs:
        scale = replace(scale, gain=scale_of(ds[own]).gain)  # an error is in the unit of its band
    packing = PACKINGS.get(dtype if find(name) else errors)
    return Values(scale, None, packing and replace(packing, scale=1 / scale.gain))


def _classes(variable: xr.DataArray) -> Packing | None:
    """How a class map that was decoded to floats becomes integers again; None: it is none."""
    if variable.dtype.kind != "f":
        return None
    factor, nodata = variable.encoding.get("scale_factor"), variable.encoding.get("_FillValue")
    kind = np.dtype(variable.encoding.get("dtype", "f4"))
    if kind.kind in "iu" and nodata is not None and factor is None and not variable.encoding.get("add_offset"):
        limits = np.iinfo(kind)
        name = str(variable.name)
        return Packing(kind.name, int(nodata), int(limits.min), int(limits.max), classes=True, name=name)
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
        There are fractions where classes are expected.

    Examples
    --------
    >>> pack(np.array([-3.4, 70000.0, np.nan]), PACKINGS["uint16"])
    array([    1, 65535,     0], dtype=uint16)
    """
    empty = np.isnan(block)
    out = block if packing.scale == 1.0 else block / packing.scale
    whole = np.rint(out)
    if packing.classes and (np.abs(out - whole)[~empty] > 1e-3).any():
        odd = float(out[~empty & (np.abs(out - whole) > 1e-3)][0])
        raise RadiometryError(
            f"{packing.name} is stored as classes, which are whole numbers, but holds {odd:g}: it has been "
            f"interpolated or averaged. Load it with nearest neighbour, or leave it out: ds.drop_vars({packing.name!r})"
        )
    out = np.clip(whole, packing.low, packing.high)
    out[empty] = packing.nodata
    return out.astype(packing.dtype)


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
        kept = STORED if name in ds.data_vars and variable.ndim >= 2 else ()
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
