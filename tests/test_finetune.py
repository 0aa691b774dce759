"""Adapting a network to a cube, and keeping what came of it."""

from __future__ import annotations

import json

import dask.array as da
import numpy as np
import pytest
import torch
from cubes import make_cube
from tiny import adapt_small

import xsen2
from xsen2.networks.cards import DEFAULT, cards
from xsen2.networks.dsen2 import DSen2
from xsen2.training import finetune as module
from xsen2.training.export import write
from xsen2.training.finetune import coarser
from xsen2.training.patches import Blur
from xsen2.training.scenes import scenes_of

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module", autouse=True)
def few_patches():
    with pytest.MonkeyPatch.context() as patch:
        adapt_small(patch)
        yield


@pytest.fixture(scope="module")
def cube():
    part = {"y": 240, "x": 240, "y_20m": 120, "x_20m": 120, "y_60m": 40, "x_60m": 40}
    return xsen2.sample().isel(time=0, **{dim: slice(n) for dim, n in part.items()}).compute()


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def adapted(cube, told, tiny_networks):
    return cube.dsen2.finetune(steps=6, progress=told.append)


def test_it_tells_how_far_it_is_and_can_be_stopped(cube, adapted, told):
    assert [now.done for now in told][:7] == [1, 2, 3, 4, 5, 6, 7 if adapted.blend else 12]
    assert (told[-1].done, told[-1].total, told[-1].unit) == (12, 12, "step")
    with pytest.raises(xsen2.Cancelled, match="adapting was stopped after 1 of 4 steps"):
        cube.dsen2.finetune(steps=2, progress=lambda now: False)


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


@pytest.mark.parametrize("how", ["folder", "card", "name"])
def test_the_60_m_network_of_a_path_comes_along(cube, tmp_path, monkeypatch, how):
    said = {"architecture": "dsen2.DSen2", "arguments": {"blocks": 1, "features": 4}, "network": "mine"}
    for ratio in (2, 6):
        torch.manual_seed(ratio)
        weights = DSen2(ratio, blocks=1, features=4).state_dict()
        name = f"mine-{10 * ratio}m"
        write(weights, tmp_path, **said, name=name, ratio=ratio, licence="CC0-1.0", source="a test", training={})
    monkeypatch.setenv("XSEN2_WEIGHTS", str(tmp_path))
    method = {"folder": tmp_path, "card": tmp_path / "mine-20m.json", "name": "mine"}[how]
    made = cube.dsen2.finetune(method, steps=1, progress=False)
    if how == "card":  # makes no 60 m bands, and does not after
        assert [p.name for p in made.folder.glob("*.json")] == ["mine-20m-adapted.json"]
        with pytest.raises(xsen2.BandError, match="does not make B01"):
            cube.dsen2.superresolve(["B01"], made)
        return
    left, right = (cube.dsen2.superresolve(["B01", "B09"], m, native=False).compute() for m in (method, made))
    for band in ("B01", "B09"):
        np.testing.assert_array_equal(left[band], right[band])
    assert "mine-60m" in right.attrs["xsen2_method"]


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
        made = part.dsen2.finetune(steps=3, progress=False)
        hashes.append([json.loads(p.read_text())["sha256"] for p in sorted(made.folder.glob("*.json"))])
    assert hashes[0] == hashes[1]


def test_what_does_not_help_is_not_kept(cube, monkeypatch, real_networks):
    """A network that only gets worse comes back as it was."""
    from xsen2.training import fit

    real = fit.fit

    def worse(*args, **kwargs):
        return {k: v + 0.05 for k, v in real(*args, **kwargs).items()}

    monkeypatch.setattr(fit, "fit", worse)
    made = cube.dsen2.finetune(steps=1, progress=False)
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


def test_only_the_chosen_dates_and_crops_are_read(monkeypatch):
    """Of 5 dates of 9 crops each (8 are kept), 3: the first, the middle one, the last."""
    monkeypatch.setattr(module, "SCENES", 3)
    monkeypatch.setattr("xsen2.training.scenes.CROP", 24)
    cube = make_cube(12, 12, dates=5)
    read: set[tuple[int, ...]] = set()

    def counting(array, step):
        def note(block, block_info=None):
            read.add(tuple(block_info[0]["chunk-location"]))
            return block

        whole = da.from_array(array.values, chunks=(1, step, step))
        return array.copy(data=da.map_blocks(note, whole, dtype=whole.dtype, meta=whole._meta))

    grids = {"y": 24, "y_20m": 12, "y_60m": 4}
    lazy = cube.map(lambda array: counting(array, grids[array.dims[1]]), keep_attrs=True)
    found = module._scenes(lazy)
    names = [s.name for s in found]
    assert len(set(names)) == 3
    assert {date for date, _, _ in read} == {0, 2, 4}
    assert len(read) == 3
    for scene in found:
        date = int(scene.name.split("/")[1])
        part = cube["B05"][date].sel(x_20m=slice(scene.corner[0], scene.corner[0] + 240))
        np.testing.assert_array_equal(scene.bands[20][0], part.sel(y_20m=slice(scene.corner[1], scene.corner[1] - 240)))


