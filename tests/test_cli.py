"""The shell: the same calls, and one clear line where something is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result
from conftest import City
from cubes import make_cube
from matplotlib.image import imread
from pystac_client import Client

import xsen2
from xsen2.cli.demo import demonstrate, picture
from xsen2.cli.main import main
from xsen2.sinks.zarr import to_zarr


def xsen2_(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def refused(*args: object) -> str:
    """The one line that a refused command prints."""
    result = xsen2_(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    return result.stderr


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native cube in a Zarr store."""
    store = tmp_path_factory.mktemp("stored") / "cube.zarr"
    to_zarr(make_cube(6, 5, dates=2, chunks=36), store, dtype="float32", progress=False)
    return store


def test_version_methods_and_help() -> None:
    assert xsen2_("--version").output == f"xsen2, version {xsen2.__version__}\n"
    listed = xsen2_("methods").output
    assert all(name in listed for name in xsen2.methods().index)
    assert max(map(len, listed.splitlines())) <= 80, "a terminal's width, where none is known"
    assert [row["method"] for row in json.loads(xsen2_("methods", "--json").output)] == list(xsen2.methods().index)
    assert json.loads(xsen2_("weights", "list", "--json").output)[0]["network"] == "dsen2"
    for command in ("demo", "run", "methods"):
        assert xsen2_(command, "--help").exit_code == 0


def test_module_runs() -> None:
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-m", "xsen2.cli.main", "run", "no.zarr", "o.zarr"], cwd=root, capture_output=True
    )
    assert run.returncode == 2
    assert run.stderr.startswith(b"Error: no.zarr does not exist")
    assert b"Traceback" not in run.stderr


def test_run_from_a_store_to_a_store(stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    command = ("run", stored, out, "--method", "bicubic")
    result = xsen2_(*command)
    assert result.exit_code == 0, result.output
    assert result.output == f"{out}: 12 variables, 2 x 36 x 30 (time, y, x)\n"
    back = xr.open_zarr(out, decode_coords="all")
    want = make_cube(6, 5, dates=2, chunks=36).dsen2.superresolve(method="bicubic")
    for band in want.data_vars:
        np.testing.assert_array_equal(back[band], np.rint(want[band].values))
    assert back.rio.crs == want.rio.crs
    assert xsen2_(*command).exit_code == 0  # finished already
    assert "another run" in refused(*command, "--dtype", "float32")
    other = xsen2_(*command, "--dtype", "float32", "--bands", "B11, B05", "--chunks", 24, "--overwrite", "--quiet")
    assert (other.exit_code, other.output) == (0, "")
    back = xr.open_zarr(out)
    assert set(back.data_vars) == {"B02", "B03", "B04", "B08", "B05", "B11"}
    assert back["B11"].encoding["chunks"] == (1, 24, 24)
    np.testing.assert_array_equal(back["B11"], want["B11"].values)


def test_a_store_is_never_its_own_source(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: p.read_bytes() for p in stored.rglob("*") if p.is_file()}
    link = stored.parent / "link.zarr"
    link.symlink_to(stored)
    monkeypatch.chdir(stored.parent)
    for source in (stored, f"{stored}/", "cube.zarr", link, f"file://{stored}"):
        for more in ((), ("--overwrite",)):
            assert "is where SOURCE is" in refused("run", source, stored, "--method", "bicubic", *more)
    assert "is where SOURCE is" in refused("run", stored / "B02", stored, "--overwrite")
    assert "is where SOURCE is" in refused("run", "s3://b/a.zarr/", "s3://b/a.zarr", "--overwrite")
    assert {p: p.read_bytes() for p in stored.rglob("*") if p.is_file()} == before


def test_run_from_resolution_groups(tmp_path: Path) -> None:
    cube = make_cube(4, 3, chunks=24)
    groups = {}
    for gsd, band in ((10, "B02"), (20, "B05"), (60, "B01")):
        bands = [b for b in cube.data_vars if cube[b].dims == cube[band].dims]
        ydim, xdim = cube[band].dims
        groups[f"/reflectance/r{gsd}m"] = cube[bands].rename({ydim: "y", xdim: "x"})
    xr.DataTree.from_dict(groups).to_zarr(tmp_path / "tree.zarr", consolidated=False)
    result = xsen2_("run", tmp_path / "tree.zarr", tmp_path / "out.zarr", "--method", "bicubic", "--quiet")
    assert result.exit_code == 0, result.output
    want = cube.dsen2.superresolve(method="bicubic")["B01"]
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "out.zarr")["B01"], np.rint(want.values))


def test_run_from_stac(city: City, tmp_path: Path) -> None:
    box = [str(v) for v in city.bbox]
    found = Client.open(city.url).search(collections=[city.collection], datetime=city.datetime).item_collection()
    found.save_object(str(tmp_path / "found.json"))
    dates = {"item": 1, "collection": 2}
    for kind, source in (("item", found[0].get_self_href()), ("collection", tmp_path / "found.json")):
        out = tmp_path / f"{kind}.zarr"
        result = xsen2_("run", source, out, "--method", "bicubic", "--bands", "swir16", "--bbox", *box)
        assert result.exit_code == 0, result.output
        back = xr.open_zarr(out, decode_coords="all")
        assert back.sizes["time"] == dates[kind]
        assert float(back["B11"].mean()) > 100
        assert back.rio.crs.is_projected


