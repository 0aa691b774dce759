"""The Zarr sink: what is reopened is what was written, whatever happened on the way."""

from __future__ import annotations

import json
import os
import shutil
import threading
import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr_writer
from cubes import make_cube, no_compute
from fsspec import filesystem
from hypothesis import given
from hypothesis import strategies as st

import xsen2
from xsen2.errors import CRSError, RadiometryError, StoreError
from xsen2.sinks import lock, regions
from xsen2.sinks.store import Disk
from xsen2.sinks.zarr import to_zarr


def files(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def native(rows: int, columns: int, **kwargs: Any) -> xr.Dataset:
    """A cube of `rows` x `columns` squares of 60 pixels at 10 m."""
    return make_cube(10 * rows, 10 * columns, **kwargs)


def flat(rows: int, columns: int, **kwargs: Any) -> xr.Dataset:
    """The 10 m bands of such a cube."""
    return native(rows, columns, grids=(10,), **kwargs)


def test_round_trip_of_a_10_m_dataset(tmp_path: Path) -> None:
    ds = flat(rows=7, columns=5, dates=3, chunks=180)
    ds["B03"] = ds["B03"].where(ds["x"] > float(ds["x"][60])) - 2000
    ds = ds.assign_coords(time=ds["time"].values[[0, 0, 2]])  # a date twice
    back = to_zarr(ds, tmp_path / "a.zarr", progress=False)

    assert back["B02"].chunks is not None
    for band in ds.data_vars:
        assert back[band].dtype == np.float32
        np.testing.assert_array_equal(back[band].values, np.rint(ds[band].values))
    for name in ("time", "y", "x"):
        np.testing.assert_array_equal(back[name].values, ds[name].values)
    assert (back["B03"].values < 0).any()
    assert np.isnan(back["B03"].values[:, :, :61]).all()
    assert {k: v for k, v in back.attrs.items() if k != "xsen2_run"} == ds.attrs
    assert "zarr.json" in files(tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr/.xsen2").exists()


def test_georeference_survives_reopening(tmp_path: Path) -> None:
    ds = flat(rows=3, columns=4, dates=2, chunks=120)
    store = tmp_path / "a.zarr"
    to_zarr(ds, store, progress=False)
    want = ds["B02"].rio.transform()
    back = xr.open_zarr(store, decode_coords="all")
    for opened in (back, back["B02"], back["B08"].isel(time=0)):
        assert opened.rio.crs == ds.rio.crs
        assert opened.rio.transform().almost_equals(want, precision=1e-6)


def test_native_cube_keeps_its_grids_and_extras(tmp_path: Path) -> None:
    ds = native(7, 5, dates=2, chunks=120)
    scl = (ds["B05"] % 11).astype(np.uint8)
    scl.attrs = {"long_name": "scene classification"}
    ds = ds.assign(SCL=scl, cloudy=scl > 8, sun=("time", [40.5, 41.0]), fine=ds["B02"] / 7)
    back = to_zarr(ds.rename(fine="ratio"), tmp_path / "a.zarr", progress=False)

    assert back["SCL"].dtype == np.uint8
    np.testing.assert_array_equal(back["SCL"], scl)
    assert back["cloudy"].dtype == bool
    np.testing.assert_array_equal(back["cloudy"], scl > 8)
    np.testing.assert_array_equal(back["ratio"], ds["fine"])  # not a band: not rounded
    assert back["sun"].values.tolist() == [40.5, 41.0]
    assert "GeoTransform" not in back["spatial_ref"].attrs  # it could hold for one grid only
    for band, size in (("B02", 10), ("B05", 20), ("B01", 60)):
        y, x = back[band].dims[-2:]
        placed = back[band].rio.set_spatial_dims(x, y).rio
        assert placed.crs == ds.rio.crs
        west, north = float(ds["x"][0]) - 5, float(ds["y"][0]) + 5
        assert placed.transform().almost_equals((size, 0, west, 0, -size, north), precision=1e-6)
    assert set(xsen2.canonicalise(back).data_vars) == set(xsen2.canonicalise(ds.rename(fine="ratio")).data_vars)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("int16", [-32767, -41, 0, 0, 2, 20001, 32767, 32767, np.nan]),
        ("uint16", [1, 1, 1, 1, 2, 20001, 40000, 65535, np.nan]),
        ("float32", [-40000, -41.4, 0, 0.4, 1.6, 20000.7, 40000, 1e6, np.nan]),
    ],
)
def test_values_clip_and_never_wrap(tmp_path: Path, dtype: str, expected: list[float]) -> None:
    ds = flat(rows=1, columns=2)
    values = [-40000, -41.4, 0, 0.4, 1.6, 20000.7, 40000, 1e6, np.nan]
    pixels = np.full(ds["B02"].shape, 5000, np.float32)
    pixels[0, : len(values)] = values
    back = to_zarr(ds.assign(B02=(("y", "x"), pixels)), tmp_path / "a.zarr", dtype=dtype, progress=False)
    np.testing.assert_array_equal(back["B02"][0, : len(values)], np.array(expected, np.float32))
    assert back["B02"].encoding["dtype"] == np.dtype(dtype)


