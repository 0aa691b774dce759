"""How float pixels become integers on disk, and how metadata becomes what any store can hold."""

from __future__ import annotations

import datetime
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import find
from xsen2.errors import RadiometryError, RadiometryWarning, StoreError, warn_once

if TYPE_CHECKING:
    from xsen2.cube import Cube

__all__ = [
    "NODATA_ATTRS",
    "PACKED",
    "PACKINGS",
    "STORED",
    "TAKEN",
    "UNPACKED",
    "Packing",
    "Scale",
    "Values",
    "check_dn",
    "clean",
    "finite",
    "nodata_of",
    "pack",
    "scale_of",
    "scales_of",
    "seen_in",
    "to_dn",
    "to_nan",
    "values_of",
    "warn_doubtful",
]


# What the values of a variable are: their unit, what stands for nodata, and what no reflectance can be.
#
# The one place that knows. Whatever reads or writes pixels asks `scale_of` what the values of a variable mean, and
# `seen_in`, `to_nan` or `to_dn` which of them are measurements.
#
# A unit is read from, in this order:
#
# 1. the caller's ``quantification``, the value of a reflectance of 1;
# 2. the dtype: integers are DN;
# 3. the encoding that CF decoding leaves: with a ``scale_factor`` under 0.01 floats are reflectance. Arithmetic drops
# it; 4. the attribute ``units``, as a number: "1" is reflectance, "1e-4" DN, "%" per cent. Most arithmetic keeps it; 5.
# nothing: DN.
#
# None of these is proof, since arithmetic makes other values under the same attributes. So pixels are looked at when
# they are computed, and values that contradict what they are taken for are refused.


NODATA_ATTRS = ("_FillValue", "nodata", "missing_value", "fill_value")
"""Attributes that name the nodata value; they go when pixels become NaN."""

PACKED = ("dtype", "_FillValue", "missing_value", "scale_factor", "add_offset", "fill_value")
"""Encoding that tells what the values on disk were, and so what those in memory are."""

TAKEN = "xsen2_gain"
"""Encoding of what `superresolve` made: the gain of the values that it was made of, whose pixels were looked at.

Encoding does not survive arithmetic, which may change the unit: what comes of that is looked at again.
"""

STORED = ("dtype", "_FillValue", "scale_factor", "add_offset")
"""Of these, what a writer needs to store values as they were."""

UNPACKED = (
    *NODATA_ATTRS,
    *("nodatavals", "scale_factor", "add_offset", "scales", "offsets", "dtype", "_eopf_attrs", "_Unsigned"),
    *("valid_min", "valid_max", "valid_range", "actual_range"),
)
"""Attributes about packed values, of xarray, rioxarray and EOPF, which say nothing true of float pixels."""

IMPOSSIBLE = 1e6
"""DN, a reflectance of 100. Beyond it lie the fill values of file formats, and damage, but no measurement: nodata."""

_REFLECTANCE = 2.0  # DN: a float block whose largest value is below this holds reflectance
_ERROR = 0.1  # DN: as much for standard errors, which are small
_DECODED = 2e-3  # DN: rounding of float32 at a reflectance of 3, and some more
_OFFSET = 1000  # DN that products add to the pixels since processing baseline 04.00
_WRAPPED = 65535 - _OFFSET  # beyond it lies what 16 bits without a sign make of 0…999 - 1000


