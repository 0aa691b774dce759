"""Which offset the pixels of a STAC item carry: from its metadata, or an error when they disagree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np

from xsen2.errors import RadiometryError
from xsen2.sources.items import EXTRAS, Item, as_list, as_mapping, as_number

__all__ = ["SETTLE", "SHIFTED_SINCE", "calibrated", "classes", "doubtful", "first", "offset_of", "offsets_of"]


# From raw pixels, item by item, to DN, date by date: offsets, tiles and copies of one pass, and a check of both.


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


SHIFTED_SINCE = 4.0
"""Processing baseline from which on ESA adds 1000 to every pixel, so that dark ones stay above 0."""

_SHIFT = -1000

SETTLE = "pass offset=-1000 if the pixels carry +1000, offset=0 if not"
"""What settles a doubt about one product's offset."""

_SETTLE = f"{SETTLE}, or offset={{item id: offset}}"


def offset_of(item: Item) -> int:
    """DN to add to the item's pixels to get 10000 x reflectance: 0 or -1000, from metadata alone.

    `earthsearch:boa_offset_applied` comes first: pixels that have been corrected stay as they are,
    although `raster:bands` still says -0.1. Otherwise the processing baseline and `raster:bands`
    decide, and have to agree where both are there. Planetary Computer has only the baseline.

    Raises
    ------
    RadiometryError
        If the metadata contradict each other, or say nothing.
    """
    flag = _flag(item)
    version = item.baseline
    _scale(item)
    declared = _declared(item)
    shifted = None if version is None else version >= SHIFTED_SINCE
    said = f"processing baseline {version:05.2f}" if version is not None else "no processing baseline"
    if flag:
        if shifted is False and declared:
            raise RadiometryError(
                f"item {item.id!r}: earthsearch:boa_offset_applied is true and raster:bands has an offset of "
                f"{declared} DN, but {said} never had one to apply: {_SETTLE}"
            )
        return 0
    if shifted is None and declared is None:
        raise RadiometryError(
            f"item {item.id!r} has neither s2:processing_baseline nor an offset in raster:bands, "
            f"so it is not known whether its pixels carry +1000: {_SETTLE}"
        )
    expected = None if shifted is None else _SHIFT * shifted
    if declared is not None and expected is not None and declared != expected:
        raise RadiometryError(
            f"item {item.id!r}: {said} means an offset of {expected} DN, but raster:bands says {declared} DN"
            f"{'' if flag is None else ', and earthsearch:boa_offset_applied is false'}: {_SETTLE}"
        )
    return (declared or 0) if expected is None else expected


def _declared(item: Item) -> int | None:
    """The offset that `raster:bands` gives, in DN: offset / scale, the same for every band."""
    found: dict[int, str] = {}
    for name, asset in item.assets.items():
        if name not in EXTRAS:
            value = _raster_offset(item, name, asset)
            if value is not None:
                found.setdefault(value, name)
    if len(found) > 1:
        raise RadiometryError(
            f"item {item.id!r}: raster:bands gives different offsets: "
            + ", ".join(f"{name} {value} DN" for value, name in found.items())
            + f"; {_SETTLE}"
        )
    return next(iter(found), None)


def _flag(item: Item) -> bool | None:
    """Whether Earth Search says that it has taken the offset off; None where it says nothing. v0 had another key."""
    for key in ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"):
        said = item.properties.get(key)
        if said is not None:
            if not isinstance(said, bool):
                raise RadiometryError(f"item {item.id!r}: {key} is {said!r:.80}, neither true nor false: {_SETTLE}")
            return said
    return None


def _raster_offset(item: Item, name: str, asset: Mapping[str, Any]) -> int | None:
    for prefix, holder in _rasters(asset):
        said = holder.get(f"{prefix}offset")
        if said is not None:
            offset, scale = as_number(said), as_number(holder.get(f"{prefix}scale"))
            if offset is None or abs(offset) > 1e6:
                raise RadiometryError(
                    f"item {item.id!r}: the offset in raster:bands of {name} is no number ({said!r:.80}): {_SETTLE}"
                )
            return round(offset / (scale or 1))
    return None


def _rasters(asset: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What says how pixels become reflectance, and the prefix of its keys.

    STAC 1.1 keeps in `bands`, or in the asset itself, what STAC 1.0 has in `raster:bands`.
    """
    for prefix, holders in (
        ("", as_list(asset.get("raster:bands"))),
        ("raster:", as_list(asset.get("bands"))),
        ("raster:", [asset]),
    ):
        for holder in holders:
            yield prefix, as_mapping(holder)


def _scale(item: Item) -> None:
    """Refuse bands that are not 10000 x reflectance: nothing here would make them so.

    Raises
    ------
    RadiometryError
        If one says so, or says what is no number.
    """
    for name, asset in item.assets.items():
        said = [holder.get(f"{prefix}scale") for prefix, holder in _rasters(asset) if name not in EXTRAS]
        for value in said:
            number = as_number(value)
            if value is not None and (number is None or abs(number - 1e-4) > 1e-9):
                raise RadiometryError(
                    f"item {item.id!r}: raster:bands gives {name} a scale of {value!r:.80}, but its pixels are taken "
                    f"for 10000 x reflectance, a scale of 0.0001; if that is right, {_SETTLE}"
                )


def doubtful(items: Sequence[Item], given: float | Mapping[str, float] | None, offsets: Sequence[float]) -> list[bool]:
    """Whether the offset of each item should be checked against its pixels.

    That is where Earth Search's metadata say that pixels carry +1000: of some items of 2022 and 2025 they do not.
    What the caller said is not doubted.
    """
    return [
        given is None or (isinstance(given, Mapping) and item.id not in given)
        if offset and item.level != "L1C" and any(str(key).startswith("earthsearch:") for key in item.properties)
        else False
        for item, offset in zip(items, offsets, strict=True)
    ]


def offsets_of(items: Sequence[Item], given: float | Mapping[str, float] | None) -> list[float]:
    """Offset of every item, in DN: what was given, else what the metadata say.

    Raises
    ------
    RadiometryError
        If the metadata do not settle it, or what was given cannot be an offset.
    """
    values = given if isinstance(given, Mapping) else {}
    default = None if isinstance(given, Mapping) else given
    for value in (*values.values(), *(() if default is None else (default,))):
        if isinstance(value, bool) or not isinstance(value, int | float) or not -10000 <= value <= 0:
            raise RadiometryError(
                f"offset={value}: it is added to the pixels: give -1000 where they carry +1000, 0 where not"
            )
    return [
        float(values[item.id]) if item.id in values else float(offset_of(item) if default is None else default)
        for item in items
    ]
