"""Areas of interest: the pixels of the whole cube's result, of any size and shape, from what is needed and no more."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import odc.geo.geom
import odc.geo.xr
import pytest
import shapely
import shapely.geometry as sg
import xarray as xr
from cubes import ORIGIN, change, examples, make_cube, no_compute
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from safe_product import OLD_L2A, counted_reads, product
from shapely.affinity import translate

import xsen2
from xsen2.area import locate
from xsen2.bands import B, C
from xsen2.cube import recognise
from xsen2.errors import CRSError, MethodError, SourceError
from xsen2.geometry import padded
from xsen2.sources.open import Wanted, open_source
from xsen2.superresolve import context_of

pytestmark = pytest.mark.usefixtures("thin_blocks", "tiny_networks")

WEST, NORTH = ORIGIN
UTM = "EPSG:32631"
TO_LONLAT = Transformer.from_crs(UTM, 4326, always_xy=True)


def metres(left: float, bottom: float, right: float, top: float) -> tuple[float, float, float, float]:
    """A bbox from distances east of the cube's west edge and south of its north edge, `bottom` being the larger."""
    return WEST + left, NORTH - bottom, WEST + right, NORTH - top


def ring(bbox: tuple[float, ...], project: bool = True) -> list[list[float]]:
    west, south, east, north = bbox
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return [list(TO_LONLAT.transform(*c)) if project else list(c) for c in corners]


def same(part: xr.Dataset, whole: xr.Dataset, rows: slice, columns: slice, atol: float = 2e-3) -> None:
    want = whole.isel(y=rows, x=columns)
    np.testing.assert_array_equal(part.y, want.y)
    np.testing.assert_array_equal(part.x, want.x)
    assert list(part) == list(want)
    for name in want:
        np.testing.assert_array_equal(np.isnan(part[name]), np.isnan(want[name]), err_msg=str(name))
        np.testing.assert_allclose(part[name], want[name], rtol=0, atol=atol, err_msg=str(name))


# --- the same pixels ------------------------------------------------------------------------------

NODATA = change(make_cube(9, 8), "B8A", lambda data: data[10:19, 5:].fill(np.nan))


WHOLE = {m: NODATA.dsen2.superresolve(["B05", "B8A", "B01"], m) for m in ("bicubic", "regression")}


@pytest.mark.parametrize("method", WHOLE)
@examples(6)
@given(data=st.data(), chunks=st.sampled_from([12, 17, 30, 200]))
def test_any_area_is_a_part_of_the_whole(method: str, data: st.DataObject, chunks: int) -> None:
    ds = NODATA.chunk({"y": chunks, "x": chunks})
    top, left = data.draw(st.integers(0, 53)), data.draw(st.integers(0, 47))
    bottom, right = data.draw(st.integers(top + 1, 54)), data.draw(st.integers(left + 1, 48))
    inset = data.draw(st.sampled_from([0.0, 0.5, 4.9]))  # snapped outward
    bbox = metres(left * 10 + inset, bottom * 10 - inset, right * 10 - inset, top * 10 + inset)
    part = ds.dsen2.superresolve(["B05", "B8A", "B01"], method, area=bbox, area_crs=UTM)
    if WHOLE[method].chunks:
        WHOLE[method] = WHOLE[method].compute()
    same(part.compute(), WHOLE[method], slice(top, bottom), slice(left, right))


@pytest.mark.parametrize("kwargs", [{}, {"consistency": True}, {"uncertainty": True}, {"method": "sen2res"}])
def test_every_kind_of_method(kwargs: dict[str, Any]) -> None:
    ds = change(make_cube(8, 8, dates=2), "B11", lambda data: data[1, :4, 20:].fill(np.nan)).chunk({"time": 1})
    bands = ["B05", "B11"]
    # Networks see differently rounded sums in windows of another size.
    one = {"dtype": "float32", **kwargs}
    part = ds.dsen2.superresolve(bands, **one, area=metres(205, 165, 217, 163), area_crs=UTM)
    assert part.sizes == {"time": 2, "y": 1, "x": 2}
    whole = ds.dsen2.superresolve(bands, **one)
    same(part.compute(), whole.compute(), slice(16, 17), slice(20, 22), atol=0.02)


