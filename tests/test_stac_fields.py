"""`xsen2.load` and the fields of items: those of old catalogues are understood, odd ones spoil nothing else."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import scenes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenes import earth_search, planetary_computer

from xsen2 import bands
from xsen2.bands import BANDS
from xsen2.errors import BandError, CRSError, RadiometryError, SourceError, Xsen2Error
from xsen2.sources import items as items_module
from xsen2.sources import offsets
from xsen2.sources.stac import load

DAY = "2023-08-15T09:57:57.246000Z"


def here(folder: Path, item: Any) -> Any:
    item = copy.deepcopy(item)
    item["links"] = [{"rel": "self", "href": str(folder / "item.json")}]
    return item


@pytest.fixture
def scene() -> scenes.Scene:
    return scenes.random(5, cells=(2, 2))


def assert_shows(cube: Any, scene: scenes.Scene, *names: str) -> None:
    for name in names or BANDS:
        pixels = scene.bands[name]
        want = pixels if name == "SCL" else np.where(pixels == 0, np.nan, pixels).astype("float32")
        np.testing.assert_array_equal(cube[name][0], want, err_msg=name)


# --- which asset is what --------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["SCL_20m", "scl_20m", "SCL-20m", "scene_classification", "classification", "image_7"])
@pytest.mark.parametrize("more", [{}, {"bands": [{"data_type": "uint8"}]}, {"eo:bands": []}, {"bands": [3]}])
@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_a_layer_is_found_by_key_or_title(
    tmp_path: Path, scene: scenes.Scene, key: str, more: dict[str, Any], engine: str
) -> None:
    item = here(tmp_path, earth_search(scene, tmp_path, DAY))
    scl = item["assets"].pop("scl") | {"title": "Scene classification map (SCL)"} | more
    small = {**scl, "proj:transform": [60, 0, scene.ulx, 0, -60, scene.uly], "proj:shape": [2, 2], "href": "none.tif"}
    item["assets"] = {"SCL_60m": small, "overview_scl": {**scl, "roles": ["overview"], "href": "no.tif"}, key: scl}
    item["assets"] |= here(tmp_path, earth_search(scene, tmp_path, DAY))["assets"] | {"scl": small}
    del item["assets"]["scl"]
    assert_shows(load(item, bands=["B02", "SCL"], engine=engine), scene, "B02", "SCL")


def test_other_layers_are_taken_for_no_band(tmp_path: Path, scene: scenes.Scene) -> None:
    item = here(tmp_path, earth_search(scene, tmp_path, DAY))
    for key, band in (("visual", "red"), ("cloud", "swir16"), ("snow", "swir16"), ("wvp_20m", "B09"), ("aot", "B01")):
        item["assets"] = {
            key: {**item["assets"]["swir16"], "href": "none.tif", "bands": [{"name": band}]},
            **item["assets"],
        }
    assert_shows(load(item), scene)
    with pytest.raises(BandError, match=r"wvp.*not loaded from STAC.*SCL is loaded"):
        load(item, bands=["red", "wvp"])


def test_every_layer_has_a_row() -> None:
    for name, layer in bands.LAYERS.items():
        assert layer.gsd in (10, 20, 60)
        assert np.dtype(layer.dtype).kind == "u"
        assert all(bands.find_layer(word.lower()) == name for word in (name, *layer.words))
        assert layer.attrs["gsd"] == layer.gsd
        assert name not in BANDS
    assert bands.in_title(None) is bands.in_title("Red (band 4) - 10m") is None


@pytest.mark.parametrize("form", ["numbers", "names", "numbers and keys"])
@pytest.mark.parametrize("version", ["0.8.1", "0.9.0"])
def test_eo_bands_that_point_into_a_table(tmp_path: Path, scene: scenes.Scene, form: str, version: str) -> None:
    item = here(tmp_path, earth_search(scene, tmp_path, DAY))
    item["stac_version"] = version
    table = [{"name": f"MSI {i}", "common_name": BANDS[name].common_name} for i, name in enumerate(BANDS)]
    item["properties"]["eo:bands"] = [table[0], {"name": "cirrus"}, *table[1:]]
    rows = {entry.get("common_name"): i for i, entry in enumerate(item["properties"]["eo:bands"])}
    assets = {}
    for key, asset in item["assets"].items():
        if key in rows:
            asset["eo:bands"] = (
                [rows[key]] if "numbers" in form else [item["properties"]["eo:bands"][rows[key]]["name"]]
            )
        assets[key if "keys" in form else f"image-{key}"] = asset
    del assets["scl" if "keys" in form else "image-scl"]
    item["assets"] = {key: asset for key, asset in assets.items() if not key.endswith("-jp2")}
    item["assets"]["overview"] = {"href": "none.tif", "eo:bands": [3, 2, 1]}
    item["assets"]["thumbnail"] = {"href": "none.png", "eo:bands": [99]}
    assert_shows(load(item), scene)


ODD = [None, True, 3, -1.5, "x", [], [3], ["x", None], [[]], {}, {"a": 1}, {"href": {}}, [{"name": 3}], float("nan")]
FIELDS = ("eo:bands", "bands", "raster:bands", "roles", "title", "type", "gsd", "proj:transform", "proj:shape", "href")


@pytest.mark.parametrize("field", [*FIELDS, "proj:epsg", "proj:code", "proj:bbox", "alternate", "nodata", None])
def test_an_odd_field_of_an_overview_spoils_nothing(tmp_path: Path, scene: scenes.Scene, field: str | None) -> None:
    """Not even many of them in one item, each odd in its own way."""
    item = here(tmp_path, earth_search(scene, tmp_path, DAY))
    for number, value in enumerate([*ODD, "EPSG:4326", 4326]):
        overview = {"href": "none.tif", "type": "image/tiff"} | ({field: value} if field else {})
        item["assets"][f"overview {number}"] = overview if field else value
    assert_shows(load(item), scene)


WRONG = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["B02", "blue", "EPSG:32634", "33TWN", "2023-08-15", "/etc/hosts", "https://127.0.0.1:1/x.tif"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "href", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)
TRUSTED = ("boa_offset_applied", "processing_baseline", "product_uri", "product_type")
"""What only this field tells cannot be checked against another."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[scenes.Scene, list[Any]]:
    folder = tmp_path_factory.mktemp("sound")
    scene = scenes.random(5, cells=(1, 1))
    return scene, [
        here(folder, earth_search(scene, folder, DAY)),
        here(folder, planetary_computer(scene, folder, DAY)),
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_value_in_any_field_gives_the_pixels_or_a_named_error(sound: Any, data: st.DataObject) -> None:
    scene, items = sound
    item = copy.deepcopy(data.draw(st.sampled_from(items)))
    key = data.draw(st.sampled_from(["properties", *item["assets"], "geometry", "bbox", "collection", "stac_version"]))
    holder, name = (item["assets"], key) if key in item["assets"] else (item, key)
    if isinstance(holder[name], dict) and data.draw(st.integers(0, 5)):
        holder = holder[name]
        more = ["proj:bbox", "proj:code", "eo:bands", "bands", "roles", "gsd", "alternate", "raster:scale", "title"]
        name = data.draw(st.sampled_from([*(field for field in holder if not field.endswith(TRUSTED)), *more]))
    holder[name] = data.draw(WRONG)
    try:
        cube = load(item).compute()
    except Xsen2Error:
        return
    assert_shows(cube, scene, *map(str, cube.data_vars))


# --- old catalogues -------------------------------------------------------------------------------

V0 = {
    "sentinel:utm_zone": 33,
    "sentinel:latitude_band": "T",
    "sentinel:grid_square": "WM",
    "sentinel:sequence": "1",
    "sentinel:product_id": "S2A_MSIL2A_20200714T115221_N0214_R123_T33TWM_20200714T191310",
}


def stripped(item: Any) -> Any:
    """Without what Earth Search v1 says of the product."""
    item = copy.deepcopy(item)
    for key in [*item["properties"]]:
        if key.startswith(("s2:", "earthsearch:", "grid:")):
            del item["properties"][key]
    for asset in item["assets"].values():
        asset.pop("raster:bands", None)
    return item


@pytest.mark.parametrize(
    ("properties", "name", "offset"),
    [
        (V0, "S2A_33TWM_20200714_1_L2A", 0),
        ({**V0, "sentinel:product_id": V0["sentinel:product_id"].replace("N0214", "N0400")}, "x", -1000),
        ({**V0, "sentinel:product_id": "x_N0400_", "sentinel:boa_offset_applied": True}, "x", 0),
        ({"sentinel2:processing_baseline": "05.09"}, "x", -1000),
        ({"sentinel2:product_title": "S2A_MSIL2A_20230602T233651_N0509_R030_T33TWM_20230603T031757"}, "x", -1000),
        ({"s2:product_uri": "S2A_MSIL2A_20230602T233651_N0300_R030_T33TWM_20230603T031757.SAFE"}, "x", 0),
        ({"processing:version": "05.10"}, "x", -1000),
        ({"title": "S2A_MSIL2A_20230602T233651_N0212_R030_T33TWM_20230603T031757"}, "x", 0),
        ({}, "S2A_MSIL2A_20230602T233651_N0212_R030_T33TWM_20230603T031757", 0),
        ({}, "S2A_OPER_MSI_L2A_TL_SGS__20180524T190423_A015250_T33TWM_N02.08", 0),
    ],
)
def test_the_baseline_is_found_wherever_it_is(
    tmp_path: Path, scene: scenes.Scene, properties: dict[str, Any], name: str, offset: int
) -> None:
    item = stripped(here(tmp_path, earth_search(scene, tmp_path, DAY, added=-offset)))
    item["properties"] |= properties
    item["id"] = name
    cube = load(item)
    assert cube.offset.values.tolist() == [offset]
    assert_shows(cube, scene)


def test_what_tells_no_baseline(tmp_path: Path, scene: scenes.Scene) -> None:
    for properties, name in (
        ({}, "S2A_33TWM_20200714_1_L2A"),
        ({"processing:version": "0.1.1", "title": "N0400"}, "x"),
        ({"s2:product_uri": "S2A_MSIL2A_20230602T233651_N9999_R030_T33TWM_20230603T031757.SAFE"}, "x"),
    ):
        item = stripped(here(tmp_path, earth_search(scene, tmp_path, DAY)))
        item["properties"] |= properties
        with pytest.raises(RadiometryError, match="neither"):
            load({**item, "id": name})


def test_baselines_that_contradict_each_other(tmp_path: Path, scene: scenes.Scene) -> None:
    item = here(tmp_path, earth_search(scene, tmp_path, DAY, applied=None, declared=None))
    item["properties"]["s2:processing_baseline"] = "03.01"
    with pytest.raises(RadiometryError, match=r"03\.01 in s2:processing_baseline, 05\.09 in s2:product_uri.*offset="):
        load(item)
    assert_shows(load(item, offset=0), scene)


@pytest.mark.parametrize("flag", ["false", "true", 0, 1, [], {}])
def test_a_flag_that_is_none(tmp_path: Path, scene: scenes.Scene, flag: Any) -> None:
    item = here(tmp_path, earth_search(scene, tmp_path, DAY))
    item["properties"]["earthsearch:boa_offset_applied"] = flag
    with pytest.raises(RadiometryError, match="neither true nor false"):
        load(item)
    assert_shows(load(item, offset=0), scene)


@pytest.mark.parametrize("scale", [0.001, 1, "0.0001", -1e-4, 0])
def test_a_scale_that_is_another(tmp_path: Path, scene: scenes.Scene, scale: Any) -> None:
    item = here(tmp_path, earth_search(scene, tmp_path, DAY))
    item["assets"]["red"]["raster:bands"][0]["scale"] = scale
    with pytest.raises(RadiometryError, match=r"B04 a scale of"):
        load(item)
    assert_shows(load(item, offset=0), scene)


def test_an_interval_is_dated_by_its_start(tmp_path: Path, scene: scenes.Scene) -> None:
    item = here(tmp_path, earth_search(scene, tmp_path, DAY))
    item["properties"] |= {"datetime": None, "start_datetime": DAY, "end_datetime": DAY}
    assert str(load(item).time.values[0]).startswith("2023-08-15T09:57:57")
    for when in (None, "1999-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", 3, [DAY]):
        item["properties"]["start_datetime"] = when
        with pytest.raises(SourceError, match=r"datetime"):
            load(item)


@pytest.mark.parametrize("code", ["EPSG:4326", 3857, "EPSG:32634"])
def test_the_crs_of_an_overview_is_its_own(tmp_path: Path, scene: scenes.Scene, code: Any) -> None:
    item = here(tmp_path, earth_search(scene, tmp_path, DAY))
    item["assets"]["thumbnail"] = {"href": "t.png", "roles": ["thumbnail"], "proj:code": code, "proj:epsg": code}
    assert_shows(load(item), scene)
    item["assets"]["red"]["proj:code"] = "EPSG:32634"
    with pytest.raises(CRSError, match="several CRS"):
        load(item)


@pytest.mark.parametrize("field", ["proj:transform", "proj:shape"])
def test_a_band_whose_grid_is_odd_is_named(tmp_path: Path, scene: scenes.Scene, field: str) -> None:
    item = here(tmp_path, earth_search(scene, tmp_path, DAY))
    for value in ("x", [1], [None] * 6, {"a": 1}, [math.inf] * 6):
        item["assets"]["red"][field] = value
        with pytest.raises(SourceError, match=f"asset 'red': {field} is"):
            load(item)


# --- real ones ------------------------------------------------------------------------------------

ODD_ONES = {
    "antimeridian_T60VXH": ("60VXH", -1000),
    "antimeridian_multipolygon_T01LAC": ("01LAC", 0),
    "antimeridian_polygon_T01WCQ": ("01WCQ", -1000),
    "earth_search_v0_T28QCH": ("28QCH", 0),
    "earth_search_v1_T33TWL": ("33TWL", 0),
}


@pytest.mark.parametrize("name", ODD_ONES)
@pytest.mark.parametrize("migrated", [False, True])
def test_odd_items_of_real_catalogues(name: str, migrated: bool) -> None:
    if reason := scenes.missing("fixtures/stac_odd"):
        pytest.skip(reason)
    raw = json.loads((scenes.SHARED / f"fixtures/stac_odd/{name}.json").read_text())
    tile, offset = ODD_ONES[name]
    (item,) = items_module.read(pystac.Item.from_dict(raw) if migrated else raw)
    assert (item.tile, item.platform, offsets.offset_of(item)) == (tile, "S2A", offset)
    assert set(BANDS) <= set(item.assets)
    cube = load(raw)
    assert cube.sizes["x"] == 10980
