"""`xsen2.load` of items whose pixels are EOPF products in Zarr."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import stac_api
import xarray as xr
from eopf_product import L2A, needs_real, product

import xsen2
from xsen2.bands import BANDS
from xsen2.errors import RadiometryError, SourceError
from xsen2.sources.stac import load

DAY = "2025-08-11T11:21:31.024000Z"


def item(home: str, when: str = DAY, form: str = "parts", **properties: Any) -> dict[str, Any]:
    """As EODC's (an asset per array, and the product) and the Explorer's catalogue (a group) give them."""
    zarr = {"type": "application/vnd.zarr", "roles": ["data"]}
    assets: dict[str, Any] = {"reflectance": {**zarr, "href": f"{home}/measurements/reflectance", "gsd": 10}}
    if form == "parts":
        assets = {
            f"{name}_{band.gsd}m": {
                **zarr,
                "href": f"{home}/measurements/reflectance/r{band.gsd}m/{name.lower()}",
                "gsd": band.gsd,
                "bands": [{"name": name}],
            }
            for name, band in BANDS.items()
        } | {"product": {**zarr, "href": home}}
    assets["thumbnail"] = {"href": "https://example.org/preview.png", "type": "image/png"}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": Path(home).name.removesuffix(".zarr"),
        "collection": "sentinel-2-l2a",
        "geometry": None,
        "links": [],
        "assets": assets,
        "properties": {"datetime": when, "proj:code": "EPSG:32629", "proj:bbox": [-9.0, 40, -8, 41], **properties},
    }


@needs_real
@pytest.mark.parametrize("form", ["parts", "group"])
@pytest.mark.parametrize("migrated", [False, True])
def test_an_item_is_its_product(tmp_path: Path, form: str, migrated: bool) -> None:
    home = product(L2A).write(tmp_path)
    raw = item(str(home), form=form)
    want = xsen2.open_eopf(home).compute()
    given = pystac.Item.from_dict(raw) if migrated and form == "parts" else raw
    cube = load(given)
    assert list(cube.data_vars) == list(BANDS)
    for name in BANDS:
        np.testing.assert_array_equal(cube[name], want[name])
        assert cube[name].attrs == want[name].attrs
    for coordinate in ("x", "y", "x_20m", "y_60m", "offset"):
        np.testing.assert_array_equal(cube[coordinate], want[coordinate])
    assert cube.rio.crs == want.rio.crs
    some = load([raw], bands=["red", "SCL"], chunks=12)
    assert list(some.data_vars) == ["B04", "SCL"]
    np.testing.assert_array_equal(some.SCL, want.SCL)


@needs_real
def test_dates_copies_and_an_area(tmp_path: Path) -> None:
    made = {}
    for seed, name in enumerate(("a", "b", "c")):
        one = product(L2A, seed=seed)
        folder = tmp_path / name
        folder.mkdir()
        made[name] = one.write(folder)
    late = "2025-08-16T11:21:31.024000Z"
    items = [
        item(str(made["a"]), **{"s2:sequence": "1"}),
        item(str(made["b"]), DAY.replace(":31.", ":45."), **{"s2:sequence": "0"}),
        item(str(made["c"]), late),
    ]
    one, two, three = (xsen2.open_eopf(made[name]).compute() for name in "abc")
    cube = load(items, bands=["B02", "B05", "B01"], chunks=12)
    assert [str(time)[:10] for time in cube.time.values] == ["2025-08-11", "2025-08-16"]
    for name in cube.data_vars:
        first = np.where(np.isnan(one[name][0]), two[name][0], one[name][0])
        np.testing.assert_array_equal(cube[name], [first, three[name][0]])
    west, south, east, north = _lonlat(cube)
    part = load(items, bands=["B02"], bbox=(west, south, (west + east) / 2, (south + north) / 2), datetime="2025-08-16")
    assert part.sizes["time"] == 1
    assert part.sizes["x"] < cube.sizes["x"]
    np.testing.assert_array_equal(part.B02[0], three.B02[0].sel(x=part.x, y=part.y))


def _lonlat(cube: xr.Dataset) -> tuple[float, float, float, float]:
    bounds: tuple[float, float, float, float] = cube.B02.rio.transform_bounds(4326)
    return bounds


@needs_real
@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="fsspec reads https:// with aiohttp")
def test_over_http_and_never_a_store_of_this_machine(tmp_path: Path) -> None:
    home = product(L2A).write(tmp_path)
    with stac_api.serve([], tmp_path) as url:
        raw = item(f"{url}files/{home.name}")
        raw["links"] = [{"rel": "self", "href": f"{url}items/x"}]
        np.testing.assert_array_equal(load(raw, bands=["B05"]).B05, xsen2.open_eopf(home).B05)
        for href in (str(home), home.as_uri(), f"zip://{home}", f"simplecache::file://{home}"):
            evil = item(href) | {"links": raw["links"]}
            with pytest.raises(SourceError, match="from elsewhere"):
                load(evil, bands=["B05"])


def test_what_cannot_be_opened_names_zarr_and_what_opens_it(tmp_path: Path) -> None:
    home = str(tmp_path / "gone.zarr")
    for form in ("parts", "group"):
        with pytest.raises(SourceError, match=r"pixels in Zarr.*xsen2\.open_eopf\('.*gone\.zarr'\)"):
            load(item(home, form=form))


@needs_real
def test_what_does_not_go_together(tmp_path: Path) -> None:
    home = product(L2A).write(tmp_path)
    raw = item(str(home))
    band = {"href": "x.tif", "proj:transform": [10, 0, 600000, 0, -10, 4500000], "proj:shape": [36, 24]}
    raster = {**copy.deepcopy(raw), "id": "raster", "assets": {"B02": band}}
    with pytest.raises(SourceError, match="load them apart"):
        load([raw, raster])
    for more in ({"sign": str}, {"on_error": "skip"}):
        with pytest.raises(SourceError, match="leave them out"):
            load(raw, **more)
    with pytest.raises(RadiometryError, match="not among the items"):
        load(raw, offset={"x": 0})
    assert load(raw, bands=["B02"], offset={raw["id"]: -1000}).offset.values.tolist() == [-1000]
