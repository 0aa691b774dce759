"""From what a user types in a shell to a cube."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from xsen2.errors import SourceError

__all__ = ["open_source"]

Bbox = Sequence[float] | None


def open_source(source: str, bbox: Bbox = None) -> xr.Dataset | xr.DataTree:
    """Open whatever `source` names as a lazy cube.

    Parameters
    ----------
    source : str
        A Zarr store with a cube (one group, or a group per resolution), or a STAC item, item
        collection or search response as JSON; a path or a URL. Or a Sentinel-2 product: the path of a
        .SAFE folder or its .zip, the path or URL of an EOPF product, .zarr or .zarr.zip.
    bbox : sequence of float, optional
        West, south, east, north in degrees. STAC sources and products can be cut.

    Returns
    -------
    xarray.Dataset or xarray.DataTree

    Raises
    ------
    SourceError
        There is nothing at `source`, or nothing that is known; or `bbox` lies outside it.
    """
    remote = "://" in source
    if not remote and not Path(source).exists():
        raise SourceError(f"{source} does not exist: give a Zarr store, a STAC item or a SAFE product")
    for is_it, opener in _OPENERS:
        if is_it(source):
            return opener(source, bbox)
    raise SourceError(
        f"{source} is neither a Zarr store nor a STAC item (.json) nor a product (.SAFE, .zip, or EOPF's .zarr "
        "or .zarr.zip): these can be opened"
    )


def _is_zarr(source: str) -> bool:
    marks = ("zarr.json", ".zgroup", ".zmetadata")
    return source.rstrip("/").endswith(".zarr") or any((Path(source) / mark).exists() for mark in marks)


def _open_zarr(source: str, bbox: Bbox) -> xr.Dataset | xr.DataTree:
    if bbox is not None:
        raise SourceError(
            "--bbox cuts STAC sources only, and SAFE and EOPF products: cut another Zarr store with xarray's .sel, on "
            "multiples of 60 m"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated metadata")
            tree = xr.open_datatree(source, engine="zarr", chunks={}, decode_coords="all")
    except Exception as error:  # zarr and fsspec raise a dozen kinds for a store that is not there or broken
        raise SourceError(f"{source} cannot be read as a Zarr store: {error}") from error
    return tree if tree.children else tree.to_dataset()


def _is_eopf(source: str) -> bool:
    if not source.rstrip("/").lower().endswith((".zarr", ".zarr.zip")) and not _is_zarr(source):
        return False
    from xsen2.sources._eopf_store import is_eopf

    return is_eopf(source)


def _open_eopf(source: str, bbox: Bbox) -> xr.Dataset:
    from xsen2.sources.eopf import open_eopf

    cube = open_eopf(source)
    return cube if bbox is None else _cut(cube, bbox, source)


def _is_stac(source: str) -> bool:
    return source.endswith((".json", ".geojson")) or source.startswith(("http://", "https://"))


def _open_stac(source: str, bbox: Bbox) -> xr.Dataset:
    from xsen2.sources.stac import load

    try:
        import pystac
    except ImportError as error:
        raise ImportError("STAC sources need pystac: pip install 'xsen2[stac]'") from error
    try:
        found: Any = json.loads(pystac.StacIO.default().read_text(source))
        features = found["features"] if found["type"] == "FeatureCollection" else [found]
        items = [pystac.Item.from_dict(feature) for feature in features]
    except Exception as error:  # pystac raises bare Exceptions for links that cannot be read
        raise SourceError(f"{source} is not a STAC item or item collection: {error}") from error
    for item in items:
        if item.get_self_href() is None:
            item.set_self_href(source)
        item.make_asset_hrefs_absolute()
    return load(items, bbox=bbox)


def _is_safe(source: str) -> bool:
    if "://" in source:
        return False
    return source.rstrip("/").lower().endswith((".safe", ".zip")) or any(Path(source).glob("*MTD_*.xml"))


def _open_safe(source: str, bbox: Bbox) -> xr.Dataset:
    from xsen2.sources.safe import open_safe

    cube = open_safe(source)
    return cube if bbox is None else _cut(cube, bbox, source)


def _cut(cube: xr.Dataset, bbox: Sequence[float], source: str) -> xr.Dataset:
    """The whole 60 m pixels that an area in degrees touches."""
    from xsen2.cube import DIMS, recognise
    from xsen2.sources._area import Area, lonlat

    whole = recognise(cube)
    left, bottom, right, top = (round(edge) for edge in whole.bounds)
    extent, epsg, area = (left, bottom, right, top), whole.crs.to_epsg(), Area.read(bbox, None)
    box = None if area is None else area.box(extent, epsg)
    if box is None:
        where = " ".join(f"{degrees:.4f}" for degrees in lonlat(extent, epsg))
        raise SourceError(f"--bbox {' '.join(map(str, bbox))} lies outside {source}, which covers {where}")
    spans = {}
    for gsd, (ydim, xdim) in DIMS.items():
        spans[ydim] = slice((top - box[3]) // gsd, (top - box[1]) // gsd)
        spans[xdim] = slice((box[0] - left) // gsd, (box[2] - left) // gsd)
    return cube.isel(spans, missing_dims="ignore")


_OPENERS: tuple[tuple[Callable[[str], bool], Callable[[str, Bbox], xr.Dataset | xr.DataTree]], ...] = (
    (_is_eopf, _open_eopf),
    (_is_zarr, _open_zarr),
    (_is_safe, _open_safe),
    (_is_stac, _open_stac),
)
"""First match wins. A new kind of source is a function that knows it, and one that opens it."""
