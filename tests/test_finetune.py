"""Adapting a network to a cube, and keeping what came of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cubes import make_cube

import xsen2
from xsen2.networks import DEFAULT, cards
from xsen2.training import finetune as module
from xsen2.training.finetune import coarser
from xsen2.training.patches import Blur
from xsen2.training.scenes import scenes_of


@pytest.fixture(scope="module")
def cube():
    return xsen2.sample().isel(time=0).compute()


@pytest.fixture(scope="module")
def adapted(cube):
    return cube.dsen2.finetune(steps=6, quiet=True)


def test_it_is_a_method_that_can_be_saved_and_loaded(cube, adapted, tmp_path):
    bands = ["B05", "B12", "B01"]
    sr = cube.dsen2.superresolve(bands, adapted, native=False).compute()
    assert "adapted" in sr.attrs["xsen2_method"]
    kept = adapted.save(tmp_path / "mine")
    again = cube.dsen2.superresolve(bands, str(tmp_path / "mine"), native=False).compute()
    for band in bands:
        np.testing.assert_array_equal(again[band], sr[band])
    general = cube.dsen2.superresolve(bands, native=False).compute()
    np.testing.assert_array_equal(general["B01"], sr["B01"])  # as it was
    assert (general["B05"] != sr["B05"]).any() == bool(adapted.blend)
    assert {p.suffix for p in kept.folder.iterdir()} == {".json", ".safetensors"}
    with pytest.raises(xsen2.WeightsError, match="not an empty folder"):
        adapted.save(tmp_path / "mine")
    scores = cube.dsen2.evaluate([DEFAULT, kept])
    assert list(scores["method"].values) == [DEFAULT, "mine"]


def test_the_card_says_where_it_comes_from(adapted):
    [path] = adapted.folder.glob("*20m*.json")
    card = json.loads(path.read_text())
    [general] = [c for c in cards()[DEFAULT] if c.ratio == 2]
    assert card["training"]["from"] == general.name
    assert card["training"]["blend"] == adapted.blend
    assert "Copernicus" in card["licence"]


def test_the_same_seed_gives_the_same_weights(cube):
    part = cube.isel(y=slice(0, 120), x=slice(0, 120), y_20m=slice(0, 60), x_20m=slice(0, 60)).drop_vars(["B01", "B09"])
    hashes = []
    for _ in range(2):
        made = part.dsen2.finetune(steps=3, quiet=True)
        hashes.append([json.loads(p.read_text())["sha256"] for p in sorted(made.folder.glob("*.json"))])
    assert hashes[0] == hashes[1]


def test_what_does_not_help_is_not_kept(cube, monkeypatch):
    """A network that only gets worse comes back as it was."""
    from xsen2.training import fit

    real = fit.fit

    def worse(*args, **kwargs):
        return {k: v + 0.05 for k, v in real(*args, **kwargs).items()}

    monkeypatch.setattr(fit, "fit", worse)
    made = cube.dsen2.finetune(steps=1, quiet=True)
    assert (made.gain, made.blend) == (0.0, 0.0)
    bands = ["B11"]
    left, right = (cube.dsen2.superresolve(bands, m, native=False).compute() for m in (made, DEFAULT))
    np.testing.assert_array_equal(left["B11"], right["B11"])


def test_coarser_is_what_degrade_gives(cube):
    scene = next(scenes_of(cube, "s"))
    small = coarser(scene, Blur("mtf"))
    want = cube.degrade(2)
    np.testing.assert_allclose(small.bands[20][1], want["B06"], rtol=0, atol=1e-2)
    np.testing.assert_allclose(small.bands[10][0], want["B02"], rtol=0, atol=1e-2)


def test_many_dates_are_thinned_out(monkeypatch):
    cube = make_cube(12, 12, dates=5)
    monkeypatch.setattr(module, "SCENES", 3)
    found = module._scenes(cube)
    assert len(found) == 3
    np.testing.assert_array_equal(found[-1].bands[10][0], cube["B02"][-1])


def test_refusals(cube):
    with pytest.raises(xsen2.MethodError, match="no weights to train"):
        cube.dsen2.finetune("bicubic")
    with pytest.raises(xsen2.MethodError, match="steps=0"):
        cube.dsen2.finetune(steps=0)
    with pytest.raises(xsen2.GridError, match="too small to adapt"):
        make_cube(3, 3).dsen2.finetune(quiet=True)
    with pytest.raises(xsen2.SourceError, match="B12"):
        cube.drop_vars("B12").dsen2.finetune(quiet=True)


@pytest.mark.real
@pytest.mark.slow
def test_it_does_not_hurt_where_it_was_not_trained(shared):
    """Adapted on 80 → 40 m, judged on 40 → 20 m: mountains, where a plain trial lost most."""
    from xsen2.training.scenes import read_scenes

    scene = next(s for s in read_scenes(shared / "data" / "validation") if s.name == "terramind_433D_629L_3_1_L1C")
    coarse, truth = scene.cube().degrade.pair(2)
    made = coarse.dsen2.finetune(quiet=True)
    errors = []
    for method in (DEFAULT, made):
        sr = coarse.dsen2.superresolve(method=method, native=False).compute()
        errors.append(np.mean([np.sqrt(np.nanmean((sr[b] - truth[b]) ** 2)) for b in truth]))
    assert errors[1] < 1.01 * errors[0]