def test_nodata_is_nan_again_exactly_and_empty_chunks_cost_nothing(tmp_path: Path) -> None:
    ds = flat(rows=4, columns=4, chunks=120)
    holes = np.random.default_rng(3).random(ds["B02"].shape) < 0.3
    holes[:120, :120] = True
    ds["B02"] = ds["B02"].where(~holes)
    ds["B03"] = ds["B03"] * 0.0  # a measurement, not nodata
    for dtype in ("int16", "uint16", "float32"):
        store = tmp_path / f"{dtype}.zarr"
        back = to_zarr(ds, store, dtype=dtype, progress=False)
        np.testing.assert_array_equal(np.isnan(back["B02"].values), holes)
        assert not np.isnan(back["B03"].values).any()
        assert not (store / "B02/c/0/0").exists()
        assert (store / "B03/c/0/0").exists()


def test_integer_bands_keep_dtype_and_nodata(tmp_path: Path) -> None:
    ds = native(3, 3, dtype=np.uint16, chunks=60)
    ds["B02"][:5, :5] = 0
    ds["B03"].attrs["_FillValue"] = 9
    back = xr.open_zarr(to_zarr(ds, tmp_path / "a.zarr", progress=False).encoding["source"], mask_and_scale=False)
    assert {back[b].dtype for b in ("B02", "B05", "B01")} == {np.dtype("uint16")}
    np.testing.assert_array_equal(back["B05"], ds["B05"])
    assert back["B02"].attrs["_FillValue"] == 0
    assert back["B03"].attrs["_FillValue"] == 9


def test_reflectance_is_scaled_or_refused_but_never_rounded_to_nothing(tmp_path: Path) -> None:
    ds = flat(rows=3, columns=3, chunks=180, scale=1e-4)
    with pytest.raises(RadiometryError, match="looks like reflectance"):
        to_zarr(ds, tmp_path / "refused.zarr", progress=False)
    for band in ds.data_vars:
        ds[band].encoding["scale_factor"] = 1e-4  # as CF decoding leaves it
    back = to_zarr(ds, tmp_path / "a.zarr", progress=False)
    np.testing.assert_allclose(back["B02"], ds["B02"], atol=0.51e-4)
    assert back["B02"].encoding["dtype"] == np.int16


