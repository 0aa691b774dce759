"""Cube to 10 m dataset: pick the methods, plan the halo, keep nodata and units, put names back."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, GRIDS, canonical, grid_of
from xsen2.cube import CHUNK, Cube, recognise, write_crs
from xsen2.errors import BandError, MethodError
from xsen2.grid import NODATA_ATTRS
from xsen2.halo import Layer, common_dates, map_windows, split
from xsen2.nodata import fill
from xsen2.protocol import Method, finest_halo
from xsen2.radiometry import Scale, check_dn, scales_of, to_nan
from xsen2.registry import resolve

__all__ = ["lazy", "superresolve"]


def superresolve(
    ds: xr.Dataset | xr.DataTree,
    bands: Sequence[str] | None = None,
    method: str | Method = "default",
    native: bool = True,
    *,
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
    method : str or Method
        A name of `xsen2.methods`, or an object that follows `xsen2.protocol.Method`.
    native : bool
        Whether the 10 m bands come along, unchanged, even if `bands` does not name them.
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
        out on the 10 m grid by nearest neighbour. Nothing is computed yet.

    Raises
    ------
    BandError, GridError, CRSError, TimeError
        If the input is not a cube, or lacks what the method reads; before anything is computed.
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
    targets = _targets(cube, bands)
    scales = scales_of(cube, quantification)
    arrays = common_dates({band: lazy(array.data) for band, array in cube.bands.items()})
    chunks = _chunks(cube, arrays)
    made: dict[str, da.Array] = {}
    used: dict[str, str] = {}
    low = [band for band in targets if grid_of(band) != 10]
    for one in resolve(method, low, device, dtype):
        _require(cube, one)
        block = one.fit(cube)
        stack = _apply(cube, block, chunks, scales, arrays)
        for number, band in enumerate(block.produces):
            if band in targets:
                made[band] = stack[number]
        weights = getattr(block, "card", None)
        used[block.name if weights is None else weights.name] = "" if weights is None else weights.sha256[:16]
    for band in cube.bands:
        if grid_of(band) == 10 and (native or band in targets):
            made[band] = _passed(arrays[band], chunks, scales[band])
    return _assemble(cube, made, chunks, used, next(iter(scales.values())).gain)


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


def _chunks(cube: Cube, arrays: dict[str, da.Array]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks of the output: near the chunks of the 10 m bands, on borders that all grids share."""
    cell = max(cube.grids) // 10
    rows, columns = next(a.chunks[-2:] for b, a in arrays.items() if grid_of(b) == 10)
    return split(rows, cell), split(columns, cell)


@dataclass(frozen=True)
class _Block:
    """What a task does with its windows: to DN, fill, run the method, cut the halo off, back to units."""

    method: Method
    grids: tuple[int, ...]  # per window: its gsd
    scales: tuple[tuple[Scale, ...], ...]  # per window, per band
    halo: int  # of the method, in finest pixels

    def __call__(self, windows: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        if windows[0].ndim == 3:
            return self._date(windows)
        return np.stack([self._date([w[:, t] for w in windows]) for t in range(windows[0].shape[1])], axis=1)

    def _date(self, windows: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        gsd = self.grids[0]
        size = (windows[0].shape[1] * gsd // 10, windows[0].shape[2] * gsd // 10)
        margin = 2 * self.halo
        core = np.ones((size[0] - 2 * margin, size[1] - 2 * margin), bool)
        inputs = {g: np.empty((0, size[0] * 10 // g, size[1] * 10 // g), np.float32) for g in GRIDS}
        seen = {}
        for window, gsd, scales in zip(windows, self.grids, self.scales, strict=True):
            inputs[gsd], seen[gsd] = self._dn(window, scales)
            # One band alone may be as dark as that, in water; only classical methods, which are linear, read one.
            if len(scales) > 2 and not all(scale.sure for scale in scales):
                check_dn(inputs[gsd], seen[gsd])
            factor = gsd // 10
            m = margin // factor
            inner = seen[gsd][:, m : seen[gsd].shape[1] - m, m : seen[gsd].shape[2] - m].all(axis=0)
            core &= inner.repeat(factor, axis=0).repeat(factor, axis=1)
        if not core.any():
            return np.full((len(self.method.produces), *core.shape), np.nan, np.float32)
        cut = {}
        for gsd, x in inputs.items():
            factor = gsd // 10
            if gsd in seen and not seen[gsd].all():
                x = fill(x, seen[gsd], -(-self.halo // factor))
            h = self.halo // factor
            cut[gsd] = np.ascontiguousarray(x[:, h : x.shape[1] - h, h : x.shape[2] - h])
        out = self.method(cut[10], cut[20], cut[60])
        want = (len(self.method.produces), *(n - 2 * self.halo for n in size))
        if out.shape != want:
            raise MethodError(f"method {self.method.name!r} gave a block of shape {out.shape} where {want} is needed")
        out = out[:, self.halo : out.shape[1] - self.halo, self.halo : out.shape[2] - self.halo]
        gain = self.scales[0][0].gain
        return np.where(core, out if gain == 1 else out / np.float32(gain), np.float32(np.nan))

    def _dn(
        self, window: npt.NDArray[Any], scales: tuple[Scale, ...]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        dn = np.empty(window.shape, np.float32)
        seen = np.empty(window.shape, bool)
        for i, (band, scale) in enumerate(zip(window, scales, strict=True)):
            seen[i] = np.isfinite(band) if scale.nodata is None else np.isfinite(band) & (band != scale.nodata)
            dn[i] = band
            if scale.gain != 1:
                dn[i] *= np.float32(scale.gain)
        return dn, seen


def _apply(
    cube: Cube,
    method: Method,
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
    scales: dict[str, Scale],
    arrays: dict[str, da.Array],
) -> da.Array:
    """One task per block: ``(produces, [time,] y, x)``."""
    halo = finest_halo(method)
    groups = {g: [b for b in names if b in method.needs] for g, names in GRIDS.items()}
    groups = {g: names for g, names in groups.items() if names}
    block = _Block(
        method,
        tuple(groups),
        tuple(tuple(scales[b] for b in names) for names in groups.values()),
        halo,
    )
    layers = [Layer([arrays[b] for b in names], g // 10) for g, names in groups.items()]
    return map_windows(
        block,
        layers,
        shape=cube.shape(10),
        halo=2 * halo,  # what fills nodata within a receptive field may lie one further off
        chunks=chunks,
        bands=len(method.produces),
        label=f"xsen2-{method.name}",
    )


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
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
    used: dict[str, str],
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
        variables[cube.names[band]] = out
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

    attrs = {
        **cube.attrs,
        "xsen2_method": ", ".join(f"{n} ({h})" if h else n for n, h in used.items()) or "none",
        "xsen2_version": __version__,
    }
    ds = xr.Dataset(variables, attrs=attrs)
    if cube.crs is not None:
        ds = write_crs(ds, cube.crs)
    back = {"y": cube.dims[0], "x": cube.dims[1]} | ({"time": cube.time} if lead else {})
    return ds.rename({k: v for k, v in back.items() if k != v and k in ds.dims})
