"""Areas at 180 degrees, where longitudes begin anew: every way to write one means the same pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import shapely
import shapely.geometry as sg
import xarray as xr
from cases import every
from cubes import DIMS, examples
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.affinity import translate

from xsen2.area import Aoi, locate, part_of
from xsen2.bands import A
from xsen2.cube import recognise
from xsen2.errors import SourceError
from xsen2.geometry import padded, read
from xsen2.sources.open import Wanted, open_source
from xsen2.sources.search import _of_area

CELLS = 30


def cube_at(epsg: int, lat: float) -> xr.Dataset:
    """A cube through whose middle 180 degrees passes."""
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(180, lat)
    west = round(x / 60) * 60 - CELLS * 30
    north = round(y / 60) * 60 + CELLS * 30 + (40 if epsg > 32700 else 0)
    variables = {}
    for gsd, bands in ((10, A), (20, ("B05",))):
        n = CELLS * 60 // gsd
        coords = {DIMS[gsd][0]: north - (np.arange(n) + 0.5) * gsd, DIMS[gsd][1]: west + (np.arange(n) + 0.5) * gsd}
        for band in bands:
            variables[band] = xr.DataArray(np.full((n, n), 700, np.float32), coords, DIMS[gsd])
    return xr.Dataset(variables).rio.write_crs(epsg)


def turned(shape: Any, low: float) -> Any:
    """With all longitudes from `low` up to a turn more: what crosses is left with a jump."""
    return shapely.transform(shape, lambda at: np.column_stack([(at[:, 0] - low) % 360 + low, at[:, 1]]))


def cut(shape: Any) -> Any:
    """As RFC 7946 has it: in parts from -180 to 180. Longitudes of `shape` are from 0 to 360."""
    west = shape.intersection(shapely.box(0, -90, 180, 90))
    east = translate(shape.intersection(shapely.box(180, -90, 360, 90)), -360)
    parts = [part for whole in (west, east) for part in getattr(whole, "geoms", [whole]) if not part.is_empty]
    kind = {"Polygon": sg.MultiPolygon, "LineString": sg.MultiLineString, "Point": sg.MultiPoint}[parts[0].geom_type]
    return kind(parts)


def spellings(shape: Any) -> dict[str, Any]:
    """The same shape, whose longitudes are from 0 to 360, in every way that is in use."""
    rfc = cut(shape)
    parts = [sg.mapping(part) for part in rfc.geoms]
    features = [{"type": "Feature", "properties": {}, "geometry": part} for part in parts]
    return {
        "0 to 360": shape,
        "-360 to 0": translate(shape, -360),
        "with a jump": turned(shape, -180),
        "cut": rfc,
        "cut, the east first": type(rfc)(list(rfc.geoms)[::-1]),
        "cut, from 0 to 360": turned(rfc, 1e-9),
        "collection": {"type": "GeometryCollection", "geometries": parts},
        "features": {"type": "FeatureCollection", "features": features},
        "nested": {"type": "GeometryCollection", "geometries": [{"type": "GeometryCollection", "geometries": parts}]},
    }


def seen(aoi: Aoi, shape: tuple[int, int]) -> np.ndarray:
    out = np.zeros(shape, bool)
    out[aoi.rows, aoi.columns] = aoi.inside(
        (0, aoi.rows.stop - aoi.rows.start), (0, aoi.columns.stop - aoi.columns.start)
    )
    return out


zones = st.sampled_from([(32601, 1), (32660, 1), (32701, -1), (32760, -1)])
places = st.tuples(*[st.integers(3, 60 * CELLS - 3)] * 2)


@examples(6)
@given(zone=zones, lat=st.floats(0.5, 83.5), points=st.lists(places, min_size=3, max_size=7, unique=True))
def test_polygons(zone: tuple[int, int], lat: float, points: list[tuple[int, int]]) -> None:
    epsg, side = zone
    check(epsg, lat * side, sg.MultiPoint(points).convex_hull.buffer(17.3, 2), hole=True)


@examples(6)
@given(zone=zones, lat=st.floats(0.5, 83.5), points=st.lists(places, min_size=2, max_size=4, unique=True))
def test_lines(zone: tuple[int, int], lat: float, points: list[tuple[int, int]]) -> None:
    epsg, side = zone
    check(epsg, lat * side, sg.LineString(points), masks=False)  # where a line is cut, other pixels may be drawn


@examples(6)
@given(zone=zones, lat=st.floats(0.5, 83.5), points=st.lists(places, min_size=1, max_size=6, unique=True))
def test_points(zone: tuple[int, int], lat: float, points: list[tuple[int, int]]) -> None:
    epsg, side = zone
    check(epsg, lat * side, sg.MultiPoint([(x + 0.3, y + 0.3) for x, y in points]))


def check(epsg: int, lat: float, local: Any, *, hole: bool = False, masks: bool = True) -> None:
    """A shape in metres from the cube's south-west corner."""
    cube = recognise(cube_at(epsg, lat))
    west, south, *_ = cube.bounds
    if hole and local.area > 1e5:
        local = local.difference(local.buffer(-100).centroid.buffer(60.7, 2))
    shape = translate(local, west, south)
    if not hasattr(shape, "geoms"):
        shape = shapely.segmentize(shape, 25)  # straight edges in metres are not straight in degrees
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
    degrees = turned(shapely.transform(shape, to_lonlat.transform, interleaved=False), 0)
    want = locate(cube, shape, epsg)
    grid = cube.shape(10)
    boxes = set()
    for name, spelled in spellings(degrees).items():
        got = locate(cube, spelled)
        assert (got.rows, got.columns) == (want.rows, want.columns), name
        if masks:
            np.testing.assert_array_equal(seen(got, grid), seen(want, grid), err_msg=name)
        cells = part_of(cube.geobox(), read(spelled), 6)
        assert cells is not None
        boxes.add(cells.boundingbox.bbox)
        bounds = padded(spelled, 0)
        assert -180 <= bounds[0] < 180, name
        assert 0 <= bounds[2] - bounds[0] < 1, name
        np.testing.assert_allclose(bounds, padded(degrees, 0), rtol=0, atol=1e-7, err_msg=name)
    assert len(boxes) == 1
    left, _, right, _ = boxes.pop()
    assert left <= west + want.columns.start * 10 < left + 60
    assert right - 60 < west + want.columns.stop * 10 <= right


