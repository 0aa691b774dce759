"""Cloud masks of products, as images and as polygons, read safely and carried to 10 m."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cubes import examples, no_compute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safe_product import (
    L1C_0301,
    L2A_0212,
    L2A_0509,
    OLD_L1C,
    OLD_L2A,
    Product,
    counted_reads,
    needs_real,
    product,
    zipped,
)

import xsen2
from xsen2.bands import BANDS
from xsen2.errors import BandError, CRSError, SourceError, Xsen2Error
from xsen2.sources import safe_pixels

HEAD = (
    '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n<eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0" '
    'xmlns:gml="http://www.opengis.net/gml/3.2" gml:id="S2A_OPER_MSK_CLOUDS_B00_MSIL1C">'
    "<gml:name>MSK_CLOUDS pixels mask from data-strip</gml:name>"
)
"""As in the masks of real products; those without clouds have neither an envelope nor members."""

NATIVE = [
    *(pytest.param(name, marks=needs_real) for name in (L1C_0301, L2A_0212)),
    OLD_L1C,
    OLD_L2A,
]


def outline(made: Product, rows: slice, columns: slice) -> str:
    """Corners of some 60 m pixels, as a posList."""
    x0, x1 = (made.scene.ulx + 60 * n for n in (columns.start, columns.stop))
    y0, y1 = (made.scene.uly - 60 * n for n in (rows.start, rows.stop))
    return f"{x0} {y0} {x1} {y0} {x1} {y1} {x0} {y1} {x0} {y0}"


def member(kind: str, outer: str, inner: str = "") -> str:
    hole = f"<gml:interior><gml:LinearRing><gml:posList>{inner}</gml:posList></gml:LinearRing></gml:interior>"
    return (
        f'<eop:MaskFeature gml:id="{kind}.0"><eop:maskType codeSpace="urn:gs2:S2PDGS:maskType">{kind}</eop:maskType>'
        "<eop:extentOf><gml:Polygon><gml:exterior><gml:LinearRing>"
        f'<gml:posList srsDimension="2">{outer}</gml:posList></gml:LinearRing></gml:exterior>{hole if inner else ""}'
        "</gml:Polygon></eop:extentOf></eop:MaskFeature>"
    )


def gml(made: Product, *members: str, epsg: int | None = None) -> str:
    code = epsg or made.scene.epsg
    envelope = f'<gml:boundedBy><gml:Envelope srsName="urn:ogc:def:crs:EPSG:8.7:{code}"/></gml:boundedBy>'
    return f"{HEAD}{envelope}<eop:maskMembers>{''.join(members)}</eop:maskMembers></eop:Mask>"


def cloudy(name: str) -> tuple[Product, str]:
    """A product of a time when masks were polygons, with some; and the path of the file."""
    made = product(name, cells=(9, 8))
    (path,) = re.findall(r"<MASK_FILENAME[^>]*MSK_CLOUDS[^>]*>(.*?)<", made.texts[made.tile])
    path = path if "/" in path else f"{made.tile.rpartition('/')[0]}/QI_DATA/{path}"
    text = gml(
        made,
        member("OPAQUE", outline(made, slice(1, 6), slice(2, 7)), outline(made, slice(3, 4), slice(3, 5))),
        member("CIRRUS", outline(made, slice(4, 9), slice(0, 4))),
        member("CIRRUS", outline(made, slice(0, 1), slice(7, 8))),
    )
    # Not among the texts of the product: the metadata of the tile are found by their depth.
    return replace(made, images={**made.images, "GML": path}), text


def written(made: Product, text: str, folder: Path) -> Path:
    home = made.write(folder, [name for name in made.images if name != "GML"])
    path = home / made.images["GML"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return home


BITS = np.zeros((9, 8), np.uint8)
BITS[1:6, 2:7] = 1
BITS[3:4, 3:5] = 0
BITS[4:9, 0:4] |= 2
BITS[0:1, 7:8] = 2


@pytest.mark.parametrize("name", NATIVE)
def test_polygons_are_drawn(name: str, tmp_path: Path) -> None:
    made, text = cloudy(name)
    home = written(made, text, tmp_path)
    for source in (home, zipped(home, tmp_path / "p.zip")):
        with no_compute():
            cube = xsen2.open_safe(source, ["B04", "B11", "CLASSI"], chunks=30)
            again = pickle.loads(pickle.dumps(cube))
        assert cube.CLASSI.dims == ("time", "y_60m", "x_60m")
        assert cube.CLASSI.dtype == np.uint8
        assert cube.CLASSI.data.numblocks == (1, 2, 2)
        for one in (cube, again):
            np.testing.assert_array_equal(one.CLASSI[0].compute(scheduler="synchronous"), BITS)
    default = xsen2.open_safe(home)
    assert list(default) == [*BANDS, "CLASSI" if "L1C" in name else "SCL"]
    sharp = cube.dsen2.superresolve(["B11"], "bicubic", mask="classi")
    plain = cube.dsen2.superresolve(["B11"], "bicubic")
    hidden = (BITS > 0).repeat(6, 0).repeat(6, 1)
    for band in ("B11", "B04"):
        np.testing.assert_array_equal(sharp[band][0], np.where(hidden, np.nan, plain[band][0]))
    np.testing.assert_array_equal(sharp.CLASSI[0], BITS.repeat(6, 0).repeat(6, 1))


def test_no_clouds_and_no_file(tmp_path: Path) -> None:
    made, _ = cloudy(OLD_L1C)
    home = written(made, f"{HEAD}</eop:Mask>", tmp_path)
    assert not xsen2.open_safe(home).CLASSI.values.any()
    (home / made.images["GML"]).unlink()
    assert "CLASSI" not in xsen2.open_safe(home)
    with pytest.raises(BandError, match="lists no image of CLASSI"):
        xsen2.open_safe(home, ["CLASSI"])


def test_another_file_is_another_array(tmp_path: Path) -> None:
    made, text = cloudy(OLD_L1C)
    home = written(made, text, tmp_path)
    names = [xsen2.open_safe(home, ["CLASSI"]).CLASSI.data.name for _ in range(2)]
    written(made, f"{HEAD}</eop:Mask>", tmp_path)
    assert names[0] == names[1] != xsen2.open_safe(home, ["CLASSI"]).CLASSI.data.name


def test_polygons_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, text = cloudy(OLD_L1C)
    cube = xsen2.open_safe(written(made, text, tmp_path), chunks=6)
    reads = []
    document = safe_pixels.Files.document
    monkeypatch.setattr(safe_pixels.Files, "document", lambda self, path: reads.append(path) or document(self, path))
    cube.dsen2.superresolve(["B11"], "bicubic", mask="classi").compute()
    assert reads == [made.images["GML"]]


POINTS = "600000 5000040"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('<!DOCTYPE a [<!ENTITY b "b"><!ENTITY c "&b;&b;&b;&b;">]><a>&c;</a>', SourceError, "declares a document type"),
        ('<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>', SourceError, "declares a document type"),
        ("<a>" * 5000 + "</a>" * 5000, SourceError, "nests over"),
        ("<a/>", SourceError, "begins with 'a'"),
        ("", SourceError, "not well-formed"),
        (HEAD, SourceError, "not well-formed"),
        (member("SNOW", POINTS), SourceError, "a member of the type 'SNOW'"),
        (member("OPAQUE", POINTS), SourceError, "no ring of coordinates"),
        (member("OPAQUE", f"{POINTS} 1"), SourceError, "no ring of coordinates"),
        (member("OPAQUE", f"{POINTS} nan nan {POINTS} {POINTS}"), SourceError, "no ring of coordinates"),
        (member("OPAQUE", f"{POINTS} a b {POINTS} {POINTS}"), SourceError, "no ring of coordinates"),
        (32633, CRSError, "but MTD_TL.xml says EPSG:32632"),
    ],
)
def test_polygons_are_not_trusted(text: str | int, error: type[Exception], words: str, tmp_path: Path) -> None:
    made, _ = cloudy(OLD_L1C)
    if isinstance(text, int):
        text = gml(made, epsg=text)
    elif text.startswith("<eop:MaskFeature"):
        text = gml(made, text)
    home = written(made, text, tmp_path)
    for source in (home, zipped(home, tmp_path / "p.zip")):
        with pytest.raises(error, match=words) as caught:
            xsen2.open_safe(source, ["CLASSI"]).compute()
        assert made.images["GML"].rpartition("/")[2] in str(caught.value)


@pytest.mark.parametrize("to", ["../../../secret.gml", "/etc/secret.gml", "C:secret.gml", r"..\secret.gml", "a//b.gml"])
def test_no_mask_leaves_the_product(to: str, tmp_path: Path) -> None:
    made, text = cloudy(OLD_L1C)
    (tmp_path / "secret.gml").write_text(text)
    (old,) = re.findall(r"<MASK_FILENAME[^>]*>(.*?)<", made.texts[made.tile])
    moved = replace(made, texts={**made.texts, made.tile: made.texts[made.tile].replace(old, to)})
    home = written(moved, text, tmp_path)
    for source in (home, zipped(home, tmp_path / "p.zip")):
        with pytest.raises(SourceError, match="not a plain path inside the product"):
            xsen2.open_safe(source)


def test_broken_polygons_give_named_errors_only(tmp_path: Path) -> None:
    made, text = cloudy(OLD_L1C)
    home = written(made, text, tmp_path)
    seen = set()

    @settings(examples(30), suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def mangle(data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(text)))
        stop = start + data.draw(st.sampled_from([0, 1, 7, 60, len(text)]))
        junk = data.draw(st.sampled_from(["", "9" * 30, "x", "<a/>", "-", " 1e400 ", "&a;", "nan", "&#0;"]))
        (home / made.images["GML"]).write_text(text[:start] + junk + text[stop:])
        try:
            seen.add(int(xsen2.open_safe(home, ["CLASSI"]).CLASSI.values.sum()))
        except Xsen2Error as error:
            seen.add(type(error))

    mangle()
    assert SourceError in seen


# --- images ---------------------------------------------------------------------------------------


@needs_real
def test_masks_of_an_l2a_product_at_10_m(tmp_path: Path) -> None:
    made = product(L2A_0509, cells=(8, 7))
    cube = xsen2.open_safe(made.write(tmp_path), ["B02", "B11", "SCL", "CLDPRB", "CLASSI"])
    scl = made.scene.bands["SCL"].repeat(2, 0).repeat(2, 1)
    opaque, cirrus, _ = made.scene.bands["CLASSI"].astype(bool).repeat(6, 1).repeat(6, 2)
    cloudy = made.scene.bands["CLDPRB"].repeat(2, 0).repeat(2, 1) > 40
    plain = cube.dsen2.superresolve(["B11"], "bicubic").compute()
    for mask, hidden in (
        ("scl", np.isin(scl, [0, 1, 3, 8, 9, 10])),
        ([11], scl == 11),
        ("classi", opaque | cirrus),
        (lambda ds: ds.CLDPRB > 40, cloudy),
    ):
        with no_compute():
            sharp = cube.dsen2.superresolve(["B11"], "bicubic", mask=mask)
        for band in ("B02", "B11"):
            np.testing.assert_array_equal(sharp[band][0], np.where(hidden, np.nan, plain[band][0]))


@needs_real
def test_l1c_has_its_mask_without_being_asked(tmp_path: Path) -> None:
    """From baseline 04.00 on as an image, in the place of the polygons."""
    made = product(L1C_0301, cells=(8, 7))
    (old,) = re.findall(r"<MASK_FILENAME[^>]*MSK_CLOUDS[^>]*>(.*?)<", made.texts[made.tile])
    new = old.replace("MSK_CLOUDS_B00.gml", "MSK_CLASSI_B00.jp2")
    text = made.texts[made.tile].replace(old, new).replace('type="MSK_CLOUDS"', 'type="MSK_CLASSI"')
    made = replace(made, texts={**made.texts, made.tile: text}, images={**made.images, "CLASSI": new})
    cube = xsen2.open_safe(made.write(tmp_path))
    assert list(cube) == [*BANDS, "CLASSI"]
    opaque, cirrus, snow = made.scene.bands["CLASSI"].astype(int)
    np.testing.assert_array_equal(cube.CLASSI[0], opaque + 2 * cirrus + 4 * snow)
    (tmp_path / made.name / new).unlink()
    assert list(xsen2.open_safe(tmp_path / made.name)) == list(BANDS)


def test_tiles_of_a_mask_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cube: xr.Dataset = xsen2.open_safe(product(OLD_L2A, cells=(30, 30)).write(tmp_path, block=64), chunks=64)
    reads = counted_reads(monkeypatch)
    cube.dsen2.superresolve(["B11"], "bicubic", mask="scl")[["B11", "B02", "SCL"]].compute()
    assert len(reads) == len(set(reads)) == sum(cube[name].data.npartitions for name in ("B11", "B02", "SCL"))
