"""Where EOPF's products have what a cube holds: names to groups, and what their metadata say of it.

Nothing here writes: `to_zarr` writes these groups as it does the one of its own layout, and `xsen2.open_eopf` knows
where each array is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from xsen2.bands import find, find_layer
from xsen2.errors import RadiometryError, StoreError
from xsen2.grid import affine_of
from xsen2.radiometry import Packing
from xsen2.sinks.regions import Grid, georeferenced
from xsen2.sources.calibration import SHIFT, settled
from xsen2.sources.eopf import path_of

__all__ = ["Part", "parts_of"]


@dataclass(frozen=True)
class Part:
    """A group of a store.

    Attributes
    ----------
    path : str
        Empty for the root.
    ds : xarray.Dataset
        What is in it, with all but the pixels in memory.
    grids : list of Grid
        Its pixels, by name.
    """

    path: str
    ds: xr.Dataset
    grids: list[Grid]

    @property
    def targets(self) -> list[Grid]:
        """The grids, by where in the store they are."""
        return [grid.below(self.path) for grid in self.grids]


def parts_of(ds: xr.Dataset, grids: Sequence[Grid]) -> list[Part]:
    """The groups of a product of EOPF's that holds this cube, the root first.

    Parameters
    ----------
    ds : xarray.Dataset
        Georeferenced, of one date.
    grids : sequence of Grid
        Its pixels; bands become uint16.

    Raises
    ------
    StoreError
        There are several dates, or variables that EOPF's products have no place for, or no processing level is known.
    """
    product = next((str(ds.attrs[k]) for k in ("product", "source") if _PRODUCT.fullmatch(str(ds.attrs.get(k)))), "")
    level = str(ds.attrs.get("level") or (product[7:10] if product else ""))
    if level not in ("L1C", "L2A"):
        raise StoreError(
            f"ds.attrs['level'] is {ds.attrs.get('level')!r}, and products of EOPF are L1C or L2A: "
            "ds.assign_attrs(level='L2A') says which"
        )
    date = _date(ds, grids)
    shift = _shift(ds, product)
    homes: dict[str, list[tuple[str, str, Grid]]] = {}
    for grid in grids:
        for name in grid.arrays:
            path = _path(ds, name, grid)
            home, _, key = path.rpartition("/")
            homes.setdefault(home, []).append((name, key, grid))
    parts = [Part("", xr.Dataset(attrs=_root(ds, product or _UNNAMED, level, date)), [])]
    return parts + [_part(ds, home, members, shift) for home, members in homes.items()]


_UNNAMED = "xsen2"
"""Id of what does not say which product it is of."""

_PRODUCT = re.compile(r"S2[A-Z]_MSI(L1C|L2A)_\d{8}T\d{6}_N\d{4}_R\d{3}_T\w{5}_\w+")


def _date(ds: xr.Dataset, grids: Sequence[Grid]) -> Any:
    """The one date; None where none is known."""
    for dim in dict.fromkeys(dim for grid in grids for dim in grid.dims[:-2]):
        if ds.sizes[dim] != 1:
            raise StoreError(
                f"layout='eopf' holds one date, as EOPF's products do, and {dim!r} has {ds.sizes[dim]}: write them one "
                f"by one, ds.isel({dim}=[0]) and so on, each to its own store"
            )
    times = ds["time"].values if "time" in ds.coords else np.empty(0)
    return times.ravel()[0] if times.size == 1 and times.dtype.kind == "M" else None


def _shift(ds: xr.Dataset, product: str) -> int:
    """What is added to DN: what ESA adds in products of this baseline; of a baseline that nobody knows, of today's."""
    named = re.search(r"_N(\d\d)(\d\d)_", product)
    baseline = f"{named[1]}.{named[2]}" if named else str(ds.attrs.get("processing_baseline", ""))
    try:
        return round(-settled(product, None, {"processing_baseline": baseline}, field="offset", silent=True))
    except RadiometryError:
        return round(-SHIFT)


def _path(ds: xr.Dataset, name: str, grid: Grid) -> str:
    what = find(name) or find_layer(name)
    path = None
    if what and all(dim in ds.coords and ds.sizes[dim] > 1 for dim in grid.dims[-2:]):
        y, x = (ds[dim].values.astype(float) for dim in grid.dims[-2:])
        affine = affine_of(y, x)
        if affine.e > 0 or affine.a < 0:
            raise StoreError(
                f"products of EOPF are north up, and {name} is not: "
                f"ds.sortby({str(grid.dims[-2])!r}, ascending=False).sortby({str(grid.dims[-1])!r}) first"
            )
        path = path_of(what, round(affine.a)) if abs(affine.a - round(affine.a)) < 1e-6 else None
    if path is None:
        raise StoreError(
            f"products of EOPF have no place for {name}: ds.drop_vars({name!r}) leaves it out, and the default layout "
            "holds whatever there is"
        )
    return path


