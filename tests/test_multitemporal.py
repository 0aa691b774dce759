"""Many dates, one finer image: fusions keep the promises that every method keeps, and gain what they say."""

from __future__ import annotations

import re
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from cubes import examples, make_cube, no_compute
from hypothesis import given
from hypothesis import strategies as st
from series import scene, series, with_scl

import xsen2
from xsen2.bands import A
from xsen2.errors import MethodError, TimeError
from xsen2.methods.bicubic import upsample
from xsen2.methods.registry import MULTITEMPORAL
from xsen2.multitemporal.interpolation import Median
from xsen2.multitemporal.registration import sums_of
from xsen2.multitemporal.simulate import moved, simulate
from xsen2.multitemporal.wiener import Wiener

pytestmark = pytest.mark.usefixtures("thin_blocks")
for_all = pytest.mark.parametrize("method", ["bicubic", *MULTITEMPORAL])


def pixels(sr):
    """``(time, band, y, x)``, without the outer pixels, which mirrored surroundings make worse."""
    return np.stack([sr[b].values for b in A], axis=1)


def gain(sr, truth, frame, edge=12):
    """dB over the frame interpolated, apart from brightness."""
    inner = (..., slice(edge, -edge), slice(edge, -edge))
    zoom = truth.shape[-1] // frame.shape[-1]
    made, plain = pixels(sr)[0], upsample(frame, zoom)
    left = [np.var((x - truth)[inner], axis=(1, 2)) for x in (made, plain)]
    return float(np.mean(10 * np.log10(left[1] / left[0])))


def first(ds):
    return np.stack([ds[b].values[0] for b in A])


@pytest.mark.parametrize(("zoom", "least"), [(2, (1.0, 3.5)), (4, (0.6, 2.0))])
def test_eight_dates_tell_more_than_one(zoom, least):
    ds, truth, shifts = series(dates=8, zoom=zoom)
    one, eight = (ds.dsen2.superresolve(gsd=10 / zoom, frames=n, target="2024-06-01").compute() for n in (1, 8))
    assert gain(one, truth, first(ds)) > least[0]
    assert gain(eight, truth, first(ds)) > least[1]
    np.testing.assert_allclose(eight["shift_x"][0], 10 * shifts[:, 1], atol=0.5)
    np.testing.assert_allclose(eight["shift_y"][0], -10 * shifts[:, 0], atol=0.5)
    assert eight["frame_used"].all()
    median = ds.dsen2.superresolve(gsd=10 / zoom, method="median", target="2024-06-01")
    assert gain(median, truth, first(ds)) > -0.6
    bicubic = ds.dsen2.superresolve(gsd=10 / zoom, method="bicubic", target="2024-06-01")
    assert abs(gain(bicubic, truth, first(ds))) < 0.01


def test_dates_that_have_changed_do_no_harm():
    """Other places altogether, under the same name: the date itself is what remains."""
    ds, truth, _ = series(dates=3)
    other = simulate(scene(144, 144, 9), 2, 1, np.random.default_rng(1))[0][0]
    bad = ds.copy(deep=True)
    for i, band in enumerate(A):
        bad[band].values[1:] = other[i]
    wrong = bad.dsen2.superresolve(gsd=5, mask=None, target="2024-06-01").compute()
    alone = ds.dsen2.superresolve(gsd=5, frames=1, target="2024-06-01").compute()
    assert gain(wrong, truth, first(ds)) > gain(alone, truth, first(ds)) - 0.3


def holes(ds, seed):
    rng = np.random.default_rng(seed)
    out = ds.copy(deep=True)
    for n in range(ds.sizes["time"]):
        row, column = rng.integers(0, [ds.sizes["y"] - 9, ds.sizes["x"] - 14])
        speck = rng.random((ds.sizes["y"], ds.sizes["x"])) < 0.01
        for band in A:
            out[band].values[n, row : row + 9, column : column + 14] = np.nan
            out[band].values[n][speck] = np.nan
    return out


SEAMS, *_ = series(66, 132, dates=3)


