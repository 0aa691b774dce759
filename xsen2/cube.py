"""What a cube is: recognise one in a caller's dataset, check it, give it canonical names.

Decisions rest on the names of bands and on coordinate spacing. No pixel is read here, except by
`native` on data that is already in memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xsen2.bands import BANDS, GRIDS, UNUSED, find, grid_of
from xsen2.errors import BandError, CRSError, GridError, SingleGridError, TimeError
from xsen2.grid import Axes, Bounds, axes_of, crs_of, edges, snap, spacing

__all__ = ["DIMS", "Cube", "canonicalise", "native", "recognise", "snap"]

DIMS: dict[int, tuple[str, str]] = {10: ("y", "x"), 20: ("y_20m", "x_20m"), 60: ("y_60m", "x_60m")}
"""Canonical dims of each native grid."""


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
        Variables that are not bands, with canonical dims where they lie on one of the grids.
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
    extras: dict[Hashable, xr.DataArray]
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

    def centres(self, gsd: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres, y falling and x rising, of the grid of nominal `gsd`."""
        west, _, _, north = self.bounds
        size = self.resolution * gsd / 10
        height, width = self.shape(gsd)
        return north - (np.arange(height) + 0.5) * size, west + (np.arange(width) + 0.5) * size

    def dataset(self) -> xr.Dataset:
        """The cube as a Dataset with canonical names and dims."""
        ds = xr.Dataset({**self.bands, **self.extras}, attrs=self.attrs)
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


def _groups(tree: xr.DataTree) -> Iterator[tuple[str, xr.DataArray, Mapping[Any, Any]]]:
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
        for name, variable in home.data_vars.items():
            yield str(name), variable, {**tree.attrs, **node.attrs, **home.attrs}


@dataclass(frozen=True)
class _Candidate:
    name: str
    array: xr.DataArray
    axes: Axes
    size: float | None
    attrs: Mapping[Any, Any]


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
        A band is not on its native grid, or grids do not nest.
    TimeError
        Bands with different times.
    CRSError
        More than one CRS, or a geographic one.
    """
    if isinstance(obj, xr.DataTree):
        source: Iterator[tuple[str, xr.DataArray, Mapping[Any, Any]]] = _groups(obj)
    elif isinstance(obj, xr.Dataset):
        source = ((str(name), variable, obj.attrs) for name, variable in obj.data_vars.items())
    else:
        raise TypeError(f"a Dataset or DataTree is needed, not {type(obj).__name__}")

    candidates: dict[str, list[_Candidate]] = {}
    extras: dict[Hashable, xr.DataArray] = {}
    crs: dict[str, Any] = {}
    for name, variable, attrs in source:
        band = find(name)
        if band is None:
            if name.upper() not in UNUSED:
                extras[name] = variable
            continue
        axes = axes_of(variable, name)
        found = crs_of(variable, attrs)
        if found is not None:
            crs.setdefault(found.to_string(), found)
        candidates.setdefault(band, []).append(
            _Candidate(name, variable, axes, spacing(variable, axes, name), attrs)
        )
    if not candidates:
        what = ", ".join(map(str, extras)) or "nothing"
        raise BandError(
            f"no Sentinel-2 bands found, only: {what}. Name them {', '.join(BANDS)}, or as Earth Search does; "
            "a DataArray with a band dim becomes a Dataset with .to_dataset(dim='band')"
        )
    _check_crs(crs)
    base = _base_spacing(candidates)
    chosen = {band: _choose(band, found, base) for band, found in candidates.items()}
    order = [b for b in BANDS if b in chosen]
    bounds = _nested(chosen, base)
    first = chosen[order[0]]
    cube = Cube(
        bands={},
        names={b: chosen[b].name for b in order},
        extras={},
        dims=(first.axes.y, first.axes.x),
        time=first.axes.time,
        crs=next(iter(crs.values()), None),
        resolution=base,
        bounds=bounds,
        attrs=dict(obj.attrs),
    )
    ten = [b for b in order if grid_of(b) == 10]
    if ten:
        object.__setattr__(cube, "dims", (chosen[ten[0]].axes.y, chosen[ten[0]].axes.x))
    _check_times({b: chosen[b] for b in order})
    for band in order:
        cube.bands[band] = _straighten(chosen[band], cube, grid_of(band))
    cube.extras.update(_carry(extras, chosen, cube))
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


def _check_crs(crs: dict[str, Any]) -> None:
    if len(crs) > 1:
        raise CRSError(
            f"bands in more than one CRS ({', '.join(crs)}): work on one at a time, "
            "{epsg: xsen2.load(group) for epsg, group in …}"
        )
    for name, value in crs.items():
        if not value.is_projected:
            raise CRSError(
                f"the CRS {name} is geographic: its pixels are degrees, not metres. Load the bands again in the "
                "tile's own UTM zone; reprojected pixels are not native ones"
            )


def _base_spacing(candidates: dict[str, list[_Candidate]]) -> float:
    """Spacing that plays the 10 m part: every band's is 1, 2 or 6 times this."""
    sizes = {b: [c.size for c in found if c.size is not None] for b, found in candidates.items()}
    known = {b: min(found) for b, found in sizes.items() if found}
    if not known:
        # A scene of single pixels in every band shows no spacing; the finest grid must be at its 10 m.
        raise GridError("every band is a single pixel, which shows no spacing: a cube is at least one whole 60 m pixel")
    grids = {grid_of(b) for b in known}
    if len(grids) > 1 and len({round(s, 6) for found in sizes.values() for s in found}) == 1:
        size = next(iter(known.values()))
        raise SingleGridError(
            f"all {len(known)} bands are on one grid of {size:g} m: if they were loaded with nearest neighbour at "
            "10 m, xsen2.native(ds) takes the native pixels back out; otherwise load each at its own resolution "
            "(xsen2.load does)"
        )
    finest = min(grid_of(b) for b in known)
    base = min(size for b, size in known.items() if grid_of(b) == finest) * 10 / finest
    if base < 9.9 or abs(base / 10 - round(base / 10)) > 1e-3:
        raise GridError(
            f"the {finest} m bands are spaced {base * finest / 10:g} in the units of their coordinates: native "
            "Sentinel-2 grids are 10, 20 and 60 m (or whole multiples, after .degrade). Load them in the tile's UTM zone"
        )
    return float(round(base / 10) * 10)


