"""Promises 1, 2, 3 and 6 of the library, for every method there is, over random cubes.

Networks are small ones here, of each architecture; what only the weights of the package could break is asked at the
end, and in `test_real.py`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import dask
import numpy as np
import pytest
import xarray as xr
from cubes import change, examples, make_cube, no_compute
from hypothesis import given
from hypothesis import strategies as st
from tiny import one_of_each

import xsen2
from xsen2.bands import BANDS, A, B, C, grid_of
from xsen2.cube import lazy, recognise
from xsen2.engine.statistics import fitted
from xsen2.methods.protocol import Method, finest_halo
from xsen2.methods.registry import resolve
from xsen2.networks.cards import cards
from xsen2.radiometry import scales_of

pytestmark = pytest.mark.usefixtures("thin_blocks", "tiny_networks")

TABLE = xsen2.methods()  # fusions of dates have tests of their own
BLURS = one_of_each([m for m in TABLE.index[TABLE["kind"] != "multitemporal"] if m != "default"])
# The twins of others, the same code with another blur, are asked only about how far they see.
METHODS = [m for m in BLURS if not m.endswith("-matched")]


def superresolve(ds, method, **kwargs):
    # float32, so that what is compared does not hang on the rounding of the machine's best dtype.
    return ds.dsen2.superresolve(method=method, dtype="float32", **kwargs)


@dataclass(frozen=True)
class Taught:
    """A method that has learnt from one cube and is used on others."""

    method: Method

    def __post_init__(self):
        for name in ("name", "produces", "needs", "halo"):
            object.__setattr__(self, name, getattr(self.method, name))
        object.__setattr__(self, "lattice", getattr(self.method, "lattice", 1))

    def __call__(self, a, b, c):
        return self.method(a, b, c)


def taught(ds, name):
    """The methods behind a name, those that learn statistics with the ones of `ds`."""
    cube = recognise(ds)
    arrays = {band: lazy(array.data) for band, array in cube.bands.items()}
    out = []
    for one in resolve(name, [*B, *C], dtype="float32"):
        if one.rounds:
            chunks = tuple((n,) for n in cube.shape(10))
            one = Taught(fitted(cube, one, chunks, scales_of(cube, None), arrays).compute())
        out.append(one)
    return out


def made(ds, methods):
    """What the methods make, without consistency, which has a reach of its own."""
    parts = [
        superresolve(ds, one, bands=one.produces, consistency=False, native=one is methods[0]).compute()
        for one in methods
    ]
    return parts[0].assign({band: part[band] for part in parts[1:] for band in part})


for_every_method = pytest.mark.parametrize("method", METHODS)
for_every_blur = pytest.mark.parametrize(
    "method", [m if m in METHODS else pytest.param(m, marks=pytest.mark.slow) for m in BLURS]
)


# What is drawn is the same for each method: many examples of one property teach little more than many methods do.
few_or_more = pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])


def close(x: xr.Dataset, y: xr.Dataset, tolerance: float = 1e-3) -> None:
    assert list(x.data_vars) == list(y.data_vars)
    for name in x.data_vars:
        np.testing.assert_allclose(x[name].values, y[name].values, rtol=0, atol=tolerance, err_msg=str(name))


@for_every_method
def test_nothing_is_computed_and_torch_stays_out(method):
    """Promise 1: every public call on a lazy cube is lazy."""
    with no_compute():
        for ds in (make_cube(6, 6, dates=2, chunks=12), make_cube(6, 6, chunks=12).degrade(scale=2)):
            sr = superresolve(ds, method)
            assert all(dask.is_dask_collection(sr[b].data) for b in sr)


def test_nothing_else_is_computed():
    """Promise 1, of calls that know no method."""
    ds = make_cube(6, 6, dates=2, chunks=12)
    with no_compute():
        sr = superresolve(ds, "bicubic")
        sr.dsen2.index("NDWI")
        ds.degrade(scale=2)
        ds.degrade.pair(scale=2)
        xsen2.canonicalise(ds)


@for_every_method
@few_or_more
def test_chunks_leave_no_seam(method, count):
    """Promise 2: any chunking of any grid gives the pixels of one chunk."""

    @examples(count)
    @given(
        rows=st.integers(1, 5),
        columns=st.integers(1, 5),
        chunks=st.tuples(st.integers(5, 40), st.integers(3, 20), st.integers(1, 6)),
        seed=st.integers(0, 99),
        holes=st.booleans(),
    )
    def check(rows, columns, chunks, seed, holes):
        ds = make_cube(rows, columns, seed=seed)
        if holes:
            rng = np.random.default_rng(seed)
            for band in ("B03", "B11", "B01"):
                ds = change(ds, band, lambda x: np.putmask(x, rng.random(x.shape) < 0.1, np.nan))
        whole = superresolve(ds, method).compute()
        cut = superresolve(make_like(ds, chunks), method)
        close(cut.compute(), whole)

    check()


def make_like(ds, chunks):
    y = {10: ("y", "x"), 20: ("y_20m", "x_20m"), 60: ("y_60m", "x_60m")}
    return ds.chunk({d: n for (_, dims), n in zip(y.items(), chunks, strict=True) for d in dims})


@for_every_method
@few_or_more
def test_nodata_stays_where_it_is(method, count):
    """Promise 3: nodata exactly where a band that is needed has none; nothing changes far from it."""

    @examples(count)
    @given(
        band=st.sampled_from(list(BANDS)),
        where=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
        size=st.integers(1, 7),
        kind=st.sampled_from(["nan", "zero", "declared"]),
        seed=st.integers(0, 99),
    )
    def check(band, where, size, kind, seed):
        dtype, bad = {"nan": (np.float32, np.nan), "zero": (np.uint16, 0), "declared": (np.int16, -999)}[kind]
        ds = make_cube(7, 8, dtype=dtype, chunks=24, seed=seed)
        if kind == "declared":
            for name in BANDS:
                ds[name].attrs["_FillValue"] = bad
        y, x = (int(w * n) for w, n in zip(where, ds[band].shape, strict=True))

        def spoil(values):
            values[y : y + size, x : x + size] = bad

        spoilt_ds = change(ds, band, spoil)
        methods = taught(ds, method)  # statistics feel every pixel; what is asked here is what else does
        clean, spoilt = (made(x, methods) for x in (ds, spoilt_ds))
        factor = grid_of(band) // 10
        hole = np.zeros(clean["B02"].shape, bool)
        hole[y * factor : (y + size) * factor, x * factor : (x + size) * factor] = True
        for one in methods:
            # What lies further from the hole than the receptive field, and as far again as filling reaches.
            near = grow(hole, 2 * finest_halo(one))
            for out in one.produces:
                blank = hole if band in one.needs else np.zeros_like(hole)
                np.testing.assert_array_equal(np.isnan(spoilt[out].values), blank, err_msg=out)
                if band in one.needs:
                    np.testing.assert_allclose(spoilt[out].values[~near], clean[out].values[~near], rtol=0, atol=1e-3)
                else:
                    np.testing.assert_allclose(spoilt[out].values, clean[out].values, rtol=0, atol=1e-3)
        for out in A:
            np.testing.assert_array_equal(np.isnan(spoilt[out].values), hole if out == band else False)

    check()


def grow(mask, pixels):
    out = np.zeros_like(mask)
    y, x = np.nonzero(mask)
    out[max(0, y.min() - pixels) : y.max() + pixels + 1, max(0, x.min() - pixels) : x.max() + pixels + 1] = True
    return out


@pytest.mark.parametrize(
    ("method", "count"), [*((m, 2) for m in METHODS), pytest.param("bicubic", 6, marks=pytest.mark.slow)]
)
def test_georeferencing_and_names(method, count):
    """Promise 6: grid, CRS, dates and the caller's names come out as they went in."""

    @examples(count)
    @given(
        rows=st.integers(1, 4),
        columns=st.integers(1, 4),
        dates=st.sampled_from([None, 1, 2]),
        names=st.sampled_from(["canonical", "common", "lower"]),
        dims=st.sampled_from([("y", "x"), ("northing", "easting"), ("row", "col")]),
        epsg=st.sampled_from([32601, 32660, 32733, 32760]),
        south_up=st.booleans(),
    )
    def check(rows, columns, dates, names, dims, epsg, south_up):
        rename = {
            "canonical": {},
            "common": {b.name: b.common_name for b in BANDS.values()},
            "lower": {b: b.lower() for b in BANDS},
        }[names]
        all_dims = {10: dims, 20: ("v", "u"), 60: ("q", "p")}
        ds = make_cube(rows, columns, dates=dates, epsg=epsg, dims=all_dims, chunks=12)
        sr = superresolve(ds.rename(rename).isel({dims[0]: slice(None, None, -1)} if south_up else {}), method)
        assert set(sr.data_vars) == {rename.get(b, b) for b in BANDS}
        assert sr.rio.crs.to_epsg() == epsg
        for name in sr.data_vars:
            assert sr[name].dims == (*(("time",) if dates else ()), *dims)
            assert sr[name].dtype == np.float32
            assert sr[name].rio.crs.to_epsg() == epsg
            sr[name].rio.set_spatial_dims(dims[1], dims[0], inplace=True)
        np.testing.assert_allclose(sr[dims[0]], ds[dims[0]], rtol=0, atol=1e-3)
        np.testing.assert_allclose(sr[dims[1]], ds[dims[1]], rtol=0, atol=1e-3)
        assert (
            sr[next(iter(sr.data_vars))]
            .rio.transform()
            .almost_equals(ds["B02"].rio.set_spatial_dims(dims[1], dims[0]).rio.transform(), 1e-3)
        )
        if dates:
            np.testing.assert_array_equal(sr.time, ds.time)
        if method == "bicubic":  # what lies on disk does not hang on the method
            with tempfile.TemporaryDirectory() as folder:
                sr.dsen2.to_zarr(f"{folder}/out.zarr", progress=False)
                again = xr.open_zarr(f"{folder}/out.zarr", decode_coords="all")
                assert again.rio.crs.to_epsg() == epsg
                np.testing.assert_allclose(again[dims[0]], ds[dims[0]], rtol=0, atol=1e-3)
                np.testing.assert_allclose(again[dims[1]], ds[dims[1]], rtol=0, atol=1e-3)

    check()


