"""Items and servers from elsewhere: no file of this machine is opened for them, and nothing waits for ever."""

from __future__ import annotations

import copy
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import scenes
from odd_server import floods, gives, serving, silent, to, trickles, trickles_the_head
from pystac_client import Client
from rasterio.transform import from_origin
from scenes import earth_search
from stac_api import serve

from xsen2.errors import GridError, RadiometryError, SourceError
from xsen2.sources import items as items_module
from xsen2.sources import reading
from xsen2.sources import search as search_module
from xsen2.sources.search import items_at, search
from xsen2.sources.stac import load

ENGINES = ("stackstac", "odc")
DAY = "2023-08-15T09:57:57.246000Z"
ELSEWHERE = "https://catalogue.example/collections/s2/items/x"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience is shorter than a user's."""
    monkeypatch.setattr(reading, "PAUSES", (0.01,))
    for key, value in (
        ("GDAL_HTTP_MAX_RETRY", "0"),
        ("GDAL_HTTP_CONNECTTIMEOUT", "1"),
        ("GDAL_HTTP_LOW_SPEED_TIME", "1"),
        ("GDAL_HTTP_TIMEOUT", "2"),
    ):
        monkeypatch.setitem(reading.ENV, key, value)
    monkeypatch.setattr(search_module, "PAGE", 1.0)
    monkeypatch.setattr(search_module, "WHOLE", 5.0)


@pytest.fixture
def scene() -> scenes.Scene:
    whole = scenes.random(3, cells=(4, 4))
    return scenes.Scene({"B02": whole.bands["B02"]}, whole.epsg, whole.ulx, whole.uly, "33TWM")


def linked(item: Any, **links: str) -> Any:
    item = copy.deepcopy(item)
    item["links"] = [{"rel": rel, "href": href} for rel, href in links.items()]
    return item


def vrt(path: str, scene: scenes.Scene) -> str:
    """A picture that GDAL makes of another file, with the place and size of the scene."""
    height, width = scene.bands["B02"].shape
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>EPSG:{scene.epsg}</SRS>'
        f"<GeoTransform>{scene.ulx}, 10, 0, {scene.uly}, 0, -10</GeoTransform>"
        f'<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>{path}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


# --- addresses ------------------------------------------------------------------------------------


def addresses(path: Path, scene: scenes.Scene) -> dict[str, str]:
    return {
        "path": str(path),
        "file": path.as_uri(),
        "file in capitals": path.as_uri().replace("file", "FILE"),
        "file with a host": f"file://localhost{path}",
        "inline VRT": vrt(str(path), scene),
        "inline VRT after a space": " " + vrt(str(path), scene),
        "vrt://": f"vrt://{path}",
        "vsizip": f"/vsizip/{path}.zip/x.tif",
        "vsicurl": "/vsicurl/https://example.org/x.tif",
        "vsicurl of a file": f"/vsicurl/{path.as_uri()}",
        "vsisubfile": f"/vsisubfile/0_100,{path}",
        "a folder up": f"../../../../../../../..{path}",
        "zip of rasterio": f"zip://{path}.zip!/x.tif",
        "GTIFF_DIR": f"GTIFF_DIR:1:{path}",
        "another protocol": "ftp://example.org/x.tif",
        "nothing": "",
    }


NAMES = tuple(addresses(Path("/x"), scenes.random(cells=(1, 1))))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["self", "root", "collection", "object", "s3"])
def test_no_address_of_a_remote_item_opens_a_file_here(
    tmp_path: Path, scene: scenes.Scene, name: str, how: str
) -> None:
    item = earth_search(scene, tmp_path, DAY)
    path = tmp_path / item["assets"]["blue"]["href"]
    item["assets"]["blue"]["href"] = addresses(path, scene)[name]
    links = {"object": {"self": ELSEWHERE}, "s3": {"self": "s3://bucket/item.json"}}.get(how, {how: ELSEWHERE})
    found: Any = linked(item, **links)
    if how == "object":
        found = pystac.Item.from_dict(found)
    for engine in ENGINES:
        resolved = name in ("a folder up", "GTIFF_DIR") and how in ("self", "object", "s3")
        if resolved:  # against the item's own address
            (read,) = items_module.read(found)
            assert read.assets["B02"]["href"].startswith(("https://catalogue.example/", "s3://bucket/"))
            continue
        with pytest.raises(SourceError, match=r"'blue'.*href|no asset for B02|no Sentinel-2 band"):
            load(found, bands=["B02"], engine=engine)