@pytest.mark.parametrize(
    ("size", "chunks", "wanted", "disk"),
    [
        ((1260, 900), 600, None, (600, 600)),
        ((2640, 1320), 1320, None, (660, 1200)),  # one chunk across: free to be cut
        ((1260, 900), None, None, (1200, 900)),
        ((1260, 900), 600, 256, (256, 256)),
        ((180, 60), 60, 1000, (180, 60)),
    ],
)
def test_chunks_on_disk(
    tmp_path: Path, size: tuple[int, int], chunks: int | None, wanted: int | None, disk: tuple[int, int]
) -> None:
    ds = flat(rows=size[0] // 60, columns=size[1] // 60, chunks=chunks)[["B02"]]
    back = to_zarr(ds, tmp_path / "a.zarr", chunks=wanted, progress=False)
    assert back["B02"].encoding["chunks"] == disk
    np.testing.assert_array_equal(back["B02"].values, np.rint(ds["B02"].values))


def test_coarser_grids_get_proportional_chunks(tmp_path: Path) -> None:
    back = to_zarr(native(10, 12, chunks=300), tmp_path / "a.zarr", chunks=120, progress=False)
    assert [back[b].encoding["chunks"] for b in ("B02", "B05", "B01")] == [(120, 120), (60, 60), (20, 20)]


def test_what_is_no_plane_of_numbers_is_stored_too(tmp_path: Path) -> None:
    ds = flat(rows=2, columns=2, dates=2, chunks=60)
    lat = ds["y"] / 1e5 + 0 * ds["x"]
    seen = ds["time"] + (ds["B02"] // 1).astype("timedelta64[s]")
    ds = ds.assign(
        each=ds["B02"].mean(("y", "x")), all=ds["B02"].mean(), column=ds["B02"].isel(time=0, x=0), seen=seen
    ).assign_coords(lat=lat.chunk(y=60), cloudy=ds["B02"].mean(("y", "x")) > 0)
    lazy = ("each", "all", "column", "seen", "lat", "cloudy")
    assert all(ds[name].chunks for name in lazy if ds[name].ndim)
    back = to_zarr(ds, tmp_path / "a.zarr", progress=False)
    for name in lazy:
        np.testing.assert_array_equal(back[name].values, ds[name].values)
    assert "lat" in back.coords
    assert set(back.data_vars) == set(ds.data_vars)
    assert ds["each"].chunks  # the caller's is left as it was


pieces = st.lists(st.integers(1, 9), min_size=1, max_size=6).map(tuple)


@given(st.one_of(st.just(None), pieces), pieces, pieces, st.integers(1, 5), st.integers(1, 400), st.booleans())
def test_regions_hold_every_chunk_whole_and_once(
    dates: tuple[int, ...] | None, rows: tuple[int, ...], columns: tuple[int, ...], side: int, limit: int, given: bool
) -> None:
    blocks = (*(() if dates is None else (dates,)), rows, columns)
    dims = ("time", "y", "x")[-len(blocks) :]
    ds = xr.Dataset({"B02": (dims, da.zeros([sum(b) for b in blocks], chunks=blocks, dtype="f4"))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "REGION", limit)
        patch.setattr(regions, "CHUNK", side)
        (grid,) = regions.plan(ds, "int16", side if given else None)
    seen = np.zeros(ds["B02"].shape, int)
    for region in grid.regions:
        seen[region] += 1
        for span, chunk, total in zip(region, grid.chunks, seen.shape, strict=True):
            assert span.start % chunk == 0
            assert span.stop % chunk == 0 or span.stop == total
    assert (seen == 1).all()


def test_each_block_is_computed_once_and_dates_come_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    calls: list[tuple[int, ...]] = []
    lock = threading.Lock()

    def count(block: np.ndarray, block_id: tuple[int, ...]) -> np.ndarray:
        with lock:
            calls.append(block_id)
        return np.stack([block, block + 1])  # two bands from one block, as a method gives them

    ds = flat(rows=7, columns=5, dates=4, chunks=120)
    both = da.map_blocks(
        count, ds["B02"].data, new_axis=0, dtype="f4", chunks=((2,), *ds["B02"].chunks), meta=np.empty((0,) * 4, "f4")
    )
    ds = ds.assign(B02=(ds["B02"].dims, both[0]), B03=(ds["B02"].dims, both[1]))[["B02", "B03"]]
    back = to_zarr(ds, tmp_path / "a.zarr", progress=False)
    assert set(Counter(calls).values()) == {1}
    assert len(calls) == 4 * 4 * 3
    order = [(date, row) for _, date, row, _ in calls]
    assert order == sorted(order)  # a region, a row of chunks here, is finished before the next is begun
    assert float((back["B03"] - back["B02"]).mean()) == pytest.approx(1, abs=1e-3)


def test_memory_does_not_grow_with_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "REGION", 600 * 600)

    def peak(dates: int) -> int:
        pixels = da.random.default_rng(1).uniform(0, 9000, (dates, 600, 600), chunks=(1, 600, 600)).astype("f4")
        like = flat(rows=10, columns=10)
        ds = xr.Dataset(
            {b: (("time", "y", "x"), pixels + i) for i, b in enumerate(("B02", "B03", "B04"))},
            {"y": like["y"], "x": like["x"], "spatial_ref": like["spatial_ref"]},
        )
        tracemalloc.start()
        with dask.config.set(scheduler="synchronous"):  # with threads, the peak is a matter of luck
            to_zarr(ds, tmp_path / f"{dates}.zarr", progress=False)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)  # imports and caches
    assert peak(12) < 1.3 * peak(2)


def test_killed_writer_is_taken_up_again(tmp_path: Path) -> None:
    whole = tmp_path / "whole.zarr"
    zarr_writer.write(str(whole))
    store = tmp_path / "killed.zarr"
    # In the first pixels, after some regions of one grid, in another grid.
    for moment in ("B03/c/0/0/*", ".xsen2/done-0-3", ".xsen2/done-1-*"):
        process = zarr_writer.begin(zarr_writer.write, str(store))
        zarr_writer.wait_for(store, moment, process)
        assert process.is_alive(), "it was done before it could be killed"
        process.kill()
        process.join()
        with pytest.raises((FileNotFoundError, KeyError)):
            xr.open_zarr(store)  # never taken for finished
        assert (tmp_path / ".killed.zarr.xsen2-lock").exists()
    (store / "B03/c/0/0/0.0123.partial").write_bytes(b"half a chunk")  # as zarr leaves one
    for chunk in (store / "B01").rglob("c/*/*/*"):  # the last grid: nothing says that these are whole
        chunk.write_bytes(chunk.read_bytes()[:7])

    done = {p.name: p.stat().st_mtime_ns for p in (store / ".xsen2").glob("done-*")}
    assert not any(name.startswith("done-2-") for name in done)
    before = (store / "B03/c/0/0/0").stat().st_mtime_ns
    zarr_writer.write(str(store))
    assert (store / "B03/c/0/0/0").stat().st_mtime_ns == before  # not written again
    assert files(store) == files(whole)
    assert sorted(os.listdir(tmp_path)) == ["killed.zarr", "whole.zarr"]


class _Cut(BaseException):
    """The power goes."""


@pytest.mark.filterwarnings(r"ignore:Object at \.xsen2")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_stop_after_many_a_step_is_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """After each of the first and of the last, and after every third of those between, which write alike."""
    monkeypatch.setattr(regions, "REGION", 1)
    ds = flat(rows=2, columns=2, dates=2, chunks=120)[["B02"]]
    old = ds.isel(y=slice(60)) + 1
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    want = files(tmp_path / "whole.zarr")
    to_zarr(old, tmp_path / "old.zarr", progress=False)
    steps = 0

    def cutting(real: Any) -> Any:
        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            result = real(self, *args, **kwargs)
            if steps == stop:
                raise _Cut
            return result

        return step

    def begin(name: str) -> None:
        """Write a store, until the stop."""
        nonlocal steps
        store, steps = tmp_path / name, 0
        if overwrite:
            shutil.copytree(tmp_path / "old.zarr", store)
        with monkeypatch.context() as patch:
            for change in ("write", "delete", "prune", "move"):
                patch.setattr(Disk, change, cutting(getattr(Disk, change)))
            to_zarr(ds, store, overwrite=overwrite, progress=False)

    stop = 0
    begin("unstopped.zarr")
    last = steps
    assert last > 10
    for stop in sorted({*range(1, 5), *range(5, last - 8, 3), *range(last - 8, last + 1)}):
        store = tmp_path / f"{stop}.zarr"
        with pytest.raises(_Cut):
            begin(store.name)
        if (store / "zarr.json").exists():
            found = xr.open_zarr(store, consolidated=False)
            assert "B02" in found
            if overwrite:  # the old one or the new one, and all of it
                assert found["B02"].equals(np.rint((old if found.sizes["y"] == 60 else ds)["B02"]))
        elif overwrite:  # between two moves: both lie beside it
            assert len(list(tmp_path.glob(f".{stop}.zarr.*/zarr.json"))) == 2
        to_zarr(ds, store, overwrite=overwrite, progress=False)
        assert files(store) == want, f"after a stop at step {stop}"
        assert not list(tmp_path.glob(".*"))


def test_the_same_call_again_computes_nothing(tmp_path: Path) -> None:
    ds = flat(rows=2, columns=2, chunks=60)
    first = to_zarr(ds, tmp_path / "a.zarr", progress=False)
    before = files(tmp_path / "a.zarr")
    with no_compute():
        again = to_zarr(flat(rows=2, columns=2, chunks=60), tmp_path / "a.zarr", progress=False)
    assert files(tmp_path / "a.zarr") == before
    xr.testing.assert_identical(first, again)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda ds: ds.isel(x=slice(60)), "grids"),
        (lambda ds: ds.rename(B02="blue"), "grids"),
        (lambda ds: ds.assign_coords(x=ds["x"] + 60), "coordinates"),
        (lambda ds: ds.assign_attrs(xsen2_method="other"), "attributes"),
        (lambda ds: ds.chunk(x=60), "storage"),
        (lambda ds: ds.where(ds["B02"] > 0), "steps"),
    ],
)
def test_another_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, named: str, finished: bool
) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    ds = flat(rows=3, columns=2, dates=2, chunks=120).assign_attrs(xsen2_method="bicubic")
    store = tmp_path / "a.zarr"
    if finished:
        to_zarr(ds, store, progress=False)
    else:
        unfinish(store, ds)
    before = files(store)
    with pytest.raises(StoreError, match=rf"another run.*{named}.*overwrite=True"):
        to_zarr(change(ds), store, progress=False)
    assert files(store) == before
    other = change(ds)
    back = to_zarr(other, store, overwrite=True, progress=False)
    name = next(iter(other.data_vars))
    np.testing.assert_array_equal(back[name], np.rint(other[name].values))


