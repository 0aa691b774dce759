"""Raw pixels of one image file: checked against the metadata, then read lazily, whole tiles at a time."""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.etree.ElementTree import Element

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize
from dask.delayed import delayed

from xsen2.errors import CRSError, GridError, SourceError
from xsen2.grid import metres
from xsen2.sources.assemble import by_blocks
from xsen2.sources.calibration import Radiometry
from xsen2.sources.safe_files import Document, Files

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["Image", "as_dn", "as_flags", "as_is", "clouds"]


# Cloud masks of products before baseline 04.00, which are polygons: GML, drawn on the 60 m grid when it is computed.
#
# Their members are of the types OPAQUE and CIRRUS, outlined along pixels of 60 m (S2-PDGS-TAS-DI-PSD, version 14.6:
# ``MSK_CLOUDS``). A mask without members means that no clouds were found.


_BITS = {"OPAQUE": 1, "CIRRUS": 2}
"""As CLASSI has them since."""


def clouds(files: Files, inner: str, grid: GeoBox, side: int) -> da.Array:
    """Lazy (1, y, x) bits on the 60 m grid: 1 for opaque cloud, 2 for cirrus.

    Parameters
    ----------
    files : Files
    inner : str
        Path of the mask in the product.
    grid : GeoBox
        Of the tile's 60 m pixels.
    side : int
        Pixels of a chunk.
    """
    name = f"safe-CLASSI-{tokenize(files.location_of(inner), files.stamp(inner), grid)}"
    drawn = delayed(_draw, pure=True)(files, inner, grid, dask_key_name=name)
    mask = da.from_delayed(drawn, (1, *grid.shape), meta=np.empty((0, 0, 0), np.uint8))
    chunks: da.Array = mask.rechunk((1, side, side))
    return chunks


def _draw(files: Files, inner: str, grid: GeoBox) -> npt.NDArray[np.uint8]:
    from rasterio.features import rasterize

    assert grid.crs is not None
    document = files.document(inner)
    _check(document, grid.crs.epsg)
    out = np.zeros((1, *grid.shape), np.uint8)
    polygons = list(_polygons(document))
    for bit in _BITS.values():
        shapes = [polygon for kind, polygon in polygons if kind == bit]
        if shapes:
            burnt = rasterize(shapes, grid.shape, transform=grid.affine, dtype="uint8")
            out[0] |= burnt * np.uint8(bit)
    return out


def _check(document: Document, epsg: int | None) -> None:
    if document.root.tag != "Mask":
        raise SourceError(
            f"{document.location} begins with {document.root.tag[:60]!r}, not with Mask: it is not a mask of ESA's; "
            "download the product again"
        )
    for element in document.all("Envelope"):
        crs_name = element.get("srsName", "")
        code = re.search(r"EPSG:.*?(\d+)$", crs_name)
        if code is not None and int(code[1]) != epsg:
            raise CRSError(f"{document.location} is in {crs_name[:60]!r}, but MTD_TL.xml says EPSG:{epsg}")


def _polygons(document: Document) -> Iterator[tuple[int, dict[str, Any]]]:
    """Bit and GeoJSON of each polygon."""
    for member in document.all("MaskFeature"):
        kind = next((e.text or "" for e in member.iter("maskType")), "").strip()
        if kind not in _BITS:
            raise SourceError(
                f"{document.location} has a member of the type {kind[:40]!r}, not {' or '.join(_BITS)}: it is not a "
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
            f"{document.location} has a posList {text[:40]!r} that is no ring of coordinates: download the "
            "product again"
        )
    ring: list[list[float]] = points.tolist()
    return ring


Array = npt.NDArray[Any]
Decode = Callable[[Array], Array]

_DRIVERS = {".jp2": "JP2OpenJPEG", ".tif": "GTiff"}
_ENV = {
    # With several threads GDAL reads on over tiles of a cut-off JPEG 2000 file that cannot be decoded, and what
    # it returns is whatever was in memory; with one it says so. Chunks are read in parallel anyway.
    "GDAL_NUM_THREADS": "1",
    # No files beside the image, which could move it or change its values.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
}


def as_dn(raw: Array, meant: Radiometry) -> Array:
    """One layer as float DN."""
    return meant.dn(raw[0])


def as_is(raw: Array) -> Array:
    """One layer as it is."""
    out: Array = raw[0]
    return out


def as_flags(raw: Array) -> Array:
    """Several layers of 0 and 1 as the bits of one."""
    bits = np.uint8(1) << np.arange(len(raw), dtype=np.uint8)
    out: Array = ((raw != 0) * bits[:, None, None]).sum(0, dtype=np.uint8)
    return out