@dataclass(frozen=True)
class Scale:
    """What the values of one variable mean: DN = gain * value.

    Attributes
    ----------
    name : str
        Of the variable, for errors.
    gain : float
        DN per unit of the values: 1 for DN, 10000 for reflectance.
    nodata : float or None
        The value, before `gain`, that stands for nodata besides NaN.
    sure : bool
        The caller or the dtype say what the unit is: small fractions may be DN.
    told : bool
        Something says what the unit is; DN are taken for granted else.
    dtype : str
        Of the variable: blocks of several bands may be of another.
    taken : bool
        It was made of pixels that were looked at, see `TAKEN`.
    """

    name: str
    gain: float
    nodata: float | None
    sure: bool
    told: bool = True
    dtype: str = "float32"
    taken: bool = False

    @property
    def quantification(self) -> float:
        """Value of a reflectance of 1."""
        return 10000.0 / self.gain

    @property
    def units(self) -> str:
        """For the attribute ``units``: "1" of reflectance, "1e-4" of DN."""
        power = np.log10(self.quantification)
        return "1" if power == 0 else f"1e-{power:.0f}" if power == round(power) > 0 else f"{1 / self.quantification:g}"

    @property
    def doubtful(self) -> bool:
        """Whether `nodata` is 0 by an attribute on floats: the attribute may be older than the values.

        ``raw.where(raw != 0) - 1000`` keeps the attribute of `raw`, but 0 is a reflectance of 0 then.
        """
        return self.nodata == 0 and np.dtype(self.dtype).kind == "f"


def nodata_of(da: xr.DataArray) -> float | None:
    """The value that means nodata besides NaN, or None.

    Taken from ``_FillValue``, ``nodata`` or ``missing_value``; of integers also from ``fill_value``, which EOPF leaves
    on decoded floats too. Integers that declare none use 0, Sentinel-2's own nodata value; so do floats that were
    decoded from such integers: of these it is what 0, or the fill value of a Zarr array, was decoded to.
    """
    for name in NODATA_ATTRS[: 3 if da.dtype.kind == "f" else None]:
        value = da.attrs.get(name)
        if value is not None and np.ndim(value) == 0 and not isinstance(value, str):
            return None if np.isnan(value) else float(value)
    return 0.0 if np.issubdtype(da.dtype, np.integer) else _decoded_nodata(da)


def _decoded_nodata(da: xr.DataArray) -> float | None:
    """What nodata became when a scale was applied to integers that declare none, else None.

    xarray makes NaN of what the CF attributes declare. Arrays of Zarr's format 3 may have a fill value and no such
    attribute; it is then scaled like a measurement (CF conventions 1.11, sections 2.5.1 and 8.1).
    """
    encoding = da.encoding
    scaled = encoding.get("scale_factor") is not None or encoding.get("add_offset") is not None
    stored = np.dtype(encoding["dtype"]).kind if scaled and encoding.get("dtype") is not None else ""
    if da.dtype.kind != "f" or stored not in ("i", "u") or any(encoding.get(n) is not None for n in NODATA_ATTRS[:3]):
        return None
    raw = np.asarray(encoding.get("fill_value") or 0, da.dtype)  # in the same precision and order as xarray's
    return float(raw * encoding.get("scale_factor", 1) + encoding.get("add_offset", 0))


def check_raw(array: xr.DataArray, name: object) -> None:
    """Refuse values with a scale and an offset still to be applied."""
    gain, offset = (array.attrs.get(k, neutral) for k, neutral in (("scale_factor", 1), ("add_offset", 0)))
    if gain != 1 or offset != 0:  # rioxarray writes the neutral ones
        raise RadiometryError(
            f"{name} still has scale_factor={gain} and add_offset={offset} in its attributes, so its values are raw: "
            "open it with mask_and_scale=True, or apply them and drop the attributes"
        )


def _quantification(array: xr.DataArray) -> float | None:
    """The value of a reflectance of 1, by the metadata; None if they do not give it."""
    if array.dtype.kind != "f":
        return 10000.0
    # CF decoding multiplies by 0.0001 and leaves reflectance.
    decoded = array.encoding.get("scale_factor")
    if decoded is not None and abs(decoded) < 0.01:
        return 1.0
    units = str(array.attrs.get("units", "")).strip()
    if units in ("%", "percent"):
        return 100.0
    try:
        unit = float(units)
    except ValueError:
        return None
    return 1 / unit if 0 < unit <= 1 else None