CALLS: list[tuple[int, ...]] = []


class Nearest:
    """Counts its calls; at the top of the module, where every copy that is unpickled finds the one list."""

    name, produces, needs, halo = "nearest", B, B, 1

    def __call__(self, a: Any, b: Any, c: Any) -> Any:
        CALLS.append(b.shape[1:])
        return b.repeat(2, axis=-2).repeat(2, axis=-1)


def test_only_the_blocks_that_are_needed_are_computed() -> None:
    CALLS.clear()
    ds = make_cube(40, 40, grids=(10, 20), chunks=60)
    got = ds.dsen2.superresolve(["B11"], Nearest(), area=metres(1203, 1208, 1206, 1201), area_crs=UTM).B11.values
    np.testing.assert_array_equal(got, ds.B11.values[60:61, 60:61])
    # One 20 m pixel, with the 6 of a halo that is one 60 m pixel, on both sides.
    assert CALLS == [(1 + 6, 1 + 6)]
    CALLS.clear()
    wide = ds.dsen2.superresolve(["B11"], Nearest(), area=metres(590, 1210, 1210, 10), area_crs=UTM).B11
    np.testing.assert_array_equal(wide.values, ds.B11.values.repeat(2, 0).repeat(2, 1)[1:121, 59:121])
    assert sum((h - 6) * (w - 6) for h, w in CALLS) == 61 * 32  # nothing twice, nothing outside but half pixels
    assert max(max(shape) for shape in CALLS) <= 30 + 6  # no larger blocks than the caller's


