"""From raw pixels, item by item, to DN, date by date: the tiles and copies of one pass, each with its own offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np

from xsen2.errors import RadiometryError
from xsen2.sources.items import Item

__all__ = ["calibrated", "classes", "first"]

_LOWEST = -500
"""DN, reflectance -0.05: noise and atmospheric correction leave single pixels below it, never half of a block."""

_ENOUGH = 900
"""Pixels with data from which on half of them is no accident. They must also be half of the block: along the edge of
a swath, pixels can be wrong."""


def calibrated(
    raw: da.Array, name: str, passes: Sequence[Sequence[Item]], offsets: Sequence[float], doubtful: Sequence[bool]
) -> da.Array:
    """Lazy (time, y, x) of one band: float32 DN with NaN.

    Where the tiles and copies of one pass have the same pixel, the first in their order that has data wins, pixel by
    pixel, each with its own offset. Tiles of one zone share their pixel grid, so nothing is resampled or blended.

    Parameters
    ----------
    raw : dask.array.Array
        (item, y, x), the items of each pass together, 0 where there are no data.
    name : str
    passes : sequence of sequence of Item
    offsets : sequence of float
        DN to add, item by item.
    doubtful : sequence of bool
        Items whose offset comes from metadata that may be wrong: their pixels are checked when they are read.
    """
    sizes = tuple(len(items) for items in passes)
    chunks = ((1,) * len(sizes), *raw.chunks[1:])
    raw = raw.rechunk({0: sizes})
    about = (np.array(offsets, np.float32), np.array([item.id for item in _flat(passes)]), np.array(doubtful))
    columns = [da.from_array(column[:, None, None], chunks=(sizes, 1, 1)) for column in about]
    empty = np.empty((0, 0, 0), np.float32)
    dn: da.Array = da.map_blocks(_to_dn, raw, *columns, band=name, dtype=np.float32, chunks=chunks, meta=empty)
    return dn


def _flat(passes: Sequence[Sequence[Item]]) -> list[Item]:
    return [item for items in passes for item in items]


def first(dn: da.Array, passes: Sequence[Sequence[Item]]) -> da.Array:
    """Lazy (time, y, x) of a band that is DN already, NaN where there are none: as `calibrated`, without offsets."""
    sizes = tuple(len(items) for items in passes)
    out: da.Array = da.map_blocks(
        _first,
        dn.rechunk({0: sizes}),
        dtype=np.float32,
        chunks=((1,) * len(sizes), *dn.chunks[1:]),
        meta=np.empty((0, 0, 0), np.float32),
    )
    return out


def _first(dn: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    out = dn[:1].copy()
    for layer in dn[1:]:
        np.copyto(out[0], layer, where=np.isnan(out[0]))
    return out


def classes(raw: da.Array, passes: Sequence[Sequence[Item]], bands: Sequence[da.Array]) -> da.Array:
    """Lazy (time, y, x) of a layer of classes: of the first item of a pass that has one, 0 where none has.

    Where a tile is there more than once, that is the first of those whose bands are used there, as each product
    classifies its own pixels; another's class fills in only where these have none.

    Parameters
    ----------
    raw : dask.array.Array
        (item, y, x), as in `calibrated`.
    passes : sequence of sequence of Item
    bands : sequence of dask.array.Array
        Raw pixels of bands that are loaded too, (item, y, x), in the chunks of `raw` on their own grid.
    """
    dates, start = [], 0
    for items in passes:
        part = slice(start, start + len(items))
        start += len(items)
        # Only copies of one tile part the ground between them; elsewhere bands would be read for nothing.
        beside = bands if len({item.tile for item in items}) < len(items) else ()
        layers = [array[part].rechunk({0: -1}) for array in (raw, *beside)]
        dates.append(
            da.map_blocks(
                _chosen,
                *layers,
                dtype=raw.dtype,
                chunks=((1,), *raw.chunks[1:]),
                meta=np.empty((0, 0, 0), raw.dtype),
            )
        )
    out: da.Array = da.concatenate(dates)
    return out


def _chosen(raw: np.ndarray[Any, Any], *bands: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    order = [raw]
    if bands:
        used = np.zeros(raw.shape, bool)
        for band in bands:
            used |= _onto(_used(band), raw.shape[1:])
        order.insert(0, np.where(used, raw, 0))
    out = np.zeros((1, *raw.shape[1:]), raw.dtype)
    for layers in order:
        for layer in layers:
            np.copyto(out[0], layer, where=out[0] == 0)
    return out


def _used(band: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which item's pixel of a band is used: the first that has data."""
    there: np.ndarray[Any, Any] = band != 0
    there[1:] &= ~np.logical_or.accumulate(there, axis=0)[:-1]
    return there


def _onto(used: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """On another grid of the same block: there where any of the pixels in it is, or the one round it."""
    rows, columns = shape
    height, width = used.shape[1:]
    if height > rows:
        blocks = used.reshape(len(used), rows, height // rows, columns, width // columns)
        return np.asarray(blocks.any((2, 4)))
    return used.repeat(rows // height, axis=1).repeat(columns // width, axis=2)


def _to_dn(
    raw: np.ndarray[Any, Any],
    offset: np.ndarray[Any, Any],
    item: np.ndarray[Any, Any],
    doubtful: np.ndarray[Any, Any],
    band: str,
) -> np.ndarray[Any, Any]:
    """Float DN of raw pixels; raw 0 is nodata, and is told apart before the offset is added."""
    out: np.ndarray[Any, Any] = np.full((1, *raw.shape[1:]), np.nan, np.float32)
    for layer, add, name, check in zip(raw, offset.flat, item.flat, doubtful.flat, strict=True):
        if check:
            _check(layer, float(add), str(name), band)
        free = np.isnan(out[0]) & (layer != 0)
        out[0][free] = layer[free] + add
    return out


def _check(raw: np.ndarray[Any, Any], offset: float, item: str, band: str) -> None:
    seen = np.count_nonzero(raw)
    if seen < max(_ENOUGH, raw.size // 2):
        return
    low = np.count_nonzero(raw < _LOWEST - offset) - (raw.size - seen)
    if 2 * low > seen:
        raise RadiometryError(
            f"item {item!r}: its metadata say that pixels carry {-offset:+g}, but then {100 * low / seen:.0f} % of "
            f"{seen} pixels of {band} have a reflectance below {_LOWEST / 10000:g}, which no ground has: the offset "
            "has been removed already, as in some items of Earth Search from 2022 and 2025. Pass "
            f"offset={{{item!r}: 0}}, or offset={{{item!r}: {offset:g}}} if the pixels are right"
        )
