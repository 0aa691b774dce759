"""Where the files of an item may lie: what an item from elsewhere says must not open files of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from xsen2.errors import SourceError
from xsen2.sources._fields import as_list, as_mapping, as_text

__all__ = ["REMOTE", "Home", "is_remote"]

REMOTE = ("http", "https", "s3")
"""Schemes that an item from elsewhere may name: everything that GDAL knows besides would be opened by this machine."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_ELSEWHERE = ("self", "root", "parent", "collection")


def is_remote(href: object) -> bool:
    """Whether an address is one of the web or of an object store."""
    return as_text(href).strip().lower().startswith(tuple(f"{scheme}://" for scheme in REMOTE))


@dataclass(frozen=True)
class Home:
    """Where an item itself lies.

    Attributes
    ----------
    base : str
        What relative addresses are relative to: the item's own, or empty.
    remote : bool
        Whether it came from elsewhere. Then its files lie there, too, and nothing else is opened.
    """

    base: str
    remote: bool

    @classmethod
    def of(cls, raw: Mapping[str, Any], searched: bool = False) -> Home:
        """The home of an item, by its `self` link; without one by the links to what it belongs to.

        `searched` says that it came out of the search of an API, whatever its links say.
        """
        links: dict[str, str] = {}
        for link in map(as_mapping, as_list(raw.get("links"))):
            links.setdefault(as_text(link.get("rel")), as_text(link.get("href")))
        base = links.get("self", "")
        scheme = _SCHEME.match(base)
        if base:
            elsewhere = searched or bool(scheme and scheme[1].lower() != "file")
        else:
            elsewhere = searched or any(is_remote(links.get(rel)) for rel in _ELSEWHERE)
        return cls(base if is_remote(base) or not elsewhere else "", elsewhere)

    def resolve(self, asset: Mapping[str, Any]) -> str:
        """Absolute address of an asset's file: its `href`, or where that cannot be read from here, an alternate.

        Raises
        ------
        SourceError
            If there is none, or it may not be read.
        """
        reasons = []
        for href in _given(asset):
            try:
                return self._absolute(href)
            except SourceError as error:
                reasons.append(str(error))
        if not reasons:
            raise SourceError(f"its href is {asset.get('href')!r:.80}, not an address: correct it")
        raise SourceError(reasons[0])

    def _absolute(self, href: str) -> str:
        scheme = _SCHEME.match(href)
        if not scheme and not href.startswith(("/", "\\", "<")) and is_remote(self.base):
            href = urljoin(self.base, href) if not self.base.startswith("s3://") else _joined(self.base, href)
        if is_remote(href) and not re.search(r"[\x00-\x1f\x7f]", href):
            kind, _, rest = href.partition("://")
            return f"{kind.lower()}://{rest}"
        if self.remote:
            raise SourceError(
                f"its href {href!r:.120} is neither http(s) nor s3, and the item is from elsewhere, so no file of this "
                "machine is opened for it; if the item and its files lie here, give it a self link with its own path "
                "(for one of pystac's: item.set_root(None), item.set_self_href(path))"
            )
        if scheme and scheme[1].lower() == "file":
            parts = urlsplit(href)
            if parts.netloc not in ("", "localhost"):
                raise SourceError(f"its href {href!r:.120} names a file of another machine: give its path here")
            return os.path.abspath(unquote(parts.path))
        if (scheme and len(scheme[1]) > 1) or href.startswith("<"):
            raise SourceError(
                f"its href {href!r:.120} is none that is read: give a path, or an http(s) or s3 address, of a GeoTIFF "
                "or JPEG 2000 file"
            )
        return os.path.abspath(os.path.join(os.path.dirname(_local(self.base)), href))


def _given(asset: Mapping[str, Any]) -> Iterator[str]:
    """The addresses of an asset: its own, then its alternates."""
    for holder in (asset, *map(as_mapping, as_mapping(asset.get("alternate")).values())):
        href = as_text(holder.get("href")).strip()
        if href and len(href) < 2000:
            yield href


def _joined(base: str, href: str) -> str:
    """A relative address in an object store, which `urljoin` does not know; never above the bucket."""
    joined = urlsplit(urljoin("http" + base[2:], href))
    return f"s3://{joined.netloc}{joined.path}"


def _local(base: str) -> str:
    """Path of a local self link."""
    return unquote(urlsplit(base).path) if base.lower().startswith("file:") else base
