"""Promise 5 of the library, for every method there is, and the projection by itself."""

from __future__ import annotations

import numpy as np
import pytest
from cubes import change, examples, make_cube, no_compute
from hypothesis import given
from hypothesis import strategies as st

from xsen2.bands import BANDS, GRIDS, A, B, C, grid_of
from xsen2.engine.consistency import EXCESS, Projection, project, spreader
from xsen2.engine.operators import OPERATORS, correlate, degrade_array, kernels, taps
from xsen2.errors import MethodError
from xsen2.methods.bicubic import upsample
from xsen2.training.scenes import read_scenes

pytestmark = pytest.mark.usefixtures("thin_blocks", "tiny_networks")

METHODS = ["bicubic", "regression", "supreme", "twogrid"]
"""One that looks at its own band alone, one with statistics of the image, one that works tile by tile, a network."""

for_every_method = pytest.mark.parametrize("method", METHODS)
for_every_operator = pytest.mark.parametrize("operator", OPERATORS)
for_every_band = pytest.mark.parametrize("band", [*B, *C])


class Lopsided:
    """A cheap method that nothing commutes with: not flips, not shifts, and wrong in its mean."""

    name = "lopsided"
    produces = (*B, *C)
    needs = (*A, *B, *C)
    halo = 2

    def __call__(self, a, b, c):
        detail = a[0] - np.roll(a[1], (1, 3), (0, 1)) * 0.7
        return np.concatenate([upsample(b, 2), upsample(c, 6)]) * 0.9 + 0.4 * detail


class Asking(Lopsided):
    """Wants to be consistent unless told otherwise."""

    consistency = True


class Blind(Lopsided):
    """Makes two bands without reading them."""

    produces = ("B11", "B09")
    needs = A

    def __call__(self, a, b, c):
        return np.stack([a[0] * 1.1, a[2] - 50])


def superresolve(ds, method, **kwargs):
    return ds.dsen2.superresolve(method=method, dtype="float32", consistency=True, **kwargs)


def degraded(x, band, scale, operator):
    rows, columns = kernels(band, scale, operator)
    return degrade_array(x, *rows, scale, columns)


def residual(sr, ds, operator, bands=(*B, *C)):
    """Per band: what is measured less the result degraded, DN."""
    return {b: ds[b].values - degraded(sr[b].values, b, grid_of(b) // 10, operator) for b in bands}


def rms(x):
    return float(np.sqrt(np.nanmean(np.square(x, dtype=np.float64))))


# The whole road.


@for_every_method
def test_degraded_the_result_is_what_was_measured(method):
    """Promise 5."""

    @examples(2 if method == "supreme" else 4)
    @given(
        operator=st.sampled_from(OPERATORS),
        rows=st.integers(1, 5),
        columns=st.integers(1, 5),
        dates=st.sampled_from([None, 2]),
        chunks=st.sampled_from([None, 6, 13, 24]),
        kind=st.sampled_from(["L2A", "bright", "negative"]),
        seed=st.integers(0, 99),
    )
    def check(operator, rows, columns, dates, chunks, kind, seed):
        ds = make_cube(rows, columns, dates=dates, chunks=chunks, seed=seed)
        if kind != "L2A":
            ds = ds.map(lambda x: x * 2.0 if kind == "bright" else x - 1500, keep_attrs=True).rio.write_crs(32631)
        sr = superresolve(ds, method, operator=operator).compute()
        for band, left in residual(sr, ds, operator).items():
            assert rms(left) < 0.02, band
        assert sr.attrs["xsen2_consistency"] == operator

    check()


@for_every_operator
@examples(6)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    chunks=st.tuples(st.integers(5, 40), st.integers(3, 20), st.integers(1, 6)),
    seed=st.integers(0, 99),
    holes=st.booleans(),
)
def test_chunks_leave_no_seam(operator, rows, columns, chunks, seed, holes):
    """Promise 2, nodata included, for a method that makes something else of mirrored pixels."""
    ds = make_cube(rows, columns, seed=seed)
    if holes:
        rng = np.random.default_rng(seed)
        for band in ("B03", "B11", "B01"):
            ds = change(ds, band, lambda x: np.putmask(x, rng.random(x.shape) < 0.1, np.nan))
    sizes = {
        d: n for dims, n in zip((("y", "x"), ("y_20m", "x_20m"), ("y_60m", "x_60m")), chunks, strict=True) for d in dims
    }
    whole = superresolve(ds, Lopsided(), operator=operator).compute()
    cut = superresolve(ds.chunk(sizes), Lopsided(), operator=operator).compute()
    for band in (*B, *C):
        np.testing.assert_allclose(cut[band], whole[band], rtol=0, atol=1e-3, err_msg=band)
    if not holes:
        assert max(map(rms, residual(cut, ds, operator).values())) < 0.01


@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.slow) if m == "supreme" else m for m in METHODS])
def test_chunks_leave_no_seam_for_every_method(method):
    ds = make_cube(4, 4, seed=3)
    whole = superresolve(ds, method).compute()
    cut = superresolve(ds.chunk(y=17, x=30, y_20m=5, x_20m=4, y_60m=3, x_60m=1), method).compute()
    for band in (*B, *C):
        np.testing.assert_allclose(cut[band], whole[band], rtol=0, atol=1e-3, err_msg=band)


