"""Would a reader without GDAL be faster? python benchmarks/readers.py [--dates 24] [--delay 20] [--out FILE].

Needs async-geotiff and obstore besides what `load` needs: ``pip install async-geotiff obstore``.

Many small reads: an area of 60 x 60 pixels of 10 m, ten bands, `--dates` dates, from COGs on this machine behind a
server that answers ranges of bytes after `--delay` milliseconds, as an object store does. One run, three readers in
turn, the median of `--repeat`:

1. `load(engine="stackstac")` and `load(engine="odc")`, computed by `--threads` threads of Dask;
2. async-geotiff over obstore: every file opened and its window read at once, in one event loop, without STAC, checks,
   or Dask: the most that could be won.

Windows must be the same to the bit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import pystac
import rasterio
from rasterio.transform import from_origin

from xsen2.bands import BANDS, A, B
from xsen2.geometry import lonlat
from xsen2.grid import geobox
from xsen2.sources.stac import load

LEFT, TOP, EPSG = 499980, 5200020, 32633
SIDE = 3660
"""Pixels of a file at 10 m: a ninth of a tile."""


def image(path: Path, gsd: int) -> None:
    """A COG of smooth land with some noise, tiled as the products in the cloud are."""
    n = SIDE * 10 // gsd
    y, x = np.mgrid[:n, :n].astype(np.float32) * (gsd / 10)
    noise = np.random.default_rng(gsd).normal(0, 30, (n, n))
    pixels = (1500 + 700 * np.sin(y / 61) * np.cos(x / 83) + noise).clip(1).astype(np.uint16)
    profile = {"count": 1, "dtype": "uint16", "crs": f"EPSG:{EPSG}", "transform": from_origin(LEFT, TOP, gsd, gsd)}
    options = {"BLOCKSIZE": 1024, "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "OVERVIEWS": "AUTO"}
    with rasterio.open(path, "w", driver="COG", height=n, width=n, nodata=0, **profile, **options) as out:
        out.write(pixels, 1)


def items(folder: Path, dates: int, base: str) -> list[pystac.Item]:
    """Items of Earth Search's kind; the files of a grid are one and the same under many names."""
    sources = {gsd: folder / f"r{gsd}.tif" for gsd in (10, 20)}
    for gsd, path in sources.items():
        image(path, gsd)
    west, south, east, north = lonlat(geobox((LEFT, TOP - 10 * SIDE, LEFT + 10 * SIDE, TOP), 10, EPSG))
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    out = []
    for day in range(dates):
        name = f"S2A_33TWM_{np.datetime64('2023-04-01') + 5 * day}_0_L2A".replace("-", "")
        (folder / name).mkdir()
        assets = {}
        for band in (*A, *B):
            gsd = BANDS[band].gsd
            os.link(sources[gsd], folder / name / f"{band}.tif")
            n = SIDE * 10 // gsd
            assets[BANDS[band].common_name] = {
                "href": f"{base}/{name}/{band}.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "proj:shape": [n, n],
                "proj:transform": [gsd, 0, LEFT, 0, -gsd, TOP],
                "raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": -0.1}],
                "roles": ["data"],
            }
        properties = {
            "datetime": f"{np.datetime64('2023-04-01') + 5 * day}T09:57:57Z",
            "platform": "sentinel-2a",
            "proj:epsg": EPSG,
            "s2:processing_baseline": "05.09",
            "earthsearch:boa_offset_applied": True,
            "s2:sequence": "0",
        }
        fields = {"type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a", "links": []}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        out.append(
            pystac.Item.from_dict(
                {
                    **fields,
                    "bbox": [west, south, east, north],
                    "geometry": geometry,
                    "properties": properties,
                    "assets": assets,
                    "stac_extensions": [],
                }
            )
        )
    return out


