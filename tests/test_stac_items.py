"""`xsen2.load` and items as catalogues write them: other keys, times, areas, wrong flags, broken fields."""

from __future__ import annotations

import copy
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import scenes
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from scenes import earth_search, planetary_computer

from xsen2.bands import BANDS
from xsen2.cube import recognise
from xsen2.errors import BandError, RadiometryError, SourceError, Xsen2Error
from xsen2.sources.stac import load
from xsen2.sources.when import interval

DAY1, DAY2 = "2023-08-15T09:57:57.246000Z", "2023-08-20T09:57:56.646000Z"


def at(folder: Path, item: Any) -> Any:
    item = copy.deepcopy(item)
    item["links"] = [{"rel": "self", "href": str(folder / "item.json")}]
    return item


# --- assets by their bands ------------------------------------------------------------------------


def renamed(item: Any, field: str, by: str) -> Any:
    """The item with keys that say nothing, and bands that do."""
    item = copy.deepcopy(item)
    assets, item["assets"] = item["assets"], {}
    for i, (key, asset) in enumerate(assets.items()):
        if key.endswith("-jp2"):
            continue
        asset.pop("eo:bands", None)
        name = scenes_name(key)
        if name is not None:
            common = BANDS[name].common_name
            told = {"name": name} if by == "name" else {"name": f"MSI_{i}"}
            if by == "common name":
                told["eo:common_name" if field == "bands" else "common_name"] = common
            asset[field] = [told]
        item["assets"][f"image_{i}" if name else key] = asset
    return item


def scenes_name(key: str) -> str | None:
    return next((name for name, band in BANDS.items() if key in (name, band.common_name)), None)


@pytest.mark.parametrize("field", ["eo:bands", "bands"])
@pytest.mark.parametrize("by", ["name", "common name"])
@pytest.mark.parametrize("migrated", [False, True])
def test_assets_are_found_by_their_bands(tmp_path: Path, field: str, by: str, migrated: bool) -> None:
    scene = scenes.random(2, cells=(2, 2))
    item = at(tmp_path, earth_search(scene, tmp_path, DAY1))
    want = load(item).compute()
    other: Any = renamed(item, field, by)
    assert not set(other["assets"]) & set(item["assets"]) - {"scl"}
    if migrated:
        other = pystac.Item.from_dict(other)
    cube = load(other)
    assert list(cube.data_vars) == list(BANDS)
    for name in BANDS:
        np.testing.assert_array_equal(cube[name], want[name])


def test_files_before_the_harmonisation_are_never_taken_for_bands(tmp_path: Path) -> None:
    item = at(tmp_path, earth_search(scenes.random(), tmp_path, DAY1))
    del item["assets"]["blue"]
    item["assets"]["blue-jp2"] |= {"eo:bands": [{"name": "blue", "common_name": "blue"}], "gsd": 10}
    with pytest.raises(BandError, match="no asset for B02"):
        load(item, bands=["B02"])