@pytest.mark.parametrize("epsg", [32601, 32660, 32701, 32760])
@pytest.mark.parametrize("lat", every(3, [1.0, 16.7, 65.1, 83.4]))
def test_boxes(epsg: int, lat: float) -> None:
    ds = cube_at(epsg, lat if epsg < 32700 else -lat)
    cube = recognise(ds)
    back = Transformer.from_crs(epsg, 4326, always_xy=True)
    lon, lats = back.transform(*ends(cube))
    lon = np.asarray(lon) % 360
    west, east = 180 - (180 - lon.min()) / 2, 180 + (lon.max() - 180) / 3
    south, north = np.quantile(lats, [0.2, 0.7]).tolist()
    want = locate(cube, (west, south, east, north))
    assert 0 < want.columns.start < want.columns.stop < cube.shape(10)[1]
    mask = seen(want, cube.shape(10))
    two = [shapely.box(west, south, 180, north), shapely.box(-180, south, east - 360, north)]
    for area in (
        (west, south, east - 360, north),
        (west - 360, south, east - 360, north),
        [west, south, -5, east - 360, north, 99],
        np.array([west, south, east, north]),
        shapely.MultiPolygon(two),
        shapely.MultiPolygon(two[::-1]),
        shapely.Polygon([(west, south), (east - 360, south), (east - 360, north), (west, north)]),
        shapely.Polygon(
            [(west, south), (180, south), (-180, south), (east - 360, south), (east - 360, north), (west, north)]
        ),
    ):
        got = locate(cube, area)
        assert (got.rows, got.columns) == (want.rows, want.columns), area
        np.testing.assert_array_equal(seen(got, cube.shape(10)), mask, err_msg=str(area))
        np.testing.assert_allclose(padded(area, 0), (west, south, east, north), rtol=0, atol=1e-9)
    for area in (
        (-180, south, 180, north),
        (0, south, 360, north),
        (-180, -90, 180, 90),
        shapely.box(-180, south, 180, north),
    ):
        got = locate(cube, area)
        assert got.columns == slice(0, cube.shape(10)[1]), area
        assert padded(area, 0)[::2] == (-180, 180)


