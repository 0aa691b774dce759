"""A source that is rewritten in place between two runs of one write: old and new pixels are never mixed unseen."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import rioxarray
import xarray as xr
import zarr
from cubes import make_cube, no_compute

from xsen2.errors import StoreError
from xsen2.sinks import regions
from xsen2.sinks.resume import stamp
from xsen2.sinks.zarr import to_zarr


def like() -> xr.Dataset:
    return make_cube(20, 10, grids=(10,), dates=2, chunks=60)[["B02"]]


def of_zarr(folder: Path, pixels: np.ndarray | None) -> xr.Dataset:
    if pixels is None:
        like().to_zarr(folder / "s.zarr")
    else:
        zarr.open_array(folder / "s.zarr/B02", mode="r+")[:] = pixels
    return xr.open_zarr(folder / "s.zarr", decode_coords="all")


def of_array(folder: Path, pixels: np.ndarray | None) -> xr.Dataset:
    ds = of_zarr(folder, pixels)
    return like().assign(B02=(ds["B02"].dims, da.from_zarr(str(folder / "s.zarr/B02"))))


def of_file(folder: Path, pixels: np.ndarray | None) -> xr.Dataset:
    ds = like()
    one = ds["B02"][0] if pixels is None else ds["B02"][0].copy(data=pixels[0])
    one.rio.to_raster(folder / "s.tif")
    opened = rioxarray.open_rasterio(folder / "s.tif", chunks={"y": 60, "x": 60})
    return ds.assign(B02=(ds["B02"].dims, da.concatenate([opened.data, opened.data])))


def of_memory_map(folder: Path, pixels: np.ndarray | None) -> xr.Dataset:
    ds = like()
    np.save(folder / "s.npy", ds["B02"].values if pixels is None else pixels)
    mapped = np.load(folder / "s.npy", mmap_mode="r")

    def read(block_info: Any = None, *, of: np.ndarray = mapped) -> np.ndarray:
        return np.array(of[tuple(slice(*span) for span in block_info[None]["array-location"])])

    data = da.map_blocks(read, chunks=ds["B02"].chunks, meta=np.empty((0, 0, 0), "f4"), name="same")
    return ds.assign(B02=(ds["B02"].dims, data))


def of_function(folder: Path, pixels: np.ndarray | None) -> xr.Dataset:
    ds = like()
    np.save(folder / "s.npy", ds["B02"].values if pixels is None else pixels)
    path = str(folder / "s.npy")

    def read(block_info: Any = None) -> np.ndarray:
        where = tuple(slice(*span) for span in block_info[None]["array-location"])
        return np.load(path)[where]

    data = da.map_blocks(read, chunks=ds["B02"].chunks, meta=np.empty((0, 0, 0), "f4"), name="same")
    return ds.assign(B02=(ds["B02"].dims, data))


def of_archive(folder: Path, pixels: np.ndarray | None) -> xr.Dataset:
    ds = like()
    (ds["B02"][0] if pixels is None else ds["B02"][0].copy(data=pixels[0])).rio.to_raster(folder / "in.tif")
    with zipfile.ZipFile(folder / "s.zip", "w") as file:
        file.write(folder / "in.tif", "deep/in.tif")
    opened = rioxarray.open_rasterio(f"/vsizip/{folder}/s.zip/deep/in.tif", chunks={"y": 60, "x": 60})
    return ds.assign(B02=(ds["B02"].dims, da.concatenate([opened.data, opened.data])))


SOURCES = [of_zarr, of_array, of_file, of_memory_map, of_function, of_archive]


def stopping(ds: xr.Dataset, switch: Path) -> xr.Dataset:
    """Fails at the second date until a file is there."""

    def stop(block: np.ndarray, there: str, block_info: Any = None) -> np.ndarray:
        if block_info[0]["chunk-location"][0] and not os.path.exists(there):
            raise OSError("stopped")
        return block

    data = ds["B02"].data
    out = data.map_blocks(stop, str(switch), dtype=data.dtype, meta=data._meta, name=f"stop-{data.name[-8:]}")
    return ds.assign(B02=ds["B02"].copy(data=out))


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Callable[[Path, Any], xr.Dataset]
) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    switch, store = tmp_path / "switch", tmp_path / "a.zarr"
    with pytest.raises(OSError, match="stopped"):
        to_zarr(stopping(source(tmp_path, None), switch), store, progress=False)
    assert list(store.glob(".xsen2/done-*"))
    ds = source(tmp_path, like()["B02"].values + 500)
    switch.touch()
    with (
        pytest.raises(
            StoreError, match=r"(half written, and .*s\.(zarr|tif|npy|zip).* changed since|other steps).*overwrite=True"
        ),
        no_compute(),
    ):
        to_zarr(stopping(ds, switch), store, progress=False)
    back = to_zarr(stopping(ds, switch), store, overwrite=True, progress=False)
    want = np.rint(like()["B02"].values + 500)
    np.testing.assert_array_equal(back["B02"][0], want[0])


@pytest.mark.parametrize("changed", [False, True])
def test_dates_that_are_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool) -> None:
    """Nobody has seen them: they are computed again."""
    monkeypatch.setattr(regions, "REGION", 1)
    switch, store = tmp_path / "switch", tmp_path / "a.zarr"
    first = like().isel(time=[0]).assign_coords(time=np.array(["2020-01-01"], "M8[ns]"))
    to_zarr(first, store, progress=False)
    with pytest.raises(OSError, match="stopped"):
        to_zarr(stopping(of_zarr(tmp_path, None), switch), store, append_dim="time", progress=False)
    done = {p.name: p.stat().st_mtime_ns for p in store.glob("B02/c/1/*/*")}
    assert done
    more = 500 if changed else 0
    if changed:
        of_zarr(tmp_path, like()["B02"].values + more)
    switch.touch()
    ds = stopping(xr.open_zarr(tmp_path / "s.zarr", decode_coords="all"), switch)
    back = to_zarr(ds, store, append_dim="time", progress=False)
    np.testing.assert_array_equal(back["B02"][1:], np.rint(like()["B02"].values + more))


def test_what_is_not_a_source_is_not_looked_through(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    data = da.map_blocks(
        lambda block, *_: block, da.zeros((4, 4), chunks=2), "/", "/tmp", str(tmp_path), meta=np.empty((0, 0))
    )
    assert stamp([data]) == {}
