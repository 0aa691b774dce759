"""Windows over nested grids: content, graph shape, cost."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsen2.engine.halo import Cut, Layer, map_windows, split


class Check:
    """Sum the three grids at 10 m, after checking that each window is the mirrored image's part."""

    def __init__(self, images, halo):
        self.halo = halo
        self.padded = [
            np.pad(x, [(0, 0), (halo // f, halo // f), (halo // f, halo // f)], mode="symmetric") for x, f in images
        ]
        self.factors = [f for _, f in images]

    def __call__(self, windows):
        h, total = self.halo, 0
        for window, f in zip(windows, self.factors, strict=True):
            inner = window[0][:, h // f : window.shape[-2] - h // f, h // f : window.shape[-1] - h // f]
            total = total + inner.repeat(f, -2).repeat(f, -1)
        # Each window must be found in the mirrored image as it is.
        for window, image in zip(windows, self.padded, strict=True):
            views = np.lib.stride_tricks.sliding_window_view(image[0], window.shape[-2:])
            assert (views == window[0][0]).all(axis=(-1, -2)).any()
        return total[None]

    def __dask_tokenize__(self):
        return ("Check", self.halo)


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 6),
    halo=st.sampled_from([0, 6, 12, 24, 60]),
    chunks=st.lists(st.integers(1, 17), min_size=3, max_size=3),
    seed=st.integers(0, 9),
)
def test_windows_are_parts_of_the_mirrored_image(rows, columns, halo, chunks, seed):
    rng = np.random.default_rng(seed)
    images = [(rng.random((1, rows * 6 // f, columns * 6 // f)).astype("f4"), f) for f in (1, 2, 6)]
    layers = [Layer([da.from_array(x, chunks=(1, c, c))], f) for (x, f), c in zip(images, chunks, strict=True)]
    blocks = (split(layers[0].arrays[0].chunks[1], 6), split(layers[0].arrays[0].chunks[2], 6))
    out = map_windows(Check(images, halo), layers, Cut((rows * 6, columns * 6), blocks, halo), bands=1)
    want = sum(x.repeat(f, 1).repeat(f, 2) for x, f in images)
    np.testing.assert_array_equal(out.compute(scheduler="sync")[0], want)


@given(st.lists(st.integers(1, 6000), min_size=1, max_size=6), st.sampled_from([1, 2, 6, 12]))
def test_split_keeps_the_total_and_the_multiples(chunks, cell):
    total = sum(chunks) // cell * cell
    if not total:
        return
    chunks[-1] += total - sum(chunks)
    if chunks[-1] <= 0:
        return
    out = split(chunks, cell)
    assert sum(out) == total
    assert all(n % cell == 0 and n > 0 for n in out)
    assert max(out) <= 2400 + cell


def test_layers_of_mixed_dtype_and_chunks():
    one, two = da.ones((8, 8), chunks=4, dtype="u2"), da.full((8, 8), 0.5, chunks=3)
    out = map_windows(_total, [Layer([one, two], 1)], Cut((8, 8), ((4, 4), (8,)), 0), bands=1)
    np.testing.assert_array_equal(out.compute(), np.full((1, 8, 8), 1.5))


def _total(windows):
    return windows[0].sum(axis=0, keepdims=True)


def test_graph_of_a_year_of_tiles_is_small_and_pickles():
    """12 dates of a full tile: one run per block, and only strips beside it."""
    a = [da.zeros((12, 10980, 10980), chunks=(1, 1200, 1200), dtype="u2", name=f"a{i}") for i in range(4)]
    b = [da.zeros((12, 5490, 5490), chunks=(1, 600, 600), dtype="u2", name=f"b{i}") for i in range(6)]
    blocks = (split(a[0].chunks[1], 6), split(a[0].chunks[2], 6))
    out = map_windows(_total, [Layer(a, 1), Layer(b, 2)], Cut((10980, 10980), blocks, 32), bands=6)
    layer = out.dask.layers[out.name]
    runs = [k for k in layer if k[0] == out.name]
    assert len(runs) == 12 * 100
    assert len(layer) < 12 * 100 * 20
    assert out.chunks[0] == (6,)
    assert out.shape == (6, 12, 10980, 10980)


def test_the_name_follows_the_arguments():
    x = da.ones((12, 12), chunks=6)
    first = map_windows(_total, [Layer([x], 1)], Cut((12, 12), ((6, 6), (6, 6)), 0), bands=1)
    again = map_windows(_total, [Layer([x], 1)], Cut((12, 12), ((6, 6), (6, 6)), 0), bands=1)
    other = map_windows(_total, [Layer([x], 1)], Cut((12, 12), ((6, 6), (6, 6)), 2), bands=1)
    assert first.name == again.name != other.name


def test_an_error_in_the_function_comes_through():
    def fail(windows):
        raise ValueError("at a block")

    out = map_windows(fail, [Layer([da.ones((6, 6))], 1)], Cut((6, 6), ((6,), (6,)), 0), bands=1)
    with pytest.raises(ValueError, match="at a block"):
        out.compute()
