"""The one road from files to weights: whoever wrote them, they are what their card says, finite and of bounded size."""

from __future__ import annotations

import hashlib
import importlib
import math
import typing
import zipfile
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xsen2 import files
from xsen2.errors import WeightsError, printable
from xsen2.networks.cards import ARCHITECTURES, GROUP, Card, architectures
from xsen2.networks.local import at
from xsen2.networks.network import Network

__all__ = ["build", "checkpoint", "halo_of", "infinite", "misfit", "network", "start", "tensors", "verified"]

Tensors = dict[str, torch.Tensor]

MOST = 2**30
"""Bytes of a file of weights, or of a checkpoint, at most: VDSen2 has 150 MB, a checkpoint of it 600."""

HEADER = 2**20
"""Bytes that the names and shapes in a safetensors file may take."""

SHOWN = 6  # weights that an error names: two networks can differ in hundreds


def build(architecture: str, ratio: int, arguments: Mapping[str, Any]) -> Network:
    """A fresh network by the name that cards carry, as ``"twogrid.TwoGrid"``.

    Raises
    ------
    WeightsError
        If there is no such architecture, or it takes no such arguments.
    """
    if (
        architecture not in ARCHITECTURES and architecture not in architectures()
    ):  # never any other thing that a module happens to hold
        raise WeightsError(
            f"{architecture!r} is no architecture of xsen2: use one of {', '.join(sorted(architectures()))}"
        )
    if architecture in ARCHITECTURES:
        module, _, name = architecture.rpartition(".")
        kind = getattr(importlib.import_module(f"xsen2.networks.{module}"), name)
    else:
        (point, *_) = entry_points(group=GROUP, name=architecture)
        try:
            kind = point.load()
        except Exception as error:  # other people's code: whatever it raises, the name says whose it is
            raise WeightsError(f"{architecture!r} ({point.value}) cannot be imported: {error!r}") from error
    if not issubclass(kind, Network):
        raise WeightsError(f"{architecture!r} is {kind!r}, which is not derived from xsen2.networks.network.Network")
    takes = typing.get_type_hints(kind.__init__)
    for key, value in arguments.items():
        if key not in takes:
            raise WeightsError(f"{architecture} takes no argument {printable(key, 100)!r}: it takes {', '.join(takes)}")
        if takes[key] in (bool, int, str) and type(value) is not takes[key]:
            raise WeightsError(f"{architecture} takes {key}: {takes[key].__name__}, not {value!r}")
    try:
        built: Network = kind(**{**arguments, "ratio": ratio})
    except Exception as error:  # whatever numbers that make no sense lead to, such as a division by no features
        raise WeightsError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error
    return built


