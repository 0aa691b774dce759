"""Spectral indices of the Awesome Spectral Indices list, through spyndex, lazily."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, find
from xsen2.cube import canonicalise
from xsen2.errors import BandError, GridError, MethodError
from xsen2.grid import filled, located
from xsen2.radiometry import Scale, check_dn, scale_of, seen_in, warn_doubtful

__all__ = ["differences", "index"]


@overload
def index(  # type: ignore[overload-overlap]  # a str is a sequence of them, too
    ds: xr.Dataset | xr.DataTree, name: str, *, quantification: float | None = None, **params: float
) -> xr.DataArray: ...


@overload
def index(
    ds: xr.Dataset | xr.DataTree, name: Sequence[str], *, quantification: float | None = None, **params: float
) -> xr.Dataset: ...


def index(
    ds: xr.Dataset | xr.DataTree, name: str | Sequence[str], *, quantification: float | None = None, **params: float
) -> xr.DataArray | xr.Dataset:
    """Compute a spectral index, or several, lazily.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        Bands under any known names, DN (10000 x reflectance) or reflectance, on the grid of their dims.
    name : str or sequence of str
        Any index of spyndex that Sentinel-2 has the bands for: "NDWI", "MNDWI", "NDMI", "NDVI", "EVI", …; or a list.
    quantification : float, optional
        Value of a reflectance of 1 in the data. By default 1 where CF decoding made reflectance or the
        attribute ``units`` is "1", else 10000.
    **params : float
        Constants of the index, where the default is not wanted: ``L=0.5`` for SAVI, ``sigma`` for the
        kernel indices (by default half the sum of the two reflectances). Of several indices, each takes those
        that it has.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        float32, dims and coordinates of the bands; of a list, even of one name, a Dataset with a variable for each.
        NaN where a needed band has no data, or holds what no reflectance can be (infinite, over 1e6 DN), or the
        formula has no finite value (0/0). Nothing is computed yet.

    Raises
    ------
    MethodError
        No such index, or one twice, or no such constant in it.
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
    >>> list(sr.dsen2.index(["NDWI", "MNDWI"]).data_vars)
    ['NDWI', 'MNDWI']
    """
    spyndex = _spyndex()
    if isinstance(ds, xr.DataTree):
        ds = canonicalise(ds)
    ds = located(ds)
    if isinstance(name, str):
        return _compute_index(ds, _known(name, spyndex.indices), quantification, params)
    names = [_known(n, spyndex.indices) for n in _listed(name)]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise MethodError(f"name={name!r} asks for {', '.join(twice)} more than once: name each index once")
    constants = {n: {k: v for k, v in params.items() if k in _constants(spyndex, n)} for n in names}
    stray = [k for k in params if not any(k in of_index for of_index in constants.values())]
    if stray:
        known = ", ".join(dict.fromkeys(c for n in names for c in _constants(spyndex, n))) or "none"
        raise MethodError(f"none of {', '.join(names)} has a constant {', '.join(stray)}; they have: {known}")
    indices = {n: _compute_index(ds, n, quantification, constants[n]) for n in names}
    dims = {array.dims for array in indices.values()}
    if len(dims) > 1:
        listing = ", ".join(f"{n} on ({', '.join(map(str, a.dims))})" for n, a in indices.items())
        raise GridError(
            f"the indices are on different grids: {listing}. Make all bands 10 m first: "
            f"ds.dsen2.superresolve().dsen2.index({names!r})"
        )
    out = xr.Dataset(indices)
    for n, array in indices.items():
        out[n].encoding = dict(array.encoding)
    return out


@cache
def differences(names: tuple[str, ...]) -> list[dict[str, str]]:
    """Indices that are normalised differences, ``(a - b) / (a + b)``, for what computes them where Python does not run.

    Parameters
    ----------
    names : tuple of str
        As spyndex spells them.

    Returns
    -------
    list of dict
        ``name``, ``long_name``, ``a`` and ``b`` (canonical bands).

    Raises
    ------
    MethodError
        If one has another formula.

    Examples
    --------
    >>> differences(("NDWI",))[0]["a"], differences(("NDWI",))[0]["b"]
    ('B03', 'B08')
    """
    spyndex = _spyndex()
    out = []
    for name in names:
        spec = spyndex.indices[_known(name, spyndex.indices)]
        parts = re.fullmatch(r"\((\w+)-(\w+)\)/\(\1\+\2\)", str(spec.formula).replace(" ", ""))
        if parts is None:
            raise MethodError(f"{name} is no normalised difference of two bands: its formula is {spec.formula}")
        a, b = (_canonical(spyndex.bands, letter) for letter in parts.groups())
        out.append({"name": name, "long_name": str(spec.long_name), "a": a, "b": b})
    return out


def _listed(name: object) -> list[str]:
    """The names in a list of them."""
    names = list(name) if isinstance(name, Iterable) and not isinstance(name, bytes | Mapping) else []
    if not names or not all(isinstance(n, str) for n in names):
        raise MethodError(f"name={name!r}: give the name of an index, as 'NDWI', or a list, as ['NDWI', 'MNDWI']")
    return [str(n) for n in names]


def _compute_index(
    ds: xr.Dataset, name: str, quantification: float | None, params: Mapping[str, float]
) -> xr.DataArray:
    spyndex = _spyndex()
    spec = spyndex.indices[name]
    letters, constants = _needs(spyndex, name, spec.bands, params)
    bands = {letter: _band(ds, name, letter, spyndex.bands) for letter in letters}
    _same_grid(name, bands)
    scales = tuple(scale_of(band, quantification) for band in bands.values())
    warn_doubtful(scales)
    out: xr.DataArray = xr.apply_ufunc(
        _compute,
        *bands.values(),
        kwargs={
            "name": name,
            "letters": tuple(bands),
            "constants": constants,
            "kernels": tuple(b for b in spec.bands if _KERNEL.fullmatch(b)),
            "scales": scales,
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
    first = next(iter(bands.values()))
    mapping = first.encoding.get("grid_mapping") or first.attrs.get("grid_mapping")
    if mapping:
        out.encoding["grid_mapping"] = mapping
    return out


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


def _constants(spyndex: Any, name: str) -> list[str]:
    """Names of an index's constants."""
    out: dict[str, None] = {}
    for variable in spyndex.indices[name].bands:
        kernel = _KERNEL.fullmatch(variable)
        parts = (*kernel.groups(), "sigma") if kernel else (variable,)
        out |= dict.fromkeys(part for part in parts if part in spyndex.constants or part == "sigma")
    return list(out)


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
    variables: list[Hashable] = [v for v in ds.data_vars if find(v) == band]
    if len(variables) != 1:
        have = ", ".join(str(v) for v in ds.data_vars if find(v)) or "no bands"
        twice = f" twice ({', '.join(map(str, variables))})" if variables else ""
        raise BandError(
            f"{name} needs {band} ({BANDS[band].long_name})"
            + (f", which is there{twice}: drop all but one" if twice else f", but the dataset has only: {have}")
        )
    filled(ds[variables[0]], str(variables[0]))
    return ds[variables[0]]


