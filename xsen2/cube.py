"""What a cube is: recognise one in a caller's dataset, check it, give it canonical names.

Decisions rest on the names of bands and on coordinate spacing. No pixel is read here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, GRIDS, UNUSED, find, grid_of
from xsen2.checks import Candidate, base_spacing, check_crs, check_projection, check_times, choose, nested
from xsen2.errors import BandError, GridError, TimeError
from xsen2.grid import Axes, Bounds, axes_of, crs_of, edges, is_mapping, mapping_names, snap, spacing

__all__ = ["CHUNK", "DIMS", "Cube", "canonicalise", "carry", "recognise", "snap", "write_crs"]

DIMS: dict[int, tuple[str, str]] = {10: ("y", "x"), 20: ("y_20m", "x_20m"), 60: ("y_60m", "x_60m")}
"""Canonical dims of each native grid."""

CHUNK = 1200
"""10 m pixels: side of the chunks of data that are not chunked yet."""


@dataclass(frozen=True)
class Cube:
    """A checked cube: bands on nested grids, with canonical names and dims.

    Attributes
    ----------
    bands : dict
        Canonical name → DataArray with dims ``(time, y, x)`` in the names of `DIMS`, north up.
    names : dict
        Canonical name → the caller's name.
    extras : dict
        Variables that are not bands: name → the grid they lie on, or None, and the variable, with
        canonical dims if it lies on a grid.
    dims : tuple
        The caller's names of the 10 m dims.
    time : hashable or None
        The caller's name of the time dim.
    crs : rasterio.crs.CRS or None
    resolution : float
        Pixel size of the finest grid: 10 m, or ``10 * scale`` for a degraded cube.
    bounds : tuple of float
        Outer edges (west, south, east, north), the same for all grids.
    attrs : dict
        Attributes of the caller's dataset.
    """

    bands: dict[str, xr.DataArray]
    names: dict[str, str]
    extras: dict[Hashable, tuple[int | None, xr.DataArray]]
    dims: tuple[Hashable, Hashable]
    time: Hashable | None
    crs: Any
    resolution: float
    bounds: Bounds
    attrs: dict[Any, Any]

    @property
    def grids(self) -> tuple[int, ...]:
        """Native grids (10, 20, 60) that the cube has bands on."""
        return tuple(g for g in GRIDS if any(grid_of(b) == g for b in self.bands))

    def shape(self, gsd: int) -> tuple[int, int]:
        """Rows and columns of the grid of nominal `gsd` that these bounds hold."""
        west, south, east, north = self.bounds
        size = self.resolution * gsd / 10
        return round((north - south) / size), round((east - west) / size)

    def centres(self, gsd: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Pixel centres, y falling and x rising, of the grid of nominal `gsd`."""
        west, _, _, north = self.bounds
        size = self.resolution * gsd / 10
        height, width = self.shape(gsd)
        y, x = (np.arange(n, dtype=np.float64) + 0.5 for n in (height, width))
        return np.asarray(north - y * size, np.float64), np.asarray(west + x * size, np.float64)

    def dataset(self) -> xr.Dataset:
        """The cube as a Dataset with canonical names and dims."""
        extras = {name: variable for name, (_, variable) in self.extras.items()}
        ds = xr.Dataset({**self.bands, **extras}, attrs=self.attrs)
        return ds if self.crs is None else write_crs(ds, self.crs)


def write_crs(ds: xr.Dataset, crs: Any) -> xr.Dataset:
    """Put the CRS into a scalar ``spatial_ref`` and point every variable at it."""
    ds = ds.drop_vars("spatial_ref", errors="ignore").assign_coords(spatial_ref=0)
    ds["spatial_ref"].attrs = {"crs_wkt": crs.to_wkt(), "spatial_ref": crs.to_wkt()}
    ds = ds.rio.write_crs(crs)
    for variable in ds.data_vars.values():
        if any(dim in variable.dims for pair in DIMS.values() for dim in pair):
            variable.attrs.pop("grid_mapping", None)
            variable.encoding["grid_mapping"] = "spatial_ref"
    return ds


Found = tuple[str, xr.DataArray, tuple[Mapping[Any, Any], ...]]
"""Name, variable, and where else its CRS may be said, nearest first."""


