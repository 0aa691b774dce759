"""Training, adapting, converting and judging on a disk that is full, read-only, or has room again.

Run in a process of its own, in a namespace where it may mount.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from cubes import make_cube
from test_benchmark import save
from test_convert import Model

import xsen2
from xsen2.cli.main import main as cli
from xsen2.evaluation import timing
from xsen2.networks.convert import convert
from xsen2.training.fit import Run
from xsen2.training.run import Source, recipe_for, run

NO_DISK = 77
"""Exit status where nothing can be mounted."""

timing.SIDE = 120


def refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(xsen2.StoreError, match=said):
        call()


def main(folder: Path, what: str) -> None:
    disk = folder / "disk"
    disk.mkdir()

    def mount(options: str) -> None:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=False).returncode:
            raise SystemExit(NO_DISK)

    def whole() -> None:
        left = [path for path in disk.rglob("*") if path.name.endswith((".part", ".tmp"))]
        assert not left, left

    mount("size=64k")
    calls = {f.__name__: f for f in (train, finetune, keep, converted, evaluate, demo)}
    call = calls[what](folder, disk / "out")
    refused(call, "the disk is full while .*: free space, ")
    whole()
    mount("remount,ro")
    refused(call, "cannot be written .*get the permission")
    mount("remount,rw,size=256m")
    call()
    whole()


def train(folder: Path, out: Path) -> Callable[[], object]:
    for name, seed in (("here", 1), ("there", 2)):
        cube = make_cube(20, 20, seed=seed)
        cube = cube.assign_coords({x: cube[x] + 60000 * seed for x in ("x", "x_20m", "x_60m")})
        cube.to_zarr(folder / "data" / f"{name}.zarr")
    recipe = recipe_for("twogrid", 2, steps=2, cool=1)
    return lambda: run("twogrid", Source(folder / "data"), recipe, Run(out, threads=1, progress=False))


def finetune(folder: Path, out: Path) -> Callable[[], object]:
    cube = make_cube(12, 12)
    tempfile.tempdir = str(out.parent)

    def call() -> object:
        return cube.dsen2.finetune(steps=1, progress=False)

    return call


def keep(folder: Path, out: Path) -> Callable[[], object]:
    tempfile.tempdir = str(folder)
    made = make_cube(12, 12).dsen2.finetune(steps=1, progress=False)
    return lambda: made.save(out)


def converted(folder: Path, out: Path) -> Callable[[], object]:
    path = Model(2, features=64, gain=0.02).save(folder / "weights.h5")
    return lambda: convert(path, out)


def evaluate(folder: Path, out: Path) -> Callable[[], object]:
    save(folder / "data" / "a_L2A.npz", make_cube(12, 12))
    words = ["evaluate", str(folder / "data"), "--out", str(out), "--methods", "bicubic", "--scales", "6", "--quiet"]

    def call() -> object:
        try:
            return cli.main(words, standalone_mode=False)
        except click.ClickException as error:
            raise error.__cause__ or error from None

    return call


def demo(folder: Path, out: Path) -> Callable[[], object]:
    from xsen2.cli.demo import demonstrate

    return lambda: demonstrate(make_cube(6, 6), out, method="bicubic", say=lambda line: None, progress=False)


if __name__ == "__main__":
    os.environ["XSEN2_WEIGHTS"] = str(Path(sys.argv[1]) / "none")
    main(Path(sys.argv[1]), sys.argv[2])
