"""Where native pixels lie, and what of a cube that lies elsewhere is refused, or warned of."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from cases import crossed
from cubes import DIMS, examples, make_cube, no_compute
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

import xsen2
from xsen2.bands import BANDS, grid_of
from xsen2.cube import recognise
from xsen2.grid import lattice, metres, off, snap
from xsen2.training.scenes import scenes_of

UTM = [*range(32601, 32661), *range(32701, 32761)]


def moved(ds: xr.Dataset, x: float = 0, y: float = 0, grids: tuple[int, ...] = (10, 20, 60)) -> xr.Dataset:
    """The same pixels said to be elsewhere."""
    return ds.assign_coords({d: ds[d] + by for g in grids for d, by in zip(DIMS[g], (y, x), strict=True)})


@pytest.mark.parametrize("epsg", UTM)
def test_lattice_of_every_zone(epsg):
    """10 000 km, which southern northings count from, are 40 modulo 60."""
    assert lattice(epsg) == lattice(CRS.from_epsg(epsg)) == (0, 10_000_000 % 60 if epsg > 32700 else 0)


def test_lattice_is_told_by_the_projection_not_by_the_code():
    text = CRS.from_epsg(32722).to_wkt(version="WKT2_2019")
    for version in ("WKT1_GDAL", "WKT1_ESRI", "WKT2_2019"):
        text = CRS.from_epsg(32722).to_wkt(version=version)
        bare = re.sub(r',\s*(AUTHORITY|ID)\["EPSG",\s*"?\d+"?\]', "", text)
        renamed = bare.replace("UTM zone 22S", "somewhere").replace("UTM_Zone_22S", "somewhere")
        assert "32722" not in renamed
        assert "22S" not in renamed
        assert lattice(CRS.from_wkt(renamed)) == (0, 40)
    north = "+proj=tmerc +lat_0=0 +lon_0=-51 +k=0.9996 +x_0=500000 +y_0=0 +ellps=WGS84 +units=m"
    assert lattice(north) == (0, 0)
    assert lattice(north.replace("+y_0=0", "+y_0=10000000")) == (0, 40)
    assert lattice(25832) == lattice(26917) == (0, 0)  # other datums on the same ellipsoid, less than two metres away


@pytest.mark.parametrize(
    "crs",
    [
        *(3035, 3857, 4326, 2154, 27700, 32661, 5041, 23032, 2193, 31467),
        "+proj=tmerc +lat_0=0 +lon_0=-50 +k=0.9996 +x_0=500000 +y_0=0 +ellps=WGS84 +units=m",
        "+proj=tmerc +lat_0=0 +lon_0=-51 +k=1 +x_0=500000 +y_0=0 +ellps=WGS84 +units=m",
        "+proj=tmerc +lat_0=0 +lon_0=-51 +k=0.9996 +x_0=500000 +y_0=0 +ellps=WGS84 +units=us-ft",
        None,
    ],
)
def test_no_lattice(crs):
    assert lattice(crs) is None


@given(
    st.sampled_from([(0, 0), (0, 40), (12.5, -7)]),
    st.sampled_from([10, 20, 60, 120]),
    st.lists(st.floats(-1e7, 1e7), min_size=4, max_size=4),
)
def test_snap_outward_and_inward(origin, cell, values):
    west, east = sorted(values[:2])
    south, north = sorted(values[2:])
    outer = snap((west, south, east, north), cell, origin)
    inner = snap((west, south, east, north), cell, origin, inward=True)
    for box in (outer, inner):
        assert max(map(abs, off(box, cell, origin))) < 1e-6
        assert max(map(abs, off((box[2], 0, 0, box[1]), cell, origin))) < 1e-6
        assert snap(box, cell, origin) == pytest.approx(box, abs=1e-6)
    slack = cell * 1e-5
    assert west - cell - slack < outer[0] <= west + slack
    assert south - cell - slack < outer[1] <= south + slack
    assert east - slack <= outer[2] < east + cell + slack
    assert north - slack <= outer[3] < north + cell + slack
    assert west - slack <= inner[0] < west + cell + slack
    assert north - cell - slack < inner[3] <= north + slack


@pytest.mark.parametrize(
    ("value", "text"), [(4160040.0, "4160040"), (-0.0, "0"), (-1e-5, "0"), (0.1 + 0.2, "0.3"), (-12.5, "-12.5")]
)
def test_metres_can_be_pasted(value, text):
    assert metres(value) == text
    assert float(metres(value)) == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize(
    ("epsg", "grids"),
    crossed(5, [32601, 32631, 32660, 32701, 32722, 32760], [(10, 20, 60), (10, 20), (10, 60)]),
)
def test_on_the_lattice_is_quiet(epsg, grids):
    ds = make_cube(epsg=epsg, grids=grids, chunks=12)
    with warnings.catch_warnings(), no_compute():
        warnings.simplefilter("error")
        ds.dsen2.superresolve(method="bicubic")
        ds.degrade(2).dsen2.superresolve(method="bicubic")
        # Grids of 20 m lie on multiples of 20 m, of 60 m or not.
        if 60 not in grids:
            moved(ds, 20, -40, grids).dsen2.superresolve(method="bicubic")


@pytest.mark.parametrize("epsg", [32631, 32722])
@pytest.mark.parametrize(
    ("grids", "shift", "name", "words"),
    [
        ((10, 20, 60), (20, 0), "B01", "20 m too far east"),
        ((10, 20, 60), (0, 20), "B01", "20 m too far north"),
        ((10, 20, 60), (-20, 20), "B01", "20 m too far west and 20 m too far north"),
        ((10, 20, 60), (0, -40), "B01", "20 m too far north"),
        ((10, 20, 60), (5, 0), "B01", "5 m too far east"),
        ((10, 20), (10, 0), "B05", "10 m too far west"),
        ((10, 20), (3, -3), "B05", "3 m too far east and 3 m too far south"),
        ((10, 60), (0, 10), "B01", "10 m too far north"),
    ],
)
def test_off_the_lattice_is_refused(epsg, grids, shift, name, words):
    """By name, with how far and where to; and no cut is advised, for none helps."""
    ds = moved(make_cube(epsg=epsg, grids=grids, chunks=12), *shift, grids)
    calls = [
        lambda: ds.dsen2.superresolve(method="bicubic"),
        lambda: ds.degrade(2),
        lambda: xsen2.canonicalise(ds),
        lambda: ds.dsen2.evaluate(["bicubic"]),
    ]
    for call in calls:
        with (
            pytest.raises(xsen2.GridError, match=rf"^{name} .* lies {words} for pixels of Sentinel-2") as caught,
            no_compute(),
        ):
            call()
        assert f"EPSG:{epsg}" in str(caught.value)
        assert not re.search(r"x from|cut them|half a pixel|e\+0", str(caught.value))


@pytest.mark.parametrize("wkt", [False, True])
def test_one_grid_of_a_southern_cube_on_multiples_of_60(wkt):
    """What loaders that anchor grids at multiples of the resolution give: the rows of 60 m lie 20 m off."""
    ds = moved(make_cube(epsg=32722), y=20, grids=(60,))
    if wkt:
        text = re.sub(r',\s*ID\["EPSG",\s*\d+\]', "", CRS.from_epsg(32722).to_wkt(version="WKT2_2019"))
        ds = ds.rio.write_crs(text.replace("UTM zone 22S", "a grid"))
    with pytest.raises(xsen2.GridError, match=r"^B01 .*20 m too far north"):
        ds.dsen2.superresolve()


def test_coarser_cubes_lie_where_they_were_cut_from():
    ds = make_cube(8, 8, epsg=32722, chunks=12).isel(x=slice(6, None), x_20m=slice(3, None), x_60m=slice(1, None))
    for scale in (2, 3, 6):
        assert recognise(ds.degrade(scale)).resolution == 10 * scale


@pytest.mark.parametrize("shift", [(0, 0), (5, 5), (-5, 20), (-600005, -5000035)])
def test_without_a_crs_nobody_knows(shift):
    ds = moved(make_cube(epsg=None, chunks=12), *shift)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds.dsen2.superresolve(method="bicubic")


def load_odc(item, bands, **how):
    stac = pytest.importorskip("odc.stac")
    return stac.load([item], bands=bands, chunks={}, dtype="uint16", nodata=0, **how)


GSD = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B05": 20, "B01": 60}


@pytest.fixture(scope="module", params=[(32722, 8300020), (32633, 5200020)], ids=["south", "north"])
def item(request, tmp_path_factory):
    """A tile's files and their STAC item."""
    pystac = pytest.importorskip("pystac")
    from rasterio.transform import from_origin
    from rasterio.warp import transform_bounds

    epsg, top = request.param
    folder = Path(tmp_path_factory.mktemp("tile"))
    rng, assets = np.random.default_rng(0), {}
    for band, gsd in GSD.items():
        side = 14 * 60 // gsd
        path = folder / f"{band}.tif"
        about = {"height": side, "width": side, "count": 1, "dtype": "uint16", "crs": epsg, "nodata": 0}
        with rasterio.open(path, "w", driver="GTiff", transform=from_origin(600000, top, gsd, gsd), **about) as file:
            file.write(rng.integers(1, 9000, (side, side), dtype="uint16"), 1)
        assets[band] = {
            "href": str(path),
            "type": "image/tiff",
            "roles": ["data"],
            "gsd": gsd,
            "eo:bands": [{"name": band}],
            "proj:transform": [gsd, 0, 600000, 0, -gsd, top],
            "proj:shape": [side, side],
        }
    w, s, e, n = transform_bounds(epsg, 4326, 600000, top - 840, 600840, top)
    schema = "https://stac-extensions.github.io"
    made = pystac.Item.from_dict(
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": "S2B_22LHH_20200101_0_L2A",
            "collection": "sentinel-2-l2a",
            "links": [],
            "stac_extensions": [f"{schema}/projection/v1.1.0/schema.json", f"{schema}/eo/v1.1.0/schema.json"],
            "bbox": [w, s, e, n],
            "geometry": {"type": "Polygon", "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]]},
            "assets": assets,
            "properties": {
                "datetime": "2020-01-01T13:00:00Z",
                "proj:epsg": epsg,
                "grid:code": "MGRS-22LHH",
                "s2:processing_baseline": "02.13",
            },
        }
    )
    return made, epsg


