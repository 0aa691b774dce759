"""Tiles as they lie in the buckets ``sentinel-s2-l1c`` and ``sentinel-s2-l2a``: a folder per tile and date.

It holds the images under short names, ``B02.jp2`` (L1C) or ``R10m/B02.jp2`` (L2A), masks in ``qi``, ``metadata.xml``,
which is the tile's ``MTD_TL.xml``, and ``tileInfo.json``, often ``productInfo.json`` too. The metadata of the product,
which say what the pixels mean, lie elsewhere in the bucket, so that is known by the processing baseline alone, as for
STAC items. Where somebody has put ``MTD_MSI*.xml`` into the folder, that says it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from xsen2.bands import BANDS
from xsen2.errors import SourceError
from xsen2.sources.calibration import SETTLE, Radiometry, check_given, settled
from xsen2.sources.items import EXTRAS
from xsen2.sources.safe_files import Document, Files
from xsen2.sources.safe_metadata import GSD, Granule, tile_in

__all__ = ["granule", "level_of", "masks", "name_of", "radiometry"]

METADATA = "metadata.xml"
_NAMES = ("tileInfo.json", "productInfo.json")


def level_of(tile: Document) -> str:
    """``"L1C"`` or ``"L2A"``, by the tile's metadata.

    Raises
    ------
    SourceError
        If they are of neither.
    """
    match = re.fullmatch(r"Level-(1C|2A)_Tile_ID", tile.root.tag)
    if match is None:
        raise SourceError(
            f"{tile.location} begins with {tile.root.tag[:60]!r}: it is not the metadata.xml of an L1C or L2A tile, "
            "as it lies beside tileInfo.json in the bucket"
        )
    return f"L{match[1]}"


def granule(tile: Document, level: str) -> Granule:
    """The tile and where its images are.

    Raises
    ------
    SourceError
        If it is not named as tiles are.
    """
    identifier = tile.text("TILE_ID", "TILE_ID_2A")
    name = tile_in(identifier)
    if name is None:
        raise SourceError(f"{tile.location}: TILE_ID is {identifier[:80]!r}, which names no tile")
    images: dict[str, tuple[str, ...]] = {
        band: (f"R{GSD[band]}m/{band}",) if level == "L2A" else (band,) for band in BANDS
    }
    if level == "L2A":
        images |= {extra: (f"R{GSD[extra]}m/{extra}",) for extra in EXTRAS}
    return Granule(name, METADATA, images)


def masks(listed: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Where the masks that the metadata list lie in a folder of AWS's."""
    located = {}
    for kind, paths in listed.items():
        names = [path.rpartition("/")[2] for path in paths]
        located[kind] = tuple(f"qi/{n}" for name in names for n in (name, name.removeprefix("MSK_")))
    located["CLDPRB"] = (*located.get("CLDPRB", ()), "qi/MSK_CLDPRB_20m.jp2", "qi/CLDPRB_20m.jp2", "qi/CLD_20m.jp2")
    return located


def name_of(files: Files) -> str | None:
    """Name of the product that the tile is of."""
    names = {name for file in _NAMES if files.has(file) for name in _names(_json(files, file))}
    if len(names) > 1:
        raise SourceError(f"{files.path} is of several products by {' and '.join(_NAMES)}: {', '.join(sorted(names))}")
    return next(iter(names), None)


def radiometry(files: Files, tile: Document, names: Iterable[str], given: float | None) -> dict[str, Radiometry]:
    """What is known of the radiometry from the processing baseline.

    Raises
    ------
    RadiometryError
        If the metadata give no baseline, or two different ones; or `given` cannot be an offset.
    """
    check_given(given)
    baselines = {}
    if match := re.search(r"_N(\d\d)\.(\d\d)$", tile.findtext("TILE_ID", "TILE_ID_2A") or ""):
        baselines["TILE_ID of metadata.xml"] = f"{match[1]}.{match[2]}"
    if match := re.search(r"_N(\d\d)(\d\d)_", name_of(files) or ""):
        baselines["the product's name"] = f"{match[1]}.{match[2]}"
    location, offset = str(files.path), given
    if offset is None:
        # The metadata that name an offset are those of the product, which are not in the folder.
        settle = f"{SETTLE}; or put the product's MTD_MSIL1C.xml or MTD_MSIL2A.xml there"
        offset = settled(location, None, baselines, field="MTD_MSI*.xml", silent=True, settle=settle)
    baseline = next(iter(baselines.values()), "unknown")
    return dict.fromkeys(names, Radiometry(float(offset), 1.0, 0, baseline, location, special={"SATURATED": 65535}))


def _json(files: Files, path: str) -> Any:
    try:
        return json.loads(files.content(path))
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{files.location_of(path)} is no JSON ({type(error).__name__}): download it again"
        ) from error


def _names(info: Any) -> list[str]:
    values = [info.get("productName"), info.get("name")] if isinstance(info, dict) else []
    return [value for value in values if isinstance(value, str) and re.fullmatch(r"S2[A-Z]_MSIL(1C|2A)_\w+", value)]
