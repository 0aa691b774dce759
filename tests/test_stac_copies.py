"""`xsen2.load` of a tile and pass that is there more than once: every copy counts, each pixel once."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pystac
import pytest
import scenes
from cases import crossed
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import earth_search, planetary_computer

from xsen2.sources import items as items_module
from xsen2.sources import stac
from xsen2.sources.stac import load

ENGINES = ("stackstac", "odc")
DAY = "2023-08-15T09:57:57.246000Z"
LATER = DAY.replace("57:57", "58:11")
NAMES = ("B02", "B05", "B01")


def here(folder: Path, item: Any, **properties: Any) -> Any:
    item = copy.deepcopy(item)
    item["links"] = [{"rel": "self", "href": str(folder / "item.json")}]
    item["properties"] |= {key.replace("__", ":"): value for key, value in properties.items()}
    return item


def full(seed: int, cells: tuple[int, int] = (4, 4)) -> scenes.Scene:
    """A scene with data everywhere."""
    whole = scenes.random(seed, cells=cells)
    bands = {name: np.maximum(whole.bands[name], 1) for name in (*NAMES, "SCL")}
    return replace(whole, bands=bands)


def rows(scene: scenes.Scene, first: int, last: int) -> scenes.Scene:
    """The scene with data in these rows of 60 m alone."""
    bands = {}
    for name, pixels in scene.bands.items():
        n = 60 // scenes.gsd_of(name)
        bands[name] = np.zeros_like(pixels)
        bands[name][first * n : last * n] = pixels[first * n : last * n]
    return replace(scene, bands=bands)


def over(*copies: scenes.Scene) -> dict[str, np.ndarray]:
    """DN of what all copies hold, the first that has data first."""
    out = {}
    for name in copies[0].bands:
        layers = [one.bands[name] for one in copies]
        pixels = np.select([layer != 0 for layer in layers], layers, 0)
        out[name] = pixels if name == "SCL" else np.where(pixels == 0, np.nan, pixels).astype("float32")
    return out


def assert_shows(cube: Any, *dates: dict[str, np.ndarray], names: Sequence[str] = NAMES) -> None:
    found = cube.compute()
    for name in names:
        np.testing.assert_array_equal(found[name], [date[name] for date in dates], err_msg=name)


PARTS = {
    "two halves": ((0, 2), (2, 4)),
    "halves that overlap": ((0, 3), (1, 4)),
    "a sliver of higher sequence": ((0, 4), (3, 4)),
    "a sliver of lower sequence": ((3, 4), (0, 4)),
    "with a gap between": ((0, 1), (2, 4)),
    "three": ((0, 1), (1, 3), (2, 4)),
    "all the same": ((1, 3), (1, 3), (1, 3)),
}


@pytest.mark.parametrize(("engine", "case"), crossed(3, ENGINES, PARTS))
def test_parts_of_a_tile_are_one_image(tmp_path: Path, engine: str, case: str) -> None:
    copies = [rows(full(seed), *part) for seed, part in enumerate(PARTS[case])]
    items = [
        here(tmp_path, earth_search(one, tmp_path, DAY.replace(":57.", f":{40 + i}."), sequence=i))
        for i, one in enumerate(copies)
    ]
    want = over(*copies[::-1])
    for order in itertools.islice(itertools.permutations(items), 0, 6, 3):
        cube = load(order, bands=[*NAMES, "SCL"], engine=engine, chunks=12)
        assert cube.sizes["time"] == 1
        assert str(cube.time.values[0]).startswith(f"2023-08-15T09:57:{39 + len(items)}")  # that of the best
        assert cube.attrs["source"] == ", ".join(item["id"] for item in items[::-1])
        assert_shows(cube, want, names=(*NAMES, "SCL"))


@pytest.mark.parametrize("engine", ENGINES)
def test_each_copy_has_its_own_offset(tmp_path: Path, engine: str) -> None:
    new, old = rows(full(1), 0, 3), rows(full(2), 1, 4)
    items = [
        here(tmp_path, planetary_computer(old, tmp_path, DAY, version="03.01", generated="20230101T000000")),
        here(tmp_path, planetary_computer(new, tmp_path, LATER, version="05.09", generated="20240101T000000")),
    ]
    cube = load(items, bands=NAMES, engine=engine)
    assert_shows(cube, over(new, old))
    assert np.isnan(cube.offset.values).all()  # two were added to this date
    assert "-1000 or 0 DN" in cube.attrs["offset"]


@pytest.mark.parametrize("migrated", [False, True])
def test_two_satellites_one_behind_the_other_are_two_dates(tmp_path: Path, migrated: bool) -> None:
    first, second = full(1), full(2)
    items = [
        here(tmp_path, earth_search(first, tmp_path / "a", DAY), platform="sentinel-2a"),
        here(tmp_path, earth_search(second, tmp_path / "c", LATER), platform="Sentinel-2C"),
    ]
    for item, name in zip(items, "ac", strict=True):
        item["links"][0]["href"] = str(tmp_path / name / "item.json")
    found = [pystac.Item.from_dict(item) for item in items] if migrated else items
    cube = load(found[::-1], bands=NAMES)
    assert cube.sizes["time"] == 2
    assert_shows(cube, over(first), over(second))


def test_the_satellite_is_known_by_the_product_too(tmp_path: Path) -> None:
    item = here(tmp_path, earth_search(full(1), tmp_path, DAY))
    del item["properties"]["platform"]
    assert items_module.read(item)[0].platform == "S2A"
    item["properties"]["s2:product_uri"] = "S2B_MSIL2A_20230815T095031_N0509_R079_T33TWM_20230815T155057.SAFE"
    assert items_module.read(item)[0].platform == "S2B"


@pytest.mark.parametrize("engine", ENGINES)
def test_classes_are_those_of_the_copy_whose_bands_are_used(tmp_path: Path, engine: str) -> None:
    new, old = rows(full(1), 0, 2), full(2)
    new = replace(new, bands={**new.bands, "SCL": full(3).bands["SCL"]})  # it has classes where it has no bands
    items = [here(tmp_path, earth_search(one, tmp_path, DAY, sequence=i)) for i, one in enumerate((old, new))]
    want = np.where(np.arange(12)[:, None] < 6, new.bands["SCL"], old.bands["SCL"])
    for bands in ((*NAMES, "SCL"), ("B02", "SCL"), ("B01", "SCL")):
        cube = load(items, bands=bands, engine=engine, chunks=12)
        np.testing.assert_array_equal(cube.SCL[0], want)
    np.testing.assert_array_equal(load(items, bands=["SCL"]).SCL[0], new.bands["SCL"])  # no bands to follow


def test_an_item_given_twice_is_one(tmp_path: Path) -> None:
    item = here(tmp_path, earth_search(full(1), tmp_path, DAY))
    cube = load([item, copy.deepcopy(item)], bands=NAMES)
    assert cube.attrs["source"] == item["id"]
    assert_shows(cube, over(full(1)))


@pytest.mark.parametrize("engine", ENGINES)
def test_copies_of_one_name_are_told_apart(tmp_path: Path, engine: str) -> None:
    """Two catalogues may give their items the same name."""
    parts = [rows(full(1), 0, 2), rows(full(2), 2, 4)]
    items = []
    for i, part in enumerate(parts):
        (tmp_path / str(i)).mkdir()
        items.append(here(tmp_path / str(i), earth_search(part, tmp_path / str(i), DAY)))
    assert_shows(load(items, bands=NAMES, engine=engine), over(*parts))


STRIP = "S2A_OPER_MSI_L2A_DS_2APS_{}_S20230815T095630_N{}"


@pytest.mark.parametrize(
    ("change", "used"),
    [
        ({}, 1),
        ({"s2:nodata_pixel_percentage": 3.0}, 2),  # the older one has more
        ({"s2:nodata_pixel_percentage": None}, 2),  # nobody knows
        ({"s2:datastrip_id": STRIP.format("20230816T000000", "02.14").replace("095630", "095712")}, 2),
        ({"geometry": "a part"}, 2),
    ],
)
def test_an_older_processing_of_the_same_part_is_not_read(tmp_path: Path, change: dict[str, Any], used: int) -> None:
    items = [
        here(
            tmp_path,
            earth_search(full(i), tmp_path, DAY, sequence=i),
            s2__datastrip_id=STRIP.format(f"2023081{6 + i}T000000", "05.09"),
            s2__nodata_pixel_percentage=7.5,
        )
        for i in (0, 1)
    ]
    if "geometry" in change:
        ring = items[0]["geometry"]["coordinates"][0]
        items[0]["geometry"]["coordinates"][0] = [[x, y + 0.001] for x, y in ring]
    else:
        items[0]["properties"] |= change
    dates = stac.passes(items_module.read(items))
    assert [len(date) for date in dates] == [used]
    assert dates[0][0].id == items[1]["id"]


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_copies_in_any_shape_give_what_any_of_them_has(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("copies")
    count = data.draw(st.integers(2, 4))
    copies, items = [], []
    for i in range(count):
        scene = scenes.random(data.draw(st.integers(0, 50)), cells=(3, 3))
        bands = {}
        holes = np.random.default_rng(data.draw(st.integers(0, 50)))
        for name in NAMES:
            pixels = scene.bands[name].copy()
            pixels[holes.random(pixels.shape) < data.draw(st.sampled_from([0.0, 0.5, 0.95, 1.0]))] = 0
            bands[name] = pixels
        copies.append(replace(scene, bands=bands))
        added = data.draw(st.sampled_from([0, 1000]))
        item = earth_search(copies[-1], folder, DAY, sequence=i, applied=not added, added=added)
        items.append(here(folder, item))
    order = data.draw(st.permutations(items))
    engine = data.draw(st.sampled_from(ENGINES))
    cube = load(order, bands=NAMES, engine=engine, chunks=data.draw(st.sampled_from([6, 12, 1200])), offset=None)
    assert_shows(cube, over(*copies[::-1]))


def test_nothing_is_computed_by_loading_copies(tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("dask computed something")

    items = [here(tmp_path, earth_search(full(i), tmp_path, DAY, sequence=i)) for i in (0, 1)]
    with dask.config.set(scheduler=refuse):
        load(items, bands=[*NAMES, "SCL"])