def _same_grid(name: str, bands: Mapping[str, xr.DataArray]) -> None:
    dims = {b.dims for b in bands.values()}
    if len(dims) > 1:
        listing = ", ".join(f"{b.name} on ({', '.join(map(str, b.dims))})" for b in bands.values())
        raise GridError(
            f"{name} needs bands of different grids: {listing}. Make them all 10 m first: "
            f"ds.dsen2.superresolve().dsen2.index({name!r})"
        )


def _compute(
    *blocks: npt.NDArray[Any],
    name: str,
    letters: tuple[str, ...],
    constants: Mapping[str, float],
    kernels: tuple[str, ...],
    scales: tuple[Scale, ...],
) -> npt.NDArray[np.float32]:
    """One block of an index from one block of each band."""
    spyndex = _spyndex()
    values: dict[str, Any] = dict(constants)
    empty = np.zeros(blocks[0].shape, bool)
    for letter, block, scale in zip(letters, blocks, scales, strict=True):
        empty |= ~seen_in(block, scale)
        values[letter] = block * np.float32(1 / scale.quantification)
    dark = [block for block, scale in zip(blocks, scales, strict=True) if scale.gain == 1]
    if dark and not all(scale.sure for scale in scales if scale.gain == 1):
        check_dn(dark, [~empty] * len(dark), who=f"{name}: ")  # together: a single band may well be that dark
    with np.errstate(all="ignore"):
        for kernel in kernels:
            a, b = (values[part] for part in _KERNEL.fullmatch(kernel).groups())  # type: ignore[union-attr]
            sigma = constants.get("sigma", (a + b) / 2)
            values[kernel] = spyndex.computeKernel("RBF", params={"a": a, "b": b, "sigma": sigma})
        wanted = {k: values[k] for k in spyndex.indices[name].bands}
        out = np.asarray(spyndex.computeIndex(name, params=wanted), np.float32)
    return np.where(empty | ~np.isfinite(out), np.float32(np.nan), out)
