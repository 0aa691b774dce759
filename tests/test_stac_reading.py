"""`xsen2.load` from a server that fails, and from one that wants signed URLs."""

from __future__ import annotations

import copy
import itertools
import pickle
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
import xarray as xr
from cases import crossed
from distributed import Client
from scenes import earth_search, planetary_computer
from stac_api import Faults, serve

from xsen2.errors import BandError, SourceError
from xsen2.sources import reading
from xsen2.sources.stac import ReadWarning, load, skipped

ENGINES = ("stackstac", "odc")
DAY1, DAY2 = "2023-08-15T09:57:57.246000Z", "2023-08-20T09:57:56.646000Z"
CELLS = (40, 40)  # more than what GDAL reads with the header, so that pixels are requests of their own


@dataclass
class Server:
    url: str
    base: Path
    reads: list[str]
    faults: Faults

    def items(self, *items: Any, folder: Path) -> list[Any]:
        """The items with hrefs on this server."""
        served = copy.deepcopy(list(items))
        for asset in itertools.chain.from_iterable(item["assets"].values() for item in served):
            asset["href"] = f"{self.url}files/{folder.relative_to(self.base)}/{asset['href']}"
        return served


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base, reads, faults = tmp_path_factory.getbasetemp(), [], {}
    with serve([], base, reads, faults=faults) as url:
        yield Server(url, base, reads, faults)


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server without faults; pauses are shorter than a user's."""
    running.reads.clear()
    running.faults.clear()
    monkeypatch.setattr(reading, "PAUSES", (0.01, 0.02, 0.04))
    monkeypatch.setitem(reading.ENV, "GDAL_HTTP_RETRY_DELAY", "0.01")
    # The server is a thread of this process. Where GDAL asks it for more of a file's head while it holds the
    # interpreter's lock, nobody can answer, and it waits until this is over, each time.
    monkeypatch.setitem(reading.ENV, "GDAL_HTTP_LOW_SPEED_TIME", "10")
    return running


@pytest.fixture(scope="module")
def scene() -> scenes.Scene:
    whole = scenes.random(21, cells=CELLS)
    return scenes.Scene({name: whole.bands[name] for name in ("B02", "B05")}, whole.epsg, whole.ulx, whole.uly, "33TWM")


def truth(scene: scenes.Scene, name: str) -> np.ndarray:
    return np.where(scene.bands[name] == 0, np.nan, scene.bands[name]).astype("float32")


# --- failures that pass ---------------------------------------------------------------------------

PASSING: dict[str, list[int | str | None]] = {
    "500 twice": [500, 500],
    "500 more often than GDAL retries": [500] * 5,
    "503 at the pixels": [None, None, *[503] * 4],
    "403 once": [403],
    "cut in the head": [None, "cut"],
    "cut in the pixels": [None, None, "cut"],
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", PASSING)
@pytest.mark.parametrize("level", ["l2a", "l1c"])
def test_what_fails_for_a_while_is_read(
    server: Server, tmp_path: Path, scene: scenes.Scene, engine: str, case: str, level: str
) -> None:
    item = earth_search(scene, tmp_path, DAY1, version="03.01", declared=0, collection=f"sentinel-2-{level}")
    (item,) = server.items(item, folder=tmp_path)
    server.faults[item["assets"]["blue"]["href"].rpartition("/")[2]] = iter(PASSING[case])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ReadWarning)
        cube = load(item, bands=["B02"], engine=engine, on_error="skip")
        np.testing.assert_array_equal(cube.B02[0], truth(scene, "B02"))
    assert skipped(cube) == ()


def test_the_pauses_grow() -> None:
    assert all(later > earlier for earlier, later in itertools.pairwise(reading.PAUSES))
    assert 2 < sum(reading.PAUSES) < 10


# --- failures that stay ---------------------------------------------------------------------------


