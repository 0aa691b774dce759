"""Write trained weights as safetensors, with the card that says what they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from xsen2.networks import WEIGHTS
from xsen2.training.fit import Recipe

__all__ = ["describe", "export"]


def export(
    weights: dict[str, torch.Tensor],
    recipe: Recipe,
    run: Path,
    scenes: list[str],
    *,
    operators: str,
    device: str,
    version: int = 1,
) -> Path:
    """Save `weights` as fp16 and a card beside them; `run` is the folder that `fit` logged into.

    The validation table of the card is filled by ``benchmarks/validate.py --card``, through the same
    public calls that a user makes.
    """
    from xsen2.networks.dsen2 import DSen2

    features = recipe.stages[-1].features
    network = DSen2(recipe.ratio, features=features)
    name = f"dsen2-{10 * recipe.ratio}m-v{version}"
    raw = save({k: v.to(torch.float16).contiguous() for k, v in weights.items()})
    WEIGHTS.mkdir(exist_ok=True)
    (WEIGHTS / f"{name}.safetensors").write_bytes(raw)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    places = sorted({s.split("/")[0] for s in scenes})
    card: dict[str, Any] = {
        "name": name,
        "network": "dsen2",
        "architecture": "dsen2.DSen2",
        "arguments": {"ratio": recipe.ratio, "features": features},
        "ratio": recipe.ratio,
        "halo": -(-network.radius // recipe.ratio) + 1,  # and one pixel that bilinear upsampling reads
        "sha256": hashlib.sha256(raw).hexdigest(),
        "licence": "Apache-2.0; trained on modified Copernicus Sentinel data 2015-2020",
        "source": "Lanaras et al. 2018 (DSen2, 6 x 128), trained anew by this project",
        "training": {
            "command": f"python -m xsen2.training --data DATA --ratio {recipe.ratio} --out RUN",
            "recipe": asdict(recipe),
            "operators": operators,
            "scenes": places,
            "steps": sum(s.end for s in recipe.stages),
            "hours": round(log[-1]["seconds"] / 3600, 2),
            "device": device,
            "last_log": log[-1],
        },
        "validation": {},
    }
    path = WEIGHTS / f"{name}.json"
    path.write_text(json.dumps(card, indent=1) + "\n")
    return path


def describe(folder: Path = WEIGHTS) -> Path:
    """Write the cards of a folder as one page for people, ``README.md`` beside them."""
    lines = ["# Model cards", "", "Made from the `.json` cards by `python benchmarks/validate.py --card`.", ""]
    for path in sorted(folder.glob("*.json")):
        card = json.loads(path.read_text())
        training, recipe = card["training"], card["training"]["recipe"]
        lines += [
            f"## {card['name']}",
            "",
            f'- **What**: {card["source"]}; `method="{card["network"]}"`, the {10 * card["ratio"]} m bands at 10 m.',
            f"- **Data**: {', '.join(training['scenes'])}; contains modified Copernicus Sentinel data 2015-2020.",
            f"- **Operators**: {training['operators']}.",
            f"- **Run**: `{training['command']}`; {training['steps']} steps of {recipe['batch']} patches of "
            f"{recipe['patch']} px, widths {' → '.join(str(s['features']) for s in recipe['stages'])}, "
            f"{training['hours']} h on {training['device']}.",
            f"- **Licence**: {card['licence']}.",
            f"- **sha256**: `{card['sha256']}`, fp16.",
            "- **Validation** (other places; RMSE divided by bicubic's, at the lower scale):",
            "",
            "| bands, operator | scenes | mean | worst scene | L1C | L2A |",
            "|---|---|---|---|---|---|",
        ]
        for name, scores in card["validation"].items():
            levels = [f"{s['mean ratio']} ({s['scenes']})" if (s := scores[v]) else "–" for v in ("L1C", "L2A")]
            lines.append(
                f"| {name} | {scores['scenes']} | {scores['mean ratio']} | {scores['worst ratio']} | "
                f"{levels[0]} | {levels[1]} |"
            )
        lines.append("")
    out = folder / "README.md"
    out.write_text("\n".join(lines))
    return out
