"""The page of the app in a real browser: a headless Chromium draws, searches, runs, swipes, looks and downloads."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import scenes
import stac_api
from app_server import Server, running

from xsen2.app.server import PAGE
from xsen2.index import index

CHROMIUM = os.environ.get("XSEN2_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

CHECKS = (Path(__file__).parent / "page_checks.js").read_text().partition("\n")[2].rstrip().removesuffix(";")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium, or XSEN2_CHROMIUM=its path"),
    pytest.mark.skipif(not (PAGE / "index.html").is_file(), reason="needs the app's page: make page"),
]

NETWORK = "Failed to load resource"
"""How Chromium says in the console that a request was refused: the page says it too, in words."""


@dataclass
class Seen:
    """A page, and what it wrote to the console."""

    page: Any
    errors: list[str] = field(default_factory=list)

    def quiet(self, *, refused: bool = False) -> None:
        """No error was written; with `refused`, but that requests failed."""
        left = [text for text in self.errors if not (refused and NETWORK in text)]
        assert left == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as one:
        options = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            options.append("--no-sandbox")
        made = one.chromium.launch(executable_path=CHROMIUM, args=options)
        yield made
        made.close()


@contextmanager
def opened(browser: Any, url: str, **more: Any) -> Iterator[Seen]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "accept_downloads": True} | more)
    context.set_default_timeout(120_000)
    page = context.new_page()
    seen = Seen(page)
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    outside: list[str] = []
    page.on(
        "request",
        lambda request: outside.append(request.url) if not request.url.startswith((url, "blob:", "data:")) else None,
    )
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    yield seen
    assert outside == []  # nothing but the server is asked
    context.close()


def pixels(page: Any) -> npt.NDArray[np.int16]:
    """The map as it is shown: rows, columns, RGB."""
    from PIL import Image

    image = Image.open(io.BytesIO(page.locator("#map").screenshot())).convert("RGB")
    return np.asarray(image, np.int16)


def until(page: Any, what: str, arg: Any = None, seconds: float = 120) -> None:
    """Wait for a condition; not by `wait_for_function`, whose eval the page's own policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(what, arg):
        assert time.monotonic() < end, what
        page.wait_for_timeout(50)


def settled(page: Any, seconds: float = 120) -> npt.NDArray[np.int16]:
    """The map once it does not change any more, and shows more than its background."""
    until, before = time.monotonic() + seconds, pixels(page)
    while time.monotonic() < until:
        page.wait_for_timeout(400)
        now = pixels(page)
        if np.array_equal(now, before) and now.std() > 12:
            return now
        before = now
    raise AssertionError("the map does not settle, or shows nothing")


def run_job(page: Any, seconds: float = 300, method: str = "bicubic") -> None:
    """Press the button, and wait for the result to open."""
    page.select_option("#method", method)
    page.click("#run")
    page.wait_for_selector("#job-list li")
    page.wait_for_selector("#look-body:not([hidden])", timeout=seconds * 1000)


def find(page: Any) -> None:
    page.click("#go")
    page.wait_for_selector("#found table")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("app") / "data", "--sample") as server:
        yield server


@dataclass
class Api:
    """The app before a STAC API of three scenes: one whole, one with clouds, one without any data."""

    server: Server
    area: list[float]
    items: list[dict[str, Any]]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("stac")
    scene = smooth(cells=(40, 40))
    empty = scenes.Scene(
        {n: np.zeros_like(p) for n, p in scene.bands.items()}, scene.epsg, scene.ulx, scene.uly, "33TWM"
    )
    when = ("2023-08-15T09:57:57.246000Z", "2023-08-25T09:57:57.246000Z", "2023-09-04T09:57:57.246000Z")
    items = [scenes.earth_search(one, folder, at) for one, at in zip((scene, scene, empty), when, strict=True)]
    for item, cloud in zip(items, (3, 75, 0), strict=True):
        item["properties"]["eo:cloud_cover"] = cloud
    west, south, east, north = scene.lonlat()
    area = [west + 0.006, south + 0.004, east - 0.006, north - 0.004]
    with (
        stac_api.serve(items, folder) as url,
        running(tmp_path_factory.mktemp("app") / "data", "--api", url) as server,
    ):
        yield Api(server, area, items)