def test_bad_input_is_one_line(stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "bad.json").write_text('{"type": "Feature"}')
    (tmp_path / "cut.json").write_text('{"type": "Feat')
    (tmp_path / "empty.zarr").mkdir()
    assert "does not exist" in refused("run", tmp_path / "none.zarr", out)
    assert "neither a Zarr store nor STAC" in refused("run", tmp_path / "text.txt", out)
    assert "is not a STAC item" in refused("run", tmp_path / "bad.json", out)
    assert "is not a STAC item" in refused("run", tmp_path / "cut.json", out)
    assert "cannot be read as a Zarr store" in refused("run", tmp_path / "empty.zarr", out)
    assert "ends neither in .zarr nor in .tif" in refused("run", stored, tmp_path / "out.png")
    assert "unknown method 'bicubik'" in refused("run", stored, out, "--method", "bicubik")
    assert "unknown band 'B99'" in refused("run", stored, out, "--bands", "B99")
    assert "the area 1.0000 2.0000 3.0000 4.0000 lies outside" in refused("run", stored, out, "--bbox", 1, 2, 3, 4)
    assert "--datetime chooses among STAC items" in refused("run", stored, out, "--datetime", "2024")
    assert "device='tpu'" in refused("run", stored, out, "--device", "tpu")
    assert not out.exists()
    assert "belong together" in xsen2_("demo", "--bbox", 1, 2, 3, 4).stderr
    api = "http://127.0.0.1:9/"
    where = ("--bbox", 1, 2, 3, 4, "--datetime", "2024")
    assert "cannot be searched" in refused("demo", *where, "--api", api, "--out", tmp_path / "demo", "--quiet")


def test_demo_on_the_sample(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = xsen2_("demo", "--out", out, "--method", "bicubic")
    assert result.exit_code == 0, result.output
    assert str(out / "summary.html") in result.output
    store = xr.open_zarr(out / "superresolved.zarr", decode_coords="all")
    assert len(store.data_vars) == 12
    assert imread(out / "before-after.png").shape[:2] > (500, 1000)
    page = (out / "summary.md").read_text()
    for heading in ("20 m bands, 40 m to 20 m", "60 m bands, 360 m to 60 m", "20 and 60 m bands, at 10 m"):
        assert f"## {heading}" in page
    for line in (
        "RMSE bicubic, DN",
        "(SAM): bicubic",
        "UIQ bicubic",
        "Versions: Python",
        "Attribution:",
        "`xsen2 demo --method bicubic`",
    ):
        assert line in page
    rows = re.findall(r"^\| (B\w+) \| ([\d.]+) ", page, re.MULTILINE)
    assert len(rows) == 6 + 2 + 8
    scores = xsen2.sample().dsen2.evaluate(methods=["bicubic"])
    assert float(dict(reversed(rows))["B11"]) == pytest.approx(float(scores["rmse"].sel(band="B11")[0]), abs=0.06)
    html = (out / "summary.html").read_text()
    assert "data:image/png;base64," in html
    assert html.count("<table>") == 3


def test_demo_without_matplotlib_says_so_and_does_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    out, said = tmp_path / "demo", list[str]()
    for _ in range(2):  # the second replaces the first
        demonstrate(make_cube(12, 12), out, method="bicubic", say=said.append, progress=False)
    assert said.count("no picture: pictures need matplotlib: pip install 'xsen2[plot]'") == 2
    assert not (out / "before-after.png").exists()
    page = (out / "summary.md").read_text()
    assert "Without a picture" in page
    assert (out / "summary.html").read_text().count("<table>") == 2
    assert re.search(r"^\| B09 \| [\d.]+ \| [\d.]+ \| – \|$", page, re.MULTILINE)  # 2 x 2 pixels have no UIQ


def test_demo_on_a_real_city(city: City, tmp_path: Path) -> None:
    box = [str(v) for v in city.bbox]
    search = ("--bbox", *box, "--datetime", city.datetime, "--api", city.url)
    result = xsen2_("demo", *search, "--out", tmp_path, "--method", "bicubic", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert xr.open_zarr(tmp_path / "superresolved.zarr").sizes["time"] == 1
    page = (tmp_path / "summary.md").read_text()
    assert "20 m bands, 40 m to 20 m" in page
    assert "Copernicus" in page
    (tmp_path / "none").mkdir()
    nothing = (*search[:5], "--datetime", "2001-01-01", "--api", city.url, "--out", tmp_path / "none", "--quiet")
    assert "no sentinel-2-l2a item" in refused("demo", *nothing)


def test_picture_shows_what_there_is(tmp_path: Path) -> None:
    cube = make_cube(2, 3, grids=(10, 60)).drop_vars("B09")
    cube["B04"][0, 0] = np.nan
    picture(cube, {"bicubic too": cube.dsen2.superresolve(method="bicubic")}, tmp_path / "a.png")
    one_row = imread(tmp_path / "a.png").shape
    assert one_row[0] < one_row[1] / 2
