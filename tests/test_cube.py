"""What is a cube, what is refused and with which words; before any pixel is computed."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes import DIMS, make_cube, no_compute
from hypothesis import given
from hypothesis import strategies as st

import xsen2
from xsen2.bands import BANDS, GRIDS
from xsen2.cube import recognise
from xsen2.grid import snap

EARTH_SEARCH = {b.name: b.common_name for b in BANDS.values()}
EOPF = {b: b.lower() for b in BANDS}
SHORT = {b: "B" + b[1:].lstrip("0") for b in BANDS}


@pytest.fixture(autouse=True)
def _lazy():
    with no_compute():
        yield


@pytest.mark.parametrize("names", [EARTH_SEARCH, EOPF, SHORT])
def test_any_catalogue_names(names):
    cube = recognise(make_cube(chunks=12).rename(names))
    assert list(cube.bands) == list(BANDS)
    assert cube.names == names


def test_canonical_form():
    ds = xsen2.canonicalise(make_cube(dates=2, chunks=12))
    assert ds["B04"].dims == ("time", "y", "x")
    assert ds["B05"].dims == ("time", "y_20m", "x_20m")
    assert ds["B09"].dims == ("time", "y_60m", "x_60m")
    assert ds["B05"].attrs["gsd"] == 20
    assert ds["B05"].attrs["long_name"] == "red edge 1"
    assert ds["B05"].attrs["wavelength"] == pytest.approx(704.1)
    assert ds["B05"].encoding["grid_mapping"] == "spatial_ref"
    assert ds.rio.crs.to_epsg() == 32631
    assert recognise(ds).dataset().identical(ds)


@given(
    st.permutations(["p", "q", "r", "s", "t", "u"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_dims_by_spacing_not_by_name(letters, south_up, transposed, dates):
    dims = {10: tuple(letters[:2]), 20: tuple(letters[2:4]), 60: tuple(letters[4:])}
    plain = make_cube(dates=2 if dates else None)
    ds = make_cube(dates=2 if dates else None, dims=dims)
    if dates:
        ds = ds.rename(time="when")
    if south_up:
        ds = ds.isel({y: slice(None, None, -1) for y, _ in dims.values()})
    elif transposed:
        ds = ds.transpose(*(d for y, x in dims.values() for d in (x, y)), ...)
    cube = recognise(ds)
    for band in BANDS:
        np.testing.assert_array_equal(cube.bands[band].values, plain[band].values)
        np.testing.assert_array_equal(cube.bands[band][DIMS[BANDS[band].gsd][0]], plain[DIMS[BANDS[band].gsd][0]])


def test_datatree_with_masks_that_repeat_the_names():
    ds = make_cube(chunks=12)
    groups = {
        f"/measurements/reflectance/r{g}m": ds[list(names)]
        .rename({DIMS[g][0]: "y", DIMS[g][1]: "x"} if g > 10 else {})
        .drop_vars("spatial_ref")
        .rename({b: b.lower() for b in names})
        for g, names in GRIDS.items()
    }
    # EOPF repeats the finer bands in the coarser groups, and the names in masks.
    coarse = groups["/measurements/reflectance/r20m"]
    groups["/measurements/reflectance/r20m"] = coarse.assign(b02=coarse["b05"])
    for g in GRIDS:
        groups[f"/quality/mask/r{g}m"] = groups[f"/measurements/reflectance/r{g}m"].astype("uint8")
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["other_metadata"] = {"horizontal_CRS_code": "EPSG:32629"}
    cube = recognise(tree)
    assert cube.crs.to_epsg() == 32629
    assert set(cube.bands) == set(BANDS)
    assert cube.bands["B02"].sizes == {"y": 24, "x": 30}
    sr = tree.dsen2.superresolve(method="bicubic")
    assert sr["b05"].dims == ("y", "x")


def test_extras_and_cirrus():
    ds = make_cube(chunks=12)
    scl = xr.zeros_like(ds["B05"]).astype("uint8")
    ds = ds.assign(SCL=scl, B10=ds["B09"], sun=((), 30.0))
    cube = recognise(ds)
    assert set(cube.extras) == {"SCL", "sun"}


REFUSED = {}


def refused(error, words):
    def keep(make):
        REFUSED[make.__name__] = (make, error, words)
        return make

    return keep


@refused(xsen2.BandError, "no Sentinel-2 bands found")
def no_bands():
    return make_cube().rename({b: f"layer_{b}" for b in BANDS})


@refused(xsen2.BandError, "more than once")
def twice():
    ds = make_cube()
    return ds.assign(red=ds["B04"])


@refused(xsen2.SingleGridError, "xsen2.native")
def single_grid():
    ds = make_cube(grids=(10,))
    return ds.assign(dict.fromkeys(GRIDS[20] + GRIDS[60], ds["B02"]))


@refused(xsen2.GridError, "native grid is 20 m")
def one_band_resampled():
    ds = make_cube()
    return ds.assign(B05=ds["B02"])


@refused(xsen2.GridError, "half a pixel")
def corners_for_centres():
    ds = make_cube()
    return ds.assign_coords(x_20m=ds.x_20m - 10, y_20m=ds.y_20m + 10, x=ds.x - 5, y=ds.y + 5)


@refused(xsen2.GridError, "do not nest")
def shifted():
    ds = make_cube()
    return ds.assign_coords(x_60m=ds.x_60m + 60)


@refused(xsen2.GridError, "x from 600060 to 600300")
def different_extent():
    return make_cube().isel(x=slice(6, None))


@refused(xsen2.GridError, "not evenly spaced")
def gap():
    return make_cube().isel(x=[0, 1, 2, 5, 6, 7])


@refused(xsen2.GridError, "no numeric coordinate")
def no_coordinates():
    return make_cube().drop_vars("x")


@refused(xsen2.CRSError, "geographic")
def geographic():
    return make_cube(epsg=4326)


@refused(xsen2.CRSError, "more than one CRS")
def two_crs():
    ds = make_cube()
    other = ds["B05"].drop_vars("spatial_ref").rio.write_crs(32632, grid_mapping_name="other")
    return ds.drop_vars("B05").assign(B05=other)


@refused(xsen2.TimeError, "times that differ")
def other_times():
    ds = make_cube(dates=2)
    late = ds["B05"].rename(time="t20").assign_coords(t20=ds.time.values + np.timedelta64(1, "h"))
    return ds.drop_vars("B05").assign(B05=late)


@refused(xsen2.TimeError, "time dim")
def one_date_missing():
    ds = make_cube(dates=2)
    return ds.assign(B05=ds["B05"].isel(time=0, drop=True))


@refused(xsen2.GridError, "spaced 0.0001")
def degrees_without_crs():
    ds = make_cube(epsg=None)
    return ds.assign_coords({d: ds[d] * 1e-5 for pair in DIMS.values() for d in pair})


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name):
    make, error, words = REFUSED[name]
    with pytest.raises(error, match=words) as caught:
        make().dsen2.superresolve()
    assert isinstance(caught.value, xsen2.Xsen2Error)


def test_wrong_type():
    with pytest.raises(TypeError, match="Dataset or DataTree"):
        recognise(make_cube()["B02"])


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 1e5), st.floats(0, 1e5))
def test_snap_contains_and_is_on_multiples(west, south, width, height):
    box = (west, south, west + width, south + height)
    w, s, e, n = snap(box)
    assert all(v % 60 == 0 for v in (w, s, e, n))
    assert w <= west + 1e-4
    assert s <= south + 1e-4
    assert e >= box[2] - 1e-4
    assert n >= box[3] - 1e-4
    assert w > west - 60.01
    assert e < box[2] + 60.01
    assert snap((w, s, e, n)) == (w, s, e, n)


def tree_of(ds):
    return xr.DataTree.from_dict({f"/r{g}m": ds[[b for b in names if b in ds]] for g, names in GRIDS.items()})


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: tree_of(make_cube(grids=(10, 20)).drop_vars(GRIDS[20])), xsen2.BandError, "nothing to super-resolve"),
        (lambda: xr.DataTree.from_dict({"/r10m": xr.Dataset({"dem": 1})}), xsen2.BandError, "found: none"),
        (lambda: tree_of(shifted()), xsen2.GridError, "do not nest"),
        (lambda: tree_of(geographic()), xsen2.CRSError, "geographic"),
        (
            lambda: xr.DataTree.from_dict({"/a": tree_of(make_cube()), "/b": tree_of(make_cube())}),
            xsen2.BandError,
            "/a, /b",
        ),
    ],
)
def test_refusals_of_trees(make, error, words):
    with pytest.raises(error, match=words):
        make().dsen2.superresolve()


def test_names_decide_where_nothing_else_does():
    """Both axes rise, no CF attributes, (x, y) order."""
    ds = make_cube(2, 3)
    turned = ds.isel(y=slice(None, None, -1), y_20m=slice(None, None, -1), y_60m=slice(None, None, -1))
    turned = turned.transpose("x", "y", "x_20m", "y_20m", "x_60m", "y_60m")
    cube = recognise(turned)
    np.testing.assert_array_equal(cube.bands["B05"], ds["B05"])


def test_numbers_for_dates_last():
    ds = make_cube(2, 3, dates=2).assign_coords(time=[0, 1]).transpose(..., "time")
    assert recognise(ds).bands["B05"].dims == ("time", "y_20m", "x_20m")
