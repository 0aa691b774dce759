"""Stores in GeoZarr's conventions with the groups of an EOPF product, as the EOPF Explorer has them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
import xarray as xr
import zarr
from cases import crossed
from click.testing import CliRunner
from cubes import no_compute
from pyproj import CRS

import xsen2
from xsen2.bands import BANDS
from xsen2.cli.main import main
from xsen2.cube import recognise
from xsen2.errors import CRSError, GridError, RadiometryError
from xsen2.sources.open import open_source

NAME = "S2A_MSIL2A_20250831T103701_N0511_R008_T31TFL_20250831T145420"
LEFT, TOP, EPSG = 600000, 5100000, 32631


def store(
    home: Path,
    dtype: str = "float32",
    cells: tuple[int, int] = (4, 6),
    coordinates: bool = True,
    crs: str = "group",
    **attrs: Any,
) -> tuple[Path, dict[str, np.ndarray]]:
    """A store whose bands hold random reflectance; the DN that it means, NaN where there is nothing."""
    made = scenes.random(0, cells, EPSG, LEFT, TOP).bands
    root = zarr.create_group(home, zarr_format=3)
    truth = {}
    for gsd in (10, 20, 60, 120):
        rows, columns = (n * 60 // gsd for n in cells)
        where = {"proj:code": f"EPSG:{EPSG}"} if crs == "group" else {}
        group = root.create_group(
            f"measurements/reflectance/r{gsd}m",
            attributes={
                **where,
                "spatial:transform": [gsd, 0, LEFT, 0, -gsd, TOP],
                "spatial:shape": [rows, columns],
                "spatial:dimensions": ["y", "x"],
                "spatial:registration": "pixel",
            },
        )
        if coordinates:
            for dim, size, first, sign in (("y", rows, TOP, -1), ("x", columns, LEFT, 1)):
                axis = group.create_array(dim, shape=(size,), chunks=(size,), dtype="float64", dimension_names=[dim])
                axis[...] = first + sign * gsd * (np.arange(size) + 0.5)
        if crs == "mapping":
            group.create_array("spatial_ref", shape=(), dtype="int64", attributes={"crs_wkt": CRS(EPSG).to_wkt()})
        for name, band in BANDS.items():
            if band.gsd != gsd and gsd != 120:
                continue
            raw = made[name][:rows, :columns] if gsd == 120 else made[name]
            whole = np.where(raw == 0, np.nan, raw)
            if dtype == "uint16":
                values, more = np.where(raw == 0, 0, raw.astype(int) + 1000), {"scale_factor": 1e-4, "add_offset": -0.1}
                more["_FillValue"] = 0
            else:
                values, more = whole / 10000, {}
            array = group.create_array(
                name.lower(),
                shape=(rows, columns),
                chunks=(rows, columns),
                dtype=dtype,
                fill_value=0 if dtype == "uint16" else math.nan,
                dimension_names=["y", "x"],
                attributes={**more, **attrs, "grid_mapping": "spatial_ref"},
            )
            array[...] = values
            if gsd == band.gsd:
                truth[name] = whole
    return home, truth


@pytest.mark.parametrize(
    ("dtype", "coordinates", "crs"),
    crossed(5, ["float32", "float64", "uint16"], [True, False], ["group", "mapping"]),
)
@pytest.mark.filterwarnings("ignore::xsen2.ReadWarning")  # it has no SCL
def test_the_pixels_arrive(dtype: str, coordinates: bool, crs: str, tmp_path: Path) -> None:
    home, truth = store(tmp_path / f"{NAME}.zarr", dtype, coordinates=coordinates, crs=crs)
    with no_compute():
        cube = xsen2.open_eopf(home)
    assert list(cube.data_vars) == list(BANDS)
    checked = recognise(cube)
    assert (checked.bounds, checked.crs.to_epsg()) == ((LEFT, TOP - 240, LEFT + 360, TOP), EPSG)
    for name, want in truth.items():
        np.testing.assert_allclose(cube[name][0], want, rtol=1e-6, err_msg=name)
    assert cube.time.values[0] == np.datetime64("2025-08-31T10:37:01", "ns")
    assert (cube.attrs["product"], cube.attrs["tile"], cube.attrs["level"]) == (NAME, "31TFL", "L2A")
    if coordinates and crs == "mapping":
        tree = xr.open_datatree(home, engine="zarr", consolidated=False)["measurements/reflectance"]
        tree = xr.DataTree.from_dict({f"r{gsd}m": tree[f"r{gsd}m"].to_dataset() for gsd in (10, 20, 60)})
        other = tree.dsen2.superresolve(["b11", "b01"], method="bicubic").compute()
        mine = cube.dsen2.superresolve(["B11", "B01"], method="bicubic").compute()
        for name in ("B11", "B01", "B02"):
            np.testing.assert_allclose(mine[name][0], other[name.lower()] * 10000, atol=2e-2)


@pytest.mark.filterwarnings("ignore::xsen2.ReadWarning")
def test_without_a_name_there_is_no_date(tmp_path: Path) -> None:
    home, truth = store(tmp_path / "geo.zarr")
    cube = xsen2.open_eopf(home)
    assert "time" not in cube.dims
    np.testing.assert_allclose(cube.B05, truth["B05"], rtol=1e-6)
    assert cube.dsen2.superresolve(["B05"], "bicubic").B05.dims == ("y", "x")
    out = tmp_path / "out.zarr"
    done = CliRunner().invoke(main, ["run", str(home), str(out), "--method=bicubic", "--bands=B05", "--quiet"])
    assert done.exit_code == 0, done.output
    assert xr.open_zarr(out).B05.dims == ("y", "x")
    assert "B05" in open_source(str(home))


def test_an_offset_can_be_given(tmp_path: Path) -> None:
    home, truth = store(tmp_path / "geo.zarr")
    cube = xsen2.open_eopf(home, ["B02"], offset=-1000)
    np.testing.assert_allclose(cube.B02, truth["B02"] - 1000, atol=1e-2)


def test_a_value_for_nodata_besides_nan(tmp_path: Path) -> None:
    home, truth = store(tmp_path / "geo.zarr", _FillValue=-9999.0)
    array = zarr.open_array(f"{home}/measurements/reflectance/r10m/b02", mode="r+")
    array[0, :5] = -9999
    want = truth["B02"].copy()
    want[0, :5] = np.nan
    np.testing.assert_allclose(xsen2.open_eopf(home, ["B02"]).B02, want, rtol=1e-6)


def test_contradictions_are_named(tmp_path: Path) -> None:
    home, _ = store(tmp_path / "a.zarr")
    group = zarr.open_group(home, mode="a")["measurements/reflectance/r10m"]
    group.attrs["spatial:transform"] = [10, 0, LEFT + 5, 0, -10, TOP]
    with pytest.raises(GridError, match=r"spatial:transform is .* but by the coordinates of its grid"):
        xsen2.open_eopf(home, ["B02"])
    home, _ = store(tmp_path / "b.zarr", coordinates=False)
    group = zarr.open_group(home, mode="a")["measurements/reflectance/r10m"]
    for wrong in ([20, 0, LEFT, 0, -20, TOP], [10, 1, LEFT, 0, -10, TOP], [10, 0, LEFT + 0.5, 0, -10, TOP]):
        group.attrs["spatial:transform"] = wrong
        with pytest.raises(GridError, match="none of an upright grid of pixels of 10 m"):
            xsen2.open_eopf(home, ["B02"])
    home, _ = store(tmp_path / "c.zarr", crs="none")
    with pytest.raises(CRSError, match="has no CRS"):
        xsen2.open_eopf(home, ["B02"])
    home, _ = store(tmp_path / "d.zarr", scale_factor=0)
    with pytest.raises(RadiometryError, match="scale_factor is 0, not a number"):
        xsen2.open_eopf(home, ["B02"])
    home, _ = store(tmp_path / f"{NAME.replace('N0511', 'N0301')}.zarr", "uint16")
    with pytest.raises(RadiometryError, match=r"03\.01 \(the store's name\) means no offset"):
        xsen2.open_eopf(home, ["B02"])
