"""Trained networks: their cards, and the methods made of them. Importing this does not import torch."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from xsen2 import files
from xsen2.bands import A, B, C
from xsen2.errors import WeightsError, printable

__all__ = [
    "ARCHITECTURES",
    "DEFAULT",
    "FINER",
    "GAIN",
    "GROUP",
    "GSDS",
    "MOST_FRAMES",
    "Card",
    "architectures",
    "cards",
    "grouped",
]

ARCHITECTURES = frozenset(
    {
        "blend.Blend",
        "dsen2.DSen2",
        "manydates.HighResNet",
        "manydates.ManyDates",
        "refined.Refined",
        "twogrid.TwoGrid",
    }
)
"""The classes of `xsen2.networks` that a card may name. A new one adds its line here."""

GROUP = "xsen2.networks"
"""Entry points under which other packages offer classes of networks; built-in names win."""

DEFAULT = "twogrid"
FINER = "fusion"
"""What the default is below 10 m."""

GAIN = 2000.0
"""Networks see DN / 2000, as the paper."""
WEIGHTS = Path(__file__).parent / "weights"

GSDS = (5.0, 2.5)
"""Metres that a network of many dates may make of 10 m."""

MOST_FRAMES = 32
"""Dates that one date is made of at most."""

REACH = 300
"""Pixels of 10 m that a halo may have at most: VDSen2, the deepest, sees 66."""

LARGEST = 1024
"""What a whole number among the arguments of an architecture may be at most: VDSen2 has 256 features."""


@dataclass(frozen=True)
class Card:
    """What a set of weights is: enough to plan with, without loading it.

    Attributes
    ----------
    name : str
        Name and version of the weights, as ``dsen2-20m-v1``; the stem of its files.
    network : str
        What ``method=`` takes. Several weights share it: those for 20 m and those for 60 m.
    architecture : str
        Class in `xsen2.networks`, built with `arguments`.
    ratio : int
        2 for the 20 m bands, 6 for the 60 m ones; 1 for the 10 m bands, made finer of many dates.
    halo : int
        Receptive field in pixels of the band's own grid, upsampling included.
    sha256 : str
        Of the ``.safetensors`` file.
    licence, source : str
    training, validation : mapping
        What was run, and what it measured.
    spread : sequence of float
        Per band, what the network's standard errors are multiplied by, so that 68 % of the errors are
        within one; empty for networks that do not say how sure they are.
    lattice : int
        Side of the cells that the network works in, in 10 m pixels: blocks begin with whole ones.
    gsd : float
        Pixel size, in metres, of what it makes: 10, or for `ratio` 1 what its zoom makes of 10 m.
    frames : int
        Dates that each date is made of unless the caller says otherwise.
    path : str
        The weights file, absolute; empty for shipped weights, which every worker finds in its own package.
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
    spread: Sequence[float] = ()
    lattice: int = 1
    gsd: float = 10
    frames: int = 1
    path: str = ""

    @classmethod
    def read(cls, path: Path) -> Card:
        """Read ``NAME.json``, which lies beside ``NAME.safetensors``.

        Raises
        ------
        WeightsError
            If it cannot be read, or is not a card.
        """
        path = path.absolute()  # a worker has another working directory
        weights_path = "" if path.parent == WEIGHTS else str(path.with_suffix(".safetensors"))
        try:
            card = cls(**files.read_json(path), path=weights_path)
        except (OSError, ValueError, TypeError) as error:
            raise WeightsError(f"{path} is not a card of weights: {printable(str(error), 300)}") from error
        if wrong := card._wrong():
            raise WeightsError(f"{path} is not a card of weights: {wrong}")
        return card

    def _wrong(self) -> str:
        """What is wrong with it; empty if nothing is that can be told without the weights."""
        for key in ("name", "network", "architecture", "sha256", "licence", "source"):
            value = getattr(self, key)
            if not isinstance(value, str) or not value:
                return f"{key} is {reprlib.repr(value)}, not text"
            if not value.isprintable() or len(value) > 1000:
                return f"{key} is {reprlib.repr(value)}, not a line of text"
        for key in ("name", "network"):
            if not re.fullmatch(r"\w[\w.+-]{,99}", value := getattr(self, key)):
                return f"{key} {reprlib.repr(value)} is too long, or has other signs than letters, digits and _ . + -"
        # Packages are asked last: to look through all that are installed takes a while, for every card.
        if self.architecture not in ARCHITECTURES and self.architecture not in (allowed := architectures()):
            known = ", ".join(sorted(allowed))
            return f"architecture {reprlib.repr(self.architecture)} is none that this version of xsen2 has ({known})"
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            return f"sha256 is {reprlib.repr(self.sha256)}, not 64 hexadecimal digits"
        for key in ("arguments", "training", "validation"):
            if not isinstance(value := getattr(self, key), Mapping):
                return f"{key} is {reprlib.repr(value)}, not a mapping"
        if type(self.ratio) is not int or self.ratio not in (1, 2, 6):
            return f"ratio is {reprlib.repr(self.ratio)}, neither 2 (20 m bands) nor 6 (60 m bands)"
        if wrong := self._wrong_dates():
            return wrong
        for key, value in self.arguments.items():
            if not _plain(value):
                return (
                    f"argument {reprlib.repr(key)} is {reprlib.repr(value)}: what networks are built with are whole "
                    f"numbers from 0 to {LARGEST}, finite numbers, true, false and short names"
                )
        if (ratio := self.arguments.get("ratio", self.ratio)) != self.ratio:
            return f"it says ratio {self.ratio}, but the network is made for ratio {reprlib.repr(ratio)}"
        if type(self.halo) is not int or not 1 <= self.halo <= REACH // self.ratio:
            return f"halo is {reprlib.repr(self.halo)}, not a number of pixels from 1 to {REACH // self.ratio}"
        if type(self.lattice) is not int or not 1 <= self.lattice <= REACH:
            return f"lattice is {reprlib.repr(self.lattice)}, not a number of pixels from 1 to {REACH}"
        numbers = isinstance(self.spread, Sequence) and all(
            isinstance(x, float) and 0 < x < math.inf for x in self.spread
        )
        if not numbers or len(self.spread) not in (0, len(self.bands)):
            return f"spread is {reprlib.repr(self.spread)}, not one positive number per band"
        return ""

    def _wrong_dates(self) -> str:
        """What is wrong with its pixel size and its number of dates."""
        several = self.ratio == 1
        gsds = GSDS if several else (10,)
        if type(self.gsd) not in (int, float) or self.gsd not in gsds:
            return (
                f"gsd is {reprlib.repr(self.gsd)}: networks of ratio {self.ratio} make "
                f"{' or '.join(f'{gsd:g}' for gsd in gsds)} m"
            )
        most = MOST_FRAMES if several else 1
        if type(self.frames) is not int or not 1 <= self.frames <= most:
            return f"frames is {reprlib.repr(self.frames)}: networks of ratio {self.ratio} read 1 to {most} dates"
        if several and self.arguments.get("zoom") != 10 / self.gsd:
            zoom = reprlib.repr(self.arguments.get("zoom"))
            return f"it says gsd {self.gsd:g}, but the network is made for zoom {zoom}"
        return ""

    @property
    def bands(self) -> tuple[str, ...]:
        """What it makes, canonical names."""
        return {1: A, 2: B, 6: C}[self.ratio]

    @property
    def makes(self) -> str:
        """What it makes, for people."""
        return f"the {10 * self.ratio} m bands at {self.gsd:g} m" if self.gsd < 10 else f"the {10 * self.ratio} m bands"

    def write(self, folder: Path, raw: bytes) -> Card:
        """Write weights and then, so that it never stands alone, their card; both whole or not at all.

        Parameters
        ----------
        folder : Path
            Made if it is missing.
        raw : bytes
            The ``.safetensors`` file, whose hash is `sha256`.

        Returns
        -------
        Card
            As `read` gives it from there.

        Raises
        ------
        WeightsError
            If other weights have the name there already, or what is to be written is not a card.
        StoreError
            If nothing can be written, because the disk is full or may not be written to.
        """
        if wrong := self._wrong():
            raise WeightsError(f"{self.name} cannot be written as a card of weights: {wrong}")
        path = folder.absolute() / f"{self.name}.json"
        weights = path.with_suffix(".safetensors")
        fields = {key: value for key, value in asdict(self).items() if key != "path"}
        with files.named(folder.absolute(), files.ANEW):
            folder.mkdir(parents=True, exist_ok=True)
            if not self._may_replace(path, weights, raw):
                raise WeightsError(
                    f"{folder.absolute()} holds other weights named {self.name}: remove them, or write elsewhere"
                )
            files.write(weights, raw)
            files.write(path, json.dumps(fields, indent=1) + "\n")
        return Card.read(path)

    def _may_replace(self, path: Path, weights: Path, raw: bytes) -> bool:
        """Whether what is there are these weights, perhaps half written or damaged since."""
        if path.exists():
            try:
                return Card.read(path).sha256 == self.sha256
            except WeightsError:
                return False
        if not weights.exists():
            return True
        with files.opened(weights, weights.stat().st_size) as file:
            return file.read(len(raw) + 1) == raw

    @property
    def file(self) -> Path:
        """The weights file on this machine."""
        return Path(self.path) if self.path else WEIGHTS / f"{self.name}.safetensors"


def _plain(value: object) -> bool:
    """Whether a network could be built with it, and not for hours."""
    if isinstance(value, (bool, str)):
        return isinstance(value, bool) or len(value) <= 100
    if isinstance(value, int):
        return 0 <= value <= LARGEST
    return isinstance(value, float) and math.isfinite(value)


@cache
def architectures() -> frozenset[str]:
    """What `Card.architecture` may name: the package's own networks, and those that installed packages offer.

    A card is data from outside: it can name nothing else, so that none of it leads to an import that nobody asked for.
    """
    return ARCHITECTURES | {point.name for point in entry_points(group=GROUP)}


def cards() -> dict[str, tuple[Card, ...]]:
    """Shipped weights by the name that ``method=`` takes."""
    return grouped(Card.read(path) for path in sorted(WEIGHTS.glob("*.json")))


def grouped(all_cards: Iterable[Card]) -> dict[str, tuple[Card, ...]]:
    """Cards by their network."""
    groups: dict[str, list[Card]] = {}
    for card in all_cards:
        groups.setdefault(card.network, []).append(card)
    return {name: tuple(group) for name, group in groups.items()}
