"""What can be wrong with the input: one base class, narrow subclasses; and what is only doubtful, as warnings.

Each message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["printable"]


# Text that comes from outside, fit to be shown.


def printable(text: str, most: int = 0) -> str:
    r"""Text with escapes for all that is no sign: control characters, line ends, and bytes that are not UTF-8.

    Names of files and fields of other people's metadata may hold them. A terminal would obey some, and others cannot
    be written to a file at all.

    Parameters
    ----------
    text : str
    most : int
        Signs after which it is cut; 0 for all.

    Examples
    --------
    >>> print(printable("lake\x1b[2J\udcff"))
    lake\x1b[2J\udcff
    """
    if most and len(text) > most:
        text = text[:most] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Xsen2Error(ValueError):
    """Base class of every error that xsen2 raises on purpose."""


class BandError(Xsen2Error):
    """A band is unknown, missing, or not one that a method can make."""


class GridError(Xsen2Error):
    """The grids of a cube do not nest, or a band is not on its native grid."""


class SingleGridError(GridError):
    """All bands share one grid, so the native pixels have to be taken back first."""


class CRSError(Xsen2Error):
    """The CRS is missing, geographic, or not the same everywhere."""


class TimeError(Xsen2Error):
    """The bands do not have the same times."""


class RadiometryError(Xsen2Error):
    """Offset, scale or nodata contradict each other or the pixels."""


class RadiometryWarning(UserWarning):
    """Metadata about offset, scale or nodata may be older than the pixels; what is made of it."""


class MethodError(Xsen2Error):
    """A method is unknown, or cannot do what it was asked to do."""


class WeightsError(MethodError):
    """Weights are missing, damaged, or not those of the named network."""


class SourceError(Xsen2Error):
    """A source cannot be read as a cube: no items, no assets, mixed tiles; or an area is none, or lies outside."""


class NothingFound(SourceError):
    """A search was answered, and no item is what was asked for."""


class StoreError(Xsen2Error):
    """A store cannot be written, or does not belong to this run."""


class Cancelled(Xsen2Error):
    """A call was stopped between two pieces of its work, because its ``progress=`` returned False or raised."""


class ShiftWarning(UserWarning):
    """A date lies too far from the others to be made one image with them."""


class ResampledWarning(UserWarning):
    """The pixels of a cube have been resampled: methods make more of native ones."""


F = TypeVar("F", bound=Callable[..., Any])

_HERE = str(Path(__file__).parent)

_told: ContextVar[set[str] | None] = ContextVar("told", default=None)
"""What the call that runs now has warned of."""


def warn_once(message: str, category: type[Warning]) -> None:
    """Warn, as of the line outside of this package that called it; of one thing once in a call marked `once`."""
    told = _told.get()
    if told is not None:
        if message in told:
            return
        told.add(message)
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def once(function: F) -> F:
    """Mark a call that looks at its cube several times: each warning is given once."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _told.get() is not None:
            return function(*args, **kwargs)
        token = _told.set(set())
        try:
            return function(*args, **kwargs)
        finally:
            _told.reset(token)

    return call  # type: ignore[return-value]
