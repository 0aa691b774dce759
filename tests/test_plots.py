"""Pictures: the right panels with the right pixels in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube

import xsen2
from xsen2.bands import B
from xsen2.errors import BandError
from xsen2.evaluation.plots import bars, error_maps, maps, richest, strips


def images(figure) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for ax in figure.axes for image in ax.get_images()]


def test_bars_have_the_heights_of_the_scores() -> None:
    cubes = {"a": make_cube(6, 6, seed=1), "b": make_cube(6, 6, seed=2)}
    scores = xsen2.benchmark(cubes, ["bicubic", "regression"])
    (ax,) = bars(scores, "rmse").axes
    assert [t.get_text() for t in ax.get_xticklabels()] == list(B)
    assert ax.get_ylabel() == "rmse, DN"
    heights = np.array([[bar.get_height() for bar in container] for container in ax.containers])
    np.testing.assert_allclose(heights, scores["rmse"].mean("scene").values)
    centres = np.array([[bar.get_x() + bar.get_width() / 2 for bar in c] for c in ax.containers])
    np.testing.assert_allclose(centres.mean(axis=0), range(6), atol=1e-9)
    (spectral,) = bars(cubes["a"].dsen2.evaluate(["bicubic"]), "sam").axes
    assert [t.get_text() for t in spectral.get_xticklabels()] == ["all bands"]
    with pytest.raises(BandError, match="no metric 'rsme'"):
        bars(scores, "rsme")


def test_many_methods_stay_apart() -> None:
    names = [f"m{i}" for i in range(14)]
    scores = xr.Dataset({"uiq": (("method", "band"), np.ones((14, 2)))}, {"method": names, "band": ["B01", "B09"]})
    figure = bars(scores, "uiq")
    looks = {(c[0].get_facecolor(), c[0].get_hatch()) for c in figure.axes[0].containers}
    assert len(looks) == 14
    assert [t.get_text() for t in figure.legends[0].get_texts()] == names


def test_error_maps_show_absolute_errors_on_one_scale() -> None:
    coarse, truth = (ds.compute() for ds in make_cube(12, 18).degrade.pair(2))
    made = {name: coarse.dsen2.superresolve(method=name, native=False).compute() for name in ("bicubic", "regression")}
    figure = error_maps(truth, made, ["B05", "B11"])
    shown = [image for ax in figure.axes for image in ax.get_images()]
    assert len(shown) == 2 * 3
    np.testing.assert_allclose(shown[1].get_array(), np.abs(made["bicubic"]["B05"] - truth["B05"]))
    np.testing.assert_allclose(shown[5].get_array(), np.abs(made["regression"]["B11"] - truth["B11"]))
    errors = [shown[i] for i in (1, 2, 4, 5)]
    assert len({image.get_clim() for image in errors}) == 1
    top = np.percentile(np.concatenate([np.asarray(e.get_array()).ravel() for e in errors]), 99)
    assert errors[0].get_clim() == (0, pytest.approx(top))
    assert [ax.get_title() for ax in figure.axes[:3]] == ["truth", "bicubic", "regression"]
    assert figure.axes[0].get_ylabel(), figure.axes[3].get_ylabel() == ("B05", "B11")
    assert figure.axes[-1].get_ylabel() == "absolute error, DN"


def test_a_method_that_lacks_a_band_leaves_its_panel_empty() -> None:
    truth = np.arange(36.0).reshape(6, 6)
    figure = maps({"B01": (truth, {"one": truth + 5}), "B09": (truth, {})}, ["one"])
    assert [len(ax.get_images()) for ax in figure.axes[:4]] == [1, 1, 1, 0]


def test_strips_show_the_same_ground_under_one_stretch(tmp_path: Path) -> None:
    fine = np.random.default_rng(0).uniform(0, 1000, (24, 24, 1))
    coarse = fine.reshape(12, 2, 12, 2, 1).mean(axis=(1, 3))
    figure = strips({"scene": {"input": coarse, "truth": fine}, "other": {"truth": np.repeat(fine, 3, axis=2)}})
    figure.savefig(tmp_path / "strips.png")
    before, after, empty, colour = figure.axes
    assert (before.get_title(), after.get_title(), before.get_ylabel()) == ("input", "truth", "scene")
    assert before.get_position().height == pytest.approx(after.get_position().height)
    shown = [np.asarray(ax.get_images()[0].get_array()) for ax in (before, after)]
    np.testing.assert_allclose(shown[0].mean(), shown[1].mean(), atol=0.02)  # no stretch of its own
    for ax, size in ((before, 12), (after, 24)):  # whole pixels from edge to edge: nothing is shifted by half of one
        assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, size - 0.5), (size - 0.5, -0.5))
    assert empty.get_images() == []
    assert np.asarray(colour.get_images()[0].get_array()).shape == (24, 24, 3)


def test_nodata_alone_can_be_drawn(tmp_path: Path) -> None:
    nothing = np.full((6, 6, 1), np.nan)
    strips({"a": {"x": nothing}}).savefig(tmp_path / "a.png")
    maps({"a": (nothing[..., 0], {"m": nothing[..., 0]})}, ["m"]).savefig(tmp_path / "b.png")


def test_richest_square_is_where_things_change() -> None:
    flat = np.full((60, 80), 100.0)
    flat[30:42, 60:72] += np.random.default_rng(1).uniform(0, 500, (12, 12))
    row, column = richest(flat, 12, 6)
    assert (row, column) == (30, 60)
    flat[0, :] = np.nan
    assert richest(flat, 12, 6) == (30, 60)
    assert richest(np.full((12, 12), np.nan), 12, 6) == (0, 0)
