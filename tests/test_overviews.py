"""Coarser levels of a store: means of valid pixels, in their place, whatever stops the writer; and who reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr
from cubes import make_cube
from test_append import contents, grow, rich
from test_zarr import files, flat
from zarr_writer import Cut, cut_at

import xsen2
from xsen2.errors import StoreError
from xsen2.sinks import regions
from xsen2.sinks.zarr import to_zarr


def level(store: Path, factor: int) -> xr.Dataset:
    return xr.open_zarr(store, group=f"overviews/{factor}", decode_coords="all")


def holed() -> xr.Dataset:
    """Two dates of ragged size: a hole that covers whole squares, half of one, and single pixels; and classes."""
    ds = make_cube(11, 13, dates=2, grids=(10,), chunks=24)[["B02", "B03"]].isel(y=slice(65), x=slice(77))
    hole = (ds.x < float(ds.x[10])) & (ds.y > float(ds.y[7]))
    ds["B02"] = (ds["B02"].astype("f4") - 1500).where(~hole)
    ds["B02"][1, 20, 20] = np.nan
    return ds.assign(SCL=(ds["B03"] % 12).astype(np.uint8)).chunk({"y": 24, "x": 24})


def mean(band: xr.DataArray) -> xr.DataArray:
    """Of the valid pixels of each square of two, at the edge of what there is of it."""
    rows, columns = (band.sizes[d] % 2 for d in ("y", "x"))
    padded = np.pad(band.values, ((0, 0), (0, rows), (0, columns)), constant_values=np.nan)
    blocks = padded.reshape(len(padded), padded.shape[1] // 2, 2, padded.shape[2] // 2, 2)
    with np.errstate(invalid="ignore"):
        return np.nansum(blocks, (2, 4)) / np.isfinite(blocks).sum((2, 4))


def test_pixels_are_means_of_valid_ones(tmp_path: Path) -> None:
    ds = holed()
    base = to_zarr(ds, tmp_path / "a.zarr", overviews=[2, 4], progress=False)
    before = base["B02"]
    for factor in (2, 4):
        found = level(tmp_path / "a.zarr", factor)
        want = mean(before)
        assert np.isnan(want).any()
        np.testing.assert_allclose(found["B02"], want, atol=0.501)  # nodata is where none was valid, and nowhere else
        before = found["B02"]
    found = level(tmp_path / "a.zarr", 4)
    np.testing.assert_array_equal(found["SCL"], ds["SCL"][:, ::4, ::4])  # classes have no mean
    assert found["SCL"].dtype == np.uint8
    assert found["B02"].chunks == ((1, 1), (17,), (20,))
    floats = to_zarr(ds[["B02"]], tmp_path / "f.zarr", overviews=[3], dtype="float32", progress=False)
    exact = floats["B02"].coarsen(y=3, x=3, boundary="trim").mean().values
    np.testing.assert_allclose(level(tmp_path / "f.zarr", 3)["B02"][:, :21, :25], exact, rtol=1e-6)


def test_levels_lie_where_the_bands_do_and_are_listed(tmp_path: Path) -> None:
    ds = holed()
    to_zarr(ds, tmp_path / "plain.zarr", progress=False)
    base = to_zarr(ds, tmp_path / "a.zarr", overviews=(2, 6), progress=False)
    plain, made = files(tmp_path / "plain.zarr"), files(tmp_path / "a.zarr")
    assert plain.keys() == {name for name in made if not name.startswith("overviews/")}
    assert [n for n in plain if plain[n] != made[n]] == ["zarr.json"]  # which gathers the metadata of all
    said = json.loads((tmp_path / "a.zarr/overviews/zarr.json").read_text())["attributes"]
    assert {c["name"] for c in said["zarr_conventions"]} == {"multiscales", "proj:", "spatial:"}
    assert said["proj:code"] == "EPSG:32631"
    two, six = said["multiscales"]["layout"]
    assert (two["asset"], six["asset"], six["derived_from"]) == ("2", "6", "2")
    assert six["transform"]["scale"] == [3, 3]
    for factor, entry in ((2, two), (6, six)):
        found = level(tmp_path / "a.zarr", factor)
        assert found.rio.crs == base.rio.crs
        a = base.rio.transform()
        assert found["B02"].rio.transform().almost_equals(a @ a.scale(factor), 1e-6)
        assert entry["spatial:transform"] == pytest.approx(list(found.rio.transform())[:6])
        assert entry["spatial:shape"] == list(found["B02"].shape[-2:])
        np.testing.assert_array_equal(found["time"], ds["time"])
    tree = xr.open_datatree(tmp_path / "a.zarr", group="overviews", engine="zarr")
    assert set(tree.children) == {"2", "6"}
    assert tree["6/B02"].sizes["x"] == 13


@pytest.mark.parametrize(("side", "want"), [(60, (2,)), (300, (2,)), (600, (2, 4)), (1140, (2, 4, 8))])
def test_levels_are_halved_down_to_a_tile(tmp_path: Path, side: int, want: tuple[int, ...]) -> None:
    ds = make_cube(1, side // 6, grids=(10,), chunks=1200)[["B02"]]
    to_zarr(ds, tmp_path / "a.zarr", overviews=True, progress=False)
    assert tuple(sorted(int(p.name) for p in (tmp_path / "a.zarr/overviews").iterdir() if p.is_dir())) == want


def test_each_native_grid_has_its_levels(tmp_path: Path) -> None:
    ds = rich()
    to_zarr(ds, tmp_path / "a.zarr", overviews=[2], progress=False)
    found = level(tmp_path / "a.zarr", 2)
    assert {n: found[n].shape[1:] for n in ("B02", "B05", "B01")} == {"B02": (9, 12), "B05": (5, 6), "B01": (2, 2)}
    assert set(found.data_vars) == {"B02", "B03", "B05", "B01", "SCL", "cloudy"}
    assert found["cloudy"].dtype == bool
    grow(ds, tmp_path / "s.zarr", [1, 2, 1], overviews=[2])
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "a.zarr")
    again = ds.isel(time=[3]).assign_coords(time=ds.time[[3]] + np.timedelta64(9, "D"))
    again.dsen2.to_zarr(tmp_path / "s.zarr", append=True, progress=False)  # who says nothing gets what the store has
    assert level(tmp_path / "s.zarr", 2).sizes["time"] == 5
    with pytest.raises(StoreError, match=r"has the overviews \(2,\), not \(2, 4\)"):
        ds.dsen2.to_zarr(tmp_path / "s.zarr", append=True, overviews=[2, 4], progress=False)


def test_what_is_refused(tmp_path: Path) -> None:
    ds = flat(rows=1, columns=1, dates=2)
    to_zarr(ds.isel(time=[0]), tmp_path / "a.zarr", append=True, progress=False)
    with pytest.raises(StoreError, match=r"has no overviews, not \(2,\)"):
        to_zarr(ds, tmp_path / "a.zarr", append=True, overviews=True, progress=False)
    with pytest.raises(StoreError, match="other storage"):
        to_zarr(ds.isel(time=[0]), tmp_path / "a.zarr", overviews=True, progress=False)
    for wrong in ([4, 2], [2, 3], [1], 2.5, "ab"):
        with pytest.raises(StoreError, match=r"multiples|is no factor"):
            to_zarr(ds, tmp_path / "b.zarr", overviews=wrong, progress=False)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="a variable is called 'overviews'"):
        to_zarr(ds.rename(B03="overviews"), tmp_path / "b.zarr", overviews=True, progress=False)
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.filterwarnings(r"ignore:Object at \.xsen2")
@pytest.mark.parametrize("append", [False, True])
def test_a_stop_at_every_fifth_step_is_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, append: bool) -> None:
    monkeypatch.setattr(regions, "REGION", 1)
    ds = flat(rows=2, columns=2, dates=2, chunks=120)[["B02"]]
    to_zarr(ds, tmp_path / "whole.zarr", overviews=[2, 4], progress=False)
    want = contents(tmp_path / "whole.zarr")
    computed = 0

    def counted(block: np.ndarray) -> np.ndarray:
        nonlocal computed
        computed += block.size > 1
        return block

    ds["B02"] = ds["B02"].copy(data=ds["B02"].data.map_blocks(counted, dtype="f4"))
    to_zarr(ds.isel(time=[0]), tmp_path / "first.zarr", append=True, overviews=[2, 4], progress=False)
    once = {}
    for stop in range(1, 120, 5):
        store = tmp_path / f"{stop}.zarr"
        if append:
            shutil.copytree(tmp_path / "first.zarr", store)
        computed = 0
        try:
            with cut_at(stop):
                to_zarr(ds.isel(time=[1]) if append else ds, store, append=append, overviews=[2, 4], progress=False)
        except Cut:
            pass
        else:
            break
        if append:  # who reads sees the old store or the new one, at each level
            sizes = [xr.open_zarr(store, group=g).sizes["time"] for g in (None, "overviews/2", "overviews/4")]
            assert sizes in ([1, 1, 1], [2, 2, 2], [2, 1, 1], [2, 2, 1])
        done = len(list(store.rglob("done-*")))
        computed = 0
        to_zarr(ds.isel(time=[1]) if append else ds, store, append=append, overviews=[2, 4], progress=False)
        once[done] = computed
        assert contents(store) == want, f"after a stop at step {stop}"
    assert stop > 20
    assert once[max(once)] == 0, "levels are made of what is on disk: no band is computed again"


def test_a_cluster_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client

    monkeypatch.setattr(regions, "REGION", 1)
    ds = flat(rows=2, columns=2, dates=3, chunks=60)
    to_zarr(ds, tmp_path / "here.zarr", overviews=[2, 4], progress=False)
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None):
        to_zarr(ds, tmp_path / "there.zarr", overviews=[2, 4], progress=False)
    assert contents(tmp_path / "there.zarr") == contents(tmp_path / "here.zarr")


def scene(tmp_path: Path) -> tuple[str, xr.Dataset]:
    """A store with overviews of one date, and its bands."""
    ds = xsen2.sample().isel(time=0)[["B02", "B03", "B04", "B08"]]
    return str(tmp_path / "a.zarr"), to_zarr(ds, tmp_path / "a.zarr", overviews=[2, 4], progress=False)


def test_titiler_reads_a_tile_of_a_level(tmp_path: Path) -> None:
    io = pytest.importorskip("titiler.xarray.io", reason="needs titiler-xarray")
    path, base = scene(tmp_path)
    for group, size in ((None, 10), ("overviews/4", 40)):
        with io.Reader(path, variable="B04", group=group) as reader:
            assert reader.crs.to_epsg() == base.rio.crs.to_epsg()
            assert reader.input.rio.resolution() == (size, -size)
            tile = reader.tms.tile(*_middle(reader.get_geographic_bounds("EPSG:4326")), 13)
            image = reader.tile(tile.x, tile.y, tile.z)
        seen = image.array.compressed()
        assert seen.size > 1000
        assert abs(seen.mean() / float(base["B04"].mean()) - 1) < 0.3


def test_rio_tiler_chooses_a_level(tmp_path: Path) -> None:
    geozarr = pytest.importorskip("rio_tiler.experimental.zarr", reason="needs rio-tiler 9")
    path, base = scene(tmp_path)
    reader = geozarr.GroupReader(zarr.open_group(f"{path}/overviews", mode="r"))
    assert reader.crs.to_epsg() == base.rio.crs.to_epsg()
    image = reader.preview(variables=["B04"], max_size=32)
    assert abs(image.array.mean() / float(base["B04"].mean()) - 1) < 0.05
    plain = geozarr.GroupReader(zarr.open_group(path, mode="r"))  # the bands themselves, in the root
    assert plain.preview(variables=["B04"], max_size=32).array.count() > 500


def _middle(bounds: tuple[float, ...]) -> tuple[float, float]:
    west, south, east, north = bounds
    return (west + east) / 2, (south + north) / 2
