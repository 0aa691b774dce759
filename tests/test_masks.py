"""mask=: clouds become nodata after the bands have been made, from SCL, CLASSI or what the caller has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes import change, examples, make_cube, no_compute
from hypothesis import given
from hypothesis import strategies as st

from xsen2 import masks
from xsen2.bands import A
from xsen2.errors import BandError, GridError, MethodError, RadiometryError, TimeError

pytestmark = pytest.mark.usefixtures("thin_blocks", "tiny_networks")

RNG = np.random.default_rng(1)


def with_scl(rows: int = 3, columns: int = 4, **kwargs: Any) -> xr.Dataset:
    ds = make_cube(rows, columns, **kwargs)
    scl = xr.zeros_like(ds.B05).astype("uint8")
    scl.data = RNG.integers(0, 12, scl.shape).astype("uint8")
    classi = xr.zeros_like(ds.B01).astype("uint8")
    classi.data = RNG.integers(0, 8, classi.shape).astype("uint8")
    return ds.assign(SCL=scl, CLASSI=classi)


def wide(data: Any, ratio: int) -> np.ndarray:
    return np.asarray(data).repeat(ratio, -2).repeat(ratio, -1)


def assert_masked(ds: xr.Dataset, mask: Any, hidden: np.ndarray, **kwargs: Any) -> xr.Dataset:
    """Bands are as without a mask, and NaN where `hidden`; other variables are as they were."""
    kwargs = {"bands": ["B11", "B01"], "method": "bicubic", **kwargs}
    with no_compute():
        lazy = ds.dsen2.superresolve(**kwargs, mask=mask)
        plain = ds.dsen2.superresolve(**kwargs)
    got, want = lazy.compute(), plain.compute()
    bands = [name for name in got if want[name].dtype.kind == "f"]
    assert {"B11", "B01", *A} <= set(bands)
    for name in got:
        expected = np.where(hidden, np.nan, want[name]) if name in bands else want[name]
        np.testing.assert_array_equal(got[name], expected, err_msg=str(name))
        assert got[name].dtype == want[name].dtype == lazy[name].dtype
        assert got[name].attrs == want[name].attrs
        assert lazy[name].chunks == plain[name].chunks
    assert "xsen2_mask" not in want.attrs
    return got


def test_scl_hides_clouds_and_not_snow_or_water() -> None:
    ds = with_scl()
    hidden = np.isin(wide(ds.SCL, 2), [0, 1, 3, 8, 9, 10])
    for mask in ("scl", "SCL"):
        got = assert_masked(ds, mask, hidden)
        assert got.attrs["xsen2_mask"] == "SCL 0, 1, 3, 8, 9, 10"
    words = ds.SCL.attrs.get("flag_meanings") or (
        "no_data saturated_or_defective dark_area cloud_shadow vegetation not_vegetated water unclassified "
        "cloud_medium_probability cloud_high_probability thin_cirrus snow_or_ice"
    )
    kept = [word for number, word in enumerate(words.split()) if number not in masks.SCL]
    assert kept == ["dark_area", "vegetation", "not_vegetated", "water", "unclassified", "snow_or_ice"]


def test_classes_of_ones_own() -> None:
    ds = with_scl()
    for classes in ([6], (8, 9), np.array([11, 0]), range(2, 5), {3}):
        got = assert_masked(ds, classes, np.isin(wide(ds.SCL, 2), list(classes)))
    assert got.attrs["xsen2_mask"] == "SCL 3"


def test_classi_hides_opaque_cloud_and_cirrus() -> None:
    ds = with_scl()
    got = assert_masked(ds.drop_vars("SCL"), "classi", wide(ds.CLASSI, 6) & 3 > 0)
    assert got.attrs["xsen2_mask"] == "CLASSI opaque_cloud, cirrus"


def test_booleans_on_any_grid() -> None:
    ds = with_scl(dates=2)
    for band, ratio in (("B02", 1), ("B05", 2), ("B01", 6)):
        mask = ds[band] % 3 < 1
        assert_masked(ds, mask, wide(mask, ratio))
        assert_masked(ds, mask.isel(time=1, drop=True), wide(mask[1], ratio))  # one for all dates
        turned = mask[..., ::-1, :].transpose(..., *mask.dims[:-3:-1], "time").rename({mask.dims[-1]: "east"})
        assert_masked(ds, turned, wide(mask, ratio))


def test_functions_of_the_cube() -> None:
    ds = with_scl().rename(B03="green", B11="swir16")

    def dark(cube: xr.Dataset) -> xr.DataArray:
        return (cube.B11 < 1500) & (cube.SCL != 6)

    hidden = wide((ds.swir16 < 1500) & (ds.SCL != 6), 2)
    with no_compute():
        lazy = ds.chunk().dsen2.superresolve(["B11"], "bicubic", mask=dark)
    assert lazy.attrs["xsen2_mask"] == "dark"
    np.testing.assert_array_equal(np.isnan(lazy.swir16), hidden)
    np.testing.assert_array_equal(np.isnan(lazy.green), hidden)


def test_standard_errors_are_hidden_too() -> None:
    ds = with_scl(2, 2)
    got = assert_masked(ds, [4, 5], np.isin(wide(ds.SCL, 2), [4, 5]), method="default", uncertainty=True)
    assert {"B11_se", "B01_se"} <= set(got)


def test_the_method_sees_what_is_hidden() -> None:
    """Pixels beside a cloud are what they are without a mask, which nodata in the input would change."""
    ds = with_scl(4, 4)
    ds["SCL"][:] = 4
    ds["SCL"][5, 5] = 9
    got = ds.dsen2.superresolve(["B11"], "bicubic", mask="scl").B11
    plain = ds.dsen2.superresolve(["B11"], "bicubic").B11
    assert np.isnan(got).sum() == 4
    xr.testing.assert_equal(got.fillna(0), plain.where(got.notnull(), 0))
    without = change(ds, "B11", lambda data: data.__setitem__((5, 5), np.nan)).dsen2.superresolve(["B11"], "bicubic")
    assert not np.array_equal(without.B11, got, equal_nan=True)


@examples(5)
@given(
    dates=st.sampled_from([None, 1, 3]),
    chunks=st.fixed_dictionaries({10: st.integers(5, 30), 20: st.integers(3, 15), 60: st.integers(1, 4)}),
    scl=st.integers(1, 12),
    clip=st.booleans(),
)
def test_chunks_do_not_matter(dates: int | None, chunks: dict[int, int], scl: int, clip: bool) -> None:
    ds = with_scl(dates=dates)
    want = ds.dsen2.superresolve(["B11"], "bicubic", mask="scl").compute()
    cut = ds.chunk(y=chunks[10], x=chunks[10], y_20m=chunks[20], x_20m=chunks[20], y_60m=chunks[60], x_60m=chunks[60])
    cut["SCL"] = cut.SCL.chunk(y_20m=scl, x_20m=scl)
    west, _, _, north = want.rio.bounds()
    area: dict[str, Any] = {"area": (west + 31, north - 121, west + 99, north - 9), "area_crs": 32631, "clip": clip}
    for kwargs, rows, columns in (({}, slice(None), slice(None)), (area, slice(0, 13), slice(3, 10))):
        got = cut.dsen2.superresolve(["B11"], "bicubic", mask="scl", **kwargs)
        part = want.isel(y=rows, x=columns)
        if kwargs and clip:
            inside = (part.x > west + 31) & (part.x < west + 99) & (part.y > north - 121) & (part.y < north - 9)
            part = part.assign(
                {name: part[name].where(inside, 0 if name in ("SCL", "CLASSI") else np.nan) for name in part}
            )
        for name in ("B11", "B02", "SCL"):
            np.testing.assert_allclose(got[name], part[name], rtol=0, atol=1e-3, err_msg=name)


def test_scl_that_has_been_decoded() -> None:
    """Where 0 is declared as the fill value, xarray and odc give floats with NaN."""
    ds = with_scl()
    hidden = np.isin(wide(ds.SCL, 2), masks.SCL)
    decoded = ds.assign(scl=ds.SCL.where(ds.SCL != 0).astype("float32")).drop_vars("SCL")
    got = decoded.dsen2.superresolve(["B11"], "bicubic", mask="scl").compute()
    np.testing.assert_array_equal(np.isnan(got.B11), hidden)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        ("clouds", MethodError, "mask='clouds': use 'scl'"),
        ([], MethodError, "whole numbers from 0 to 11"),
        ([12], MethodError, "whole numbers from 0 to 11"),
        (["cloud"], MethodError, "whole numbers from 0 to 11"),
        (8, MethodError, "whole numbers from 0 to 11"),
        (lambda cube: cube.SCL, MethodError, "is of dtype uint8: booleans"),
        (lambda cube: 3, MethodError, "gave a int"),
        (lambda cube: cube.SCL[:, 1:] > 3, GridError, "on none of the cube's grids"),
        (lambda cube: cube.SCL[1:] > 3, GridError, "on none of the cube's grids"),
        (lambda cube: cube.SCL[::2, ::2] > 3, GridError, "on none of the cube's grids"),
        (lambda cube: (cube.SCL > 3).assign_coords(x_20m=cube.x_20m + 20), GridError, "on none of the cube's grids"),
        (lambda cube: (cube.SCL > 3).isel(x_20m=[0, 1, 2, 4, 3, 5]), GridError, "on none of the cube's grids"),
        (lambda cube: (cube.SCL > 3).drop_vars(["y_20m", "x_20m"]), GridError, "on none of the cube's grids"),
    ],
)
def test_refusals(mask: Any, error: type[Exception], words: str) -> None:
    with no_compute(), pytest.raises(error, match=words):
        with_scl(2, 2).chunk().dsen2.superresolve(method="bicubic", mask=mask)


def test_a_part_of_a_layer_is_refused_however_it_is_given() -> None:
    for ds in (with_scl(2, 2), with_scl(2, 2).chunk(), with_scl(2, 2, dates=2)):
        clouds = ds.SCL > 3
        for part in (clouds.isel(y_20m=slice(1, None)), clouds.isel(y_20m=slice(1, None), x_20m=slice(1, None))):
            with pytest.raises(GridError, match="on none of the cube's grids of 10, 20 and 60 m"):
                ds.dsen2.superresolve(method="bicubic", mask=part)
        assert ds.dsen2.superresolve(["B11"], "bicubic", mask=clouds).attrs["xsen2_mask"] == "a DataArray"


def test_a_layer_that_is_not_there() -> None:
    ds = with_scl(2, 2)
    with pytest.raises(BandError, match=r"the cube has no SCL.*load it too, with bands=\[…, 'SCL'\].*L1C products"):
        make_cube(2, 2).dsen2.superresolve(method="bicubic", mask="scl")
    with pytest.raises(BandError, match=r"the cube has no SCL.*use mask='classi'"):
        ds.drop_vars("SCL").dsen2.superresolve(method="bicubic", mask=[8])
    with pytest.raises(BandError, match=r"the cube has no CLASSI.*use mask='scl'"):
        ds.drop_vars("CLASSI").dsen2.superresolve(method="bicubic", mask="classi")
    odd = ds.drop_vars("SCL").assign(SCL=ds.SCL.drop_vars(["y_20m", "x_20m"]).rename(y_20m="v", x_20m="u"))
    with pytest.raises(GridError, match="SCL is on none of the cube's grids"):
        odd.dsen2.superresolve(method="bicubic", mask="scl")


def test_other_dates() -> None:
    ds = with_scl(2, 2, dates=3)
    mask = ds.B05 > 0
    for wrong in (mask[:2], mask[::-1], mask.assign_coords(time=mask.time + np.timedelta64(1, "D"))):
        with pytest.raises(TimeError, match="mask= has other dates than the cube, which has 3"):
            ds.dsen2.superresolve(method="bicubic", mask=wrong)


SPOILT = {
    "interpolated": lambda layer: layer * (2 / 3) + 1,
    "mean over dates": lambda layer: layer.mean("time"),
    "median over dates": lambda layer: layer.median("time"),
    "bilinear": lambda layer: layer.interp(y_20m=layer.y_20m - 5, kwargs={"fill_value": "extrapolate"}),
}


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("mask", ["scl", [8, 9], "classi"])
def test_fractions_in_a_class_layer_are_refused(kind: str, mask: Any) -> None:
    """Lazily loaded, when they are computed; in memory, at once."""
    ds = make_cube(3, 4, dates=2)
    layer = "CLASSI" if mask == "classi" else "SCL"
    pair = (1, 2) if mask == "classi" else (8, 9)
    clouds = xr.zeros_like(ds.B05).astype("uint8") + np.array(pair, "uint8")[:, None, None]
    clouds[:, ::2] = 0 if mask == "classi" else 4
    spoilt = SPOILT[kind](clouds).assign_coords(y_20m=ds.y_20m)
    ds = (ds if "time" in spoilt.dims else ds.isel(time=0)).assign({layer: spoilt})
    words = rf"{layer} holds .*none of its classes.*resampling='nearest'"
    with pytest.raises(RadiometryError, match=words), no_compute():
        ds.dsen2.superresolve(["B11"], "bicubic", mask=mask)
    lazy = ds.chunk()
    with no_compute():
        found = lazy.dsen2.superresolve(["B11"], "bicubic", mask=mask)
    with pytest.raises(RadiometryError, match=words):
        found.compute()
    # The remedy: the layer as it was loaded, of one date.
    one = ds.isel(time=0) if "time" in ds.dims else ds
    right = one.assign({layer: clouds.isel(time=0)}).dsen2.superresolve(["B11"], "bicubic", mask=mask)
    assert np.isnan(right["B11"].values[2:4]).all()
    assert np.isfinite(right["B11"].values[:2]).all()


@pytest.mark.parametrize("value", [12, 37, -1])
def test_numbers_that_are_no_class_are_refused(value: int) -> None:
    ds = with_scl(3, 3)
    ds["SCL"] = change(ds.assign(SCL=ds.SCL.astype("int16")), "SCL", lambda x: x.__setitem__((1, 1), value)).SCL
    with pytest.raises(RadiometryError, match=f"SCL holds {value}, which is none of its classes"):
        ds.dsen2.superresolve(["B11"], "bicubic", mask="scl")
    declared = ds.assign(SCL=ds.SCL.assign_attrs(nodata=value))  # means no data, class 0
    assert np.isnan(declared.dsen2.superresolve(["B11"], "bicubic", mask="scl").B11.values[2:4, 2:4]).all()


def test_classes_that_decoding_made_floats_are_classes() -> None:
    ds = with_scl(3, 3)
    decoded = ds.assign(SCL=ds.SCL.where(ds.SCL > 0).astype("f4"))
    for mask in ("scl", [8, 9, 0]):
        want, got = (d.dsen2.superresolve(["B11"], "bicubic", mask=mask) for d in (ds, decoded))
        np.testing.assert_array_equal(got.B11, want.B11)