def ends(cube: Any) -> Any:
    west, south, east, north = cube.bounds
    return [west, east, west, east], [south, south, north, north]


def test_the_result_is_whole() -> None:
    """Through the public call, with and without clip: no pixel is lost at the cut."""
    ds = cube_at(32601, 67.3)
    west, east = 179.9, -179.9
    _, lat = Transformer.from_crs(32601, 4326, always_xy=True).transform(*ends(recognise(ds)))
    south, north = min(lat) - 0.01, max(lat) + 0.01
    both = shapely.MultiPolygon([shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)])
    for area in (both, (west, south, east, north), (-180, south, 180, north)):
        sr = ds.dsen2.superresolve(["B05"], "bicubic", area=area, clip=True)
        assert sr.sizes == {"y": CELLS * 6, "x": CELLS * 6}
        assert np.isfinite(sr.B05.values).all()


def test_metres_round_the_world() -> None:
    """Web Mercator begins anew at 180 degrees too, and other zones reach over."""
    cube = recognise(cube_at(32601, 65.1))
    west, south, east, north = cube.bounds
    corners = [(west + 304, south + 306), (east - 306, south + 306), (east - 306, north - 504)]
    ring = shapely.get_coordinates(shapely.segmentize(sg.LinearRing(corners), 20))
    want = locate(cube, sg.Polygon(ring), 32601)
    mask = seen(want, cube.shape(10))
    for crs in (3857, 3832, 3395, 32660, 6933, 3995):
        to = Transformer.from_crs(32601, crs, always_xy=True)
        moved = np.column_stack(to.transform(*ring.T))
        got = locate(cube, sg.Polygon(moved), crs)
        assert (got.rows, got.columns) == (want.rows, want.columns), crs
        np.testing.assert_array_equal(seen(got, cube.shape(10)), mask, err_msg=str(crs))
        assert padded(sg.Polygon(moved), 0, crs)[2] - padded(sg.Polygon(moved), 0, crs)[0] < 1, crs
    edge = 20037508.342789244
    x, y = Transformer.from_crs(32601, 3857, always_xy=True).transform(*ring.T)
    whole = shapely.Polygon(np.column_stack([np.where(x < 0, x + 2 * edge, x), y]))
    parts = [
        whole.intersection(shapely.box(0, 0, edge, 2 * edge)),
        translate(whole.intersection(shapely.box(edge, 0, 2 * edge, 2 * edge)), -2 * edge),
    ]
    got = locate(cube, shapely.MultiPolygon(parts), 3857)
    assert (got.rows, got.columns) == (want.rows, want.columns)


@pytest.mark.parametrize("jump", [False, True])
def test_round_a_pole(jump: bool) -> None:
    """A ring that goes round a pole holds it, however it is closed."""
    cube = recognise(cube_at(32601, 83.0))
    lon = np.arange(-179.5, 180, 1.0)
    if jump:
        shape = sg.Polygon([*((v, 82.999) for v in lon), (lon[0], 82.999)])
    else:
        shape = sg.Polygon([(-180, 82.999), *((v, 82.999) for v in lon), (180, 82.999), (180, 90), (-180, 90)])
    got = locate(cube, shape)
    assert got.columns == slice(0, CELLS * 6)
    mask = seen(got, cube.shape(10))
    y = np.flatnonzero(mask.any(axis=1))
    assert y[0] == 0
    assert 0.4 < mask.mean() < 0.7
    _, lats = Transformer.from_crs(32601, 4326, always_xy=True).transform(
        *np.meshgrid(cube.bands["B02"].x, cube.bands["B02"].y)
    )
    sure = np.abs(lats - 82.999) > 1e-5
    np.testing.assert_array_equal(mask[sure], (lats > 82.999)[sure])


