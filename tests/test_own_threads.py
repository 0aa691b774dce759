"""A block computes in its own thread: what starts threads of its own fights with dask's, and with other programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import xsen2

METHODS = [name for name, kind in xsen2.methods()["kind"].items() if kind == "classical"]

CODE = """
import json, sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
import dask
import xsen2
from cubes import make_cube

dask.config.set(scheduler="sync")
ds = make_cube(50, 50)


def measured(do):
    do()  # caches
    spent, own = time.process_time(), time.thread_time()
    do()
    own = time.thread_time() - own
    return own, time.process_time() - spent - own


found = {}
for name in sys.argv[1:]:
    sr = ds.dsen2.superresolve(["B05", "B11", "B01"], name, native=False)
    found[name] = measured(lambda: sr.compute())
found["consistency"] = measured(lambda: ds.dsen2.superresolve(["B11"], "bicubic", consistency=True).compute())
found["evaluate"] = measured(lambda: ds.dsen2.evaluate(["bicubic"]))
found["evaluate without a truth"] = measured(lambda: ds.dsen2.evaluate(["bicubic"], scale=1))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_nothing_but_the_thread_of_the_task_computes() -> None:
    """Where a BLAS may take four threads, none of the others does a tenth of the work."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    env |= {
        "OPENBLAS_NUM_THREADS": "4",
        "MKL_NUM_THREADS": "4",
    }
    home = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", CODE, *METHODS], capture_output=True, text=True, cwd=home, env=env, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert set(METHODS) < set(found)
    fighting = {name: (own, others) for name, (own, others) in found.items() if others > 0.1 * own + 0.02}
    assert not fighting, "seconds in the task's own thread, and in others"
