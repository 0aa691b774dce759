"""The protocol that every method follows, network or classical."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from xsen2.bands import grid_of
from xsen2.cube import Cube

__all__ = ["Array", "Mask", "Method", "Statistical", "finest_halo", "tile"]

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@runtime_checkable
class Method(Protocol):
    """Anything that turns blocks of the native grids into 10 m bands.

    Attributes
    ----------
    name : str
        What ``method=`` takes.
    produces : tuple of str
        Bands it makes, canonical names, in the order of its output.
    needs : tuple of str
        Bands it reads. An output pixel is nodata where any of them is.
    halo : int or mapping
        Context on each side of a block, at least the receptive field: in 60 m pixels, or
        ``{gsd: pixels}`` per native grid.

    Notes
    -----
    A method may have a `consistency` too, a bool: whether `superresolve` makes its results consistent with what
    was measured unless the caller says otherwise. Without it, they are left as the method gives them. And a
    `lattice`: blocks, those of `Statistical.gather` too, then begin on its multiples, in 10 m pixels from the image's
    first one, so that a method that works tile by tile has the same tiles however the image is chunked; its `halo`
    covers a tile and what that sees.
    """

    @property
    def name(self) -> str: ...
    @property
    def produces(self) -> tuple[str, ...]: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def halo(self) -> int | Mapping[int, int]: ...

    def fit(self, cube: Cube) -> Method:
        """Prepare for a cube. Most return themselves; statistics of its pixels are for `Statistical`."""
        ...

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        """Super-resolve one block.

        Parameters
        ----------
        a, b, c : numpy.ndarray
            float32 DN ``(band, H, W)``, ``(band, H/2, W/2)``, ``(band, H/6, W/6)``: the bands of
            `needs` on each grid in canonical order (none: zero bands), halo included, without
            nodata (it has been filled from its surroundings).

        Returns
        -------
        numpy.ndarray
            float32 DN ``(len(produces), H, W)``, halo included.
        """
        ...


@runtime_checkable
class Statistical(Method, Protocol):
    """A method whose parameters are statistics of the whole image, gathered lazily before its blocks are made.

    In each round, `gather` sums over every block, the sums are added up, and `learn` gives the method that the next
    round, or `__call__`, runs on. Dates are independent of each other.

    Attributes
    ----------
    rounds : int
        How often statistics are gathered, 1 or more.
    gather_halo : int or mapping
        Context that `gather` needs, as `halo`.
    """

    @property
    def rounds(self) -> int: ...
    @property
    def gather_halo(self) -> int | Mapping[int, int]: ...

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> npt.NDArray[np.float64]:
        """Sums over one block.

        Parameters
        ----------
        a, b, c : numpy.ndarray
            As `__call__` takes them, with the context of `gather_halo`. Beyond the image's edges they are mirrored.
        valid : numpy.ndarray
            ``(H, W)``, 10 m: where all bands of `needs` have data.
        own : numpy.ndarray
            ``(H, W)``, 10 m: the valid pixels that are the block's own to count; every pixel of the image is
            some block's, and only one's.

        Returns
        -------
        numpy.ndarray
            float64, 1-D, always of one length.
        """
        ...

    def learn(self, sums: npt.NDArray[np.float64]) -> Statistical:
        """The method with what the sums over all blocks of a date say; they may be zeros."""
        ...


def finest_halo(method: Method, halo: int | Mapping[int, int] | None = None) -> int:
    """The halo (the method's, unless one is given) in 10 m pixels: whole pixels of the coarsest grid involved."""
    halo = method.halo if halo is None else halo
    pixels = 6 * halo if isinstance(halo, int) else max(n * gsd // 10 for gsd, n in halo.items())
    cell = max(grid_of(b) for b in (*method.needs, *method.produces)) // 10
    return -(-pixels // cell) * cell


def tile(method: Method) -> int:
    """Side of the tiles that its blocks are made of, in 10 m pixels; 0 if every pixel is made by itself.

    The halo holds a tile then; a `lattice` that is wider serves statistics alone.
    """
    lattice: int = getattr(method, "lattice", 0)
    return lattice if 1 < lattice <= finest_halo(method) else 0
