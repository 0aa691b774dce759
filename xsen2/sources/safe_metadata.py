"""What the metadata of a product say: its granules and images, its radiometry, its grids and time.

Names and meanings are those of ESA's Product Specification Document (PSD), S2-PDGS-TAS-DI-PSD: up to version
13 products list ``Granules`` with ``IMAGE_ID``, from 14 on ``Granule`` with ``IMAGE_FILE``; Sen2Cor before
2.5.5 wrote the same with ``_2A`` at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from xsen2.bands import BANDS, GRIDS, LAYERS
from xsen2.errors import CRSError, GridError, RadiometryError, SourceError
from xsen2.grid import Bounds, geobox
from xsen2.sources.calibration import SETTLE, Radiometry, check_given, settled
from xsen2.sources.items import EXTRAS
from xsen2.sources.safe_files import Document, inside
from xsen2.sources.when import sensing_time

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["GSD", "Granule", "granules", "level_of", "masks", "place", "radiometry", "sensed"]

_MASKS = {name: LAYERS[name].gsd for name in ("CLDPRB", "CLASSI")}
GSD: dict[str, int] = {**{band.name: band.gsd for band in BANDS.values()}, **EXTRAS, **_MASKS}
"""What can be read of a product → its native grid in metres."""

_BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_VERSION = re.compile(r"_N\d\d\.\d\d$")
_TILE = re.compile(r"_T(\d\d[C-X][A-Z]{2})(?:_|$)")


def tile_in(identifier: str) -> str | None:
    """The MGRS name of a tile in an identifier of ESA's, or None.

    Examples
    --------
    >>> tile_in("S2A_OPER_MSI_L1C_TL_VGS4_20210908T070248_A032448_T46RER_N03.01")
    '46RER'
    """
    match = _TILE.search(identifier)
    return match[1] if match else None


@dataclass(frozen=True)
class Granule:
    """One tile of a product.

    Attributes
    ----------
    tile : str
        MGRS name, such as ``"33TWM"``.
    metadata : str
        Path of its metadata in the product.
    images : dict
        Canonical name → paths that the image may have in the product, without suffix, on the native grid.
    """

    tile: str
    metadata: str
    images: dict[str, tuple[str, ...]]


def level_of(product: Document) -> str:
    """``"L1C"`` or ``"L2A"``.

    Raises
    ------
    SourceError
        If it is neither.
    """
    match = re.fullmatch(r"Level-(1C|2A)_User_Product", product.root.tag)
    if match is None:
        raise SourceError(
            f"{product.location} begins with {product.root.tag[:60]!r}: it is not of an L1C or L2A product, "
            "which are the levels that can be opened"
        )
    return f"L{match[1]}"


def granules(product: Document) -> dict[str, Granule]:
    """The tiles of a product by MGRS name; products until 2016 have several.

    Raises
    ------
    SourceError
        If there are none, one is not named as tiles are, or an image is listed twice or outside the product.
    """
    listed: dict[str, list[str]] = {}
    for element in product.all("Granule", "Granules"):
        images = listed.setdefault(element.get("granuleIdentifier", ""), [])
        images += [(e.text or "").strip() for e in element if re.fullmatch(r"IMAGE_(FILE|ID)(_2A)?", e.tag)]
    tiles: dict[str, Granule] = {}
    for identifier, images in listed.items():
        granule = _granule(identifier, images, product.location)
        if granule.tile in tiles:
            raise SourceError(f"{product.location} lists the tile {granule.tile} twice: download the product again")
        tiles[granule.tile] = granule
    if not tiles:
        raise SourceError(f"{product.location} has no Granule: it is not complete; download the product again")
    return tiles


def _granule(identifier: str, listed: Iterable[str], location: str) -> Granule:
    tile = tile_in(identifier)
    if tile is None:
        raise SourceError(
            f"{location}: the granuleIdentifier {identifier[:200]!r} names no tile; download the product again"
        )
    old = f"GRANULE/{inside(identifier, location)}"
    images: dict[str, tuple[str, ...]] = {}
    homes = set()
    for path in listed:
        folder, slash, name = path.rpartition("/")
        parts = name.split("_")
        band = next((part for part in parts if part in BANDS or part in EXTRAS), None)
        size = re.fullmatch(r"(\d\d)m", parts[-1])
        if band is None or (size is not None and int(size[1]) != GSD[band]):
            continue
        inside(path, location)
        paths: tuple[str, ...] = (path,)
        if slash:
            home = re.fullmatch(r"(GRANULE/[^/]+)/IMG_DATA(/R\d\dm)?", folder)
            if home is None:
                raise SourceError(f"{location}: {path!r} is not in GRANULE/…/IMG_DATA; download the product again")
            homes.add(f"{home[1]}/MTD_TL.xml")
        else:
            homes.add(f"{old}/{re.sub(_VERSION, '', identifier).replace('_MSI_', '_MTD_', 1)}.xml")
            paths = (f"{old}/IMG_DATA/{name}", f"{old}/IMG_DATA/R{GSD[band]}m/{name}")
        if images.setdefault(band, paths) != paths:
            raise SourceError(f"{location} lists two images of {band}: {images[band][0]} and {path}")
    if len(homes) != 1:
        listing = " and ".join(sorted(homes)) or "none, as no image of a band on its native grid is listed"
        raise SourceError(f"{location}: the tile {tile} should have one metadata file, not {listing}")
    return Granule(tile, homes.pop(), images)


def masks(tile: Document, home: str) -> dict[str, tuple[str, ...]]:
    """The masks that the metadata of a tile list, at the resolution that is read.

    Parameters
    ----------
    tile : Document
    home : str
        Folder of the tile in the product; metadata until 2016 name the files in its ``QI_DATA`` alone.

    Returns
    -------
    dict
        Name → paths in the product: an image, or before it the polygons of ``"CLASSI"``, ending in ``.gml``.

    Raises
    ------
    SourceError
        If a path leads out of the product.
    """
    images: dict[str, tuple[str, ...]] = {}
    drawn: dict[str, tuple[str, ...]] = {}
    for element in tile.all("MASK_FILENAME"):
        kind, path = element.get("type", "").removeprefix("MSK_"), (element.text or "").strip()
        size = re.search(r"_(\d\d)m\.", path)
        native = size is None or int(size[1]) == GSD.get(kind)
        if kind in _MASKS and native and "/" in path and path.endswith((".jp2", ".tif")):
            images.setdefault(kind, (inside(path, tile.location),))
        elif kind == "CLOUDS" and path.endswith(".gml"):
            drawn.setdefault("CLASSI", (inside(path if "/" in path else f"{home}/QI_DATA/{path}", tile.location),))
    return drawn | images


def radiometry(product: Document, level: str, names: Iterable[str], given: float | None) -> dict[str, Radiometry]:
    """The radiometry of some bands, from the metadata.

    Raises
    ------
    RadiometryError
        If something is missing or not a number, offset and processing baseline contradict each other, or
        `given` cannot be an offset.
    """
    check_given(given)
    tags = ("QUANTIFICATION_VALUE",) if level == "L1C" else ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE")
    value = product.text(*tags, error=RadiometryError)
    quantification = product.number(value, tags[0], 1, 1e6, RadiometryError)
    special: dict[str, int] = {}
    for element in product.all("Special_Values"):
        name, index = (element.findtext(f"SPECIAL_VALUE_{part}", "").strip() for part in ("TEXT", "INDEX"))
        special[name] = product.whole(index, f"the special value {name}", 0, 65535, RadiometryError)
    if "NODATA" not in special:
        raise RadiometryError(f"{product.location} does not say which value is NODATA: download the product again")
    nodata = special.pop("NODATA")
    baseline = product.findtext("PROCESSING_BASELINE") or ""
    tag = "RADIO_ADD_OFFSET" if level == "L1C" else "BOA_ADD_OFFSET"
    declared, names = _declared(product, tag), list(names)
    lacking = [name for name in names if declared and name not in declared]
    if lacking and given is None:
        raise RadiometryError(f"{product.location} gives offsets, but none of {', '.join(lacking)}: {SETTLE}")
    by_band = {}
    for name in names:
        offset = float(given or 0)
        if given is None:
            baselines, field = {"PROCESSING_BASELINE": baseline}, f"{tag} of {name}"
            offset = settled(product.location, declared.get(name), baselines, field=field, zero=True)
        by_band[name] = Radiometry(
            offset, 10000 / quantification, nodata, baseline or "unknown", product.location, special=special
        )
    return by_band


def _declared(product: Document, tag: str) -> dict[str, float]:
    offsets: dict[str, float] = {}
    for element in product.all(tag):
        number = product.whole(element.get("band_id"), f"band_id of {tag}", 0, len(_BAND_IDS) - 1, RadiometryError)
        band = _BAND_IDS[number]
        value = product.number(element.text, f"{tag} of {band}", -10000, 0, RadiometryError)
        if offsets.setdefault(band, value) != value:
            raise RadiometryError(
                f"{product.location} gives two offsets of {band}, {offsets[band]:g} and {value:g} DN: {SETTLE}"
            )
    return offsets


def place(tile: Document) -> GeoBox:
    """The 10 m pixels of a tile, whose edges the other grids share.

    Raises
    ------
    CRSError
        If it is not in a UTM zone.
    GridError
        If the three grids do not nest.
    """
    code = tile.text("HORIZONTAL_CS_CODE", error=CRSError)
    zone = re.fullmatch(r"EPSG:(32[67](0[1-9]|[1-5]\d|60))", code)
    if zone is None:
        raise CRSError(
            f"{tile.location}: HORIZONTAL_CS_CODE is {code[:40]!r}, but every Sentinel-2 tile is in a UTM zone"
        )
    boxes: dict[int, Bounds] = {}
    for gsd in GRIDS:
        size, corner = (_at(tile, tag, gsd) for tag in ("Size", "Geoposition"))
        rows, columns = (tile.whole(size.get(t), f"{t} at {gsd} m", 1, 1e6, GridError) for t in ("NROWS", "NCOLS"))
        left, top = (tile.whole(corner.get(t), f"{t} at {gsd} m", -1e8, 1e8, GridError) for t in ("ULX", "ULY"))
        steps = tuple(tile.number(corner.get(t), f"{t} at {gsd} m", -1e6, 1e6, GridError) for t in ("XDIM", "YDIM"))
        if steps != (gsd, -gsd):
            raise GridError(f"{tile.location}: pixels of the {gsd} m grid are {steps[0]:g} x {steps[1]:g} m")
        boxes[gsd] = (left, top - rows * gsd, left + columns * gsd, top)
    if len(set(boxes.values())) > 1:
        extents = "; ".join(f"{gsd} m {box}" for gsd, box in boxes.items())
        raise GridError(
            f"{tile.location}: the grids do not share their outer edges (left, bottom, right, top): {extents}; "
            "download the product again"
        )
    return geobox(boxes[10], 10, int(zone[1]))


def _at(tile: Document, tag: str, gsd: int) -> dict[str, str]:
    elements = [element for element in tile.all(tag) if element.get("resolution", "").strip() == str(gsd)]
    if len(elements) != 1:
        raise GridError(
            f"{tile.location} has {len(elements)} {tag} of {gsd} m instead of one; download the product again"
        )
    return {part.tag: part.text or "" for part in elements[0]}


def sensed(tile: Document) -> datetime:
    """When the tile was seen, UTC, without time zone: the time that Earth Search's items have too.

    Raises
    ------
    SourceError
        If the metadata have no such time, or it is not one of the mission.
    """
    text = tile.text("SENSING_TIME")
    time = sensing_time(text)
    if time is None:
        raise SourceError(f"{tile.location}: SENSING_TIME is {text[:60]!r}, not a time of Sentinel-2's mission")
    return time