def smooth(cells: tuple[int, int]) -> scenes.Scene:
    """A scene of slow waves, different in each band, so that what is drawn can be told from what is not."""
    scene = scenes.random(cells=cells)
    for number, (name, shape) in enumerate((n, p.shape) for n, p in scene.bands.items()):
        y, x = np.mgrid[: shape[0], : shape[1]] / shape[0]
        wave = 2000 + 1500 * np.sin(7 * x + number) * np.cos(5 * y - number)
        scene.bands[name] = np.full(shape, 4, np.uint8) if name == "SCL" else wave.astype(np.uint16)
    return scene


def paste(page: Any, area: list[float]) -> None:
    page.click("#paste summary")
    page.fill("#area-text", " ".join(map(str, area)))
    page.click("#area-set")
    until(page, "document.getElementById('area-said').textContent.includes('km²')")


def dates(page: Any, start: str, end: str, cloud: int = 100) -> None:
    page.fill("#start", start)
    page.fill("#end", end)
    page.evaluate(
        "v => { const c = document.getElementById('cloud'); c.value = v; c.dispatchEvent(new Event('input')); }", cloud
    )


# --- the whole way ----------------------------------------------------------------------------------------


def test_from_drawing_to_pixels_spectrum_and_downloads(browser: Any, sample: Server, tmp_path: Path) -> None:
    with opened(browser, sample.url) as seen:
        page = seen.page
        assert "embedded sample" in page.inner_text("#source")
        page.click("#draw-box")
        assert page.get_attribute("#draw-box", "aria-pressed") == "true"
        box = page.locator("#map").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.click(x - 120, y - 110)
        page.mouse.move(x + 40, y + 40, steps=4)
        page.mouse.click(x + 130, y + 100)
        until(page, "/^[0-3]\\.\\d+ km²/.test(document.getElementById('area-said').textContent)")
        find(page)
        page.click("text=Choose all")
        assert "2 scenes" in page.inner_text("#run")
        page.select_option("#method", "bicubic")
        page.click("#run")
        page.wait_for_selector("#job-list progress")
        until(page, "!/waits/.test(document.querySelector('#job-list p').textContent)")
        page.wait_for_selector("#look-body:not([hidden])", timeout=300_000)

        # What was measured at 20 m lies in blocks on the left; on the right nothing was measured in these bands.
        page.select_option("#preset", "fine")
        both = settled(page)
        page.focus("#swipe")
        page.keyboard.press("End")
        measured = settled(page)
        page.keyboard.press("Home")
        sharp = settled(page)
        middle = both.shape[1] // 2
        inside = slice(120, 680), slice(middle - 300, middle - 30)
        assert np.abs(measured[inside] - sharp[inside]).max() > 30
        assert np.abs(both[inside] - measured[inside]).mean() < np.abs(both[inside] - sharp[inside]).mean() / 2
        other = slice(120, 680), slice(middle + 60, middle + 300)
        assert np.abs(both[other] - sharp[other]).mean() < np.abs(both[other] - measured[other]).mean() / 2
        grip = page.locator("#swipe").bounding_box()
        page.mouse.move(grip["x"] + 22, grip["y"] + 300)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.7, grip["y"] + 300, steps=5)
        page.mouse.up()
        assert 68 <= int(page.get_attribute("#swipe", "aria-valuenow")) <= 72

        # Bands, an index and the stretch each change the picture.
        shown = {"fine": sharp}
        page.focus("#swipe")
        page.keyboard.press("Home")
        page.select_option("#preset", "true")
        shown["true"] = settled(page)
        page.fill("#high", "8")
        page.fill("#low", "1")
        page.keyboard.press("Tab")
        shown["stretched"] = settled(page)
        page.check("input[value=index]")
        page.select_option("#index", "NDVI")
        shown["index"] = settled(page)
        assert page.locator("#legend").is_visible()
        names = list(shown)
        for one, two in pairwise(names):
            assert np.abs(shown[one][inside] - shown[two][inside]).mean() > 5, (one, two)
        assert page.locator("input[value=error]").is_disabled()  # bicubic does not say how sure it is

        # A pixel: by a click, and by the keyboard.
        page.mouse.click(x + 20, y + 60)
        page.wait_for_selector("#spectrum svg")
        page.wait_for_selector("#curve svg")
        assert "B11" in page.get_attribute("#spectrum svg", "aria-label")
        clicked = page.inner_text("#pixel-said")
        page.focus("#pixel-middle")
        page.keyboard.press("Enter")
        until(page, "old => document.getElementById('pixel-said').textContent !== old", arg=clicked)
        page.select_option("#date", "20240830")
        until(page, "document.querySelector('#spectrum figcaption').textContent.includes('2024-08-30')")

        # Downloads are the files.
        with page.expect_download() as download:
            page.click("#downloads a:has-text('COG')")
        download.value.save_as(tmp_path / "a.tif")
        with rasterio.open(tmp_path / "a.tif") as file:
            assert file.descriptions[0] == "B01"
            assert file.read(5).max() > 0
        with page.expect_download() as download:
            page.click("#downloads a:has-text('Zarr')")
        download.value.save_as(tmp_path / "a.zip")
        assert (tmp_path / "a.zip").read_bytes()[:2] == b"PK"
        with page.expect_download() as download:
            page.click("#png")
        download.value.save_as(tmp_path / "a.png")
        from PIL import Image

        picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"), np.int16)
        assert picture.std() > 12
        assert re.fullmatch(r"xsen2-20240830-index-NDVI\.png", download.value.suggested_filename)
        seen.quiet()


