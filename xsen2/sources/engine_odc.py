"""Raw pixels through odc-stac."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import odc.stac
import pystac
from odc.geo.geobox import GeoBox
from odc.loader import RioDriver, RioReader
from odc.loader.types import RasterLoadParams, RasterSource

from xsen2.sources.engines import COLLECTION, Grid, dtype_of, small
from xsen2.sources.items import Item
from xsen2.sources.reading import Reading

__all__ = ["read"]


class _Reader(RioReader):
    """What odc asks for the pixels of one asset."""

    def __init__(self, src: RasterSource, ctx: Any, reading: Reading) -> None:
        super().__init__(src, ctx)
        self._reading = reading

    def read(self, cfg: RasterLoadParams, dst_geobox: GeoBox, **_: Any) -> Any:
        left, bottom, right, top = (round(edge) for edge in dst_geobox.boundingbox.bbox)
        extent = f"the block from {left}, {bottom} to {right}, {top}"
        shape = int(dst_geobox.shape[0]), int(dst_geobox.shape[1])
        pixels = self._reading.part(self._src.uri, extent, (left, top), shape, np.dtype(cfg.dtype))
        empty = slice(0, 0)
        if pixels is None:
            return (empty, empty), np.zeros((0, 0), cfg.dtype)
        return (slice(0, shape[0]), slice(0, shape[1])), pixels


class _Driver(RioDriver):
    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self._reading = reading

    def open(self, src: RasterSource, ctx: Any) -> RioReader:
        return _Reader(src, ctx, self._reading)


def read(items: Sequence[Item], names: Sequence[str], grid: Grid, reading: Reading) -> dict[str, da.Array]:
    """Name → (item, y, x) raw pixels, 0 where there are none."""
    code = {"proj:code": str(grid.geobox.crs)}
    kinds = {name: {"data_type": str(dtype_of(name)), "nodata": 0} for name in names}
    loaded = odc.stac.load(
        [pystac.Item.from_dict(small(item, names, grid, code, number)) for number, item in enumerate(items)],
        bands=list(names),
        geobox=grid.geobox,
        chunks={"time": 1, "y": grid.chunk, "x": grid.chunk},
        groupby="id",  # "solar_day" would merge copies before each has its offset
        resampling="nearest",
        stac_cfg={COLLECTION: {"assets": kinds}},
        driver=_Driver(reading),
    )
    return {name: loaded[name].data for name in names}
