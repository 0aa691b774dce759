"""Tiles as they lie in AWS's buckets: the pixels of the product, or why not."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safe_product
import scenes
import xarray as xr
from click.testing import CliRunner
from safe_product import L1C_0301, L2A_0212, L2A_0400, L2A_0509, OLD_L1C, needs_real, product, zipped

import xsen2
from xsen2.bands import BANDS
from xsen2.cli.main import main
from xsen2.errors import GridError, RadiometryError, SourceError
from xsen2.sources.open import open_source

ZIPS = scenes.SHARED / "fixtures/safe_zip"
each = pytest.mark.parametrize("name", [L1C_0301, L2A_0212, L2A_0400, L2A_0509])
pytestmark = needs_real


def tile(made: safe_product.Product, folder: Path) -> Path:
    """The same tile under AWS's names."""
    safe = made.write(folder / "safe")
    level, name = made.name[7:10], made.name.removesuffix(".SAFE")
    zone, band, square = made.scene.tile[:2], made.scene.tile[2], made.scene.tile[3:]
    home = folder / f"tiles/{int(zone)}/{band}/{square}/2023/8/15/0"
    for layer, path in made.images.items():
        if (safe / path).suffix == ".tif":
            pytest.skip("a product with images in GeoTIFF")
        gsd = scenes.gsd_of(layer) if layer in (*BANDS, "SCL") else 0
        where = f"qi/{Path(path).name}" if not gsd else f"{layer}.jp2" if level == "L1C" else f"R{gsd}m/{layer}.jp2"
        (home / where).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(safe / path, home / where)
    shutil.copy(safe / made.tile, home / "metadata.xml")
    about = {"path": "tiles", "productName": name}
    (home / "tileInfo.json").write_text(json.dumps(about))
    (home / "productInfo.json").write_text(json.dumps({"name": name}))
    return home


@each
@pytest.mark.filterwarnings("ignore::xsen2.ReadWarning")
def test_the_same_pixels_as_of_the_product(name: str, tmp_path: Path) -> None:
    made = product(name)
    home = tile(made, tmp_path)
    want = xsen2.open_safe(tmp_path / "safe" / made.name).compute()
    for source in (home, home / "tileInfo.json", home / "metadata.xml", zipped(home, tmp_path / "t.zip", "t/"),
                   zipped(home, tmp_path / "u.zip", "")):  # fmt: skip
        found = xsen2.open_safe(source).compute()
        xr.testing.assert_equal(found, want)
        assert {k: found.attrs[k] for k in ("product", "tile", "level", "platform", "offset")} == {
            k: want.attrs[k] for k in ("product", "tile", "level", "platform", "offset")
        }
        xr.testing.assert_equal(open_source(str(source)).compute(), want)
    said = CliRunner().invoke(main, ["run", str(home), str(tmp_path / "{name}.zarr"), "--method=bicubic", "--dry-run"])
    assert f"T{made.scene.tile}_20230815_0.zarr" in said.output


def test_what_the_pixels_are_is_known_or_asked_for(tmp_path: Path) -> None:
    made = product(L2A_0509)
    home = tile(made, tmp_path)
    want = xsen2.open_safe(home)
    assert want.offset.item() == -1000
    text = (home / "metadata.xml").read_text()
    for file in ("tileInfo.json", "productInfo.json"):
        (home / file).unlink()
    assert xsen2.open_safe(home).offset.item() == -1000  # TILE_ID says it
    (home / "metadata.xml").write_text(re.sub(r"_N05\.09<", "<", text))
    with pytest.raises(RadiometryError, match=r"neither .* nor a processing baseline.*offset=-1000 .* offset=0"):
        xsen2.open_safe(home)
    for offset in (-1000, 0):
        assert xsen2.open_safe(home, offset=offset).offset.item() == offset
    (home / "metadata.xml").write_text(re.sub(r"_N05\.09<", "_N99.99<", text))
    with pytest.raises(RadiometryError, match=r"metadata\.xml is '99\.99', which is a private baseline"):
        xsen2.open_safe(home)
    (home / "tileInfo.json").write_text(json.dumps({"productName": made.name.removesuffix(".SAFE")}))
    with pytest.raises(RadiometryError, match=r"99\.99 in TILE_ID of metadata.xml, 05\.09 in the product's name"):
        xsen2.open_safe(home)
    shutil.copy(tmp_path / "safe" / made.name / made.main, home)
    xr.testing.assert_equal(xsen2.open_safe(home).compute(), want.compute())


def test_what_is_missing_in_a_tile(tmp_path: Path) -> None:
    home = tile(product(L1C_0301), tmp_path)
    (home / "B09.jp2").unlink()
    with pytest.warns(xsen2.ReadWarning, match=r"left out: B09 \(B09.jp2\)"):
        assert "B09" not in xsen2.open_safe(home)
    with pytest.raises(SourceError, match=r"missing: B09 \(B09\.jp2\)"):
        xsen2.open_safe(home, ["B09"])
    (home / "metadata.xml").rename(home / "other.xml")
    with pytest.raises(SourceError, match=r"metadata\.xml is missing"):
        xsen2.open_safe(home)
    shutil.copy(tmp_path / "safe" / L1C_0301 / "MTD_MSIL1C.xml", home / "metadata.xml")
    with pytest.raises(SourceError, match=r"not the metadata\.xml of an L1C or L2A tile"):
        xsen2.open_safe(home)


@pytest.mark.parametrize("name", [p.name for p in sorted(ZIPS.glob("*.zip"))])
def test_real_zips_whose_images_are_thinned(name: str, tmp_path: Path) -> None:
    with pytest.raises(GridError, match=r"has (29 x 29|73 x 73) pixels, but (MTD_TL|metadata)\.xml says 1830 x 1830"):
        xsen2.open_safe(ZIPS / name)
    with zipfile.ZipFile(ZIPS / name) as archive:
        members = [m for m in archive.namelist() if m.endswith((".xml", ".json", ".jp2", "B00.gml"))]
        archive.extractall(tmp_path, members)
    (home,) = tmp_path.iterdir()
    with pytest.raises(GridError, match="1830 x 1830"):
        xsen2.open_safe(home, ["B01"])
    clouds = xsen2.open_safe(home, ["CLASSI"])  # drawn from polygons, which are whole
    assert clouds.sizes["y_60m"] == 1830
    assert clouds.attrs["product"].startswith("S2")
    drawn = clouds.CLASSI.compute()
    assert set(np.unique(drawn)) <= {0, 1, 2, 3}
    assert bool(drawn.any()) == ("AWS" in name)


def test_other_folders_are_no_tiles(tmp_path: Path) -> None:
    made = product(OLD_L1C, cells=(1, 1)).write(tmp_path / "p")
    shutil.copy(next(made.rglob("*B02.jp2")), tmp_path / "B02.jp2")
    with pytest.raises(SourceError, match=r"nor a tile's metadata\.xml"):
        xsen2.open_safe(tmp_path)
