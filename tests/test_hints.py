"""What an error tells one to do works when it is done."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import xarray as xr
from cases import crossed
from cubes import DIMS, examples
from hypothesis import example, given
from hypothesis import strategies as st

import xsen2
from xsen2.bands import GRIDS, grid_of
from xsen2.grid import edges, lattice, off

CELLS = 10
BANDS = {10: ("B02", "B03", "B04", "B08"), 20: ("B05",), 60: ("B01",)}
ZONES = {None: (0, 0), 32631: (0, 0), 32722: (0, 40), 3035: (7, -3)}
LOW = {None: 5_000_000, 32631: 4_999_980, 32722: 8_299_960, 3035: 3_000_000}


def tile(epsg):
    """A tile, each pixel with a number of its own, on the lattice of its CRS."""
    x0, y0 = ZONES[epsg]
    west, north = 600_000 + x0, LOW[epsg] // 60 * 60 + CELLS * 60 + y0
    variables = {}
    for gsd, names in BANDS.items():
        side = CELLS * 60 // gsd
        ydim, xdim = DIMS[gsd]
        coords = {ydim: north - (np.arange(side) + 0.5) * gsd, xdim: west + (np.arange(side) + 0.5) * gsd}
        data = np.arange(side * side, dtype="float32").reshape(side, side) + 1
        for name in names:
            variables[name] = xr.DataArray(data, coords, (ydim, xdim))
    ds = xr.Dataset(variables)
    return ds if epsg is None else ds.rio.write_crs(epsg)


def cut(ds, words):
    """As the case is told in words."""
    found = re.search(r"x from (\S+) to (\S+), y from (\S+) to (\S+) is", words)
    x0, x1, y0, y1 = map(float, found.groups())
    spans = {}
    for pair in DIMS.values():
        for dim, low, high in zip(pair, (y0, x0), (y1, x1), strict=True):
            if dim in ds.dims:
                falls = ds[dim].values[0] > ds[dim].values[-1]
                spans[dim] = slice(high, low) if falls else slice(low, high)
    return ds.sel(spans)


def run(code, ds):
    return eval(code, {"ds": ds})


def native_pixels(cube, whole):
    for band in ("B02", "B05", "B01"):
        there = whole[band].sel({d: cube[d] for d in cube[band].dims})
        np.testing.assert_array_equal(cube[band].values, there.values)


def trim(span):
    return st.tuples(st.integers(0, span), st.integers(0, span))


@pytest.mark.parametrize("epsg", ZONES)
@examples(8)
@given(
    trims=st.fixed_dictionaries({g: st.tuples(trim(18 * 10 // g), trim(18 * 10 // g)) for g in (10, 20, 60)}),
    south_up=st.sets(st.sampled_from([10, 20, 60])),
    east_first=st.sets(st.sampled_from([10, 20, 60])),
)
@example(trims={10: ((1, 0), (0, 0)), 20: ((0, 0), (0, 0)), 60: ((0, 0), (0, 0))}, south_up=set(), east_first=set())
def test_grids_of_different_extent_when_cut_as_told(epsg, trims, south_up, east_first):
    """Any bounds, any order of rows and columns: refused with a cut, and then the product's own pixels; at once."""
    whole = tile(epsg)
    ds = whole
    for gsd, ((top, bottom), (left, right)) in trims.items():
        ydim, xdim = DIMS[gsd]
        side = CELLS * 60 // gsd
        ds = ds.isel({ydim: slice(top, side - bottom), xdim: slice(left, side - right)})
        if gsd in south_up:
            ds = ds.isel({ydim: slice(None, None, -1)})
        if gsd in east_first:
            ds = ds.isel({xdim: slice(None, None, -1)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if epsg == 3035 else "error", xsen2.ResampledWarning)
        try:
            ds.dsen2.superresolve(["B05", "B01"], method="bicubic")
            native_pixels(xsen2.canonicalise(ds), whole)
            return
        except xsen2.GridError as error:
            words = str(error)
        assert "half a pixel" not in words
        assert "e+0" not in words
        code = re.search(r"ds\.sel\(.*\)$", words)[0]
        for mended in (cut(ds, words), run(code, ds)):
            mended.dsen2.superresolve(["B05", "B01"], method="bicubic")
            native_pixels(xsen2.canonicalise(mended), whole)


@pytest.mark.parametrize("epsg", ZONES)
@examples(8)
@given(
    shifts=st.fixed_dictionaries(
        {g: st.tuples(*[st.sampled_from([0, 5, 10, -20, 20, 30, 40, 60])] * 2) for g in (10, 20, 60)}
    )
)
@example(shifts={10: (0, 0), 20: (0, 0), 60: (0, 20)})
@example(shifts={10: (0, 0), 20: (0, 0), 60: (20, 0)})
@example(shifts={10: (0, 0), 20: (0, 0), 60: (30, 20)})
def test_grids_that_were_shifted(epsg, shifts):
    """Refused; a cut or a shift that is advised makes a cube at once, on the lattice."""
    ds = tile(epsg)
    for gsd, (y, x) in shifts.items():
        ydim, xdim = DIMS[gsd]
        ds = ds.assign_coords({ydim: ds[ydim] + y, xdim: ds[xdim] + x})
    origin = lattice(epsg)
    astray = {g for g, (y, x) in shifts.items() if origin and (y % g or x % g)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xsen2.ResampledWarning)
        try:
            made = ds.dsen2.superresolve(["B05", "B01"], method="bicubic")
        except xsen2.GridError as error:
            words = str(error)
        else:
            assert not astray
            assert made.sizes["x"] == CELLS * 6
            return
        assert "e+0" not in words
        if "half a pixel" in words:
            corners = {g: shift for g, shift in shifts.items() if {abs(v) for v in shift} == {g / 2}}
            assert corners or origin is None
            code = re.search(r"ds\.assign_coords\(.*?\)(?=\))", words)[0]
            mended = run(code, ds)
        elif found := re.search(r"ds\.sel\(.*\)$", words):
            assert not astray
            mended = run(found[0], ds)
        else:
            assert not re.search(r"x from|cut them", words)
            return
        mended.dsen2.superresolve(["B05", "B01"], method="bicubic")
        bounds = edges(mended["B01"], type("Axes", (), {"y": "y_60m", "x": "x_60m"}), 60)
        assert origin is None or max(map(abs, off(bounds, 60, origin))) < 0.1


@pytest.mark.parametrize(
    ("epsg", "corner", "grids"),
    crossed(
        7,
        ZONES,
        [(0.5, -0.5), (-0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)],
        [(10, 20, 60), (20, 60), (60,), (20,), (10,)],
    ),
)
def test_corners_for_centres(epsg, corner, grids):
    """Coordinates of any corner, of any of the grids, are told and put right."""
    whole = tile(epsg)
    x, y = corner
    ds = whole
    for gsd in grids:
        ydim, xdim = DIMS[gsd]
        ds = ds.assign_coords({ydim: ds[ydim] - y * gsd, xdim: ds[xdim] - x * gsd})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xsen2.ResampledWarning)
        with pytest.raises(xsen2.GridError, match=r"That is half a pixel.*xy_coords='center'") as caught:
            ds.dsen2.superresolve()
        mended = run(re.search(r"ds\.assign_coords\(.*?\)(?=\))", str(caught.value))[0], ds)
        mended.dsen2.superresolve(["B05", "B01"], method="bicubic")
    if epsg in (32631, 32722):
        for band in ("B02", "B05", "B01"):
            ydim, xdim = DIMS[grid_of(band)]
            np.testing.assert_array_equal(mended[xdim], whole[xdim])
            np.testing.assert_array_equal(mended[ydim], whole[ydim])


