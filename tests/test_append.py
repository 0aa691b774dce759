"""Dates that are added to a store: the same store as if it had been written at once, whatever happens on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import append_writer
import dask.array as da
import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr
import zarr_writer
from cases import every
from cubes import examples, make_cube, no_compute
from fsspec import filesystem
from hypothesis import given
from hypothesis import strategies as st

import xsen2
from xsen2.errors import CRSError, StoreError
from xsen2.sinks import lock, regions
from xsen2.sinks.geozarr import bare
from xsen2.sinks.resume import State
from xsen2.sinks.store import Disk
from xsen2.sinks.zarr import to_zarr


def flat(dates: int = 3, *, rows: int = 2, columns: int = 2, **kwargs: Any) -> xr.Dataset:
    """10 m bands of `rows` x `columns` squares of 60 pixels."""
    return make_cube(10 * rows, 10 * columns, grids=(10,), dates=dates, **{"chunks": 60} | kwargs)[["B02", "B03"]]


def rich(dates: int = 4) -> xr.Dataset:
    """Native grids, and all that may lie along time: text that grows, booleans, times, spans, floats with gaps."""
    ds = make_cube(3, 4, dates=dates, chunks={10: 12, 20: 12, 60: 2})[["B02", "B03", "B05", "B01"]]
    gaps = np.where(np.arange(dates) % 3 == 1, np.nan, 40.5 + np.arange(dates))
    ids = ["S2A" + "_x" * number for number in range(dates)]
    made = ds["time"].values + np.timedelta64(3723000000001, "ns") * np.arange(dates)
    ds = ds.assign_coords(
        source=("time", np.array(ids)),
        offset=("time", np.where(np.arange(dates) < 2, -1000.0, 0).astype("f4"), {"units": "DN"}),
        clear=("time", np.arange(dates) % 2 == 0),
        made=("time", made),
        orbit=("time", np.arange(dates, dtype="i8") * 3),
        tile="31UFT",
    )
    scl = (ds["B05"] % 11).astype(np.uint8)
    ds = ds.assign(SCL=scl, cloudy=scl > 8, sun=("time", gaps), lag=("time", made - ds["time"].values))
    ds["B03"] = ds["B03"].where(ds["x"] > float(ds["x"][13]))
    return ds.assign_attrs(xsen2_method="bicubic", units="DN = 10000 x reflectance", title="a series")


def contents(store: Path) -> dict[str, Any]:
    """All files; of the group's metadata all but which calls have written it."""
    found: dict[str, Any] = {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    group = re.sub(rb'"xsen2_run": "[^"]*"', b'"xsen2_run": ""', found["zarr.json"])
    return found | {"zarr.json": group}


def grow(ds: xr.Dataset, store: Any, steps: list[int], **kwargs: Any) -> xr.Dataset:
    begin = 0
    for step in steps:
        back = to_zarr(ds.isel(time=slice(begin, begin + step)), store, append_dim="time", progress=False, **kwargs)
        begin += step
    return back


@pytest.mark.parametrize("steps", [[1, 3], [2, 1, 1]], ids=str)
def test_series_has_the_bytes_of_one_write(tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    ds = rich()
    whole = to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    back = grow(ds, tmp_path / "grown.zarr", steps)
    assert contents(tmp_path / "grown.zarr") == contents(tmp_path / "whole.zarr")
    assert sorted(os.listdir(tmp_path)) == ["grown.zarr", "whole.zarr"]
    plain = xr.open_zarr(tmp_path / "grown.zarr", decode_coords="all", consolidated=False)
    for opened in (back, bare(plain)):
        assert opened.drop_attrs(deep=False).identical(whole.drop_attrs(deep=False))
    for name in ("time", "made", "source", "offset", "clear", "orbit", "sun", "lag"):
        np.testing.assert_array_equal(back[name].values, ds[name].values)
    assert back["time"].dtype == ds["time"].dtype


def test_many_appends(tmp_path: Path) -> None:
    dates = 12
    ds = flat(dates, rows=1, columns=1)[["B02"]].assign_coords(source=("time", [f"item {n}" for n in range(dates)]))
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    grow(ds, tmp_path / "grown.zarr", [1] * dates)
    assert contents(tmp_path / "grown.zarr") == contents(tmp_path / "whole.zarr")
    with no_compute():
        grow(ds, tmp_path / "grown.zarr", [1] * dates)  # the loop again: every date is known
    assert contents(tmp_path / "grown.zarr") == contents(tmp_path / "whole.zarr")


def test_more_dates_than_a_chunk_of_dates_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xsen2.sinks import regions

    monkeypatch.setattr(regions, "DATES", 3)
    ds = rich(8)[["B05", "sun", "lag", "cloudy"]]
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    grow(ds, tmp_path / "grown.zarr", [2, 1, 4, 1])
    assert contents(tmp_path / "grown.zarr") == contents(tmp_path / "whole.zarr")


@pytest.mark.parametrize("dtype", every(2, ["int16", "uint16", "float32"]))
def test_type_and_chunks_are_the_stores(tmp_path: Path, dtype: str) -> None:
    ds, store = flat(3, chunks=40), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0]), store, dtype=dtype, chunks=50, progress=False)
    to_zarr(ds.isel(time=[1]), store, append=True, progress=False)
    back = to_zarr(ds.isel(time=[2]).chunk(y=120, x=7), store, append_dim="time", progress=False)
    assert back["B02"].encoding["dtype"] == dtype
    assert back["B02"].encoding["chunks"] == (1, 50, 50)
    np.testing.assert_array_equal(back["B02"], ds["B02"] if dtype == "float32" else np.rint(ds["B02"]))
    other = "uint16" if dtype != "uint16" else "int16"
    later = ds.assign_coords(time=ds["time"] + np.timedelta64(90, "D"))
    with pytest.raises(StoreError, match=f"as {dtype}, not {other}"), no_compute():
        to_zarr(later, store, append_dim="time", dtype=other, progress=False)
    with pytest.raises(StoreError, match=r"chunks of \(1, 50, 50\)"), no_compute():
        to_zarr(later, store, append_dim="time", chunks=60, progress=False)
    assert to_zarr(later, store, append_dim="time", chunks=50, dtype=dtype, progress=False).sizes["time"] == 6


