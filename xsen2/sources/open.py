"""From what a user types in a shell to a cube."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import xarray as xr

from xsen2.bands import BANDS, A
from xsen2.errors import SourceError
from xsen2.files import is_url
from xsen2.geometry import lonlat, padded, read
from xsen2.grid import CELL, Bounds
from xsen2.sources.safe_files import given, is_product
from xsen2.sources.zarr import is_store

__all__ = ["Wanted", "open_source"]

Cube = xr.Dataset | xr.DataTree


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a source.

    Attributes
    ----------
    area : tuple of float or None
        West, south, east, north in degrees: the cube has the whole 60 m pixels that it touches.
    context : int
        Metres round the area that the cube is to have too, as far as the source reaches.
    datetime : str or None
        Time or interval of a STAC search, or of the items that are taken.
    layers : tuple of str
        What STAC items are to give besides the bands, as ``("SCL",)``. Products give their masks unasked.
    bands : tuple of str or None
        What a product must have, in canonical names; of it the 10 m bands and the masks are read too, where they are
        there. By default all that is there.
    """

    area: Bounds | None = None
    context: int = 0
    datetime: str | None = None
    layers: tuple[str, ...] = ()
    bands: tuple[str, ...] | None = None

    @property
    def box(self) -> Bounds | None:
        """The area with its context."""
        return None if self.area is None else padded(self.area, self.context) if self.context else self.area


def open_source(source: str, wanted: Wanted = Wanted()) -> Cube:  # frozen
    """Open whatever `source` names as a lazy cube.

    Parameters
    ----------
    source : str
        A Zarr store with a cube (one group, or a group per resolution), or a zip with one. A Sentinel-2 product: the
        path of a .SAFE folder, its .zip or its MTD_MSI*.xml, or of a tile's folder from AWS; the path or URL of an EOPF
        product, .zarr or .zarr.zip. STAC as JSON: an item, an item collection, the URL of a search, or the URL of an
        API or of a collection in one, which are searched.
    wanted : Wanted

    Returns
    -------
    xarray.Dataset or xarray.DataTree

    Raises
    ------
    SourceError
        There is nothing at `source`, or nothing that is known; or the area lies outside it.
    """
    if not is_url(source):
        here = given(source)
        if not os.path.exists(here):
            why = ": it is a link that leads nowhere" if os.path.islink(here) else ""
            raise SourceError(f"{source} does not exist{why}; give a Zarr store, a STAC item or a SAFE product")
        source = str(here)
    for is_it, opener in _OPENERS:
        if is_it(source):
            cube = opener(source, wanted)
            for dim, size in cube.sizes.items():
                if not size:
                    raise SourceError(f"{source} holds no pixels: its dim {dim} has the length 0")
            return cube
    raise SourceError(
        f"{source} is neither a Zarr store nor STAC (.json, or a URL) nor a product (.SAFE, .zip, or EOPF's .zarr "
        "or .zarr.zip): these can be opened"
    )


def _is_zarr(source: str) -> bool:
    if source.rstrip("/").lower().endswith((".zarr", ".zarr.zip")):
        return True
    return not is_url(source) and is_store(source)


def _open_zarr(source: str, wanted: Wanted) -> Cube:
    from xsen2.sources.zarr import open_tree

    tree = open_tree(source)
    return _cut(tree if tree.children else tree.to_dataset(), wanted, source)


def _is_eopf(source: str) -> bool:
    if not _is_zarr(source):
        return False
    from xsen2.sources.eopf_store import is_eopf

    return is_eopf(source)


def _open_eopf(source: str, wanted: Wanted) -> Cube:
    from xsen2.sources import eopf

    return _cut(_read(eopf.open_eopf, eopf.read, source, wanted), wanted, source)


def _is_safe(source: str) -> bool:
    return not is_url(source) and is_product(source)


def _open_safe(source: str, wanted: Wanted) -> Cube:
    from xsen2.sources import safe

    return _cut(_read(safe.open_safe, safe.read, source, wanted), wanted, source)


def _read(read_all: Callable[..., Cube], read_some: Callable[..., Cube], source: str, wanted: Wanted) -> Cube:
    """What is wanted of a product, so that what is missing or damaged beside it does not matter."""
    if wanted.bands is None:
        return read_all(source)
    return read_some(source, wanted.bands, optional=A, remedy="or make other bands with --bands")


def _is_stac(source: str) -> bool:
    return source.endswith((".json", ".geojson")) or source.startswith(("http://", "https://"))


def _open_stac(source: str, wanted: Wanted) -> Cube:
    from xsen2.sources import items as stac_items
    from xsen2.sources.search import items_at
    from xsen2.sources.stac import load

    items = items_at(source, wanted.area, wanted.datetime)
    bands = None
    if wanted.layers:
        have = {name for item in stac_items.read(items) for name in item.assets}
        bands = [*(name for name in BANDS if name in have), *wanted.layers]
    return load(items, bbox=wanted.box, bands=bands, datetime=wanted.datetime)


def _cut(cube: Cube, wanted: Wanted, source: str) -> Cube:
    """What the area touches of a cube that is one file."""
    from xsen2.area import part_of
    from xsen2.cube import DIMS, recognise

    if wanted.datetime is not None:
        raise SourceError(f"--datetime chooses among STAC items, and {source} is none: choose dates with xarray's .sel")
    if wanted.box is None:
        return cube
    recognised = recognise(cube)
    if recognised.crs is None or recognised.crs.to_epsg() is None or recognised.resolution != 10:
        raise SourceError(f"an area cannot be cut out of {source}, which has no EPSG code or no 10 m pixels")
    grid = recognised.geobox()
    part = part_of(grid, read(wanted.box), CELL // 10)
    if part is None:
        requested, covered = (" ".join(f"{degrees:.4f}" for degrees in at) for at in (wanted.area or (), lonlat(grid)))
        raise SourceError(f"the area {requested} lies outside {source}, which covers {covered}")
    rows, columns = grid.overlap_roi(part)
    spans = {}
    for gsd, (ydim, xdim) in DIMS.items():
        spans[ydim] = slice(rows.start * 10 // gsd, rows.stop * 10 // gsd)
        spans[xdim] = slice(columns.start * 10 // gsd, columns.stop * 10 // gsd)
    if isinstance(cube, xr.DataTree) or not all(
        set(cube[name].dims[-2:]) <= set(spans) for name in recognised.names.values()
    ):
        cube = recognised.dataset().rename(recognised.names)  # its dims are others than ours
    return cube.isel(spans, missing_dims="ignore")


_OPENERS: Sequence[tuple[Callable[[str], bool], Callable[[str, Wanted], Cube]]] = (
    (_is_eopf, _open_eopf),
    (_is_zarr, _open_zarr),
    (_is_safe, _open_safe),
    (_is_stac, _open_stac),
)
"""First match wins. A new kind of source is a function that knows it, and one that opens it."""