@dataclass(frozen=True)
class Image:
    """One image file.

    Attributes
    ----------
    href : str or pathlib.Path
        What GDAL opens it by.
    location : str
        The file, for messages.
    stamp : tuple of int
        Changes when the file is replaced.
    layers : int
        Bands in GDAL's sense.
    dtype : str
        Of the raw pixels.
    told : str
        Where the place is told, for messages.
    """

    href: str | Path
    location: str
    stamp: tuple[int, int]
    layers: int
    dtype: str
    told: str = "MTD_TL.xml"

    def blocks(self, grid: GeoBox) -> tuple[int, int]:
        """Rows and columns of the file's own tiles, after checking that the file is what the metadata say.

        Raises
        ------
        SourceError
            If it cannot be opened, is cut off, or has other layers.
        GridError
            If its size or its place is another.
        CRSError
            If its CRS is another.
        """
        from rasterio.crs import CRS
        from rasterio.errors import NotGeoreferencedWarning

        if isinstance(self.href, Path) and self.href.suffix == ".jp2":
            try:
                with self.href.open("rb") as stream:
                    _complete(stream, self.location)
            except OSError as error:
                raise SourceError(f"{self.location} cannot be read: {error.strerror}") from error
        assert grid.crs is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # an error below
            with _opened(self.href, self.location, "the header") as file:
                kind = (file.count, set(file.dtypes))
                crs, transform, shape = file.crs, file.transform, (file.height, file.width)
                block: tuple[int, int] = file.block_shapes[0]
        if kind != (self.layers, {self.dtype}):
            raise SourceError(
                f"{self.location} has {kind[0]} layers of {' and '.join(sorted(kind[1]))}, not {self.layers} of "
                f"{self.dtype}: it is not an image of ESA's; download the product again"
            )
        if shape != grid.shape:
            raise GridError(
                f"{self.location} has {shape[0]} x {shape[1]} pixels, but {self.told} says {grid.shape.y} x "
                f"{grid.shape.x}: download the product again"
            )
        if crs != CRS.from_epsg(grid.crs.epsg):
            raise CRSError(
                f"{self.location} is in {crs.to_string() if crs else 'no CRS'}, but {self.told} says {grid.crs}: "
                "download the product again"
            )
        if not transform.almost_equals(grid.affine, 1e-3):
            raise GridError(
                f"{self.location} has its corner at {transform.c:g}, {transform.f:g} and pixels of {transform.a:g} x "
                f"{transform.e:g} m, but {self.told} says {metres(*grid.affine[2:6:3])} and "
                f"{metres(grid.affine.a)} x {metres(grid.affine.e)} m: "
                "download the product again"
            )
        return block

    def array(self, name: str, grid: GeoBox, side: int, decode: Decode, dtype: npt.DTypeLike) -> da.Array:
        """Lazy (1, y, x) pixels after `decode`; chunks are whole tiles of the file, near `side` pixels wide."""
        read = partial(_read, href=self.href, location=self.location)
        what = (str(self.href), self.stamp)
        return by_blocks(read, decode, grid.shape, self.blocks(grid), side, dtype, f"safe-{name}", *what)


def _read(block_info: Any = None, *, href: str | Path, location: str, decode: Decode) -> Array:
    from rasterio.windows import Window

    _, (y0, y1), (x0, x1) = block_info[None]["array-location"]
    with _opened(href, location, f"rows {y0} to {y1}, columns {x0} to {x1}") as file:
        raw = file.read(window=Window(x0, y0, x1 - x0, y1 - y0))
    return decode(raw)[None]


@contextmanager
def _opened(href: str | Path, location: str, part: str) -> Iterator[Any]:
    """The file, for one read by one thread; `part` says in messages what is read."""
    import rasterio
    from rasterio.errors import RasterioError

    driver = _DRIVERS[os.path.splitext(href)[1]]  # no other: files of some formats name further files
    try:
        with rasterio.Env(**_ENV), rasterio.open(href, driver=driver) as file:
            yield file
    except (RasterioError, UnicodeError) as error:  # the latter when GDAL quotes bytes of a damaged file
        raise SourceError(
            f"{location}: {part} cannot be read as {driver} ({error}): the file is damaged or cut off, or this "
            f"build of GDAL lacks {driver} (pip's rasterio has it); download the product again"
        ) from error


def _complete(stream: BinaryIO, location: str) -> None:
    """Refuse a JPEG 2000 file that is cut off: ISO/IEC 15444-1, annex I (boxes) and A.4.4 (end of codestream)."""
    size, at = stream.seek(0, os.SEEK_END), 0
    while at + 8 <= size:
        stream.seek(at)
        head = stream.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        length = length or size - at
        if kind == b"jp2c":
            end = at + length
            stream.seek(max(end - 2, 0))
            if end <= size and stream.read(2) == b"\xff\xd9":
                return
            break
        at += max(length, 8)
    raise SourceError(f"{location} is cut off: its {size} bytes are not all of a JPEG 2000 image; download it again")
