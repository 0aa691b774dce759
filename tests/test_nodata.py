"""Filling of nodata: values, reach, independence of where the image was cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xsen2.engine.fill import fill, fill_together


def test_valid_pixels_stay_and_a_hole_gets_its_neighbours():
    x = np.arange(25, dtype=np.float32).reshape(1, 5, 5)
    valid = np.ones_like(x, bool)
    valid[0, 2, 2] = False
    x[0, 2, 2] = np.nan
    out = fill(x, valid, 3)
    assert out[0, 2, 2] == 12.0
    np.testing.assert_array_equal(out[valid], x[valid])


def test_reach_ends_after_the_steps():
    x = np.full((1, 1, 12), np.nan, np.float32)
    x[0, 0, 0] = 7
    out = fill(x, np.isfinite(x), 4)
    np.testing.assert_array_equal(out[0, 0], [7] * 5 + [0] * 7)


def test_nothing_valid_becomes_zero():
    x = np.full((2, 3, 3), np.nan, np.float32)
    x[1] = 5
    out = fill(x, np.isfinite(x), 2)
    assert (out[0] == 0).all()
    assert (out[1] == 5).all()


@given(st.integers(0, 999), st.integers(1, 5), st.floats(0.05, 0.95))
def test_a_cut_changes_nothing_that_lies_the_reach_away_from_it(seed, steps, share):
    rng = np.random.default_rng(seed)
    x = rng.random((2, 24, 24)).astype(np.float32)
    valid = rng.random(x.shape) > share
    whole = fill(x, valid, steps)
    part = fill(x[:, 4:, 4:], valid[:, 4:, 4:], steps)
    # A pixel filled from d away saw no further: d is at most `steps`.
    np.testing.assert_array_equal(whole[:, 4 + steps :, 4 + steps :], part[:, steps:, steps:])


@given(st.integers(0, 9999), st.integers(1, 3), st.floats(0.02, 0.7), st.booleans())
def test_bands_filled_together_do_not_see_where_an_image_was_cut(seed, steps, share, both):
    rng = np.random.default_rng(seed)
    layers = {1: rng.random((2, 36, 36)), 2: rng.random((1, 18, 18)), 6: rng.random((1, 6, 6))}
    layers = {factor: x.astype(np.float32) for factor, x in layers.items()}
    hole = rng.random((6, 6)) < share  # whole cells, and single pixels
    valid = {f: ~hole.repeat(6 // f, 0).repeat(6 // f, 1) & (rng.random(x.shape) > 0.1) for f, x in layers.items()}
    if not both:
        valid[6][:] = True
    whole = fill_together(layers, valid, steps)
    part = fill_together(
        {f: x[:, 6 // f :] for f, x in layers.items()}, {f: v[:, 6 // f :] for f, v in valid.items()}, steps
    )
    for f in layers:
        cell = 6 // f
        np.testing.assert_array_equal(whole[f][:, cell * (1 + steps) :], part[f][:, cell * steps :])


def test_bands_filled_together_go_together():
    """What holds between bands where they were measured holds where they were not, right beside an edge."""
    rng = np.random.default_rng(0)
    fine = rng.random((1, 24, 36)).astype(np.float32)
    coarse = 3 * fine.reshape(1, 4, 6, 6, 6).mean(axis=(2, 4)) + 1
    there = np.ones((4, 6), bool)
    there[:, 3:] = there[0, 0] = False
    valid = {1: there.repeat(6, 0).repeat(6, 1)[None], 6: there[None]}
    out = fill_together({1: np.where(valid[1], fine, np.nan), 6: np.where(valid[6], coarse, np.nan)}, valid, 2)
    again = 3 * out[1].reshape(1, 4, 6, 6, 6).mean(axis=(2, 4)) + 1
    np.testing.assert_allclose(out[6][:, :, :5], again[:, :, :5], rtol=1e-6)
    assert not out[6][:, 1:, 5:].any()  # beyond the steps
    ones = {1: np.ones_like(fine), 6: np.ones_like(coarse)}
    assert (fill_together(ones, valid, 3)[1] == 1).all()
    for f, x in ((1, fine), (6, coarse)):
        np.testing.assert_array_equal(out[f][valid[f]], x[valid[f]])


def test_a_pixel_that_lacks_in_a_cell_grows_from_the_others_of_its_band():
    layers = {1: np.arange(8, dtype=np.float32).reshape(1, 2, 4), 2: np.float32([[[1, 2]]])}
    valid = {1: np.ones((1, 2, 4), bool), 2: np.ones((1, 1, 2), bool)}
    valid[1][0, 0, 1] = False
    out = fill_together(layers, valid, 1)
    assert out[1][0, 0, 1] == (0 + 4 + 5) / 3  # and not of the next cell
    valid[2][0, 0, 1] = False
    mirrored = fill_together(layers, valid, 1)[1]
    np.testing.assert_array_equal(mirrored[..., 2:], mirrored[..., 1::-1])
    np.testing.assert_array_equal(out[1][valid[1]], layers[1][valid[1]])
