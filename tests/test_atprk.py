"""ATPRK: its variograms, its kriging, its coherence, and that it finds what its model assumes."""

from __future__ import annotations

import numpy as np
import pytest
import scenes
from cubes import change, make_cube
from hypothesis import given, settings
from hypothesis import strategies as st

from xsen2.bands import A, B, C
from xsen2.engine.operators import OPERATORS
from xsen2.methods.atprk import ATPRK, LAGS, deconvolve, fit, kriging, make, pairs, regularised
from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import finest_halo

pytestmark = pytest.mark.usefixtures("thin_blocks")

RATIOS = {2: B, 6: C}
both_ratios = pytest.mark.parametrize("ratio", [2, 6])


def field(size, length, seed=0):
    """A Gaussian field of variance 1 and covariance exp(-d / length), cut from a periodic one twice as wide."""
    n = 2 * size
    along = np.minimum(np.arange(n), n - np.arange(n))
    spectrum = np.fft.rfft2(np.exp(-np.hypot(along[:, None], along) / length)).real.clip(0)
    noise = np.fft.rfft2(np.random.default_rng(seed).normal(size=(n, n)))
    return np.fft.irfft2(noise * np.sqrt(spectrum), s=(n, n))[:size, :size].astype(np.float32)


def box(x, ratio):
    *lead, height, width = x.shape
    return x.reshape(*lead, height // ratio, ratio, width // ratio, ratio).mean(axis=(-3, -1), dtype=np.float64)


def context(x, edge):
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(edge, edge)] * 2, mode="symmetric")


def run(method, a, low, valid=None):
    """What the method learns from, and makes of, an image in one piece."""
    ratio = a.shape[-1] // low.shape[-1]
    valid = np.ones(a.shape[1:], bool) if valid is None else valid
    none = np.empty((0, 1, 1), np.float32)

    def inputs(edge):
        fine, coarse = context(a, edge), context(low, edge // ratio)
        return (fine, coarse, none) if ratio == 2 else (fine, none, coarse)

    edge = finest_halo(method, method.gather_halo)
    for _ in range(method.rounds):
        method = method.learn(method.gather(*inputs(edge), context(valid, edge), np.pad(valid, edge)))
    edge = finest_halo(method)
    return method, method(*inputs(edge))[:, edge:-edge, edge:-edge]


def image(ratio, size, seed=0, bands=2):
    """Fine bands, truth for coarse ones that share some of their detail, and the coarse ones, by the mean."""
    fine = np.stack([field(size, 10, seed + i) for i in range(4)])
    truth = np.stack([0.8 * fine[i] + 0.6 * field(size, 8, seed + 10 + i) for i in range(bands)])
    fine, truth = (2000 + 300 * x for x in (fine, truth))
    return fine, truth, box(truth, ratio).astype(np.float32)


def rmse(x, y):
    return float(np.sqrt(np.mean(np.square(x - y, dtype=np.float64))))


# Variograms


def test_every_pair_counts_once_and_within_its_tile():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 7, 9)).astype(np.float32)
    valid = rng.random((3, 7, 9)) > 0.3
    want = np.zeros((3, LAGS))
    for tile in range(3):
        for y, z in np.argwhere(valid[tile]):
            for lag in range(1, LAGS + 1):
                for other in ((y + lag, z), (y, z + lag)):
                    if other[0] < 7 and other[1] < 9 and valid[tile, other[0], other[1]]:
                        want[:2, lag - 1] += (x[:, tile, y, z] - x[:, tile, other[0], other[1]]) ** 2
                        want[2, lag - 1] += 1
    np.testing.assert_allclose(pairs(np.where(valid, x, np.float32(np.nan)), valid), want, rtol=1e-5)


@pytest.mark.parametrize(("sill", "length"), [(1.0, 0.5), (3e-4, 4.0), (2.0, 30.0)])
def test_fit_finds_an_exact_model(sill, length):
    lags = np.arange(1, LAGS + 1)
    counts = 1000.0 - 20 * lags
    found = fit(2 * counts * sill * (1 - np.exp(-lags / length)), counts)
    np.testing.assert_allclose(found, (sill, length), rtol=0.02)


def test_fit_of_nothing():
    assert fit(np.zeros(LAGS), np.zeros(LAGS)) == (0.0, 1.0)
    assert fit(np.zeros(LAGS), np.full(LAGS, 9.0)) == (0.0, 1.0)
    one = np.eye(1, LAGS)[0]  # an image of two pixels has pairs at one lag only
    sill, length = fit(2 * one, one)
    assert sill * (1 - np.exp(-1 / length)) == pytest.approx(1)


