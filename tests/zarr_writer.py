"""A slow write to a Zarr store, for tests that kill it. Run in a process of its own."""

from __future__ import annotations

import time

import numpy as np
import xarray as xr
from cubes import make_cube

from xsen2.sinks import regions
from xsen2.sinks.zarr import to_zarr

PAUSE = 0.01


def slowly(block: np.ndarray) -> np.ndarray:
    time.sleep(PAUSE)
    return block - 1500  # some negatives


def cube() -> xr.Dataset:
    ds = make_cube(70, 50, dates=4, chunks=120)
    gap = {"B02": ds["B02"].where(ds["x"] > float(ds["x"][60]))}
    return ds.assign(gap).map(lambda v: v.copy(data=v.data.map_blocks(slowly, dtype="f4")))


def write(store: str) -> None:
    regions.REGION = 120 * 300  # the 10 m rows of a date in several regions
    to_zarr(cube(), store, progress=False)