def _choose(band: str, found: list[_Candidate], base: float) -> _Candidate:
    want = base * grid_of(band) / 10
    fits = [c for c in found if c.size is not None and abs(c.size - want) < 0.01 * want]
    fits = fits or [c for c in found if c.size is None]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(c.name for c in fits)
        raise BandError(f"{band} is there more than once ({names}): drop all but one with ds.drop_vars")
    sizes = ", ".join(f"{c.size:g} m" for c in found)
    raise GridError(
        f"{found[0].name} is on a grid of {sizes}, but {band}'s native grid is {want:g} m here: load it at that "
        "resolution; resampled pixels are not native ones"
    )


def _nested(chosen: dict[str, _Candidate], base: float) -> Bounds:
    boxes = {b: edges(c.array, c.axes, base * grid_of(b) / 10) for b, c in chosen.items()}
    first = next(iter(boxes))
    for band, box in boxes.items():
        if max(abs(p - q) for p, q in zip(box, boxes[first], strict=True)) > 0.01 * base:
            # What all grids share, cut to whole pixels of the coarsest grid.
            cell = base * max(grid_of(b) for b in chosen) / 10
            inner = snap((-box_max(boxes, 0), -box_max(boxes, 1), -box_min(boxes, 2), -box_min(boxes, 3)), cell)
            west, south, east, north = (-v for v in inner)
            shift = box[0] - boxes[first][0]
            hint = (
                "That is half a pixel: coordinates must be pixel centres (stackstac: xy_coords='center'). "
                if any(abs(abs(shift) - h * base / 10) < 0.01 * base for h in (5, 20, 25))
                else ""
            )
            raise GridError(
                f"grids do not nest: {chosen[first].name} spans x {boxes[first][0]:.2f}…{boxes[first][2]:.2f}, "
                f"y {boxes[first][1]:.2f}…{boxes[first][3]:.2f}, but {chosen[band].name} spans "
                f"x {box[0]:.2f}…{box[2]:.2f}, y {box[1]:.2f}…{box[3]:.2f}. {hint}Load all grids with the same bounds on "
                f"multiples of {cell:g} m (xsen2.load does), or cut them: x from {west:g} to {east:g}, y from "
                f"{south:g} to {north:g} is common to all"
            )
    box = boxes[first]
    size = {b: base * grid_of(b) / 10 for b in chosen}
    for band, s in size.items():
        for length in (box[2] - box[0], box[3] - box[1]):
            if abs(length / s - round(length / s)) > 0.01:
                raise GridError(f"{chosen[band].name}: an extent of {length:g} m is not a whole number of {s:g} m pixels")
    return box


def box_max(boxes: dict[str, Bounds], side: int) -> float:
    return max(b[side] for b in boxes.values())


def box_min(boxes: dict[str, Bounds], side: int) -> float:
    return min(b[side] for b in boxes.values())


