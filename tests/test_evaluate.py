"""Evaluation at the coarser scale: against plain arrays, lazily, each input read once."""

from __future__ import annotations

from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from cubes import change, make_cube, no_compute

from xsen2.bands import BANDS, B, C
from xsen2.degrade import pair
from xsen2.errors import BandError, GridError, MethodError, Xsen2Error
from xsen2.evaluation import noreference
from xsen2.evaluation.evaluate import evaluate
from xsen2.evaluation.metrics import PER_BAND, SPECTRAL, State
from xsen2.evaluation.noreference import assess
from xsen2.methods.bicubic import Bicubic
from xsen2.sources.sample import sample
from xsen2.superresolve import superresolve


@pytest.mark.parametrize(("scale", "bands", "border"), [(2, B, 3), (6, C, 0)])
def test_is_what_its_parts_give(scale, bands, border):
    cube = make_cube(12, 18, dates=2, chunks=60)
    got = evaluate(cube, ["bicubic"], scale, "dsen2", border=border)
    coarse, truth = (ds.compute() for ds in pair(cube, scale, "dsen2"))
    sr = superresolve(coarse, list(bands), "bicubic", native=False).compute()
    height, width = truth.sizes["y"], truth.sizes["x"]
    inner = np.s_[:, border : height - border, border : width - border]
    x, y = (np.stack([ds[b].values for b in bands]) for ds in (truth, sr))
    states = [State.of(y[:, t][inner], x[:, t][inner]) for t in range(2)]
    expected = State.merge(states).finish(scale)
    assert list(got["band"].values) == list(bands)
    for name in (*PER_BAND, *SPECTRAL):
        np.testing.assert_allclose(got[name].values[0], expected[name], rtol=1e-9, err_msg=name)
    assert got.attrs == {"scale": scale, "operator": "dsen2", "border": border}


def test_gives_a_table():
    table = evaluate(sample(), ["bicubic"]).to_dataframe()
    assert table.index.names == ["method", "band"]
    assert list(table.columns) == [*PER_BAND, *SPECTRAL]
    assert (table["rmse"] > 0).all()


@pytest.mark.parametrize("scale", [2, 6])
def test_the_default_beats_bicubic_on_the_sample(scale):
    scores = evaluate(sample(), scale=scale, device="cpu")
    bicubic, default = (scores.sel({"method": name}) for name in ("bicubic", "default"))
    assert (default["rmse"] < bicubic["rmse"]).all()
    assert default["sam"] < bicubic["sam"]
    assert (default["pixels"] == bicubic["pixels"]).all()


def test_lazy_until_the_end():
    with no_compute():
        out = evaluate(sample(), scale=6, compute=False)
    assert all(dask.is_dask_collection(out[name]) for name in out)
    assert not dask.is_dask_collection(evaluate(sample(), ["bicubic"], border=100)["rmse"])


class Counted:
    """Pixels that count how often each block is read."""

    def __init__(self, values, reads, name):
        self.values, self.reads, self.name = values, reads, name
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, key):
        self.reads[self.name, str(key)] += 1
        return self.values[key]


def test_all_methods_read_each_input_once():
    reads: Counter = Counter()
    cube = make_cube(12, 12, dates=2)
    for name in list(cube.data_vars):
        side = cube[name].shape[-1] // 2
        pixels = Counted(cube[name].values, reads, name)
        lazy = da.from_array(pixels, chunks=(1, side, side), meta=np.empty((0,) * 3, np.float32))
        cube[name] = cube[name].copy(data=lazy)
    assert not reads
    evaluate(cube, ["bicubic", "default"], device="cpu")
    assert {name for name, _ in reads} == {"B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"}
    assert set(reads.values()) == {1}


def test_chunks_change_nothing():
    cube = make_cube(24, 24, dates=2)
    one = evaluate(cube, ["bicubic"])
    for chunks in (36, 100):
        many = evaluate(cube.chunk(dict.fromkeys(("y", "x"), chunks)), ["bicubic"])
        xr.testing.assert_allclose(many, one, rtol=1e-6)


