"""MuS2's layout, in small: read, refused where it is another, and scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from xsen2.bands import A
from xsen2.errors import SourceError
from xsen2.evaluation.datasets import Layout, _thirds, mus2, scenes
from xsen2.multitemporal.simulate import moved, simulate

NAMES = dict(zip(A, ("b2", "b3", "b4", "b8"), strict=True))


def put(file: Path, x: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "height": x.shape[0], "width": x.shape[1], "count": 1, "dtype": x.dtype}
    with rasterio.open(file, "w", **profile) as image:
        image.write(x, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of six dates; the sharper image has other gains, and lies a pixel aside."""
    folder = tmp_path_factory.mktemp("mus2")
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(144)[:, None], np.fft.rfftfreq(144))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((4, 144, 144))) / np.maximum(f, 0.02), s=(144, 144))
    truth = (1500 + 300 * field / field.std()).astype(np.float32)
    frames, _ = simulate(truth, 3, 6, rng)
    for i, band in enumerate(A):
        for n, frame in enumerate(frames):
            put(folder / "scene_1" / "lr" / NAMES[band] / f"2020-0{n + 1}-01.tif", frame[i].astype(np.uint16))
        put(folder / "scene_1" / "hr" / f"{NAMES[band]}.tif", 0.2 * moved(truth, (1, -1))[i] + 7)
    put(folder / "scene_1" / "hr" / "mask.tif", (np.arange(144 * 144).reshape(144, 144) % 144 > 20).astype(np.uint8))
    return folder


def test_a_scene_is_read_band_by_band_and_date_by_date(folder: Path):
    (scene,) = scenes(folder)
    assert scene.name == "scene_1"
    assert scene.frames.shape == (6, 4, 48, 48)
    assert scene.truth.shape == (4, 144, 144)
    assert scene.valid.mean() == pytest.approx(123 / 144)
    (twice,) = scenes(folder, Layout(scale=2))
    np.testing.assert_allclose(twice.frames, 2 * scene.frames)


def test_several_dates_beat_one_beside_another_sensor(folder: Path):
    scores = mus2(folder, {"wiener": "wiener"}, frames=6)["gain"]
    one = mus2(folder, {"wiener": "wiener"}, frames=1)["gain"]
    assert scores.sel({"method": "bicubic"}).item() == 0
    assert scores.sel({"method": "wiener"}).item() > one.sel({"method": "wiener"}).item() + 0.5


def test_means_of_2_5_m_pixels_over_thirds():
    x = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    out = _thirds(x)
    assert out.shape == (1, 6, 6)
    assert out.mean() == pytest.approx(x.mean())
    assert out[0, 0, 0] == pytest.approx((9 * x[0, 0, 0] + 3 * x[0, 0, 1] + 3 * x[0, 1, 0] + x[0, 1, 1]) / 16)


def test_what_is_laid_out_otherwise_is_named(folder: Path, tmp_path: Path):
    with pytest.raises(SourceError, match="no scenes in"):
        list(scenes(tmp_path))
    (tmp_path / "a" / "lr" / "b2").mkdir(parents=True)
    (tmp_path / "a" / "hr").mkdir()
    with pytest.raises(SourceError, match="a has no B02, B03, B04, B08"):
        list(scenes(tmp_path))
    with pytest.raises(SourceError, match="no scenes in"):
        list(scenes(folder, Layout(frames="s2")))
