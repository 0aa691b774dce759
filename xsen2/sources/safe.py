"""A lazy cube from a product as ESA delivers it: a .SAFE folder, or the zip that it came in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import xarray as xr

from xsen2.bands import BANDS, canonical
from xsen2.errors import BandError, SourceError, Xsen2Error, warn_once
from xsen2.grid import resized
from xsen2.sources import safe_aws
from xsen2.sources.assemble import product_cube, side_of
from xsen2.sources.calibration import Radiometry
from xsen2.sources.reading import ReadWarning
from xsen2.sources.safe_files import Files
from xsen2.sources.safe_metadata import GSD, Granule, granules, level_of, masks, place, radiometry, sensed
from xsen2.sources.safe_pixels import Decode, Image, as_dn, as_flags, as_is, clouds

if TYPE_CHECKING:
    pass

__all__ = ["Need", "asked", "open_safe", "settle"]


# What ESA's products have in common, whatever their format: names, layers that are no bands, the cube made of them.


EXTRA = ("SCL", "CLDPRB", "CLASSI")
"""Layers that can be read of a product."""


class Need(Enum):
    """How much a band or layer is wanted."""

    MUST = "must be there"
    LIKE = "is read where it is there; a warning says so where not"
    MAY = "is read where it is there"


def asked(
    bands: Sequence[str] | None, listed: Mapping[str, Any], location: str, extra: str, optional: Sequence[str] = ()
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
    layers = {name: str(name).upper() for name in given if str(name).upper() in EXTRA}
    names = dict.fromkeys((layers.get(name) or canonical([name])[0] for name in given), Need.MUST)
    if not names:
        raise BandError(f"{location} lists no band on its native grid, or bands= is empty: name those to read")
    missing = [name for name in names if name not in listed]
    if missing:
        raise BandError(
            f"{location} lists no image of {', '.join(missing)} on the native grid; it has "
            f"{', '.join(sorted(listed))}: name some of those in bands="
        )
    if not optional:
        return names
    names |= {name: Need.MAY for name in (*optional, extra) if name in listed and name not in names}
    return {name: names[name] for name in (*BANDS, *EXTRA) if name in names}


def settle(
    images: Mapping[str, object],
    names: Mapping[str, Need],
    what: str,
    paths: Mapping[str, str],
    remedy: str | None,
    error: type[Xsen2Error],
) -> None:
    """Raise an error or warn, once, about images that are missing (None in `images`).

    What the caller named must be there. Of all that a product should have, a single band is enough: what a method
    cannot do without, it reports itself, so that one message lists all of it.
    """
    present = [name for name, image in images.items() if image is not None]
    missing = [name for name, image in images.items() if image is None]
    required = [name for name in missing if names[name] is Need.MUST]
    expected = [name for name in missing if names[name] is Need.LIKE]
    if required or not any(name in BANDS or names[name] is Need.MUST for name in present):
        lost = ", ".join(f"{name} ({paths[name]})" for name in required or expected)
        hint = remedy or (f"or read what is there with bands={present}" if present else "")
        raise error(f"{what}, these images are missing: {lost}. Download it again{hint and f', {hint}'}")
    if expected:
        lost = ", ".join(f"{name} ({paths[name]})" for name in expected)
        warn_once(
            f"{what}, these images are missing and are left out: {lost}; the cube has {', '.join(present)}", ReadWarning
        )


_SUFFIXES = (".jp2", ".tif")  # ESA's, and those of products that were processed for the Planetary Computer


def open_safe(
    path: str | os.PathLike[str],
    bands: Sequence[str] | None = None,
    chunks: int = 2048,
    *,
    tile: str | None = None,
    offset: float | None = None,
) -> xr.Dataset:
    """Make a lazy cube of a Sentinel-2 product: every band on the grid that it was measured on.

    The product's own metadata say which file is which band, what its pixels mean and where they lie;
    the files' headers are checked against them. No pixel is read before the cube is computed.

    Parameters
    ----------
    path : str or os.PathLike
        A ``.SAFE`` folder or a ``.zip`` with one, which is not extracted; its ``MTD_MSI*.xml``, the folder of one of
        its tiles in ``GRANULE``, or a folder that holds nothing else named ``.SAFE``. L1C or L2A, of any processing
        baseline, in the naming of today or that of until 2016, with images in JPEG 2000 or GeoTIFF. Or a tile as it
        lies in AWS's buckets ``sentinel-s2-l1c`` and ``-l2a``: a folder, or a zip of one, with ``metadata.xml`` and
        ``tileInfo.json`` beside the images; its offset follows from the processing baseline.
    bands : sequence of str, optional
        Bands in any catalogue's words (``"red"``, ``"B04"``), and layers that are no bands: ``"SCL"``
        (scene classification of L2A), ``"CLDPRB"`` (cloud probability of L2A, per cent), ``"CLASSI"``
        (opaque cloud, cirrus and snow masks of L1C, as bits 1, 2 and 4; before baseline 04.00 there is none
        of snow, and the others are polygons, which are drawn on the 60 m grid). By default all bands that the
        product lists on their native grid, with SCL, or of L1C with CLASSI if its file is there; one that is not there
        is left out with a `ReadWarning`. B10 never.
    chunks : int
        Pixels of the 10 m grid along y and x in one dask chunk; the other grids get a half and a sixth
        of it. Moved to the nearest multiple of the tiles inside each file (ESA's are 1024, 640 and 192
        pixels wide), so that each of them is decoded once.
    tile : str, optional
        MGRS name of the tile, such as ``"32TQM"``: products until 2016 hold several.
    offset : float, optional
        DN to add to the pixels, when the metadata do not settle it or are known to be wrong: -1000
        where pixels carry ESA's +1000 (processing baseline 04.00 and later), 0 where not.

    Returns
    -------
    xarray.Dataset
        A cube of one date, as `load` gives it: bands named B01 … B12, B8A, float32 DN (10000 x
        reflectance, offset removed), NaN where the raw pixel is the metadata's NODATA; dims ``(time,
        y, x)``, ``(time, y_20m, x_20m)``, ``(time, y_60m, x_60m)``; pixel centres as coordinates;
        `spatial_ref`. SCL and masks are uint8 on their native grid; 0 in SCL means no data. Saturated
        pixels keep their value. The coordinate `offset` tells what was added to the pixels. `time` is
        the tile's own sensing time, which Earth Search's items have too.

    Raises
    ------
    SourceError
        If there is no product, or several tiles and no `tile`; if metadata or images are missing,
        damaged or not safe to read. A damaged image may show only when it is decoded.
    BandError
        If a band is unknown, or the product does not list it.
    RadiometryError
        If the metadata about quantification, offset or nodata are missing or contradict each other.
    GridError
        If the grids do not nest, an image has another size or place than the metadata say, or `chunks`
        is not a positive integer.
    CRSError
        If the CRS is not a UTM zone, or an image has another.

    Notes
    -----
    Offset and quantification are those of ``MTD_MSI*.xml``: DN = (raw + ``RADIO_ADD_OFFSET`` or
    ``BOA_ADD_OFFSET``) x 10000 / quantification (Sentinel-2 Products Specification Document, ESA).
    ``superresolve(mask="scl")`` and ``mask="classi"`` set clouds to nodata.

    A zip whose images are compressed once more is unpacked from the beginning of an image up to the
    pixels in question at each read: extract it where reading takes longer than inference.

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.open_safe("S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE")  # doctest: +SKIP
    >>> sr = cube.dsen2.superresolve()  # doctest: +SKIP
    >>> cube.attrs["offset"]  # doctest: +SKIP
    "removed once: -1000 DN added to the raw pixels; per date in the coordinate 'offset'"
    """
    return read(path, bands, chunks, tile=tile, offset=offset)


def read(
    path: str | os.PathLike[str],
    bands: Sequence[str] | None = None,
    chunks: int = 2048,
    *,
    tile: str | None = None,
    offset: float | None = None,
    optional: Sequence[str] = (),
    remedy: str | None = None,
) -> xr.Dataset:
    """As `open_safe`, and of the bands `optional`, and the layer that comes unasked, what is there.

    `remedy` is what messages say to do when a band of `bands` is missing.
    """
    side = side_of(chunks)
    files = Files.open(path)
    product = None if files.metadata is None else files.document(files.metadata)
    if files.aws:
        about = files.document(safe_aws.METADATA)
        level = safe_aws.level_of(about)
        granule = safe_aws.granule(about, level)
        granule = _granule({granule.tile: granule}, tile, about.location)
        drawn = safe_aws.masks(masks(about, ""))
    else:
        assert product is not None
        level = level_of(product)
        granule = _granule(_named(granules(product), files), tile, product.location)
        about = files.document(granule.metadata)
        drawn = masks(about, granule.metadata.rpartition("/")[0])
    listed = {name: [p + s for p in stems for s in _SUFFIXES] for name, stems in granule.images.items()}
    listed |= {
        name: list(paths)
        for name, paths in drawn.items()
        if any(map(files.has, paths)) or not (files.aws or paths[0].endswith(".gml"))
    }  # products are passed on without their GML
    extra = "CLASSI" if level == "L1C" and any(map(files.has, listed.get("CLASSI", ()))) else "SCL"
    names = located(files, listed, asked(bands, listed, about.location, extra, optional), remedy)
    wanted = [name for name in names if name in BANDS]
    if product is None:
        meant = safe_aws.radiometry(files, about, wanted, offset)
    else:
        meant = radiometry(product, level, wanted, offset)
    grid = place(about)
    origin = "metadata.xml" if files.aws else "MTD_TL.xml"
    time = sensed(about)

    arrays: dict[str, da.Array] = {}
    for name, inner in names.items():
        gsd = GSD[name]
        if inner.endswith(".gml"):
            arrays[name] = clouds(files, inner, resized(grid, gsd), side * 10 // gsd)
            continue
        dtype, layers = ("uint16", 1) if name in BANDS else ("uint8", 3 if name == "CLASSI" else 1)
        image = Image(files.href(inner), files.location_of(inner), files.stamp(inner), layers, dtype, origin)
        arrays[name] = image.array(name, resized(grid, gsd), side * 10 // gsd, *_decoder(name, meant))
    known = product.findtext("PRODUCT_URI", "PRODUCT_URI_2A") if product else safe_aws.name_of(files)
    identifier = (known or files.name).removesuffix(".SAFE")
    platform = product.findtext("SPACECRAFT_NAME") if product else re.sub(r"^S(2[A-Z])_.*", r"Sentinel-\1", known or "")
    declared = product.findtext("PROCESSING_BASELINE") if product else None
    baseline = declared or next((radiometry.baseline for radiometry in meant.values()), "unknown")
    return product_cube(
        arrays,
        grid,
        time,
        meant,
        product=identifier,
        tile=granule.tile,
        level=level,
        platform=platform or "unknown",
        baseline=baseline,
    )


def _named(tiles: Mapping[str, Granule], files: Files) -> Mapping[str, Granule]:
    """The tiles of a product; only one of them if the product was given by the folder of that tile."""
    if files.granule is None:
        return tiles
    chosen = {
        name: granule for name, granule in tiles.items() if granule.metadata.startswith(f"GRANULE/{files.granule}/")
    }
    if not chosen:
        raise SourceError(f"{files.path} does not list the tile in GRANULE/{files.granule}: give the product's folder")
    return chosen


def _granule(granules: Mapping[str, Granule], tile: str | None, location: str) -> Granule:
    if tile is None and len(granules) == 1:
        return next(iter(granules.values()))
    wanted = str(tile).upper().removeprefix("T")
    if tile is None or wanted not in granules:
        asked = f"not {wanted!r}" if tile is not None else "and a cube has one"
        raise SourceError(
            f"{location} is of the tiles {', '.join(sorted(granules))}, {asked}: name one with tile=, or give its "
            "folder in GRANULE"
        )
    return granules[wanted]


def located(
    files: Files, listed: Mapping[str, Sequence[str]], names: Mapping[str, Need], remedy: str | None
) -> dict[str, str]:
    """Name → path of the image in the product, of all that are there."""
    paths = {name: next((path for path in listed[name] if files.has(path)), None) for name in names}
    settle(
        paths, names, f"{files.path} is not complete", {name: listed[name][0] for name in names}, remedy, SourceError
    )
    return {name: path for name, path in paths.items() if path is not None}


def _decoder(name: str, meant: Mapping[str, Radiometry]) -> tuple[Decode, str]:
    """What turns raw pixels into those of the cube, and the dtype of these."""
    if name in BANDS:
        return partial(as_dn, meant=meant[name]), "float32"
    return (as_flags if name == "CLASSI" else as_is), "uint8"