def test_nodata_and_packed_reflectance(tmp_path: Path) -> None:
    ds = flat(3, scale=1e-4)
    for band in ds.data_vars:
        ds[band].encoding["scale_factor"] = 1e-4
        ds[band].attrs["units"] = "1"
    ds["B02"] = ds["B02"].where(ds["x"] > float(ds["x"][60]))
    ds["B02"].encoding["scale_factor"] = 1e-4
    back = grow(ds, tmp_path / "a.zarr", [1, 2])
    np.testing.assert_allclose(back["B02"], ds["B02"], atol=0.51e-4)
    np.testing.assert_array_equal(np.isnan(back["B02"].values), np.isnan(ds["B02"].values))
    assert not (tmp_path / "a.zarr/B02/c/2/0/0").exists()


def test_each_date_is_there_once(tmp_path: Path) -> None:
    ds, store = flat(4), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0, 1]), store, append_dim="time", progress=False)
    before = contents(store)
    with no_compute():  # the same call
        to_zarr(ds.isel(time=[0, 1]), store, append_dim="time", progress=False)
    assert contents(store) == before
    to_zarr(ds.isel(time=[1]), store, append_dim="time", progress=False)  # in another call: computed, and the same
    assert contents(store) == before
    back = to_zarr(ds, store, append_dim="time", progress=False)  # two of four are there
    np.testing.assert_array_equal(back["time"], ds["time"])
    np.testing.assert_array_equal(back["B03"], np.rint(ds["B03"]))
    with no_compute():
        to_zarr(ds, store, append_dim="time", progress=False)
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    assert contents(store) == contents(tmp_path / "whole.zarr")


@pytest.mark.parametrize("edit", ["a pixel", "a hole", "a coordinate"])
def test_a_date_with_other_pixels_is_refused_and_the_advice_works(tmp_path: Path, edit: str) -> None:
    ds, store = flat(3).assign_coords(source=("time", list("abc"))), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0, 1]), store, progress=False)
    before = contents(store)
    other = ds.compute()
    if edit == "a coordinate":
        other = other.assign_coords(source=("time", list("axc")))
    else:
        other["B03"][1, 110, 110] = np.nan if edit == "a hole" else other["B03"][1, 110, 110] + 7
    said = "another source" if edit == "a coordinate" else r"B03 on 2024-06-06.*other pixels.*drop_sel"
    with pytest.raises(StoreError, match=said):
        to_zarr(other.chunk(ds.chunks), store, append_dim="time", progress=False)
    assert contents(store) == before
    with pytest.raises(StoreError, match=r"overwrite=True"):
        to_zarr(other.isel(time=[1]), store, append_dim="time", progress=False)
    back = to_zarr(other.drop_sel(time=other["time"].values[1]), store, append_dim="time", progress=False)
    np.testing.assert_array_equal(back["B03"], np.rint(ds["B03"]))
    back = to_zarr(other, store, overwrite=True, progress=False)
    np.testing.assert_array_equal(back["B03"], np.rint(other["B03"]))