@for_every_method
def test_nothing_is_computed(method):
    with no_compute():
        superresolve(make_cube(6, 6, dates=2, chunks=12), method)


@examples(5)
@given(
    band=st.sampled_from(list(BANDS)),
    where=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    size=st.integers(1, 6),
    operator=st.sampled_from(OPERATORS),
    seed=st.integers(0, 99),
)
def test_nodata_stays_where_it_is_and_its_influence_ends(band, where, size, operator, seed):
    """Promise 3."""
    ds = make_cube(24, 25, chunks=72, seed=seed)
    y, x = (int(w * n) for w, n in zip(where, ds[band].shape, strict=True))

    def spoil(values):
        values[y : y + size, x : x + size] = np.nan

    holed = change(ds, band, spoil)
    clean, spoilt = (superresolve(d, Lopsided(), operator=operator).compute() for d in (ds, holed))
    plain = holed.dsen2.superresolve(method=Lopsided()).compute()
    factor = grid_of(band) // 10
    reach = Projection((*B, *C), (*B, *C), operator, 6, (0, 0)).reach + 2 * 12
    near = np.zeros(clean["B02"].shape, bool)
    near[
        max(0, y * factor - reach) : (y + size) * factor + reach,
        max(0, x * factor - reach) : (x + size) * factor + reach,
    ] = True
    for out in (*B, *C):
        np.testing.assert_array_equal(np.isnan(spoilt[out]), np.isnan(plain[out]), err_msg=out)
        np.testing.assert_allclose(spoilt[out].values[~near], clean[out].values[~near], rtol=0, atol=1e-3)
        # Beside a hole the residual does not vanish, but nearly, and nothing blows up.
        before, after = (residual(sr, holed, operator, [out])[out] for sr in (plain, spoilt))
        assert rms(after) < 0.01 * rms(before), out
        assert np.nanmax(np.abs(spoilt[out] - plain[out])) < 6 * np.nanmax(np.abs(before)), out


@pytest.mark.parametrize("share", [0.05, 0.2])
@for_every_operator
def test_many_holes(operator, share):
    """Speckled nodata on all grids, an eighth of the image lost or more."""
    rng = np.random.default_rng(5)
    ds = make_cube(20, 20)
    for band in ("B04", "B8A", "B12", "B09"):
        ds = change(ds, band, lambda x: np.putmask(x, rng.random(x.shape) < share / 2, np.nan))
    sr = superresolve(ds, Lopsided(), operator=operator).compute()
    plain = ds.dsen2.superresolve(method=Lopsided()).compute()
    for band in (*B, *C):
        before, after = (residual(d, ds, operator, [band])[band] for d in (plain, sr))
        assert rms(after) < 0.02 * rms(before), band
        assert np.nanmax(np.abs(sr[band])) < 3 * np.nanmax(np.abs(plain[band]))


def test_reflectance_is_consistent_as_well():
    ds = make_cube(4, 5, scale=1e-4)
    sr = superresolve(ds, Lopsided(), quantification=1).compute()
    assert max(map(rms, residual(sr, ds, "mtf").values())) < 1e-6