def merged(parts):
    """Grids that were loaded one by one, in one Dataset."""
    out = [p.rename({"x": DIMS[g][1], "y": DIMS[g][0]}) if g > 10 else p for g, p in parts.items()]
    return xr.merge(out, compat="override", join="outer")


def by_grid(load):
    return merged({g: load(g, [b for b, gsd in GSD.items() if gsd == g]) for g in (10, 20, 60)})


def test_the_advice_for_odc_and_stackstac_gives_native_pixels(item):
    item, epsg = item
    top = 8300020.0 if epsg == 32722 else 5200020.0
    box = {"x": (600070.0, 600610.0), "y": (top - 700, top - 110)}
    anchored = by_grid(lambda g, bands: load_odc(item, bands, crs=epsg, resolution=g, anchor="center", **box))
    with pytest.raises(xsen2.GridError) as caught:
        anchored.dsen2.superresolve()
    words = str(caught.value)
    native = xsen2.load([item])

    code = re.search(
        r"geobox=(odc\.geo\.geobox\.GeoBox\.from_bbox\(.*?\), 'EPSG:\d+', resolution=)…(, tight=True\))", words
    )
    assert code, words
    geobox_module = pytest.importorskip("odc.geo.geobox")
    odc = type("odc", (), {"geo": type("geo", (), {"geobox": geobox_module})})

    def with_odc(g, bands):
        geobox = eval(f"{code[1]}{g}{code[2]}", {"odc": odc})
        return load_odc(item, bands, geobox=geobox)

    import stackstac

    bounds = tuple(float(v) for v in re.search(r"bounds=\((.*?)\), snap_bounds=False", words)[1].split(", "))

    def with_stackstac(g, bands):
        stack = stackstac.stack(
            [item.to_dict()],
            assets=bands,
            epsg=epsg,
            resolution=g,
            bounds=bounds,
            snap_bounds=False,
            xy_coords="center",
            dtype="float64",
            rescale=False,
        )
        return stack.drop_vars([n for n in stack.coords if n not in ("time", "y", "x", "band", "epsg")]).to_dataset(
            "band"
        )

    for load in (with_odc, with_stackstac):
        cube = by_grid(load)
        cube.dsen2.superresolve(["B01", "B05"], method="bicubic")
        for band in ("B02", "B05", "B01"):
            y, x = DIMS[grid_of(band)]
            want = native[band].sel({x: cube[x], y: cube[y]})
            np.testing.assert_array_equal(cube[band].values, want.values)


