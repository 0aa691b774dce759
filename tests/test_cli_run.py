"""``xsen2 run``: every source to every sink, areas, masks, batches, plans and the log."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray
import scenes
import shapely.geometry as sg
import stac_api
import xarray as xr
from click.testing import CliRunner, Result
from conftest import City
from cubes import make_cube, no_compute
from pyproj import Transformer
from safe_product import L1C_0301, L2A_0400, OLD_L2A, needs_real, product, zipped

import xsen2
from xsen2.cli.main import main
from xsen2.cli.run import plan
from xsen2.errors import CRSError
from xsen2.sinks.zarr import to_zarr
from xsen2.sources.open import Wanted, open_source


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["run", *(str(a) for a in args)])


def done(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.output


def geojson(path: Path, *shapes: Any) -> Path:
    features = [{"type": "Feature", "properties": {}, "geometry": sg.mapping(shape)} for shape in shapes]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def lonlat(epsg: int, *points: tuple[float, float]) -> list[tuple[float, float]]:
    move = Transformer.from_crs(epsg, 4326, always_xy=True).transform
    return [move(*point) for point in points]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native cube of two dates in a Zarr store."""
    store = tmp_path_factory.mktemp("stored") / "cube.zarr"
    to_zarr(make_cube(8, 7, dates=2, chunks=36), store, dtype="float32", progress=False)
    return store


def test_geotiffs_with_an_area(stored: Path, tmp_path: Path) -> None:
    cube = make_cube(8, 7, dates=2)
    # A triangle inside, in lon/lat, whose bounds are on no pixel's edge.
    corners = [(600083.0, 4999913.0), (600347.0, 4999777.0), (600101.0, 4999731.0)]
    area = sg.Polygon(lonlat(32631, *corners))
    where = geojson(tmp_path / "area.geojson", area)
    out = tmp_path / "made" / "{date}.tif"
    done(stored, out, "--method", "bicubic", "--geometry", where, "--clip-to-aoi", "--bands", "B11,B01", "--quiet")
    want = cube.dsen2.superresolve(["B11", "B01"], "bicubic", area=area, clip=True)
    assert want.sizes["x"] < 30
    for number, date in enumerate(("20240601", "20240606")):
        with rioxarray.open_rasterio(tmp_path / "made" / f"{date}.tif", masked=True) as back:
            assert back.rio.crs == want.rio.crs
            assert back.rio.transform() == want.rio.transform()
            names = list(back.attrs["long_name"])
            assert set(names) == set(want.data_vars)
            for layer, name in enumerate(names):
                np.testing.assert_array_equal(back[layer], np.rint(want[name][number]).clip(1))
            assert 0.1 < float(np.isnan(back[0]).mean()) < 0.9


def test_overviews_of_a_store_and_of_what_is_made_of_it(stored: Path, tmp_path: Path) -> None:
    cube = xr.open_zarr(stored, decode_coords="all")
    to_zarr(cube, tmp_path / "cube.zarr", overviews=True, dtype="float32", progress=False)
    done(tmp_path / "cube.zarr", tmp_path / "out.zarr", "--method=bicubic", "--bands=B11", "--overviews", "--quiet")
    done(stored, tmp_path / "plain.zarr", "--method=bicubic", "--bands=B11", "--quiet")
    out, plain = (xr.open_zarr(tmp_path / name, decode_coords="all") for name in ("out.zarr", "plain.zarr"))
    np.testing.assert_array_equal(out["B11"], plain["B11"])  # levels of the source are no bands of it
    half = xr.open_zarr(tmp_path / "out.zarr", group="overviews/2")
    assert half["B11"].shape == (2, 24, 21)


