"""Weights outside the package: those that the user's own folder holds, and those that a path names."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_data_path

from xsen2 import files
from xsen2.errors import WeightsError
from xsen2.networks.cards import Card, grouped

__all__ = ["UNSHIPPED", "Broken", "at", "folder", "installed", "is_path"]

UNSHIPPED = {
    "vdsen2": "they are too large to come along. Train them (xsen2 train --network vdsen2 …) and put weights and card "
    "there, or convert a download of the authors' own (xsen2 weights convert FILE.hdf5) for method='vdsen2-official'",
    "dsen2-official": "they are the authors' own: convert your download of them (xsen2 weights convert FILE.hdf5)",
    "vdsen2-official": "they are the authors' own: convert your download of them (xsen2 weights convert FILE.hdf5)",
}
"""Networks whose weights do not come with the package, and how to get them."""


class Broken(NamedTuple):
    """A card, or what should be one, that cannot be used."""

    network: str
    path: Path
    error: WeightsError


def folder() -> Path:
    """Where a user's weights are kept: ``XSEN2_WEIGHTS``, else ``xsen2/weights`` where the user's data lie.

    That is ``$XDG_DATA_HOME``, or what the system has for it: ``~/.local/share``, ``~/Library/Application Support``,
    ``%LOCALAPPDATA%``.
    """
    if given := os.environ.get("XSEN2_WEIGHTS"):
        return files.local(given, WeightsError)
    try:
        Path.home()
        return user_data_path("xsen2", appauthor=False).absolute() / "weights"
    except RuntimeError as error:
        raise WeightsError(f"no folder for weights: {error}; name one in XSEN2_WEIGHTS") from error


def installed(reserved: Collection[str]) -> tuple[dict[str, tuple[Card, ...]], list[Broken]]:
    """What `folder` holds: usable weights by the name that ``method=`` takes, and the others.

    Parameters
    ----------
    reserved : collection of str
        Names that mean something else already, and cannot be given to other weights.
    """
    try:
        paths = sorted(folder().glob("*.json"))
    except WeightsError:  # no home: nothing can have been put there
        return {}, []
    cards: list[Card] = []
    broken: list[Broken] = []
    for path in paths:
        try:
            card = Card.read(path)
            if card.network in reserved:
                raise WeightsError(
                    f"{path} calls its network {card.network!r}, a name of xsen2's own: pass its path as method= "
                    "instead, or give it another network name"
                )
            cards.append(_with_weights(card, path))
        except WeightsError as error:
            broken.append(Broken(_network_of(path), path, error))
    groups = grouped(cards)
    for network, group in list(groups.items()):
        if twice := _twice(group):
            broken += [Broken(network, Path(c.path), WeightsError(f"{folder()} holds {twice}")) for c in group]
            del groups[network]
    return groups, broken


def is_path(method: str) -> bool:
    """Whether a ``method=`` is meant as a path: it looks like one, or a folder of that name is there."""
    looks = method.endswith((".json", ".safetensors")) or any(s in method for s in ("/", os.sep))
    return looks or os.path.isdir(os.path.expanduser(method))


def at(path: str | os.PathLike[str]) -> tuple[Card, ...]:
    """The weights that a path names.

    Parameters
    ----------
    path : path
        A card, the ``.safetensors`` file beside it, or a folder with the cards of one network.

    Raises
    ------
    WeightsError
        If there are none, if they are broken, or if it is not clear which are meant.

    Examples
    --------
    >>> from xsen2.networks import local
    >>> from xsen2.networks.cards import cards
    >>> shipped = cards()["dsen2"][0]
    >>> local.at(shipped.file) == (shipped,)
    True
    """
    place = files.local(path, WeightsError)
    if not os.path.exists(place):
        raise WeightsError(f"no weights at {place}: it does not exist")
    if not place.is_dir():
        if place.suffix not in (".json", ".safetensors"):
            raise WeightsError(f"{place} is no weights: give a folder, or a file that ends in .json or .safetensors")
        beside = place.with_suffix(".json")
        if not os.path.exists(beside):
            raise WeightsError(f"{place} has no card beside it: {beside.name}, which says what the weights are")
        return (_with_weights(Card.read(beside), beside),)
    cards: list[Card] = []
    for file in sorted(place.glob("*.json")):
        try:
            card = Card.read(file)
        except WeightsError:
            if os.path.exists(file.with_suffix(".safetensors")):
                raise
            continue  # a log or the like
        cards.append(_with_weights(card, file))
    if not cards:
        raise WeightsError(f"{place} holds no weights: NAME.safetensors, and its card NAME.json beside it")
    if len(names := sorted({card.network for card in cards})) > 1:
        raise WeightsError(
            f"{place} holds several networks ({', '.join(names)}): give the path of one card, "
            f"as {place / cards[0].name}.json"
        )
    if twice := _twice(cards):
        raise WeightsError(f"{place} holds {twice}")
    return tuple(cards)


def _with_weights(card: Card, path: Path) -> Card:
    if not os.path.isfile(card.file):
        raise WeightsError(f"{path} is the card of weights that are missing: {card.file.name} should lie beside it")
    return card


def _twice(group: Sequence[Card]) -> str:
    """What is wrong if two of a group make the same bands: it is not clear which are meant."""
    for makes in dict.fromkeys(card.makes for card in group):
        names = [card.name for card in group if card.makes == makes]
        if len(names) > 1:
            return (
                f"several weights of {group[0].network!r} for {makes} ({', '.join(names)}): "
                "give the path of one card as method=, or move the others elsewhere"
            )
    return ""


def _network_of(path: Path) -> str:
    """The network that a card is of, as well as can be told: from what it says, else from its name."""
    try:
        network = files.read_json(path)["network"]
    except (OSError, ValueError, TypeError, KeyError):
        network = None
    return network if isinstance(network, str) and network else re.sub(r"-[\d.]+m(-v\d+)?$", "", path.stem)
