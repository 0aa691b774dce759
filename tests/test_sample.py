"""The embedded scene: a cube by the contract, with a truth that the kernels connect to it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from cubes import no_compute

from xsen2.bands import BANDS, GRIDS
from xsen2.cube import DIMS, recognise
from xsen2.engine.operators import degrade_array, taps
from xsen2.sources import sample as module
from xsen2.sources import sample as sample_module
from xsen2.sources.sample import sample


@pytest.fixture(scope="module")
def cube():
    return sample().load()


@pytest.fixture(scope="module")
def truth():
    return sample(truth=True).load()


def test_is_a_lazy_cube():
    with no_compute():
        ds = sample()
        cube = recognise(ds)
    assert list(ds.data_vars) == list(BANDS)
    assert cube.resolution == 10
    assert cube.crs.to_epsg() == 32631
    assert all(edge % 60 == 0 for edge in cube.bounds)
    assert cube.bounds[3] == ds["y"].values[0] + 5
    for gsd, names in GRIDS.items():
        for name in names:
            band = ds[name]
            assert band.dims == ("time", *DIMS[gsd])
            assert band.shape == (2, 4320 // gsd, 4320 // gsd)
            assert band.dtype == np.float32
            assert band.data.npartitions > 2
            assert band.attrs["gsd"] == gsd
            assert band.encoding["grid_mapping"] == "spatial_ref"
            assert np.diff(band[DIMS[gsd][0]]).max() == -gsd
    assert ds["spatial_ref"].ndim == 0
    assert "synthetic" in ds.attrs["comment"]


def test_is_complete_and_plausible(cube):
    for name, band in cube.items():
        assert np.isfinite(band.values).all(), name
        assert 0 < band.min() < 200, name  # clear water, shade
        assert 2000 < band.max() < 7000, name  # roofs, foam, sand
    # Pinned: a change of the scene changes every number in docs and tests that rests on it.
    for name, mean in {"B01": 473, "B02": 577, "B05": 1216, "B08": 2622, "B11": 2090}.items():
        assert float(cube[name].mean()) == pytest.approx(mean, abs=2), name


def test_is_the_same_every_time(cube):
    module._render.cache_clear()
    sample_module.codes.cache_clear()
    again = sample()[["B02", "B05"]].load()
    for name in again:
        np.testing.assert_array_equal(again[name], cube[name])


def test_graph_travels_to_another_process(cube):
    block = pickle.loads(pickle.dumps(module._Pixels("B05", 20, noisy=True)))
    np.testing.assert_array_equal(block[1, 3:9, 2:4], cube["B05"].values[1, 3:9, 2:4])


@pytest.mark.parametrize("name", ["B05", "B11", "B01"])
def test_degraded_truth_is_the_cube_without_noise(truth, cube, name):
    gsd = BANDS[name].gsd
    seen = degrade_array(truth[name].values, *taps(name, gsd // 10, "mtf"), gsd // 10)
    quiet = module._render(name, gsd, False)
    inner = np.s_[:, 3:-3, 3:-3]  # the truth ends at the frame, the ground does not
    error = np.sqrt(np.mean((seen - quiet)[inner] ** 2))
    assert error < 0.01 * quiet.std()
    noise = np.sqrt(np.mean((cube[name].values - quiet) ** 2))
    level, snr = module._SNR[name]
    assert 0.3 * level / snr < noise < 3 * level / snr


def test_10m_bands_of_the_truth_are_the_cube_without_noise(truth, cube):
    for name in GRIDS[10]:
        noise = cube[name].values - truth[name].values
        assert abs(noise.mean()) < 0.1
        assert 2 < noise.std() < 25
        # Noise of a pixel says nothing about its neighbour's.
        assert abs(np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]) < 0.01


def test_truth_has_detail_that_the_cube_lacks(truth, cube):
    for name in ("B05", "B12"):
        repeated = cube[name].values.repeat(2, axis=1).repeat(2, axis=2)
        assert np.sqrt(np.mean((truth[name].values - repeated) ** 2)) > 100


def test_two_dates_differ_in_plants_and_water(truth):
    ndwi = (truth["B03"] - truth["B08"]) / (truth["B03"] + truth["B08"])
    low, high = (ndwi > 0).mean(("y", "x")).values
    assert 0.1 < low < high < 0.25
    assert high - low > 0.005
    ndvi = (truth["B08"] - truth["B04"]) / (truth["B08"] + truth["B04"])
    change = (ndvi.isel(time=1) - ndvi.isel(time=0)).values
    assert (change < -0.3).mean() > 0.1  # harvested
    assert (change > 0.3).mean() > 0.05  # grown