# -- resampled, and taken with a warning


def laea(**how):
    return make_cube(epsg=3035, chunks=12, **how)


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [w for w in caught if issubclass(w.category, xsen2.ResampledWarning)]


@pytest.mark.parametrize("epsg", [3035, 3857, 2154, 32661])
def test_a_projection_that_is_not_utm(epsg):
    ds = make_cube(epsg=epsg, chunks=12)
    with pytest.warns(xsen2.ResampledWarning, match=f"EPSG:{epsg} .*in UTM .*sr.rio.reproject") as caught, no_compute():
        ds.dsen2.superresolve(method="bicubic")
    assert [Path(w.filename) for w in caught] == [Path(__file__)]


@pytest.mark.parametrize(
    "call",
    [
        lambda ds: ds.dsen2.superresolve(method="bicubic"),
        lambda ds: ds.dsen2.evaluate(["bicubic", "bicubic"]),
        lambda ds: ds.dsen2.evaluate(["bicubic", "bicubic"], scale=1),
        lambda ds: ds.degrade(2),
        lambda ds: ds.degrade.pair(2),
        lambda ds: xsen2.canonicalise(ds),
        lambda ds: xsen2.benchmark({"a": ds, "b": ds}, ["bicubic"]),
        lambda ds: xsen2.native(ds[["B02", "B03"]]),
    ],
)
def test_once_in_a_call(call):
    (found,) = said(lambda: call(laea()))
    assert "EPSG:3035" in str(found.message)


