"""Units, nodata and what no reflectance can be: kept or refused on every road, never rounded, punched or lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rioxarray
import xarray as xr
from cases import crossed, every
from cubes import change, examples, make_cube, no_compute
from hypothesis import given, settings
from hypothesis import strategies as st

import xsen2
from xsen2.bands import BANDS, A, B
from xsen2.errors import RadiometryError, RadiometryWarning
from xsen2.evaluation.evaluate import evaluate
from xsen2.radiometry import Scale, scale_of, seen_in, to_dn, to_nan
from xsen2.training.scenes import read_scenes

Edit = Callable[[xr.Dataset], Any]

STORES = ["zarr int16", "zarr uint16", "zarr float32", "cog int16", "cog uint16", "cog float32"]


def reflectance(how: str, rows: int = 3, columns: int = 3, **kwargs: Any) -> xr.Dataset:
    """A cube of reflectance that says so, in one way or another, or not."""
    ds = (make_cube(rows, columns, **kwargs) * 1e-4).astype("f4").rio.write_crs(32631)
    for band in ds.data_vars:
        if how == "units":
            ds[band].attrs["units"] = "1"
        elif how == "encoding":
            ds[band].encoding["scale_factor"] = 1e-4  # as CF decoding leaves it
    return ds


def kept(edit: Edit) -> Edit:
    def run(ds: xr.Dataset) -> Any:
        with xr.set_options(keep_attrs=True):
            return edit(ds)

    return run


def bare(ds: xr.Dataset) -> xr.Dataset:
    """The bands without attributes and encoding, as some arithmetic leaves them."""
    return ds.assign({b: (v.dims, v.data) for b, v in ds.data_vars.items()})


EDITS: dict[str, Edit] = {
    "as it is": lambda ds: ds,
    "times 1": kept(lambda ds: ds * 1),
    "where": lambda ds: ds.where(ds["B03"] > 0),
    "median": kept(lambda ds: ds.median("time")),
    "resample": kept(lambda ds: ds.resample(time="1MS").mean()),
    "clip": kept(lambda ds: ds.clip(0, 1)),
    "astype": lambda ds: ds.astype("f8"),
    "coarsen": kept(lambda ds: ds.coarsen(y=2, x=2).mean()),
    "assigned": lambda ds: ds.assign(B03=ds["B03"].copy(data=ds["B03"].data * 1)),
}


def written(ds: xr.Dataset, store: str, folder: Path) -> xr.Dataset:
    """What is read back of a store."""
    kind, dtype = store.split()
    if kind == "zarr":
        return ds.dsen2.to_zarr(folder / "a.zarr", dtype=dtype, progress=False, overwrite=True)
    ds = ds.isel(time=0) if "time" in ds.dims else ds
    (path,) = ds.dsen2.to_cog(folder / "a.tif", dtype=dtype, progress=False, overwrite=True)
    back = rioxarray.open_rasterio(path, band_as_variable=True, mask_and_scale=True)
    assert isinstance(back, xr.Dataset)
    return back.rename({name: v.attrs["long_name"] for name, v in back.data_vars.items()})


def same(found: xr.Dataset, want: xr.Dataset, atol: float) -> None:
    for band in want.data_vars:
        values = want[band].values
        np.testing.assert_allclose(np.squeeze(found[band].values), np.squeeze(values), rtol=0, atol=atol)


@pytest.mark.parametrize(("how", "edit"), crossed(2, ["units", "encoding", "given"], EDITS))
def test_reflectance_survives_arithmetic_and_stores(how: str, edit: str, tmp_path: Path) -> None:
    cube = reflectance(how, dates=2, chunks=36)
    sr = cube.dsen2.superresolve(method="bicubic", quantification=1 if how == "given" else None)
    ds = EDITS[edit](sr[["B03", "B08", "B11"]])
    ds = ds.rio.write_crs(32631)
    back = written(ds, "zarr int16", tmp_path)
    same(back, ds, 0.51e-4)
    np.testing.assert_allclose(back.dsen2.index("NDWI"), ds.dsen2.index("NDWI", quantification=1), atol=1e-3)
    assert {back[b].attrs["units"] for b in back.data_vars} == {"1"}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("edit", every(2, ["as it is", "times 1", "cached"]))
def test_reflectance_survives_every_store(store: str, edit: str, tmp_path: Path) -> None:
    sr = reflectance("units", dates=1).dsen2.superresolve(method="bicubic")[["B02", "B04", "B08", "B8A"]]
    if edit == "cached":
        sr.to_zarr(tmp_path / "cache.zarr")
        sr = xr.open_zarr(tmp_path / "cache.zarr", decode_coords="all")
    else:
        sr = EDITS[edit](sr).rio.write_crs(32631)
    back = written(sr, store, tmp_path)
    same(back, sr, 0 if "float32" in store else 0.51e-4)
    want = sr.dsen2.index("SAVI").values
    np.testing.assert_allclose(np.squeeze(back.dsen2.index("SAVI").values), np.squeeze(want), atol=2e-3)
    again = written(kept(lambda ds: ds * 1)(back.squeeze(drop=True)).rio.write_crs(32631), "zarr int16", tmp_path)
    same(again, sr, 1.1e-4)


@pytest.mark.parametrize(("store", "side"), every(3, [(store, side) for store in STORES for side in (1, 7)]))
def test_reflectance_that_does_not_say_so_is_refused_by_every_store(store: str, side: int, tmp_path: Path) -> None:
    """Small images too, and what says that it is DN; what the error says to do then works."""
    label = reflectance("units", side, side).dsen2.superresolve(method="bicubic")
    stale = kept(lambda ds: ds * 1e-4)(make_cube(side, side, dtype="u2").dsen2.superresolve(method="bicubic"))
    assert stale["B03"].attrs["units"] == "1e-4"
    for ds in (bare(label), stale):
        ds = ds[["B03", "B11"]].rio.write_crs(32631)
        with pytest.raises(RadiometryError, match=r"looks like reflectance.*\.attrs\['units'\] = '1' for reflectance"):
            written(ds, store, tmp_path)
        for band in ds.data_vars:
            ds[band].attrs["units"] = "1"
        same(written(ds, store, tmp_path), ds, 0 if "float32" in store else 0.51e-4)


@pytest.mark.parametrize("store", STORES)
def test_dn_that_are_called_reflectance_are_refused(store: str, tmp_path: Path) -> None:
    sr = reflectance("units").dsen2.superresolve(method="bicubic")[["B03", "B08", "B11"]]
    dn = kept(lambda ds: ds * 10000)(sr).rio.write_crs(32631)
    for call in (lambda: written(dn, store, tmp_path), lambda: dn.dsen2.index("NDWI").compute()):
        with pytest.raises(RadiometryError, match=r"look like DN.*'1e-4' for DN"):
            call()
    cube = kept(lambda ds: ds * 10000)(reflectance("units"))
    for arguments in ({}, {"quantification": 1}):
        with pytest.raises(RadiometryError, match="look like DN"):
            cube.dsen2.superresolve(["B05"], "bicubic", **arguments).compute()
    for band in dn.data_vars:
        dn[band].attrs["units"] = "1e-4"
    same(written(dn, store, tmp_path), dn, 0 if "float32" in store else 0.51)


@pytest.mark.parametrize("store", STORES)
def test_dark_dn_are_not_taken_for_reflectance(store: str, tmp_path: Path) -> None:
    """A corner of dark water, a flat band of 1 DN but for rounding, whole numbers."""
    ds = make_cube(8, 8)[["B02", "B03", "B04"]].chunk(y=24, x=24)
    dark = np.full(ds["B02"].shape, np.nan, np.float32)
    dark[:24] = 900.5
    dark[30, :10] = 0.7
    ds["B02"].data = dask.array.from_array(dark, chunks=24)
    ds["B03"] = ds["B03"] * 0 + np.float32(1 - 6e-8)
    ds["B04"] = (ds["B04"] % 2).round()
    same(written(ds.rio.write_crs(32631), store, tmp_path), ds.clip(1 if "uint16" in store else None), 0.51)


@pytest.mark.parametrize("side", [12, 60])
def test_water_that_products_set_to_1_dn_is_not_taken_for_reflectance(side: int, tmp_path: Path) -> None:
    """What a network or a regression makes of 1 DN everywhere."""
    rng = np.random.default_rng(0)
    ds = make_cube(10, 10)[["B02", "B03"]].chunk(y=side, x=side)
    for band, (mean, spread) in {"B02": (0.95, 0.03), "B03": (1.0, 0.09)}.items():
        values = rng.normal(mean, spread, ds[band].shape).astype("f4").clip(0.45, 1.98)
        ds[band].data = dask.array.from_array(values, chunks=side)
    back = written(ds.rio.write_crs(32631), "zarr int16", tmp_path)
    assert (back["B02"].mean() > 0.99).all()


@pytest.mark.real
@pytest.mark.parametrize("method", ["bicubic", "regression", "default"])
@pytest.mark.parametrize(("folder", "name"), [("stress", "sea_6"), ("validation", "bigearthnet_patches/10")])
def test_dark_scenes_can_be_stored(shared: Path, folder: str, name: str, method: str, tmp_path: Path) -> None:
    """Water of 1 DN in many bands, in chunks of any size."""
    found = next(s for s in read_scenes(shared / "data" / folder) if s.name == name)
    cube = found.cube().isel(y=slice(120), x=slice(120), y_20m=slice(60), x_20m=slice(60))
    cube = (cube.isel(y_60m=slice(20), x_60m=slice(20)) if "B01" in cube else cube).rio.write_crs(32631)
    sr = cube.dsen2.superresolve(method=method, dtype="float32").compute()
    sr = sr[[band for band in ("B02", "B07", "B11", "B12", "B01") if band in sr]]
    for side in (30, 60, 120):
        back = sr.chunk(y=side, x=side).dsen2.to_zarr(tmp_path / f"{side}.zarr", progress=False)
        same(back[list(sr.data_vars)], sr, 0.51)


def test_errors_have_the_unit_of_their_band(tmp_path: Path) -> None:
    sr = reflectance("units").dsen2.superresolve(["B05"], native=False, uncertainty=True, dtype="float32").compute()
    assert sr["B05_se"].attrs["units"] == "1"
    assert 0 < float(sr["B05_se"].max()) < 0.1
    for store in STORES:
        same(written(sr, store, tmp_path), sr, 0 if "float32" in store else 0.51e-4)
    unsaid = sr.copy()
    del unsaid["B05_se"].attrs["units"]
    same(written(unsaid, "cog int16", tmp_path), sr, 0.51e-4)
    with pytest.raises(RadiometryError, match="looks like reflectance"):
        written(bare(sr)[["B05_se"]].rio.write_crs(32631), "cog int16", tmp_path)


@pytest.mark.parametrize(
    ("units", "quantification"), [("1", 1), ("1e-4", 10000), ("0.0001", 10000), ("%", 100), ("percent", 100)]
)
def test_units_that_say_what_a_reflectance_of_1_is(units: str, quantification: float, tmp_path: Path) -> None:
    dn = make_cube(3, 3)
    ds = (dn * (quantification / 1e4)).rio.write_crs(32631)
    for band in ds.data_vars:
        ds[band].attrs["units"] = units
    assert scale_of(ds["B05"]).quantification == pytest.approx(quantification)
    sr = ds.dsen2.superresolve(method="bicubic")
    want = dn.dsen2.superresolve(method="bicubic")
    np.testing.assert_allclose(sr["B05"] * (1e4 / quantification), want["B05"], rtol=1e-5)
    back = written(kept(lambda x: x * 1)(sr).rio.write_crs(32631), "zarr int16", tmp_path)
    np.testing.assert_allclose(back["B05"] * (1e4 / quantification), want["B05"], atol=0.51)
    with pytest.raises(RadiometryError, match=r"quantification='1': use a number"):
        ds.dsen2.superresolve(quantification="1")


# Nodata that an attribute declares.


def recipe(ds: xr.Dataset) -> xr.Dataset:
    return kept(lambda raw: raw.where(raw != 0).astype("f4") - 1000)(ds)


def raw_cube(rows: int = 4, columns: int = 4, **kwargs: Any) -> xr.Dataset:
    """Integers with an offset of 1000 and nodata 0, as catalogues have them; water where it is darkest."""
    ds = (make_cube(rows, columns, **kwargs) + 1000).astype("u2").rio.write_crs(32631)
    for band in ds.data_vars:
        values = ds[band].values
        values[..., :2, :] = 0
        values[..., -4:-2, :] = 999 + np.arange(values.shape[-1]) % 3
        ds[band] = ds[band].copy(data=values).assign_attrs(nodata=0)
    return ds


ROADS: dict[str, Callable[[xr.Dataset, Path], Any]] = {
    "superresolve": lambda ds, _: ds.dsen2.superresolve(["B11"], "bicubic").compute(),
    "evaluate": lambda ds, _: evaluate(ds, ["bicubic"], border=0),
    "evaluate at full scale": lambda ds, _: evaluate(ds, ["bicubic"], 1),
    "degrade": lambda ds, _: ds.degrade(2).compute(),
    "index": lambda ds, _: ds.dsen2.index("NDWI").compute(),
    "statistics": lambda ds, _: ds.dsen2.superresolve(["B11"], "regression").compute(),
    "to_zarr": lambda ds, folder: written(ds, "zarr int16", folder),
    "to_cog": lambda ds, folder: written(ds[["B02", "B03"]], "cog int16", folder),
}
for_every_road = pytest.mark.parametrize("road", ROADS)


@for_every_road
def test_zeros_beside_nan_are_not_punched_out(road: str, tmp_path: Path) -> None:
    """Refused, since both may be right; and both remedies give what they say."""
    ds = recipe(raw_cube())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RadiometryError, match=r"declares nodata=0 .* pixels of 0 and NaN too"):
            ROADS[road](ds, tmp_path)
    for v in ds.data_vars.values():
        [v.attrs.pop(k, None) for k in ("nodata", "_FillValue", "missing_value")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RadiometryWarning)
        found = ROADS[road](ds, tmp_path)
    if "B02" in found:
        band = found["B02"].values
        assert np.isnan(band[..., :1, :]).all()
        assert np.isfinite(band[..., 1 if road == "degrade" else 2 :, :]).all()


@for_every_road
def test_zeros_that_are_declared_count_as_nodata_and_it_is_said(road: str, tmp_path: Path) -> None:
    """Floats that were loaded with 0 for nodata, as odc.stac.load(dtype="float32") gives them."""
    ds = (raw_cube() - 0.0).astype("f4")
    for band in ds.data_vars:
        ds[band].attrs["nodata"] = 0
    with pytest.warns(RadiometryWarning, match=r"B03.*nodata=0 in their attributes") as said:
        found = ROADS[road](ds, tmp_path)
    assert said[0].filename == __file__
    if "B02" in found:
        assert np.isnan(found["B02"].values[..., :1, :]).all()


@pytest.mark.parametrize(
    ("value", "road"), crossed(5, [-9999.0, 65535.0, -3.4028234663852886e38, 9.969209968386869e36], ROADS)
)
def test_other_values_that_are_declared_count_beside_nan(road: str, value: float, tmp_path: Path) -> None:
    ds = recipe(raw_cube())
    for band in ds.data_vars:
        ds[band] = ds[band].copy(data=np.where(ds[band].values < 0, np.float32(value), ds[band].values))
        ds[band].attrs["nodata"] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error", RadiometryWarning)
        found = ROADS[road](ds, tmp_path)
    if road == "superresolve":
        np.testing.assert_array_equal(np.isnan(found["B02"]), np.isnan(ds["B02"]) | (ds["B02"] == np.float32(value)))


def test_stale_metadata_stay_behind() -> None:
    """What stackstac, rioxarray, GDAL, STAC and EOPF say of the old pixels is not true of new ones."""
    stale: dict[str, Any] = {
        "transform": (20.0, 0.0, 6e5, 0.0, -20.0, 5e6),
        "resolution": 20.0,
        "spec": "RasterSpec(…)",
        "res": (20.0, 20.0),
        "proj:transform": [20.0, 0.0, 6e5],
        "proj:shape": [5490, 5490],
        "raster:bands": [{"spatial_resolution": 20}],
        "AREA_OR_POINT": "Area",
        "STATISTICS_MAXIMUM": 8000.0,
        "scale_factor": 1,
        "add_offset": 0,
        "nodatavals": (0.0,),
        "scales": (1.0,),
        "offsets": (0.0,),
        "valid_min": 0,
        "valid_max": 9000,
        "missing_value": -1,
        "_eopf_attrs": {"add_offset": -0.1},
        "spatial:shape": [1, 1],
    }
    ds = make_cube(4, 4, dates=2)
    ds["SCL"] = (ds["B05"] % 12).astype("u1").assign_attrs(flag_meanings="a b", _FillValue=0)
    coords = {"proj:shape": 5490, "raster:bands": "x", "gsd": 20, "proj:bbox": ("time", [1, 2]), "eo:cloud_cover": 3.0}
    ds = ds.assign_coords(coords)
    ds.attrs = {**stale, "source": "S2A", "proj:epsg": 32631}
    for band in BANDS:
        ds[band].attrs = {**stale, "long_name": "mine", "gsd": 20}
    ds["SCL"].attrs |= {k: v for k, v in stale.items() if k in ("transform", "resolution", "proj:shape")}
    found = {
        "superresolve": ds.dsen2.superresolve(method="bicubic"),
        "degrade": ds.degrade(2),
        "truth": ds.degrade.pair(2)[1],
    }
    for what, out in found.items():
        bands = [b for b in out.data_vars if b in BANDS]
        for name in bands:
            left = set(out[name].attrs) & set(stale)
            assert not left, (what, name)
            assert out[name].attrs["long_name"] == "mine"
        assert out.attrs["source"] == "S2A"
        assert not set(out.attrs) & {*stale, "proj:epsg"}, what
    out = found["superresolve"]
    assert not set(out.coords) & {"proj:shape", "raster:bands", "gsd", "proj:bbox"}
    assert float(out["eo:cloud_cover"]) == 3
    assert out["SCL"].attrs == {"flag_meanings": "a b", "_FillValue": 0}
    assert out["B05"].attrs["gsd"] == 10
    assert out["B05"].attrs["native_gsd"] == 20


def test_native_pixels_keep_what_tells_their_unit_and_lose_their_old_place() -> None:
    ds = reflectance("encoding")
    wide = xr.DataArray(ds["B05"].values.repeat(2, 0).repeat(2, 1), ds["B02"].coords, ds["B02"].dims)
    flat = xr.Dataset({"B02": ds["B02"], "B05": wide.assign_attrs(transform=(10, 0), nodata=-1)}).rio.write_crs(32631)
    flat["B05"].encoding = {"scale_factor": 1e-4, "dtype": np.dtype("u2")}
    cube = xsen2.native(flat)
    assert scale_of(cube["B05"]).units == "1"
    assert cube["B05"].attrs == {"nodata": -1}
    assert cube.dsen2.superresolve(method="bicubic")["B05"].attrs["units"] == "1"


# What no reflectance can be.

WRAPPED: dict[str, Edit] = {
    "uint16": lambda raw: raw - np.uint16(1000),
    "uint32": lambda raw: raw.astype("u4") - np.uint32(1000),
    "uint64": lambda raw: raw.astype("u8") - np.uint64(1000),
    "int32 afterwards": lambda raw: (raw - np.uint16(1000)).astype("i4"),
    "float afterwards": lambda raw: (raw - np.uint16(1000)).astype("f4"),
    "nan afterwards": lambda raw: (raw - np.uint16(1000)).where(raw != 0),
}


@pytest.mark.parametrize(("kind", "road"), crossed(5, WRAPPED, ROADS))
def test_wrapped_integers_are_refused(road: str, kind: str, tmp_path: Path) -> None:
    raw = raw_cube()
    for band in raw.data_vars:
        raw[band].attrs = {}
    ds = WRAPPED[kind](raw).rio.write_crs(32631)
    with pytest.raises(RadiometryError, match=r"which nobody measured.*raw\.where\(raw != 0\)\.astype\('float32'\)"):
        ROADS[road](ds, tmp_path)
    right = raw.where(raw != 0).astype("float32") - 1000
    with warnings.catch_warnings():
        warnings.simplefilter("error", RadiometryWarning)
        ROADS[road](right.rio.write_crs(32631), tmp_path)


def test_wrapped_reflectance_is_refused_and_saturated_pixels_may_be_masked() -> None:
    raw = raw_cube()
    wrapped = ((raw - np.uint16(1000)) * np.float32(1e-4)).rio.write_crs(32631)
    with pytest.raises(RadiometryError, match="nobody measured"):
        wrapped.dsen2.superresolve(["B11"], "bicubic", quantification=1).compute()
    saturated = change(raw, "B03", lambda x: x.__setitem__((8, slice(3)), 65535))
    with pytest.raises(RadiometryError, match=r"from 65535 to 65535.*mask them.*raw < 64535"):
        saturated.dsen2.superresolve(["B11"], "bicubic").compute()
    masked = saturated.where((saturated != 0) & (saturated < 64535)).map(lambda v: v.assign_attrs(nodata=None))
    for v in masked.data_vars.values():
        v.attrs.pop("nodata")
    out = masked.dsen2.superresolve(["B11"], "bicubic").compute()
    assert np.argwhere(np.isnan(out["B03"].values[3:])).tolist() == [[5, 0], [5, 1], [5, 2]]
    declared = saturated.assign(B03=saturated["B03"].assign_attrs(nodata=65535))
    assert np.isnan(declared.dsen2.superresolve(["B11"], "bicubic")["B03"][8, :3]).all()


@settings(max_examples=200)
@given(
    dtype=st.sampled_from(["u2", "u4", "i2", "i4", "f4", "f8"]),
    missing=st.sampled_from([None, 0, 65535, -32768, -9999, np.nan]),
    gain=st.sampled_from([1.0, 100.0, 10000.0]),
    seed=st.integers(0, 999),
)
def test_real_values_are_never_refused(dtype: str, missing: float | None, gain: float, seed: int) -> None:
    """Raw pixels, saturated ones, with and without the offset; negatives; nodata of every kind."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind != "f":
        gain = 1.0
    low = 0 if kind.kind == "u" else -1000
    values = rng.integers(low, 32768 if kind.itemsize == 2 and kind.kind == "i" else 64000, (3, 9, 9)).astype("f8")
    values[0] = rng.integers(max(low, -1000), 1000, (9, 9))
    hole = np.zeros(values.shape, bool)
    nodata = None
    # Not `in range(…)`: of a float it looks at every number of the type.
    holds = kind.kind == "f" or (isinstance(missing, int) and np.iinfo(kind).min <= missing <= np.iinfo(kind).max)
    if missing is not None and holds:
        hole = rng.random(values.shape) < 0.2
        nodata = None if np.isnan(missing) else float(missing)
        values[values == missing] += 1
        values[hole] = missing * gain
    block = (values / gain).astype(kind) if kind.kind == "f" else values.astype(kind)
    scale = Scale("B02", gain, nodata, kind.kind != "f", dtype=str(kind))
    seen = seen_in(block, scale)
    np.testing.assert_array_equal(seen, ~hole)
    np.testing.assert_array_equal(np.isnan(to_nan(block, scale)), hole)
    dn, there = to_dn(block, [scale] * 3)
    np.testing.assert_array_equal(there, ~hole)
    np.testing.assert_allclose(dn[there], values[there], rtol=1e-6, atol=2e-3)


