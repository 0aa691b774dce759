"""From a variable's values to DN (10000 x reflectance, offset removed), and what counts as nodata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.cube import Cube
from xsen2.errors import RadiometryError
from xsen2.grid import nodata_of

__all__ = ["Scale", "check_dn", "quantification_of", "scale_of", "scales_of", "to_dn", "to_nan"]

_REFLECTANCE = 2.0  # DN: a float block whose largest value is below this holds reflectance
_DECODED = 2e-3  # DN: rounding of float32 at a reflectance of 3, and some more


@dataclass(frozen=True)
class Scale:
    """DN = gain * value; `nodata` is a value, before that. `sure`: dtype or metadata say so."""

    gain: float
    nodata: float | None
    sure: bool


def quantification_of(array: xr.DataArray, name: object, given: float | None) -> float:
    """What a reflectance of 1 is in the values: `given`, else 1 if metadata say reflectance, else 10000.

    Raises
    ------
    RadiometryError
        If the values are raw, with a scale and offset still to be applied, or `given` is not positive.
    """
    gain, offset = (array.attrs.get(k, neutral) for k, neutral in (("scale_factor", 1), ("add_offset", 0)))
    if gain != 1 or offset != 0:  # rioxarray writes the neutral ones
        raise RadiometryError(
            f"{name} still has scale_factor={gain} and add_offset={offset} in its attributes, so its values are raw: "
            "open it with mask_and_scale=True, or apply them and drop the attributes"
        )
    if given is not None:
        if not given > 0:
            raise RadiometryError(f"quantification={given}: use 10000 for DN, 1 for reflectance")
        return given
    # CF decoding multiplies by 0.0001 and leaves reflectance; superresolve says so in `units`, since arithmetic
    # drops the encoding and keeps the attributes.
    decoded = array.encoding.get("scale_factor")
    reflectance = (decoded is not None and abs(decoded) < 0.01) or array.attrs.get("units") == "1"
    return 1.0 if array.dtype.kind == "f" and reflectance else 10000.0


def scale_of(cube: Cube, band: str, quantification: float | None) -> Scale:
    """How to turn a band's values into DN, from its metadata unless `quantification` says it.

    Raises
    ------
    RadiometryError
        If the values are raw, with a scale and offset still to be applied.
    """
    array, name = cube.bands[band], cube.names[band]
    nodata = nodata_of(array)
    integer = np.issubdtype(array.dtype, np.integer)
    if array.dtype.kind not in "iuf":
        raise RadiometryError(f"{name} is of dtype {array.dtype}: reflectance or DN are needed")
    found = quantification_of(array, name, quantification)
    return Scale(10000.0 / found, nodata, bool(integer) or quantification is not None or found == 1)


def scales_of(cube: Cube, quantification: float | None) -> dict[str, Scale]:
    """The scale of every band, which must be in one unit.

    Raises
    ------
    RadiometryError
        If some bands are reflectance by their metadata and others are not: a step before has
        dropped the encoding of some.
    """
    scales = {band: scale_of(cube, band, quantification) for band in cube.bands}
    if len({s.gain for s in scales.values()}) > 1:
        units: dict[str, list[str]] = {"reflectance": [], "DN": []}
        for band, scale in scales.items():
            units["DN" if scale.gain == 1 else "reflectance"].append(cube.names[band])
        found = "; ".join(f"{unit}: {', '.join(names)}" for unit, names in units.items())
        raise RadiometryError(
            f"by their metadata the bands are in two units ({found}): say quantification=1 if all are reflectance, "
            "quantification=10000 if all are DN"
        )
    return scales


def check_dn(x: npt.NDArray[np.float32], seen: npt.NDArray[np.bool_]) -> None:
    """Refuse reflectance where DN are needed."""
    some = (..., slice(None, None, 16), slice(None, None, 16))  # of nearly every block these are enough, and soon seen
    if (seen[some] & (np.abs(x[some]) >= _REFLECTANCE)).any():
        return
    top = float(np.abs(x, where=seen, out=np.zeros_like(x)).max(initial=0))
    if 0 < top < _REFLECTANCE and not (x[seen] == np.round(x[seen])).all():
        raise RadiometryError(
            f"the largest value in a block of bands is {top:.3g}: that looks like reflectance, not DN "
            "(10000 x reflectance). Say superresolve(quantification=1), or quantification=10000 if it is DN"
        )


def to_dn(window: npt.NDArray[Any], scales: Sequence[Scale]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Bands ``(band, y, x)`` as float32 DN, whatever stands there in the place of nodata; and where there are data.

    The DN may be those of `window`, not copied.
    """
    dn = window.astype(np.float32, copy=any(scale.gain != 1 for scale in scales))
    seen = np.isfinite(window)
    for i, (band, scale) in enumerate(zip(window, scales, strict=True)):
        if scale.nodata is not None and not np.isnan(scale.nodata):
            seen[i] &= band != scale.nodata
        if scale.gain != 1:
            dn[i] *= np.float32(scale.gain)
            # Whole DN that were decoded in float32 are off by some 1e-4, which networks in bfloat16 turn into whole DN.
            whole = np.rint(dn[i])
            with np.errstate(invalid="ignore"):
                np.copyto(dn[i], whole, where=np.abs(dn[i] - whole) < _DECODED)
    return dn, seen


def to_nan(x: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.float32]:
    """Values as float32, NaN where they are `nodata`."""
    out = x.astype(np.float32)
    if nodata is not None:
        out[x == nodata] = np.nan
    return out
