"""Cube to 10 m dataset: pick the methods, plan the halo, keep nodata and units, put names back."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, Unpack

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.area import Aoi, locate
from xsen2.arguments import names_of
from xsen2.bands import BANDS, A, B, C, canonical, factor_of, grid_of
from xsen2.cube import Cube, carried, lazy, nearest, recognise, write_crs
from xsen2.dates import Target, at, notes, targets_of
from xsen2.engine.block import Block, apply, block_of, projection_of
from xsen2.engine.frames import neighbours
from xsen2.engine.halo import MOST, blocks, common_dates, thinnest
from xsen2.engine.operators import OPERATORS, Operator
from xsen2.errors import BandError, MethodError
from xsen2.grid import without_place
from xsen2.masks import Hidden, Mask, automatic, hide, read
from xsen2.methods.protocol import Method, adopt, zoom_of
from xsen2.methods.registry import opened, own_gsd, resolve
from xsen2.multitemporal.fusion import Fusion
from xsen2.radiometry import STORED, TAKEN, Scale, finite, scales_of, to_nan
from xsen2.version import __version__

__all__ = ["context_of", "superresolve"]


# What comes out: bands and other variables on the 10 m grid, under the caller's names.


def assemble(
    cube: Cube, result: _Result, attrs: Mapping[str, str], scales: Mapping[str, Scale], zoom: int = 1
) -> xr.Dataset:
    """Put the bands that methods have made together in a dataset.

    Parameters
    ----------
    cube : Cube
        Of the dates of the result.
    result : _Result
    attrs : mapping
        Attributes that are added to the cube's.
    scales : mapping
        Band → what its values mean.
    zoom : int
        Pixels of the result, along each side, per 10 m pixel.

    Returns
    -------
    xarray.Dataset
        With the cube's other variables, and the caller's names of bands and dims.
    """
    lead = () if cube.time is None else ("time",)
    size = cube.resolution / zoom
    size = round(size) if size == round(size) else size
    like = next(a for b, a in cube.bands.items() if factor_of(b) == 1)
    variables: dict[Hashable, xr.DataArray] = {}
    coords = {n: c for n, c in like.coords.items() if n != "spatial_ref" and n in without_place({n: c})}
    if zoom > 1:
        for dim, centres in zip("yx", cube.centres(10 / zoom), strict=True):
            coords[dim] = xr.DataArray(centres, dims=dim, attrs=like[dim].attrs)
    for band in (b for b in BANDS if b in result.bands):
        out = xr.DataArray(result.bands[band], coords, (*lead, "y", "x"), attrs=carried(cube.bands[band].attrs))
        scale = scales[band]
        if scale.gain != 1:  # reflectance: recorded as CF decoding leaves it, for later steps
            out.encoding["scale_factor"] = 1 / scale.gain
        out.encoding[TAKEN] = scale.gain
        units = {"units": scale.units} if scale.told else {}  # else a later reader must judge by the pixels again
        out.attrs |= units | {"gsd": size, "native_gsd": round(cube.resolution * factor_of(band))}
        label = cube.names[band]
        variables[label] = out
        if band in result.errors:
            out.attrs["ancillary_variables"] = f"{label}_se"
            attrs_se = {"long_name": f"standard error of {label}", "gsd": size} | units
            variables[f"{label}_se"] = xr.DataArray(result.errors[band], coords, (*lead, "y", "x"), attrs=attrs_se)
            variables[f"{label}_se"].encoding = dict(out.encoding)
    if result.frames is not None:
        about = {"long_name": "number of dates that a pixel was made of", "gsd": size}
        variables["clear_frames"] = xr.DataArray(result.frames, coords, (*lead, "y", "x"), attrs=about)
    dates = next(iter(result.bands.values())).chunks[:-2]
    for name, (gsd, extra) in cube.extras.items():
        if gsd is None:
            variables[name] = extra
            continue
        dims = (*(("time",) if "time" in extra.dims else ()), "y", "x")
        extra_coords = {n: c for n, c in coords.items() if set(c.dims) <= set(dims)}
        wide = tuple(tuple(n * zoom for n in sizes) for sizes in result.chunks)
        data = nearest(extra, gsd, zoom).rechunk((*(dates if "time" in extra.dims else ()), *wide))
        if data.dtype.kind == "f":
            data = da.map_blocks(finite, data, dtype=data.dtype, meta=data._meta)
        variables[name] = xr.DataArray(data, extra_coords, dims, attrs=without_place(extra.attrs))
        variables[name].encoding = {k: v for k, v in extra.encoding.items() if k in STORED}
    ds = xr.Dataset(variables, attrs={**carried(cube.attrs), **attrs, "xsen2_version": __version__})
    if cube.crs is not None:
        ds = write_crs(ds, cube.crs)
    back = {"y": cube.dims[0], "x": cube.dims[1]} | ({"time": cube.time} if lead else {})
    return ds.rename({k: v for k, v in back.items() if k != v and k in ds.dims})


# How far a method sees: what has to be read round an area for its pixels to be those of the whole image.


def context_of(
    method: str | os.PathLike[str] | Method = "default",
    bands: Sequence[str] | None = None,
    *,
    gsd: float | None = None,
    consistency: bool | None = None,
    operator: Operator = "mtf",
) -> int:
    """Metres that a method sees round a pixel, on each side.

    A cube that reaches so far beyond an area gives, cut to it by ``superresolve(area=…)``, the pixels that the whole
    image gives. `xsen2.superresolve.superresolve` needs no such thing: it reads the context from the cube that it has.
    It is how much of a source to load when only an area is wanted.

    Parameters
    ----------
    method, bands, gsd, consistency, operator
        As `xsen2.superresolve.superresolve` takes them; by default all 20 m and 60 m bands are made, below 10 m the
        10 m bands.

    Returns
    -------
    int
        A multiple of 60.

    Raises
    ------
    BandError, MethodError
        If an argument is not one of those above, or the method does not make a band.

    Notes
    -----
    Two kinds of methods differ by what no context tells: those that gather statistics, of the image that they are
    given, and those that work tile by tile (``lattice``), whose tiles begin at its corner.

    Examples
    --------
    >>> import xsen2
    >>> from xsen2.geometry import padded
    >>> from xsen2.superresolve import context_of
    >>> context_of("bicubic", ["B11"])
    120
    >>> bbox = (15.58, 46.52, 15.68, 46.58)
    >>> cube = xsen2.load(items, bbox=padded(bbox, context_of()))  # doctest: +SKIP
    >>> cube.dsen2.superresolve(area=bbox)  # doctest: +SKIP
    """
    finer = gsd is not None and gsd < 10
    asked = (A if finer else (*B, *C)) if bands is None else canonical(names_of(bands, "bands", BandError))
    if not asked:
        raise BandError("bands=[] names nothing: name 20 m or 60 m bands, or leave it out for all")
    wanted = [band for band in asked if finer or grid_of(band) != 10]
    if not wanted:
        raise BandError(f"bands={bands!r} are 10 m bands, which need no context: name 20 m or 60 m bands")
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise MethodError(f"unknown operator {operator!r}: use one of {', '.join(OPERATORS)}")
    most = 0
    coarse = [band for band in wanted if finer and grid_of(band) != 10]
    before = context_of("default", coarse, consistency=consistency, operator=operator) if coarse else 0
    for algorithm in resolve(method, [b for b in wanted if b not in coarse] or A, operator=operator, gsd=gsd):
        exact = algorithm.consistency if consistency is None else consistency
        projection = projection_of(algorithm, algorithm.produces, operator if exact else None, (0, 0))
        most = max(most, Block(algorithm, (), (), projection).halo)
    return before + -(-most * 10 // 60) * 60


class Options(TypedDict, total=False):
    """Further keyword arguments of `superresolve`."""

    area_crs: object | None
    clip: bool
    device: str
    dtype: str
    quantification: float | None


def superresolve(
    ds: xr.Dataset | xr.DataTree,
    bands: Sequence[str] | None = None,
    method: str | os.PathLike[str] | Method = "default",
    native: bool = True,
    *,
    gsd: float | None = None,
    frames: int | None = None,
    target: Target | None = None,
    area: object | None = None,
    mask: Mask | None = "auto",
    consistency: bool | None = None,
    operator: Operator = "mtf",
    uncertainty: bool = False,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Make every band a 10 m band, or a finer one, lazily.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        A cube: bands on their native grids, offset removed; see `xsen2.cube.recognise` for what is
        accepted. ``(time, y, x)`` per grid, time optional.
    bands : sequence of str, optional
        Bands to make, under any known name. By default all of the cube's; below 10 m, those that the method makes.
    method : str, path or Method
        A name of `xsen2.methods`, the path of weights, or an object that follows `xsen2.methods.protocol.Method`. What
        a classical method makes is kept within what was measured around, see `xsen2.methods.common.bounded`.
    native : bool
        Whether the 10 m bands come along, unchanged, even if `bands` does not name them. Below 10 m there are none.
    gsd : float, optional
        Pixel size of the result in metres: 10, or what the method makes; 5 and 2.5 by fusing dates. 20 m and 60 m bands
        that `bands` names become 10 m bands first, by the default method.
    frames : int, optional
        Dates that each date of the result is made of at most, itself and its nearest in time: 1, or what the method
        reads; below 10 m any number, by default 8. There, with a mask, twice as many are looked at: a frame must have
        95 % of the pixels that any of them has, and lie within 1.5 pixels of the date.
    target : date, sequence of them, or "latest", optional
        The dates to make: all of the cube's by default. ``"2024-06-03"``, any time of that day; or what numpy takes for
        dates. ``"latest"`` is the last date 95 % of which the mask leaves; for that alone the mask is computed at once,
        of the last date and, while it is cloudy, of those before it.
    area : bbox, GeoJSON, geometry or path, optional
        Area of interest, of any size: ``(west, south, east, north)``, a GeoJSON dict, the path of a file with one, a
        geometry of shapely or geopandas, or a `Geometry` or `GeoBox` of odc-geo. The result is cut to the 10 m pixels
        that its bounds touch. Its pixels are those of the whole cube's result, of which only what they depend on is
        computed: methods that gather statistics still read all of it. Where the area reaches over the cube's edge, the
        result ends there.
    mask : str, sequence of int, xarray.DataArray or callable, optional
        What becomes NaN in the bands, those of 10 m and standard errors too, after they have been made, so that the
        method still sees it as context; where a date is made of several, before, so that others fill it. ``"scl"``: no
        data, saturated, cloud shadow, clouds of medium and high probability and thin cirrus (`xsen2.masks.SCL`) of the
        cube's variable SCL, but not snow and water; ``[3, 8, 9]``: those classes of SCL; ``"classi"``: opaque cloud and
        cirrus of CLASSI, which `xsen2.open_safe` reads of L1C. Or booleans, True for what is left out, on any of the
        cube's grids; or a function that makes them of the cube, with canonical names:
        ``lambda cube: cube.CLDPRB > 40``. By default, ``"auto"``: below 10 m ``"scl"`` if the cube has SCL, else
        nothing. Below 10 m, classes of SCL hide 3 pixels around them too. None hides nothing.
    consistency : bool, optional
        Whether every band, degraded, must give back the one that was measured: the smallest correction that
        does so is added, see `xsen2.engine.consistency`. The RMSE is under 0.1 DN then, with a third of the pixels lost
        in speckles too; single pixels beside nodata may be off by a DN. By default what the method asks for. It lessens
        the error as far as the operator is what the pixels went through; products have been resampled besides, which it
        takes for detail.
    operator : {"mtf", "product", "dsen2", "box"}
        How the bands that were measured came about, as `xsen2.degrade.degrade` takes it: for `consistency`, and for
        classical methods that model it. ``"mtf"`` is the sensor's own blur; what was degraded with another operator
        must be brought back with the same.
    uncertainty : bool
        Whether every band that is made comes with its standard error, ``B05`` with ``B05_se``: in the units of
        the band, such that at the lower scale 68 % of the errors were smaller. Networks only.
    **options
        ``area_crs`` : CRS, optional
            What the coordinates of `area` are in, as ``"EPSG:32633"``: by default lon/lat, or what `area` itself says,
            as geopandas does.
        ``clip`` : bool
            Whether pixels whose centre is outside of the polygons of `area`, and that none of its lines and points
            touches, become nodata: in bands NaN, in other variables their nodata value, which is 0 where none is
            declared. False by default.
        ``device`` : str
            ``"auto"``, the default, takes CUDA, MPS or the CPU, whichever the worker has; or a torch device.
        ``dtype`` : {"auto", "float32", "bfloat16", "float16"}
            What networks compute in. ``"auto"`` takes bfloat16 where the device is faster in it.
        ``quantification`` : float, optional
            Value of a reflectance of 1 in the data: 10000 for DN, 1 for reflectance. By default 1 for floats
            that CF decoding has scaled (``encoding["scale_factor"]``) or whose ``units`` are "1", else 10000. Pixels
            that contradict it are refused.

    Returns
    -------
    xarray.Dataset
        All bands float32 on the 10 m grid ``(time, y, x)``, in the units of the input and under the
        caller's names, NaN exactly where a band that is needed has no data (NaN or infinite; the value of
        ``_FillValue`` or ``nodata``; 0 for integers that declare none, not for floats; over 1e6 DN in magnitude,
        which no reflectance is). Other variables come out on the 10 m grid by nearest neighbour. ``units`` is "1e-4"
        for DN and "1" for reflectance, where metadata or `quantification` say which it is; attributes about the old
        grids are left out. Nothing is computed yet. ``xsen2_consistency`` in the attributes is the operator that the
        bands are consistent with, or "none"; ``xsen2_mask`` what `mask` was. Below 10 m also ``clear_frames``, the
        number of dates that a pixel was made of; and as coordinates ``(time, frame)`` the dates that were looked at for
        each date, ``frame_time``, how far they lie from it, ``shift_y`` and ``shift_x`` in metres north and east, and
        whether they are its frames, ``frame_used``.

    Raises
    ------
    BandError, GridError, CRSError, TimeError
        If the input is not a cube, or lacks what the method or `mask` reads, or `mask` does not fit it; before
        anything is computed.
    SourceError
        If `area` is none, or lies outside the cube.
    MethodError
        If an argument is not one of those above, or the method cannot say how sure it is.
    RadiometryError
        If bands are in different units; or, when blocks are computed, if values are not what metadata let expect, DN
        or reflectance; if integers have wrapped round where an offset was subtracted; if floats hold both NaN and 0,
        which an attribute declares for nodata; if SCL holds what is no class.

    Warns
    -----
    RadiometryWarning
        If floats declare ``nodata=0``: the attribute may be older than the values.

    Examples
    --------
    >>> import xsen2
    >>> sr = xsen2.sample().dsen2.superresolve(method="bicubic")
    >>> sr["B11"].dims, sr["B11"].dtype
    (('time', 'y', 'x'), dtype('float32'))
    >>> west, south, *_ = sr.rio.bounds()
    >>> pixel = (west + 100, south + 100, west + 110, south + 110)
    >>> xsen2.sample().dsen2.superresolve(method="bicubic", area=pixel, area_crs=sr.rio.crs)["B11"].shape
    (2, 1, 1)
    """
    unknown = [name for name in options if name not in Options.__annotations__]
    if unknown:
        raise TypeError(f"superresolve() got an unexpected keyword argument {unknown[0]!r}")
    device, dtype = options.get("device", "auto"), options.get("dtype", "auto")
    clip, quantification = options.get("clip", False), options.get("quantification")
    cube = recognise(ds)
    if not isinstance(device, str) or (device != "auto" and not re.fullmatch(r"(cpu|mps|cuda)(:\d+)?", device)):
        raise MethodError(f"device={device!r}: use 'auto', 'cpu', 'mps', 'cuda' or 'cuda:1'")
    if not isinstance(dtype, str) or dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise MethodError(f"dtype={dtype!r}: use 'auto', 'float32', 'bfloat16' or 'float16'")
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise MethodError(f"unknown operator {operator!r}: use one of {', '.join(OPERATORS)}")
    if not isinstance(consistency, bool | np.bool_ | None):
        raise MethodError(
            f"consistency={consistency!r}: use True, False or None; operator={consistency!r} says what with"
        )
    if clip and area is None:
        raise MethodError("clip=True clips to area=, which is missing")
    method = opened(method, device)
    wanted = _wanted(cube, gsd, frames)
    if wanted is None:
        wanted = own_gsd(method)
    makes = _makes(cube, wanted, method)
    targets = _targets(cube, bands, native, makes)
    aoi = None if area is None else locate(cube, area, options.get("area_crs"))
    hidden = _hides(cube, mask, wanted)
    dates = targets_of(cube, target, hidden)
    asked = [band for band in targets if band in makes or factor_of(band) > 1]
    named = isinstance(method, str | os.PathLike)
    coarse = [b for b in asked if factor_of(b) > 1] if named and wanted is not None and wanted < 10 else []
    direct = [band for band in asked if band not in coarse]
    if coarse and not direct:  # frames are found by the 10 m bands
        direct = [band for band in cube.bands if band in A]
    methods = resolve(method, direct, device, dtype, operator, wanted, frames)
    if hidden is not None:
        methods = [
            replace(algorithm, masked=True) if isinstance(algorithm, Fusion) else algorithm for algorithm in methods
        ]
    if dates is not None and all(algorithm.frames == 1 for algorithm in methods):
        cube, hidden, dates = at(cube, dates), None if hidden is None else hidden.at(dates), None
    scales = scales_of(cube, quantification)
    zoom = max((zoom_of(algorithm) for algorithm in methods), default=1)
    arrays = common_dates({band: lazy(array.data) for band, array in cube.bands.items()})
    if cube.time and any(
        algorithm.rounds or algorithm.frames != 1 for algorithm in methods
    ):  # blocks are of one date then
        arrays = {band: array.rechunk({0: 1}) for band, array in arrays.items()}
    for algorithm in methods:
        _require(cube, algorithm)
    methods = [algorithm.with_uncertainty() if uncertainty else algorithm for algorithm in methods]
    exact = [algorithm.consistency if consistency is None else bool(consistency) for algorithm in methods]
    tasks = [
        block_of(algorithm, tuple(cube.bands), scales, operator if consistently else None, cube.shape(10))
        for algorithm, consistently in zip(methods, exact, strict=True)
    ]
    chunks = _chunks(cube, arrays, tasks, aoi)
    result = _Result(cube, chunks, targets, hidden, dates, uncertainty)
    for algorithm, consistently in zip(methods, exact, strict=True):
        result.add(algorithm, arrays, scales, operator if consistently else None)
    if coarse and isinstance(methods[0], Fusion):
        # Bands of 20 m and 60 m are 10 m bands first, by the method that is the default for that.
        ten = superresolve(
            ds, coarse, native=False, mask=None, consistency=consistency, operator=operator, device=device, dtype=dtype,
            quantification=quantification,
        )  # fmt: skip
        result.add_coarse(methods[0], {band: ten[cube.names[band]] for band in coarse}, scales)
    for band in cube.bands if zoom == 1 else ():
        if factor_of(band) == 1 and (native or band in targets) and band not in result.bands:
            passed = _passed(arrays[band], chunks, scales[band])
            passed = passed if hidden is None else hide(passed, hidden)
            result.bands[band] = passed if dates is None else passed[dates]
    attrs = {
        "xsen2_method": ", ".join(dict.fromkeys(algorithm.version for algorithm in methods)) or "none",
        "xsen2_consistency": _which(result.consistent, operator),
    }
    if hidden is not None:
        attrs["xsen2_mask"] = hidden.label
    shown = cube if dates is None else at(cube, dates)
    out = assemble(shown, result, attrs, scales, zoom)
    out = out.assign_coords(_renamed(result.notes, cube))
    return out if aoi is None else aoi.finer(zoom).cut(out, cube.dims, clip)