@for_all
@examples(5)
@given(
    chunks=st.tuples(st.integers(7, 80), st.integers(7, 80)),
    zoom=st.sampled_from([2, 4]),
    seed=st.integers(0, 99),
    whole=st.booleans(),
)
def test_chunks_leave_no_seam(method, chunks, zoom, seed, whole):
    ds = (SEAMS if whole else holes(SEAMS, seed)).isel(time=slice(seed % 3, None))
    how = {"gsd": 10 / zoom, "method": method, "target": "2024-06-11", "uncertainty": method == "wiener"}
    one = ds.chunk(time=-1, y=-1, x=-1).dsen2.superresolve(**how).compute()
    cut = ds.chunk(time=2, y=chunks[0], x=chunks[1]).dsen2.superresolve(**how).compute()
    assert list(cut.variables) == list(one.variables)
    for name in one.variables:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(cut[name].values, one[name].values, rtol=0, atol=2e-3, err_msg=str(name))
        else:
            np.testing.assert_array_equal(cut[name].values, one[name].values)


@for_all
def test_nothing_is_computed(method):
    ds = with_scl(series(chunks=30)[0], np.zeros((4, 36, 36), bool)).chunk(y_20m=20)
    with no_compute():
        sr = ds.dsen2.superresolve(gsd=2.5, method=method, target=["2024-06-06", "2024-06-16"])
        assert all(dask.is_dask_collection(sr[b].data) for b in sr.data_vars)
        assert sr.sizes["time"] == 2
        sr.dsen2.index("NDWI")


@for_all
def test_other_dates_fill_what_one_lost(method):
    ds = series(dates=4)[0]
    lost, never = np.zeros((2, 72, 72), bool)
    lost[20:31, 40:45] = True
    never[50:53, 10] = True
    for band in A:
        ds[band].values[0][lost] = np.nan
        ds[band].values[:, never] = np.nan
    sr = ds.dsen2.superresolve(gsd=5, method=method).compute()
    fine = [x.repeat(2, axis=0).repeat(2, axis=1) for x in (lost, never)]
    want = never if method != "bicubic" else never | lost
    for band in A:
        np.testing.assert_array_equal(np.isnan(sr[band].values[0]), want.repeat(2, axis=0).repeat(2, axis=1))
        np.testing.assert_array_equal(np.isnan(sr[band].values[1]), fine[1])
    if method != "bicubic":
        np.testing.assert_array_equal(sr["clear_frames"].values[0], np.where(fine[1], 0, np.where(fine[0], 3, 4)))
        clean = series(dates=4)[0].dsen2.superresolve(gsd=5, method=method, target="2024-06-01").compute()
        off = pixels(sr)[0] - pixels(clean)[0]
        assert np.sqrt(np.nanmean(off[:, fine[0]] ** 2)) < 60, "filled with what the ground is, of a contrast of 250"
        near = np.zeros((144, 144), bool)
        near[:64, 60:] = near[90:, :40] = True
        np.testing.assert_allclose(off[:, ~near], 0, atol=50)


def test_clouds_are_masked_and_cloudy_dates_left_out():
    ds = series(dates=6)[0]
    clouds = np.zeros((6, 36, 36), bool)
    clouds[1, 4:8, 4:8] = True  # less than 5 % with what is around: a frame all the same
    clouds[2, :, :9] = True
    bad = ds.copy(deep=True)
    for band in A:
        bad[band].values[:] = np.where(clouds.repeat(2, axis=1).repeat(2, axis=2), 9000, bad[band].values)
    cube = with_scl(bad, clouds)
    sr = cube.dsen2.superresolve(gsd=5, frames=3).compute()
    assert sr.attrs["xsen2_mask"].startswith("SCL 0, 1, 3, 8, 9, 10 and 3 pixels around")
    assert float(sr["B02"].max()) < 4000
    assert sr.sizes["frame"] == 6
    first_date = sr.isel(time=0)
    used = first_date["frame_time"].values[first_date["frame_used"].values]
    np.testing.assert_array_equal(used, ds.time.values[[0, 1, 3]], "the nearest that are clear")
    assert sr["frame_used"].values[:, 0].all(), "a date is made of itself, however cloudy"
    inside = sr["clear_frames"].values[0, 10:20, 10:20]
    assert (inside == 2).all()
    assert sr["clear_frames"].values[0, 60:, 60:].min() == 3
    assert "xsen2_mask" not in cube.dsen2.superresolve(gsd=5, mask=None).attrs
    assert cube.dsen2.superresolve(gsd=5, mask=None).sizes["frame"] == 8
    assert "xsen2_mask" not in make_cube(2, 2).dsen2.superresolve(gsd=5).attrs


