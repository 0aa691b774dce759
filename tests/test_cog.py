"""The COG sink: any GIS reads back what was written, and no half of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import cog_writer
import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
import zarr_writer
from cases import every
from cubes import make_cube, no_compute
from hypothesis import given, settings
from hypothesis import strategies as st

import xsen2
from xsen2.bands import BANDS
from xsen2.errors import BandError, CRSError, GridError, RadiometryError, StoreError, TimeError
from xsen2.sinks.cog import to_cog

cogeo = pytest.importorskip("rio_cogeo.cogeo")


def flat(rows: int = 3, columns: int = 4, **kwargs: Any) -> xr.Dataset:
    """10 m bands of `rows` x `columns` squares of 60 pixels."""
    return make_cube(10 * rows, 10 * columns, grids=(10,), **kwargs)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def left(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("dtype", "compression"),
    every(2, [(dtype, c) for c in ("deflate", "zstd") for dtype in ("uint16", "int16", "float32")]),
)
def test_file_is_a_valid_cog_with_the_same_pixels(tmp_path: Path, dtype: str, compression: str) -> None:
    ds = flat(10, 18, chunks=500)
    ds["B03"] = ds["B03"].where(ds["x"] > float(ds["x"][60]))
    (path,) = to_cog(ds, tmp_path / "new/a.tif", dtype=dtype, compression=compression, progress=False)
    assert left(tmp_path) == ["new/a.tif"]
    assert cogeo.cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as file:
        assert file.overviews(1) == [2, 4]
        assert file.block_shapes == [(512, 512)] * 4
        assert file.compression.value.lower() == compression
        assert file.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == ("3" if dtype == "float32" else "2")
        assert file.descriptions == ("B02", "B03", "B04", "B08")
        np.testing.assert_equal(file.nodata, {"uint16": 0.0, "int16": -32768.0, "float32": np.nan}[dtype])
    back = rioxarray.open_rasterio(path, masked=True)
    for number, band in enumerate(ds.data_vars):
        want = ds[band] if dtype == "float32" else np.rint(ds[band])
        np.testing.assert_array_equal(back[number].values, want.values)


def test_georeference_to_the_millimetre(tmp_path: Path) -> None:
    ds = flat(2, 3)
    up = ds.isel(y=slice(None, None, -1))
    for number, one in enumerate((ds, up, ds.transpose("x", "y"), up.transpose("x", "y"), ds.rename(y="lat", x="lon"))):
        (path,) = to_cog(one, tmp_path / f"{number}.tif", progress=False)
        with rasterio.open(path) as file:
            assert file.crs == ds.rio.crs
            assert file.transform.almost_equals((10, 0, 600000, 0, -10, 5000040), precision=1e-6)
        np.testing.assert_array_equal(read(path)[0], np.rint(ds["B02"].values))
        back = rioxarray.open_rasterio(path)
        assert back.rio.crs == ds.rio.crs
        np.testing.assert_allclose(back["x"], ds["x"], atol=1e-3)
        np.testing.assert_allclose(back["y"], ds["y"], atol=1e-3)


def test_single_pixel_of_an_area(tmp_path: Path) -> None:
    ds = make_cube(4, 4, dates=1)
    west, south, *_ = ds["B02"].rio.bounds()
    box = (west + 100, south + 100, west + 110, south + 110)
    one = ds.dsen2.superresolve(method="bicubic", area=box, area_crs=ds.rio.crs)
    (path,) = one.dsen2.to_cog(tmp_path / "a.tif", progress=False)
    with rasterio.open(path) as file:
        assert tuple(file.bounds) == pytest.approx(box, abs=1e-3)
    bare = one.drop_vars("spatial_ref").rio.write_crs(32631)
    with pytest.raises(GridError, match="single pixel"):
        to_cog(bare, tmp_path / "b.tif", progress=False)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("int16", [-32767, -41, 0, 0, 2, 20001, 32767, 32767, -32768]),
        ("uint16", [1, 1, 1, 1, 2, 20001, 40000, 65535, 0]),
        ("float32", [-40000, -41.4, 0, 0.4, 1.6, 20000.7, 40000, 1e6, np.nan]),
    ],
)
def test_values_clip_and_never_wrap(tmp_path: Path, dtype: str, expected: list[float]) -> None:
    ds = flat(1, 2)
    values = [-40000, -41.4, 0, 0.4, 1.6, 20000.7, 40000, 1e6, np.nan]
    pixels = np.full(ds["B02"].shape, 5000, np.float32)
    pixels[0, : len(values)] = values
    (path,) = to_cog(ds.assign(B02=ds["B02"].copy(data=pixels)), tmp_path / "a.tif", dtype=dtype, progress=False)
    np.testing.assert_array_equal(read(path)[0, 0, : len(values)], np.array(expected, dtype))


@settings(max_examples=25)
@given(
    st.data(),
    st.sampled_from(["uint16", "int16", "float32"]),
    st.sampled_from(["f4", "f8", "u2", "i2"]),
    st.tuples(st.integers(1, 70), st.integers(2, 70)),
    st.integers(1, 80),
)
def test_packing(data: st.DataObject, dtype: str, kind: str, shape: tuple[int, int], chunk: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = rng.normal(0, 30000, shape)
    limits = np.iinfo(kind) if kind[0] in "iu" else np.iinfo("i4")
    most = min(limits.max, 64_000)  # what lies beyond is refused: 16 bits wrap round where an offset is subtracted
    values = np.clip(values, limits.min, most).astype(kind)
    values[0, 0] = 9000  # no block of nothing but fractions
    missing = data.draw(st.sampled_from([None, 7, -1.0] if kind[0] == "f" else [None, 7]))
    values[rng.random(shape) < 0.2] = (0 if kind[0] in "iu" else np.nan) if missing is None else missing
    empty = np.isnan(values.astype("f8"))
    empty |= values == (missing if missing is not None else 0) if kind[0] in "iu" or missing is not None else False
    attrs = {} if missing is None else {"_FillValue": missing}
    y, x = 5000040 - np.arange(shape[0]) * 10.0, 600000 + np.arange(shape[1]) * 10.0
    pixels = da.from_array(values, chunks=chunk)
    ds = xr.Dataset({"B04": (("y", "x"), pixels, attrs)}, {"y": y, "x": x}).rio.write_crs(32631)
    with tempfile.TemporaryDirectory() as folder:
        (path,) = to_cog(ds, Path(folder) / "a.tif", dtype=dtype, progress=False)
        with rasterio.open(path) as file:
            got, mask = file.read(1), file.read_masks(1)
    np.testing.assert_array_equal(mask == 0, empty)  # nodata exactly where there was none
    if dtype == "float32":
        want = values.astype("f4")
    else:
        low, high = (1, 65535) if dtype == "uint16" else (-32767, 32767)
        want = np.clip(np.rint(values.astype("f4")), low, high)
    np.testing.assert_array_equal(got[~empty], want[~empty])


def test_one_file_per_band_keeps_native_grids(tmp_path: Path) -> None:
    ds = make_cube(20, 20, chunks=100)
    ds["SCL"] = (ds["B05"] % 11).astype(np.uint8)
    files = to_cog(ds, tmp_path / "out", per_band=True, progress=False)
    assert [f.name for f in files] == [f"{band}.tif" for band in ds.data_vars if band != "SCL"]
    assert left(tmp_path / "out") == sorted(f.name for f in files)
    for path in files:
        want = ds[path.stem]
        with rasterio.open(path) as file:
            assert file.res == (float(want[want.dims[1]].diff(want.dims[1])[0]),) * 2
            assert (file.bounds.left, file.bounds.top) == (600000, 5000040)
            np.testing.assert_array_equal(file.read(1), np.rint(want.values))
    (scl,) = to_cog(ds, tmp_path / "{band}_class.tif", bands=["SCL"], progress=False)
    assert scl.name == "SCL_class.tif"
    np.testing.assert_array_equal(read(scl)[0], ds["SCL"].values)
    with rasterio.open(scl) as file:
        assert (file.dtypes, file.nodata) == (("uint8",), None)
    with pytest.raises(GridError, match=r"B02 and B05.*superresolve\(\).*per_band=True"), no_compute():
        to_cog(ds, tmp_path / "b.tif", bands=["B02", "rededge1"])


def test_dates(tmp_path: Path) -> None:
    ds = flat(dates=2, chunks=60)
    files = to_cog(ds, tmp_path / "a/{date}/x_{band}.tif", bands=["red", "B02"], progress=False)
    days = ["20240601", "20240606"]
    names = [f"{day}/x_{band}.tif" for day in days for band in ("B04", "B02")]
    assert [f.relative_to(tmp_path / "a").as_posix() for f in files] == names
    assert left(tmp_path / "a") == sorted(names)
    np.testing.assert_array_equal(read(files[3])[0], np.rint(ds["B02"][1].values))
    files = to_cog(ds, tmp_path / "b", progress=False)
    assert [f.name for f in files] == [f"{day}.tif" for day in days]
    np.testing.assert_array_equal(read(files[1]), np.rint(ds.isel(time=1).to_array().values))
    (one,) = to_cog(ds.isel(time=1), tmp_path / "c", progress=False)
    assert one.name == "20240606.tif"
    twice = ds.assign_coords(time=np.array(["2024-06-01T10:30:21", "2024-06-01T10:30:46"], "M8[ns]"))
    files = to_cog(twice, tmp_path / "d", progress=False)
    assert [f.name for f in files] == ["20240601T103021.tif", "20240601T103046.tif"]
    last = to_cog(ds.transpose("y", "x", "time"), tmp_path / "e", progress=False)[1]
    np.testing.assert_array_equal(read(last)[3], np.rint(ds["B08"][1].values))
    with pytest.raises(StoreError, match=r"2 dates.*\{date\}.*isel"), no_compute():
        to_cog(ds, tmp_path / "x.tif")
    with pytest.raises(TimeError, match="twice"), no_compute():
        to_cog(ds.assign_coords(time=ds["time"].values[[0, 0]]), tmp_path / "x")
    with pytest.raises(TimeError, match="no dates"), no_compute():
        to_cog(ds.drop_vars("time"), tmp_path / "x")


def test_provenance(tmp_path: Path) -> None:
    ds = flat(dates=2, chunks=60)
    for band in ds.data_vars:
        ds[band].attrs = BANDS[band].attrs
    ds.attrs = {
        "xsen2_method": "dsen2-20m-v1 (0123456789abcdef)",
        "xsen2_consistency": "mtf",
        "offset": "removed once: -1000 DN",
        "source": "S2B_31UFT_20240601_0_L2A",
        "attribution": "contains modified Copernicus Sentinel data 2024, <é> & \x01",
        "bounds": np.array([1, 2]),
        "nothing": None,
        "a=b": "c",
    }
    ds = ds.assign_coords(item=("time", ["first", "second"]), offset=("time", [-1000, 0]))
    file = rasterio.open(to_cog(ds, tmp_path, progress=False)[1])
    tags = file.tags()
    for name in ("xsen2_method", "xsen2_consistency", "offset", "source"):
        assert tags[name] == ds.attrs[name]
    assert (tags["item"], tags["offset_of_date"]) == ("second", "0")
    assert tags["time"].startswith("2024-06-06T")
    assert tags["TIFFTAG_COPYRIGHT"] == "contains modified Copernicus Sentinel data 2024, <é> &  "
    assert tags["TIFFTAG_SOFTWARE"] == f"xsen2 {xsen2.__version__}"
    assert (tags["bounds"], tags["a_b"], "nothing" in tags) == ("[1, 2]", "c", False)
    assert file.tags(3)["wavelength"] == "664.6"
    assert file.tags(3)["long_name"] == "red"
    assert file.tags(3, ns="IMAGERY") == {"CENTRAL_WAVELENGTH_UM": "0.6646", "FWHM_UM": "0.0310"}
    assert file.units == ("1e-4",) * 4
    assert [c.name for c in file.colorinterp[:3]] == ["blue", "green", "red"]


def test_superresolved_with_errors_and_index(tmp_path: Path) -> None:
    sr = xsen2.sample().isel(time=[0], y=slice(0, 120), x=slice(0, 120), y_20m=slice(0, 60), x_20m=slice(0, 60))
    sr = sr.isel(y_60m=slice(0, 20), x_60m=slice(0, 20)).dsen2.superresolve(bands=["B05", "B11"], uncertainty=True)
    (path,) = sr.dsen2.to_cog(tmp_path / "a.tif", progress=False)
    with rasterio.open(path) as file:
        assert file.descriptions == tuple(sr.data_vars)
        assert "B05_se" in file.descriptions
        assert file.tags()["xsen2_method"] == sr.attrs["xsen2_method"]
        for number, band in enumerate(sr.data_vars, 1):
            want = np.rint(sr[band][0].values).clip(1)
            np.testing.assert_allclose(file.read(number), want, atol=1)  # blocks of a network differ by a hair
    ndwi = sr.dsen2.index("NDWI")
    for one, name in ((ndwi, "b.tif"), (ndwi.to_dataset(), "c.tif")):
        (path,) = to_cog(one, tmp_path / name, progress=False)
        with rasterio.open(path) as file:
            assert (file.dtypes, file.descriptions) == (("float32",), ("NDWI",))
            np.testing.assert_array_equal(file.read(1), ndwi[0].values)
            assert file.tags(1)["formula"] == ndwi.attrs["formula"]
    both = sr.assign(NDWI=ndwi)
    assert "NDWI" not in rasterio.open(to_cog(both, tmp_path / "d.tif", progress=False)[0]).descriptions
    with pytest.raises(StoreError, match=r"B05 is uint16 .*NDWI is float32.*per_band=True"), no_compute():
        to_cog(both, tmp_path / "e.tif", bands=["B05", "NDWI"])
    (path,) = to_cog(both, tmp_path / "e.tif", bands=["B03", "NDWI"], dtype="float32", progress=False)
    np.testing.assert_array_equal(read(path)[1], ndwi[0].values)


def test_reflectance_gets_a_scale(tmp_path: Path) -> None:
    ds = flat(2, 2) / 10000
    for band in ds.data_vars:
        ds[band].attrs["units"] = "1"
    (path,) = to_cog(ds, tmp_path / "a.tif", progress=False)
    back = rioxarray.open_rasterio(path, mask_and_scale=True)
    np.testing.assert_allclose(back[0], ds["B02"], atol=0.5001e-4)
    np.testing.assert_array_equal(read(path)[0], np.rint(ds["B02"] * 10000))
    big = flat(5, 5) / 10000
    with pytest.raises(RadiometryError, match="looks like"):
        to_cog(big, tmp_path / "b.tif", progress=False)
    ds["B03"].attrs["scale_factor"] = 1e-4
    with pytest.raises(RadiometryError, match="raw"), no_compute():
        to_cog(ds, tmp_path / "b.tif")
    assert left(tmp_path) == ["a.tif"]


def test_classes_stay_classes(tmp_path: Path) -> None:
    ds = flat(10, 10)
    scl = (ds["B02"] % 2 * 5).round() * 2
    decoded = scl.where(scl > 0)
    decoded.encoding = {"dtype": np.dtype("u1"), "_FillValue": 0}
    ds = xr.Dataset({"SCL": decoded, "QA": scl.astype(np.uint16).assign_attrs(_FillValue=2)}).rio.write_crs(32631)
    ds["cloudy"] = scl > 6
    files = to_cog(ds, tmp_path, per_band=True, progress=False)
    for path, name, nodata in zip(files, ("SCL", "QA", "cloudy"), (0, 2, None), strict=True):
        with rasterio.open(path) as file:
            assert (file.nodata, file.dtypes[0]) == (nodata, "uint16" if name == "QA" else "uint8")
            np.testing.assert_array_equal(file.read(1), scl > 6 if name == "cloudy" else scl)
        with rasterio.open(path, overview_level=0) as file:
            assert set(np.unique(file.read(1))) <= set(np.unique(read(path)))  # no mean of two classes


def test_refusals_compute_and_leave_nothing(tmp_path: Path) -> None:
    ds = flat(1, 1, chunks=30)
    (tmp_path / "there.tif").write_bytes(b"mine")
    (tmp_path / "folder.tif").mkdir()
    other = xr.DataArray(np.zeros((60, 60), complex), {"y": ds["y"], "x": ds["x"]}, ("y", "x"))
    cases: list[tuple[type[Exception], str, xr.Dataset, str, dict[str, Any]]] = [
        (StoreError, "uint16, int16, float32", ds, "a.tif", {"dtype": "int8"}),
        (StoreError, "deflate, zstd", ds, "a.tif", {"compression": "jpeg"}),
        (StoreError, "overwrite=True", ds, "there.tif", {}),
        (StoreError, "is a folder", ds, "folder.tif", {"overwrite": True}),
        (StoreError, "is a file", ds, "there.tif/a.tif", {}),
        (StoreError, r"ends in \.tif", ds, "folder", {}),
        (StoreError, "local disk", ds, "s3://bucket/a.tif", {}),
        (StoreError, "template", ds, "{name}.tif", {}),
        (StoreError, "template", ds, "{band.tif", {}),
        (StoreError, "no date", ds, "{date}.tif", {}),
        (StoreError, r"4 bands.*\{band\}", ds, "a.tif", {"per_band": True}),
        (StoreError, "two files", ds[["B02"]].assign(b02=ds["B02"]), "{band}.tif", {}),
        (StoreError, "complex128", ds.assign(z=other), "a.tif", {"bands": ["z"]}),
        (GridError, "no pixels along 'x'", ds.isel(x=slice(0)), "a.tif", {}),
        (BandError, "no 'B11'", ds, "a.tif", {"bands": ["B11"]}),
        (BandError, "give a list", ds, "a.tif", {"bands": "B02"}),
        (BandError, "leaves nothing", ds, "a.tif", {"bands": []}),
        (BandError, "nothing to write", xr.Dataset(), "a.tif", {}),
        (CRSError, r"ds\.rio\.write_crs", flat(1, 1, epsg=None), "a.tif", {}),
        (GridError, "not evenly spaced", ds.isel(x=[0, 1, 5]), "a.tif", {}),
        (GridError, "no numeric coordinate", ds.drop_vars("x"), "a.tif", {}),
    ]
    for error, said, one, name, arguments in cases:
        path = name if "://" in name else tmp_path / name
        with pytest.raises(error, match=said), no_compute():
            to_cog(one, path, **{"progress": False} | arguments)
        assert left(tmp_path) == ["there.tif"], name
    assert (tmp_path / "there.tif").read_bytes() == b"mine"


def _fails(block: np.ndarray) -> np.ndarray:
    raise OSError("a link that cannot be read")


def test_replacing_keeps_the_old_file_until_the_end(tmp_path: Path) -> None:
    ds = flat(2, 2, chunks=60)
    (path,) = to_cog(ds, tmp_path / "a.tif", progress=False)
    before = path.read_bytes()
    broken = ds.map(lambda v: v.copy(data=v.data.map_blocks(_fails, dtype="f4", meta=np.empty((0, 0), "f4"))))
    with pytest.raises(OSError, match="cannot be read"):
        to_cog(broken, path, overwrite=True, progress=False)
    assert path.read_bytes() == before
    source = rioxarray.open_rasterio(path, masked=True, chunks=60).to_dataset("band")
    source = source.rename({1: "B02", 2: "B03", 3: "B04", 4: "B08"})
    to_cog(source + 1, path, overwrite=True, progress=False)
    np.testing.assert_array_equal(read(path)[2], np.rint(ds["B04"]) + 1)
    assert left(tmp_path) == ["a.tif"]


@pytest.mark.parametrize("stage", ["0.raw", "cog.tif"])
def test_killed_run_leaves_no_file_and_the_next_one_clears_up(tmp_path: Path, stage: str) -> None:
    path, scratch = tmp_path / "a.tif", tmp_path / ".a.tif.xsen2-cog"
    process = zarr_writer.begin(cog_writer.write, str(path))
    zarr_writer.wait_for(scratch, f"*/{stage}", process)
    process.kill()
    process.join()
    if stage == "0.raw" or not path.exists():  # a COG this small may be whole before the signal comes
        assert not path.exists()
        assert scratch.is_dir()
    to_cog(cog_writer.cube(), path, overwrite=True, progress=False)
    assert os.listdir(tmp_path) == ["a.tif"]
    assert cogeo.cog_validate(path, strict=True)[0]
    np.testing.assert_array_equal(read(path)[0], np.rint(cog_writer.cube()["B02"]))


@pytest.mark.parametrize(
    "room",
    [
        300_000,
        pytest.param(1_000_000, marks=pytest.mark.slow),
        pytest.param(1_453_000, marks=pytest.mark.slow),
        1_733_000,
    ],
)
def test_full_disk_is_named_and_leaves_nothing(tmp_path: Path, room: int) -> None:
    """A limit on the size of files fails where a full disk does; the last ones GDAL itself does not notice."""
    folder = tmp_path / "here"
    folder.mkdir()
    process = zarr_writer.begin(cog_writer.write_with, room, str(folder / "a.tif"), str(tmp_path / "said"))
    process.join(60)
    assert process.exitcode == 1
    said = (tmp_path / "said").read_text()
    assert "xsen2.errors.StoreError" in said
    assert "disk is full" in said or "Is the disk full" in said
    assert os.listdir(folder) == []


def _when_there(block: np.ndarray, switch: str, number: int, block_info: Any = None) -> np.ndarray:
    """A source that fails from a date on until its file is there; what is read is noted beside it."""
    date = block_info[0]["array-location"][0][0]
    if date >= number and not os.path.exists(switch):
        raise OSError("a link that cannot be read")
    with open(f"{switch}.{date}", "a") as file:
        file.write(".")
    return block


def of_source(ds: xr.Dataset, switch: Path, number: int) -> xr.Dataset:
    meta = np.empty((0, 0, 0), np.float32)
    return ds.map(
        lambda v: v.copy(data=v.data.map_blocks(_when_there, str(switch), number, dtype=meta.dtype, meta=meta))
    )


@pytest.mark.parametrize("per_band", [False, True])
def test_the_same_call_goes_on_with_the_next_file(tmp_path: Path, per_band: bool) -> None:
    ds, switch, out = flat(2, 2, dates=3, chunks=60), tmp_path / "switch", tmp_path / "out"
    whole = to_cog(ds, tmp_path / "whole", per_band=per_band, progress=False)

    def write(**kwargs: Any) -> list[Path]:
        return to_cog(of_source(ds, switch, 2), out, per_band=per_band, progress=False, **kwargs)

    with pytest.raises(OSError, match="cannot be read"):
        write()
    assert {path.name[:8] for path in out.iterdir()} == {"20240601", "20240606"}
    first = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    for path in tmp_path.glob("switch.*"):
        path.unlink()
    if per_band:
        (out / "20240601_B03.tif").unlink()
        first.pop("20240601_B03.tif")
    switch.touch()
    files = write()
    assert sorted(path.name for path in tmp_path.glob("switch.*")) == ["switch.0"] * per_band + ["switch.2"]
    assert (tmp_path / "switch.2").read_text() == "." * 4 * 4
    assert {name: (out / name).stat().st_mtime_ns for name in first} == first
    assert [f.name for f in files] == [f.name for f in whole]
    for one, other in zip(files, whole, strict=True):
        np.testing.assert_array_equal(read(one), read(other))
        with rasterio.open(one) as a, rasterio.open(other) as b:
            assert a.tags() | {"xsen2_run": ""} == b.tags() | {"xsen2_run": ""}
    assert left(out) == sorted(f.name for f in files)
    with no_compute():
        assert write() == files
    # Another type, other pixels or another date in the place of one of its files are no run of this call.
    for other in (
        lambda: write(dtype="int16"),
        lambda: write(compression="zstd"),
        lambda: to_cog(of_source(ds + 1, switch, 2), out, per_band=per_band, progress=False),
        lambda: to_cog(ds, out, per_band=per_band, progress=False),
        lambda: to_cog(of_source(ds, switch, 2).assign_attrs(a="b"), out, per_band=per_band, progress=False),
    ):
        with no_compute(), pytest.raises(StoreError, match=r"exists, and was not written by this call.*overwrite=True"):
            other()
    files[1].write_bytes((out / files[-1]).read_bytes())
    with no_compute(), pytest.raises(StoreError, match=rf"{files[1].name} exists"):
        write()
    write(overwrite=True)
    np.testing.assert_array_equal(read(files[1]), read(whole[1]))


def test_progress_is_one_line_that_ends_at_100(tmp_path: Path, capsys: Any) -> None:
    ds = flat(dates=2, chunks=60)
    to_cog(ds, tmp_path / "quiet", progress=False)
    assert capsys.readouterr().err == ""
    to_cog(ds, tmp_path / "a")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "100%" in shown


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_a_call_that_is_stopped_leaves_nothing_but_whole_files(tmp_path: Path, scheduler: str) -> None:
    ds = flat(dates=2, chunks=60)
    seen: list[xsen2.Progress] = []

    def stop(now: xsen2.Progress) -> bool:
        seen.append(now)
        return now.done < now.total * 3 // 4

    with dask.config.set(scheduler=scheduler), pytest.raises(xsen2.Cancelled, match=r"blocks.*Files that are whole"):
        to_cog(ds, tmp_path / "a", progress=stop)
    assert os.listdir(tmp_path / "a") == ["20240601.tif"]
    assert [now.done for now in seen] == list(range(1, seen[-1].done + 1))
    whole = to_cog(ds, tmp_path / "whole", progress=False)
    assert [file.read_bytes() for file in to_cog(ds, tmp_path / "a", progress=False)] == [f.read_bytes() for f in whole]


def test_cluster_gives_the_same_files(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    ds = flat(dates=2, chunks=60)
    one = to_cog(ds, tmp_path / "threads", progress=False)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        two = to_cog(ds, tmp_path / "cluster", progress=False)
    assert [f.read_bytes() for f in one] == [f.read_bytes() for f in two]
    assert left(tmp_path / "cluster") == [f.name for f in two]
