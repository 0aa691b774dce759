"""What a written store says of its place in the Zarr conventions that readers of maps share."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube

from xsen2.sinks.geozarr import PROJ, SPATIAL


def attributes(store, *names):
    return json.loads((store.joinpath(*names) / "zarr.json").read_text())["attributes"]


def centre(said):
    """Of the first pixel."""
    a, _, c, _, e, f = said["spatial:transform"]
    return c + a / 2, f + e / 2


@pytest.mark.parametrize("epsg", [32631, 32733])
def test_every_array_says_where_it_lies(tmp_path, epsg):
    ds = make_cube(3, 4, dates=2, epsg=epsg)
    ds.attrs["zarr_conventions"] = [{"uuid": "someone-elses", "name": "theirs"}]
    ds.dsen2.to_zarr(tmp_path / "cube.zarr", progress=False)
    group = attributes(tmp_path / "cube.zarr")
    assert group["proj:code"] == f"EPSG:{epsg}"
    assert "spatial:transform" not in group, "the arrays of the group lie on three grids"
    assert group["zarr_conventions"] == [{"uuid": "someone-elses", "name": "theirs"}, PROJ]
    for band, (y, x), size in (
        ("B02", ("y", "x"), 10),
        ("B11", ("y_20m", "x_20m"), 20),
        ("B09", ("y_60m", "x_60m"), 60),
    ):
        said = attributes(tmp_path / "cube.zarr", band)
        assert said["zarr_conventions"] == [PROJ, SPATIAL]
        assert said["spatial:dimensions"] == [y, x]
        assert said["spatial:shape"] == [180 // size, 240 // size]
        # Of corners of pixels, in the order of rasterio, as the convention has it.
        assert centre(said) == (ds[x].values[0], ds[y].values[0])
        assert said["spatial:bbox"][3] == ds["y"].values[0] + 5


def test_one_grid_is_said_of_the_group_too_and_never_of_other_pixels(tmp_path):
    ds = make_cube(3, 4, dates=1)
    ds.dsen2.to_zarr(tmp_path / "cube.zarr", progress=False)
    sr = ds.dsen2.superresolve(["B11"], method="bicubic")
    sr.dsen2.to_zarr(tmp_path / "sr.zarr", progress=False)
    group = attributes(tmp_path / "sr.zarr")
    assert group["spatial:shape"] == [18, 24]
    assert {k: v for k, v in group.items() if k.startswith("spatial:")}.items() <= attributes(
        tmp_path / "sr.zarr", "B11"
    ).items()
    # Cut and written again: attributes of the whole came along, and would be wrong.
    part = xr.open_zarr(tmp_path / "sr.zarr", decode_coords="all").isel(x=slice(6, 24), y=slice(0, 12))
    part.dsen2.to_zarr(tmp_path / "part.zarr", progress=False)
    said = attributes(tmp_path / "part.zarr")
    assert said["spatial:shape"] == [12, 18]
    assert centre(said) == (part.x.values[0], part.y.values[0])
    assert len(said["zarr_conventions"]) == 2
    # And nothing of it is left on what is computed on another grid.
    native = xr.open_zarr(tmp_path / "cube.zarr", decode_coords="all")
    made = native.dsen2.superresolve(method="bicubic")
    for attrs in (made.attrs, *(made[b].attrs for b in ("B02", "B11"))):
        assert not [k for k in attrs if str(k).startswith(("spatial:", "zarr_"))]


def test_appended_dates_leave_the_place_as_it_is(tmp_path):
    ds = make_cube(3, 3, dates=2)
    for date in range(2):
        ds.isel(time=[date]).dsen2.to_zarr(tmp_path / "series.zarr", append_dim="time", progress=False)
    ds.dsen2.to_zarr(tmp_path / "once.zarr", progress=False)
    for name in ((), ("B02",), ("B11",)):
        one, other = (attributes(tmp_path / s, *name) for s in ("series.zarr", "once.zarr"))
        assert {k: v for k, v in one.items() if k != "xsen2_run"} == {
            k: v for k, v in other.items() if k != "xsen2_run"
        }
    np.testing.assert_allclose(xr.open_zarr(tmp_path / "series.zarr")["B02"], ds["B02"], atol=0.5)