def test_targets():
    ds = series(dates=4)[0]
    clouds = np.zeros((4, 36, 36), bool)
    clouds[3, :10] = True
    cube = with_scl(ds, clouds)
    every = cube.dsen2.superresolve(gsd=5, method="median").compute()
    for target, dates in (
        ("2024-06-06", [1]),
        (ds.time.values[2], [2]),
        (["2024-06-16", np.datetime64("2024-06-01")], [0, 3]),
        ("2024-06", [0, 1, 2, 3]),
        ("latest", [2]),
    ):
        some = cube.dsen2.superresolve(gsd=5, method="median", target=target).compute()
        xr.testing.assert_identical(some, every.isel(time=dates))
    assert ds.dsen2.superresolve(gsd=5, target="latest").time.values == ds.time.values[3:]
    ten = make_cube(2, 2, dates=3).dsen2.superresolve(method="bicubic", target="2024-06-06")
    assert ten.sizes["time"] == 1
    for error, words, bad in (
        (TimeError, "no such date, but 4: 2024-06-01", {"target": "2024-06-02"}),
        (TimeError, "names no date", {"target": []}),
        (TimeError, "on none of the 4 dates", {"target": "latest", "mask": xr.ones_like(ds["B02"], bool)}),
        (MethodError, "2.5 m is the finest", {"gsd": 1}),
        (MethodError, "makes 5 m pixels, not 10 m", {"gsd": 10, "method": "wiener"}),
        (MethodError, "use frames=1", {"method": "bicubic", "frames": 3}),
        (MethodError, "cannot say how sure", {"method": "median", "uncertainty": True}),
    ):
        with pytest.raises(error, match=words):
            ds.dsen2.superresolve(**{"gsd": 5} | bad)
    with pytest.raises(TimeError, match="has none"):
        ds.isel(time=0).dsen2.superresolve(gsd=5, target="latest")


@for_all
def test_order_and_number_of_dates(method):
    ds = series(dates=4)[0]
    how = {"gsd": 5, "method": method}
    sr = ds.dsen2.superresolve(**how).compute()
    back = ds.isel(time=[2, 0, 3, 1]).dsen2.superresolve(**how).compute()
    xr.testing.assert_allclose(back.sortby("time"), sr, atol=1e-3)
    single, series_of_one = (ds.isel(time=n).dsen2.superresolve(**how).compute() for n in (0, [0]))
    assert single["B02"].dims == ("y", "x")
    np.testing.assert_allclose(single["B02"], series_of_one["B02"][0], atol=1e-3)
    twice = xr.concat([ds.isel(time=[0]), ds.isel(time=[0])], "time").dsen2.superresolve(**how).compute()
    assert np.isfinite(pixels(twice)).all()
    off = pixels(twice)[0] - pixels(series_of_one)[0]
    assert np.abs(off).max() < 60, "the same again is no news but that there is less noise"


def test_a_date_far_off_is_no_frame():
    shifts = [(0, 0), (0.3, 0.4), (0, 2.2)]
    ds, *_ = series(dates=3, shifts=shifts)
    sr = ds.dsen2.superresolve(gsd=5, target="2024-06-01").compute()
    np.testing.assert_array_equal(sr["frame_used"].values[0, :3], [True, True, False])
    assert abs(float(sr["shift_x"][0, 2]) - 22) < 1