@pytest.mark.parametrize("edit", ["mask", "below half a DN", "seed"])
def test_other_pixels_are_never_taken_for_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: str) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    ds = flat(rows=3, columns=2, dates=2, chunks=60)

    def edited() -> xr.Dataset:  # in memory, so that the steps of Dask are the same
        new = ds.compute()
        if edit == "mask":
            new["B04"][1, 70:80, 70:80] = np.nan  # neither the first date nor the first chunk
        elif edit == "below half a DN":
            new = new.map(lambda v: v + np.float32(0.9), keep_attrs=True)
        else:
            new = flat(rows=3, columns=2, dates=2, seed=1)
        return new.chunk(ds.chunks)

    to_zarr(ds, tmp_path / "a.zarr", progress=False)
    before = files(tmp_path / "a.zarr")
    new = edited()
    with pytest.raises(StoreError, match=r"is finished, and may belong to another run.*overwrite=True"), no_compute():
        to_zarr(new, tmp_path / "a.zarr", progress=False)
    assert files(tmp_path / "a.zarr") == before
    if edit != "mask":
        unfinish(tmp_path / "b.zarr", ds)
        before = files(tmp_path / "b.zarr")
        with pytest.raises(StoreError, match=r"B02 has other pixels.*overwrite=True"):
            to_zarr(new, tmp_path / "b.zarr", progress=False)
        assert files(tmp_path / "b.zarr") == before


