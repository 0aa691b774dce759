"""Regression on the 10 m bands: scenes that are linear in them, and what is left over."""

from __future__ import annotations

import numpy as np
import pytest
from cubes import make_cube
from hypothesis import given
from hypothesis import strategies as st

from xsen2.bands import A, B, C
from xsen2.engine.operators import OPERATORS, correlate, observed, taps
from xsen2.methods import regression
from xsen2.methods.bicubic import upsample

pytestmark = pytest.mark.usefixtures("thin_blocks")

BANDS = {2: B, 6: C}

for_both_grids = pytest.mark.parametrize("ratio", BANDS)


def one(bands, operator="mtf"):
    (method,) = regression.make(tuple(bands), operator)
    return method


def taught(method, a, low, own=None):
    nothing = np.empty((0, 0, 0), np.float32)
    arrays = (a, low, nothing) if method.bands[0] in B else (a, nothing, low)
    valid = np.ones(a.shape[1:], bool)
    return method.learn(method.gather(*arrays, valid, valid if own is None else own)), arrays


def linear(ratio, operator, size=72, seed=0):
    """10 m bands, low-resolution bands that are linear in them, and these as they are measured."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(200, 4000, (4, size, size)).astype(np.float32)
    bands = BANDS[ratio]
    weights = rng.uniform(-0.3, 0.8, (len(bands), 4))
    truth = np.tensordot(weights, a.astype(np.float64), 1) + rng.uniform(-300, 300, (len(bands), 1, 1))
    low = [observed(np.float32(t), b, ratio, operator) for b, t in zip(bands, truth, strict=True)]
    return a, weights, truth, np.stack(low)


@for_both_grids
@pytest.mark.parametrize("operator", OPERATORS)
def test_linear_scene_is_recovered(ratio, operator):
    a, weights, truth, low = linear(ratio, operator)
    method, arrays = taught(one(BANDS[ratio], operator), a, low)
    np.testing.assert_allclose(method.weights[:, :4], weights, atol=1e-4)
    np.testing.assert_allclose(method(*arrays), truth, atol=0.5)


@for_both_grids
@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_left_over_is_interpolated(ratio, operator):
    # A residual that no 10 m band explains changes no weight, and comes out as bicubic interpolation makes it.
    bands = BANDS[ratio]
    a, weights, truth, low = linear(ratio, operator)
    rest = np.random.default_rng(1).normal(0, 200, low.shape)
    for k, band in enumerate(bands):
        columns = observed(a, band, ratio, operator).reshape(4, -1).T.astype(np.float64)
        columns = np.concatenate([columns, np.ones((len(columns), 1))], axis=1)
        rest[k] -= (columns @ np.linalg.lstsq(columns, rest[k].ravel(), rcond=None)[0]).reshape(rest[k].shape)
    rest = rest.astype(np.float32)
    method, arrays = taught(one(bands, operator), a, low + rest)
    np.testing.assert_allclose(method.weights[:, :4], weights, atol=1e-4)
    np.testing.assert_allclose(method(*arrays), truth + upsample(rest, ratio), atol=0.5)


@for_both_grids
def test_bands_that_say_the_same(ratio):
    # Singular normal equations: any weights with the right sum will do, but none may be wild.
    a, *_ = linear(ratio, "mtf")
    a[1:] = a[0]
    truth = 0.5 * a[0] + 100
    low = np.stack([correlate(truth, *taps(band, ratio, "mtf"), ratio) for band in BANDS[ratio]])
    method, arrays = taught(one(BANDS[ratio]), a, low)
    assert np.abs(method.weights[:, :4]).max() < 0.6
    np.testing.assert_allclose(method(*arrays), np.broadcast_to(truth, method(*arrays).shape), atol=0.5)


@for_both_grids
def test_only_own_pixels_count(ratio):
    a, weights, _, low = linear(ratio, "mtf", size=192)
    own = np.zeros((192, 192), bool)
    own[:72, :72] = True
    a[:, 120:], low[:, 120 // ratio :] = 9000, 12
    method, _ = taught(one(BANDS[ratio]), a, low, own)
    np.testing.assert_allclose(method.weights[:, :4], weights, atol=1e-4)


@for_both_grids
def test_chunks_and_one_call_give_the_same(ratio):
    ds = make_cube(4, 5, seed=4)
    a, low = (np.stack([ds[band].values for band in grid]) for grid in (A, BANDS[ratio]))
    method, arrays = taught(one(BANDS[ratio]), a, low)
    whole = method(*arrays)
    for chunks in (None, {10: 18, 20: 7, 60: 2}):
        cut = make_cube(4, 5, seed=4, chunks=chunks)
        sr = cut.dsen2.superresolve(bands=BANDS[ratio], method=one(BANDS[ratio]), consistency=False)
        np.testing.assert_allclose(np.stack([sr[band] for band in BANDS[ratio]]), whole, rtol=0, atol=1e-3)


@for_both_grids
def test_without_a_pixel_nothing_is_added(ratio):
    a, _, _, low = linear(ratio, "mtf", size=24)
    method, arrays = taught(one(BANDS[ratio]), a, low, np.zeros((24, 24), bool))
    np.testing.assert_allclose(method(*arrays), upsample(low, ratio), atol=1e-3)


@given(
    ratio=st.sampled_from([2, 6]),
    cells=st.integers(1, 4),
    kind=st.sampled_from(["constant", "zero", "noise", "negative", "dark", "wild"]),
    seed=st.integers(0, 99),
)
def test_any_pixels_give_finite_ones(ratio, cells, kind, seed):
    rng = np.random.default_rng(seed)
    size = 6 * cells
    shapes = ((4, size, size), (len(BANDS[ratio]), size // ratio, size // ratio))
    low, high = {"negative": (-900, 200), "dark": (-3, 3), "wild": (-1000, 65000)}.get(kind, (1, 4000))
    a, y = (rng.uniform(low, high, shape).astype(np.float32) for shape in shapes)
    level = np.float32(rng.uniform(1, 20000)) if kind == "constant" else np.float32(0)
    if kind in ("constant", "zero"):
        a[:], y[:] = level, level
    method, arrays = taught(one(BANDS[ratio]), a, y)
    out = method(*arrays)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    if kind in ("constant", "zero"):
        np.testing.assert_allclose(out, level, atol=1e-3 * max(1, level))