def test_nodata_is_left_out():
    cube = make_cube(18, 18)

    def hide(values):
        values[40:, 20:30] = np.nan

    got = evaluate(change(cube, "B05", hide), ["bicubic"], border=0)
    full = evaluate(cube, ["bicubic"], border=0)
    assert got["pixels"].sel(band="B05").item() < full["pixels"].sel(band="B05").item()
    assert got["pixels"].sel(band="B06").item() == full["pixels"].sel(band="B06").item()
    assert np.isfinite(got["rmse"]).all()
    assert got["rmse"].sel(band="B05").item() == pytest.approx(full["rmse"].sel(band="B05").item(), rel=0.2)
    xr.testing.assert_allclose(got["rmse"].sel(band="B11"), full["rmse"].sel(band="B11"))


def test_reflectance_is_judged_in_dn():
    dn = evaluate(make_cube(12, 12), ["bicubic"])
    got = evaluate(make_cube(12, 12) / 10000, ["bicubic"], quantification=1)
    xr.testing.assert_allclose(got, dn, rtol=1e-3)


def test_without_a_truth_the_scores_are_those_of_assess():
    cube = make_cube(8, 6, dates=2, chunks=24)
    got = evaluate(cube, ["bicubic", "regression"], 1, "dsen2")
    assert got["consistency"].dims == ("method", "band")
    assert list(got["band"].values) == [b for b in BANDS if b in (*B, *C)]
    assert got.attrs == {"scale": 1, "operator": "dsen2", "border": 0}
    want = assess(superresolve(cube, method="regression", operator="dsen2"), cube, operator="dsen2").compute()
    row = got.sel({"method": "regression"})
    for name in noreference.PER_BAND:
        xr.testing.assert_allclose(row[name].drop_vars("method"), want[name].sel(band=got["band"]))
    for name in noreference.PER_GRID:
        for gsd, bands in ((20, B), (60, C)):
            np.testing.assert_allclose(row[name].sel(band=list(bands)), want[name].sel(grid=gsd), err_msg=name)
    assert got.to_dataframe().index.names == ["method", "band"]
    with no_compute():
        evaluate(cube, ["bicubic"], 1, compute=False)


def test_without_a_truth_a_method_is_judged_by_the_bands_it_makes():
    cube = make_cube(6, 6)
    got = evaluate(cube, ["bicubic", Bicubic("B11")], 1)
    one = got["consistency"].isel(method=1)
    assert list(got["band"].values[np.isfinite(one)]) == ["B11"]
    np.testing.assert_allclose(one.sel(band="B11"), got["consistency"].isel(method=0).sel(band="B11"))
    renamed = evaluate(cube.rename({"B05": "rededge1", "B01": "coastal"}), ["bicubic"], 1)
    xr.testing.assert_allclose(renamed, got.isel(method=[0]))
    reflectance = evaluate(cube / 10000, ["bicubic"], 1, quantification=1)
    xr.testing.assert_allclose(reflectance, got.isel(method=[0]), rtol=1e-3)


def test_the_border_is_the_largest_halo_but_leaves_half_of_each_side():
    cube = sample()
    assert evaluate(cube, ["bicubic"], compute=False).attrs["border"] < 10
    wide = evaluate(cube, ["bicubic", "default"], compute=False)
    assert wide.attrs["border"] > 10
    small = evaluate(make_cube(4, 4), ["default"], border=None, compute=False)
    assert small.attrs["border"] == 3


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"methods": "bicubic"}, MethodError, "give a list"),
        ({"methods": []}, MethodError, "give a list"),
        ({"methods": ["bicubik"]}, MethodError, "bicubic"),
        ({"scale": 3}, MethodError, "scale=3"),
        ({"operator": "nearest"}, MethodError, "unknown operator"),
        ({"border": 60}, GridError, "border=60 leaves nothing of 120 pixels"),
        ({"border": -1}, GridError, "border=-1"),
        ({"scale": 1, "border": 3}, GridError, "leave it out"),
        ({"scale": 1, "methods": ["bicubik"]}, MethodError, "bicubic"),
        ({"scale": 1, "operator": "nearest"}, MethodError, "unknown operator"),
        ({"scale": 1, "methods": [Bicubic("B02")]}, BandError, "a band of 20 or 60 m"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_computed(arguments, error, words):
    with no_compute(), pytest.raises(error, match=words):
        evaluate(make_cube(40, 40, chunks=120), **arguments)
    assert issubclass(error, Xsen2Error)
