"""Broken EOPF products, STAC items and Zarr stores: a named error, or the pixels of the sound one; nothing in between.

What `tests/test_safe_broken.py` does for SAFE.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import eopf_product
import fsspec.registry  # noqa: F401  (what has been imported once is remembered there)
import numpy as np
import pytest
import scenes
import xarray as xr
from cases import every
from click.testing import CliRunner
from cubes import examples, make_cube
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xsen2
from xsen2.bands import BANDS
from xsen2.cli.main import main
from xsen2.cube import recognise
from xsen2.errors import CRSError, GridError, SourceError, Xsen2Error
from xsen2.radiometry import nodata_of
from xsen2.sources import reading
from xsen2.sources.open import open_source
from xsen2.training.scenes import read_scenes

DAY = "2023-08-15T09:57:57.246000Z"
GONE = object()

NUMBERS = (0, 1, -1, 7, 59, 0.5, 10**9, -(10**9), 2**63, 10**30, math.nan, math.inf, -math.inf, 1e300, 32700, 4326)
WORDS = (
    *("", "0", "-0.1", "1e4", "nan", "x", "٣", "\x00", "../../etc/passwd", "file:///etc/passwd", "EPSG:4326"),
    *("EPSG:32700", "EPSG:99999", "PROJCS[", "9999-99-99", "0001-01-01T00:00:00+14:00", "a" * 300),
)
JUNK = st.one_of(
    st.just(GONE),
    st.sampled_from(
        (None, True, False, [], {}, [[]], [None], [math.nan] * 6, [10**9] * 2, [-1, -1], [0, 0], {"a": {}})
    ),
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS),
    st.text(max_size=6),
)
"""What may stand where something else should: of another type, absurd, or nothing."""


def spots(node: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a JSON document."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [*([here] if here else []), *(path for key, child in children for path in spots(child, (*here, key)))]


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a path, or without it."""
    document = copy.deepcopy(document)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    if value is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return document


def one_of(paths: list[tuple[Any, ...]], data: st.DataObject) -> tuple[Any, ...]:
    return paths[data.draw(st.integers(0, len(paths) - 1))]  # sampled_from would print all of them on failure


def cut(text: str, data: st.DataObject) -> str:
    """Mostly the text, now and then its beginning only."""
    return text[: data.draw(st.integers(0, len(text) - 1))] if data.draw(st.integers(0, 11)) == 0 else text


def cut_at(content: bytes, data: st.DataObject) -> int:
    """How much of a file is left: any part, or nearly all, or all."""
    whole = len(content)
    return data.draw(st.one_of(st.integers(0, whole), st.sampled_from((whole, whole - 1))))


