"""`xsen2.open_safe` on products that are broken, incomplete, contradictory or made to harm: named errors only."""

from __future__ import annotations

import re
import shutil
import time
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from cubes import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safe_product import L1C_0301, L2A_0509, OFFSETS, OLD_L1C, OLD_L2A, assert_shows, needs_real, product, zipped

import xsen2
from xsen2.bands import BANDS
from xsen2.errors import CRSError, GridError, RadiometryError, SourceError, Xsen2Error
from xsen2.sources import safe_files


def test_paths_that_are_no_product(tmp_path: Path) -> None:
    made = product(OLD_L1C)
    home = made.write(tmp_path / "1")
    (tmp_path / "text.zip").write_text("hello")
    cut = zipped(home, tmp_path / "cut.zip")
    cut.write_bytes(cut.read_bytes()[:-40])
    two = zipped(home, tmp_path / "two.zip")
    with zipfile.ZipFile(two, "a") as archive:
        archive.writestr("other.SAFE/MTD_MSIL2A.xml", "<a/>")
    none = zipped(home / "GRANULE", tmp_path / "none.zip")
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "no.SAFE", "does not exist"),
        (tmp_path / "text.zip", "is not a zip that can be read"),
        (cut, "is not a zip that can be read"),
        (two, "holds several products"),
        (none, "is not a Sentinel-2 L1C or L2A product"),
        (tmp_path / "empty", "Give the folder named .SAFE itself"),
    ):
        with pytest.raises(SourceError, match=words):
            xsen2.open_safe(path)


NESTED = "<a>" * 5000 + "</a>" * 5000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<!DOCTYPE a [<!ENTITY b "b"><!ENTITY c "&b;&b;&b;&b;">]><a>&c;</a>', "declares a document type"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>', "declares a document type"),
        ('<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>', "declares a document type"),
        (NESTED, "nests over"),
        ("", "not well-formed"),
        ("<a>&b;</a>", "not well-formed"),
        ('<?xml version="1.0" encoding="no-such"?><a/>', "not well-formed"),
        ("<a/>", "begins with 'a'"),
        ('<n:Level-1B_User_Product xmlns:n="x"/>', "not of an L1C or L2A product"),
    ],
)
def test_xml_is_not_trusted(text: str, words: str, tmp_path: Path) -> None:
    made = product(OLD_L1C)
    for path in (made.main, made.tile) if "Level" not in text and text != "<a/>" else (made.main,):
        home = replace(made, texts={**made.texts, path: text}).write(tmp_path)
        for source in (home, zipped(home, tmp_path / "p.zip")):
            with pytest.raises(SourceError, match=words) as caught:
                xsen2.open_safe(source)
            assert path.rpartition("/")[2] in str(caught.value)


