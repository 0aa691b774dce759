"""Where an item says that one of its files lies."""

from __future__ import annotations

from dataclasses import astuple, dataclass

__all__ = ["Place"]


@dataclass(frozen=True)
class Place:
    """Where an item says that one of its files lies.

    Attributes
    ----------
    epsg : int
    left, top : int
        The outer corner.
    gsd : int
    height, width : int
        Pixels.
    """

    epsg: int
    left: int
    top: int
    gsd: int
    height: int
    width: int

    def text(self) -> str:
        """For a URL's fragment; `read` undoes it."""
        return ",".join(map(str, astuple(self)))

    @classmethod
    def read(cls, text: str) -> Place:
        """The place that `text` gave."""
        return cls(*map(int, text.split(",")))