def test_order(tmp_path: Path) -> None:
    ds, store = flat(4), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0, 2]), store, progress=False)
    with pytest.raises(StoreError, match=r"2024-06-06.* after 2024-06-11.*sortby.*overwrite=True"), no_compute():
        to_zarr(ds, store, append_dim="time", progress=False)
    with xr.open_zarr(store, decode_coords="all") as old:
        both = xr.concat([old, ds.isel(time=[1])], "time").sortby("time")
        back = to_zarr(both, store, overwrite=True, progress=False)
    np.testing.assert_array_equal(back["B02"], np.rint(ds["B02"][:3]))
    later = ds.assign_coords(time=ds["time"] + np.timedelta64(900, "D"))
    with pytest.raises(StoreError, match=r"ds\.sortby\('time'\) first"), no_compute():
        to_zarr(later.isel(time=[1, 0]), store, append_dim="time", progress=False)
    assert to_zarr(later.isel(time=[1, 0]).sortby("time"), store, append=True, progress=False).sizes["time"] == 5
    loose = tmp_path / "loose.zarr"  # one that is in no order anyway
    to_zarr(ds.isel(time=[2, 0]), loose, progress=False)
    back = to_zarr(ds.isel(time=[1]), loose, append_dim="time", progress=False)
    np.testing.assert_array_equal(back["time"], ds["time"][[2, 0, 1]])


KINDS: list[tuple[str, Callable[[xr.Dataset], xr.Dataset], str]] = [
    ("smaller", lambda ds: ds.isel(y=slice(60)), "grid of B02"),
    ("shifted", lambda ds: ds.assign_coords(x=ds["x"] + 10), "grid in x"),
    ("CRS", lambda ds: ds.drop_vars("spatial_ref").rio.write_crs(32632), "CRS .*32631.*32632"),
    ("band less", lambda ds: ds[["B02"]], "no B03 here"),
    ("band more", lambda ds: ds.assign(B04=ds["B03"]), "the store has no B04: ds.drop_vars"),
    ("type", lambda ds: ds.assign(B02=ds["B02"].astype("uint16")), "dtype of B02"),
    ("method", lambda ds: ds.assign_attrs(xsen2_method="dsen2"), "xsen2_method.*bicubic.*dsen2"),
    ("no method", lambda ds: ds.drop_attrs(deep=False), "xsen2_method.*bicubic.*None"),
    ("units", lambda ds: ds.assign_attrs(units="1"), "attribute units"),
    ("level", lambda ds: ds.assign_attrs(level="L1C"), "attribute level.*L2A.*L1C"),
    (
        "units of a band",
        lambda ds: ds.assign(B02=(ds["B02"] / 10000).assign_attrs(units="1")),
        "attribute units of B02",
    ),
    ("per date", lambda ds: ds.assign_coords(sun=("time", [1.0])), "the store has no sun"),
    ("once for all", lambda ds: ds.assign_coords(tile="32UFT"), "tile for all dates alike.*31UFT.*32UFT"),
]


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, Path]:
    """Two dates with attributes, and a store of the first."""
    ds = flat(2).assign_coords(tile="31UFT").assign_attrs(xsen2_method="bicubic", units="DN", level="L2A")
    ds["B02"].attrs["units"] = "1e-4"
    store = tmp_path_factory.mktemp("tagged") / "a.zarr"
    to_zarr(ds.isel(time=[0]), store, progress=False)
    return ds, store


