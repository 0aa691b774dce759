"""A whole training run: scenes in, weights with their card out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from xsen2.errors import MethodError, SourceError
from xsen2.networks.cards import GSDS, Card
from xsen2.training.dates import DatesTask, grounds, least
from xsen2.training.export import save
from xsen2.training.finetune import coarser
from xsen2.training.fit import BandsTask, DatesRecipe, Plan, Recipe, Run, learn
from xsen2.training.patches import SURROGATE, Blur, Pair, impostors, pairs, surrogates
from xsen2.training.scenes import Scene, hold_out, read_scenes

__all__ = ["COOL", "FINER", "NETWORKS", "STEPS", "Source", "data_for", "finer_recipe_for", "recipe_for", "run"]


# What a training run does unless it is told otherwise: the recipes of the shipped weights.


NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "twogrid": ("twogrid.TwoGrid", {"thin": 32, "wide": 128, "blocks": 4}),
    "blend": ("blend.Blend", {"features": 64, "blocks": 3}),
    "refined": ("refined.Refined", {"thin": 32, "wide": 128, "blocks": 4}),
    "dsen2": ("dsen2.DSen2", {"blocks": 6, "features": 128}),
    "vdsen2": ("dsen2.DSen2", {"blocks": 32, "features": 256}),
}
"""Name → class in `xsen2.networks` and what it is built with."""

FINER: dict[str, tuple[str, dict[str, Any]]] = {
    "fusion": ("manydates.ManyDates", {"thin": 32, "wide": 64, "blocks": 4}),
    "highresnet": ("manydates.HighResNet", {"features": 64, "blocks": 2}),
}
"""The same of networks that make pixels finer than 10 m of many dates."""

STEPS, COOL = 5000, 1500

_SENSOR = (Blur("mtf"), Blur("mtf", 0.9, (0.15, -0.1)), Blur("mtf", 1.1, (-0.1, 0.15)))
BLURS: dict[str, tuple[Blur, ...]] = {
    "mtf": _SENSOR,
    "dsen2": (Blur("dsen2"),),
    "both": (Blur("dsen2"), Blur("dsen2"), *_SENSOR),
}
"""How scenes are degraded: with the sensor's own blur and variations of it, as in the paper, or both."""


