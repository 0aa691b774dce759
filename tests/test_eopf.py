"""`xsen2.open_eopf` and trees of EOPF products: whole, packed, served, contradictory and broken."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import eopf_product
import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import safe_product
import scenes
import stac_api
import xarray as xr
import zarr
from click.testing import CliRunner
from cubes import no_compute
from eopf_product import L1C, L2A, needs_real, placed, product, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.transform import from_origin

import xsen2
from xsen2 import ReadWarning
from xsen2.bands import BANDS
from xsen2.cli.main import main
from xsen2.cube import DIMS, recognise
from xsen2.errors import BandError, CRSError, GridError, RadiometryError, SourceError, Xsen2Error
from xsen2.sources import eopf_store
from xsen2.sources.open import Wanted, open_source

pytestmark = needs_real
both = pytest.mark.parametrize("name", [L1C, L2A])
R10, R20, R60 = (f"measurements/reflectance/r{gsd}m" for gsd in (10, 20, 60))


def assert_shows(cube: xr.Dataset, made: eopf_product.Product) -> None:
    """The cube has the product's pixels, at their places."""
    layers = {name: pixels for name, pixels in made.scene.bands.items() if pixels.ndim == 2}
    opaque, cirrus, snow = made.scene.bands["CLASSI"]
    layers["CLASSI"] = opaque + 2 * cirrus + 4 * snow
    computed = cube.compute()
    left, _, _, top = made.scene.bounds
    for name in map(str, cube.data_vars):
        gsd = 60 if name == "CLASSI" else scenes.gsd_of(name)
        pixels = layers[name]
        want = np.where(pixels == 0, np.nan, pixels).astype("float32") if name in BANDS else pixels
        assert computed[name].dims == ("time", *DIMS[gsd])
        assert computed[name].dtype == cube[name].dtype == want.dtype
        np.testing.assert_array_equal(computed[name][0], want, err_msg=name)
        ydim, xdim = DIMS[gsd]
        np.testing.assert_array_equal(cube[xdim], left + gsd * (np.arange(cube.sizes[xdim]) + 0.5))
        np.testing.assert_array_equal(cube[ydim], top - gsd * (np.arange(cube.sizes[ydim]) + 0.5))


# --- pixels ---------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("zarr_format", "consolidated"), [(2, True), (2, False), (3, True)])
def test_pixels_and_places_arrive(name: str, zarr_format: int, consolidated: bool, tmp_path: Path) -> None:
    made = product(name, chunk=4)
    with no_compute():
        cube = xsen2.open_eopf(made.write(tmp_path, zarr_format, consolidated))
    assert list(cube.data_vars) == [*BANDS, "CLASSI" if name == L1C else "SCL"]
    assert_shows(cube, made)
    checked = recognise(cube)
    assert (checked.resolution, checked.bounds, checked.crs.to_epsg()) == (10, made.scene.bounds, made.scene.epsg)
    assert cube.B02.rio.transform().almost_equals(from_origin(made.scene.ulx, made.scene.uly, 10, 10), 1e-6)
    time = {L1C: "2025-01-13T10:38:32.156995", L2A: "2025-08-11T11:30:15.841115"}[name]
    assert cube.time.values[0] == np.datetime64(time, "ns")
    assert cube.offset.values.tolist() == [-1000]
    assert cube.attrs == {
        "product": name,
        "source": name,
        "tile": name[39:44],
        "level": name[7:10],
        "platform": f"Sentinel-{name[1:3]}",
        "processing_baseline": "05.11",
        "units": "DN = 10000 x reflectance",
        "offset": "removed once: -1000 DN added to the raw pixels; per date in the coordinate 'offset'",
        "special_values": "NODATA 0",
        "attribution": "contains modified Copernicus Sentinel data 2025",
    }