def _groups(tree: xr.DataTree) -> Iterator[Found]:
    """Candidate variables of a tree: those of sibling groups that hold bands on several grids."""
    families = []
    for node in tree.subtree:
        homes = [c for c in node.children.values() if any(find(v) for v in c.data_vars)]
        if len(homes) > 1:
            families.append((node, homes))
    # Masks repeat the names of bands (EOPF: quality/mask/r10m/b02); reflectance is never one byte.
    real = [
        (node, homes)
        for node, homes in families
        if any(v.dtype.itemsize > 1 for c in homes for k, v in c.data_vars.items() if find(k))
    ]
    if not real:
        flat = [n for n in tree.subtree if any(find(v) for v in n.data_vars)]
        if len(flat) == 1:
            real = [(tree, flat)]
    if len(real) != 1:
        found = ", ".join(node.path for node, _ in real) or "none"
        raise BandError(
            f"expected one family of sibling resolution groups (r10m, r20m, r60m) with bands, found: {found}. "
            "Pass the group that holds them, as in tree['/measurements/reflectance'].dsen2"
        )
    node, homes = real[0]
    for home in homes:
        mappings = mapping_names(home)
        for name, variable in home.data_vars.items():
            if name not in mappings:
                yield str(name), variable, (home, *home.parents)


def recognise(obj: xr.Dataset | xr.DataTree) -> Cube:
    """Check that an object is a cube, and give its bands canonical names and dims.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataTree
        Bands under any known name, each on its native grid; or sibling groups per resolution.

    Returns
    -------
    Cube

    Raises
    ------
    BandError
        No known bands, or one band twice.
    SingleGridError
        All bands on one grid.
    GridError
        A band is not on its native grid, or has no pixels; grids do not nest, or lie where no pixel of Sentinel-2 does.
    TimeError
        Bands with different times, or no dates.
    CRSError
        More than one CRS, a geographic one, or one that cannot be read.

    Warns
    -----
    ResampledWarning
        Of a projected CRS that is not UTM; and of 10 m bands alone that lie off the lattice. Of a cube without a CRS
        nobody knows where it lies.
    """
    if isinstance(obj, xr.DataTree):
        source = _groups(obj)
    elif isinstance(obj, xr.Dataset):
        mappings = mapping_names(obj)
        source = ((str(name), variable, (obj,)) for name, variable in obj.data_vars.items() if name not in mappings)
    else:
        raise TypeError(f"a Dataset or DataTree is needed, not {type(obj).__name__}")

    candidates: dict[str, list[Candidate]] = {}
    extras: dict[Hashable, xr.DataArray] = {}
    said: dict[str, Any] = {}
    for name, variable, context in source:
        band = find(name)
        if band is None:
            # A tree may hold a mask at several resolutions: the finest says most.
            if name.upper() not in UNUSED and variable.size >= getattr(extras.get(name), "size", 0):
                extras[name] = variable
            continue
        axes = axes_of(variable, name)
        said.setdefault(name, crs_of(variable, *context))
        candidates.setdefault(band, []).append(Candidate(band, name, variable, axes, spacing(variable, axes, name)))
    if not candidates:
        what = ", ".join(map(str, extras)) or "nothing"
        raise BandError(
            f"no Sentinel-2 bands found, only: {what}. Name them {', '.join(BANDS)}, or as Earth Search does; "
            "a DataArray with a band dim becomes a Dataset with .to_dataset(dim='band')"
        )
    crs = check_crs(said)
    base = base_spacing(candidates, done="xsen2_method" in obj.attrs)
    chosen = {band: choose(band, found, base) for band, found in candidates.items()}
    order = [b for b in BANDS if b in chosen]
    bounds = nested(chosen, base, crs)
    check_projection(crs)
    # The output has the names of the 10 m dims; a cube without 10 m bands is still a cube.
    first = min(chosen.values(), key=lambda c: grid_of(c.band))
    cube = Cube(
        bands={},
        names={b: chosen[b].name for b in order},
        extras={},
        dims=(first.axes.y, first.axes.x),
        time=first.axes.time,
        crs=crs,
        resolution=base,
        bounds=bounds,
        attrs=dict(obj.attrs),
    )
    check_times({b: chosen[b] for b in order})
    for band in order:
        one = chosen[band]
        cube.bands[band] = _straighten(one.array, one.axes, cube, grid_of(band))
        about = BANDS[band].attrs
        if one.array.dtype.kind == "f":
            del about["units"]  # whether floats are DN, their own metadata say or nobody
        cube.bands[band].attrs = {**about, **one.array.attrs}
    for extra, variable in extras.items():
        cube.extras[extra] = carry(str(extra), variable, cube)
    return cube


