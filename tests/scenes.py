"""Scenes for tests: real ones from beside the repository, or random ones, as files with STAC items.

The items have the properties, keys and quirks of the real ones in ``../shared/fixtures/stac``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

from xsen2.bands import BANDS, GRIDS
from xsen2.grid import lattice, off

Item = dict[str, Any]

SHARED = Path(__file__).parents[2] / "shared"
"""Real scenes and fixtures; not part of the repository."""

CITY = "brasilia"
"""Two dates, with water, in the validation set: tile 22LHH, EPSG:32722."""


def missing(what: str = "data") -> str | None:
    """Why tests that need ``../shared`` cannot run, or None when they can."""
    return None if (SHARED / what).is_dir() else f"needs the real scenes: there is no ../shared/{what}"


@dataclass(frozen=True)
class Scene:
    """Pixels of one date on their native grids, and where they lie."""

    bands: dict[str, np.ndarray]
    epsg: int
    ulx: int
    uly: int
    tile: str

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """Left, bottom, right, top."""
        name, pixels = next(iter(self.bands.items()))
        height, width = (n * gsd_of(name) for n in pixels.shape)
        return self.ulx, self.uly - height, self.ulx + width, self.uly

    def lonlat(self) -> tuple[float, float, float, float]:
        return transform_bounds(self.epsg, 4326, *self.bounds)

    def polygon(self) -> Item:
        west, south, east, north = self.lonlat()
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        return {"type": "Polygon", "coordinates": [ring]}


def gsd_of(name: str) -> int:
    return BANDS[name].gsd if name in BANDS else 20


def real(name: str) -> Scene:
    """One of the real scenes whose place is known: offset-free DN.

    Some were regridded by others, and are noted to lie where no 60 m pixel of their zone does: they are moved to the
    next place where they could.
    """
    parts = json.loads((SHARED / "data/scenes.json").read_text())
    part, about = next((p, entries[name]) for p, entries in parts.items() if name in entries)
    with np.load(SHARED / "data" / part / f"{name}.npz") as stacks:
        bands = {band: stacks[f"b{gsd}"][i] for gsd, names in GRIDS.items() for i, band in enumerate(names)}
    assert about["offset_dn"] == 0
    left, top = about["ulx"], about["uly"]
    east, north = off((left, 0, 0, top), 60, lattice(about["epsg"]))
    return Scene(bands, about["epsg"], left - round(east), top - round(north), about["tile"].removeprefix("T"))


def random(
    seed: int = 0, cells: tuple[int, int] = (6, 4), epsg: int = 32633, ulx: int = 499980, uly: int = 5200020
) -> Scene:
    """Random pixels, a tenth of them nodata, SCL included; `cells` rows and columns of 60 m."""
    rng = np.random.default_rng(seed)
    bands = {}
    for name in (*BANDS, "SCL"):
        shape = tuple(n * 60 // gsd_of(name) for n in cells)
        top = 12 if name == "SCL" else 9000
        pixels = rng.integers(1, top, shape).astype("uint8" if name == "SCL" else "uint16")
        pixels[rng.random(shape) < 0.1] = 0
        bands[name] = pixels
    zone = f"{epsg % 100}{'T' if epsg < 32700 else 'L'}"
    return Scene(bands, epsg, ulx, uly, f"{zone}WM")


_encoded: dict[bytes, bytes] = {}


def write_image(path: Path, raw: np.ndarray, **profile: Any) -> None:
    """Write bands as one file. What was written before is not compressed again: products of tests are much alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(repr((sorted(profile.items()), raw.shape, raw.dtype.str)).encode() + raw.tobytes()).digest()
    if key not in _encoded:
        with rasterio.open(path, "w", **profile) as file:
            file.write(raw)
        if raw.nbytes < 2**20:
            _encoded[key] = path.read_bytes()
    else:
        path.write_bytes(_encoded[key])


def write_band(path: Path, pixels: np.ndarray, scene: Scene, gsd: int, added: int = 0) -> None:
    """One band as its catalogue stores it: nodata 0, `added` DN on all pixels with data.

    A COG by the path's ending ``.tif``; lossless JPEG 2000, as ESA makes it, by ``.jp2``.
    """
    raw = np.where(pixels == 0, 0, pixels.astype("int32") + added).astype(pixels.dtype)
    kind = {
        ".tif": {"driver": "COG", "nodata": 0, "compress": "deflate", "blocksize": 128},
        ".jp2": {"driver": "JP2OpenJPEG", "quality": 100, "reversible": "yes", "ycbcr420": "no"},
    }
    profile = {
        **kind[path.suffix],
        "width": raw.shape[1],
        "height": raw.shape[0],
        "count": 1,
        "dtype": raw.dtype,
        "crs": f"EPSG:{scene.epsg}",
        "transform": from_origin(scene.ulx, scene.uly, gsd, gsd),
    }
    write_image(path, raw[None], **profile)