def test_a_zip_and_a_store_are_the_folder(tmp_path: Path) -> None:
    made = product(L2A)
    home = made.write(tmp_path)
    folder = xsen2.open_eopf(home).compute()
    for store in (
        f"{home}/",
        f"file://{home}",
        zipped(home, tmp_path / "a product#1.zarr.zip"),
        zipped(home, tmp_path / "deep.ZIP", f"down/loads/{home.name}/"),
        f"file://{zipped(home, tmp_path / 'b.zarr.zip', f'{home.name}/')}",
        zarr.storage.LocalStore(home, read_only=True),
    ):
        with no_compute():
            cube = xsen2.open_eopf(store)
        xr.testing.assert_identical(cube.compute(scheduler="threads"), folder)
        again = pickle.loads(pickle.dumps(cube))
        xr.testing.assert_identical(again.compute(scheduler="synchronous"), folder)


def test_bands_and_layers_by_name(tmp_path: Path) -> None:
    made = product(L2A)
    home = made.write(tmp_path)
    cube = xsen2.open_eopf(home, ["swir16", "b8a", "scl", "CLDPRB", "CLASSI"])
    assert list(cube.data_vars) == ["B11", "B8A", "SCL", "CLDPRB", "CLASSI"]
    assert_shows(cube, made)
    assert cube.SCL.attrs["flag_values"][-1] == 11
    assert list(xsen2.open_eopf(home, "red").data_vars) == ["B04"]
    for bands, words in ((["B10"], "cirrus"), (["B99"], "unknown band"), ([], "is empty")):
        with pytest.raises(BandError, match=words):
            xsen2.open_eopf(home, bands)


def test_radiometry_is_what_the_attributes_say(tmp_path: Path) -> None:
    made = product(L2A)
    raw = made.scene.bands["B03"].astype("int32")
    raw[0, :6] = [-999, -500, 64535, 0, 17000, 1]  # 0 is nodata, raw 1 the darkest there is
    made.scene.bands["B03"] = raw
    found = xsen2.open_eopf(made.write(tmp_path / "1"), ["B03"]).B03.values[0, 0, :6]
    np.testing.assert_array_equal(found, [-999, -500, 64535, np.nan, 17000, 1])

    def narrow(node: Any) -> None:
        node["attributes"] |= {"valid_min": 2, "valid_max": 20000}

    found = xsen2.open_eopf(made.edited(f"{R10}/b03", narrow).write(tmp_path / "2"), ["B03"]).B03.values[0, 0, :6]
    np.testing.assert_array_equal(found, [np.nan, -500, np.nan, np.nan, 17000, 1])

    def half(node: Any) -> None:
        for attrs in (node["attributes"], node["attributes"]["_eopf_attrs"]):
            attrs |= {"scale_factor": 0.0002, "add_offset": -0.2}

    cube = xsen2.open_eopf(made.edited(f"{R10}/b03", half).write(tmp_path / "3"), ["B03"])
    np.testing.assert_allclose(cube.B03.values[0, 0, [0, 2, 4]], [-1998, 129070, 34000], rtol=1e-6)
    assert "10000 / 5000" in cube.attrs["offset"]


# --- the same product otherwise -------------------------------------------------------------------


def trees(home: Path, **kwargs: Any) -> xr.DataTree:
    return xr.open_datatree(home, engine="zarr", **kwargs)


def assert_same_pixels(one: xr.Dataset, other: xr.Dataset, unit: float = 1) -> None:
    for band in BANDS:
        a, b = one[band].values.squeeze(), other[band if band in other else band.lower()].values.squeeze() * unit
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        assert np.nanmax(np.abs(a - b)) < 0.01


@both
@pytest.mark.parametrize("chunks", [None, {"x": 36, "y": 18}])
def test_the_tree_gives_the_same_pixels(name: str, chunks: Any, tmp_path: Path) -> None:
    made = product(name, cells=(9, 8), chunk=3)
    home = made.write(tmp_path)
    want = xsen2.open_eopf(home, chunks=60).dsen2.superresolve(method="bicubic")
    tree = trees(home, chunks=chunks)
    for obj in (tree, tree["/measurements/reflectance"]):
        with no_compute():
            sharp = obj.dsen2.superresolve(method="bicubic")
        assert_same_pixels(want, sharp, 10000)
        assert sharp.rio.crs.to_epsg() == made.scene.epsg
        assert sharp.rio.transform() == from_origin(made.scene.ulx, made.scene.uly, 10, 10)
    raw = trees(home, chunks=chunks, mask_and_scale=False)
    with pytest.raises(RadiometryError, match=r"scale_factor=0.0001 and add_offset=-0.1 .* mask_and_scale=True"):
        raw.dsen2.superresolve(method="bicubic")