@pytest.mark.parametrize("epsg", [32631, 32733])
def test_finer_pixels_lie_within_those_of_10_m(epsg, tmp_path):
    ds = make_cube(3, 4, dates=2, epsg=epsg, chunks=12)
    sr = ds.dsen2.superresolve(gsd=2.5)
    assert sr["B02"].shape == (2, 72, 96)
    np.testing.assert_allclose(sr.x.values.reshape(-1, 4).mean(axis=1), ds.x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(sr.y.values.reshape(-1, 4).mean(axis=1), ds.y, rtol=0, atol=1e-6)
    assert sr.rio.bounds() == ds[["B02"]].rio.bounds()
    assert sr["B02"].attrs["gsd"] == 2.5
    back = sr.dsen2.to_zarr(tmp_path / "fine.zarr", progress=False)
    assert back.rio.transform() == sr.rio.transform()
    np.testing.assert_allclose(back["shift_x"], sr["shift_x"])
    np.testing.assert_array_equal(back["frame_time"], sr["frame_time"])
    np.testing.assert_array_equal(back["clear_frames"], sr["clear_frames"])
    files = sr.isel(time=[0]).dsen2.to_cog(tmp_path / "fine.tif", progress=False)
    cog = xr.open_dataset(files[0], engine="rasterio")
    assert cog.rio.transform() == sr.rio.transform()
    assert cog["band_data"].shape == (4, 72, 96)
    np.testing.assert_allclose(cog["band_data"].values, pixels(sr)[0].clip(1), atol=0.51)


def test_dates_are_appended_one_by_one(tmp_path):
    ds = series(36, 36, dates=3)[0]
    sr = ds.dsen2.superresolve(gsd=5)
    for date in ("2024-06-01", "2024-06-06"):
        back = ds.dsen2.superresolve(gsd=5, target=date).dsen2.to_zarr(
            tmp_path / "grows.zarr", append=True, dtype="float32", progress=False
        )
    np.testing.assert_allclose(back["B08"], sr["B08"][:2], atol=1e-3)
    np.testing.assert_allclose(back["shift_y"], sr["shift_y"][:2])


def test_an_area_is_the_whole_cut():
    ds = series(120, 132, dates=2, chunks=40)[0]
    west, _, _, north = ds[["B02"]].rio.bounds()
    area = (west + 605, north - 995, west + 945, north - 705)
    whole = ds.dsen2.superresolve(gsd=5, target="2024-06-01")
    part = ds.dsen2.superresolve(gsd=5, target="2024-06-01", area=area, area_crs="EPSG:32631").compute()
    assert part["B02"].shape == (1, 60, 70)
    np.testing.assert_allclose(part["B02"], whole["B02"].sel(x=part.x, y=part.y), atol=1e-3)


def test_standard_errors_hold_what_they_promise():
    for zoom in (2, 4):
        ds, truth, _ = series(dates=5, zoom=zoom, seed=4)
        sr = ds.dsen2.superresolve(gsd=10 / zoom, target="2024-06-01", uncertainty=True).compute()
        inner = (slice(None), slice(12, -12), slice(12, -12))
        off = np.abs(pixels(sr)[0] - truth)[inner]
        se = np.stack([sr[f"{b}_se"].values[0] for b in A])[inner]
        assert 0.45 < np.mean(off < se) < 0.9
        assert sr["B02"].attrs["ancillary_variables"] == "B02_se"


def test_reflectance_stays_reflectance():
    ds = series(dates=2)[0]
    dn = ds.dsen2.superresolve(gsd=5, dtype="float32").compute()
    reflectance = ds.assign({b: (ds[b] / 10000).assign_attrs(units="1") for b in A})
    share = reflectance.dsen2.superresolve(gsd=5, dtype="float32").compute()
    np.testing.assert_allclose(share["B08"] * 10000, dn["B08"], atol=2e-2)
    np.testing.assert_array_equal(share["clear_frames"], 2)


def test_bands_of_20_m_and_60_m_come_by_the_road_to_10_m(tiny_cards, monkeypatch):
    from xsen2.methods import registry

    monkeypatch.setattr(registry, "cards", lambda: tiny_cards)  # for this test alone
    ds = make_cube(6, 6, dates=3, chunks=30)
    with no_compute():
        sr = ds.dsen2.superresolve(["B11", "B01", "B03"], gsd=5, target="2024-06-06")
    assert list(sr.data_vars) == ["B01", "B03", "B11", "clear_frames"]
    sr = sr.compute()
    plain = ds.dsen2.superresolve(["B03"], gsd=5, target="2024-06-06").compute()
    np.testing.assert_allclose(sr["shift_x"], plain["shift_x"])
    assert sr["B11"].attrs["native_gsd"] == 20
    ten = ds.dsen2.superresolve(["B11"], native=False).isel(time=1)
    assert np.corrcoef(sr["B11"].values[0].ravel(), upsample(ten["B11"].values, 2).ravel())[0, 1] > 0.7
    only = ds.dsen2.superresolve(["B12"], gsd=2.5, method="median").compute()
    assert list(only.data_vars) == ["B12", "clear_frames"]
    assert np.isfinite(only["B12"]).all()


def test_names():
    table = xsen2.methods()
    assert table.loc["wiener", "gsd"] == "5, 2.5"
    assert table.loc["wiener", "frames"] == "any"
    assert table.loc["regression", "gsd"] == "10"
    ds = series(dates=2)[0]
    assert ds.dsen2.superresolve(method="wiener").attrs["xsen2_method"] == "wiener"
    assert float(ds.dsen2.superresolve(method="wiener").x[1] - ds.dsen2.superresolve(method="wiener").x[0]) == 5
    own = Wiener(bands=("B03",), gsd=2.5, frames=2)
    assert set(ds.dsen2.superresolve(method=own).data_vars) == {"B03", "clear_frames"}
    assert ds.dsen2.superresolve(method=Median(frames=None), gsd=5).sizes["frame"] == 2


def test_a_simulation_is_what_it_says():
    truth = scene(96, 96)
    frames, shifts = simulate(truth, 4, 3, np.random.default_rng(0), noise=0, gain=0)
    np.testing.assert_array_equal(shifts[0], 0)
    assert np.abs(shifts).max() <= 0.5
    again, _ = simulate(moved(truth, (4, -8)), 4, 1, np.random.default_rng(0), noise=0)
    np.testing.assert_allclose(again[0][:, 6:-6, 6:-6], np.roll(frames[0], (1, -2), (1, 2))[:, 6:-6, 6:-6], atol=0.1)
    with pytest.raises(MethodError, match="without data"):
        simulate(np.full((4, 8, 8), np.nan, np.float32), 4, 2, np.random.default_rng(0))


def test_the_page_runs():
    page = (Path(__file__).parent.parent / "docs" / "below-10-m.md").read_text()
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, found)
    assert found["fine"]["B02"].attrs["gsd"] == 5
    assert found["last"].sizes["time"] == 1
    assert found["moved"]["shift_x"].dims == ("time",)
    assert np.isfinite(found["blurred"]["B08"][0]).all()


