"""Scores without a truth: against the formulas, and against images that are known to be good or bad."""

from __future__ import annotations

import warnings

import dask
import numpy as np
import pytest
import xarray as xr
from cubes import change, make_cube, no_compute
from hypothesis import given, settings
from hypothesis import strategies as st

from xsen2.bands import A, B, C
from xsen2.engine.operators import degrade_array, taps
from xsen2.errors import BandError, GridError, MethodError
from xsen2.evaluation.metrics import State
from xsen2.evaluation.noreference import PER_BAND, PER_GRID, assess
from xsen2.sources.sample import sample
from xsen2.superresolve import superresolve


def laplacian(x):
    """Of a ``(H, W)`` array, where it has all neighbours."""
    height, width = x.shape
    around = sum(x[r : height - 2 + r, c : width - 2 + c] for r in range(3) for c in range(3))
    return 9 * x[1:-1, 1:-1] - around


def multiple_correlation(x, sharp):
    terms = [laplacian(v) for v in (*sharp, x)]
    seen = np.isfinite(np.sum(terms, axis=0))
    *columns, target = (t[seen] for t in terms)
    design = np.stack([np.ones_like(target), *columns], axis=1)
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return np.sqrt(1 - residual.var() / target.var())


@pytest.mark.parametrize(("operator", "holes"), [("mtf", False), ("dsen2", True), ("box", True)])
def test_is_what_the_formulas_give(operator, holes):
    cube = make_cube(33, 34)
    estimate = superresolve(cube, method="bicubic").compute()
    if holes:
        for band, values in (
            ("B05", np.s_[10:14, 10:14]),
            ("B11", np.s_[50:51, 40:41]),
            ("B01", np.s_[100:130, 60:70]),
        ):
            hidden = estimate[band].values.copy()
            hidden[values] = np.nan
            estimate[band] = (estimate[band].dims, hidden)
    got = assess(estimate, cube, operator=operator).compute()
    assert list(got) == [*PER_BAND, *PER_GRID]
    assert list(got["band"].values) == [*B, *C]
    assert list(got["grid"].values) == [20, 60]
    sharp = [cube[b].values.astype(float) for b in A]
    for gsd, bands in ((20, B), (60, C)):
        scale = gsd // 10
        small = np.stack([degrade_array(estimate[b].values, *taps(b, scale, operator), scale) for b in bands])
        smooth = [degrade_array(cube[b].values, *taps(b, scale, operator), scale).astype(float) for b in A]
        truth = np.stack([cube[b].values for b in bands])
        expected = State.of(small, truth).finish(scale)
        one = got.sel(grid=gsd, band=list(bands))
        np.testing.assert_allclose(one["consistency"], expected["rmse"], rtol=1e-9)
        np.testing.assert_allclose(one["d_lambda_band"], 1 - expected["uiq"], rtol=1e-9)
        np.testing.assert_allclose(one["d_lambda"], 1 - expected["q2n"], rtol=1e-9)
        np.testing.assert_allclose(one["consistency_ergas"], expected["ergas"], rtol=1e-9)
        np.testing.assert_allclose(one["consistency_sam"], expected["sam"], rtol=1e-9)
        for band in bands:
            found = multiple_correlation(estimate[band].values.astype(float), sharp)
            assert one["spatial"].sel(band=band).item() == pytest.approx(found, rel=1e-9)
            found = multiple_correlation(cube[band].values.astype(float), smooth)
            assert one["spatial_measured"].sel(band=band).item() == pytest.approx(found, rel=1e-9)


def test_lazy_and_described():
    cube = sample()
    with no_compute():
        out = assess(superresolve(cube, method="bicubic"), cube)
    assert all(dask.is_dask_collection(out[name]) for name in out)
    assert out["spatial"].dims == ("band",)
    assert out["d_lambda"].dims == ("grid",)
    assert out["consistency"].attrs["units"] == "DN"
    assert all(variable.attrs["long_name"] for variable in out.data_vars.values())


def test_blur_scores_well_on_consistency_and_copies_on_detail():
    cube, truth = sample(), sample(truth=True)
    pan = cube["B08"]
    blurred = superresolve(cube, method="bicubic", consistency=True)
    copied = blurred.assign(dict.fromkeys((*B, *C), (pan.dims, pan.data)))
    blur, copy, right = (assess(ds, cube).compute() for ds in (blurred, copied, truth))
    # Nothing but the mirrored edges differs between what was measured and the truth, degraded.
    assert (blur["consistency"] < 0.1).all()
    assert (blur["d_lambda"] < 1e-6).all()
    assert (blur["spatial"] < 0.8).all()
    np.testing.assert_allclose(copy["spatial"], 1, rtol=1e-6)
    assert (copy["consistency"] > 100).all()
    assert (copy["d_lambda"] > right["d_lambda"]).all()
    # The truth's detail is about as much that of the 10 m bands as at the scale below.
    np.testing.assert_allclose(right["spatial"], right["spatial_measured"], atol=0.02)
    xr.testing.assert_allclose(blur["spatial_measured"], copy["spatial_measured"])


