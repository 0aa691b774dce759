"""Small Sentinel-2 products: real or period metadata, with images of a scene written where they say.

Metadata come from the real products in ``../shared/fixtures/safe``, whose grids are made as small as the scene;
or, for the naming of until 2016, which no real one there has, from texts with the same elements as products of
that time (PSD 13, and Sen2Cor 2.3 for L2A).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
import xarray as xr
from rasterio.transform import from_origin

from xsen2.bands import BANDS
from xsen2.cube import DIMS
from xsen2.sources import safe_pixels

FIXTURES = scenes.SHARED / "fixtures/safe"
L1C_0301 = "S2A_MSIL1C_20210908T042701_N0301_R133_T46RER_20210908T070248.SAFE"
L2A_0212 = "S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857.SAFE"
L2A_0400 = "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE"
L2A_0509 = "S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825.SAFE"
OLD_L1C = "S2A_OPER_PRD_MSIL1C_PDMC_20160929T103545_R022_V20160928T101022_20160928T101045.SAFE"
OLD_L2A = "S2A_USER_PRD_MSIL2A_PDMC_20160929T103545_R022_V20160928T101022_20160928T101045.SAFE"

REAL = (L1C_0301, L2A_0212, L2A_0400, L2A_0509)
OLD = (OLD_L1C, OLD_L2A)
needs_real = pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs ../shared/fixtures/safe")

OFFSETS = "".join(f'<RADIO_ADD_OFFSET band_id="{i}">-1000</RADIO_ADD_OFFSET>' for i in range(13))
"""What L1C products have from processing baseline 04.00 on."""

LAYERS = {"CLDPRB": 20, "CLASSI": 60}


@dataclass(frozen=True)
class Product:
    """Texts of a product by path, and the scene that its images show, in offset-free DN."""

    name: str
    texts: Mapping[str, str]
    scene: scenes.Scene
    images: Mapping[str, str]
    added: int = 0

    @property
    def main(self) -> str:
        """Path of the metadata of the whole product."""
        return min(self.texts, key=lambda path: (path.count("/"), path))

    @property
    def tile(self) -> str:
        """Path of the metadata of the tile."""
        return max(self.texts, key=lambda path: (path.count("/"), path))

    def edited(self, path: str, *edits: tuple[str, str]) -> Product:
        """The same with regular expressions replaced in one text, each of which has to match."""
        text = self.texts[path]
        for pattern, new in edits:
            text, number = re.subn(pattern, new, text, flags=re.DOTALL)
            assert number, pattern
        return replace(self, texts={**self.texts, path: text})

    def write(self, folder: Path, names: Iterable[str] | None = None, **kwargs: int) -> Path:
        """Write it below `folder`, with the images of `names` or all; gives the .SAFE folder."""
        home = folder / self.name
        for path, text in self.texts.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text(text, encoding="utf-8")
        for name in self.images if names is None else names:
            self.write_image(home, name, **kwargs)
        return home

    def write_image(self, home: Path, name: str, block: int = 1024) -> Path:
        """Write one image as ESA does: lossless JPEG 2000 in tiles, 0 where there is nothing."""
        pixels, gsd = self.scene.bands[name], {**LAYERS, "SCL": 20}.get(name) or BANDS[name].gsd
        added = self.added if name in BANDS else 0
        raw = np.where(pixels == 0, 0, pixels.astype("int32") + added).astype("uint16" if name in BANDS else "uint8")
        raw = raw if raw.ndim == 3 else raw[None]
        path = home / self.images[name]
        kind = {
            ".jp2": {"driver": "JP2OpenJPEG", "quality": 100, "reversible": "yes", "ycbcr420": "no"},
            ".tif": {"driver": "COG", "compress": "deflate"},
        }[path.suffix]
        size = {"blockxsize": block, "blockysize": block} if path.suffix == ".jp2" else {"blocksize": max(128, block)}
        profile = {
            **kind,
            **size,
            "width": raw.shape[2],
            "height": raw.shape[1],
            "count": len(raw),
            "dtype": raw.dtype,
            "crs": f"EPSG:{self.scene.epsg}",
            "transform": from_origin(self.scene.ulx, self.scene.uly, gsd, gsd),
        }
        scenes.write_image(path, raw, **profile)
        return path


def product(name: str, cells: tuple[int, int] = (6, 4), seed: int = 0, added: int | None = None) -> Product:
    """A product of `cells` rows and columns of 60 m pixels, with the metadata of the one of this name.

    Pixels carry 1000 more from processing baseline 04.00 on, or `added`.
    """
    made = (_old if name in OLD else _real)(name, cells, seed)
    shifted = 1000 if re.search("_N0[4-9]", name) else 0
    return replace(made, added=shifted if added is None else added)


def zipped(home: Path, path: Path, prefix: str | None = None, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Zip a product, by default with its folder as ESA does; stored images and compressed ones both occur."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(home.rglob("*")):
            if file.is_file():
                archive.write(
                    file, f"{home.name + '/' if prefix is None else prefix}{file.relative_to(home).as_posix()}"
                )
    return path


def scene(cells: tuple[int, int], epsg: int, ulx: int, uly: int, tile: str, level: str, seed: int) -> scenes.Scene:
    """Random pixels of all that a product of this level has, a tenth of them nodata."""
    made = scenes.random(seed, cells, epsg, ulx, uly)
    rng = np.random.default_rng((seed, 1))
    bands = dict(made.bands)
    if level == "L1C":
        del bands["SCL"]
    else:
        bands["CLDPRB"] = rng.integers(0, 101, (cells[0] * 3, cells[1] * 3)).astype("uint8")
    bands["CLASSI"] = rng.integers(0, 2, (3, *cells)).astype("uint8")
    return replace(made, bands=bands, tile=tile)


def _real(name: str, cells: tuple[int, int], seed: int) -> Product:
    texts = {
        path.relative_to(FIXTURES / name).as_posix(): path.read_text(encoding="utf-8")
        for path in (FIXTURES / name).rglob("*.xml")
    }
    main, tile = sorted(texts, key=lambda path: path.count("/"))
    # The angles are most of the text and nothing that is read: without them tests take half the time.
    texts[tile] = re.sub(r"<Tile_Angles.*</Tile_Angles>", "", texts[tile], flags=re.DOTALL)
    for gsd in (10, 20, 60):
        rows, columns = (n * 60 // gsd for n in cells)
        small = rf"\g<1><NROWS>{rows}</NROWS><NCOLS>{columns}</NCOLS></Size>"
        texts[tile] = re.sub(rf'(<Size resolution="{gsd}">).*?</Size>', small, texts[tile], flags=re.DOTALL)
    suffix = {"JPEG2000": ".jp2", "GeoTIFF": ".tif"}[re.findall('imageFormat="(.*?)"', texts[main])[0]]
    images = {}
    for path in re.findall("<IMAGE_FILE>(.*?)</IMAGE_FILE>", texts[main]):
        band = re.search(r"_(B\d\d|B8A|SCL)(?:_(\d\d)m)?$", path)
        if band and (band[1] in BANDS or band[1] == "SCL") and int(band[2] or _gsd(band[1])) == _gsd(band[1]):
            images[band[1]] = path + suffix
    for path in re.findall(r"<MASK_FILENAME[^>]*>(.*?)</MASK_FILENAME>", texts[tile]):
        mask = re.search(r"MSK_(CLDPRB_20m|CLASSI_B00)\.(?!gml)", path)
        if mask:
            images[mask[1][:6]] = path
    epsg, ulx, uly = (int(re.search(p, texts[tile])[1]) for p in (r"EPSG:(\d+)", r"<ULX>(.*?)<", r"<ULY>(.*?)<"))
    mgrs = re.search(r"_T(\w{5})_", name)[1]
    return Product(name, texts, scene(cells, epsg, ulx, uly, mgrs, name[7:10], seed), images)


def _gsd(name: str) -> int:
    return scenes.gsd_of(name)


def _old(name: str, cells: tuple[int, int], seed: int) -> Product:
    level, who = ("L1C", "OPER") if name == OLD_L1C else ("L2A", "USER")
    epsg, ulx, uly = 32632, 399960, 5100000
    made = scene(cells, epsg, ulx, uly, "32TLT", level, seed)
    stem = f"S2A_{who}_MSI_{level}_TL_EPA__20160929T050522_A006646_T32TLT"
    home = f"GRANULE/{stem}_N02.04"
    if level == "L1C":
        ids = {band: f"{stem}_{band}" for band in BANDS}
        images = {band: f"{home}/IMG_DATA/{i}.jp2" for band, i in ids.items()}
        listed = [*ids.values(), f"{stem}_B10"]
    else:
        ids = {band: f"{stem}_{band}_{_gsd(band)}m" for band in BANDS}
        images = {band: f"{home}/IMG_DATA/R{_gsd(band)}m/{i}.jp2" for band, i in ids.items()}
        ids["SCL"] = f"{stem.replace('_MSI_', '_SCL_')}_20m"
        images["SCL"] = f"{home}/IMG_DATA/{ids['SCL']}.jp2"
        listed = [*ids.values(), f"{stem}_B8A_60m", f"{stem.replace('_MSI_', '_SCL_')}_60m", f"{stem}_B02_20m"]
    two, tag = ("_2A", "IMAGE_ID_2A") if level == "L2A" else ("", "IMAGE_ID")
    rows = "".join(f"<{tag}>{i}</{tag}>" for i in listed)
    quantity = (
        "<QUANTIFICATION_VALUE unit='none'>10000</QUANTIFICATION_VALUE>"
        if level == "L1C"
        else "<L1C_L2A_Quantification_Values_List><L1C_TOA_QUANTIFICATION_VALUE>9</L1C_TOA_QUANTIFICATION_VALUE>"
        "<L2A_BOA_QUANTIFICATION_VALUE unit='none'>10000</L2A_BOA_QUANTIFICATION_VALUE>"
        "</L1C_L2A_Quantification_Values_List>"
    )
    special = "".join(
        f"<Special_Values><SPECIAL_VALUE_TEXT>{text}</SPECIAL_VALUE_TEXT>"
        f"<SPECIAL_VALUE_INDEX>{index}</SPECIAL_VALUE_INDEX></Special_Values>"
        for text, index in (("NODATA", 0), ("SATURATED", 65535))
    )
    main = (
        f'<?xml version="1.0" encoding="UTF-8"?><n1:Level-{level[1:]}_User_Product xmlns:n1="https://psd-13"><n1:General_Info>'
        f"<Product_Info><PRODUCT_URI{two}></PRODUCT_URI{two}><PROCESSING_BASELINE>02.04</PROCESSING_BASELINE>"
        "<Datatake><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME></Datatake><Product_Organisation><Granule_List>"
        f'<Granules granuleIdentifier="{stem}_N02.04" imageFormat="JPEG2000">{rows}</Granules></Granule_List>'
        f"</Product_Organisation></Product_Info><Product_Image_Characteristics>{special}{quantity}"
        f"</Product_Image_Characteristics></n1:General_Info></n1:Level-{level[1:]}_User_Product>"
    )
    grids = "".join(
        f'<Size resolution="{g}"><NROWS>{cells[0] * 60 // g}</NROWS><NCOLS>{cells[1] * 60 // g}</NCOLS></Size>'
        f'<Geoposition resolution="{g}"><ULX>{ulx}</ULX><ULY>{uly}</ULY><XDIM>{g}</XDIM><YDIM>-{g}</YDIM></Geoposition>'
        for g in (10, 20, 60)
    )
    tile = (
        f'<n1:Level-{level[1:]}_Tile_ID xmlns:n1="https://psd-13"><n1:General_Info>'
        "<SENSING_TIME>2016-09-28T10:10:22.027Z</SENSING_TIME></n1:General_Info><n1:Geometric_Info><Tile_Geocoding>"
        f"<HORIZONTAL_CS_CODE>EPSG:{epsg}</HORIZONTAL_CS_CODE>{grids}</Tile_Geocoding></n1:Geometric_Info>"
        f"<Pixel_Level_QI><MASK_FILENAME type='MSK_CLOUDS'>{stem.replace('_MSI_', '_MSK_')}.gml</MASK_FILENAME>"
        f"</Pixel_Level_QI></n1:Level-{level[1:]}_Tile_ID>"
    )
    metadata = f"{stem.replace('_MSI_', '_MTD_')}.xml"
    safl = name.replace("_PRD_MSI", "_MTD_SAF").replace(".SAFE", ".xml")
    return Product(name, {safl: main, f"{home}/{metadata}": tile}, made, images)


def truth(made: Product, name: str) -> np.ndarray:
    pixels = made.scene.bands[name]
    return np.where(pixels == 0, np.nan, pixels).astype("float32") if name in BANDS else pixels


def assert_shows(cube: xr.Dataset, made: Product) -> None:
    """The cube has the product's pixels, at their places."""
    computed = cube.compute()
    for name in cube.data_vars:
        gsd = scenes.gsd_of(str(name))
        ydim, xdim = DIMS[gsd]
        assert computed[name].dims == ("time", ydim, xdim)
        assert computed[name].dtype == cube[name].dtype == (np.float32 if name in BANDS else np.uint8)
        np.testing.assert_array_equal(computed[name][0], truth(made, str(name)), err_msg=str(name))
        left, _, _, top = made.scene.bounds
        np.testing.assert_array_equal(cube[xdim], left + gsd * (np.arange(cube.sizes[xdim]) + 0.5))
        np.testing.assert_array_equal(cube[ydim], top - gsd * (np.arange(cube.sizes[ydim]) + 0.5))


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is read of images from now on: the image and the part of it."""
    reads: list[tuple[str, str]] = []
    opened = safe_pixels._opened

    def counted(href: Any, where: str, part: str) -> Any:
        reads.append((where, part))
        return opened(href, where, part)

    monkeypatch.setattr(safe_pixels, "_opened", counted)
    return reads
