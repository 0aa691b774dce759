"""`xsen2.open_safe`: products in folders and zips, of every naming and baseline, whole and broken."""

from __future__ import annotations

import pickle
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import safe_product
import scenes
import xarray as xr
from cases import every
from click.testing import CliRunner
from cubes import no_compute
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.transform import from_origin
from safe_product import (
    L1C_0301,
    L2A_0212,
    L2A_0400,
    L2A_0509,
    OFFSETS,
    OLD,
    OLD_L1C,
    OLD_L2A,
    REAL,
    assert_shows,
    counted_reads,
    needs_real,
    product,
    truth,
    zipped,
)

import xsen2
from xsen2 import ReadWarning
from xsen2.bands import BANDS
from xsen2.cli.main import main
from xsen2.cube import DIMS, recognise
from xsen2.errors import BandError, GridError, SourceError
from xsen2.sources import assemble
from xsen2.sources.open import Wanted, open_source

real = [pytest.param(name, marks=needs_real) for name in REAL]
each = pytest.mark.parametrize("name", [*OLD, *real])
some = pytest.mark.parametrize("name", every(3, [*OLD, *real]))


# --- pixels ---------------------------------------------------------------------------------------


@each
def test_pixels_and_places_arrive(name: str, tmp_path: Path) -> None:
    made = product(name)
    with no_compute():
        cube = xsen2.open_safe(made.write(tmp_path))
    level = "L1C" if "L1C" in name else "L2A"
    assert list(cube.data_vars) == [*BANDS, *(["SCL"] if level == "L2A" else [])]
    assert_shows(cube, made)
    checked = recognise(cube)
    assert (checked.resolution, checked.bounds, checked.crs.to_epsg()) == (10, made.scene.bounds, made.scene.epsg)
    for band in cube.data_vars:
        gsd = scenes.gsd_of(str(band))
        moved = cube[band].rename(dict(zip(DIMS[gsd], ("y", "x"), strict=True)))
        assert moved.rio.transform().almost_equals(from_origin(made.scene.ulx, made.scene.uly, gsd, gsd), 1e-6)
        assert moved.rio.crs.to_epsg() == made.scene.epsg
    assert cube.attrs["product"] == name.removesuffix(".SAFE")
    assert cube.attrs["tile"] == made.scene.tile
    assert cube.attrs["level"] == level
    assert cube.attrs["platform"] == f"Sentinel-{name[1:3]}"
    assert cube.attrs["special_values"] == "NODATA 0, SATURATED 65535"
    assert cube.attrs["processing_baseline"].replace(".", "") == (re.findall(r"_N(\d{4})_", name) or ["0204"])[0]
    assert cube.offset.values.tolist() == [-made.added]
    assert f"{-made.added} DN added" in cube.attrs["offset"]


@some
def test_a_zip_is_its_folder(name: str, tmp_path: Path) -> None:
    home = product(name).write(tmp_path)
    folder = xsen2.open_safe(home)
    archives = (
        zipped(home, tmp_path / "a product#1 {x}.zip"),
        zipped(home, tmp_path / "stored.ZIP", prefix=f"down/loads/{name}/", method=zipfile.ZIP_STORED),
        zipped(home, tmp_path / f"{name.removesuffix('.SAFE')}.zip", prefix=""),
    )
    shutil.copytree(home, tmp_path / "a#b ?" / name)
    for path in (*archives, str(tmp_path / "a#b ?" / name)):
        with no_compute():
            cube = xsen2.open_safe(path)
        xr.testing.assert_identical(cube.compute(), folder.compute())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (OLD_L1C, None),
        pytest.param(L1C_0301, None, marks=needs_real),
        pytest.param(L2A_0212, L2A_0400, marks=needs_real),
        pytest.param(L2A_0212, L2A_0509, marks=needs_real),
    ],
)
def test_baselines_before_and_after_the_offset_agree(before: str, after: str | None, tmp_path: Path) -> None:
    old = product(before, seed=3)
    if after is None:  # of L1C there is no real product with an offset: ESA's element, put where ESA puts it
        new = replace(old, added=1000).edited(
            old.main,
            ("(<PROCESSING_BASELINE>)0[23]", r"\g<1>05"),
            ("(</QUANTIFICATION_VALUE>)", rf"\1<Radiometric_Offset_List>{OFFSETS}</Radiometric_Offset_List>"),
        )
    else:
        new = product(after, seed=3)
    one, other = xsen2.open_safe(old.write(tmp_path / "1")), xsen2.open_safe(new.write(tmp_path / "2"))
    assert (one.offset.item(), other.offset.item()) == (0, -1000)
    for band in one.data_vars:
        a, b = one[band].values, other[band].values
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        assert np.nanmax(np.abs(a - b)) < 0.01