@pytest.mark.parametrize(("change", "said"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_another_kind_is_refused(tmp_path: Path, tagged: tuple[xr.Dataset, Path], change: Any, said: str) -> None:
    ds, store = tagged
    before = contents(store)
    other = change(ds.isel(time=[1]))
    with no_compute(), pytest.raises((StoreError, CRSError), match=rf"nothing can be appended.*{said}.*another path"):
        to_zarr(other, store, append_dim="time", progress=False)
    assert contents(store) == before
    assert os.listdir(store.parent) == ["a.zarr"]
    to_zarr(other, tmp_path / "b.zarr", append_dim="time", progress=False)  # another path


def test_all_that_differs_is_named_at_once(tmp_path: Path) -> None:
    ds = flat(2).assign_attrs(xsen2_method="bicubic")
    to_zarr(ds.isel(time=[0]), tmp_path / "a.zarr", progress=False)
    other = ds.isel(time=[1]).assign_attrs(xsen2_method="dsen2").isel(x=slice(60)).assign(B08=ds["B02"])
    with pytest.raises(StoreError, match=r"xsen2_method.*B08.*grid of B03.*grid of x|grid in x"):
        to_zarr(other, tmp_path / "a.zarr", append_dim="time", progress=False)


def test_without_a_time_dim(tmp_path: Path) -> None:
    ds, store = flat(3), tmp_path / "a.zarr"
    first, second = ds.isel(time=0), ds.isel(time=1)
    with pytest.raises(StoreError, match=r"no dim 'time'.*expand_dims\('time'\)"), no_compute():
        to_zarr(first, store, append_dim="time", progress=False)
    to_zarr(first, store, progress=False)
    with pytest.raises(StoreError, match=r"no dim 'time'.*expand_dims\('time'\).*overwrite"), no_compute():
        to_zarr(second.expand_dims("time"), store, append_dim="time", progress=False)
    to_zarr(first.expand_dims("time"), store, overwrite=True, progress=False)
    back = to_zarr(second.expand_dims("time"), store, append_dim="time", progress=False)
    np.testing.assert_array_equal(back["B02"], np.rint(ds["B02"][:2]))
    with pytest.raises(StoreError, match="no coordinate"), no_compute():
        to_zarr(ds.drop_vars("time"), store, append_dim="time", progress=False)
    with pytest.raises(StoreError, match=r"NaT.*dropna"), no_compute():
        to_zarr(ds.assign_coords(time=[*ds["time"].values[:2], np.datetime64("NaT")]), store, append=True)
    with pytest.raises(StoreError, match=r"twice.*drop_duplicates"), no_compute():
        to_zarr(ds.assign_coords(time=ds["time"].values[[0, 1, 1]]), store, append=True)
    with pytest.raises(StoreError, match="leave out one"), no_compute():
        to_zarr(ds, store, append_dim="time", overwrite=True)
    with pytest.raises(StoreError, match="not the first dim"), no_compute():
        to_zarr(ds.isel(time=[2]).transpose("y", "x", "time"), store, append_dim="time")


def test_what_a_single_date_says_once_is_said_for_each(tmp_path: Path) -> None:
    """As of a date that was picked with isel(time=0), or of a loader that makes what all items share a scalar."""
    ds, store = rich(3), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=slice(2)), store, progress=False)
    one = ds.isel(time=2)
    back = to_zarr(one.assign(sun=one["sun"], lag=one["lag"]).expand_dims("time"), store, append=True, progress=False)
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    assert contents(store) == contents(tmp_path / "whole.zarr")
    assert back["source"].values.tolist() == ds["source"].values.tolist()


def test_a_value_that_holds_no_longer_for_all(tmp_path: Path) -> None:
    ds, store = flat(2), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0]).assign_coords(platform="S2A"), store, progress=False)
    new = ds.isel(time=[1]).assign_coords(platform="S2B")
    with pytest.raises(StoreError, match=r"platform for all dates alike.*write all dates anew with overwrite=True"):
        to_zarr(new, store, append_dim="time", progress=False)
    old = xr.open_zarr(store, decode_coords="all")
    back = to_zarr(
        xr.concat([old, new], "time", coords="different", compat="equals"), store, overwrite=True, progress=False
    )
    assert back["platform"].values.tolist() == ["S2A", "S2B"]
    later = new.assign_coords(time=new["time"] + np.timedelta64(9, "D"), platform="S2C")
    assert to_zarr(later, store, append=True, progress=False)["platform"].values.tolist() == ["S2A", "S2B", "S2C"]


def test_attributes_of_the_sources_are_joined(tmp_path: Path) -> None:
    def of(ids: str, years: str, **more: Any) -> dict[str, Any]:
        said = {"source": ids, "attribution": f"contains modified Copernicus Sentinel data {years}", "tile": "31UFT"}
        return said | {"xsen2_method": "bicubic", "xsen2_version": "0.1"} | more

    ds, store = flat(3), tmp_path / "a.zarr"
    for date, attrs in enumerate((of("a", "2024", cover=1.5), of("b", "2024", cover=2.5), of("c", "2025", new=1))):
        back = to_zarr(ds.isel(time=[date]).assign_attrs(attrs), store, append_dim="time", progress=False)
    assert {k: v for k, v in back.attrs.items() if k != "xsen2_run"} == of("a, b, c", "2024, 2025")


