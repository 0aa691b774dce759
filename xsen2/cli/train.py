"""``xsen2 train``: weights from a folder of scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xsen2.cli.options import UserPath

__all__ = ["train"]


@click.command()
@click.argument("data", type=UserPath(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=UserPath(file_okay=False, path_type=Path), required=True, help="Folder of the run.")
@click.option("--network", help="twogrid (the default), blend, dsen2 or vdsen2; with --gsd fusion or highresnet.")
@click.option(
    "--gsd",
    type=click.Choice(["10", "5", "2.5"]),
    default="10",
    show_default=True,
    help="Metres; below 10, a network that makes one image of many dates.",
)
@click.option("--ratio", type=click.Choice(["2", "6"]), default="2", help="2: the 20 m bands; 6: the 60 m bands.")
@click.option(
    "--operator",
    type=click.Choice(["mtf", "dsen2", "both", "blind"]),
    default="mtf",
    show_default=True,
    help="How scenes are degraded: the sensor's blur, with jitter; the paper's; both; or blind, in any way.",
)
@click.option("--steps", type=click.IntRange(1), default=5000, show_default=True, help="Updates.")
@click.option("--cool", type=click.IntRange(0), default=1500, show_default=True, help="Of them, with falling rates.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), default=0.02, show_default=True, help="Learning rate of Muon."
)
@click.option("--noise", type=click.FloatRange(0), default=0.0, show_default=True, help="Added to inputs, in DN.")
@click.option("--haze", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of patches cleared.")
@click.option(
    "--loss",
    type=click.Choice(["absolute", "rms"]),
    default="absolute",
    show_default=True,
    help="Of errors, their mean size or the root of their mean square: the latter for the end of a training.",
)
@click.option("--surrogates", is_flag=True, help="For the 60 m bands: learn from bands that play them too.")
@click.option(
    "--coarser",
    is_flag=True,
    help="Make scenes twice as coarse first: for `xsen2 evaluate --transfer` at the next scale.",
)
@click.option("--init", type=UserPath(exists=True, path_type=Path), help="Run folder or .safetensors to start from.")
@click.option(
    "--validation", type=UserPath(exists=True, file_okay=False, path_type=Path), help="Folder of other places."
)
@click.option("--every", type=click.IntRange(1), default=200, show_default=True, help="Steps between log lines.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch on a CPU; all cores by default.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def train(
    data: Path,
    out: Path,
    network: str | None,
    gsd: str,
    ratio: str,
    operator: str,
    steps: int,
    cool: int,
    rate: float,
    noise: float,
    haze: float,
    loss: str,
    surrogates: bool,
    coarser: bool,
    init: Path | None,
    validation: Path | None,
    every: int,
    seed: int,
    device: str,
    threads: int | None,
    quiet: bool,
) -> None:
    """Train a network on the scenes of a folder, at the lower scale, where the truth is known.

    DATA holds cubes: ESA .SAFE folders or .zip files, Zarr stores, .npz files; or two folders of them, train/
    and validation/. Without --validation and such folders, whole places are held out. OUT receives the
    weights with their card, which --method takes, a checkpoint and log.jsonl, one line per --every steps.
    Give the same command again to go on after a stop, or with more --steps to train longer: rates stay
    constant until the last --cool steps. With --gsd 5 or 2.5 the 10 m bands are the truth, and what is learnt is to
    make them of many dates that a sensor with larger pixels would have seen.

    \b
    xsen2 train scenes/ --out run20
    xsen2 run cube.zarr out.zarr --method run20
    xsen2 train scenes/ --gsd 2.5 --out run2.5
    """  # noqa: D301  # click wants the sign itself
    from xsen2.networks.load import start
    from xsen2.training.fit import Plan, Run
    from xsen2.training.run import Source, finer_recipe_for, recipe_for, run

    plan: dict[str, Any] = {"steps": steps, "cool": cool, "rate": rate, "seed": seed}
    if gsd == "10":
        name = network or "twogrid"
        recipe: Plan = recipe_for(name, int(ratio), noise=noise, haze=haze, loss=loss, **plan)
    else:
        given = click.get_current_context().get_parameter_source
        for option in ("ratio", "operator", "noise", "haze", "loss", "surrogates"):
            if given(option) is click.core.ParameterSource.COMMANDLINE:
                what = f"--{option} is for networks that make 10 m bands"
                raise click.UsageError(f"{what}: leave it out with --gsd {gsd}")
        name = network or "fusion"
        recipe = finer_recipe_for(name, float(gsd), **plan)
    initial = None if init is None else start(init)  # before scenes are read, which takes longer
    source = Source(data, validation, operator, surrogates, coarser)
    run(name, source, recipe, Run(out, initial, every, device, threads, progress=not quiet))
