"""Files whole or not at all, swept up after a kill, and read within bounds."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xsen2 import files
from xsen2.errors import printable

ROOT = Path(__file__).parents[1]


BARE = """
import sys, types
package = types.ModuleType("xsen2"); package.__path__ = [sys.argv.pop()]; sys.modules["xsen2"] = package
"""
"""`xsen2.files` can be imported without all of the package, which takes seconds."""


def python(code: str, *args: object, **kwargs) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **kwargs.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-c", BARE + code, *map(str, args), str(ROOT / "xsen2")],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        **kwargs,
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("folder", [False, True])
def test_all_or_nothing(tmp_path, folder):
    target = tmp_path / "out"

    def fill(part: Path, text: str) -> None:
        (part / "inside" if folder else part).write_text(text)

    def fail() -> None:
        with files.whole(target, folder=folder) as part:
            fill(part, "half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == set()
    with files.whole(target, folder=folder) as part:
        fill(part, "all")
        assert names(tmp_path) == {part.name}
    assert names(tmp_path) == {"out"}
    if not folder:
        files.write(target, "other")
        assert target.read_text() == "other"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_what_is_made_is_as_readable_as_the_umask_says(tmp_path, mask):
    code = """
import os, sys; from pathlib import Path; from xsen2 import files
os.umask(int(sys.argv[2])); here = Path(sys.argv[1])
files.write(here / "file", "x")
with files.whole(here / "folder", folder=True): pass
print(oct(os.stat(files.temporary("xsen2-test")).st_mode & 0o777))
"""
    child = python(code, tmp_path, mask)
    said, _ = child.communicate()
    assert child.returncode == 0
    assert said.strip() == oct(0o777 & ~mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("name", ["out", "o[u]t *?", "x" * 200, "ö" * 100])
def test_what_a_killed_process_left_is_swept_up_and_what_a_living_one_has_is_not(tmp_path, folder, name):
    code = """
import sys, time; from pathlib import Path; from xsen2 import files
with files.whole(Path(sys.argv[1]), folder=sys.argv[2] == "True") as part:
    print(part.name, flush=True); time.sleep(600)
"""
    target = tmp_path / name
    dead, living = (python(code, target, folder) for _ in range(2))
    try:
        left, kept = (child.stdout.readline().strip() for child in (dead, living))
        assert names(tmp_path) == {left, kept}
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        with files.whole(target, folder=folder):
            pass
        assert names(tmp_path) == {name, kept}
    finally:
        living.kill()
        living.wait()
    files.sweep(tmp_path, ".*.part")
    assert names(tmp_path) == {name}


def test_only_files_and_folders_are_swept_up(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "letter").write_text("mine")
    (tmp_path / ".out.1.part").symlink_to(tmp_path / "mine")
    (tmp_path / ".out.2.part").symlink_to(tmp_path / "dear")
    os.mkfifo(tmp_path / ".out.3.part")
    (tmp_path / ".out.4.part").mkdir()
    (tmp_path / ".out.4.part" / "link").symlink_to(tmp_path / "dear")
    files.write(tmp_path / "out", "x")
    assert names(tmp_path) == {"mine", "dear", "out", ".out.1.part", ".out.2.part", ".out.3.part"}
    assert (tmp_path / "dear" / "letter").read_text() == "mine"


def test_a_temporary_folder_goes_with_its_process(tmp_path):
    code = """
import os, sys, time; from xsen2 import files
path = files.temporary("xsen2-test"); (path / "weights").write_text("x")
if os.fork() == 0: sys.exit()  # a fork ends first, and takes nothing with it
os.wait(); print(path.name, path.exists(), flush=True)
if sys.argv[1] == "stay": time.sleep(600)
"""
    env = {"TMPDIR": str(tmp_path)}
    ended = python(code, "go", env=env)
    said, _ = ended.communicate()
    assert said.split()[1] == "True"
    assert names(tmp_path) == set()
    killed = python(code, "stay", env=env)
    left = killed.stdout.readline().split()[0]
    killed.kill()
    killed.wait()
    assert names(tmp_path) == {left}
    python(code, "go", env=env).communicate()
    assert names(tmp_path) == set()


def test_reading_has_bounds(tmp_path):
    (tmp_path / "ten").write_bytes(b"0123456789")
    assert files.read(tmp_path / "ten", 10) == b"0123456789"
    os.mkfifo(tmp_path / "pipe")
    for path, most in ((tmp_path / "ten", 9), (tmp_path / "pipe", 9), (tmp_path, 9), (Path("/dev/zero"), 9)):
        begun = time.monotonic()
        with pytest.raises(OSError, match=r"bytes|regular"):
            files.read(path, most)
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "[" * 40 + "]" * 40, '{"a":' * 40 + "1" + "}" * 40, "[", "", "\xff", "[1,]"],
)
def test_json_that_is_none_or_too_deep_is_a_value_error(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"."):
        files.read_json(tmp_path / "a.json")


def test_json_is_read(tmp_path):
    said = {"a": [1, {"b": [None, "ö"]}]}
    (tmp_path / "a.json").write_text(json.dumps(said))
    assert files.read_json(tmp_path / "a.json") == said
    with pytest.raises(OSError, match="3 at most"):
        files.read_json(tmp_path / "a.json", 3)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("lake", "lake"),
        ("Żółć 湖", "Żółć 湖"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\udcff\n\0", r"\udcff\n\x00"),
        ("\u202e", r"\u202e"),
    ],
)
def test_text_can_be_shown(text, shown):
    assert printable(text) == shown
    shown.encode()
