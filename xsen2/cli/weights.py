"""``xsen2 weights``: which weights there are, and how others come to them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from xsen2 import files
from xsen2.cli import options
from xsen2.cli.options import UserPath, json_option
from xsen2.errors import WeightsError, printable
from xsen2.methods.registry import installed
from xsen2.networks import local
from xsen2.networks.cards import Card, cards

__all__ = ["weights"]


@click.group()
def weights() -> None:
    """List, show, convert and export weights of networks.

    The user's own weights are in the folder that XSEN2_WEIGHTS names, by default xsen2/weights where the user's
    data lie (~/.local/share). `xsen2 methods` lists their networks among all that --method takes.
    """


@weights.command()
@click.argument("file", type=UserPath(path_type=Path))
@click.option("--out", type=UserPath(file_okay=False, path_type=Path), help="Folder; the user's own folder by default.")
def convert(file: Path, out: Path | None) -> None:
    """Convert Keras weights of DSen2 or VDSen2 that you have downloaded.

    FILE is HDF5, as the authors of DSen2 release it; depth, width and bands are told by what is in it. Their weights
    are under GPL-3.0, and stay so. Those for the 20 m and for the 60 m bands together are one network, which
    --method takes as dsen2-official or vdsen2-official, or by its folder if you give --out.
    """
    from xsen2.networks.convert import SCORE, STORAGE, convert

    card = convert(file, out)
    storage, score = card.validation[STORAGE], card.validation[SCORE]["mean ratio"]
    method = card.network if out is None else str(out)
    click.echo(f"{card.name}: {card.source}")
    click.echo(f"Licence: {card.licence}")
    moved = storage["largest difference, DN"]
    why = f"float16 moves pixels by up to {moved} DN" if isinstance(moved, float) else "float16 overflows"
    click.echo(f"Stored as {storage['stored as']} in {card.file}; {why}")
    click.echo(f"RMSE on the embedded sample, degraded: {score} of bicubic interpolation's")
    if score >= 1:
        click.echo("Warning: that is no better than bicubic. Is this the file that it should be?", err=True)
    click.echo(f"Use: method={method!r} makes {card.makes}")


@weights.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the weights that came with xsen2, and the user's own."""
    rows: list[dict[str, str]] = []
    users: set[str] = set()  # of the user's folder
    bad: list[tuple[Path, Exception]] = [(entry.path, entry.error) for entry in installed()[1]]
    for card in _usable():
        try:
            with files.opened(card.file, card.file.stat().st_size) as file:
                size = file.seek(0, 2)
                file.seek(0)
                if hashlib.file_digest(file, "sha256").hexdigest() != card.sha256:
                    raise WeightsError(f"{card.file.name} is not what its card says: its sha256 is another")
        except (OSError, WeightsError) as error:
            bad.append((card.file.with_suffix(".json"), error))
            continue
        users |= {card.name} if card.path else set()
        rows.append(
            {
                "name": card.name,
                "network": card.network,
                "bands": f"{10 * card.ratio} m" + (f" at {card.gsd:g} m" if card.gsd < 10 else ""),
                "MB": f"{size / 1e6:.1f}",
                "sha256": card.sha256[:12],
                "licence": re.split("[;,]", card.licence)[0],
                "path": printable(str(card.file)),
            }
        )
    if as_json:
        options.as_json(rows)
    else:
        for row in rows:
            row |= {"MB": f"{row['MB']} MB", "sha256": f"sha256 {row['sha256']}"}
            if row["name"] not in users:  # nobody needs the path of shipped ones
                del row["path"]
        options.show(rows, "name")
    for path, why in bad:
        click.echo(printable(f"broken: {path}: {why}"), err=as_json)


@weights.command()
@click.argument("name")
def show(name: str) -> None:
    """Show the card of weights: what they are, their licence, how they were made, what they measured.

    NAME is one that `xsen2 weights list` shows, of weights or of a network, or a path.
    """
    selected, broken = _named(name)
    for card in selected:
        click.echo("\n".join(_lines({**asdict(card), "path": str(card.file)})) + "\n")
    for entry in broken:
        raise entry.error


@weights.command()
@click.argument("name")
@click.option(
    "--out", type=UserPath(file_okay=False, path_type=Path), required=True, help="Folder; made if it is missing."
)
@click.option("--uncertainty", is_flag=True, help="Standard errors as a second output.")
def export(name: str, out: Path, uncertainty: bool) -> None:
    """Write networks as ONNX, for other programs, with a description and a STAC item (MLM) beside them.

    NAME is one that `xsen2 weights list` shows, of weights or of a network, or a path. What onnxruntime makes of the
    embedded sample is compared with torch first. --method takes NAME.onnx too.
    """
    from xsen2.networks.export_onnx import export

    selected, broken = _named(name)
    for entry in broken:
        raise entry.error
    for card in selected:
        exported = export(card, out, uncertainty=uncertainty)
        click.echo(f"{exported.onnx}: {card.makes}, {exported.onnx.stat().st_size / 1e6:.1f} MB")
        click.echo(f"  {exported.difference:.1g} DN from torch at most, over the embedded sample")
        click.echo(
            f"  beside it: {', '.join(path.name for path in (exported.description, exported.item, exported.weights))}"
        )


def _named(name: str) -> tuple[list[Card], list[local.Broken]]:
    """The weights of a name or path, and those of the user's that have it and are broken."""
    known = _usable()
    selected = [card for card in known if name in (card.name, card.network)]
    broken = [entry for entry in installed()[1] if name in (entry.path.stem, entry.network)]
    if not selected and not broken:
        if not local.is_path(name):
            names = ", ".join(card.name for card in known)
            raise WeightsError(f"no weights named {printable(name)!r}: use one of {names}, or a path")
        selected = list(local.at(name))
    return selected, broken


def _usable() -> list[Card]:
    return [card for groups in (cards(), installed()[0]) for group in groups.values() for card in group]


def _lines(fields: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A mapping as indented lines, for people."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            yield indent + printable(f"{key}:")
            yield from _lines(value, f"{indent}  ")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield indent + printable(f"{key}:")
            yield from (f"{indent}  - {json.dumps(item)}" for item in value)
        else:
            yield indent + printable(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
