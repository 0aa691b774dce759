"""Real scenes of other places than those trained on: better than bicubic, and as the results file says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from cases import every

from xsen2.networks.cards import DEFAULT
from xsen2.training.scenes import read_scenes

ROOT = Path(__file__).parents[1]
# Farmland, L2A patches (the second is featureless water), mountains. `benchmarks/validate.py` does all.
SCENES = [
    "crop_usa",
    "bigearthnet_patches/0",
    "bigearthnet_patches/8",
    "terramind_433D_629L_3_1_L2A",
    "terramind_38D_378R_2_3_L1C",
]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scenes(shared):
    return {s.name: s for s in read_scenes(shared / "data" / "validation")}


def test_every_validation_scene_of_the_results_beats_bicubic():
    table = json.loads((ROOT / "benchmarks/results/validation.json").read_text())["scenes"]
    assert set(table) == {f"{g} m, {o}" for g in (20, 60) for o in load("validate").OPERATORS}
    ratios = {
        (name, scene, m): r
        for name, rows in table.items()
        for scene, row in rows.items()
        for m, r in row["ratio"].items()
    }
    assert not {k: r for k, r in ratios.items() if r >= 1 and k[2] != "bicubic"}


@pytest.mark.real
@pytest.mark.parametrize("scale", [2, 6])
@pytest.mark.parametrize(
    ("name", "operator"),
    [
        *every(2, ((name, "mtf") for name in SCENES)),
        *(pytest.param(n, o, marks=pytest.mark.slow) for n in SCENES[::2] for o in ("product", "dsen2")),
    ],
)
def test_scores_are_those_of_the_results(scenes, name, scale, operator):
    scene = scenes[name]
    if 10 * scale not in scene.bands:
        pytest.skip(f"{name} has no {10 * scale} m bands")
    found = load("validate").evaluate(scene, scale, operator, [DEFAULT])
    said = json.loads((ROOT / "benchmarks/results/validation.json").read_text())["scenes"]
    rows = said[f"{10 * scale} m, {operator}"]
    file, _, patch = name.partition("/")
    row = rows[file]["patches"][patch] if patch else rows[file]
    # fp32 kernels differ between machines in the last digits
    assert found["ratio"][DEFAULT] == pytest.approx(row["ratio"][DEFAULT], abs=0.002)


@pytest.mark.real
def test_chunks_leave_no_seam_in_a_real_scene(scenes):
    ds = scenes["bigearthnet_patches/0"].cube().isel(y=slice(0, 96), y_20m=slice(0, 48), y_60m=slice(0, 16))
    whole = ds.dsen2.superresolve(dtype="float32").compute()
    cut = ds.chunk(y=50, x=37, y_20m=50, x_20m=21, y_60m=7, x_60m=20).dsen2.superresolve(dtype="float32").compute()
    for band in whole:
        np.testing.assert_allclose(cut[band], whole[band], rtol=0, atol=1e-3)