def test_bands_alone_and_one_file_each(stored: Path, tmp_path: Path) -> None:
    done(
        stored, tmp_path / "{date}_{band}.tif", "--method", "bicubic", "--bands", "B11", "--no-copy-original-bands",
        "--dtype", "float32",
    )  # fmt: skip
    files = sorted(path.name for path in tmp_path.glob("*.tif"))
    assert files == ["20240601_B11.tif", "20240606_B11.tif"]
    with rasterio.open(tmp_path / files[0]) as file:
        want = make_cube(8, 7, dates=2).dsen2.superresolve(["B11"], "bicubic")["B11"][0]
        np.testing.assert_array_equal(file.read(1), want)


@pytest.mark.parametrize("method", ["bicubic", "default", "regression"])
def test_an_area_of_a_store_is_that_of_the_whole(method: str, tmp_path: Path) -> None:
    cube = make_cube(90, 90, chunks=600)
    to_zarr(cube, tmp_path / "cube.zarr", dtype="float32", progress=False)
    (west, south), (east, north) = lonlat(32631, (602511, 4997011), (602533, 4997052))
    box = (west, south, east, north)
    args = (tmp_path / "cube.zarr", tmp_path / "out.zarr", "--method", method, "--bands", "B11", "--bbox", *box)
    done(*args, "--dtype", "float32", "--precision", "float32", "--quiet")
    back = xr.open_zarr(tmp_path / "out.zarr")
    assert back.sizes["x"] < 6
    if method == "regression":  # it learns from what it is given: the area and its context
        return
    whole = cube.dsen2.superresolve(["B11"], method, area=box, dtype="float32")
    np.testing.assert_array_equal(back.x, whole.x)
    np.testing.assert_allclose(back.B11, whole.B11, rtol=0, atol=0.02)


def test_names_and_dims_of_the_caller_come_back_from_an_area(tmp_path: Path) -> None:
    cube = make_cube(9, 9, dims={10: ("yy", "xx"), 20: ("y2", "x2"), 60: ("y6", "x6")})
    cube.rename(B02="blue", B11="swir16").to_zarr(tmp_path / "cube.zarr", consolidated=False)
    (west, south), (east, north) = lonlat(32631, (600130, 4999700), (600230, 4999800))
    cut = open_source(str(tmp_path / "cube.zarr"), Wanted((west, south, east, north)))
    assert {"blue", "swir16"} <= set(cut.data_vars)
    assert cut["blue"].shape[0] < 54
    assert cut["blue"].dtype == cube["B02"].dtype


@needs_real
@pytest.mark.parametrize("kind", ["SAFE", "zip"])
def test_products_with_clouds_left_out(kind: str, tmp_path: Path) -> None:
    made = product(L2A_0400)
    source = made.write(tmp_path)
    if kind == "zip":
        source = zipped(source, tmp_path / f"{source.stem}.zip")
    done(source, tmp_path / "out_{name}.tif", "--method", "bicubic", "--scl-mask", "--quiet")
    with rioxarray.open_rasterio(tmp_path / f"out_{source.stem}.tif", masked=True) as back:
        scl = made.scene.bands["SCL"].repeat(2, 0).repeat(2, 1)
        assert np.isnan(back[0].values[np.isin(scl, (0, 1, 3, 8, 9, 10))]).all()
        assert 0 < np.isfinite(back[0].values).mean() < 1
    want = xsen2.open_safe(source).dsen2.superresolve(method="bicubic", mask="scl")
    with rasterio.open(tmp_path / f"out_{source.stem}.tif") as file:
        first = file.descriptions.index("B11") + 1
        np.testing.assert_array_equal(file.read(first), np.nan_to_num(np.rint(want.B11[0]).clip(1)).astype(int))
        assert file.tags()["source"] in source.name


@needs_real
def test_clouds_of_l1c_come_from_its_own_mask(tmp_path: Path) -> None:
    source = product(L1C_0301).write(tmp_path)
    result = run(source, tmp_path / "out.zarr", "--method", "bicubic", "--scl-mask", "--quiet")
    assert result.exit_code == 2
    assert "SCL" in result.stderr  # this one came without masks
    made = product(OLD_L2A).write(tmp_path)
    done(made, tmp_path / "out.zarr", "--method", "bicubic", "--scl-mask", "--quiet")
    assert xr.open_zarr(tmp_path / "out.zarr").attrs["xsen2_mask"].startswith("SCL")


