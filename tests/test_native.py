"""Native pixels out of a single-grid dataset."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube, no_compute

import xsen2
from xsen2.bands import BANDS


def flatten(cube: xr.Dataset) -> xr.Dataset:
    """What one nearest-neighbour load at 10 m gives."""
    out = {}
    for band in BANDS:
        ratio = BANDS[band].gsd // 10
        data = np.asarray(cube[band]).repeat(ratio, -2).repeat(ratio, -1)
        dims = (*cube[band].dims[:-2], "y", "x")
        out[band] = (dims, data)
    return xr.Dataset(out, {k: cube[k] for k in ("y", "x", "time", "spatial_ref") if k in cube.coords})


@pytest.mark.parametrize("chunk", [None, 7, 24])
@pytest.mark.parametrize("dates", [None, 2])
def test_round_trip(chunk, dates):
    cube = make_cube(dates=dates, dtype=np.uint16)
    flat = flatten(cube)
    if chunk:
        flat = flat.chunk(y=chunk, x=chunk)
    with no_compute():
        back = xsen2.native(flat)
    for band in BANDS:
        np.testing.assert_array_equal(back[band], cube[band])
        assert back[band].dtype == np.uint16
    np.testing.assert_array_equal(back["x_60m"], cube["x_60m"])
    np.testing.assert_array_equal(back["y_20m"], cube["y_20m"])
    assert back.rio.crs.to_epsg() == 32631
    back.dsen2.superresolve()


def test_dataarray_with_bands_as_stackstac_gives():
    cube = make_cube(dates=1)
    array = flatten(cube).to_dataarray("band")
    array = array.assign_coords(title=("band", [f"Band {b}" for b in BANDS]), id=("time", np.array(["x"], object)))
    back = xsen2.native(array.transpose("time", "band", "y", "x"))
    np.testing.assert_array_equal(back["B09"], cube["B09"])
    assert all(c.dtype != object for c in back.coords.values())


def test_refuses_cells_that_are_not_constant():
    flat = flatten(make_cube())
    flat["B05"][3, 4] += 1
    with pytest.raises(xsen2.GridError, match=r"B05: 0\.1% of the pixels differ"):
        xsen2.native(flat)
    lazy = xsen2.native(flat.chunk(x=12, y=12))  # pixels are read later, and refused then
    with pytest.raises(xsen2.GridError, match="nearest"):
        lazy.compute()


def test_refuses_an_unaligned_grid():
    flat = flatten(make_cube())
    with pytest.raises(xsen2.GridError, match="multiples of 60 m"):
        xsen2.native(flat[["B02", "B01"]].isel(x=slice(1, 25)))
    with pytest.raises(xsen2.GridError, match="xy_coords='center'"):
        xsen2.native(flat.assign_coords(x=flat.x - 5, y=flat.y + 5))


def test_refuses_other_spacing_and_no_bands():
    flat = flatten(make_cube())
    with pytest.raises(xsen2.GridError, match="loaded at 10 m"):
        xsen2.native(flat.isel(x=slice(None, None, 2), y=slice(None, None, 2)))
    with pytest.raises(xsen2.BandError, match="'band' dim"):
        xsen2.native(flat["B02"])
    with pytest.raises(xsen2.BandError, match="no Sentinel-2 bands"):
        xsen2.native(flat[["B02"]].rename(B02="dem"))


def test_refuses_a_band_twice():
    flat = flatten(make_cube())
    with pytest.raises(xsen2.BandError, match="more than once"):
        xsen2.native(flat.assign(red=flat["B04"]))


def test_other_dims_and_a_mask():
    flat = flatten(make_cube(dates=2)).rename(time="t", y="n", x="e")
    flat = flat.assign(SCL=(flat["B05"] % 12).astype("uint8"))
    cube = xsen2.native(flat)
    sr = cube.dsen2.superresolve(method="bicubic")
    np.testing.assert_array_equal(sr["SCL"], flat["SCL"])


@pytest.mark.parametrize("given", [5, None, "cube.zarr", np.zeros((6, 6))])
def test_what_is_no_dataset_is_refused_by_name(given):
    with pytest.raises(xsen2.BandError, match="takes a Dataset"):
        xsen2.native(given)
