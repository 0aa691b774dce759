"""The files of a product, in a folder or in a zip: by their paths inside it, and by no others."""

from __future__ import annotations

import math
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from xsen2.errors import SourceError, Xsen2Error
from xsen2.files import local

__all__ = ["Document", "Files", "given", "inside", "is_product", "product_name"]


# XML of a product, read without trusting it.
#
# defusedxml refuses any document type: without one there are no entities to expand and no external files to fetch.
# ESA's metadata never have one. Size, elements and nesting are bounded.


LIMIT = 16 * 2**20
"""Bytes of the longest file that is read: the metadata of a tile are about 0.5 MB, those of 15 tiles 2 MB, a cloud mask
of polygons 1 MB."""

_MARKS = 600_000  # signs "<", two of most elements: 15 tiles have about 40 000, a large cloud mask 100 000

_DEPTH = 64  # the metadata nest about ten deep
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)


@dataclass(frozen=True)
class Document:
    """One metadata file; its tags are those of the file without namespace.

    Attributes
    ----------
    root : xml.etree.ElementTree.Element
    location : str
        The file, for messages.
    """

    root: Element
    location: str

    @classmethod
    def parse(cls, data: bytes, location: str) -> Document:
        """The document in `data`.

        Raises
        ------
        SourceError
            If it is not well-formed, has a document type, or nests deeper than any metadata.
        """
        return cls(_tree(data, location), location)

    def all(self, *tags: str) -> Iterator[Element]:
        """Every element that has one of these tags, at any depth, in the order of the file."""
        return (element for element in self.root.iter() if element.tag in tags)

    def text(self, *tags: str, error: type[Xsen2Error] = SourceError) -> str:
        """The text of the first element that has one of these tags and is not empty.

        Raises
        ------
        Xsen2Error
            The kind that `error` says, if there is none.
        """
        value = self.findtext(*tags)
        if value is None:
            raise error(f"{self.location} has no {' or '.join(tags)}: it is not complete; download the product again")
        return value

    def findtext(self, *tags: str) -> str | None:
        """The same as `text`, or None where there is none."""
        return next((value for element in self.all(*tags) if (value := (element.text or "").strip())), None)

    def number(
        self, value: str | None, what: str, low: float, high: float, error: type[Xsen2Error] = SourceError
    ) -> float:
        """`value` as a number from `low` to `high`.

        Raises
        ------
        Xsen2Error
            The kind that `error` says, if it is none.
        """
        text = "" if value is None else value.strip()
        number = float(text) if _NUMBER.fullmatch(text) and len(text) < 40 else math.nan
        if not low <= number <= high:
            raise error(
                f"{self.location}: {what} is {text[:40]!r}, not a number from {low:g} to {high:g}; "
                "download the product again"
            )
        return number

    def whole(
        self, value: str | None, what: str, low: float, high: float, error: type[Xsen2Error] = SourceError
    ) -> int:
        """The same as `number`, for one without fraction."""
        number = self.number(value, what, low, high, error)
        if number != round(number):
            raise error(f"{self.location}: {what} is {value!r}, not a whole number; download the product again")
        return round(number)


class _Builder(TreeBuilder):
    """Tags without namespace, nested no deeper than any metadata."""

    def __init__(self, location: str) -> None:
        super().__init__()
        self.location, self.depth = location, 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self.depth += 1
        if self.depth > _DEPTH:
            raise SourceError(f"{self.location} nests over {_DEPTH} deep: these are not the metadata of a product")
        return super().start(_local(tag), attrs)

    def end(self, tag: str, /) -> Element:
        self.depth -= 1
        return super().end(_local(tag))