def test_what_a_search_finds_is_remote_whatever_it_says(tmp_path: Path, scene: scenes.Scene) -> None:
    item = earth_search(scene, tmp_path, DAY)
    path = str(tmp_path / item["assets"]["blue"]["href"])

    def body(where: str) -> bytes:
        evil = linked(item, self="/home/item.json")
        evil["assets"]["blue"]["href"] = path
        base = f"http://{address}"
        conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
        links = [{"rel": "self", "href": base}, {"rel": "root", "href": base}]
        root = {"type": "Catalog", "stac_version": "1.0.0", "id": "x", "description": "x", "conformsTo": conforms}
        root["links"] = [*links, {"rel": "search", "href": f"{base}/search", "method": "GET"}]
        page = {"type": "FeatureCollection", "features": [evil], "links": []}
        return json.dumps(page if "search" in where or "page" in where else root).encode()

    with serving(gives(body)) as url:
        address = url.removeprefix("http://")
        found = list(Client.open(url).search(collections=["sentinel-2-l2a"], method="GET").items())
        assert found
        ours = search(url, "sentinel-2-l2a", (0, 0, 1, 1), "2023")
        paged = items_at(f"{url}/page")
    for items in (found, ours):
        with pytest.raises(SourceError, match="from elsewhere"):
            load(items, bands=["B02"])
    assert items_module.read(paged)[0].assets["B02"]["href"].startswith(url)


def test_the_advice_for_files_that_lie_here_works(tmp_path: Path, scene: scenes.Scene) -> None:
    item = earth_search(scene, tmp_path, DAY)
    item["assets"]["blue"]["href"] = str(tmp_path / item["assets"]["blue"]["href"])
    remote = linked(item, self=ELSEWHERE, root=ELSEWHERE)
    with pytest.raises(SourceError, match="give it a self link with its own path"):
        load(remote)
    own = str(tmp_path / "item.json")
    assert load(linked(item, self=own, root=ELSEWHERE)).B02.max() > 0
    one = pystac.Item.from_dict(remote)
    one.set_root(None)
    one.set_self_href(own)
    assert load(one).B02.max() > 0


@pytest.mark.parametrize("form", ["path", "relative", "file", "no link", "spaces"])
def test_local_items_name_local_files(tmp_path: Path, scene: scenes.Scene, form: str) -> None:
    folder = tmp_path / "a folder"
    item = earth_search(scene, folder, DAY)
    href = item["assets"]["blue"]["href"]
    given = {"relative": href, "file": (folder / href).as_uri()}.get(form, str(folder / href))
    item["assets"]["blue"]["href"] = given
    found = linked(item) if form == "no link" else linked(item, self=str(folder / "item.json"))
    for engine in ENGINES:
        pixels = load(found, engine=engine).B02[0]
        np.testing.assert_array_equal(pixels.fillna(0), scene.bands["B02"])


def test_an_alternate_is_taken_where_the_first_address_is_none(tmp_path: Path, scene: scenes.Scene) -> None:
    item = earth_search(scene, tmp_path, DAY)
    asset = item["assets"]["blue"]
    with serve([], tmp_path) as url:
        asset["alternate"] = {"odd": 3, "https": {"href": f"{url}files/{asset['href']}"}}
        asset["href"] = "/eodata/B02.tif"
        pixels = load(linked(item, self=ELSEWHERE)).B02[0]
        np.testing.assert_array_equal(pixels.fillna(0), scene.bands["B02"])