def test_elsewhere_is_said_from_where_the_cube_is() -> None:
    ds = cube_at(32601, 65.1)
    with pytest.raises(SourceError, match=r"covers 168 65 169 66, the cube 179\.\d+ .* 180\.\d+ "):
        ds.dsen2.superresolve(["B05"], "bicubic", area=(168, 65, 169, 66))
    with pytest.raises(SourceError, match=r"covers 191 65 192 66, the cube 179\.\d+ "):
        ds.dsen2.superresolve(["B05"], "bicubic", area=(-169, 65, -168, 66))
    assert read((168, 65, 169, 66)).lonlat == (168, 65, 169, 66)


def test_a_store_is_cut_on_both_sides(tmp_path: Path) -> None:
    """As the shell opens it: what both sides of an area touch, and no more."""
    ds = cube_at(32601, 65.1)
    ds.to_zarr(tmp_path / "cube.zarr")
    both = {"type": "MultiPolygon", "coordinates": [near(179.99, 180), near(-180, -179.99)]}
    part = open_source(str(tmp_path / "cube.zarr"), Wanted(padded(both, 0)))
    cube, want = recognise(part), locate(recognise(ds), both)
    assert want.columns.stop - want.columns.start > 80
    assert 0 <= cube.shape(10)[1] - (want.columns.stop - want.columns.start) < 12
    sr = part.dsen2.superresolve(["B05"], "bicubic", area=both, clip=True)
    assert sr.sizes["x"] == want.columns.stop - want.columns.start
    whole = ds.dsen2.superresolve(["B05"], "bicubic", area=both, clip=True)
    np.testing.assert_array_equal(np.isfinite(sr.B05), np.isfinite(whole.B05))


def near(west: float, east: float) -> list[list[list[float]]]:
    return [[[west, 65.098], [east, 65.098], [east, 65.102], [west, 65.102], [west, 65.098]]]


@pytest.mark.parametrize(("area", "epsg"), [((179.1, 65.0, 180.1, 65.2), 32660), ((179.9, 65.0, 180.9, 65.2), 32601)])
def test_of_tiles_on_both_sides_those_that_cover_more_are_taken(area: tuple[float, ...], epsg: int) -> None:
    items = []
    for code, tile in ((32601, "01WCQ"), (32660, "60WWV")):
        west, south, east, north = (round(edge) for edge in recognise(cube_at(code, 65.1)).bounds)
        west, east = (west, west + 109800) if code == 32601 else (east - 109800, east)
        south, north = south - 54000, south - 54000 + 109800
        grid = {"proj:shape": [5490, 5490], "proj:transform": [20, 0, west, 0, -20, north]}
        properties = {"datetime": "2023-06-02T00:07:37Z", "proj:epsg": code, "grid:code": f"MGRS-{tile}"}
        body = {"stac_version": "1.0.0", "collection": "sentinel-2-l2a", "links": [], "geometry": None, "id": tile}
        item = {"type": "Feature", **body, "properties": properties, "assets": {"B05": {"href": "/no/B05.tif", **grid}}}
        items.append(pystac.Item.from_dict(item))
    with pytest.warns(UserWarning, match=rf"1 in EPSG:{epsg} are taken, whose tiles cover (8|9|10)\d%"):
        (taken,) = _of_area(items, area)
    assert taken.id == {32601: "01WCQ", 32660: "60WWV"}[epsg]
