"""Zarr stores from outside: none runs code, leads elsewhere or fills the memory; sound ones are read as before."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import eopf_product
import numcodecs
import numpy as np
import pytest
import stac_api
import xarray as xr
import zarr
from cases import every
from click.testing import CliRunner
from cubes import make_cube
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.abc import Codec
from zarr.abc.codec import BytesBytesCodec
from zarr.registry import register_codec

import xsen2
from xsen2.cli.main import main
from xsen2.errors import SourceError
from xsen2.sources import zarr_guard
from xsen2.sources.open import open_source
from xsen2.sources.zarr_guard import Guarded

MARK: list[Path] = []


class Evil(Codec):  # type: ignore[misc]
    """What an installed package may register, and whatever it does when it decodes."""

    codec_id = "xsen2_test_evil"

    def encode(self, buf: Any) -> Any:
        return buf

    def decode(self, buf: Any, out: Any = None) -> Any:
        MARK[-1].touch()
        return buf


class Evil3(BytesBytesCodec):
    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: Any) -> Evil3:
        return cls()

    def to_dict(self) -> Any:
        return {"name": Evil.codec_id}

    def compute_encoded_size(self, size: int, spec: Any) -> int:
        return size

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        MARK[-1].touch()
        return chunk_bytes

    async def _encode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return chunk_bytes


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    numcodecs.register_codec(Evil)
    register_codec(Evil.codec_id, Evil3)
    MARK.append(tmp_path / "ran")
    yield MARK[-1]
    MARK.pop()
    del numcodecs.registry.codec_registry[Evil.codec_id]


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


SOUND: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def _sound(tmp_path_factory: pytest.TempPathFactory) -> None:
    SOUND.append(tmp_path_factory.mktemp("sound"))


def plain(home: Path, zarr_format: int = 2, consolidated: bool = True, nested: bool = False) -> Path:
    """A sound store: written once, and copied."""
    made = SOUND[-1] / f"{zarr_format}{consolidated}{nested}"
    if not made.exists():
        cube = make_cube(4, 3, dates=2)[["B02", "B05", "B01"]]
        if nested:
            xr.DataTree.from_dict({"/": xr.Dataset(), "/a/b": cube}).to_zarr(made, consolidated=consolidated)
        else:
            cube.to_zarr(made, zarr_format=zarr_format, consolidated=consolidated)
    return Path(shutil.copytree(made, home))


def rewrite(home: Path, change: Callable[[dict[str, Any]], Any], name: str, where: str = "both") -> None:
    """Change the metadata of the arrays of this name: in their own files, in what is consolidated, or in both."""
    for file in home.rglob("*"):
        if file.name in (".zarray", "zarr.json") and file.parent.name == name and where != "consolidated":
            about = json.loads(file.read_text())
            change(about)
            file.write_text(json.dumps(about))
        if file.name == ".zmetadata" and where != "own":
            about = json.loads(file.read_text())
            for key, node in about["metadata"].items():
                if key.endswith(f"{name}/.zarray"):
                    change(node)
            file.write_text(json.dumps(about))
        if file.name == "zarr.json" and where != "own":
            about = json.loads(file.read_text())
            for key, node in ((about.get("consolidated_metadata") or {}).get("metadata") or {}).items():
                if key.rpartition("/")[2] == name:
                    change(node)
            file.write_text(json.dumps(about))


def zipped(home: Path) -> Path:
    path = home.with_name(f"{home.name}.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in home.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(home).as_posix())
    return path


def refused(source: object, words: str = "z", shell: bool = True) -> str:
    """In Python and in the shell: by name, in one line."""
    with pytest.raises(SourceError, match=words) as caught:
        open_source(str(source)).load()
    if not shell:
        return str(caught.value)
    result = CliRunner().invoke(
        main, ["run", str(source), str(Path(str(source)).parent / "o.zarr"), "--method=bicubic"]
    )
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1
    return str(caught.value)


# --- code -----------------------------------------------------------------------------------------

PICKLE = {"id": "pickle", "protocol": 5}


@pytest.mark.parametrize("array", every(3, ["time", "y_20m", "spatial_ref", "B05"]))
@pytest.mark.parametrize("where", ["both", "own", "consolidated"])
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.update(filters=[{"id": "vlen-utf8"}, PICKLE], dtype="|O", fill_value=None, compressor=None),
        lambda a: a.update(filters=[PICKLE], dtype="|O", fill_value=None, compressor=None),
        lambda a: a.update(compressor=PICKLE, filters=None),
        lambda a: a.update(filters=[PICKLE], compressor=None),
        lambda a: a.update(filters=[{"id": Evil.codec_id}]),
        lambda a: a.update(compressor={"id": Evil.codec_id}),
    ],
    ids=["text+pickle", "object", "compressor", "filter", "registered filter", "registered compressor"],
)
def test_no_codec_runs_code(array: str, where: str, change: Any, mark: Path, tmp_path: Path) -> None:
    home = plain(tmp_path / "cube.zarr", consolidated=where != "own")
    rewrite(home, change, array, where)
    for chunk in (home / array).glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Touch(mark)))
    if where == "own" and array != "time":
        home = zipped(home)
    said = refused(home, "codec|Python objects", shell=array == "time")
    assert array in said
    assert not mark.exists()


@pytest.mark.parametrize(("zarr_format", "nested"), [(2, False), (3, False), (3, True)])
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_no_codec_that_a_package_registers(zarr_format: int, nested: bool, mark: Path, tmp_path: Path) -> None:
    home = plain(tmp_path / "cube.zarr", zarr_format, nested=nested)
    evil = {"id": Evil.codec_id} if zarr_format == 2 else {"name": Evil.codec_id, "configuration": {}}
    key = "filters" if zarr_format == 2 else "codecs"
    rewrite(home, lambda a: a.update({key: [*(a[key] or []), evil]}), "y")
    xr.open_datatree(home, engine="zarr")  # left to itself it runs
    assert mark.exists()
    mark.unlink()
    refused(home, Evil.codec_id)
    assert not mark.exists()


@pytest.mark.parametrize("inner", [True, False])
def test_no_codec_inside_a_shard(inner: bool, mark: Path, tmp_path: Path) -> None:
    home = tmp_path / "cube.zarr"
    cube = make_cube(4, 4)
    cube.to_zarr(home, zarr_format=3, encoding={"B02": {"chunks": (6, 6), "shards": (24, 24)}})
    open_source(str(home)).load()

    def change(about: dict[str, Any]) -> None:
        shards = about["codecs"][0]["configuration"]
        shards["codecs" if inner else "index_codecs"].append({"name": Evil.codec_id, "configuration": {}})

    rewrite(home, change, "B02")
    refused(home, Evil.codec_id)
    assert not mark.exists()


@eopf_product.needs_real
@pytest.mark.parametrize("packed", ["folder", "zip", "store"])
def test_no_codec_of_a_product(packed: str, mark: Path, tmp_path: Path) -> None:
    home = eopf_product.product(eopf_product.L2A).write(tmp_path)
    for name in ("x", "b04"):
        rewrite(home, lambda a: a.update(filters=[{"id": Evil.codec_id}]), name)
    source = {"folder": home, "zip": zipped(home), "store": zarr.storage.LocalStore(home, read_only=True)}[packed]
    with pytest.raises(SourceError, match=Evil.codec_id):
        xsen2.open_eopf(source)
    assert not mark.exists()


@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="fsspec reads http:// with aiohttp")
def test_a_store_from_a_server_is_guarded_too(mark: Path, tmp_path: Path) -> None:
    whole = plain(tmp_path / "whole.zarr")
    codec, bomb, sparse, chunks = (Path(shutil.copytree(whole, tmp_path / f"{n}.zarr")) for n in range(4))
    zipped(codec)
    rewrite(codec, lambda a: a.update(filters=[{"id": Evil.codec_id}]), "x")
    zipped(codec)
    (bomb / "B02/0.0.0").write_bytes(bytes(numcodecs.Zstd().encode(np.zeros(40 << 20, np.uint8))))
    rewrite(bomb, lambda a: a.update(compressor={"id": "zstd", "level": 1}), "B02")
    with (sparse / "B02/0.0.0").open("ab") as file:
        file.truncate(1 << 30)
    rewrite(chunks, lambda a: a.update(chunks=[2, 30000, 30000]), "B02")
    with stac_api.serve([], tmp_path, []) as base:
        want = open_source(str(whole)).load()
        xr.testing.assert_identical(open_source(f"{base}files/whole.zarr").load(), want)
        for name, words in (
            ("0.zarr", Evil.codec_id),
            ("0.zarr.zip", Evil.codec_id),
            ("1.zarr", "more than its array can hold"),
            ("2.zarr", "more than it can need"),
            ("3.zarr", "fill the memory"),
        ):
            with pytest.raises(SourceError, match=words):
                open_source(f"{base}files/{name}").load()
    assert not mark.exists()


def test_texts_are_read(tmp_path: Path) -> None:
    """Names of dates and such are objects in format 2, which the codec of texts makes of bytes, and no code."""
    cube = make_cube(2, 2, dates=2).assign_coords(product=("time", np.array(["a", "bcd"], object)))
    for zarr_format in (2, 3):
        cube.to_zarr(tmp_path / f"{zarr_format}.zarr", zarr_format=zarr_format, consolidated=False)
        assert open_source(str(tmp_path / f"{zarr_format}.zarr")).product.values.tolist() == ["a", "bcd"]


# --- what is sound --------------------------------------------------------------------------------

NUMCODECS = [
    *(None, numcodecs.Blosc(), numcodecs.Blosc("zlib", 9, 2), numcodecs.Zstd(), numcodecs.Zstd(1, checksum=True)),
    *(numcodecs.LZ4(), numcodecs.Zlib(), numcodecs.GZip(), numcodecs.BZ2(), numcodecs.LZMA()),
]
FILTERS = [[], [numcodecs.Delta("i2")], [numcodecs.Shuffle(2)], [numcodecs.CRC32()], [numcodecs.Fletcher32()]]


@settings(max_examples=20)
@given(packed=st.sampled_from(NUMCODECS), filters=st.sampled_from(FILTERS), archive=st.booleans())
def test_every_compressor_is_read(
    packed: Any, filters: Any, archive: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("sound") / "cube.zarr"
    cube = make_cube(3, 4, seed=3)[["B02", "B05", "B01"]].astype("int16")
    encoding = {name: {"compressors": packed, "filters": filters or None, "chunks": (7, 5)} for name in cube.data_vars}
    cube.to_zarr(home, zarr_format=2, encoding=encoding)
    found = open_source(str(zipped(home) if archive else home))
    xr.testing.assert_equal(found.load(), cube)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("block", [6, 24])
def test_shards_are_read(first: bool, block: int, tmp_path: Path) -> None:
    cube = make_cube(4, 4)
    how = {"B02": {"chunks": (6, 6), "shards": (24, 24)}}
    cube.to_zarr(tmp_path / "cube.zarr", zarr_format=3, encoding=how, consolidated=False)
    if first:
        root = zarr.open_group(tmp_path / "cube.zarr", mode="a")
        whole = root["B02"]
        attributes = dict(whole.attrs)
        codec = zarr.codecs.ShardingCodec(chunk_shape=(6, 6), index_location="start")
        array = zarr.create(
            store=tmp_path / "cube.zarr", path="B02", shape=(24, 24), chunks=(24, 24), dtype="float64",
            codecs=[codec], overwrite=True, dimension_names=["y", "x"], attributes=attributes, zarr_format=3,
        )  # fmt: skip
        array[...] = cube.B02.values
    found = open_source(str(tmp_path / "cube.zarr"))
    np.testing.assert_array_equal(found.B02, cube.B02)
    np.testing.assert_array_equal(found.B02[:block, 3:9], cube.B02[:block, 3:9])
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.B02.compute(scheduler="threads"), cube.B02)


# --- elsewhere ------------------------------------------------------------------------------------


def arrays(folder: Path) -> Iterator[tuple[Path, str]]:
    """A store of each kind, and the chunk of one that is to be replaced."""
    for zarr_format, chunk in ((2, "B02/0.0.0"), (3, "B02/c/0/0/0"), (2, "x/0"), (2, ".zmetadata"), (3, "zarr.json")):
        home = plain(folder / f"{len(list(folder.iterdir()))}.zarr", zarr_format)
        assert (home / chunk).is_file()
        yield home, chunk


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    for home, chunk in arrays(tmp_path):
        secret = tmp_path / "secret"
        (home / chunk).rename(secret)
        (home / chunk).symlink_to(secret)
        assert "leads out of the store" in refused(home)
        (home / chunk).unlink()
        (home / chunk).symlink_to(tmp_path / "nothing")
        assert "leads nowhere" in refused(home)
        secret.unlink()
    home = plain(tmp_path / "folder.zarr")
    (home / "B02").rename(tmp_path / "B02")
    (home / "B02").symlink_to(tmp_path / "B02", target_is_directory=True)
    refused(home, "leads out of the store")


def test_links_inside_and_to_the_store_are_followed(tmp_path: Path) -> None:
    home = plain(tmp_path / "cube.zarr")
    want = open_source(str(home)).load()
    (home / "B02/0.0.0").rename(home / "B02/real")
    (home / "B02/0.0.0").symlink_to("real")
    (tmp_path / "link.zarr").symlink_to(home)
    xr.testing.assert_identical(open_source(str(tmp_path / "link.zarr")).load(), want)


@pytest.mark.parametrize("chunk", ["B02/0.0.0", "x/0", ".zmetadata", ".zgroup"])
def test_pipes_are_not_waited_for(chunk: str, tmp_path: Path) -> None:
    home = plain(tmp_path / "cube.zarr", consolidated=chunk == ".zmetadata")
    (home / chunk).unlink()
    os.mkfifo(home / chunk)
    found: list[str] = []
    worker = threading.Thread(target=lambda: found.append(refused(home)), daemon=True)
    worker.start()
    worker.join(60)
    assert found
    assert "pipe" in found[0]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_names_that_lead_out_of_the_store(zarr_format: int, tmp_path: Path) -> None:
    secret = plain(tmp_path / "secret.zarr", zarr_format)
    home = plain(tmp_path / "cube.zarr", zarr_format)
    file = home / (".zmetadata" if zarr_format == 2 else "zarr.json")
    about = json.loads(file.read_text())
    inner = about["metadata"] if zarr_format == 2 else about["consolidated_metadata"]["metadata"]
    for key in [key for key in inner if key.startswith("B02")]:
        inner[f"../secret.zarr/{key}"] = inner.pop(key)
    file.write_text(json.dumps(about))
    # xarray may find no such array, or find one whose chunks are not read; it never gets those of the other store.
    with pytest.raises((SourceError, KeyError)):
        open_source(str(home)).load()["B02"].values  # noqa: B018
    assert secret.exists()


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ([2, 24, 18], [2, 30000, 30000]),
        ([2, 24, 18], [10**9, 1, 1]),
        ([10**9, 24, 18], [1, 24, 18]),
        ([2, 10**6, 10**6], [1, 1, 1]),
        ([2, 10**12, 10**12], [2, 10**12, 10**12]),
        ([2, 100_000, 100_000], [2, 100_000, 100_000]),
        ([2, 24, 18], [2, 0, 18]),
        ([2, -24, 18], [2, 24, 18]),
        ([2, 24, 18], [2, 24]),
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_shapes_and_chunks_are_bounded(shape: list[int], chunks: list[int], zarr_format: int, tmp_path: Path) -> None:
    home = plain(tmp_path / "cube.zarr", zarr_format)

    def change(about: dict[str, Any]) -> None:
        about["shape"] = shape
        if zarr_format == 2:
            about["chunks"] = chunks
        else:
            about["chunk_grid"]["configuration"]["chunk_shape"] = chunks

    rewrite(home, change, "B02")
    assert "B02" in refused(home)


def test_coordinates_are_bounded(tmp_path: Path) -> None:
    home = plain(tmp_path / "cube.zarr")
    rewrite(home, lambda a: a.update(shape=[10**10], chunks=[10**6]), "x")
    refused(home, "more than 10000000 pixels")


@cache
def bomb_of(number: int) -> bytes:
    return bytes(NUMCODECS[number].encode(np.zeros(40 << 20, np.uint8)))


@pytest.mark.parametrize("packed", [c for c in NUMCODECS if c is not None], ids=repr)
@pytest.mark.parametrize("archive", [True, False])
def test_chunks_that_unpack_to_more_than_fits(packed: Any, archive: bool, tmp_path: Path) -> None:
    home = plain(tmp_path / "cube.zarr")
    bomb = bomb_of(NUMCODECS.index(packed))
    rewrite(home, lambda a: a.update(compressor=packed.get_config(), filters=None), "B02")
    for chunk in (home / "B02").glob("[0-9]*"):
        chunk.write_bytes(bomb)
    with pytest.raises(SourceError, match=r"B02/.*(more than its array can hold|more than it can need)"):
        open_source(str(zipped(home) if archive else home)).load()


def test_zstd_that_does_not_say_its_size() -> None:
    """As streaming writers make it: a frame without a content size, of blocks."""
    rle = lambda n, last: ((n << 3) | 2 | last).to_bytes(3, "little") + b"\0"  # noqa: E731
    frame = b"\x28\xb5\x2f\xfd" + b"\x00\x58" + b"".join(rle(1 << 17, i == 999) for i in range(1000))
    with pytest.raises(zarr_guard.Refused, match="more than its array can hold"):
        zarr_guard.check("zstd", memoryview(frame), 1 << 20)
    zarr_guard.check("zstd", memoryview(frame[:6] + rle(1 << 17, 1)), 1 << 17)


def test_files_that_are_far_too_long_are_not_read(tmp_path: Path) -> None:
    home = plain(tmp_path / "cube.zarr")
    for name in ("B02/0.0.0", ".zmetadata"):
        other = tmp_path / f"{name[-4:]}.zarr"
        shutil.copytree(home, other)
        with (other / name).open("ab") as file:
            file.truncate(1 << 33)  # sparse
        assert "more than it can need" in refused(other)


def test_shards_that_unpack_to_more_than_fits(tmp_path: Path) -> None:
    home = tmp_path / "cube.zarr"
    make_cube(4, 4).to_zarr(
        home,
        zarr_format=3,
        encoding={"B02": {"chunks": (12, 12), "shards": (24, 24), "compressors": zarr.codecs.ZstdCodec()}},
    )
    (chunk,) = (file for file in (home / "B02/c").rglob("0") if file.is_file())
    bomb = numcodecs.Zstd().encode(np.zeros(40 << 20, np.uint8))
    index = np.array([[0, len(bomb)]] * 4, "<u8").tobytes()
    chunk.write_bytes(bomb + index + bytes(numcodecs.CRC32C(location="end").encode(index))[-4:])
    for part in (slice(None), slice(0, 3)):
        with pytest.raises(SourceError, match=r"B02/.*more than its array can hold"):
            open_source(str(home))["B02"][part].load()


def test_a_guarded_store_is_for_reading(tmp_path: Path) -> None:
    guarded = Guarded(zarr.storage.LocalStore(plain(tmp_path / "cube.zarr"), read_only=True))
    with pytest.raises(ValueError, match="read"):
        zarr.open_group(guarded, mode="a").create_group("a")
    assert guarded == Guarded(zarr.storage.LocalStore(tmp_path / "cube.zarr", read_only=True))
