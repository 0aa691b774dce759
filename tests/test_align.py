"""Shifts between dates: found to a twentieth of a pixel, however an image is chunked, and undone."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from cubes import examples, make_cube, no_compute
from hypothesis import given
from hypothesis import strategies as st
from series import series, with_scl

import xsen2
from xsen2.bands import A
from xsen2.errors import BandError, ShiftWarning, TimeError
from xsen2.multitemporal.interpolation import lanczos, resampled
from xsen2.multitemporal.registration import fitted, sums_of
from xsen2.multitemporal.simulate import simulate

pytestmark = pytest.mark.usefixtures("thin_blocks")
SHIFTS = np.array([(0, 0), (0.5, -0.31), (-1.2, 0.05), (0.77, 1.4)])


def pixels_of(ds, **how):
    """Shifts in pixels, rows down and columns to the right, as `simulate` has them."""
    with dask.config.set(scheduler="sync"):
        out = ds.dsen2.align(**how).compute()
    return np.stack([-out["shift_y"].values, out["shift_x"].values], axis=1) / 10


def real(shared, name):
    """The north-west of a real scene, in whole tiles when it is half as fine."""
    pixels = np.load(shared / "data" / f"{name}.npz")["b10"].astype(np.float32)
    height, width = (min(n // 2, 120) * 2 for n in pixels.shape[1:])
    return pixels[:, :height, :width]


@pytest.mark.real
@pytest.mark.parametrize("name", ["validation/crop_usa", "validation/wroclaw", "validation/para"])
@pytest.mark.parametrize("zoom", [2, 4])
def test_known_shifts_of_real_scenes_are_found(shared, name, zoom):
    frames, shifts = simulate(
        real(shared, name), zoom, 4, np.random.default_rng(0), shifts=SHIFTS, noise=0.01, gain=0.02
    )
    fit = fitted(sums_of(frames, np.ones(frames.shape[2:], bool)), 4, None)
    assert np.abs(fit.shifts - shifts).max() < 0.05
    assert fit.errors[1:].max() < 0.05


@pytest.mark.parametrize("reference", ["2024-06-01", "2024-06-11", "median", None])
def test_shifts_are_those_from_the_reference(reference):
    ds, _, shifts = series(dates=4, shifts=SHIFTS / 2, chunks=40)
    found = pixels_of(ds, reference=reference)
    number = {"2024-06-01": 0, "2024-06-11": 2}.get(reference)
    if number is None:
        off = found - shifts
        assert np.abs(off - off.mean(axis=0)).max() < 0.1, "the median lies somewhere between"
        assert np.abs(found.mean(axis=0)).max() < 0.25
    else:
        np.testing.assert_allclose(found, shifts - shifts[number], atol=0.05)
        assert (found[number] == 0).all()


@examples(6)
@given(chunks=st.tuples(st.integers(5, 80), st.integers(5, 80)), seed=st.integers(0, 9), apply=st.booleans())
def test_chunks_make_no_difference(chunks, seed, apply):
    ds, *_ = series(48, 78, dates=2, shifts=SHIFTS[:2], seed=seed)
    ds["B04"].values[1, 30:34, seed : seed + 40] = np.nan
    one = ds.chunk(time=-1, y=-1, x=-1).dsen2.align("2024-06-01", apply=apply).compute()
    cut = ds.chunk(time=1, y=chunks[0], x=chunks[1]).dsen2.align("2024-06-01", apply=apply).compute()
    for name in one.variables:
        np.testing.assert_allclose(cut[name].values.astype(float), one[name].values.astype(float), rtol=0, atol=2e-3)


def test_nothing_is_computed():
    ds = with_scl(series(chunks=30)[0], np.zeros((4, 36, 36), bool)).chunk(y_20m=20)
    with no_compute():
        for apply in (False, True):
            out = ds.dsen2.align(apply=apply)
            assert dask.is_dask_collection(out["shift_x"].data)
            out.dsen2.superresolve(gsd=5)


def test_dates_come_to_lie_where_the_reference_does():
    ds, *_ = series(dates=4, shifts=SHIFTS, noise=0.001)
    out = ds.dsen2.align("2024-06-01", apply=True).compute()
    inner = (slice(None), slice(8, -8), slice(8, -8))
    for band in A:
        before, after = (
            np.abs((x - x[:1]) / x[:1].std()).values[inner].mean(axis=(1, 2)) for x in (ds[band], out[band])
        )
        assert (after[1:] < 0.45 * before[1:]).all()
        np.testing.assert_allclose(out[band][0], ds[band][0], rtol=1e-6)
    assert out["B02"].attrs["units"] == "1e-4"
    assert np.abs(pixels_of(out, reference="2024-06-01")).max() < 0.05


def test_bands_of_every_grid_move_by_the_same_metres():
    ds = make_cube(12, 12, dates=2)
    ramp = {10: np.arange(72) * 10.0, 20: np.arange(36) * 20.0 + 5, 60: np.arange(12) * 60.0 + 25}
    rng = np.random.default_rng(0)
    texture, _ = simulate(
        rng.normal(0, 1, (4, 144, 144)).astype(np.float32) * 400 + 2000, 2, 2, rng, shifts=[(0, 0), (0, 0.8)]
    )
    ds = ds.assign({b: (ds[b].dims, texture[:, i]) for i, b in enumerate(A)})
    for band, gsd in (("B05", 20), ("B09", 60)):
        ds[band] = ds[band].copy(data=np.broadcast_to(ramp[gsd], ds[band].shape).astype(np.float32) + 1000)
    out = ds.dsen2.align("2024-06-01", apply=True).compute()
    shift = float(out["shift_x"][1])
    assert abs(shift - 8) < 0.5
    for band, edge in (("B05", 5), ("B09", 5)):
        moved = (out[band] - ds[band])[1, 4, edge:-edge]
        np.testing.assert_allclose(moved, shift, atol=0.002 * shift)


def test_clouds_and_nodata_are_not_looked_at():
    ds, _, shifts = series(120, 120, dates=2, shifts=SHIFTS[:2])
    clouds = np.zeros((2, 60, 60), bool)
    clouds[0, 10:22, 5:14] = clouds[1, 31:40, 30:50] = True
    bad = ds.copy(deep=True)
    for band in A:
        bad[band].values[clouds.repeat(2, axis=1).repeat(2, axis=2)] = 9000
        bad[band].values[1, :20] = np.nan
    found = pixels_of(with_scl(bad, clouds), reference="2024-06-01")
    np.testing.assert_allclose(found, shifts, atol=0.05)
    gone = ds.copy(deep=True)
    for band in A:
        gone[band].values[1] = np.nan
    out = gone.dsen2.align("2024-06-01", apply=True).compute()
    assert np.isnan(out["shift_x"].values[1])
    assert np.isnan(out["B02"].values[1]).all()


def test_what_is_not_there_is_made_of_what_is_near_alone():
    x = np.full((20, 20), 7, np.float32)
    x[5:9, 5:9] = np.nan
    out = resampled(x, (0.4, -0.3), 1, lanczos, 3)
    np.testing.assert_allclose(out[np.isfinite(out)], 7, rtol=1e-6)
    assert np.isnan(out[6:8, 6:8]).all()
    assert np.isfinite(out[:4]).all()


def test_dates_far_off_are_named():
    ds, *_ = series(dates=3, shifts=[(0, 0), (0.2, 0.1), (-2.4, 0)])
    with pytest.warns(
        ShiftWarning, match="2024-06-11T00:00:00 lies 2[34].* m north and 0.* m (east|west) of the reference"
    ):
        found = pixels_of(ds, reference="2024-06-01")
    np.testing.assert_allclose(found[2], (-2.4, 0), atol=0.05)


def test_small_images_and_other_names(tmp_path):
    ds, _, shifts = series(31, 30, dates=2, shifts=SHIFTS[:2])
    np.testing.assert_allclose(pixels_of(ds, reference="2024-06-01"), shifts, atol=0.1)
    renamed = ds.rename(time="t", B02="blue")
    out = renamed.dsen2.align("2024-06-01", apply=True)
    assert out["shift_x"].dims == ("t",)
    assert "blue" in out
    back = ds.dsen2.align(apply=True).dsen2.to_zarr(tmp_path / "aligned.zarr", progress=False)
    assert np.isfinite(back["shift_x"]).all()
    ints = ds.round().astype("uint16").dsen2.align("2024-06-01", apply=True)
    assert ints["B02"].dtype == np.float32
    assert float(xsen2.sample().dsen2.align()["shift_error"].max()) < 10


def test_what_cannot_be_aligned():
    ds = series(dates=2)[0]
    for error, words, bad, how in (
        (TimeError, "no such date", ds, {"reference": "2020-01-01"}),
        (TimeError, "name one, or 'median'", ds, {"reference": "2024-06"}),
        (TimeError, "has none", ds.isel(time=0), {}),
        (BandError, "only B05", make_cube(2, 2, dates=2)[["B05"]], {}),
    ):
        with pytest.raises(error, match=words):
            bad.dsen2.align(**how)


def test_aligned_dates_are_all_the_same_to_a_fusion():
    ds, *_ = series(dates=3, shifts=[(0, 0), (0.2, 0.1), (-2.4, 0)])
    with pytest.warns(ShiftWarning):
        aligned = ds.dsen2.align("2024-06-01", apply=True).compute()
    sr = aligned.dsen2.superresolve(gsd=5, target="2024-06-01").compute()
    assert sr["frame_used"].values[0, :3].all()
    assert isinstance(sr, xr.Dataset)
