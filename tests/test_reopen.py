"""What every sink wrote is where it was, for rasterio (GDAL), rioxarray and xarray alike: CRS, transform, nodata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from cubes import DIMS, make_cube
from rasterio.crs import CRS
from rasterio.transform import from_origin

from xsen2.bands import BANDS as ALL

BANDS = {name: ALL[name] for name in ("B02", "B03", "B05", "B11", "B01")}
EPSG, WEST, NORTH = 32722, 600000, 8255860  # south of the equator, northings are 40 modulo 60
NODATA = {"int16": -32768.0, "uint16": 0.0, "float32": np.nan}


def cube() -> xr.Dataset:
    """Two dates; no side is a multiple of a block or a chunk; nodata in a corner of 120 m."""
    ds = make_cube(11, 8, dates=2, epsg=EPSG, chunks=48)[list(BANDS)]
    ds = ds.assign_coords({y: ds[y] + NORTH - 5000080 for y, _ in DIMS.values()})
    for band in ds.data_vars:
        y, x = ds[band].dims[-2:]
        ds[band] = ds[band].where((ds[x] > WEST + 120) | (ds[y] < NORTH - 120))
    return ds


@pytest.fixture(scope="module")
def forms() -> dict[str, xr.Dataset]:
    return {"native": cube().compute(), "10 m": cube().dsen2.superresolve(method="bicubic").compute()}


def assert_there(crs: Any, transform: Any, shape: tuple[int, ...], size: float) -> None:
    """To a millimetre at both ends of the diagonal."""
    assert CRS.from_user_input(crs) == CRS.from_epsg(EPSG)
    want = from_origin(WEST, NORTH, size, size)
    assert shape == (660 // size, 480 // size)
    for corner in ((0, 0), shape[::-1]):
        np.testing.assert_allclose(transform @ corner, want @ corner, rtol=0, atol=1e-3)


def assert_values(got: np.ndarray, want: xr.DataArray, dtype: str) -> None:
    pixels = want.values if dtype == "float32" else np.rint(want.values)
    np.testing.assert_array_equal(got, pixels)
    assert np.isnan(got).any()


@pytest.mark.parametrize("dtype", NODATA)
@pytest.mark.parametrize("form", ["10 m", "native"])
@pytest.mark.parametrize(
    "sink", ["zarr", "cog", "cog per band", pytest.param("cog per date and band", marks=pytest.mark.slow)]
)
def test_every_output_is_where_it_was(
    sink: str, form: str, dtype: str, forms: dict[str, xr.Dataset], tmp_path: Path
) -> None:
    ds = forms[form].copy()
    if sink == "zarr":
        ds.chunk(y=48, x=48).dsen2.to_zarr(tmp_path / "out.zarr", dtype=dtype, progress=False)
        for kwargs in ({"decode_coords": "all"}, {"decode_coords": "all", "mask_and_scale": False}):
            back = xr.open_dataset(tmp_path / "out.zarr", engine="zarr", **kwargs)
            for band in BANDS:
                one = back[band].rio.set_spatial_dims(*ds[band].dims[:-3:-1])
                size = BANDS[band].gsd if form == "native" else 10
                assert_there(one.rio.crs, one.rio.transform(), one.shape[1:], size)
                raw = "mask_and_scale" in kwargs
                np.testing.assert_equal(float(one.rio.nodata if raw else one.rio.encoded_nodata), NODATA[dtype])
                if not raw:
                    assert_values(one.values, ds[band], dtype)
        return
    bands = list(ds.data_vars) if form == "10 m" or sink != "cog" else ["B05", "B11"]  # a file has one grid
    where, per_band = {
        "cog": (tmp_path / "{date}.tif", False),
        "cog per band": (tmp_path, True),
        "cog per date and band": (tmp_path / "{date}_{band}.tif", False),
    }[sink]
    files = ds.dsen2.to_cog(where, bands=bands, per_band=per_band, dtype=dtype, progress=False)
    held = [(date, inside) for date in (0, 1) for inside in ([bands] if sink == "cog" else [[b] for b in bands])]
    for path, (date, inside) in zip(files, held, strict=True):
        size = BANDS[inside[0]].gsd if form == "native" else 10
        with rasterio.open(path) as file:
            assert_there(file.crs, file.transform, file.shape, size)
            assert set(file.dtypes) == {dtype}
            assert file.descriptions == tuple(inside)
            np.testing.assert_equal(file.nodatavals, (NODATA[dtype],) * len(inside))
            assert not file.read_masks(1)[: 120 // size, : 120 // size].any()
        back = rioxarray.open_rasterio(path, masked=True)
        assert_there(back.rio.crs, back.rio.transform(), back.shape[1:], size)
        assert_there(back.rio.crs, back.rio.transform(recalc=True), back.shape[1:], size)
        np.testing.assert_equal(float(back.rio.encoded_nodata), NODATA[dtype])
        for number, band in enumerate(inside):
            assert_values(back[number].values, ds[band][date], dtype)
