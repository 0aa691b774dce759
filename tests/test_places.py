"""Where sinks may write: paths as they are meant, and nothing of anybody else is deleted, followed or written over."""

from __future__ import annotations

import os
import shutil
import string
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import append_writer
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
import zarr_writer
from cubes import make_cube, no_compute
from fsspec import filesystem
from hypothesis import given, settings
from hypothesis import strategies as st

from xsen2.errors import StoreError
from xsen2.sinks import cog_file, lock
from xsen2.sinks.cog import to_cog
from xsen2.sinks.store import Disk
from xsen2.sinks.zarr import to_zarr


def flat(**kwargs: Any) -> xr.Dataset:
    return make_cube(2, 2, grids=(10,), **kwargs)[["B02"]]


def tree(folder: Path) -> dict[str, bytes | None]:
    """All there is, links not followed."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() and not p.is_symlink() else None
        for p in sorted(folder.rglob("*"))
    }


def a_group(place: Path) -> None:
    (place / ".zgroup").write_text('{"zarr_format": 2}')


def an_empty_note(place: Path) -> None:
    (place / ".xsen2").mkdir()


def a_dead_run(place: Path) -> None:
    (place / ".xsen2").mkdir()
    (place / ".xsen2/run").write_text("grids=1;pixels=2")


def a_store(place: Path) -> None:
    to_zarr(flat() + 1, place, progress=False)


def without_consolidated(place: Path) -> None:
    flat().to_zarr(place, zarr_format=3, consolidated=False)


def of_format_2(place: Path) -> None:
    flat().to_zarr(place, zarr_format=2)


def an_array(place: Path) -> None:
    zarr.create_array(place, shape=(4, 4), chunks=(2, 2), dtype="i2")[:] = 1


def half_a_store(place: Path) -> None:
    """As a killed run leaves one."""
    real = Disk.write

    def stop(self: Disk, key: str, content: bytes) -> None:
        if "/done-" in key:
            raise KeyboardInterrupt
        real(self, key, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Disk, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            to_zarr(flat(), place, progress=False)


STORES = [a_group, a_store, without_consolidated, of_format_2, an_array, half_a_store]
letters = st.text(string.ascii_letters + string.digits + "._- é", min_size=1, max_size=12)
names = letters.filter(lambda n: n.strip(". ") and n not in ("c", "B02", "x", "y", "spatial_ref") and not n.isdecimal())


def beside(place: Path, name: str, kind: str) -> None:
    """Somebody's file, folder, or Zarr store."""
    if kind == "file":
        (place / name).write_bytes(b"mine")
    elif kind == "folder":
        (place / name / "in").mkdir(parents=True)
        (place / name / "in/cat.jpg").write_bytes(b"mine")
    elif kind == "store":
        flat().to_zarr(place / name, zarr_format=3)
    elif kind == "old store":
        flat().to_zarr(place / name, zarr_format=2)
    elif kind == "link":
        (place / name).symlink_to("/nowhere")
    else:
        array = next((p.parent for p in place.glob("*/zarr.json")), place)
        (array / name).write_bytes(b"mine")


@pytest.mark.filterwarnings("ignore:Object at")
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([*STORES, an_empty_note, a_dead_run]),
    names,
    st.sampled_from(["file", "folder", "store", "old store", "link", "in an array"]),
    st.booleans(),
)
def test_what_is_not_the_stores_own_always_survives(
    make: Callable[[Path], None], name: str, kind: str, overwrite: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "results")
        place.mkdir()
        make(place)
        beside(place, name, kind)
        before = tree(Path(folder))
        if make is half_a_store and not overwrite:  # that run goes on, and touches nothing else
            to_zarr(flat(), place, progress=False)
            after = tree(Path(folder))
            mine = {path: content for path, content in before.items() if name in Path(path).parts}
            assert {path: after.get(path, "gone") for path in mine} == mine
            return
        with pytest.raises(StoreError, match="another path"):
            to_zarr(flat(), place, overwrite=overwrite, progress=False)
        assert tree(Path(folder)) == before


@pytest.mark.parametrize("make", STORES)
def test_stores_without_anything_else_are_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    place = tmp_path / "results"
    place.mkdir()
    make(place)
    back = to_zarr(flat(), place, overwrite=True, progress=False)
    np.testing.assert_array_equal(back["B02"], np.rint(flat()["B02"]))
    to_zarr(flat(), tmp_path / "fresh", progress=False)
    assert tree(place) == tree(tmp_path / "fresh")