@settings(examples(8), deadline=None)
@given(
    value=st.sampled_from([np.inf, -np.inf, 3e38, -3.4028234663852886e38, 9.969209968386869e36, 1e20, 2e6, -1.5e6]),
    band=st.sampled_from([*A, "B05", "B11", "B01"]),
    seed=st.integers(0, 9),
)
def test_what_is_not_finite_or_beyond_any_reflectance_is_nodata(value: float, band: str, seed: int) -> None:
    ds = make_cube(4, 4, seed=seed)
    at = (3, 2)
    hole = change(ds, band, lambda x: x.__setitem__(at, np.nan))
    odd = change(ds, band, lambda x: x.__setitem__(at, value))
    for method in ("bicubic", "regression"):
        want, got = (d.dsen2.superresolve(["B05", "B11"], method).compute() for d in (hole, odd))
        for name in want.data_vars:
            np.testing.assert_array_equal(got[name], want[name], err_msg=str(name))
    for name in ("B03", "B01"):
        np.testing.assert_array_equal(odd.degrade(2)[name], hole.degrade(2)[name])
    np.testing.assert_array_equal(odd.dsen2.index("NDWI"), hole.dsen2.index("NDWI"))


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38])
def test_stores_hold_nodata_for_what_is_not_finite(store: str, value: float, tmp_path: Path) -> None:
    ds = make_cube(3, 3)[["B02", "B03"]]
    odd = change(ds, "B02", lambda x: x.__setitem__((5, slice(1, 4)), value))
    back = written(odd, store, tmp_path)
    assert np.argwhere(np.isnan(np.squeeze(back["B02"].values))).tolist() == [[5, 1], [5, 2], [5, 3]]
    assert np.isfinite(back["B03"]).all()