@pytest.mark.parametrize("region", [0, 1])
def test_each_region_that_was_written_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, region: int) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    ds = flat(rows=3, columns=2, dates=2, chunks=120)
    unfinish(tmp_path / "a.zarr", ds)  # two regions: both of the first date
    other = ds.compute()
    other["B03"][0, 120 * region : 120 * region + 5] += 1
    with pytest.raises(StoreError, match="B03 has other pixels"):
        to_zarr(other.chunk(ds.chunks), tmp_path / "a.zarr", progress=False)


@pytest.mark.parametrize("link", [False, True])
def test_a_store_can_be_replaced_by_what_is_made_of_it(tmp_path: Path, link: bool) -> None:
    store = given = tmp_path / "a.zarr"
    ds = flat(rows=2, columns=2, dates=2, chunks=60)
    to_zarr(ds, store, progress=False)
    if link:
        (given := tmp_path / "link.zarr").symlink_to(store)
    source = xr.open_zarr(store, decode_coords="all")
    new = source.where(source["B02"].round() > 1500)
    want = new.compute()
    assert 0 < int(want["B03"].count()) < want["B03"].size

    broken = new.map(lambda v: v.copy(data=v.data.map_blocks(_fails, dtype="f4", meta=np.empty((0, 0, 0), "f4"))))
    before = files(store)
    with pytest.raises(OSError, match="cannot be read"):
        to_zarr(broken, given, overwrite=True, progress=False)
    assert files(store) == before

    back = to_zarr(new, given, overwrite=True, progress=False)
    for band in want.data_vars:
        np.testing.assert_array_equal(back[band], want[band])
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.zarr", "link.zarr"][: 1 + link]