def test_again_in_the_next_call():
    ds = laea()
    assert len(said(lambda: [ds.dsen2.superresolve(method="bicubic") for _ in range(2)])) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(xsen2.ResampledWarning):
            ds.dsen2.evaluate(["bicubic"])
    assert len(said(lambda: ds.dsen2.evaluate(["bicubic"], compute=False))) == 1


def test_10_m_bands_alone_off_the_lattice():
    ds = moved(make_cube(grids=(10,)), 5, 0, (10,))
    (found,) = said(lambda: xsen2.canonicalise(ds))
    assert "B02 lies 5 m too far west" in str(found.message) or "B02 lies 5 m too far east" in str(found.message)
    assert not said(lambda: xsen2.canonicalise(moved(ds, 5, 10, (10,))))


def test_the_advice_super_resolve_first_then_reproject():
    (found,) = said(lambda: laea().dsen2.superresolve(method="bicubic"))
    code = re.search(r"sr\.rio\.reproject\('EPSG:3035'\)", str(found.message))[0]
    sr = make_cube().dsen2.superresolve(["B05"], method="bicubic").compute()
    assert eval(code, {"sr": sr}).rio.crs.to_epsg() == 3035


def test_the_sample_is_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xsen2.sample().dsen2.superresolve(["B05"], method="bicubic")


def test_scenes_that_were_noted_where_no_pixel_is_have_no_place():
    (scene,) = scenes_of(make_cube(epsg=32722), "a")
    assert scene.cube().rio.crs.to_epsg() == 32722
    from dataclasses import replace

    astray = replace(scene, corner=(scene.corner[0], scene.corner[1] + 20))
    assert astray.cube().rio.crs is None
    astray.cube().dsen2.superresolve(method="bicubic")


# -- native


@pytest.mark.parametrize("epsg", [32631, 32722, None, 3035])
@pytest.mark.parametrize("chunk", [None, 12])
def test_native_in_both_hemispheres(epsg, chunk):
    cube = make_cube(epsg=epsg, dtype=np.uint16)
    if epsg is None:  # a southern one, nobody says so
        cube = moved(cube, 0, 40)
    ratio = {b: BANDS[b].gsd // 10 for b in BANDS}
    flat = {b: (("y", "x"), cube[b].values.repeat(r, 0).repeat(r, 1)) for b, r in ratio.items()}
    flat = xr.Dataset(flat, {n: cube[n] for n in ("x", "y", "spatial_ref") if n in cube.coords})
    if chunk:
        flat = flat.chunk(x=chunk, y=chunk)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if epsg == 3035 else "error", xsen2.ResampledWarning)
        back = xsen2.native(flat)
        back.dsen2.superresolve(method="bicubic")
    for band in BANDS:
        np.testing.assert_array_equal(back[band], cube[band])


@pytest.mark.parametrize("epsg", [32631, 32722])
@examples(12)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_native_when_cut_as_told(epsg, left, top, right, bottom):
    cube = make_cube(4, 5, epsg=epsg, dtype=np.uint16)
    flat = {b: (("y", "x"), cube[b].values.repeat(r, 0).repeat(r, 1)) for b, r in (("B02", 1), ("B05", 2), ("B01", 6))}
    flat = xr.Dataset(flat, {n: cube[n] for n in ("x", "y", "spatial_ref")})
    flat = flat.isel(x=slice(left, 30 - right), y=slice(top, 24 - bottom))
    if left or top or right or bottom:
        with pytest.raises(xsen2.GridError, match="cut it: x from") as caught:
            xsen2.native(flat)
        found = re.search(r"x from (\S+) to (\S+), y from (\S+) to (\S+) is", str(caught.value)).groups()
        x0, x1, y0, y1 = map(float, found)
        flat = flat.sel(x=slice(x0, x1), y=slice(y1, y0))
    back = xsen2.native(flat)
    for band in ("B02", "B05", "B01"):
        np.testing.assert_array_equal(back[band], cube[band].sel({d: back[d] for d in back[band].dims}))
    back.dsen2.superresolve(["B01"], method="bicubic")