def test_after_xarrays_own_append(tmp_path: Path) -> None:
    ds, store = rich(5).drop_vars("tile"), tmp_path / "a.zarr"
    ds = ds.assign_coords(source=ds["source"].astype(object))  # xarray appends no text of fixed width
    to_zarr(ds.isel(time=[0]), store, progress=False)
    ds.isel(time=[1]).to_zarr(store, append_dim="time")
    to_zarr(ds.isel(time=[2]), store, append_dim="time", progress=False)
    ds.isel(time=[3]).to_zarr(store, append_dim="time")
    back = to_zarr(ds, store, append_dim="time", progress=False)  # those are there, with the same pixels
    np.testing.assert_array_equal(back["time"], ds["time"])
    for name in ("B02", "B03", "B05", "B01"):
        np.testing.assert_array_equal(back[name], np.rint(ds[name]))
    for name in ("SCL", "cloudy", "source", "offset", "clear", "sun", "made", "lag"):
        np.testing.assert_array_equal(back[name], ds[name])


def test_what_another_program_left_half_done_is_not_written_over(tmp_path: Path) -> None:
    ds, store = flat(3), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0]), store, progress=False)
    for name in ("B02", "B03", "time"):
        array = zarr.open_array(store / name, mode="r+")
        array.resize((2, *array.shape[1:]))
        array[1] = np.rint(ds[name].values[1]) if name != "time" else ds["time"].values[1].astype("i8")
    before = contents(store)
    with pytest.raises(StoreError, match=r"\[2, 120, 120\].*\[1, 120, 120\].*consolidate_metadata"):
        to_zarr(ds.isel(time=[2]), store, append_dim="time", progress=False)
    assert contents(store) == before
    zarr.consolidate_metadata(store)
    back = to_zarr(ds.isel(time=[2]), store, append_dim="time", progress=False)
    np.testing.assert_array_equal(back["B02"], np.rint(ds["B02"]))


def test_stores_of_others(tmp_path: Path) -> None:
    ds = flat(3)
    ds.isel(time=[0]).to_zarr(tmp_path / "a.zarr", consolidated=False, zarr_format=3)
    with pytest.raises(StoreError, match="consolidate_metadata"):
        to_zarr(ds.isel(time=[1]), tmp_path / "a.zarr", append_dim="time", progress=False)
    ds.isel(time=[0, 1]).chunk(time=2).to_zarr(tmp_path / "b.zarr", zarr_format=3)
    with pytest.raises(StoreError, match=r"hold 2 dates.*overwrite=True"):
        to_zarr(ds.isel(time=[2]), tmp_path / "b.zarr", append_dim="time", progress=False)
    with xr.open_zarr(tmp_path / "b.zarr", decode_coords="all") as old:
        to_zarr(old, tmp_path / "b.zarr", overwrite=True, dtype="float32", progress=False)
    back = to_zarr(ds.isel(time=[2]), tmp_path / "b.zarr", append_dim="time", progress=False)
    np.testing.assert_array_equal(back["B02"], ds["B02"])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"cat")
    with pytest.raises(StoreError, match="not written by this call"):
        to_zarr(ds, tmp_path / "photos", append_dim="time", progress=False)


def test_the_first_call_again_says_what_to_do(tmp_path: Path) -> None:
    ds, store = flat(2), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0]), store, progress=False)
    to_zarr(ds.isel(time=[1]), store, append_dim="time", progress=False)
    with pytest.raises(StoreError, match=r"has grown.*append_dim='time'"), no_compute():
        to_zarr(ds.isel(time=[0]), store, progress=False)
    with no_compute():
        assert to_zarr(ds.isel(time=[0]), store, append_dim="time", progress=False).sizes["time"] == 2


UNITS = [
    {"units": "milliseconds since 1970-01-01", "dtype": "int64"},
    {"units": "seconds since 2000-01-01", "dtype": "int64", "calendar": "standard"},
    {"units": "days since 2015-01-01", "dtype": "int64"},
    {"units": "days since 2015-01-01"},
]
moments = st.integers(0, 2**61).map(lambda n: np.datetime64(n, "ns"))


