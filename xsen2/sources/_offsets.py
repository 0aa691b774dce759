"""Which offset the pixels of a STAC item carry: from its metadata, or an error when they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xsen2.errors import RadiometryError
from xsen2.sources._assets import EXTRAS
from xsen2.sources._items import Item, baseline

__all__ = ["SETTLE", "SHIFTED_SINCE", "doubtful", "offset_of", "offsets_of"]

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
    flag = item.properties.get("earthsearch:boa_offset_applied")
    version = baseline(item.properties)
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
            try:
                value = _raster_offset(asset)
            except (AttributeError, OverflowError, TypeError, ValueError) as error:
                raise RadiometryError(
                    f"item {item.id!r}: the offset in raster:bands of {name} is no number ({error}): {_SETTLE}"
                ) from error
            if value is not None:
                found.setdefault(value, name)
    if len(found) > 1:
        raise RadiometryError(
            f"item {item.id!r}: raster:bands gives different offsets: "
            + ", ".join(f"{name} {value} DN" for value, name in found.items())
            + f"; {_SETTLE}"
        )
    return next(iter(found), None)


def _raster_offset(asset: Mapping[str, Any]) -> int | None:
    # STAC 1.1 keeps in `bands`, or in the asset itself, what STAC 1.0 has in `raster:bands`.
    for key, holders in (
        ("", asset.get("raster:bands")),
        ("raster:", asset.get("bands")),
        ("raster:", [asset]),
    ):
        for holder in holders or ():
            if holder.get(f"{key}offset") is not None:
                return round(float(holder[f"{key}offset"]) / float(holder.get(f"{key}scale") or 1))
    return None


def doubtful(items: Sequence[Item], given: float | Mapping[str, float] | None, offsets: Sequence[float]) -> list[bool]:
    """Whether the offset of each item should be checked against its pixels.

    That is where Earth Search's metadata say that pixels carry +1000: of some items of 2022 and 2025 they do not.
    What the caller said is not doubted.
    """
    return [
        given is None or (isinstance(given, Mapping) and item.id not in given)
        if offset and item.level != "L1C" and any(key.startswith("earthsearch:") for key in item.properties)
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
        if isinstance(value, bool) or not -10000 <= value <= 0:
            raise RadiometryError(
                f"offset={value}: it is added to the pixels: give -1000 where they carry +1000, 0 where not"
            )
    return [
        float(values[item.id]) if item.id in values else float(offset_of(item) if default is None else default)
        for item in items
    ]