def test_the_tree_of_format_3_gives_the_same_pixels(tmp_path: Path) -> None:
    made = product(L2A)
    two, three = (made.write(tmp_path / str(n), n) for n in (2, 3))
    want = xsen2.open_eopf(two).dsen2.superresolve(method="bicubic")
    assert_same_pixels(want, trees(three).dsen2.superresolve(method="bicubic"), 10000)


def same_as_safe(name: str, safe: safe_product.Product, tmp_path: Path, *methods: str) -> None:
    eopf = placed(replace(product(name), scene=safe.scene, chunk=5))
    home = eopf.write(tmp_path)
    one, other = xsen2.open_safe(safe.write(tmp_path), BANDS), xsen2.open_eopf(home, BANDS)
    for band in BANDS:
        np.testing.assert_array_equal(one[band], other[band])
    for method in methods:
        want = one.dsen2.superresolve(method=method).compute()
        assert_same_pixels(want, other.dsen2.superresolve(method=method))
    assert_same_pixels(want, trees(home).dsen2.superresolve(method=method), 10000)


@pytest.mark.parametrize(
    ("name", "safe"), [(L1C, safe_product.L1C_0301), (L2A, safe_product.L2A_0212), (L2A, safe_product.L2A_0509)]
)
def test_the_same_pixels_as_from_safe(name: str, safe: str, tmp_path: Path) -> None:
    same_as_safe(name, safe_product.product(safe, cells=(9, 8)), tmp_path, "bicubic")


@pytest.mark.real
@pytest.mark.skipif(bool(scenes.missing()), reason=str(scenes.missing()))
def test_a_real_crop_gives_the_same_pixels_as_from_safe(tmp_path: Path) -> None:
    safe = safe_product.product(safe_product.L1C_0301, cells=(10, 10))
    found = scenes.real(f"{scenes.CITY}_1")
    for name in BANDS:
        size = 600 // BANDS[name].gsd
        safe.scene.bands[name] = found.bands[name][:size, :size]
    same_as_safe(L1C, safe, tmp_path, "regression", "twogrid")


def test_the_same_cube_as_from_safe(tmp_path: Path) -> None:
    safe = safe_product.product(safe_product.L2A_0509)
    eopf = placed(replace(product(L2A), scene=safe.scene))
    layers = (*BANDS, "SCL", "CLDPRB", "CLASSI")
    one, other = xsen2.open_safe(safe.write(tmp_path), layers), xsen2.open_eopf(eopf.write(tmp_path), layers)
    assert set(one.attrs) == set(other.attrs)
    assert one.attrs["units"] == other.attrs["units"]
    one, other = (cube.drop_attrs(deep=False).assign_coords(time=[0]) for cube in (one, other))
    xr.testing.assert_identical(one.compute(), other.compute())


# --- laziness and chunks --------------------------------------------------------------------------


def test_pixels_are_read_when_they_are_computed_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = product(L2A, cells=(14, 11), chunk=4)
    home = made.write(tmp_path)
    reads: list[str] = []
    part = eopf_store._part

    def counted(array: Any, window: Any, where: str, what: str) -> Any:
        reads.append(f"{where} {what}")
        return part(array, window, where, what)

    monkeypatch.setattr(eopf_store, "_part", counted)
    cube = xsen2.open_eopf(home, chunks=48)
    assert sorted(where[-12:] for where in reads) == sorted(f"/{d} the whole" for d in "xyxyxyxy")
    reads.clear()
    chunks = sum(cube[band].data.npartitions for band in cube.data_vars)
    assert cube.B02.chunks == ((1,), (48, 36), (48, 18))
    cube.dsen2.superresolve(method="bicubic").compute()
    assert len(reads) == len(set(reads)) == chunks
    chunk = home / R10 / "b03/1.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    xsen2.open_eopf(home).drop_vars("B03").compute()
    with pytest.raises(SourceError, match=r"r10m/b03: rows \d+ to \d+, columns \d+ to \d+ cannot be read"):
        xsen2.open_eopf(home).B03.compute()
    assert xsen2.open_eopf(home, chunks=48).B04.data.name == cube.B04.data.name
    assert xsen2.open_eopf(home, chunks=24).B04.data.name != cube.B04.data.name
    with pytest.raises(GridError, match="chunks=0"):
        xsen2.open_eopf(home, chunks=0)


