"""What a crash leaves: the same call again makes the store complete, and as it would have been."""

from __future__ import annotations

import http.server
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import disk_writer
import numpy as np
import pytest
import xarray as xr
import zarr_writer
from cubes import make_cube

from xsen2 import files as files_module
from xsen2.errors import StoreError
from xsen2.sinks import regions
from xsen2.sinks.zarr import to_zarr

distributed = pytest.importorskip("distributed")


def files(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


@contextmanager
def cluster(count: int) -> Iterator[tuple[Any, list[Any]]]:
    """A scheduler and workers, each in a process of its own; the scheduler comes first."""
    here, there = multiprocessing.Pipe()
    processes = [zarr_writer.begin(zarr_writer.schedule, there)]
    try:
        assert here.poll(60)
        address = here.recv()
        processes += [zarr_writer.begin(zarr_writer.work, address) for _ in range(count)]
        patient = dask.config.set({"distributed.comm.timeouts.connect": "5s"})  # not half a minute with the dead
        with patient, distributed.Client(address) as client:
            client.wait_for_workers(count, timeout=60)
            yield client, processes
    finally:
        for process in processes:
            process.kill()
            process.join()


@contextmanager
def killing(process: Any, store: Path, moment: str) -> Iterator[None]:
    """Kill a process as soon as a file is there."""

    def kill() -> None:
        zarr_writer.wait_for(store, moment)
        process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.slow
def test_killed_worker_and_killed_scheduler(tmp_path: Path) -> None:
    whole = tmp_path / "whole.zarr"
    zarr_writer.write(str(whole))
    store = tmp_path / "worker.zarr"
    with cluster(2) as (_, (scheduler, first, _)):
        with killing(first, store, "B03/c/0/0/*"):
            zarr_writer.write(str(store))  # the other worker does it all
        assert not first.is_alive()
        assert files(store) == files(whole)

        store = tmp_path / "scheduler.zarr"
        with killing(scheduler, store, ".xsen2/done-0-*"), pytest.raises(Exception):  # noqa: B017, PT011  distributed's
            zarr_writer.write(str(store))
        assert not (store / "zarr.json").exists()
        assert not (tmp_path / ".scheduler.zarr.xsen2-lock").exists()
    done = {path.name for path in (store / ".xsen2").glob("done-*")}
    assert done
    zarr_writer.write(str(store))
    assert files(store) == files(whole)


def test_full_and_read_only_disk(tmp_path: Path) -> None:
    """On a disk of its own, in a namespace where we may mount one."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    command = ["unshare", "--map-root-user", "--mount", sys.executable, disk_writer.__file__, str(tmp_path)]
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=120
    )
    if done.stderr.startswith("unshare:") or done.returncode == disk_writer.NO_DISK:
        pytest.skip("a disk cannot be mounted here")
    assert done.returncode == 0, done.stderr


def test_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """As a quota: each chunk is over it until it is lifted."""
    whole, store = tmp_path / "whole.zarr", tmp_path / "a.zarr"
    process = zarr_writer.begin(disk_writer.under_a_limit, str(store), 20_000)
    process.join(60)
    assert process.exitcode == 0
    assert not list(store.rglob("*.partial"))
    disk_writer.write(str(whole))
    disk_writer.write(str(store))
    assert files(store) == files(whole)


def test_errors_of_the_disk_say_what_to_do() -> None:
    import errno

    for number, said in (
        (errno.EDQUOT, r"is full while a\.zarr.*free space"),
        (errno.EACCES, "permission"),
        (errno.EIO, "mend"),
    ):
        with pytest.raises(StoreError, match=rf"{said}.*run the same call again"), files_module.named("a.zarr"):
            raise OSError(number, os.strerror(number))
    with pytest.raises(KeyError), files_module.named("a.zarr"):
        raise KeyError("not the disk's")


class Source(http.server.ThreadingHTTPServer):
    """Blocks of pixels over HTTP; from a request on, "come back later"."""

    daemon_threads = True

    def __init__(self, pixels: np.ndarray, limit: float) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.pixels, self.limit, self.served = pixels, limit, 0
        self.lock = threading.Lock()


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Source

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.served += 1
            late = self.server.served > self.server.limit
        self.send_response(503 if late else 200)
        self.end_headers()
        if not late:
            date, row, column = map(int, self.path.strip("/").split("/"))
            self.wfile.write(self.server.pixels[date, row : row + 60, column : column + 60].tobytes())

    def log_message(self, *args: Any) -> None:
        pass


def test_a_read_that_fails_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    like = make_cube(20, 20, dates=2, grids=(10,), chunks=60)[["B02", "B03"]]
    with Source(like["B02"].values, limit=5) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"

        def read(block_info: Any = None) -> np.ndarray:
            date, row, column = (start for start, _ in block_info[None]["array-location"])
            with urllib.request.urlopen(f"{url}/{date}/{row}/{column}") as answer:
                return np.frombuffer(answer.read(), np.float32).reshape(1, 60, 60)

        pixels = da.map_blocks(read, chunks=like["B02"].chunks, meta=np.empty((0, 0, 0), "f4"))
        ds = like.map(lambda v: v.copy(data=pixels))
        with (
            dask.config.set(scheduler="synchronous"),
            pytest.raises(OSError, match="503"),
        ):  # the source's own
            to_zarr(ds, tmp_path / "a.zarr", progress=False)
        done = {p.name for p in (tmp_path / "a.zarr/.xsen2").glob("done-*")}
        assert done == {"done-0-0", "done-0-1"}
        served, server.limit = server.served, np.inf
        to_zarr(ds, tmp_path / "a.zarr", progress=False)
        assert server.served - served == 4, "what was done was read again"
        to_zarr(ds, tmp_path / "whole.zarr", progress=False)
        server.shutdown()
    assert files(tmp_path / "a.zarr") == files(tmp_path / "whole.zarr")
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "a.zarr")["B02"], np.rint(like["B02"]))