@needs_real
@pytest.mark.parametrize(
    "to", ["../../secret/T_B04_10m", "/etc/T_B04_10m", "C:/T_B04_10m", r"..\T_B04_10m", "a//T_B04_10m"]
)
def test_no_path_leaves_the_product(to: str, tmp_path: Path) -> None:
    made = product(L2A_0509)
    path = made.images["B04"].removesuffix(".jp2")
    (tmp_path / "secret").mkdir()
    home = made.write(tmp_path)
    shutil.copy(home / made.images["B04"], tmp_path / "secret/T_B04_10m.jp2")
    (home / made.main).write_text(made.texts[made.main].replace(path, to))
    archive = zipped(home, tmp_path / "p.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.write(tmp_path / "secret/T_B04_10m.jp2", f"{made.name}/{to}.jp2")
    for source in (home, archive):
        with pytest.raises(SourceError, match="not a plain path inside the product"):
            xsen2.open_safe(source)
    old = product(OLD_L1C)
    with pytest.raises(SourceError, match="not a plain path inside the product"):
        xsen2.open_safe(old.edited(old.main, ('(granuleIdentifier=")', r"\1../")).write(tmp_path / "old"))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of the test's own files
def test_a_file_of_another_format_is_not_opened(tmp_path: Path) -> None:
    made = product(OLD_L1C)
    home = made.write(tmp_path)
    inner = home / made.images["B04"]
    source = f"<SimpleSource><SourceFilename>{home / made.images['B03']}</SourceFilename></SimpleSource>"
    band = f'<VRTRasterBand dataType="UInt16" band="1">{source}</VRTRasterBand>'
    inner.write_text(f'<VRTDataset rasterXSize="24" rasterYSize="36">{band}</VRTDataset>')
    with rasterio.open(inner) as file:  # GDAL left to itself follows it
        assert file.driver == "VRT"
    with pytest.raises(SourceError, match=r"B04\.jp2"):
        xsen2.open_safe(home)
    with pytest.raises(SourceError, match="the header cannot be read as JP2OpenJPEG"):
        xsen2.open_safe(zipped(home, tmp_path / "p.zip"))


def test_files_beside_an_image_do_not_move_it(tmp_path: Path) -> None:
    made = product(OLD_L1C)
    path = made.write(tmp_path) / made.images["B04"]
    path.with_suffix(".jp2.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32633</SRS><GeoTransform>0,10,0,0,0,-10</GeoTransform>"
        '<PAMRasterBand band="1"><NoDataValue>5</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    with rasterio.open(path) as file:
        assert file.crs.to_epsg() == 32633
    assert_shows(xsen2.open_safe(tmp_path / made.name), made)


def test_endless_metadata_are_not_read(tmp_path: Path) -> None:
    made = product(OLD_L1C)
    endless = made.texts[made.main] + " " * safe_files.LIMIT
    home = replace(made, texts={**made.texts, made.main: endless}).write(tmp_path, [])
    for source in (home, zipped(home, tmp_path / "bomb.zip")):
        with pytest.raises(SourceError, match="is over 16 MB"):
            xsen2.open_safe(source)


@pytest.mark.parametrize(
    "inner",
    [b"<b/>" * 4_000_000, b"<b>" * 1_000_000, b"<b a='" + b"x" * (20 << 20) + b"'/>", b"<!---->" * 1_000_000],
    ids=["elements", "nested", "long", "comments"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_metadata_of_millions_of_elements_are_not_parsed(packed: bool, inner: bytes, tmp_path: Path) -> None:
    made = product(OLD_L1C)
    home = made.write(tmp_path, [])
    for path in (made.main, made.tile):
        before = (home / path).read_bytes()
        end = before.rindex(b"</")
        (home / path).write_bytes(before[:end] + inner + before[end:])
        began = time.perf_counter()
        with pytest.raises(SourceError, match="these are not the metadata of a product"):
            xsen2.open_safe(zipped(home, tmp_path / "p.zip") if packed else home)
        assert time.perf_counter() - began < 20  # zipping included; parsing one takes minutes
        (home / path).write_bytes(before)


@pytest.mark.parametrize("encoding", ["utf-16", "cp037", "utf-7", "iso-8859-15"])
def test_metadata_in_another_encoding_are_refused(encoding: str, tmp_path: Path) -> None:
    """What is counted before parsing is counted in UTF-8."""
    made = product(OLD_L1C)
    home = made.write(tmp_path, [])
    text = made.texts[made.main].replace("UTF-8", encoding)
    for raw in (text.encode(encoding), text.encode()):
        (home / made.main).write_bytes(raw)
        with pytest.raises(SourceError, match="not well-formed XML"):
            xsen2.open_safe(home)
    (home / made.main).write_bytes(b"\xef\xbb\xbf" + made.texts[made.main].encode())
    with pytest.raises(SourceError, match="these images are missing"):
        xsen2.open_safe(home)


BROKEN = [
    # metadata of the product
    ("main", "<PROCESSING_BASELINE>.*?</PROCESSING_BASELINE>", "", RadiometryError, "PROCESSING_BASELINE is ''"),
    (
        "main",
        "<PROCESSING_BASELINE>02.04",
        "<PROCESSING_BASELINE>05.00",
        RadiometryError,
        "05.00 (PROCESSING_BASELINE) means an offset of -1000",
    ),
    ("main", "<PROCESSING_BASELINE>02.04", "<PROCESSING_BASELINE>x", RadiometryError, "PROCESSING_BASELINE is 'x'"),
    (
        "main",
        "(<QUANT)",
        rf"{OFFSETS}\1",
        RadiometryError,
        "means no offset, but RADIO_ADD_OFFSET of B01 is -1000 DN",
    ),
    ("main", "<QUANT.*VALUE>", "", RadiometryError, "has no QUANTIFICATION_VALUE"),
    ("main", ">10000<", ">0<", RadiometryError, "QUANTIFICATION_VALUE is '0'"),
    ("main", ">10000<", ">1e4<", RadiometryError, "QUANTIFICATION_VALUE is '1e4'"),
    ("main", ">NODATA<", "><", RadiometryError, "NODATA"),
    ("main", ">65535<", ">many<", RadiometryError, "special value SATURATED is 'many'"),
    ("main", "<Granules.*</Granules>", "", SourceError, "has no Granule"),
    ("main", "(granuleIdentifier=.*?)_T32TLT_N02.04", r"\1", SourceError, "names no tile"),
    ("main", "_B02<", "_B03_10m<", SourceError, "lists two images of B03"),
    ("main", "Level-1C_User", "Level-1A_User", SourceError, "levels that can be opened"),
    # metadata of the tile
    ("tile", "EPSG:32632", "EPSG:4326", CRSError, "'EPSG:4326', but every Sentinel-2 tile is in a UTM zone"),
    ("tile", "EPSG:32632", "", CRSError, "HORIZONTAL_CS_CODE"),
    ("tile", "EPSG:32632", "EPSG:32633", CRSError, "EPSG:32632, but MTD_TL.xml says EPSG:32633"),
    ("tile", '<Size resolution="20">.*?</Size>', "", GridError, "0 Size of 20 m"),
    ("tile", "<NROWS>18<", "<NROWS>17<", GridError, "do not share their outer edges"),
    ("tile", "<NROWS>36<", "<NROWS>-36<", GridError, "NROWS at 10 m is '-36'"),
    ("tile", "<ULX>399960<", "<ULX>400020<", GridError, "has its corner at 399960"),
    ("tile", "<ULX>399960<", "<ULX>nan<", GridError, "ULX at 10 m is 'nan'"),
    ("tile", "<XDIM>20<", "<XDIM>10<", GridError, "pixels of the 20 m grid are 10 x -20"),
    ("tile", "<SENSING_TIME>.*?</SENSING_TIME>", "", SourceError, "has no SENSING_TIME"),
    ("tile", ">2016-09-28T", ">1916-09-28T", SourceError, "SENSING_TIME is '1916"),
    ("tile", ">2016-09-28T", ">2016-19-28T", SourceError, "SENSING_TIME is '2016-19"),
]


@pytest.mark.parametrize(("which", "pattern", "new", "error", "words"), BROKEN)
def test_broken_metadata_say_what_is_wrong(
    which: str, pattern: str, new: str, error: type[Xsen2Error], words: str, tmp_path: Path
) -> None:
    made = product(OLD_L1C)
    path = getattr(made, which)
    home = made.edited(path, (pattern, new)).write(tmp_path)
    with pytest.raises(Xsen2Error) as caught:
        xsen2.open_safe(home)
    assert type(caught.value) is error
    assert words in str(caught.value)


@needs_real
def test_contradictions_about_the_offset_can_be_settled(tmp_path: Path) -> None:
    made = product(L2A_0509)
    none = made.edited(made.main, ("<BOA_ADD_OFFSET_VALUES_LIST>.*</BOA_ADD_OFFSET_VALUES_LIST>", ""))
    home = none.write(tmp_path / "none")
    with pytest.raises(RadiometryError, match=r"05.09 .* means an offset of -1000 .* offset=-1000 .* offset=0"):
        xsen2.open_safe(home)
    assert_shows(xsen2.open_safe(home, offset=-1000), made)
    lacking = made.edited(made.main, ('<BOA_ADD_OFFSET band_id="3">-1000</BOA_ADD_OFFSET>', ""))
    home = lacking.write(tmp_path / "lacking")
    with pytest.raises(RadiometryError, match="gives offsets, but none of B04"):
        xsen2.open_safe(home)
    assert_shows(xsen2.open_safe(home, [band for band in BANDS if band != "B04"]), made)
    twice = made.edited(made.main, ('(<BOA_ADD_OFFSET band_id="3">)-1000(</BOA_ADD_OFFSET>)', r"\g<0>\g<1>-900\g<2>"))
    with pytest.raises(RadiometryError, match="two offsets of B04, -1000 and -900 DN"):
        xsen2.open_safe(twice.write(tmp_path / "twice"))
    zero = replace(made, added=0).edited(made.main, ("(BOA_ADD_OFFSET band_id[^>]*>)-1000", r"\g<1>0"))
    assert_shows(xsen2.open_safe(zero.write(tmp_path / "zero")), made)  # taken off before, and said so
    for wrong in (1000, -20000, True):
        with pytest.raises(RadiometryError, match="offset="):
            xsen2.open_safe(home, offset=wrong)


@pytest.mark.filterwarnings("ignore:.*no geotransform:rasterio.errors.NotGeoreferencedWarning:rasterio")
def test_images_that_are_not_what_the_metadata_say(tmp_path: Path) -> None:
    made = product(OLD_L2A)

    def opened(**other: np.ndarray) -> str:
        home = made.write(tmp_path)
        for name, pixels in other.items():
            replace(made, scene=replace(made.scene, bands={**made.scene.bands, name: pixels})).write_image(home, name)
        with pytest.raises(Xsen2Error) as caught:
            xsen2.open_safe(home)
        return f"{type(caught.value).__name__}: {caught.value}"

    said = opened(B05=np.ones((17, 12), "uint16"))
    assert "GridError" in said
    assert "has 17 x 12 pixels, but MTD_TL.xml says 18 x 12" in said
    said = opened(B05=np.ones((2, 18, 12), "uint16"))
    assert "SourceError" in said
    assert "has 2 layers of uint16, not 1 of uint16" in said
    home = made.write(tmp_path)
    kind = {"driver": "JP2OpenJPEG", "width": 24, "height": 36, "count": 1, "dtype": "uint16"}
    with rasterio.open(home / made.images["B02"], "w", **kind) as file:
        file.write(np.ones((1, 36, 24), "uint16"))
    with pytest.raises(CRSError, match="no CRS"):
        xsen2.open_safe(home)


@pytest.mark.parametrize("block", [32, 1024])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.9999])
def test_images_that_are_cut_off(part: float, block: int, tmp_path: Path) -> None:
    made = product(OLD_L1C, cells=(14, 11))
    home = made.write(tmp_path, block=block)
    path = home / made.images["B06"]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(SourceError, match=r"B06\.jp2 is cut off"):
        xsen2.open_safe(home)
    with pytest.raises(SourceError, match=r"B06\.jp2: .* cannot be read"):  # a zip is not read through for that
        xsen2.open_safe(zipped(home, tmp_path / "p.zip")).compute()


TAGS = (
    "IMAGE_FILE|BOA_ADD_OFFSET|BOA_QUANTIFICATION_VALUE|SPECIAL_VALUE_TEXT|SPECIAL_VALUE_INDEX|PROCESSING_BASELINE|"
    "PRODUCT_URI|SPACECRAFT_NAME|NROWS|NCOLS|ULX|ULY|XDIM|YDIM|HORIZONTAL_CS_CODE|SENSING_TIME|MASK_FILENAME|"
    "Granule|Size|Geoposition|Special_Values"
)
JUNK = st.one_of(
    st.sampled_from(
        (
            *("", "nan", "inf", "-1", "0", "1.5", "1e999", "9" * 20, "٣", "<a/>", "]]>", "&a;", "&#0;"),
            *("../../x", "/etc/passwd", "EPSG:4326", "EPSG:32700", "-1000", "GRANULE/x/IMG_DATA/x_B02_10m"),
            *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
        )
    ),
    st.text(max_size=12),
)


def mangled(text: str, data: st.DataObject) -> str:
    """A text with one thing wrong: an element changed, dropped or doubled, a part cut out or off."""
    spots = list(re.finditer(rf"<({TAGS})\b([^>]*)>(.*?)</\1>", text, flags=re.DOTALL))
    how = data.draw(st.sampled_from(["text", "attribute", "drop", "twice", "cut", "slice"]))
    if not spots or how in ("cut", "slice"):
        start = data.draw(st.integers(0, len(text)))
        return text[:start] + ("" if how == "cut" else text[start + data.draw(st.integers(1, 300)) :])
    spot = data.draw(st.sampled_from(spots))
    tag, attributes, inner = spot.groups()
    new = ""
    if how == "text":
        new = f"<{tag}{attributes}>{data.draw(JUNK)}</{tag}>"
    elif how == "attribute":
        name = (re.findall(r"(\w+)=", attributes) or ["a"])[0]
        new = f'<{tag} {name}="{data.draw(JUNK)}">{inner}</{tag}>'
    elif how == "twice":
        new = spot[0] * 2
    return text[: spot.start()] + new + text[spot.end() :]


@needs_real
@pytest.mark.parametrize("name", [L1C_0301, L2A_0509])
def test_broken_metadata_give_named_errors_only(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = product(name, cells=(1, 1))
    home = made.write(tmp_path_factory.mktemp("fuzz"))
    seen = set()

    @settings(examples(20), suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def mangle(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from([made.main, made.tile]))
        text = mangled(made.texts[path], data)
        (home / path).write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            seen.add(len(xsen2.open_safe(home).compute()))
        except Xsen2Error as error:
            seen.add(type(error))
            said = str(error)
            assert len(said) > 30, said
        finally:
            (home / path).write_text(made.texts[path], encoding="utf-8")

    mangle()
    assert SourceError in seen


@pytest.mark.filterwarnings("ignore::xsen2.ReadWarning")  # a name that is damaged is that of no image
def test_damaged_zips_give_named_errors_only(tmp_path: Path) -> None:
    archive = zipped(product(OLD_L1C, cells=(2, 2)).write(tmp_path), tmp_path / "p.zip")
    whole = archive.read_bytes()
    directory = whole.index(b"PK\x01\x02")

    @examples(20)
    @given(data=st.data())
    def damage(data: st.DataObject) -> None:
        changed = bytearray(whole)
        start = data.draw(st.sampled_from([0, directory]))
        for at in data.draw(st.lists(st.integers(start, len(whole) - 1), min_size=1, max_size=4)):
            changed[at] ^= data.draw(st.integers(1, 255))
        archive.write_bytes(changed)
        with suppress(Xsen2Error):
            assert xsen2.open_safe(archive).compute().sizes["y"] == 12

    damage()


def test_damaged_images_give_named_errors_only(tmp_path: Path) -> None:
    made = product(OLD_L2A, cells=(10, 9))
    home = made.write(tmp_path, block=32)
    path = home / made.images["B04"]
    whole = path.read_bytes()

    @examples(20)
    @given(data=st.data())
    def damage(data: st.DataObject) -> None:
        changed = bytearray(whole)
        for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
            changed[at] ^= data.draw(st.integers(1, 255))
        start = data.draw(st.integers(0, len(whole)))
        del changed[start : start + data.draw(st.sampled_from([0, 1, 40, len(whole)]))]
        path.write_bytes(changed)
        try:
            found = xsen2.open_safe(home, ["B04"]).B04.compute()
        except Xsen2Error as error:
            assert "B04" in str(error)  # noqa: PT017  (some damage does not show)
        else:
            assert found.shape == (1, 60, 54)

    damage()
