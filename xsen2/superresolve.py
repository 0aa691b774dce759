"""Cube to 10 m dataset: pick the methods, plan the halo, keep nodata and units, put names back."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Hashable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, canonical, grid_of
from xsen2.block import apply
from xsen2.cube import CHUNK, Cube, recognise, write_crs
from xsen2.errors import BandError, MethodError
from xsen2.grid import NODATA_ATTRS
from xsen2.halo import common_dates, split
from xsen2.kernels import OPERATORS, Operator
from xsen2.protocol import Method, Statistical
from xsen2.radiometry import Scale, scales_of, to_nan
from xsen2.registry import resolve

__all__ = ["lazy", "superresolve"]


def superresolve(
    ds: xr.Dataset | xr.DataTree,
    bands: Sequence[str] | None = None,
    method: str | os.PathLike[str] | Method = "default",
    native: bool = True,
    *,
    consistency: bool | None = None,
    operator: Operator = "mtf",
    uncertainty: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    quantification: float | None = None,
) -> xr.Dataset:
    """Make every band a 10 m band, lazily.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        A cube: bands on their native grids, offset removed; see `xsen2.cube.recognise` for what is
        accepted. ``(time, y, x)`` per grid, time optional.
    bands : sequence of str, optional
        Bands to make, under any known name. All of the cube's by default.
    method : str, path or Method
        A name of `xsen2.methods`, the path of weights, or an object that follows `xsen2.protocol.Method`.
    native : bool
        Whether the 10 m bands come along, unchanged, even if `bands` does not name them.
    consistency : bool, optional
        Whether every band, degraded, must give back the one that was measured: the smallest correction that
        does so is added, see `xsen2.consistency`. The RMSE is under 0.1 DN then; next to nodata about a thousandth
        remains of what it was. By default what the method asks for. It lessens the error as far as the operator is
        what the pixels went through; products have been resampled besides, which it takes for detail.
    operator : {"mtf", "dsen2", "box"}
        How the bands that were measured came about, as `xsen2.degrade.degrade` takes it: for `consistency`, and for
        classical methods that model it. ``"mtf"`` is the sensor's own blur; what was degraded with another operator
        must be brought back with the same.
    uncertainty : bool
        Whether every band that is made comes with its standard error, ``B05`` with ``B05_se``: in the units of
        the band, such that at the lower scale 68 % of the errors were smaller. Networks only.
    device : str
        ``"auto"`` takes CUDA, MPS or the CPU, whichever the worker has; or a torch device.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        What networks compute in. ``"auto"`` takes bfloat16 where the device is faster in it.
    quantification : float, optional
        Value of a reflectance of 1 in the data: 10000 for DN, 1 for reflectance. By default 1 for floats
        that CF decoding has scaled (``encoding["scale_factor"]``) or whose ``units`` are "1", else 10000.

    Returns
    -------
    xarray.Dataset
        All bands float32 on the 10 m grid ``(time, y, x)``, in the units of the input and under the
        caller's names, NaN exactly where a band that is needed has no data (NaN or infinite; the value of
        ``_FillValue`` or ``nodata``; 0 for integers that declare none, not for floats). Other variables come
        out on the 10 m grid by nearest neighbour. Nothing is computed yet. ``xsen2_consistency`` in the
        attributes is the operator that the bands are consistent with, or "none".

    Raises
    ------
    BandError, GridError, CRSError, TimeError
        If the input is not a cube, or lacks what the method reads; before anything is computed.
    MethodError
        If an argument is not one of those above, or the method cannot say how sure it is.
    RadiometryError
        If bands are in different units; or, when blocks are computed, if values without known units look
        like reflectance, not DN.

    Examples
    --------
    >>> import xsen2
    >>> sr = xsen2.sample().dsen2.superresolve(method="bicubic")
    >>> sr["B11"].dims, sr["B11"].dtype
    (('time', 'y', 'x'), dtype('float32'))
    """
    cube = recognise(ds)
    if device != "auto" and not re.fullmatch(r"(cpu|mps|cuda)(:\d+)?", device):
        raise MethodError(f"device={device!r}: use 'auto', 'cpu', 'mps', 'cuda' or 'cuda:1'")
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise MethodError(f"dtype={dtype!r}: use 'auto', 'float32', 'bfloat16' or 'float16'")
    if operator not in OPERATORS:
        raise MethodError(f"unknown operator {operator!r}: use one of {', '.join(OPERATORS)}")
    if consistency not in (True, False, None):
        raise MethodError(
            f"consistency={consistency!r}: use True, False or None; operator={consistency!r} says what with"
        )
    targets = _targets(cube, bands)
    scales = scales_of(cube, quantification)
    low = [band for band in targets if grid_of(band) != 10]
    methods = resolve(method, low, device, dtype, operator)
    arrays = common_dates({band: lazy(array.data) for band, array in cube.bands.items()})
    if cube.time and any(isinstance(one, Statistical) for one in methods):  # each date has statistics of its own
        arrays = {band: array.rechunk({0: 1}) for band, array in arrays.items()}
    chunks = _chunks(cube, arrays, [getattr(one, "lattice", 1) for one in methods])
    made: dict[str, da.Array] = {}
    errors: dict[str, da.Array] = {}
    used: dict[str, str] = {}
    consistent: dict[str, bool] = {}
    for one in methods:
        _require(cube, one)
        fitted = (_doubtful(one) if uncertainty else one).fit(cube)
        exact = getattr(fitted, "consistency", False) if consistency is None else consistency
        stack = apply(cube, fitted, chunks, scales, arrays, operator if exact else None)
        for number, band in enumerate(fitted.produces):
            if band in targets:
                made[band] = stack[number]
                consistent[band] = bool(exact)
                if uncertainty:
                    errors[band] = stack[len(fitted.produces) + number]
        weights = getattr(fitted, "card", None)
        used[fitted.name if weights is None else weights.name] = "" if weights is None else weights.sha256[:16]
    for band in cube.bands:
        if grid_of(band) == 10 and (native or band in targets):
            made[band] = _passed(arrays[band], chunks, scales[band])
    attrs = {
        "xsen2_method": ", ".join(f"{n} ({h})" if h else n for n, h in used.items()) or "none",
        "xsen2_consistency": _which(consistent, operator),
    }
    return _assemble(cube, made, errors, chunks, attrs, next(iter(scales.values())).gain)


def _doubtful(method: Method) -> Method:
    """The method that gives standard errors too."""
    if not hasattr(method, "with_uncertainty"):
        raise MethodError(f"method {method.name!r} cannot say how sure it is: use a network, or uncertainty=False")
    found: Method = method.with_uncertainty()
    return found


def _which(consistent: dict[str, bool], operator: str) -> str:
    """The operator; with the bands, if others were left as they are."""
    names = [band for band, done in consistent.items() if done]
    if not names:
        return "none"
    return operator if all(consistent.values()) else f"{operator} ({', '.join(names)})"


def lazy(data: Any) -> da.Array:
    """The data of a variable as a dask array; arrays in memory are cut into chunks."""
    if isinstance(data, da.Array):
        return data
    chunks = (*(1,) * (data.ndim - 2), CHUNK, CHUNK)
    out: da.Array = da.from_array(np.asarray(data), chunks=chunks)
    return out


def _targets(cube: Cube, bands: Sequence[str] | None) -> tuple[str, ...]:
    low = tuple(b for b in cube.bands if grid_of(b) != 10)
    if not low:
        raise BandError(f"only 10 m bands ({', '.join(cube.names.values())}): there is nothing to super-resolve")
    if not any(grid_of(b) == 10 for b in cube.bands):
        raise BandError(f"no 10 m bands among {', '.join(cube.names.values())}: load B02, B03, B04 and B08 as well")
    if bands is None:
        return low
    if isinstance(bands, str):
        raise BandError(f"bands={bands!r}: give a list, as bands=[{bands!r}]")
    to_canonical = {name: band for band, name in cube.names.items()}
    asked = tuple(to_canonical.get(b) or canonical([b])[0] for b in bands)
    missing = [b for b in asked if b not in cube.bands]
    if missing:
        raise BandError(f"the cube has no {', '.join(missing)}: it has {', '.join(cube.names.values())}")
    return tuple(b for b in cube.bands if b in asked)


def _require(cube: Cube, method: Method) -> None:
    missing = [b for b in method.needs if b not in cube.bands]
    if missing:
        raise BandError(
            f"method {method.name!r} reads {', '.join(missing)} to make {', '.join(method.produces)}, but the cube has "
            f"only {', '.join(cube.names.values())}: load them too, leave those bands out with bands=[…], or use "
            "method='bicubic'"
        )


def _chunks(
    cube: Cube, arrays: dict[str, da.Array], lattices: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks of the output: near the chunks of the 10 m bands, on borders that all grids and lattices share."""
    cell = math.lcm(max(cube.grids) // 10, *lattices)
    rows, columns = next(a.chunks[-2:] for b, a in arrays.items() if grid_of(b) == 10)
    return split(rows, cell), split(columns, cell)


def _passed(data: da.Array, chunks: tuple[tuple[int, ...], tuple[int, ...]], scale: Scale) -> da.Array:
    """A native 10 m band: the same values in float32, NaN for nodata."""
    data = data.rechunk({data.ndim - 2: chunks[0], data.ndim - 1: chunks[1]})
    meta = np.empty((0,) * data.ndim, np.float32)
    out: da.Array = da.map_blocks(to_nan, data, scale.nodata, dtype=np.float32, meta=meta)
    return out


def _repeat(x: npt.NDArray[Any], ratio: int) -> npt.NDArray[Any]:
    return np.repeat(np.repeat(x, ratio, axis=-2), ratio, axis=-1)


def _nearest(array: xr.DataArray, gsd: int) -> da.Array:
    data, ratio = lazy(array.data), gsd // 10
    if ratio > 1:
        wide = (*data.chunks[:-2], *(tuple(n * ratio for n in c) for c in data.chunks[-2:]))
        data = da.map_blocks(_repeat, data, ratio, chunks=wide, dtype=data.dtype, meta=data._meta)
    return data


def _assemble(
    cube: Cube,
    made: dict[str, da.Array],
    errors: dict[str, da.Array],
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
    attrs: dict[str, str],
    gain: float,
) -> xr.Dataset:
    lead = () if cube.time is None else ("time",)
    size = round(cube.resolution) if cube.resolution == round(cube.resolution) else cube.resolution
    like = next(a for b, a in cube.bands.items() if grid_of(b) == 10)
    variables: dict[Hashable, xr.DataArray] = {}
    coords = {n: c for n, c in like.coords.items() if n != "spatial_ref"}
    for band in (b for b in BANDS if b in made):
        out = xr.DataArray(made[band], coords, (*lead, "y", "x"), attrs=dict(cube.bands[band].attrs))
        for stale in (*NODATA_ATTRS, "grid_mapping", "scale_factor", "add_offset"):
            out.attrs.pop(stale, None)
        if gain != 1:  # reflectance: said in the way that CF decoding leaves behind, for whatever comes after
            out.attrs["units"], out.encoding["scale_factor"] = "1", 1 / gain
        out.attrs |= {"gsd": size, "native_gsd": round(size * grid_of(band) / 10)}
        own_name = cube.names[band]
        variables[own_name] = out
        if band in errors:
            out.attrs["ancillary_variables"] = f"{own_name}_se"
            attrs_se = {"long_name": f"standard error of {own_name}", "gsd": size}
            attrs_se |= {k: out.attrs[k] for k in ("units",) if k in out.attrs}
            variables[f"{own_name}_se"] = xr.DataArray(errors[band], coords, (*lead, "y", "x"), attrs=attrs_se)
            variables[f"{own_name}_se"].encoding = dict(out.encoding)
    dates = next(iter(made.values())).chunks[:-2]
    for name, (gsd, extra) in cube.extras.items():
        if gsd is None:
            variables[name] = extra
            continue
        dims = (*(("time",) if "time" in extra.dims else ()), "y", "x")
        own = {n: c for n, c in coords.items() if set(c.dims) <= set(dims)}
        target = (*(dates if "time" in extra.dims else ()), *chunks)
        variables[name] = xr.DataArray(_nearest(extra, gsd).rechunk(target), own, dims, attrs=extra.attrs)
        kept = ("dtype", "_FillValue", "scale_factor", "add_offset")
        variables[name].encoding = {k: v for k, v in extra.encoding.items() if k in kept}
    from xsen2 import __version__  # not importable yet while this module is being imported

    ds = xr.Dataset(variables, attrs={**cube.attrs, **attrs, "xsen2_version": __version__})
    if cube.crs is not None:
        ds = write_crs(ds, cube.crs)
    back = {"y": cube.dims[0], "x": cube.dims[1]} | ({"time": cube.time} if lead else {})
    return ds.rename({k: v for k, v in back.items() if k != v and k in ds.dims})