@needs_real
def test_negative_dn_and_values_over_10000_are_kept(tmp_path: Path) -> None:
    made = product(L2A_0509)
    pixels = made.scene.bands["B03"].astype("int32")
    pixels[:2, :3] = [[-999, -500, 64535], [0, 1, 17000]]  # 0 is nodata, raw 1 the darkest there is
    made.scene.bands["B03"] = pixels
    found = xsen2.open_safe(made.write(tmp_path)).B03.values[0, :2, :3]
    np.testing.assert_array_equal(found, [[-999, -500, 64535], [np.nan, 1, 17000]])


@needs_real
def test_radiometry_is_what_the_metadata_say(tmp_path: Path) -> None:
    made = product(L2A_0509)
    odd = made.edited(
        made.main,
        ('(BOA_ADD_OFFSET band_id="8">)-1000', r"\g<1>-900"),  # B8A
        (r"(BOA_QUANTIFICATION_VALUE unit=\"none\">)10000", r"\g<1>5000"),
        ("(NODATA</SPECIAL_VALUE_TEXT>.*?<SPECIAL_VALUE_INDEX>)0<", r"\g<1>7<"),
    )
    odd.scene.bands["B8A"][0, 0] = 0
    plain = np.where(odd.scene.bands["B8A"] == 0, 0, odd.scene.bands["B8A"].astype("float32") + 1000)
    cube = xsen2.open_safe(odd.write(tmp_path))
    np.testing.assert_allclose(cube.B8A.values[0], (plain - 900) * 2, rtol=1e-6)
    seen = odd.scene.bands["B05"] > 0
    np.testing.assert_allclose(cube.B05.values[0][seen], 2 * odd.scene.bands["B05"][seen], rtol=1e-6)
    assert "offset" not in cube.coords
    assert "B07 -1000, B08 -1000, B8A -900" in cube.attrs["offset"]
    assert "10000 / 5000" in cube.attrs["offset"]
    odd.write_image(tmp_path / odd.name, "B8A")
    assert xsen2.open_safe(tmp_path / odd.name, ["B8A"], offset=0).offset.item() == 0


@needs_real
def test_the_same_cube_as_from_stac(tmp_path: Path) -> None:
    made = product(L2A_0400, cells=(12, 10))
    known = {name: pixels for name, pixels in made.scene.bands.items() if name not in safe_product.LAYERS}
    item = scenes.earth_search(replace(made.scene, bands=known), tmp_path, "2022-04-13T15:08:07.846358Z")
    for asset in item["assets"].values():
        asset["href"] = str(tmp_path / asset["href"])
    bands = (*BANDS, "SCL")
    stac = xsen2.load([item], bands=bands)
    safe = xsen2.open_safe(made.write(tmp_path), bands)
    one, other = (cube.drop_vars("offset").drop_attrs(deep=False) for cube in (stac, safe))
    xr.testing.assert_identical(one, other)
    assert set(stac.attrs) < set(safe.attrs)
    for key in ("level", "units", "attribution"):
        assert stac.attrs[key] == safe.attrs[key]
    assert stac.offset.attrs == safe.offset.attrs


# --- which bands ----------------------------------------------------------------------------------


@needs_real
def test_bands_and_layers_by_name(tmp_path: Path) -> None:
    made = product(L2A_0509)
    cube = xsen2.open_safe(made.write(tmp_path), ["swir16", "b8a", "scl", "CLDPRB", "CLASSI"])
    assert list(cube.data_vars) == ["B11", "B8A", "SCL", "CLDPRB", "CLASSI"]
    np.testing.assert_array_equal(cube.CLDPRB[0], made.scene.bands["CLDPRB"])
    opaque, cirrus, snow = made.scene.bands["CLASSI"].astype(int)
    np.testing.assert_array_equal(cube.CLASSI[0], opaque + 2 * cirrus + 4 * snow)
    assert cube.CLASSI.dims == ("time", "y_60m", "x_60m")
    assert cube.SCL.attrs["flag_values"][-1] == 11
    for bands, words in (
        (["B10"], "cirrus"),
        (["B99"], "unknown band"),
        ([], "is empty"),
    ):
        with pytest.raises(BandError, match=words):
            xsen2.open_safe(tmp_path / made.name, bands)


def test_layers_that_a_product_has_not(tmp_path: Path) -> None:
    home = product(OLD_L1C).write(tmp_path)
    for layer in ("SCL", "CLASSI", "CLDPRB"):
        with pytest.raises(BandError, match=f"lists no image of {layer}"):
            xsen2.open_safe(home, ["B04", layer])


