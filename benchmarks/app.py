"""How long a user of `xsen2 app` waits after drawing 5 x 5 km: until something moves, and until there are pixels.

Starts the app and a STAC API with GeoTIFFs on this machine, with a warm worker. CPU seconds are those of
the worker: on a machine that does other things too they tell more than those of the clock::

    python benchmarks/app.py
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import scenes
import stac_api
from app_server import running, user

SIDE = 5000  # metres
CELLS = 180  # of 60 m: the area with all the context that the default method sees


def waves() -> scenes.Scene:
    """A scene that is not the same everywhere."""
    scene = scenes.random(cells=(CELLS, CELLS))
    for number, (name, pixels) in enumerate(scene.bands.items()):
        y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]] / pixels.shape[0]
        wave = 2000 + 1500 * np.sin(40 * x + number) * np.cos(30 * y - number)
        scene.bands[name] = np.full(pixels.shape, 4, np.uint8) if name == "SCL" else wave.astype(np.uint16)
    return scene


def cpu(pid: int) -> float:
    """Seconds of a process's children so far."""
    return sum(sum(child.cpu_times()[:2]) for child in psutil.Process(pid).children(recursive=True))


def main() -> None:
    """Measure three jobs."""
    scene = waves()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = [scenes.earth_search(scene, folder, "2023-08-15T09:57:57.246000Z")]
        west, south, east, north = scene.lonlat()
        lat, lon = (south + north) / 2, (west + east) / 2
        tall, wide = SIDE / 2 / 111_200, SIDE / 2 / 111_320 / np.cos(np.radians(lat))
        area = [lon - wide, lat - tall, lon + wide, lat + tall]
        with stac_api.serve(items, folder) as url, running(folder / "app", "--api", url) as server:
            client = user(server.url)
            query = {"area": area, "start": "2023-08-01", "end": "2023-08-31"}
            matches = client.post("/api/search", json=query).json()["scenes"]
            time.sleep(20)  # the worker imports torch
            for number in range(3):
                load, spent, began = os.getloadavg()[0], cpu(server.process.pid), time.perf_counter()
                job = client.post("/api/jobs", json={**query, "scenes": [matches[0]["id"]]}).json()["id"]
                moved = None
                while (now := client.get(f"/api/jobs/{job}").json())["state"] in ("waiting", "running"):
                    if moved is None and now["progress"].get("stage") not in (None, "starting"):
                        moved = time.perf_counter() - began
                    time.sleep(0.05)
                assert now["state"] == "done", now["message"]
                path = f"/api/jobs/{job}/sharp/{now['result']['dates'][0]}.tif"
                client.get(path, headers={"Range": "bytes=0-65535"})
                took = time.perf_counter() - began
                print(
                    f"job {number + 1}: {' x '.join(map(str, now['result']['size']))} pixels; something moves after "
                    f"{moved:.2f} s, pixels after {took:.1f} s; {cpu(server.process.pid) - spent:.1f} s of CPU, "
                    f"load {load:.1f}"
                )


if __name__ == "__main__":
    main()
