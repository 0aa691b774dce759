"""Train the shipped DSen2: ``python -m xsen2.training --data DATA --ratio 2 --out RUN``.

`RECIPES` is what the model cards say was run. The command goes on where it was stopped, and ends by
writing the weights and their card into the package.
"""

from __future__ import annotations

from pathlib import Path

import click

from xsen2.training.export import export
from xsen2.training.fit import Recipe, Stage, fit
from xsen2.training.patches import Blur, Pair, pairs, read_scenes

RECIPES = {
    2: Recipe(
        2,
        (
            Stage(32, 3000, 1e-3),
            Stage(64, 2000, 5e-4, until=750),
            Stage(64, 1000, 4e-4, relative=True, share=0.5),
            # Added noise teaches smoothing, which costs on dark water, where all structure is noise already.
            Stage(64, 900, 3e-4, relative=True, share=0.15, noise=0.0),
            Stage(128, 120, 2e-4, relative=True, share=0.15, noise=0.0),
        ),
    ),
    # Few L2A scenes are large enough for the 60 m bands, hence the haze.
    6: Recipe(
        6,
        (
            Stage(32, 3000, 1e-3, until=2500),
            Stage(64, 1000, 5e-4, relative=True, share=0.5),
            Stage(64, 900, 3e-4, relative=True, share=0.15, noise=0.0),
            Stage(128, 120, 2e-4, relative=True, share=0.15, noise=0.0),
        ),
        haze=0.5,
    ),
}
# One network for both operators: the paper's, and the sensor's own blur with some doubt about it.
BLURS = (
    Blur("dsen2"),
    Blur("dsen2"),
    Blur("mtf"),
    Blur("mtf", 0.9, (0.15, -0.1)),
    Blur("mtf", 1.1, (-0.1, 0.15)),
)


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Folder with train/ and validation/.",
)
@click.option("--ratio", type=click.Choice(["2", "6"]), required=True, help="2: the 20 m bands; 6: the 60 m bands.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for checkpoint and log.")
@click.option("--threads", type=int, help="Threads of torch; all cores by default.")
def main(data: Path, ratio: str, out: Path, threads: int | None) -> None:
    """Train DSen2 (6 x 128) on DATA/train and write its weights and card."""
    from xsen2.networks.dsen2 import DSen2

    scale = int(ratio)
    recipe = RECIPES[scale]
    train = [p for s in read_scenes(data / "train") if (p := list(pairs(s, scale, BLURS, recipe.patch)))]
    validation: list[Pair] = []
    for i, scene in enumerate(read_scenes(data / "validation")):
        validation += pairs(scene, scale, [Blur("dsen2" if i % 2 else "mtf")])
    click.echo(f"{len(train)} scenes to train on, {len(validation)} to validate on")
    weights = fit(
        lambda features: DSen2(scale, features=features),
        train,
        validation,
        recipe,
        out,
        every=250,
        threads=threads,
    )
    operators = ", ".join(
        f"{b.operator} (blur x {b.blur}, shift {b.shift} px)" if b.operator == "mtf" else b.operator for b in BLURS
    )
    device = f"a CPU ({'all cores' if threads is None else f'{threads} of its cores'}), float32"
    export(weights, recipe, out, [p[0].name for p in train], operators=operators, device=device)


if __name__ == "__main__":
    main()
