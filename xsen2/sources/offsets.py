"""Which offset the pixels of a STAC item carry: from its metadata, or an error when they disagree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xsen2.errors import RadiometryError
from xsen2.sources.calibration import SETTLE, check_given, settled
from xsen2.sources.items import EXTRAS, Item, as_list, as_mapping, as_number

__all__ = ["doubtful", "offset_of", "offsets_of"]


_SETTLE = f"{SETTLE}, or offset={{item id: offset}}"


def offset_of(item: Item) -> float:
    """DN to add to the item's pixels to get 10000 x reflectance: 0 or -1000, from metadata alone.

    `earthsearch:boa_offset_applied` comes first: pixels that have been corrected stay as they are,
    although `raster:bands` still says -0.1. Otherwise the processing baseline and `raster:bands`
    decide, and have to agree where both are there. Planetary Computer has only the baseline.

    Raises
    ------
    RadiometryError
        If the metadata contradict each other, or say nothing.
    """
    location, flag = f"item {item.id!r}", _flag(item)
    _scale(item)
    declared = _declared(item)
    if flag and not declared:
        return 0.0
    if flag is not None:
        location = f"{location}, whose earthsearch:boa_offset_applied is {str(flag).lower()}"
    offset = settled(location, declared, item.baselines, field="raster:bands' offset", silent=True, settle=_SETTLE)
    return 0.0 if flag else offset


def _declared(item: Item) -> int | None:
    """The offset that `raster:bands` gives, in DN: offset / scale, the same for every band."""
    offsets: dict[int, str] = {}
    for name, asset in item.assets.items():
        if name not in EXTRAS:
            value = _raster_offset(item, name, asset)
            if value is not None:
                offsets.setdefault(value, name)
    if len(offsets) > 1:
        raise RadiometryError(
            f"item {item.id!r}: raster:bands gives different offsets: "
            + ", ".join(f"{name} {value} DN" for value, name in offsets.items())
            + f"; {_SETTLE}"
        )
    return next(iter(offsets), None)


def _flag(item: Item) -> bool | None:
    """Whether Earth Search says that it has taken the offset off; None where it says nothing. v0 had another key."""
    for key in ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"):
        applied = item.properties.get(key)
        if applied is not None:
            if not isinstance(applied, bool):
                raise RadiometryError(f"item {item.id!r}: {key} is {applied!r:.80}, neither true nor false: {_SETTLE}")
            return applied
    return None


def _raster_offset(item: Item, name: str, asset: Mapping[str, Any]) -> int | None:
    for prefix, holder in _rasters(asset):
        value = holder.get(f"{prefix}offset")
        if value is not None:
            offset, scale = as_number(value), as_number(holder.get(f"{prefix}scale"))
            if offset is None or abs(offset) > 1e6:
                raise RadiometryError(
                    f"item {item.id!r}: the offset in raster:bands of {name} is no number ({value!r:.80}): {_SETTLE}"
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
        scales = [holder.get(f"{prefix}scale") for prefix, holder in _rasters(asset) if name not in EXTRAS]
        for value in scales:
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
    for value in (*values.values(), default):
        check_given(value)
    return [
        float(values[item.id]) if item.id in values else float(offset_of(item) if default is None else default)
        for item in items
    ]