@pytest.mark.parametrize("shift", [(20, 0), (-20, 0), (0, 20), (20, 20), (40, 0), (25, 0), (0, 5), (30, 0), (0, 30)])
@pytest.mark.parametrize("epsg", [None, 32631, 32722])
def test_one_axis_or_another_distance_is_not_half_a_pixel(shift, epsg):
    ds = tile(epsg)
    ds = ds.assign_coords(x_60m=ds.x_60m + shift[0], y_60m=ds.y_60m + shift[1])
    with pytest.raises(xsen2.GridError) as caught:
        ds.dsen2.superresolve()
    assert "half a pixel" not in str(caught.value)


def test_no_pixel_in_common():
    ds = tile(32631)
    ds = ds.isel(x=slice(30), x_20m=slice(15), x_60m=slice(5, None))
    with pytest.raises(
        xsen2.GridError, match=r"no whole pixel of 60 m in common.*load all grids on the same bounds"
    ) as caught:
        ds.dsen2.superresolve()
    assert "x from" not in str(caught.value)


def test_a_tree_is_told_where_to_cut_in_words():
    """Its groups share the names of their dims: one ``.sel`` would not do for all."""
    ds = tile(32722)
    groups = {
        f"/r{g}m": ds[list(BANDS[g])].rename({} if g == 10 else {DIMS[g][0]: "y", DIMS[g][1]: "x"}) for g in GRIDS
    }
    groups["/r10m"] = groups["/r10m"].isel(x=slice(1, None), y=slice(2, -3))
    tree = xr.DataTree.from_dict(groups)
    with pytest.raises(xsen2.GridError, match=r"is common to all$") as caught:
        tree.dsen2.superresolve()
    x0, x1, y0, y1 = re.search(r"x from (\S+) to (\S+), y from (\S+) to (\S+) is", str(caught.value)).groups()
    span = {"x": slice(float(x0), float(x1)), "y": slice(float(y1), float(y0))}
    again = tree.map_over_datasets(lambda group: group.sel(span) if "x" in group.dims else group)
    again.dsen2.superresolve(["B01"], method="bicubic")
