"""Metrics against double loops, and their independence of how pixels are cut into blocks."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from cubes import no_compute
from hypothesis import given, settings
from hypothesis import strategies as st

from xsen2.errors import BandError, GridError
from xsen2.evaluation.metrics import HALO, PER_BAND, SPECTRAL, State, compare

EVERY = (*PER_BAND, *SPECTRAL)


def scene(shape=(3, 21, 26), hole=0.02, seed=0):
    rng = np.random.default_rng(seed)
    truth = (1500 + 400 * rng.standard_normal(shape)).cumsum(axis=-1) / 8 % 9000 - 100
    estimate = truth + rng.normal(5, 120, shape)
    truth[rng.random(shape) < hole] = np.nan
    estimate[rng.random(shape) < hole] = np.nan
    return estimate, truth


def times(a, b):
    """Cayley & Dickson's product of hypercomplex numbers along the last axis."""
    half = a.shape[-1] // 2
    if not half:
        return a * b
    (a, b), (c, d) = ((v[..., :half], v[..., half:]) for v in (a, b))
    return np.concatenate([times(a, c) - times(star(d), b), times(d, a) + times(b, star(c))], axis=-1)


def star(a):
    return np.concatenate([a[..., :1], -a[..., 1:]], axis=-1)


def hypercomplex(truth, estimate):
    """Q2n of one block ``(band, H, W)``."""
    size = 2 ** int(np.ceil(np.log2(len(truth))))
    z, w = (np.pad(v.reshape(len(v), -1), ((0, size - len(v)), (0, 0))).T for v in (truth, estimate))
    mean_z, mean_w = z.mean(axis=0), w.mean(axis=0)
    covariance = np.linalg.norm(times(z, star(w)).mean(axis=0) - times(mean_z, star(mean_w)))
    spread = sum(np.mean(np.sum(v**2, axis=1)) - np.sum(v.mean(axis=0) ** 2) for v in (z, w))
    top = 4 * covariance * np.linalg.norm(mean_z) * np.linalg.norm(mean_w)
    return top / (spread * (mean_z @ mean_z + mean_w @ mean_w))


def corrected(truth, estimate, seen):
    """cPSNR of one band ``(H, W)``."""
    height, width = truth.shape
    errors = []
    for r in range(7):
        for c in range(7):
            there = np.s_[r : height - 6 + r, c : width - 6 + c]
            here = np.s_[3 : height - 3, 3 : width - 3]
            pairs = seen[there] & seen[here]
            errors.append(np.var(truth[there][pairs] - estimate[here][pairs]))
    return 10 * np.log10(1e8 / min(errors))


GAUSS = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
GAUSS = np.outer(GAUSS, GAUSS) / GAUSS.sum() ** 2


def naive(estimate, truth, ratio):
    """The formulas, pixel by pixel and window by window."""
    _, height, width = truth.shape
    both = np.isfinite(estimate) & np.isfinite(truth)
    out = {name: [] for name in PER_BAND}
    ergas = []
    for y, x, seen in zip(estimate, truth, both, strict=True):
        p, q = x[seen], y[seen]
        mse = sum((b - a) ** 2 for a, b in zip(p, q, strict=True)) / len(p)
        out["rmse"].append(mse**0.5)
        out["nrmse"].append(mse**0.5 / np.mean(p**2) ** 0.5)
        out["bias"].append(np.mean(q - p))
        out["sre"].append(10 * np.log10(np.mean(p) ** 2 / mse))
        out["psnr"].append(10 * np.log10(1e8 / mse))
        out["cc"].append(np.corrcoef(p, q)[0, 1])
        out["pixels"].append(len(p))
        ergas.append(mse / np.mean(p) ** 2)
        found = []
        for r in range(height - 7):
            for c in range(width - 7):
                window = np.s_[r : r + 8, c : c + 8]
                if seen[window].all():
                    a, b = x[window].ravel(), y[window].ravel()
                    cov = np.mean((a - a.mean()) * (b - b.mean()))
                    top = 4 * cov * a.mean() * b.mean()
                    found.append(top / ((a.var() + b.var()) * (a.mean() ** 2 + b.mean() ** 2)))
        out["uiq"].append(np.mean(found) if found else np.nan)
        found = []
        for r in range(height - 10):
            for c in range(width - 10):
                window = np.s_[r : r + 11, c : c + 11]
                if seen[window].all():
                    a, b = x[window], y[window]
                    mean_a, mean_b = (GAUSS * a).sum(), (GAUSS * b).sum()
                    var_a, var_b = (GAUSS * (a - mean_a) ** 2).sum(), (GAUSS * (b - mean_b) ** 2).sum()
                    cov = (GAUSS * (a - mean_a) * (b - mean_b)).sum()
                    top = (2 * mean_a * mean_b + 100**2) * (2 * cov + 300**2)
                    found.append(top / ((mean_a**2 + mean_b**2 + 100**2) * (var_a + var_b + 300**2)))
        out["ssim"].append(np.mean(found) if found else np.nan)
        out["cpsnr"].append(corrected(x, y, seen))
    angles = []
    for r in range(height):
        for c in range(width):
            a, b = truth[:, r, c], estimate[:, r, c]
            if both[:, r, c].all() and a @ a > 0 and b @ b > 0:
                cosine = a @ b / np.sqrt((a @ a) * (b @ b))
                angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    corners = [(r, c) for r in range(0, height - 31, 32) for c in range(0, width - 31, 32)]
    blocks = [np.s_[:, r : r + 32, c : c + 32] for r, c in corners]
    q2n = [hypercomplex(truth[block], estimate[block]) for block in blocks if both[block].all()]
    spectral = {"sam": np.mean(angles), "ergas": 100 / ratio * np.mean(ergas) ** 0.5}
    return out | spectral | {"q2n": np.mean(q2n) if q2n else np.nan}