def broken(item: Any, folder: Path, kind: str, server: Server) -> None:
    """Make the blue asset unreadable."""
    href = str(item["assets"]["blue"]["href"])
    path = folder / href
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    elif kind == "no image":
        path.write_bytes(b"<Error><Code>SlowDown</Code></Error>")
    else:
        server.faults[href.rpartition("/")[2]] = itertools.repeat(int(kind))


@pytest.mark.parametrize(
    ("engine", "kind", "level"), crossed(3, ENGINES, ["404", "500", "truncated", "no image"], ["l2a", "l1c"])
)
def test_what_stays_broken_is_named(
    server: Server, tmp_path: Path, scene: scenes.Scene, engine: str, kind: str, level: str
) -> None:
    item = earth_search(scene, tmp_path, DAY1, version="03.01", declared=0, collection=f"sentinel-2-{level}")
    broken(item, tmp_path, kind, server)
    (served,) = server.items(item, folder=tmp_path)
    west, south, east, north = scene.lonlat()
    for area in (None, (west + 0.002, south + 0.002, east - 0.002, north - 0.002)):
        cube = load(served, area, engine=engine)
        with pytest.raises(SourceError, match=rf"item '{item['id']}', asset 'blue': .*on_error=\"skip\""):
            cube.B02.compute()
        cube.B05.compute()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["404", "500", "truncated"])
def test_what_is_skipped_is_nodata_and_on_record(
    server: Server, tmp_path: Path, scene: scenes.Scene, engine: str, kind: str
) -> None:
    bad = earth_search(scene, tmp_path, DAY1)
    good = earth_search(scene, tmp_path, DAY2)
    (tmp_path / bad["assets"]["blue"]["href"]).rename(tmp_path / "bad.tif")
    bad["assets"]["blue"]["href"] = "bad.tif"
    broken(bad, tmp_path, kind, server)
    cube = load(server.items(bad, good, folder=tmp_path), engine=engine, on_error="skip")
    with pytest.warns(ReadWarning, match=f"item '{bad['id']}', asset 'blue'"):
        found = cube.compute()
    assert np.isnan(found.B02[0]).all()
    np.testing.assert_array_equal(found.B02[1], truth(scene, "B02"))
    np.testing.assert_array_equal(found.B05, [truth(scene, "B05")] * 2)
    (only,) = skipped(cube, forget=True)
    assert (only.item, only.asset) == (bad["id"], "blue")
    assert only.reason
    assert skipped(cube) == ()
    with pytest.raises(SourceError, match=r"in memory.*skipped\(cube\)"):
        skipped(found)


def test_each_cube_has_a_record_of_its_own(server: Server, tmp_path: Path, scene: scenes.Scene) -> None:
    """Also of the same items, and through methods and sinks."""
    bad, good = (earth_search(scene, tmp_path / day[:10], day) for day in (DAY1, DAY2))
    broken(bad, tmp_path / DAY1[:10], "truncated", server)
    items = [server.items(item, folder=tmp_path / day[:10])[0] for item, day in ((bad, DAY1), (good, DAY2))]
    one, same, other = (load(item, on_error="skip") for item in (items[0], items[0], items[1]))
    assert one.B02.data.name == same.B02.data.name  # or an unfinished store would be refused
    sr = one.dsen2.superresolve(["B05"], "bicubic")
    with pytest.warns(ReadWarning):
        sr.dsen2.to_zarr(tmp_path / "a.zarr", progress=False)
    lost = skipped(one)
    assert {(each.item, each.asset) for each in lost} == {(bad["id"], "blue")}
    assert skipped(sr) == skipped(sr["B02"]) == skipped(xr.DataTree(sr)) == lost
    assert skipped(same) == skipped(other) == ()
    with pytest.warns(ReadWarning):
        same.B02.compute()
    assert len(skipped(same)) == len(skipped(one)) == len(lost)
    both = xr.concat([one.B02, other.B02], "time")
    assert skipped(both, forget=True) == lost
    assert skipped(one) == ()