def _fails(block: np.ndarray) -> np.ndarray:
    raise OSError("a link that cannot be read")


def unfinish(store: Path, ds: xr.Dataset) -> None:
    """Leave a store with two regions marked and the third on disk, but not marked."""
    real = Disk.write

    def stop(self: Disk, key: str, content: bytes) -> None:
        if key == ".xsen2/done-0-2":
            raise _Cut
        real(self, key, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Disk, "write", stop)
        with pytest.raises(_Cut):
            to_zarr(ds, store, overwrite=True, progress=False)


def test_names_of_pixels_may_change_if_the_pixels_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "REGION", 1)

    def signed_anew() -> xr.Dataset:
        ds = flat(rows=3, columns=2, dates=2, chunks=120)
        return ds.map(lambda v: v.copy(data=da.from_array(v.values, chunks=(1, 120, 120), name=False)))

    store = tmp_path / "a.zarr"
    unfinished = signed_anew()
    unfinish(store, unfinished)
    assert len(list(store.glob(".xsen2/done-*"))) == 2
    anew = signed_anew()
    back = to_zarr(anew, store, progress=False)
    np.testing.assert_array_equal(back["B04"], np.rint(unfinished["B04"].values))
    with no_compute():  # the store is that call's now
        to_zarr(anew, store, progress=False)
    with pytest.raises(StoreError, match="is finished"):
        to_zarr(unfinished, store, progress=False)


def test_only_zarr_stores_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLING", 0.01)
    ds = flat(rows=1, columns=1)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"cat")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="another path"):
            to_zarr(ds, photos, overwrite=overwrite, progress=False)
    assert (photos / "cat.jpg").exists()
    bucket = filesystem("memory")
    bucket.pipe({"/photos/cat.jpg": b"cat", "/photos/2023.zarr/zarr.json": b"{}"})
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="another path") as told:
            to_zarr(ds, "memory://photos", overwrite=overwrite, progress=False)
        assert "overwrite=True" not in str(told.value)
    assert sorted(bucket.find("/photos")) == ["/photos/2023.zarr/zarr.json", "/photos/cat.jpg"]
    with pytest.raises(StoreError, match="is a file"):
        to_zarr(ds, photos / "cat.jpg", progress=False)
    with pytest.raises(StoreError, match="zip"):
        to_zarr(ds, tmp_path / "a.zip", progress=False)
    foreign = tmp_path / "foreign.zarr"
    xr.Dataset({"a": ("x", [1, 2])}).to_zarr(foreign, consolidated=False)
    with pytest.raises(StoreError, match=r"not written by this call.*overwrite=True"):
        to_zarr(ds, foreign, progress=False)
    assert "B02" in to_zarr(ds, foreign, overwrite=True, progress=False)
    assert not (foreign / "a").exists()
    (tmp_path / "empty").mkdir()
    assert "B02" in to_zarr(ds, tmp_path / "empty", progress=False)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    ds = flat(rows=1, columns=1)
    with pytest.raises(CRSError, match=r"ds\.rio\.write_crs"), no_compute():
        to_zarr(native(1, 1, epsg=None), tmp_path / "a.zarr", progress=False)
    with pytest.raises(StoreError, match="int16, uint16, float32"):
        to_zarr(ds, tmp_path / "a.zarr", dtype="int8")
    with pytest.raises(StoreError, match="chunks=0"):
        to_zarr(ds, tmp_path / "a.zarr", chunks=0)
    assert not (tmp_path / "a.zarr").exists()


