"""What the documentation shows runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import rasterio
import xarray as xr
from cubes import make_cube, no_compute
from rasterio.transform import from_origin

from xsen2.errors import BandError, Cancelled, GridError, RadiometryError, SourceError
from xsen2.sources import open as sources

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def names():
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "adding-a-method.md").read_text(), re.DOTALL):
        exec(block, found)
    return found


def test_the_method_of_the_guide_is_better_than_bicubic(names):
    rmse = names["scores"]["rmse"].to_pandas()
    assert (rmse.loc["high-pass"] < rmse.loc["bicubic"]).all()
    assert names["sr"]["B11"].dtype == np.float32


def test_it_keeps_the_promises_of_every_method(names):
    method = names["HighPass"]()
    assert method.rounds
    ds = make_cube(8, 9, dates=2)
    whole = ds.dsen2.superresolve(["B05", "B12"], method).compute()
    cut = ds.chunk({"y": 30, "x": 17, "y_20m": 8, "x_20m": 9}).dsen2.superresolve(["B05", "B12"], method).compute()
    for band in ("B05", "B12"):
        np.testing.assert_allclose(cut[band], whole[band], rtol=0, atol=1e-3)


def test_it_is_short():
    block = re.search(r"```python\n(.*?)```", (DOCS / "adding-a-method.md").read_text(), re.DOTALL)
    assert block is not None
    assert len(block[1].splitlines()) < 100


def test_the_page_on_degradation_runs():
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "degradation.md").read_text(), re.DOTALL):
        exec(block, found)
    assert set(found["found"]["axis"].values) == {"along", "across"}


def run(page: str) -> dict:
    """What a page's code leaves behind."""
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        exec(block, found)
    return found


def test_the_sink_of_the_guide_keeps_what_sinks_promise(tmp_path):
    found = run("adding-a-sink.md")
    to_npz = found["to_npz"]
    assert len(found["files"]) == 2
    with np.load(found["files"][1]) as one:
        want = found["sr"]["B11"].isel(time=1).values
        assert one["B11"].dtype == np.uint16
        np.testing.assert_allclose(one["B11"], np.maximum(want, 1), atol=0.501)
    ds = make_cube(3, 3, dates=3, dtype=np.uint16)
    with pytest.raises(Cancelled, match="goes on there"):
        to_npz(ds, tmp_path, progress=lambda progress: progress.done < 2)
    assert len(list(tmp_path.iterdir())) == 2
    assert len(to_npz(ds, tmp_path, progress=False)) == 3
    wrapped = ds.assign(B05=ds["B05"] - np.uint16(2000))
    with pytest.raises(RadiometryError, match="wrap round"):
        to_npz(wrapped, tmp_path / "wrapped", progress=False)
    assert not list((tmp_path / "wrapped").iterdir())


@pytest.mark.parametrize("page", ["start.md", "areas.md", "stores.md"])
@pytest.mark.usefixtures("tiny_networks")
def test_pages_for_users_run_as_they_stand(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run(page)
    if page == "start.md":
        assert found["scores"].sizes["method"] == 3
        assert xr.open_zarr(tmp_path / "first.zarr", decode_coords="all")["B11"].rio.crs == found["cube"].rio.crs
    elif page == "stores.md":
        assert found["half"]["B11"].rio.resolution() == (20, -20)
        assert list(found["levels"].children) == ["2"]
        assert set(found["tree"].children) == {"r10m", "r10m_2x", "r10m_4x"}
        for band in found["cube"].data_vars:
            np.testing.assert_allclose(found["same"][band], found["cube"][band], atol=0.501)
    else:
        assert xr.open_zarr(found["path"]).sizes["time"] == found["cube"].sizes["time"]
        assert found["sr"]["B11"].shape[-2:] == (30, 40)


RUN_BY = {
    "adding-a-method.md": "here",
    "adding-a-network.md": "test_entry_points.py",
    "adding-a-sink.md": "here",
    "adding-a-source.md": "here",
    "areas.md": "here",
    "below-10-m.md": "test_multitemporal.py",
    "degradation.md": "here",
    "start.md": "here",
    "stores.md": "here",
    "walks.md": "test_walks.py",
}
SHOWN = {  # what these show runs only on a catalogue, a product or a page that a person has before them
    "app.md": "test_app.py and test_widget.py make the same calls",
    "index.md": "tests/test_walks.py goes the same road on a catalogue of its own",
    "radiometry.md": "test_stac.py and test_radiometry.py",
    "scale.md": "test_zarr.py",
}


def test_code_of_every_page_is_run_or_said_not_to_be():
    pages = {page.name for page in DOCS.glob("*.md") if "```python" in page.read_text()}
    assert pages == RUN_BY.keys() | SHOWN.keys()
    for page, test in RUN_BY.items():
        text = Path(__file__).with_name(test if test != "here" else "test_docs.py").read_text()
        assert page in text, f"{test} no longer runs {page}"
    for page in SHOWN:  # it is Python, at least
        for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
            compile(block.replace("(…)", "()").replace(", …)", ")"), page, "exec")


def test_broken_links_of_the_site_are_found(tmp_path: Path) -> None:
    links: dict = {"__name__": "links"}
    exec((DOCS / "links.py").read_text(), links)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="#top"></a><a href="sub/b.html#b%20c"></a><a href="sub/"></a>'
        '<a href="https://example.org/x"></a><a href="#gone"></a><a href="sub/b.html#gone"></a><img src="gone.png">'
        '<a href="../outside.html"></a>'
    )
    (tmp_path / "sub" / "b.html").write_text('<p id="b c"></p><a href="../a.html"></a>')
    (tmp_path / "sub" / "index.html").write_text("")
    found = links["broken"](tmp_path)
    assert len(found) == 4
    assert [said.split(": ")[1] for said in found] == ["#gone", "sub/b.html#gone", "gone.png", "../outside.html"]