def _tree(data: bytes, location: str) -> Element:
    """The only place where XML is parsed."""
    from defusedxml.common import DTDForbidden
    from defusedxml.ElementTree import XMLParser

    if len(data) > LIMIT or data.count(b"<") > _MARKS:
        raise SourceError(
            f"{location} is over {LIMIT >> 20} MB or has over {_MARKS // 2} elements: these are not the metadata of a "
            "product"
        )
    try:
        text = data.decode("utf-8-sig")  # as all of ESA's; what is counted above is counted in it
        declaration = re.match(r"<\?xml[^>]*?encoding\s*=\s*[\"'](.*?)[\"']", text)
        if declaration is not None and declaration[1].lower() not in ("utf-8", "us-ascii"):
            raise LookupError(f"encoding {declaration[1][:40]!r}, not UTF-8")
        parser = XMLParser(target=_Builder(location), forbid_dtd=True)
        parser.feed(text)
        root: Element = parser.close()
    except DTDForbidden as error:
        raise SourceError(
            f"{location} declares a document type, which ESA's metadata never do and which can make a reader "
            "expand entities or fetch other files: it is not read; download the product again"
        ) from error
    except Xsen2Error:
        raise
    except (ParseError, LookupError, ValueError) as error:  # ValueError: the encoding
        raise SourceError(f"{location} is not well-formed XML ({error}): download the product again") from error
    return root


def _local(name: str) -> str:
    """A tag without its namespace; expat joins them by a brace."""
    return name.rpartition("}")[2].rpartition(":")[2]


_METADATA = re.compile(r"(MTD_MSIL(1C|2A)|S2[A-Z]_[A-Z]{4}_MTD_SAFL(1C|2A)_?.*)\.xml")
"""Name of the metadata of a whole product: compact naming, and the long one used until 2016."""

_PRODUCT_FILE = re.compile(
    r"MTD_TL\.xml|S2[A-Z]_.*_MTD_L(1C|2A)_TL_.*\.xml|manifest\.safe|tileInfo\.json|productInfo\.json"
)
"""Other files of a product, by which people name it."""

_LARGEST = 1 << 30
"""Bytes of the largest file in a zip: a band of 10 m has 241 MB before compression."""

_UNSAFE = re.compile(r"[\\:\x00-\x1f]")


def inside(path: str, location: str) -> str:
    """`path`, when it is a plain relative one.

    Raises
    ------
    SourceError
        If it could lead out of the product.
    """
    if _UNSAFE.search(path) or any(part in ("", ".", "..") for part in path.split("/")):
        raise SourceError(
            f"{location} names the file {path[:200]!r}, which is not a plain path inside the product: it is not read; "
            "download the product again"
        )
    return path