def test_awkward_metadata(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    ds = flat(rows=1, columns=1, dates=3)
    platforms = np.array(["sentinel-2a", None, "sentinel-2b"], object)
    boxes = np.empty(3, object)
    boxes[:] = [[1, 2.5], None, {"a": 1}]
    ds = ds.assign_coords(platform=("time", platforms), box=("time", boxes), tile=("time", ["31UFT"] * 3), level="L2A")
    ds.attrs = {
        "count": np.int64(3),
        "gain": np.float32(0.5),
        "where": Path("a/b"),
        "when": np.datetime64("2024-01-01"),
    }
    ds["B02"].attrs = {"range": (1, np.float64(2)), "flags": np.arange(3), "nested": {"k": {1, 2}}, "none": None}
    ds["B02"].encoding = {"chunks": (1, 1, 1), "filters": "left over from another store"}
    back = to_zarr(ds, tmp_path / "a.zarr", progress=False)
    assert back["platform"].values.tolist() == ["sentinel-2a", "", "sentinel-2b"]
    assert back["box"].values.tolist() == ["[1, 2.5]", "", "{'a': 1}"]
    assert back["tile"].values.tolist() == ["31UFT"] * 3
    assert back["level"].item() == "L2A"
    assert back.attrs["count"] == 3
    assert back.attrs["where"] == os.fspath(Path("a/b"))
    assert back["B02"].attrs["flags"] == [0, 1, 2]
    assert not [w for w in recwarn if "Zarr" in str(w.message) or "onsolidated" in str(w.message)]

    with pytest.raises(StoreError, match=r"attribute 'lock' of the dataset.*del ds\.attrs\['lock'\]"):
        to_zarr(ds.assign_attrs(lock=threading.Lock()), tmp_path / "b.zarr", progress=False)
    stacked = ds.isel(time=0, drop=True).stack(pixel=("y", "x"))
    with pytest.raises(StoreError, match="reset_index"):
        to_zarr(stacked, tmp_path / "b.zarr", progress=False)


def test_cluster_gives_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(regions, "REGION", 1)
    ds = native(4, 5, dates=2, chunks=120)
    to_zarr(ds, tmp_path / "threads.zarr", progress=False)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        to_zarr(ds, tmp_path / "cluster.zarr")
        with pytest.raises(xsen2.Cancelled):
            to_zarr(ds, tmp_path / "stopped.zarr", progress=lambda now: False)
        to_zarr(ds, tmp_path / "stopped.zarr", progress=False)
        with pytest.raises(RadiometryError):  # an error in a worker arrives, and the store can be finished
            to_zarr(native(3, 3, chunks=180, scale=1e-4), tmp_path / "bad.zarr", progress=False)
    assert "100%" in capsys.readouterr().err
    assert files(tmp_path / "cluster.zarr") == files(tmp_path / "threads.zarr")
    assert files(tmp_path / "stopped.zarr") == files(tmp_path / "threads.zarr")


def test_progress_is_one_line_that_ends_at_100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    ds = flat(rows=3, columns=2, dates=2, chunks=60)
    to_zarr(ds, tmp_path / "quiet.zarr", progress=False)
    assert capsys.readouterr().err == ""
    to_zarr(ds, tmp_path / "a.zarr")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    percents = [int(part.split("%")[0].split()[-1]) for part in shown.split("\r") if "%" in part]
    assert percents[-1] == 100
    assert all(a <= b for a, b in pairwise(percents))


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_a_call_that_is_stopped_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    """Blocks that are being computed are finished, no other is begun, and what is told counts on in the next call."""
    monkeypatch.setattr(regions, "REGION", 1)
    ds = flat(rows=3, columns=2, dates=2, chunks=60)[["B02"]]  # twelve blocks in six regions
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    computed: list[int] = []
    slow = ds.map(
        lambda v: v.copy(data=v.data.map_blocks(lambda block: (computed.append(1), block)[1], meta=v.data._meta))
    )
    seen: list[xsen2.Progress] = []

    def until(number: int) -> Any:
        return lambda now: (seen.append(now), now.done < number)[1]

    for number in (3, 7):
        computed.clear()
        said = rf"writing .*a\.zarr was stopped after {number} of 12 blocks.*same call"
        with dask.config.set(scheduler=scheduler, num_workers=2), pytest.raises(xsen2.Cancelled, match=said):
            to_zarr(slow, tmp_path / "a.zarr", progress=until(number))
        assert len(computed) <= number + 2
        with pytest.raises((FileNotFoundError, KeyError)):
            xr.open_zarr(tmp_path / "a.zarr")
    computed.clear()
    with monkeypatch.context() as patch, dask.config.set(scheduler=scheduler, num_workers=2):
        patch.setattr(regions, "REGION", 10**9)  # all blocks in one piece of work
        with pytest.raises(xsen2.Cancelled, match="after 3 of 12 blocks"):
            to_zarr(slow, tmp_path / "one.zarr", progress=lambda now: now.done < 3)
    assert len(computed) <= 3 + 3
    with pytest.raises(xsen2.Cancelled, match=r"progress= raised ZeroDivisionError.*") as stopped:
        to_zarr(slow, tmp_path / "a.zarr", progress=lambda now: 1 / 0)
    assert isinstance(stopped.value.__cause__, ZeroDivisionError)
    to_zarr(slow, tmp_path / "a.zarr", progress=seen.append)
    assert files(tmp_path / "a.zarr").keys() == files(tmp_path / "whole.zarr").keys()
    assert [now.done for now in seen] == sorted(now.done for now in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].unit) == (12, 12, "block")
    want = files(tmp_path / "whole.zarr")
    assert {n: c for n, c in files(tmp_path / "a.zarr").items() if n != "zarr.json"} == {
        n: c for n, c in want.items() if n != "zarr.json"
    }
    with pytest.raises(xsen2.Xsen2Error, match=r"progress='bar'.*True.*False.*function"):
        to_zarr(ds + 1, tmp_path / "b.zarr", progress="bar")