def halo_of(module: Network, ratio: int) -> int:
    """What a card says of a network's receptive field: pixels of the bands' own grid, upsampling included.

    Where a network works in cells that are wider, and says so by its `lattice`, whole ones.
    """
    cell = max(module.lattice, ratio) // ratio
    return -(-(-(-module.radius // ratio) + 1) // cell) * cell


def network(card: Card) -> Network:
    """The network of a card, float32 on the CPU.

    Raises
    ------
    WeightsError
        If the file is missing or damaged, is not the one that the card is of, or holds what the card does not say.
    """
    weights = tensors(card)  # first: then what the card says is known to be true, and this takes no more than the file
    module = build(card.architecture, card.ratio, card.arguments)
    module.load_state_dict(weights)
    return module.eval().requires_grad_(False)


def tensors(card: Card) -> Tensors:
    """The weights of a card, float32; checked like those of `network`."""
    with torch.device("meta"):  # shapes without memory
        module = build(card.architecture, card.ratio, card.arguments)
    if card.halo != (halo := halo_of(module, card.ratio)):
        raise WeightsError(
            f"the card of {card.name} says halo {card.halo}, but the network sees {module.radius} pixels of 10 m "
            f"on each side, which is {halo}: with less, blocks would leave seams. Correct the card"
        )
    if card.lattice != module.lattice:
        raise WeightsError(
            f"the card of {card.name} says lattice {card.lattice}, but the network works in cells of {module.lattice} "
            "pixels of 10 m: blocks that begin elsewhere would leave seams. Correct the card"
        )
    if card.spread and not module.uncertainty:
        raise WeightsError(f"the card of {card.name} has a spread, but the network gives no standard errors: remove it")
    weights = _parsed(verified(card, sum(value.numel() for value in module.state_dict().values())), card.file)
    if wrong := misfit(module, weights):
        raise WeightsError(
            f"{card.file} is not what the card of {card.name} describes, {card.architecture} with "
            f"{dict(card.arguments)}: {wrong}"
        )
    return weights


def misfit(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> str:
    """Which weights are missing, have no place in a network, or another shape; empty if all fit."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    wrong = [f"{key} is missing" for key in expected if key not in given]
    wrong += [f"{printable(key, 100)} has no place" for key in given if key not in expected]
    wrong += [
        f"{key} is {given[key]}, not {expected[key]}"
        for key in expected
        if key in given and given[key] != expected[key]
    ]
    return "; ".join(wrong[:SHOWN]) + (f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")


def verified(card: Card, count: int = MOST) -> bytes:
    """The file of a card, if it is the one; `count` is how many weights it can hold."""
    try:
        raw = files.read(card.file, min(MOST, HEADER + 8 * count))
    except OSError as error:
        raise WeightsError(f"weights {card.name} cannot be read from {card.file} on this worker: {error}") from error
    digest = hashlib.sha256(raw).hexdigest()
    if digest != card.sha256:
        raise WeightsError(
            f"{card.file} is not {card.name}: its sha256 is {digest[:12]}…, the card says {card.sha256[:12]}…; "
            + (
                "copy both anew, and the same to every worker"
                if card.path
                else "install xsen2 again, with the same version on every worker"
            )
        )
    return raw


def _parsed(raw: bytes, file: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        stored = parse(raw)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{file} is not a safetensors file, or is damaged: {printable(str(error), 300)}") from error
    for key, value in stored.items():
        if not value.is_floating_point():
            raise WeightsError(
                f"{file} holds {printable(key, 100)} as {value.dtype}: weights are floating point numbers"
            )
    return _finite({key: value.float() for key, value in stored.items()}, file)


def infinite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor that has a value which is no finite number."""
    return next((printable(k, 100) for k, v in weights.items() if not bool(torch.isfinite(v).all())), None)


def _finite(weights: Tensors, file: Path) -> Tensors:
    if bad := infinite(weights):
        raise WeightsError(
            f"{file} is damaged, or its training went astray: {bad} has values that are not finite numbers, so bands "
            "would become nodata. Copy it anew, or train again with a lower rate"
        )
    return weights


def start(path: Path) -> Tensors:
    """Weights to begin a training with: of a card or the file beside it, of a file alone, or of a run in a folder.

    A run that is not finished gives those that are averaged at its last checkpoint.

    Raises
    ------
    WeightsError
        If there are none, or they are damaged.
    """
    place = path
    if path.is_dir():
        paths = sorted(path.glob("*.safetensors"))
        if len(paths) != 1:
            if (saved := path / "checkpoint.pt").exists():
                return _finite({k: v.float() for k, v in checkpoint(saved)["average"].items()}, saved)
            raise WeightsError(
                f"{path} holds {len(paths)} .safetensors files and no checkpoint.pt: name the file to start from"
            )
        place = paths[0]
    if place.with_suffix(".json").exists():
        return tensors(at(place)[0])
    try:
        raw = files.read(place, MOST)
    except OSError as error:
        raise WeightsError(f"weights to start from cannot be read from {place}: {error}") from error
    return _parsed(raw, place)


def checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """What a training has saved to go on from.

    Returns
    -------
    dict
        ``recipe``, ``step``, ``network``, ``optimiser``, ``average`` and ``seconds``.

    Raises
    ------
    WeightsError
        If it is something else, or damaged.
    """
    try:
        with files.opened(path, MOST) as file:
            with zipfile.ZipFile(file) as archive:  # as torch writes it: nothing in it becomes more than it is
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise ValueError("parts of it are compressed")
            file.seek(0)
            state = torch.load(file, weights_only=True, map_location=device)
        for key, kind in {"recipe": dict, "network": dict, "optimiser": list, "average": dict}.items():
            if not isinstance(state[key], kind):
                raise TypeError(f"its {key} is a {type(state[key]).__name__}")
        if type(state["step"]) is not int or not math.isfinite(state["seconds"]):
            raise TypeError("it does not say how far it is")
        if not all(isinstance(value, torch.Tensor) for value in state["average"].values()):
            raise TypeError("its average is not one of tensors")
    except Exception as error:  # torch and zipfile raise nearly everything for bytes that they did not write
        reason = printable(str(error).partition("\n")[0], 300)
        raise WeightsError(
            f"{path} is not the checkpoint of a training, or is damaged ({reason}): remove it to begin anew, or use "
            "another folder"
        ) from error
    return dict(state)