@dataclass
class _Result:
    """The bands that methods have made so far, lazily."""

    cube: Cube
    chunks: tuple[tuple[int, ...], tuple[int, ...]]
    targets: tuple[str, ...]
    hidden: Hidden | None
    dates: list[int] | None
    uncertainty: bool
    bands: dict[str, da.Array] = field(default_factory=dict)
    errors: dict[str, da.Array] = field(default_factory=dict)
    consistent: dict[str, bool] = field(default_factory=dict)
    frames: da.Array | None = None
    notes: dict[Hashable, Any] = field(default_factory=dict)
    fitted: da.Array | None = None

    def add(
        self, method: Method, arrays: Mapping[str, da.Array], scales: Mapping[str, Scale], operator: str | None
    ) -> None:
        """What a method makes of the cube."""
        several = method.frames != 1 and self.hidden is not None
        source = (
            _hidden(arrays, self.cube, method, self.hidden, scales) if several and self.hidden is not None else arrays
        )
        planes, fitted = apply(self.cube, method, self.chunks, scales, source, operator, self.dates)
        for number, band in enumerate(method.produces):
            if band in self.targets:
                self._put(method, planes, number, band, several)
                self.consistent[band] = operator is not None
        if method.counts:
            count = self._masked(planes[-1], method, several)
            self.frames = da.map_blocks(_counts, count, dtype=np.uint8, meta=np.empty((0,) * count.ndim, np.uint8))
        if isinstance(method, Fusion) and fitted is not None:
            self.fitted = fitted
            self.notes = dict(
                notes(self.cube, method, fitted, neighbours(self.cube.times, method.candidates, self.dates))
            )

    def add_coarse(self, main: Fusion, ten: Mapping[str, xr.DataArray], scales: Mapping[str, Scale]) -> None:
        """What a fusion makes of bands that have become 10 m bands; its frames lie as those of the 10 m bands do."""
        like = next(a for b, a in self.cube.bands.items() if factor_of(b) == 1)
        for start in range(0, len(ten), len(A)):
            group = list(ten)[start : start + len(A)]
            fusion = main.of(tuple(group))
            bands = {slot: xr.DataArray(ten[b].data, like.coords, like.dims) for slot, b in zip(A, group, strict=False)}
            cube = replace(self.cube, bands=bands, names=dict(zip(A, group, strict=False)), extras={})
            known = {slot: replace(scales[b], nodata=None, sure=True, dtype="float32") for slot, b in zip(A, group)}  # noqa: B905
            arrays = {slot: a.data.rechunk({0: 1}) if cube.time else a.data for slot, a in bands.items()}
            several = fusion.frames != 1 and self.hidden is not None
            if several and self.hidden is not None:
                arrays = _hidden(arrays, cube, fusion, self.hidden, known)
            planes, _ = apply(cube, fusion, self.chunks, known, arrays, None, self.dates, self.fitted)
            for number, band in enumerate(group):
                self._put(fusion, planes, number, band, several)

    def _put(self, method: Method, planes: da.Array, number: int, band: str, several: bool) -> None:
        self.bands[band] = self._masked(planes[number], method, several)
        if self.uncertainty:
            self.errors[band] = self._masked(planes[len(method.produces) + number], method, several)

    def _masked(self, plane: da.Array, method: Method, several: bool) -> da.Array:
        return plane if several or self.hidden is None else hide(plane, self.hidden.finer(zoom_of(method)))


