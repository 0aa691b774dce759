"""The estimate of how bands came about: known blurs and shifts are found, of degraded cubes those of the operator."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube, no_compute
from scipy.ndimage import gaussian_filter

import xsen2
from xsen2.bands import BANDS, A, B, C, grid_of
from xsen2.engine.operators import PRODUCT, correlate
from xsen2.evaluation.sensor import _gaussian


def textured(seed, size=480):
    """Four images of detail of all sizes that have little to do with each other."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(4):
        t = sum(gaussian_filter(rng.standard_normal((size, size)), s, mode="wrap") * s for s in (0.8, 1.6, 3.2, 6.4))
        out.append(1500 + 300 * t / t.std())
    return np.stack(out).astype(np.float32)


def scene(blurs, shifts=(0.0, 0.0), noise=0.0, size=480, seed=0):
    """A cube whose coarse bands are blurred mixtures of its 10 m bands."""
    rng = np.random.default_rng(seed + 1)
    rows = size // 6
    ds = make_cube(rows, rows)
    a = textured(seed, size)
    data = dict(zip(A, a, strict=True))
    for band in (*B, *C):
        ratio = grid_of(band) // 10
        mix = np.tensordot(rng.uniform(0.1, 0.5, 4), a, 1).astype(np.float32) + 200
        kernels = [_gaussian(s, d, ratio) for s, d in zip(blurs(band), shifts, strict=True)]
        data[band] = correlate(mix, *kernels[0], ratio, kernels[1])
        data[band] = data[band] + noise * rng.standard_normal(data[band].shape).astype(np.float32)
    return ds.assign({b: ds[b].copy(data=x) for b, x in data.items()})


def sigma(band):
    return (1.0, 0.8) if grid_of(band) == 20 else (2.6, 3.2)


@pytest.mark.parametrize("noise", [pytest.param(0.0, marks=pytest.mark.slow), 20.0])
@pytest.mark.parametrize("shifts", [pytest.param((0.0, 0.0), marks=pytest.mark.slow), (0.15, -0.1)])
def test_known_blur_and_shift_are_found(shifts, noise):
    ds = scene(sigma, shifts, noise)
    with no_compute():
        lazy = ds.chunk(y=120, x=240, y_20m=60, x_20m=120, y_60m=20, x_60m=40).dsen2.sensor()
    found = lazy.compute()
    assert found["blur"].dims == ("band", "axis")
    for band in (*B, *C):
        one = found.sel(band=band)
        scale = 0.03 if noise == 0 else 0.06
        np.testing.assert_allclose(one["blur"], sigma(band), rtol=scale, err_msg=band)
        np.testing.assert_allclose(one["shift"], shifts, atol=scale * grid_of(band) / 10, err_msg=band)
        assert one["residual"] < (0.002 if noise == 0 else 0.05)
    whole = ds.dsen2.sensor().compute()
    xr.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-4)


def test_a_degraded_cube_shows_the_operator():
    """The variances that the operator adds to the 20 m bands, less those it adds to the 10 m ones."""
    ds = scene(sigma, size=720).drop_vars(list(C))
    got = {op: ds.degrade(2, op).dsen2.sensor().compute() for op in ("mtf", "product")}
    for band in B:
        own = np.array(sigma(band)) / 2  # in pixels that are twice as large
        added = BANDS[band].psf_sigma * np.sqrt(3)
        taken = BANDS["B04"].psf_sigma * np.sqrt(3) / 2
        for op, widths in (("mtf", (1, 1)), ("product", PRODUCT[band])):
            want = np.sqrt(own**2 + (added * np.array(widths)) ** 2 - taken**2)
            np.testing.assert_allclose(got[op]["blur"].sel(band=band), want, rtol=0.06, err_msg=f"{band} {op}")
        assert (got["product"]["blur"].sel(band=band) >= got["mtf"]["blur"].sel(band=band) - 1e-3).all()


def test_dates_names_and_units_stay():
    ds = scene(sigma).expand_dims(time=np.array(["2024-01-01", "2024-02-01"], "datetime64[ns]"))
    ds = ds.rename({"B8A": "nir08"})
    found = (ds / 10000).dsen2.sensor(["nir08", "B01"], quantification=1).compute()
    assert found["blur"].dims == ("time", "band", "axis")
    assert list(found["band"].values) == ["nir08", "B01"]
    np.testing.assert_allclose(found["blur"].sel(band="nir08"), [[1.0, 0.8]] * 2, rtol=0.03)
    holes = ds["B02"].copy(deep=True)
    holes[1] = np.nan
    found = ds.assign(B02=holes).dsen2.sensor(["nir08"]).compute()
    assert np.isfinite(found["blur"].values[0]).all()
    assert np.isnan(found["blur"].values[1]).all()


def test_what_cannot_be_estimated_is_said():
    ds = make_cube(8, 8)
    with pytest.raises(xsen2.BandError, match="the cube has no B03: all four 10 m bands"):
        ds.drop_vars("B03").dsen2.sensor()
    with pytest.raises(xsen2.BandError, match="B02: not among the cube's 20 m and 60 m bands"):
        ds.dsen2.sensor(["B02"])
    with pytest.raises(xsen2.BandError, match="no 20 m or 60 m bands"):
        make_cube(8, 8, grids=(10,)).dsen2.sensor()
    flat = ds.map(lambda x: x * 0 + 1000, keep_attrs=True)
    assert np.isnan(flat.dsen2.sensor(["B05"]).compute()["residual"]).all()
