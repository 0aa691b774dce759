"""SupReME: the minimum it says, what its model assumes, and tiles that are not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from cubes import DIMS, ORIGIN, change, make_cube

from xsen2.bands import GRIDS, A, B, C, grid_of
from xsen2.engine.operators import OPERATORS, correlate, taps
from xsen2.methods.bicubic import upsample
from xsen2.methods.supreme import _EDGES, PENALTY, Solver, Supreme, _kernel, _percentile, make, make_matched, sampling
from xsen2.training.scenes import read_scenes

pytestmark = pytest.mark.usefixtures("thin_blocks")


def mixed(size, seed=2):
    """Twelve bands at 10 m, mixed of five spectra by fields with sharp borders: ``(12, size, size)``, DN."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / 60
    waves = np.stack([np.sin(a * y + b * x + c) for a, b, c in rng.uniform(1, 6, (5, 3))])
    fields = rng.random((5, size // 11 + 1, size // 13 + 1)).repeat(11, axis=1).repeat(13, axis=2)
    spectra = np.linalg.qr(rng.normal(size=(12, 5)))[0] * [2000, 900, 300, 100, 30]
    return (2000 + np.tensordot(spectra, waves + 2 * fields[:, :size, :size], 1)).astype(np.float32)


def measured(bands, operator):
    """What the sensor makes of them: arrays of the three grids."""
    names = [*A, *B, *C]
    low = {g: [] for g in GRIDS}
    for name, x in zip(names, bands, strict=True):
        ratio = grid_of(name) // 10
        low[10 * ratio].append(correlate(x, *taps(name, ratio, operator), ratio) if ratio > 1 else x)
    return [np.stack(low[g]) for g in (10, 20, 60)]


def cube_of(arrays):
    west, north = ORIGIN
    variables = {}
    for (gsd, names), bands in zip(GRIDS.items(), arrays, strict=True):
        y, x = (np.arange(n) + 0.5 for n in bands.shape[1:])
        coords = {DIMS[gsd][0]: north - gsd * y, DIMS[gsd][1]: west + gsd * x}
        variables |= {n: xr.DataArray(band, coords, DIMS[gsd]) for n, band in zip(names, bands, strict=True)}
    return xr.Dataset(variables)


def made(ds, method, **kwargs):
    return ds.dsen2.superresolve(method.bands, method=method, native=False, **kwargs).to_array().values


def rmse(x, y):
    return float(np.sqrt(np.mean((x - y)[:, 12:-12, 12:-12].astype(np.float64) ** 2)))


@pytest.mark.parametrize("operator", ["mtf", "dsen2"])
def test_recovers_what_is_of_low_rank(operator):
    truth = mixed(108)
    arrays = measured(truth, operator)
    ds = cube_of(arrays)
    for bands, low, of in ((B, arrays[1], truth[4:10]), (C, arrays[2], truth[10:])):
        best = rmse(made(ds, Supreme(bands, operator)), of)
        assert best < 0.45 * rmse(upsample(low, 108 // low.shape[-1]), of)
        assert best < 0.95 * rmse(made(ds, Supreme(bands, "box")), of)


@pytest.mark.parametrize("psf", ["published", *OPERATORS])
@pytest.mark.parametrize("coarsest", [2, 6])
def test_solver_reaches_the_minimum(coarsest, psf):
    """The normal equations, written out pixel by pixel and solved densely."""
    rng = np.random.default_rng(1)
    shape, p = (12, 18), len(PENALTY)
    names = [*B, *C] if coarsest == 6 else [*B]
    u = np.linalg.qr(rng.normal(size=(4 + len(names), p)))[0]
    kernels = [_kernel(name, psf) for name in names]
    a = rng.normal(size=(4, *shape))
    low = {r: rng.normal(size=(sum(k.ratio == r for k in kernels), shape[0] // r, shape[1] // r)) for r in (2, 6)}
    weight = rng.uniform(0.5, 1, shape)

    normal = np.kron(u[:4].T @ u[:4], np.eye(a[0].size))
    right = np.einsum("bp,bn->pn", u[:4], a.reshape(4, -1))
    for row, kernel, y in zip(u[4:], kernels, [*low[2], *low[6]], strict=True):
        both = np.kron(sampling(kernel, shape[0]), sampling(kernel, shape[1]))
        normal += np.kron(np.outer(row, row), both.T @ both)
        right += np.outer(row, both.T @ y.ravel())
    step = {n: np.eye(n, k=1)[:-1] - np.eye(n)[:-1] for n in shape}
    down, across = np.kron(step[12], np.eye(18)), np.kron(np.eye(12), step[18])
    grads = down.T * weight[:-1].ravel() @ down + across.T * weight[:, :-1].ravel() @ across
    normal += np.kron(np.diag(PENALTY), grads)
    z = np.linalg.solve(normal, right.ravel()).reshape(p, *shape)

    solver = Solver(shape, u[:4], list(zip(kernels, u[4:], strict=True)), PENALTY)
    low = {r: y.astype(np.float32) for r, y in low.items()}
    found = solver(a.astype(np.float32), low, weight.astype(np.float32))
    np.testing.assert_allclose(solver.image(found, np.eye(p, dtype=np.float32)), z, rtol=0, atol=1e-3 * np.ptp(z))


def test_solver_keeps_its_digits_where_one_band_alone_sees_a_dimension():
    rng = np.random.default_rng(3)
    u = np.linalg.qr(rng.normal(size=(12, 7)) * np.r_[np.ones(10), 100, 100][:, None])[0]
    kernels = [_kernel(name, "dsen2") for name in (*B, *C)]
    solver = Solver((48, 48), u[:4], list(zip(kernels, u[4:], strict=True)), PENALTY)
    z = np.ones((7, 48, 48)) * np.arange(1, 8)[:, None, None]  # without a gradient, it is the minimum itself
    x = np.tensordot(u, z, 1).astype(np.float32)
    found = solver(x[:4], {2: x[4:10, ::2, ::2], 6: x[10:, ::6, ::6]}, np.ones((48, 48), np.float32))
    np.testing.assert_allclose(solver.image(found, np.eye(7, dtype=np.float32)), z, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["B11", "B01"])
@pytest.mark.parametrize("psf", ["published", *OPERATORS])
def test_sampling_is_what_degrading_is(name, psf):
    kernel = _kernel(name, psf)
    x = np.random.default_rng(0).random((36, 36), np.float32)
    line = sampling(kernel, 36)
    low = correlate(x, kernel.weights, kernel.before, kernel.ratio)
    np.testing.assert_allclose(line @ x @ line.T, low, atol=1e-5)
    np.testing.assert_allclose(kernel.weights, kernel.weights[::-1], atol=1e-12)


def test_published_psf_is_centred_on_the_coarse_pixel():
    for name, sigma in (("B11", 2 * 0.554), ("B09", 6 * 0.522)):
        kernel = _kernel(name, "published")
        at = np.arange(12) - kernel.before
        assert kernel.weights @ at == pytest.approx((kernel.ratio - 1) / 2)
        np.testing.assert_allclose(
            kernel.weights[6] / kernel.weights[7], np.exp((1.5**2 - 0.5**2) / 2 / sigma**2), 1e-3
        )


def test_chunks_make_no_difference_and_tiles_no_seam():
    ds = cube_of(measured(mixed(174), "mtf"))
    for bands in (B[:2], C):
        method = Supreme(bands, "mtf")
        whole = made(ds, method)
        cut = made(ds.chunk({d: n for g, n in ((10, 80), (20, 31), (60, 42)) for d in DIMS[g]}), method)
        np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-3)
        assert np.abs(whole - made(ds, replace(method, lattice=174))).max() < 1e-3 * np.ptp(whole)


def test_statistics_are_those_of_the_whole_image():
    a, b, c = measured(mixed(60), "mtf")
    own = np.ones((60, 60), bool)
    left = own & (np.arange(60) < 24)
    for method, x in ((Supreme(B), c[:0]), (Supreme(C), c)):
        sums = method.gather(a, b, x, own, own)
        parts = method.gather(a, b, x, own, left) + method.gather(a, b, x, own, ~left)
        np.testing.assert_allclose(parts, sums, rtol=1e-12)
        learnt = method.learn(sums)
        np.testing.assert_allclose(learnt.rms[:4], np.sqrt((a.astype(float) ** 2).mean(axis=(1, 2))))
        u = np.array(learnt.subspace)
        np.testing.assert_allclose(u.T @ u, np.eye(7), atol=1e-5)
        assert (u[np.abs(u).argmax(axis=0), np.arange(7)] > 0).all()
        np.testing.assert_allclose(method.learn(parts).subspace, learnt.subspace, atol=1e-6)
        assert learnt.gather(a, b, x, own, own).sum() == own.sum()


def test_percentile_is_that_of_the_pixels():
    values = np.random.default_rng(0).lognormal(size=10000)
    found = _percentile(np.histogram(values, _EDGES)[0].astype(float), 0.95)
    assert found == pytest.approx(np.quantile(values, 0.95), rel=0.01)


@pytest.mark.parametrize("value", [1000.0, -50.0, 0.0])
@pytest.mark.parametrize("rows", [1, 3])
def test_constants_stay_what_they_are(rows, value):
    ds = make_cube(rows, 1)
    for band in ds.data_vars:
        ds = change(ds, band, lambda x: x.fill(value))
    for method in (Supreme(B), Supreme(C, "mtf")):
        np.testing.assert_allclose(made(ds, method), value, atol=0.05)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 5)])
def test_small_and_negative_images_are_finite(rows, columns):
    for method in (*make((*B, *C), "mtf"), *make_matched((*B, *C), "box")):
        assert np.isfinite(made(make_cube(rows, columns) - 2500, method)).all()


def test_zeros_teach_something_finite():
    method = Supreme(C)
    n = 2 * 144 + 12
    a, b, c = (np.ones((k, n // r, n // r), np.float32) for k, r in ((4, 1), (6, 2), (2, 6)))
    own = np.zeros((n, n), bool)
    for _ in range(method.rounds):
        method = method.learn(np.zeros_like(method.gather(a, b, c, ~own, own)))
    assert np.isfinite(method(a, b, c)).all()


def test_names_say_which_psf():
    assert [(m.name, m.psf, m.bands) for m in make(("B05", "B01"), "box")] == [
        ("supreme", "published", ("B05",)),
        ("supreme", "published", ("B01",)),
    ]
    assert [(m.name, m.psf) for m in make_matched(("B01",), "box")] == [("supreme-matched", "box")]


@pytest.mark.real
def test_beats_bicubic_by_as_much_as_published(shared):
    """The paper has 0.564 (2x) and 0.535 (6x) of bicubic's RMSE, means of 15 tiles."""
    scene = next(s for s in read_scenes(shared / "data" / "validation") if s.name == "crop_usa")
    for scale, bands, most in ((2, B, 0.6), (6, C, 0.55)):
        methods = ["bicubic", Supreme(bands), Supreme(bands, "dsen2", "matched")]
        bicubic, ours, matched = scene.cube().dsen2.evaluate(methods, scale, "dsen2", border=2).rmse.mean("band").values
        assert ours < most * bicubic
        assert matched < ours