# --- what is in the files -------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["x.vrt", "B02.tif", "B02.jp2", "x.png", "x.bin"])
def test_only_the_formats_of_the_products_are_read(tmp_path: Path, scene: scenes.Scene, engine: str, name: str) -> None:
    item = earth_search(scene, tmp_path, DAY)
    path = tmp_path / item["assets"]["blue"]["href"]
    picture = tmp_path / name
    if name.endswith(".png"):
        with rasterio.open(picture, "w", driver="PNG", width=24, height=24, count=1, dtype="uint16") as file:
            file.write(np.ones((24, 24), "uint16"), 1)
    elif name.endswith(".bin"):
        np.ones((24, 24), "uint16").tofile(picture)
        picture.with_suffix(".hdr").write_text("ENVI\nsamples=24\nlines=24\nbands=1\ndata type=12\ninterleave=bsq\n")
    else:
        picture.write_text(vrt(str(path), scene))
    item["assets"]["blue"]["href"] = name
    with serve([], tmp_path) as url:
        served = copy.deepcopy(item)
        served["assets"]["blue"]["href"] = f"{url}files/{name}"
        for found in (linked(item, self=str(tmp_path / "item.json")), linked(served, self=f"{url}item")):
            with pytest.raises(SourceError, match="Only GeoTIFF and JPEG 2000"):
                load(found, engine=engine).compute()


@pytest.mark.parametrize("engine", ENGINES)
def test_files_beside_an_image_do_not_change_it(tmp_path: Path, scene: scenes.Scene, engine: str) -> None:
    item = earth_search(scene, tmp_path, DAY)
    path = tmp_path / item["assets"]["blue"]["href"]
    Path(f"{path}.aux.xml").write_text(
        "<PAMDataset><GeoTransform>0,10,0,0,0,-10</GeoTransform><PAMRasterBand band='1'><NoDataValue>1000</NoDataValue>"
        "<Offset>7</Offset><Scale>2</Scale></PAMRasterBand></PAMDataset>"
    )
    path.with_suffix(".tfw").write_text("10\n0\n0\n-10\n0\n0\n")
    for ending in (".ovr", ".msk"):
        with rasterio.open(
            f"{path}{ending}", "w", driver="GTiff", width=24, height=24, count=1, dtype="uint8",
            crs=scene.epsg, transform=from_origin(scene.ulx, scene.uly, 10, 10),
        ) as file:  # fmt: skip
            file.write(np.zeros((24, 24), "uint8"), 1)
    pixels = load(linked(item, self=str(tmp_path / "item.json")), engine=engine).B02[0]
    np.testing.assert_array_equal(pixels.fillna(0), scene.bands["B02"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("dtype", "nodata", "change", "words"),
    [
        ("float32", None, lambda p: p, None),
        ("float32", np.nan, lambda p: np.where(p == 0, np.nan, p), None),
        ("int32", -1, lambda p: np.where(p == 0, -1, p), None),
        ("uint16", 65535, lambda p: np.where(p == 0, 65535, p), None),
        ("float32", None, lambda p: p / 10000, "whole numbers"),
        ("int32", None, lambda p: p + 100_000, "whole numbers"),
        ("int16", None, lambda p: np.where(p == 0, 0, -p), "whole numbers"),
    ],
)
def test_pixels_of_other_types_are_the_same_or_refused(
    tmp_path: Path, scene: scenes.Scene, engine: str, dtype: str, nodata: float | None, change: Any, words: str | None
) -> None:
    item = earth_search(scene, tmp_path, DAY)
    path = tmp_path / item["assets"]["blue"]["href"]
    pixels = scene.bands["B02"]
    raw = change(pixels.astype("float64")).astype(dtype)
    with rasterio.open(
        path, "w", driver="GTiff", width=24, height=24, count=1, dtype=dtype, nodata=nodata,
        crs=scene.epsg, transform=from_origin(scene.ulx, scene.uly, 10, 10),
    ) as file:  # fmt: skip
        file.write(raw, 1)
    cube = load(linked(item, self=str(tmp_path / "item.json")), engine=engine)
    if words is None:
        np.testing.assert_array_equal(cube.B02[0].fillna(0), pixels)
    else:
        with pytest.raises(RadiometryError, match=words):
            cube.compute()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_redirect_never_leads_to_a_file_here(tmp_path: Path, scene: scenes.Scene, engine: str) -> None:
    item = earth_search(scene, tmp_path, DAY)
    path = tmp_path / item["assets"]["blue"]["href"]
    with serving(to(path.as_uri())) as url:
        item["assets"]["blue"]["href"] = f"{url}/B02.tif"
        with pytest.raises(SourceError, match="cannot be read"):
            load(linked(item, self=url), engine=engine).compute()
        with pytest.raises(SourceError):
            items_at(f"{url}/item.json")


# --- servers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [silent, trickles, trickles_the_head], ids=lambda f: f.__name__)
def test_a_server_that_does_not_answer_is_an_error(answer: Any, scene: scenes.Scene, tmp_path: Path) -> None:
    with serving(answer) as url:
        for ask in (lambda: items_at(f"{url}/item.json"), lambda: search(url, "s2", (0, 0, 1, 1), "2023")):
            started = time.perf_counter()
            with pytest.raises(SourceError, match="has not answered in 1 s"):
                ask()
            assert time.perf_counter() - started < 20
        item = earth_search(scene, tmp_path, DAY)
        item["assets"]["blue"]["href"] = f"{url}/B02.tif"
        for engine in ENGINES:
            started = time.perf_counter()
            with pytest.raises(SourceError, match="cannot be read"):
                load(linked(item, self=url), engine=engine).compute()
            assert time.perf_counter() - started < 60


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "BYTES", 3_000_000)
    monkeypatch.setattr(search_module, "PAGE", 30.0)
    with serving(floods) as url, pytest.raises(SourceError, match="more than 3 MB"):
        items_at(f"{url}/item.json")


