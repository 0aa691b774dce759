"""A path from a user, wherever one is taken; and every name by which people give a product."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import eopf_product
import numpy as np
import pytest
import safe_product
import xarray as xr
from cases import every
from click.testing import CliRunner
from cubes import make_cube
from safe_product import OLD_L1C, OLD_L2A, assert_shows, product, zipped

import xsen2
from xsen2.cli.main import main
from xsen2.errors import SourceError, StoreError
from xsen2.files import is_url, local
from xsen2.geometry import padded
from xsen2.sources.open import open_source


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder, and another one to be in."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_what_a_path_means(home: Path) -> None:
    assert local("~") == local(Path("~")) == home
    assert local("~/a b.zarr") == home / "a b.zarr"
    assert local("a~/~b") == Path.cwd() / "a~/~b"
    assert local("~nobody-of-this-name/a") == Path.cwd() / "~nobody-of-this-name/a"
    assert local((home / "a").as_uri()) == home / "a"
    assert local(f"file://localhost{home}/a%23b") == home / "a#b"
    assert [is_url(text) for text in ("s3://a/b", "simplecache::https://a/b", "FILE:///a", "a/b", home)] == [
        *(True, True, False, False, False)
    ]
    for wrong in ("", "a\0b", b"a", 7, None, "file://elsewhere/a"):
        with pytest.raises(StoreError):
            local(wrong, StoreError)  # type: ignore[arg-type]


@eopf_product.needs_real
def test_the_home_folder_is_found_everywhere(home: Path) -> None:
    made = product(OLD_L1C)
    assert_shows(xsen2.open_safe(f"~/{made.write(home).name}"), made)
    assert len(open_source(f"~/{made.name}").data_vars) >= 12
    eopf = eopf_product.product(eopf_product.L2A)
    name = eopf.write(home).name
    for path in (f"~/{name}", Path(f"~/{name}"), f"file://{home}/{name}"):
        assert len(xsen2.open_eopf(path)) == 13
    make_cube(3, 3).to_zarr(home / "cube.zarr")
    assert len(open_source("~/cube.zarr").data_vars) == 12
    (home / "area.geojson").write_text(json.dumps({"type": "Point", "coordinates": [3, 45]}))
    assert padded("~/area.geojson", 0) == padded((3, 45, 3, 45), 0)
    done = CliRunner().invoke(
        main, ["run", "~/cube.zarr", str(home / "o.zarr"), "--method=bicubic", "--log=~/log.jsonl", "--dry-run"]
    )
    assert done.exit_code == 0, done.output
    assert (home / "log.jsonl").exists()
    refused = CliRunner().invoke(main, ["run", "~/cube.zarr", "~/cube.zarr", "--method=bicubic"])
    assert "is where SOURCE is" in refused.stderr
    refused = CliRunner().invoke(main, ["run", "~/no.zarr", str(home / "o.zarr"), "--geometry=~/none.geojson"])
    assert str(home / "none.geojson") in refused.stderr.replace("\n", "")
    assert not Path("~").exists()


# --- the names of a product -----------------------------------------------------------------------


def spellings(safe: Path, made: safe_product.Product) -> list[str | Path]:
    granule = made.tile.split("/")[1]
    return [
        safe,
        f"{safe}/",
        safe / made.main,
        safe / "GRANULE" / granule,
        f"{safe}/GRANULE/{granule}/",
        safe / made.tile,
        safe / "GRANULE",
        safe / "manifest.safe",
        safe.parent,
        safe.as_uri(),
    ]


@pytest.mark.parametrize(
    "name",
    every(2, [OLD_L1C, OLD_L2A, *(pytest.param(n, marks=safe_product.needs_real) for n in safe_product.REAL[::3])]),
)
def test_a_product_by_any_of_its_names(name: str, tmp_path: Path) -> None:
    made = product(name, cells=(2, 2))
    safe = made.write(tmp_path / "downloads")
    (safe / "manifest.safe").write_text("<a/>")
    want = xsen2.open_safe(safe).compute()
    for number, path in enumerate(spellings(safe, made)):
        xr.testing.assert_identical(xsen2.open_safe(path).compute(), want)
        if number % 3 == 0:
            xr.testing.assert_identical(open_source(str(path)).compute(), want)
    stem = safe.name.removesuffix(".SAFE")
    for number, prefix in enumerate(("", None, "a/b/")):
        archive = zipped(safe, tmp_path / f"{number}.zip", prefix)
        xr.testing.assert_equal(xsen2.open_safe(archive).compute(), want)
    for path in (safe, safe / made.main, safe / "GRANULE" / made.tile.split("/")[1], safe / made.tile):
        out = tmp_path / "out" / "{name}.zarr"
        done = CliRunner().invoke(main, ["run", str(path), str(out), "--bands=B11", "--method=bicubic", "--dry-run"])
        assert f"{stem}.zarr" in done.output, done.output


def test_a_tile_by_its_folder(tmp_path: Path) -> None:
    """Products until 2016 hold several, and each has a folder of its own."""
    made = product(OLD_L1C)
    home = made.write(tmp_path)
    text = made.texts[made.main]
    granule = re.search("<Granules.*</Granules>", text)[0]  # type: ignore[index]
    other = granule.replace("T32TLT", "T32TLS")
    (home / made.main).write_text(text.replace(granule, granule + other))
    inner = made.tile.split("/")[1]
    shutil.copytree(home / "GRANULE" / inner, home / "GRANULE" / inner.replace("T32TLT", "T32TLS"))
    with pytest.raises(SourceError, match=r"of the tiles 32TLS, 32TLT.*its folder in GRANULE"):
        xsen2.open_safe(home)
    cube = xsen2.open_safe(home / "GRANULE" / inner)
    assert cube.attrs["tile"] == "32TLT"
    assert_shows(cube, made)
    with pytest.raises(SourceError, match="tiles 32TLT, not '32TLS'"):
        xsen2.open_safe(home / "GRANULE" / inner, tile="32TLS")
    (home / "GRANULE/L1C_T01ABC").mkdir()
    with pytest.raises(SourceError, match="does not list the tile in GRANULE/L1C_T01ABC: give the product"):
        xsen2.open_safe(home / "GRANULE/L1C_T01ABC")


def test_a_folder_of_several_products(tmp_path: Path) -> None:
    for name in (OLD_L1C, OLD_L2A):
        product(name, cells=(1, 1)).write(tmp_path)
    for opened in (xsen2.open_safe, lambda path: open_source(str(path))):
        with pytest.raises(SourceError, match="holds several products"):
            opened(tmp_path)


@pytest.mark.parametrize(
    "start", ["SENTINEL2_L1C:{0}:10m:EPSG_32632", "SENTINEL2_L2A:{0}:TCI:EPSG_32632", "/vsizip/{0}"]
)
def test_the_names_that_gdal_gives(start: str, tmp_path: Path) -> None:
    made = product(OLD_L1C, cells=(1, 1))
    safe = made.write(tmp_path)
    archive = zipped(safe, tmp_path / "p.zip")
    inner = f"{archive}/{safe.name}/{made.main}"
    given = start.format(inner if start.startswith("/vsi") else safe / made.main)
    for path in (given, f"SENTINEL2_L1C:/vsizip/{inner}:20m:EPSG_32632"):
        with pytest.raises(SourceError, match="give the path of the product itself") as caught:
            xsen2.open_safe(path)
        advice = re.search(r"the product itself, (.*?), and say", str(caught.value))
        assert advice is not None
        assert_shows(xsen2.open_safe(advice[1]), made)
        result = CliRunner().invoke(main, ["run", path, str(tmp_path / "o.zarr")])
        assert result.exit_code == 2
        assert advice[1] in result.stderr


# --- what lies outside a product ------------------------------------------------------------------


def test_links_and_pipes_in_a_product(tmp_path: Path) -> None:
    made = product(OLD_L2A)
    for number, inner in enumerate((made.images["B04"], made.main, made.tile)):
        home = made.write(tmp_path / str(number))
        file, secret = home / inner, tmp_path / f"secret{number}"
        file.rename(secret)
        file.symlink_to(secret)
        with pytest.raises(SourceError, match=r"link that leads out of the product.*put the file itself"):
            xsen2.open_safe(home)
        file.unlink()
        file.symlink_to(tmp_path / "nothing")
        with pytest.raises(SourceError, match="link that leads nowhere"):
            xsen2.open_safe(home)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(SourceError, match="no file but a pipe"):
            xsen2.open_safe(home)
        file.unlink()
        shutil.copy(secret, file)  # the advice
        assert_shows(xsen2.open_safe(home), made)
    (tmp_path / "linked.SAFE").symlink_to(home)
    assert_shows(xsen2.open_safe(tmp_path / "linked.SAFE"), made)
    inner = (home / made.images["B04"]).parent
    inner.rename(tmp_path / "elsewhere")
    inner.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(SourceError, match="link that leads out"):
        xsen2.open_safe(home)


def test_links_and_bombs_in_a_zip(tmp_path: Path) -> None:
    made = product(OLD_L1C)
    home = made.write(tmp_path)
    inner = f"{home.name}/{made.images['B04']}"
    (home / made.images["B04"]).rename(tmp_path / "B04.jp2")
    archive = zipped(home, tmp_path / "link.zip")
    entry = zipfile.ZipInfo(inner)
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(entry, str(tmp_path / "B04.jp2"))
    with pytest.raises(SourceError, match=r"B04\.jp2 is a link"):
        xsen2.open_safe(archive)
    archive = zipped(home, tmp_path / "bomb.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as more, more.open(inner, "w") as out:
        out.write((tmp_path / "B04.jp2").read_bytes())
        for _ in range(65):
            out.write(bytes(16 << 20))
    with pytest.raises(SourceError, match=r"unpacks to 10\d\d MB, which no file of a product does"):
        xsen2.open_safe(archive)


@pytest.mark.parametrize("name", ["..", ".", "a/..", "a:b?c*", "…", "a\\..\\b", " "])
def test_names_of_results_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    from xsen2.cli.run import _name, _targets

    for source in (f"{tmp_path}/x/{name}", f"https://example.com/{name}?a=/../b", f"s3://bucket/a/{name}/"):
        made = _name(source)
        assert made not in ("", ".", "..")
        assert not set('/\\:*?"<>|\0') & set(made)
        (place,) = _targets([source], "out/{name}/{name}.zarr").values()
        assert Path(os.path.normpath(place)).parts[0] == "out"
        assert len(Path(os.path.normpath(place)).parts) == 3


# --- the shell ------------------------------------------------------------------------------------


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    loop = tmp_path / "loop.SAFE"
    loop.symlink_to(loop)
    dead = tmp_path / "dead.zarr"
    dead.symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.zip")
    os.mkfifo(tmp_path / "pipe.json")
    empty = make_cube(3, 3, dates=2)
    empty.isel(time=slice(0)).to_zarr(tmp_path / "time.zarr")
    empty.isel(y=slice(0), y_20m=slice(0), y_60m=slice(0)).to_zarr(tmp_path / "y.zarr")
    cases = {
        loop: "leads nowhere",
        dead: "leads nowhere",
        tmp_path / "pipe.zip": "pipe.zip",
        tmp_path / "time.zarr": "holds no pixels: its dim time has the length 0",
        tmp_path / "y.zarr": "holds no pixels",
        "a\0b.zarr": "zero byte",
        "": "is empty",
        tmp_path / ("a" * 300 + ".zarr"): "does not exist",
        "/dev/null": "neither a Zarr store",
    }
    for source, words in cases.items():
        result = CliRunner().invoke(main, ["run", str(source), str(tmp_path / "o.zarr"), "--method=bicubic"])
        assert result.exit_code == 2, source
        assert isinstance(result.exception, SystemExit)
        assert len(result.stderr.strip().splitlines()) == 1
        assert words in result.stderr


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    made = product(OLD_L1C, cells=(1, 1))
    home = made.write(tmp_path)
    for file in (home / made.main, home / made.images["B04"], home):
        file.chmod(0)
        result = CliRunner().invoke(main, ["run", str(home), str(tmp_path / "o.zarr"), "--method=bicubic"])
        file.chmod(0o755)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("method", ["default", "bicubic"])
def test_a_partial_product_in_the_shell(method: str, tmp_path: Path) -> None:
    made = product(OLD_L2A, cells=(12, 12))
    for lost in ({"SCL"}, {"B09"}, {"B01", "B09", "SCL"}):
        home = made.write(tmp_path / "_".join(sorted(lost)), [name for name in made.images if name not in lost])
        args = ["run", str(home), str(tmp_path / "o.zarr"), "--method", method]
        done = CliRunner().invoke(main, [*args, "--bands", "B05,B11", "--dry-run"])
        assert done.exit_code == 0, done.output
        assert done.stderr == ""
    home = tmp_path / "B09" / made.name
    args[1] = str(home)
    done = CliRunner().invoke(main, [*args, "--bands", "B05,B09"])
    assert done.exit_code == 2
    assert "missing: B09" in done.stderr
    assert "make other bands with --bands" in done.stderr
    assert "bands=[" not in done.stderr
    whole = CliRunner().invoke(main, [*args, "--dry-run"])
    if method == "bicubic":
        assert whole.exit_code == 0
        assert "left out: B09" in whole.stderr
        return
    assert whole.exit_code == 2
    advice = re.search(r"make others with (--bands \S+), or take .*(--method bicubic)", whole.stderr)
    assert advice is not None
    for more in (advice[1].split(), advice[2].split()):
        again = CliRunner().invoke(main, [*args, *more, "--dry-run"])
        assert again.exit_code == 0, again.output


def test_only_what_is_needed_is_opened(tmp_path: Path) -> None:
    """A damaged image that nothing reads is no reason to stop."""
    made = product(OLD_L1C, cells=(4, 4))
    home = made.write(tmp_path)
    (home / made.images["B12"]).write_bytes(b"cut off")
    out = tmp_path / "o.zarr"
    done = CliRunner().invoke(main, ["run", str(home), str(out), "--bands=B11", "--method=bicubic", "--quiet"])
    assert done.exit_code == 0, done.output
    want = xsen2.open_safe(home, ["B02", "B11"]).dsen2.superresolve(["B11"], "bicubic")
    np.testing.assert_array_equal(xr.open_zarr(out).B11, np.rint(want.B11))