def scale_of(array: xr.DataArray, quantification: float | None = None, name: object = None) -> Scale:
    """What the values of a variable mean, from its metadata unless `quantification` says it.

    Parameters
    ----------
    array : xarray.DataArray
        A band, or the standard error of one.
    quantification : float, optional
        Value of a reflectance of 1.
    name : str, optional
        What errors call it; by default its own name.

    Raises
    ------
    RadiometryError
        If the values are no numbers, or raw, with a scale and offset still to be applied; or `quantification` is no
        positive number.

    Examples
    --------
    >>> import xsen2
    >>> band = xsen2.sample()["B05"]
    >>> scale_of(band).units, scale_of((band / 10000).assign_attrs(units="1")).units
    ('1e-4', '1')
    """
    name = array.name if name is None else name
    if array.dtype.kind not in "iuf":
        raise RadiometryError(f"{name} is of dtype {array.dtype}: reflectance or DN are needed")
    check_raw(array, name)
    unit: float | None
    if quantification is None:
        unit = _quantification(array)
    elif isinstance(quantification, bool) or not isinstance(quantification, int | float | np.number):
        raise RadiometryError(f"quantification={quantification!r}: use a number, 10000 for DN, 1 for reflectance")
    elif not 0 < quantification < np.inf:
        raise RadiometryError(f"quantification={quantification}: use 10000 for DN, 1 for reflectance")
    else:
        unit = float(quantification)
    sure = array.dtype.kind != "f" or quantification is not None
    gain = 1.0 if unit is None else 10000.0 / unit
    taken = array.encoding.get(TAKEN) == gain
    return Scale(str(name), gain, nodata_of(array), sure, unit is not None, str(array.dtype), taken)


_DROP = "for v in ds.data_vars.values(): [v.attrs.pop(k, None) for k in ('nodata', '_FillValue', 'missing_value')]"


def warn_doubtful(scales: Iterable[Scale]) -> None:
    """Warn that 0 counts as nodata where an attribute of floats declares it, which may be older than the values."""
    names = [scale.name for scale in scales if scale.doubtful]
    if not names:
        return
    warn_once(
        f"{', '.join(names)}: floats that declare nodata=0 in their attributes, so pixels of exactly 0 are taken for "
        "nodata. If nodata are NaN already, as after raw.where(raw != 0) - 1000, 0 is a measurement: drop the "
        f"attribute, {_DROP}",
        RadiometryWarning,
    )


def scales_of(cube: Cube, quantification: float | None) -> dict[str, Scale]:
    """The scale of every band, which must be in one unit.

    Raises
    ------
    RadiometryError
        If some bands are reflectance by their metadata and others are not: a step before has
        dropped the encoding of some.
    """
    scales = {band: scale_of(array, quantification, cube.names[band]) for band, array in cube.bands.items()}
    warn_doubtful(scales.values())
    if len({s.gain for s in scales.values()}) > 1:
        units: dict[str, list[str]] = {}
        for scale in scales.values():
            units.setdefault(_words(scale), []).append(scale.name)
        listing = "; ".join(f"{unit}: {', '.join(names)}" for unit, names in units.items())
        raise RadiometryError(
            f"by their metadata the bands are in two units ({listing}): say quantification=1 if all are reflectance, "
            "quantification=10000 if all are DN"
        )
    return scales


def _words(scale: Scale) -> str:
    if scale.gain in (1, 10000):
        return "DN" if scale.gain == 1 else "reflectance"
    return f"reflectance x {scale.quantification:g}"


def _settle(names: str = "ds['B02']") -> str:
    """How to declare the unit, wherever there is no ``quantification=``."""
    return f"{names}.attrs['units'] = '1' for reflectance, '1e-4' for DN"