def _check_times(chosen: dict[str, _Candidate]) -> None:
    first_band, first = next(iter(chosen.items()))
    reference = None if first.axes.time is None else first.array[first.axes.time].values
    for band, candidate in chosen.items():
        axis = candidate.axes.time
        values = None if axis is None else candidate.array[axis].values
        if (values is None) != (reference is None):
            raise TimeError(f"{first_band} and {band} disagree on having a time dim: select one date with .isel first")
        if values is not None and reference is not None and not np.array_equal(values, reference):
            raise TimeError(
                f"{candidate.name} has {len(values)} times that differ from the {len(reference)} of {first.name}: keep the "
                "common dates with xr.align(…, join='inner')"
            )


def _straighten(candidate: _Candidate, cube: Cube, gsd: int) -> xr.DataArray:
    """North up, canonical dims, exact centres, no foreign coordinates."""
    axes, array = candidate.axes, candidate.array
    if array.sizes[axes.x] > 1 and array[axes.x].values[0] > array[axes.x].values[-1]:
        array = array.isel({axes.x: slice(None, None, -1)})
    if array.sizes[axes.y] > 1 and array[axes.y].values[0] < array[axes.y].values[-1]:
        array = array.isel({axes.y: slice(None, None, -1)})
    lead = [] if axes.time is None else [axes.time]
    array = array.transpose(*lead, axes.y, axes.x)
    ydim, xdim = DIMS[gsd]
    y, x = cube.centres(gsd)
    dims = (*(("time",) if lead else ()), ydim, xdim)
    coords: dict[Hashable, Any] = {ydim: (ydim, y, _AXIS["y"]), xdim: (xdim, x, _AXIS["x"])}
    if lead and axes.time in array.coords:
        coords["time"] = ("time", array[axes.time].values, array[axes.time].attrs)
        for name, coord in array.coords.items():
            if coord.dims == (axes.time,) and name != axes.time and coord.dtype != object:
                coords[name] = ("time", coord.values, coord.attrs)
    out = xr.DataArray(array.variable.data, coords, dims, attrs={**BANDS[_band(candidate)].attrs, **array.attrs})
    out.encoding = dict(array.encoding)
    return out


_AXIS = {
    axis: {"standard_name": f"projection_{axis}_coordinate", "axis": axis.upper(), "units": "m"} for axis in ("y", "x")
}


def _band(candidate: _Candidate) -> str:
    found = find(candidate.name)
    assert found is not None
    return found


def _carry(
    extras: dict[Hashable, xr.DataArray], chosen: dict[str, _Candidate], cube: Cube
) -> dict[Hashable, xr.DataArray]:
    """Extra variables: canonical dims for those on one of the grids, the rest as they are."""
    out: dict[Hashable, xr.DataArray] = {}
    homes = {grid_of(b): c for b, c in chosen.items()}
    for name, variable in extras.items():
        for gsd, home in homes.items():
            if {home.axes.y, home.axes.x} <= set(variable.dims) and variable.sizes[home.axes.y] == cube.shape(gsd)[0]:
                axes = Axes(home.axes.y, home.axes.x, home.axes.time if home.axes.time in variable.dims else None)
                rest = set(variable.dims) - {axes.y, axes.x, axes.time}
                if not rest:
                    carried = _straighten(_Candidate(home.name, variable, axes, None, {}), cube, gsd)
                    out[name] = carried.assign_attrs(variable.attrs)
                    out[name].attrs = dict(variable.attrs)
                    break
        else:
            if not set(variable.dims) & {d for h in homes.values() for d in (h.axes.y, h.axes.x)}:
                out[name] = variable.drop_vars([c for c, v in variable.coords.items() if v.dtype == object])
    return out


def _take(block: np.ndarray, ratio: int, name: str) -> np.ndarray:
    """One pixel of every ``ratio x ratio`` cell, after checking that the cell is constant."""
    if block.size == 0:
        return block[..., ::ratio, ::ratio]
    taken = block[..., ::ratio, ::ratio]
    again = np.repeat(np.repeat(taken, ratio, axis=-2), ratio, axis=-1)
    same = (again == block) | ((again != again) & (block != block))
    if not same.all():
        share = 1 - same.mean()
        raise GridError(
            f"{name}: {share:.1%} of the pixels differ inside {ratio} x {ratio} cells, so it was not loaded with nearest "
            "neighbour on an aligned grid: load the bands at their own resolutions (xsen2.load does)"
        )
    return taken


