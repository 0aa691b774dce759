"""Areas that are broken, huge or hostile: refused by name, in bounded memory; large ones that are sane work."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from cubes import ORIGIN, make_cube, no_compute
from pyproj import Transformer

import xsen2
from xsen2 import geometry
from xsen2.area import locate, part_of
from xsen2.cube import recognise
from xsen2.errors import SourceError
from xsen2.grid import geobox

UTM = "EPSG:32631"
WEST, NORTH = ORIGIN


def polygon(ring: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [np.asarray(ring).tolist() if isinstance(ring, np.ndarray) else ring]}


def square(*rest: Any) -> list[Any]:
    return [[4.27, 45.14], [4.28, 45.14], [4.28, 45.145], [4.27, 45.145], *rest, [4.27, 45.14]]


def nested(depth: int) -> dict[str, Any]:
    one: dict[str, Any] = polygon(square())
    for _ in range(depth):
        one = {"type": "GeometryCollection", "geometries": [one]}
    return one


class Bad:
    @property
    def __geo_interface__(self) -> Any:
        return {"type": "Polygon", "coordinates": None}


BROKEN: dict[str, tuple[Any, str]] = {
    "strings": (polygon(square(["4.27", "45.142"])), "two or three numbers"),
    "all strings": (polygon([["1", "2"]] * 4), "two or three numbers"),
    "null": (polygon(square([None, 45])), "two or three numbers"),
    "booleans": (polygon([[True, False]] * 4), "two or three numbers"),
    "objects": (polygon([{"x": 1, "y": 2}] * 4), "not GeoJSON as it should be"),
    "huge integers": (polygon(square([10**400, 45])), "two or three numbers|not GeoJSON as it should be|finite"),
    "nan": (polygon(square([float("nan"), 45])), "not finite"),
    "infinity": (polygon(square([float("inf"), 45])), "not finite"),
    "one number": (polygon([[4.2]] * 4), "two or three numbers"),
    "ragged": (polygon(square([4.27])), "not GeoJSON as it should be"),
    "too deep coordinates": (polygon([[[1, 2], [3, 4]]] * 4), "two or three numbers"),
    "flat coordinates": ({"type": "Polygon", "coordinates": [1, 2, 3, 4]}, "not GeoJSON as it should be"),
    "no coordinates": ({"type": "Polygon"}, "not GeoJSON as it should be"),
    "text coordinates": ({"type": "Polygon", "coordinates": "POLYGON ((1 2))"}, "not GeoJSON as it should be"),
    "mapping coordinates": ({"type": "Polygon", "coordinates": {"a": 1}}, "not GeoJSON as it should be"),
    "three positions": (polygon(square()[:3]), "under 4 positions"),
    "one position": ({"type": "LineString", "coordinates": [[4, 45]]}, "under 2 positions"),
    "no features": ({"type": "FeatureCollection"}, "not GeoJSON as it should be"),
    "features are text": ({"type": "FeatureCollection", "features": "abc"}, "a str where GeoJSON has a geometry"),
    "features are null": ({"type": "FeatureCollection", "features": None}, "not GeoJSON as it should be"),
    "a feature is null": ({"type": "FeatureCollection", "features": [None]}, "a NoneType where GeoJSON has a geometry"),
    "type is a list": ({"type": ["Polygon"], "coordinates": []}, "not one of GeoJSON's"),
    "TopoJSON": ({"type": "Topology", "objects": {}, "arcs": []}, "not one of GeoJSON's"),
    "crs is text": ({**polygon(square()), "crs": "EPSG:4326"}, "not GeoJSON as it should be"),
    "empty collection": ({"type": "GeometryCollection", "geometries": []}, "is empty"),
    "empty polygon": ({"type": "Polygon", "coordinates": []}, "is empty"),
    "empty multipolygon": ({"type": "MultiPolygon", "coordinates": [[]]}, "is empty"),
    "null geometry": ({"type": "Feature", "geometry": None, "properties": {}}, "is empty"),
    "nested": (nested(300), "over 64 deep"),
    "nested beyond Python's own depth": (nested(100_000), "over 64 deep"),
    "an object": (Bad(), "not GeoJSON as it should be"),
    "bbox of text": ((1, 2, "a", 4), "not made of numbers"),
    "bbox of six nan": ((float("nan"),) * 6, "south is above north"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_areas_are_refused_by_name(case: str) -> None:
    area, words = BROKEN[case]
    with no_compute(), pytest.raises(SourceError, match=words) as error:
        make_cube(2, 2).dsen2.superresolve(method="bicubic", area=area)
    assert str(error.value).startswith("area=")
    assert len(str(error.value)) < 400
    kind = "bbox" if case.startswith("bbox") else "geometry"
    with pytest.raises(SourceError, match=words) as error:
        xsen2.load([], **{kind: area})
    assert str(error.value).startswith(f"{kind}=")


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not UTF-8": (lambda path: path.write_bytes(json.dumps(polygon(square())).encode("utf-16")), "utf-8"),
    "Latin-1": (lambda path: path.write_bytes('{"type": "Feature", "name": "Düne"}'.encode("latin-1")), "utf-8"),
    "binary": (lambda path: path.write_bytes(b"\x00\xff" * 99), "cannot be read as a file with GeoJSON"),
    "empty": (lambda path: path.write_text(""), "cannot be read as a file with GeoJSON"),
    "cut off": (lambda path: path.write_text(json.dumps(polygon(square()))[:-9]), "cannot be read as a file"),
    "a number": (lambda path: path.write_text("5"), "area= is a int"),
    "a list": (lambda path: path.write_text("[1, 2]"), "2 numbers"),
    "deep lists": (lambda path: path.write_text("[" * 100_000 + "]" * 100_000), "cannot be read as a file"),
    "deep collections": (
        lambda path: path.write_text('{"type": "GeometryCollection", "geometries": [' * 100_000 + "]}" * 100_000),
        "cannot be read as a file|over 64 deep",
    ),
    "huge": (lambda path: sparse(path, 5 * 2**30), "5120 MB, and 64 MB are read"),
    "nan": (lambda path: path.write_text(json.dumps(polygon(square([float("nan"), 1])))), "not finite"),
    "a folder": (lambda path: path.mkdir(), "no such file"),
    "a pipe": (lambda path: os.mkfifo(path), "no such file"),
    "a link in a circle": (lambda path: path.symlink_to(path), "no such file"),
    "missing": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize("case", FILES)
def test_broken_files_are_refused_by_name(case: str, tmp_path: Path) -> None:
    write, words = FILES[case]
    write(tmp_path / "aoi.geojson")
    with no_compute(), pytest.raises(SourceError, match=words):
        make_cube(2, 2).dsen2.superresolve(method="bicubic", area=tmp_path / "aoi.geojson")


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a\0b", '{"type": "Point", "coordinates": [4, 45]}', "~nobody-here/aoi.geojson"]
)
def test_names_of_no_file(name: str) -> None:
    with pytest.raises(SourceError, match="cannot be read as a file with GeoJSON") as error:
        make_cube(2, 2).dsen2.superresolve(method="bicubic", area=name)
    assert len(str(error.value)) < 600


def test_files_with_a_mark_and_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aoi.geojson").write_text(json.dumps(polygon(square())), encoding="utf-8-sig")
    monkeypatch.setenv("HOME", str(tmp_path))
    cube = recognise(make_cube(9, 8))
    want = locate(cube, polygon(square()))
    for path in (tmp_path / "aoi.geojson", "~/aoi.geojson"):
        got = locate(cube, path)
        assert (got.rows, got.columns) == (want.rows, want.columns)


def measured(do: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the MB that it took."""
    tracemalloc.start()
    try:
        found = do()
        return found, tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def star(n: int, inner: float = 0.5, radius: float = 250.0) -> np.ndarray:
    """A closed ring of `n` vertices round the middle of a cube of 9 x 8 cells, in metres."""
    turn = np.arange(n) * 2 * np.pi / n
    far = radius * np.where(np.arange(n) % 2, inner, 1)
    ring = np.column_stack([WEST + 240 + far * np.cos(turn), NORTH - 270 + far * np.sin(turn)])
    return np.concatenate([ring, ring[:1]])


