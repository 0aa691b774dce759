"""Choices of bands and methods, units, and what superresolve refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube, no_compute

import xsen2
from xsen2.bands import BANDS, A, B, C
from xsen2.networks.cards import DEFAULT

pytestmark = pytest.mark.usefixtures("tiny_networks")


def test_bands_and_native():
    ds = make_cube(chunks=12)
    assert list(ds.dsen2.superresolve(["B11"], native=False)) == ["B11"]
    assert set(ds.dsen2.superresolve(["swir16", "b01"])) == {"B11", "B01", *A}
    assert set(ds.dsen2.superresolve(native=False)) == {*B, *C}
    assert list(ds.dsen2.superresolve()) == list(BANDS)


def test_twenty_metre_cube_of_any_even_size():
    """Without 60 m bands the extent need not be a multiple of 60 m."""
    ds = make_cube(4, 4, grids=(10, 20)).isel(x=slice(0, 22), x_20m=slice(0, 11), y=slice(0, 2), y_20m=slice(0, 1))
    sr = ds.dsen2.superresolve(dtype="float32").compute()
    assert sr["B12"].shape == (2, 22)
    assert set(sr.data_vars) == {*A, *B}
    assert np.isfinite(sr["B12"]).all()


def test_extras_come_out_by_nearest():
    ds = make_cube(chunks=12)
    scl = (ds["B05"] % 12).astype("uint8")
    sr = ds.assign(SCL=scl).dsen2.superresolve(method="bicubic")
    np.testing.assert_array_equal(sr["SCL"], scl.values.repeat(2, 0).repeat(2, 1))
    assert sr["SCL"].dtype == np.uint8


@pytest.mark.parametrize("method", ["bicubic", "dsen2"])
def test_units(method):
    """Integers, floats, reflectance: the same pixels in the caller's units."""
    dn = make_cube(3, 3, dtype=np.uint16)
    want = dn.dsen2.superresolve(method=method, dtype="float32").compute()
    reflectance = make_cube(3, 3, dtype=np.uint16).astype("float64") / 10000
    reflectance = reflectance.rio.write_crs(32631)
    decoded = reflectance.copy()
    for band in BANDS:
        decoded[band].encoding["scale_factor"] = 1e-4  # what xarray leaves after decoding
    for ds, kwargs in ((reflectance, {"quantification": 1}), (decoded, {})):
        got = ds.dsen2.superresolve(method=method, dtype="float32", **kwargs).compute()
        for band in BANDS:
            np.testing.assert_allclose(got[band] * 10000, want[band], rtol=0, atol=5e-3)
    got = dn.astype("float64").dsen2.superresolve(method=method, dtype="float32").compute()
    xr.testing.assert_allclose(got, want, rtol=0, atol=1e-3)


def test_reflectance_taken_for_dn_is_refused():
    ds = (make_cube(3, 3).astype("float64") / 10000).rio.write_crs(32631)
    sr = ds.dsen2.superresolve()
    with pytest.raises(xsen2.RadiometryError, match="quantification=1"):
        sr.compute()


def test_raw_values_with_a_scale_to_apply_are_refused():
    ds = make_cube(3, 3, dtype=np.uint16)
    ds["B05"].attrs |= {"scale_factor": 1e-4, "add_offset": -0.1}
    with pytest.raises(xsen2.RadiometryError, match=r"B05 still has scale_factor=0.0001 and add_offset=-0.1"):
        ds.dsen2.superresolve()


def test_values_over_10000_and_negative_are_kept():
    ds = make_cube(2, 2)
    ds["B05"][:] = -40.0
    ds["B11"][:] = 18000.0
    sr = ds.dsen2.superresolve(method="bicubic").compute()
    np.testing.assert_allclose(sr["B05"], -40, atol=1e-3)
    np.testing.assert_allclose(sr["B11"], 18000, atol=1e-2)