# --- a source ------------------------------------------------------------------------------------

MAJA = "SENTINEL2A_20180115-105416-457_L2A_T31TFJ_C_V2-2"
XML = """<?xml version="1.0" encoding="UTF-8"?>
<Muscate_Metadata_Document>
  <Dataset_Identification><GEOGRAPHICAL_ZONE type="Tile">T31TFJ</GEOGRAPHICAL_ZONE></Dataset_Identification>
  <Product_Characteristics>
    <ACQUISITION_DATE>2018-01-15T10:54:16.457Z</ACQUISITION_DATE><PLATFORM>SENTINEL2A</PLATFORM>
  </Product_Characteristics>
  <Geoposition_Informations>
    <HORIZONTAL_CS_CODE>32631</HORIZONTAL_CS_CODE>
    <Group_Geopositioning group_id="R1"><ULX>600000</ULX><ULY>5000040</ULY><XDIM>10</XDIM><YDIM>-10</YDIM>
      <NROWS>48</NROWS><NCOLS>42</NCOLS></Group_Geopositioning>
    <Group_Geopositioning group_id="R2"><ULX>600000</ULX><ULY>5000040</ULY><XDIM>20</XDIM><YDIM>-20</YDIM>
      <NROWS>24</NROWS><NCOLS>21</NCOLS></Group_Geopositioning>
  </Geoposition_Informations>
  <Radiometric_Informations>
    <REFLECTANCE_QUANTIFICATION_VALUE>10000</REFLECTANCE_QUANTIFICATION_VALUE>
    <SPECIAL_VALUE name="nodata">-10000</SPECIAL_VALUE>
  </Radiometric_Informations>
</Muscate_Metadata_Document>
"""


@pytest.fixture(scope="module")
def maja():
    """The module that the guide tells to write, and what it tells to put into `xsen2.sources.open`."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "adding-a-source.md").read_text(), re.DOTALL)
    module = ModuleType("xsen2.sources.maja")
    exec(blocks[0], vars(module))
    openers = {"is_url": sources.is_url, "Wanted": sources.Wanted, "Cube": sources.Cube, "_cut": sources._cut}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        for block in blocks[1:]:
            exec(f"from __future__ import annotations\n{block}", openers)
        entry = (openers["_is_maja"], openers["_open_maja"])
        patch.setattr(sources, "_OPENERS", (entry, *sources._OPENERS))
        yield module


def product(home: Path) -> dict[str, np.ndarray]:
    """A tiny product; gives its raw pixels."""
    (home / MAJA).mkdir()
    (home / MAJA / f"{MAJA}_MTD_ALL.xml").write_text(XML)
    rng, scene = np.random.default_rng(0), {}
    for name in ("B02", "B03", "B04", "B08", "B05", "B8A", "B11"):
        size = 10 if name in ("B02", "B03", "B04", "B08") else 20
        scene[name] = rng.integers(-50, 9000, (480 // size, 420 // size), np.int16)
        scene[name][:2, :3] = -10000
        profile = {
            "count": 1,
            "dtype": "int16",
            "crs": "EPSG:32631",
            "transform": from_origin(600000, 5000040, size, size),
        }
        file = home / MAJA / f"{MAJA}_FRE_B{name[1:].lstrip('0')}.tif"
        height, width = scene[name].shape
        with rasterio.open(file, "w", driver="GTiff", height=height, width=width, **profile) as out:
            out.write(scene[name], 1)
    return scene


def test_the_source_of_the_guide(maja, tmp_path: Path) -> None:
    scene = product(tmp_path)
    with no_compute():
        cube = maja.open_maja(tmp_path / MAJA)
        sharp = cube.dsen2.superresolve(["B05", "B11"], "bicubic")
    assert set(cube) == set(scene)
    for name, raw in scene.items():
        np.testing.assert_array_equal(cube[name][0], np.where(raw == -10000, np.nan, raw.astype(np.float32)))
    assert (float(cube.x[0]), float(cube.y_20m[0]), cube.rio.crs.to_epsg()) == (600005, 5000030, 32631)
    assert (cube.offset.item(), str(cube.time.values[0])[:19]) == (0, "2018-01-15T10:54:16")
    assert cube.attrs["platform"] == "Sentinel-2A"
    assert np.isfinite(sharp.compute().B11).sum() == 48 * 42 - 6 * 4
    part = sources.open_source(str(tmp_path / MAJA), sources.Wanted(area=(4.273, 45.143, 4.275, 45.145)))
    assert 0 < part.sizes["x"] < 42
    np.testing.assert_array_equal(part.B02, cube.B02.sel(x=part.x, y=part.y))


def test_what_the_source_of_the_guide_refuses(maja, tmp_path: Path) -> None:
    product(tmp_path)
    with pytest.raises(BandError, match=r"no image of B12; it has B02"):
        maja.open_maja(tmp_path / MAJA, ["B12"])
    with pytest.raises(SourceError, match=r"has 0 files named …_MTD_ALL\.xml"):
        maja.open_maja(tmp_path)
    (tmp_path / MAJA / f"{MAJA}_MTD_ALL.xml").write_text(XML.replace("<NROWS>48<", "<NROWS>54<"))
    with pytest.raises(GridError, match=r"has 48 x 42 pixels, but .*MTD_ALL.xml says 54 x 42"):
        maja.open_maja(tmp_path / MAJA)
