"""The CRS is found wherever a file, or what opened it, has left it; in every call that asks for it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
from cases import every
from cubes import DIMS, make_cube, no_compute
from rasterio.crs import CRS

import xsen2
from xsen2.bands import GRIDS
from xsen2.cube import recognise
from xsen2.grid import crs_of, located, same_crs

EPSG = 32722
WKT = CRS.from_epsg(EPSG).to_wkt()


BANDS = {10: ["B02", "B03", "B04", "B08"], 20: ["B05"], 60: ["B01"]}


def cube(**how):
    return make_cube(3, 4, dates=2, epsg=EPSG, **how)[[b for names in BANDS.values() for b in names]]


def zarr(folder, version=3):
    cube().to_zarr(folder / "a.zarr", zarr_format=version, consolidated=False)
    return xr.open_zarr(folder / "a.zarr", consolidated=False)


def netcdf(folder):
    cube().to_netcdf(folder / "a.nc")
    return xr.open_dataset(folder / "a.nc")


def several(folder):
    for i in (0, 1):
        cube().isel(time=[i]).to_netcdf(folder / f"{i}.nc")
    ds = xr.open_mfdataset([folder / "0.nc", folder / "1.nc"], data_vars="all")
    assert ds["spatial_ref"].dims == ("time",)
    return ds


def named(name, attrs, where="attrs", **values):
    """The grid mapping under any name, with any of the attributes that programs write."""
    ds = cube(chunks=12).drop_vars("spatial_ref")
    for band in ds.data_vars:
        ds[band].encoding.pop("grid_mapping", None)
        getattr(ds[band], where)["grid_mapping"] = name
    return ds.assign({name: xr.DataArray(values.get("value", b""), attrs=attrs)})


def cf():
    from pyproj import CRS as Any

    return {k: v for k, v in Any.from_epsg(EPSG).to_cf().items() if k != "crs_wkt"}


def tree(folder):
    ds = cube().drop_vars("spatial_ref")
    groups = {f"/r{g}m": ds[names].assign(spatial_ref=((), 0, {"crs_wkt": WKT})) for g, names in BANDS.items()}
    xr.DataTree.from_dict(groups).to_zarr(folder / "t.zarr", consolidated=False)
    return xr.open_datatree(folder / "t.zarr", engine="zarr", consolidated=False, chunks={})


def tree_root(folder):
    ds = cube().drop_vars("spatial_ref")
    groups = {f"/data/r{g}m": ds[names] for g, names in BANDS.items()}
    return xr.DataTree.from_dict(groups | {"/": xr.Dataset({"crs": ((), 0, {"crs_wkt": WKT})})})


WAYS = {
    "zarr 3": zarr,
    "zarr 2": lambda folder: zarr(folder, 2),
    "netCDF": netcdf,
    "several files": several,
    "openEO": lambda _: named("crs", {"crs_wkt": WKT, "spatial_ref": WKT}),
    "in the encoding": lambda _: named("crs", {"crs_wkt": WKT}, "encoding"),
    "GDAL's name": lambda _: named("transverse_mercator", {"spatial_ref": WKT}, value=0),
    "CF parameters": lambda _: named("projection", cf(), value=0),
    "CF's long form": lambda _: named("crs", {"crs_wkt": WKT}).map(
        lambda v: v.assign_attrs(grid_mapping=f"crs: {' '.join(map(str, v.dims[-2:]))}") if v.ndim else v,
        keep_attrs=True,
    ),
    "named by nobody": lambda _: cube().drop_vars("spatial_ref").assign(polar=((), 0, {"crs_wkt": WKT})),
    "named wrongly": lambda _: named("crs", {"crs_wkt": WKT}).rename(crs="somewhere_else"),
    "code only": lambda _: cube().drop_vars("spatial_ref").assign_attrs({"proj:code": f"EPSG:{EPSG}"}),
    "tree, a file": tree,
    "tree, above the bands": tree_root,
}


@pytest.fixture(params=WAYS)
def opened(request, tmp_path):
    ds = WAYS[request.param](tmp_path)
    yield ds
    if hasattr(ds, "close"):
        ds.close()


def flat(ds):
    return ds if isinstance(ds, xr.Dataset) else xsen2.canonicalise(ds)


def test_every_call_finds_it(opened, tmp_path: Path):
    want = CRS.from_epsg(EPSG)
    before = set(opened.data_vars) if isinstance(opened, xr.Dataset) else set()
    with no_compute():
        found = recognise(opened)
        assert found.crs == want
        assert not found.extras
        sr = opened.dsen2.superresolve(["B05"], method="bicubic")
        coarse, truth = opened.degrade.pair(2)
        results = {
            "superresolve": sr,
            "canonicalise": xsen2.canonicalise(opened),
            "degrade": opened.degrade(2),
            "pair": coarse,
            "truth": truth,
            "area": opened.dsen2.superresolve(method="bicubic", area=(600010, 4999900, 600050, 5000050), area_crs=EPSG),
        }
        if isinstance(opened, xr.Dataset):
            ten = opened.drop_vars([b for g in (20, 60) for b in BANDS[g]])
            ten = ten.drop_vars([d for g in (20, 60) for d in DIMS[g]])
            results["native"] = xsen2.native(ten)
            results["index"] = ten.dsen2.index("NDVI").to_dataset()
    for call, result in results.items():
        assert result.rio.crs == want, call
        assert set(result.data_vars) <= {b for names in GRIDS.values() for b in names} | {"NDVI"}, call
        assert all(v.dims for v in result.data_vars.values()), call
    assert np.isfinite(opened.dsen2.evaluate(["bicubic"])["rmse"].sel(band="B05")).all()
    if isinstance(opened, xr.Dataset):
        assert set(opened.data_vars) <= before


@pytest.mark.parametrize("opened", every(3, WAYS), indirect=True)
def test_sinks_find_it(opened, tmp_path: Path):
    ds = opened
    back = ds.dsen2.to_zarr(tmp_path / "o.zarr", progress=False)
    assert back.rio.crs == CRS.from_epsg(EPSG)
    assert back["B05"].encoding["grid_mapping"] == "spatial_ref"
    assert set(back.data_vars) == {b for names in BANDS.values() for b in names}
    files = ds.dsen2.to_cog(tmp_path / "{date}_{band}.tif", bands=["B02", "B05"], progress=False)
    for file in files:
        with xr.open_dataset(file, engine="rasterio") as one:
            assert one.rio.crs == CRS.from_epsg(EPSG)


@pytest.mark.parametrize("way", ["zarr 3", "several files", "openEO", "named by nobody"])
def test_it_stays_when_bands_are_chosen(way, tmp_path: Path):
    """As a data variable it would be left behind by the first ``ds[[…]]``."""
    with WAYS[way](tmp_path) as ds:
        _ = ds.dsen2
        some = ds[["B02", "B05"]]
        assert some.dsen2.superresolve(["B05"], method="bicubic").rio.crs == CRS.from_epsg(EPSG)
        assert xsen2.native(ds[["B02", "B03"]]).rio.crs == CRS.from_epsg(EPSG)


BROKEN = [
    {"crs_wkt": "PROJCS["},
    {"spatial_ref": "EPSG:99999"},
    {"crs_wkt": "nonsense", "grid_mapping_name": "transverse_mercator"},
    {"grid_mapping_name": "no_such_projection"},
    {"crs_wkt": "PROJCS[" * 1000},
]


@pytest.mark.parametrize("name", ["spatial_ref", "crs", "utm"])
@pytest.mark.parametrize("attrs", BROKEN, ids=lambda attrs: str(attrs)[:30])
def test_what_cannot_be_read_is_named_and_the_advice_mends_it(name, attrs, tmp_path: Path):
    ds = named(name, attrs)
    calls = [
        lambda ds: ds.dsen2.superresolve(["B05"], method="bicubic"),
        lambda ds: ds.degrade(2),
        lambda ds: xsen2.native(ds.drop_vars([b for g in (20, 60) for b in BANDS[g]])),
        lambda ds: ds.dsen2.index("NDVI"),
        lambda ds: ds.dsen2.to_zarr(tmp_path / "o.zarr", progress=False),
        lambda ds: ds.dsen2.to_cog(tmp_path / "{date}.tif", bands=["B02"], progress=False),
    ]
    code = ""
    for call in calls:
        with (
            pytest.raises(xsen2.CRSError, match=f"grid mapping '{name}' has no CRS that can be read") as caught,
            no_compute(),
        ):
            call(ds)
        assert len(str(caught.value)) < 400
        code = re.search(r"ds\.rio\.write_crs\(.*\)$", str(caught.value))[0].replace("…", str(EPSG))
    mended = eval(code, {"ds": ds})
    for call in calls[:4]:
        call(mended)
    assert mended.dsen2.superresolve(["B05"], method="bicubic").rio.crs == CRS.from_epsg(EPSG)


def test_two_that_nobody_names():
    ds = cube().drop_vars("spatial_ref")
    for band in ds.data_vars:
        ds[band].encoding.pop("grid_mapping", None)
    other = CRS.from_epsg(32723).to_wkt()
    ds = ds.assign(a=((), 0, {"crs_wkt": WKT}), b=((), 0, {"crs_wkt": other}))
    with pytest.raises(xsen2.CRSError, match="does not say which grid mapping is its own: a is EPSG:32722") as caught:
        ds.dsen2.superresolve()
    assert "drop the wrong one, with ds.drop_vars" in str(caught.value)
    code = re.search(r"ds\.drop_vars\(.*?\)", str(caught.value))[0]
    assert eval(code, {"ds": ds}).dsen2.superresolve(["B05"], method="bicubic").rio.crs == CRS.from_epsg(EPSG)
    same = ds.assign(b=((), 0, {"crs_wkt": CRS.from_epsg(EPSG).to_wkt(version="WKT2_2019")}))
    assert recognise(same).crs == CRS.from_epsg(EPSG)


def test_each_of_several_is_whose_it_is():
    ds = cube()
    ds["other"] = ((), 0, {"crs_wkt": CRS.from_epsg(3035).to_wkt()})
    ds["dem"] = ds["B05"].isel(time=0, drop=True).drop_vars("spatial_ref").assign_attrs(grid_mapping="other")
    assert crs_of(ds["dem"], ds).to_epsg() == 3035
    assert crs_of(ds["B05"], ds).to_epsg() == EPSG
    assert recognise(ds).crs.to_epsg() == EPSG
    with pytest.raises(xsen2.CRSError, match=r"B02 is in EPSG:32722 .* and dem in EPSG:3035"):
        ds.dsen2.to_zarr("never.zarr")
    assert not Path("never.zarr").exists()


def test_one_crs_written_in_several_ways_is_one():
    one = CRS.from_epsg(EPSG)
    for version in ("WKT1_GDAL", "WKT1_ESRI", "WKT2_2019"):
        bare = re.sub(r',\s*(AUTHORITY|ID)\["EPSG",\s*"?\d+"?\]', "", one.to_wkt(version=version))
        assert same_crs(one, CRS.from_wkt(bare.replace("UTM zone 22S", "x")))
    assert not same_crs(one, CRS.from_epsg(32622))
    assert not same_crs(one, CRS.from_epsg(32723))
    ds = make_cube(epsg=EPSG)
    bare = re.sub(r',\s*ID\["EPSG",\s*\d+\]', "", one.to_wkt(version="WKT2_2019"))
    again = ds["B05"].drop_vars("spatial_ref").rio.write_crs(bare, grid_mapping_name="other")
    recognise(ds.drop_vars("B05").assign(B05=again))


def test_the_advice_for_several_crs():
    ds = make_cube()
    other = ds["B05"].drop_vars("spatial_ref").rio.write_crs(32632, grid_mapping_name="other")
    mixed = ds.drop_vars("B05").assign(B05=other)
    with pytest.raises(xsen2.CRSError, match=r"more than one CRS: B02.* in EPSG:32631 .*; B05 in EPSG:32632") as caught:
        mixed.dsen2.superresolve(method="bicubic")
    drop = re.search(r"ds\.drop_vars\(.*?\)", str(caught.value))[0]
    assert "B05" not in eval(drop, {"ds": mixed}).dsen2.superresolve(method="bicubic")


def test_the_advice_for_degrees():
    import scenes

    with pytest.raises(xsen2.CRSError, match=r"EPSG:4326 \(WGS 84\) is geographic.*xsen2\.load"):
        make_cube(epsg=4326).dsen2.superresolve()
    assert scenes  # what xsen2.load gives is in UTM: test_stac


def test_located_changes_nothing_that_is_right():
    ds = cube()
    assert located(ds) is ds
    bare = ds.drop_vars("spatial_ref")
    assert located(bare) is bare
    kept = located(named("crs", {"crs_wkt": WKT, "GeoTransform": "600000 10 0 5000080 0 -10"}))
    assert kept["spatial_ref"].attrs["GeoTransform"].startswith("600000")
    assert "crs" not in kept.variables