def blind(many: int, seed: int) -> list[Blur]:
    """Degradations so different that a network cannot rely on any: it must infer the blur from the scene."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(many):
        kind = ("mtf", "dsen2", "product", "mtf", "product", "box")[number % 6]
        if kind in ("mtf", "product"):
            out.append(
                Blur(kind, float(rng.uniform(0.85, 1.15)), spread=0.07, drift=0.02, seed=int(rng.integers(10**9)))
            )
        else:
            out.append(Blur(kind))
    return out


def recipe_for(network: str, ratio: int, **changes: Any) -> Recipe:
    """The recipe of a network; patches and batches are such that one holds about 147 000 pixels.

    `changes` are fields of `xsen2.training.recipes.Recipe` with other values.
    """
    if network not in NETWORKS:
        raise MethodError(f"network {network!r}: use one of {', '.join(NETWORKS)}")
    architecture, arguments = NETWORKS[network]
    if network == "twogrid" and ratio == 6:  # at 20 m, where there is more to learn from, it ends at the same error
        arguments = {**arguments, "guide": True}
    regressive = network in ("blend", "refined")  # begins with regressions
    patch, batch = (48, 64) if ratio == 2 else (96, 16)
    if regressive:
        patch, batch = (144, 8) if ratio == 6 else (96, 8)
    elif network != "twogrid":  # four times the work per pixel, and more
        batch //= 4
    recipe = Recipe(
        architecture,
        ratio,
        STEPS,
        COOL,
        arguments,
        batch=batch,
        patch=patch,
        real=0.6 if network == "blend" and ratio == 6 else None,
        vary=regressive,
        alien=(0.3 if ratio == 6 else 0.15) if regressive else 0.0,
    )
    return replace(recipe, **changes)


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
    if operator == "blind":
        return _blind(train, validation, recipe, more)
    blurs = BLURS[operator]
    data = [p for scene in train if (p := list(pairs(scene, recipe.ratio, blurs, recipe.patch)))]
    if more and recipe.ratio == 6:
        data += [p for scene in train if (p := list(surrogates(scene, blurs, recipe.patch)))]
    judges = [Blur(o) for o in (("mtf", "dsen2") if operator == "both" else (operator,))]
    judged = [p for i, scene in enumerate(validation) for p in pairs(scene, recipe.ratio, [judges[i % len(judges)]])]
    return data, judged


def _blind(
    train: Sequence[Scene], validation: Sequence[Scene], recipe: Recipe, more: bool
) -> tuple[list[list[Pair]], list[Pair]]:
    """Every scene degraded in ways of its own."""
    data = []
    for number, scene in enumerate(train):
        data.append(list(pairs(scene, recipe.ratio, blind(12 if recipe.ratio == 6 else 3, number), recipe.patch)))
        if more and recipe.ratio == 6:
            data.append(list(impostors(scene, blind(4, 1000 + number), recipe.patch, number)))
    judges = [Blur("mtf"), Blur("dsen2"), Blur("product")]
    judged = [p for scene in validation for p in pairs(scene, recipe.ratio, judges)]
    return [scene_pairs for scene_pairs in data if scene_pairs], judged


@dataclass(frozen=True)
class Source:
    """What a network learns from.

    Attributes
    ----------
    data : path
        Folder of scenes; or of two, ``train`` and ``validation``.
    validation : path, optional
        Folder of other places. Without it and such a folder, whole places are held out.
    operator : {"mtf", "dsen2", "both", "blind"}
        How scenes are degraded; a network for many dates learns from ``mtf`` alone.
    surrogates : bool
        For the 60 m bands: whether other bands stand in for them too.
    coarser : bool
        Make scenes twice as coarse first: how a network trained on those does on the scenes as they are shows how far
        one scale speaks for the next.
    """

    data: Path
    validation: Path | None = None
    operator: str = "mtf"
    surrogates: bool = False
    coarser: bool = False


def run(network: str, source: Source, recipe: Plan, how: Run) -> Card:
    """What ``xsen2 train`` does: weights with their card in the run's folder.

    Parameters
    ----------
    network : str
        What ``method=`` will take once the card lies among the installed ones.
    source : Source
    recipe : Recipe or DatesRecipe
        For the 20 m or 60 m bands of one date, `recipe_for` makes one; for pixels of 5 or 2.5 m from many dates,
        `finer_recipe_for`. The latter are learnt one scale up, where the truth is known: the 10 m bands are the truth,
        and the frames what a sensor with pixels of 20 or 40 m would have seen of them.
    how : Run
        If its `progress` stops the training, the same call takes it up at its checkpoint. With True, lines about data
        and weights are printed as well.

    Returns
    -------
    Card
        Of the weights that were written.
    """
    task: DatesTask | BandsTask
    if isinstance(recipe, DatesRecipe):
        operator, needed = "mtf", "10 m bands"
        task, names = _dates(*_split(source, Blur("mtf")), recipe)
    else:
        operator = source.operator
        needed = f"{10 * recipe.ratio} m bands that are needed, over an area large enough to be degraded"
        parts = _split(source, Blur("dsen2" if operator == "dsen2" else "mtf"))
        task, names = _bands(*parts, source, recipe)
    if not names:
        raise SourceError(
            f"nothing in {source.data} can be learnt from: no scene has valid pixels of all {needed}. Add some that do"
        )
    say = click.echo if how.progress is True else (lambda line: None)
    say(f"{len(names)} scenes to train on, {len(task.validation)} of other places to validate on")
    weights = learn(task, recipe, how)
    card = save(weights, recipe, Path(how.folder), network=network, operator=operator, scenes=names)
    say(f"{card.file}: pass method={str(how.folder)!r}")
    return card


def _bands(
    scenes: Sequence[Scene], judges: Sequence[Scene], source: Source, recipe: Recipe
) -> tuple[BandsTask, list[str]]:
    pairs, judged = data_for(scenes, judges, recipe, source.operator, more=source.surrogates)
    return BandsTask(pairs, judged, recipe), [scene[0].place.removesuffix(SURROGATE) for scene in pairs]


def _dates(scenes: Sequence[Scene], judges: Sequence[Scene], recipe: DatesRecipe) -> tuple[DatesTask, list[str]]:
    places, judged = grounds(scenes, least(recipe)), grounds(judges, least(recipe))
    # Patches of a stack are left out of the validation: they are too small for eight dates with their margins.
    task = DatesTask(places, [g for g in judged if "/" not in g.name], recipe)
    return task, [place.name.split("/")[0] for place in places]


def _split(source: Source, how: Blur) -> tuple[list[Scene], list[Scene]]:
    """Scenes to train on, and those of other places that judge; degraded so, if they are to be coarser."""
    data, validation = source.data, source.validation
    if (data / "train").is_dir():
        scenes = list(read_scenes(data / "train"))
        other = validation or (data / "validation" if (data / "validation").is_dir() else None)
    else:
        scenes, other = list(read_scenes(data)), validation
    parts = hold_out(scenes) if other is None else (scenes, list(read_scenes(other)))
    if not source.coarser:
        return parts
    train, judges = ([coarser(scene, how) for scene in part] for part in parts)
    return train, judges


def finer_recipe_for(network: str, gsd: float, **changes: Any) -> DatesRecipe:
    """The recipe of a network that makes 5 or 2.5 m pixels of many dates; `changes` as for `recipe_for`."""
    if network not in FINER:
        raise MethodError(f"network {network!r} makes no {gsd:g} m pixels: use one of {', '.join(FINER)}")
    if gsd not in GSDS:
        raise MethodError(f"gsd={gsd:g}: networks are trained for {' and '.join(f'{g:g}' for g in GSDS)} m")
    architecture, arguments = FINER[network]
    recipe = DatesRecipe(architecture, STEPS, COOL, {"zoom": round(10 / gsd), **arguments})
    return replace(recipe, **changes)
