"""A time or an interval in the words of a STAC search: whether an acquisition lies in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from xsen2.errors import SourceError

__all__ = ["interval", "sensing_time"]

_PART = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?")


def interval(given: Any) -> Callable[[datetime], bool]:
    """What tells whether a time (UTC, without time zone) lies in `given`, both ends included.

    Parameters
    ----------
    given : str, datetime or pair of them
        As ``pystac_client``'s ``datetime=``: an RFC 3339 time, a year, a month or a day, which mean all of it, or
        two of these with a slash between; ``..`` or nothing is an open end. Without time zone: UTC.

    Raises
    ------
    SourceError
        If it is none of these, or ends before it begins.

    Examples
    --------
    >>> lies_in = interval("2023-08/2023-09-15")
    >>> lies_in(datetime(2023, 9, 15, 10, 57)), lies_in(datetime(2023, 9, 16))
    (True, False)
    """
    parts: Sequence[Any]
    if isinstance(given, str):
        parts = given.split("/")
    elif isinstance(given, Sequence):
        parts = given
    else:
        parts = [given]
    if len(parts) not in (1, 2) or (len(parts) == 1 and parts[0] in ("", "..", None)):
        raise _wrong(given)
    (start, last), (_, end) = (_span(part, given) for part in (parts[0], parts[-1]))
    if len(parts) == 1:
        end = last
    if start > end:
        raise SourceError(f"datetime={given!r} ends before it begins: give the earlier time first")
    return lambda time: start <= time <= end


def _span(part: Any, given: Any) -> tuple[datetime, datetime]:
    """First and last moment."""
    if part in ("", "..", None):
        return datetime.min, datetime.max
    try:
        if isinstance(part, datetime):
            moment = part
        else:
            match = _PART.fullmatch(part)
            if match:
                year, month, day = (int(digits) if digits else None for digits in match.groups())
                first = datetime(year or 0, month or 1, day or 1)
                if day:
                    after = first + timedelta(days=1)
                elif month:
                    after = (first + timedelta(days=31)).replace(day=1)
                else:
                    after = first.replace(year=first.year + 1)
                return first, after - timedelta(microseconds=1)
            moment = datetime.fromisoformat(part)
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(given) from error
    moment = _utc(moment)
    return moment, moment


def sensing_time(text: str) -> datetime | None:
    """A time that metadata give in ISO 8601, UTC without time zone; None unless it is one of Sentinel-2's mission."""
    try:
        time = _utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None
    return time if 2015 <= time.year < 2100 else None


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _wrong(given: Any) -> SourceError:
    return SourceError(
        f"datetime={given!r} is no time and no interval: give a day, month or year such as '2023-08', an RFC 3339 "
        "time, or two of these with a slash between, '2023-06-01/2023-09-30'"
    )