def points(row, column, ratio):
    y, x = (i.ravel() for i in np.indices((ratio, ratio)))
    return np.stack([y + row * ratio, x + column * ratio], axis=1)


def mean_covariance(some, others, length):
    return np.exp(-np.linalg.norm(some[:, None] - others[None], axis=-1) / length).mean()


@both_ratios
@pytest.mark.parametrize("length", [0.7, 5.0, 60.0])
def test_regularised_is_the_mean_over_all_pairs(ratio, length):
    found = regularised(np.array([length]), ratio)[0]
    own = mean_covariance(points(0, 0, ratio), points(0, 0, ratio), length)
    for lag in (1, 2, 20):
        apart = mean_covariance(points(0, 0, ratio), points(0, lag, ratio), length)
        assert found[lag - 1] == pytest.approx(own - apart, rel=1e-9, abs=1e-12)


@both_ratios
@pytest.mark.parametrize("length", [1.0, 2.0, 4.0])
def test_deconvolution_finds_the_points_of_a_field(ratio, length):
    """A field is sampled at points; all that is seen is the mean of each cell."""
    length = length * ratio
    x = box(np.stack([field(80 * ratio, length, seed) for seed in range(3)]), ratio).astype(np.float32)
    squares, counts = pairs(x[None], np.ones(x.shape, bool))
    areal = fit(squares, counts)
    sill, found = deconvolve(*areal, ratio)
    assert found == pytest.approx(length, rel=0.3)
    assert sill == pytest.approx(1, rel=0.25)
    assert areal[0] <= sill
    # Nearer to the cells of the field, where it matters, than the model of cells taken for one of points.
    at_once, naive, true = (
        c * regularised(np.array([r]), ratio)[0, 0]
        for c, r in ((sill, found), (areal[0], areal[1] * ratio), (1.0, length))
    )
    assert abs(at_once - true) < 0.5 * abs(naive - true)


# Kriging