def _part(ds: xr.Dataset, home: str, members: list[tuple[str, str, Grid]], shift: int) -> Part:
    """One group: its variables under the names that EOPF has for them, on dims ``y`` and ``x``."""
    rows, columns = members[0][2].dims[-2:]
    about = ((dim, ds[axis]) for dim, axis in (("y", rows), ("x", columns)))
    out = xr.Dataset(coords={dim: (dim, axis.values, axis.attrs) for dim, axis in about})
    mapping = ds.rio.grid_mapping
    out = out.assign_coords({mapping: ds[mapping].variable})
    grids: dict[int, Grid] = {}
    for name, key, grid in members:
        held = grids.get(id(grid), replace(grid, dims=("y", "x"), arrays={}, packings={}, units={}))
        array = grid.arrays[name]
        array = array if array.ndim == 2 else array[0]
        packing = grid.packings.get(name)
        attrs = dict(ds[name].attrs)
        if packing is not None and find(name):
            packing = replace(packing, shift=shift, reflectance=True)
            attrs = _of_band(attrs, key, packing)
        out[key] = xr.Variable(("y", "x"), array, attrs, dict(ds[name].encoding))
        packings = held.packings | ({key: packing} if packing is not None else {})
        grids[id(grid)] = replace(
            held,
            arrays=held.arrays | {key: array},
            packings=packings,
            chunks=grid.chunks[-2:],
            regions=tuple(region[-2:] for region in grid.regions),  # of the one date
        )
    out = georeferenced(out)
    for _, key, _ in members:  # as EOPF says the same
        out[key].attrs |= _place(out, key)
    return Part(home, out, list(grids.values()))


def _of_band(attrs: dict[str, Any], name: str, packing: Packing) -> dict[str, Any]:
    """What EOPF says of a band, in CF's words and in its own."""
    kept: dict[str, Any] = {k: v for k, v in attrs.items() if k in ("long_name", "wavelength", "gsd")}
    eopf_attrs = {
        **packing.cf,
        "coordinates": ["x", "y"],
        "dimensions": ["y", "x"],
        "dtype": "<u2",
        "eopf_is_masked": True,
        "eopf_target_dtype": "<f8",
        "fill_value": packing.nodata,
        "long_name": str(kept.get("long_name", name)),
        "units": "digital_counts",
    }
    return {
        **kept,
        "units": "1",
        "dtype": "<u2",
        "valid_min": packing.low,
        "valid_max": packing.high,
        "_eopf_attrs": eopf_attrs,
    }


def _place(ds: xr.Dataset, name: str) -> dict[str, Any]:
    attrs = ds[name].attrs
    if "spatial:transform" not in attrs:
        return {}
    code = ds.rio.crs.to_epsg()
    return {
        "proj:bbox": attrs["spatial:bbox"],
        "proj:shape": attrs["spatial:shape"],
        "proj:transform": [*attrs["spatial:transform"], 0.0, 0.0, 1.0],
        **({"proj:epsg": code} if code else {}),
    }


def _root(ds: xr.Dataset, name: str, level: str, date: Any) -> dict[str, Any]:
    """What the root says of the product: a STAC item in short, and how the pixels were made."""
    when = None if date is None else f"{np.datetime_as_string(np.datetime64(date, 'us'))}Z"
    code = ds.rio.crs.to_epsg()
    platform = str(ds.attrs.get("platform", "unknown")).lower()
    properties: dict[str, Any] = {
        "datetime": when,
        "constellation": "sentinel-2",
        "instrument": "msi",
        "platform": platform,
        "processing:level": level,
        "product:type": f"S02MSI{level}",
    }
    if re.fullmatch(r"\d\d\.\d\d", baseline := str(ds.attrs.get("processing_baseline", ""))):
        properties["eopf:baseline"] = baseline
    if code:
        properties["proj:epsg"] = code
    item = {"type": "Feature", "stac_version": "1.0.0", "id": name, "properties": properties, "assets": {}, "links": []}
    other: dict[str, Any] = {"horizontal_CRS_code": f"EPSG:{code}"} if code else {}
    if when is not None:
        other["mean_sensing_time"] = when
    if tile := ds.attrs.get("tile"):
        other["UTM_zone_identification"] = f"S2_T{tile}"
    provenance = {k: v for k, v in ds.attrs.items() if k.startswith("xsen2_") or k == "attribution"}
    return {"stac_discovery": item, "other_metadata": other | ({"xsen2": provenance} if provenance else {})}