@each
def test_missing_images_are_named_unless_left_out(name: str, tmp_path: Path) -> None:
    made = product(name)
    there = [band for band in made.images if band not in ("B01", "B09", "B11")]
    home = made.write(tmp_path, there)
    with pytest.raises(SourceError, match=r"these images are missing: B01 .*B01.*B11") as caught:
        xsen2.open_safe(home, ["B01", "B04", "B11"])
    hint = re.search(r"bands=(\[.*\])", str(caught.value))
    assert hint is not None
    assert eval(hint[1]) == ["B04"]
    assert_shows(xsen2.open_safe(home, eval(hint[1])), made)
    with pytest.warns(ReadWarning, match=r"missing and are left out: B01 .*B01.*B09 .*B11") as warned:
        cube = xsen2.open_safe(home)
    assert [one.filename for one in warned if one.category is ReadWarning] == [__file__]
    assert set(cube.data_vars) == set(there) - set(safe_product.LAYERS)
    assert_shows(cube, made)
    for path in (home / made.images[name] for name in there):
        path.unlink()
    with pytest.raises(SourceError, match=r"is not complete, these images are missing: B01 .*B12"):
        xsen2.open_safe(home)


@each
def test_a_layer_that_is_only_an_extra_is_left_out(name: str, tmp_path: Path) -> None:
    made = product(name)
    home = made.write(tmp_path, [band for band in made.images if band not in ("SCL", "CLASSI")])
    if "SCL" not in made.images:
        assert list(xsen2.open_safe(home).data_vars) == list(BANDS)  # nothing that it should have is missing
        return
    with pytest.warns(ReadWarning, match="left out: SCL"):
        cube = xsen2.open_safe(home)
    assert list(cube.data_vars) == list(BANDS)
    with pytest.raises(SourceError, match=r"missing: SCL .*bands=\['B04'\]"):
        xsen2.open_safe(home, ["B04", "SCL"])


def test_several_tiles_need_a_name(tmp_path: Path) -> None:
    made = product(OLD_L1C)
    (granule,) = re.findall("<Granules.*</Granules>", made.texts[made.main])
    both = made.edited(made.main, ("(</Granules>)", r"\1" + granule.replace("32TLT", "32TMT")))
    home = both.write(tmp_path)
    other = replace(
        product(OLD_L1C, seed=9), texts={}, images={b: p.replace("TLT", "TMT") for b, p in made.images.items()}
    )
    other.write(tmp_path)
    path = home / made.tile.replace("TLT", "TMT")
    path.write_text(made.texts[made.tile])
    with pytest.raises(SourceError, match="tiles 32TLT, 32TMT, and a cube has one: name one with tile="):
        xsen2.open_safe(home)
    with pytest.raises(SourceError, match="not '33UUP'"):
        xsen2.open_safe(home, tile="33UUP")
    assert_shows(xsen2.open_safe(home, tile="32TLT"), made)
    cube = xsen2.open_safe(home, tile="T32tmt")
    assert_shows(cube, other)
    assert cube.attrs["tile"] == "32TMT"


# --- laziness and chunks --------------------------------------------------------------------------


@pytest.mark.parametrize("block", [32, 48, 1024])
def test_chunks_are_whole_tiles_of_the_files(block: int, tmp_path: Path) -> None:
    made = product(OLD_L2A, cells=(14, 11))
    home = made.write(tmp_path, block=block)
    cubes = [xsen2.open_safe(path, chunks=60) for path in (home, zipped(home, tmp_path / "p.zip"))]
    for cube in cubes:
        for band in cube.data_vars:
            gsd = scenes.gsd_of(str(band))
            for dim, chunks in zip(("time", *DIMS[gsd]), cube[band].chunks, strict=True):
                borders = np.cumsum(chunks)[:-1]
                assert dim == "time" or not (borders % min(block, cube.sizes[dim])).any()
        assert_shows(cube, made)
        assert len(cube.B02.chunks[1]) == (2 if block < 1024 else 1)
        again = pickle.loads(pickle.dumps(cube))
        xr.testing.assert_identical(again.compute(scheduler="synchronous"), cube.compute(scheduler="threads"))
    with pytest.raises(GridError, match="chunks=0"):
        xsen2.open_safe(home, chunks=0)


@given(total=st.integers(1, 20000), block=st.integers(1, 3000), side=st.integers(1, 5000))
def test_chunks_cover_all_and_cut_no_tile(total: int, block: int, side: int) -> None:
    chunks = assemble._chunk_sizes(total, block, side)
    assert sum(chunks) == total
    assert min(chunks) > 0
    assert not (np.cumsum(chunks)[:-1] % block).any()
    assert max(chunks) <= max(block, 1.5 * side)


