"""Fields of metadata that other people wrote: what they should be, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["as_list", "as_mapping", "as_number", "as_numbers", "as_text", "as_time"]

_LONGEST = 2000
"""Characters of a text that is read: names, ids and titles are far shorter."""


def as_mapping(value: object) -> Mapping[str, Any]:
    """A JSON object; empty when it is none."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: object) -> list[Any]:
    """A JSON array; empty when it is none."""
    return list(value) if isinstance(value, list | tuple) else []


def as_text(value: object) -> str:
    """A string; a whole number in digits; else the empty string."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**15 else ""
    return value[:_LONGEST] if isinstance(value, str) else ""


def as_number(value: object) -> float | None:
    """A finite number, or None; neither true nor a string is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_numbers(value: object, least: int) -> list[float] | None:
    """At least `least` finite numbers, or None."""
    numbers = [as_number(each) for each in as_list(value)]
    found = [each for each in numbers if each is not None]
    return found if len(found) == len(numbers) >= least else None


def as_time(value: object) -> datetime | None:
    """A time in ISO 8601, UTC without time zone, or None."""
    try:
        time = datetime.fromisoformat(as_text(value))
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError):
        return None
