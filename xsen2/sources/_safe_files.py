"""The files of a product, in a folder or in a zip: by their paths inside it, and by no others."""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from xsen2.errors import SourceError
from xsen2.sources._safe_xml import LIMIT, Document

__all__ = ["Files", "inside"]

_METADATA = re.compile(r"(MTD_MSIL(1C|2A)|S2[A-Z]_[A-Z]{4}_MTD_SAFL(1C|2A)_?.*)\.xml")
"""Name of the metadata of a whole product: compact naming, and the long one used until 2016."""

_UNSAFE = re.compile(r"[\\:\x00-\x1f]")


def inside(path: str, where: str) -> str:
    """`path`, when it is a plain relative one.

    Raises
    ------
    SourceError
        If it could lead out of the product.
    """
    if _UNSAFE.search(path) or any(part in ("", ".", "..") for part in path.split("/")):
        raise SourceError(
            f"{where} names the file {path[:200]!r}, which is not a plain path inside the product: it is not read; "
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
    metadata : str
        Name of the metadata of the whole product, in its root.
    entries : frozenset of str or None
        The files of a zip; None for a folder.
    """

    path: Path
    root: str
    metadata: str
    entries: frozenset[str] | None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Files:
        """The product at `path`.

        Raises
        ------
        SourceError
            If there is none, or more than one.
        """
        here = Path(path).absolute()
        if here.is_dir():
            names = sorted(entry.name for entry in here.iterdir())
            return cls(here, "", _one([name for name in names if _METADATA.fullmatch(name)], here), None)
        if not here.is_file():
            raise SourceError(f"{here} does not exist: give a .SAFE folder, or the .zip that it came in")
        entries = _entries(here)
        found = sorted(name for name in entries if _METADATA.fullmatch(name.rpartition("/")[2]))
        highest = min((name.count("/") for name in found), default=0)
        chosen = _one([name for name in found if name.count("/") == highest], here)
        folder, slash, name = inside(chosen, str(here)).rpartition("/")
        return cls(here, folder + slash, name, entries)

    @property
    def name(self) -> str:
        """Name of the folder that is the product, without ``.SAFE``."""
        own = self.root.rstrip("/").rpartition("/")[2] or self.path.name.removesuffix(".zip")
        return own.removesuffix(".SAFE")

    def has(self, path: str) -> bool:
        """Whether there is a file at `path` in the product."""
        if self.entries is not None:
            return self.root + path in self.entries
        return (self.path / path).is_file()

    def href(self, path: str) -> str | Path:
        """What GDAL opens the file at `path` by; nothing is extracted."""
        if self.entries is not None:
            return f"/vsizip/{{{self.path}}}/{self.root}{path}"
        return self.path / path

    def where(self, path: str) -> str:
        """The file at `path`, for messages."""
        return str(self.path / self.root / path)

    def stamp(self, path: str) -> tuple[int, int]:
        """Size and time of the file on disk that holds `path`: they differ once it has been replaced."""
        about = (self.path if self.entries is not None else self.path / path).stat()
        return about.st_size, about.st_mtime_ns

    def document(self, path: str) -> Document:
        """The XML file at `path`.

        Raises
        ------
        SourceError
            If it is missing, cannot be read, or is not plain XML.
        """
        where = self.where(path)
        if not self.has(path):
            raise SourceError(f"{where} is missing: the product is not complete; download it again")
        try:
            if self.entries is None:
                with (self.path / path).open("rb") as file:
                    data = file.read(LIMIT + 1)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.root + path) as member:
                    data = member.read(LIMIT + 1)
        except Exception as error:  # zipfile raises half a dozen kinds for a member that is damaged or encrypted
            raise SourceError(f"{where} cannot be read ({error}): download the product again") from error
        if len(data) > LIMIT:
            raise SourceError(f"{where} is over {LIMIT >> 20} MB: these are not the metadata of a product")
        return Document.parse(data, where)


def _entries(path: Path) -> frozenset[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(info.filename for info in archive.infolist() if not info.is_dir())
    except Exception as error:  # as above
        raise SourceError(
            f"{path} is not a zip that can be read ({error}): give a .SAFE folder or its .zip; if it is one, download "
            "it again"
        ) from error


def _one(found: list[str], path: Path) -> str:
    if len(found) == 1:
        return found[0]
    if found:
        raise SourceError(f"{path} holds several products ({', '.join(found)}): open each by itself")
    raise SourceError(
        f"{path} has no MTD_MSIL1C.xml, MTD_MSIL2A.xml or S2…_MTD_SAFL….xml: it is not a Sentinel-2 L1C or L2A "
        "product. Give the folder named .SAFE itself, or its zip"
    )
