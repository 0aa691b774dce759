"""Zarr stores that are no folders: half a write is taken up again there as well, whatever the store fails at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from cubes import make_cube, no_compute
from fsspec import filesystem
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from xsen2.errors import StoreError
from xsen2.sinks import lock, regions
from xsen2.sinks.zarr import to_zarr

LOCK = (".xsen2/lock", ".xsen2/lock/zarr.json", ".xsen2/zarr.json")


class Killed(BaseException):
    """The process ends."""


class Memory(MemoryStore):
    """It dies at the n-th change."""

    steps = -1

    def _change(self, key: str) -> None:
        if self.steps == 0:
            raise Killed
        self.steps -= 1

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        self._change(key)
        await super().set(key, value, byte_range)

    async def delete(self, key: str) -> None:
        self._change(key)
        await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        self._change(f"{prefix}/zarr.json")
        await super().delete_dir(prefix)

    def set_sync(self, key: str, value: Any) -> None:
        self._change(key)
        super().set_sync(key, value)

    def delete_sync(self, key: str) -> None:
        self._change(key)
        super().delete_sync(key)

    def with_read_only(self, read_only: bool = False) -> Memory:
        return type(self)(self._store_dict, read_only=read_only)


class Session(Memory):
    """As icechunk's: Zarr's documents and chunks alone, these within their array, and no consolidated metadata."""

    supports_consolidated_metadata = False  # type: ignore[assignment]

    def _change(self, key: str) -> None:
        assert re.fullmatch(r"(.+/)?zarr\.json|.+/c(/\d+)*", key), key
        super()._change(key)

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        name, chunk, index = key.partition("/c/")
        if chunk:
            about = json.loads(self._store_dict[f"{name}/zarr.json"].to_bytes())
            sizes = about["chunk_grid"]["configuration"]["chunk_shape"]
            for number, size, total in zip(map(int, index.split("/")), sizes, about["shape"], strict=True):
                assert number * size < total, key
        await super().set(key, value, byte_range)

    async def delete(self, key: str) -> None:
        await super().delete(key)
        if key == "zarr.json":
            self._store_dict.clear()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(regions, "REGION", 1)
    monkeypatch.setattr(lock, "SETTLING", 0.0)
    with dask.config.set(scheduler="synchronous"):
        yield


def flat(dates: int = 2) -> xr.Dataset:
    return make_cube(20, 20, grids=(10,), dates=dates, chunks=120)[["B02"]]


def stops(store: Memory, first: int) -> list[int]:
    """Every third of the changes that were made of a store that counted them, and each of the last ones."""
    last = -1 - store.steps
    assert last > 20
    return sorted({*range(first, last, 3), *range(last - 12, last)})


def contents(store: MemoryStore) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


@pytest.mark.parametrize(("kind", "first"), [(Memory, 0), (Session, 1)])
def test_killed_at_many_a_change(kind: type[Memory], first: int) -> None:
    ds, whole = flat(), kind()
    back = to_zarr(ds, whole, progress=False)
    np.testing.assert_array_equal(back["B02"], np.rint(ds["B02"]))
    assert back.rio.crs == ds.rio.crs
    want = contents(whole)
    assert not [key for key in want if "xsen2" in key]
    for stop in stops(whole, first):
        store = kind()
        store.steps = stop
        with pytest.raises(Killed):
            to_zarr(ds, store, progress=False)
        store.steps = -1
        if "zarr.json" in contents(store) and ".xsen2/ready" in contents(store):
            assert contents(store).items() >= {k: v for k, v in want.items() if k.startswith("B02/c")}.items()
        left = {key for key in contents(store) if key.startswith(".xsen2/")}
        to_zarr(ds, store, progress=False)
        found = contents(store)
        if all(key in LOCK for key in left):  # one that was not given back keeps nobody from the finished store
            found = {key: content for key, content in found.items() if key not in LOCK}
        assert found == want, stop


@pytest.mark.parametrize(("kind", "first"), [(Memory, 1), (Session, 0)])
def test_dates_are_appended_whatever_happens(kind: type[Memory], first: int) -> None:
    ds, whole = flat(3), kind()
    to_zarr(ds, whole, progress=False)
    want = contents(whole)
    begun = kind()
    to_zarr(ds.isel(time=[0]), begun, append_dim="time", progress=False)
    grown = kind(dict(begun._store_dict))
    to_zarr(ds.isel(time=[1, 2]), grown, append_dim="time", progress=False)
    for stop in stops(grown, first):
        store = kind(dict(begun._store_dict))
        store.steps = stop
        with pytest.raises(Killed):
            to_zarr(ds.isel(time=[1, 2]), store, append_dim="time", progress=False)
        store.steps = -1
        if kind is Memory:  # a session shows others nothing before it is committed
            seen = xr.open_zarr(store)
            assert seen.sizes["time"] in (1, 3)
            np.testing.assert_array_equal(seen["B02"], np.rint(ds["B02"][: seen.sizes["time"]]))
        to_zarr(ds.isel(time=[1, 2]), store, append_dim="time", progress=False)
        found = contents(store)
        assert found.keys() == want.keys()
        assert {k: v for k, v in found.items() if k != "zarr.json"} == {
            k: v for k, v in want.items() if k != "zarr.json"
        }


@pytest.mark.parametrize("kind", [Memory, Session])
def test_overviews_are_written_and_appended_whatever_happens(kind: type[Memory]) -> None:
    ds, whole = flat(2), kind()
    to_zarr(ds, whole, overviews=[2, 4], progress=False)
    want = {k: v for k, v in contents(whole).items() if k != "zarr.json"}
    assert xr.open_zarr(whole, group="overviews/4", consolidated=False).sizes["x"] == 30
    stop = 0
    for stop in range(3, 400, 17):
        store = kind()
        try:
            store.steps = stop
            to_zarr(ds.isel(time=[0]), store, append_dim="time", overviews=[2, 4], progress=False)
            to_zarr(ds.isel(time=[1]), store, append_dim="time", progress=False)
        except Killed:
            store.steps = -1
        else:
            break
        to_zarr(ds.isel(time=[0]), store, append_dim="time", overviews=[2, 4], progress=False)
        to_zarr(ds.isel(time=[1]), store, append_dim="time", progress=False)
        found = {k: v for k, v in contents(store).items() if k != "zarr.json" and k not in LOCK}
        assert found == want, stop
    assert stop > 50


def test_whatever_kind_of_store(tmp_path: Path) -> None:
    ds = flat()
    memory = filesystem("memory")
    stores = [
        MemoryStore(),
        FsspecStore.from_url("memory://stores/a.zarr"),
        "memory://stores/b.zarr",
        LocalStore(tmp_path / "a.zarr"),
        f"file://{tmp_path}/b.zarr",
    ]
    for store in stores:
        back = to_zarr(ds, store, progress=False)
        np.testing.assert_array_equal(back["B02"], np.rint(ds["B02"]))
        with no_compute():
            again = to_zarr(ds, store, progress=False)
        xr.testing.assert_identical(back, again)
        with pytest.raises(StoreError, match="another run"):
            to_zarr(ds + 1, store, progress=False)
    assert not [name for name in memory.find("/stores") if "xsen2" in name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]
    np.testing.assert_array_equal(
        to_zarr(ds + 1, stores[3], overwrite=True, progress=False)["B02"], np.rint(ds["B02"] + 1)
    )
    with pytest.raises(StoreError, match=r"only stores on local disks are replaced.*delete it first"):
        to_zarr(ds + 1, stores[0], overwrite=True, progress=False)
    zarr.core.sync.sync(stores[0].clear())  # as it says
    to_zarr(ds + 1, stores[0], overwrite=True, progress=False)
    with pytest.raises(StoreError, match="read-only"):
        to_zarr(ds, MemoryStore().with_read_only(True), progress=False)
    with pytest.raises(StoreError, match="no path"):
        to_zarr(ds, {}, progress=False)


def test_a_store_that_belongs_to_somebody_is_left_alone() -> None:
    store = MemoryStore()
    zarr.create_array(store, name="elevation", shape=(2,), dtype="f4")[:] = 1
    before = contents(store)
    with pytest.raises(StoreError, match="was not written by this call"):
        to_zarr(flat(), store, progress=False)
    assert contents(store) == before


def test_memory_is_not_where_a_cluster_writes() -> None:
    distributed = pytest.importorskip("distributed")
    ds = flat()
    with (
        dask.config.set(scheduler=None),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        for store in (MemoryStore(), "memory://cluster/a.zarr"):
            with pytest.raises(StoreError, match=r"memory of this process.*scheduler='threads'"):
                to_zarr(ds, store, progress=False)
            with dask.config.set(scheduler="threads"):  # as it says
                assert to_zarr(ds, store, progress=False)["B02"].equals(np.rint(ds["B02"]))
