"""Scenes in ``.npz`` files: read as numpy reads them, or refused by name within bounds."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xsen2
from xsen2.training.scenes import read_npz, read_scenes

ROOT = Path(__file__).parents[1]


def arrays(dtype="u2", stack=(), **more):
    rng = np.random.default_rng(0)
    made = {
        f"b{gsd}": rng.integers(1, 9000, (*stack, count, 120 // gsd, 180 // gsd)).astype(dtype)
        for gsd, count in ((10, 4), (20, 6), (60, 2))
    }
    return {k: v for k, v in (made | more).items() if v is not None}


def npz(path: Path, found=None, save=np.savez) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    save(path, **(arrays() if found is None else found))
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("stack", [(), (3,)])
@pytest.mark.parametrize("dtype", ["u2", "i2", "f4", "f8", ">u2", "u1"])
def test_what_numpy_writes_is_read(tmp_path, save, stack, dtype):
    valid = np.random.default_rng(1).random((*stack, 12, 18)) > 0.5
    found = arrays(dtype, stack, valid10=valid, name=np.array(["x"], object) if save is np.savez else None)
    bands, masks = read_npz(npz(tmp_path / "a.npz", found, save))
    for gsd, got in bands.items():
        np.testing.assert_array_equal(got, found[f"b{gsd}"])
    np.testing.assert_array_equal(masks[10], valid)
    scenes = list(read_scenes(tmp_path))
    assert [s.name for s in scenes] == ([f"a/{i}" for i in range(3)] if stack else ["a"])
    for i, scene in enumerate(scenes):
        seen = (found["b10"] > 0).all(axis=-3) & valid
        np.testing.assert_array_equal(scene.valid[10], seen[i] if stack else seen)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, "b10 is missing"),
        (arrays(b20=None), "b20 is missing"),
        (arrays(b10=np.ones((4, 12, 18), "c8")), "b10 holds complex64, not numbers"),
        (arrays(b10=np.full((4, 12, 18), "x")), "not numbers"),
        (arrays(b10=np.ones((4, 12, 18), [("a", "u2")])), "not numbers"),
        (arrays(b10=np.full((4, 12, 18), None)), "Object arrays|not numbers|should have"),
        (arrays(b10=np.ones((12, 18), "u2")), r"b10 has shape \(12, 18\)"),
        (arrays(b10=np.ones((), "u2")), r"b10 has shape \(\)"),
        (arrays(b10=np.ones((4, 0, 0), "u2")), "with any pixels"),
        (arrays(stack=(0,)), "with any pixels"),
        (arrays(b10=np.ones((3, 12, 18), "u2")), r"asks for \(4, 12, 18\)"),
        (arrays(b20=np.ones((6, 6, 8), "u2")), r"b20 has shape \(6, 6, 8\), .* asks for \(6, 6, 9\)"),
        (arrays(b20=np.ones((2, 6, 6, 9), "u2")), "b20 has shape"),
        (arrays(b60=np.ones((2, 2, 4), "u2")), "b60 has shape"),
        (arrays(valid10=np.ones((12, 17), bool)), "valid10 has shape"),
        (arrays(b10=np.ones((4, 13, 18), "u2")), "b20 has shape .* multiples of 2"),
    ],
)
def test_what_is_no_scene_is_named(tmp_path, found, message):
    npz(tmp_path / "bad.npz", found)
    with pytest.raises(xsen2.SourceError, match=rf"bad\.npz holds no scene .*({message}).*take it out of the folder"):
        list(read_scenes(tmp_path))
    (tmp_path / "bad.npz").rename(tmp_path / "bad")
    npz(tmp_path / "good.npz")
    assert [s.name for s in read_scenes(tmp_path)] == ["good"]  # the advice works


def test_no_pickle_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    for key in ("b10", "name"):
        npz(tmp_path / "e.npz", arrays(**{key: np.array([Evil()], object)}))
        if key == "b10":
            with pytest.raises(xsen2.SourceError):
                list(read_scenes(tmp_path))
        else:
            list(read_scenes(tmp_path))
    assert not (tmp_path / "run").exists()


def packed(path: Path, kind: int, name="b10.npy", raw=None) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for key, values in arrays().items():
            out = io.BytesIO()
            np.save(out, values)
            archive.writestr(f"{key}.npy", raw if f"{key}.npy" == name and raw is not None else out.getvalue())
    return path


def header(shape: str, version=b"\x01\x00", descr="'<u2'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text


def test_other_archives_are_refused(tmp_path):
    for kind in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with pytest.raises(xsen2.SourceError, match="packed in a way that numpy does not"):
            read_npz(packed(tmp_path / "a.npz", kind))
    path = packed(tmp_path / "a.npz", zipfile.ZIP_STORED)
    raw = path.read_bytes()
    locked = raw.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00", 1)
    assert locked != raw
    path.write_bytes(locked)
    with pytest.raises(xsen2.SourceError, match="encrypted"):
        read_npz(path)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x93NUMPY",
        b"no array",
        header("(4, 12, 18)"),
        header("(4, 10**6, 10**6)"),
        header("(4, 1000000, 1000000)"),
        header("(4, -12, 18)"),
        header("(4, 12.0, 18)"),
        header("(True, 12, 18)"),
        header("(4, 12, 18)", b"\x03\x00"),
        header("(4, 12, 18)", b"\x09\x00"),
        header("(" * 5000),
        header("(4, 12, 18)", descr="'O'"),
        header("(4, 12, 18)", descr="'<M8[" + "9" * 1000 + "s]'"),
        header(f"({'9' * 5000}, 1, 1)"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100,
    ],
)
def test_headers_that_lie_are_refused(tmp_path, raw):
    path = packed(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, raw=raw)
    with pytest.raises(xsen2.SourceError, match=r"a\.npz holds no scene"):
        read_npz(path)


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(xsen2.SourceError, match=r"pipe\.npz .*not a regular file"):
        list(read_scenes(tmp_path))
    (tmp_path / "pipe.npz").unlink()
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(xsen2.SourceError, match=r"folder\.npz .*not a regular file"):
        list(read_scenes(tmp_path))
    (tmp_path / "folder.npz").rmdir()
    (tmp_path / "giant.npz").open("wb").truncate(2**40)
    with pytest.raises(xsen2.SourceError, match=r"giant\.npz .*1099511627776 bytes"):
        list(read_scenes(tmp_path))
    with pytest.raises(xsen2.SourceError, match="is not a folder of scenes"):
        list(read_scenes(tmp_path / "giant.npz"))
    with pytest.raises(xsen2.SourceError, match="is not a folder of scenes"):
        list(read_scenes(tmp_path / "none"))


def test_bombs_take_no_memory(tmp_path):
    """Zeros pack a thousandfold: 200 MB of them, where a process may have 100 MB above what it has."""
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in (("b10", (4, 5000, 5000)), ("b20", (6, 2500, 2500))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(header(str(shape)))
                left = 2 * int(np.prod(shape))
                while left:
                    left -= file.write(bytes(min(left, 2**24)))
    code = (
        "import resource, sys; from xsen2.training.scenes import read_npz; from pathlib import Path; import xsen2\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 100 * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now, now))\n"
        "try: read_npz(Path(sys.argv[1]))\n"
        "except xsen2.SourceError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb.npz")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "would become 200000000: no image is packed like that" in run.stdout


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_never_comes_out_as_another_error(tmp_path_factory, save):
    folder = tmp_path_factory.mktemp("damaged")
    good = npz(folder / "good.npz", save=save).read_bytes()
    whole = read_npz(folder / "good.npz")[0]
    bad = folder / "bad.npz"

    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.one_of(st.none(), st.integers(0, len(good))),
        st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), max_size=6),
    )
    def check(cut, changes):
        raw = bytearray(good)
        for at, value in changes:
            raw[at] = value
        bad.write_bytes(raw[:cut])
        try:
            found = read_npz(bad)[0]
        except xsen2.SourceError as error:
            assert "bad.npz holds no scene" in str(error)  # noqa: PT017
        else:
            for gsd, values in found.items():
                np.testing.assert_array_equal(values, whole[gsd])

    check()


@pytest.mark.parametrize(
    "notes",
    [
        "[" * 100_000,
        "[]",
        "{",
        '"x"',
        {"data": []},
        {"data": {"a": 3}},
        {"data": {"a": {"offset_dn": "x"}}},
        {"data": {"a": {"offset_dn": None}}},
        {"data": {"a": {"offset_dn": float("nan")}}},
        {"data": {"a": {"offset_dn": 1e300}}},
        {"data": {"a": {"epsg": 1}}},
        {"data": {"a": {"epsg": "x"}}},
        {"data": {"a": {"epsg": True}}},
        {"data": {"a": {"level": 3}}},
        {"data": {"a": {"ulx": [1]}}},
    ],
)
def test_notes_that_say_nothing_sensible_are_named(tmp_path, notes):
    npz(tmp_path / "data" / "a.npz")
    (tmp_path / "scenes.json").write_text(notes if isinstance(notes, str) else json.dumps(notes))
    for call in (lambda: list(read_scenes(tmp_path / "data")), lambda: xsen2.benchmark(tmp_path / "data", ["bicubic"])):
        with pytest.raises(xsen2.SourceError, match=r"scenes\.json has no valid notes on the scenes of data"):
            call()
    (tmp_path / "scenes.json").rename(tmp_path / "elsewhere.json")
    assert len(list(read_scenes(tmp_path / "data"))) == 1


def test_values_that_are_no_numbers_are_not_valid(tmp_path):
    found = arrays("f4")
    for i, value in enumerate((np.nan, np.inf, -np.inf, -5.0, 0.0)):
        found["b10"][i % 4, 0, i] = value
    [scene] = read_scenes(npz(tmp_path / "a.npz", found).parent)
    assert not scene.valid[10][0, :5].any()
    assert scene.valid[10].sum() == 12 * 18 - 5
    assert np.isfinite(scene.bands[10]).all()


def test_files_that_differ_in_their_endings_alone_are_two_scenes(tmp_path):
    from cubes import make_cube

    npz(tmp_path / "a.npz")
    make_cube(2, 3, seed=1).to_zarr(tmp_path / "a.zarr")
    npz(tmp_path / "b.NPZ.npz")
    assert [s.name for s in read_scenes(tmp_path)] == ["a.npz", "a.zarr", "b.NPZ"]


def test_names_that_cannot_be_shown_are_escaped(tmp_path):
    path = npz(tmp_path / "a.npz")
    os.rename(path, os.fsencode(tmp_path) + b"/\xff\x1b[2J.npz")
    [scene] = read_scenes(tmp_path)
    assert scene.name == r"\udcff\x1b[2J"
