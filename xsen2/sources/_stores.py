"""STAC items whose pixels are EOPF products in Zarr: each opened as a product, then one cube of them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dask.array as da
import numpy as np
import xarray as xr

from xsen2.bands import BANDS
from xsen2.cube import DIMS, recognise
from xsen2.errors import SourceError, Xsen2Error
from xsen2.sources._area import Box
from xsen2.sources._assets import zarr_root
from xsen2.sources._items import Given, Item, basics, level_of, named, platform_of, tile_of

__all__ = ["Store", "opened", "placed"]


@dataclass(frozen=True)
class Store:
    """One item's product.

    Attributes
    ----------
    item : Item
        Its grid is that of the product, its assets are the product.
    cube : xarray.Dataset
        Of one date, lazy.
    """

    item: Item
    cube: xr.Dataset


def opened(given: Given, bands: Sequence[str] | None, chunks: int, offset: float | Mapping[str, float] | None) -> Store:
    """Open the product of an item, which reads its metadata.

    Raises
    ------
    SourceError
        If it cannot be opened, saying why and what else would open it.
    """
    from xsen2.sources.eopf import open_eopf

    with named(given):
        name, properties, time = basics(given)
        root = given.home.resolve({"href": zarr_root(given.raw)})
        added = offset.get(name) if isinstance(offset, Mapping) else offset
        try:
            cube = open_eopf(root, bands, chunks, offset=added)
        except Xsen2Error as error:
            message = f"item {name!r} has its pixels in Zarr, which load opens as an EOPF product: {error}. Else "
            raise SourceError(message + given.advice) from error
        if bands is None:  # as with raster files, layers come only when they are asked for
            cube = cube[[band for band in BANDS if band in cube]]
        whole = recognise(cube)
        left, bottom, right, top = (round(edge) for edge in whole.bounds)
        item = Item(
            id=name,
            time=time,
            tile=tile_of(properties, name) or str(cube.attrs["tile"]).removeprefix("T"),
            plain=given.plain,
            level=level_of(given.raw, properties) or cube.attrs.get("level"),
            platform=platform_of(properties, name),
            epsg=whole.crs.to_epsg(),
            extent=(left, bottom, right, top),
            assets={str(band): {"href": root} for band in cube.data_vars},
            keys={},
            properties=properties,
        )
    return Store(item, cube)


def placed(stores: Sequence[Store], name: str, gsd: int, box: Box, chunk: int) -> da.Array:
    """Lazy (item, y, x) of one variable, in a box: NaN, or 0 in layers, where a product has none."""
    layers = []
    height, width = (box[3] - box[1]) // gsd, (box[2] - box[0]) // gsd
    dtype = np.dtype("float32" if name in BANDS else "uint8")
    nothing = np.nan if name in BANDS else 0
    for store in stores:
        if name not in store.cube:  # a band that one product does not have
            layers.append(da.full((1, height, width), nothing, dtype, chunks=(1, chunk, chunk)))
            continue
        left, _, _, top = store.item.extent
        pixels = store.cube[name].transpose("time", *DIMS[gsd]).data
        cut, margins = [], [(0, 0)]
        for start, size, length in (
            ((top - box[3]) // gsd, pixels.shape[1], height),
            ((box[0] - left) // gsd, pixels.shape[2], width),
        ):
            first = min(max(start, 0), size)
            last = max(min(start + length, size), first)
            cut.append(slice(first, last))
            margins.append((first - start, start + length - last))
        part = pixels[(slice(None), *cut)]
        layers.append(da.pad(part, margins, constant_values=nothing).rechunk((1, chunk, chunk)))
    out: da.Array = da.concatenate(layers)
    return out