@dataclass(frozen=True)
class Files:
    """A product's files.

    Attributes
    ----------
    path : pathlib.Path
        The folder or the zip, absolute.
    root : str
        What the product's own paths begin with inside a zip, ``""`` or ending in a slash.
    metadata : str or None
        Name of the metadata of the whole product, in its root; None where there are only those of a tile.
    entries : mapping or None
        The files of a zip and their sizes, -1 for links; None for a folder.
    granule : str or None
        Name of the tile's folder in ``GRANULE`` that was asked for.
    aws : bool
        Whether files lie as in the buckets ``sentinel-s2-l1c`` and ``-l2a``, not as ESA delivers them.
    """

    path: Path
    root: str
    metadata: str | None
    entries: Mapping[str, int] | None
    granule: str | None = None
    aws: bool = False

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Files:
        """The product at `path`.

        Raises
        ------
        SourceError
            If there is none, or more than one.
        """
        here = given(path)
        granule = None
        if here.is_file() and here.suffix.lower() in (".xml", ".safe", ".json"):
            here = here.parent  # one of the product's own files, by which GDAL and SNAP open it
        if here.is_dir():
            here, granule = _folder(here)
            names = _listed(here)
            products = [name for name in names if _METADATA.fullmatch(name)]
            if is_tile(names) and "GRANULE" not in names:
                return cls(here, "", _single(products, here) if products else None, None, None, True)
            return cls(here, "", _single(products, here), None, granule)
        if not here.is_file():
            state = "leads nowhere" if here.is_symlink() else "is no file" if here.exists() else "does not exist"
            raise SourceError(f"{here} {state}: give a .SAFE folder, or the .zip that it came in")
        entries = _entries(here)
        products = _highest(name for name in entries if _METADATA.fullmatch(name.rpartition("/")[2]))
        if not products:
            homes = {name.rpartition("/")[0] for name in entries}
            tiles = sorted(home for home in homes if is_tile(_children(entries, home)))
            if tiles:
                home = inside(_single(tiles, here), str(here)) if tiles != [""] else ""
                return cls(here, f"{home}/".lstrip("/"), None, entries, None, True)
        folder, slash, name = inside(_single(products, here), str(here)).rpartition("/")
        return cls(here, folder + slash, name, entries)

    @property
    def name(self) -> str:
        """Name of the folder that is the product, without ``.SAFE``."""
        folder = self.root.rstrip("/").rpartition("/")[2] or self.path.name.removesuffix(".zip")
        return folder.removesuffix(".SAFE")

    def has(self, path: str) -> bool:
        """Whether there is a file at `path` in the product.

        Raises
        ------
        SourceError
            If there is something else: a link that leads out of the product, a pipe, a device.
        """
        if self.entries is not None:
            size = self.entries.get(self.root + path)
            if size == -1:
                raise SourceError(
                    f"{self.location_of(path)} is a link, which is not followed: download the product again"
                )
            if size is not None and size > _LARGEST:
                raise SourceError(
                    f"{self.location_of(path)} unpacks to {size >> 20} MB, which no file of a product does: it is not "
                    "read; download the product again"
                )
            return size is not None
        file = self.path / path
        if not os.path.lexists(file) or file.is_dir():
            return False
        if not file.is_file():
            kind = "a link that leads nowhere" if file.is_symlink() else "no file but a pipe, a socket or a device"
            raise SourceError(f"{file} is {kind}: it is not read; download the product again")
        home = os.path.realpath(self.path)
        if os.path.commonpath((home, os.path.realpath(file))) != home:
            raise SourceError(
                f"{file} is, or lies behind, a link that leads out of the product: it is not read; put the file itself "
                "in its place"
            )
        return True

    def href(self, path: str) -> str | Path:
        """What GDAL opens the file at `path` by; nothing is extracted."""
        if self.entries is not None:
            return f"/vsizip/{{{self.path}}}/{self.root}{path}"
        return self.path / path

    def location_of(self, path: str) -> str:
        """The file at `path`, for messages."""
        return str(self.path / self.root / path)

    def stamp(self, path: str) -> tuple[int, int]:
        """Size and time of the file on disk that holds `path`: they differ once it has been replaced."""
        file = self.path if self.entries is not None else self.path / path
        try:
            about = file.stat()
        except OSError as error:
            raise SourceError(f"{file} cannot be looked at: {error.strerror}") from error
        return about.st_size, about.st_mtime_ns

    def document(self, path: str) -> Document:
        """The XML file at `path`.

        Raises
        ------
        SourceError
            If it is missing, cannot be read, or is not plain XML.
        """
        return Document.parse(self.content(path), self.location_of(path))

    def content(self, path: str) -> bytes:
        """All bytes of the metadata at `path`.

        Raises
        ------
        SourceError
            If they are missing, cannot be read, or are too many.
        """
        location = self.location_of(path)
        if not self.has(path):
            raise SourceError(f"{location} is missing: the product is not complete; download it again")
        try:
            if self.entries is None:
                with (self.path / path).open("rb") as file:
                    data = file.read(LIMIT + 1)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.root + path) as member:
                    data = member.read(LIMIT + 1)
        except Exception as error:  # zipfile raises half a dozen kinds for a member that is damaged or encrypted
            raise SourceError(f"{location} cannot be read ({error}): download the product again") from error
        if len(data) > LIMIT:
            raise SourceError(f"{location} is over {LIMIT >> 20} MB: these are not the metadata of a product")
        return data


def given(path: str | os.PathLike[str]) -> Path:
    """The path that a user means.

    Raises
    ------
    SourceError
        If it is one in GDAL's own words, naming what to give instead.
    """
    text = os.fspath(path)
    match = re.fullmatch(r'SENTINEL2_\w+:"?(.+?)"?(:((10|20|60)m|TCI|PREVIEW))?(:EPSG_\d+)?', str(text))
    inner = match[1] if match else str(text)
    if virtual := re.match(r"(/vsi\w+/)+\{?(/?.*?\.zip)?", inner):
        inner = virtual[2] or inner.removeprefix(virtual[1])
    if inner != text:
        raise SourceError(
            f"{text} is what GDAL calls a part of a product: give the path of the product itself, {inner}, and say "
            "with bands= what to read; a zip is read as it is"
        )
    return local(path)


