"""A full or read-only disk has the same names everywhere, leaves nothing half written, and the same call goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import full_disk
import pytest
from cubes import make_cube
from test_benchmark import save

HERE = Path(__file__).parent
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_full_and_read_only_disk(tmp_path: Path) -> None:
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    command = ["unshare", "--map-root-user", "--mount", sys.executable, full_disk.__file__, str(tmp_path)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, check=False, timeout=600)
    if done.stderr.startswith("unshare:") or done.returncode == full_disk.NO_DISK:
        pytest.skip("a disk cannot be mounted here")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_killed_evaluation_leaves_nothing_that_the_next_does_not_take_away(tmp_path: Path) -> None:
    save(tmp_path / "data" / "a.npz", make_cube(6, 6))
    out = tmp_path / "out"
    code = (
        "import sys, time; from xsen2.evaluation import timing, report\n"
        "timing.SIDE, timing._child = 60, timing._measure\n"
        "from xsen2.cli.main import main\n"
        "if sys.argv[1] == 'stop':\n"
        "    report.figures = lambda run, folder: (print('drawing', flush=True), time.sleep(600))\n"
        "main(sys.argv[2:])"
    )
    words = ["evaluate", str(tmp_path / "data"), "--out", str(out), "--methods", "bicubic", "--scales", "6", "--quiet"]
    child = subprocess.Popen([sys.executable, "-c", code, "stop", *words], env=ENV, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "drawing"
    child.send_signal(signal.SIGKILL)
    child.wait()
    (part,) = out.glob(".*.part")
    (out / "cells" / ".0123456789abcdef.4711.part").write_text("{")  # killed while a cell was written
    cells = {p: p.stat().st_mtime_ns for p in (out / "cells").iterdir() if p.suffix != ".part"}
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", code, "go", *words], env=ENV, check=True)
    assert not part.exists(), time.monotonic() - begun
    assert {p: p.stat().st_mtime_ns for p in (out / "cells").iterdir()} == cells, "judged again, or not swept"
    assert {p.name for p in out.iterdir()} == {
        "cells",
        "figures",
        "report.html",
        "report.md",
        "scores.csv",
        "scores.json",
    }
