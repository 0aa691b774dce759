"""`xsen2.load`: items of a STAC API on this machine in, the same cube out of either engine."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pystac
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import scenes
import shapely
import xarray as xr
from pyproj import Transformer
from pystac_client import Client
from rasterio.transform import from_origin
from scenes import earth_search, planetary_computer
from stac_api import serve

import xsen2
from xsen2.area import part_of
from xsen2.bands import BANDS
from xsen2.cube import DIMS, recognise
from xsen2.errors import BandError, CRSError, GridError, RadiometryError, SourceError
from xsen2.geometry import read
from xsen2.grid import geobox
from xsen2.sources import items as items_module
from xsen2.sources import offsets
from xsen2.sources.engines import engine_named
from xsen2.sources.stac import load

ENGINES = ("stackstac", "odc")
DAY1, DAY2 = "2023-08-15T09:57:57.246000Z", "2023-08-20T09:57:56.646000Z"

Search = Callable[..., pystac.ItemCollection]


class Api:
    """One STAC API for all tests here: it serves the items of the latest search."""

    def __init__(self, url: str, items: list[Any], base: Path, reads: list[str]) -> None:
        self.url, self.items, self.base, self.reads = url, items, base, reads

    def search(self, items: list[Any], folder: Path, **query: Any) -> pystac.ItemCollection:
        self.items[:] = copy.deepcopy(items)
        for item in self.items:
            for asset in item["assets"].values():
                asset["href"] = f"{folder.relative_to(self.base)}/{asset['href']}"
        names = sorted({item["collection"] for item in items})
        return Client.open(self.url).search(collections=names, **query).item_collection()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    base, items, reads = tmp_path_factory.getbasetemp(), [], []
    with serve(items, base, reads) as url:
        yield Api(url, items, base, reads)


@pytest.fixture
def search(api: Api, tmp_path: Path) -> Search:
    """Serve items whose files lie in `tmp_path`, and find them as a user does."""
    return lambda items, **query: api.search(items, tmp_path, **query)


def truth(scene: scenes.Scene, name: str) -> np.ndarray:
    pixels = scene.bands[name]
    return np.where(pixels == 0, np.nan, pixels).astype("float32")


def assert_holds(cube: xr.Dataset, *dates: scenes.Scene, names: tuple[str, ...] = tuple(BANDS)) -> None:
    """The cube has the scenes' pixels, at their places."""
    computed = cube.compute()
    for name in names:
        gsd = scenes.gsd_of(name)
        assert computed[name].dtype == np.float32
        assert computed[name].dims == ("time", *DIMS[gsd])
        np.testing.assert_array_equal(computed[name], [truth(scene, name) for scene in dates], err_msg=name)
        ydim, xdim = DIMS[gsd]
        left, _, _, top = dates[0].bounds
        np.testing.assert_array_equal(cube[xdim], left + gsd * (np.arange(cube.sizes[xdim]) + 0.5))
        np.testing.assert_array_equal(cube[ydim], top - gsd * (np.arange(cube.sizes[ydim]) + 0.5))


@contextmanager
def nothing_computed() -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("dask computed something")

    with dask.config.set(scheduler=refuse):
        yield


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_pixels_arrive_unchanged(search: Search, tmp_path: Path, engine: str) -> None:
    first, second = scenes.random(1), scenes.random(2)
    found = search([earth_search(second, tmp_path, DAY2), earth_search(first, tmp_path, DAY1)])
    cube = load(found, engine=engine)
    assert list(cube.data_vars) == list(BANDS)
    assert cube.time.values.tolist() == np.array([DAY1[:-1], DAY2[:-1]], "datetime64[ns]").tolist()
    assert_holds(cube, first, second)


def test_engines_give_the_same_cube(search: Search, tmp_path: Path) -> None:
    first, second = scenes.random(1), scenes.random(2)
    found = search(
        [
            earth_search(first, tmp_path, DAY1),
            earth_search(second, tmp_path, DAY2, version="05.10", applied=False, added=1000),
        ]
    )
    west, south, east, north = first.lonlat()
    inside = (west + 0.0007, south + 0.0008, east - 0.0012, north - 0.0009)
    bands = (*BANDS, "SCL")
    one, other = (load(found, inside, bands=bands, engine=engine, chunks=12) for engine in ENGINES)
    assert one.chunks == other.chunks
    xr.testing.assert_identical(one.compute(), other.compute())