@for_every_method
def test_one_60m_pixel(method):
    sr = superresolve(make_cube(1, 1), method).compute()
    assert sr["B09"].shape == (6, 6)
    assert all(np.isfinite(sr[b]).all() for b in BANDS)


@for_every_method
def test_dates_are_independent(method):
    ds = make_cube(3, 4, dates=2, chunks=60)
    together = superresolve(ds.chunk(time=2), method).compute()
    for date in range(2):
        close(together.isel(time=date), superresolve(ds.isel(time=date), method).compute())


@for_every_method
def test_all_nodata(method):
    ds = make_cube(3, 3, dtype=np.uint16, chunks=12) * np.uint16(0)
    sr = superresolve(ds.rio.write_crs(32631), method).compute()
    assert all(np.isnan(sr[b]).all() for b in BANDS)


@for_every_method
def test_native_bands_pass_unchanged(method):
    ds = make_cube(3, 3, dtype=np.uint16, chunks=12)
    sr = superresolve(ds, method).compute()
    for band in A:
        np.testing.assert_array_equal(sr[band], ds[band])


FEW = ["B03", "B11", "B01"]


@for_every_blur
@pytest.mark.parametrize(
    "bands", [FEW, pytest.param([b for b in BANDS if b not in FEW], marks=pytest.mark.slow)], ids=len
)
def test_receptive_field_is_within_the_halo(method, bands):
    """Moving one input pixel changes nothing beyond the halo that the method states."""
    receptive_field_is_within_the_halo(method, bands)