def serve(folder: str, port: int, delay: float) -> None:
    """Files in ranges, each answer after a delay."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    files = StaticFiles(directory=folder)

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(delay)
        await files(scope, receive, send)

    uvicorn.run(Starlette(routes=[Mount("/", late)]), port=port, log_level="error")


def without_gdal(
    stac_items: list[pystac.Item], base: str, windows: dict[int, tuple[int, int, int]]
) -> npt.NDArray[Any]:
    """Windows of every file by async-geotiff; those of 20 m bands follow those of 10 m bands."""
    from async_geotiff import GeoTIFF, Window
    from obstore.store import HTTPStore

    store = HTTPStore.from_url(base, client_options={"allow_http": True})

    async def read(path: str, gsd: int) -> npt.NDArray[Any]:
        row, column, side = windows[gsd]
        file = await GeoTIFF.open(path, store=store)
        part = await file.read(window=Window(col_off=column, row_off=row, width=side, height=side))
        return np.asarray(part.data)[0]

    async def every() -> list[npt.NDArray[Any]]:
        jobs = [
            read(item.assets[BANDS[band].common_name].href.removeprefix(f"{base}/"), BANDS[band].gsd)
            for item in stac_items
            for band in (*A, *B)
        ]
        return await asyncio.gather(*jobs)

    return np.concatenate([part.ravel() for part in asyncio.run(every())])


def main() -> None:
    """Measure, and print a line per reader."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dates", type=int, default=24)
    parser.add_argument("--delay", type=float, default=20, help="milliseconds before each answer")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not (find_spec("async_geotiff") and find_spec("obstore")):
        print("left out: pip install async-geotiff obstore")
        return
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken.close()
        base = f"http://127.0.0.1:{port}"
        stac_items = items(Path(folder), args.dates, base)
        server = multiprocessing.get_context("spawn").Process(
            target=serve, args=(folder, port, args.delay / 1000), daemon=True
        )
        server.start()
        try:
            print(json.dumps(compare(stac_items, base, args), indent=1))
        finally:
            server.kill()


def compare(stac_items: list[pystac.Item], base: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each reader, and ratios."""
    left, top = LEFT + 18000, TOP - 12000
    box = (left, top - 600, left + 600, top)  # on the lattice
    windows = {gsd: ((TOP - top) // gsd, (left - LEFT) // gsd, 600 // gsd) for gsd in (10, 20)}

    def by(engine: str) -> npt.NDArray[Any]:
        with dask.config.set(scheduler="threads", num_workers=args.threads):
            from odc.geo.geom import box as square

            cube = load(stac_items, geometry=square(*box, EPSG), bands=[*A, *B], engine=engine).compute()
        parts = [cube[b].values[day] for day in range(args.dates) for b in (*A, *B)]
        return np.concatenate([part.ravel() for part in parts])

    readers: dict[str, Callable[[], npt.NDArray[Any]]] = {
        "stackstac": lambda: by("stackstac"),
        "odc": lambda: by("odc"),
        "async-geotiff": lambda: without_gdal(stac_items, base, windows),
    }
    _until_it_answers(base)
    times: dict[str, list[float]] = {name: [] for name in readers}
    pixels: dict[str, npt.NDArray[Any]] = {}
    for number in range(args.repeat + 1):  # the first round is imports and connections
        for name, reader in readers.items():
            begun = time.perf_counter()
            pixels[name] = reader()
            if number:
                times[name].append(time.perf_counter() - begun)
    for name, got in pixels.items():
        np.testing.assert_array_equal(got, pixels["async-geotiff"].astype(np.float32), err_msg=name)
    median = {name: statistics.median(t) for name, t in times.items()}
    result = {
        "dates": args.dates,
        "files": args.dates * 10,
        "delay, ms": args.delay,
        "threads": args.threads,
        "seconds": {name: round(t, 2) for name, t in median.items()},
        "from, to": {name: [round(min(t), 2), round(max(t), 2)] for name, t in times.items()},
        "of stackstac's time": {name: round(t / median["stackstac"], 2) for name, t in median.items()},
        "cores": os.cpu_count(),
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _until_it_answers(base: str) -> None:
    port = int(base.rpartition(":")[2])
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server does not start")


if __name__ == "__main__":
    main()
