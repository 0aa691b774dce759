"""ResSR: its closed form, its statistics, and scenes of low rank."""

from __future__ import annotations

import numpy as np
import pytest
from cubes import change, make_cube
from hypothesis import given
from hypothesis import strategies as st

from xsen2.bands import A, B, C
from xsen2.methods import resr
from xsen2.methods.bicubic import upsample

pytestmark = pytest.mark.usefixtures("thin_blocks")

BANDS = {2: B, 6: C}
SIZES = {1: len(A), 2: len(B), 6: len(C)}

for_both_grids = pytest.mark.parametrize("ratio", BANDS)


def one(bands):
    (method,) = resr.make(tuple(bands), "mtf")
    return method


def mean(x, ratio):
    *lead, height, width = x.shape
    return x.reshape(*lead, height // ratio, ratio, width // ratio, ratio).mean(axis=(-3, -1))


def taught(method, a, b, c, own=None):
    c = c if "B01" in method.needs else c[:0]
    valid = np.ones(a.shape[1:], bool)
    return method.learn(method.gather(a, b, c, valid, valid if own is None else own)), (a, b, c)


def made(method, *grids):
    method, arrays = taught(method, *grids)
    return method(*arrays)


def degraded(bands):
    """Twelve 10 m bands as they would be measured, by means."""
    a, b, c = bands[: len(A)], bands[len(A) : -len(C)], bands[-len(C) :]
    return tuple(np.float32(x) for x in (a, mean(b, 2), mean(c, 6)))


def field(seed, size):
    """Waves of many lengths in all directions."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    out = np.zeros((size, size))
    for length in np.geomspace(3.5, 90, 24):
        turn, phase = rng.uniform(0, 2 * np.pi, 2)
        out += length**0.5 * np.cos(2 * np.pi / length * (y * np.sin(turn) + x * np.cos(turn)) + phase)
    return out


def low_rank(size=120):
    """All bands a mean and two directions."""
    rng = np.random.default_rng(5)
    first, second = field(1, size), field(2, size)
    bands = [1800 + 50 * i + 30 * rng.uniform(0.5, 2) * first + 25 * rng.uniform(-1, 1) * second for i in range(12)]
    return np.stack(bands)


def rmse(x, y):
    return float(np.sqrt(np.mean((np.float64(x) - y) ** 2)))


def test_closed_form_minimises_the_objective():
    rng = np.random.default_rng(1)
    directions = np.linalg.qr(rng.normal(size=(12, 2)))[0]
    singular = np.array([3.0, 0.4])
    shares = resr._shares((*A, *B, *C))
    y = rng.normal(size=12)
    # |sqrt(g) (y - V z)|² + lambda sigma² / K |z / s|² as one least squares problem.
    penalty = np.diag(np.sqrt(0.5 * 0.02**2 / 2) / singular)
    system = np.concatenate([np.sqrt(shares)[:, None] * directions, penalty])
    z = np.linalg.lstsq(system, np.concatenate([np.sqrt(shares) * y, [0, 0]]), rcond=None)[0]
    np.testing.assert_allclose(resr.closed_form(directions * singular, shares) @ y, directions @ z, atol=1e-12)


def test_shares_of_the_grids():
    # gamma: 0.99 at 10 m; of the rest, 1/2 to 1/6.
    np.testing.assert_allclose(resr._shares(("B02", "B05", "B09")), [0.99, 0.0075, 0.0025])
    np.testing.assert_allclose(resr._shares(("B02", "B05")), [0.99, 0.01])


@given(
    seed=st.integers(0, 999),
    count=st.integers(400, 3000),
    low=st.floats(-900, 3000),
    spread=st.floats(1, 5000),
    whole=st.booleans(),
)
def test_percentiles_within_one_dn(seed, count, low, spread, whole):
    x = low + spread * np.random.default_rng(seed).beta(2, 3, count)
    x = np.round(x) if whole else x
    counts = np.bincount(np.rint(x).astype(int) + 1000, minlength=21001)
    found = resr._percentiles(counts.astype(float))
    for percent, value in zip(resr._PERCENTILES, found, strict=True):
        assert np.mean(x < value - 1) <= percent / 100 <= np.mean(x <= value + 1)


def test_percentiles_of_many():
    x = np.random.default_rng(2).gamma(4, 300, 200_000)
    counts = np.bincount(np.rint(x).astype(int) + 1000, minlength=21001)
    np.testing.assert_allclose(resr._percentiles(counts.astype(float)), np.percentile(x, [2, 98]), atol=0.5)


@for_both_grids
def test_low_rank_scene(ratio):
    bands = low_rank()
    truth = bands[len(A) : -len(C)] if ratio == 2 else bands[-len(C) :]
    grids = degraded(bands)
    out = made(one(BANDS[ratio]), *grids)
    plain = upsample(grids[1] if ratio == 2 else grids[2], ratio)
    for o, p, t in zip(out, plain, truth, strict=True):
        assert rmse(o, t) < 0.25 * rmse(p, t)


@for_both_grids
def test_the_residual_is_coherent(ratio):
    # What the subspace does not explain comes from the band itself: x + bicubic(y - mean(x)).
    grids = degraded(low_rank())
    method, arrays = taught(one(BANDS[ratio]), *grids)
    rng = np.random.default_rng(3)
    grids = [x + rng.normal(0, 100, x.shape).astype(np.float32) for x in arrays]
    covering = np.concatenate([x.repeat(120 // x.shape[1], 1).repeat(120 // x.shape[1], 2) for x in grids if len(x)])
    x = np.tensordot(method.weights, covering, 1) + method.constants[:, None, None]
    y = grids[1] if ratio == 2 else grids[2]
    np.testing.assert_allclose(method(*grids), x + upsample(np.float32(y - mean(x, ratio)), ratio), atol=5e-3)


@for_both_grids
def test_nothing_moves(ratio):
    """The shift of the result against the truth, by least squares on the gradient, is none."""
    found = []
    for turn in (1, -1):  # what the scene does by chance to the measure has the other sign when it is turned round
        bands = low_rank(144) + 20 * np.stack([field(i, 144) for i in range(10, 22)])
        bands = bands[:, ::turn, ::turn]
        truth = bands[len(A) : -len(C)] if ratio == 2 else bands[-len(C) :]
        out = made(one(BANDS[ratio]), *degraded(bands))
        for o, t in zip(out, truth, strict=True):
            gradient = np.stack([g[24:-24, 24:-24].ravel() for g in np.gradient(t)], axis=1)
            found.append(np.linalg.lstsq(gradient, (t - o)[24:-24, 24:-24].ravel(), rcond=None)[0])
    shifts = np.reshape(found, (2, -1, 2)).mean(axis=0)
    np.testing.assert_allclose(shifts, 0, atol=0.005)


def superresolved(ds, method):
    sr = ds.dsen2.superresolve(bands=method.produces, method=method, consistency=False).compute()
    return np.stack([sr[band].values for band in method.produces])


@for_both_grids
def test_chunks_and_one_call_give_the_same(ratio):
    ds = make_cube(4, 5, seed=4)
    whole = made(one(BANDS[ratio]), *(np.stack([ds[band].values for band in grid]) for grid in (A, B, C)))
    for chunks in (None, {10: 18, 20: 7, 60: 2}):
        cut = make_cube(4, 5, seed=4, chunks=chunks)
        np.testing.assert_allclose(superresolved(cut, one(BANDS[ratio])), whole, rtol=0, atol=1e-3)


def test_what_is_asked_for_does_not_change_the_result():
    ds = make_cube(4, 4)
    every = superresolved(ds, one(B))
    wanted = every[[B.index("B05"), B.index("B12")]]
    np.testing.assert_allclose(superresolved(ds, one(("B05", "B12"))), wanted, rtol=0, atol=1e-3)


def test_20m_bands_do_without_60m():
    ds = make_cube(4, 4)
    alone = superresolved(ds.drop_vars(C), one(B))
    np.testing.assert_allclose(alone, superresolved(ds, one(B)), rtol=0, atol=1e-3)
    assert set(one(C).needs) == {*A, *B, *C}


def test_nodata_is_not_counted():
    ds = make_cube(4, 4, chunks=12)

    def hide(values):
        values[:12] = np.nan

    def spoil(values):
        values[:12] = 16000

    spoilt = change(ds, "B03", spoil)
    holes = [superresolved(change(x, "B04", hide), one(B)) for x in (ds, spoilt)]
    np.testing.assert_allclose(holes[0][:, 16:], holes[1][:, 16:], rtol=0, atol=1e-3)


@for_both_grids
def test_without_a_pixel_nothing_is_added(ratio):
    rng = np.random.default_rng(1)
    grids = [rng.uniform(100, 3000, (n, 24 // f, 24 // f)).astype(np.float32) for f, n in SIZES.items()]
    method, arrays = taught(one(BANDS[ratio]), *grids, own=np.zeros((24, 24), bool))
    np.testing.assert_allclose(method(*arrays), upsample(arrays[1] if ratio == 2 else arrays[2], ratio), atol=1e-2)


@given(
    ratio=st.sampled_from([2, 6]),
    cells=st.integers(1, 4),
    kind=st.sampled_from(["constant", "zero", "noise", "negative", "dark", "wild", "one flat"]),
    seed=st.integers(0, 99),
)
def test_any_pixels_give_finite_ones(ratio, cells, kind, seed):
    rng = np.random.default_rng(seed)
    low, high = {"negative": (-3000, 200), "dark": (-3, 3), "wild": (-1000, 65000)}.get(kind, (1, 4000))
    size = 6 * cells
    grids = [rng.uniform(low, high, (n, size // f, size // f)).astype(np.float32) for f, n in SIZES.items()]
    level = np.float32(rng.uniform(1, 20000)) if kind == "constant" else np.float32(0)
    for x in grids:
        if kind in ("constant", "zero"):
            x[:] = level
        elif kind == "one flat":
            x[0] = 700
    out = made(one(BANDS[ratio]), *grids)
    assert out.shape == (len(BANDS[ratio]), size, size)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    if kind in ("constant", "zero"):
        np.testing.assert_allclose(out, level, atol=1e-3 * max(1, level))