def test_resampled_and_composite_assets_are_not_bands(tmp_path: Path) -> None:
    """Keys of the Copernicus Data Space: B02_10m, B02_20m."""
    scene = scenes.random(3, cells=(2, 2))
    item = at(tmp_path, planetary_computer(scene, tmp_path, DAY1, version="03.01"))
    blue = item["assets"].pop("B02")
    blue["bands"] = [{"name": "B02", "eo:common_name": "blue"}]
    coarse = {**blue, "proj:transform": [20, 0, scene.ulx, 0, -20, scene.uly], "proj:shape": [6, 6]}
    three = {**blue, "bands": [{"name": name} for name in ("B04", "B03", "B02")]}
    item["assets"] |= {
        "visual": three,
        "thumbnail": {**blue, "roles": ["thumbnail"]},
        "B02_20m": coarse,
        "B02_10m": blue,
    }
    cube = load(item, bands=["B02"])
    np.testing.assert_array_equal(cube.B02[0], np.where(scene.bands["B02"] == 0, np.nan, scene.bands["B02"]))
    del item["assets"]["B02_10m"]
    with pytest.raises(BandError, match="no asset for B02"):
        load(item, bands=["B02"])


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "days"),
    [
        ("2023-08-15", [15]),
        ("2023-08", [15, 20]),
        ("2023", [15, 20]),
        ("2023-08-15/2023-08-20", [15, 20]),
        ("2023-08-16/..", [20]),
        ("../2023-08-19", [15]),
        ("/2023-08-19", [15]),
        ("2023-08-15T09:57:57.246Z", [15]),
        ("2023-08-15T11:57:57.246+02:00/2023-08-20T09:57:56Z", [15]),
        (datetime(2023, 8, 20, 9, 57, 56, 646000, tzinfo=UTC), [20]),
        ((datetime(2023, 8, 16), None), [20]),
        (["2023-08-01", "2023-08-15"], [15]),
    ],
)
def test_items_outside_the_time_are_left_out(tmp_path: Path, given: Any, days: list[int]) -> None:
    items = [at(tmp_path, earth_search(scenes.random(cells=(1, 1)), tmp_path, day)) for day in (DAY1, DAY2)]
    cube = load(items, bands=["B02"], datetime=given)
    assert [int(str(time)[8:10]) for time in cube.time.values] == days


@pytest.mark.parametrize(
    "given", ["", "..", "August", "2023-13", "2023-08-01/2023-08-02/2023-08-03", "2023-09/2023-08", 2023, (1, 2), []]
)
def test_times_that_are_none(tmp_path: Path, given: Any) -> None:
    item = earth_search(scenes.random(cells=(1, 1)), tmp_path, DAY1)
    with pytest.raises(SourceError, match="datetime="):
        load(item, datetime=given)


def test_no_item_at_that_time_says_when_they_are(tmp_path: Path) -> None:
    items = [earth_search(scenes.random(cells=(1, 1)), tmp_path, day) for day in (DAY1, DAY2)]
    with pytest.raises(SourceError, match=r"2024.*2023-08-15.*2023-08-20"):
        load(items, datetime="2024")


@given(st.datetimes(datetime(1, 1, 2), datetime(9998, 1, 1)), st.datetimes(datetime(1, 1, 2), datetime(9998, 1, 1)))
def test_a_day_a_month_and_a_year_hold_their_own_moments(when: datetime, moment: datetime) -> None:
    for length in (10, 7, 4):
        said = when.isoformat()[:length]
        lies_in = interval(said)
        assert lies_in(when)
        assert lies_in(moment) == moment.isoformat().startswith(said)


# --- area -----------------------------------------------------------------------------------------


class Frame:
    """The part of a GeoDataFrame that is used: a CRS, a way to another, and a GeoJSON face."""

    def __init__(self, shape: shapely.Geometry, crs: int) -> None:
        self.shape, self.crs = shape, crs

    def to_crs(self, crs: int) -> Frame:
        to = Transformer.from_crs(self.crs, crs, always_xy=True)
        return Frame(shapely.transform(self.shape, to.transform, interleaved=False), crs)

    @property
    def __geo_interface__(self) -> dict[str, Any]:
        feature = {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(self.shape)}
        return {"type": "FeatureCollection", "features": [feature]}


def test_a_frame_in_any_crs(tmp_path: Path) -> None:
    scene = scenes.random(cells=(20, 30))
    item = at(tmp_path, earth_search(scene, tmp_path, DAY1))
    left, _, _, top = scene.bounds
    want = (left + 120, top - 960, left + 1200, top - 180)
    inside = shapely.box(*want).buffer(-1)
    metres = Frame(inside, scene.epsg)
    for frame in (metres, metres.to_crs(4326), metres.to_crs(3857)):
        assert recognise(load(item, geometry=frame)).bounds == want


@pytest.mark.parametrize(
    "area",
    [
        {"geometry": {"type": "Polygon"}},
        {"geometry": {"type": "Polygon", "coordinates": [[["a", "b"]]]}},
        {"geometry": {"type": "Polygon", "coordinates": 3}},
        {"geometry": {"type": "Feature", "geometry": None}},
        {"geometry": {"type": "FeatureCollection", "features": [{}]}},
        {"geometry": 7},
        {"bbox": ("a", "b", "c", "d")},
        {"bbox": 5},
    ],
)
def test_areas_with_broken_fields(area: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=r"geometry=|bbox="):
        load([], **area)


