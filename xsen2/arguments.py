"""What callers give for names and numbers: taken, or refused by name, never by an error from inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real

import numpy as np

from xsen2.errors import Xsen2Error

__all__ = ["names_of", "whole"]


def names_of(value: object, what: str, error: type[Xsen2Error]) -> list[str]:
    """A list of names.

    Examples
    --------
    >>> from xsen2.errors import BandError
    >>> names_of(("B05", "B11"), "bands", BandError)
    ['B05', 'B11']
    >>> names_of("B05", "bands", BandError)
    Traceback (most recent call last):
    xsen2.errors.BandError: bands='B05': give a list, as bands=['B05']
    """
    if isinstance(value, str):
        raise error(f"{what}={value!r}: give a list, as {what}=[{value!r}]")
    names = list(value) if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise error(f"{what}={value!r}: give a list of names, as {what}=['B05', 'B11']")
    return [str(name) for name in names]


def whole(value: object, what: str, error: type[Xsen2Error], *, least: int, hint: str) -> int:
    """A whole number, whatever type holds it.

    Examples
    --------
    >>> from xsen2.errors import MethodError
    >>> whole(2.0, "scale", MethodError, least=2, hint="use 2 or more")
    2
    >>> whole([2], "scale", MethodError, least=2, hint="use 2 or more")
    Traceback (most recent call last):
    xsen2.errors.MethodError: scale=[2]: use 2 or more
    """
    number = isinstance(value, Real | np.number) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or value != int(value) or value < least:  # type: ignore[call-overload, operator]
        raise error(f"{what}={value!r}: {hint}")
    return int(value)  # type: ignore[call-overload, no-any-return]