def pages(scene: scenes.Scene, folder: Path, numbers: Iterator[int], following: str) -> Any:
    """An answer to a search whose pages never end, each with the item of the next number."""
    item = earth_search(scene, folder, DAY)

    def body(path: str) -> bytes:
        number = next(numbers)
        one = {**copy.deepcopy(item), "id": f"S2A_33TWM_{number}"}
        link = {"rel": "next", "href": following.format(number=number)}
        return json.dumps({"type": "FeatureCollection", "features": [one], "links": [link]}).encode()

    return gives(body)


@pytest.mark.parametrize("case", ["new items", "the same items", "slowly"])
def test_pages_without_end_are_an_error(
    monkeypatch: pytest.MonkeyPatch, scene: scenes.Scene, tmp_path: Path, case: str
) -> None:
    monkeypatch.setattr(search_module, "WHOLE", 60.0 if case != "slowly" else 0.5)
    numbers = itertools.repeat(1) if case == "the same items" else itertools.count()
    monkeypatch.setattr(search_module, "MOST", 20)
    words = {"new items": "more than 20 items", "the same items": "no end", "slowly": "has not ended|not answered"}
    with serving(pages(scene, tmp_path, numbers, "/more?{number}")) as url:
        answer = pages(scene, tmp_path, numbers, url + "/more?{number}")
    with serving(lambda request: answer(request)) as url:
        answer = pages(scene, tmp_path, numbers, url + "/more?{number}")
        if case == "slowly":
            quick, answer = answer, lambda request: (time.sleep(0.2), quick(request))
        with pytest.raises(SourceError, match=words[case]):
            items_at(f"{url}/search")


def test_more_pages_than_a_search_has(monkeypatch: pytest.MonkeyPatch, scene: scenes.Scene, tmp_path: Path) -> None:
    monkeypatch.setattr(search_module, "PAGES", 5)
    monkeypatch.setattr(search_module, "WHOLE", 60.0)
    with serving(lambda request: answer(request)) as url:
        answer = pages(scene, tmp_path, itertools.count(), url + "/more?{number}")
        with pytest.raises(SourceError, match="not ended after 5 pages"):
            items_at(f"{url}/search")


