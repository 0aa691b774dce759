"""Raw pixels of one native grid through stackstac or odc-stac: lazy, uint, one chunk a date and tile.

Both are handed the same small items with nothing left to interpret: canonical names as asset keys, one
CRS in the spelling that they read, the outer edges of the tile, no scale, no offset. What they read is
then the same by construction, and no key of a catalogue can change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from xsen2.bands import LAYERS
from xsen2.errors import SourceError
from xsen2.geometry import lonlat
from xsen2.grid import resized
from xsen2.sources.items import Item
from xsen2.sources.reading import Reading, tagged

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["COLLECTION", "Grid", "dtype_of", "engine_named", "read_all", "small"]


@dataclass(frozen=True)
class Grid:
    """One native grid of a cube: where it lies, how it is chunked.

    Attributes
    ----------
    geobox : GeoBox
    chunk : int
        Pixels along y and x.
    """

    geobox: GeoBox
    chunk: int


COLLECTION = "sentinel-2"

Engine = Callable[[Sequence[Item], Sequence[str], Grid, Reading], dict[str, da.Array]]


def engine_named(name: str) -> Engine:
    """The function that reads: items, names, a grid and how → name → (item, y, x) array with nodata 0.

    Parameters
    ----------
    name : str
        ``"auto"`` is the first that is installed.

    Raises
    ------
    SourceError
        If there is no such engine.
    ImportError
        If its package is not installed.
    """
    if name == "auto":
        name = next((known for known, (package, *_) in _ENGINES.items() if _installed(package)), "")
        if not name:
            ways = " or ".join(f"pip install 'xsen2[{extra}]'" for _, _, extra in _ENGINES.values())
            raise ImportError(f"load reads pixels with one of {', '.join(_ENGINES)}, and none is installed: {ways}")
    if name not in _ENGINES:
        raise SourceError(f"engine={name!r} is unknown: use {' or '.join(map(repr, ('auto', *_ENGINES)))}")
    package, module, extra = _ENGINES[name]
    try:
        import_module(package)
        read: Engine = import_module(module).read
    except ImportError as error:
        raise ImportError(f"engine={name!r} needs {error.name}: pip install 'xsen2[{extra}]'") from error
    return read


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of what holds it
        return False


def read_all(
    engine: Engine, items: Sequence[Item], names: Sequence[str], grid: Grid, reading: Reading
) -> dict[str, da.Array]:
    """What the engine reads, and 0 for items that do not have an asset: engines do not all know such items."""
    common = [name for name in names if all(name in item.assets for item in items)]
    out = engine(items, common, grid, reading) if common else {}
    for name in names:
        if name not in out:
            pixels = engine([item for item in items if name in item.assets], [name], grid, reading)[name]
            layers = iter(pixels[i : i + 1] for i in range(len(pixels)))
            none = da.zeros((1, *pixels.shape[1:]), pixels.dtype, chunks=(1, *pixels.chunks[1:]))
            out[name] = da.concatenate([next(layers) if name in item.assets else none for item in items])
    return out


def dtype_of(name: str) -> np.dtype[Any]:
    """Of the raw pixels."""
    return np.dtype(LAYERS[name].dtype if name in LAYERS else "uint16")


def small(item: Item, names: Sequence[str], grid: Grid, projection: dict[str, Any], number: int) -> dict[str, Any]:
    """The item with nothing left to interpret; `number` sets copies of one name apart."""
    west, south, east, north = lonlat(item.geobox)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    place = resized(item.geobox, grid.geobox.affine.a)
    placed = {
        "proj:transform": list(place.affine[:6]),
        "proj:shape": list(place.shape),
        "type": "image/tiff",
        "roles": ["data"],
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
        "id": f"{number:06}",
        "collection": COLLECTION,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, south, east, north],
        "properties": {"datetime": _iso(item.time), **projection},
        "assets": {
            name: {"href": tagged(item.assets[name]["href"], item.id, item.keys[name], place), **placed}
            for name in names
        },
        "links": [],
    }


def _iso(time: datetime) -> str:
    return time.isoformat() + "Z"


_ENGINES = {
    "stackstac": ("stackstac", "xsen2.sources.engine_stackstac", "stac"),
    "odc": ("odc.stac", "xsen2.sources.engine_odc", "odc"),
}
"""Name → the package that reads, the module here that calls it, and the extra that installs it; in order."""
