"""What the attributes of an EOPF product say: level and time, radiometry.

An EOPF product says some of it several times: in the attributes of each array (CF and ``proj:``), in their
``_eopf_attrs``, and in those of the root (``stac_discovery`` and ``other_metadata``). All have to agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from xsen2.errors import RadiometryError, SourceError, Xsen2Error
from xsen2.sources._eopf_store import Layer, Product
from xsen2.sources._items import baseline
from xsen2.sources._offsets import SETTLE, SHIFTED_SINCE, offsets_of
from xsen2.sources._safe_metadata import tile_in
from xsen2.sources._when import sensing_time

__all__ = ["About", "Meaning", "about", "is_number", "mapping", "meaning", "short"]


@dataclass(frozen=True)
class About:
    """The product as a whole.

    Attributes
    ----------
    product, tile, level, platform : str
    baselines : dict
        Where the processing baseline is told → what is told there, such as ``"05.11"``.
    time : datetime.datetime or None
        Sensing time of the tile, UTC, without time zone. A GeoZarr store may tell none.
    """

    product: str
    tile: str
    level: str
    platform: str
    baselines: dict[str, str]
    time: datetime | None


@dataclass(frozen=True)
class Meaning:
    """How the raw pixels of a band become DN: (raw + offset) * 10000 / quantification.

    Attributes
    ----------
    offset, quantification : float
    nodata : float
        Raw value; of floats NaN, unless they have one besides.
    valid : tuple of float
        Smallest and largest raw value that counts.
    """

    offset: float
    quantification: float
    nodata: float
    valid: tuple[float, float]


def about(product: Product) -> About:
    """What the root says of the product; of a GeoZarr store without a STAC item in it, what its name says.

    Raises
    ------
    SourceError
        If the level or the time are missing or cannot be.
    """
    item, other = (mapping(product.attrs.get(key)) for key in ("stac_discovery", "other_metadata"))
    if not item and not other:
        return _by_name(product.where)
    said = mapping(item.get("properties"))
    name = _text(item.get("id")).removesuffix(".SAFE").removesuffix(".zarr")
    levels = (_text(said.get("processing:level")), _text(said.get("product:type")), name)
    level = next((found[1] for text in levels if (found := re.search(r"(?:^|MSI)(L1C|L2A)", text))), None)
    if level is None:
        raise SourceError(
            f"{product.where}: stac_discovery says processing:level is {short(said.get('processing:level'))}: "
            "L1C and L2A can be opened"
        )
    ids = (name, _text(other.get("UTM_zone_identification")))
    tile = next(filter(None, map(tile_in, ids)), "unknown")
    named = re.search(r"_N(\d\d)(\d\d)_", name)
    told = {
        "eopf:baseline": _text(said.get("eopf:baseline")),
        "processing:version": _text(said.get("processing:version")),
        "the product's id": f"{named[1]}.{named[2]}" if named else "",
    }
    baselines = {place: text for place, text in told.items() if re.fullmatch(r"\d\d\.\d\d", text)}
    platform = _text(said.get("platform")).title() or "unknown"
    return About(name or "unknown", tile, level, platform, baselines, _time(product, said, other))


def _by_name(where: str) -> About:
    """What ESA's name of a product, as the store's own, tells: its time is that of the whole pass, not of the tile."""
    found = re.search(r"(S2([A-Z])_MSI(L1C|L2A)_(\d{8}T\d{6})_N(\d\d)(\d\d)_R\d{3}_T(\w{5})_\w+?)(\.|/|$)", where)
    if found is None:
        return About("unknown", "unknown", "unknown", "unknown", {}, None)
    name, letter, level, time, major, minor, tile, _ = found.groups()
    return About(name, tile, level, f"Sentinel-2{letter}", {"the store's name": f"{major}.{minor}"}, sensing_time(time))


def _time(product: Product, said: Mapping[str, Any], other: Mapping[str, Any]) -> datetime:
    told = {
        "mean_sensing_time": other.get("mean_sensing_time"),
        "datetime": said.get("datetime"),
        "start_datetime": said.get("start_datetime"),
    }
    key, value = next(((k, v) for k, v in told.items() if v not in (None, "", "null")), ("mean_sensing_time", None))
    time = sensing_time(_text(value))
    if time is None:
        raise SourceError(f"{product.where}: {key} is {short(value)}, not a time of Sentinel-2's mission")
    return time


def meaning(layer: Layer, whole: About, given: float | None) -> Meaning:
    """What is said of the radiometry of one band.

    Parameters
    ----------
    given : float or None
        DN to add, instead of what the metadata say.

    Raises
    ------
    RadiometryError
        If something is missing, not a number, or said twice and differently; if offset and processing
        baseline contradict each other; or if `given` cannot be an offset.
    """
    offsets_of((), given)  # refuses what cannot be an offset
    where = layer.where
    if layer.array.dtype.kind == "f":
        return _of_floats(layer, given)
    scale = _agreed(layer, "scale_factor", 1e-6, 1)
    if scale is None:
        raise RadiometryError(f"{where} has no scale_factor, so it is not known what its pixels are")
    if given is None:
        added = _agreed(layer, "add_offset", -1, 0, f": {SETTLE}")
        offset = round((added or 0) / scale, 6)
        _settled(where, whole.baselines, offset, added is not None)
    else:
        offset = float(given)
    quantification = round(1 / scale, 6)
    nodata = _nodata(layer)
    top = np.iinfo(layer.array.dtype).max
    low, high = (
        _whole(layer.attrs.get(key, default), f"{where}: {key}", top)
        for key, default in (("valid_min", 0), ("valid_max", top))
    )
    if not low < quantification - offset <= high:
        raise RadiometryError(
            f"{where}: valid_min {low} and valid_max {high} leave out {quantification - offset:g}, which is a "
            "reflectance of 1: they are not of raw pixels, or scale_factor is wrong"
        )
    return Meaning(offset, quantification, nodata, (low, high))


def _of_floats(layer: Layer, given: float | None) -> Meaning:
    """Of GeoZarr stores that hold reflectance: what CF attributes make of the numbers, the offset taken off before."""
    attrs, what = layer.attrs, f"{layer.where}: "
    scale = _number(attrs.get("scale_factor", 1), what + "scale_factor", 1e-6, 1, RadiometryError)
    added = _number(attrs.get("add_offset", 0), what + "add_offset", -1, 0, RadiometryError)
    missing = float(attrs["_FillValue"]) if is_number(attrs.get("_FillValue")) else math.nan
    quantification = round(1 / scale, 6)
    offset = round(added / scale, 6) if given is None else given * quantification / 10000
    return Meaning(offset, quantification, missing, (-math.inf, math.inf))


def _settled(where: str, told: Mapping[str, str], offset: float, given: bool) -> None:
    """Refuse an offset that a processing baseline contradicts."""
    if not told and not given:
        raise RadiometryError(
            f"{where} has no add_offset, and the product no processing baseline (eopf:baseline), so it is not known "
            f"whether the pixels carry +1000: {SETTLE}"
        )
    for place, text in told.items():
        version = baseline({"s2:processing_baseline": text})
        if version is not None and (version >= SHIFTED_SINCE) != (offset != 0):
            means = "an offset of -1000 DN" if version >= SHIFTED_SINCE else "no offset"
            raise RadiometryError(
                f"{where}: processing baseline {text} ({place}) means {means}, but its add_offset "
                f"{f'is {offset:g} DN' if given else 'is missing, which is 0 DN'}: {SETTLE}"
            )


def _agreed(layer: Layer, key: str, low: float, high: float, settle: str = "") -> float | None:
    """A number that CF attributes and those of EOPF give; None where neither does."""
    told = {
        f"{place}{key}": _number(attrs[key], f"{layer.where}: {place}{key}", low, high, RadiometryError)
        for place, attrs in (("", layer.attrs), ("_eopf_attrs/", mapping(layer.attrs.get("_eopf_attrs"))))
        if attrs.get(key) is not None
    }
    return _one(told, layer.where, settle)


def _nodata(layer: Layer) -> int:
    own = mapping(layer.attrs.get("_eopf_attrs"))
    stored = layer.array.fill_value
    told = {
        "the array's fill_value": None if stored is None else int(stored),
        **{key: layer.attrs.get(key) for key in ("_FillValue", "fill_value")},
        "_eopf_attrs/fill_value": own.get("fill_value"),
    }
    top = np.iinfo(layer.array.dtype).max
    values = {key: float(_whole(v, f"{layer.where}: {key}", top)) for key, v in told.items() if v is not None}
    value = _one(values, layer.where, "")
    if value is None:
        raise RadiometryError(f"{layer.where} does not say which value is nodata (fill_value): download it again")
    return int(value)


def _one(told: Mapping[str, float], where: str, settle: str) -> float | None:
    places = list(told)
    for place in places[1:]:
        if not math.isclose(told[place], told[places[0]], rel_tol=1e-9, abs_tol=1e-12):
            raise RadiometryError(
                f"{where}: {places[0]} is {told[places[0]]:g}, but {place} is {told[place]:g}{settle}"
            )
    return told[places[0]] if places else None


def mapping(value: object) -> Mapping[str, Any]:
    """`value`, if it is a mapping; else an empty one, as if there were nothing."""
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def short(value: object) -> str:
    """`value` for a message."""
    return repr(value)[:80]


def _number(value: object, what: str, low: float, high: float, error: type[Xsen2Error]) -> float:
    if not is_number(value) or not low <= value <= high:  # type: ignore[operator]
        raise error(f"{what} is {short(value)}, not a number from {low:g} to {high:g}")
    return float(value)  # type: ignore[arg-type]


def is_number(value: object) -> bool:
    """Whether `value` is a finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, what: str, top: int) -> int:
    number = _number(value, what, 0, top, RadiometryError)
    if number != int(number):
        raise RadiometryError(f"{what} is {short(value)}, not a whole number")
    return int(number)