def test_the_advice_is_to_move_it_away(tmp_path: Path) -> None:
    place = tmp_path / "results"
    place.mkdir()
    a_group(place)
    (place / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds what is not of one Zarr store.*\(notes.txt\).*move that away"):
        to_zarr(flat(), place, overwrite=True, progress=False)
    (place / "notes.txt").rename(tmp_path / "notes.txt")
    to_zarr(flat(), place, overwrite=True, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_that_comes_while_a_store_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    a_store(place)

    def drop(block: np.ndarray) -> np.ndarray:
        (place / "notes.txt").write_text("mine")
        return block

    ds = flat(chunks=60)
    with pytest.raises(StoreError, match=r"notes\.txt"):
        to_zarr(ds.map(lambda v: v.copy(data=v.data.map_blocks(drop, meta=v.data._meta))), place, overwrite=True)
    assert (place / "notes.txt").read_text() == "mine"
    np.testing.assert_array_equal(xr.open_zarr(place)["B02"], np.rint(ds["B02"] + 1))


def test_others_at_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLING", 0.01)
    bucket = filesystem("memory")
    bucket.pipe({"/shelf/.zgroup": b"{}", "/shelf/cat.jpg": b"cat", "/shelf/.xsen2/run": b"x=1"})
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="another path"):
            to_zarr(flat(), "memory://shelf", overwrite=overwrite, progress=False)
    assert bucket.cat_file("/shelf/cat.jpg") == b"cat"


LINKS = ["file", "folder", "dangling", "circular"]


def link(place: Path, kind: str, away: Path) -> None:
    away.mkdir()
    (away / "folder").mkdir()
    (away / "file").write_bytes(b"mine")
    target = {"file": away / "file", "folder": away / "folder", "dangling": away / "none", "circular": place}[kind]
    place.symlink_to(target)


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("where", [".a.zarr.xsen2-lock", ".a.zarr.xsen2-new", ".a.zarr.xsen2-old", "a.zarr/.xsen2"])
def test_links_in_the_place_of_a_stores_own_files(tmp_path: Path, where: str, kind: str) -> None:
    place = tmp_path / "a.zarr"
    a_store(place)
    link(tmp_path / where, kind, tmp_path / "away")
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=r"is a link.*delete the link"):
        to_zarr(flat(), place, overwrite=True, progress=False)
    assert tree(tmp_path) == before
    os.unlink(tmp_path / where)
    to_zarr(flat(), place, overwrite=True, progress=False)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "away"]


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("where", [".a.tif.xsen2-lock", ".a.tif.xsen2-cog"])
def test_links_in_the_place_of_a_files_own_files(tmp_path: Path, where: str, kind: str) -> None:
    link(tmp_path / where, kind, tmp_path / "away")
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=r"is a link.*delete the link"):
        to_cog(flat(), tmp_path / "a.tif", progress=False)
    assert tree(tmp_path) == before
    os.unlink(tmp_path / where)
    to_cog(flat(), tmp_path / "a.tif", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["a.tif", "away"]


def test_a_lock_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, bucket = tmp_path / ".a.tif.xsen2-lock", filesystem("memory")
    for size in (65_537, 1_000_000):
        path.write_bytes(b"x" * size)
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"longer than any lock.*delete it"):
            to_cog(flat(), tmp_path / "a.tif", progress=False)
        bucket.pipe("/long/a.zarr/.xsen2/lock", b"x" * size)
        with pytest.raises(StoreError, match=r"longer than any lock.*delete it"):
            to_zarr(flat(), "memory://long/a.zarr", progress=False)
        assert time.monotonic() - start < 30
    path.unlink()
    for make in (path.mkdir, lambda: os.mkfifo(path)):
        make()
        with pytest.raises(StoreError, match=r"small file of xsen2's, and is none: delete it"):
            to_cog(flat(), tmp_path / "a.tif", progress=False)
        path.rmdir() if path.is_dir() else path.unlink()
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    for content in (
        b"x" * 65_536,
        b"[" * 60_000,
        b"\xff\xfe",
        b"[1]",
        b'{"pid": 1e400}',
    ):  # odd, but of a possible size
        path.write_bytes(content)
        to_cog(flat(), tmp_path / "a.tif", overwrite=True, progress=False)
        assert not path.exists()


CALLS = [to_zarr, to_cog]


