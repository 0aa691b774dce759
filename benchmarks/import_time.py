"""How much longer `import xsen2` takes than the imports that it cannot do without.

Each import is timed inside its own fresh interpreter, the two kinds in turn, so that a busy machine
slows both alike. Printed: the median of each and the median of the pairs' ratios; the aim is below 1.5.

    python benchmarks/import_time.py [--pairs 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

BASE = "import xarray, dask.array, rioxarray"
OURS = "import xsen2"
AIM = 1.5


def seconds(statement: str) -> float:
    """Seconds that `statement` takes in a fresh interpreter, whose own start is left out."""
    code = f"from time import perf_counter as now\nstart = now()\n{statement}\nprint(now() - start)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15, help="how many times each import is timed (15)")
    pairs = parser.parse_args().pairs

    seconds(BASE), seconds(OURS)  # fills the file cache and writes the bytecode
    base, ours = [], []
    for pair in range(pairs):
        # Which one goes first changes each time, as the second may find warmer caches.
        for times, statement in [(base, BASE), (ours, OURS)][:: 1 if pair % 2 else -1]:
            times.append(seconds(statement))

    ratio = statistics.median(b / a for a, b in zip(base, ours, strict=True))
    print(f"{BASE:<42}{statistics.median(base):6.2f} s")
    print(f"{OURS:<42}{statistics.median(ours):6.2f} s")
    print(f"{'ratio':<42}{ratio:6.2f}    (aim: below {AIM})")
    return 0 if ratio < AIM else 1


if __name__ == "__main__":
    sys.exit(main())
