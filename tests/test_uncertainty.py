"""Standard errors beside the estimates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cubes import change, make_cube, no_compute
from tiny import one_of_each

import xsen2
from xsen2.networks.cards import DEFAULT, cards
from xsen2.networks.method import NetworkMethod
from xsen2.training.calibrate import errors_of, left_out, ratios_of, spread_of
from xsen2.training.fit import HALF
from xsen2.training.scenes import scenes_of

pytestmark = pytest.mark.usefixtures("thin_blocks")

SURE = sorted(name for name, group in cards().items() if any(card.spread and card.ratio > 1 for card in group))


def test_the_default_says_how_sure_it_is():
    assert DEFAULT in SURE


@pytest.mark.parametrize("network", one_of_each(SURE))
def test_estimates_are_the_same_and_lazy(network):
    ds = make_cube(10, 9, chunks=30)
    with no_compute():
        sr = ds.dsen2.superresolve(method=network, uncertainty=True, dtype="float32")
    plain = ds.dsen2.superresolve(method=network, dtype="float32").compute()
    sr = sr.compute()
    low = [b for b in plain if b not in ("B02", "B03", "B04", "B08")]
    assert {v for v in sr if str(v).endswith("_se")} == {f"{b}_se" for b in low}
    for band in plain:
        np.testing.assert_array_equal(sr[band], plain[band])
    for band in low:
        assert sr[band].attrs["ancillary_variables"] == f"{band}_se"
        assert (sr[f"{band}_se"] > 0).all()
        assert sr[f"{band}_se"].std() > 0


def test_no_seams_nodata_names_and_units():
    ds = make_cube(14, 12, dates=2)
    whole = ds.dsen2.superresolve(["B05", "B09"], uncertainty=True, dtype="float32").compute()
    cut = ds.chunk(x=37, y=50).dsen2.superresolve(["B05", "B09"], uncertainty=True, dtype="float32").compute()
    for name in ("B05_se", "B09_se"):
        np.testing.assert_allclose(cut[name], whole[name], rtol=0, atol=1e-3)

    def hole(x):
        x[0, 3, 4] = np.nan

    broken = change(ds, "B05", hole)
    found = broken.dsen2.superresolve(["B05"], uncertainty=True).compute()
    np.testing.assert_array_equal(np.isnan(found["B05"]), np.isnan(found["B05_se"]))
    assert np.isnan(found["B05_se"]).sum() == 4

    named = ds.rename(B05="rededge1")
    assert "rededge1_se" in named.dsen2.superresolve(["rededge1"], uncertainty=True)

    reflectance = (
        (ds / 10000).dsen2.superresolve(["B05"], uncertainty=True, quantification=1, dtype="float32").compute()
    )
    np.testing.assert_allclose(reflectance["B05_se"] * 10000, whole["B05_se"], rtol=1e-3)
    assert reflectance["B05_se"].attrs["units"] == "1"


def test_standard_errors_survive_the_sink(tmp_path):
    sr = make_cube(4, 4).dsen2.superresolve(["B05"], uncertainty=True)
    sr.dsen2.to_zarr(tmp_path / "a.zarr")
    import xarray as xr

    back = xr.open_zarr(tmp_path / "a.zarr", decode_coords="all")
    np.testing.assert_allclose(back["B05_se"], sr["B05_se"], rtol=0, atol=0.51)


def test_who_cannot_say_refuses():
    ds = make_cube(4, 4)
    with pytest.raises(xsen2.MethodError, match="cannot say how sure"):
        ds.dsen2.superresolve(method="bicubic", uncertainty=True)
    with pytest.raises(xsen2.MethodError, match="does not say how sure"):
        ds.dsen2.superresolve(method="dsen2", uncertainty=True)


def test_on_the_sample_errors_are_within_one_standard_error_about_two_times_in_three():
    cube, truth = xsen2.sample().isel(time=0), xsen2.sample(truth=True).isel(time=0)
    sr = cube.dsen2.superresolve(["B05", "B8A", "B11"], uncertainty=True, native=False).compute()
    for band in ("B05", "B8A", "B11"):
        error, sigma = np.abs(sr[band] - truth[band]).values, sr[f"{band}_se"].values
        assert (
            0.5 < np.mean(error < sigma) < 0.95
        )  # drawn by code: its bands follow each other more closely than real ones
        surest = sigma < np.quantile(sigma, 0.3)
        assert np.sqrt(np.mean(error[surest] ** 2)) < 0.8 * np.sqrt(np.mean(error**2))


def test_calibration_puts_68_percent_of_the_errors_within_one_standard_error():
    """On the scenes that it is made of, and whatever the card said before."""
    scene = next(scenes_of(xsen2.sample().isel(time=0), "sample"))
    small = next(scenes_of(make_cube(2, 2), "small"))
    no_60m = dataclasses.replace(scene, bands={g: scene.bands[g] for g in (10, 20)}, valid=scene.valid)
    [card] = [c for c in cards()[DEFAULT] if c.ratio == 6]
    spread = spread_of(ratios_of(dataclasses.replace(card, spread=[9.0, 0.1]), [scene, small, no_60m], "mtf"))
    method = NetworkMethod(dataclasses.replace(card, spread=spread))
    for error, sigma in errors_of(scene, method, 6, "mtf").values():
        assert np.mean(np.abs(error) <= sigma) == pytest.approx(HALF, abs=0.02)
    assert errors_of(small, method, 6, "mtf") is None
    assert errors_of(no_60m, method, 6, "mtf") is None


def test_a_place_left_out_is_judged_by_the_others():
    rng = np.random.default_rng(1)
    first, second = np.abs(rng.normal(0, 1, (2, 50000)))
    same = left_out({"B01": {"here_1": first, "there": second}})
    assert same["B01"] == pytest.approx(HALF, abs=0.02)
    other = left_out(
        {"B01": {"here_1": first, "here_2": 2 * first, "there": 4 * second}}, lambda name: name.split("_")[0]
    )
    # By the other place the factor for `here` is too large, and that for `there` too small.
    assert other["B01"] == pytest.approx(np.mean([np.mean([(first < 4).mean(), (first < 2).mean()]), 0.29]), abs=0.02)


def test_errors_are_those_of_the_calls_that_users_make():
    ds = change(xsen2.sample().isel(time=0).astype("float32").compute(), "B11", lambda x: x.__setitem__((5, 6), np.nan))
    scene = next(scenes_of(ds, "sample"))
    found = errors_of(scene, DEFAULT, 2, "dsen2", "float32")
    coarse, truth = scene.cube().drop_vars(["B01", "B09"]).degrade.pair(2, "dsen2")
    sr = coarse.dsen2.superresolve(["B12"], uncertainty=True, native=False, dtype="float32").compute()
    error = (sr["B12"] - truth["B12"]).values
    seen = np.isfinite(error)
    assert not seen.all()
    np.testing.assert_array_equal(found["B12"], [error[seen], sr["B12_se"].values[seen]])
    assert list(found) == list(truth.data_vars)
