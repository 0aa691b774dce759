"""`xsen2.load` over several tiles: one pass is one date, tiles of one CRS are one cube."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import earth_search

import xsen2
from xsen2.bands import BANDS
from xsen2.cube import DIMS, recognise
from xsen2.errors import CRSError, GridError, SourceError
from xsen2.sources.stac import load

ENGINES = ("stackstac", "odc")
DAY1, DAY2 = "2023-08-15T09:57:57.246000Z", "2023-08-20T09:57:56.646000Z"
LATER = DAY1.replace("57:57", "58:11")  # the next tile along the orbit, of the same pass


def ground(seed: int = 31, cells: tuple[int, int] = (8, 12)) -> scenes.Scene:
    """The land that the tiles below are cut from, all of it with data."""
    whole = scenes.random(seed, cells=cells)
    return scenes.Scene(
        {n: np.maximum(p, 1) for n, p in whole.bands.items()}, whole.epsg, whole.ulx, whole.uly, "33TWM"
    )


def tile(land: scenes.Scene, name: str, columns: slice, rows: slice = slice(None)) -> scenes.Scene:
    """Cells of the land, as a tile."""
    bands = {}
    for band, pixels in land.bands.items():
        n = 60 // scenes.gsd_of(band)
        y, x = (slice((s.start or 0) * n, None if s.stop is None else s.stop * n) for s in (rows, columns))
        bands[band] = pixels[y, x].copy()
    return scenes.Scene(bands, land.epsg, land.ulx + 60 * (columns.start or 0), land.uly - 60 * (rows.start or 0), name)


def at(folder: Path, *items: Any) -> list[Any]:
    items = copy.deepcopy(items)
    for item in items:
        item["links"] = [{"rel": "self", "href": str(folder / "item.json")}]
    return list(items)


def dn(pixels: np.ndarray) -> np.ndarray:
    return np.where(pixels == 0, np.nan, pixels).astype("float32")


def assert_is(cube: xr.Dataset, *dates: dict[str, np.ndarray]) -> None:
    found = cube.compute()
    for name in BANDS:
        np.testing.assert_array_equal(found[name], [dn(date[name]) for date in dates], err_msg=name)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chunks", [24, 1200])
def test_overlapping_tiles_of_one_pass_are_one_image(tmp_path: Path, engine: str, chunks: int) -> None:
    land = ground()
    west, east = tile(land, "33TWM", slice(0, 7)), tile(land, "33TXM", slice(5, None))
    items = at(tmp_path, earth_search(east, tmp_path, LATER), earth_search(west, tmp_path, DAY1))
    cube = load(items, engine=engine, chunks=chunks, bands=[*BANDS, "SCL"])
    assert cube.sizes["time"] == 1
    assert str(cube.time.values[0]).startswith("2023-08-15T09:57:57")
    assert cube.attrs["tile"] == "33TWM, 33TXM"
    assert all(item["id"] in cube.attrs["source"] for item in items)
    assert recognise(cube).bounds == land.bounds
    assert_is(cube, land.bands)
    np.testing.assert_array_equal(cube.SCL[0], land.bands["SCL"])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_tile_by_name_that_has_data_wins(tmp_path: Path, engine: str) -> None:
    first, second = scenes.random(1), scenes.random(2)  # a tenth nodata, in other places in each
    second = scenes.Scene(second.bands, second.epsg, second.ulx, second.uly, "33TXM")
    items = at(tmp_path, earth_search(second, tmp_path, DAY1), earth_search(first, tmp_path, LATER))
    want = {n: np.where(first.bands[n] == 0, second.bands[n], first.bands[n]) for n in first.bands}
    for order in (items, items[::-1]):
        cube = load(order, engine=engine, bands=[*BANDS, "SCL"])
        assert_is(cube, want)
        np.testing.assert_array_equal(cube.SCL[0], want["SCL"])


@pytest.mark.parametrize("engine", ENGINES)
def test_each_tile_has_its_own_offset_and_dates(tmp_path: Path, engine: str) -> None:
    land = ground()
    west, east = tile(land, "33TWM", slice(0, 6)), tile(land, "33TXM", slice(6, None))
    items = at(
        tmp_path,
        earth_search(west, tmp_path, DAY1),
        earth_search(east, tmp_path, LATER, applied=False, added=1000),
        earth_search(west, tmp_path, DAY2, applied=False, added=1000),  # the other tile is missing on that date
    )
    cube = load(items, engine=engine)
    np.testing.assert_array_equal(cube.offset, [np.nan, -1000])
    half = {name: pixels.copy() for name, pixels in land.bands.items()}
    for pixels in half.values():
        pixels[:, pixels.shape[1] // 2 :] = 0
    assert_is(cube, land.bands, half)


def test_of_each_tile_the_newest_copy_comes_first(tmp_path: Path) -> None:
    land, old = ground(1), ground(2)
    west, east = slice(0, 6), slice(6, None)
    items = at(
        tmp_path,
        earth_search(tile(old, "33TWM", west), tmp_path, DAY1, sequence=0),
        earth_search(tile(land, "33TWM", west), tmp_path, DAY1, sequence=1),
        earth_search(tile(land, "33TXM", east), tmp_path, LATER, sequence=0),
    )
    assert_is(load(items), land.bands)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_area_across_the_edge_of_two_tiles(tmp_path: Path, engine: str) -> None:
    land = ground(cells=(20, 30))
    items = at(
        tmp_path,
        earth_search(tile(land, "33TWM", slice(0, 16)), tmp_path, DAY1),
        earth_search(tile(land, "33TXM", slice(14, None)), tmp_path, LATER),
    )
    west, south, east, north = land.lonlat()
    middle = (west + east) / 2
    cube = load(items, (middle - 0.004, south + 0.004, middle + 0.004, north - 0.004), engine=engine).compute()
    left, _, _, top = land.bounds
    for name in ("B02", "B05", "B01"):
        ydim, xdim = DIMS[BANDS[name].gsd]
        full = xr.DataArray(
            dn(land.bands[name]),
            {
                ydim: top - BANDS[name].gsd * (np.arange(land.bands[name].shape[0]) + 0.5),
                xdim: left + BANDS[name].gsd * (np.arange(land.bands[name].shape[1]) + 0.5),
            },
            (ydim, xdim),
        )
        assert 0 < cube.sizes[xdim] < full.sizes[xdim]
        np.testing.assert_array_equal(cube[name][0], full.sel({ydim: cube[ydim], xdim: cube[xdim]}))


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_tiles_cut_in_any_way_are_the_land_again(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("land")
    land = ground(data.draw(st.integers(0, 9)), cells=(4, 8))
    cut = data.draw(st.integers(1, 7))
    overlap = data.draw(st.integers(0, 2))
    row = data.draw(st.integers(1, 3))
    parts = [
        tile(land, name, columns, rows)
        for name, columns, rows in (
            ("33TWM", slice(0, cut), slice(0, row)),
            ("33TXM", slice(max(0, cut - overlap), 8), slice(0, row)),
            ("33TWL", slice(0, 8), slice(row, 4)),
        )
    ]
    items = data.draw(st.permutations([earth_search(part, folder, DAY1) for part in parts]))
    cube = load(at(folder, *items), chunks=data.draw(st.integers(12, 60)), bands=["B02", "B11", "B09"])
    found = cube.compute()
    for name in cube.data_vars:
        np.testing.assert_array_equal(found[name][0], dn(land.bands[str(name)]))


# --- what cannot be one cube ----------------------------------------------------------------------


def test_several_crs_are_listed_with_their_tiles(tmp_path: Path) -> None:
    places = ((32632, 699960, "32TQS"), (32633, 300000, "33TUM"), (32632, 809940, "32TRS"))
    items = at(
        tmp_path,
        *(
            earth_search(scenes.Scene(scenes.random(i).bands, epsg, ulx, 5200020, name), tmp_path, DAY1)
            for i, (epsg, ulx, name) in enumerate(places)
        ),
    )
    with pytest.raises(CRSError, match=r"EPSG:32632: 32TQS, 32TRS; EPSG:32633: 33TUM") as error:
        load(items)
    hint = re.search(r"\{crs: .*\}", str(error.value))
    assert hint is not None
    cubes = eval(hint[0], {"xsen2": xsen2, "items": items, "bbox": None})
    assert {crs: cube.attrs["tile"] for crs, cube in cubes.items()} == {32632: "32TQS, 32TRS", 32633: "33TUM"}


def test_pixels_that_do_not_coincide_are_refused(tmp_path: Path) -> None:
    here = scenes.random(1)
    there = scenes.Scene(here.bands, here.epsg, here.ulx + 60000, here.uly + 40, "33TXM")
    items = at(tmp_path, earth_search(here, tmp_path, DAY1), earth_search(there, tmp_path, DAY1))
    with pytest.raises(GridError, match=r"33TXM_.*not on multiples of 60 m"):
        load(items)


def test_both_levels_of_two_tiles_are_refused(tmp_path: Path) -> None:
    land = ground()
    items = at(
        tmp_path,
        earth_search(tile(land, "33TWM", slice(0, 6)), tmp_path, DAY1),
        earth_search(tile(land, "33TXM", slice(6, None)), tmp_path, DAY1, collection="sentinel-2-l1c", added=1000),
    )
    with pytest.raises(SourceError, match="L1C and L2A"):
        load(items)
