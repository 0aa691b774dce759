"""How far a method sees: what has to be read round an area for its pixels to be those of the whole image."""

from __future__ import annotations

import os
from collections.abc import Sequence

from xsen2.arguments import names_of
from xsen2.bands import B, C, canonical, grid_of
from xsen2.block import Block
from xsen2.consistency import Projection
from xsen2.errors import BandError, MethodError
from xsen2.kernels import OPERATORS, Operator
from xsen2.protocol import Method
from xsen2.registry import resolve

__all__ = ["context_of"]


def context_of(
    method: str | os.PathLike[str] | Method = "default",
    bands: Sequence[str] | None = None,
    *,
    consistency: bool | None = None,
    operator: Operator = "mtf",
) -> int:
    """Metres that a method sees round a pixel, on each side.

    A cube that reaches so far beyond an area gives, cut to it by ``superresolve(area=…)``, the pixels that the whole
    image gives. `xsen2.superresolve.superresolve` needs no such thing: it reads the context from the cube that it has.
    This says how much of a source to load when only an area is wanted.

    Parameters
    ----------
    method, bands, consistency, operator
        As `xsen2.superresolve.superresolve` takes them; by default all 20 m and 60 m bands are made.

    Returns
    -------
    int
        A multiple of 60.

    Raises
    ------
    BandError, MethodError
        If an argument is not one of those above, or the method does not make a band.

    Notes
    -----
    Two kinds of methods differ by what no context tells: those that gather statistics, of the image that they are
    given, and those that work tile by tile (``lattice``), whose tiles begin at its corner.

    Examples
    --------
    >>> import xsen2
    >>> from xsen2.geometry import padded
    >>> from xsen2.context import context_of
    >>> context_of("bicubic", ["B11"])
    120
    >>> bbox = (15.58, 46.52, 15.68, 46.58)
    >>> cube = xsen2.load(items, bbox=padded(bbox, context_of()))  # doctest: +SKIP
    >>> cube.dsen2.superresolve(area=bbox)  # doctest: +SKIP
    """
    asked = (*B, *C) if bands is None else canonical(names_of(bands, "bands", BandError))
    if not asked:
        raise BandError("bands=[] names nothing: name 20 m or 60 m bands, or leave it out for all")
    wanted = [band for band in asked if grid_of(band) != 10]
    if not wanted:
        raise BandError(f"bands={bands!r} are 10 m bands, which need no context: name 20 m or 60 m bands")
    if not isinstance(operator, str) or operator not in OPERATORS:
        raise MethodError(f"unknown operator {operator!r}: use one of {', '.join(OPERATORS)}")
    most = 0
    for one in resolve(method, wanted, operator=operator):
        exact = getattr(one, "consistency", False) if consistency is None else consistency
        low = tuple(band for band in one.produces if grid_of(band) != 10)
        cell = max(grid_of(band) for band in (*one.needs, *one.produces)) // 10
        projection = Projection(one.produces, low, operator, cell, (cell, cell)) if exact else None
        most = max(most, Block(one, (), (), projection).halo)
    return -(-most * 10 // 60) * 60