def test_images_too_small_to_tell_anything_of():
    """A 60 m pixel: no shifts, no spectrum, and no worse than interpolation."""
    ds, truth, _ = series(72, 72, dates=3, shifts=np.zeros((3, 2)))
    small = ds.isel(y=slice(30, 36), x=slice(12, 18))
    for target in (None, "2024-06-01"):
        sr = small.dsen2.superresolve(gsd=5, target=target).compute()
        plain = small.dsen2.superresolve(gsd=5, target=target, method="bicubic").compute()
        off = [np.sqrt(np.mean((pixels(x)[0] - truth[:, 60:72, 24:36]) ** 2)) for x in (sr, plain)]
        assert off[0] < 1.05 * off[1]
    assert np.isnan(sr["shift_x"].values[0, 3:]).all()


def test_what_a_fusion_sees_round_an_area():
    assert xsen2.context_of(gsd=5) >= 60
    assert xsen2.context_of("bicubic", gsd=2.5) == 60
    assert xsen2.context_of("wiener", ["B11"], gsd=5) > xsen2.context_of("wiener", gsd=5)


def test_statistics_are_gathered_once_for_all_regions_of_a_store(tmp_path, monkeypatch):
    ds = series(132, 66, dates=2, chunks=60)[0]
    calls = []

    def counted(*args):
        calls.append(1)
        return sums_of(*args)

    monkeypatch.setattr("xsen2.multitemporal.fusion.sums_of", counted)
    sr = ds.dsen2.superresolve(gsd=5, method="median", frames=2)
    whole = sr.compute(scheduler="sync")
    once = len(calls)
    assert once == 2 * 2 * 3  # dates, columns and rows of blocks
    monkeypatch.setattr("xsen2.sinks.regions.REGION", 1)
    with dask.config.set(scheduler="sync"):
        back = sr.dsen2.to_zarr(tmp_path / "regions.zarr", dtype="float32", chunks=60, progress=False)
    assert len(calls) == 3 * once, "as often for the coordinates, which tell of the shifts"
    for band in A:
        np.testing.assert_allclose(back[band], whole[band], atol=1e-4)