def seen_in(values: npt.NDArray[Any], scale: Scale) -> npt.NDArray[np.bool_]:
    """Where values are measurements: not NaN, not infinite, not `Scale.nodata`, not beyond `IMPOSSIBLE`.

    Raises
    ------
    RadiometryError
        If there are values that contradict what the metadata say: integers that have wrapped round, DN in what is
        reflectance by its metadata, or both NaN and 0 where 0 is declared for nodata.
    """
    kind = values.dtype.kind
    seen: npt.NDArray[np.bool_]
    if kind == "f":
        seen = np.abs(values) <= IMPOSSIBLE
    elif values.dtype.itemsize > 2:
        seen = (values <= IMPOSSIBLE) & (values >= -IMPOSSIBLE)
    else:
        seen = np.ones(values.shape, bool)
    missing = None
    if scale.nodata is not None and not np.isnan(scale.nodata):
        missing = values == scale.nodata
        if scale.doubtful and kind == "f" and missing.any() and np.isnan(values).any():
            raise RadiometryError(
                f"{scale.name} declares nodata=0 in its attributes, but has pixels of 0 and NaN too, so 0 may as well "
                f"be a measurement. If nodata are NaN already, drop the attribute: {_DROP}; if 0 is nodata too, "
                "ds = ds.where(ds != 0) first, then drop it"
            )
        seen &= ~missing
    _refuse_wrapped(values, seen, missing, scale)
    if scale.gain > 1:
        top = float(np.abs(values, where=seen, out=np.zeros_like(values)).max(initial=0))
        if top * scale.gain > IMPOSSIBLE:
            raise RadiometryError(
                f"{scale.name}: a block has values up to {top:.3g}, which are taken for {_words(scale)} but look like "
                "DN. Say which it is: quantification=10000 where a call takes it, or "
                f"{_settle(f'ds[{scale.name!r}]')}. If it stands for nodata, say so: "
                f"ds[{scale.name!r}].attrs['nodata'] = …"
            )
    return seen


def _refuse_wrapped(
    values: npt.NDArray[Any], seen: npt.NDArray[np.bool_], missing: npt.NDArray[np.bool_] | None, scale: Scale
) -> None:
    """Refuse what ``uint16 - 1000`` makes of values below 1000; 32 and 64 bits wrap round as well.

    No pixel has such values: 16 bits hold raw pixels up to 65535, the sensor's own 12 bits fill less than half of
    that, and products mark saturated pixels by a value of their own, which has to be declared or masked. Integers with
    a sign do not wrap, for raw pixels are not negative.
    """
    dtype = np.dtype(scale.dtype)
    if dtype.kind == "u" and dtype.itemsize == 1:
        return
    if dtype.kind == "u" and dtype.itemsize > 2:
        near_top = values > np.iinfo(dtype).max - (_OFFSET + 24)  # blocks of several dtypes are floats, which round
        near_top &= ~missing if missing is not None else True
        if near_top.any():
            raise _wrapped(values[near_top], scale)
    if float(values.max(where=seen, initial=0)) * scale.gain <= _WRAPPED:
        return
    suspects = values[seen] * scale.gain
    suspects = suspects[(suspects > _WRAPPED) & (suspects <= _WRAPPED + _OFFSET + 0.5)]
    if suspects.size and (np.abs(suspects - np.rint(suspects)) <= 10 * _DECODED * (scale.gain != 1)).all():
        raise _wrapped(suspects, scale)


def _wrapped(suspects: npt.NDArray[Any], scale: Scale) -> RadiometryError:
    return RadiometryError(
        f"{scale.name} has values from {suspects.min():.0f} to {suspects.max():.0f}, which nobody measured: integers "
        "without a sign wrap round where an offset is subtracted from smaller ones. Subtract it from floats, with NaN "
        "for nodata: ds = raw.where(raw != 0).astype('float32') - 1000, and drop what raw says of nodata, not true of "
        f"ds: {_DROP}. Or let xsen2.load or xsen2.open_safe remove the offset. If the values mark saturated pixels, "
        f"mask them: raw.where((raw != 0) & (raw < {_WRAPPED})); if nodata, declare it: "
        f"raw[{scale.name!r}].attrs['nodata'] = {suspects.max():.0f}"
    )


