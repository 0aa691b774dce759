"""BDSD, PRACS and MTF-GLP-HPM-PP: each recovers what its model assumes, and nothing moves by half a pixel."""

from __future__ import annotations

import numpy as np
import pytest
from cubes import make_cube
from hypothesis import given
from hypothesis import strategies as st

from xsen2.bands import GRIDS, A, B, C
from xsen2.engine.operators import OPERATORS, correlate, observed, taps
from xsen2.methods import bdsd, glp_hpm, pracs
from xsen2.methods.bicubic import upsample
from xsen2.methods.common import PAN, sharers

pytestmark = pytest.mark.usefixtures("thin_blocks")

MAKERS = {"bdsd": bdsd.make, "pracs": pracs.make, "glp_hpm": glp_hpm.make}
BANDS = {2: B, 6: C}

for_every_method = pytest.mark.parametrize("name", MAKERS)
for_both_grids = pytest.mark.parametrize("ratio", BANDS)


def one(name, bands, operator="mtf"):
    (method,) = MAKERS[name](tuple(bands), operator)
    return method


def taught(method, a, low, own=None):
    """The method after it has learnt from a whole image, and the arrays that it takes."""
    ratio = a.shape[1] // low.shape[1]
    seen = a[[i for i, band in enumerate(A) if band in method.needs]]
    low = low[[i for i, band in enumerate(GRIDS[10 * ratio]) if band in method.needs]]
    nothing = np.empty((0, 0, 0), np.float32)
    arrays = (seen, low, nothing) if ratio == 2 else (seen, nothing, low)
    valid = np.ones(a.shape[1:], bool)
    for _ in range(method.rounds):
        method = method.learn(method.gather(*arrays, valid, valid if own is None else own))
    return method, arrays


def sharpened(method, a, low):
    method, arrays = taught(method, a, low)
    return method(*arrays)


def field(y, x):
    """A scene with detail of every size, as the ground has it: waves in all directions, DN."""
    out = np.full(np.shape(y), 2500.0)
    for i, length in enumerate(np.geomspace(3.5, 90, 24)):
        turn = 2.4 * i
        out += 25 * length**0.5 * np.cos(2 * np.pi / length * (y * np.sin(turn) + x * np.cos(turn)) + i * i)
    return out