@pytest.mark.slow
def test_what_a_worker_skips_is_told_to_the_client(tmp_path: Path, scene: scenes.Scene) -> None:
    item = earth_search(scene, tmp_path, DAY1)
    item["links"] = [{"rel": "self", "href": str(tmp_path / "item.json")}]
    (tmp_path / item["assets"]["blue"]["href"]).unlink()
    cube = load(item, bands=["B02"], on_error="skip")
    with Client(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert np.isnan(cube.B02.compute()).all()
            time.sleep(0.5)  # the warning walks apart from the result
        told = [str(one.message) for one in caught if one.category is ReadWarning]
        assert told
        assert f"item '{item['id']}', asset 'blue'" in told[0]
        (only,) = skipped(cube, forget=True)
        assert (only.item, only.asset) == (item["id"], "blue")
        assert skipped(cube) == ()


@pytest.mark.slow
def test_only_the_blocks_that_fail_are_nodata(server: Server, tmp_path: Path, scene: scenes.Scene) -> None:
    item = earth_search(scene, tmp_path, DAY1)
    broken(item, tmp_path, "truncated", server)
    cube = load(server.items(item, folder=tmp_path), chunks=60, on_error="skip")
    with pytest.warns(ReadWarning):
        found = cube.B02[0].compute().values
    same = (found == truth(scene, "B02")) | np.isnan(truth(scene, "B02"))
    lost = np.isnan(found).reshape(4, 60, 4, 60).all((1, 3))
    assert 0 < lost.sum() < 16
    assert len(skipped(cube)) == lost.sum()
    assert same.reshape(4, 60, 4, 60).all((1, 3))[~lost].all()


def test_a_missing_file_is_not_waited_for(
    server: Server, tmp_path: Path, scene: scenes.Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAUSES", (60, 60, 60))
    item = earth_search(scene, tmp_path, DAY1)
    broken(item, tmp_path, "404", server)
    cube = load(server.items(item, folder=tmp_path), bands=["B02"])
    started = time.perf_counter()
    with pytest.raises(SourceError, match="404"):
        cube.compute()
    assert time.perf_counter() - started < 30


def test_a_server_that_recovers_is_read_by_the_same_cube(server: Server, tmp_path: Path, scene: scenes.Scene) -> None:
    item = earth_search(scene, tmp_path, DAY1)
    broken(item, tmp_path, "404", server)
    cube = load(server.items(item, folder=tmp_path), bands=["B02"])
    with pytest.raises(SourceError):
        cube.compute()
    server.faults.clear()
    np.testing.assert_array_equal(cube.B02[0], truth(scene, "B02"))


@pytest.mark.parametrize("on_error", ["ignore", None, True])
def test_on_error_that_is_none(on_error: Any) -> None:
    with pytest.raises(SourceError, match=r"\"raise\" or \"skip\""):
        load([], on_error=on_error)


# --- assets that some dates do not have -----------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_band_that_one_date_does_not_have(server: Server, tmp_path: Path, scene: scenes.Scene, engine: str) -> None:
    items = server.items(*(earth_search(scene, tmp_path, day) for day in (DAY1, DAY2)), folder=tmp_path)
    del items[0]["assets"]["rededge1"]
    with pytest.raises(BandError, match=r"no asset for B05.*on_error") as error:
        load(items, engine=engine)
    assert items[0]["id"] in str(error.value)
    with pytest.warns(ReadWarning, match="B05: nodata on 2023-08-15"):
        cube = load(items, engine=engine, on_error="skip")
    assert cube.attrs["missing"] == f"{items[0]['id']}: B05"
    assert np.isnan(cube.B05[0]).all()
    np.testing.assert_array_equal(cube.B05[1], truth(scene, "B05"))
    np.testing.assert_array_equal(cube.B02, [truth(scene, "B02")] * 2)


def test_a_band_that_no_date_has_is_an_error_all_the_same(tmp_path: Path, scene: scenes.Scene) -> None:
    item = earth_search(scene, tmp_path, DAY1)
    with pytest.raises(BandError, match="no asset for B11"):
        load(item, bands=["B02", "B11"], on_error="skip")


# --- signed URLs ----------------------------------------------------------------------------------


def sign(href: str, tokens: Path) -> str:
    """A signer whose token is what the file says now."""
    return f"{href}?sig={tokens.read_text()}"


def locked(server: Server, *tokens: str) -> None:
    """The server answers 403 to all but these tokens."""
    server.faults[".tif"] = itertools.repeat(403)
    for token in ("old", "new"):
        if token not in tokens:
            server.faults[f".tif?sig={token}"] = itertools.repeat(403)


@pytest.mark.parametrize("engine", ENGINES)
def test_urls_are_signed_when_they_are_opened(server: Server, tmp_path: Path, scene: scenes.Scene, engine: str) -> None:
    items = server.items(planetary_computer(scene, tmp_path, DAY1), folder=tmp_path)
    (tmp_path / "token").write_text("old")
    cube = load(items, bands=["B02"], engine=engine, sign=partial(sign, tokens=tmp_path / "token"))
    assert server.reads == []
    (tmp_path / "token").write_text("new")  # the first one has run out by now
    locked(server, "new")
    again = pickle.loads(pickle.dumps(cube))
    np.testing.assert_array_equal(again.B02[0], truth(scene, "B02"))
    assert all(path.endswith("?sig=new") for path in server.reads)
    unsigned = load(items, bands=["B02"], engine=engine)
    with pytest.raises(SourceError, match="403"):
        unsigned.compute()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_token_that_runs_out_is_replaced(server: Server, tmp_path: Path, scene: scenes.Scene, engine: str) -> None:
    items = server.items(planetary_computer(scene, tmp_path, DAY1), folder=tmp_path)
    given: list[str] = []

    def renewing(href: str) -> str:
        given.append("old" if not given else "new")
        return f"{href}?sig={given[-1]}"

    locked(server, "new")
    server.faults[".tif?sig=old"] = itertools.chain([None], itertools.repeat(403))  # opens, and then no more
    cube = load(items, bands=["B02"], engine=engine, sign=renewing)
    np.testing.assert_array_equal(cube.B02[0], truth(scene, "B02"))
    assert given[:2] == ["old", "new"]


def test_a_signature_is_not_told(server: Server, tmp_path: Path, scene: scenes.Scene) -> None:
    items = server.items(planetary_computer(scene, tmp_path, DAY1), folder=tmp_path)
    broken_file = tmp_path / planetary_computer(scene, tmp_path, DAY1)["assets"]["B02"]["href"]
    broken_file.write_bytes(b"none")
    cube = load(items, bands=["B02"], sign=lambda href: f"{href}?sig=secret")
    with pytest.raises(SourceError) as error:
        cube.compute()
    assert "secret" not in str(error.value)


def fails(href: str) -> str:
    raise ConnectionError("no token today")


@pytest.mark.parametrize(("signer", "words"), [(fails, "ConnectionError: no token today"), (len, "gave a int")])
def test_a_signer_that_fails_is_named(
    tmp_path: Path, scene: scenes.Scene, server: Server, signer: Any, words: str
) -> None:
    item = planetary_computer(scene, tmp_path, DAY1)
    cube = load(server.items(item, folder=tmp_path), bands=["B02"], sign=signer)
    with pytest.raises(SourceError, match=f"item '{item['id']}', asset 'B02'.*{words}"):
        cube.compute()


def test_a_signer_that_is_none() -> None:
    with pytest.raises(SourceError, match=r"planetary_computer\.sign"):
        load([], sign="token")  # type: ignore[arg-type]