def lonlat(ring: np.ndarray) -> np.ndarray:
    return np.column_stack(Transformer.from_crs(UTM, 4326, always_xy=True).transform(*ring.T))


@pytest.mark.parametrize("n", [1_000, 20_000])
def test_many_vertices_work_in_bounded_memory(n: int) -> None:
    """A coastline: the pixels of the same shape drawn at once."""
    ds = make_cube(9, 8, chunks=18)
    shape = shapely.Polygon(star(n, inner=0.98))
    area = shapely.Polygon(lonlat(star(n, inner=0.98)))
    sr, memory = measured(lambda: ds.dsen2.superresolve(["B05"], "bicubic", area=area, clip=True).B05.compute())
    assert memory < 60 + n / 1000
    x, y = np.meshgrid(sr.x, sr.y)
    near = shapely.dwithin(shape.exterior, shapely.points(x, y), 0.01)
    inside = shapely.contains_xy(shape, x, y)
    np.testing.assert_array_equal(np.isfinite(sr.values)[~near], inside[~near])
    assert 0.3 < inside.mean() < 0.9


@pytest.mark.slow
def test_zigzag_over_continents() -> None:
    """4e4 vertices whose edges run over half of the world: refused, or done, but not in gigabytes."""
    n = 40_000
    lat = np.linspace(-80, 80, n)
    lon = np.where(np.arange(n) % 2, 80.0, -80.0)
    wild = np.concatenate([np.column_stack([lon, lat]), [[-85.0, 80.0], [-85.0, -80.0], [lon[0], lat[0]]]])
    cube = recognise(make_cube(9, 8))
    found, memory = measured(lambda: locate(cube, polygon(wild)))
    assert (found.rows, found.columns) == (slice(0, 54), slice(0, 48))
    assert memory < 80
    tile = geobox((499980, 4890240, 609780, 5000040), 10, 32631)
    found, memory = measured(lambda: part_of(tile, geometry.read(polygon(wild)), 6))
    assert found == tile
    assert memory < 160


