"""The protocol that every method follows, network or classical."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from xsen2.bands import grid_of
from xsen2.cube import Cube

__all__ = ["Array", "Method", "finest_halo"]

Array = npt.NDArray[np.float32]


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
    was measured unless the caller says otherwise. Without it, they are left as the method gives them.
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
        """Gather global statistics, if the method has any; the others return themselves."""
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


def finest_halo(method: Method) -> int:
    """The halo in 10 m pixels, rounded up to whole pixels of the coarsest grid involved."""
    halo = method.halo
    pixels = 6 * halo if isinstance(halo, int) else max(n * gsd // 10 for gsd, n in halo.items())
    cell = max(grid_of(b) for b in (*method.needs, *method.produces)) // 10
    return -(-pixels // cell) * cell