@pytest.mark.real
@pytest.mark.parametrize("kind", ["api", "collection", "search", "page"])
def test_a_search_is_a_source(kind: str, city: City, tmp_path: Path) -> None:
    box = ",".join(map(str, city.bbox))
    query = f"{city.url}search?collections={city.collection}&bbox={box}&limit=1"  # two pages
    source: object = {
        "api": city.url,
        "collection": f"{city.url}collections/{city.collection}",
        "search": query,
        "page": tmp_path / "page.json",
    }[kind]
    if kind == "page":
        from urllib.request import urlopen

        with urlopen(query) as answer:
            (tmp_path / "page.json").write_bytes(answer.read())
    west, south, east, north = city.bbox
    middle = ((west + east) / 2, (south + north) / 2)
    area = (*middle, middle[0] + 0.001, middle[1] + 0.001)
    log = tmp_path / "log.jsonl"
    args = (source, tmp_path / "out.zarr", "--bands", "B11", "--method", "bicubic", "--bbox", *area, "--log", log)
    collection = ("--datetime", city.datetime) if kind in ("api", "collection") else ()
    if kind == "api" and city.collection != "sentinel-2-l2a":
        assert "no sentinel-2-l2a item" in run(*args, *collection).stderr
        return
    done(*args, *collection)
    back = xr.open_zarr(tmp_path / "out.zarr")
    assert back.sizes["time"] == 2
    assert max(back.sizes["y"], back.sizes["x"]) <= 14
    assert float(back.B11.mean()) > 100
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == ["start", "plan", "done"]
    if kind in ("api", "collection"):
        assert "--datetime" in run(*args).stderr


@pytest.mark.real
def test_of_several_crs_the_one_that_covers_the_area(city: City, shared: Path, tmp_path: Path) -> None:
    items = scenes.city_items(tmp_path)
    item = scenes.earth_search(scenes.random(7, cells=(6, 6), epsg=32601), tmp_path, "2017-06-01T00:00:00Z")
    with stac_api.serve([*items, item], tmp_path) as url:
        found = [json.loads(stac_text(url, each)) for each in (*items, item)]
        page = tmp_path / "both.json"
        page.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
        with pytest.raises(CRSError, match="2 CRS"):
            open_source(str(page))
        cube = open_source(str(page), Wanted(city.bbox))
        assert cube.sizes["time"] == 2


def stac_text(url: str, item: dict[str, Any]) -> bytes:
    from urllib.request import urlopen

    with urlopen(f"{url}collections/{item['collection']}/items/{item['id']}") as answer:
        return bytes(answer.read())


