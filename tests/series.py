"""Dates of one made-up place, whose fine image and shifts are known."""

from __future__ import annotations

import numpy as np
import xarray as xr
from cubes import ORIGIN

from xsen2.bands import A
from xsen2.multitemporal.simulate import simulate


def scene(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """``(4, rows, columns)`` DN whose power falls with frequency as that of real scenes, with edges."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns))
    shape = 1 / np.maximum(f, 1 / max(rows, columns)) ** 1.3
    parts = [np.fft.irfft2(shape * np.fft.rfft2(rng.standard_normal((rows, columns))), s=(rows, columns)) for _ in A]
    fields = np.kron(rng.uniform(-1, 1, (rows // 12 + 1, columns // 12 + 1)), np.ones((12, 12)))[:rows, :columns]
    out = [0.7 * parts[0] / parts[0].std() + 0.5 * p / p.std() + fields for p in parts]
    return (1500 + 250 * np.stack(out)).clip(50).astype(np.float32)


def series(
    rows: int = 72, columns: int = 72, *, dates: int = 4, zoom: int = 2, seed: int = 0, noise: float = 0.005,
    shifts: object = None, chunks: int | None = None,
) -> tuple[xr.Dataset, np.ndarray, np.ndarray]:  # fmt: skip
    """A cube of 10 m bands of `rows` x `columns` pixels, the fine image ``(4, …)``, and shifts in pixels."""
    truth = scene(rows * zoom, columns * zoom, seed)
    frames, by = simulate(truth, zoom, dates, np.random.default_rng(seed), noise=noise, shifts=shifts)
    y = ORIGIN[1] - (np.arange(rows) + 0.5) * 10
    x = ORIGIN[0] + (np.arange(columns) + 0.5) * 10
    time = np.datetime64("2024-06-01", "ns") + np.arange(dates) * np.timedelta64(5, "D")
    bands = {band: (("time", "y", "x"), frames[:, i], {"units": "1e-4"}) for i, band in enumerate(A)}
    ds = xr.Dataset(bands, {"time": time, "y": y, "x": x}).rio.write_crs(32631)
    return (ds if chunks is None else ds.chunk(time=1, y=chunks, x=chunks)), truth, by


def with_scl(ds: xr.Dataset, clouds: np.ndarray) -> xr.Dataset:
    """The cube with SCL at 20 m: vegetation, and clouds where ``(time, y, x)`` at 20 m is True."""
    y, x = (ds[d].values.reshape(-1, 2).mean(axis=1) for d in ("y", "x"))
    scl = np.where(clouds, 9, 4).astype(np.uint8)
    ds = ds.assign_coords(y_20m=y, x_20m=x)
    return ds.assign(SCL=(("time", "y_20m", "x_20m"), scl))
