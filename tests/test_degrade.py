"""Degraded cubes: nesting, chunks, nodata, agreement of the accessor with the kernels."""

from __future__ import annotations

import numpy as np
import pytest
from cases import every
from cubes import change, make_cube, no_compute
from hypothesis import given, settings
from hypothesis import strategies as st

import xsen2
from xsen2.bands import BANDS, GRIDS
from xsen2.cube import recognise
from xsen2.engine.operators import OPERATORS, degrade_array, kernels
from xsen2.radiometry import nodata_of


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("scale", every(2, [2, 3, 6]))
def test_is_the_kernel_on_every_band(operator, scale):
    ds = make_cube(scale * 3, scale * 2, dates=2, dtype=np.uint16, chunks=30)
    with no_compute():
        coarse = ds.degrade(scale=scale, operator=operator)
    cube = recognise(coarse)
    assert cube.resolution == 10 * scale
    coarse = coarse.compute()
    for band in BANDS:
        rows, columns = kernels(band, scale, operator)
        want = degrade_array(ds[band].values.astype(np.float32), *rows, scale, columns)
        np.testing.assert_allclose(coarse[band], want, rtol=0, atol=2e-3, err_msg=band)


@settings(max_examples=15)
@given(
    rows=st.integers(2, 7),
    columns=st.integers(2, 7),
    chunks=st.integers(5, 50),
    operator=st.sampled_from(OPERATORS),
    holes=st.booleans(),
    seed=st.integers(0, 99),
)
def test_chunks_change_nothing(rows, columns, chunks, operator, holes, seed):
    ds = make_cube(rows, columns, seed=seed)
    if holes:
        rng = np.random.default_rng(seed)
        ds = change(ds, "B05", lambda x: np.putmask(x, rng.random(x.shape) < 0.3, np.nan))
    cut = ds.chunk(dict.fromkeys(("y", "x", "y_20m", "x_20m", "y_60m", "x_60m"), chunks))
    got, want = cut.degrade(2, operator).compute(), ds.degrade(2, operator).compute()
    for band in BANDS:
        np.testing.assert_allclose(got[band], want[band], rtol=0, atol=1e-3, err_msg=band)


def test_grids_nest_and_ragged_ends_are_left_out():
    ds = make_cube(5, 7)
    coarse = ds.degrade(scale=2)
    assert dict(coarse.sizes) == {"y": 12, "x": 18, "y_20m": 6, "x_20m": 9, "y_60m": 2, "x_60m": 3}
    before, after = recognise(ds), recognise(coarse)
    assert after.bounds[0] == before.bounds[0]
    assert after.bounds[3] == before.bounds[3]
    assert after.bounds[2] == before.bounds[2] - 60
    assert coarse["B05"].attrs["gsd"] == 40
    assert coarse.rio.crs == ds.rio.crs


def test_pair_gives_the_truth_untouched():
    ds = make_cube(12, 12, dtype=np.uint16)
    ds["B01"][0, 0] = 0
    for scale, bands in ((2, GRIDS[20]), (6, GRIDS[60])):
        coarse, truth = ds.degrade.pair(scale=scale)
        assert tuple(truth.data_vars) == bands
        for band in bands:
            want = ds[band].values.astype(float)
            want[want == 0] = np.nan
            np.testing.assert_array_equal(truth[band], want)
        np.testing.assert_array_equal(truth.x, coarse.x)
        sr = coarse.dsen2.superresolve(method="bicubic", native=False)
        assert sr[bands[0]].shape == truth[bands[0]].shape


def test_nodata_needs_half_a_pixel():
    ds = make_cube(4, 4, dtype=np.uint16)

    def spoil(x):
        x[0, 0] = 0  # one of four
        x[2:4, 0] = 0  # two
        x[4:6, 0] = x[4, 1] = 0  # three

    coarse = change(ds, "B02", spoil).degrade(2, "box")
    np.testing.assert_array_equal(np.isnan(coarse["B02"])[:3, 0], [False, False, True])
    kept = ds["B02"].values.astype(float)
    assert float(coarse["B02"][0, 0]) == pytest.approx(np.mean([kept[0, 1], kept[1, 0], kept[1, 1]]), abs=0.01)
    assert nodata_of(coarse["B02"]) is None
    assert int(np.isnan(coarse["B02"]).sum()) == 1


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"operator": "gauss"}, xsen2.MethodError, "unknown operator 'gauss'"),
        ({"scale": 1}, xsen2.MethodError, "scale=1"),
        ({"scale": 2.5}, xsen2.MethodError, "scale=2.5"),
        ({"scale": 60}, xsen2.GridError, "larger area"),
    ],
)
def test_refusals(kwargs, error, words):
    with pytest.raises(error, match=words):
        make_cube().degrade(**kwargs)


def test_pair_refuses_scales_without_truth():
    with pytest.raises(xsen2.MethodError, match="scale 2"):
        make_cube(6, 6).degrade.pair(scale=3)
    with pytest.raises(xsen2.GridError, match="no 60 m bands"):
        make_cube(6, 6, grids=(10, 20)).degrade.pair(scale=6)