def is_product(path: str | os.PathLike[str]) -> bool:
    """Whether something at `path` looks like a product, whole or not."""
    here = given(path)
    name = here.name
    if here.is_file():
        recognised = (
            _METADATA.fullmatch(name) or _PRODUCT_FILE.fullmatch(name) or name.lower().endswith((".safe", ".zip"))
        )
        return bool(recognised) or (name == "metadata.xml" and is_tile(_listed(here.parent)))
    if not here.is_dir():
        return False
    names = _listed(here)
    return (
        any(n.lower().endswith(".safe") or _METADATA.fullmatch(n) or _PRODUCT_FILE.fullmatch(n) for n in (name, *names))
        or "GRANULE" in (name, here.parent.name)
        or is_tile(names)
    )


def product_name(path: str | os.PathLike[str]) -> str:
    """What a product, or whatever else lies at `path`, is called, by whichever of its own files it was given."""
    here = given(path)
    if _METADATA.fullmatch(here.name) or _PRODUCT_FILE.fullmatch(here.name) or here.name in ("GRANULE", "metadata.xml"):
        here = here.parent
    if here.parent.name == "GRANULE":
        here = here.parent.parent
    tile = re.search(r"/tiles/(\d+)/([C-X])/([A-Z]{2})/(\d{4})/(\d+)/(\d+)/(\d+)$", here.as_posix())
    if tile is not None:  # of AWS's folders the last part is a number
        zone, band, square, year, month, day, number = tile.groups()
        return f"T{int(zone):02}{band}{square}_{year}{int(month):02}{int(day):02}_{number}"
    return here.name


def is_tile(names: Iterable[str]) -> bool:
    """Whether a folder with these files and folders in it is a tile of AWS's buckets."""
    names = set(names)
    return "tileInfo.json" in names or ("metadata.xml" in names and bool(names & {"R10m", "R20m", "R60m", "B02.jp2"}))


def _folder(here: Path) -> tuple[Path, str | None]:
    """The folder that is the product, from one round it or in it; and the name of the tile's folder that was given."""
    names = _listed(here)
    if any(_METADATA.fullmatch(name) for name in names) or is_tile(names):
        return here, None
    if here.parent.name == "GRANULE":
        return here.parent.parent, here.name
    if here.name == "GRANULE":
        return here.parent, None
    within = [name for name in names if name.lower().endswith(".safe") and (here / name).is_dir()]
    if len(within) > 1:
        raise SourceError(f"{here} holds several products ({', '.join(within[:9])}): open each by itself")
    return (here / within[0] if within else here), None


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise SourceError(f"{folder} cannot be looked into: {error.strerror}") from error


def _children(entries: Iterable[str], home: str) -> set[str]:
    start = f"{home}/".lstrip("/")
    return {name[len(start) :].partition("/")[0] for name in entries if name.startswith(start)}


def _highest(names: Iterable[str]) -> list[str]:
    ordered = sorted(names)
    depth = min((name.count("/") for name in ordered), default=0)
    return [name for name in ordered if name.count("/") == depth]


def _entries(path: Path) -> dict[str, int]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename: -1 if stat.S_ISLNK(info.external_attr >> 16) else info.file_size
                for info in archive.infolist()
                if not info.is_dir()
            }
    except Exception as error:  # as above
        raise SourceError(
            f"{path} is not a zip that can be read ({error}): give a .SAFE folder or its .zip; if it is one, download "
            "it again"
        ) from error


def _single(products: list[str], path: Path) -> str:
    if len(products) == 1:
        return products[0]
    if products:
        raise SourceError(f"{path} holds several products ({', '.join(products[:9])}): open each by itself")
    raise SourceError(
        f"{path} has no MTD_MSIL1C.xml, MTD_MSIL2A.xml or S2…_MTD_SAFL….xml, nor a tile's metadata.xml as in AWS's "
        "buckets: it is not a Sentinel-2 L1C or L2A product that can be opened. Give the folder named .SAFE itself, or "
        "its zip"
    )
