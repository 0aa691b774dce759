"""What adapting to a scene gains where it was not trained: python benchmarks/finetune.py ../shared/data.

Every validation scene is degraded to 20 and 40 m, and that is all that `finetune` sees: it trains on 80 → 40 m and
coarser. Then the general and the adapted network bring 40 m to 20 m, which is compared with the scene itself. Writes
`benchmarks/results/finetune.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xsen2.networks.cards import DEFAULT
from xsen2.training.scenes import read_scenes

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Adapt to every scene, score, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"), help="folder with validation/")
    rows: dict[str, Any] = {}
    for scene in read_scenes(parser.parse_args().data / "validation"):
        coarse, truth = scene.cube().drop_vars(["B01", "B09"], errors="ignore").degrade.pair(2)
        start = time.perf_counter()
        adapted = coarse.dsen2.finetune(progress=False)
        seconds = time.perf_counter() - start
        errors = []
        for method in (DEFAULT, adapted):
            sr = coarse.dsen2.superresolve(method=method, native=False)
            errors.append(float(np.mean([np.sqrt(np.nanmean((sr[b] - truth[b]) ** 2)) for b in truth])))
        rows[scene.name] = {
            "general": round(errors[0], 2),
            "adapted": round(errors[1], 2),
            "ratio": round(errors[1] / errors[0], 4),
            "expected": round(1 - adapted.gain, 4),
            "blend": adapted.blend,
            "seconds": round(seconds, 1),
        }
        print(scene.name, rows[scene.name], flush=True)
    ratios = [row["ratio"] for row in rows.values()]
    summary = {
        "median": round(float(np.median(ratios)), 4),
        "best": min(ratios),
        "worst": max(ratios),
        "threads": torch.get_num_threads(),
    }
    lines = [
        "# Adapting to a scene",
        "",
        "RMSE in DN, mean over the 20 m bands, at 40 → 20 m, of the general network and of the one that was adapted at",
        "80 → 40 m; their ratio, and what `finetune` expected of it. Patches of a stack are adapted to one by one.",
        f"Median {summary['median']}, best {summary['best']}, worst {summary['worst']}.",
        "Contains modified Copernicus Sentinel data 2015-2020.",
        "",
        "| scene | general | adapted | ratio | expected | blend | seconds |",
        "|---|---|---|---|---|---|---|",
        *(f"| {name} | {' | '.join(str(v) for v in row.values())} |" for name, row in rows.items()),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "finetune.json").write_text(json.dumps({"summary": summary, "scenes": rows}, indent=1) + "\n")
    (RESULTS / "finetune.md").write_text("\n".join(lines) + "\n")
    print(summary)


if __name__ == "__main__":
    main()