def test_extras_that_are_not_finite_are_nodata(tmp_path: Path) -> None:
    ds = make_cube(3, 3)
    ds["AOT"] = ds["B05"] / 1e4
    ds = change(ds, "AOT", lambda x: x.__setitem__((2, slice(2)), (np.inf, -np.inf)))
    scl = xr.where(ds["B05"] > 1500, 4.0, np.nan)
    scl[3, 3] = np.inf
    scl.encoding = {"dtype": np.dtype("u1"), "_FillValue": 0}
    ds["SCL"] = scl
    sr = ds.dsen2.superresolve(method="bicubic")
    for out in (sr, sr.dsen2.to_zarr(tmp_path / "a.zarr", progress=False)):
        assert np.isnan(out["AOT"][4:6, :4]).all()
        assert np.isfinite(out["AOT"]).sum() == out["AOT"].size - 8
        assert np.isnan(out["SCL"][6:8, 6:8]).all()


@pytest.mark.parametrize(
    ("store", "dtype", "missing"),
    every(7, [(s, *d) for s in STORES for d in (("u2", None), ("u2", 7), ("i2", None), ("i4", -9999), ("u4", 65535))]),
)
def test_integers_keep_their_nodata_in_every_store(store: str, dtype: str, missing: int | None, tmp_path: Path) -> None:
    ds = make_cube(3, 3, dtype=dtype)[["B02", "B03"]]
    for band in ds.data_vars:
        ds[band][2, 3:6] = 0 if missing is None else missing
        ds[band].attrs = {} if missing is None else {"_FillValue": missing}
    back = written(ds, store, tmp_path)
    for band in ds.data_vars:
        found = np.squeeze(back[band].values)
        assert np.argwhere(np.isnan(found)).tolist() == [[2, 3], [2, 4], [2, 5]]
        np.testing.assert_array_equal(found[3:], ds[band].values[3:])


