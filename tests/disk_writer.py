"""Writes on a disk that is full, cannot be written to, or has room again. Run in a process of its own."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube

from xsen2.errors import StoreError
from xsen2.sinks import regions
from xsen2.sinks.cog import to_cog
from xsen2.sinks.zarr import to_zarr

NO_DISK = 77
"""Exit status where nothing can be mounted."""


def cube() -> xr.Dataset:
    """Noise, which no codec makes much smaller: about 3 MB on disk."""
    ds = make_cube(60, 60, grids=(10,), dates=3, chunks=180)
    rng = np.random.default_rng(1)
    return ds.map(lambda v: v.copy(data=v.data + rng.integers(1, 9000, v.shape).astype("f4")))


def write(store: str) -> None:
    regions.REGION = 1
    to_zarr(cube(), store, progress=False)


def under_a_limit(store: str, most: int) -> None:
    """Write where no file may have more bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    refused(lambda: write(store), "the disk is full while .*a.zarr is written: free space, then run the same call")


def refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(StoreError, match=said):
        call()


def files(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def main(folder: Path) -> None:
    disk, whole = folder / "disk", folder / "whole.zarr"
    disk.mkdir()

    def mount(options: str) -> int:
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=False).returncode

    if mount("size=2m"):
        raise SystemExit(NO_DISK)
    write(str(whole))
    store = disk / "a.zarr"
    refused(lambda: write(str(store)), "the disk is full while .*a.zarr is written: free space, then run the same")
    done = len(list((store / ".xsen2").glob("done-*")))
    assert done, "not even one region had room"
    assert not list(store.rglob("*.partial"))
    mount("remount,ro")
    refused(lambda: write(str(store)), "a.zarr cannot be written .*Read-only.*get the permission")
    refused(lambda: to_cog(cube(), disk / "b", progress=False), "cannot be written to")
    mount("remount,rw,size=2800k")
    refused(lambda: write(str(store)), "the disk is full")  # a little further
    assert len(list((store / ".xsen2").glob("done-*"))) > done
    mount("remount,rw,size=64m")
    write(str(store))
    assert files(store) == files(whole)
    mount("remount,rw,size=6m")
    refused(lambda: to_cog(cube(), disk / "b", dtype="float32", progress=False), "disk is full")
    assert not [path for path in disk.rglob("*") if path.is_file() and store not in path.parents]
    mount("remount,rw,size=128m")
    to_cog(cube(), disk / "b", progress=False)
    assert len(list((disk / "b").iterdir())) == 3


if __name__ == "__main__":
    main(Path(sys.argv[1]))