@examples(8)
@given(st.lists(moments, min_size=2, max_size=4, unique=True), st.sampled_from([None, *UNITS]), st.booleans())
def test_any_date_fits(times: list[np.datetime64], said: Any, cached: bool) -> None:
    """Whatever xarray would have guessed from the first dates, or has guessed in a store that they were read from."""
    import tempfile

    times.sort()
    ds = flat(len(times), rows=1, columns=1)[["B02"]].assign_coords(time=times)
    with tempfile.TemporaryDirectory() as folder:
        first = ds.isel(time=[0])
        if cached:  # xarray's own units, such as "days since" this very date
            first.drop_encoding().to_zarr(f"{folder}/cache.zarr")
            first = xr.open_zarr(f"{folder}/cache.zarr", decode_coords="all")
        elif said:
            first["time"].encoding = dict(said)
        to_zarr(first, f"{folder}/a.zarr", progress=False)
        attrs = json.loads(Path(folder, "a.zarr/time/zarr.json").read_text())["attributes"]
        if cached or said is None:
            assert attrs["units"] == "nanoseconds since 1970-01-01"
        for number in range(1, len(times)):
            one = ds.isel(time=[number])
            if said is None or cached:
                if number % 2:
                    to_zarr(one, f"{folder}/a.zarr", append_dim="time", progress=False)
                else:
                    one.to_zarr(f"{folder}/a.zarr", append_dim="time")
                continue
            try:
                to_zarr(one, f"{folder}/a.zarr", append_dim="time", progress=False)
            except StoreError:  # the caller's units do not hold it: never a wrong date
                with xr.open_zarr(f"{folder}/a.zarr", decode_coords="all") as old:
                    to_zarr(old, f"{folder}/a.zarr", overwrite=True, progress=False)
                to_zarr(one, f"{folder}/a.zarr", append_dim="time", progress=False)
        with xr.open_zarr(f"{folder}/a.zarr") as back:
            np.testing.assert_array_equal(back["time"].values, np.array(times))


@pytest.mark.parametrize("said", UNITS[:3])
def test_the_callers_units_are_kept_where_they_hold_the_dates(tmp_path: Path, said: dict[str, str]) -> None:
    ds = flat(2)
    ds["time"].encoding = dict(said)
    to_zarr(ds, tmp_path / "a.zarr", progress=False)
    attrs = json.loads((tmp_path / "a.zarr/time/zarr.json").read_text())["attributes"]
    assert attrs["units"].split(" since ")[0] == said["units"].split(" since ")[0]
    assert attrs["calendar"] == said.get("calendar", "proleptic_gregorian")
    assert ds["time"].encoding == said


@pytest.mark.parametrize("after", range(4))
def test_regions_of_a_run_that_failed_are_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    ds, store = flat(3), tmp_path / "a.zarr"
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    to_zarr(ds.isel(time=[0]), store, progress=False)
    before = contents(store)
    calls: list[Any] = []
    guard = threading.Lock()
    broken = True

    def read(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        where = tuple(block_info[0]["chunk-location"])
        if broken and where[0] * 2 + where[1] >= after:
            raise OSError("a link that cannot be read")
        with guard:
            calls.append(where)
        return block

    new = ds.isel(time=[1, 2])
    new = new.map(lambda v: v.copy(data=v.data.map_blocks(read, dtype="f4", meta=v.data._meta, name="same" + v.name)))
    with pytest.raises(OSError, match="cannot be read"):
        to_zarr(new, store, append_dim="time", progress=False)
    seen = xr.open_zarr(store)
    assert seen.sizes["time"] == 1
    np.testing.assert_array_equal(seen["B03"], np.rint(ds["B03"][:1]))
    assert {name: content for name, content in contents(store).items() if name in before} == before
    done = set(calls)
    assert len(list(store.glob(".xsen2-append/done-*"))) == after
    calls.clear()
    broken = False
    to_zarr(new, store, append_dim="time", progress=False)
    complete = {c for c in done if c[0] * 2 + c[1] < after}
    assert not complete & set(calls)
    assert contents(store) == contents(tmp_path / "whole.zarr")


@pytest.mark.parametrize("same", [True, False])
def test_unfinished_dates_under_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    """Links that were signed anew: what is on disk is kept if it is the same, and written over if not."""
    monkeypatch.setattr(regions, "REGION", 1)
    ds, store = flat(3), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0]), store, progress=False)

    def signed(fails: bool, more: float = 0) -> xr.Dataset:
        def read(block_info: Any = None) -> np.ndarray:
            date, row, column = (start for start, _ in block_info[None]["array-location"])
            if fails and date == 1:
                raise OSError("gone")
            return pixels[1 + date : 2 + date, row : row + 60, column : column + 60] + np.float32(more)

        pixels = ds["B02"].values
        chunks = ds["B02"].isel(time=[1, 2]).chunks
        data = da.map_blocks(read, chunks=chunks, meta=np.empty((0, 0, 0), "f4"))  # a random name
        data.dask.layers  # noqa: B018
        return ds.isel(time=[1, 2]).assign(B02=(ds["B02"].dims, data), B03=(ds["B02"].dims, data))

    with pytest.raises(OSError, match="gone"):
        to_zarr(signed(True), store, append_dim="time", progress=False)
    assert list(store.glob(".xsen2-append/done-*"))
    back = to_zarr(signed(False, 0 if same else 40), store, append_dim="time", progress=False)
    np.testing.assert_array_equal(back["B02"][1:], np.rint(ds["B02"][1:] + (0 if same else 40)))
    assert not (store / ".xsen2-append").exists()


