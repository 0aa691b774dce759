"""Training: patches, resuming, widening, export."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import xsen2
from xsen2.networks import GAIN
from xsen2.networks.dsen2 import DSen2
from xsen2.sources.sample import sample
from xsen2.training.fit import Recipe, Stage, fit, widen
from xsen2.training.patches import Blur, Scene, batches, pairs, read_scenes


@pytest.fixture(scope="module")
def scene() -> Scene:
    ds = sample().isel(time=0).compute()
    grids = {10: ("B02", "B03", "B04", "B08"), 20: ("B05", "B06", "B07", "B8A", "B11", "B12"), 60: ("B01", "B09")}
    bands = {g: np.stack([ds[b].values for b in names]) for g, names in grids.items()}
    return Scene("sample", bands, {g: np.ones(x.shape[1:], bool) for g, x in bands.items()})


@pytest.mark.parametrize("ratio", [2, 6])
def test_pairs_are_what_the_accessor_gives(scene, ratio):
    pair = next(pairs(scene, ratio, [Blur("mtf")]))
    coarse, truth = scene.cube().degrade.pair(scale=ratio)
    names = [b for b in coarse if coarse[b].dims == ("y", "x")]
    np.testing.assert_allclose(pair.a * GAIN, np.stack([coarse[b] for b in names]), rtol=0, atol=2e-3)
    np.testing.assert_allclose(pair.truth * GAIN, np.stack([truth[b] for b in truth]), rtol=1e-6)


def test_read_scenes_subtracts_the_offset_and_keeps_what_is_real(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    valid = np.ones((4, 4), bool)
    valid[0, 0] = False
    dn = np.full((4, 4, 4), 1500, "u2")
    dn[0, 1, 1] = 0
    np.savez(folder / "one.npz", b10=dn, b20=np.full((6, 2, 2), 2000, "u2"), valid10=valid)
    np.savez(folder / "stack.npz", b10=dn[None].repeat(3, 0), b20=np.full((3, 6, 2, 2), 2000, "u2"))
    (tmp_path / "scenes.json").write_text(json.dumps({"train": {"one": {"offset_dn": 1000, "level": "L1C"}}}))
    one, *stack = read_scenes(folder)
    assert one.bands[10][1, 2, 2] == 500
    assert not one.valid[10][0, 0]
    assert not one.valid[10][1, 1]
    assert one.valid[10].sum() == 14
    assert [s.name for s in stack] == ["stack/0", "stack/1", "stack/2"]
    assert stack[0].bands[10][1, 2, 2] == 1500
    with pytest.raises(xsen2.SourceError, match=r"no \.npz scenes"):
        next(read_scenes(tmp_path))


@pytest.mark.parametrize("ratio", [2, 6])
def test_batches_are_aligned_and_repeatable(scene, ratio):
    data = [list(pairs(scene, ratio, [Blur("box")], least=48))]
    stream = batches(data, ratio, 3, 48, seed=1)
    first, second = next(stream), next(stream)
    a, b, _c, truth, weight = first
    assert a.shape == (3, 4, 48, 48)
    assert truth.shape[2:] == weight.shape[1:] == (48, 48)
    # Grids and truth are cut and turned alike: the truth's mean per cell is the input (operator box).
    low = b if ratio == 2 else first[2]
    cells = truth.reshape(*truth.shape[:2], 48 // ratio, ratio, 48 // ratio, ratio).mean(axis=(3, 5))
    seen = weight.reshape(3, 1, 48 // ratio, ratio, 48 // ratio, ratio).all(axis=(3, 5)).repeat(truth.shape[1], 1)
    np.testing.assert_allclose(cells[seen], low[seen], rtol=1e-4)
    resumed = next(batches(data, ratio, 3, 48, seed=1, start=1))
    np.testing.assert_array_equal(resumed[0], second[0])


def test_haze_changes_inputs_and_truth_alike(scene):
    data = [list(pairs(scene, 2, [Blur("box")]))]
    _, b, _, truth, _ = next(batches(data, 2, 4, 48, seed=0, haze=1.0))
    cells = truth.reshape(4, 6, 24, 2, 24, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(cells, b, rtol=0, atol=1e-5)
    plain = next(batches(data, 2, 4, 48, seed=0))[1]
    assert np.abs(plain - b).max() > 0.01


@pytest.mark.parametrize("ratio", [2, 6])
def test_widening_keeps_the_function(ratio):
    torch.manual_seed(1)
    narrow, wide = DSen2(ratio, 2, 4), DSen2(ratio, 2, 8)
    for p in narrow.parameters():
        torch.nn.init.normal_(p, std=0.3)
    widen(narrow, wide, seed=0)
    x = [torch.rand(1, 4, 12, 12), torch.rand(1, 6, 6, 6)] + ([torch.rand(1, 2, 2, 2)] if ratio == 6 else [])
    torch.testing.assert_close(wide(*x), narrow(*x), rtol=1e-4, atol=1e-4)


RECIPE = Recipe(
    2, (Stage(4, 6, 1e-3), Stage(8, 5, 1e-3, relative=True, share=0.5, until=4)), batch=2, patch=24, haze=0.5
)


def run(scene, folder, **kwargs):
    data = [list(pairs(scene, 2, [Blur("mtf"), Blur("dsen2")]))]
    return fit(lambda f: DSen2(2, 1, f), data, data[0][:1], RECIPE, folder, every=2, **kwargs)


def test_a_stopped_run_goes_on_to_the_same_weights(scene, tmp_path, monkeypatch):
    whole = run(scene, tmp_path / "whole")
    steps = iter(range(100))
    real = torch.optim.NAdam.step

    def stop(self, *args, **kwargs):
        if next(steps) == 8:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.NAdam, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(scene, tmp_path / "stopped")
    monkeypatch.undo()
    resumed = run(scene, tmp_path / "stopped")
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0)
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4, 6, 2, 4]
    assert whole["head.weight"].shape[0] == 8


def test_training_learns(scene, tmp_path):
    data = [list(pairs(scene, 2, [Blur("mtf")]))]
    recipe = Recipe(2, (Stage(8, 120, 3e-3),), batch=4, patch=24)
    fit(lambda f: DSen2(2, 1, f), data, data[0], recipe, tmp_path, every=60)
    first, last = (json.loads(x)["validation_rmse_dn"] for x in (tmp_path / "log.jsonl").read_text().splitlines())
    assert last < first