@pytest.mark.parametrize(
    ("make", "kwargs", "error", "words"),
    [
        (lambda: make_cube(), {"bands": ["B99"]}, xsen2.BandError, "unknown band 'B99'"),
        (lambda: make_cube(), {"bands": ["B10"]}, xsen2.BandError, "cirrus"),
        (lambda: make_cube(), {"bands": "B11"}, xsen2.BandError, r"bands=\['B11'\]"),
        (lambda: make_cube(grids=(10, 20)), {"bands": ["B01"]}, xsen2.BandError, "the cube has no B01"),
        (lambda: make_cube(grids=(10,)), {}, xsen2.BandError, "nothing to super-resolve"),
        (lambda: make_cube(grids=(20, 60)), {}, xsen2.BandError, "no 10 m bands"),
        (lambda: make_cube().drop_vars("B06"), {}, xsen2.BandError, "reads B06"),
        (lambda: make_cube(), {"method": "dsen3"}, xsen2.MethodError, "did you mean 'dsen2'"),
        (lambda: make_cube(), {"method": 3}, xsen2.MethodError, "neither a name"),
        (lambda: make_cube(), {"device": "tpu"}, xsen2.MethodError, "device='tpu'"),
        (lambda: make_cube(), {"dtype": "int8"}, xsen2.MethodError, "dtype='int8'"),
        (lambda: make_cube(), {"quantification": 0}, xsen2.RadiometryError, "quantification=0"),
        (lambda: make_cube(dtype=bool), {}, xsen2.RadiometryError, "dtype bool"),
    ],
)
def test_refusals(make, kwargs, error, words):
    ds = make().chunk()
    with no_compute(), pytest.raises(error, match=words):
        ds.dsen2.superresolve(**kwargs)


def test_bicubic_needs_only_the_band_itself():
    ds = make_cube().drop_vars(["B06", "B04"])
    assert "B05" in ds.dsen2.superresolve(method="bicubic")


def test_a_method_of_the_users_own():
    class Nearest:
        name, produces, needs, halo = "nearest", ("B11",), ("B11",), 0

        def fit(self, cube):
            return self

        def __call__(self, a, b, c):
            assert a.shape[0] == 0
            assert c.shape[0] == 0
            return b.repeat(2, 1).repeat(2, 2)

    ds = make_cube(3, 3, chunks=12)
    sr = ds.dsen2.superresolve(["B11"], method=Nearest())
    np.testing.assert_array_equal(sr["B11"], ds["B11"].values.repeat(2, 0).repeat(2, 1))
    assert "nearest" in sr.attrs["xsen2_method"]
    with pytest.raises(xsen2.BandError, match="does not make B12"):
        ds.dsen2.superresolve(["B12"], method=Nearest())


