"""A whole training run: scenes in, weights with their card out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from xsen2.errors import MethodError, SourceError
from xsen2.networks.cards import GSDS, Card
from xsen2.networks.load import start
from xsen2.progress import ProgressLike
from xsen2.training.dates import DatesTask, grounds, least
from xsen2.training.export import save, save_finer
from xsen2.training.finetune import coarser
from xsen2.training.fit import DatesRecipe, Recipe, fit, learn
from xsen2.training.patches import Blur, Pair, impostors, pairs, surrogates
from xsen2.training.scenes import Scene, hold_out, read_scenes

__all__ = ["FINER", "NETWORKS", "data_for", "finer_recipe_for", "recipe_for", "run", "run_finer"]


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

_SENSOR = (Blur("mtf"), Blur("mtf", 0.9, (0.15, -0.1)), Blur("mtf", 1.1, (-0.1, 0.15)))
BLURS: dict[str, tuple[Blur, ...]] = {
    "mtf": _SENSOR,
    "dsen2": (Blur("dsen2"),),
    "both": (Blur("dsen2"), Blur("dsen2"), *_SENSOR),
}
"""How scenes are degraded: with the sensor's own blur and some doubt about it, as in the paper, or both."""


def blind(many: int, seed: int) -> list[Blur]:
    """Ways in which bands may have come about, so different that a network cannot rely on any: the scene must say."""
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
    if network in ("blend", "refined"):
        patch, batch = (144, 8) if ratio == 6 else (96, 8)
    elif network != "twogrid":  # four times the work per pixel, and more
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
        real=0.6 if network == "blend" and ratio == 6 else None,
        vary=network in ("blend", "refined"),
        alien=0.15 if network in ("blend", "refined") else 0.0,
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
    return [some for some in data if some], judged


def run(
    data: Path,
    out: Path,
    *,
    network: str = "twogrid",
    ratio: int = 2,
    operator: str = "mtf",
    steps: int = 5000,
    cool: int = 1500,
    rate: float = 0.02,
    noise: float = 0.0,
    haze: float = 0.0,
    more: bool = False,
    coarse: bool = False,
    initial: Path | None = None,
    validation: Path | None = None,
    every: int = 200,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: ProgressLike = True,
) -> Card:
    """What ``xsen2 train`` does; its options are described there.

    `progress` is that of `xsen2.training.fit.fit`: a function is told of each step, and can stop the run, which the
    same call then takes up at its checkpoint. With True, lines about data and weights are printed as well.

    Returns
    -------
    Card
        Of the weights that were written into `out`.
    """
    initially = None if initial is None else start(initial)  # before scenes are read, which takes longer
    recipe = recipe_for(network, ratio, steps=steps, cool=cool, rate=rate, noise=noise, haze=haze, seed=seed)
    scenes, judges = _split(data, validation, Blur("dsen2" if operator == "dsen2" else "mtf") if coarse else None)
    pairs, judged = data_for(scenes, judges, recipe, operator, more=more)
    if not pairs:
        raise SourceError(
            f"nothing in {data} can be learnt from: no scene has valid pixels of all {10 * ratio} m bands that are "
            "needed, over an area large enough to be degraded. Add scenes that have"
        )
    say = click.echo if progress is True else (lambda line: None)
    say(f"{len(pairs)} scenes to train on, {len(judged)} of other places to validate on")
    weights = fit(
        pairs,
        judged,
        recipe,
        out,
        initial=initially,
        every=every,
        device=device,
        threads=threads,
        progress=progress,
    )
    card = save(weights, recipe, out, network=network, operator=operator, pairs=pairs)
    say(f"{card.file}: pass method={str(out)!r}")
    return card


def _split(data: Path, validation: Path | None, how: Blur | None = None) -> tuple[list[Scene], list[Scene]]:
    """Scenes to train on, and those of other places that judge; twice as coarse, if it is said how."""
    if (data / "train").is_dir():
        scenes = list(read_scenes(data / "train"))
        other = validation or (data / "validation" if (data / "validation").is_dir() else None)
    else:
        scenes, other = list(read_scenes(data)), validation
    parts = hold_out(scenes) if other is None else (scenes, list(read_scenes(other)))
    if how is None:
        return parts
    train, judges = ([coarser(scene, how) for scene in part] for part in parts)
    return train, judges


def finer_recipe_for(network: str, gsd: float, *, steps: int, cool: int, rate: float, seed: int) -> DatesRecipe:
    """The recipe of a network that makes 5 or 2.5 m pixels of many dates."""
    if network not in FINER:
        raise MethodError(f"network {network!r} makes no {gsd:g} m pixels: use one of {', '.join(FINER)}")
    if gsd not in GSDS:
        raise MethodError(f"gsd={gsd:g}: networks are trained for {' and '.join(f'{g:g}' for g in GSDS)} m")
    architecture, arguments = FINER[network]
    return DatesRecipe(architecture, steps, cool, {"zoom": round(10 / gsd), **arguments}, rate=rate, seed=seed)


def run_finer(
    data: Path,
    out: Path,
    *,
    gsd: float,
    network: str = "fusion",
    steps: int = 5000,
    cool: int = 1500,
    rate: float = 0.02,
    coarse: bool = False,
    initial: Path | None = None,
    validation: Path | None = None,
    every: int = 200,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: ProgressLike = True,
) -> Card:
    """What ``xsen2 train --gsd`` does: a network that makes pixels finer than 10 m of many dates.

    It learns one scale up, where the truth is known: the 10 m bands are the truth, and the frames what a sensor with
    pixels of 20 m (`gsd` 5) or 40 m (2.5) would have seen of them.

    Parameters
    ----------
    gsd : float
        5 or 2.5.
    coarse : bool
        Make scenes twice as coarse first, so that it learns from 40 (80) to 20 m: what such a network does from 20 (40)
        to 10 m says how far one scale speaks for the next, see `xsen2.evaluation.ladder_report.ladder`.
    initial : path, optional
        Weights to start from. Of a network for the other pixel size, those are taken that have the same shape.

    Returns
    -------
    Card
        Of the weights that were written into `out`.
    """
    initially = None if initial is None else start(initial)
    recipe = finer_recipe_for(network, gsd, steps=steps, cool=cool, rate=rate, seed=seed)
    scenes, judges = _split(data, validation, Blur("mtf") if coarse else None)
    places = grounds(scenes, least(recipe))
    if not places:
        raise SourceError(f"nothing in {data} can be learnt from: no scene has valid pixels of all 10 m bands")
    task = DatesTask(places, [g for g in grounds(judges, least(recipe)) if "/" not in g.name], recipe)
    say = click.echo if progress is True else (lambda line: None)
    say(f"{len(places)} scenes to train on, {len(task.validation)} of other places to validate on")
    weights = learn(
        task, recipe, out, initial=initially, every=every, device=device, threads=threads, progress=progress
    )
    card = save_finer(weights, recipe, out, network=network, scenes=[place.name for place in places])
    say(f"{card.file}: pass method={str(out)!r}")
    return card
