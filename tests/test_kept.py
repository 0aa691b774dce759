"""Classical methods by their names stay within what was measured around, where their models do not hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube
from hypothesis import given
from hypothesis import strategies as st

import xsen2
from xsen2.methods.common import Kept, bounded
from xsen2.methods.registry import CLASSICAL, resolve

METHODS = [name for name in CLASSICAL if name != "bicubic"]
BANDS = ["B05", "B11", "B01"]


def noise(seed: int) -> xr.Dataset:
    """Every band another noise: nothing explains anything."""
    rng = np.random.default_rng(seed)
    return make_cube(20, 20).map(lambda v: v.copy(data=rng.uniform(900, 3600, v.shape).astype(np.float32)))


def clouds(seed: int) -> xr.Dataset:
    """Bright clouds over dark ground, which every band sees 20 m further on."""
    rng = np.random.default_rng(seed)
    ds = make_cube(20, 20)
    field = np.zeros((160, 160))
    for _ in range(30):
        y, x, size = *rng.integers(0, 160, 2), rng.integers(4, 12)
        i, j = np.ogrid[:160, :160]
        field = np.maximum(field, 1.5 - np.hypot(i - y, j - x) / size)
    field = field.clip(0, 1)

    def seen(v: xr.DataArray) -> xr.DataArray:
        shift, ratio = 2 * list(ds).index(v.name), 120 // v.shape[-1]
        full = 900 + 2700 * field[shift : shift + 120, :120] + rng.normal(0, 15, (120, 120))
        return v.copy(data=full.reshape(v.shape[0], ratio, v.shape[1], ratio).mean(axis=(1, 3)).astype(np.float32))

    return ds.map(seen)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scene", [noise, clouds])
def test_nothing_leaves_the_range_by_far(method: str, scene: Any) -> None:
    ds = scene(3)
    sr = ds.dsen2.superresolve(BANDS, method, native=False).compute()
    for band in BANDS:
        low, high = float(ds[band].min()), float(ds[band].max())
        assert float(sr[band].min()) > 0, band  # nothing was dark
        assert float(sr[band].max()) < 1.55 * max(high, float(ds[["B02", "B03", "B04", "B08"]].to_array().max())), band
        assert low < 1100
        assert 3000 < high < 3700


def test_without_bounds_they_do() -> None:
    """What the names stand for is not what the objects are, which are exact where their models hold."""
    ds = clouds(3)
    (one,) = resolve("regression", ["B01"])
    assert isinstance(one, Kept)
    assert one.rounds
    raw = ds.dsen2.superresolve(["B01"], one.method, native=False).B01.values
    assert raw.min() < -1000
    assert raw.max() > 6500


@given(
    ratio=st.sampled_from([2, 6]),
    cells=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 99),
    level=st.sampled_from([-500.0, -90.0, 0.0, 30.0, 1000.0]),
    spread=st.sampled_from([0.0, 20.0, 900.0]),
)
def test_bounds(ratio: int, cells: tuple[int, int], seed: int, level: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    h, w = cells
    y = rng.normal(level, spread, (2, h, w)).astype(np.float32)
    a = rng.normal(level, spread, (4, h * ratio, w * ratio)).astype(np.float32)
    wild = rng.normal(level, 5000, (2, h * ratio, w * ratio)).astype(np.float32)
    out = bounded(wild.copy(), y, a)
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(bounded(out.copy(), y, a), out)
    # What was measured is never cut, nor what is near it.
    same = y.repeat(ratio, axis=1).repeat(ratio, axis=2)
    np.testing.assert_allclose(bounded(same.copy(), y, a), same, rtol=1e-5, atol=1e-3)
    # A pixel depends on two coarse pixels around it, and on no more.
    if h > 5:
        part = np.s_[:, ratio : (h - 1) * ratio], np.s_[:, 1 : h - 1]
        inner = bounded(wild[part[0]].copy(), y[part[1]], a[part[0]])
        np.testing.assert_allclose(
            inner[:, 2 * ratio : -2 * ratio], out[:, 3 * ratio : -3 * ratio], rtol=1e-5, atol=1e-2
        )
    if level >= 0 and spread == 0:
        assert np.abs(out - level).max() <= 0.5 * (level + 100) + 0.1


def test_scenes_as_they_are_hardly_change() -> None:
    """On the embedded scene: the error at the lower scale is what it was, to a thousandth, or less."""
    small, truth = (ds.compute() for ds in xsen2.sample().isel(time=slice(1)).degrade.pair(scale=2))
    for method in ("regression", "atprk", "glp_hpm"):
        kept = resolve(method, ["B05", "B11"])
        errors = []
        for one in (kept[0], kept[0].method):
            sr = small.dsen2.superresolve(["B05", "B11"], one, native=False).compute()
            gap = np.stack([sr[b] - truth[b] for b in ("B05", "B11")])
            errors.append(float(np.sqrt(np.nanmean(gap.astype(np.float64) ** 2))))
        assert errors[0] <= 1.003 * errors[1], method
