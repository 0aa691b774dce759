"""The map in the notebook: it sends the cube's pixels, no more of them than the screen shows, and draws them."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import xsen2
from xsen2.errors import CRSError, GridError
from xsen2.widget import MOST, Viewer, grids

CHROMIUM = os.environ.get("XSEN2_CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), "")


class Counted:
    """An array that counts the pixels that are read of it."""

    def __init__(self, array: np.ndarray, reads: list[int]) -> None:
        self.array, self.reads = array, reads
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, key: Any) -> np.ndarray:
        block = self.array[key]
        self.reads.append(block.size)
        return block


def counted(cube: xr.Dataset, chunk: int) -> tuple[xr.Dataset, list[int]]:
    import dask.array as da

    reads: list[int] = []
    out = cube.copy()
    for name, array in cube.data_vars.items():
        size = chunk // round(array.attrs["gsd"] / 10)
        lazy = da.from_array(Counted(array.values, reads), chunks=(1, size, size), meta=np.empty((0, 0, 0), np.float32))
        out[name] = array.copy(data=lazy)
    return out, reads


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return xsen2.sample().compute().chunk()


def test_measured_pixels_are_the_native_ones(cube: xr.Dataset) -> None:
    viewer = Viewer(cube)
    found = viewer.look("measured", ["B02", "B11", "B09"], 1, (60, 120, 120, 240), (60, 120))
    assert found is not None
    assert (found.shape, found.dtype) == ((3, 60, 120), np.float32)
    for plane, (band, factor) in zip(found, (("B02", 1), ("B11", 2), ("B09", 6)), strict=True):
        native = cube[band].values[1, 60 // factor : 120 // factor, 120 // factor : 240 // factor]
        np.testing.assert_array_equal(plane, native.repeat(factor, 0).repeat(factor, 1))


def test_no_more_comes_than_the_screen_shows(cube: xr.Dataset) -> None:
    viewer = Viewer(cube)
    found = viewer.look("measured", ["B04"], 0, (0, 0, 432, 432), (50, 70))
    assert found is not None
    assert found.shape == (1, 50, 70)
    assert np.isin(found[0], cube["B04"].values[0]).all()  # some of the pixels, none of them mixed
    near = viewer.look("measured", ["B04"], 0, (10, 10, 20, 20), (500, 500))
    assert near is not None
    assert near.shape == (1, 10, 10)


def test_only_what_is_visible_is_read(cube: xr.Dataset) -> None:
    lazy, reads = counted(cube, 72)
    viewer = Viewer(lazy, method="bicubic")
    assert reads == []
    viewer.look("measured", ["B04"], 0, (0, 0, 60, 60), (60, 60))
    assert sum(reads) == 72 * 72
    reads.clear()
    sharp = viewer.look("sharp", ["B11"], 0, (200, 200, 230, 230), (30, 30))
    assert 0 < sum(reads) <= 4 * 36 * 36
    whole = lazy.dsen2.superresolve(["B11"], "bicubic")["B11"].values[0, 200:230, 200:230]
    np.testing.assert_allclose(sharp[0], whole, atol=1e-3)  # type: ignore[index]


def test_too_much_is_not_made(cube: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy, reads = counted(cube, 216)
    monkeypatch.setattr("xsen2.widget.MOST", 1000)
    assert Viewer(lazy, method="bicubic").look("sharp", ["B11"], 0, (0, 0, 432, 432), (10, 10)) is None
    assert reads == []
    assert MOST == 1_000_000


def test_a_result_is_shown_as_it_is_beside_its_cube(cube: xr.Dataset) -> None:
    sr = cube.dsen2.superresolve(method="bicubic").compute()
    viewer = Viewer(sr, cube)
    assert viewer.info["sides"] == ["measured", "sharp"]
    assert viewer.info["bounds"] == [480000.0, 5683680.0, 484320.0, 5688000.0]
    found = viewer.look("sharp", ["B12"], 0, (5, 6, 9, 16), (4, 10))
    np.testing.assert_array_equal(found[0], sr["B12"].values[0, 5:9, 6:16])  # type: ignore[index]
    alone = Viewer(sr.isel(time=0, y=slice(30, 90), x=slice(0, 66)))
    assert (alone.info["sides"], alone.info["size"], alone.info["dates"]) == (["sharp"], [66, 60], [""])
    assert alone.look("sharp", ["B12"], 0, (0, 0, 1, 1), (1, 1))[0, 0, 0] == sr["B12"].values[0, 30, 0]  # type: ignore[index]
    with pytest.raises(GridError, match="another grid"):
        Viewer(sr.isel(y=slice(60, 120)), cube)


def test_reflectance_and_nodata_are_what_they_are(cube: xr.Dataset) -> None:
    part = cube.copy()
    for name in part:
        part[name] = part[name] / 10000
        part[name].attrs["units"] = "1"
    part["B04"] = part["B04"].where(part["x"] > part["x"][3])
    found = Viewer(part).look("measured", ["B04"], 0, (0, 0, 4, 6), (4, 6))
    assert found is not None
    assert np.isnan(found[0, :, :4]).all()
    np.testing.assert_allclose(found[0, :, 4:], cube["B04"].values[0, :4, 4:6], rtol=1e-5)


def test_a_spectrum_has_both_sides(cube: xr.Dataset) -> None:
    viewer = Viewer(cube, method="bicubic")
    found = viewer.spectrum(100, 131, 1)
    assert set(found) == {"measured", "sharp"}  # bicubic does not say how sure it is
    assert found["measured"]["B11"] == pytest.approx(float(cube["B11"][1, 50, 65]), abs=0.06)
    assert found["sharp"]["B02"] == pytest.approx(float(cube["B02"][1, 100, 131]), abs=0.06)
    assert list(found["sharp"]) != []
    assert set(found["sharp"]) == set(viewer.bands)


def test_what_is_asked_wrongly_is_answered_and_harms_nothing(cube: xr.Dataset) -> None:
    pytest.importorskip("anywidget")
    widget = cube.dsen2.explore(method="bicubic")
    sent: list[tuple[dict[str, Any], list[bytes]]] = []
    widget.send = lambda content, buffers=None: sent.append((content, buffers or []))
    bad: list[dict[str, Any]] = [
        {"kind": "look"},
        {"kind": "look", "side": "measured", "bands": ["B99"], "date": 0, "box": [0, 0, 9, 9], "size": [9, 9]},
        {"kind": "look", "side": "measured", "bands": ["B02"], "date": 7, "box": [0, 0, 9, 9], "size": [9, 9]},
        {"kind": "look", "side": "measured", "bands": ["B02"], "date": 0, "box": [0, 0], "size": [9, 9]},
        {"kind": "look", "side": "measured", "bands": ["B02"], "date": 0, "box": ["a", 0, 9, 9], "size": [9, 9]},
        {"kind": "pixel", "row": 10**9, "column": 0, "date": 0},
        {"kind": "nothing"},
        {},
    ]
    for content in bad:
        widget.answer(widget, content, [])
        assert "shape" not in sent[-1][0], content
    widget.answer(widget, {"kind": "area", "id": 1, "box": [0, 0, 100, 100]}, [])
    assert cube.dsen2.superresolve(["B11"], "bicubic", area=widget.area)["B11"].shape[-2:] in {
        (100, 100),
        (101, 101),
        (102, 102),
    }


def test_a_cube_shows_its_three_grids(cube: xr.Dataset) -> None:
    text = cube.dsen2._repr_html_()
    for part in (
        "EPSG:32631",
        "2 dates from 2024-05-12 to 2024-08-30",
        "432 × 432",
        "216 × 216",
        "72 × 72",
        "B01, B09",
    ):
        assert part in text
    hostile = xr.Dataset({"<script>": ("x", [1.0])})
    assert "<script>" not in grids(hostile)
    assert "No cube" in grids(hostile)
    with pytest.raises(CRSError, match="no CRS"):
        Viewer(cube.drop_vars("spatial_ref"))


# --- drawn by a browser -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium, or XSEN2_CHROMIUM=its path")
def test_a_browser_draws_what_the_kernel_sends(cube: xr.Dataset, tmp_path: Path) -> None:
    """The module itself, with the widget's own Python behind it; only Jupyter's wire between them is another."""
    pytest.importorskip("anywidget")
    playwright = pytest.importorskip("playwright.sync_api")
    widget = cube.dsen2.explore(method="bicubic", height=400)
    code = Path(xsen2.__file__).parent
    (tmp_path / "widget.js").write_text((code / "widget.js").read_text())
    (tmp_path / "index.html").write_text(
        f"<style>{(code / 'widget.css').read_text()}</style><div id='w' style='width:600px'></div>"
    )
    with playwright.sync_playwright() as one:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = one.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": 640, "height": 900})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)

        def kernel(content: dict[str, Any]) -> Any:
            sent: list[Any] = []
            widget.send = lambda message, buffers=None: sent.append((message, buffers or []))
            widget.answer(widget, content, [])
            message, buffers = sent[0]
            return {"message": message, "buffers": [base64.b64encode(b).decode() for b in buffers]}

        page.expose_function("kernel", kernel)
        page.goto((tmp_path / "index.html").as_uri())
        source = base64.b64encode((tmp_path / "widget.js").read_bytes()).decode()
        page.evaluate(BRIDGE, [source, json.dumps({"info": widget.info, "height": 400})])
        page.wait_for_selector("#w[data-drawn]", timeout=120_000)
        page.wait_for_timeout(500)

        def picture() -> np.ndarray:
            from PIL import Image

            url = page.evaluate("document.querySelector('canvas').toDataURL('image/png')")
            return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"), np.int16)

        first = picture()
        assert first[..., 3].mean() > 100
        assert first[..., :3].std() > 20
        page.focus(".swipe")
        page.keyboard.press("End")
        measured = picture()
        page.keyboard.press("Home")
        sharp = picture()
        middle = first.shape[1] // 2
        np.testing.assert_array_equal(first[:, : middle - 2], measured[:, : middle - 2])
        np.testing.assert_array_equal(first[:, middle + 2 :], sharp[:, middle + 2 :])
        assert np.abs(measured - sharp).max() > 50
        page.select_option("select >> nth=0", "index NDWI")
        page.wait_for_function("document.getElementById('w').dataset.drawn > 1", timeout=120_000)
        page.wait_for_timeout(500)
        assert np.abs(picture() - sharp).max() > 50
        box = page.locator("canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.click(x + 10, y + 10)
        page.wait_for_selector(".chart svg", timeout=120_000)
        assert "B11" in page.get_attribute(".chart svg", "aria-label")
        assert set(widget.pixel["sharp"]) == set(cube.data_vars)
        page.click("text=Draw a rectangle")
        page.mouse.move(x - 50, y - 40)
        page.mouse.down()
        page.mouse.move(x + 30, y + 50, steps=4)
        page.mouse.up()
        page.wait_for_selector("text=The rectangle is in .area", timeout=60_000)
        assert widget.area["type"] == "Polygon"
        if where := os.environ.get("XSEN2_SCREENSHOT"):
            page.screenshot(path=where)
        assert errors == []
        browser.close()


BRIDGE = """async ([source, traits]) => {
  const module = await import(`data:text/javascript;base64,${source}`);
  const values = JSON.parse(traits), listeners = [];
  const model = {
    get: (name) => values[name],
    on: (name, listener) => listeners.push(listener),
    send: async (content) => {
      const back = await kernel(content);
      const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const buffers = back.buffers.map((text) => new DataView(bytes(text).buffer));
      for (const listener of listeners) listener(back.message, buffers);
    },
  };
  module.default.render({ model, el: document.getElementById("w") });
}"""