def test_edges_that_would_take_too_many_points() -> None:
    n = 60_000
    zigzag = np.column_stack([np.where(np.arange(n) % 2, 3.5, 5.0), np.linspace(45.1, 45.2, n)])
    area = polygon(np.concatenate([zigzag, [[3.0, 45.2], [3.0, 45.1], zigzag[0]]]))
    cube = recognise(make_cube(9, 8))

    def refused() -> None:
        with pytest.raises(SourceError, match=r"\d+ points near the pixels, .* 2000000 can be held: simplify it"):
            locate(cube, area)

    assert measured(refused)[1] < 200
    simple = shapely.geometry.shape(area).convex_hull  # the advice
    assert locate(cube, simple).columns == slice(0, 48)
    assert locate(cube, shapely.geometry.shape(area).bounds).columns == slice(0, 48)


def test_more_vertices_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert geometry.MOST_VERTICES == 1_000_000
    most = 10_000
    monkeypatch.setattr(geometry, "MOST_VERTICES", most)
    for area in (
        shapely.Polygon(star(most + most // 10)),
        {"type": "MultiPoint", "coordinates": [[4.2, 45.1]] * (most + most // 10)},
        {"type": "MultiPolygon", "coordinates": [[square()]] * (most // 4)},
    ):
        with pytest.raises(SourceError, match=f"over {most} vertices, which is the most: simplify it"):
            geometry.read(area)


def test_many_small_parts_are_quick() -> None:
    """The fields of a country."""
    rng = np.random.default_rng(0)
    west, south = rng.uniform(WEST, WEST + 400, 1_500), rng.uniform(NORTH - 500, NORTH, 1_500)
    fields = shapely.box(west, south, west + 8, south + 8)
    ds = make_cube(9, 8)
    _, memory = measured(
        lambda: ds.dsen2.superresolve(
            ["B05"], "bicubic", area=shapely.MultiPolygon(list(fields)), area_crs=UTM, clip=True
        ).B05.compute()
    )
    assert memory < 50
    points = {"type": "MultiPoint", "coordinates": lonlat(np.column_stack([west, south])).tolist()}
    found = locate(recognise(ds), points)
    assert found.columns.stop - found.columns.start in (40, 41)


def test_odd_polygons_that_are_areas() -> None:
    """Crossing itself, open, of no extent, wound either way, with vertices twice: what a drawing program leaves."""
    cube = recognise(make_cube(9, 8))
    ring = star(4, 1.0, 200.0)
    want = locate(cube, shapely.Polygon(ring), UTM)
    mask = want.inside((0, 40), (0, 40))
    for name, other in {
        "open": ring[:-1],
        "backwards": ring[::-1],
        "twice": np.repeat(ring, 3, axis=0),
        "with heights": np.column_stack([ring, np.full(len(ring), np.nan)]),
    }.items():
        got = locate(cube, {"type": "Polygon", "coordinates": [other.tolist()]}, UTM)
        assert (got.rows, got.columns) == (want.rows, want.columns), name
        np.testing.assert_array_equal(got.inside((0, 40), (0, 40)), mask, err_msg=name)
    bow = np.array([(60, -60), (360, -360), (360, -60), (60, -360), (60, -60)]) + np.array(ORIGIN)
    got = locate(cube, {"type": "Polygon", "coordinates": [bow.tolist()]}, UTM)
    x, y = np.meshgrid(np.arange(30) * 10 + 5, -np.arange(30) * 10 - 5)
    want_bow = np.abs(x - 150) >= np.abs(y + 150)
    assert (got.inside((0, 30), (0, 30)) == want_bow).mean() > 0.9
    dot = {"type": "Polygon", "coordinates": [[[WEST + 105, NORTH - 95]] * 4]}
    assert (locate(cube, dot, UTM).rows, locate(cube, dot, UTM).columns) == (slice(9, 10), slice(10, 11))
