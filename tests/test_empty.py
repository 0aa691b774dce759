"""Nothing selected, and coordinates that are none: refused by name in every call, before anything is computed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr
from cases import crossed
from cubes import make_cube, no_compute

import xsen2
from xsen2.bands import GRIDS


def ten(ds):
    """The 10 m bands alone, which native and index take."""
    return ds.drop_vars([b for g in (20, 60) for b in GRIDS[g]])


CALLS = {
    "superresolve": lambda ds, _: ds.dsen2.superresolve(method="bicubic"),
    "canonicalise": lambda ds, _: xsen2.canonicalise(ds),
    "evaluate": lambda ds, _: ds.dsen2.evaluate(["bicubic"]),
    "evaluate at full scale": lambda ds, _: ds.dsen2.evaluate(["bicubic"], scale=1),
    "finetune": lambda ds, _: ds.dsen2.finetune(steps=1),
    "degrade": lambda ds, _: ds.degrade(2),
    "degrade.pair": lambda ds, _: ds.degrade.pair(2),
    "benchmark": lambda ds, _: xsen2.benchmark({"a": ds}, ["bicubic"]),
    "index": lambda ds, _: ds.dsen2.index("NDVI"),
    "native": lambda ds, _: xsen2.native(ten(ds)),
    "to_zarr": lambda ds, path: ds.dsen2.to_zarr(path / "a.zarr", progress=False),
    "to_cog": lambda ds, path: ds.dsen2.to_cog(path / "{date}.tif", bands=["B02", "B04"], progress=False),
    "tree": lambda ds, _: tree_of(ds).dsen2.superresolve(method="bicubic"),
}


def tree_of(ds):
    return xr.DataTree.from_dict({f"/r{g}m": ds[list(names)] for g, names in GRIDS.items()})


WAYS = {
    "y, a slice the wrong way round": (
        lambda ds: ds.sel(y=slice(4999900, 5000000), y_20m=slice(4999900, 5000000), y_60m=slice(4999900, 5000000)),
        xsen2.GridError,
        r"B0\d has no pixels along 'y(_60m)?': a slice the wrong way round",
        lambda ds: ds.sel(y=slice(5000040, 4999920), y_20m=slice(5000040, 4999920), y_60m=slice(5000040, 4999920)),
    ),
    "x outside": (
        lambda ds: ds.sel(x=slice(0, 10), x_20m=slice(0, 10), x_60m=slice(0, 10)),
        xsen2.GridError,
        r"B0\d has no pixels along 'x(_60m)?': a slice the wrong way round .* \.sel\(x(_60m)?=slice\(west, east\)\)",
        lambda ds: ds,
    ),
    "no date left": (
        lambda ds: ds.sel(time=slice("2023-01", "2023-12")),
        xsen2.TimeError,
        r"B0\d has no pixels along 'time': no date is left.*\.sel\(time=…\)",
        lambda ds: ds.sel(time="2024"),
    ),
    "all dates filtered": (
        lambda ds: ds.isel(time=np.zeros(2, bool)),
        xsen2.TimeError,
        "no date is left",
        lambda ds: ds,
    ),
}


@pytest.mark.parametrize(("call", "way"), crossed(3, CALLS, WAYS))
def test_nothing_selected(call, way, tmp_path):
    cut, error, words, _ = WAYS[way]
    ds = cut(make_cube(dates=2, chunks=12))
    assert 0 in ds.sizes.values()
    with pytest.raises(error, match=words), no_compute():
        CALLS[call](ds, tmp_path)
    assert not list(tmp_path.glob("*.zarr"))
    assert not list(tmp_path.glob("*.tif"))


@pytest.mark.parametrize("way", WAYS)
def test_the_advice(way):
    WAYS[way][3](make_cube(dates=2, chunks=12)).dsen2.superresolve(method="bicubic")


def test_one_grid_alone_is_empty():
    ds = make_cube().isel(y_20m=slice(0))
    with pytest.raises(xsen2.GridError, match="B05 has no pixels along 'y_20m'"):
        ds.dsen2.superresolve()


def test_dims_of_any_name():
    ds = make_cube().rename(y="northing", x="p").isel(p=slice(0))
    with pytest.raises(xsen2.GridError, match=r"B02 has no pixels along 'p': .* or is outside of what there is"):
        ds.dsen2.superresolve()


def test_an_extra_that_is_empty_is_no_reason():
    ds = make_cube(chunks=12).assign(stations=("station", np.empty(0)))
    assert ds.dsen2.superresolve(method="bicubic")["stations"].shape == (0,)


def with_x(change):
    """All three grids, with the coordinate along x changed."""

    def make(ds):
        return ds.assign_coords({d: change(ds[d].values.copy()) for d in ("x", "x_20m", "x_60m")})

    return make


def put(position, value):
    def change(values):
        values[position] = value
        return values

    return change


def text(values):
    return np.array([str(v) for v in values])


COORDINATES = {
    "NaN": (
        with_x(put(2, np.nan)),
        r"'x(_60m)?' has 1 of \d+ values that are not finite numbers, the first at position 2",
    ),
    "all NaN": (with_x(lambda v: v * np.nan), r"'x(_60m)?' has \d+ of \d+ values that are not finite"),
    "infinite": (with_x(put(0, np.inf)), "not finite numbers"),
    "twice": (lambda ds: ds.isel(x=[0, 1, 1, 2, 3, 4]), r"'x' is not evenly spaced, 1 of its values stand there twice"),
    "not in order": (lambda ds: ds.isel(x=[1, 0, 2, 3, 4, 5]), r"'x' is not evenly spaced, it rises and falls"),
    "text": (with_x(text), r"no numeric coordinate along 'x(_60m)?': its values are"),
    "text as objects": (
        with_x(lambda v: text(v).astype(object)),
        r"no numeric coordinate along 'x(_60m)?': its values",
    ),
    "none": (lambda ds: ds.drop_vars(["x", "x_20m", "x_60m"]), r"no numeric coordinate along 'x(_60m)?'\. Assign"),
}


@pytest.mark.parametrize(("call", "what"), crossed(5, [n for n in CALLS if n != "index"], COORDINATES))
def test_coordinates_that_are_none(call, what, tmp_path):
    make, words = COORDINATES[what]
    ds = make(make_cube(dates=2, chunks=12))
    with pytest.raises(xsen2.GridError, match=words), no_compute():
        CALLS[call](ds, tmp_path)


@pytest.mark.parametrize(
    "spoil", [lambda ds: ds.isel(x=[1, 0, *range(2, 30)]), lambda ds: ds.isel(x=[0, 0, *range(1, 30)])]
)
def test_the_advice_puts_coordinates_right(spoil):
    ds = make_cube()
    with pytest.raises(xsen2.GridError, match="not evenly spaced") as caught:
        spoil(ds).dsen2.superresolve()
    code = re.search(r"ds\.(sortby|drop_duplicates)\('x'\)", str(caught.value))[0]
    mended = eval(code, {"ds": spoil(ds)})
    xr.testing.assert_identical(mended["B02"], ds["B02"])
    mended.dsen2.superresolve(method="bicubic")


@pytest.mark.parametrize("call", ["superresolve", "degrade", "evaluate", "benchmark", "canonicalise"])
def test_dates_that_are_none(call, tmp_path):
    ds = make_cube(dates=3, chunks=12)
    ds = ds.assign_coords(time=[ds.time.values[0], np.datetime64("NaT"), ds.time.values[2]])
    words = r"has 1 of 3 dates that are NaT along 'time', the first at position 1: .* ds\.isel\(time=ds\['time'\]"
    with pytest.raises(xsen2.TimeError, match=words) as caught, no_compute():
        CALLS[call](ds, tmp_path)
    code = re.search(r"ds\.isel\(.*\)", str(caught.value))[0]
    assert eval(code, {"ds": ds}).dsen2.superresolve(method="bicubic").sizes["time"] == 2


def test_the_advice_for_times_that_differ():
    ds = make_cube(dates=3)
    other = ds["B05"].isel(time=[0, 2]).rename(time="t20")
    mixed = ds.drop_vars("B05").assign(B05=other)
    with pytest.raises(xsen2.TimeError, match="B05 has 2 times that differ from the 3 of B0") as caught:
        mixed.dsen2.superresolve()
    code = re.search(r"ds\.isel\(.*\)", str(caught.value))[0]
    sr = eval(code, {"ds": mixed}).dsen2.superresolve(method="bicubic")
    np.testing.assert_array_equal(sr.time, ds.time[[0, 2]])


def test_the_advice_for_times_that_were_noted_differently():
    ds = make_cube(dates=2)
    late = ds["B05"].rename(time="t20").assign_coords(t20=ds.time.values + np.timedelta64(1, "s"))
    mixed = ds.drop_vars("B05").assign(B05=late)
    with pytest.raises(xsen2.TimeError, match="none in common") as caught:
        mixed.dsen2.superresolve()
    code = re.search(r"ds\.assign_coords\(.*?\)", str(caught.value))[0]
    assert eval(code, {"ds": mixed}).dsen2.superresolve(method="bicubic").sizes["time"] == 2


def test_the_advice_for_times_that_differ_in_a_tree():
    ds = make_cube(dates=3)
    parts = {f"/r{g}m": ds[list(names)].isel(time=[0, 2] if g == 60 else slice(None)) for g, names in GRIDS.items()}
    tree = xr.DataTree.from_dict(parts)
    with pytest.raises(xsen2.TimeError, match="times that differ") as caught:
        tree.dsen2.superresolve()
    code = re.search(r"tree\.map_over_datasets\(.*?\), where", str(caught.value))[0].removesuffix(", where")
    common = np.intersect1d(parts["/r10m"].time, parts["/r60m"].time)
    again = eval(code, {"tree": tree, "common": common})
    assert again.dsen2.superresolve(method="bicubic").sizes["time"] == 2


def test_the_advice_for_a_date_that_is_missing():
    ds = make_cube(dates=2)
    mixed = ds.assign(B05=ds["B05"].isel(time=0, drop=True))
    with pytest.raises(xsen2.TimeError, match="has the time dim 'time' and B05 has none") as caught:
        mixed.dsen2.superresolve()
    code = re.search(r"ds\.isel\(time=0\)", str(caught.value))[0]
    eval(code, {"ds": mixed}).dsen2.superresolve(method="bicubic")


def test_no_bands_named():
    with pytest.raises(xsen2.BandError, match=r"bands=\[\] with native=False leaves nothing"):
        make_cube().dsen2.superresolve([], native=False)
    assert set(make_cube().dsen2.superresolve([])) == set(GRIDS[10])
    with pytest.raises(xsen2.BandError, match=r"bands=\[\] names nothing"):
        xsen2.context_of(bands=[])


@pytest.mark.parametrize(
    ("spoil", "words", "mend"),
    [
        (lambda ds: ds.drop_vars(GRIDS[10]), "load B02, B03, B04 and B08", lambda ds: ds),
        (lambda ds: ds.drop_vars("B8A"), "method='bicubic'", lambda ds: ds.drop_vars("B8A")),
        (lambda ds: ds.assign(red=ds["B04"]), r"drop all but one with ds\.drop_vars", lambda ds: ds),
    ],
)
def test_the_advice_for_bands(spoil, words, mend):
    ds = make_cube()
    with pytest.raises(xsen2.BandError, match=words):
        spoil(ds).dsen2.superresolve(method="default")
    mend(ds).dsen2.superresolve(method="bicubic")


def test_the_advice_for_a_single_grid():
    cube = make_cube()
    flat = {b: (("y", "x"), cube[b].values.repeat(g // 10, 0).repeat(g // 10, 1)) for g, n in GRIDS.items() for b in n}
    ds = xr.Dataset(flat, {n: cube[n] for n in ("x", "y", "spatial_ref")})
    with pytest.raises(xsen2.SingleGridError, match=r"xsen2\.native\(ds\)") as caught:
        ds.dsen2.superresolve()
    assert "grid of 10 m" in str(caught.value)
    xsen2.native(ds).dsen2.superresolve(method="bicubic")