def _assets(scene: Scene, folder: Path, home: str, keys: dict[str, str], added: int, suffix: str = ".tif") -> Item:
    assets = {}
    for name, pixels in scene.bands.items():
        gsd = gsd_of(name)
        file = f"{home}/{name}{suffix}"
        write_band(folder / file, pixels, scene, gsd, 0 if name == "SCL" else added)
        assets[keys[name]] = {
            "href": file,
            "type": "image/jp2" if suffix == ".jp2" else "image/tiff; application=geotiff; profile=cloud-optimized",
            "proj:shape": list(pixels.shape),
            "proj:transform": [gsd, 0, scene.ulx, 0, -gsd, scene.uly],
            "roles": ["data", "reflectance"],
        }
    return assets


def earth_search(
    scene: Scene,
    folder: Path,
    when: str,
    *,
    sequence: int = 0,
    version: str | None = "05.09",
    applied: bool | None = True,
    declared: float | None = -0.1,
    added: int = 0,
    collection: str = "sentinel-2-l2a",
) -> Item:
    """Write the scene's files (COG; JPEG 2000 for L1C) and give an item of Earth Search v1 for them.

    Parameters
    ----------
    when : str
        Acquisition, such as ``"2023-08-15T09:57:57.246000Z"``.
    version, applied, declared
        Processing baseline, `earthsearch:boa_offset_applied` and the offset in `raster:bands`; None
        leaves them out.
    added : int
        DN that the stored pixels carry.
    """
    level = "L1C" if collection.endswith("l1c") else "L2A"
    day = datetime.fromisoformat(when).strftime("%Y%m%d")
    name = f"S2A_{scene.tile}_{day}_{sequence}_{level}"
    keys = {band: BANDS[band].common_name if band in BANDS else band.lower() for band in scene.bands}
    assets = _assets(scene, folder, f"{collection}/{name}", keys, added, ".jp2" if level == "L1C" else ".tif")
    for band, key in keys.items():
        if band in BANDS:
            about = {"nodata": 0, "data_type": "uint16", "spatial_resolution": gsd_of(band), "scale": 0.0001}
            assets[key]["gsd"] = gsd_of(band)
            assets[key]["raster:bands"] = [about if declared is None else {**about, "offset": declared}]
            assets[key]["eo:bands"] = [{"name": key, "common_name": key}]
        assets[f"{key}-jp2"] = {"href": f"none/{key}.jp2", "type": "image/jp2"}  # as real items have them
    nominal = version or "05.09"
    properties = {
        "created": when,
        "datetime": when,
        "platform": "sentinel-2a",
        "proj:epsg": scene.epsg,
        "grid:code": f"MGRS-{scene.tile}",
        "s2:product_type": f"S2MSI{level[1:]}",
        "s2:product_uri": f"S2A_MSI{level}_{day}T095031_N{nominal.replace('.', '')}_R079_T{scene.tile}_{day}.SAFE",
        "s2:generation_time": when,
        "s2:sequence": str(sequence),
    }
    if version is None:
        del properties["s2:product_uri"]
    else:
        properties["s2:processing_baseline"] = version
    if applied is not None:
        properties["earthsearch:boa_offset_applied"] = applied
    return _item(name, collection, scene, properties, assets)


def planetary_computer(
    scene: Scene, folder: Path, when: str, *, version: str = "05.09", generated: str = "20230816T000000"
) -> Item:
    """Write the scene's COGs, with +1000 from baseline 04.00 on, and give the Planetary Computer's item."""
    day = datetime.fromisoformat(when).strftime("%Y%m%dT%H%M%S")
    name = f"S2A_MSIL2A_{day}_R079_T{scene.tile}_{generated}"
    keys = {band: band for band in scene.bands}
    assets = _assets(scene, folder, f"pc/{name}", keys, 1000 if float(version) >= 4 else 0)
    made = datetime.fromisoformat(generated).isoformat()
    properties = {
        "datetime": when,
        "proj:epsg": scene.epsg,
        "s2:mgrs_tile": scene.tile,
        "s2:product_type": "S2MSI2A",
        "s2:generation_time": f"{made}.000Z",
        "s2:processing_baseline": version,
    }
    return _item(name, "sentinel-2-l2a", scene, properties, assets)


def _item(name: str, collection: str, scene: Scene, properties: Item, assets: Item) -> Item:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/grid/v1.0.0/schema.json",
        ],
        "id": name,
        "collection": collection,
        "bbox": list(scene.lonlat()),
        "geometry": scene.polygon(),
        "properties": properties,
        "assets": assets,
        "links": [],
    }


def city_items(folder: Path) -> list[Item]:
    """Two dates of a real city in `sentinel-2-l2a`, with the flags of Earth Search for such old products.

    The pixels are L1C: there is no L2A scene whose place is known.
    """
    dates = ("2016-12-27T13:22:42.462000Z", "2017-10-17T13:22:41.012000Z")
    return [
        earth_search(real(f"{CITY}_{i}"), folder, when, version="02.05", applied=False, declared=0)
        for i, when in enumerate(dates, start=1)
    ]
