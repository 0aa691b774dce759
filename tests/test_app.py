"""The server of the app: what it takes, whom it answers, and that its results are the library's."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray
import scenes
import stac_api
import xarray as xr
import zarr
from app_server import SAMPLE, SAMPLE_AREA, SAMPLE_DATES, Server, free_port, running, user, wait
from pystac import Item
from starlette.testclient import TestClient

import xsen2
from xsen2.app.guard import check_api, checked
from xsen2.app.jobs import Jobs
from xsen2.app.look import formulas
from xsen2.app.schema import Job, Limits, Search
from xsen2.app.server import Settings, create_app
from xsen2.app.state import State
from xsen2.errors import SourceError, StoreError
from xsen2.sources.search import items_at

JOB = {"area": SAMPLE_AREA, **SAMPLE, "scenes": SAMPLE_DATES, "method": "bicubic"}


def client(folder: Path, **more: Any) -> TestClient:
    """The app in this process, without its workers: jobs wait."""
    return TestClient(create_app(Settings(folder=folder, **more)), base_url="http://127.0.0.1:8010")


@pytest.fixture
def quiet(tmp_path: Path) -> TestClient:
    """A user of the app in this process."""
    made = client(tmp_path / "app", sample=True)
    made.get("/")
    return made


@dataclass
class Api:
    """A STAC API of two dates, one of them without any data, and where they are."""

    url: str
    items: list[dict[str, Any]]
    area: list[float]
    reads: list[str]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("stac")
    scene = scenes.random(cells=(30, 30))
    blank = {name: np.zeros_like(pixels) for name, pixels in scene.bands.items()}
    items = [
        scenes.earth_search(scene, folder, "2023-08-15T09:57:57.246000Z"),
        scenes.earth_search(replace(scene, bands=blank), folder, "2023-08-25T09:57:57.246000Z"),
    ]
    items[0]["properties"]["eo:cloud_cover"], items[1]["properties"]["eo:cloud_cover"] = 5, 60
    west, south, east, north = scene.lonlat()
    area = [west + 0.004, south + 0.004, east - 0.004, north - 0.004]
    reads: list[str] = []
    with stac_api.serve(items, folder, reads) as url:
        yield Api(url, items, area, reads)


@pytest.fixture(scope="module")
def server(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("app") / "data", "--api", api.url) as one:
        yield one


@pytest.fixture(scope="module")
def done(server: Server) -> tuple[Any, dict[str, Any]]:
    """A user, and a job of theirs that is done."""
    one = user(server.url)
    added = one.post("/api/jobs", json={**JOB, "title": "<script>alert(1)</script>"})
    assert added.status_code == 201, added.text
    return one, wait(one, added.json()["id"])


# --- what it takes --------------------------------------------------------------------------------------


def ring(count: int) -> dict[str, Any]:
    angle = np.linspace(0, 2 * np.pi, count)
    points = np.column_stack([2.73 + 0.01 * np.cos(angle), 51.32 + 0.01 * np.sin(angle)]).round(4).tolist()
    return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


def nested(depth: int) -> str:
    return '{"type": "GeometryCollection", "geometries": [' * depth + "]}" * depth


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"area": "/etc/passwd"}, "GeoJSON, or a bbox"),
        ({"area": [0, 0, 1]}, "four numbers"),
        ({"area": [0, 0, True, 1]}, "four numbers"),
        ({"area": {"type": "Polygon"}}, "GeoJSON"),
        ({"area": {"type": "Point", "coordinates": [600, 51]}}, "not lon/lat"),
        ({"area": ring(30_000)}, "vertices"),
        ({"area": {**ring(5), "crs": {"properties": {"name": "+proj=utm +nadgrids=/etc/passwd"}}}}, "crs"),
        ({"area": {**ring(5), "crs": "/etc/passwd"}}, "crs"),
        ({"area": [2.0, 51.0, 3.0, 52.0]}, "km² in one job"),
        ({"start": "2024-13-01"}, "start"),
        ({"start": "2024-12-01", "end": "2024-01-01"}, "before they begin"),
        ({"start": "2018-01-01", "end": "2024-01-01"}, "two years"),
        ({"cloud": 101}, "cloud"),
        ({"cloud": "1; rm -rf /"}, "cloud"),
        ({"source": "https://elsewhere.example"}, "source"),
        ({"api": "http://169.254.169.254/"}, "api"),
        ({"scenes": []}, "scenes"),
        ({"scenes": ["../../etc/passwd"]}, "scenes"),
        ({"scenes": ["a"] * 2}, "twice"),
        ({"scenes": [f"s{n}" for n in range(25)]}, "24 are the most"),
        ({"method": "/tmp/weights"}, "no method"),
        ({"method": "../weights.safetensors"}, "no method"),
        ({"bands": ["B02"]}, "no 20 m or 60 m band"),
        ({"bands": ["$(id)"]}, "no 20 m or 60 m band"),
        ({"title": "x" * 81}, "title"),
        ({"clip": "perhaps"}, "clip"),
    ],
)
def test_what_is_refused_is_refused_with_a_sentence(quiet: TestClient, change: dict[str, Any], says: str) -> None:
    answer = quiet.post("/api/jobs", json={**JOB, **change})
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]
    assert quiet.get("/api/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"area": [NaN, 0, 1, 1]}', "application/json", 400),
        (b'{"area": ' + nested(200).encode() + b"}", "application/json", 400),
        (b'{"area": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "application/json", 400),
        (b'{"area": ' + nested(100_000)[:900_000].encode(), "application/json", 400),
        (b" " * (2**20 + 1), "application/json", 413),
        (b"area=1", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
    ],
)
def test_bodies_that_are_no_request(quiet: TestClient, body: bytes, kind: str, status: int) -> None:
    for path in ("/api/jobs", "/api/search", "/api/area"):
        answer = quiet.post(path, content=body, headers={"Content-Type": kind})
        assert answer.status_code == status, (path, answer.text)
        assert answer.json()["error"]


def test_an_area_is_measured_in_any_form(quiet: TestClient) -> None:
    box = quiet.post("/api/area", json={"area": SAMPLE_AREA}).json()
    assert box["bbox"] == SAMPLE_AREA
    corners = [[480000, 5686000], [482000, 5686000], [482000, 5687000], [480000, 5687000], [480000, 5686000]]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    utm = {"type": "Polygon", "coordinates": [corners], "crs": crs}
    assert quiet.post("/api/area", json={"area": utm}).json()["km2"] == pytest.approx(2.0, rel=0.02)
    islands = {"type": "MultiPolygon", "coordinates": [
        [[[179.98, -17], [180, -17], [180, -16.98], [179.98, -16.98], [179.98, -17]]],
        [[[-180, -17], [-179.98, -17], [-179.98, -16.98], [-180, -16.98], [-180, -17]]]]}  # fmt: skip
    assert quiet.post("/api/area", json={"area": islands}).json()["km2"] == pytest.approx(9.4, rel=0.05)


def test_limits_tell_what_they_measured() -> None:
    Limits(km2=2.0).check(SAMPLE_AREA)
    with pytest.raises(SourceError, match=r"spans 2 km², and this server takes 1 km²"):
        Limits(km2=1.0).check(SAMPLE_AREA)


def test_a_user_has_only_so_many_jobs_waiting(tmp_path: Path) -> None:
    one = client(tmp_path / "app", sample=True, limits=Limits(waiting=2))
    one.get("/")
    statuses = [one.post("/api/jobs", json=JOB).status_code for _ in range(3)]
    assert statuses == [201, 201, 429]
    other = client_of(one)
    assert other.post("/api/jobs", json=JOB).status_code == 201


def client_of(other: TestClient) -> TestClient:
    """Another user of the same server."""
    made = TestClient(other.app, base_url="http://127.0.0.1:8010")
    made.get("/")
    return made


# --- whom it answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8010", "10.0.0.1", "localhost@evil.example", ""]
)
def test_another_name_for_this_machine_is_refused(quiet: TestClient, host: str) -> None:
    for path in ("/", "/api/about", "/api/jobs"):
        assert quiet.get(path, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8010", "localhost:8010", "[::1]:8010", "LOCALHOST"])
def test_its_own_names_are_taken(quiet: TestClient, host: str) -> None:
    assert quiet.get("/api/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://localhost:8010.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_is_refused(quiet: TestClient, headers: dict[str, str]) -> None:
    assert quiet.post("/api/jobs", json=JOB, headers=headers).status_code == 403
    assert quiet.get("/api/jobs", headers=headers).status_code == 403
    assert quiet.get("/api/jobs").json()["jobs"] == []


def test_its_own_page_and_a_link_to_it_are_answered(quiet: TestClient) -> None:
    assert quiet.post("/api/jobs", json=JOB, headers={"Origin": "http://127.0.0.1:8010"}).status_code == 201
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert quiet.get("/", headers=link).status_code in (200, 503)  # 503: the page has not been built
    assert quiet.get("/api/jobs", headers=link).status_code == 403


def test_no_answer_may_be_framed_guessed_or_scripted_from_elsewhere(quiet: TestClient) -> None:
    for path in ("/", "/api/about", "/api/jobs/none", "/nowhere"):
        headers = quiet.get(path).headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_elsewhere_than_on_loopback_a_token_is_needed(tmp_path: Path) -> None:
    settings = Settings(folder=tmp_path / "app", host="0.0.0.0", sample=True, names=("maps.example.org",))
    assert settings.token is not None
    assert len(settings.token) >= 32
    assert settings.token in settings.address
    one = TestClient(create_app(settings), base_url="http://maps.example.org", follow_redirects=False)
    for path in ("/", "/api/about", "/?token=", "/?token=wrong", f"/api/about?token={settings.token}"):
        assert one.get(path).status_code == 401
    assert one.get("/api/about", headers={"Authorization": "Bearer wrong"}).status_code == 401
    opened = one.get(f"/?token={settings.token}")
    assert opened.status_code == 303
    assert settings.token not in opened.headers["Location"] + opened.headers["Set-Cookie"]
    assert "HttpOnly" in opened.headers["Set-Cookie"]
    one.get("/")
    assert one.get("/api/jobs").status_code == 200
    assert one.get("/api/jobs", headers={"Host": "other.example.org"}).status_code == 403
    assert one.get("/api/jobs", headers={"Host": "192.0.2.7:8010"}).status_code == 200  # a number cannot be rebound


def test_two_users_never_see_each_others_jobs(quiet: TestClient) -> None:
    name = quiet.post("/api/jobs", json=JOB).json()["id"]
    other = client_of(quiet)
    assert [job["id"] for job in quiet.get("/api/jobs").json()["jobs"]] == [name]
    assert other.get("/api/jobs").json()["jobs"] == []
    job = f"/api/jobs/{name}"
    asked = [("GET", job), ("DELETE", job), ("POST", f"{job}/cancel"), ("POST", f"{job}/retry"),
             ("GET", f"{job}/pixel?x=1&y=1"), ("GET", f"{job}/series?index=NDWI"), ("GET", f"{job}/store.zarr.zip"),
             ("GET", f"{job}/sharp/20240512.tif")]  # fmt: skip
    for method, path in asked:
        answer, nobody = other.request(method, path), other.request(method, path.replace(name, "0" * 32))
        assert (answer.status_code, answer.text) == (nobody.status_code, nobody.text) == (404, nobody.text)
    assert quiet.get(job).json()["state"] == "waiting"
    stranger = TestClient(quiet.app, base_url="http://127.0.0.1:8010", cookies={"xsen2_user": "guess"})
    assert stranger.get("/api/jobs").status_code == 401


# --- which addresses a job reads --------------------------------------------------------------------------


def item(*hrefs: str) -> Item:
    assets = {f"a{n}": {"href": href, "alternate": {"s3": {"href": "s3://b/k"}}} for n, href in enumerate(hrefs)}
    return Item.from_dict(
        {"type": "Feature", "stac_version": "1.0.0", "id": "scene", "geometry": None, "properties":
         {"datetime": "2024-01-01T00:00:00Z"}, "links": [], "assets": assets}
    )  # fmt: skip


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "s3://bucket/key.tif",
        "/vsicurl/http://127.0.0.1/a.tif",
        "vrt://http://127.0.0.1/a.tif",
        "<VRTDataset/>",
        "http://127.0.0.1/a.tif",
        "http://localhost:8010/api/jobs",
        "http://[::1]/a.tif",
        "http://[::ffff:127.0.0.1]/a.tif",
        "http://2130706433/a.tif",
        "http://0/a.tif",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/a.tif",
        "http://192.168.1.1/a.tif",
        "http://user:word@93.184.216.34/a.tif",
        "http://93.184.216.34/a\n.tif",
        "http://nowhere.invalid/a.tif",
        "gopher://93.184.216.34/1",
        "",
    ],
)
def test_no_address_inside_this_network_is_read(href: str) -> None:
    with pytest.raises(SourceError, match="may be read"):
        checked([item(href)], "https://93.184.216.34/v1")
    left = checked([item(href, "https://93.184.216.35/a.tif")], "https://93.184.216.34/v1")
    assert [asset.href for asset in left[0].assets.values()] == ["https://93.184.216.35/a.tif"]
    assert "alternate" not in next(iter(left[0].assets.values())).extra_fields


def test_an_api_on_loopback_may_name_loopback_and_nothing_else_inside() -> None:
    local = "http://127.0.0.1:8080/files/a.tif"
    assert checked([item(local)], "http://localhost:8080/")[0].assets["a0"].href == local
    with pytest.raises(SourceError, match="inside this network"):
        checked([item("http://10.0.0.1/a.tif")], "http://127.0.0.1:8080/")
    with pytest.raises(SourceError, match=r"http\(s\)"):
        checked([item("file:///etc/passwd")], "http://127.0.0.1:8080/")


@pytest.mark.parametrize(
    "api", ["file:///etc", "/etc", "ftp://a.example", "https://", "https://me:secret@a.example/v1"]
)
def test_an_api_is_an_address_of_the_web(api: str) -> None:
    with pytest.raises(SourceError):
        check_api(api)


# --- results ----------------------------------------------------------------------------------------------


def test_a_result_is_what_the_library_makes(done: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    one, job = done
    result = job["result"]
    sr = xsen2.sample().dsen2.superresolve(method="bicubic", area=SAMPLE_AREA).compute()
    assert result["crs"] == "EPSG:32631"
    assert result["bounds"] == list(sr.rio.bounds())
    assert result["size"] == [sr.sizes["x"], sr.sizes["y"]]
    for number, date in enumerate(result["dates"]):
        path = tmp_path / f"{date}.tif"
        path.write_bytes(one.get(f"/api/jobs/{job['id']}/sharp/{date}.tif").content)
        with rioxarray.open_rasterio(path) as file:
            names = list(file.attrs["long_name"])
            assert names == result["bands"]
            for band in ("B02", "B05", "B01"):
                expected = sr[band].isel(time=number)
                np.testing.assert_allclose(file[names.index(band)], expected, atol=0.501)
    zipped = tmp_path / "a.zip"
    zipped.write_bytes(one.get(f"/api/jobs/{job['id']}/store.zarr.zip").content)
    with zarr.storage.ZipStore(zipped, mode="r") as store:
        ds = xr.open_zarr(store, decode_coords="all")
        np.testing.assert_allclose(ds["B11"], sr["B11"], atol=0.501)
        assert ds.rio.crs == sr.rio.crs


def test_measured_pixels_lie_on_the_10_m_grid_as_they_are(done: tuple[Any, dict[str, Any]]) -> None:
    one, job = done
    cube = xsen2.sample()
    west, _, _, north = job["result"]["bounds"]
    for row, column in ((0, 0), (17, 40), (90, 101)):
        x, y = west + 10 * column + 5, north - 10 * row - 5
        found = one.get(f"/api/jobs/{job['id']}/pixel", params={"x": x, "y": y}).json()
        assert (found["row"], found["column"]) == (row, column)
        for number, date in enumerate(found["dates"]):
            for band, dims in (("B02", ("y", "x")), ("B11", ("y_20m", "x_20m")), ("B09", ("y_60m", "x_60m"))):
                native = cube[band].isel(time=number).sel({dims[0]: y, dims[1]: x}, method="nearest")
                assert date["measured"][band] == pytest.approx(float(native), abs=0.51)
            sharp = {band: (("y", "x"), [[float(value)]], {"units": "1e-4"}) for band, value in date["sharp"].items()}
            pixel = xr.Dataset(sharp)
            for name in ("NDWI", "NDMI"):
                assert date["indices"][name]["sharp"] == pytest.approx(pixel.dsen2.index(name).item(), abs=1e-4)


def test_the_course_of_an_index_is_the_librarys(done: tuple[Any, dict[str, Any]]) -> None:
    one, job = done
    sr = xsen2.sample().dsen2.superresolve(["B11"], "bicubic", area=SAMPLE_AREA)
    expected = sr.dsen2.index("MNDWI").median(("y", "x")).values
    found = one.get(f"/api/jobs/{job['id']}/series", params={"index": "MNDWI"}).json()["dates"]
    assert [one["median"] for one in found] == pytest.approx(expected, abs=2e-3)
    assert [one["share"] for one in found] == [1.0, 1.0]
    for name in ("none", "../NDWI", ""):
        assert one.get(f"/api/jobs/{job['id']}/series", params={"index": name}).status_code == 404


def test_the_shaders_formulas_are_spyndexs() -> None:
    found = {one["name"]: (one["a"], one["b"]) for one in formulas()}
    assert found == {"NDWI": ("B03", "B08"), "MNDWI": ("B03", "B11"), "NDVI": ("B08", "B04"), "NDMI": ("B08", "B11")}


@pytest.mark.parametrize("x", ["nan", "inf", "-inf", "1e400", "0", "x", ""])
def test_no_pixel_is_found_where_there_is_none(done: tuple[Any, dict[str, Any]], x: str) -> None:
    one, job = done
    assert one.get(f"/api/jobs/{job['id']}/pixel", params={"x": x, "y": "5686000"}).status_code in (400, 404)


@pytest.mark.parametrize(
    "path",
    [
        "../state.sqlite3",
        "%2e%2e/%2e%2e/state.sqlite3",
        "sharp/..%2f..%2f..%2fstate.sqlite3",
        "sharp/../../../state.sqlite3.tif",
        "native.zarr/zarr.json",
        "sharp.zarr/zarr.json",
        "other/20240512.tif",
        "sharp/20240513.tif",
        "sharp/20240512.tif%00",
        "error/20240512.tif",
    ],
)
def test_only_files_that_a_job_names_are_served(done: tuple[Any, dict[str, Any]], path: str) -> None:
    one, job = done
    answer = one.get(f"/api/jobs/{job['id']}/{path}")
    assert answer.status_code in (403, 404)
    assert b"SQLite" not in answer.content


@pytest.mark.parametrize("name", ["../server.py", "..%2fserver.py", "built-from.txt", ".hidden.js", "a/b.js"])
def test_only_the_pages_own_files_are_served(quiet: TestClient, name: str) -> None:
    assert quiet.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_hundreds_of_ranges_are_the_file(done: tuple[Any, dict[str, Any]], count: int) -> None:
    one, job = done
    path = f"/api/jobs/{job['id']}/sharp/{job['result']['dates'][0]}.tif"
    whole = one.get(path).content
    step = -(-len(whole) // count)

    def part(start: int) -> bytes:
        answer = one.get(path, headers={"Range": f"bytes={start}-{min(start + step, len(whole)) - 1}"})
        assert answer.status_code == 206
        return answer.content

    starts = range(0, len(whole), step)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(part, starts))
    assert len(parts) > 0.9 * count
    assert b"".join(parts) == whole
    for bad in ("bytes=99999999-", "bytes=5-1", "bytes=a-b"):
        assert one.get(path, headers={"Range": bad}).status_code in (400, 416)


def test_progress_comes_soon_and_a_title_is_text(server: Server, done: tuple[Any, dict[str, Any]]) -> None:
    one, job = done  # its worker is warm
    assert job["title"] == "<script>alert(1)</script>"
    began = time.monotonic()
    name = one.post("/api/jobs", json=JOB).json()["id"]
    while one.get(f"/api/jobs/{name}").json()["progress"].get("stage") not in ("searching", "reading", "sharpening"):
        assert time.monotonic() - began < 60
        time.sleep(0.02)
    wait(one, name)


def test_cancelled_tried_again_and_removed(server: Server, done: tuple[Any, dict[str, Any]]) -> None:
    one, _ = done
    name = one.post("/api/jobs", json=JOB).json()["id"]
    assert one.delete(f"/api/jobs/{name}").status_code == 409
    assert one.get(f"/api/jobs/{name}/store.zarr.zip").status_code == 409
    one.post(f"/api/jobs/{name}/cancel")
    wait(one, name, until=("cancelled",))
    assert one.post(f"/api/jobs/{name}/cancel").status_code == 409
    assert one.post(f"/api/jobs/{name}/retry").status_code == 200
    wait(one, name)
    assert one.post(f"/api/jobs/{name}/retry").status_code == 409
    folder = server.folder / "jobs" / name
    assert folder.is_dir()
    assert one.delete(f"/api/jobs/{name}").status_code == 200
    assert not folder.exists()
    assert one.get(f"/api/jobs/{name}").status_code == 404


def test_what_goes_wrong_in_a_job_is_said(server: Server, done: tuple[Any, dict[str, Any]]) -> None:
    one, _ = done
    outside = one.post("/api/jobs", json={**JOB, "area": [2.0, 50.0, 2.01, 50.01]}).json()["id"]
    gone = one.post("/api/jobs", json={**JOB, "scenes": ["sample-19990101"]}).json()["id"]
    assert "outside the cube" in wait(one, outside, until=("failed",))["message"]
    assert "no such scene" in wait(one, gone, until=("failed",))["message"]


# --- through a STAC API -----------------------------------------------------------------------------------


def test_scenes_of_an_api_are_found_and_made(api: Api, server: Server) -> None:
    one = user(server.url)
    dates = {"start": "2023-08-01", "end": "2023-08-31"}
    assert one.get("/api/about").json()["source"]["reachable"] is True
    found = one.post("/api/search", json={"area": api.area, **dates}).json()["scenes"]
    assert [s["id"] for s in found] == [i["id"] for i in api.items]
    assert found[0]["covers"] == 1.0
    clear = one.post("/api/search", json={"area": api.area, **dates, "cloud": 20}).json()["scenes"]
    assert [s["id"] for s in clear] == [api.items[0]["id"]]
    none = one.post("/api/search", json={"area": api.area, "start": "2020-01-01", "end": "2020-02-01"})
    assert (none.status_code, none.json()["scenes"]) == (200, [])
    assert not [r for r in api.reads if r.endswith(".tif")]  # a search reads no pixel
    job = {"area": api.area, **dates, "method": "bicubic"}
    name = one.post("/api/jobs", json={**job, "scenes": [api.items[0]["id"]]}).json()["id"]
    blank = one.post("/api/jobs", json={**job, "scenes": [api.items[1]["id"]]}).json()["id"]
    result = wait(one, name)["result"]
    assert "nodata alone" in wait(one, blank, until=("failed",))["message"]
    items = items_at(api.url, tuple(api.area), "2023-08-01/2023-08-20")  # type: ignore[arg-type]
    sr = xsen2.load(items, bbox=api.area).dsen2.superresolve(method="bicubic", area=api.area)
    assert result["bounds"] == list(sr.rio.bounds())
    assert 0.8 < result["valid"]["20230815"] < 1


def test_an_api_that_does_not_answer_is_said_to_be_down(tmp_path: Path) -> None:
    down = client(tmp_path / "app", api=f"http://127.0.0.1:{free_port()}/")
    down.get("/")
    assert down.get("/api/about").json()["source"]["reachable"] is False
    answer = down.post("/api/search", json={"area": SAMPLE_AREA, "start": "2024-01-01", "end": "2024-02-01"})
    assert answer.status_code == 502
    assert answer.json()["unreachable"] is True


# --- restarts, crowds, clean-up ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_survives_its_server(tmp_path: Path) -> None:
    with running(tmp_path / "app", "--sample") as server:
        one = user(server.url)
        cookies = dict(one.cookies)
        name = one.post("/api/jobs", json={**JOB, "method": "default"}).json()["id"]
        while one.get(f"/api/jobs/{name}").json()["progress"].get("stage") != "sharpening":
            time.sleep(0.05)
        server.kill()
        server.start()
        job = wait(one, name)
        assert dict(one.cookies) == cookies
    with running(tmp_path / "app", "--sample") as server:
        again = user(server.url, cookies=cookies)
        assert again.get(f"/api/jobs/{name}").json()["result"] == job["result"]
        assert again.get(f"/api/jobs/{name}/sharp/20240512.tif").status_code == 200


@pytest.mark.slow
def test_ten_jobs_of_two_users_at_once(tmp_path: Path) -> None:
    with running(tmp_path / "app", "--sample", "--workers", "2") as server:
        ten_jobs(server)


def ten_jobs(server: Server) -> None:
    users = [user(server.url) for _ in range(2)]
    added: list[tuple[Any, str]] = []
    lock = threading.Lock()

    def add(number: int) -> None:
        one = users[number % 2]
        name = one.post("/api/jobs", json=JOB).json()["id"]
        with lock:
            added.append((one, name))

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(add, range(10)))
    results = [wait(one, name, 400)["result"] for one, name in added]
    assert len({json.dumps({**r, "seconds": 0}, sort_keys=True) for r in results}) == 1
    for one in users:
        assert len(one.get("/api/jobs").json()["jobs"]) == 5


def fill(jobs: Jobs, name: str, ended: float, size: int) -> None:
    jobs.place(name).mkdir()
    (jobs.place(name) / "a").write_bytes(b"x")
    jobs.state.add(name, "me", {}, 100)
    jobs.state.end(name, "done", size=size)
    with jobs.state._change() as db:
        db.execute("UPDATE jobs SET ended = ? WHERE id = ?", (ended, name))


def test_old_results_go_then_the_oldest_of_too_many(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "app", "https://a.example", keep_days=1, keep_gb=3e-6)
    now = time.time()
    fill(jobs, "old", now - 2 * 86400, 10)
    for number in range(4):
        fill(jobs, f"n{number}", now - 1000 + number, 1000)
    assert jobs.state.add("waits", "me", {}, 100)
    jobs.tidy()
    assert {record.id for record in jobs.state.all()} == {"n1", "n2", "n3", "waits"}
    assert {place.name for place in (tmp_path / "app" / "jobs").iterdir()} == {"n1", "n2", "n3"}
    jobs.close()


def test_one_server_per_folder_and_a_file_that_is_none_of_its_own(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "app", "https://a.example")
    jobs.close()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "state.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="cannot be used"):
        Jobs(tmp_path / "bad", "https://a.example")


def test_what_ran_when_the_server_ended_is_tried_three_times(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    state = State(path)
    state.add("a", "me", {}, 9)
    for _ in range(3):
        taken = state.take()
        assert taken is not None
        assert taken.id == "a"
        state.close()
        state = State(path)
        state.recover()
    assert state.take() is None
    found = state.find("a")
    assert found is not None
    assert (found.state, found.attempts) == ("failed", 3)
    assert "ended 3 times" in found.message
    state.close()


def test_users_take_turns(tmp_path: Path) -> None:
    state = State(tmp_path / "s.sqlite3")
    for name, owner in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
        state.add(name, owner, {}, 9)
    assert [taken.id for taken in (state.take(), state.take(), state.take()) if taken] == ["a1", "b1", "a2"]
    state.close()


def test_requests_as_the_page_writes_them_are_read() -> None:
    job = Job.model_validate_json(json.dumps(JOB))
    assert Job.model_validate(job.model_dump(mode="json")) == job
    assert (
        Search.model_validate({"area": SAMPLE_AREA, **SAMPLE}).datetime == "2024-01-01T00:00:00Z/2024-12-31T23:59:59Z"
    )


def test_the_command_says_how_to_build_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from xsen2.cli.main import main

    monkeypatch.setattr("xsen2.app.server.PAGE", tmp_path)
    ran = CliRunner().invoke(main, ["app", "--no-open", "--port", str(free_port()), "--folder", str(tmp_path)])
    assert ran.exit_code == 2
    assert "make page" in ran.output
    assert io.StringIO(ran.output).readline().startswith("Error: the page of this app has not been built")
