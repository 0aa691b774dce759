"""A slow write to a COG, for tests that kill it; and one with little room. Run in a process of its own."""

from __future__ import annotations

import resource
import signal
import sys
import time
import traceback

import numpy as np
import xarray as xr
from cubes import make_cube

from xsen2.sinks.cog import to_cog


def slowly(block: np.ndarray) -> np.ndarray:
    time.sleep(0.02)
    return block


def cube() -> xr.Dataset:
    ds = make_cube(30, 30, grids=(10,), chunks=30)
    return ds.map(lambda v: v.copy(data=v.data.map_blocks(slowly, dtype="f4")))


def noise() -> xr.Dataset:
    """Pixels that no compression makes smaller: the COG is larger than they are."""
    ds = make_cube(100, 100, grids=(10,))[["B02", "B03"]]
    rng = np.random.default_rng(1)
    return ds.map(lambda v: v.copy(data=rng.integers(1, 64000, v.shape).astype(np.float32)))


def write(path: str) -> None:
    to_cog(cube(), path, overwrite=True, progress=False)


def write_with(room: int, path: str, said: str) -> None:
    """With files of so many bytes at most; what goes wrong is written to `said`, whose bytes are few."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    with open(said, "w") as sys.stderr:
        try:
            to_cog(noise(), path, overwrite=True, progress=False)
        except BaseException:
            traceback.print_exc()
            raise