@both_ratios
@pytest.mark.parametrize("length", [0.3, 3.0, 40.0])
def test_kriging_solves_the_system_of_each_point(ratio, length):
    found = kriging(length, ratio)
    blocks = [points(i, j, ratio) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    system = np.ones((10, 10))
    system[9, 9] = 0
    system[:9, :9] = [[mean_covariance(p, q, length) for q in blocks] for p in blocks]
    for at in ((0, 0), (ratio - 1, 0), (ratio // 2, ratio - 1)):
        right = [*(mean_covariance(np.array([at]), block, length) for block in blocks), 1]
        np.testing.assert_allclose(found[at], np.linalg.solve(system, right)[:9], atol=1e-9)


@both_ratios
@given(length=st.floats(0.05, 2000))
def test_kriged_points_of_a_cell_have_its_mean(ratio, length):
    weights = kriging(length, ratio)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-9)
    np.testing.assert_allclose(weights.mean(axis=(0, 1)), np.eye(9)[4], atol=1e-9)
    square = weights.reshape(ratio, ratio, 3, 3)
    np.testing.assert_allclose(square, square[::-1, :, ::-1], atol=1e-9)
    np.testing.assert_allclose(square, square.transpose(1, 0, 3, 2), atol=1e-9)


# The method


@both_ratios
def test_it_is_statistical(ratio):
    (method,) = make(RATIOS[ratio], "mtf")
    assert method.rounds
    assert method.produces == RATIOS[ratio]
    assert [m.produces for m in make(("B05", "B09"), "box")] == [("B05",), ("B09",)]


@both_ratios
@pytest.mark.parametrize("synthesis", [False, True])
def test_coherence(ratio, synthesis):
    """The mean of each cell is what was measured, to float32, where the operator is that mean."""
    a, _, low = image(ratio, 48 * ratio)
    bands = RATIOS[ratio][:2]
    _, out = run(ATPRK(bands, synthesis, "box"), a, low)
    np.testing.assert_allclose(box(out, ratio), low, rtol=0, atol=2e-3)
    assert rmse(upsample(low, ratio), out) > 50  # it added something


@both_ratios
@pytest.mark.parametrize("operator", ["gaussian", *OPERATORS])
def test_the_mean_of_what_is_kriged_is_the_residual(ratio, operator):
    """Whatever the operator: the result less the prediction keeps the residual."""
    a, _, low = image(ratio, 24 * ratio)
    bands = RATIOS[ratio][:2]
    method, _ = run(ATPRK(bands, operator=operator), a, low)
    none = low[:0]
    (p, residual), _ = method._split(a, *((low, none) if ratio == 2 else (none, low)))
    out = method(a, *((low, none) if ratio == 2 else (none, low)))
    np.testing.assert_allclose(box(out[0] - p, ratio), residual, rtol=0, atol=2e-3)
    assert residual.std() > 20


@both_ratios
@pytest.mark.parametrize("best", [0, 3])
@pytest.mark.parametrize("gain", [1.7, -0.4])
def test_it_recovers_a_line_on_one_band(ratio, best, gain):
    """The coarse band is a 10 m band as the method sees it from afar, times a gain of either sign."""
    a, *_ = image(ratio, 30 * ratio, seed=3)
    method = ATPRK((RATIOS[ratio][0],))
    truth = gain * a[best] + 3000
    weights, before = method._taps(method.bands[0])
    wide = context(truth, ratio)
    low = (np.lib.stride_tricks.sliding_window_view(wide, (3 * ratio, 3 * ratio))[::ratio, ::ratio] @ weights) @ weights
    assert before == ratio
    taught, out = run(method, a, low[None].astype(np.float32))
    np.testing.assert_allclose(taught.weights[0], [*(gain * np.eye(4)[best]), 0.3], atol=2e-4)
    np.testing.assert_allclose(out[0], truth, rtol=0, atol=0.05)


def test_synthesis_takes_all_bands():
    a, *_ = image(2, 80)
    share = np.array([0.2, 0.5, -0.3, 0.4])
    truth = np.tensordot(share, a, 1) + 1000
    taught, out = run(ATPRK(("B05",), True, "box"), a, box(truth, 2)[None].astype(np.float32))
    np.testing.assert_allclose(taught.weights[0], [*share, 0.1], atol=1e-4)
    np.testing.assert_allclose(out[0], truth, atol=0.05)
    alone, other = run(ATPRK(("B05",), False, "box"), a, box(truth, 2)[None].astype(np.float32))
    assert np.count_nonzero(alone.weights[0, :4]) == 1
    assert rmse(other[0], truth) > 20


@both_ratios
def test_better_than_bicubic(ratio):
    """On bands that share detail with the 10 m bands, and, by kriging alone, on those that share none."""
    a, truth, low = image(ratio, 40 * ratio, seed=5)
    inner = (..., slice(6 * ratio, -6 * ratio), slice(6 * ratio, -6 * ratio))
    cubic = rmse(upsample(low, ratio)[inner], truth[inner])
    bands = RATIOS[ratio][:2]
    assert rmse(run(ATPRK(bands, operator="box"), a, low)[1][inner], truth[inner]) < 0.8 * cubic
    _, out = run(ATPRK(bands, operator="box"), np.full_like(a, 1500), low)
    assert rmse(out[inner], truth[inner]) < cubic


@both_ratios
def test_learning_nothing_still_interpolates(ratio):
    a, _, low = image(ratio, 12 * ratio)
    method = ATPRK(RATIOS[ratio][:2])
    method = method.learn(np.zeros(2 * 36))
    method = method.learn(np.zeros(3 * LAGS))
    none = low[:0]
    out = method(a, *((low, none) if ratio == 2 else (none, low)))
    np.testing.assert_allclose(box(out, ratio), low, rtol=0, atol=2e-3)
    assert np.ptp(out - low.repeat(ratio, 1).repeat(ratio, 2)) > 20  # smoothly


def test_learning_again_begins_anew():
    first, _ = run(ATPRK(("B05",)), *image(2, 40, bands=1)[::2])
    fresh, _ = run(ATPRK(("B05",)), *image(2, 40, seed=9, bands=1)[::2])
    again, _ = run(first, *image(2, 40, seed=9, bands=1)[::2])
    np.testing.assert_array_equal(again.filters, fresh.filters)
    assert np.any(again.weights != first.weights)


@pytest.mark.parametrize("level", [0, -300, pytest.param(12000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3)])
@both_ratios
def test_constant_and_tiny_images(level, size, ratio):
    ds = make_cube(*size)
    for band in (*A, *B, *C):
        ds[band] = ds[band] * 0 + np.float32(level)
    flat = ds.dsen2.superresolve(RATIOS[ratio], method=ATPRK(RATIOS[ratio]), native=False).compute()
    for band in RATIOS[ratio]:
        np.testing.assert_allclose(flat[band], level, atol=2e-3)
    other = ds.assign({b: ds[b] + make_cube(*size)[b] for b in RATIOS[ratio]})  # nothing to predict from
    out = other.dsen2.superresolve(RATIOS[ratio], method=ATPRK(RATIOS[ratio]), native=False).compute()
    for band in RATIOS[ratio]:
        np.testing.assert_allclose(box(out[band].values, ratio), other[band], atol=5e-3)


@both_ratios
@settings(max_examples=4)
@given(chunk=st.integers(40, 400), seed=st.integers(0, 9), holes=st.booleans())
def test_chunks_leave_no_seam(ratio, chunk, seed, holes):
    """Over an image of several tiles."""
    ds = make_cube(64, 62, seed=seed)
    method = ATPRK(RATIOS[ratio][:2])
    if holes:
        rng = np.random.default_rng(seed)
        for band in ("B03", method.bands[0]):
            ds = change(ds, band, lambda x: np.putmask(x, rng.random(x.shape) < 0.02, np.nan))
    both = (ds, chunked(ds, chunk))
    whole, cut = (x.dsen2.superresolve(method.bands, method=method, native=False).compute() for x in both)
    for band in method.bands:
        np.testing.assert_allclose(cut[band], whole[band], rtol=0, atol=1e-3)
        blank = np.isnan(ds["B03"].values) | np.isnan(ds[method.bands[0]].values).repeat(ratio, 0).repeat(ratio, 1)
        np.testing.assert_array_equal(np.isnan(whole[band].values), blank)


def chunked(ds, chunk):
    dims = {"y": 1, "x": 1, "y_20m": 2, "x_20m": 2, "y_60m": 6, "x_60m": 6}
    return ds.chunk({dim: max(1, chunk // factor) for dim, factor in dims.items()})


@both_ratios
def test_beyond_the_edges_there_are_no_pairs(ratio):
    """The context is mirrored, and its pairs would say that far pixels are alike."""
    a, _, low = image(ratio, 9 * ratio)
    method = ATPRK(RATIOS[ratio][:1])
    edge = method.gather_halo[10]
    none = low[:0]
    inputs = (context(a, edge), context(low[:1], edge // ratio))
    inputs = (inputs[0], inputs[1], none) if ratio == 2 else (inputs[0], none, inputs[1])
    own = np.pad(np.ones(a.shape[1:], bool), edge)
    method = method.learn(method.gather(*inputs, own | True, own))
    squares, counts = method.gather(*inputs, own | True, own).reshape(2, LAGS)
    np.testing.assert_array_equal(counts, [2 * 9 * max(9 - lag, 0) for lag in range(1, LAGS + 1)])
    assert (squares[:8] > 0).all()
    assert not squares[8:].any()


@both_ratios
def test_what_is_masked_is_not_learnt(ratio):
    """Noise where nothing is valid changes neither the line nor the semivariogram."""
    a, _, low = image(ratio, 40 * ratio)
    valid = np.ones(a.shape[1:], bool)
    valid[: 20 * ratio] = False
    spoilt, coarse = a.copy(), low.copy()
    spoilt[:, : 19 * ratio] = 9999 * np.random.default_rng(0).random(spoilt[:, : 19 * ratio].shape)
    coarse[:, :19] = -5000
    method = ATPRK(RATIOS[ratio][:2])
    one, _ = run(method, a, low, valid)
    other, _ = run(method, spoilt, coarse, valid)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-9)
    np.testing.assert_array_equal(one.variograms, other.variograms)
    everything, _ = run(method, spoilt, coarse)
    assert np.abs(everything.weights - one.weights).max() > 0.01


@pytest.mark.real
@pytest.mark.skipif(bool(scenes.missing()), reason=str(scenes.missing()))
@pytest.mark.parametrize(("scale", "bands"), [(2, B), (6, C)])
def test_real_scene(scale, bands):
    from xsen2.training.scenes import read_scenes

    scene = next(s for s in read_scenes(scenes.SHARED / "data/validation") if s.name == "aguasclaras_1")
    scores = scene.cube().dsen2.evaluate(["bicubic", ATPRK(bands)], scale=scale, operator="mtf")
    cubic, ours = scores["rmse"].mean("band").values
    assert ours < 0.6 * cubic
