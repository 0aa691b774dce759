"""What many dates give below 10 m, on places not trained on: python benchmarks/finer.py ../shared/data.

Runs `xsen2 evaluate --gsd` for 5 and 2.5 m, with the series of real dates; writes `benchmarks/results/finer-5m.md` and
`finer-2.5m.md`, and `.json` beside each. `--card` puts a network's numbers into its model cards.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from xsen2.evaluation.ladder import COPIES
from xsen2.evaluation.ladder_report import Ladder, ladder
from xsen2.networks.cards import FINER, WEIGHTS, Card
from xsen2.training.export import describe

RESULTS = Path(__file__).parent / "results"
SERIES = Path("timeseries/T31UDS_2017_2018_L2A.npz")


def main() -> None:
    """Judge, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--gsd", type=float, nargs="+", default=[5, 2.5])
    parser.add_argument("--methods", nargs="*", default=[], help="NAME=WEIGHTS of further networks.")
    parser.add_argument("--transfer", type=Path, help="weights that `xsen2 train --gsd 2.5 --coarser` made")
    parser.add_argument("--card", action="store_true", help="write the numbers into the model cards too")
    args = parser.parse_args()
    more = dict(pair.split("=", 1) for pair in args.methods)
    RESULTS.mkdir(exist_ok=True)
    for gsd in args.gsd:
        out = RESULTS / f".finer-{gsd:g}m"
        run = ladder(
            args.data / "validation",
            out,
            {FINER: FINER, **more, "wiener": "wiener", "median": "median"},
            gsd=gsd,
            series=args.data / SERIES,
            transfer=args.transfer if gsd == 2.5 else None,
            command=f"python benchmarks/finer.py DATA --gsd {gsd:g}",
            progress=lambda now: print(now.about, flush=True),
        )
        (out / "report.md").replace(RESULTS / f"finer-{gsd:g}m.md")
        (out / "scores.json").replace(RESULTS / f"finer-{gsd:g}m.json")
        (out / "report.html").unlink()
        out.rmdir()
        if args.card:
            fill_card(gsd, run)
    if args.card:
        describe()


def fill_card(gsd: float, run: Ladder) -> None:
    """Put the gains of the networks that come with the package into their cards."""
    for path in sorted(WEIGHTS.glob("*.json")):
        if (card := Card.read(path)).network not in run.labels or card.gsd != gsd:
            continue
        fields = json.loads(path.read_text())
        labels = {
            f"{run.frames} dates": f"{card.network}, {run.frames}",
            "1 date": f"{card.network}, 1",
            f"{run.frames} copies of one date": f"{card.network}{COPIES}",
            f"wiener, {run.frames} dates": f"wiener, {run.frames}",
        }
        rows = {}
        for name, label in labels.items():
            mean, low, high = run.mean(label)
            worst = min(row[label][0] for row in run.gains.values())
            rows[name] = {
                "gain, dB": round(mean, 2),
                "from": round(low, 2),
                "to": round(high, 2),
                "worst": round(worst, 2),
            }
        fields["validation"] = {f"{10 * round(10 / gsd)} → 10 m, {len(run.gains)} sites": rows}
        path.write_text(json.dumps(fields, indent=1) + "\n")


if __name__ == "__main__":
    main()