def test_other_dates_than_those_of_a_dead_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left lies beyond the store, and is gone without a trace."""
    monkeypatch.setattr(regions, "REGION", 1)
    ds = flat(4).assign_coords(source=("time", ["a", "b", "longer", "d"]))
    store = tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0]), store, progress=False)

    def fails(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info[0]["chunk-location"][0] == 1:
            raise OSError("gone")
        return block

    dead = ds.isel(time=[1, 2]).map(lambda v: v.copy(data=v.data.map_blocks(fails, dtype="f4", meta=v.data._meta)))
    with pytest.raises(OSError, match="gone"):
        to_zarr(dead, store, append_dim="time", progress=False)
    (store / "B02/c/1/0.0123.partial").write_bytes(b"half a chunk")
    (store / "time/c/0.0123.partial").write_bytes(b"half a chunk")
    to_zarr(ds.isel(time=[3]), store, append_dim="time", progress=False)
    to_zarr(ds.isel(time=[0, 3]), tmp_path / "whole.zarr", progress=False)
    assert contents(store) == contents(tmp_path / "whole.zarr")


def is_old_or_new(store: Path, ds: xr.Dataset, held: int) -> int:
    """How many dates a reader sees, all of which must be right."""
    seen = xr.open_zarr(store, decode_coords="all")
    assert seen.sizes["time"] in (held, ds.sizes["time"])
    part = ds.isel(time=slice(seen.sizes["time"]))
    for name in ("B02", "B05"):
        np.testing.assert_array_equal(seen[name], np.rint(part[name]))
    for name in ("time", "source", "sun"):
        np.testing.assert_array_equal(seen[name].values, part[name].values)
    return int(seen.sizes["time"])


def test_killed_at_every_seventh_file_operation(tmp_path: Path) -> None:
    """Memory dies at every one, in `test_stores`; here it is the process."""
    ds = append_writer.cube()
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    want = contents(tmp_path / "whole.zarr")
    to_zarr(ds.isel(time=[0]), tmp_path / "first.zarr", progress=False)
    seen = []
    for stop in range(1, 1000, 7):
        store = tmp_path / f"{stop}.zarr"
        shutil.copytree(tmp_path / "first.zarr", store)
        process = zarr_writer.begin(append_writer.append, str(store), stop)
        process.join(60)
        assert process.exitcode in (0, append_writer.KILLED)
        seen.append(is_old_or_new(store, ds, 1))
        to_zarr(ds.isel(time=[1, 2]), store, append_dim="time", progress=False)
        assert is_old_or_new(store, ds, 1) == 3
        assert contents(store) == want, stop
        assert not list(tmp_path.glob(f".{stop}.zarr*"))
        if process.exitcode == 0:
            break
    assert stop > 60
    assert seen == sorted(seen), "who read it saw the new store, then the old one"
    assert seen[-1] == 3


def test_killed_between_the_group_and_its_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens the store sees the new dates already, and the same call ends what is left: ``commit`` says what."""
    ds, store = flat(3), tmp_path / "a.zarr"
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    to_zarr(ds.isel(time=[0]), store, progress=False)
    put = State.put

    def dies(self: State, name: str, *args: Any, **options: Any) -> None:
        put(self, name, *args, **options)
        if name == "zarr.json":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(State, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            to_zarr(ds.isel(time=[1, 2]), store, append_dim="time", progress=False)
    assert xr.open_zarr(store).sizes["time"] == 3
    assert (store / ".xsen2-append").exists()
    with no_compute():
        to_zarr(ds.isel(time=[1, 2]), store, append_dim="time", progress=False)
    assert contents(store) == contents(tmp_path / "whole.zarr")


def test_readers_meanwhile_see_the_old_store_or_the_new(tmp_path: Path) -> None:
    ds, store = append_writer.cube(), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0]), store, progress=False)
    thread = threading.Thread(target=lambda: to_zarr(ds.isel(time=[1, 2]), store, append=True, progress=False))
    thread.start()
    seen = []
    while thread.is_alive():
        seen.append(is_old_or_new(store, ds, 1))
    seen.append(is_old_or_new(store, ds, 1))
    assert seen == sorted(seen)
    assert {seen[0], seen[-1]} == {1, 3}