@pytest.mark.parametrize("call", CALLS)
def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    call(flat(), "~/lake.tif", progress=False)
    call(flat(), Path("~/new/lake.tif"), progress=False)
    assert sorted(p.name for p in home.iterdir()) == ["lake.tif", "new"]
    assert not list(here.iterdir())
    call(flat(), "~/lake.tif", progress=False)  # finished
    with pytest.raises(StoreError, match=r"no such home directory.*\./~nobody-of-that-name"):
        call(flat(), "~nobody-of-that-name/a.tif", progress=False)
    call(flat(), "./~nobody-of-that-name/a.tif", progress=False)
    assert (here / "~nobody-of-that-name/a.tif").exists()
    call(flat(), "in/../b.tif" if (here / "in").mkdir() is None else "", progress=False)
    assert (here / "b.tif").exists()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "path is empty"),
        ("  ", "path is empty"),
        ("a\0b.tif", "NUL"),
        ("x" * 256 + ".tif", "names have 255 at most"),
        ("x" * 245 + ".tif", "longer"),
        ("/".join(["x" * 200] * 30) + "/a.tif", "too long for a path"),
        ("file/a.tif", "is a file"),
        ("file/in/a.tif", "is a file"),
        ("loop.tif", "circle"),
        ("loop.tif/a.tif", "circle"),
        ("two.tif", "circle"),
        ("nowhere/a.tif", "link to nowhere"),
        (b"a.tif", "a bytes"),
        (3, "a int"),
        (None, "a NoneType"),
    ],
)
def test_what_can_be_no_path(tmp_path: Path, call: Any, given: Any, said: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "loop.tif").symlink_to("loop.tif")
    (tmp_path / "one").symlink_to("two.tif")
    (tmp_path / "two.tif").symlink_to("one")
    (tmp_path / "nowhere").symlink_to("/nowhere/at/all")
    before = tree(tmp_path)
    path = os.path.join(tmp_path, given) if isinstance(given, str) and given.strip() else given
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=said), no_compute():
            call(flat(chunks=60), path, overwrite=overwrite, progress=False)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("call", CALLS)
@settings(max_examples=30, deadline=None)
@given(given=st.one_of(st.text(max_size=30), st.text("/~.\0é{}*: ", max_size=12), st.binary(max_size=5)))
def test_any_path_is_written_or_refused_by_name(call: Any, given: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if isinstance(given, str):
            given = given.replace("..", ".").lstrip("/")  # nowhere but here
        try:
            call(flat(), given, progress=False)
        except StoreError:
            return
        assert list(Path(folder).rglob("*"))


@pytest.mark.parametrize("call", CALLS)
def test_a_link_is_written_through_if_it_leads_somewhere(tmp_path: Path, call: Any) -> None:
    place, away = tmp_path / "a.tif", tmp_path / "away"
    place.symlink_to(away / "a.tif")
    with pytest.raises(StoreError, match="link to nowhere: mend or delete it"):
        call(flat(), place, progress=False)
    assert not away.exists()
    place.unlink()
    away.mkdir()
    (tmp_path / "folder").symlink_to(away)
    call(flat(), tmp_path / "folder/a.tif", progress=False)
    assert os.listdir(away) == ["a.tif"]


def test_to_cog_killed_at_each_file_operation(tmp_path: Path) -> None:
    """The same call clears up after it, and so does that for another file of the folder."""
    ds = append_writer.cube()[["B02"]].isel(time=0)
    want = np.rint(ds["B02"].values)
    for stop in range(1, 100):
        folder = tmp_path / str(stop)
        folder.mkdir()
        process = zarr_writer.begin(append_writer.cog, str(folder / "a.tif"), stop)
        process.join(60)
        assert process.exitcode in (0, append_writer.KILLED)
        other = Path(shutil.copytree(folder, tmp_path / f"{stop} too"))
        for path in (folder / "a.tif", other / "b.tif"):
            to_cog(ds, path, progress=False)
            left = sorted(os.listdir(path.parent))
            assert left in ([path.name], ["a.tif", "b.tif"]), (stop, left)
            for file in left:
                with rasterio.open(path.parent / file) as opened:
                    np.testing.assert_array_equal(opened.read(1), want)
        if process.exitcode == 0:
            break
    assert stop > 8


def test_leftovers_of_those_who_may_live_are_left(tmp_path: Path) -> None:
    ds, other = flat(), tmp_path / ".b.tif.xsen2-cog"
    path = tmp_path / ".b.tif.xsen2-lock"
    other.mkdir()
    with lock.locked([(Disk(str(tmp_path)), path.name)], ["b.tif"]):
        to_cog(ds, tmp_path / "a.tif", overwrite=True, progress=False)
        assert sorted(os.listdir(tmp_path)) == [".b.tif.xsen2-cog", ".b.tif.xsen2-lock", "a.tif"]
    (tmp_path / ".c.zarr.xsen2-lock").write_bytes(lock._entry("theirs"))  # a Zarr store's
    path.write_bytes(lock._entry("theirs"))
    to_cog(ds, tmp_path / "a.tif", progress=False)
    assert sorted(os.listdir(tmp_path)) == [".c.zarr.xsen2-lock", "a.tif"]
    assert cog_file.left_by_the_dead([tmp_path / "a.tif"]) == []