def native(ds: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Take the native pixels back out of a single-grid 10 m dataset that was loaded with nearest.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        All bands on one 10 m grid, as one ``odc.stac.load`` or ``stackstac.stack`` call gives; a
        DataArray must have a ``band`` dim.

    Returns
    -------
    xarray.Dataset
        A cube: 20 m and 60 m bands on their own grids, in the caller's dtype.

    Raises
    ------
    GridError
        If the grid does not start and end on multiples of 20 or 60 m; or, when the pixels are
        read, if the cells are not constant. Data in memory is checked at once.

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample()
    >>> b05 = cube["B05"].data.repeat(2, axis=-2).repeat(2, axis=-1)
    >>> flat = cube[["B03"]].assign(B05=(("time", "y", "x"), b05))
    >>> xsen2.native(flat)["B05"].sizes["y_20m"] == cube.sizes["y_20m"]
    True
    """
    if isinstance(ds, xr.DataArray):
        if "band" not in ds.dims:
            raise BandError(f"a DataArray needs a 'band' dim, this one has {ds.dims}: pass a Dataset of bands")
        # Per-band strings and numbers of stackstac would become variables of no use.
        ds = ds.drop_vars([n for n, c in ds.coords.items() if "band" in c.dims and n != "band"]).to_dataset(dim="band")
    bands: dict[str, xr.DataArray] = {}
    extras: dict[Hashable, xr.DataArray] = {}
    for name, variable in ds.data_vars.items():
        band = find(name)
        if band is None:
            extras[name] = variable
        else:
            bands[band] = variable.rename(name)
    if not bands:
        raise BandError(f"no Sentinel-2 bands among {list(ds.data_vars)}")
    _check_crs({c.to_string(): c for v in bands.values() if (c := crs_of(v, ds.attrs)) is not None})
    out: dict[Hashable, xr.DataArray] = {}
    for band, variable in bands.items():
        out[variable.name] = _native_band(band, variable)
    crs = next((c for v in bands.values() if (c := crs_of(v, ds.attrs)) is not None), None)
    cube = xr.Dataset({**out, **extras}, attrs=ds.attrs)
    cube = cube.drop_vars([n for n, c in cube.coords.items() if c.dtype == object and n not in cube.dims])
    return cube if crs is None else write_crs(cube, crs)


def _native_band(band: str, variable: xr.DataArray) -> xr.DataArray:
    label = str(variable.name)
    axes = axes_of(variable, label)
    size = spacing(variable, axes, label)
    if size is None or abs(size - 10) > 0.1:
        raise GridError(f"{label} is on a grid of {size} m: native() takes bands that were loaded at 10 m")
    gsd = grid_of(band)
    box = edges(variable, axes, 10.0)
    wrong = [v for v in box if abs(v / gsd - round(v / gsd)) * gsd > 0.01]
    if wrong:
        half = all(abs((v - 5) / 10 - round((v - 5) / 10)) < 1e-3 for v in box)
        hint = "its coordinates are pixel corners (stackstac: use xy_coords='center'). " if half else ""
        raise GridError(
            f"{label}: the grid's outer edges {tuple(round(v, 2) for v in box)} are not multiples of {gsd} m, {hint}"
            f"so its cells cannot be told apart: load the bounds {snap(box, 60)}"
        )
    ratio = gsd // 10
    variable = variable.transpose(*([] if axes.time is None else [axes.time]), axes.y, axes.x)
    if ratio == 1:
        return variable.rename({axes.y: "y", axes.x: "x"} if (axes.y, axes.x) != ("y", "x") else {})
    data = variable.data
    if isinstance(data, da.Array):
        side = tuple(_multiples(c, ratio) for c in data.chunks[-2:])
        data = data.rechunk({data.ndim - 2: side[0], data.ndim - 1: side[1]})
        chunks = (*data.chunks[:-2], *(tuple(n // ratio for n in c) for c in data.chunks[-2:]))
        taken: Any = da.map_blocks(_take, data, ratio, label, chunks=chunks, dtype=data.dtype, meta=data._meta)
    else:
        taken = _take(np.asarray(data), ratio, label)
    ydim, xdim = DIMS[gsd]
    coords = {ydim: _middle(variable, axes.y, ratio), xdim: _middle(variable, axes.x, ratio)}
    if axes.time is not None and axes.time in variable.coords:
        coords[str(axes.time)] = variable[axes.time].values
    dims = (*([] if axes.time is None else [axes.time]), ydim, xdim)
    return xr.DataArray(taken, coords, dims, attrs=variable.attrs, name=variable.name)


def _multiples(chunks: tuple[int, ...], ratio: int) -> tuple[int, ...]:
    """Chunk sizes near `chunks` whose borders lie on multiples of `ratio`."""
    borders = np.unique([0, *(np.cumsum(chunks)[:-1] // ratio * ratio), sum(chunks)])
    return tuple(int(n) for n in np.diff(borders))


def _middle(variable: xr.DataArray, dim: Hashable, ratio: int) -> np.ndarray:
    return np.asarray(variable[dim].values, np.float64).reshape(-1, ratio).mean(axis=1)