def test_a_batch_goes_on_and_says_what_failed(stored: Path, tmp_path: Path) -> None:
    sources = [tmp_path / f"{name}.zarr" for name in ("a", "broken", "c")]
    for source in (sources[0], sources[2]):
        shutil.copytree(stored, source)
    sources[1].mkdir()
    (sources[1] / "zarr.json").write_text("{")
    log = tmp_path / "log.jsonl"
    out = tmp_path / "out" / "{name}.zarr"
    result = run(*sources, out, "--method", "bicubic", "--bands", "B11", "--log", log)
    assert result.exit_code == 1
    assert "1 of 3 sources failed" in result.stderr
    assert str(sources[1]) in result.stderr.splitlines()[-1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.zarr", "c.zarr"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    events = [(Path(line["source"]).stem, line["event"]) for line in lines]
    assert events == [
        ("a", "start"), ("a", "plan"), ("a", "done"), ("broken", "start"), ("broken", "failed"),
        ("c", "start"), ("c", "plan"), ("c", "done"),
    ]  # fmt: skip
    assert "cannot be read as a Zarr store" in lines[4]["reason"]
    assert lines[2]["attrs"]["xsen2_method"] == "bicubic"
    assert lines[2]["skipped"] == []
    assert run(sources[1], sources[1], out, "--method", "bicubic").exit_code == 2
    both = run(sources[1], tmp_path / "none.zarr", out, "--method", "bicubic")
    assert both.exit_code == 2
    assert "2 of 2 sources failed" in both.stderr


def test_arguments_that_cannot_be_meant(stored: Path, tmp_path: Path) -> None:
    where = geojson(tmp_path / "area.geojson", sg.Point(3, 45))
    for args, said in {
        (stored, stored, tmp_path / "o.zarr"): "put {name} in OUT",
        (stored, tmp_path / "x" / "cube.zarr", tmp_path / "{name}.tif"): "as another source does",
        (stored, tmp_path / "o.zarr", "--clip-to-aoi"): "--geometry, which is missing",
        (stored, tmp_path / "o.zarr", "--geometry", where, "--bbox", 1, 2, 3, 4): "give one",
        (stored, tmp_path / "o.tif", "--chunks", 300): "size of chunks of a .zarr",
        (stored, tmp_path / "o.tif"): "there are 2 dates",
        (stored, tmp_path / "o.zarr", "--log", tmp_path / "no" / "log"): "cannot be written",
    }.items():
        result = run(*args, "--method", "bicubic")
        assert result.exit_code == 2, args
        assert said in " ".join(result.stderr.split()), args
    assert not list(tmp_path.glob("o*"))


def test_the_plan_is_what_is_done(stored: Path, tmp_path: Path) -> None:
    said = done(stored, tmp_path / "out.zarr", "--method", "bicubic", "--bands", "B11", "--dry-run")
    assert not (tmp_path / "out.zarr").exists()
    assert "2 dates, 48 x 42 pixels of 10 m, EPSG:32631, 600000 4999560 600420 5000040" in said
    assert f"pixels    {2 * 48 * 42 * 5:,}" in said
    cube = xr.open_zarr(stored, decode_coords="all")
    with no_compute():
        sr = cube.dsen2.superresolve(["B11"], "bicubic")
        found = plan(cube, sr, list(sr.data_vars), "int16")
    assert found.bytes_out == 2 * found.pixels
    assert f"tasks     {found.tasks:,} in {found.blocks} blocks" in said
    assert found.tasks == len(dict(sr.__dask_graph__()))
    done(stored, tmp_path / "out.zarr", "--method", "bicubic", "--bands", "B11", "--quiet")
    back = xr.open_zarr(tmp_path / "out.zarr")
    assert sum(v.size for v in back.data_vars.values()) == found.pixels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "chunk", "size"), [("bicubic", 1200, 60), ("default", 600, 20), ("default", 600, 60)]
)
def test_the_memory_of_a_plan_is_about_what_is_needed(method: str, chunk: int, size: int, tmp_path: Path) -> None:
    cube = make_cube(size, size, chunks=chunk, dtype=np.uint16)
    cube.to_zarr(tmp_path / "in.zarr", consolidated=False)
    said = done(tmp_path / "in.zarr", tmp_path / "o.zarr", "--method", method, "--dry-run")
    found = re.search(r"memory    about ([\d.]+) (GiB|MiB)", said)
    assert found is not None
    expected = float(found[1]) * (1024 if found[2] == "GiB" else 1)
    code = (
        "import sys; from xsen2.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print([line for line in open('/proc/self/status') if 'VmHWM' in line][0])\n"
    )
    args = ["run", str(tmp_path / "in.zarr"), str(tmp_path / "o.zarr"), "--method", method, "--quiet"]
    out = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True).stdout
    assert 0.5 < int(out.split()[1]) / 1024 / expected < 1.6  # a CPU without bfloat16 takes more
