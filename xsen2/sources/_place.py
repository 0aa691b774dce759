"""Whether a file lies where its item says: what reads it would else reproject or shift it, and say nothing."""

from __future__ import annotations

import os
import threading
from dataclasses import astuple, dataclass
from typing import Any

from xsen2.errors import CRSError, GridError

__all__ = ["Place", "check"]

_LIMIT = 100_000

_sound: set[tuple[str, tuple[int, ...]]] = set()
"""What has been found to lie where it should: URL, and of a local file what changes when it is replaced."""

_lock = threading.Lock()


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


def check(url: str, signed: str, what: str, place: Place) -> None:
    """Open a file once per process, and refuse one that lies elsewhere than its item says.

    Parameters
    ----------
    url, signed : str
        What is remembered, and what is opened.
    what : str
        Item and asset, for messages.
    place : Place

    Raises
    ------
    CRSError, GridError
        If the CRS is another; or the corner, the size of the pixels, or their number.
    """
    known = (url, _stamp(signed))
    if known in _sound:
        return
    import rasterio

    with rasterio.open(signed, sharing=False) as file:
        crs, transform, shape = file.crs, file.transform, file.shape
    epsg = crs.to_epsg() if crs else None
    fix = "correct the item, or leave it out"
    if epsg != place.epsg:
        said = "no CRS" if not crs else f"EPSG:{epsg}" if epsg else crs.to_string()[:80]
        raise CRSError(f"{what}: the file is in {said}, but the item says EPSG:{place.epsg}: {fix}")
    want = (place.gsd, 0, place.left, 0, -place.gsd, place.top)
    if shape != (place.height, place.width) or not _near(transform, want):
        raise GridError(
            f"{what}: the file has {shape[0]} x {shape[1]} pixels of {transform.a:g} x {-transform.e:g} m from the "
            f"corner {transform.c:g}, {transform.f:g}, but the item says {place.height} x {place.width} of "
            f"{place.gsd} m from {place.left}, {place.top}: {fix}"
        )
    with _lock:
        if len(_sound) >= _LIMIT:
            _sound.clear()
        _sound.add(known)


def _stamp(href: str) -> tuple[int, ...]:
    try:
        about = os.stat(href)
    except (OSError, ValueError):  # an address; or no file, which opening it will say
        return ()
    return about.st_size, about.st_mtime_ns


def _near(transform: Any, want: tuple[int, ...]) -> bool:
    return all(abs(found - value) < 1e-3 for found, value in zip(tuple(transform)[:6], want, strict=True))
