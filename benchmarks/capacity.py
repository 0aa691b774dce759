"""Whether the default network of the 20 m bands is large enough: python benchmarks/capacity.py DATA --wide 128 256.

Networks with more features at 20 m start from the default's weights, made to fit them such that they do the same, and
are trained on as the default was: equal steps, patches and rates, operators and scenes. The default's own width is
trained on alike, so what a width gains is its lead over that one. Validation scenes are scored after that, degraded
with each operator, and the default as it is beside them. One that gains over 3 % would be worth distilling.
`benchmarks/results/capacity.json` holds the rows, `capacity.md` is made from it. A run that was stopped goes on from
its checkpoint in `--work`; widths may be trained at the same time by calls of their own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from xsen2 import files
from xsen2.evaluation.tables import interval, places_of
from xsen2.networks.cards import cards
from xsen2.networks.inference import best_device, best_dtype
from xsen2.networks.load import build
from xsen2.training.fit import Run, fit, score
from xsen2.training.patches import Blur, pairs
from xsen2.training.run import data_for, recipe_for
from xsen2.training.scenes import Scene, read_scenes

RESULTS = Path(__file__).parent / "results"
OPERATORS = ("product", "mtf", "dsen2")


def scores(network: nn.Module, scenes: list[Scene]) -> dict[str, dict[str, float]]:
    """RMSE divided by bicubic's, per operator and scene; the patches of a stack are one."""
    dtype = best_dtype(best_device("cpu"))
    out = {}
    for operator in OPERATORS:
        judged = [pair for scene in scenes for pair in pairs(scene, 2, [Blur(operator)])]
        out[operator] = {place: round(ratio, 4) for place, ratio in score(network, judged, dtype).items()}
    return out


def beside(row: dict[str, float], base: dict[str, float]) -> str:
    """Geometric mean over places of the error divided by that of `base`, and its 95 % interval."""
    scenes = sorted(base)
    logs = np.log([row[scene] / base[scene] for scene in scenes])
    middle, low, high = np.exp(interval(logs, places_of(scenes)))
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def markdown(table: dict[str, Any]) -> str:
    """The table of widths."""
    head = ["features at 20 m", "weights", "steps", "seconds a step", *OPERATORS]
    head += [f"{o}, of the default's error" for o in OPERATORS]
    rows = []
    for key, row in sorted(table.items(), key=lambda item: (item[1]["steps"] > 0, item[1]["wide"], item[1]["steps"])):
        seconds = f"{row['seconds'] / row['steps']:.2f}" if row["steps"] else "–"
        name = f"{row['wide']}, as shipped" if key == "shipped" else str(row["wide"])
        cells = [name, f"{row['weights'] / 1e6:.2f} M", str(row["steps"]), seconds]
        cells += [f"{np.mean(list(row[o].values())):.4f}" for o in OPERATORS]
        cells += ["1" if key == "shipped" else beside(row[o], table["shipped"][o]) for o in OPERATORS]
        rows.append(cells)
    lines = ["# Width of the network for the 20 m bands", ""]
    lines += ["`python benchmarks/capacity.py DATA --wide …` trains, scores and writes this table.", ""]
    lines += ["RMSE divided by that of Keys bicubic, mean over the validation scenes, per operator; and"]
    lines += ["divided by that of the weights as shipped: geometric mean over places, 95 % interval over places."]
    lines += [f"All start from `{table['shipped']['name']}` and do the same before the first step. One thread.", ""]
    lines += ["The default is the mean of several runs: more steps of one run alone fall behind it.", ""]
    lines += [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, "", "Contains modified Copernicus Sentinel data 2015-2020.", ""])


def main() -> None:
    """Train the widths asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and validation/")
    parser.add_argument("--wide", type=int, nargs="+", default=[128, 256], help="features at 20 m")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--rate", type=float, default=0.008)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(".work/capacity"), help="folder of checkpoints")
    args = parser.parse_args()
    file = RESULTS / "capacity.json"
    shipped = next(card for card in cards()["twogrid"] if card.ratio == 2)
    initial = load_file(shipped.file)
    scenes, judges = (list(read_scenes(args.data / part)) for part in ("train", "validation"))
    for wide in (None, *args.wide):
        arguments = dict(shipped.arguments) | ({} if wide is None else {"wide": wide})
        network = build(shipped.architecture, 2, arguments)
        row: dict[str, Any] = {"wide": arguments["wide"], "weights": sum(p.numel() for p in network.parameters())}
        if wide is None:
            weights = {k: v.float() for k, v in initial.items()}
            row |= {"name": shipped.name, "steps": 0}
        else:
            recipe = recipe_for(
                "refined", 2, arguments=arguments, steps=args.steps, cool=args.steps // 2, rate=args.rate, noise=3.0
            )
            pairs_, _ = data_for(scenes, [], recipe, "blind")
            folder = args.work / f"{wide}-{args.steps}"
            how = Run(folder, initial=initial, every=100, device="cpu", threads=args.threads, progress=False)
            weights = fit(pairs_, [], recipe, how)
            seconds = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["seconds"]
            row |= {"steps": args.steps, "seconds": seconds}
        network.load_state_dict(weights)
        row |= scores(network.eval(), judges)
        key = "shipped" if wide is None else f"{wide} features, {args.steps} steps"
        # Read anew: another width may have been written meanwhile. Rows beside other weights do not count any more.
        table = json.loads(file.read_text()) if file.exists() else {}
        if wide is None and table.get("shipped", {}).get("name") != shipped.name:
            table = {}
        table[key] = row
        files.write(file, json.dumps(table, indent=1) + "\n")
        files.write(file.with_suffix(".md"), markdown(table))
        print({o: round(float(np.mean(list(row[o].values()))), 4) for o in OPERATORS}, key, flush=True)


if __name__ == "__main__":
    main()
