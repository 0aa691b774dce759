"""Put a finished run among the shipped weights: ``python -m xsen2.training RUN --name twogrid-20m-v1 --data DATA``.

The standard errors are calibrated on the scenes of DATA/validation, or with --calibrate on those of another folder,
with the operator `product`: weights fit the scenes that they were trained on too closely. How well that holds for a
place that the calibration has not seen is measured by leaving out each in turn, and stands in the card.
``python benchmarks/validate.py --card`` then measures the rest of the card.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from xsen2.networks.cards import WEIGHTS
from xsen2.networks.load import verified
from xsen2.networks.local import at
from xsen2.training.calibrate import left_out, ratios_of, spread_of
from xsen2.training.scenes import read_scenes


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--name", required=True, help="Of the weights, with their version: twogrid-20m-v1.")
@click.option("--network", required=True, help="What method= takes.")
@click.option("--source", required=True, help="One line: what it is, by whom.")
@click.option("--command", "commands", multiple=True, help="What was run, in order.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of data.")
@click.option("--calibrate", default="validation", show_default=True, help="Folder in DATA for the standard errors.")
def main(
    run: Path, name: str, network: str, source: str, commands: tuple[str, ...], data: Path, calibrate: str
) -> None:
    """Write the weights of RUN into the package under NAME."""
    [card] = at(run)
    raw = verified(card)
    training = {**card.training, "commands": list(commands)}
    card = dataclasses.replace(card, name=name, network=network, source=source, training=training)
    if card.spread:
        ratios = ratios_of(card, list(read_scenes(data / calibrate)), "product")
        within = left_out(ratios, lambda scene: scene.rsplit("_", 1)[0] if scene[-2:] in ("_1", "_2") else scene)
        calibration = {"scenes": f"of {calibrate}/", "operator": "product", "within one, each place left out": within}
        card = dataclasses.replace(card, spread=spread_of(ratios), training={**training, "calibration": calibration})
    written = card.write(WEIGHTS, raw)
    click.echo(f"{written.file}: {', '.join(f'{x:.3f}' for x in written.spread)}")


if __name__ == "__main__":
    main()