# --- flags that are wrong -------------------------------------------------------------------------


def land(seed: int, low: int, high: int) -> scenes.Scene:
    """Reflectances of one kind of ground: DN from `low` to `high`, a tenth nodata."""
    rng = np.random.default_rng(seed)
    base = scenes.random(seed, cells=(9, 8))
    bands = {
        name: np.where(pixels == 0, 0, rng.integers(low, high, pixels.shape)).astype(pixels.dtype)
        for name, pixels in base.bands.items()
        if name != "SCL"
    }
    return scenes.Scene(bands, base.epsg, base.ulx, base.uly, base.tile)


@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_pixels_that_lost_the_offset_already_give_it_away(tmp_path: Path, engine: str) -> None:
    scene = land(1, 20, 450)
    item = at(tmp_path, earth_search(scene, tmp_path, DAY1, version="05.11", applied=False))  # it was applied
    cube = load(item, engine=engine)  # nothing is read yet
    with pytest.raises(RadiometryError, match=f"{item['id']}.*offset=") as error:
        cube.B02.compute()
    said = str(error.value)
    settled = eval(said[said.index("{") : said.index("}") + 1])
    assert settled == {item["id"]: 0}
    found = load(item, engine=engine, offset=settled).compute()
    for name in scene.bands:
        np.testing.assert_array_equal(found[name][0], np.where(scene.bands[name] == 0, np.nan, scene.bands[name]))
    assert float(load(item, offset=-1000).B02.min()) < -900  # what the caller says is not doubted


@pytest.mark.parametrize(
    ("low", "high"),
    [(900, 1100), (600, 1400), (1, 1060), (501, 580)],
    ids=["water", "much of it negative", "noise around -0.05", "all of it near -0.05"],
)
def test_dark_pixels_that_carry_the_offset_are_no_alarm(tmp_path: Path, low: int, high: int) -> None:
    """Not even where a correction fails as none does: an alarm takes half of the pixels below -0.05."""
    scene = land(2, low, high)
    item = at(tmp_path, earth_search(scene, tmp_path, DAY1, version="05.11", applied=False))
    load(item, bands=["B02", "B05", "B12"]).compute()


@pytest.mark.parametrize("share", [8, 3])
def test_few_pixels_are_no_evidence(tmp_path: Path, share: int) -> None:
    scene = land(3, 20, 450)
    for pixels in scene.bands.values():
        pixels[pixels.shape[0] // share :] = 0  # a strip at the edge of the swath
    item = at(tmp_path, earth_search(scene, tmp_path, DAY1, version="05.11", applied=False))
    load(item).compute()


def test_planetary_computer_and_old_products_are_not_doubted(tmp_path: Path) -> None:
    scene = land(4, 20, 450)
    dark = at(tmp_path, planetary_computer(scene, tmp_path, DAY1, version="03.01"))
    load(dark).compute()
    old = at(tmp_path, earth_search(scene, tmp_path, DAY1, version="02.14", applied=False, declared=0))
    load(old).compute()


# --- broken fields --------------------------------------------------------------------------------

WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=6),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def paths(node: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [here, *(path for key, child in children for path in paths(child, (*here, key)))]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("sound")
    scene = scenes.random(cells=(1, 1))
    return [at(folder, earth_search(scene, folder, DAY1)), at(folder, planetary_computer(scene, folder, DAY2))]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_broken_items_give_named_errors_only(sound: list[Any], data: st.DataObject) -> None:
    item = copy.deepcopy(data.draw(st.sampled_from(sound)))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(item)[1:] or [()]))
        if not path:
            break
        holder = item
        for key in path[:-1]:
            holder = holder[key]
        if data.draw(st.booleans()) and isinstance(holder, dict):
            del holder[path[-1]]
        else:
            holder[path[-1]] = data.draw(WRONG)
    with suppress(Xsen2Error):  # anything else fails the test
        load(item)
