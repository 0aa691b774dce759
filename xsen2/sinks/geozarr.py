"""What a store says of its place in the Zarr conventions that readers of maps share, beside CF's grid mapping."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import xarray as xr

from xsen2.grid import affine_of

__all__ = ["MULTISCALES", "PROJ", "SPATIAL", "bare", "listed", "placed", "without_conventions"]


def _convention(name: str, repository: str, uuid: str, description: str) -> dict[str, str]:
    home = f"zarr-conventions/{repository}"
    return {
        "schema_url": f"https://raw.githubusercontent.com/{home}/refs/tags/v1/schema.json",
        "spec_url": f"https://github.com/{home}/blob/v1/README.md",
        "uuid": uuid,
        "name": name,
        "description": description,
    }


PROJ = _convention(
    "proj:",
    "geo-proj",
    "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "Coordinate reference system information for geospatial data",
)
SPATIAL = _convention("spatial:", "spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information")
MULTISCALES = _convention(
    "multiscales", "multiscales", "d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"
)
"""As https://github.com/zarr-conventions has them."""

_OURS = {convention["uuid"] for convention in (PROJ, SPATIAL, MULTISCALES)}


def without_conventions(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Attributes without what these conventions say, of the place that pixels had when they were stored before.

    Examples
    --------
    >>> without_conventions({"units": "1", "spatial:shape": [6, 6], "zarr_conventions": [dict(SPATIAL)]})
    {'units': '1'}
    """
    out = {
        key: value
        for key, value in attrs.items()
        if key not in ("multiscales", "zarr_conventions") and not str(key).startswith(("proj:", "spatial:"))
    }
    conventions = attrs.get("zarr_conventions")
    others = (
        [convention for convention in conventions if not _is_ours(convention)]
        if isinstance(conventions, list | tuple)
        else []
    )
    return out | {"zarr_conventions": others} if others else out


def listed(layout: list[dict[str, Any]], others: list[dict[str, str]]) -> dict[str, Any]:
    """Attributes of a group whose members are levels of one another, and follow the conventions `others` too.

    Examples
    --------
    >>> listed([{"asset": "2"}], [PROJ])["multiscales"]
    {'layout': [{'asset': '2'}], 'resampling_method': 'average'}
    """
    return {
        "zarr_conventions": [MULTISCALES, *others],
        "multiscales": {"layout": layout, "resampling_method": "average"},
    }


def bare(ds: xr.Dataset) -> xr.Dataset:
    """A store that has been opened, without what only readers that know no coordinates need.

    Attributes stay as they are when pixels are cut; coordinates go along.
    """
    ds.attrs = without_conventions(ds.attrs)
    for variable in ds.variables.values():
        variable.attrs = without_conventions(variable.attrs)
    return ds


def _is_ours(convention: object) -> bool:
    return isinstance(convention, Mapping) and convention.get("uuid") in _OURS


def placed(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with the place of each variable in its attributes, and in its own where there is one grid only.

    Parameters
    ----------
    ds : xarray.Dataset
        With a CRS, and coordinates of pixel centres for what has two dims or more.

    Notes
    -----
    The transform is that of the corners, ``(x, y) = A · (column, row, 1)``, as rasterio has it:
    https://github.com/zarr-conventions/spatial, https://github.com/zarr-conventions/geo-proj.
    """
    crs = ds.rio.crs
    code = crs.to_epsg()
    proj = {"proj:code": f"EPSG:{code}"} if code else {"proj:wkt2": crs.to_wkt()}
    places: dict[tuple[Hashable, Hashable], dict[str, Any]] = {}
    for name, variable in ds.variables.items():
        variable.attrs = without_conventions(variable.attrs)
        if name not in ds.data_vars or variable.ndim < 2:
            continue
        y, x = variable.dims[-2:]
        if (y, x) not in places:
            places[y, x] = _place(ds, y, x)
        if place := places[y, x]:
            conventions = list(variable.attrs.get("zarr_conventions", []))
            variable.attrs |= {"zarr_conventions": [*conventions, PROJ, SPATIAL], **proj, **place}
    attrs = without_conventions(ds.attrs)
    conventions = [*attrs.get("zarr_conventions", []), PROJ]
    known = [place for place in places.values() if place]
    if len(known) == 1:  # else a transform of the group would be that of some of its arrays only
        attrs |= {**known[0], "zarr_conventions": [*conventions, SPATIAL], **proj}
    else:
        attrs |= {"zarr_conventions": conventions, **proj}
    out = ds.copy(deep=False)
    out.attrs = attrs
    return out


def _place(ds: xr.Dataset, y: Hashable, x: Hashable) -> dict[str, Any]:
    """Attributes of the spatial convention for one grid; nothing for dims without coordinates of their own."""
    if any(d not in ds.coords or ds[d].dtype.kind not in "fiu" or ds.sizes[d] < 2 for d in (y, x)):
        return {}
    affine = affine_of(ds[y].values.astype(float), ds[x].values.astype(float))
    rows, columns = ds.sizes[y], ds.sizes[x]
    left, right = sorted((affine.c, affine.c + columns * affine.a))  # axes may run either way
    bottom, top = sorted((affine.f, affine.f + rows * affine.e))
    return {
        "spatial:dimensions": [str(y), str(x)],
        "spatial:shape": [rows, columns],
        "spatial:transform": [float(number) for number in tuple(affine)[:6]],
        "spatial:bbox": [left, bottom, right, top],
        "spatial:registration": "pixel",
    }
