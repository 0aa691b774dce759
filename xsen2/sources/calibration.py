"""What raw pixels of a product mean, and the one rule for its offset against its processing baseline.

From processing baseline 04.00 on, ESA adds 1000 to every pixel, so that dark ones stay above 0. Catalogues and tools
have taken that off from some products and not from others, with metadata that do not always follow. So the offset that
metadata name and the baseline that they tell are held against each other, for every source alike: a cube with a wrong
offset looks like any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from xsen2.errors import RadiometryError

__all__ = ["SETTLE", "Radiometry", "check_given", "settled", "version_of"]

SHIFT = -1000.0
"""DN to add to pixels that carry ESA's +1000."""

_SHIFTED_SINCE = 4.0
_PRIVATE = 90.0  # from here on baselines are those of private processing, of which nothing is known: 99.99

SETTLE = "pass offset=-1000 if the pixels carry +1000, offset=0 if not"
"""What settles a doubt about one product's offset."""


@dataclass(frozen=True)
class Radiometry:
    """How raw pixels of one band become DN: (raw + offset) * gain.

    Attributes
    ----------
    offset : float
        Added to raw pixels.
    gain : float
        DN of one step of raw pixels: 10000 / the quantification value of a product.
    nodata : float
        Raw value where there is nothing; NaN besides counts as nothing anyway.
    baseline : str
        Processing baseline, such as ``"05.09"``; ``"unknown"`` where the metadata do not tell.
    location : str
        What says so, for messages.
    valid : tuple of float
        Smallest and largest raw value that counts.
    special : dict
        What else the metadata reserve, as ``"SATURATED"`` → raw value.
    """

    offset: float
    gain: float = 1.0
    nodata: float = 0.0
    baseline: str = "unknown"
    location: str = ""
    valid: tuple[float, float] = (-math.inf, math.inf)
    special: Mapping[str, int] = field(default_factory=dict)

    def dn(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Float DN of raw pixels; nodata becomes NaN before the offset is added."""
        out = raw.astype(np.float32)
        if self.offset:
            out += np.float32(self.offset)
        if self.gain != 1:
            out *= np.float32(self.gain)
        hidden = raw == self.nodata
        if self.valid != (-math.inf, math.inf):
            hidden |= (raw < self.valid[0]) | (raw > self.valid[1])
        out[hidden] = np.nan
        return out


def version_of(baseline: str) -> float | None:
    """A processing baseline of ESA's as a number; None where it is none, or of private processing.

    Examples
    --------
    >>> version_of("05.09"), version_of("99.99"), version_of("x")
    (5.09, None, None)
    """
    number = float(baseline) if re.fullmatch(r"\d{1,2}\.\d{1,4}", baseline) else math.nan
    return number if number < _PRIVATE else None


def check_given(offset: float | None, settle: str = "") -> None:
    """Refuse an argument `offset` that cannot be one.

    Raises
    ------
    RadiometryError
        If it is no number, or above 0 or far below.
    """
    if offset is not None and (
        isinstance(offset, bool) or not isinstance(offset, int | float) or not -10000 <= offset <= 0
    ):
        raise RadiometryError(
            f"offset={offset}: it is added to the pixels: give -1000 where they carry +1000, 0 where not{settle}"
        )


def settled(
    location: str,
    declared: float | None,
    baselines: Mapping[str, str],
    *,
    field: str,
    silent: bool = False,
    zero: bool = False,
    settle: str = SETTLE,
) -> float:
    """The offset of a product, in DN to add, from the offset and the processing baseline in its metadata.

    Parameters
    ----------
    location : str
        The product, for messages.
    declared : float or None
        The offset that the metadata name; None where they name none.
    baselines : mapping
        Name of a metadata field → the processing baseline in it, as ``{"PROCESSING_BASELINE": "05.09"}``.
    field : str
        What names the offset, for messages, as ``"BOA_ADD_OFFSET"``.
    silent : bool
        Whether metadata of this kind may leave the offset out where there is one: then the baseline alone says it.
    zero : bool
        Whether an offset of 0 that is named says that ESA's has been taken off, rather than nothing.
    settle : str
        What settles a doubt.

    Raises
    ------
    RadiometryError
        If neither says anything, or they contradict each other: it names both, and the argument that settles it.

    Examples
    --------
    >>> settled("A.SAFE", -1000.0, {"PROCESSING_BASELINE": "05.09"}, field="BOA_ADD_OFFSET")
    -1000.0
    >>> settled("A.SAFE", None, {"PROCESSING_BASELINE": "02.04"}, field="BOA_ADD_OFFSET")
    0.0
    """
    versions = {place: version_of(text) for place, text in baselines.items()}
    shifted = {place: None if version is None else version >= _SHIFTED_SINCE for place, version in versions.items()}
    if len(set(shifted.values())) > 1:
        told = ", ".join(f"{text} in {place}" for place, text in baselines.items())
        raise RadiometryError(f"{location} gives several processing baselines: {told}: {settle}")
    place, carries = next(iter(shifted.items()), ("", None))
    if carries is None:
        if declared is not None:
            return declared
        text = baselines.get(place, "")
        private = ", which is a private baseline" if re.fullmatch(r"\d+\.\d+", text) else ""
        told = f"{place} is {text[:40]!r}{private}"
        raise RadiometryError(
            f"{location} has neither an offset ({field}) nor a processing baseline of ESA's"
            f"{f' ({told})' if place else ''}, so it is not known whether its pixels carry +1000: {settle}"
        )
    if declared is None and silent:
        return SHIFT if carries else 0.0
    named = declared or 0.0
    if carries != (named != 0) and not (zero and declared == 0):
        raise RadiometryError(
            f"{location}: processing baseline {baselines[place]} ({place}) means "
            f"{f'an offset of {SHIFT:g} DN' if carries else 'no offset'}, but {field} is "
            f"{'missing, which is 0 DN' if declared is None else f'{declared:g} DN'}: {settle}"
        )
    return named