def check_dn(
    blocks: Sequence[npt.NDArray[Any]],
    seen: Sequence[npt.NDArray[np.bool_]],
    *,
    who: str = "",
) -> None:
    """Refuse reflectance where DN are needed.

    Parameters
    ----------
    blocks : sequence of array
        Bands that are taken for DN, looked at together: one alone may well be as dark as that.
    seen : sequence of array
        Where they have data.
    who : str
        For the error: where.
    """
    sparse = (..., slice(None, None, 16), slice(None, None, 16))  # enough for nearly every block, and quick
    for block, valid in zip(blocks, seen, strict=True):
        if (valid[sparse] & (np.abs(block[sparse]) >= _REFLECTANCE)).any():
            return
    if _fractions([block[valid] for block, valid in zip(blocks, seen, strict=True)], _REFLECTANCE, 1):
        top = max(float(np.abs(b[s]).max(initial=0)) for b, s in zip(blocks, seen, strict=True))
        raise RadiometryError(
            f"{who}a block has values up to {top:.3g}, which are taken for DN but look like reflectance "
            "(10000 x reflectance is). Say which it is: quantification=1 for reflectance, quantification=10000 for DN"
        )


def _fractions(pixels: Sequence[npt.NDArray[Any]], most: float, enough: int, near: float = 0.15) -> bool:
    """Whether there are only small values, and not those of dark DN, `near` 1."""
    size = sum(p.size for p in pixels)
    if size < enough or not 0 < max(float(np.abs(p).max(initial=0)) for p in pixels) < most:
        return False
    if all((np.abs(p - np.rint(p)) <= 1e-4).all() for p in pixels):  # whole but for the rounding of float32
        return False
    # Products set dark water to 1 DN, over whole scenes; what methods make of that lies close about 1. Reflectance that
    # does is that of snow, in some bands, which the others give away.
    flat = sum(int((np.abs(p - 1) < near).sum()) for p in pixels)
    return flat < 0.8 * size


