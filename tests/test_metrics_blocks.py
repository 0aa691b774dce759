"""SSIM, Q2n and cPSNR: what they are for, and where their windows and blocks lie."""

from __future__ import annotations

import warnings
from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from xsen2.evaluation.metrics import HALO, State, compare
from xsen2.evaluation.windows import BLOCK, signs, whole


def scene(shape=(4, 70, 80), seed=0):
    rng = np.random.default_rng(seed)
    truth = 1500 + 40 * rng.standard_normal(shape).cumsum(axis=-1).cumsum(axis=-2)
    return truth + rng.normal(0, 60, shape), truth


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_products_of_hypercomplex_numbers(size):
    rng = np.random.default_rng(size)
    a, b = rng.standard_normal((2, size))
    product = np.zeros(size)
    for i in range(size):
        for j in range(size):
            product[i ^ j] += signs(size)[i, j] * a[i] * b[j]
    if size <= 8:  # real, complex, quaternions, octonions: the norm of a product is the product of norms
        assert np.linalg.norm(product) == pytest.approx(np.linalg.norm(a) * np.linalg.norm(b))
    else:
        assert np.linalg.norm(product) != pytest.approx(np.linalg.norm(a) * np.linalg.norm(b))
    if size == 2:
        got = complex(*a) * complex(*b)
        np.testing.assert_allclose(product, [got.real, got.imag])


def test_q2n_of_two_bands_is_that_of_complex_numbers():
    estimate, truth = scene((2, BLOCK, BLOCK))
    z, w = (v[0] + 1j * v[1] for v in (truth, estimate))
    covariance = np.mean((z - z.mean()) * np.conj(w - w.mean()))
    top = 4 * abs(covariance) * abs(z.mean()) * abs(w.mean())
    expected = top / ((np.var(z) + np.var(w)) * (abs(z.mean()) ** 2 + abs(w.mean()) ** 2))
    assert State.of(estimate, truth).finish()["q2n"] == pytest.approx(expected, rel=1e-12)


def test_q2n_pads_bands_with_zeros():
    estimate, truth = scene((3, BLOCK, BLOCK))
    padded = [np.concatenate([v, np.zeros((1, BLOCK, BLOCK))]) for v in (estimate, truth)]
    assert State.of(estimate, truth).finish()["q2n"] == pytest.approx(State.of(*padded).finish()["q2n"], rel=1e-13)


def test_q2n_sees_bands_that_are_exchanged_and_uiq_of_the_mean_does_not():
    _, truth = scene((2, BLOCK, BLOCK))
    got = State.of(truth[::-1], truth).finish()
    assert got["q2n"] < 0.99
    assert State.of(truth, truth).finish()["q2n"] == pytest.approx(1, rel=1e-12)


def test_blocks_of_q2n_are_the_images_not_the_chunks():
    estimate, truth = scene((2, 70, 70))
    moved = State.of(estimate, truth, at=(20, 0)).finish()["q2n"]
    part = np.s_[:, 12:44]
    expected = State.of(estimate[part], truth[part]).finish()["q2n"]
    assert moved == pytest.approx(expected, rel=1e-13)
    assert moved != pytest.approx(State.of(estimate, truth).finish()["q2n"], rel=1e-6)


def test_one_bad_pixel_in_one_band_takes_one_block():
    estimate, truth = scene((3, 64, 64))
    clean = State.of(estimate, truth)
    truth[1, 40, 10] = np.nan
    got = State.of(estimate, truth)
    blocks = [
        State.of(estimate[:, r : r + 32, c : c + 32], truth[:, r : r + 32, c : c + 32])
        for r in (0, 32)
        for c in (0, 32)
    ]
    expected = np.mean([s.finish()["q2n"] for s in (blocks[0], blocks[1], blocks[3])])
    assert got.finish()["q2n"] == pytest.approx(expected, rel=1e-12)
    assert clean.finish()["q2n"] != pytest.approx(expected, rel=1e-9)
    assert np.isnan(blocks[2].finish()["q2n"])


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-1, 3)])
def test_cpsnr_forgives_shift_and_brightness(shift):
    _, big = scene((1, 60, 60))
    rng = np.random.default_rng(3)
    truth = big[:, 5:55, 5:55]
    noise = rng.normal(0, 20, truth.shape)
    estimate = big[:, 5 + shift[0] : 55 + shift[0], 5 + shift[1] : 55 + shift[1]] + noise + 300
    got = State.of(estimate, truth).finish()
    assert got["cpsnr"][0] == pytest.approx(20 * np.log10(1e4 / noise[:, 3:-3, 3:-3].std()), abs=1e-9)
    assert got["psnr"][0] < 31  # 300 DN off


def test_cpsnr_finds_no_shift_of_four():
    _, big = scene((1, 60, 60))
    assert State.of(big[:, 4:], big[:, :-4]).finish()["cpsnr"][0] < 60
    assert np.isposinf(State.of(big[:, 3:], big[:, :-3]).finish()["cpsnr"][0])


def test_the_shift_is_one_for_the_whole_image():
    _, big = scene((1, 80, 60))
    halves = [(big[:, 2:42], big[:, :40]), (big[:, 38:78], big[:, 40:80])]  # displaced by 2 up, by 2 down
    each = [State.of(estimate, truth) for estimate, truth in halves]
    assert all(np.isposinf(s.finish()["cpsnr"][0]) for s in each)
    assert State.merge(each).finish()["cpsnr"][0] < 60


