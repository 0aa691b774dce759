"""Cloud masks of products before baseline 04.00, which are polygons: GML, drawn on the 60 m grid when it is computed.

Their members are of the types OPAQUE and CIRRUS, outlined along pixels of 60 m (S2-PDGS-TAS-DI-PSD, version 14.6:
``MSK_CLOUDS``). A mask without members means that no clouds were found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize
from dask.delayed import delayed

from xsen2.errors import CRSError, SourceError
from xsen2.sources._area import CELL, Box
from xsen2.sources._safe_files import Files
from xsen2.sources._safe_xml import Document

__all__ = ["clouds"]

_BITS = {"OPAQUE": 1, "CIRRUS": 2}
"""As CLASSI has them since."""


def clouds(files: Files, inner: str, box: Box, epsg: int, side: int) -> da.Array:
    """Lazy (1, y, x) bits on the 60 m grid: 1 for opaque cloud, 2 for cirrus.

    Parameters
    ----------
    files : Files
    inner : str
        Path of the mask in the product.
    box, epsg
        Place of the tile.
    side : int
        Pixels of a chunk.
    """
    left, bottom, right, top = box
    shape = (1, (top - bottom) // CELL, (right - left) // CELL)
    name = f"safe-CLASSI-{tokenize(files.where(inner), files.stamp(inner), box)}"
    drawn = delayed(_draw, pure=True)(files, inner, box, epsg, dask_key_name=name)
    whole = da.from_delayed(drawn, shape, meta=np.empty((0, 0, 0), np.uint8))
    chunks: da.Array = whole.rechunk((1, side, side))
    return chunks


def _draw(files: Files, inner: str, box: Box, epsg: int) -> npt.NDArray[np.uint8]:
    from rasterio.features import rasterize
    from rasterio.transform import from_origin

    left, bottom, right, top = box
    shape = ((top - bottom) // CELL, (right - left) // CELL)
    document = files.document(inner)
    _check(document, epsg)
    out = np.zeros((1, *shape), np.uint8)
    polygons = list(_polygons(document))
    for bit in _BITS.values():
        one = [polygon for kind, polygon in polygons if kind == bit]
        if one:
            burnt = rasterize(one, shape, transform=from_origin(left, top, CELL, CELL), dtype="uint8")
            out[0] |= burnt * np.uint8(bit)
    return out


def _check(document: Document, epsg: int) -> None:
    if document.root.tag != "Mask":
        raise SourceError(
            f"{document.where} begins with {document.root.tag[:60]!r}, not with Mask: it is not a mask of ESA's; "
            "download the product again"
        )
    for element in document.all("Envelope"):
        said = element.get("srsName", "")
        code = re.search(r"EPSG:.*?(\d+)$", said)
        if code is not None and int(code[1]) != epsg:
            raise CRSError(f"{document.where} is in {said[:60]!r}, but MTD_TL.xml says EPSG:{epsg}")


def _polygons(document: Document) -> Iterator[tuple[int, dict[str, Any]]]:
    """Bit and GeoJSON of each polygon."""
    for member in document.all("MaskFeature"):
        kind = next((e.text or "" for e in member.iter("maskType")), "").strip()
        if kind not in _BITS:
            raise SourceError(
                f"{document.where} has a member of the type {kind[:40]!r}, not {' or '.join(_BITS)}: it is not a "
                "cloud mask of ESA's; download the product again"
            )
        for polygon in member.iter("Polygon"):
            rings = [_ring(e, document) for part in ("exterior", "interior") for e in polygon.iter(part)]
            if rings:
                yield _BITS[kind], {"type": "Polygon", "coordinates": rings}


def _ring(element: Element, document: Document) -> list[list[float]]:
    text = " ".join(e.text or "" for e in element.iter("posList"))
    try:
        points = np.array(text.split(), np.float64).reshape(-1, 2)
    except ValueError:
        points = np.empty((0, 2))
    if len(points) < 4 or not (np.abs(points) < 1e8).all():
        raise SourceError(
            f"{document.where} has a posList {text[:40]!r} that is no ring of coordinates: download the product again"
        )
    ring: list[list[float]] = points.tolist()
    return ring
