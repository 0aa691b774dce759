"""The page without a server in a real browser: range requests, the default networks in WebAssembly, GeoTIFFs."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import scenes
import xarray as xr
from test_app_browser import CHROMIUM, browser, opened, settled, until  # noqa: F401  # browser is a fixture

import xsen2
from xsen2.bands import BANDS
from xsen2.errors import RadiometryError
from xsen2.sources import items, offsets

SITE = Path(__file__).parents[1] / "site-app"
PAGE = Path(__file__).parents[1] / "xsen2" / "app" / "page"
WHEN = "2023-08-15T09:57:57.246000Z"
KINDS = {
    ".html": "text/html",
    ".wasm": "application/wasm",
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".css": "text/css",
}

in_a_browser = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium, or XSEN2_CHROMIUM=its path"),
    pytest.mark.skipif(
        not (SITE / "static" / "about.json").is_file(), reason="needs the page without a server: make page"
    ),
]


@dataclass
class Site:
    """The page and a scene's files, on a plain server of files that gives ranges, as anybody's does."""

    url: str
    folder: Path
    item: dict[str, Any]
    cube: xr.Dataset
    asked: list[tuple[str, str]]


def serve(roots: dict[str, Path], asked: list[tuple[str, str]]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked_for = self.path.lstrip("/") or "index.html"
            path = next(
                root / asked_for.removeprefix(start) for start, root in roots.items() if asked_for.startswith(start)
            )
            if not path.is_file():
                self.send_error(404)
                return
            whole, span = path.read_bytes(), self.headers.get("Range")
            body = whole
            if span:
                first, _, last = span.removeprefix("bytes=").partition("-")
                body = whole[int(first) : int(last or len(whole) - 1) + 1]
                asked.append((path.name, span))
            self.send_response(206 if span else 200)
            if span:
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(whole)}")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", KINDS.get(path.suffix, "application/octet-stream"))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The embedded sample as a product of baseline 05.09, with +1000 and holes; its own last 60 m cells cut off."""
    folder = tmp_path_factory.mktemp("scene")
    cube = xsen2.sample().isel(time=0).compute()
    bands = {name: np.rint(cube[name].values).clip(1).astype("uint16") for name in BANDS}
    bands["B11"][30:34, 20:27] = 0
    bands["B03"][:9, 100:] = 0
    for name, pixels in bands.items():
        side = 420 * 10 // BANDS[name].gsd
        bands[name] = pixels[:side, : side + 12 * 10 // BANDS[name].gsd]
    left, top = cube.rio.bounds()[0], cube.rio.bounds()[3]
    scene = scenes.Scene(bands, cube.rio.crs.to_epsg(), int(left), int(top), "31UES")
    item = scenes.earth_search(scene, folder, WHEN, applied=False, added=1000)
    asked: list[tuple[str, str]] = []
    server = serve({"files/": folder, "": SITE}, asked)
    url = f"http://127.0.0.1:{server.server_port}/"
    (folder / "item.json").write_text(json.dumps(item))
    local = json.loads(json.dumps(item))
    for asset in local["assets"].values():
        asset["href"] = str(folder / asset["href"])
    yield Site(url, folder, item, xsen2.load([local]), asked)
    server.shutdown()
    server.server_close()


def sharpened(page: Any, area: list[float], tmp_path: Path) -> Path:
    """Take an area, make it, and download it."""
    page.click("#paste summary")
    page.fill("#area-text", " ".join(map(str, area)))
    page.click("#area-set")
    until(page, "document.getElementById('area-said').textContent.includes('km²')")
    page.click("#run")
    page.wait_for_selector("#look-body:not([hidden]), #job-list .bad", timeout=300_000)
    assert page.locator("#look-body").is_visible(), page.inner_text("#job-list")
    with page.expect_download() as download:
        page.click("#downloads a[download$='10m.tif']")
    download.value.save_as(tmp_path / "made.tif")
    return tmp_path / "made.tif"


def same(path: Path, want: xr.Dataset) -> None:
    """The file has the library's pixels to 1 DN, and nodata where it has."""
    with rasterio.open(path) as file:
        assert file.crs == want.rio.crs
        assert file.dtypes[0] == "float32"
        names, made = file.descriptions, file.read(masked=True)
        transform = file.transform
    assert set(names) == set(BANDS)
    x = transform.c + 10 * (np.arange(made.shape[2]) + 0.5)
    y = transform.f - 10 * (np.arange(made.shape[1]) + 0.5)
    for name, pixels in zip(names, made, strict=True):
        there = want[name].sel(x=x, y=y)
        np.testing.assert_array_equal(pixels.mask, np.isnan(there), err_msg=name)
        np.testing.assert_allclose(pixels.filled(0), there.fillna(0), rtol=0, atol=0.05, err_msg=name)


def expected(site: Site) -> xr.Dataset:
    sr = site.cube.isel(time=0).dsen2.superresolve(dtype="float32", device="cpu")
    return sr.compute()


class TestInABrowser:
    pytestmark = in_a_browser

    def test_an_item_by_its_address(self, browser: Any, site: Site, tmp_path: Path) -> None:  # noqa: F811
        with opened(browser, site.url) as seen:
            page = seen.page
            page.fill("#scene-text", f"{site.url}files/item.json")
            page.click("#scene-open")
            until(page, "!document.getElementById('start-job').hidden")
            assert page.input_value("#offset") == "-1000"
            assert "12 bands" in page.inner_text("#scene-said")
            west, _, _, north = site.item["bbox"]
            # One corner of the scene, so that two sides are mirrored, and the holes.
            area = [west - 0.01, north - 0.015, west + 0.02, north + 0.01]
            made = sharpened(page, [round(v, 6) for v in area], tmp_path)
            same(made, expected(site))
            assert any(name == "B11.tif" for name, _ in site.asked)
            # It is shown as any result is.
            page.select_option("#preset", "fine")
            settled(page)
            page.focus("#pixel-middle")
            page.keyboard.press("Enter")
            page.wait_for_selector("#spectrum svg")
            page.check("input[value=index]")
            settled(page)
            page.check("input[value=error]")
            settled(page)
            seen.quiet()

    def test_files_of_ones_own(self, browser: Any, site: Site, tmp_path: Path) -> None:  # noqa: F811
        with opened(browser, site.url) as seen:
            page = seen.page
            page.set_input_files("#scene-files", sorted((site.folder / "sentinel-2-l2a").glob("*/B*.tif")))
            until(page, "!document.getElementById('start-job').hidden")
            assert page.input_value("#offset") == ""  # files do not say it
            west, south, _, _ = site.item["bbox"]
            area = [round(v, 6) for v in (west + 0.02, south + 0.015, west + 0.023, south + 0.018)]
            page.click("#paste summary")
            page.fill("#area-text", " ".join(map(str, area)))
            page.click("#area-set")
            page.click("#run")
            until(page, "document.getElementById('run-said').textContent.includes('offset')")
            page.fill("#offset", "-1000")
            page.click("#paste summary")
            same(sharpened(page, area, tmp_path), expected(site))
            seen.quiet()

    def test_what_is_wrong_is_said(self, browser: Any, site: Site) -> None:  # noqa: F811
        with opened(browser, site.url) as seen:
            page = seen.page
            files = sorted((site.folder / "sentinel-2-l2a").glob("*/B*.tif"))
            for given, says in (
                (files[:3], "There is no GeoTIFF of"),
                ([SITE / "index.html"], "does not say which band"),
            ):
                page.set_input_files("#scene-files", given)
                until(page, "t => document.getElementById('scene-said').textContent.includes(t)", says)
            page.fill("#scene-text", f"{site.url}files/none.json")
            page.click("#scene-open")
            until(page, "document.getElementById('scene-said').textContent.includes('404')")
            page.set_input_files("#scene-files", files)
            until(page, "!document.getElementById('start-job').hidden")
            page.fill("#offset", "0")
            # Given up while it runs, and gone on with.
            west, south, _, _ = site.item["bbox"]
            page.evaluate("document.getElementById('paste').open = true")
            page.fill("#area-text", f"{west + 0.02} {south + 0.015} {west + 0.021} {south + 0.016}")
            page.click("#area-set")
            page.click("#run")
            page.click("#job-list button:has-text('Cancel')")
            until(page, "document.querySelector('#job-list p').textContent === 'cancelled'")
            page.click("#job-list button:has-text('Go on')")
            until(page, "/starting|making/.test(document.querySelector('#job-list p').textContent)")
            page.click("#job-list button:has-text('Cancel')")
            page.click("nav button[data-show=find]")
            for area, says in (("2 51 2.2 51.2", "draw a smaller one"), ("3.5 51 3.51 51.01", "outside the scene")):
                page.evaluate("document.getElementById('paste').open = true")
                page.fill("#area-text", area)
                page.click("#area-set")
                page.click("#run")
                until(page, "t => document.body.textContent.includes(t)", says)
            seen.quiet(refused=True)


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_the_offset_is_the_librarys_or_a_question(tmp_path: Path) -> None:
    """Whatever an item says: the page fills in what `xsen2.sources.offsets` finds, and asks where that refuses."""
    scene = scenes.random(cells=(2, 2))
    cases = [scenes.planetary_computer(scene, tmp_path, WHEN, version=version) for version in ("02.09", "05.09")]
    versions = (None, "02.05", "03.01", "04.00", "05.09", "99.99")
    for version, applied, declared in product(versions, (None, True, False), (None, 0, -0.1)):
        item = scenes.earth_search(scene, tmp_path, WHEN, version=version, applied=applied, declared=declared)
        if version == "99.99":
            del item["properties"]["s2:product_uri"]
        cases.append(item)
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    script = (
        f"import {{ offset }} from {json.dumps((PAGE / 'src/browser/offset.js').as_uri())};"
        "import { readFileSync } from 'node:fs';"
        f"const cases = JSON.parse(readFileSync({json.dumps(str(tmp_path / 'cases.json'))}));"
        "console.log(JSON.stringify(cases.map((item) => offset(item).value)));"
    )
    run = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    for item, value in zip(cases, found, strict=True):
        (read,) = items.read([item])
        try:
            want = offsets.offset_of(read)
        except RadiometryError:
            want = None
        assert value == want, item["properties"]
    assert set(found) == {None, 0, -1000}
