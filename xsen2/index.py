"""Spectral indices of the Awesome Spectral Indices list, through spyndex, lazily."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, find
from xsen2.cube import canonicalise
from xsen2.errors import BandError, GridError, MethodError, RadiometryError
from xsen2.grid import filled, located, nodata_of
from xsen2.radiometry import quantification_of

__all__ = ["index"]


def index(
    ds: xr.Dataset | xr.DataTree, name: str, *, quantification: float | None = None, **params: float
) -> xr.DataArray:
    """Compute a spectral index, lazily.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        Bands under any known names, DN (10000 x reflectance), on the grid of their dims.
    name : str
        Any index of spyndex that Sentinel-2 has the bands for: "NDWI", "MNDWI", "NDMI", "NDVI", "EVI", ….
    quantification : float, optional
        Value of a reflectance of 1 in the data. By default 1 where CF decoding made reflectance or the
        attribute ``units`` is "1", else 10000.
    **params : float
        Constants of the index, where the default is not wanted: ``L=0.5`` for SAVI, ``sigma`` for the
        kernel indices (by default half the sum of the two reflectances).

    Returns
    -------
    xarray.DataArray
        float32, dims and coordinates of the bands. NaN where a needed band has no data or the
        formula has no finite value (0/0). Nothing is computed yet.

    Raises
    ------
    MethodError
        No such index, or no such constant in it.
    BandError
        The index needs a band that `ds` or Sentinel-2 does not have.
    GridError, TimeError
        The bands it needs are on different grids, or one has no pixels or no dates.
    RadiometryError
        A band is raw, its ``scale_factor`` or ``add_offset`` still to be applied. When blocks are
        computed: the values do not look like what metadata let expect, DN or reflectance.

    Examples
    --------
    >>> import xsen2
    >>> sr = xsen2.sample().dsen2.superresolve(method="bicubic")
    >>> sr.dsen2.index("MNDWI").dims
    ('time', 'y', 'x')
    """
    spyndex = _spyndex()
    if isinstance(ds, xr.DataTree):
        ds = canonicalise(ds)
    ds = located(ds)
    name = _known(name, spyndex.indices)
    spec = spyndex.indices[name]
    letters, constants = _needs(spyndex, name, spec.bands, params)
    bands = {letter: _band(ds, name, letter, spyndex.bands) for letter in letters}
    _same_grid(name, bands)
    out: xr.DataArray = xr.apply_ufunc(
        _compute,
        *bands.values(),
        kwargs={
            "name": name,
            "letters": tuple(bands),
            "constants": constants,
            "kernels": tuple(b for b in spec.bands if _KERNEL.fullmatch(b)),
            "nodata": tuple(nodata_of(b) for b in bands.values()),
            "gains": tuple(1 / quantification_of(b, b.name, quantification) for b in bands.values()),
            "sure": quantification is not None or all(b.dtype.kind in "iu" for b in bands.values()),
        },
        dask="parallelized",
        output_dtypes=[np.float32],
        keep_attrs="override",  # or the coordinates, spatial_ref among them, lose theirs
    )
    out.name = name
    out.attrs = {
        "long_name": spec.long_name,
        "reference": spec.reference,
        "formula": spec.formula,
        "units": "1",
    }
    some = next(iter(bands.values()))
    mapping = some.encoding.get("grid_mapping") or some.attrs.get("grid_mapping")
    if mapping:
        out.encoding["grid_mapping"] = mapping
    return out


_REFLECTANCE, _DN = 2.0, 100.0  # what is below the one is not DN, what is above the other not reflectance

_KERNEL = re.compile(r"k([A-Z])([A-Z])")
"""kNR is k(N, R), a kernel over two bands or a band and a constant."""


def _spyndex() -> Any:
    try:
        import spyndex
    except ImportError as error:
        raise ImportError("spectral indices need spyndex: pip install 'xsen2[index]'") from error
    return spyndex


def _known(name: str, indices: Mapping[str, Any]) -> str:
    if name in indices:
        return name
    same = [known for known in indices if known.lower() == name.lower()]
    if len(same) == 1:
        return same[0]
    close = same or get_close_matches(name.upper(), indices, n=5, cutoff=0.5)
    raise MethodError(
        f"no spectral index {name!r}"
        + (f": did you mean {' or '.join(close)}?" if close else "")
        + " spyndex.indices lists them all"
    )


def _needs(
    spyndex: Any, name: str, variables: list[str], params: Mapping[str, float]
) -> tuple[list[str], dict[str, float]]:
    """Letters of the bands an index reads, and the values of its constants."""
    letters: list[str] = []
    constants: dict[str, float] = {}
    asked = dict(params)
    for variable in variables:
        kernel = _KERNEL.fullmatch(variable)
        for part in kernel.groups() if kernel else (variable,):
            if part in spyndex.constants:
                value = asked.pop(part, constants.get(part, _default(spyndex, part)))
                if value is None:
                    raise MethodError(f"{name} needs {part} ({spyndex.constants[part].description}): pass {part}=…")
                constants[part] = value
            elif part not in letters:
                letters.append(part)
    if "sigma" in asked and any(_KERNEL.fullmatch(v) for v in variables):
        constants["sigma"] = asked.pop("sigma")
    if asked:
        known = ", ".join(constants) or "none"
        raise MethodError(f"{name} has no constant {', '.join(asked)}; it has: {known}")
    return letters, constants


def _default(spyndex: Any, constant: str) -> float | None:
    """A constant's usual value; wavelengths are those of Sentinel-2's bands."""
    if constant.startswith("lambda"):
        return BANDS[_canonical(spyndex.bands, constant.removeprefix("lambda"))].wavelength
    value: float | None = spyndex.constants[constant].default
    return value


def _canonical(standards: Mapping[str, Any], letter: str) -> str:
    """Canonical name of the band that the list calls `letter`; "" when Sentinel-2 has none."""
    platform = getattr(standards[letter], "sentinel2a", None) if letter in standards else None
    return (find(platform.band) if platform else None) or ""


def _band(ds: xr.Dataset, name: str, letter: str, standards: Mapping[str, Any]) -> xr.DataArray:
    band = _canonical(standards, letter)
    if not band:
        what = f" ({standards[letter].long_name})" if letter in standards else ""
        raise BandError(f"{name} needs {letter}{what}, which Sentinel-2 does not measure")
    found: list[Hashable] = [v for v in ds.data_vars if find(v) == band]
    if len(found) != 1:
        have = ", ".join(str(v) for v in ds.data_vars if find(v)) or "no bands"
        twice = f" twice ({', '.join(map(str, found))})" if found else ""
        raise BandError(
            f"{name} needs {band} ({BANDS[band].long_name})"
            + (f", which is there{twice}: drop all but one" if twice else f", but the dataset has only: {have}")
        )
    filled(ds[found[0]], str(found[0]))
    return ds[found[0]]


def _same_grid(name: str, bands: Mapping[str, xr.DataArray]) -> None:
    dims = {b.dims for b in bands.values()}
    if len(dims) > 1:
        where = ", ".join(f"{b.name} on ({', '.join(map(str, b.dims))})" for b in bands.values())
        raise GridError(
            f"{name} needs bands of different grids: {where}. Make them all 10 m first: "
            f"ds.dsen2.superresolve().dsen2.index({name!r})"
        )


def _check(name: str, blocks: tuple[npt.NDArray[Any], ...], gains: tuple[float, ...], seen: npt.NDArray[Any]) -> None:
    """Refuse values that are not what their metadata say, for the index would be off without a sign of it."""
    for gain in set(gains):
        # Together: a single band may well be that dark.
        pixels = [block[seen] for block, g in zip(blocks, gains, strict=True) if g == gain]
        top = max(float(np.abs(p).max(initial=0)) for p in pixels)
        if gain == 1:
            wrong, taken, looks = top > _DN, "reflectance", "DN"
        else:
            fractions = 0 < top < _REFLECTANCE and not all((p == np.rint(p)).all() for p in pixels)
            wrong, taken, looks = fractions, "DN", "reflectance"
        if wrong:
            raise RadiometryError(
                f"{name}: a block has values up to {top:.3g}, which are taken for {taken} but look like {looks}. "
                "Say which it is: quantification=1 for reflectance or quantification=10000 for DN"
            )


def _compute(
    *blocks: npt.NDArray[Any],
    name: str,
    letters: tuple[str, ...],
    constants: Mapping[str, float],
    kernels: tuple[str, ...],
    nodata: tuple[float | None, ...],
    gains: tuple[float, ...],
    sure: bool,
) -> npt.NDArray[np.float32]:
    """One block of an index from one block of each band."""
    spyndex = _spyndex()
    values: dict[str, Any] = dict(constants)
    empty = np.zeros(blocks[0].shape, bool)
    for letter, block, missing, gain in zip(letters, blocks, nodata, gains, strict=True):
        values[letter] = block.astype(np.float32) * np.float32(gain)
        empty |= np.isnan(values[letter]) if missing is None else np.isnan(values[letter]) | (block == missing)
    if not sure:
        _check(name, blocks, gains, ~empty)
    with np.errstate(all="ignore"):
        for kernel in kernels:
            a, b = (values[part] for part in _KERNEL.fullmatch(kernel).groups())  # type: ignore[union-attr]
            sigma = constants.get("sigma", (a + b) / 2)
            values[kernel] = spyndex.computeKernel("RBF", params={"a": a, "b": b, "sigma": sigma})
        wanted = {k: values[k] for k in spyndex.indices[name].bands}
        out = np.asarray(spyndex.computeIndex(name, params=wanted), np.float32)
    return np.where(empty | ~np.isfinite(out), np.float32(np.nan), out)
