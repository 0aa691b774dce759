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
from tiny import train_small

import xsen2
from xsen2.cli.main import main as cli
from xsen2.evaluation import timing
from xsen2.networks.convert import convert
from xsen2.networks.dsen2 import DSen2
from xsen2.training import run as training
from xsen2.training.export import write
from xsen2.training.fit import Run

NO_DISK = 77
"""Exit status where nothing can be mounted."""

timing.SIDE = 120
timing._child = timing._measure


def refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(xsen2.StoreError, match=said):
        call()


def check(make: Callable[[Path, Path], Callable[[], object]], folder: Path) -> None:
    """One of the calls below, on a disk of its own."""
    disk = folder / "disk"
    disk.mkdir(parents=True)

    def mount(options: str) -> None:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=False).returncode:
            raise SystemExit(NO_DISK)

    def whole() -> None:
        left = [path for path in disk.rglob("*") if path.name.endswith((".part", ".tmp"))]
        assert not left, left

    mount("size=64k")
    call = make(folder, disk / "out")
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
    train_small(pytest.MonkeyPatch())
    recipe = training.recipe_for("twogrid", 2, steps=2, cool=1)
    how = Run(out, threads=1, progress=False)
    return lambda: training.run("twogrid", training.Source(folder / "data"), recipe, how)


def network(folder: Path) -> Path:
    """Weights that are small, but no disk of 64 kB holds them."""
    weights = DSen2(2, blocks=1, features=48).state_dict()
    said = {"architecture": "dsen2.DSen2", "arguments": {"blocks": 1, "features": 48}, "network": "mine"}
    write(weights, folder / "w", **said, name="mine", ratio=2, licence="CC0-1.0", source="a test", training={})
    return folder / "w"


def finetune(folder: Path, out: Path) -> Callable[[], object]:
    cube, method = make_cube(12, 12), network(folder)
    tempfile.tempdir = str(out.parent)

    def call() -> object:
        return cube.dsen2.finetune(method, steps=1, progress=False)

    return call


def keep(folder: Path, out: Path) -> Callable[[], object]:
    tempfile.tempdir = str(folder)
    made = make_cube(12, 12).dsen2.finetune(network(folder), steps=1, progress=False)
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
    for make in (train, finetune, keep, converted, evaluate, demo):
        tempfile.tempdir = None
        print(make.__name__, file=sys.stderr)  # what is said of an error says of which
        check(make, Path(sys.argv[1]) / make.__name__)