# --- from elsewhere -------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="fsspec reads https:// with aiohttp")
def test_over_http(tmp_path: Path) -> None:
    made = product(L2A, chunk=3)
    home = made.write(tmp_path)
    zipped(home, tmp_path / "p.zarr.zip")
    folder = xsen2.open_eopf(home).compute()
    reads: list[str] = []
    with stac_api.serve([], tmp_path, reads) as base:
        url = f"{base}files/"
        cube = xsen2.open_eopf(f"{url}{home.name}")
        assert not any("/b0" in path for path in reads)
        xr.testing.assert_identical(cube.compute(), folder)
        assert len([path for path in reads if "/r10m/b02/" in path]) == 4
        xr.testing.assert_identical(xsen2.open_eopf(f"{url}p.zarr.zip").compute(), folder)
        xr.testing.assert_identical(open_source(f"{url}{home.name}").compute(), folder)
        with pytest.raises(SourceError, match="cannot be read as a Zarr store"):
            xsen2.open_eopf(f"{url}nothing.zarr")
        again = xsen2.open_eopf(f"{url}{home.name}")
    with pytest.raises(SourceError, match="its server failed"):  # and not nodata
        again.B02.compute()


def run(*args: object) -> Any:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_run_from_the_shell(tmp_path: Path) -> None:
    made = product(L2A, cells=(9, 8))
    home = made.write(tmp_path)
    home.rename(tmp_path / "renamed")
    want = xsen2.open_eopf(tmp_path / "renamed").dsen2.superresolve(["B11"], method="bicubic")
    for number, source in enumerate((tmp_path / "renamed", zipped(tmp_path / "renamed", tmp_path / "p.zarr.zip"))):
        out = tmp_path / f"{number}.zarr"
        result = run("run", source, out, "--method", "bicubic", "--bands", "B11", "--quiet")
        assert (result.exit_code, result.output) == (0, "")
        back = xr.open_zarr(out, decode_coords="all")
        np.testing.assert_array_equal(back.B11, np.rint(want.B11.values))
        assert back.rio.crs.to_epsg() == made.scene.epsg
    left, bottom, *_ = made.scene.bounds
    inside = (left + 130, bottom + 130, left + 170, bottom + 290)
    box = Transformer.from_crs(made.scene.epsg, 4326, always_xy=True).transform_bounds(*inside)
    cut = open_source(str(tmp_path / "renamed"), Wanted(box))
    assert cut.sizes["y"] < want.sizes["y"]
    whole = xsen2.open_eopf(tmp_path / "renamed")
    xr.testing.assert_identical(cut.compute(), whole.sel({d: cut[d] for d in cut.dims}).compute())
    broken = made.edited(f"{R10}/b02", lambda node: node["attributes"].pop("scale_factor"))
    broken = broken.edited(f"{R10}/b02", lambda node: node["attributes"].pop("_eopf_attrs"))
    refused = run("run", broken.write(tmp_path / "broken"), tmp_path / "no.zarr")
    assert refused.exit_code == 2
    assert "has no scale_factor" in refused.stderr


