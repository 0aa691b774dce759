"""Write trained weights as safetensors, with the card that describes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from xsen2 import files
from xsen2.errors import WeightsError
from xsen2.networks.cards import WEIGHTS, Card
from xsen2.networks.inference import best_dtype
from xsen2.networks.load import build, halo_of, infinite
from xsen2.training.fit import DatesRecipe, Plan

__all__ = ["FRAMES", "describe", "save", "write"]

FRAMES = 8
"""Dates that a network for many dates makes each date of, unless the caller gives another number."""


def save(
    weights: Mapping[str, torch.Tensor],
    recipe: Plan,
    run: Path,
    *,
    network: str,
    operator: str,
    scenes: Sequence[str],
) -> Card:
    """Write `weights` as fp16, and their card beside them, into the folder that the training logged into.

    Parameters
    ----------
    network : str
        What ``method=`` will take once the card lies among the installed ones.
    operator : str
        How scenes were degraded.
    scenes : sequence of str
        Names of the places that it was trained on.

    Returns
    -------
    Card
        Weights and card of an earlier, shorter run in the folder are replaced.
    """
    finer = isinstance(recipe, DatesRecipe)
    gsd = 10 / recipe.zoom if isinstance(recipe, DatesRecipe) else 10.0 * recipe.ratio
    name = f"{network}-{gsd:g}m"
    last = _last(run / "log.jsonl")
    with files.named(run):
        for old in (run / f"{name}.json", run / f"{name}.safetensors"):
            old.unlink(missing_ok=True)
    return write(
        weights,
        run,
        name=name,
        network=network,
        architecture=recipe.architecture,
        arguments=recipe.arguments,
        ratio=recipe.ratio,
        licence="Apache-2.0; trained on modified Copernicus Sentinel data",
        source=f"{recipe.architecture.rpartition('.')[2]}, trained with xsen2",
        training={
            "recipe": asdict(recipe),
            "operator": operator,
            "scenes": sorted(set(scenes)),
            "hours": round(last.get("seconds", 0) / 3600, 2),
            "device": _device(),
            "last_log": last,
        },
        **({"gsd": gsd, "frames": FRAMES} if finer else {}),
    )


def _last(log: Path) -> dict[str, Any]:
    """The last complete line of a log: a full disk or a kill may have cut one off."""
    with suppress(FileNotFoundError):
        for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()):
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    return entry
    return {}


def write(weights: Mapping[str, torch.Tensor], folder: Path, **fields: Any) -> Card:
    """Write weights into `folder`, with a card of `fields`; hash, halo and what is not given are filled in.

    They are stored as fp16, or as float32 if one of them is too large for that.

    Raises
    ------
    WeightsError
        If they are not finite, or the folder has others of that name.
    StoreError
        If the disk is full, or may not be written to.
    """
    from safetensors.torch import save as serialise

    if bad := infinite(weights):
        raise WeightsError(
            f"{bad} has values that are not finite numbers: the training went astray, and its weights are of no use. "
            "Train in a new folder with a lower rate"
        )
    half = {k: v.to(torch.float16) for k, v in weights.items()}
    stored = half if infinite(half) is None else {k: v.float() for k, v in weights.items()}
    raw = serialise({k: v.contiguous() for k, v in stored.items()})
    module = build(fields["architecture"], fields["ratio"], fields["arguments"])
    # Until they are calibrated, standard errors of a network are taken as they are.
    spread = [1.0] * {1: 4, 2: 6, 6: 2}[fields["ratio"]] if module.uncertainty else []
    derived = {
        "halo": halo_of(module, fields["ratio"]),
        "lattice": module.lattice,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "validation": {},
        "spread": spread,
    }
    arguments = {**fields["arguments"], "ratio": fields["ratio"]}
    return Card(**{**derived, **fields, "arguments": arguments}).write(folder, raw)


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    dtype = str(best_dtype(torch.device("cpu"))).removeprefix("torch.")
    return f"a CPU, {torch.get_num_threads()} threads, {dtype}"


def _gains(card: Card) -> list[str]:
    """The validation of a network for many dates."""
    lines = [
        "- **Validation** (other places; dB of cPSNR beyond bicubic interpolation of the date, one scale up; what is "
        "there with copies of one date is prior):",
        "",
        "| sites | dates | gain | 95 % interval | worst site |",
        "|---|---|---|---|---|",
    ]
    for sites, rows in card.validation.items():
        for name, row in rows.items():
            interval = f"{row['from']} to {row['to']}"
            lines.append(f"| {sites} | {name} | {row['gain, dB']} | {interval} | {row['worst']} |")
    return lines


def _table(cards: list[Card]) -> list[str]:
    """All networks at a glance."""
    lines = ["| network | `method=` | makes | on places that it has not seen |", "|---|---|---|---|"]
    for card in cards:
        name = next(iter(card.validation), "")
        scores = card.validation.get(name, {})
        if card.ratio == 1:
            product = "all bands, from several dates"
            dates = next(iter(scores), "")
            score = f"{scores[dates]['gain, dB']} dB of cPSNR beyond bicubic, {dates}" if dates else "–"
        else:
            product = f"{10 * card.ratio} m bands"
            name = next((key for key in card.validation if key.endswith("product")), name)
            score = f"{card.validation[name]['mean ratio']} of bicubic's RMSE ({name})" if name else "–"
        anchor = card.name.replace(".", "")
        lines.append(f"| [{card.name}](#{anchor}) | `{card.network}` | {product}, {card.gsd:g} m | {score} |")
    return lines


def describe(folder: Path = WEIGHTS) -> Path:
    """Write the cards of a folder as one page for people, ``README.md`` beside them."""
    makers = " and ".join(f"`python benchmarks/{name}.py --card`" for name in ("validate", "finer"))
    cards = [Card.read(path) for path in sorted(folder.glob("*.json"))]
    lines = ["# Model cards", "", f"Made from the `.json` cards by {makers}.", "", *_table(cards), ""]
    for card in cards:
        training, recipe = card.training, card.training["recipe"]
        product = f"{10 * card.ratio} m bands at {card.gsd:g} m" + (" from several dates" if card.ratio == 1 else "")
        commands = training.get("commands") or [training["command"]]
        lines += [
            f"## {card.name}",
            "",
            f'- **What**: {card.source}; `method="{card.network}"`, the {product}.',
            f"- **Data**: {', '.join(training['scenes'])}; contains modified Copernicus Sentinel data 2015-2020.",
            f"- **Degraded by**: {training.get('operator') or training['operators']}.",
            f"- **Run**: {' then '.join(f'`{c}`' for c in commands)}; batches of {recipe['batch']} patches of "
            f"{recipe['patch']} px; {training['hours']} h on {training['device']}.",
            f"- **Licence**: {card.licence}.",
            f"- **sha256**: `{card.sha256}`, fp16.",
        ]
        if card.ratio == 1:
            lines += [*_gains(card), ""]
            continue
        lines += [
            "- **Validation** (other places; RMSE divided by bicubic's, at the lower scale):",
            "",
            "| bands, operator | scenes | mean | worst | L1C | L2A | SAM / bicubic's | errors within 1 sigma |",
            "|---|---|---|---|---|---|---|---|",
        ]
        risks = []
        for name, scores in card.validation.items():
            levels = [f"{s['mean ratio']} ({s['scenes']})" if (s := scores[v]) else "–" for v in ("L1C", "L2A")]
            calibration = scores.get("standard errors")
            within = (
                "–" if calibration is None else ", ".join(f"{b} {x:.2f}" for b, x in calibration["within one"].items())
            )
            lines.append(
                f"| {name} | {scores['scenes']} | {scores['mean ratio']} | {scores['worst ratio']} | "
                f"{levels[0]} | {levels[1]} | {scores['SAM ratio']} | {within} |"
            )
            if calibration is not None:
                risks.append((name, calibration))
        for name, calibration in risks:
            curves = "; ".join(f"{b} {' '.join(f'{x:.2f}' for x in curve)}" for b, curve in calibration["risk"].items())
            shares = ", ".join(f"{k:.0%}" for k in calibration["kept"])
            lines += ["", f"RMSE over the surest {shares} of the pixels, in units of all ({name}): {curves}."]
        lines.append("")
    out = folder / "README.md"
    out.write_text("\n".join(lines))
    return out
