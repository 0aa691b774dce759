"""What the pansharpening methods share: a 10 m band plays the panchromatic one for each low-resolution band."""

from __future__ import annotations

from collections.abc import Sequence

from xsen2.bands import GRIDS, A, grid_of
from xsen2.classical._common import PAN, OneGrid, pan
from xsen2.protocol import Array

__all__ = ["Sharpening", "sharers"]


class Sharpening(OneGrid):
    """Members of the protocol, for methods that make bands of one native grid with the help of pans."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The 10 m bands that the pans are made of, and the bands of the grid that are read."""
        return (*(band for band in A if any(band in PAN[low] for low in self.bands)), *self._read)

    @property
    def _read(self) -> tuple[str, ...]:
        return self.bands

    def _pan(self, a: Array, band: str) -> Array:
        """The pan of a band, ``(H, W)``, from the 10 m bands of `needs`."""
        return pan(a, band, self.needs)


def sharers(bands: Sequence[str]) -> tuple[str, ...]:
    """All bands of the grid of `bands` that share a pan with one of them, canonical order.

    A method that fuses a multispectral image with one pan takes these for the image: what comes out does not hang
    on which bands are asked for.
    """
    pans = {PAN[band] for band in bands}
    return tuple(band for band in GRIDS[grid_of(bands[0])] if PAN[band] in pans)
