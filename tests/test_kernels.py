"""Degradation kernels against closed forms and naive references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from xsen2.bands import BANDS
from xsen2.engine.operators import OPERATORS, PRODUCT, degrade_array, observed, support, taps
from xsen2.errors import MethodError

SCALES = (2, 3, 6)


def naive(x, weights, before, scale):
    """Two loops over coarse pixels, two over weights; symmetric edges; NaN left out."""
    n, m = (size // scale for size in x.shape)
    out = np.full((n, m), np.nan)

    def mirrored(i, size):
        i %= 2 * size
        return i if i < size else 2 * size - 1 - i

    for r in range(n):
        for c in range(m):
            if np.isfinite(x[r * scale : (r + 1) * scale, c * scale : (c + 1) * scale]).mean() < 0.5:
                continue
            total = share = 0.0
            for j, wj in enumerate(weights):
                for k, wk in enumerate(weights):
                    row = mirrored(r * scale - before + j, x.shape[0])
                    value = x[row, mirrored(c * scale - before + k, x.shape[1])]
                    if np.isfinite(value):
                        total += wj * wk * value
                        share += wj * wk
            out[r, c] = total / share
    return out


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("scale", [1, *SCALES])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axis", [0, 1])
def test_weights_sum_to_one_and_are_symmetric(band, scale, operator, axis):
    weights, before = taps(band, scale, operator, axis=axis)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(weights, weights[::-1], atol=1e-15)
    # Symmetric about the centre of the coarse pixel, so nothing is shifted.
    assert (len(weights) - 1) / 2 - before == pytest.approx((scale - 1) / 2)
    other = taps(band, scale, operator, axis=1 - axis)[1]
    assert support(band, scale, operator) == max(before, other, 0)


def test_dsen2_at_2_is_the_gaussian_of_the_paper_and_a_mean():
    weights, before = taps("B05", 2, "dsen2")
    gauss = np.array([0.0003, 0.1065, 0.7866, 0.1065, 0.0003])
    np.testing.assert_allclose(weights, np.convolve(gauss / gauss.sum(), [0.5, 0.5]), atol=5e-5)
    assert before == 2


def test_dsen2_at_6_is_a_mean():
    weights, before = taps("B01", 6, "dsen2")
    np.testing.assert_allclose(weights[before : before + 6], 1 / 6, atol=1e-7)
    assert np.delete(weights, slice(before, before + 6)).max() < 1e-7


@pytest.mark.parametrize("scale", [2, 6])
def test_dsen2_is_what_scipy_gives(scale):
    # The operator as its authors wrote it: skimage's gaussian (scipy, reflect, truncate 4), then the mean.
    x = np.random.default_rng(1).uniform(0, 4000, (36, 48))
    blurred = gaussian_filter(x, 1 / scale, mode="reflect", truncate=4.0)
    expected = blurred.reshape(36 // scale, scale, 48 // scale, scale).mean(axis=(1, 3))
    np.testing.assert_allclose(degrade_array(x, *taps("B05", scale, "dsen2"), scale), expected, rtol=1e-5)


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("scale", SCALES)
def test_mtf_at_the_coarse_nyquist_is_that_of_the_band(band, scale):
    # Input and kernel together must pass at 1 / (2 scale) what the sensor passes at its own Nyquist.
    weights, _ = taps(band, scale, "mtf")
    frequency = 1 / (2 * scale)
    j = np.arange(len(weights)) - (len(weights) - 1) / 2
    kernel = float((weights * np.cos(2 * np.pi * frequency * j)).sum())
    sigma = BANDS[band].psf_sigma
    already = np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    assert kernel * already == pytest.approx(BANDS[band].mtf, rel=0.01)


def test_blur_and_shift_move_the_moments():
    j = np.arange(100)

    def moments(**how):
        weights, before = taps("B02", 6, "mtf", **how)
        where = j[: len(weights)] - before
        mean = (weights * where).sum()
        return mean, np.sqrt((weights * (where - mean) ** 2).sum())

    mean, sd = moments()
    shifted, _ = moments(shift=0.2)
    _, wider = moments(blur=1.1)
    assert mean == pytest.approx(2.5)
    assert shifted - mean == pytest.approx(0.2, abs=1e-3)
    assert wider / sd == pytest.approx(1.1, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.sampled_from(SCALES),
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    operator=st.sampled_from(OPERATORS),
    band=st.sampled_from(["B02", "B05", "B12"]),
    hole=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_equals_the_naive_reference_with_nodata(scale, rows, cols, operator, band, hole, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-200, 12000, (rows * scale, cols * scale)).astype(np.float32)
    x[rng.random(x.shape) < hole] = np.nan
    weights, before = taps(band, scale, operator)
    got = degrade_array(x, weights, before, scale)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, naive(x.astype(float), weights, before, scale), rtol=1e-4, atol=0.05)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("scale", SCALES)
def test_constants_stay_and_ramps_are_sampled_at_the_centre(operator, scale):
    flat = np.full((2, 12 * scale, 12 * scale), 1234.5, np.float32)
    weights, before = taps("B01", scale, operator)
    np.testing.assert_allclose(degrade_array(flat, weights, before, scale), 1234.5, rtol=1e-6)
    flat[:, 3, :7] = np.nan
    np.testing.assert_allclose(degrade_array(flat, weights, before, scale), 1234.5, rtol=1e-6)

    y, x = np.mgrid[: 12 * scale, : 12 * scale].astype(np.float32)
    got = degrade_array(10 * y + x, weights, before, scale)
    cy, cx = (np.mgrid[:12, :12] * scale + (scale - 1) / 2).astype(np.float32)
    inner = np.s_[4:-4, 4:-4]  # away from mirrored edges
    np.testing.assert_allclose(got[inner], (10 * cy + cx)[inner], rtol=1e-5)


def test_nodata_reaches_no_further_than_the_support():
    x = np.random.default_rng(0).uniform(100, 200, (48, 48)).astype(np.float32)
    weights, before = taps("B05", 2, "mtf")
    clean = degrade_array(x, weights, before, 2)
    x[20, 31] = np.nan
    changed = degrade_array(x, weights, before, 2) != clean
    reach = support("B05", 2, "mtf")
    rows, cols = np.nonzero(changed)
    assert changed.any()
    assert np.isfinite(degrade_array(x, weights, before, 2)).all()
    assert (20 - reach - 1) // 2 <= rows.min() <= rows.max() <= (20 + reach) // 2
    assert (31 - reach - 1) // 2 <= cols.min() <= cols.max() <= (31 + reach) // 2


def test_rows_and_columns_may_differ():
    x = np.random.default_rng(0).uniform(100, 200, (24, 24)).astype(np.float32)
    one, two = taps("B05", 2, "mtf"), taps("B05", 2, "box")
    mixed = degrade_array(x, *one, 2, columns=two)
    np.testing.assert_allclose(mixed, degrade_array(x.T, *two, 2, columns=one).T, rtol=1e-6)
    assert not np.allclose(mixed, degrade_array(x, *one, 2))


@pytest.mark.parametrize(("scale", "operator"), [(0, "mtf"), (1.5, "box"), (2, "nearest")])
def test_bad_arguments_are_named(scale, operator):
    with pytest.raises(MethodError, match=r"scale=|unknown operator"):
        taps("B02", scale, operator)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("band", BANDS)
def test_product_is_mtf_of_other_widths_along_and_across(band, scale):
    def width(weights):
        place = np.arange(len(weights))
        return np.sqrt(weights @ place**2 - (weights @ place) ** 2)

    plain = width(taps(band, scale, "mtf")[0])
    found = [width(taps(band, scale, "product", axis=axis)[0]) / plain for axis in (0, 1)]
    np.testing.assert_allclose(found, PRODUCT[band], rtol=0.02)
    x = np.zeros((9 * scale, 9 * scale), np.float32)
    x[4 * scale : 5 * scale, 4 * scale : 5 * scale] = 1
    seen = observed(x, band, scale, "product")
    rows, columns = (taps(band, scale, "product", axis=axis) for axis in (0, 1))
    np.testing.assert_allclose(seen, degrade_array(x, *rows, scale, columns))
    if PRODUCT[band][0] != PRODUCT[band][1]:
        assert not np.allclose(seen, seen.T, atol=1e-3)