def test_reflectance_and_dn_are_treated_alike():
    dn = superresolve(make_cube(3, 4), Lopsided()).compute()
    reflectance = superresolve(make_cube(3, 4, scale=1e-4), Lopsided(), quantification=1).compute()
    np.testing.assert_allclose(reflectance["B11"] * 10000, dn["B11"], rtol=0, atol=0.01)


def test_by_default_the_method_decides():
    ds = make_cube(3, 3)
    as_is = ds.dsen2.superresolve(method=Lopsided())
    asked = ds.dsen2.superresolve(method=Asking())
    kept = ds.dsen2.superresolve(method=Asking(), consistency=False)
    assert [x.attrs["xsen2_consistency"] for x in (as_is, asked, kept)] == ["none", "mtf", "none"]
    assert max(map(rms, residual(asked.compute(), ds, "mtf").values())) < 0.01
    np.testing.assert_array_equal(kept["B11"], as_is["B11"])
    assert min(map(rms, residual(as_is.compute(), ds, "mtf").values())) > 10


def test_classical_methods_are_left_as_published():
    ds = make_cube(3, 3)
    sr = ds.dsen2.superresolve(method="bicubic")
    assert sr.attrs["xsen2_consistency"] == "none"
    np.testing.assert_allclose(sr["B05"], upsample(ds["B05"].values, 2), rtol=0, atol=1e-3)


def test_bands_that_a_method_does_not_read_are_made_consistent_and_do_not_blank_it():
    ds = change(make_cube(6, 6, chunks=18), "B11", lambda x: x.__setitem__((slice(4), slice(5)), np.nan))
    sr = superresolve(ds, Blind(), bands=["B11", "B09"]).compute()
    left = residual(sr, ds, "mtf", ["B11", "B09"])
    assert rms(left["B09"]) < 0.01
    assert np.isfinite(sr["B11"]).all()
    assert rms(left["B11"]) < 0.1


def test_bands_that_the_cube_lacks_are_left_as_the_method_gives_them():
    ds = make_cube(6, 6, grids=(10, 20))
    sr = superresolve(ds, Blind(), bands=["B11"]).compute()
    assert rms(residual(sr, ds, "mtf", ["B11"])["B11"]) < 0.01