@pytest.mark.parametrize("following", ["file:///etc/hosts", "/etc/hosts", "ftp://example.org/x", "vrt:///etc/hosts"])
def test_a_next_page_is_on_http_or_not_followed(scene: scenes.Scene, tmp_path: Path, following: str) -> None:
    with (
        serving(pages(scene, tmp_path, itertools.count(), following)) as url,
        pytest.raises(SourceError, match=r"not on http\(s\)"),
    ):
        items_at(f"{url}/search")


def test_a_collection_whose_api_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "catalog.json").write_text("{}")
    page = {"type": "Collection", "id": "x", "links": [{"rel": "root", "href": (tmp_path / "catalog.json").as_uri()}]}
    with (
        serving(gives(lambda _: json.dumps(page).encode())) as url,
        pytest.raises(SourceError, match=r"not on http\(s\)"),
    ):
        items_at(f"{url}/collections/x", (0, 0, 1, 1), "2023")


def test_a_source_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "item.json")  # opening it would wait for somebody who writes
    with pytest.raises(SourceError, match="is no file"):
        items_at(str(tmp_path / "item.json"))


def test_items_without_end(monkeypatch: pytest.MonkeyPatch, scene: scenes.Scene, tmp_path: Path) -> None:
    monkeypatch.setattr(items_module, "MOST", 30)
    item = linked(earth_search(scene, tmp_path, DAY), self=str(tmp_path / "item.json"))
    with pytest.raises(SourceError, match="more than 30 items"):
        load({**item, "id": str(i)} for i in itertools.count())


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "left"),
    [((300_000, 300_000), 499980), ((10986, 10980), 499980), ((24, 24), 6 * 10**12), ((-24, 24), 499980)],
)
def test_an_item_is_no_larger_than_a_tile(
    tmp_path: Path, scene: scenes.Scene, shape: tuple[int, int], left: int
) -> None:
    item = linked(earth_search(scene, tmp_path, DAY), self=str(tmp_path / "item.json"))
    asset = item["assets"]["blue"]
    asset["proj:shape"], asset["proj:transform"][2] = list(shape), left
    with pytest.raises(GridError, match="109800 m a side"):
        load(item)


def test_tiles_far_apart_need_an_area(tmp_path: Path, scene: scenes.Scene) -> None:
    far = scenes.Scene(scene.bands, scene.epsg, scene.ulx - 60 * 5000, 600_000, "33NTA")
    items = [linked(earth_search(s, tmp_path, DAY), self=str(tmp_path / "item.json")) for s in (scene, far)]
    with pytest.raises(SourceError, match="33NTA, 33TWM lie so far apart"):
        load(items)
    assert load(items, bbox=scene.lonlat()).sizes["x"] == 24
    assert load(items[1]).sizes["x"] == 24


# --- object stores --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_advice_for_the_copernicus_object_store_works(
    tmp_path: Path, scene: scenes.Scene, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = earth_search(scene, tmp_path / "files/eodata", DAY)
    href = item["assets"]["blue"]["href"]
    item["assets"]["blue"]["href"] = f"s3://eodata/{href}"
    found = linked(item, self="s3://eodata/item.json")
    with serve([], tmp_path) as url:
        for key, value in {"AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}.items():
            monkeypatch.setenv(key, value)
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(key, "x")
        monkeypatch.setenv("AWS_S3_ENDPOINT", url.removeprefix("http://") + "nothing")
        with pytest.raises(SourceError, match="AWS_S3_ENDPOINT=eodata"):
            load(found, engine=engine).compute()
        monkeypatch.setenv("AWS_S3_ENDPOINT", url.removeprefix("http://") + "files/files")
        pixels = load(found, engine=engine).B02[0]
        np.testing.assert_array_equal(pixels.fillna(0), scene.bands["B02"])