@pytest.mark.slow
@pytest.mark.parametrize("method", one_of_each([m for m in cards() if TABLE.loc[m, "kind"] == "network"]))
def test_receptive_field_of_the_package_s_networks(method, real_networks):
    """With the depth that they have, and the halo on their cards."""
    receptive_field_is_within_the_halo(method, FEW)


def receptive_field_is_within_the_halo(method, bands):
    ds = make_cube(15, 15)
    cube = recognise(ds)
    methods = taught(ds, method)
    base = made(ds, methods)
    for one in methods:
        seen = set()
        for band in (b for b in one.needs if b in bands):
            factor = grid_of(band) // 10
            middle = cube.shape(grid_of(band))[0] // 2

            def bump(values, at=middle):
                values[at, at] += 2000

            changed = change(ds, band, bump)
            moved = made(changed, [one])
            for out in one.produces:
                y, x = np.nonzero(np.abs(moved[out].values - base[out].values) > 1e-3)
                if not len(y):
                    continue  # the method reads this band for others
                seen.add(band)
                first = middle * factor
                reach = max(first - min(y.min(), x.min()), max(y.max(), x.max()) - (first + factor - 1), 0)
                assert reach <= finest_halo(one), (band, out)
        # ATPRK picks one 10 m band for each, by its statistics.
        read = one.produces if method.startswith("atprk") else one.needs
        assert seen >= set(read) & set(bands)
        assert seen <= set(one.needs)
