"""What ESA's products have in common, whatever their format: names, layers that are no bands, the cube made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xsen2.bands import BANDS, canonical
from xsen2.errors import BandError
from xsen2.sources import _assets
from xsen2.sources._assemble import assemble
from xsen2.sources._safe_metadata import GSD, Radiometry

__all__ = ["EXTRA_ATTRS", "asked", "product_cube"]

EXTRA_ATTRS: dict[str, dict[str, Any]] = {
    **_assets.EXTRA_ATTRS,
    "CLDPRB": {"long_name": "cloud probability", "gsd": GSD["CLDPRB"], "units": "%"},
    "CLASSI": {
        "long_name": "masks of clouds, and from baseline 04.00 on of snow, of L1C",
        "gsd": GSD["CLASSI"],
        "flag_masks": [1, 2, 4],
        "flag_meanings": "opaque_cloud cirrus snow_or_ice",
    },
}


def asked(bands: Sequence[str] | None, listed: Mapping[str, Any], where: str, extra: str) -> list[str]:
    """Canonical names to read, each of which the product lists; by default the bands and `extra`."""
    if bands is None:
        names = [name for name in (*BANDS, extra) if name in listed]
    else:
        given = [bands] if isinstance(bands, str) else list(bands)
        layers = {name: str(name).upper() for name in given if str(name).upper() in EXTRA_ATTRS}
        names = list(dict.fromkeys(layers.get(name) or canonical([name])[0] for name in given))
    if not names:
        raise BandError(f"{where} lists no band on its native grid, or bands= is empty: name those to read")
    missing = [name for name in names if name not in listed]
    if missing:
        raise BandError(
            f"{where} lists no image of {', '.join(missing)} on the native grid; it has {', '.join(sorted(listed))}: "
            "name some of those in bands="
        )
    return names


def product_cube(
    arrays: Mapping[str, da.Array],
    box: tuple[int, int, int, int],
    epsg: int,
    time: datetime,
    meaning: Radiometry,
    *,
    product: str,
    tile: str,
    level: str,
    platform: str,
) -> xr.Dataset:
    """The cube of one product and date, with what is known of it in its attributes."""
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
        "attribution": f"contains modified Copernicus Sentinel data {time.year}",
    }
    cube = assemble(arrays, {name: GSD[name] for name in arrays}, box, epsg, [time], attrs, EXTRA_ATTRS)
    added = sorted(set(meaning.offsets.values()))
    if len(added) == 1:
        about_offset = {"long_name": "added to the raw pixels to get DN", "units": "DN"}
        cube = cube.assign_coords(offset=("time", np.array(added, np.float32), about_offset))
    return cube


def _removed(meaning: Radiometry) -> str:
    """What was done to the pixels, in the words that `load` has for it."""
    values = sorted(set(meaning.offsets.values()))
    then = "" if meaning.quantification == 10000 else f", then multiplied by 10000 / {meaning.quantification:g}"
    if len(values) == 1:
        return f"removed once: {values[0]:g} DN added to the raw pixels{then}; per date in the coordinate 'offset'"
    each = ", ".join(f"{name} {value:g}" for name, value in meaning.offsets.items()) or "nothing"
    return f"removed once: {each} DN added to the raw pixels{then}"
