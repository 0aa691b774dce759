"""Trained networks: their cards, and the methods made of them. Importing this does not import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from xsen2.bands import A, B, C
from xsen2.cube import Cube
from xsen2.errors import WeightsError
from xsen2.protocol import Array

__all__ = ["DEFAULT", "GAIN", "Card", "NetworkMethod", "cards", "network_methods"]

DEFAULT = "dsen2"
GAIN = 2000.0
"""Networks see DN / 2000, as the paper."""
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Card:
    """What a set of weights is: enough to plan with, without loading it.

    Attributes
    ----------
    name : str
        Name and version of the weights, as ``dsen2-20m-v1``; the stem of its files.
    network : str
        What ``method=`` takes.
    architecture : str
        Class in `xsen2.networks`, built with `arguments`.
    ratio : int
        2 for the 20 m bands, 6 for the 60 m ones.
    halo : int
        Receptive field in pixels of the band's own grid, upsampling included.
    sha256 : str
        Of the ``.safetensors`` file.
    licence, source : str
    training, validation : mapping
        What was run, and what it measured.
    path : str
        The weights file; empty for shipped weights, which every worker finds in its own package.
    """

    name: str
    network: str
    architecture: str
    arguments: Mapping[str, Any]
    ratio: int
    halo: int
    sha256: str
    licence: str
    source: str
    training: Mapping[str, Any]
    validation: Mapping[str, Any]
    path: str = ""

    @classmethod
    def read(cls, path: Path) -> Card:
        """Read ``NAME.json``, which lies beside ``NAME.safetensors``."""
        try:
            own = "" if path.parent == WEIGHTS else str(path.with_suffix(".safetensors"))
            return cls(**json.loads(path.read_text()), path=own)
        except (OSError, ValueError, TypeError) as error:
            raise WeightsError(f"{path} is not a card of weights: {error}") from error

    @property
    def file(self) -> Path:
        """The weights file on this machine."""
        return Path(self.path) if self.path else WEIGHTS / f"{self.name}.safetensors"


@cache
def cards() -> dict[str, tuple[Card, ...]]:
    """Shipped weights by the name that ``method=`` takes."""
    found: dict[str, list[Card]] = {}
    for path in sorted(WEIGHTS.glob("*.json")):
        card = Card.read(path)
        found.setdefault(card.network, []).append(card)
    return {name: tuple(group) for name, group in found.items()}


@dataclass(frozen=True)
class NetworkMethod:
    """A network as a method: a small recipe that travels in a graph; workers load the weights once.

    See `xsen2.protocol.Method` for the meaning of the properties.
    """

    card: Card
    device: str = "auto"
    dtype: str = "auto"

    @property
    def name(self) -> str:
        return self.card.network

    @property
    def produces(self) -> tuple[str, ...]:
        return B if self.card.ratio == 2 else C

    @property
    def needs(self) -> tuple[str, ...]:
        return A + B if self.card.ratio == 2 else A + B + C

    @property
    def halo(self) -> Mapping[int, int]:
        return {10 * self.card.ratio: self.card.halo}

    def fit(self, cube: Cube) -> NetworkMethod:
        return self

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        from xsen2.inference import infer

        return infer(self.card, a, b, c, device=self.device, dtype=self.dtype)

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        return self.card.sha256, self.device, self.dtype


def network_methods(name: str, bands: Sequence[str], device: str, dtype: str) -> list[NetworkMethod]:
    """The networks of a name that make any of `bands`."""
    found = [NetworkMethod(card, device, dtype) for card in cards()[name]]
    return [m for m in found if set(m.produces) & set(bands)]