def test_what_the_shaders_draw_is_the_librarys_index(browser: Any, api: Api) -> None:
    """The legend's colours, read back, give the index that `xsen2.index` computes of the same file."""
    with opened(browser, api.server.url) as seen:
        page = seen.page
        paste(page, api.area)
        dates(page, "2023-08-01", "2023-08-20")
        find(page)
        run_job(page)
        page.check("input[value=index]")
        page.select_option("#index", "MNDWI")
        page.focus("#swipe")
        page.keyboard.press("Home")
        drawn = settled(page)
        job = api.server.folder / "jobs"
        (path,) = job.glob("*/sharp/20230815.tif")
        import rioxarray

        with rioxarray.open_rasterio(path) as file:
            names = list(file.attrs["long_name"])
            ds = file.sel(band=[names.index("B03") + 1, names.index("B11") + 1]).astype("float32").to_dataset("band")
        ds = ds.rename({names.index("B03") + 1: "B03", names.index("B11") + 1: "B11"})
        for band in ds:
            ds[band].attrs = {"units": "1e-4"}
        expected = index(ds, "MNDWI").values
        ramp = np.array(
            [[0x7A, 0x4A, 0x12], [0xC9, 0xA6, 0x6B], [0xF4, 0xEF, 0xE2], [0x7F, 0xB7, 0xCF], [0x0B, 0x4A, 0x6F]]
        )
        share = (np.clip(expected, -1, 1) + 1) / 2 * 4
        colours = np.stack([np.interp(share, range(5), ramp[:, c]) for c in range(3)], -1)
        # The image lies in the middle of the map; its own rows and columns are where its middle says.
        centre = np.array(drawn.shape[:2]) // 2
        mid = np.array(expected.shape) // 2
        patch = drawn[centre[0] - 4 : centre[0] + 4, centre[1] + 10 : centre[1] + 18].reshape(-1, 3).mean(0)
        near = colours[mid[0] - 3 : mid[0] + 4, mid[1] - 3 : mid[1] + 8].reshape(-1, 3)
        assert np.abs(near - patch).sum(1).min() < 12
        seen.quiet()


def test_pixels_of_a_real_network_come_with_their_standard_errors(browser: Any, sample: Server) -> None:
    with opened(browser, sample.url) as seen:
        page = seen.page
        paste(page, [2.73, 51.32, 2.738, 51.325])
        find(page)
        run_job(page, 400, method="default")
        page.click("#pixel-middle")
        page.wait_for_selector("#spectrum svg")
        assert "plus or minus" in page.get_attribute("#spectrum svg", "aria-label")
        page.check("input[value=error]")
        assert settled(page).std() > 12
        assert page.locator("#swipe").is_hidden()
        assert "Standard error of B11" in page.inner_text("#legend")
        seen.quiet()


# --- what goes wrong --------------------------------------------------------------------------------------


def test_no_scenes_areas_over_the_cap_and_what_is_no_area(browser: Any, api: Api) -> None:
    with opened(browser, api.server.url) as seen:
        page = seen.page
        page.click("#go")
        assert "Draw an area first" in page.inner_text("#area-said")
        paste(page, [14.0, 46.0, 15.0, 47.0])
        assert "100 km² in one job" in page.inner_text("#area-said")
        assert page.locator("#go").is_disabled()
        for text, says in (("hello", "neither GeoJSON"), ('{"type": "Point", "coordinates": [900, 1]}', "not lon/lat")):
            page.fill("#area-text", text)
            page.click("#area-set")
            until(page, "t => document.getElementById('area-said').textContent.includes(t)", arg=says)
        page.fill("#area-text", " ".join(map(str, api.area)))
        page.click("#area-set")
        page.wait_for_selector("#go:not([disabled])")
        dates(page, "2020-01-01", "2020-02-01")
        page.click("#go")
        until(page, "document.getElementById('found-said').textContent.includes('No scenes found')")
        dates(page, "2023-08-01", "2023-08-31", cloud=20)
        find(page)
        assert page.locator("#found tbody tr").count() == 1
        seen.quiet(refused=True)


