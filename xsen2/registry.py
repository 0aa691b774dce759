"""The names that ``method=`` takes, and what stands behind them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xsen2.bands import grid_of
from xsen2.classical.bicubic import Bicubic
from xsen2.errors import BandError, MethodError
from xsen2.networks import DEFAULT, cards, network_methods
from xsen2.protocol import Method, finest_halo

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Method", "finest_halo", "methods", "resolve"]


@dataclass(frozen=True)
class Entry:
    """One name: what it is, where it comes from, and how to make it for some bands."""

    kind: str
    licence: str
    source: str
    make: Callable[[tuple[str, ...], str, str], Sequence[Method]]  # bands, device, dtype


CLASSICAL: dict[str, Entry] = {
    "bicubic": Entry(
        "classical",
        "Apache-2.0",
        "Keys 1981, a = -0.5, half-pixel centres, symmetric edges",
        lambda bands, device, dtype: [Bicubic(b) for b in bands],
    ),
}
"""Methods without weights. A new one adds its file to this folder and its line here."""


def _entries() -> dict[str, Entry]:
    networks = {
        name: Entry("network", found[0].licence, found[0].source, _network_maker(name))
        for name, found in cards().items()
    }
    return {"default": networks[DEFAULT], **networks, **CLASSICAL}


def _network_maker(name: str) -> Callable[[tuple[str, ...], str, str], Sequence[Method]]:
    return lambda bands, device, dtype: network_methods(name, bands, device, dtype)


def methods() -> pd.DataFrame:
    """The names that ``method=`` takes.

    Returns
    -------
    pandas.DataFrame
        Indexed by name: kind (network or classical), licence, source.

    Examples
    --------
    >>> import xsen2
    >>> list(xsen2.methods().index)
    ['default', 'dsen2', 'bicubic']
    """
    import pandas as pd

    rows = {name: {"kind": e.kind, "licence": e.licence, "source": e.source} for name, e in _entries().items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def resolve(method: str | Method, bands: Sequence[str], device: str = "auto", dtype: str = "auto") -> list[Method]:
    """The methods that together make `bands`.

    Parameters
    ----------
    method : str or Method
        A name of `methods`, or an object that follows the protocol.
    bands : sequence of str
        Canonical names of 20 m and 60 m bands.

    Raises
    ------
    MethodError
        If the name is unknown, or the object does not follow the protocol.
    BandError
        If the method makes none of a band.
    """
    if isinstance(method, str):
        entries = _entries()
        if method not in entries:
            near = difflib.get_close_matches(method, entries, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise MethodError(f"unknown method {method!r}: use one of {', '.join(entries)}{hint}")
        found = list(entries[method].make(tuple(bands), device, dtype))
    elif isinstance(method, type):
        raise MethodError(f"method={method.__name__} is a class: pass an object, as method={method.__name__}(…)")
    elif isinstance(method, Method):
        found = [method]
    else:
        raise MethodError(f"method={method!r} is neither a name of xsen2.methods() nor follows xsen2.protocol.Method")
    made = {b for m in found for b in m.produces}
    missing = [b for b in bands if b not in made]
    if missing:
        grids = ", ".join(f"{b} ({grid_of(b)} m)" for b in missing)
        raise BandError(
            f"method {found[0].name if found else method!r} does not make {grids}: it makes {', '.join(sorted(made))}"
        )
    return found