def test_ten_metre_bands_pass_unchanged():
    ds = make_cube(3, 3)
    sr = superresolve(ds, Lopsided()).compute()
    for band in A:
        np.testing.assert_array_equal(sr[band], ds[band])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"consistency": "mtf"}, "operator='mtf' says what with"),
        ({"consistency": True, "operator": "gauss"}, "unknown operator 'gauss'"),
        ({"operator": None}, "unknown operator None"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_computed(arguments, words):
    with no_compute(), pytest.raises(MethodError, match=words):
        make_cube(3, 3, chunks=6).dsen2.superresolve(method="bicubic", **arguments)


@for_every_operator
def test_evaluation_is_consistent_with_its_own_operator(operator):
    ds = make_cube(24, 24, seed=8, grids=(10, 20))
    scores = {
        c: ds.dsen2.evaluate(["bicubic"], operator=operator, consistency=c, border=0)["rmse"].values
        for c in (None, False, True)
    }
    np.testing.assert_array_equal(scores[None], scores[False])
    assert (scores[True] < scores[False]).all()


# The projection by itself.


@pytest.mark.parametrize("axis", [0, 1])
@for_every_band
@for_every_operator
def test_degrading_undoes_spreading(band, operator, axis):
    scale = grid_of(band) // 10
    kernel = spreader(band, scale, operator, axis=axis)
    cells = len(kernel) // 2
    line = np.zeros((1, (2 * cells + 9) * scale), np.float32)
    line[0, 4 * scale : -4 * scale] = kernel.ravel()
    found = correlate(
        line.repeat(scale, axis=0), np.full(scale, 1 / scale), 0, scale, taps(band, scale, operator, axis=axis)
    )
    want = np.zeros_like(found)
    want[0, cells + 4] = 1
    np.testing.assert_allclose(found, want, atol=2e-6)


@pytest.mark.parametrize("axis", [0, 1])
@for_every_band
@for_every_operator
def test_a_spreader_is_near_the_orthogonal_projection(band, operator, axis):
    scale = grid_of(band) // 10
    n = 40
    degrading = np.zeros((n, n * scale))
    weights, before = taps(band, scale, operator, axis=axis)
    for i in range(n):
        np.add.at(degrading[i], (i * scale - before + np.arange(len(weights))) % (n * scale), weights)
    exact = degrading.T @ np.linalg.inv(degrading @ degrading.T)
    kernel = spreader(band, scale, operator, axis=axis)
    cells = len(kernel) // 2
    ours = np.zeros((n * scale, n))
    for i in range(n):
        np.add.at(ours[:, i], ((i - cells) * scale + np.arange(kernel.size)) % (n * scale), kernel.ravel())
    assert np.linalg.norm(ours @ degrading, 2) <= 1 + EXCESS + 1e-6
    # The part of the correction that no projection needs is orthogonal to the rest.
    assert np.linalg.norm((ours - exact) @ degrading, 2) <= np.sqrt((1 + EXCESS) ** 2 - 1) + 1e-6


def scene(seed, band, operator):
    rng = np.random.default_rng(seed)
    scale = grid_of(band) // 10
    shape = tuple(scale * n for n in rng.integers(1, 14, 2))
    truth = (2000 + rng.normal(0, 400, shape) + 900 * (rng.random(shape) < 0.1)).astype(np.float32)
    return truth, degraded(truth, band, scale, operator), rng


@examples(60)
@given(seed=st.integers(0, 9999), band=st.sampled_from([*B, *C]), operator=st.sampled_from(OPERATORS))
def test_the_error_is_never_larger_than_before(seed, band, operator):
    """Up to what `EXCESS` allows along each axis; and what is consistent already stays as it is."""
    truth, y, rng = scene(seed, band, operator)
    valid = np.ones(truth.shape, bool)
    for x in (upsample(y, grid_of(band) // 10), truth + rng.normal(0, 100, truth.shape).astype(np.float32)):
        once = project(x, y, valid, band, operator)
        assert rms(once - truth) <= (1 + EXCESS) ** 2 * rms(x - truth)
        np.testing.assert_allclose(project(once, y, valid, band, operator), once, rtol=0, atol=0.01)
    np.testing.assert_allclose(project(truth, y, valid, band, operator), truth, rtol=0, atol=0.01)


@examples(40)
@given(seed=st.integers(0, 9999), band=st.sampled_from([*B, *C]), operator=st.sampled_from(OPERATORS))
def test_nodata_pixels_count_for_nothing(seed, band, operator):
    truth, y, rng = scene(seed, band, operator)
    valid = rng.random(truth.shape) < 0.9
    y[rng.random(y.shape) < 0.1] = np.nan
    x = truth + rng.normal(0, 100, truth.shape).astype(np.float32)
    other = np.where(valid, x, np.float32(9e4))
    first, second = (project(image, y, valid, band, operator) for image in (x, other))
    np.testing.assert_array_equal(first[valid], second[valid])
    np.testing.assert_array_equal(first[~valid], x[~valid])
    blank = np.where(valid, x, np.float32(np.nan))
    before = y - degraded(blank, band, grid_of(band) // 10, operator)
    assert np.abs(first - x).max() <= 6 * np.abs(before[np.isfinite(before)]).max(initial=0)


@pytest.mark.parametrize("band", ["B05", "B12", "B09"])
def test_what_follows_the_bands_is_left_as_it_is(band):
    """As standard errors, which come behind the estimates."""
    scale = grid_of(band) // 10
    one = Projection((band, "B11"), (band,), "mtf", scale, (60, 60))
    out = np.random.default_rng(0).normal(1000, 200, (4, 60 + 2 * one.near, 60 + 2 * one.near)).astype(np.float32)
    y = np.full([n // scale for n in out.shape[1:]], 1500, np.float32)
    done = one(out, {band: y}, np.ones(out.shape[1:], bool), 0, one.near)
    inner = slice(one.near, -one.near)
    np.testing.assert_array_equal(done[1:], out[1:, inner, inner])
    assert rms(degrade_array(done[0], *taps(band, scale, "mtf"), scale) - 1500) < 0.01


@examples(30)
@given(
    seed=st.integers(0, 9999),
    band=st.sampled_from([*B, *C]),
    operator=st.sampled_from(OPERATORS),
    share=st.sampled_from([0.01, 0.1, 0.3]),
    kind=st.sampled_from(["speckled", "cells", "lines"]),
)
def test_beside_scattered_nodata_next_to_nothing_is_left(seed, band, operator, share, kind):
    """Of white noise, whose every pixel is wrong by a hundred DN and more: more than any scene asks for."""
    rng = np.random.default_rng(seed)
    scale = grid_of(band) // 10
    y = (2000 + rng.normal(0, 300, (20, 24))).astype(np.float32)
    valid = np.ones((20 * scale, 24 * scale), bool)
    if kind == "speckled":
        valid &= rng.random(valid.shape) > share
    elif kind == "cells":
        lost = rng.random(y.shape) < share
        y[lost] = np.nan
        valid &= ~lost.repeat(scale, 0).repeat(scale, 1)
    else:
        valid[rng.random(len(valid)) < share / 3] = False
    x = upsample(np.where(np.isfinite(y), y, np.float32(2000)), scale)
    rows, columns = kernels(band, scale, operator)
    before, after = (
        y - degrade_array(np.where(valid, z, np.float32(np.nan)), *rows, scale, columns)
        for z in (x, project(x, y, valid, band, operator))
    )
    most = 0.005 if operator == "product" else 0.002  # its kernels are the widest
    assert rms(after) <= most * rms(before) + 1e-3


# Real scenes.


@pytest.mark.real
@pytest.mark.parametrize("holes", ["speckled", "cells"])
@pytest.mark.parametrize("name", ["bigearthnet_patches/2", "bigearthnet_patches/7", "terramind_433D_629L_3_1_L2A"])
def test_real_scenes_with_scattered_nodata(shared, name, holes):
    """Promise 5, with a third of the 10 m pixels lost, or of every band's own, and of all 20 m ones."""
    rng = np.random.default_rng(3)
    found = next(s for s in read_scenes(shared / "data" / "validation") if s.name == name)
    for gsd, bands in found.bands.items():
        scale = gsd // 10
        if scale == 1:
            continue
        for band, measured in zip(GRIDS[gsd], bands, strict=True):
            y = measured[:60, :60].astype(np.float32)
            x = upsample(y, scale)
            if holes == "speckled":
                valid = rng.random(x.shape) > 0.3
            else:
                lost = rng.random(y.shape) < 0.3
                y[lost] = np.nan
                some = rng.random((x.shape[0] // 2, x.shape[1] // 2)) > 0.1
                valid = some.repeat(2, 0).repeat(2, 1) & ~lost.repeat(scale, 0).repeat(scale, 1)
            left = y - degrade_array(
                np.where(valid, project(x, y, valid, band, "mtf"), np.float32(np.nan)), *taps(band, scale, "mtf"), scale
            )
            assert rms(left) < 0.1, band


@pytest.mark.real
@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.slow) if m == "supreme" else m for m in METHODS])
@pytest.mark.parametrize(
    "name", ["bigearthnet_patches/8", "terramind_433D_629L_3_1_L2A", "crop_coastalA", "brasilia_1"]
)
def test_real_scenes(shared, real_networks, method, name):
    """L2A patch of water; mountains in full contrast; L1C coast; a city that lines of nodata cross."""
    found = next(s for s in read_scenes(shared / "data" / "validation") if s.name == name)
    ds = found.cube().isel(y=slice(24, 114), x=slice(24, 114), y_20m=slice(12, 57), x_20m=slice(12, 57))
    if "B01" in ds:
        ds = ds.isel(y_60m=slice(4, 19), x_60m=slice(4, 19))
    holes = bool(ds["B02"].isnull().any())
    assert holes == (name == "brasilia_1")
    sr = superresolve(ds, method).compute()
    bands = [b for b in (*B, *C) if b in ds]
    assert max(map(rms, residual(sr, ds, "mtf", bands).values())) < (0.1 if holes else 0.02)