def test_bands_are_told_by_their_names_not_by_the_size_of_their_pixels():
    """Degraded by 3, the 20 m bands have pixels of 60 m."""
    coarse = make_cube(12, 12).degrade(3)
    assert coarse["B05"].attrs["gsd"] == 60
    [scene] = module._scenes(coarse)
    assert sorted(scene.bands) == [10, 20]


def test_refusals(cube):
    with pytest.raises(xsen2.MethodError, match="no weights to train"):
        cube.dsen2.finetune("bicubic")
    with pytest.raises(xsen2.MethodError, match="steps=0"):
        cube.dsen2.finetune(steps=0)
    with pytest.raises(xsen2.GridError, match="too small to adapt"):
        make_cube(3, 3).dsen2.finetune(progress=False)
    with pytest.raises(xsen2.SourceError, match="B12"):
        cube.drop_vars("B12").dsen2.finetune(progress=False)


@pytest.mark.real
@pytest.mark.slow
def test_it_does_not_hurt_where_it_was_not_trained(shared, real_networks):
    """Adapted on 80 → 40 m, judged on 40 → 20 m: mountains, where a plain trial lost most."""
    from xsen2.training.scenes import read_scenes

    scene = next(s for s in read_scenes(shared / "data" / "validation") if s.name == "terramind_433D_629L_3_1_L1C")
    coarse, truth = scene.cube().degrade.pair(2)
    made = coarse.dsen2.finetune(steps=12, progress=False)
    errors = []
    for method in (DEFAULT, made):
        sr = coarse.dsen2.superresolve(method=method, native=False).compute()
        errors.append(np.mean([np.sqrt(np.nanmean((sr[b] - truth[b]) ** 2)) for b in truth]))
    assert errors[1] < 1.01 * errors[0]


def test_weights_that_are_broken_are_known_before_anything_is_read(cube, tmp_path):
    """Those of the 60 m bands too, which only come along."""
    for ratio in (2, 6):
        torch.manual_seed(ratio)
        weights = DSen2(ratio, blocks=1, features=4).state_dict()
        said = {"architecture": "dsen2.DSen2", "arguments": {"blocks": 1, "features": 4}, "network": "mine"}
        said |= {"name": f"mine-{10 * ratio}m", "licence": "CC0-1.0", "source": "a test", "training": {}}
        write(weights, tmp_path, **said, ratio=ratio)

    def never(block):
        raise AssertionError("pixels were read")

    lazy = cube.chunk().map(lambda a: a.copy(data=da.map_blocks(never, a.data, dtype=a.dtype, meta=a.data._meta)))
    for name in ("mine-20m", "mine-60m"):
        file = tmp_path / f"{name}.safetensors"
        raw = file.read_bytes()
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        with pytest.raises(xsen2.WeightsError, match=rf"{name}\.safetensors is not {name}: its sha256 is"):
            lazy.dsen2.finetune(tmp_path, progress=False)
        file.write_bytes(raw)
    with pytest.raises(xsen2.MethodError, match="unknown operator 'mft'"):
        lazy.dsen2.finetune(operator="mft")


def test_what_is_saved_is_as_readable_as_anything_else(adapted, tmp_path):
    kept = adapted.save(tmp_path / "new" / "mine")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "file").write_text("")
    assert kept.folder.stat().st_mode == plain.stat().st_mode == adapted.folder.stat().st_mode
    assert {p.stat().st_mode for p in kept.folder.iterdir()} == {(plain / "file").stat().st_mode}
    left = tmp_path / ".other.4711.part"  # of a process that was killed
    left.mkdir()
    adapted.save(tmp_path / "other")
    assert not left.exists()
    (tmp_path / "away").symlink_to(tmp_path / "nowhere")
    with pytest.raises(xsen2.WeightsError, match="away is not an empty folder"):
        adapted.save(tmp_path / "away")
    with pytest.raises(xsen2.StoreError, match="cannot be written"):
        adapted.save(plain / "file" / "below")