def canonicalise(obj: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """The object as a cube with canonical names (``B01`` …) and dims (``y``, ``y_20m``, ``y_60m``).

    Examples
    --------
    >>> import xsen2
    >>> ds = xsen2.sample().rename(B05="rededge1", y_20m="v", x_20m="u")
    >>> canonicalise(ds)["B05"].dims
    ('time', 'y_20m', 'x_20m')
    """
    return recognise(obj).dataset()


def _straighten(array: xr.DataArray, axes: Axes, cube: Cube, gsd: int) -> xr.DataArray:
    """North up, canonical dims, exact centres, no coordinates but those of time and scalars."""
    if not array._in_memory and array.chunks is None:
        # A variable of an unchunked file: its data would be read as a whole, here and now.
        array = array.chunk({axes.y: CHUNK, axes.x: CHUNK} | ({} if axes.time is None else {axes.time: 1}))
    if array.sizes[axes.x] > 1 and array[axes.x].values[0] > array[axes.x].values[-1]:
        array = array.isel({axes.x: slice(None, None, -1)})
    if array.sizes[axes.y] > 1 and array[axes.y].values[0] < array[axes.y].values[-1]:
        array = array.isel({axes.y: slice(None, None, -1)})
    lead = [] if axes.time is None else [axes.time]
    array = array.transpose(*lead, axes.y, axes.x)
    ydim, xdim = DIMS[gsd]
    y, x = cube.centres(gsd)
    coords: dict[Hashable, Any] = {ydim: (ydim, y, _AXIS["y"]), xdim: (xdim, x, _AXIS["x"])}
    for name, coord in array.coords.items():
        if is_mapping(coord):
            continue  # the cube has one CRS, which `write_crs` puts where all look for it
        if name == axes.time or (coord.dims in ((), (axes.time,)) and coord.dtype != object and name != "spatial_ref"):
            new = "time" if name == axes.time else name
            coords[new] = (("time",) if coord.dims else (), coord.data, coord.attrs)
    out = xr.DataArray(array.variable.data, coords, (*(("time",) if lead else ()), ydim, xdim), attrs=array.attrs)
    out.encoding = dict(array.encoding)
    return out


_AXIS = {
    axis: {"standard_name": f"projection_{axis}_coordinate", "axis": axis.upper(), "units": "m"} for axis in ("y", "x")
}


def carry(name: str, variable: xr.DataArray, cube: Cube) -> tuple[int | None, xr.DataArray]:
    """An extra variable: canonical dims if it lies on one of the grids, else as it is."""
    for gsd in GRIDS:
        size = cube.resolution * gsd / 10
        try:
            axes = axes_of(variable, name)
            found = spacing(variable, axes, name) or size
            placed = np.allclose(edges(variable, axes, size), cube.bounds, rtol=0, atol=0.1)
            same = abs(found - size) < 0.01 * size and placed
        except (GridError, TimeError):
            break
        if same and axes.time in (None, cube.time):
            return gsd, _straighten(variable, axes, cube, gsd)
    plain = variable.drop_vars(
        [n for n, c in variable.coords.items() if c.dtype == object or n in variable.dims or is_mapping(c)]
    )
    plain.attrs = {k: v for k, v in plain.attrs.items() if k != "grid_mapping"}
    # Its dims may have the names that the grids get: those of the time stay, others are made its own.
    taken = {"time", *cube.dims, *(d for pair in DIMS.values() for d in pair)}
    rename: dict[Hashable, Hashable] = {d: f"{d}_{name}" for d in variable.dims if d in taken and d != cube.time}
    if cube.time in variable.dims:
        rename[cube.time] = "time"
    keep = {rename.get(d, d): (rename.get(d, d), variable[d].values) for d in variable.dims if d in variable.coords}
    return None, plain.rename({k: v for k, v in rename.items() if k != v}).assign_coords(keep)