def outcome(work: Callable[[], xr.Dataset | xr.DataTree], whole: xr.Dataset) -> str:
    """Computed: the bands that came, each as in the sound cube; or the name of the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = recognise(work())
            got = found.dataset().compute(scheduler="synchronous")
    except Xsen2Error as error:
        assert len(str(error)) > 20, error  # noqa: PT017
        return type(error).__name__
    assert found.bands
    assert found.crs == whole.rio.crs
    for band in found.bands:
        for dim in got[band].dims[-2:]:
            np.testing.assert_array_equal(got[dim], whole[dim])
        np.testing.assert_array_equal(np.squeeze(got[band].values), np.squeeze(whole[band].values), err_msg=band)
    return "sound"


def fuzz(count: int, one: Callable[[st.DataObject], str]) -> None:
    """Run `one` on many draws; some have to fail and some have to be sound, else nothing was tried."""
    seen: set[str] = set()

    @settings(examples(count), suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        seen.add(one(data))

    run()
    assert "sound" in seen
    assert len(seen) > 1


# --- EOPF -----------------------------------------------------------------------------------------

NAMES = ["B02", "B05", "B01"]
KEYS = ("_eopf_attrs", "stac_discovery", "other_metadata")


@eopf_product.needs_real
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_eopf_metadata(zarr_format: int, tmp_path: Path) -> None:
    made = eopf_product.product(eopf_product.L2A, cells=(2, 3), chunk=2)
    home = made.write(tmp_path, zarr_format, consolidated=zarr_format == 2)
    whole = xsen2.open_eopf(home, NAMES).compute()
    root = "measurements/reflectance"
    read = [f"{root}/r{BANDS[n].gsd}m/{a}" for n in NAMES for a in (n.lower(), "x", "y")]
    files = [home / ".zmetadata"] if zarr_format == 2 else [home / path / "zarr.json" for path in ("", root, *read)]
    texts = {file: file.read_text() for file in files}

    def one(data: st.DataObject) -> str:
        file = data.draw(st.sampled_from(files))
        document = json.loads(texts[file])
        paths = [
            path
            for path in spots(document)
            if zarr_format == 3 or len(path) < 2 or str(path[1]).startswith(tuple(read)) or len(str(path[1])) < 9
        ]
        # Half of the time not among the many things that nothing reads.
        telling = [p for p in paths if not any(key in p for key in ("stac_discovery", "other_metadata", "_eopf_attrs"))]
        path = one_of(telling if data.draw(st.booleans()) else paths, data)
        file.write_text(cut(json.dumps(put(document, path, data.draw(JUNK))), data))
        try:
            return outcome(lambda: xsen2.open_eopf(home, NAMES), whole)
        finally:
            file.write_text(texts[file])

    fuzz(10, one)


@eopf_product.needs_real
@pytest.mark.parametrize("zarr_format", every(2, [2, 3]))
def test_eopf_chunks_that_are_cut_off(zarr_format: int, tmp_path: Path) -> None:
    home = eopf_product.product(eopf_product.L2A, cells=(4, 4), chunk=2).write(tmp_path, zarr_format)
    whole = xsen2.open_eopf(home, NAMES).compute()
    chunks = [p for p in (home / "measurements/reflectance").rglob("*") if p.is_file() and p.name[-1].isdigit()]
    chunks = [p for p in chunks if {"b01", "b02", "b05", "x", "y"} & set(p.parts)]

    def one(data: st.DataObject) -> str:
        chunk = data.draw(st.sampled_from(chunks))
        before = chunk.read_bytes()
        chunk.write_bytes(before[: cut_at(before, data)])
        try:
            return outcome(lambda: xsen2.open_eopf(home, NAMES), whole)
        finally:
            chunk.write_bytes(before)

    fuzz(12, one)


@eopf_product.needs_real
def test_eopf_archives_that_are_made_to_harm(tmp_path: Path) -> None:
    """Nothing is extracted, so a member cannot leave the archive; one outside of the product is not read."""
    home = eopf_product.product(eopf_product.L2A, cells=(2, 2)).write(tmp_path)
    whole = xsen2.open_eopf(home).compute()
    for number, name in enumerate(("../../evil.txt", "/evil.txt", "..\\evil.txt", "a/../../.zgroup")):
        archive = eopf_product.zipped(home, tmp_path / f"{number}.zarr.zip")
        with zipfile.ZipFile(archive, "a") as more:
            more.writestr(name, "{}")
        before = sorted(tmp_path.parent.iterdir())
        assert outcome(lambda archive=archive: xsen2.open_eopf(archive), whole) in ("sound", "SourceError")
        assert sorted(tmp_path.parent.iterdir()) == before
        assert not Path("/evil.txt").exists()


# --- STAC -----------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAUSES", (0.0,))


def item_of(scene: scenes.Scene, folder: Path, **kwargs: Any) -> dict[str, Any]:
    item = scenes.earth_search(scene, folder, DAY, **kwargs)
    item["assets"] = {key: asset for key, asset in item["assets"].items() if not key.endswith("-jp2")}
    for asset in item["assets"].values():
        asset["href"] = str(folder / asset["href"])
    return item


def some(seed: int = 0, cells: tuple[int, int] = (3, 2)) -> scenes.Scene:
    whole = scenes.random(seed, cells)
    return scenes.Scene({n: whole.bands[n] for n in NAMES}, whole.epsg, whole.ulx, whole.uly, whole.tile)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_stac_items(engine: str, tmp_path: Path) -> None:
    """Whatever stands in an item: no pixel is moved, warped or shifted by an offset that is not its own."""
    item = item_of(some(), tmp_path, version="05.09", applied=False, added=1000)
    whole = xsen2.load([item], engine=engine).compute()
    paths = spots(item)

    def one(data: st.DataObject) -> str:
        broken = item
        for _ in range(data.draw(st.integers(1, 2))):
            path, junk = one_of(paths, data), data.draw(JUNK)
            if path[-1] == "earthsearch:boa_offset_applied" and junk is True:
                continue  # not damage: it says, as most items do, that the pixels are others than these
            try:
                broken = put(broken, path, junk)
            except (KeyError, IndexError, TypeError):  # the first one took it away
                continue
        return outcome(lambda: xsen2.load([broken], engine=engine), whole)

    fuzz(12, one)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("engine", ["stackstac", "odc"])
def test_files_that_lie_elsewhere_than_their_item_says(engine: str, tmp_path: Path) -> None:
    item = item_of(some(), tmp_path)
    left, top = 499980, 5200020

    def moved(x: int, y: int, more: int = 0) -> dict[str, Any]:
        out = copy.deepcopy(item)
        for asset in out["assets"].values():
            gsd = asset["proj:transform"][0]
            asset["proj:transform"] = [gsd, 0, left + x, 0, -gsd, top + y]
            asset["proj:shape"] = [n + more * 60 // gsd for n in asset["proj:shape"]]
        return out

    zone = put(item, ("properties", "proj:epsg"), 32634)
    for broken, error, words in (
        (zone, CRSError, "asset 'coastal': the file is in EPSG:32633, but the item says EPSG:32634"),
        (moved(60, 0), GridError, "from the corner 499980, 5200020, but the item says"),
        (moved(0, -120), GridError, "from 499980, 5199900"),
        (moved(0, 0, 1), GridError, "the file has 3 x 2 pixels of 60 x 60 m .* but the item says 4 x 3 of 60 m"),
    ):
        with pytest.raises(error, match=words):
            xsen2.load([broken], bands=["B01"], engine=engine).compute()
    swapped = copy.deepcopy(item)
    assets = swapped["assets"]
    assets["blue"]["href"], assets["rededge1"]["href"] = assets["rededge1"]["href"], assets["blue"]["href"]
    with pytest.raises(GridError, match=r"the file has (9 x 6 pixels of 20 x 20|18 x 12 pixels of 10 x 10) m"):
        xsen2.load([swapped], engine=engine).compute()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("collection", "engine"),
    every(3, [(f"sentinel-2-{level}", engine) for level in ("l2a", "l1c") for engine in ("stackstac", "odc")]),
)
def test_images_of_items_that_are_cut_off(collection: str, engine: str, tmp_path: Path) -> None:
    """COG and JPEG 2000."""
    item = item_of(some(1, (12, 10)), tmp_path, collection=collection)
    whole = xsen2.load([item], engine=engine).compute()

    def one(data: st.DataObject) -> str:
        path = Path(item["assets"]["blue"]["href"])
        before = path.read_bytes()
        path.write_bytes(before[: cut_at(before, data)])
        try:
            return outcome(lambda: xsen2.load([item], engine=engine), whole)
        finally:
            path.write_bytes(before)

    fuzz(10, one)


# --- Zarr stores and files by name ----------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("stored") / "cube.zarr"
    make_cube(4, 3, dates=2, chunks=12)[NAMES].dsen2.to_zarr(store, progress=False)
    return store


def test_zarr_metadata(stored: Path, tmp_path: Path) -> None:
    home = tmp_path / "cube.zarr"
    shutil.copytree(stored, home)
    whole = xsen2.canonicalise(open_source(str(home))).compute()
    texts = {file: file.read_text() for file in sorted(home.rglob("zarr.json"))}

    def one(data: st.DataObject) -> str:
        # Half of the time the one that holds what is consolidated of all others, which is what is read.
        file = home / "zarr.json" if data.draw(st.booleans()) else data.draw(st.sampled_from(list(texts)))
        document = json.loads(texts[file])
        # What the values of nodata and of the type on disk are, nothing else says.
        paths = [p for p in spots(document) if p[-1] not in ("_FillValue", "fill_value")]
        path = one_of(paths, data)
        file.write_text(cut(json.dumps(put(document, path, data.draw(JUNK))), data))
        try:
            return outcome(lambda: open_source(str(home)), whole)
        finally:
            file.write_text(texts[file])

    fuzz(30, one)


def test_zarr_chunks_that_are_cut_off(stored: Path, tmp_path: Path) -> None:
    home = tmp_path / "cube.zarr"
    shutil.copytree(stored, home)
    whole = xsen2.canonicalise(open_source(str(home))).compute()
    chunks = [p for p in sorted(home.rglob("*")) if p.is_file() and p.name != "zarr.json"]

    def one(data: st.DataObject) -> str:
        chunk = data.draw(st.sampled_from(chunks))
        before = chunk.read_bytes()
        chunk.write_bytes(before[: cut_at(before, data)])
        try:
            return outcome(lambda: open_source(str(home)), whole)
        finally:
            chunk.write_bytes(before)

    fuzz(12, one)
    chunk = home / "B05/c/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(SourceError, match=r"cube.zarr: /B05 cannot be read at .* the store is damaged"):
        open_source(str(home)).compute()
    result = CliRunner().invoke(main, ["run", str(home), str(tmp_path / "out.zarr"), "--method", "bicubic"])
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    assert "/B05 cannot be read" in result.output


def things(folder: Path, stored: Path) -> Iterator[tuple[Path, str]]:
    """Files and folders that are nothing that can be opened, and a word of the error."""
    loop = folder / "loop.zarr"
    loop.symlink_to(loop)
    yield loop, "does not exist"
    inner = folder / "inner.zarr"
    shutil.copytree(stored, inner)
    (inner / "B99").symlink_to(inner, target_is_directory=True)  # a store that holds itself
    yield inner, ""
    for name, content in {
        "empty.json": "",
        "null.json": "null",
        "list.json": "[]",
        "deep.json": "[" * 100_000,
        "nan.json": '{"type": "FeatureCollection", "features": NaN}',
        "none.json": '{"type": "FeatureCollection", "features": []}',
        "self.json": json.dumps(
            {"type": "FeatureCollection", "features": [], "links": [{"rel": "next", "href": "self.json"}]}
        ),
        "text.zip": "hello",
        "text.zarr.zip": "hello",
        "text.SAFE": "hello",
        "text.zarr": "hello",
        "binary.json": "\udcff",
    }.items():
        (folder / name).write_text(content, "utf-8", "surrogateescape")
        yield folder / name, ""
    for name in ("none.SAFE", "none.zarr", "none.json"):
        (folder / f"folder-{name}").mkdir()
        yield folder / f"folder-{name}", ""
    entity = folder / "entity.SAFE"
    entity.mkdir()
    (entity / "MTD_MSIL2A.xml").write_text('<!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>')
    yield entity, "document type"


def test_things_that_are_no_source(stored: Path, tmp_path: Path) -> None:
    for path, words in things(tmp_path, stored):
        try:
            recognise(open_source(str(path)))
            opened = True
        except Xsen2Error as error:
            opened = False
            assert words in str(error), path  # noqa: PT017
            assert len(str(error)) > 20  # noqa: PT017
        assert opened == (path.name == "inner.zarr"), path
        result = CliRunner().invoke(main, ["run", str(path), str(tmp_path / "out.zarr"), "--method", "bicubic"])
        assert path.name == "inner.zarr" or result.exit_code != 0
        assert result.exception is None or isinstance(result.exception, SystemExit), path
        shutil.rmtree(tmp_path / "out.zarr", ignore_errors=True)


def test_packages_that_an_address_needs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.implementations.http", None)
    for scheme in ("http", "https"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    for address in ("https://127.0.0.1:9/a.zarr", "http://127.0.0.1:9/a.zarr.zip"):
        for opened in (xsen2.open_eopf, open_source):
            with pytest.raises(
                ImportError, match=rf"{address} cannot be opened: .*aiohttp.*pip install 'xsen2\[remote\]'"
            ):
                opened(address)
    result = CliRunner().invoke(main, ["run", "https://127.0.0.1:9/a.zarr", "no.zarr"])
    assert result.exit_code != 0
    assert "xsen2[remote]" in result.output


# --- what is no error, and looks like one ---------------------------------------------------------


@eopf_product.needs_real
@pytest.mark.parametrize("mask_and_scale", [True, False])
def test_nodata_that_only_zarr_knows(mask_and_scale: bool, tmp_path: Path) -> None:
    """In format 3 a fill value is no CF attribute: xarray decodes 0 to a reflectance of -0.1, which is no pixel."""
    made = eopf_product.product(eopf_product.L2A, cells=(4, 4))
    home = made.write(tmp_path, 3, consolidated=False)
    want = xr.open_datatree(home, engine="zarr", consolidated=False).dsen2.superresolve(method="bicubic").compute()
    for file in (home / "measurements").rglob("zarr.json"):
        about = json.loads(file.read_text())
        about["attributes"].pop("_FillValue", None)
        if not mask_and_scale:  # raw, as without the offset
            about["attributes"] = {
                k: v for k, v in about["attributes"].items() if k not in ("scale_factor", "add_offset")
            }
        file.write_text(json.dumps(about))
    tree = xr.open_datatree(home, engine="zarr", consolidated=False)
    b02 = tree["measurements/reflectance/r10m/b02"]
    assert not np.isnan(b02.values.astype(float)).any()
    assert np.isnan(want.b02).any()
    found = tree.dsen2.superresolve(method="bicubic")
    for band in map(str.lower, BANDS):
        np.testing.assert_array_equal(np.isnan(found[band]), np.isnan(want[band]), err_msg=band)
        if mask_and_scale:
            np.testing.assert_allclose(found[band], want[band], atol=1e-7)
    if mask_and_scale:
        assert nodata_of(b02) == b02.encoding["add_offset"]
        assert nodata_of(b02 * 1) is None  # arithmetic makes other values of it
        assert nodata_of(b02.astype("float32").assign_attrs(_FillValue=7)) == 7


@pytest.mark.parametrize("names", [{}, {"y": "lat", "x": "lon"}, {"y": "northing", "x": "easting"}])
@pytest.mark.parametrize("transposed", [False, True])
def test_an_image_that_is_turned_on_both_axes(names: dict[str, str], transposed: bool) -> None:
    """Rows that rise and columns that fall look like ``(x, y)`` of an upright image; names tell."""
    ds = make_cube(3, 4)
    back = slice(None, None, -1)
    turned = ds.isel(dict.fromkeys(ds.dims, back))
    if transposed:
        turned = turned.transpose("x", "y", "x_20m", "y_20m", "x_60m", "y_60m")
    found = recognise(turned.rename(names))
    for band in BANDS:
        np.testing.assert_array_equal(found.bands[band], ds[band], err_msg=band)
    assert found.bounds == recognise(ds).bounds


def test_a_scene_without_a_band_is_named_and_not_left_out(tmp_path: Path) -> None:
    make_cube(4, 4).to_zarr(tmp_path / "a.zarr")
    make_cube(4, 4, seed=1).drop_vars("B12").to_zarr(tmp_path / "b.zarr")
    scenes_ = read_scenes(tmp_path)
    assert next(scenes_).name == "a"
    with pytest.raises(SourceError, match=r"b\.zarr gives no scene: .* has no B12.*take it out of the folder"):
        next(scenes_)
    (tmp_path / "b.zarr/B02/zarr.json").write_text("{")
    with pytest.raises(SourceError, match=r"b\.zarr gives no scene"):
        list(read_scenes(tmp_path))