@pytest.mark.parametrize("hole", [0.0, 0.0002, 0.02, 0.3])
def test_equals_the_formulas(hole):
    estimate, truth = scene((3, 34, 66), hole=hole)
    got, expected = State.of(estimate, truth).finish(ratio=2), naive(estimate, truth, 2)
    assert list(got) == list(EVERY)
    for name in EVERY:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-9, err_msg=name)


def test_sre_is_eq_7_of_the_paper():
    # Mean squared over MSE, not mean of squares: 10 log10(2^2 / 1).
    got = State.of(np.array([[[2.0, 4.0]]]), np.array([[[1.0, 3.0]]])).finish()
    assert got["sre"][0] == pytest.approx(10 * np.log10(4))
    assert got["nrmse"][0] == pytest.approx(1 / np.sqrt(5))


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 140),
    width=st.integers(1, 100),
    rows=st.integers(3, 141),
    cols=st.integers(3, 101),
    dates=st.integers(0, 2),
    hole=st.sampled_from([0.0, 0.0002, 0.01, 0.5]),
    seed=st.integers(0, 99),
)
def test_chunks_change_nothing(height, width, rows, cols, dates, hole, seed):
    lead = (dates,) if dates else ()
    dims = (*(("time",) if dates else ()), "y", "x")
    estimate, truth = scene((2, *lead, height, width), hole, seed)
    pair = [
        xr.Dataset({b: (dims, da.from_array(v, chunks=(*lead, r, c))) for b, v in zip("ab", values, strict=True)})
        for values, r, c in ((estimate, rows, cols), (truth, cols, rows))
    ]
    got = compare(*pair, ratio=2).compute(scheduler="sync")
    dates = dates or 1
    estimate, truth = (v.reshape(2, dates, height, width) for v in (estimate, truth))
    whole = State.merge([State.of(estimate[:, t], truth[:, t]) for t in range(dates)]).finish(2)
    for name in EVERY:
        np.testing.assert_allclose(got[name], whole[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_states_merge_in_any_order():
    estimate, truth = scene((2, 70, 40), hole=0.0002)
    cuts = [(0, 9), (9, 10), (10, 32), (32, 70)]
    parts = [State.of(estimate[:, a : b + HALO], truth[:, a : b + HALO], inner=(b - a, 40), at=(a, 0)) for a, b in cuts]
    whole = State.of(estimate, truth)
    nested = State.merge([State.merge(parts[2:]), State.merge([parts[1], parts[0]])])
    np.testing.assert_allclose(State.merge(parts).values, whole.values, rtol=1e-11)
    np.testing.assert_allclose(nested.values, whole.values, rtol=1e-11)


def test_windows_across_blocks_are_counted_once():
    estimate, truth = scene((1, 40, 30), hole=0)
    top = State.of(estimate[:, :27], truth[:, :27], inner=(20, 30))
    without_halo = State.of(estimate[:, :20], truth[:, :20])
    bottom = State.of(estimate[:, 20:], truth[:, 20:])
    whole = State.of(estimate, truth).finish()["uiq"]
    assert State.merge([top, bottom]).finish()["uiq"] == pytest.approx(whole, rel=1e-12)
    assert State.merge([without_halo, bottom]).finish()["uiq"] != pytest.approx(whole, rel=1e-12)


def test_bright_and_nearly_flat_blocks_merge_without_loss():
    # Where sum(x^2) - sum(x)^2 / n would lose every digit.
    rng = np.random.default_rng(0)
    truth = 1e4 + 1e-3 * rng.standard_normal((1, 64, 64))
    estimate = truth + 1e-3 * rng.standard_normal(truth.shape)
    parts = [State.of(estimate[:, :, i : i + 8], truth[:, :, i : i + 8]) for i in range(0, 64, 8)]
    got = State.merge(parts).finish()
    assert got["cc"][0] == pytest.approx(np.corrcoef(estimate.ravel(), truth.ravel())[0, 1], rel=1e-6)
    assert got["rmse"][0] == pytest.approx(np.sqrt(np.mean((estimate - truth) ** 2)), rel=1e-9)


def test_unsigned_integers_do_not_wrap():
    truth = np.array([[[10, 65535], [3, 0]], [[0, 9], [65535, 7]]], np.uint16)
    estimate = np.array([[[20, 65533], [0, 3]], [[5, 4], [65534, 9]]], np.uint16)
    got = State.of(estimate, truth).finish()
    assert got["rmse"][0] == pytest.approx(np.sqrt((100 + 4 + 9 + 9) / 4))
    same = State.of(estimate.astype(float), truth.astype(float))
    np.testing.assert_array_equal(State.of(estimate, truth).values, same.values)


def test_perfect_estimate():
    _, truth = scene(hole=0.005)
    got = State.of(truth, truth).finish(2)
    assert (got["rmse"] == 0).all()
    assert np.isposinf(got["sre"]).all()
    assert np.isposinf(got["psnr"]).all()
    assert np.isposinf(got["cpsnr"]).all()
    np.testing.assert_allclose(got["uiq"], 1, rtol=1e-12)
    assert got["sam"] == 0  # arccos of a rounded cosine would give 1e-6 degrees
    assert got["ergas"] == 0


@pytest.mark.parametrize("level", [7.0, 1234.567, 9876.54])
def test_flat_images(level):
    truth = np.full((1, 40, 40), level, np.float32)
    assert State.of(truth, truth).finish()["q2n"] == 1
    assert State.of(truth, truth).finish()["ssim"][0] == pytest.approx(1, rel=1e-12)
    assert np.isposinf(State.of(truth + 5, truth).finish()["cpsnr"][0])
    half = State.of(truth / 2, truth).finish()
    assert State.of(truth, truth).finish()["uiq"][0] == 1
    assert half["uiq"][0] == pytest.approx(2 * 0.5 / 1.25)  # only the means are compared
    assert half["q2n"] == pytest.approx(2 * 0.5 / 1.25)
    assert half["sam"] == 0
    noisy = truth + np.random.default_rng(0).normal(0, 1, truth.shape)
    assert State.of(noisy, truth).finish()["uiq"][0] == pytest.approx(0, abs=1e-8)
    zeros = np.zeros((2, 40, 40))
    assert State.of(zeros, zeros).finish()["q2n"] == 1
    assert (State.of(zeros, zeros).finish()["uiq"] == 1).all()
    assert np.isnan(State.of(zeros, zeros).finish()["sam"])  # zero vectors have no angle


def test_only_valid_pixels_count():
    estimate, truth = scene(hole=0)
    hidden = np.random.default_rng(5).random(truth.shape) < 0.02
    nan_truth, nan_estimate = np.where(hidden, np.nan, truth), np.where(hidden, np.nan, estimate)
    wild = np.where(hidden, -9999.0, estimate)
    expected = State.of(estimate, truth, valid=~hidden).values
    np.testing.assert_array_equal(State.of(wild, nan_truth).values, expected)
    np.testing.assert_array_equal(State.of(nan_estimate, truth).values, expected)
    np.testing.assert_array_equal(State.of(np.where(hidden, np.inf, estimate), truth).values, expected)


def test_nothing_valid_is_nan_without_a_warning():
    truth = np.full((2, 30, 30), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = State.merge([State.of(truth, truth), State.of(truth, truth)]).finish(2)
    assert all(np.isnan(got[name]).all() for name in EVERY if name != "pixels")
    assert (got["pixels"] == 0).all()
    # A block without data does not disturb one with data.
    estimate, truth = scene((2, 30, 30))
    state = State.of(estimate, truth)
    empty = State.of(np.full((2, 9, 9), np.nan), np.zeros((2, 9, 9)))
    np.testing.assert_allclose(State.merge([state, empty]).values, state.values, rtol=1e-13)


def datasets(shape=(30, 34), chunk=9):
    estimate, truth = scene((2, *shape), hole=0)
    return [
        xr.Dataset({b: (("y", "x"), da.from_array(v, chunks=chunk)) for b, v in zip("ab", values, strict=True)})
        for values in (estimate, truth)
    ]


def test_compare_is_lazy_and_says_what_it_gives():
    estimate, truth = datasets()
    with no_compute():
        out = compare(estimate, truth, ratio=2)
    assert out["rmse"].dims == ("band",)
    assert out["sam"].dims == ()
    assert list(out["band"].values) == ["a", "b"]
    assert out["sre"].attrs["units"] == "dB"
    eager = compare(estimate.compute(), truth.compute(), ratio=2)
    xr.testing.assert_allclose(out.compute(), eager.compute(), rtol=1e-10)


def test_compare_turns_reflectance_into_dn():
    estimate, truth = datasets()
    dn = compare(estimate, truth, ratio=2).compute()
    got = compare(estimate / 10000, truth / 10000, ratio=2, gain=10000).compute()
    xr.testing.assert_allclose(got, dn, rtol=1e-7)


def test_what_cannot_be_compared_is_refused_at_once():
    estimate, truth = datasets()
    with no_compute():
        with pytest.raises(BandError, match="nothing to compare"):
            compare(estimate.rename(a="c", b="d"), truth, ratio=2)
        with pytest.raises(GridError, match=r"a: the estimate is \(29, 34\)"):
            compare(estimate.isel(y=slice(29)), truth, ratio=2)
    with pytest.raises(GridError, match="band, H, W"):
        State.of(np.zeros((4, 4)), np.zeros((4, 4)))