def to_dn(window: npt.NDArray[Any], scales: Sequence[Scale]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Bands ``(band, y, x)`` as float32 DN, whatever stands there in the place of nodata; and where there are data.

    The DN may be those of `window`, not copied.
    """
    seen = np.stack([seen_in(band, scale) for band, scale in zip(window, scales, strict=True)])
    with np.errstate(over="ignore", invalid="ignore"):  # of what is not seen
        dn = window.astype(np.float32, copy=any(scale.gain != 1 for scale in scales))
        for i, scale in enumerate(scales):
            if scale.gain == 1:
                continue
            dn[i] *= np.float32(scale.gain)
            # Whole DN that were decoded in float32 are off by some 1e-4, which networks in bfloat16 turn into whole DN.
            rounded = np.rint(dn[i])
            np.copyto(dn[i], rounded, where=np.abs(dn[i] - rounded) < _DECODED)
    return dn, seen


def to_nan(x: npt.NDArray[Any], scale: Scale) -> npt.NDArray[np.float32]:
    """Values as float32 in their own unit, NaN where they are no measurements."""
    seen = seen_in(x, scale)
    with np.errstate(over="ignore"):  # of float64, which is not seen then
        out = x.astype(np.float32)
    out[~seen] = np.nan
    return out


def finite(x: npt.NDArray[Any], nodata: float | None = None) -> npt.NDArray[Any]:
    """Floats that are not of a band, NaN where they are infinite or `nodata`."""
    empty = ~np.isfinite(x)
    if nodata is not None:
        empty |= x == nodata
    return np.where(empty, np.asarray(np.nan, x.dtype), x)


def stored(block: npt.NDArray[Any], scale: Scale) -> npt.NDArray[np.float32]:
    """A block of a band, or of its standard error, on its way to disk: as `to_nan`, and refused if it contradicts it.

    Raises
    ------
    RadiometryError
        If values that are taken for DN look like reflectance: as integers they would all be 0 or 1.
    """
    out = to_nan(block, scale)
    if scale.gain != 1 or block.dtype.kind != "f" or scale.sure:
        return out
    seen = np.isfinite(out)
    # A few pixels, at the edge of a swath say, may all be dark.
    enough = max(16, min(1000, block.size // 4))
    band = find(scale.name) is not None
    # Values divided in place keep their encoding: so it only makes more of what is near 1 pass.
    if _fractions([out[seen]], _REFLECTANCE if band else _ERROR, enough, 0.5 if scale.taken else 0.15):
        raise RadiometryError(
            f"{scale.name}: no value in a block of {int(seen.sum())} pixels is over {np.nanmax(np.abs(out)):.3g}: that "
            "looks like reflectance, but is taken for DN, and would be rounded to 0 or 1. Say which it is: "
            f"{_settle(f'ds[{scale.name!r}]')}. DN as dark as that are told by whole numbers: ds.round()"
        )
    return out


@dataclass(frozen=True)
class Packing:
    """An integer type, its nodata value, the range that valid pixels are clipped to, and a scale.

    A value in memory is `scale` times the integer on disk, less `shift` of these. `classes` says that values are whole
    numbers by their nature, of which no mean is one. `reflectance` says that CF's attributes make that of the integers
    on disk, whatever there is in memory.
    """

    dtype: str
    nodata: int
    low: int
    high: int
    scale: float = 1.0
    classes: bool = False
    name: str = ""
    shift: int = 0
    reflectance: bool = False

    @property
    def cf(self) -> dict[str, float]:
        """What CF's attributes say of the integers: nothing of DN as they are, else how values come of them."""
        if self.reflectance:
            return {"scale_factor": 1e-4, "add_offset": round(-1e-4 * self.shift, 10)}
        return {} if self.scale == 1 else {"scale_factor": self.scale}


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
    kind, band = variable.dtype.kind, name.removesuffix("_se")
    if kind not in "iuf" or not find(band):
        # Not 0: of a probability that became floats it is as likely to be a value.
        nodata = nodata_of(variable) if kind == "f" and any(k in variable.attrs for k in NODATA_ATTRS) else None
        return Values(None, nodata or None, _classes(variable))
    if kind != "f" and not repack:
        return Values(Scale(name, 1.0, nodata_of(variable), sure=True, dtype=str(variable.dtype)), None, None, True)
    scale = scale_of(variable)
    if band != name and band in ds and "units" not in variable.attrs:
        scale = replace(scale, gain=scale_of(ds[band]).gain)  # an error is in the unit of its band
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
    rounded: npt.NDArray[Any] = np.rint(out) + packing.shift
    if packing.classes and (np.abs(out - rounded)[~empty] > 1e-3).any():
        odd = float(out[~empty & (np.abs(out - rounded) > 1e-3)][0])
        raise RadiometryError(
            f"{packing.name} is stored as classes, which are whole numbers, but holds {odd:g}: it has been "
            f"interpolated or averaged. Load it with nearest neighbour, or leave it out: ds.drop_vars({packing.name!r})"
        )
    out = np.asarray(np.clip(rounded, packing.low, packing.high))
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
        kept = (*STORED, TAKEN) if name in ds.data_vars and variable.ndim >= 2 else ()
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


def _attrs(attrs: Mapping[Any, Any], place: str) -> dict[str, Any]:
    owner = "ds" if place == "the dataset" else f"ds[{place!r}]"
    return {str(k): _plain(v, f"attribute {k!r} of {place}", f"del {owner}.attrs[{k!r}]") for k, v in attrs.items()}


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
