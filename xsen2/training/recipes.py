"""What a training run does unless it is told otherwise: the recipes of the shipped weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xsen2.errors import MethodError
from xsen2.training.fit import Recipe
from xsen2.training.patches import Blur, Pair, pairs, surrogates
from xsen2.training.scenes import Scene

__all__ = ["BLURS", "NETWORKS", "data_for", "recipe_for"]

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "twogrid": ("twogrid.TwoGrid", {"thin": 32, "wide": 128, "blocks": 4}),
    "dsen2": ("dsen2.DSen2", {"blocks": 6, "features": 128}),
    "vdsen2": ("dsen2.DSen2", {"blocks": 32, "features": 256}),
}
"""Name → class in `xsen2.networks` and what it is built with."""

_SENSOR = (Blur("mtf"), Blur("mtf", 0.9, (0.15, -0.1)), Blur("mtf", 1.1, (-0.1, 0.15)))
BLURS: dict[str, tuple[Blur, ...]] = {
    "mtf": _SENSOR,
    "dsen2": (Blur("dsen2"),),
    "both": (Blur("dsen2"), Blur("dsen2"), *_SENSOR),
}
"""How scenes are degraded: with the sensor's own blur and some doubt about it, as in the paper, or both."""


def recipe_for(
    network: str, ratio: int, *, steps: int, cool: int, rate: float, noise: float, haze: float, seed: int
) -> Recipe:
    """The recipe of a network; patches and batches are such that one holds about 147 000 pixels."""
    if network not in NETWORKS:
        raise MethodError(f"network {network!r}: use one of {', '.join(NETWORKS)}")
    architecture, arguments = NETWORKS[network]
    if network == "twogrid" and ratio == 6:  # at 20 m, where there is more to learn from, it ends at the same error
        arguments = {**arguments, "guide": True}
    patch, batch = (48, 64) if ratio == 2 else (96, 16)
    if network != "twogrid":  # four times the work per pixel, and more
        batch //= 4
    return Recipe(
        architecture,
        ratio,
        steps,
        cool,
        arguments,
        rate=rate,
        batch=batch,
        patch=patch,
        noise=noise,
        haze=haze,
        seed=seed,
    )


def data_for(
    train: Sequence[Scene], validation: Sequence[Scene], recipe: Recipe, operator: str, *, more: bool = False
) -> tuple[list[list[Pair]], list[Pair]]:
    """Scenes as pairs: to train on, per scene, and to validate on, with each operator in turn.

    Parameters
    ----------
    operator : {"mtf", "dsen2", "both"}
    more : bool
        Whether to add surrogates for the 60 m bands.
    """
    blurs = BLURS[operator]
    data = [p for scene in train if (p := list(pairs(scene, recipe.ratio, blurs, recipe.patch)))]
    if more and recipe.ratio == 6:
        data += [p for scene in train if (p := list(surrogates(scene, blurs, recipe.patch)))]
    judges = [Blur(o) for o in (("mtf", "dsen2") if operator == "both" else (operator,))]
    judged = [p for i, scene in enumerate(validation) for p in pairs(scene, recipe.ratio, [judges[i % len(judges)]])]
    return data, judged
