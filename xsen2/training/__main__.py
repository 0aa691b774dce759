"""Put a finished run among the shipped weights: ``python -m xsen2.training RUN --name twogrid-20m-v1 --data DATA``.

The standard errors are calibrated on the scenes of DATA/train, so that validation stays a test, or with --calibrate on
those of another folder: weights for the 60 m bands fit the few scenes that they were trained on too closely.
``python benchmarks/validate.py --card`` then measures the rest of the card.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from xsen2.networks.cards import WEIGHTS
from xsen2.networks.load import verified
from xsen2.networks.local import at
from xsen2.training.calibrate import spread_of
from xsen2.training.scenes import read_scenes


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--name", required=True, help="Of the weights, with their version: twogrid-20m-v1.")
@click.option("--network", required=True, help="What method= takes.")
@click.option("--source", required=True, help="One line: what it is, by whom.")
@click.option("--command", "commands", multiple=True, help="What was run, in order.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder with train/.")
@click.option("--calibrate", default="train", show_default=True, help="Folder in DATA for the standard errors.")
def main(
    run: Path, name: str, network: str, source: str, commands: tuple[str, ...], data: Path, calibrate: str
) -> None:
    """Write the weights of RUN into the package under NAME."""
    [card] = at(run)
    raw = verified(card)
    training = {**card.training, "commands": list(commands)}
    card = dataclasses.replace(card, name=name, network=network, source=source, training=training)
    if card.spread:
        operator: Any = "mtf" if card.training["operator"] == "both" else card.training["operator"]
        card = dataclasses.replace(card, spread=spread_of(card, list(read_scenes(data / calibrate)), operator))
        card = dataclasses.replace(card, training={**training, "calibration": f"on the scenes of {calibrate}/"})
    written = card.write(WEIGHTS, raw)
    click.echo(f"{written.file}: {', '.join(f'{x:.3f}' for x in written.spread)}")


if __name__ == "__main__":
    main()
