"""Training of networks for many dates: what they are shown, resuming, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from xsen2.cli.main import main
from xsen2.errors import Cancelled, MethodError, WeightsError
from xsen2.methods.registry import resolve
from xsen2.multitemporal.simulate import simulate
from xsen2.training import run as runs
from xsen2.training.dates import MARGIN, DatesTask, Ground, gain, grounds, observe, samples
from xsen2.training.fit import DatesRecipe, Run, learn
from xsen2.training.scenes import Scene, read_scenes

SMALL = {"thin": 4, "wide": 16, "blocks": 1}


def smooth(side: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((4, side, side))) / np.maximum(f, 0.02), s=(side, side))
    return (1500 + 300 * field / field.std()).astype(np.float32)


@pytest.fixture(scope="module")
def places() -> list[Ground]:
    return [Ground(f"place_{i}", (smooth(160, i) / 2000,), np.ones((160, 160), bool)) for i in range(2)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two places."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for i in range(2):
        x = smooth(120, i)
        np.savez(folder / f"place{i}.npz", b10=x, b20=np.full((6, 60, 60), 1000.0, np.float32))
    return folder


@pytest.mark.parametrize("zoom", [2, 4])
def test_a_frame_is_what_the_simulation_of_dates_shows(zoom: int):
    """Two ways to the same pixels: kernels sampled where a pixel looks, and a shift in the Fourier domain."""
    image = smooth(160)
    shift = (0.31, -0.44)
    frames, _ = simulate(
        image, zoom, 2, np.random.default_rng(0), noise=0, gain=0, shifts=[(0, 0), (-shift[0], -shift[1])]
    )
    size = 160 // zoom
    margin = MARGIN * zoom
    wide = np.pad(image, [(0, 0), (margin, margin), (margin, margin)], mode="symmetric")
    mine = np.stack([observe(wide, u, zoom, (size, size), margin) for u in ((0, 0), shift)])
    inner = np.s_[..., 4:-4, 4:-4]
    assert (mine - frames)[inner].std() < 4  # of 300 DN of contrast: bands share one blur here
    turned = observe(wide, (-shift[0], -shift[1]), zoom, (size, size), margin)
    assert (turned - frames[1])[inner].std() > 20


def test_batches_are_a_function_of_their_number(places: list[Ground]):
    recipe = DatesRecipe("manydates.ManyDates", 1, 0, {"zoom": 2}, batch=2, patch=16, counts=(1, 3, 5), seed=7)
    one = [next(samples(places, recipe, i)) for i in range(4)]
    again = samples(places, recipe, 2)
    for batch in (one[2], one[3]):
        other = next(again)
        for x, y in zip(vars(batch).values(), vars(other).values(), strict=True):
            np.testing.assert_array_equal(x, y)
    assert len({batch.frames.shape[1] for batch in one}) > 1
    batch = one[0]
    assert batch.truth.shape == (2, 4, 32, 32)
    assert (batch.shifts[:, 0] == 0).all()
    assert np.isfinite(batch.frames).all()


def test_dates_of_one_place_are_together_and_small_places_are_mirrored():
    def scene(name: str, corner: float, seed: int) -> Scene:
        bands = {10: smooth(60, seed), 20: np.zeros((6, 30, 30), np.float32)}
        valid = {10: np.ones((60, 60), bool), 20: np.ones((30, 30), bool)}
        return Scene(name, bands, valid, "L1C", 32633, (corner, 0.0))

    found = grounds([scene("a_1", 0, 0), scene("a_2", 0, 1), scene("b_1", 600, 2)], 100)
    assert [len(ground.images) for ground in found] == [2, 2, 1]
    assert found[0].images[0].shape == (4, 100, 100)
    assert found[0].valid.sum() == 3600
    np.testing.assert_array_equal(found[0].images[0][:, 20:80, 20:80], smooth(60, 0) / 2000)


def test_gain_takes_the_mean_error_off():
    truth = smooth(32)
    rng = np.random.default_rng(0)
    bicubic = truth + 20 * rng.standard_normal(truth.shape)
    made = truth + (bicubic - truth) / 2 + 100
    assert gain(made, bicubic, truth, np.ones((32, 32), bool)) == pytest.approx(6.02, abs=0.01)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [("manydates.ManyDates", SMALL), ("manydates.HighResNet", {"features": 8, "blocks": 1})],
)
def test_a_stop_changes_nothing_and_it_learns(
    places: list[Ground], tmp_path: Path, architecture: str, arguments: dict[str, int]
):
    recipe = DatesRecipe(architecture, 6, 2, {"zoom": 2, **arguments}, batch=2, patch=16, counts=(1, 3))
    task = DatesTask(places[:1], places[1:], recipe)
    whole = learn(task, recipe, Run(tmp_path / "whole", every=6, device="cpu", progress=False))
    with pytest.raises(Cancelled):
        learn(task, recipe, Run(tmp_path / "cut", every=100, device="cpu", progress=lambda now: now.done < 3))
    second = learn(task, recipe, Run(tmp_path / "cut", every=3, device="cpu", progress=False))
    for name, value in whole.items():
        torch.testing.assert_close(value, second[name], msg=name)
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"validation", "worst", "one date", "loss"} <= set(log[-1])
    assert any((value != 0).any() for name, value in whole.items() if name.startswith("tail"))


def test_the_command_trains_and_what_it_writes_is_a_method(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(runs.FINER, "fusion", ("manydates.ManyDates", SMALL))
    command = ["train", str(data), "--gsd", "5", "--steps", "2", "--cool", "1", "--threads", "1", "--device", "cpu"]
    out = tmp_path / "run5"
    result = CliRunner().invoke(main, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    [method] = resolve(out, ["B04"], gsd=5)
    assert (method.gsd, method.frames) == (5, 8)
    said = json.loads((out / "fusion-5m.json").read_text())
    assert said["training"]["recipe"]["arguments"]["zoom"] == 2
    # Weights for another pixel size begin with what they share.
    other = [*command[:3], "2.5", *command[4:], "--init", str(out), "--out", str(tmp_path / "run2.5")]
    result = CliRunner().invoke(main, other)
    assert result.exit_code == 0, result.output
    assert resolve(tmp_path / "run2.5", ["B04"])[0].gsd == 2.5


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--gsd", "5", "--ratio", "2"], "--ratio is for networks that make 10 m bands"),
        (["--gsd", "5", "--network", "twogrid"], "use one of fusion, highresnet"),
        (["--network", "fusion"], "use one of twogrid"),
    ],
)
def test_the_command_says_what_does_not_go_together(data: Path, tmp_path: Path, more: list[str], said: str):
    result = CliRunner().invoke(main, ["train", str(data), "--out", str(tmp_path / "run"), *more])
    assert result.exit_code != 0
    assert said in result.output + str(result.exception)


def test_there_are_no_networks_for_other_pixel_sizes():
    with pytest.raises(MethodError, match=r"5 and 2\.5 m"):
        runs.finer_recipe_for("fusion", 3.0)


def test_a_checkpoint_of_another_recipe_is_refused(places: list[Ground], tmp_path: Path):
    recipe = DatesRecipe("manydates.ManyDates", 1, 0, {"zoom": 2, **SMALL}, batch=1, patch=16, counts=(2,))
    learn(DatesTask(places, [], recipe), recipe, Run(tmp_path, device="cpu", progress=False))
    other = DatesRecipe("manydates.ManyDates", 1, 0, {"zoom": 2, **SMALL}, batch=2, patch=16, counts=(2,))
    with pytest.raises(WeightsError, match="made by another recipe"):
        learn(DatesTask(places, [], other), other, Run(tmp_path, device="cpu", progress=False))


def test_scenes_on_disk_become_places(data: Path):
    found = grounds(list(read_scenes(data)), 100)
    assert [ground.name for ground in found] == ["place0", "place1"]
    assert found[0].images[0].max() < 2
