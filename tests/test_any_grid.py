"""Nothing assumes 10 m or one date: a method that makes 5 m pixels and one that reads three dates keep the promises."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from cubes import change, make_cube, no_compute
from hypothesis import given, settings
from hypothesis import strategies as st

import xsen2
from xsen2.bands import A, factor_of
from xsen2.engine.operators import degrade_array, taps
from xsen2.errors import BandError, MethodError
from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import Method

pytestmark = pytest.mark.usefixtures("thin_blocks")


class Halves(Method):
    """5 m pixels of the 10 m bands and of B11, by bicubic interpolation."""

    name = "halves"
    produces = needs = (*A, "B11")
    gsd = 5
    halo = {10: 4, 20: 2}  # noqa: RUF012  # never changed

    def __call__(self, a, b, c):
        return np.concatenate([upsample(a, 2), upsample(b, 4)])


class Median(Method):
    """The median of three dates, of a 10 m band and, blurred over its neighbours, B05."""

    name = "median"
    produces = needs = ("B03", "B05")
    frames = 3
    halo = {10: 1, 20: 1}  # noqa: RUF012  # never changed

    def __call__(self, a, b, c):
        assert a.ndim == b.ndim == 4
        around = np.stack([np.roll(b, (i, j), (-2, -1)) for i in (-1, 0, 1) for j in (-1, 0, 1)])
        with np.errstate(all="ignore"):
            mean = np.nanmean(around, axis=0)
        mean[np.isnan(b)] = np.nan
        both = np.concatenate([a, mean.repeat(2, axis=-2).repeat(2, axis=-1)], axis=1)
        both = np.where(np.isnan(both).any(axis=1, keepdims=True), np.nan, both)  # a frame counts where it has all
        with np.errstate(all="ignore"):
            return np.nanmedian(both, axis=0).astype(np.float32)


METHODS = {"halves": Halves(), "median": Median()}
for_both = pytest.mark.parametrize("name", METHODS)
pytestmark = [pytestmark, pytest.mark.filterwarnings("ignore:(Mean of empty slice|All-NaN)")]


def rechunked(ds, chunks):
    dims = {10: ("y", "x"), 20: ("y_20m", "x_20m"), 60: ("y_60m", "x_60m")}
    return ds.chunk({d: n for (_, both), n in zip(dims.items(), chunks, strict=True) for d in both} | {"time": 2})


@for_both
@settings(max_examples=8)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    chunks=st.tuples(st.integers(5, 40), st.integers(3, 20), st.integers(1, 6)),
    dates=st.integers(1, 5),
    consistency=st.booleans(),
    seed=st.integers(0, 99),
)
def test_chunks_leave_no_seam(name, rows, columns, chunks, dates, consistency, seed):
    ds = make_cube(rows, columns, dates=dates, seed=seed)
    rng = np.random.default_rng(seed)
    for band in ("B03", "B11"):
        ds = change(ds, band, lambda x: np.putmask(x, rng.random(x.shape) < 0.05, np.nan))
    whole = ds.dsen2.superresolve(method=METHODS[name], consistency=consistency).compute()
    cut = rechunked(ds, chunks).dsen2.superresolve(method=METHODS[name], consistency=consistency).compute()
    assert list(cut.data_vars) == list(whole.data_vars)
    for band in whole.data_vars:
        np.testing.assert_allclose(cut[band].values, whole[band].values, rtol=0, atol=2e-3, err_msg=str(band))


@for_both
def test_nothing_is_computed(name):
    ds = make_cube(4, 4, dates=3, chunks=12)
    ds["SCL"] = ds["B11"].astype("uint8") * 0 + 4
    with no_compute():
        sr = ds.dsen2.superresolve(method=METHODS[name], mask="scl")
        assert all(dask.is_dask_collection(sr[b].data) for b in sr.data_vars)
        sr.dsen2.index("NDWI")


@pytest.mark.parametrize("epsg", [32631, 32733])
def test_pixels_of_5_m_lie_within_those_of_10_m(epsg, tmp_path):
    ds = make_cube(3, 4, dates=2, epsg=epsg, chunks=12)
    ds["SCL"] = (ds["B11"] * 0 + np.arange(ds.sizes["x_20m"]) % 3).astype("uint8")
    sr = ds.dsen2.superresolve(method=Halves(), gsd=5)
    assert set(sr.data_vars) == {*A, "B11", "SCL"}
    assert sr["B02"].shape == (2, 36, 48)
    np.testing.assert_allclose(sr.x.values.reshape(-1, 2).mean(axis=1), ds.x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(sr.y.values.reshape(-1, 2).mean(axis=1), ds.y, rtol=0, atol=1e-6)
    assert sr.rio.bounds() == ds[["B02"]].rio.bounds()
    assert sr.rio.crs.to_epsg() == epsg
    assert sr["B02"].attrs["gsd"] == 5
    assert sr["B11"].attrs["native_gsd"] == 20
    np.testing.assert_array_equal(sr["SCL"], ds["SCL"].values.repeat(4, axis=1).repeat(4, axis=2))
    sr.dsen2.to_zarr(tmp_path / "fine.zarr", progress=False)
    again = xr.open_zarr(tmp_path / "fine.zarr", decode_coords="all")
    np.testing.assert_array_equal(again.x, sr.x)
    assert again.rio.transform() == sr.rio.transform()


def test_nodata_of_5_m_pixels_is_that_of_what_was_measured():
    clean = make_cube(4, 4, chunks=12)
    ds = change(clean, "B11", lambda x: x.__setitem__((slice(3, 5), slice(2, 3)), np.nan))
    sr = ds.dsen2.superresolve(method=Halves(), consistency=False)
    hole = np.zeros((48, 48), bool)
    hole[12:20, 8:12] = True
    for band in sr.data_vars:
        np.testing.assert_array_equal(np.isnan(sr[band].values), hole)
    far = clean.dsen2.superresolve(method=Halves(), consistency=False)
    near = np.zeros_like(hole)
    near[:36, :28] = True
    np.testing.assert_allclose(sr["B11"].values[~near], far["B11"].values[~near], atol=1e-3)


def test_consistent_at_5_m():
    """Promise 5 holds for 10 m bands too: degraded, they are what was measured."""
    ds = make_cube(4, 4, seed=3)
    sr = ds.dsen2.superresolve(method=Halves(), consistency=True)
    for band in sr.data_vars:
        back = degrade_array(
            sr[band].values, *taps(str(band), 2 * factor_of(str(band)), "mtf"), 2 * factor_of(str(band))
        )
        assert np.sqrt(np.mean((back - ds[band].values) ** 2)) < 0.1
    plain = ds.dsen2.superresolve(method=Halves(), consistency=False)
    back = degrade_array(plain["B11"].values, *taps("B11", 4, "mtf"), 4)
    assert np.sqrt(np.mean((back - ds["B11"].values) ** 2)) > 1, "else the projection was not needed"


def test_an_area_of_5_m_pixels_is_the_whole_cut(tmp_path):
    ds = make_cube(5, 5, chunks=12)
    whole = ds.dsen2.superresolve(method=Halves())
    west, _, _, north = ds[["B02"]].rio.bounds()
    area = (west + 95, north - 195, west + 145, north - 105)
    part = ds.dsen2.superresolve(method=Halves(), area=area, area_crs="EPSG:32631", clip=True)
    assert part["B02"].shape == (20, 12)
    np.testing.assert_allclose(
        part["B02"].values[1:-1, 1:-1], whole["B02"].sel(x=part.x, y=part.y)[1:-1, 1:-1], atol=1e-3
    )
    assert np.isnan(part["B02"].values[:, 0]).all(), "clipped to half of the outer 10 m pixels"


def test_a_degraded_cube_is_a_sensor_of_its_own():
    """Of 20 m bands, a method for half the pixel size makes 10 m pixels."""
    ds = make_cube(4, 4).degrade(scale=2)
    sr = ds.dsen2.superresolve(method=Halves(), gsd=10)
    assert sr["B02"].attrs["gsd"] == 10
    assert sr["B02"].shape == (24, 24)
    assert float(sr.x[1] - sr.x[0]) == 10


def test_each_date_is_made_of_its_nearest_three():
    ds = make_cube(2, 2, dates=5)
    times = np.array(["2024-06-01", "2024-06-30", "2024-06-04", "2024-06-09", "2024-07-30"], "datetime64[ns]")
    ds = ds.assign_coords(time=times)
    level = 100 * np.array([1, 2, 3, 4, 5], np.float32)[:, None, None]
    ds = ds.assign({band: (ds[band].dims, np.ones_like(ds[band]) * level) for band in ds.data_vars}).chunk(time=2)
    got = ds.dsen2.superresolve(method=Median())["B05"].isel(x=5, y=5)
    # Of 1, 2, 3, 4, 5 on days 0, 29, 3, 8, 59: the nearest three of each.
    np.testing.assert_allclose(got, [300, 300, 300, 300, 400], rtol=1e-6)
    np.testing.assert_array_equal(got.time, times)
    fewer = ds.isel(time=[0, 1]).dsen2.superresolve(method=Median())["B05"].isel(x=5, y=5)
    np.testing.assert_allclose(fewer, [150, 150], rtol=1e-6)
    single = ds.isel(time=3).dsen2.superresolve(method=Median())["B05"]
    np.testing.assert_allclose(single, 400, rtol=1e-6)


def test_other_dates_fill_what_one_lost():
    ds = make_cube(3, 3, dates=3, chunks=6)
    ds = change(ds, "B05", lambda x: x.__setitem__((0, slice(2, 4), slice(3, 5)), np.nan))
    ds = change(ds, "B05", lambda x: x.__setitem__((slice(None), 7, 7), np.nan))
    sr = ds.dsen2.superresolve(method=Median(), bands=["B05"], native=False).compute()
    hole = np.zeros((3, 18, 18), bool)
    hole[:, 14:16, 14:16] = True  # lost on every date
    np.testing.assert_array_equal(np.isnan(sr["B05"].values), hole)


def test_clouds_are_masked_before_dates_are_fused():
    ds = make_cube(2, 2, dates=3, chunks=6)
    cloudy = ds["B05"].copy(data=np.where(np.arange(6) < 3, 9000.0, ds["B05"].values).astype(np.float32))
    bad = xr.concat([cloudy.isel(time=[0]), ds["B05"].isel(time=[1, 2])], "time")
    scl = (ds["B05"] * 0 + 4).astype("uint8").compute()
    scl.values[0, :, :3] = 9
    masked = ds.assign(B05=bad, SCL=scl).dsen2.superresolve(method=Median(), mask="scl", bands=["B05"], native=False)
    rest = ds.isel(time=[1, 2]).dsen2.superresolve(method=Median(), bands=["B05"], native=False)
    got, want = masked["B05"].values[0, :, :4], rest["B05"].values[0, :, :4]
    np.testing.assert_allclose(got, want, atol=1e-3)
    assert masked.attrs["xsen2_mask"].startswith("SCL")


def test_what_is_asked_must_be_what_the_method_does():
    ds = make_cube(2, 2, dates=2)
    for error, words, how in (
        (MethodError, "makes 10 m pixels, not 5 m: use gsd=10", {"method": "regression", "gsd": 5}),
        (MethodError, "makes 10 m pixels, not 5 m: use gsd=10", {"method": Median(), "gsd": 5}),
        (MethodError, "makes 5 m pixels, not 10 m: use gsd=5", {"method": Halves(), "gsd": 10}),
        (MethodError, "use frames=3", {"method": Median(), "frames": 2}),
        (MethodError, "use frames=1", {"method": "bicubic", "frames": 4}),
        (MethodError, "frames=0", {"frames": 0}),
        (MethodError, "gsd=-5", {"gsd": -5}),
        (MethodError, "gsd=20", {"gsd": 20}),
        (BandError, "B12", {"method": Halves(), "bands": ["B12"]}),
    ):
        with pytest.raises(error, match=words):
            ds.dsen2.superresolve(**how)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sharpness'"):
        ds.dsen2.superresolve(sharpness=2)
    assert ds.dsen2.superresolve(method=Median(), frames=3).sizes["time"] == 2
    assert ds.dsen2.superresolve(method="bicubic", gsd=10, frames=1).sizes["time"] == 2


class Odd(Halves):
    gsd = 7


@pytest.mark.parametrize(("method", "words"), [(Odd(), "gsd=7"), (object(), "it has no name")])
def test_methods_that_contradict_themselves(method, words):
    with pytest.raises(MethodError, match=words):
        make_cube(2, 2).dsen2.superresolve(method=method)


def test_a_class_without_the_members_cannot_be_made():
    class Nothing(Method):
        name = "nothing"

    with pytest.raises(TypeError, match="halo"):
        Nothing()
    with pytest.raises(MethodError, match=r"Halves\(…\)"):
        xsen2.sample().dsen2.superresolve(method=Halves)
