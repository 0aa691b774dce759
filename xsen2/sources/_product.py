"""What ESA's products have in common, whatever their format: names, layers that are no bands, the cube made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xsen2.bands import BANDS, canonical
from xsen2.errors import BandError, Xsen2Error, warn_once
from xsen2.layers import LAYERS
from xsen2.sources._assemble import assemble
from xsen2.sources._reading import ReadWarning
from xsen2.sources._safe_metadata import GSD, Radiometry

__all__ = ["EXTRA_ATTRS", "Need", "asked", "product_cube", "settle"]

EXTRA_ATTRS: dict[str, dict[str, Any]] = {name: LAYERS[name].attrs for name in ("SCL", "CLDPRB", "CLASSI")}


class Need(Enum):
    """How much a band or layer is wanted."""

    MUST = "must be there"
    LIKE = "is read where it is there; a warning says so where not"
    MAY = "is read where it is there"


def asked(
    bands: Sequence[str] | None, listed: Mapping[str, Any], where: str, extra: str, optional: Sequence[str] = ()
) -> dict[str, Need]:
    """Canonical names to read, in order: by default the bands and `extra` as far as they are there.

    Raises
    ------
    BandError
        If one is unknown, or the product does not list one that is named in `bands`.
    """
    if bands is None:
        return {name: Need.LIKE for name in (*BANDS, extra) if name in listed}
    given = [bands] if isinstance(bands, str) else list(bands)
    layers = {name: str(name).upper() for name in given if str(name).upper() in EXTRA_ATTRS}
    names = dict.fromkeys((layers.get(name) or canonical([name])[0] for name in given), Need.MUST)
    if not names:
        raise BandError(f"{where} lists no band on its native grid, or bands= is empty: name those to read")
    missing = [name for name in names if name not in listed]
    if missing:
        raise BandError(
            f"{where} lists no image of {', '.join(missing)} on the native grid; it has {', '.join(sorted(listed))}: "
            "name some of those in bands="
        )
    if not optional:
        return names
    names |= {name: Need.MAY for name in (*optional, extra) if name in listed and name not in names}
    return {name: names[name] for name in (*BANDS, *EXTRA_ATTRS) if name in names}


def settle(
    found: Mapping[str, object],
    names: Mapping[str, Need],
    what: str,
    paths: Mapping[str, str],
    remedy: str | None,
    error: type[Xsen2Error],
) -> None:
    """Raise or warn, once, of what is not there (None in `found`).

    What was named must be there. Of all that a product should have, it is enough that there is a band: what a method
    cannot do without, it says itself, and a person learns all of it from one message.
    """
    there = [name for name, one in found.items() if one is not None]
    missing = [name for name, one in found.items() if one is None]
    must = [name for name in missing if names[name] is Need.MUST]
    like = [name for name in missing if names[name] is Need.LIKE]
    if must or not any(name in BANDS or names[name] is Need.MUST for name in there):
        lost = ", ".join(f"{name} ({paths[name]})" for name in must or like)
        hint = remedy or (f"or read what is there with bands={there}" if there else "")
        raise error(f"{what}, these images are missing: {lost}. Download it again{hint and f', {hint}'}")
    if like:
        lost = ", ".join(f"{name} ({paths[name]})" for name in like)
        warn_once(
            f"{what}, these images are missing and are left out: {lost}; the cube has {', '.join(there)}", ReadWarning
        )


def product_cube(
    arrays: Mapping[str, da.Array],
    box: tuple[int, int, int, int],
    epsg: int,
    time: datetime | None,
    meaning: Radiometry,
    *,
    product: str,
    tile: str,
    level: str,
    platform: str,
) -> xr.Dataset:
    """The cube of one product and date, with what is known of it in its attributes; without the date if it is None."""
    attrs = {
        "product": product,
        "source": product,  # as a cube of any source has it
        "tile": tile,
        "level": level,
        "platform": platform,
        "processing_baseline": meaning.baseline,
        "units": "DN = 10000 x reflectance",
        "offset": _removed(meaning),
        "special_values": ", ".join(f"{name} {value}" for name, value in meaning.special.items()),
        "attribution": f"contains modified Copernicus Sentinel data {time.year if time else ''}".strip(),
    }
    times = [time or datetime(1970, 1, 1)]
    cube = assemble(arrays, {name: GSD[name] for name in arrays}, box, epsg, times, attrs, EXTRA_ATTRS)
    added = sorted(set(meaning.offsets.values()))
    if len(added) == 1:
        about_offset = {"long_name": "added to the raw pixels to get DN", "units": "DN"}
        cube = cube.assign_coords(offset=("time", np.array(added, np.float32), about_offset))
    return cube if time else cube.isel(time=0, drop=True)


def _removed(meaning: Radiometry) -> str:
    """What was done to the pixels, in the words that `load` has for it."""
    values = sorted(set(meaning.offsets.values()))
    then = "" if meaning.quantification == 10000 else f", then multiplied by 10000 / {meaning.quantification:g}"
    if len(values) == 1:
        return f"removed once: {values[0]:g} DN added to the raw pixels{then}; per date in the coordinate 'offset'"
    each = ", ".join(f"{name} {value:g}" for name, value in meaning.offsets.items()) or "nothing"
    return f"removed once: {each} DN added to the raw pixels{then}"
