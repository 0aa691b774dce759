"""Chunks of a row, of a strip, of a few pixels: the same pixels, and never more than twice the work."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from cubes import DIMS, make_cube
from hypothesis import given, settings
from hypothesis import strategies as st

from xsen2.bands import GRIDS
from xsen2.cube import recognise
from xsen2.engine.block import block_of
from xsen2.engine.halo import MOST, split, thinnest
from xsen2.methods.registry import resolve
from xsen2.radiometry import scales_of


def chunked(total: int, kind: str, size: int, data: st.DataObject) -> tuple[int, ...]:
    if kind == "even":
        return (*[size] * (total // size), *([total % size] if total % size else []))
    ends = data.draw(st.lists(st.integers(1, total - 1), unique=True, max_size=60)) if total > 1 else []
    return tuple(b - a for a, b in pairwise([0, *sorted(ends), total]))


@settings(max_examples=200)
@given(
    total=st.integers(1, 4000),
    cell=st.sampled_from([1, 2, 6, 12, 120]),
    reach=st.integers(0, 400),
    kind=st.sampled_from(["even", "any"]),
    size=st.sampled_from([1, 2, 7, 16, 64, 128, 256, 512, 915, 1024, 4000]),
    data=st.data(),
)
def test_no_side_is_thinner_than_its_halo_bears(
    total: int, cell: int, reach: int, kind: str, size: int, data: st.DataObject
) -> None:
    chunks = chunked(total, kind, size, data)
    least = thinnest(reach, total)
    made = split(chunks, cell, least=least)
    assert sum(made) == total
    assert all(n > 0 for n in made)
    assert all(b % cell == 0 for b in np.cumsum(made)[:-1])
    assert max(made) <= MOST + cell
    if len(made) > 1:
        assert min(made) >= min(least - cell, MOST // 2 - cell)
    # The work along one axis: what is computed with the halo, against that of the best blocks, as large as may be.
    best = -(-total // MOST)
    assert total + 2 * reach * len(made) <= 1.45 * (total + 2 * reach * best) + 2 * cell * len(made)
    if min(chunks) >= least + cell and all(b % cell == 0 for b in np.cumsum(chunks)) and max(chunks) <= MOST:
        assert made == chunks  # nothing is changed without need


def tile(rows: int, columns: int, size: int = 10980) -> xr.Dataset:
    """A cube that nobody computes, every grid in chunks of that many of its own pixels."""
    variables: dict[str, Any] = {}
    for gsd, bands in GRIDS.items():
        n = size * 10 // gsd
        coords = {DIMS[gsd][0]: 5_000_040 - (np.arange(n) + 0.5) * gsd, DIMS[gsd][1]: 6e5 + (np.arange(n) + 0.5) * gsd}
        for band in bands:
            data = da.zeros((n, n), chunks=(min(rows, n), min(columns, n)), dtype="u2", name=f"{band}-{rows}-{columns}")
            variables[band] = xr.DataArray(data, coords, DIMS[gsd])
    return xr.Dataset(variables).rio.write_crs(32631)


@pytest.mark.parametrize(
    ("chunks", "method"),
    [
        *(((1, 2196), "default"), ((1, 2196), "regression"), ((1, 2196), "sen2res")),
        *(((100, 100), "default"), ((100, 100), "regression"), ((100, 100), "sen2res")),
        # Each of the other methods and each of the other chunks.
        *(pytest.param((16, 10980), m, marks=pytest.mark.slow) for m in ("dsen2", "bicubic", "glp_hpm", "atprk")),
        *(pytest.param(c, "default", marks=pytest.mark.slow) for c in ((2196, 1), (16, 10980), (4096, 2))),
        pytest.param((2196, 1), "bicubic", marks=pytest.mark.slow),
    ],
)
def test_any_chunks_of_a_tile(chunks: tuple[int, int], method: str) -> None:
    ds = tile(*chunks, size=2196)
    for consistency in (False, True):
        sr = ds.dsen2.superresolve(["B05", "B11", "B01"], method, consistency=consistency)
        cube = recognise(ds)
        scales = scales_of(cube, None)
        sizes = [np.array(n) for n in sr.B11.chunks]
        for one in resolve(method, ["B05", "B11", "B01"]):
            block = block_of(one, tuple(cube.bands), scales, "mtf" if consistency else None, cube.shape(10))
            padded = np.prod([(n + 2 * block.computed).sum() for n in sizes])
            best = (2196 + 2 * block.computed) ** 2
            assert padded <= 2 * best, (one.name, sr.B11.chunks)
        assert sr.B11.data.npartitions <= (2196 / thinnest(6, 2196)) ** 2


def test_chunks_that_are_thick_enough_stay() -> None:
    for size in (600, 1200, 1830):
        sr = tile(size, size).dsen2.superresolve()
        assert set(sr.B11.chunks[0][:-1]) == {size}


@pytest.mark.parametrize("method", ["default", "bicubic", "regression"])
@pytest.mark.parametrize(
    "chunks", [{"y": 1, "y_20m": 1, "y_60m": 1}, {"x": 2, "x_20m": 1}, {"y": 16, "x": 7, "y_20m": 3}]
)
def test_the_pixels_are_the_same(method: str, chunks: dict[str, int]) -> None:
    ds = make_cube(8, 9)
    kwargs: dict[str, Any] = {"bands": ["B05", "B11", "B01"], "method": method, "dtype": "float32"}
    want = ds.dsen2.superresolve(**kwargs).compute()
    got = ds.chunk(chunks).dsen2.superresolve(**kwargs)
    assert min(got.B11.chunks[0][0], got.B11.chunks[1][0]) > 12
    got = got.compute()
    for band in kwargs["bands"]:
        np.testing.assert_allclose(got[band], want[band], rtol=0, atol=1e-3)


def test_an_area_of_thin_chunks() -> None:
    ds = tile(1, 2196, size=2196)
    west, _, _, north = recognise(ds).bounds
    area = (west + 3000, north - 15000, west + 14000, north - 4000)
    sr = ds.dsen2.superresolve(["B05"], "default", area=area, area_crs=32631)
    assert min(sr.B05.chunks[0]) > 200
    small = make_cube(20, 20).chunk({"y": 1})
    west, _, _, north = recognise(small).bounds
    kwargs: dict[str, Any] = {"area": (west + 305, north - 905, west + 905, north - 205), "area_crs": 32631}
    got = small.dsen2.superresolve(["B05"], "bicubic", **kwargs)
    assert min(got.B05.chunks[0]) > 12
    want = make_cube(20, 20).dsen2.superresolve(["B05"], "bicubic", **kwargs)
    np.testing.assert_array_equal(got.B05, want.B05)


@pytest.mark.parametrize("call", [lambda ds: ds.degrade(2, "mtf"), lambda ds: ds.degrade(6, "mtf")])
def test_degrading_thin_chunks(call: Any) -> None:
    ds = make_cube(24, 24, grids=(10, 20))
    thin = call(ds.chunk({"y": 1, "y_20m": 1}))
    assert thin.B02.data.npartitions < 24
    np.testing.assert_array_equal(thin.B02, call(ds).B02)
