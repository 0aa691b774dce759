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

__all__ = ["export"]


def export(weights: dict[str, torch.Tensor], recipe: Recipe, run: Path, scenes: list[str], version: int = 1) -> Path:
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
            "operators": "dsen2 (2 of 5 patches), mtf (3 of 5, sigma x 0.9, 1, 1.1, shifts up to 0.15 px)",
            "scenes": places,
            "steps": sum(s.steps for s in recipe.stages),
            "hours": round(log[-1]["seconds"] / 3600, 2),
            "device": "one core of a CPU, float32",
            "last_log": log[-1],
        },
        "validation": {},
    }
    path = WEIGHTS / f"{name}.json"
    path.write_text(json.dumps(card, indent=1) + "\n")
    return path
