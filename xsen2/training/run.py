"""A whole training run: scenes in, weights with their card out."""

from __future__ import annotations

from pathlib import Path

import click

from xsen2.errors import SourceError
from xsen2.networks import Card
from xsen2.networks.load import start
from xsen2.training.export import save
from xsen2.training.fit import fit
from xsen2.training.recipes import data_for, recipe_for
from xsen2.training.scenes import hold_out, read_scenes

__all__ = ["run"]


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
    initial: Path | None = None,
    validation: Path | None = None,
    every: int = 200,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    quiet: bool = False,
) -> Card:
    """What ``xsen2 train`` does; its options are described there.

    Returns
    -------
    Card
        Of the weights that were written into `out`.
    """
    initially = None if initial is None else start(initial)  # before scenes are read, which takes longer
    recipe = recipe_for(network, ratio, steps=steps, cool=cool, rate=rate, noise=noise, haze=haze, seed=seed)
    if (data / "train").is_dir():
        scenes = list(read_scenes(data / "train"))
        other = validation or (data / "validation" if (data / "validation").is_dir() else None)
    else:
        scenes, other = list(read_scenes(data)), validation
    if other is None:
        scenes, judges = hold_out(scenes)
    else:
        judges = list(read_scenes(other))
    pairs, judged = data_for(scenes, judges, recipe, operator, more=more)
    if not pairs:
        raise SourceError(
            f"nothing in {data} can be learnt from: no scene has valid pixels of all {10 * ratio} m bands that are "
            "needed, over an area large enough to be degraded. Add scenes that have"
        )
    say = (lambda line: None) if quiet else click.echo
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
        quiet=quiet,
    )
    card = save(weights, recipe, out, network=network, operator=operator, pairs=pairs)
    say(f"{card.file}: pass method={str(out)!r}")
    return card