@pytest.mark.parametrize("road", ["to_zarr", "to_cog"])
def test_nodata_of_other_floats_is_kept_and_zeros_are_values(road: str, tmp_path: Path) -> None:
    """A probability of 0 % is one, whether it was decoded from integers or its attribute is older than itself."""
    ds = make_cube(3, 3)[["B02"]]
    for name, value in (("AOT", -9999.0), ("CLD", 0.0), ("DEC", None)):
        ds[name] = ds["B02"] * 0
        ds[name][1, 1] = -9999
        ds[name].attrs = {} if value is None else {"nodata": value}
    ds["DEC"].encoding = {"dtype": np.dtype("u2"), "scale_factor": 0.001}
    for name in ("AOT", "CLD", "DEC"):
        if road == "to_zarr":
            back = ds[["B02", name]].dsen2.to_zarr(tmp_path / name, progress=False)[name].values
        else:
            (path,) = ds.dsen2.to_cog(tmp_path / f"{name}.tif", bands=[name], progress=False)
            back = rioxarray.open_rasterio(path, masked=True).values[0]
        assert back[0, 0] == 0
        assert np.isnan(back[1, 1]) if name == "AOT" else back[1, 1] == -9999


@pytest.mark.parametrize("road", ["to_zarr", "to_cog"])
def test_fractions_in_classes_are_not_rounded_to_others(road: str, tmp_path: Path) -> None:
    ds = make_cube(3, 3)[["B02", "B03"]]
    scl = xr.where(ds["B02"] > 1500, 4.0, 8.5)
    scl.encoding = {"dtype": np.dtype("u1"), "_FillValue": 0}
    ds["SCL"] = scl
    write = {
        "to_zarr": lambda: ds.dsen2.to_zarr(tmp_path / "a.zarr", progress=False),
        "to_cog": lambda: ds.dsen2.to_cog(tmp_path / "a.tif", bands=["SCL"], progress=False),
    }[road]
    with pytest.raises(RadiometryError, match=r"SCL is stored as classes.*holds 8\.5.*nearest"):
        write()
    written(ds.drop_vars("SCL"), "zarr int16", tmp_path)


def test_nothing_is_computed_to_tell_a_unit() -> None:
    with no_compute(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = recipe(raw_cube()).chunk()
        ds.dsen2.superresolve(method="bicubic")
        ds.degrade(2)
        ds.dsen2.index("NDWI")
    assert set(B) <= set(ds.data_vars)