def test_one_10_m_band_gives_the_plain_correlation():
    cube = make_cube(8, 8)
    estimate = superresolve(cube, method="bicubic").compute()
    got = assess(estimate, cube.drop_vars(["B02", "B03", "B04"])).compute()
    for band in (*B, *C):
        edges = [laplacian(ds[b].values.astype(float)).ravel() for ds, b in ((estimate, band), (cube, "B08"))]
        assert got["spatial"].sel(band=band).item() == pytest.approx(abs(np.corrcoef(*edges)[0, 1]), rel=1e-9)


@pytest.mark.slow
@settings(max_examples=5)
@given(
    rows=st.integers(2, 14),
    columns=st.integers(2, 14),
    dates=st.integers(0, 2),
    first=st.integers(6, 40),
    second=st.integers(6, 40),
    hole=st.booleans(),
    seed=st.integers(0, 9),
)
def test_chunks_change_nothing(rows, columns, dates, first, second, hole, seed):
    cube = make_cube(rows, columns, dates=dates or None, seed=seed)
    if hole:

        def hide(values):
            values[..., 1:2, 2:3] = np.nan

        cube = change(change(cube, "B11", hide), "B02", hide)
    estimate = superresolve(cube, method="bicubic").compute()
    one = assess(estimate.chunk(), cube.chunk()).compute(scheduler="sync")
    sizes = {d: first if d.startswith("y") else second for d in cube.dims if d != "time"}
    many = assess(estimate.chunk(y=second, x=first), cube.chunk(sizes)).compute(scheduler="sync")
    # Where a block sees nodata, degrading divides by a sum of float32 weights, which elsewhere is taken for 1.
    for name in one:
        np.testing.assert_allclose(many[name], one[name], rtol=1e-5 if hole else 1e-9, atol=1e-6 if hole else 1e-12)


def test_dates_are_pooled():
    cube = make_cube(8, 8, dates=2)
    estimate = superresolve(cube, method="bicubic")
    both = assess(estimate, cube).compute()
    each = [assess(estimate.isel(time=[t]), cube.isel(time=[t])).compute() for t in (0, 1)]
    squares = sum(one["consistency"] ** 2 for one in each) / 2
    np.testing.assert_allclose(both["consistency"], np.sqrt(squares), rtol=1e-9)


def test_reflectance_is_judged_in_dn():
    cube = make_cube(12, 12)
    estimate = superresolve(cube, method="bicubic").compute()
    dn = assess(estimate, cube).compute()
    got = assess(estimate / 10000, cube / 10000, gain=10000).compute()
    xr.testing.assert_allclose(got, dn, rtol=1e-4)


def test_nodata_of_integers_is_left_out():
    cube = make_cube(12, 12, dtype=np.uint16)

    def hide(values):
        values[4:9, 5:8] = 0

    estimate = superresolve(cube, method="bicubic").compute()
    hidden = change(cube, "B07", hide)
    got, full = assess(estimate, hidden).compute(), assess(estimate, cube).compute()
    assert got["consistency"].sel(band="B07").item() == pytest.approx(
        full["consistency"].sel(band="B07").item(), rel=0.1
    )
    assert got["consistency"].sel(band="B07").item() != full["consistency"].sel(band="B07").item()
    np.testing.assert_array_equal(got["consistency"].sel(band="B06"), full["consistency"].sel(band="B06"))


def test_nothing_to_score_is_nan_without_a_warning():
    flat = make_cube(3, 3) * 0 + 1000
    nothing = flat * np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        even, empty = (assess(superresolve(c, method="bicubic"), c).compute() for c in (flat, nothing))
    assert (even["consistency"] < 1e-3).all()
    assert even["spatial"].isnull().all()
    assert even["d_lambda"].isnull().all()  # no block of 32 x 32
    assert all(empty[name].isnull().all() for name in empty)
    tiny = make_cube(1, 1)
    scores = assess(superresolve(tiny, method="bicubic"), tiny).compute()
    assert np.isfinite(scores["consistency"]).all()


def test_a_flat_10_m_band_explains_nothing():
    cube = make_cube(4, 4)
    cube = cube[["B02", "B05"]].assign(B02=cube["B02"] * 0 + 500)
    got = assess(superresolve(cube, method="bicubic"), cube).compute()
    assert got["spatial"].item() == 0
    assert list(got["grid"].values) == [20]


def test_what_cannot_be_scored_is_refused_at_once():
    cube = make_cube(4, 4, chunks=24)
    estimate = superresolve(cube, method="bicubic")
    with no_compute():
        with pytest.raises(BandError, match="the result has B02, B03"):
            assess(estimate[["B02", "B03"]], cube)
        with pytest.raises(BandError, match="a 10 m band in the cube"):
            assess(estimate, cube[["B05", "B01"]])
        with pytest.raises(GridError, match=r"B05: the result is \(23, 24\), the cube's 10 m grid \(24, 24\)"):
            assess(estimate.isel(y=slice(23)), cube)
        with pytest.raises(MethodError, match="unknown operator"):
            assess(estimate, cube, operator="nearest")