def scene(size, seed=0):
    """The four 10 m bands, each the field in a light of its own."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    gains = np.random.default_rng(seed).uniform(0.5, 1.2, 4)
    return np.stack([g * field(y, x) + 100 * i for i, g in enumerate(gains)]).astype(np.float32)


def mean_pan(a, band):
    return a[[A.index(name) for name in PAN[band]]].mean(axis=0)


def rmse(x, y):
    return float(np.sqrt(np.mean((x.astype(np.float64) - y) ** 2)))


def inside(x, edge=24):
    return x[..., edge:-edge, edge:-edge]


def shift(estimate, truth):
    """How far the estimate lies from the truth, in pixels, by least squares on the gradient."""
    gradient = np.stack([inside(g).ravel() for g in np.gradient(truth)], axis=1)
    gap = inside(truth - estimate).ravel()
    return np.linalg.lstsq(gradient, gap, rcond=None)[0]


@for_both_grids
@pytest.mark.parametrize("operator", OPERATORS)
def test_bdsd_is_exact_where_its_model_holds(ratio, operator):
    # Three bands with one pan (one at 60 m): y = G y + [G y, D P] g at their scale, by solving for y.
    bands = ("B06", "B07", "B8A") if ratio == 2 else ("B09",)
    n, side = len(bands), 14
    rng = np.random.default_rng(3)
    gains = np.concatenate([rng.uniform(-0.2, 0.2, (n, n)) / n, rng.uniform(0.3, 0.9, (n, 1))], axis=1)
    units = np.eye(side, dtype=np.float32)
    blurs = []
    for band in bands:
        line = bdsd.smooth(units[:, None].repeat(side, axis=1), bdsd._blur(band))[:, 0].T.astype(np.float64)
        blurs.append(np.kron(line, line))
    coarse_pan = rng.uniform(500, 3000, (side, side))
    system = np.eye(n * side**2)
    for k in range(n):
        for m in range(n):
            block = np.s_[k * side**2 : (k + 1) * side**2, m * side**2 : (m + 1) * side**2]
            system[block] -= ((k == m) + gains[k, m]) * blurs[m]
    y = np.linalg.solve(system, np.concatenate([g * coarse_pan.ravel() for g in gains[:, -1]]))
    y = y.reshape(n, side, side).astype(np.float32)
    # A pan that degrades to the one wanted.
    fine = np.eye(side * ratio, dtype=np.float32)
    weights = taps("B08", ratio, operator)  # the same along both axes
    line = correlate(fine[:, None].repeat(ratio, axis=1), *weights, ratio)[:, 0].T.astype(np.float64)
    inverse = np.linalg.pinv(line)
    p = (inverse @ coarse_pan @ inverse.T).astype(np.float32)

    a = np.stack([np.zeros_like(p)] * 3 + [p])
    low = np.zeros((len(BANDS[ratio]), side, side), np.float32)
    low[[BANDS[ratio].index(band) for band in bands]] = y
    method, arrays = taught(one("bdsd", bands, operator), a, low)
    np.testing.assert_allclose(method.gains, gains, atol=1e-3)
    ms = upsample(y, ratio)
    truth = ms + np.tensordot(gains, np.concatenate([ms, p[None]]), 1)
    np.testing.assert_allclose(method(*arrays), truth, atol=0.02 * np.abs(p).max() / 10)


@for_both_grids
@pytest.mark.parametrize("operator", OPERATORS)
def test_glp_hpm_recovers_bands_in_proportion_to_the_pan(ratio, operator):
    a = scene(120)
    bands = BANDS[ratio]
    truth = np.stack([(0.4 + 0.3 * i) * mean_pan(a, band) for i, band in enumerate(bands)])
    low = np.stack([observed(t, b, ratio, operator) for b, t in zip(bands, truth, strict=True)])
    out = sharpened(one("glp_hpm", bands, operator), a, low)
    for k in range(len(bands)):
        assert rmse(out[k], truth[k]) < 0.02 * rmse(upsample(low[k], ratio), truth[k])


def test_glp_hpm_mends_outliers_only():
    fused = np.full((9, 9), 1000, np.float32)
    fused[4, 5] = -3000  # a hole, where the Laplacian is far above 1.5 means
    fused[0, 0] = 950
    p = np.full_like(fused, 1200)
    p[4, 5] = 1300
    out = glp_hpm._mended(fused, p, 1500)
    assert out[4, 5] == 1300 - 200  # the pan less the median of how far it lies above
    fused[4, 5] = out[4, 5]
    np.testing.assert_array_equal(out, fused)


@for_both_grids
def test_pracs_with_perfect_correlation(ratio):
    # The band is the pan, interpolated down: I is the pan's low-pass, and all but 5 % of the rest is added.
    a = scene(96)
    band = BANDS[ratio][0]
    p = a[A.index("B02")]
    whole = pracs._low(p, ratio)
    low = np.zeros((len(BANDS[ratio]), 96 // ratio, 96 // ratio), np.float32)
    weights = np.array([pracs.keys((j + 0.5) / ratio - 2) for j in range(4 * ratio)])
    low[0] = correlate(p, weights / weights.sum(), 3 * ratio // 2, ratio)
    method, arrays = taught(one("pracs", [band]), a, low)
    np.testing.assert_allclose(method.terms, [[1, 0, 0.95, 1]], atol=2e-2)
    np.testing.assert_allclose(method(*arrays)[0], whole + 0.95 * (p - whole), atol=0.5)
    # Twice as bright, L is 1 - |1 - 2|: nothing is added.
    method, arrays = taught(method.__class__((band,)), a, 2 * low)
    np.testing.assert_allclose(method(*arrays)[0], 2 * whole, atol=0.5)


def test_pracs_low_pass_is_centred():
    y, x = np.mgrid[:72, :72].astype(np.float32)
    for ratio in BANDS:
        np.testing.assert_allclose(inside(pracs._low(3 * y + x, ratio)), inside(3 * y + x), atol=1e-3)


def test_the_measure_of_shifts():
    y, x = np.mgrid[:144, :144].astype(np.float64)
    np.testing.assert_allclose(shift(field(y - 0.25, x + 0.1), field(y, x)), [0.25, -0.1], atol=0.03)


@for_every_method
@for_both_grids
@pytest.mark.parametrize("operator", ["mtf", "dsen2"])
def test_nothing_moves(name, ratio, operator):
    bands = BANDS[ratio]
    found = []
    for turn in (1, -1):  # what the scene does by chance to the measure has the other sign when it is turned round
        a = scene(144)[:, ::turn, ::turn]
        y, x = np.mgrid[:144, :144].astype(np.float64)
        truth = np.stack([0.8 * field(y, x) + 60 * np.sin(x / (7 + i)) for i in range(len(bands))])[:, ::turn, ::turn]
        kernels = [taps(band, ratio, operator) for band in bands]
        low = [correlate(t.astype(np.float32), *kernel, ratio) for t, kernel in zip(truth, kernels, strict=True)]
        out = sharpened(one(name, bands, operator), np.ascontiguousarray(a), np.stack(low))
        found.append([shift(o, t) for o, t in zip(out, truth, strict=True)])
    np.testing.assert_allclose(np.mean(found, axis=0), 0, atol=0.005)


def superresolved(ds, method):
    sr = ds.dsen2.superresolve(bands=method.produces, method=method, consistency=False).compute()
    return np.stack([sr[band].values for band in method.produces])


@for_every_method
@for_both_grids
def test_chunks_and_one_call_give_the_same(name, ratio):
    ds = make_cube(4, 5, seed=4)
    a, low = (np.stack([ds[band].values for band in grid]) for grid in (A, BANDS[ratio]))
    method = one(name, BANDS[ratio])
    whole = sharpened(method, a, low)
    for chunks in (None, {10: 18, 20: 7, 60: 2}):
        cut = make_cube(4, 5, seed=4, chunks=chunks)
        np.testing.assert_allclose(superresolved(cut, method), whole, rtol=0, atol=1e-3)


@for_every_method
def test_what_is_asked_for_does_not_change_the_result(name):
    ds = make_cube(6, 6)
    every = superresolved(ds, one(name, B))
    for some in (("B8A",), ("B05", "B07", "B12")):
        wanted = every[[B.index(band) for band in some]]
        np.testing.assert_allclose(superresolved(ds, one(name, some)), wanted, rtol=0, atol=1e-3)


def test_sharers():
    assert sharers(("B07",)) == ("B06", "B07", "B8A")
    assert sharers(("B05", "B12")) == ("B05", "B11", "B12")
    assert sharers(("B09",)) == ("B09",)
    assert one("bdsd", ["B07"]).needs == ("B08", "B06", "B07", "B8A")
    assert one("glp_hpm", ["B07"]).needs == ("B08", "B07")
    assert one("pracs", ["B11", "B12"]).needs == ("B02", "B03", "B04", "B11", "B12")


@for_every_method
@for_both_grids
def test_only_own_pixels_count(name, ratio):
    a = scene(240)
    low = np.stack([correlate(mean_pan(a, b), *taps(b, ratio, "mtf"), ratio) for b in BANDS[ratio]])
    own = np.zeros((240, 240), bool)
    own[:48, :48] = True
    other, other_low = a.copy(), low.copy()
    other[:, 192:], other_low[:, 192 // ratio :] = 9000, 12  # further off than any context reaches
    method, _ = taught(one(name, BANDS[ratio]), a, low, own)
    again, _ = taught(one(name, BANDS[ratio]), other, other_low, own)
    for what, value in vars(method).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(getattr(again, what), value, rtol=1e-6, atol=1e-9)


@for_every_method
@for_both_grids
def test_without_a_pixel_nothing_is_added(name, ratio):
    method = one(name, BANDS[ratio])
    a = scene(24)
    low = np.random.default_rng(1).uniform(100, 3000, (len(BANDS[ratio]), 24 // ratio, 24 // ratio)).astype(np.float32)
    _, arrays = taught(method, a, low)
    nobody = np.zeros((24, 24), bool)
    for _ in range(method.rounds):
        method = method.learn(np.zeros_like(method.gather(*arrays, nobody, nobody)))
    np.testing.assert_allclose(method(*arrays), upsample(low, ratio), atol=1e-2)


@for_every_method
@given(
    ratio=st.sampled_from([2, 6]),
    cells=st.integers(1, 4),
    kind=st.sampled_from(["constant", "zero", "noise", "negative", "dark", "wild", "flat pan", "flat band"]),
    seed=st.integers(0, 99),
)
def test_any_pixels_give_finite_ones(name, ratio, cells, kind, seed):
    rng = np.random.default_rng(seed)
    size = 6 * cells
    shapes = ((4, size, size), (len(BANDS[ratio]), size // ratio, size // ratio))
    low, high = {"negative": (-900, 200), "dark": (-3, 3), "wild": (-1000, 65000)}.get(kind, (1, 4000))
    a, y = (rng.uniform(low, high, shape).astype(np.float32) for shape in shapes)
    level = np.float32(rng.uniform(1, 20000)) if kind != "zero" else np.float32(0)
    if kind in ("constant", "zero", "flat pan"):
        a[:] = level
    if kind in ("constant", "zero", "flat band"):
        y[:] = level
    out = sharpened(one(name, BANDS[ratio]), a, y)
    assert out.shape == (len(y), size, size)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    if kind in ("constant", "zero"):
        np.testing.assert_allclose(out, level, atol=1e-3 * max(1, level))
