"""The cube as a coarser sensor would have seen it: where every method can be judged against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.arguments import whole
from xsen2.bands import GRIDS, grid_of
from xsen2.cube import DIMS, Cube, carried, lazy, recognise, write_crs
from xsen2.engine.halo import Cut, Layer, blocks, map_windows
from xsen2.engine.operators import OPERATORS, Kernel, Operator, degrade_array, kernels, support
from xsen2.errors import GridError, MethodError
from xsen2.grid import metres
from xsen2.radiometry import Scale, scale_of, to_nan, warn_doubtful

__all__ = ["degrade", "pair"]


def degrade(ds: xr.Dataset | xr.DataTree, scale: int = 2, operator: Operator = "mtf") -> xr.Dataset:
    """Make the cube `scale` times coarser, on nested grids, lazily.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        A cube. Any unit; nodata is left out of every mean.
    scale : int
        2 or more. 2 puts the 20 m bands' truth at hand, 6 the 60 m bands'.
    operator : {"mtf", "product", "dsen2", "box"}
        ``"mtf"``, the default: each band's own Gaussian blur, matched to the sensor. ``"dsen2"``: the
        operator of Lanaras et al. (2018), for comparison with the paper; it blurs too little.
        ``"product"``: as ``"mtf"`` with the blur that products turn out to have, wider along the satellite's track than
        across it, see `xsen2.evaluation.sensor.sensor`. ``"box"``: the mean. See `xsen2.engine.operators.taps` for the
        formulas.

    Returns
    -------
    xarray.Dataset
        A cube with canonical names, float32, NaN for nodata (where fewer than half of the pixels
        under a coarse one are valid), spaced ``10 * scale``, ``20 * scale`` and ``60 * scale`` metres.
        Rows and columns at the south and east that do not fill a coarsest pixel are left out, and so are
        variables that are not bands.

    Raises
    ------
    GridError
        If the cube is smaller than one pixel of its coarsest grid, degraded.
    MethodError
        If the operator is unknown or the scale is not a whole number over 1.

    Examples
    --------
    >>> import xsen2
    >>> coarse = xsen2.sample().degrade(scale=2)
    >>> float(abs(coarse.x[1] - coarse.x[0]))
    20.0
    """
    cube = recognise(ds)
    return _degrade(cube, scale, operator, _told(cube))


def _told(cube: Cube) -> dict[str, Scale]:
    """What the values of each band are; bands may be in several units."""
    units = {band: scale_of(array, name=cube.names[band]) for band, array in cube.bands.items()}
    warn_doubtful(units.values())
    return units


def _degrade(cube: Cube, scale: int, operator: str, units: Mapping[str, Scale]) -> xr.Dataset:
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise MethodError(f"unknown operator {operator!r}: use one of {', '.join(OPERATORS)}")
    scale = whole(scale, "scale", MethodError, least=2, hint="use a whole number of 2 or more")
    cell = max(cube.grids) // 10 * scale  # pixels of the finest grid under one coarsest pixel
    height, width = (n // cell * cell for n in cube.shape(10))
    if not height or not width:
        raise GridError(
            f"the cube is {cube.shape(10)[0]} x {cube.shape(10)[1]} pixels of {metres(cube.resolution)} m, less than "
            f"the {cell} that one pixel of its {max(cube.grids)} m grid takes at scale {scale}: use a larger area"
        )
    west, _, _, north = cube.bounds
    size = cube.resolution * scale
    small = Cube(
        bands={},
        names={b: b for b in cube.bands},
        extras={},
        dims=DIMS[10],
        time=cube.time,
        crs=cube.crs,
        resolution=size,
        bounds=(west, north - height * cube.resolution, west + width * cube.resolution, north),
        attrs={**carried(cube.attrs), "degraded": f"scale {scale}, operator {operator}"},
    )
    for band, array in cube.bands.items():
        gsd = grid_of(band)
        factor = gsd // 10
        part = array[..., : height // factor, : width // factor]
        small.bands[band] = _band(small, band, part, units[band], scale, operator)
    return small.dataset()


def _band(small: Cube, band: str, array: xr.DataArray, unit: Scale, scale: int, operator: str) -> xr.DataArray:
    halo = -(-support(band, scale, operator) // scale) * scale
    data = lazy(array.data)
    rows, columns = data.chunks[-2:]
    block = _Degrade(*kernels(band, scale, operator), scale, halo, unit)
    out = map_windows(
        block,
        [Layer([data], 1)],
        Cut((array.shape[-2], array.shape[-1]), blocks(rows, columns, scale, halo), halo, per_pixel=scale),
        bands=1,
        label=f"xsen2-degrade-{operator}",
    )[0]
    gsd = grid_of(band)
    ydim, xdim = DIMS[gsd]
    y, x = small.centres(gsd)
    coords: dict[Any, Any] = {n: c for n, c in array.coords.items() if c.dims == ("time",)}
    coords |= {ydim: (ydim, y, array[ydim].attrs), xdim: (xdim, x, array[xdim].attrs)}
    attrs = carried(array.attrs) | {"gsd": round(small.resolution * gsd / 10)} | _units(unit)
    result = xr.DataArray(out, coords, array.dims, attrs=attrs)
    result.encoding = {k: v for k, v in array.encoding.items() if k == "scale_factor"}
    return result


def _units(unit: Scale) -> dict[str, str]:
    """The unit as attributes: the encoding that held it describes other pixels."""
    return {} if unit.gain == 1 else {"units": unit.units}


@dataclass(frozen=True)
class _Degrade:
    rows: Kernel
    columns: Kernel
    scale: int
    halo: int
    unit: Scale

    def __call__(self, windows: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        out = degrade_array(to_nan(windows[0], self.unit), *self.rows, self.scale, self.columns)
        edge = self.halo // self.scale
        return out[..., edge : out.shape[-2] - edge, edge : out.shape[-1] - edge]


def pair(ds: xr.Dataset | xr.DataTree, scale: int = 2, operator: Operator = "mtf") -> tuple[xr.Dataset, xr.Dataset]:
    """A coarse cube, and the original bands that super-resolving it should give back.

    Parameters
    ----------
    ds, scale, operator
        As `degrade` takes them; `scale` 2 or 6.

    Returns
    -------
    coarse : xarray.Dataset
        The cube, degraded.
    truth : xarray.Dataset
        The bands whose native grid is the coarse cube's finest one (20 m bands for scale 2, 60 m
        bands for scale 6), on dims ``(time, y, x)``, float32, NaN for nodata.

    Raises
    ------
    MethodError
        If `scale` is neither 2 nor 6.
    BandError, GridError
        As `degrade`; also if the cube has no bands on that grid.

    Examples
    --------
    >>> import xsen2
    >>> coarse, truth = xsen2.sample().degrade.pair(scale=6)
    >>> list(truth.data_vars), truth.sizes["x"] == coarse.sizes["x"]
    (['B01', 'B09'], True)
    """
    known = "the truth is known at scale 2 (20 m bands) and 6 (60 m bands)"
    scale = whole(scale, "scale", MethodError, least=2, hint=known)
    gsd = 10 * scale
    if gsd not in GRIDS:
        raise MethodError(f"scale={scale!r}: {known}")
    cube = recognise(ds)
    bands = [b for b in cube.bands if grid_of(b) == gsd]
    if not bands:
        raise GridError(
            f"the cube has no {gsd} m bands, so nothing is known at scale {scale}: load them, or use another scale"
        )
    if scale == 2 and 60 in cube.grids and min(cube.shape(60)) < 2:
        cube = replace(cube, bands={b: a for b, a in cube.bands.items() if grid_of(b) != 60})  # none is needed here
    units = _told(cube)
    coarse = _degrade(cube, scale, operator, units)
    out: dict[str, xr.DataArray] = {}
    height, width = coarse.sizes["y"], coarse.sizes["x"]
    ydim, xdim = DIMS[gsd]
    for band in bands:
        array = cube.bands[band].isel({ydim: slice(height), xdim: slice(width)})
        data = da.map_blocks(to_nan, lazy(array.data), units[band], dtype=np.float32)
        out[band] = array.copy(data=data).rename({ydim: "y", xdim: "x"}).assign_coords(y=coarse["y"], x=coarse["x"])
        out[band].attrs = carried(array.attrs) | {"gsd": round(cube.resolution * gsd / 10)} | _units(units[band])
    truth = xr.Dataset(out, attrs=coarse.attrs)
    return coarse, truth if cube.crs is None else write_crs(truth, cube.crs)
