"""XML of a product, read without trusting it.

defusedxml refuses any document type: without one there are no entities to expand and no external files to fetch.
ESA's metadata never have one. Size, elements and nesting are bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from xsen2.errors import SourceError, Xsen2Error

__all__ = ["LIMIT", "Document"]

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
    where : str
        The file, for messages.
    """

    root: Element
    where: str

    @classmethod
    def parse(cls, data: bytes, where: str) -> Document:
        """The document in `data`.

        Raises
        ------
        SourceError
            If it is not well-formed, has a document type, or nests deeper than any metadata.
        """
        return cls(_tree(data, where), where)

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
        found = self.said(*tags)
        if found is None:
            raise error(f"{self.where} has no {' or '.join(tags)}: it is not complete; download the product again")
        return found

    def said(self, *tags: str) -> str | None:
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
                f"{self.where}: {what} is {text[:40]!r}, not a number from {low:g} to {high:g}; "
                "download the product again"
            )
        return number

    def whole(
        self, value: str | None, what: str, low: float, high: float, error: type[Xsen2Error] = SourceError
    ) -> int:
        """The same as `number`, for one without fraction."""
        number = self.number(value, what, low, high, error)
        if number != round(number):
            raise error(f"{self.where}: {what} is {value!r}, not a whole number; download the product again")
        return round(number)


class _Builder(TreeBuilder):
    """Tags without namespace, nested no deeper than any metadata."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.depth = where, 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self.depth += 1
        if self.depth > _DEPTH:
            raise SourceError(f"{self.where} nests over {_DEPTH} deep: these are not the metadata of a product")
        return super().start(_local(tag), attrs)

    def end(self, tag: str, /) -> Element:
        self.depth -= 1
        return super().end(_local(tag))


def _tree(data: bytes, where: str) -> Element:
    """The only place where XML is parsed."""
    from defusedxml.common import DTDForbidden
    from defusedxml.ElementTree import XMLParser

    if len(data) > LIMIT or data.count(b"<") > _MARKS:
        raise SourceError(
            f"{where} is over {LIMIT >> 20} MB or has over {_MARKS // 2} elements: these are not the metadata of a "
            "product"
        )
    try:
        text = data.decode("utf-8-sig")  # as all of ESA's; what is counted above is counted in it
        said = re.match(r"<\?xml[^>]*?encoding\s*=\s*[\"'](.*?)[\"']", text)
        if said is not None and said[1].lower() not in ("utf-8", "us-ascii"):
            raise LookupError(f"encoding {said[1][:40]!r}, not UTF-8")
        parser = XMLParser(target=_Builder(where), forbid_dtd=True)
        parser.feed(text)
        root: Element = parser.close()
    except DTDForbidden as error:
        raise SourceError(
            f"{where} declares a document type, which ESA's metadata never do and which can make a reader "
            "expand entities or fetch other files: it is not read; download the product again"
        ) from error
    except Xsen2Error:
        raise
    except (ParseError, LookupError, ValueError) as error:  # ValueError: the encoding
        raise SourceError(f"{where} is not well-formed XML ({error}): download the product again") from error
    return root


def _local(name: str) -> str:
    """A tag without its namespace; expat joins them by a brace."""
    return name.rpartition("}")[2].rpartition(":")[2]
