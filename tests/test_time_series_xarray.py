"""A year of dates in xarray's own words, on what superresolve gives: monthly medians, a trend, a season.

All of it stays lazy until it is computed, and what comes out still knows where it is.
"""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube, no_compute
from odc.geo.xr import xr_coords  # noqa: F401  registers .odc

from xsen2.sinks.zarr import to_zarr

ROWS, COLUMNS = 4, 5
PEAK = 196
"""Day of the year on which the made-up field is greenest; it greens up 50 days before."""


@pytest.fixture(scope="module")
def year() -> xr.Dataset:
    """Every tenth day of 2023: B08 goes through a season, B11 gains 2 DN a day, every fifth date is cloudy."""
    days = np.arange(4, 365, 10)
    ds = make_cube(ROWS, COLUMNS, dates=len(days), chunks=24, grids=(10, 20))
    time = np.datetime64("2023-01-01", "ns") + days * np.timedelta64(1, "D")
    ds = ds.assign_coords(time=time)
    day = xr.DataArray(days.astype("f4"), {"time": ds.time}, "time")
    green = np.exp(-(((day - PEAK) / 60) ** 2))
    ds["B04"] = (ds["B04"] * 0 + 900 - 500 * green).astype("f4")
    ds["B08"] = (ds["B08"] * 0 + 1000 + 3000 * green).astype("f4")
    ds["B11"] = (ds["B11"][0] + 2 * day).transpose("time", ...).astype("f4").chunk(time=1)
    cloudy = xr.DataArray(np.arange(len(days)) % 5 == 0, {"time": ds.time}, "time")
    ds = ds[["B02", "B03", "B04", "B08", "B11"]].where(~cloudy)
    for band in ds.data_vars.values():
        band.attrs["units"] = "1e-4"
    return ds


@pytest.fixture(scope="module")
def sr(year: xr.Dataset) -> xr.Dataset:
    with no_compute():
        return year.dsen2.superresolve(["B04", "B08", "B11"], method="bicubic")


def assert_placed(out: xr.Dataset | xr.DataArray, sr: xr.Dataset) -> None:
    """By rioxarray and by odc-geo it lies where the bands do."""
    assert out.rio.crs == sr.rio.crs
    assert out.rio.transform().almost_equals(sr["B11"].rio.transform(), 1e-9)
    assert out.odc.geobox == sr.odc.geobox
    assert out.odc.geobox.crs.epsg == 32631


def test_monthly_medians(sr: xr.Dataset, tmp_path) -> None:
    with no_compute():
        monthly = sr.resample(time="1MS").median()
        seasons = sr.groupby("time.season").mean()
        assert all(v.chunks is not None for v in monthly.data_vars.values())
    assert monthly.sizes["time"] == 12
    assert_placed(monthly, sr)
    assert_placed(seasons, sr)
    pixel = {"y": 7, "x": 9}
    found, each = monthly["B11"].isel(pixel).values, sr["B11"].isel(pixel).compute()
    for month in range(12):
        want = np.nanmedian(each[each.time.dt.month == month + 1])
        assert found[month] == pytest.approx(want)
    back = to_zarr(monthly, tmp_path / "monthly.zarr", progress=False)  # and it is something that can be written
    assert_placed(back, sr)
    np.testing.assert_allclose(back["B11"], monthly["B11"], atol=0.51)


def test_a_trend(sr: xr.Dataset) -> None:
    with no_compute():
        fit = sr[["B11"]].chunk(time=-1).polyfit("time", 1)
        slope = fit["B11_polyfit_coefficients"].sel(degree=1) * 86400e9  # of nanoseconds; DN a day
        slope = slope.rio.write_crs(sr.rio.crs)  # polyfit keeps the coordinates of pixels alone
        assert slope.chunks is not None
    np.testing.assert_allclose(slope, 2, atol=1e-3)
    assert_placed(slope, sr)


def test_a_season(sr: xr.Dataset) -> None:
    with no_compute():
        ndvi = sr.dsen2.index("NDVI")
        daily = ndvi.chunk(time=-1).interpolate_na("time").interp(time=_days(sr))
        greenest = daily.idxmax("time").dt.dayofyear
        half = (daily.max("time") + daily.min("time")) / 2
        begins = (daily > half).idxmax("time").dt.dayofyear  # the first day over half of the way
        assert greenest.chunks is not None
    assert_placed(greenest, sr)
    assert_placed(begins, sr)
    assert float(abs(greenest - PEAK).max()) <= 10  # dates are ten days apart
    assert 30 < float((greenest - begins).mean()) < 90
    assert greenest.notnull().all()


def _days(sr: xr.Dataset) -> np.ndarray:
    first, last = sr.time.values[1], sr.time.values[-1]  # the first date is cloudy
    return np.arange(first, last, np.timedelta64(1, "D"))


def test_map_and_arithmetic(sr: xr.Dataset) -> None:
    with no_compute():
        reflectance = sr.map(lambda band: band.clip(0, 10000) / 10000)
        anomaly = sr.groupby("time.month") - sr.groupby("time.month").mean()
        assert anomaly["spatial_ref"].dims == ("time",)  # so it does with every coordinate that has no dims
        anomaly = anomaly.rio.write_crs(sr.rio.crs)
        brightest = sr.max("time")
    for out in (reflectance, anomaly, brightest):
        assert_placed(out, sr)
    found = anomaly["B11"].compute()
    assert abs(float(found.mean())) < 1e-2
    assert found.dims == ("time", "y", "x")
    np.testing.assert_allclose(reflectance["B08"][1], sr["B08"][1] / 10000, rtol=1e-6)