def _counts(x: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Numbers of dates; 0 where there is nothing."""
    return np.where(np.isfinite(x), x, 0).astype(np.uint8)


def _renamed(notes: Mapping[Hashable, Any], cube: Cube) -> dict[Hashable, Any]:
    """With the caller's name of the time dim."""
    return {
        name: (tuple(cube.time if d == "time" else d for d in dims), *rest) for name, (dims, *rest) in notes.items()
    }


def _hides(cube: Cube, mask: Mask | None, gsd: float | None) -> Hidden | None:
    """What is hidden; classes of SCL below 10 m with some pixels around."""
    finer = gsd is not None and gsd < 10
    if isinstance(mask, str) and mask == "auto":
        mask = automatic(cube) if finer else None
    if mask is None:
        return None
    hidden = read(cube, mask)
    return hidden.grown(_AROUND) if finer and not callable(mask) and not isinstance(mask, xr.DataArray) else hidden


_AROUND = 3  # 10 m pixels round clouds and their shadows that are masked too where dates are fused


def _wanted(cube: Cube, gsd: float | None, frames: int | None) -> float | None:
    """The pixel size that is asked for, as if the finest grid of the cube had 10 m.

    A degraded cube is a sensor of its own: of bands at 40 m, 20 m pixels are what 5 m are of bands at 10 m.
    """
    if frames is not None and (not isinstance(frames, int | np.integer) or isinstance(frames, bool) or frames < 1):
        raise MethodError(f"frames={frames!r}: a whole number of dates from 1 is needed")
    if gsd is None:
        return None
    if isinstance(gsd, bool) or not isinstance(gsd, int | float | np.number) or not 0 < gsd <= cube.resolution:
        raise MethodError(f"gsd={gsd!r}: give metres, {cube.resolution:g} or a whole part of it")
    return 10 * float(gsd) / cube.resolution


def _hidden(
    arrays: Mapping[str, da.Array], cube: Cube, method: Method, hidden: Hidden, scales: Mapping[str, Scale]
) -> dict[str, da.Array]:
    """What a fusion of dates reads: pixels any part of which is masked are NaN, so that other dates fill them."""
    out = dict(arrays)
    for band in method.needs:
        seen = da.map_blocks(to_nan, arrays[band], scales[band], dtype=np.float32)
        out[band] = hide(seen, hidden.coarser(factor_of(band)))
    return out


def _which(consistent: dict[str, bool], operator: str) -> str:
    """The operator; with the bands, if others were left as they are."""
    names = [band for band, done in consistent.items() if done]
    if not names:
        return "none"
    return operator if all(consistent.values()) else f"{operator} ({', '.join(names)})"


def _makes(cube: Cube, gsd: float | None, method: object) -> tuple[str, ...]:
    """Bands of the cube that the method may make: coarse ones; below 10 m, the method's own, or those of 10 m."""
    produced = () if isinstance(method, str | os.PathLike) else adopt(method).produces
    if (gsd is not None and gsd < 10) or any(b in A for b in produced) or own_gsd(method) is not None:
        return tuple(b for b in cube.bands if b in (produced or A))
    return tuple(b for b in cube.bands if factor_of(b) > 1)


def _targets(cube: Cube, bands: Sequence[str] | None, native: bool, low: tuple[str, ...]) -> tuple[str, ...]:
    if not low:
        raise BandError(
            f"only 10 m bands ({', '.join(cube.names.values())}): there is nothing to super-resolve "
            "to 10 m; gsd=5 makes finer pixels of several dates"
        )
    if not any(grid_of(b) == 10 for b in cube.bands):
        raise BandError(f"no 10 m bands among {', '.join(cube.names.values())}: load B02, B03, B04 and B08 as well")
    if bands is None:
        return low
    asked = names_of(bands, "bands", BandError)
    if not asked and not native:
        raise BandError("bands=[] with native=False leaves nothing to make: name some, or leave it out for all")
    to_canonical = {name: band for band, name in cube.names.items()}
    wanted = tuple(to_canonical.get(b) or canonical([b])[0] for b in asked)
    missing = [b for b in wanted if b not in cube.bands]
    if missing:
        raise BandError(f"the cube has no {', '.join(missing)}: it has {', '.join(cube.names.values())}")
    return tuple(b for b in cube.bands if b in wanted)


def _require(cube: Cube, method: Method) -> None:
    missing = [b for b in method.needs if b not in cube.bands]
    if missing:
        raise BandError(
            f"method {method.name!r} reads {', '.join(missing)} to make {', '.join(method.produces)}, but the cube has "
            f"only {', '.join(cube.names.values())}: load them too, leave those bands out with bands=[…], or use "
            "method='bicubic'"
        )


def _chunks(
    cube: Cube, arrays: dict[str, da.Array], tasks: Sequence[Block], aoi: Aoi | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks of the output: near the chunks of the 10 m bands, on borders that all grids and lattices share.

    Where chunks are much thinner than what a method sees round them, as those of a striped file, several are one block.
    """
    cell = math.lcm(max(cube.factor(b) for b in cube.bands), *(task.method.lattice for task in tasks))
    rows, columns = next(a.chunks[-2:] for b, a in arrays.items() if grid_of(b) == 10)
    halo = max((task.computed for task in tasks), default=0)
    # A block holds so many finer pixels, and so many dates.
    most = MOST // max((task.zoom * (2 if task.fuses and task.zoom == 2 else 1) for task in tasks), default=1)
    if aoi is not None:
        return aoi.blocks((rows, columns), cell, (thinnest(halo, sum(rows)), thinnest(halo, sum(columns))), most)
    return blocks(rows, columns, cell, halo, most)


def _passed(data: da.Array, chunks: tuple[tuple[int, ...], tuple[int, ...]], scale: Scale) -> da.Array:
    """A native 10 m band: the same values in float32, NaN for nodata."""
    data = data.rechunk({data.ndim - 2: chunks[0], data.ndim - 1: chunks[1]})
    meta = np.empty((0,) * data.ndim, np.float32)
    out: da.Array = da.map_blocks(to_nan, data, scale, dtype=np.float32, meta=meta)
    return out
