"""Slow writes to a Zarr store, for tests that kill what takes part in them. Each runs in a process of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube

from xsen2.sinks import regions
from xsen2.sinks.store import Disk
from xsen2.sinks.zarr import to_zarr

PAUSE = 0.01


def slowly(block: np.ndarray) -> np.ndarray:
    time.sleep(PAUSE)
    return block - 1500  # some negatives


def cube() -> xr.Dataset:
    ds = make_cube(30, 20, dates=2, chunks=60)
    gap = {"B02": ds["B02"].where(ds["x"] > float(ds["x"][60]))}
    return ds.assign(gap).map(lambda v: v.copy(data=v.data.map_blocks(slowly, dtype="f4")))


def write(store: str) -> None:
    regions.REGION = 60 * 120  # the 10 m rows of a date in several regions
    to_zarr(cube(), store, progress=False)


def schedule(pipe: Any) -> None:
    """A Dask scheduler, whose address goes into the pipe."""
    from distributed import Scheduler

    async def run() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
            pipe.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(run())


def work(address: str) -> None:
    """A Dask worker."""
    from distributed import Worker

    async def run() -> None:
        async with Worker(address, nthreads=2, host="127.0.0.1") as worker:
            await worker.finished()

    asyncio.run(run())


class Cut(BaseException):
    """The power goes."""


@contextmanager
def cut_at(step: int) -> Iterator[None]:
    """The power goes before this many changes of a disk have been made."""
    left = step

    def cutting(real: Any) -> Any:
        def change(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Cut
            return real(self, *args, **kwargs)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "delete", "prune", "move"):
            patch.setattr(Disk, name, cutting(getattr(Disk, name)))
        yield


def begin(target: Any, *args: Any) -> BaseProcess:
    """Call a function in a new process. All of them are forked from one in which the imports are done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["append_writer", "cog_writer", "disk_writer", "distributed", "zarr"])
    process = context.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def wait_for(store: Path, what: str, process: BaseProcess | None = None) -> None:
    """Wait until a file is there, or the process has ended."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if any(store.glob(what)) or (process and not process.is_alive()):
            return
        time.sleep(0.002)
    raise AssertionError(f"{what} never came")