def test_a_shift_that_nodata_leaves_hardly_a_pair_is_no_match():
    estimate, truth = np.random.default_rng(0).normal(1000, 50, (2, 12, 12))
    truth[:5] = np.nan
    truth[5, :6] = estimate[8, 3:9] + 7  # all that is left if the truth is displaced by 3 up and 3 to the left
    seen = np.isfinite(truth)
    errors = {}
    for r in range(7):
        for c in range(7):
            there = np.s_[r : r + 6, c : c + 6]
            pairs = seen[there] & seen[3:9, 3:9]
            errors[r, c] = int(pairs.sum()), np.var((truth[there] - estimate[3:9, 3:9])[pairs])
    most = max(n for n, _ in errors.values())
    least = min(error for n, error in errors.values() if 2 * n >= most)
    assert errors[0, 0] == (6, pytest.approx(0))
    assert least > 100
    got = State.of(estimate[None], truth[None]).finish()["cpsnr"][0]
    assert got == pytest.approx(10 * np.log10(1e8 / least), rel=1e-12)
    one = np.full((1, 7, 7), np.nan)
    one[0, 3, 3] = 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(State.of(one, one).finish()["cpsnr"][0])  # a single pair


def test_ssim_is_one_or_less_for_noise_and_grows_with_r():
    estimate, truth = scene((1, 40, 40))
    index = State.of(estimate, truth).finish()["ssim"][0]
    assert 0 < index < 1
    assert State.of(estimate / 10, truth / 10).finish()["ssim"][0] > index  # R stays 10000 DN: less contrast is told


@pytest.mark.parametrize("size", [1, 3, 8, 11])
def test_whole_windows(size):
    seen = np.random.default_rng(size).random((30, 25)) > 0.02
    views = np.lib.stride_tricks.sliding_window_view(seen, (size, size))
    np.testing.assert_array_equal(whole(seen, size), views.all(axis=(2, 3)))


@settings(max_examples=15)
@given(
    rows=st.lists(st.integers(31, 60), min_size=1, max_size=4),
    cols=st.lists(st.integers(31, 60), min_size=1, max_size=4),
    bands=st.integers(1, 5),
    holes=st.integers(0, 3),
    dtype=st.sampled_from([np.float64, np.float32, np.uint16]),
    offset=st.sampled_from([0, 10_000]),
    seed=st.integers(0, 99),
)
def test_chunks_do_not_move_blocks(rows, cols, bands, holes, dtype, offset, seed):
    # Chunks that no lattice of 32 divides, each wide enough to be kept; a bright scene, and one nearly flat in DN.
    height, width = sum(rows), sum(cols)
    rng = np.random.default_rng(seed)
    truth = (3000 + offset + 30 * rng.standard_normal((bands, height, width)).cumsum(axis=-1)).clip(0, 60000)
    estimate = (truth + rng.normal(0, 30, truth.shape)).clip(0, 60000).astype(dtype)
    truth = truth.astype(dtype)
    if dtype != np.uint16:
        for band, r, c in zip(rng.integers(bands, size=holes), *rng.integers(31, size=(2, holes)), strict=True):
            truth[band, r, c] = np.nan
    names = [f"b{i}" for i in range(bands)]
    chunked, whole_image = (
        compare(
            *(
                xr.Dataset({n: (("y", "x"), da.from_array(v, chunks=c)) for n, v in zip(names, values, strict=True)})
                for values in (estimate, truth)
            ),
            ratio=2,
        ).compute(scheduler="sync")
        for c in ((tuple(rows), tuple(cols)), -1)
    )
    for name in chunked:
        np.testing.assert_allclose(chunked[name], whole_image[name], rtol=1e-9, atol=1e-12, err_msg=str(name))
    plain = State.of(estimate.astype(np.float64), truth.astype(np.float64)).finish(2)
    for name in chunked:
        np.testing.assert_allclose(chunked[name], plain[name], rtol=1e-9, atol=1e-12, err_msg=str(name))


@settings(max_examples=15)
@given(
    cuts=st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True),
    order=st.randoms(use_true_random=False),
    share=st.sampled_from([0.0, 0.0003, 0.3]),
    wild=st.sampled_from([np.nan, np.inf, -9999.0, 0.0]),
    seed=st.integers(0, 99),
)
def test_masks_and_the_order_of_merging(cuts, order, share, wild, seed):
    estimate, truth = scene((2, 100, 45), seed)
    hidden = np.random.default_rng(seed).random(truth.shape) < share
    whole_image = State.of(np.where(hidden, wild, estimate), truth, valid=~hidden)
    truth = np.where(hidden, np.nan, truth)
    borders = [0, *sorted(cuts), 100]
    parts = [
        State.of(estimate[:, a : b + HALO], truth[:, a : b + HALO], inner=(b - a, 45), at=(a, 0))
        for a, b in pairwise(borders)
    ]
    order.shuffle(parts)
    while len(parts) > 1:
        some = order.randint(2, len(parts))
        parts = [*parts[some:], State.merge(parts[:some])]
    got, expected = parts[0].finish(2), whole_image.finish(2)
    for name in got:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


@given(
    a=st.floats(0, 20_000, width=32), b=st.floats(0, 20_000, width=32), dtype=st.sampled_from([np.float32, np.uint16])
)
def test_constant_images_are_compared_by_their_means(a, b, dtype):
    estimate, truth = (np.full((3, 40, 40), level, dtype) for level in (a, b))
    a, b = float(estimate[0, 0, 0]), float(truth[0, 0, 0])
    got = State.of(estimate, truth).finish(2)
    alike = 1.0 if a == b == 0 else 2 * a * b / (a * a + b * b)
    assert got["uiq"] == pytest.approx(alike, rel=1e-9)
    assert got["q2n"] == pytest.approx(alike, rel=1e-9)
    assert got["ssim"] == pytest.approx((2 * a * b + 1e4) / (a * a + b * b + 1e4), rel=1e-9)
    assert np.isposinf(got["cpsnr"]).all()
    assert got["rmse"] == pytest.approx(abs(a - b), rel=1e-9)