def test_pixels_are_read_when_they_are_computed_and_not_before(tmp_path: Path) -> None:
    made = product(OLD_L1C, cells=(14, 11))
    home = made.write(tmp_path, block=32)
    damaged = home / made.images["B03"]
    whole = damaged.read_bytes()
    start = whole.index(b"\xff\x93")  # the first tile's pixels begin
    damaged.write_bytes(whole[: start + 2] + bytes(len(whole) - start - 4) + whole[-2:])
    with no_compute():
        cube = xsen2.open_safe(home, chunks=30)
    cube.drop_vars("B03").compute()
    with pytest.raises(SourceError, match=r"B03\.jp2: rows \d+ to \d+, columns \d+ to \d+ cannot be read"):
        cube.B03.compute()
    damaged.write_bytes(whole)
    assert xsen2.open_safe(home).B03.data.name != cube.B03.data.name
    assert xsen2.open_safe(home).B04.data.name != cube.B04.data.name  # other chunks
    assert xsen2.open_safe(home, chunks=30).B04.data.name == cube.B04.data.name


def test_each_chunk_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = product(OLD_L2A, cells=(30, 30)).write(tmp_path, block=64)
    cube = xsen2.open_safe(home, chunks=64)
    reads = counted_reads(monkeypatch)
    chunks = sum(cube[band].data.npartitions for band in cube.data_vars)
    assert chunks == 4 * 9 + 7 * 4 + 2
    cube.dsen2.superresolve(method="bicubic").compute()
    assert len(reads) == len(set(reads)) == chunks


# --- what comes after -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [OLD_L2A, pytest.param(L1C_0301, marks=needs_real), pytest.param(L2A_0509, marks=needs_real)]
)
def test_superresolve(name: str, tmp_path: Path) -> None:
    made = product(name, cells=(7, 6))
    cube = xsen2.open_safe(made.write(tmp_path, block=32), chunks=30)
    with no_compute():
        lazy = cube.dsen2.superresolve(["B05", "B01"], method="bicubic")
    sharp = lazy.compute()
    whole = xsen2.open_safe(tmp_path / made.name).dsen2.superresolve(["B05", "B01"], method="bicubic").compute()
    for band in ("B02", "B05", "B01"):
        assert sharp[band].shape == (1, 42, 36)
        np.testing.assert_allclose(sharp[band], whole[band], atol=1e-3)
    np.testing.assert_array_equal(np.isnan(sharp.B05[0]), np.isnan(truth(made, "B05")).repeat(2, 0).repeat(2, 1))
    assert sharp.rio.crs.to_epsg() == made.scene.epsg
    assert sharp.rio.transform() == from_origin(made.scene.ulx, made.scene.uly, 10, 10)
    assert sharp.attrs["product"] == cube.attrs["product"]
    if "SCL" in cube:
        np.testing.assert_array_equal(sharp.SCL[0], made.scene.bands["SCL"].repeat(2, 0).repeat(2, 1))


def run(*args: object) -> Any:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_run_from_the_shell(tmp_path: Path) -> None:
    home = product(OLD_L2A).write(tmp_path)
    shutil.copytree(home, tmp_path / "renamed")
    for source in (f"{home}/", tmp_path / "renamed", zipped(home, tmp_path / "p.zip")):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        result = run("run", source, out, "--method", "bicubic", "--bands", "B11", "--quiet")
        assert (result.exit_code, result.output) == (0, "")
        back = xr.open_zarr(out, decode_coords="all")
        want = xsen2.open_safe(home).dsen2.superresolve(["B11"], method="bicubic")
        np.testing.assert_array_equal(back.B11, np.rint(want.B11.values))
        assert back.rio.crs.to_epsg() == 32632
    (tmp_path / "empty.SAFE").mkdir()
    refused = run("run", tmp_path / "empty.SAFE", tmp_path / "no.zarr")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: ")
    assert "MTD_MSIL1C.xml" in refused.stderr


@some
def test_bbox_cuts_to_whole_60_m_pixels(name: str, tmp_path: Path) -> None:
    made = product(name, cells=(9, 8))
    home = made.write(tmp_path)
    left, bottom, *_ = made.scene.bounds
    inside = (left + 130, bottom + 130, left + 170, bottom + 290)
    west, south, east, north = Transformer.from_crs(made.scene.epsg, 4326, always_xy=True).transform_bounds(*inside)
    with no_compute():
        cut = open_source(str(home), Wanted((west, south, east, north)))
    bounds = recognise(cut).bounds
    for edge, corner, want in zip(bounds, (left, bottom, left, bottom), inside, strict=True):
        assert (edge - corner) % 60 == 0
        assert abs(edge - want) < 180
    assert np.less_equal(bounds[:2], inside[:2]).all()
    assert np.greater_equal(bounds[2:], inside[2:]).all()
    whole = xsen2.open_safe(home)
    xr.testing.assert_identical(cut.compute(), whole.sel({d: cut[d] for d in cut.dims}).compute())
    assert cut.sizes["y"] < whole.sizes["y"]
    with pytest.raises(SourceError, match=r"the area .* lies outside .*, which covers "):
        open_source(str(home), Wanted((west + 5, south, east + 5, north)))