def test_a_product_is_read_only_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tile of a JPEG 2000 file that an area needs is decoded once, the others never."""
    cube = xsen2.open_safe(product(OLD_L2A, cells=(40, 40)).write(tmp_path, block=80), chunks=80)
    assert cube.B02.data.numblocks == (1, 3, 3)
    reads = counted_reads(monkeypatch)
    left, _, _, top = recognise(cube).bounds
    area = (left + 105, top - 408, left + 399, top - 405)
    sharp = cube.dsen2.superresolve(["B05", "B11"], "bicubic", native=False, area=area, area_crs="EPSG:32632")
    with no_compute():
        assert sharp.sizes == {"time": 1, "y": 1, "x": 30}
    sharp[["B05", "B11"]].compute()
    assert len(reads) == len(set(reads)) == 2
    assert {part for _, part in reads} == {"rows 0 to 80, columns 0 to 80"}


# --- what an area may be --------------------------------------------------------------------------


def test_every_way_to_say_the_same(tmp_path: Path) -> None:
    cube = recognise(make_cube(9, 8))
    bbox = metres(101, 149, 139, 112)
    polygon = {"type": "Polygon", "coordinates": [ring(bbox)]}
    feature = {"type": "Feature", "geometry": polygon, "properties": {}}
    nothing = {"type": "Feature", "geometry": None, "properties": {}}
    collection = {"type": "FeatureCollection", "features": [nothing, feature]}
    (tmp_path / "aoi.geojson").write_text(json.dumps(collection))
    in_metres = {"type": "Polygon", "coordinates": [ring(bbox, project=False)]}
    corners = [in_metres["coordinates"][0][i] for i in (0, 2)]
    old = {**in_metres, "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}}
    heights = {"type": "Polygon", "coordinates": [[[*p, 100.0] for p in ring(bbox)]]}
    mercator = Transformer.from_crs(UTM, 3857, always_xy=True).transform_bounds(*metres(103, 147, 137, 114))
    frame = SimpleNamespace(crs=UTM, __geo_interface__=in_metres)  # all that is asked of geopandas
    for area, crs in (
        (bbox, UTM),
        (list(bbox), 32631),
        (np.array(bbox), UTM),
        (Transformer.from_crs(UTM, 4326, always_xy=True).transform_bounds(*metres(103, 147, 137, 114)), None),
        (mercator, 3857),
        (polygon, None),
        (feature, None),
        (collection, None),
        (str(tmp_path / "aoi.geojson"), None),
        (tmp_path / "aoi.geojson", None),
        (heights, None),
        (old, None),
        (in_metres, UTM),
        (sg.shape(polygon), None),
        (sg.box(*bbox), UTM),
        (frame, None),
        ({"type": "MultiPoint", "coordinates": corners}, UTM),
        (sg.LineString(corners), UTM),
        (sg.LinearRing(ring(bbox)), None),
        ({"type": "GeometryCollection", "geometries": [sg.Point(c).__geo_interface__ for c in corners]}, UTM),
        (odc.geo.geom.box(*bbox, UTM), None),
        (odc.geo.geom.box(*bbox, UTM).to_crs(4326), None),
        (odc.geo.geom.BoundingBox(*bbox, UTM), None),
        (GeoBox.from_bbox(metres(100, 150, 140, 110), UTM, resolution=10, tight=True), None),
        (make_cube(9, 8).B02[11:15, 10:14].odc.geobox, None),
    ):
        found = locate(cube, area, crs)
        assert (found.rows, found.columns) == (slice(11, 15), slice(10, 14)), area


def test_geopandas() -> None:
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.GeoDataFrame(geometry=[sg.box(*metres(101, 149, 139, 112))], crs=UTM)
    for area in (frame, frame.geometry, frame.to_crs(4326)):
        found = locate(recognise(make_cube(9, 8)), area)
        assert (found.rows, found.columns) == (slice(11, 15), slice(10, 14))


def test_a_point_is_one_pixel_and_edges_belong_to_one() -> None:
    ds = make_cube(3, 3)
    cube = recognise(ds)
    for x, y, row, column in ((0, 0, 0, 0), (9.99, 10, 1, 0), (10, 5, 0, 1), (175, 175, 17, 17)):
        found = locate(cube, sg.Point(WEST + x, NORTH - y), UTM)
        assert (found.rows, found.columns) == (slice(row, row + 1), slice(column, column + 1))
    one = ds.dsen2.superresolve(["B11"], "bicubic", area=sg.Point(WEST + 175, NORTH - 175), area_crs=UTM, clip=True)
    assert one.B11.shape == (1, 1)
    assert np.isfinite(one.B11.values).all()
    assert one.rio.bounds() == metres(170, 180, 180, 170)
    assert one.rio.resolution() == (10, -10)
    assert one.rio.crs.to_epsg() == 32631


def test_over_the_edge_and_over_nodata() -> None:
    ds = make_cube(6, 6)
    whole = ds.dsen2.superresolve(["B05"], "bicubic").compute()
    over = ds.dsen2.superresolve(["B05"], "bicubic", area=metres(-500, 95, 55, -1e6), area_crs=UTM)
    same(over.compute(), whole, slice(0, 10), slice(0, 6))
    globe = ds.dsen2.superresolve(["B05"], "bicubic", area=(-180, -90, 180, 90))
    same(globe.compute(), whole, slice(0, 36), slice(0, 36))
    empty = change(ds, "B05", lambda data: data[:, 9:].fill(np.nan))
    border = empty.dsen2.superresolve(["B05"], "bicubic", area=metres(150, 210, 210, 150), area_crs=UTM).compute()
    same(border, empty.dsen2.superresolve(["B05"], "bicubic").compute(), slice(15, 21), slice(15, 21))
    assert np.isnan(border.B05).sum() == 6 * 3


def test_parts_in_and_outside_count_only_where_they_are_inside() -> None:
    parts = sg.MultiPolygon([sg.box(*metres(100, 130, 120, 110)), sg.box(*metres(9000, 9100, 9100, 9000))])
    found = locate(recognise(make_cube(9, 8)), parts, UTM)
    assert (found.rows, found.columns) == (slice(11, 13), slice(10, 12))


def test_across_the_antimeridian() -> None:
    """Fiji: zone 60 reaches beyond 180 degrees, and areas may be said from either side."""
    ds = make_cube(9, 8, epsg=32760)
    shift = 819960 - WEST
    ds = ds.assign_coords({d: ds[d] + shift for d in ("x", "x_20m", "x_60m")})
    cube = recognise(ds)
    to_lonlat = Transformer.from_crs(32760, 4326, always_xy=True)
    lon, lat = to_lonlat.transform(WEST + shift + 105, cube.bounds[3] - 105)
    for turned in (lon, lon + 360, lon - 360):
        found = locate(cube, sg.Point(turned, lat))
        assert (found.rows, found.columns) == (slice(10, 11), slice(10, 11))


@pytest.mark.parametrize(
    ("area", "crs", "error", "words"),
    [
        ((0, 10, 1, 11), None, SourceError, r"covers 0 10 1 11, the cube 4\.\d+ 45\.\d+ .* its own CRS, .* 600000 "),
        (metres(-50, 20, 0, 10), UTM, SourceError, "lies outside the cube: it covers 599950 "),
        (metres(10, 20, 20, 10), None, SourceError, "is not lon/lat in degrees: say what it is in"),
        ((1, 2, 3), None, SourceError, r"a bbox is \(west"),
        ((3, 5, 4, 4), None, SourceError, "the order is"),
        ((4, 4, 3, float("nan")), None, SourceError, "finite|order"),
        ("no.geojson", None, SourceError, "cannot be read as a file with GeoJSON"),
        ({"type": "Circle"}, None, SourceError, "not one of GeoJSON's"),
        ({"type": "Polygon"}, None, SourceError, "not GeoJSON as it should be"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, None, SourceError, "under 4 positions"),
        ({"type": "Polygon", "coordinates": [["a", "b", "c", "d"]]}, None, SourceError, "not GeoJSON as it"),
        ({"type": "FeatureCollection", "features": []}, None, SourceError, "is empty"),
        ({"type": "Point", "coordinates": [4, 45], "crs": 3}, None, SourceError, "not GeoJSON as it should be"),
        (sg.Polygon(), None, SourceError, "is empty"),
        (7, None, SourceError, "area= is a int"),
        ((4, 45, 5, 46), "no CRS", CRSError, "area_crs='no CRS' is not a CRS"),
    ],
)
def test_refusals(area: Any, crs: Any, error: type[Exception], words: str) -> None:
    with no_compute(), pytest.raises(error, match=words):
        make_cube(2, 2).dsen2.superresolve(method="bicubic", area=area, area_crs=crs)


def test_other_refusals() -> None:
    with pytest.raises(CRSError, match="it has no CRS"):
        make_cube(2, 2, epsg=None).dsen2.superresolve(method="bicubic", area=(4, 45, 5, 46))
    with pytest.raises(MethodError, match="clip=True clips to area="):
        make_cube(2, 2).dsen2.superresolve(method="bicubic", clip=True)
    sliver = sg.box(*metres(11, 14, 14, 11))
    with pytest.raises(SourceError, match="holds the centre of no pixel"):
        make_cube(2, 2).dsen2.superresolve(method="bicubic", area=sliver, area_crs=UTM, clip=True)


# --- clip -----------------------------------------------------------------------------------------

PARTS = [
    sg.Polygon([(12, -8), (161, -33), (140, -171), (31, -144)], [[(60, -60), (103, -64), (77, -99)]]),
    sg.box(151, -88, 173, -4),
]


@pytest.mark.parametrize("chunks", [None, 6])
def test_clip_keeps_what_has_its_centre_inside(chunks: int | None) -> None:
    ds = make_cube(3, 3, dates=2, chunks=chunks)
    extras = {
        "SCL": (ds.B05 % 11 + 1).astype("uint8"),
        "flag": (ds.B05 % 2 == 0),
        "prob": (ds.B05 % 100).astype("int16").assign_attrs(_FillValue=-1),
        "depth": ds.B05[0] * 1.0,
        "year": xr.DataArray([2023, 2024], dims="time"),
    }
    parts = [translate(part, WEST, NORTH) for part in PARTS]
    area = sg.GeometryCollection(parts)  # they overlap
    kwargs: dict[str, Any] = {"area": area, "area_crs": UTM}
    with no_compute():
        clipped = ds.assign(extras).dsen2.superresolve(["B11"], "bicubic", **kwargs, clip=True)
    plain = ds.assign(extras).dsen2.superresolve(["B11"], "bicubic", **kwargs).compute()
    got = clipped.compute()
    x, y = np.meshgrid(plain.x, plain.y)
    inside = shapely.contains_xy(shapely.union_all(parts), x, y)
    assert 0.2 < inside.mean() < 0.8
    for name, nothing in {"B11": np.nan, "B02": np.nan, "SCL": 0, "flag": False, "prob": -1, "depth": np.nan}.items():
        np.testing.assert_array_equal(got[name], np.where(inside, plain[name], nothing), err_msg=name)
        assert got[name].dtype == plain[name].dtype == clipped[name].dtype
    np.testing.assert_array_equal(got.year, [2023, 2024])
    assert got.B11.attrs == plain.B11.attrs
    assert got.rio.crs.to_epsg() == 32631


def test_clip_across_the_edge() -> None:
    ds = make_cube(3, 3)
    triangle = sg.Polygon([(WEST - 900, NORTH - 90), (WEST + 90, NORTH - 90), (WEST - 900, NORTH + 900)])
    got = ds.dsen2.superresolve(["B11"], "bicubic", area=triangle, area_crs=UTM, clip=True).B11
    assert got.shape == (9, 9)
    np.testing.assert_array_equal(np.isfinite(got), np.tri(9, dtype=bool))  # centres on the edge count as inside


# --- reading an area of a source ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bicubic", "default"])
def test_loading_no_more_than_is_needed(method: str, tmp_path: Path) -> None:
    made = product(OLD_L2A, cells=(70, 70))
    home = str(made.write(tmp_path))
    left, _, _, top = made.scene.bounds
    area = sg.box(left + 2203, top - 2248, left + 2221, top - 2221)
    bands = ["B11"]
    part = open_source(home, Wanted(padded(area, 0, "EPSG:32632"), context_of(method, bands)))
    assert part.sizes["y"] < 420
    kwargs: dict[str, Any] = {"method": method, "area": area, "area_crs": "EPSG:32632", "dtype": "float32"}
    got = part.dsen2.superresolve(bands, **kwargs).compute()
    want = open_source(home).dsen2.superresolve(bands, **kwargs).compute()
    assert got.sizes == {"time": 1, "y": 3, "x": 3}
    np.testing.assert_array_equal(got.x, want.x)
    np.testing.assert_allclose(got.B11, want.B11, rtol=0, atol=0.02)
    too_little = open_source(home, Wanted(padded(area, 0, "EPSG:32632"))).dsen2.superresolve(bands, **kwargs).compute()
    if method == "bicubic":  # networks have a floor, which noise such as this may lie on with any context
        assert np.nanmax(np.abs(too_little.B11 - want.B11)) > 0.5


def test_context_is_what_blocks_ask_for() -> None:
    assert context_of("bicubic", ["B11"]) < context_of("bicubic", ["B11"], consistency=True)
    assert context_of() == max(context_of(bands=B), context_of(bands=C))
    assert context_of("bicubic", ["B11", "B02"]) % 60 == 0
    with pytest.raises(xsen2.BandError, match="need no context"):
        context_of("bicubic", ["B02"])


@given(lon=st.floats(-175, 175), lat=st.floats(-83, 83), pad=st.floats(1, 20000))
def test_padding_is_at_least_what_it_says(lon: float, lat: float, pad: float) -> None:
    west, south, east, north = padded((lon, lat, lon + 0.1, lat + 0.1), pad)
    zone = 32600 + int((lon + 180) // 6) + 1
    project = Transformer.from_crs(4326, zone, always_xy=True)
    x0, y0, x1, y1 = project.transform_bounds(lon, lat, lon + 0.1, lat + 0.1, densify_pts=51)
    a0, b0, a1, b1 = project.transform_bounds(west, south, east, north, densify_pts=51)
    assert min(x0 - a0, y0 - b0, a1 - x1, b1 - y1) > pad


# --- what comes after -----------------------------------------------------------------------------


def test_an_area_is_written_and_read_again(tmp_path: Path) -> None:
    ds = make_cube(9, 8, chunks=18)
    for bbox in (metres(101, 149, 139, 112), metres(105, 106, 115, 91), metres(105, 106, 106, 105)):
        part = ds.dsen2.superresolve(["B11"], "bicubic", area=bbox, area_crs=UTM)
        path = tmp_path / f"{bbox[2]}.zarr"
        back = part.dsen2.to_zarr(path, dtype="float32", progress=False)
        np.testing.assert_array_equal(back.B11, part.B11)
        assert back.rio.bounds() == part.rio.bounds()
        assert back.rio.crs == part.rio.crs