@pytest.mark.real
@pytest.mark.parametrize("engine", ENGINES)
def test_a_real_city_through_a_search(city: Any, engine: str) -> None:
    found = (
        Client.open(city.url)
        .search(collections=[city.collection], bbox=city.bbox, datetime=city.datetime)
        .item_collection()
    )
    cube = load(found, engine=engine)
    assert_holds(cube, *city.truth)
    checked = recognise(cube)
    assert (checked.resolution, checked.bounds) == (10, city.truth[0].bounds)
    assert cube.attrs["tile"] == "22LHH"
    assert "Copernicus Sentinel data 2016, 2017" in cube.attrs["attribution"]


@pytest.mark.parametrize("engine", ENGINES)
def test_small_chunks_make_no_seams(search: Search, tmp_path: Path, engine: str) -> None:
    scene = scenes.random(3, cells=(5, 7))
    cube = load(search([earth_search(scene, tmp_path, DAY1)]), engine=engine, chunks=10)
    assert cube.chunksizes["y"] == (12, 12, 6)
    assert cube.chunksizes["y_20m"] == (6, 6, 3)
    assert cube.chunksizes["x_60m"] == (2, 2, 2, 1)
    assert cube.chunksizes["time"] == (1,)
    assert_holds(cube, scene)


@pytest.mark.parametrize("engine", ENGINES)
def test_scl_rides_along_when_asked_for(search: Search, tmp_path: Path, engine: str) -> None:
    scene = scenes.random(4)
    cube = load(search([earth_search(scene, tmp_path, DAY1)]), bands=["red", "scl", "B8A"], engine=engine)
    assert list(cube.data_vars) == ["B04", "SCL", "B8A"]
    assert cube.SCL.dtype == np.uint8
    assert cube.SCL.dims == ("time", "y_20m", "x_20m")
    np.testing.assert_array_equal(cube.SCL[0], scene.bands["SCL"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_is_gone_is_an_error_not_nodata(search: Search, tmp_path: Path, engine: str) -> None:
    item = earth_search(scenes.random(), tmp_path, DAY1)
    cube = load(search([item]), bands=["B02"], engine=engine)
    (tmp_path / item["assets"]["blue"]["href"]).unlink()
    with pytest.raises(SourceError, match=f"{item['id']}.*'blue'.*(404|No such file)"):
        cube.compute()


# --- lazy, portable -------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_loading_reads_no_pixel(api: Api, search: Search, tmp_path: Path, engine: str) -> None:
    found = search([earth_search(scenes.random(), tmp_path, DAY1)])
    api.reads.clear()
    with nothing_computed():
        cube = load(found, scenes.random().lonlat(), engine=engine)
    assert api.reads == []
    cube.B01.compute()
    assert api.reads


@pytest.mark.parametrize("engine", ENGINES)
def test_the_cube_survives_pickle_and_zarr(search: Search, tmp_path: Path, engine: str) -> None:
    scene = scenes.random(5)
    found = search([earth_search(scene, tmp_path, DAY1, version="05.09", applied=False, added=1000)])
    cube = load(found, engine=engine)
    assert not [name for name, variable in cube.variables.items() if variable.dtype == object]
    again = pickle.loads(pickle.dumps(cube))
    xr.testing.assert_identical(again.compute(), cube.compute())

    cube.to_zarr(tmp_path / "cube.zarr", consolidated=False)
    back = xr.open_zarr(tmp_path / "cube.zarr", decode_coords="all", consolidated=False)
    xr.testing.assert_equal(back.compute(), cube.compute())
    assert back.offset.values.tolist() == [-1000]
    assert back.attrs == cube.attrs
    for gsd, name in ((10, "B02"), (20, "B11"), (60, "B09")):
        ydim, xdim = DIMS[gsd]
        band = back[name].rio.set_spatial_dims(xdim, ydim)
        assert band.rio.crs.to_epsg() == scene.epsg
        assert band.rio.transform().almost_equals(from_origin(scene.ulx, scene.uly, gsd, gsd), 1e-3)
        np.testing.assert_allclose(band.rio.bounds(), scene.bounds, rtol=0, atol=1e-3)


# --- area -----------------------------------------------------------------------------------------


def test_an_odd_area_is_snapped_to_nested_grids(search: Search, tmp_path: Path) -> None:
    scene = scenes.random(6, cells=(20, 30))
    left, _, _, top = scene.bounds
    corners = (left + 215, top - 931, left + 1207, top - 187)  # no edge is on any grid
    to_lonlat = Transformer.from_crs(scene.epsg, 4326, always_xy=True)
    bbox = to_lonlat.transform_bounds(*corners)
    found = search([earth_search(scene, tmp_path, DAY1)], bbox=bbox)
    cube = load(found, bbox)

    there = Transformer.from_crs(4326, scene.epsg, always_xy=True).transform_bounds(*bbox, densify_pts=999)
    want = (*(np.floor(v / 60) * 60 for v in there[:2]), *(np.ceil(v / 60) * 60 for v in there[2:]))
    assert recognise(cube).bounds == want
    for name in ("B02", "B05", "B01"):
        gsd = BANDS[name].gsd
        rows = slice(round((top - want[3]) / gsd), round((top - want[1]) / gsd))
        columns = slice(round((want[0] - left) / gsd), round((want[2] - left) / gsd))
        np.testing.assert_array_equal(cube[name][0], truth(scene, name)[rows, columns])


class Holder:
    """What geopandas and others give: an object with a GeoJSON face."""

    def __init__(self, face: dict[str, Any]) -> None:
        self.__geo_interface__ = face


def test_every_form_of_geometry_means_the_same(search: Search, tmp_path: Path) -> None:
    scene = scenes.random(cells=(20, 30))
    found = search([earth_search(scene, tmp_path, DAY1)])
    west, south, east, north = scene.lonlat()
    bbox = (west + 0.002, south + 0.003, east - 0.004, north - 0.005)
    box = shapely.box(*bbox)
    face = json.loads(shapely.to_geojson(box))
    feature = {"type": "Feature", "properties": {}, "geometry": face}
    forms = (
        box,
        face,
        feature,
        Holder({"type": "FeatureCollection", "features": [feature]}),
        shapely.MultiPolygon([box]),
        shapely.GeometryCollection([box, box.centroid]),
        box.exterior,
    )
    want = recognise(load(found, bbox)).bounds
    assert want[0] > scene.bounds[0]
    assert want[3] < scene.bounds[3]
    for form in forms:
        assert recognise(load(found, geometry=form)).bounds == want


def test_an_area_larger_than_the_tile_is_clipped(search: Search, tmp_path: Path) -> None:
    scene = scenes.random()
    found = search([earth_search(scene, tmp_path, DAY1)])
    for bbox in ((10, 40, 20, 50), (-180, -90, 180, 90), (-180, -90, 0, 180, 90, 9000)):
        assert recognise(load(found, bbox)).bounds == scene.bounds


def test_a_point_gives_its_cell(search: Search, tmp_path: Path) -> None:
    scene = scenes.random()
    west, south, east, north = scene.lonlat()
    point = shapely.Point((west + east) / 2, (south + north) / 2)
    cube = load(search([earth_search(scene, tmp_path, DAY1)]), geometry=point)
    assert cube.sizes["x_60m"] == cube.sizes["y_60m"] == 1
    assert cube.sizes["x"] == 6


def test_edges_on_the_grid_stay_there() -> None:
    extent = (499980, 5090220, 609780, 5200020)
    inside = (520020, 5100000, 540000, 5130000)
    back = Transformer.from_crs(32633, 4326, always_xy=True)
    ends = [back.transform(*xy) for xy in ((520020, 5100000), (540000, 5130000))]
    area = read({"type": "LineString", "coordinates": ends})
    found = part_of(geobox(extent, 10, 32633), area, 6)
    assert found is not None
    assert found.boundingbox.bbox == inside


@pytest.mark.parametrize("engine", ENGINES)
def test_tiles_of_the_south_keep_their_own_grid(search: Search, tmp_path: Path, engine: str) -> None:
    """Their northings are 40 modulo 60, as in the real metadata of T01KAB."""
    south = scenes.Scene(scenes.random().bands, 32723, 499980, 8000020, "23KPQ")
    found = search([earth_search(south, tmp_path, DAY1)])
    whole = load(found, engine=engine)
    assert_holds(whole, south)
    assert float(whole.y[0]) + 5 == 8000020
    back = Transformer.from_crs(32723, 4326, always_xy=True)
    x, y = float(whole.x[9]), float(whole.y[9])
    lon, lat = back.transform(x, y)
    part = load(found, engine=engine, bbox=(lon - 1e-6, lat - 1e-6, lon + 1e-6, lat + 1e-6))
    assert dict(part.sizes)["x"] == dict(part.sizes)["y"] == 6
    assert float(part.y[0]) + 5 == 8000020 - 60
    for band in ("B02", "B11", "B09"):
        names = part[band].dims[-2:]
        np.testing.assert_array_equal(part[band], whole[band].sel({d: part[d] for d in names}))


def test_areas_at_the_antimeridian() -> None:
    extent = (799980, 8090220, 909780, 8200020)  # a tile of zone 60 that reaches over 180 degrees
    for bbox in ((179.9, -16.8, -179.9, -16.6), (179.9, -16.8, 180.1, -16.6), (-180.1, -16.8, -179.9, -16.6)):
        found = part_of(geobox(extent, 10, 32760), read(bbox), 6)
        assert found is not None
        assert 21000 < found.boundingbox.span_x < 23000
    assert part_of(geobox(extent, 10, 32760), read((0.1, -16.8, 0.3, -16.6))) is None


@pytest.mark.parametrize(
    ("area", "words"),
    [
        ({"bbox": (14.9, 46.9, 15.0)}, "3 numbers"),
        ({"bbox": (499980, 5100000, 510000, 5110000)}, "not lon/lat"),
        ({"bbox": (15, 47, 16, 46)}, "south is above north"),
        ({"bbox": (15, float("nan"), 16, 46)}, "south is above north"),
        ({"geometry": shapely.Polygon()}, "empty"),
        ({"geometry": "POINT (1 2)"}, "GeoJSON"),
        ({"geometry": {"type": "Circle", "coordinates": [1, 2]}}, "Circle"),
        ({"bbox": (15, 46, 16, 47), "geometry": shapely.Point(15, 46)}, "both"),
    ],
)
def test_areas_that_make_no_sense(area: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        load([], **area)


def test_an_area_outside_says_where_both_are(search: Search, tmp_path: Path) -> None:
    scene = scenes.random()
    found = search([earth_search(scene, tmp_path, DAY1)])
    _, south, east, north = scene.lonlat()
    with pytest.raises(SourceError, match="outside") as error:
        load(found, (east + 0.001, south, east + 0.01, north))
    assert f"{east + 0.001:.4f}" in str(error.value)
    assert f"{north:.4f}" in str(error.value)
    assert "33TWM" in str(error.value)


# --- which items ----------------------------------------------------------------------------------


def over(*copies: scenes.Scene) -> scenes.Scene:
    """What all copies of one tile hold, the first that has data first."""
    bands = {}
    for name in copies[0].bands:
        layers = [copy.bands[name] for copy in copies]
        bands[name] = np.select([layer != 0 for layer in layers], layers, 0).astype(layers[0].dtype)
    return replace(copies[0], bands=bands)


@pytest.mark.parametrize("engine", ENGINES)
def test_of_two_copies_the_highest_sequence_comes_first(search: Search, tmp_path: Path, engine: str) -> None:
    new, old, later = scenes.random(7), scenes.random(8), scenes.random(9)
    moved = DAY1.replace("57:57", "57:51")  # reprocessing moves the time by seconds
    items = [
        earth_search(new, tmp_path, moved, sequence=10),
        earth_search(old, tmp_path, DAY1, sequence=9),
        earth_search(later, tmp_path, DAY2),
    ]
    for order in (items, items[::-1]):
        cube = load(search(order), engine=engine)
        assert_holds(cube, over(new, old), later)
        assert cube.time.values[0] == np.datetime64(moved[:-1])


def test_without_a_sequence_the_newest_processing_comes_first(search: Search, tmp_path: Path) -> None:
    old, new, newest = scenes.random(1), scenes.random(2), scenes.random(3)
    items = [
        planetary_computer(old, tmp_path, DAY1, version="03.00", generated="20240101T000000"),
        planetary_computer(newest, tmp_path, DAY1, version="05.09", generated="20230816T120000"),
        planetary_computer(new, tmp_path, DAY1, version="05.09", generated="20230816T110000"),
    ]
    cube = load(search(items))
    assert_holds(cube, over(newest, new, old))  # each with the offset of its own baseline
    assert np.isnan(cube.offset.values).tolist() == [True]
    assert load(search(items[1:])).offset.values.tolist() == [-1000]


def test_two_orbits_of_one_day_are_two_times(search: Search, tmp_path: Path) -> None:
    first, second = scenes.random(1), scenes.random(2)
    other = earth_search(second, tmp_path, DAY1.replace("T09", "T11"))
    other["id"] = other["id"].replace("S2A", "S2B")
    items = [earth_search(first, tmp_path / "a", DAY1), other]
    for asset in items[0]["assets"].values():
        asset["href"] = f"a/{asset['href']}"
    assert_holds(load(search(items)), first, second)


def test_every_form_of_items_means_the_same(search: Search, tmp_path: Path) -> None:
    items = [earth_search(scenes.random(i), tmp_path, day) for i, day in enumerate((DAY1, DAY2))]
    found = search(items, limit=1)  # two pages
    want = load(found).compute()
    assert want.sizes["time"] == 2
    plain = found.to_dict(transform_hrefs=False)
    for form in (list(found), iter(found), plain, plain["features"], tuple(plain["features"])):
        xr.testing.assert_identical(load(form).compute(), want)
    for one in (found[0], plain["features"][0]):
        xr.testing.assert_identical(load(one).compute(), want.isel(time=[0]).assign_attrs(load(one).attrs))


def test_hrefs_relative_to_an_item_on_disk(tmp_path: Path) -> None:
    scene = scenes.random()
    item = earth_search(scene, tmp_path, DAY1)
    item["links"] = [{"rel": "self", "href": str(tmp_path / "item.json")}]
    for engine in ENGINES:
        assert_holds(load(item, engine=engine), scene)


@pytest.mark.parametrize("plain", [True, False])
def test_mixed_crs_are_refused_with_a_split_that_runs(search: Search, tmp_path: Path, plain: bool) -> None:
    here, there = scenes.random(1), scenes.random(2, epsg=32632, ulx=959940, uly=5210040)
    found = search([earth_search(here, tmp_path, DAY1), earth_search(there, tmp_path, DAY1)])
    items = found.to_dict(transform_hrefs=False)["features"] if plain else list(found)
    with pytest.raises(CRSError, match=r"EPSG:32633: 33TWM") as error:
        load(items)
    assert "32632" in str(error.value)
    hint = re.search(r"\{crs: .*\}", str(error.value))
    assert hint is not None
    cubes = eval(hint[0], {"xsen2": sys.modules["xsen2"], "items": items, "bbox": None})
    assert {crs: cube.rio.crs.to_epsg() for crs, cube in cubes.items()} == {"EPSG:32633": 32633, "EPSG:32632": 32632}


def test_of_several_tiles_those_that_the_area_touches_are_loaded(search: Search, tmp_path: Path) -> None:
    here = scenes.random(1)
    there = scenes.Scene(scenes.random(2).bands, here.epsg, here.ulx + 60000, here.uly, "33TXM")
    found = search([earth_search(here, tmp_path, DAY1), earth_search(there, tmp_path, DAY1)])
    cube = load(found, there.lonlat())
    assert cube.attrs["tile"] == "33TXM"
    assert_holds(cube, there)


def test_both_levels_are_refused(search: Search, tmp_path: Path) -> None:
    scene = scenes.random()
    items = [
        earth_search(scene, tmp_path, DAY1),
        earth_search(scene, tmp_path, DAY1, collection="sentinel-2-l1c", added=1000),
    ]
    with pytest.raises(SourceError, match="L1C and L2A"):
        load(search(items))


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "no items"),
        (pystac.ItemCollection([]), "no items"),
        ("S2A_33TWM", "a str"),
        (None, "NoneType"),
        ([3], "int"),
        ([{"type": "Collection", "id": "sentinel-2-l2a"}], "not a STAC item"),
    ],
)
def test_what_is_not_items(items: Any, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        load(items)


# --- CRS and grid of an item ----------------------------------------------------------------------


def with_crs(item: Any, **crs: Any) -> Any:
    item = copy.deepcopy(item)
    del item["properties"]["proj:epsg"]
    item["properties"].update({key.replace("_", ":"): value for key, value in crs.items()})
    return item


@pytest.mark.parametrize("engine", ENGINES)
def test_proj_code_and_proj_epsg_are_the_same(tmp_path: Path, engine: str) -> None:
    scene = scenes.random()
    item = earth_search(scene, tmp_path, DAY1)
    item["links"] = [{"rel": "self", "href": str(tmp_path / "item.json")}]
    want = load(item, engine=engine).compute()
    on_assets = with_crs(item)
    for asset in on_assets["assets"].values():
        asset["proj:epsg"] = scene.epsg
    migrated = pystac.Item.from_dict(item)
    assert "proj:epsg" not in migrated.properties
    for same in (with_crs(item, proj_code="EPSG:32633"), on_assets, migrated):
        xr.testing.assert_identical(load(same, engine=engine).compute(), want)


@pytest.mark.parametrize(
    ("crs", "words"),
    [
        ({}, "neither proj:epsg nor proj:code"),
        ({"proj_code": None}, "neither"),
        ({"proj_code": "EPSG:32633", "proj_epsg": 32634}, r"32633, 32634"),
        ({"proj_code": "EPSG:4326"}, "not projected"),
        ({"proj_epsg": 999999}, "does not know"),
    ],
)
def test_bad_crs(tmp_path: Path, crs: dict[str, Any], words: str) -> None:
    item = with_crs(earth_search(scenes.random(), tmp_path, DAY1), **crs)
    with pytest.raises(CRSError, match=words) as error:
        load(item)
    assert item["id"] in str(error.value)


def test_pixels_off_the_grid_are_refused(tmp_path: Path) -> None:
    shifted = scenes.Scene(scenes.random().bands, 32633, 499990, 5200020, "33TWM")
    with pytest.raises(GridError, match="multiples of 60"):
        load(earth_search(shifted, tmp_path, DAY1))


def test_assets_that_do_not_cover_the_same_are_refused(tmp_path: Path) -> None:
    item = earth_search(scenes.random(), tmp_path, DAY1)
    item["assets"]["red"]["proj:shape"] = [60, 60]
    with pytest.raises(GridError, match=r"differ in extent.*B04"):
        load(item)


# --- bands, chunks, engine ------------------------------------------------------------------------


def test_bands_in_the_words_of_any_catalogue(tmp_path: Path) -> None:
    for write in (earth_search, planetary_computer):
        item = write(scenes.random(), tmp_path, DAY1)
        cube = load(item, bands=["swir22", "B2", "b8a", "B02"])
        assert list(cube.data_vars) == ["B12", "B02", "B8A"]
        assert cube.B02.attrs["gsd"] == 10
        assert cube.B02.attrs["long_name"] == "blue"
        assert list(load(item, bands="nir").data_vars) == ["B08"]


def test_bands_that_no_item_has_are_left_out_by_default(tmp_path: Path) -> None:
    item = earth_search(scenes.random(), tmp_path, DAY1)
    del item["assets"]["coastal"], item["assets"]["nir09"]
    assert list(load(item).data_vars) == [name for name in BANDS if name not in ("B01", "B09")]


@pytest.mark.parametrize("bands", [None, ["B02", "B11"]])
def test_an_asset_missing_at_one_date_is_named(tmp_path: Path, bands: list[str] | None) -> None:
    items = [earth_search(scenes.random(i), tmp_path, day) for i, day in enumerate((DAY1, DAY2))]
    del items[1]["assets"]["swir16"]
    with pytest.raises(BandError, match="no asset for B11") as error:
        load(items, bands=bands)
    assert items[1]["id"] in str(error.value)


def test_resampled_assets_are_not_native_ones(tmp_path: Path) -> None:
    item = earth_search(scenes.random(), tmp_path, DAY1)
    red = item["assets"]["red"]
    red["proj:transform"][0], red["proj:transform"][4] = 20, -20
    red["proj:shape"] = [n // 2 for n in red["proj:shape"]]
    with pytest.raises(BandError, match="no asset for B04 on the native grid"):
        load(item, bands=["B02", "B04"])


@pytest.mark.parametrize(("bands", "words"), [(["B10"], "cirrus"), (["teal"], "teal"), ([], "empty")])
def test_bands_that_are_none(tmp_path: Path, bands: list[str], words: str) -> None:
    with pytest.raises(BandError, match=words):
        load(earth_search(scenes.random(), tmp_path, DAY1), bands=bands)


@pytest.mark.parametrize("chunks", [0, -6, 12.5, "auto", None])
def test_chunks_that_are_none(chunks: Any) -> None:
    with pytest.raises(GridError, match="multiple of 6"):
        load([], chunks=chunks)


def test_unknown_engine() -> None:
    with pytest.raises(SourceError, match="'auto' or 'stackstac' or 'odc'"):
        load([], engine="rasterio")


def test_the_engine_that_is_installed_is_taken(search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = search([earth_search(scenes.random(), tmp_path, DAY1)])
    want = load(found)
    assert engine_named("auto").__module__.endswith("stackstac")
    monkeypatch.setitem(sys.modules, "stackstac", None)  # as if it were not installed
    with pytest.raises(ImportError, match=re.escape("engine='stackstac' needs stackstac: pip install 'xsen2[stac]'")):
        load(found, engine="stackstac")
    assert engine_named("auto").__module__.endswith("odc")
    xr.testing.assert_identical(load(found).compute(), want.compute())
    monkeypatch.setitem(sys.modules, "odc.stac", None)
    with pytest.raises(ImportError, match=re.escape("engine='odc' needs odc.stac: pip install 'xsen2[odc]'")):
        load(found, engine="odc")
    with pytest.raises(ImportError, match=re.escape("pip install 'xsen2[stac]' or pip install 'xsen2[odc]'")):
        load(found)


# --- offsets --------------------------------------------------------------------------------------

L2A, C1, L1C = "sentinel-2-l2a", "sentinel-2-c1-l2a", "sentinel-2-l1c"

SETTLED = {
    "harmonised": (L2A, "05.09", True, -0.1, 0),
    "harmonised, offset corrected in the metadata too": (L2A, "05.09", True, 0, 0),
    "harmonised, no baseline": (L2A, None, True, -0.1, 0),
    "before the offset": (L2A, "02.14", False, 0, 0),
    "before the offset, flag true": (L2A, "03.01", True, 0, 0),
    "not harmonised": (L2A, "04.00", False, -0.1, 1000),
    "not harmonised, no flag": (L2A, "05.11", None, -0.1, 1000),
    "not harmonised, no baseline": (L2A, None, False, -0.1, 1000),
    "old, nothing but the baseline": (L2A, "02.14", None, None, 0),
    "new, nothing but the baseline": (L2A, "05.00", None, None, 1000),
    "collection 1": (C1, "05.00", False, -0.1, 1000),
    "collection 1 without flag": (C1, "05.00", None, -0.1, 1000),
    "L1C": (L1C, "05.10", None, -0.1, 1000),
    "old L1C": (L1C, "02.04", None, 0, 0),
}


@pytest.mark.parametrize("case", SETTLED)
def test_the_offset_is_taken_off_once(search: Search, tmp_path: Path, case: str) -> None:
    collection, version, applied, declared, added = SETTLED[case]
    scene = scenes.random(11, cells=(2, 2))
    item = earth_search(
        scene,
        tmp_path,
        DAY1,
        collection=collection,
        version=version,
        applied=applied,
        declared=declared,
        added=added,
    )
    for engine in ENGINES:
        cube = load(search([item]), engine=engine)
        assert cube.offset.values.tolist() == [-added]
        assert_holds(cube, scene)


def test_dark_pixels_may_be_negative_and_nodata_stays_nodata(search: Search, tmp_path: Path) -> None:
    scene = scenes.random(12, cells=(2, 2))
    scene.bands["B02"][0, :3] = (0, 1, 1000)
    found = search([earth_search(scene, tmp_path, DAY1, version="05.09", applied=False)])
    np.testing.assert_array_equal(load(found).B02[0, 0, :3], [np.nan, -999, 0])


@pytest.mark.parametrize(("version", "added"), [("05.09", 1000), ("04.00", 1000), ("03.00", 0), ("02.12", 0)])
def test_planetary_computer_has_the_baseline_alone(search: Search, tmp_path: Path, version: str, added: int) -> None:
    scene = scenes.random(13, cells=(2, 2))
    cube = load(search([planetary_computer(scene, tmp_path, DAY1, version=version)]))
    assert cube.offset.values.tolist() == [-added]
    assert_holds(cube, scene)


CONTRADICTIONS = {
    "new product, but no offset declared": ("05.09", False, 0, "-1000 DN.* 0 DN"),
    "new product, no flag, no offset declared": ("05.09", None, 0, "-1000 DN.* 0 DN"),
    "old product, but an offset declared": ("02.14", False, -0.1, "02.14.*-1000 DN"),
    "old product, no flag, an offset declared": ("03.01", None, -0.1, "03.01.*-1000 DN"),
    "applied to an old product": ("02.14", True, -0.1, "true.*02.14.*-1000 DN"),
    "nothing said": (None, None, None, "neither"),
    "nothing said but the flag": (None, False, None, "neither"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_metadata_that_do_not_settle_it(search: Search, tmp_path: Path, case: str) -> None:
    version, applied, declared, words = CONTRADICTIONS[case]
    scene = scenes.random(14, cells=(2, 2))
    item = earth_search(scene, tmp_path, DAY1, version=version, applied=applied, declared=declared, added=1000)
    found = search([item])
    with pytest.raises(RadiometryError, match=words) as error:
        load(found)
    assert item["id"] in str(error.value)
    assert "offset=" in str(error.value)
    for given in (-1000, {item["id"]: -1000}):
        cube = load(found, offset=given)
        assert cube.offset.values.tolist() == [-1000]
        assert_holds(cube, scene)


def test_bands_that_declare_different_offsets(tmp_path: Path) -> None:
    item = earth_search(scenes.random(), tmp_path, DAY1, applied=None)
    item["assets"]["red"]["raster:bands"][0]["offset"] = 0
    with pytest.raises(RadiometryError, match=r"B01 -1000 DN, B04 0 DN"):
        load(item)


def test_offsets_of_stac_1_1(tmp_path: Path) -> None:
    item = earth_search(scenes.random(), tmp_path, DAY1, version=None, applied=None)
    for asset in item["assets"].values():
        for about in asset.pop("raster:bands", ()):
            asset["bands"] = [{"raster:scale": about["scale"], "raster:offset": about["offset"]}]
    assert offsets.offset_of(items_module.read(item)[0]) == -1000
    for asset in item["assets"].values():
        for about in asset.pop("bands", ()):
            asset.update(about)
    assert offsets.offset_of(items_module.read(item)[0]) == -1000


def test_a_mapping_settles_the_items_it_names(search: Search, tmp_path: Path) -> None:
    wrong, right = scenes.random(15), scenes.random(16)
    items = [  # the first says that it is not harmonised, but it is
        earth_search(wrong, tmp_path, DAY1, version="04.00", applied=False),
        earth_search(right, tmp_path, DAY2, version="04.00", applied=False, added=1000),
    ]
    cube = load(search(items), offset={items[0]["id"]: 0})
    assert cube.offset.values.tolist() == [0, -1000]
    assert "-1000 or 0 DN" in cube.attrs["offset"]
    assert_holds(cube, wrong, right)


@pytest.mark.parametrize("offset", [1000, -0.1e6, True, {"S2A_33TWM_20230815_0_L2A": 1000}])
def test_offsets_that_are_none(tmp_path: Path, offset: Any) -> None:
    with pytest.raises(RadiometryError, match="give -1000"):
        load(earth_search(scenes.random(), tmp_path, DAY1), offset=offset)


def test_an_offset_for_an_item_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RadiometryError, match="not among the items"):
        load(earth_search(scenes.random(), tmp_path, DAY1), offset={"S2A_typo": 0})


# --- real items -----------------------------------------------------------------------------------

REAL = {
    "earth-search-v1_sentinel-2-l1c_search-response": (-1000, "27VWK", 32627, "L1C"),
    "earth-search-v1_sentinel-2-l2a_S2A_12RWT_20240106_0_L2A": (0, "12RWT", 32612, "L2A"),
    "earth-search-v1_sentinel-2-l2a_S2A_29RKH_20200219_0_L2A_offset-not-applied": (0, "29RKH", 32629, "L2A"),
    "earth-search-v1_sentinel-2-l2a_S2A_33TWM_20230815_0_L2A": (0, "33TWM", 32633, "L2A"),
    "earth-search-v1_sentinel-2-l2a_S2A_33TWM_20230818_0_L2A": (0, "33TWM", 32633, "L2A"),
    "earth-search-v1_sentinel-2-l2a_S2B_33TWM_20230820_0_L2A": (0, "33TWM", 32633, "L2A"),
    "planetary-computer_S2B_MSIL2A_20190629T212529_R043_T06VVN": (0, "06VVN", 32606, "L2A"),
}


def fixture(name: str) -> Any:
    if reason := scenes.missing("fixtures"):
        pytest.skip(reason)
    return json.loads((scenes.SHARED / f"fixtures/stac/{name}.json").read_text())


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("migrated", [False, True])
def test_metadata_of_real_items(name: str, migrated: bool) -> None:
    raw = fixture(name)
    offset, tile, epsg, level = REAL[name]
    items = raw.get("features", [raw])
    if migrated:
        items = [pystac.Item.from_dict(item) for item in items]
    (item,) = items_module.read(items)
    assert offsets.offset_of(item) == offset
    assert (item.tile, item.epsg, item.level) == (tile, epsg, level)
    assert item.geobox.shape == (10980, 10980)
    for engine in ENGINES:
        cube = load(items, engine=engine)
        assert list(cube.data_vars) == list(BANDS)
        assert (cube.sizes["x"], cube.sizes["x_20m"], cube.sizes["x_60m"]) == (10980, 5490, 1830)
        assert cube.rio.crs.to_epsg() == epsg


def test_real_items_of_three_dates() -> None:
    items = [fixture(name) for name, about in REAL.items() if about[1] == "33TWM"]
    cube = load(items[::-1], bbox=(15.3, 46.4, 15.4, 46.5))
    assert [str(t)[:10] for t in cube.time.values] == ["2023-08-15", "2023-08-18", "2023-08-20"]
    assert cube.sizes["x"] == 6 * cube.sizes["x_60m"]


def test_written_items_look_like_the_real_ones(tmp_path: Path) -> None:
    for name, write in (
        ("earth-search-v1_sentinel-2-l2a_S2A_33TWM_20230815_0_L2A", earth_search),
        ("planetary-computer_S2B_MSIL2A_20190629T212529_R043_T06VVN", planetary_computer),
    ):
        real, ours = fixture(name), write(scenes.random(), tmp_path, DAY1)
        assert set(ours["properties"]) <= set(real["properties"])
        assert set(ours["assets"]) <= set(real["assets"])
        key = "blue" if "blue" in ours["assets"] else "B02"
        assert set(ours["assets"][key]) <= set(real["assets"][key])


def test_public_names() -> None:
    assert xsen2.load is load
    assert xsen2.EARTH_SEARCH.startswith("https://earth-search")
    assert xsen2.PLANETARY_COMPUTER.startswith("https://planetarycomputer")
