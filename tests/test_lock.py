"""The lock: one run at a time may write to a place, and what dead runs leave is taken over."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr_writer
from cubes import make_cube
from filelock import FileLock
from fsspec import filesystem

from xsen2.errors import StoreError
from xsen2.sinks import lock, regions
from xsen2.sinks.cog import to_cog
from xsen2.sinks.store import Disk, Other, place_of
from xsen2.sinks.zarr import to_zarr


def held(*paths: str | Path, names: str | list[str] = "a") -> Any:
    """The locks at these paths."""
    return lock.locked([(Disk(str(Path(path).parent)), Path(path).name) for path in paths], list(names))


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that knows no locks of the operating system."""

    def refuse(self: FileLock, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    monkeypatch.setattr(lock, "SETTLING", 0.01)


def flat(**kwargs: Any) -> xr.Dataset:
    return make_cube(20, 20, grids=(10,), chunks=60, **kwargs)


def files(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


class Gate:
    """Pixels that wait until the gate is open."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def before(self, ds: xr.Dataset) -> xr.Dataset:
        return ds.map(lambda v: v.copy(data=v.data.map_blocks(self._wait, meta=v.data._meta)))

    def _wait(self, block: np.ndarray) -> np.ndarray:
        self.reached.set()
        assert self.open.wait(30)
        return block


@contextmanager
def writing(call: Any, ds: xr.Dataset, target: Any, **kwargs: Any) -> Iterator[list[BaseException]]:
    """Another thread that writes, stopped at its first pixels until the context is left."""
    gate, errors = Gate(), []

    def run() -> None:
        try:
            call(gate.before(ds), target, progress=False, **kwargs)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert gate.reached.wait(30)
        yield errors
    finally:
        gate.open.set()
        thread.join()


REFUSED = rf"being written by another run, process {os.getpid()} on .* since 20.*another path.*delete .*lock"


def test_two_runs_into_one_store(tmp_path: Path) -> None:
    ds, store = flat(), tmp_path / "a.zarr"
    link = tmp_path / "link.zarr"
    link.symlink_to(store)
    with writing(to_zarr, ds, store) as errors:
        for overwrite, path in ((False, store), (True, store), (True, link)):
            with pytest.raises(StoreError, match=REFUSED):
                to_zarr(ds, path, overwrite=overwrite, progress=False)
        assert "B02" in to_zarr(ds, tmp_path / "b.zarr", progress=False)
    assert not errors
    np.testing.assert_array_equal(xr.open_zarr(store)["B08"], np.rint(ds["B08"]))
    # The finished store is replaced: it can be read, and the call that made it returns it.
    with writing(to_zarr, ds + 1, store, overwrite=True) as errors:
        with pytest.raises(StoreError, match=REFUSED):
            to_zarr(ds + 2, store, overwrite=True, progress=False)
        np.testing.assert_array_equal(xr.open_zarr(store)["B08"], np.rint(ds["B08"]))
    assert not errors
    np.testing.assert_array_equal(xr.open_zarr(store)["B08"], np.rint(ds["B08"] + 1))
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr", "link.zarr"]


def test_a_finished_store_is_returned_without_a_lock(tmp_path: Path) -> None:
    ds, store = flat(), tmp_path / "a.zarr"
    to_zarr(ds, store, progress=False)
    with held(tmp_path / ".a.zarr.xsen2-lock"):
        assert "B02" in to_zarr(ds, store, progress=False)


def test_two_runs_into_one_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLING", 0.01)
    ds, url = flat(), "memory://locked/a.zarr"
    with writing(to_zarr, ds, url) as errors:
        for overwrite in (False, True):
            with pytest.raises(StoreError, match=rf"(?s){REFUSED}"):
                to_zarr(ds, url, overwrite=overwrite, progress=False)
    assert not errors
    np.testing.assert_array_equal(xr.open_zarr(url)["B08"], np.rint(ds["B08"]))
    assert not [name for name in filesystem("memory").find("/locked") if "lock" in name.rpartition("/")[2]]


def test_two_runs_into_one_geotiff(tmp_path: Path) -> None:
    ds = flat(dates=2)
    with writing(to_cog, ds, tmp_path, overwrite=True) as errors:
        with pytest.raises(StoreError, match=rf"20240606\.tif is {REFUSED}"):
            to_cog(ds.isel(time=[1]), tmp_path, overwrite=True, progress=False)
        to_cog(ds, tmp_path / "{date}_{band}.tif", bands=["B02"], progress=False)
    assert not errors
    assert sorted(os.listdir(tmp_path)) == ["20240601.tif", "20240601_B02.tif", "20240606.tif", "20240606_B02.tif"]


def entry(**changes: Any) -> bytes:
    return json.dumps(json.loads(lock._entry("theirs")) | changes).encode()


def hold(path: str) -> None:
    with held(path):
        time.sleep(60)


def test_a_killed_owner_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new/lock"
    child = zarr_writer.begin(hold, str(path))
    until = time.monotonic() + 60
    while not (path.exists() and path.read_bytes()) and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(StoreError, match=f"process {child.pid} on"), held(path):
        pass
    assert not lock.abandoned(str(path))
    child.kill()
    child.join()
    for left in (path.read_bytes(), b"", b"{", entry(host="far.example")):  # as a kill, a full disk, a boot leave it
        path.write_bytes(left)
        assert lock.abandoned(str(path))
        start = time.monotonic()
        with held(path) as (mine,):
            mine.check()
        assert time.monotonic() - start < 5
        assert not path.exists()


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_run_whose_lock_could_not_be_given_back(tmp_path: Path, place: str) -> None:
    """The disk or network fails, and is back when the same process tries again."""
    ds, store = flat(), str(tmp_path / "a.zarr") if place == "disk" else "memory://lost/a.zarr"
    kind = Disk if place == "disk" else Other

    def fails(*_: Any) -> Any:
        raise OSError("the network is down")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "delete", fails)
        with pytest.raises((OSError, StoreError), match="network"):
            to_zarr(ds, store, progress=False)
    start = time.monotonic()
    to_zarr(ds, store, progress=False)
    assert time.monotonic() - start < 30
    assert not [name for name in filesystem("memory").find("/lost") if "lock" in name]
    assert os.listdir(tmp_path) == (["a.zarr"] if place == "disk" else [])


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_an_owner_that_nobody_knows_lives_while_its_lock_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.6)
    on_disk = place == "disk"
    store = str(tmp_path / "a.zarr") if on_disk else f"memory://{tmp_path.name}/b.zarr"
    where, key = (Disk(str(tmp_path)), ".a.zarr.xsen2-lock") if on_disk else (place_of(store), ".xsen2/lock")
    there, over = {"process": "another", "host": "far.example"}, threading.Event()

    def beat() -> None:
        number = 0
        while not over.wait(0.05):
            where.write(key, entry(**there, beat=f"{number:06}"))
            number += 1

    where.write(key, entry(**there, beat="000000"))
    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(StoreError, match=f"on far.example since .*{re.escape(key)}"):
        to_zarr(flat(), store, progress=False)
    over.set()
    thread.join()
    assert "B02" in to_zarr(flat(), store, progress=False)  # abandoned
    assert where.read(key) is None


@pytest.mark.usefixtures("no_locks")
def test_own_lock_beats_and_nothing_is_left_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.001)
    before = threading.active_count()
    paths = [tmp_path / f"new/{n}" for n in range(3)]
    for _ in range(10):
        with held(*paths, names="abc") as claims:
            first = claims[2].read()
            until = time.monotonic() + 10
            while claims[2].read() == first and time.monotonic() < until:
                claims[1].check()
            assert claims[2].read() != first
        assert os.listdir(tmp_path / "new") == []
    assert threading.active_count() == before


def test_all_locks_or_none(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    with held(paths[1], names="b"):
        with pytest.raises(StoreError, match="b is being written"), held(*paths, names="ab"):
            pass
        assert os.listdir(tmp_path) == ["b"]


def count_up(folder: str) -> None:
    """Add one to a number in a file, fifty times, each under the lock."""
    number = Path(folder) / "number"
    for _ in range(50):
        while True:
            with ExitStack() as stack:
                try:
                    stack.enter_context(held(f"{folder}/lock"))
                except StoreError:
                    continue
                number.write_text(str(int(number.read_text()) + 1))
                break


def dead_and_alive(path: Path, barrier: threading.Barrier, won: list[str]) -> None:
    barrier.wait()
    try:
        with held(path) as (mine,):
            won.append(mine.run)
            barrier.wait()
            mine.check()
    except StoreError:
        barrier.wait()


def test_only_one_of_many_gets_it(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    processes = [zarr_writer.begin(count_up, str(tmp_path)) for _ in range(2)]
    count_up(str(tmp_path))
    for process in processes:
        process.join(60)
    assert (tmp_path / "number").read_text() == "150"
    for number in range(20):  # a dead run's lock, which all find at once
        path, won = tmp_path / f"{number}.lock", []
        path.write_bytes(entry())
        barrier = threading.Barrier(6)
        threads = [threading.Thread(target=dead_and_alive, args=(path, barrier, won)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert not path.exists()


def test_a_run_whose_lock_is_gone_stops(tmp_path: Path) -> None:
    ds, store = flat(), tmp_path / "a.zarr"
    with writing(to_zarr, ds, store) as errors:
        (tmp_path / ".a.zarr.xsen2-lock").unlink()
    assert [type(error) for error in errors] == [StoreError]
    assert "no longer this run's" in str(errors[0])
    to_zarr(ds, store, overwrite=True, progress=False)
    np.testing.assert_array_equal(xr.open_zarr(store)["B02"], np.rint(ds["B02"]))


def test_a_task_that_is_late_writes_nothing(tmp_path: Path) -> None:
    """A run fails while one of its blocks is still being computed; the next run has long finished when that is."""
    ds, store, gate, written = flat(), tmp_path / "a.zarr", Gate(), threading.Event()

    def late(block: np.ndarray, block_id: tuple[int, int]) -> np.ndarray:
        if block_id == (0, 0):
            gate._wait(block)
        elif gate.reached.wait(30):
            raise RuntimeError("another block fails")
        return block

    check = lock.Claim.check

    def seen(self: lock.Claim) -> None:
        try:
            check(self)
        except StoreError:
            written.set()
            raise

    old = ds.map(lambda v: v.copy(data=(v + 5).data.map_blocks(late, meta=v.data._meta)))
    with pytest.MonkeyPatch.context() as patch, dask.config.set(num_workers=8):  # a thread per block
        patch.setattr(lock.Claim, "check", seen)
        with pytest.raises(RuntimeError, match="another block"):
            to_zarr(old[["B02"]], store, progress=False)
        to_zarr(ds[["B02"]], store, overwrite=True, progress=False)
        before = files(store)
        gate.open.set()
        assert written.wait(30), "the late block was never written"
    assert files(store) == before
    np.testing.assert_array_equal(xr.open_zarr(store)["B02"], np.rint(ds["B02"]))


def test_open_files_do_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    to_zarr(flat(dates=1), tmp_path / "warm.zarr", progress=False)
    before = len(os.listdir("/proc/self/fd"))
    to_zarr(flat(dates=5), tmp_path / "a.zarr", progress=False)  # ten regions
    to_cog(flat(dates=3), tmp_path, progress=False)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
