"""Filling of nodata: values, reach, independence of where the image was cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xsen2.engine.fill import fill


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