def test_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLING", 0.01)
    ds = flat(rows=2, columns=2, chunks=60)
    for url in (f"file://{tmp_path}/a.zarr", "memory://somewhere/a.zarr"):
        back = to_zarr(ds, url, progress=False)
        np.testing.assert_array_equal(back["B02"], np.rint(ds["B02"].values))
        with no_compute():
            to_zarr(ds, url, progress=False)
    assert json.loads((tmp_path / "a.zarr/zarr.json").read_text())["zarr_format"] == 3
    with pytest.raises(StoreError, match="only stores on local disks are replaced"):
        to_zarr(ds, "memory://somewhere/a.zarr", overwrite=True, progress=False)
    np.testing.assert_array_equal(xr.open_zarr("memory://somewhere/a.zarr")["B02"], np.rint(ds["B02"].values))
    back = to_zarr(ds + 1, f"file://{tmp_path}/a.zarr", overwrite=True, progress=False)
    np.testing.assert_array_equal(back["B02"], np.rint(ds["B02"].values + 1))


def test_superresolved_sample(tmp_path: Path) -> None:
    sr = xsen2.sample().dsen2.superresolve(method="bicubic")
    back = sr.dsen2.to_zarr(tmp_path / "a.zarr", progress=False)
    assert back.sizes == sr.sizes
    np.testing.assert_array_equal(back["B11"], np.rint(sr["B11"].values))
    again = xsen2.sample().dsen2.superresolve(method="bicubic")
    with no_compute():
        again.dsen2.to_zarr(tmp_path / "a.zarr", progress=False)
