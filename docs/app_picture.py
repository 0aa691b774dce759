"""Take the picture of the app for the documentation: ``PYTHONPATH=tests python docs/app_picture.py SCENE``.

The app runs before a STAC API on loopback that has one real scene of the training data, as its tests do, and a headless
Chromium takes the picture. Contains modified Copernicus Sentinel data 2015-2020.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import scenes
import stac_api
from app_server import running
from PIL import Image
from playwright.sync_api import sync_playwright
from test_app_browser import CHROMIUM, dates, find, opened, paste, run_job, settled

OUT = Path(__file__).parent / "images" / "app.png"


def main() -> None:
    """Find the scene, super-resolve its middle, and show it half as measured, half at 10 m."""
    scene = scenes.real(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        item = scenes.earth_search(scene, folder, "2024-08-15T09:57:57.246000Z")
        west, south, east, north = scene.lonlat()
        inner = [west + 0.36 * (east - west), south + 0.42 * (north - south)]
        inner += [west + 0.56 * (east - west), south + 0.58 * (north - south)]
        with (
            stac_api.serve([item], folder) as url,
            running(folder / "data", "--api", url) as server,
            sync_playwright() as playwright,
        ):
            options = [
                "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader",
                "--ignore-gpu-blocklist",
                "--no-sandbox",
            ]
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
            with opened(browser, server.url, color_scheme="light", viewport={"width": 1280, "height": 760}) as seen:
                page = seen.page
                paste(page, inner)
                dates(page, "2024-08-01", "2024-08-31")
                find(page)
                page.click("text=Choose all")
                run_job(page, method="default")
                page.select_option("#preset", sys.argv[2] if len(sys.argv) > 2 else "swir")
                box = page.locator("#map").bounding_box()
                page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"])
                page.wait_for_selector("#spectrum svg")
                settled(page)
                page.screenshot(path=OUT)
                Image.open(OUT).convert("RGB").quantize(192).save(OUT, optimize=True)
            browser.close()


if __name__ == "__main__":
    main()
