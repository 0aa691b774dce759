"""The package's networks in small: the same architectures, names and bands, a hundredth of the work, random weights.

What holds for every network whatever its weights (chunks, nodata, names, halos) is asked of these. One residual block
is left of each body, so what is seen at the edge of the receptive field is felt more, not less.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from xsen2.networks.cards import Card, cards, grouped
from xsen2.networks.load import build
from xsen2.training import fit, run
from xsen2.training.export import write
from xsen2.training.fit import Recipe

SMALL = {
    "dsen2.DSen2": {"blocks": 1, "features": 8},
    "twogrid.TwoGrid": {"blocks": 1, "thin": 4, "wide": 8},
    "refined.Refined": {"blocks": 1, "thin": 4, "wide": 8},
    "blend.Blend": {"blocks": 1, "features": 8},
    "manydates.HighResNet": {"blocks": 1, "features": 8},
    "manydates.ManyDates": {"blocks": 1, "thin": 4, "wide": 8},
}
"""What each architecture is built with, beside what its card says."""


def one_of_each(names: list[str]) -> list[str]:
    """The first of those names that differ in nothing but weights."""
    found: dict[object, str] = {}
    for name in names:
        group = cards().get(name, ())
        found.setdefault(tuple((c.architecture, repr(sorted(c.arguments.items()))) for c in group) or name, name)
    return list(found.values())


def shrunk(card: Card, folder: Path) -> Card:
    """A card like `card`, of a small network with weights of its own, written to `folder`."""
    arguments = {**card.arguments, **SMALL[card.architecture]}
    torch.manual_seed(card.ratio)
    module = build(card.architecture, card.ratio, arguments)
    for name, value in module.state_dict().items():  # no layer begins at zero, as some do for training
        gain = 0.3 if name.startswith(("tail", "gate", "more")) else 1.4
        if value.ndim:  # a single number is no layer
            value.normal_(std=0.05 if value.ndim == 1 else gain / value[0].numel() ** 0.5)
    keys = ("name", "network", "architecture", "ratio", "licence", "source", "gsd", "frames")
    said = {key: getattr(card, key) for key in keys}
    more = {"spread": card.spread} if card.spread else {}
    return write(module.state_dict(), folder, **said, arguments=arguments, training={}, **more)


def train_small(patch: pytest.MonkeyPatch) -> None:
    """``xsen2 train`` trains small networks, on a few small patches at a time."""
    full = run.recipe_for

    def recipe_for(*args: Any, **kwargs: Any) -> Recipe:
        recipe = full(*args, **kwargs)
        sizes = {"blocks": 1, "thin": 16, "wide": 16}
        return replace(recipe, arguments={**recipe.arguments, **sizes}, batch=4, patch=recipe.patch // 2)

    patch.setattr(run, "recipe_for", recipe_for)


def adapt_small(patch: pytest.MonkeyPatch) -> None:
    """`finetune` looks at few patches at a time: whatever network it is, a step is an eighth of the work."""
    patch.setattr(fit, "Recipe", lambda *args, **kwargs: Recipe(*args, **kwargs | {"batch": 4}))


def small(folder: Path) -> dict[str, tuple[Card, ...]]:
    """What `xsen2.networks.cards` gives, with small networks, whose weights are written to `folder`."""
    return grouped(shrunk(card, folder) for group in cards().values() for card in group)
