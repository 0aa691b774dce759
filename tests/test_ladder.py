"""What many dates give, rung by rung: the measures, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from xsen2.cli.main import main
from xsen2.errors import MethodError, SourceError
from xsen2.evaluation.ladder import (
    COPIES,
    Site,
    correlation,
    cube_of,
    falls,
    full_scale,
    gains_of,
    series_of,
    shift_of,
    simulated,
    sites,
)
from xsen2.evaluation.ladder_report import ladder
from xsen2.evaluation.tables import interval
from xsen2.multitemporal.simulate import moved, simulate
from xsen2.training.scenes import read_scenes


def ground(side: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((4, side, side))) / np.maximum(f, 0.01), s=(side, side))
    return (1500 + 300 * field / field.std()).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dates of one place, one of another, and one that is too small."""
    folder = tmp_path_factory.mktemp("scenes") / "some"
    folder.mkdir()
    for i, (name, side) in enumerate({"a_1": 132, "a_2": 132, "b": 120, "tiny": 24}.items()):
        x = ground(side, i // 2)
        np.savez(folder / f"{name}.npz", b10=x, b20=np.full((6, side // 2, side // 2), 1000.0, np.float32))
    notes = {"some": {name: {"epsg": 32633, "ulx": 600000, "uly": 5000040} for name in ("a_1", "a_2")}}
    (folder.parent / "scenes.json").write_text(json.dumps(notes))
    return folder


def test_rings_tell_where_two_images_cease_to_agree():
    rng = np.random.default_rng(0)
    side = 128
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    shared = rng.standard_normal((2, side, side))
    low = np.fft.irfft2(np.fft.rfft2(shared) * (f < 0.25), s=(side, side))
    one, other = ((low + 0.05 * rng.standard_normal(low.shape)).astype(np.float32) for _ in range(2))
    frequency, found = correlation(one, other)
    assert found[frequency < 0.2].min() > 0.9
    assert abs(found[frequency > 0.3]).mean() < 0.2
    assert falls(frequency, found) == pytest.approx(0.25, abs=0.04)


def test_a_shift_is_found_the_right_way_round():
    x = ground(120)
    away = shift_of(moved(x, (0.3, -0.2)), x)
    np.testing.assert_allclose(away, (0.3, -0.2), atol=0.02)


def test_gains_are_those_of_the_error_and_ignore_brightness():
    truth = ground(60)
    base = truth + 40 * np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
    db, ssim = gains_of((base + truth) / 2 + 30, base, truth, np.ones((60, 60), bool))
    assert db == pytest.approx(6.02, abs=0.01)
    assert ssim > 0.01
    assert gains_of(base, base, truth, np.ones((60, 60), bool)) == (0, 0)


def test_intervals_draw_places_not_sites():
    mean, low, high = interval([1.0, 1.0, 1.0, 3.0], ["a", "a", "a", "b"])
    assert (mean, low, high) == (2, 1, 3)


def test_sites_are_places_with_their_other_dates(folder: Path):
    found = sites(list(read_scenes(folder)), 2)
    assert [(site.name, site.place, len(site.images)) for site in found] == [
        ("a_1", "a", 2),
        ("a_2", "a", 2),
        ("b", "b", 1),
    ]


def test_copies_of_one_date_gain_what_one_date_does():
    site = Site("here", (ground(96),), np.ones((96, 96), bool))
    found = simulated(site, {"wiener": "wiener"}, 5, 4)
    one, several, copies = (found[name][0] for name in ("wiener, 1", "wiener, 4", f"wiener{COPIES}"))
    assert several > one + 1
    assert abs(copies - one) < 0.5


def test_the_report_says_first_how_much_is_prior(folder: Path, tmp_path: Path):
    run = ladder(folder, tmp_path, {"wiener": "wiener"}, gsd=5, frames=3, progress=False)
    assert set(run.gains) == {"a_1", "a_2", "b"}
    assert set(run.changed) == {"a_1", "a_2"}
    text = (tmp_path / "report.md").read_text()
    first = text.split("\n\n")[1]
    whole, prior = run.mean("wiener, 3")[0], run.mean(f"wiener{COPIES}")[0]
    assert f"{whole:.2f}" in first
    assert f"{prior:.2f} dB are there when all dates are copies of one" in first
    assert "come from what other dates saw" in first
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["gains"]["b"]["wiener, 3"]["cPSNR"] == pytest.approx(run.gains["b"]["wiener, 3"][0])
    assert "<h1>Many dates" in (tmp_path / "report.html").read_text()
    # The same at the next coarser scale, where scenes are large enough for it.
    assert set(run.coarser) == {"a_1", "a_2", "b"}
    assert "40 → 20 m is held against 20 → 10 m" in text
    assert "in training" not in text


def test_what_a_network_of_the_coarser_scale_does_at_this_one(folder: Path, tmp_path: Path):
    command = ["train", str(folder), "--gsd", "5", "--coarser", "--out", str(tmp_path / "run"), "--validation"]
    small = [str(folder), "--steps", "1", "--cool", "0", "--quiet"]
    result = CliRunner().invoke(main, [*command, *small])
    assert result.exit_code == 0, result.output
    run = ladder(folder, tmp_path, {"wiener": "wiener"}, gsd=5, frames=2, transfer=tmp_path / "run", progress=False)
    label = "trained at 40 → 20 m"
    assert run.labels == ("wiener", label)
    text = (tmp_path / "report.md").read_text()
    assert "Trained at 40 → 20 m has seen nothing but 40 → 20 m in training" in text
    row = next(line for line in text.split("## Scale transfer")[1].splitlines() if label in line and "|" in line)
    both = {name: run.gains[name] for name in run.coarser}
    assert f"{run.mean(f'{label}, 2', of=run.coarser)[0]:.2f}" in row
    assert f"{run.mean(f'{label}, 2', of=both)[0]:.2f}" in row
    assert f"{label}, 2" in json.loads((tmp_path / "scores.json").read_text())["twice as coarse"]["b"]


def series(count: int = 8) -> xr.Dataset:
    """Dates of one place that are really made of one finer ground."""
    frames, _ = simulate(ground(120), 2, count, np.random.default_rng(0))
    return cube_of(frames)


def test_full_scale_prefers_what_is_true():
    found = full_scale(series(), {"bicubic": "bicubic", "wiener": "wiener"}, 5, 4, targets=2)
    bicubic, wiener = found["bicubic"], found["wiener"]
    assert np.mean(wiener.reflectance) < 0.5 * np.mean(bicubic.reflectance)
    assert np.mean(wiener.angle) < np.mean(bicubic.angle)
    assert bicubic.unseen == [1, 1]
    assert max(wiener.unseen) < 0.9
    assert max(wiener.shift) < 0.02
    with pytest.raises(SourceError, match="8 clear dates: 10 are needed"):
        full_scale(series(), {"bicubic": "bicubic"}, 5, 5)


def test_a_series_from_a_file_keeps_the_clear_dates_in_order(tmp_path: Path):
    frames, _ = simulate(ground(124), 2, 3, np.random.default_rng(0))
    times = np.array(["2018-03-01T10:00:00.000Z", "2018-01-01T10:00:00.000Z", "2018-02-01T10:00:00.000Z"])
    np.savez(tmp_path / "s.npz", b10=frames, time=times, clear=np.array([1, 1, 0.3]))
    ds = series_of(tmp_path / "s.npz")
    assert ds["B08"].shape == (2, 60, 60)
    assert [str(t)[:7] for t in ds["time"].values] == ["2018-01", "2018-03"]
    np.testing.assert_array_equal(ds["B02"].values[0], frames[1, 0, :60, :60])
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="holds no series"):
        series_of(tmp_path / "bad.npz")


def test_what_cannot_be_judged_is_said_before_anything_is_read(folder: Path, tmp_path: Path):
    with pytest.raises(MethodError, match="makes 10 m pixels, not 5 m"):
        ladder(folder, tmp_path, {"supreme": "twogrid"}, gsd=5, progress=False)
    with pytest.raises(MethodError, match="2 or more"):
        ladder(folder, tmp_path, {"wiener": "wiener"}, gsd=5, frames=1, progress=False)


def test_the_command(folder: Path, tmp_path: Path):
    base = ["evaluate", str(folder), "--out", str(tmp_path), "--gsd", "5", "--frames", "2", "--methods", "wiener"]
    result = CliRunner().invoke(main, base)
    assert result.exit_code == 0, result.output
    assert "wiener, 2: +" in result.output
    assert "--gsd 5 --frames 2" in (tmp_path / "report.md").read_text()
    result = CliRunner().invoke(main, [*base, "--scales", "2"])
    assert result.exit_code == 2
    assert "leave it out with --gsd 5" in result.output