def test_scenes_of_nodata_alone_are_said_to_be(browser: Any, api: Api) -> None:
    with opened(browser, api.server.url) as seen:
        page = seen.page
        page.set_input_files(
            "#area-file",
            {"name": "field.geojson", "mimeType": "application/geo+json", "buffer": polygon(api.area).encode()},
        )
        until(page, "document.getElementById('area-said').textContent.includes('km²')")
        dates(page, "2023-09-01", "2023-09-30")
        find(page)
        page.select_option("#method", "bicubic")
        page.click("#run")
        page.wait_for_selector("#job-list li[data-state=failed]", timeout=120_000)
        assert "nodata alone" in page.inner_text("#job-list li")
        page.click("#job-list button:has-text('Delete')")
        until(page, "!document.querySelector('#job-list li[data-state=failed]')")
        seen.quiet()


def polygon(area: list[float]) -> str:
    west, south, east, north = area
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return f'{{"type": "Feature", "properties": {{}}, "geometry": {{"type": "Polygon", "coordinates": [{ring}]}}}}'


def test_an_api_that_is_down_leaves_the_sample(browser: Any, tmp_path: Path) -> None:
    with stac_api.serve([], tmp_path) as url:
        pass
    with running(tmp_path / "app", "--api", url) as server, opened(browser, server.url) as seen:
        page = seen.page
        assert "cannot be reached" in page.inner_text("#source")
        assert "embedded sample" in page.inner_text("#source")
        page.click("#source button")
        paste(page, [2.72, 51.32, 2.74, 51.33])
        dates(page, "2024-01-01", "2024-02-01")
        page.click("#go")
        page.click("#use-sample")
        find(page)
        assert page.locator("#found tbody tr").count() == 2
        seen.quiet(refused=True)


def test_a_job_is_cancelled_and_one_outlives_its_server(browser: Any, tmp_path: Path) -> None:
    with running(tmp_path / "app", "--sample") as server, opened(browser, server.url) as seen:
        page = seen.page
        paste(page, [2.72, 51.31, 2.77, 51.34])
        find(page)
        page.click("text=Choose all")
        page.click("#run")
        until(page, "/reading|making/.test(document.querySelector('#job-list p')?.textContent)", seconds=120)
        page.click("#job-list button:has-text('Cancel')")
        page.wait_for_selector("#job-list li[data-state=cancelled]", timeout=60_000)
        page.click("#job-list button:has-text('Go on')")
        until(page, "/making/.test(document.querySelector('#job-list p')?.textContent)", seconds=120)
        server.kill()
        page.wait_for_selector("#offline:not([hidden])")
        assert "does not answer" in page.inner_text("#offline")
        server.start()
        page.wait_for_selector("#offline", state="hidden")
        page.wait_for_selector("#look-body:not([hidden])", timeout=400_000)
        settled(page)
        page.reload()
        page.wait_for_selector("html[data-ready]")
        page.click("nav button[data-show=jobs]")
        page.click("#job-list button:has-text('Look')")
        settled(page)
        seen.quiet(refused=True)


# --- for everybody ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_and_every_field_has_a_name(browser: Any, sample: Server, scheme: str) -> None:
    with opened(browser, sample.url, color_scheme=scheme, viewport={"width": 390, "height": 800}) as seen:
        page = seen.page
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing hangs over a phone's edge
        find(page)
        page.evaluate("for (const e of document.querySelectorAll('section, #look-body, #start-job')) e.hidden = false")
        page.evaluate("for (const e of document.querySelectorAll('details')) e.open = true")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(CHECKS) == {"nameless": [], "pale": []}
        seen.quiet()


def test_the_keyboard_is_enough(browser: Any, sample: Server) -> None:
    with opened(browser, sample.url) as seen:
        page = seen.page
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.show || ''"))
        assert {"map", "draw-box", "use-view", "start", "end", "cloud", "go", "jobs", "look", "theme"} <= reached
        page.focus("#go")
        page.keyboard.press("Enter")
        page.wait_for_selector("#found table")
        seen.quiet()