def test_a_part_that_was_stored_anew(tmp_path: Path) -> None:
    made = product(L2A, cells=(9, 8))
    home = made.write(tmp_path)
    part = trees(home, chunks={}).map_over_datasets(
        lambda ds: ds.isel(x=slice(0, ds.sizes["x"] // 2), y=slice(0, ds.sizes["y"] // 3)) if "x" in ds.dims else ds
    )
    part.to_zarr(tmp_path / "part.zarr", zarr_format=2)
    cube = xsen2.open_eopf(tmp_path / "part.zarr")
    assert (cube.sizes["y"], cube.sizes["x"]) == (18, 24)
    np.testing.assert_array_equal(cube.B02, xsen2.open_eopf(home).B02[:, :18, :24])


# --- what is refused ------------------------------------------------------------------------------


def test_paths_that_are_no_product(tmp_path: Path) -> None:
    made = product(L1C)
    home = made.write(tmp_path / "1")
    (tmp_path / "text.zarr.zip").write_text("hello")
    (tmp_path / "empty.zarr").mkdir()
    zarr.create_group(tmp_path / "plain.zarr")
    for path, words in (
        (tmp_path / "no.zarr", "does not exist"),
        (tmp_path / "text.zarr.zip", "is not a zip that can be read"),
        (tmp_path / "empty.zarr", "cannot be read as a Zarr store"),
        (tmp_path / "plain.zarr", "has no group measurements/reflectance"),
        (zipped(home / R10 / "b02", tmp_path / "none.zip", "a/"), "holds no Zarr store"),
        (made.without("measurements/reflectance").write(tmp_path / "2"), "has no group measurements/reflectance"),
    ):
        with pytest.raises(SourceError, match=words):
            xsen2.open_eopf(path)


@pytest.mark.parametrize("gone", [R60, f"{R60}/b01", f"{R10}/b04", "conditions/mask/l2a_classification"])
def test_what_is_missing_is_named_unless_left_out(gone: str, tmp_path: Path) -> None:
    made = product(L2A)
    home = made.without(gone).write(tmp_path)
    lost = {R60: ["B01", "B09"], f"{R60}/b01": ["B01"], f"{R10}/b04": ["B04"]}.get(gone, ["SCL"])
    with pytest.warns(ReadWarning, match=rf"missing and are left out: {lost[0]} ") as warned:
        whole = xsen2.open_eopf(home)
    assert [one.filename for one in warned if one.category is ReadWarning] == [__file__]
    assert list(whole.data_vars) == [name for name in (*BANDS, "SCL") if name not in lost]
    with pytest.raises(BandError, match=rf"missing: {lost[0]} .*bands=\['B08'\]"):
        xsen2.open_eopf(home, [lost[0], "B08"])
    assert_shows(xsen2.open_eopf(home, [name for name in BANDS if name not in lost]), made)


def attribute(key: str, value: Any) -> Callable[[Any], None]:
    def change(node: Any) -> None:
        *parents, last = key.split("/")
        for part in ("attributes", *parents):
            node = node[part]
        if value is None:
            del node[last]
        else:
            node[last] = value

    return change


SAID = "stac_discovery/properties"
B04, SCL = f"{R10}/b04", "conditions/mask/l2a_classification/r20m/scl"
BROKEN: list[tuple[str, str, Any, type[Xsen2Error], str]] = [
    (B04, "scale_factor", 0.0002, RadiometryError, "scale_factor is 0.0002, but _eopf_attrs/scale_factor is 0.0001"),
    (B04, "scale_factor", "0.0001", RadiometryError, "scale_factor is '0.0001', not a number"),
    (B04, "scale_factor", 0, RadiometryError, "scale_factor is 0, not a number from 1e-06 to 1"),
    (B04, "add_offset", 0, RadiometryError, "add_offset is 0, but _eopf_attrs/add_offset is -0.1: pass offset=-1000"),
    (B04, "add_offset", [-0.1], RadiometryError, "add_offset is [-0.1], not a number"),
    (B04, "add_offset", True, RadiometryError, "add_offset is True"),
    (B04, "fill_value", 7, RadiometryError, "the array's fill_value is 0, but fill_value is 7"),
    (B04, "_FillValue", 65535, RadiometryError, "the array's fill_value is 0, but _FillValue is 65535"),
    (B04, "valid_min", "a", RadiometryError, "valid_min is 'a', not a number"),
    (B04, "valid_max", 1, RadiometryError, "valid_min 1 and valid_max 1 leave out 11000"),
    (B04, "proj:epsg", 32630, CRSError, "horizontal_CRS_code is EPSG:32629, but proj:epsg of"),
    (B04, "proj:epsg", 4326, CRSError, "is 4326, but every Sentinel-2 tile is in a UTM zone"),
    (B04, "proj:transform", "a", GridError, "proj:transform is 'a', not 6 numbers"),
    (B04, "proj:transform", [10, 0, 600005, 0, -10, 4600020], GridError, "by the coordinates of its grid it is [10, 0"),
    (B04, "proj:transform", [20, 0, 600000, 0, -20, 4600020], GridError, "by the coordinates of its grid it is [10, 0"),
    (B04, "proj:bbox", [600060, 4490220, 709800, 4600020], GridError, "the coordinates of its grid span [600000"),
    (B04, "_ARRAY_DIMENSIONS", ["x", "y"], GridError, "has the dims ['x', 'y'], not y and x"),
    (SCL, "proj:bbox", [0, 0, 1, 1], GridError, "scl: proj:bbox is [0.0, 0.0, 1.0, 1.0]"),
    ("", "other_metadata/horizontal_CRS_code", "EPSG:99", CRSError, "horizontal_CRS_code is 'EPSG:99'"),
    ("", "other_metadata/mean_sensing_time", "yesterday", SourceError, "mean_sensing_time is 'yesterday'"),
    ("", "other_metadata/mean_sensing_time", 7, SourceError, "mean_sensing_time is 7"),
    (
        "",
        f"{SAID}/eopf:baseline",
        "03.01",
        RadiometryError,
        "several processing baselines: 03.01 in eopf:baseline, 05.11",
    ),
    ("", "stac_discovery/id", L2A.replace("0511", "0301"), RadiometryError, "03.01 in the product's id: pass"),
    ("", f"{SAID}/processing:version", "02.08", RadiometryError, "02.08 in processing:version, 05"),
]


@pytest.mark.parametrize(("path", "key", "value", "error", "words"), BROKEN)
def test_contradictions_are_named(
    path: str, key: str, value: Any, error: type[Xsen2Error], words: str, tmp_path: Path
) -> None:
    home = product(L2A).edited(path, attribute(key, value)).write(tmp_path)
    with pytest.raises(Xsen2Error) as caught:
        xsen2.open_eopf(home)
    assert type(caught.value) is error
    assert words in str(caught.value)


def test_contradictions_about_the_offset_can_be_settled(tmp_path: Path) -> None:
    made = product(L2A)
    bare = made
    for band in BANDS:
        path = f"measurements/reflectance/r{BANDS[band].gsd}m/{band.lower()}"
        bare = bare.edited(path, attribute("add_offset", None)).edited(path, attribute("_eopf_attrs", {}))
    home = bare.write(tmp_path / "1")
    with pytest.raises(RadiometryError, match=r"05.11 .* means an offset of -1000 DN, .* missing, which is 0 DN: pass"):
        xsen2.open_eopf(home)
    assert_shows(xsen2.open_eopf(home, offset=-1000), made)
    assert xsen2.open_eopf(home, offset=0).offset.item() == 0
    with pytest.raises(RadiometryError, match="offset=7"):
        xsen2.open_eopf(home, offset=7)
    silent = bare.edited("", attribute(f"{SAID}/eopf:baseline", None)).edited("", attribute("stac_discovery/id", ""))
    with pytest.raises(RadiometryError, match=r"neither an offset .* nor a processing baseline"):
        xsen2.open_eopf(silent.write(tmp_path / "2"))
    old = replace(silent, added=0).edited("", attribute(f"{SAID}/eopf:baseline", "02.14"))
    cube = xsen2.open_eopf(old.write(tmp_path / "3"))
    assert_shows(cube, made)
    assert cube.attrs["processing_baseline"] == "02.14"


def test_grids_that_do_not_nest(tmp_path: Path) -> None:
    home = product(L2A).write(tmp_path)
    for path, dtype, change, words in (
        (f"{R20}/x", "<i8", lambda v: v + 20, "do not share their outer edges"),
        (f"{R20}/y", "<i8", lambda v: v[::-1].copy(), "these are not the centres of pixels of 20 m"),
        (f"{R20}/x", "<i8", lambda v: v * 2, "these are not the centres of pixels of 20 m"),
        (f"{R20}/y", "<f8", lambda v: v * np.nan, "these are not the centres"),
        (f"{R20}/y", "<f8", lambda v: v[1:], "has 17 values, but its bands 18 pixels along y"),
        (f"{R20}/y", "|u1", lambda v: v % 7, "is of dtype uint8"),
    ):
        bad = tmp_path / "bad" / home.name
        made = product(L2A)
        made.write(tmp_path / "bad", consolidated=False)
        values = change(zarr.open_array(str(bad / path), mode="r")[:].astype(dtype))
        attributes = {"_ARRAY_DIMENSIONS": [path[-1]]}
        zarr.create_array(str(bad), name=path, data=values, zarr_format=2, overwrite=True, attributes=attributes)
        with pytest.raises(Xsen2Error, match=words):
            xsen2.open_eopf(bad)
    without = product(L2A).without(f"{R20}/x").write(tmp_path / "without")
    with pytest.raises(GridError, match="has no coordinate x"):
        xsen2.open_eopf(without)


def test_nothing_that_runs_code_is_decoded(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    home = product(L2A).write(tmp_path)
    whole = json.loads((home / ".zmetadata").read_text())
    for path in (f"{R10}/b04", f"{R10}/x"):
        for chunk in (home / path).glob("[0-9]*"):
            chunk.write_bytes(pickle.dumps(Evil()))
    for path, key, value in (
        ("b04", "compressor", {"id": "pickle", "protocol": 5}),
        ("x", "compressor", {"id": "pickle", "protocol": 5}),
        ("b04", "filters", [{"id": "pickle", "protocol": 5}]),
        ("x", "dtype", "|O"),
    ):
        node = copy.deepcopy(whole)
        node["metadata"][f"{R10}/{path}/.zarray"][key] = value
        (home / ".zmetadata").write_text(json.dumps(node))
        with pytest.raises(SourceError, match=r"cannot be read as a Zarr store: .*(codec 'pickle'|Python objects)"):
            xsen2.open_eopf(home).compute()
    assert not ran.exists()


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.one_of(st.none(), st.integers(-9, 9), st.text(max_size=3)), max_size=7),
    st.dictionaries(st.text(max_size=3), st.integers(-9, 9), max_size=2),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_broken_metadata_give_named_errors_only(data: st.DataObject, tmp_path: Path) -> None:
    home = tmp_path / f"{L2A}.zarr"
    if not home.exists():
        product(L2A, cells=(2, 2)).write(tmp_path)
        (tmp_path / "whole.json").write_bytes((home / ".zmetadata").read_bytes())
    whole = json.loads((tmp_path / "whole.json").read_text())
    node = whole["metadata"]
    keys = [k for k in node if k.startswith((R10, "measurements/.", ".z", SCL)) or k.startswith(f"{R20}/b05")]
    spot = [data.draw(st.sampled_from(sorted(keys)))]
    while True:
        inner = node
        for part in spot:
            inner = inner[part]
        if not isinstance(inner, dict) or not inner or not data.draw(st.booleans() if len(spot) > 1 else st.just(True)):
            break
        spot.append(data.draw(st.sampled_from(sorted(inner))))
    holder = node
    for part in spot[:-1]:
        holder = holder[part]
    if data.draw(st.booleans()):
        del holder[spot[-1]]
    else:
        holder[spot[-1]] = data.draw(VALUES)
    text = json.dumps(whole)
    if data.draw(st.integers(0, 9)) == 0:
        text = text[: data.draw(st.integers(0, len(text) - 1))]
    (home / ".zmetadata").write_text(text)
    with suppress(Xsen2Error):
        xsen2.open_eopf(home, ["B02", "B04", "B05", "SCL"]).compute()
