"""What is written in the groups of EOPF's products: `open_eopf`, xarray's trees and readers of maps find the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import eopf_product
import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr
from cubes import make_cube
from test_zarr import files
from zarr_writer import Cut, cut_at

import xsen2
from xsen2.errors import StoreError
from xsen2.sinks import regions
from xsen2.sinks.zarr import to_zarr

AT = "measurements/reflectance"


def cube(**attrs: Any) -> xr.Dataset:
    """One date on native grids, with negatives, nodata and SCL."""
    ds = make_cube(3, 4, dates=1, chunks={10: 12, 20: 12, 60: 2}, dtype="f4")
    ds["B02"] = (ds["B02"] - 1500).clip(min=-990).where(ds.x > float(ds.x[5]))
    ds["SCL"] = (ds["B05"] % 12).astype(np.uint8)
    said = {"level": "L2A", "platform": "Sentinel-2C", "tile": "31UFT", "xsen2_method": "none", **attrs}
    return ds.assign_attrs(said)


def assert_same(back: xr.Dataset, ds: xr.Dataset) -> None:
    """Values to half a DN, places and dates exactly."""
    for name in ds.data_vars:
        want = ds[name].transpose(..., *back[name].dims[-2:])
        np.testing.assert_allclose(back[name], want, atol=0.501, err_msg=str(name))
        assert back[name].rio.crs == ds.rio.crs
        for dim, own in zip(back[name].dims, ds[name].dims, strict=True):
            np.testing.assert_array_equal(back[dim], ds[own])


def test_a_native_cube_comes_back(tmp_path: Path) -> None:
    ds = cube()
    back = to_zarr(ds, tmp_path / "a.zarr", layout="eopf", progress=False)
    assert set(back.data_vars) == set(ds.data_vars)
    assert_same(back, ds)
    assert float(back["B02"].min()) < -100
    assert (back.attrs["level"], back.attrs["platform"], back.attrs["tile"]) == ("L2A", "Sentinel-2C", "31UFT")
    assert (back.attrs["xsen2_method"], back.offset.item()) == ("none", -1000)
    assert_same(xsen2.open_eopf(tmp_path / "a.zarr", ["B02", "B11", "SCL"]), ds[["B02", "B11", "SCL"]])
    raw = zarr.open_array(tmp_path / f"a.zarr/{AT}/r10m/b02", mode="r")
    assert (raw.dtype, raw.fill_value, raw.attrs["add_offset"]) == (np.uint16, 0, -0.1)
    assert raw.attrs["_eopf_attrs"]["scale_factor"] == raw.attrs["scale_factor"] == 1e-4
    # Whoever knows CF alone sees reflectance, and the tree gives the same pixels as such.
    tree = xr.open_datatree(tmp_path / "a.zarr", engine="zarr")[AT]
    assert set(tree.children) == {"r10m", "r20m", "r60m"}
    np.testing.assert_allclose(tree["r20m/b11"], ds["B11"][0] * 1e-4, atol=1e-4)
    tree = xr.DataTree.from_dict({name: tree[name].to_dataset() for name in tree.children})
    mine = back.dsen2.superresolve(["B11"], "bicubic")["B11"][0]
    np.testing.assert_allclose(tree.dsen2.superresolve(["b11"], "bicubic")["b11"] * 1e4, mine, atol=0.1)


def test_integers_and_reflectance_come_to_the_same(tmp_path: Path) -> None:
    ds = make_cube(3, 3, dates=1, dtype=np.uint16).assign_attrs(level="L1C")
    reflectance = (ds.astype("f4") / 10000).assign_attrs(level="L1C")
    for band in reflectance.data_vars.values():
        band.attrs["units"] = "1"
    stores = [tmp_path / "whole.zarr", tmp_path / "parts.zarr"]
    for one, store in zip((ds, reflectance), stores, strict=True):
        assert_same(to_zarr(one, store, layout="eopf", progress=False), ds)


def test_super_resolved_bands_lie_at_10_m_with_levels_beside_them(tmp_path: Path) -> None:
    sr = cube().drop_vars("SCL").dsen2.superresolve(method="bicubic")
    back = to_zarr(sr, tmp_path / "a.zarr", layout="eopf", overviews=[2, 4], progress=False)
    assert set(back.data_vars) == set(sr.data_vars)
    assert_same(back, sr)
    assert back["B11"].attrs["gsd"] == 10
    assert back.attrs["xsen2_method"] == sr.attrs["xsen2_method"]
    said = json.loads((tmp_path / "a.zarr" / AT / "zarr.json").read_text())["attributes"]
    assert [entry["asset"] for entry in said["multiscales"]["layout"]] == ["r10m", "r10m_2x", "r10m_4x"]
    assert said["multiscales"]["layout"][1]["derived_from"] == "r10m"
    assert said["spatial:shape"] == [18, 24]
    level = xr.open_zarr(tmp_path / "a.zarr", group=f"{AT}/r10m_2x", decode_coords="all")
    want = sr["B11"][0].coarsen(y=2, x=2).mean() * 1e-4
    np.testing.assert_allclose(level["b11"], want, atol=1e-4)
    assert level["b11"].rio.resolution() == (20, -20)
    assert set(xr.open_datatree(tmp_path / "a.zarr", engine="zarr")[AT].children) == {"r10m", "r10m_2x", "r10m_4x"}


def test_rio_tiler_chooses_a_level(tmp_path: Path) -> None:
    geozarr = pytest.importorskip("rio_tiler.experimental.zarr", reason="needs rio-tiler 9")
    ds = xsen2.sample().isel(time=[0])[["B02", "B04"]].assign_attrs(level="L2A")
    to_zarr(ds, tmp_path / "a.zarr", layout="eopf", overviews=[2, 4, 8], progress=False)
    reader = geozarr.GroupReader(zarr.open_group(f"{tmp_path}/a.zarr/{AT}", mode="r"))
    assert reader.minzoom < reader.maxzoom
    for size in (54, 432):
        image = reader.preview(variables=["b04"], max_size=size)
        assert image.array.shape[1:] == (size, size)
        assert abs(float(image.array.mean()) - 1000 - float(ds["B04"].mean())) < 60


@pytest.mark.parametrize(
    ("product", "shift"),
    [
        ("S2A_MSIL2A_20180815T104021_N0208_R008_T31UFT_20180815T150000", 0),
        (eopf_product.L2A, 1000),
    ],
)
def test_the_offset_is_that_of_the_baseline(tmp_path: Path, product: str, shift: int) -> None:
    ds = cube(product=product).drop_vars("SCL")
    ds = ds.assign(B02=ds["B02"].clip(min=1))
    del ds.attrs["level"]
    back = to_zarr(ds, tmp_path / "a.zarr", layout="eopf", progress=False)
    assert back.offset.item() == -shift
    assert back.attrs["product"] == product
    assert_same(back, ds)


@eopf_product.needs_real
def test_a_product_of_eopf_is_written_as_it_was(tmp_path: Path) -> None:
    made = eopf_product.product(eopf_product.L2A).write(tmp_path)
    cube = xsen2.open_eopf(made)
    back = to_zarr(cube, tmp_path / "again.zarr", layout="eopf", progress=False)
    xr.testing.assert_equal(back.compute(), cube.compute())
    assert {k: v for k, v in back.attrs.items() if k != "xsen2_version"} == cube.attrs
    for path in (f"{AT}/r10m/b02", f"{AT}/r20m/b8a", f"{AT}/r60m/b09", "conditions/mask/l2a_classification/r20m/scl"):
        old, new = (zarr.open_array(f"{home}/{path}", mode="r") for home in (made, tmp_path / "again.zarr"))
        np.testing.assert_array_equal(old[...], new[...])
        for key in ("scale_factor", "add_offset", "valid_min", "valid_max", "proj:epsg", "proj:shape", "dtype"):
            assert old.attrs.get(key) == new.attrs.get(key), (path, key)


def test_what_is_refused(tmp_path: Path) -> None:
    ds, store = cube(), tmp_path / "a.zarr"
    two = make_cube(3, 3, dates=2).assign_attrs(level="L2A")
    untold = ds.copy()
    untold.attrs = {}
    for given, said, how in (
        (two, "holds one date", {}),
        (untold, "assign_attrs", {}),
        (ds.assign(NDWI=ds["B02"]), "no place for NDWI", {}),
        (ds.isel(y=slice(None, None, -1)), "north up", {}),
        (ds, "overviews of bands on one grid", {"overviews": [2]}),
        (ds, "leave out append", {"append": True}),
        (ds, "leave out append", {"dtype": "int16"}),
    ):
        with pytest.raises(StoreError, match=said):
            to_zarr(given, store, layout="eopf", progress=False, **how)
    with pytest.raises(StoreError, match="give 'eopf'"):
        to_zarr(ds, store, layout="EOPF", progress=False)
    assert not store.exists()
    to_zarr(untold.assign_attrs(level="L2A"), store, layout="eopf", progress=False)  # the advice works


@pytest.mark.filterwarnings(r"ignore:Object at \.xsen2")
def test_a_stop_at_every_fifth_step_is_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    ds = cube()[["B02", "B11"]]
    to_zarr(ds, tmp_path / "whole.zarr", layout="eopf", progress=False)
    for stop in range(1, 120, 5):
        store = tmp_path / f"{stop}.zarr"
        try:
            with cut_at(stop):
                to_zarr(ds, store, layout="eopf", progress=False)
        except Cut:
            pass
        else:
            break
        to_zarr(ds, store, layout="eopf", progress=False)
        assert files(store) == files(tmp_path / "whole.zarr"), f"after a stop at step {stop}"
    assert stop > 10
    to_zarr(ds + 1, tmp_path / "whole.zarr", layout="eopf", overwrite=True, progress=False)
