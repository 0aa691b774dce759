"""Spectral indices: the published formulas, on reflectance, lazily."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import spyndex
import xarray as xr
from cubes import make_cube, no_compute

import xsen2
from xsen2.bands import BANDS
from xsen2.errors import BandError, GridError, MethodError, RadiometryError
from xsen2.index import index


@pytest.fixture
def ten() -> xr.Dataset:
    """All bands on one 10 m grid, as superresolve gives them."""
    cube = make_cube(4, 5, dates=2, chunks=12)
    like = cube["B02"]
    rng = np.random.default_rng(1)
    pixels = {b: like.copy(data=rng.uniform(10, 6000, like.shape).astype("f4")) for b in BANDS}
    return xr.Dataset(pixels).rio.write_crs(32631).chunk(time=1, y=12, x=12)


def refl(ds: xr.Dataset, band: str) -> xr.DataArray:
    return ds[band].compute().astype(float) / 10000


FORMULAS: dict[str, Any] = {
    "NDWI": lambda r: (r("B03") - r("B08")) / (r("B03") + r("B08")),
    "MNDWI": lambda r: (r("B03") - r("B11")) / (r("B03") + r("B11")),
    "NDMI": lambda r: (r("B08") - r("B11")) / (r("B08") + r("B11")),
    "NDVI": lambda r: (r("B08") - r("B04")) / (r("B08") + r("B04")),
    "EVI": lambda r: 2.5 * (r("B08") - r("B04")) / (r("B08") + 6 * r("B04") - 7.5 * r("B02") + 1),
    "SAVI": lambda r: 1.5 * (r("B08") - r("B04")) / (r("B08") + r("B04") + 0.5),
    "NBR": lambda r: (r("B08") - r("B12")) / (r("B08") + r("B12")),
    "NDREI": lambda r: (r("B08") - r("B05")) / (r("B08") + r("B05")),
    "kNDVI": lambda r: np.tanh(((r("B08") - r("B04")) / (r("B08") + r("B04"))) ** 2),
    "FAI": lambda r: r("B08") - (r("B04") + (r("B11") - r("B04")) * (832.8 - 664.6) / (1613.7 - 664.6)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_published_formulas(ten: xr.Dataset, name: str) -> None:
    params = {"L": 0.5} if name == "SAVI" else {}
    with no_compute():
        out = index(ten, name, **params)
    want = FORMULAS[name](lambda band: refl(ten, band))
    fine = np.abs(want) < 100  # near a pole float32 has nothing to say
    np.testing.assert_allclose(out.where(fine), want.where(fine), rtol=2e-3, atol=1e-5)
    assert (out.name, out.dims, out.dtype) == (name, ("time", "y", "x"), np.float32)
    assert out.chunks == ten["B02"].chunks
    assert out.attrs["long_name"] == spyndex.indices[name].long_name
    assert out.attrs["reference"].startswith("http")
    assert out.rio.crs == ten.rio.crs
    assert out.encoding["grid_mapping"] == "spatial_ref"
    xr.testing.assert_equal(out["time"], ten["time"])


def test_every_index_of_the_list_works_or_says_why(ten: xr.Dataset) -> None:
    corner = ten.isel(y=slice(2), x=slice(2)).compute()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, spec in spyndex.indices.items():
            if "Sentinel-2" in spec.platforms:
                params = {"PAR": 1.0} if name == "NIRvP" else {}
                assert index(corner, name, **params).shape == corner["B02"].shape
            elif set(spec.bands) & {"T", "T1", "G1", "Y", "VV", "VH", "HH", "HV"}:
                with pytest.raises(BandError, match="Sentinel-2 does not measure"):
                    index(corner, name)
    with pytest.raises(MethodError, match="pass PAR="):
        index(corner, "NIRvP")


def test_nodata_and_zero_by_zero_are_nan_without_warnings() -> None:
    ds = make_cube(2, 2, grids=(10,), chunks=12)
    ds["B03"] = ds["B03"].where(ds["x"] > float(ds["x"][0]))
    ds["B08"] = ds["B08"].where(ds["y"] < float(ds["y"][0]))
    zero = (ds["x"] == ds["x"][3]) & (ds["y"] == ds["y"][4])
    ds = ds.map(lambda v: v.where(~zero, 0.0), keep_attrs=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = index(ds, "NDWI").values
    want = np.zeros(out.shape, bool)
    want[0, :] = want[:, 0] = want[4, 3] = True
    np.testing.assert_array_equal(np.isnan(out), want)
    assert np.isfinite(index(ds, "NDVI")[1:, 0]).all()  # B03 is not in it


def test_integers_use_their_nodata_value() -> None:
    ds = make_cube(2, 2, grids=(10,), dtype=np.uint16)
    ds["B03"][0, 0] = 0
    ds["B08"].attrs["_FillValue"] = 65535
    ds["B08"][1, 1] = 65535
    out = index(ds, "NDWI")
    assert np.argwhere(np.isnan(out.values)).tolist() == [[0, 0], [1, 1]]
    b3, b8 = ds["B03"].values.astype(float), ds["B08"].values.astype(float)
    np.testing.assert_allclose(out[2:], ((b3 - b8) / (b3 + b8))[2:], rtol=1e-4, atol=1e-6)


def test_reflectance(ten: xr.Dataset) -> None:
    want = index(ten, "EVI").values
    small = ten.map(lambda v: v * np.float32(1e-4), keep_attrs=True)
    np.testing.assert_allclose(index(small, "EVI", quantification=1), want, rtol=1e-3)
    for band in small.data_vars:
        small[band].encoding["scale_factor"] = 1e-4  # as CF decoding leaves it
    np.testing.assert_allclose(index(small, "EVI"), want, rtol=1e-3)


@pytest.mark.parametrize("edit", [lambda ds: ds.where(ds["B02"] > 0), lambda ds: ds.chunk(y=6), lambda ds: ds.load()])
def test_reflectance_that_was_superresolved_and_edited(edit: Any) -> None:
    cube = make_cube(4, 5, chunks=12, scale=1e-4)
    for band in cube.data_vars:
        cube[band].encoding["scale_factor"] = 1e-4
    want = index(make_cube(4, 5, chunks=12).dsen2.superresolve(method="bicubic"), "EVI").values
    sr = edit(cube.dsen2.superresolve(method="bicubic"))
    np.testing.assert_allclose(sr.dsen2.index("EVI"), want, rtol=1e-2, atol=1e-4)


def test_values_that_are_not_what_metadata_say_are_refused(ten: xr.Dataset) -> None:
    want = index(ten, "EVI").values
    small = ten.map(lambda v: v * np.float32(1e-4), keep_attrs=True)
    with pytest.raises(RadiometryError, match=r"taken for DN but look like reflectance.*quantification=1 "):
        index(small, "EVI").compute()
    one = ten.assign(B08=small["B08"])  # the others are DN, which must not hide it
    one["B08"].attrs["units"] = "1"
    np.testing.assert_allclose(index(one, "EVI"), want, rtol=1e-3)
    large = ten.assign({b: ten[b].assign_attrs(units="1") for b in ten.data_vars})
    with pytest.raises(RadiometryError, match=r"taken for reflectance but look like DN.*quantification=10000"):
        index(large, "EVI").compute()
    np.testing.assert_array_equal(index(large, "EVI", quantification=10000), want)
    dark = ten.map(lambda v: (v * 0).where(v > 100, 1))  # 0 and 1 are DN like any
    assert np.isfinite(index(dark, "EVI")).all()
    for wrong in ({"scale_factor": 1e-4}, {"add_offset": -0.1}):
        raw = ten.assign(B04=ten["B04"].assign_attrs(wrong))
        with pytest.raises(RadiometryError, match=r"B04 still has .*mask_and_scale=True"), no_compute():
            index(raw, "EVI", quantification=1)
    with pytest.raises(RadiometryError, match="quantification=0"):
        index(ten, "EVI", quantification=0)


def test_any_catalogues_names(ten: xr.Dataset) -> None:
    names = {b: band.common_name for b, band in BANDS.items()}
    np.testing.assert_array_equal(index(ten.rename(names), "NBR"), index(ten, "NBR"))
    np.testing.assert_array_equal(index(ten, "ndwi"), index(ten, "NDWI"))


def test_native_cube_needs_bands_of_one_grid() -> None:
    cube = make_cube(3, 3, chunks=12)
    assert index(cube, "NDWI").dims == ("y", "x")
    assert index(cube, "NBR2").dims == ("y_20m", "x_20m")
    with pytest.raises(GridError, match=r"B03 on \(y, x\), B11 on \(y_20m, x_20m\).*superresolve"), no_compute():
        index(cube, "MNDWI")


def test_wrong_names_are_refused_with_the_nearest(ten: xr.Dataset) -> None:
    with pytest.raises(MethodError, match=r"did you mean .*NDVI"):
        index(ten, "NDIV")
    with pytest.raises(MethodError, match="BAI or BaI"):
        index(ten, "bai")
    with pytest.raises(MethodError, match=r"EVI has no constant gain; it has: g, C1, C2, L"):
        index(ten, "EVI", gain=2)
    with pytest.raises(BandError, match=r"NDWI needs B08 \(near infrared\), but the dataset has only: B02, B03"):
        index(ten[["B02", "B03"]], "NDWI")
    with pytest.raises(BandError, match=r"twice .*B08, nir"):
        index(ten.assign(nir=ten["B08"]), "NDWI")
    with pytest.raises(BandError, match=r"T \(Thermal Infrared\), which Sentinel-2 does not measure"):
        index(ten, "EBBI")


@pytest.mark.parametrize("names", [["NDWI"], ["NDWI", "MNDWI"], ("ndvi", "EVI"), np.array(["NDWI"])])
def test_a_list_gives_a_dataset(ten: xr.Dataset, names: Any) -> None:
    with no_compute():
        out = index(ten, names)
    assert isinstance(out, xr.Dataset)
    assert [str(n).lower() for n in out.data_vars] == [str(n).lower() for n in names]
    for name in out.data_vars:
        xr.testing.assert_identical(out[name], index(ten, str(name)))
        assert out[name].encoding["grid_mapping"] == "spatial_ref"
    assert out.rio.crs == ten.rio.crs


def test_constants_go_to_the_indices_that_have_them(ten: xr.Dataset) -> None:
    out = index(ten, ["SAVI", "NDVI", "kNDVI"], L=0.9, sigma=0.3)
    xr.testing.assert_identical(out["SAVI"], index(ten, "SAVI", L=0.9))
    xr.testing.assert_identical(out["NDVI"], index(ten, "NDVI"))
    np.testing.assert_array_equal(out["kNDVI"], index(ten, "kNDVI", sigma=0.3))
    with pytest.raises(MethodError, match="none of NDVI, NDWI has a constant L; they have: none"):
        index(ten, ["NDVI", "NDWI"], L=0.9)


@pytest.mark.parametrize("name", [[], None, 5, b"NDWI", [["NDWI"]], [5], {"NDWI": 1}, ["NDWI", None], 1.5])
def test_what_is_no_name_is_refused_by_name(ten: xr.Dataset, name: Any) -> None:
    with pytest.raises(MethodError, match=r"give the name of an index, as 'NDWI', or a list, as \['NDWI', 'MNDWI'\]"):
        index(ten, name)


def test_lists_that_cannot_be_one_dataset_are_refused(ten: xr.Dataset) -> None:
    with pytest.raises(MethodError, match="asks for NDWI more than once"):
        index(ten, ["NDWI", "ndwi"])
    with pytest.raises(GridError, match=r"NDWI on \(y, x\), NBR2 on \(y_20m, x_20m\).*superresolve"):
        index(make_cube(3, 3), ["NDWI", "NBR2"])


def test_no_index_is_infinite(ten: xr.Dataset) -> None:
    """Dark pixels, whose sums are 0: of every index that Sentinel-2 has the bands for."""
    values = np.array([[0, 0, 5, -5], [3, -3, 0, 1e-3], [1000, -1000, 1, 0]], np.float32)
    bands = {b: (("y", "x"), np.roll(values, i, axis=i % 2)) for i, b in enumerate(BANDS)}
    ds = xr.Dataset(bands, {"y": [3, 2, 1], "x": [1, 2, 3, 4]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, spec in spyndex.indices.items():
            if "Sentinel-2" in spec.platforms:
                out = index(ds, name, **({"PAR": 1.0} if name == "NIRvP" else {}))
                assert not np.isinf(out).any(), name


def test_accessor_on_the_sample() -> None:
    sr = xsen2.sample().dsen2.superresolve(method="bicubic")
    with no_compute():
        ndwi = sr.dsen2.index("NDWI")
    water = float((ndwi > 0).mean())
    assert 0.05 < water < 0.6  # a coast and a river