def test_graph_holds_no_network_and_torch_is_not_imported():
    code = """
import sys, pickle
from cubes import make_cube
sr = make_cube(20, 20, chunks=60).dsen2.superresolve()
sr.degrade  # accessors too
assert "torch" not in sys.modules, "torch was imported before a block ran"
layers = sr["B11"].__dask_graph__().layers.items()
print(max(len(pickle.dumps(dict(layer))) for n, layer in layers if n.startswith("xsen2-")))
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) < 300_000  # a network is megabytes


@pytest.mark.usefixtures("thin_blocks")
def test_one_task_per_block():
    ds = make_cube(20, 20, chunks=60)
    sr = ds.dsen2.superresolve(B, native=False)
    graph = dict(sr["B11"].__dask_graph__())
    runs = [k for k in graph if isinstance(k, tuple) and str(k[0]).startswith(f"xsen2-{DEFAULT}-")]
    assert len(runs) == 4


def test_time_chunks_that_differ_between_grids():
    ds = make_cube(2, 2, dates=3)
    mixed = ds.chunk({"y": 6, "x": 6})
    for i, band in enumerate(BANDS):
        mixed[band] = mixed[band].chunk(time=[(1, 2), (2, 1), (3,)][i % 3])
    want = ds.dsen2.superresolve(method="dsen2", dtype="float32").compute()
    sr = mixed.dsen2.superresolve(method="dsen2", dtype="float32")
    assert sr.chunks["time"] == (1, 1, 1)
    got = sr.compute()
    for band in BANDS:
        np.testing.assert_allclose(got[band], want[band], rtol=0, atol=1e-3)


def test_variables_that_ride_along():
    """On a grid: nearest on the 10 m grid. Off the grids, or of time alone: as they are."""
    ds = make_cube(2, 2, dates=2, dims={10: ("y10", "x10"), 20: ("y20", "x20"), 60: ("y60", "x60")}, chunks=6)
    ds = ds.assign(
        SCL=(ds["B05"] % 12).astype("uint8").chunk(time=2),
        AOT=ds["B09"].isel(time=0, drop=True),
        cloud=("time", [0.1, 0.2]),
        sza=(("y", "x"), np.eye(24), {"note": "another grid"}),
    )
    ds["AOT"].encoding = {"dtype": "uint16", "_FillValue": 0, "scale_factor": 0.001, "add_offset": 0.0}
    ds = ds.assign_coords(y=np.arange(24) * 5000.0, x=np.arange(24) * 5000.0).rename(time="when")
    sr = ds.dsen2.superresolve(method="bicubic")
    assert sr["SCL"].dims == ("when", "y10", "x10")
    np.testing.assert_array_equal(sr["AOT"], ds["AOT"].values.repeat(6, 0).repeat(6, 1))
    assert sr["AOT"].encoding["scale_factor"] == 0.001
    np.testing.assert_array_equal(sr["cloud"], [0.1, 0.2])
    assert sr["cloud"].dims == ("when",)
    np.testing.assert_array_equal(sr["sza"], np.eye(24))
    assert not set(sr["sza"].dims) & {"y10", "x10"}
    assert sr.chunks["when"] == (1, 1)


def test_scalar_coordinates_stay():
    ds = make_cube(2, 2, dates=2)
    parts = [ds.isel(time=i).dsen2.superresolve(method="bicubic") for i in range(2)]
    np.testing.assert_array_equal(xr.concat(parts, "time").time, ds.time)


def test_a_file_opened_without_chunks_is_not_read(tmp_path):
    make_cube(2, 2, dates=2).to_zarr(tmp_path / "cube.zarr")
    ds = xr.open_dataset(tmp_path / "cube.zarr", engine="zarr", decode_coords="all", chunks=None)
    sr = ds.dsen2.superresolve(method="bicubic")
    assert not any(ds[band]._in_memory for band in BANDS)
    assert sr["B05"].chunks is not None


def test_units_that_differ_between_bands_are_refused():
    ds = make_cube(2, 2) / 10000
    for band in BANDS:
        ds[band].encoding["scale_factor"] = 1e-4
    ds["B05"] = ds["B05"].where(ds["B05"] > 0)  # drops the encoding
    with pytest.raises(xsen2.RadiometryError, match="two units"):
        ds.dsen2.superresolve()
    ds.dsen2.superresolve(quantification=1).compute()


def test_reflectance_says_so_on_the_way_out():
    ds = (make_cube(2, 2) / 10000).rio.write_crs(32631)
    sr = ds.dsen2.superresolve(quantification=1, method="bicubic")
    assert sr["B05"].attrs["units"] == "1"
    assert sr["B02"].encoding["scale_factor"] == pytest.approx(1e-4)


def test_named_10m_bands_come_without_the_others():
    ds = make_cube(2, 2)
    assert list(ds.dsen2.superresolve(["B03", "B11"], native=False)) == ["B03", "B11"]
    assert list(ds.dsen2.superresolve(["green"], native=False)) == ["B03"]


def test_methods_that_break_the_protocol():
    class Wrong:
        name, produces, needs, halo = "wrong", ("B11",), ("B11",), 1

        def fit(self, cube):
            return self

        def __call__(self, a, b, c):
            return b

    ds = make_cube(2, 2)
    with pytest.raises(xsen2.MethodError, match="is a class"):
        ds.dsen2.superresolve(["B11"], method=Wrong)
    with pytest.raises(xsen2.MethodError, match=r"'wrong' gave a block of shape \(1, 12, 12\)"):
        ds.dsen2.superresolve(["B11"], method=Wrong()).compute()


def test_twice():
    sr = make_cube(2, 2).dsen2.superresolve()
    with pytest.raises(xsen2.SingleGridError, match="at 10 m already"):
        sr.dsen2.superresolve()


def test_bfloat16_has_no_step_at_chunk_borders():
    """Promise 2 in bf16: chunking moves pixels no further than rounding itself does."""
    ds = make_cube(8, 4)
    exact = ds.dsen2.superresolve(B, native=False, dtype="float32").compute()
    whole = ds.dsen2.superresolve(B, native=False, dtype="bfloat16").compute()
    cut = ds.chunk(y=24, y_20m=12).dsen2.superresolve(B, native=False, dtype="bfloat16").compute()
    for band in B:
        rounding = np.abs(whole[band] - exact[band])
        seam = np.abs(cut[band] - whole[band]).isel(y=slice(22, 26))
        assert float(seam.max()) <= float(rounding.max())