def test_one_at_a_time(tmp_path: Path) -> None:
    ds, store = flat(3), tmp_path / "a.zarr"
    to_zarr(ds.isel(time=[0]), store, progress=False)
    before = contents(store)
    held = lock.locked([(Disk(str(tmp_path)), ".a.zarr.xsen2-lock")], ["a"])
    with held, pytest.raises(StoreError, match="being written by another"):
        to_zarr(ds.isel(time=[1]), store, append_dim="time", progress=False)
    assert contents(store) == before
    assert to_zarr(ds.isel(time=[1]), store, append_dim="time", progress=False).sizes["time"] == 2


def test_at_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLING", 0.01)
    ds = rich(3)
    for url in (f"file://{tmp_path}/a.zarr", "memory://append/a.zarr"):
        back = grow(ds, url, [1, 2])
        np.testing.assert_array_equal(back["time"], ds["time"])
        np.testing.assert_array_equal(back["B05"], np.rint(ds["B05"]))
        np.testing.assert_array_equal(back["source"].values, ds["source"].values)
        with no_compute():
            grow(ds, url, [1, 2])
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "whole.zarr")
    memory = filesystem("memory")
    names = {name.removeprefix("/append/a.zarr/") for name in memory.find("/append/a.zarr")}
    assert names == set(contents(tmp_path / "whole.zarr"))
    for name, content in contents(tmp_path / "whole.zarr").items():
        assert name == "zarr.json" or memory.cat_file(f"/append/a.zarr/{name}") == content


def test_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(regions, "REGION", 1)
    ds = rich(3)
    to_zarr(ds, tmp_path / "whole.zarr", progress=False)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        grow(ds, tmp_path / "a.zarr", [1, 2])
        to_zarr(ds.isel(time=[1]), tmp_path / "a.zarr", append_dim="time", progress=False)  # compared
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "whole.zarr")


def test_superresolved_series(tmp_path: Path) -> None:
    cube = xsen2.sample().isel(y=slice(60), x=slice(120), y_20m=slice(30), x_20m=slice(60))
    cube = cube.isel(y_60m=slice(10), x_60m=slice(20))
    for date in range(cube.sizes["time"]):
        sr = cube.isel(time=[date]).dsen2.superresolve(method="bicubic")
        back = sr.dsen2.to_zarr(tmp_path / "a.zarr", append_dim="time", progress=False)
    whole = cube.dsen2.superresolve(method="bicubic")
    whole.dsen2.to_zarr(tmp_path / "whole.zarr", progress=False)
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "whole.zarr")
    assert back.rio.crs == cube.rio.crs
    other = cube.dsen2.superresolve(method="regression")
    with pytest.raises(StoreError, match="xsen2_method"), no_compute():
        other.dsen2.to_zarr(tmp_path / "a.zarr", append_dim="time", progress=False)


def test_units_that_do_not_hold_a_date(tmp_path: Path) -> None:
    ds, store = (
        flat(2).assign_coords(time=np.array(["2024-06-01", "2024-06-06T10:46:31.024"], "M8[ns]")),
        tmp_path / "a",
    )
    first = ds.isel(time=[0])
    first["time"].encoding = {"units": "days since 2015-01-01", "dtype": "int64"}
    to_zarr(first, store, progress=False)
    with pytest.raises(StoreError, match=r"int64, days since 2015-01-01.*cannot hold 2024-06-06T10:46:31.024 exactly"):
        to_zarr(ds.isel(time=[1]), store, append_dim="time", progress=False)
    with xr.open_zarr(store, decode_coords="all") as old:  # as it says
        old.dsen2.to_zarr(store, overwrite=True, progress=False)
    back = to_zarr(ds.isel(time=[1]), store, append_dim="time", progress=False)
    np.testing.assert_array_equal(back["time"], ds["time"])
    np.testing.assert_array_equal(back["B02"], np.rint(ds["B02"]))
