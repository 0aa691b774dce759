"""The report: numbers of `evaluate`, one file that holds all, whole or not at all, goes on after a stop."""

from __future__ import annotations

import json
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cases import every
from click.testing import CliRunner, Result
from cubes import make_cube
from test_benchmark import save

from xsen2.bands import B
from xsen2.cli.main import main
from xsen2.errors import printable
from xsen2.evaluation import report, timing
from xsen2.evaluation.benchmark import subjects
from xsen2.evaluation.page import Heading, Picture, Table, as_html, as_markdown, literal
from xsen2.evaluation.plots import bars, error_maps, maps, strips
from xsen2.evaluation.tables import PUBLISHED, averages, relative, summary_numbers
from xsen2.evaluation.timing import enlarged
from xsen2.methods import registry
from xsen2.networks.cards import cards
from xsen2.sinks.zarr import to_zarr


def evaluate(*args: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *(str(a) for a in args)])


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Timings on a small scene, and all but one in this process: tests are not about speed."""
    child = timing._child

    def here(file: Path, method: str, gsd: int, device: str) -> timing.Timing:
        return (child if (method, gsd) == ("regression", 60) else timing._measure)(file, method, gsd, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "SIDE", 120)
        patch.setattr(timing, "_ENOUGH", 0)
        patch.setattr(timing, "_child", here)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack of patches without notes about it, and a Zarr store."""
    data = tmp_path_factory.mktemp("scenes")
    save(data / "patches_L2A.npz", *(make_cube(6, 6, seed=s) for s in (2, 3)))
    to_zarr(make_cube(8, 10, seed=4, chunks=60), data / "S2A_MSIL1C_20190405T1000.zarr", dtype="int16", progress=False)
    return data


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("out") / "report"
    return out, evaluate(folder, "--out", out, "--methods", "regression", "--operators", "dsen2,mtf")


def table(page: str, title: str) -> list[dict[str, str]]:
    """Rows of the first table after a title."""
    lines = page[page.index(title) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| "))
    head = [cell.strip() for cell in lines[start].strip("|").split("|")]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(head, (cell.strip() for cell in line.strip("|").split("|")), strict=True)))
    return rows


def test_numbers_are_those_of_evaluate(made: tuple[Path, Result], folder: Path) -> None:
    out, result = made
    assert result.exit_code == 0, result.output
    page = (out / "report.md").read_text()
    want = {}
    for subject in subjects(folder):
        cube = subject.cube.drop_vars(["B01", "B09"])
        want[subject.name] = cube.dsen2.evaluate(["bicubic", "regression"], 2, "dsen2", border=0)
    scores = pd.read_csv(out / "scores.csv")
    assert len(scores) == 2 * 2 * (2 * 6 + 2 * 2 + 8)
    two = scores[(scores.scale == 2) & (scores.operator == "dsen2")].set_index(["scene", "method", "band"])
    for name, found in want.items():
        for band in B:
            for metric in ("rmse", "sre", "uiq", "cc", "sam"):
                at = {"method": "regression", "band": band}
                value = float(found[metric].sel({d: v for d, v in at.items() if d in found[metric].dims}))
                assert two.loc[(name, "regression", band), metric] == pytest.approx(value, rel=1e-6)
    section = page[page.index("operator dsen2: ") :]
    mean = np.mean([float(found["rmse"].sel({"method": "regression"}).mean()) for found in want.values()])
    (row,) = (r for r in table(section, "### Table 4: averages") if r["method"] == "regression")
    assert float(row["RMSE, DN"]) == pytest.approx(mean, abs=0.051)
    ratios = [float(f["rmse"].mean("band")[1] / f["rmse"].mean("band")[0]) for f in want.values()]
    (row,) = (r for r in table(page, "# Sentinel-2") if r["method"] == "regression")
    assert float(row["20 m dsen2 (2): RMSE"]) == pytest.approx(np.mean(ratios), abs=0.00051)
    assert float(row["worst"]) > 0


def test_the_page_says_what_it_is(made: tuple[Path, Result]) -> None:
    page = (made[0] / "report.md").read_text()
    for words in (
        "2 scenes (1 L1C, 1 L2A)",
        "Contains modified Copernicus Sentinel data 2019; the year is not known of 1 of the 2 scenes.",
        "cannot prove",
        "`xsen2 evaluate ",
        "--methods regression --operators dsen2,mtf",
        "Versions: Python",
        "### Table 6: per band",
        "20 m bands at 10 m, without a truth",
        "20 m dsen2, L1C (1)",
    ):
        assert words in page
    assert "Table 3" not in page  # no network
    assert "Table 5" not in page  # no pansharpening
    (row,) = (r for r in table(page, "## Time and memory") if r["method"] == "bicubic")
    assert row["paper: minutes per tile"] == "< 1"
    assert float(row["20 m bands: s per megapixel"]) > 0
    (paper,) = (r for r in table(page[page.index("operator dsen2: ") :], "### Table 4") if r["method"] == "bicubic")
    assert (paper["paper: RMSE"], paper["paper: RMSE ratio"]) == ("123.5", "1.000")
    assert "123.5" not in page[page.index("operator mtf: ") : page.index("60 m bands, 360")]


def test_html_is_one_well_formed_file(made: tuple[Path, Result]) -> None:
    out, _ = made
    text = (out / "report.html").read_text()
    root = ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    links = [value for node in root.iter() for key, value in node.attrib.items() if key in ("src", "href")]
    pictures = sorted((out / "figures").glob("*.png"))
    assert len(links) == len(pictures) == 10
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    page = (out / "report.md").read_text()
    assert sorted(re.findall(r"\]\((.*?)\)", page.replace("(2018))", "2018)"))) == sorted(
        f"figures/{p.name}" for p in pictures
    )
    cells = [" ".join(node.itertext()) for node in root.iter("td")]
    assert {r["RMSE, DN"] for r in table(page, "### Table 6: averages")} <= set(cells)


def test_json_is_strict_and_whole(made: tuple[Path, Result]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads((made[0] / "scores.json").read_text(), parse_constant=refuse)
    assert set(found["summary"]) == {"20 m, dsen2", "20 m, mtf", "60 m, dsen2", "60 m, mtf"}
    assert len(found["scores"]) == len(pd.read_csv(made[0] / "scores.csv"))
    assert found["timings"]["methods"]["regression"]["60 m"]["peak MiB"] > 50  # of a process of its own


def test_goes_on_where_it_was_and_replaces_the_report_when_finished(folder: Path, tmp_path: Path) -> None:
    command = ("--out", tmp_path, "--methods", "bicubic", "--operators", "mtf", "--scales", 6)
    first = evaluate(folder, *command)
    assert (first.exit_code, first.stdout) == (0, "")
    assert first.stderr.count("scale 6, mtf: 1 of 1 methods") == 2
    before = (tmp_path / "report.md").read_text()
    cells = {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").iterdir()}
    (tmp_path / "report.md").write_text("older")
    (tmp_path / "figures/old.png").write_text("older")
    lost = next(p for p in cells if p.suffix == ".json" and not p.name.startswith("timings"))
    lost.unlink()  # as if it had been stopped before this one
    again = evaluate(folder, *command, "--quiet")
    assert (again.exit_code, again.output) == (0, "")
    new = {p for p, when in cells.items() if p.stat().st_mtime_ns != when}
    assert new == {lost, lost.with_suffix(".npy")}
    assert (tmp_path / "report.md").read_text() == before
    names = {"cells", "figures", "report.html", "report.md", "scores.csv", "scores.json"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert not (tmp_path / "figures/old.png").exists()
    assert evaluate(folder, *command, "--border", 500, "--quiet").exit_code == 2
    assert (tmp_path / "report.md").read_text() == before


def test_mistakes_are_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for args, words in (
        ((folder, "--out", tmp_path / "o", "--methods", "bicubik"), "did you mean 'bicubic'"),
        ((folder, "--out", tmp_path / "o", "--methods", "bicubic", "--operators", "nearest"), "unknown operator"),
        ((tmp_path / "empty", "--out", tmp_path / "o", "--methods", "bicubic"), "no scenes in"),
        ((folder, "--out", tmp_path / "o", "--methods", "bicubic", "--border", 500, "--scales", "2,6"), "nothing in"),
    ):
        result = evaluate(*args)
        assert result.exit_code == 2, result.output
        (line,) = (text for text in result.stderr.splitlines() if text.startswith("Error: "))
        assert words in line
        assert not (tmp_path / "o/report.html").exists()
    for args in (("--scales", 3), ("--methods", ","), ("--out", tmp_path / "file")):
        assert evaluate(folder, "--out", tmp_path / "o", *args).exit_code == 2


def scores_of(methods: list[str], scale: int = 2) -> xr.Dataset:
    bands = list(B) if scale == 2 else ["B01", "B09"]
    rng = np.random.default_rng(0)
    shape = (2, len(methods), len(bands))
    data = {m: (("scene", "method", "band"), rng.uniform(1, 9, shape)) for m in ("rmse", "sre", "uiq")}
    data["sam"] = (("scene", "method"), rng.uniform(1, 9, shape[:2]))
    coords = {"scene": ["a", "b"], "method": methods, "band": bands, "level": ("scene", ["L1C", ""])}
    return xr.Dataset(data, coords, {"scale": scale, "operator": "dsen2"})


def test_ratios_are_of_the_bands_that_both_make() -> None:
    scores = scores_of(["bicubic", "other"])
    rmse = scores["rmse"].values
    rmse[0, 1, 2:] = np.nan
    rmse[1, 1] = np.nan
    got = relative(scores).sel({"method": "other"}).values
    assert got[0] == pytest.approx(rmse[0, 1, :2].mean() / rmse[0, 0, :2].mean())
    assert np.isnan(got[1])
    assert summary_numbers({(2, "dsen2"): scores})["20 m, dsen2"]["other"]["scenes"] == 1


def test_published_numbers_stand_beside_their_system_only() -> None:
    names = ["bicubic", "supreme", "supreme-matched", "twogrid"]
    rows = {r[0]: r for r in averages("", "", scores_of(names), names, published=True).rows}
    assert rows["supreme"][-6:] == ("SupReME", "69.7", "29.7", "1.26", "0.887", "0.564")
    assert rows["supreme-matched"][-6:] == rows["twogrid"][-6:] == ("–",) * 6
    six = averages("", "", scores_of(names, 6), names, published=True).rows
    assert six[1][-6:] == ("SupReME", "85.7", "–", "–", "–", "0.535")
    assert set(PUBLISHED) >= {"bicubic", "atprk", "supreme", "sen2res", "dsen2", "pracs", "glp_hpm", "bdsd"}


@pytest.mark.slow
def test_networks_and_transfer_have_their_table(
    folder: Path, tmp_path: Path, tiny_cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "cards", lambda: tiny_cards)
    weights = next(card.file for card in tiny_cards["twogrid-paper"] if card.ratio == 2)
    args = ("--methods", "twogrid", "--operators", "dsen2", "--scales", "2,6", "--transfer", weights, "--quiet")
    result = evaluate(folder, "--out", tmp_path, *args)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.md").read_text()
    three = [r["method"] for r in table(page, "### Table 3")]
    assert three == ["bicubic", "twogrid", "trained at 80 → 40 m"]
    assert [r["method"] for r in table(page, "### Table 4: averages")] == ["bicubic", "twogrid"]
    assert [r["method"] for r in table(page, "### Table 6: averages")] == ["bicubic", "twogrid"]


def test_a_scene_for_timing_is_mirrored_whole() -> None:
    cube = make_cube(5, 7, dates=2)
    cube["B05"][0, 3, 4] = np.nan
    big = enlarged(cube, 60)
    assert {band: big[band].shape for band in ("B02", "B05", "B01")} == {
        "B02": (60, 60),
        "B05": (30, 30),
        "B01": (10, 10),
    }
    np.testing.assert_array_equal(big["B02"][:30, :42], cube["B02"][0])
    np.testing.assert_array_equal(big["B02"][30:60, :42], cube["B02"][0, ::-1])
    assert np.isfinite(big["B05"]).all()
    assert big.dsen2.superresolve(method="bicubic")["B05"].shape == (60, 60)
    assert enlarged(make_cube(3, 3, grids=(10, 20)), 12).sizes["x_20m"] == 6


def test_pages_escape_what_they_are_given(tmp_path: Path) -> None:
    parts = [Heading("a < b"), Table("t & u", "`x|y`", ("m", "n"), (("<i>", "p|q"),)), "plain & `code`"]
    root = ET.fromstring(as_html("x & y", parts, tmp_path).removeprefix("<!DOCTYPE html>\n"))
    assert [n.text for n in root.iter("td")] == ["<i>", "p|q"]
    assert [n.text for n in root.iter("code")] == ["x|y", "code"]
    assert "| &lt;i> | p\\|q |" in as_markdown("x", parts)


HOSTILE = [
    "$a_{$b",
    "$\\frac{1}$",
    "<script>alert(1)</script>",
    "![x](http://127.0.0.1:9/x.png)",
    "[x](javascript:alert(1))",
    "`x` ``y` z`",
    "a|b",
    "_x_ *y* **z**",
    "&lt;b&gt; &#60;",
    "http <http://127.0.0.1:9>",
    "\\",
    "-->]]><!--",
    "# head",
    "x\ny\n\n# head",
    "\x1b[2J\x00\udcff\u202e",
    "Żółć 湖",
    "x" * 150,
    "_",
    "..",
    "%s{0}{name}",
    "=1+1",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_on_every_page(tmp_path: Path, name: str) -> None:
    """What the page means by itself comes out as it is: the name alone, wherever it stands."""
    picture = tmp_path / "p.png"
    picture.write_bytes(b"png")
    want = " ".join(printable(" ".join(name.split())).split())
    parts = [
        Heading(name),
        Table(name, literal(name), (name, "n"), ((name, name),)),
        f"before {literal(name)} after `code` and `{literal(name)}`",
        Picture("p.png", name),
    ]
    page = as_html(name, parts, tmp_path)
    root = ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    known = "html head meta title style body h1 h2 h3 p code table tr th td img"
    assert {node.tag for node in root.iter()} == {*known.split(" ")}
    shown = [" ".join("".join(node.itertext()).split()) for node in root.iter() if node.tag in ("h1", "h2", "h3")]
    assert {*shown} <= {want, " ".join(printable(name).split())}
    line = next("".join(n.itertext()) for n in root.iter("p") if "".join(n.itertext()).startswith("before"))
    assert " ".join(line.split()).startswith(f"before {want} after code and".replace("  ", " "))
    markdown = as_markdown(name, parts)
    assert "\x1b" not in markdown
    plain = re.sub(r"(`+) ?.*? ?\1(?!`)", "", re.sub(r"\\.", "", markdown))  # neither what is escaped, nor code
    assert re.findall(r"!\[", plain) == ["!["], "the page's own picture alone"
    assert not re.search(r"<[\w/!?]|\]\((?!p\.png)|\$", plain), plain
    markdown.encode()


@pytest.mark.parametrize("name", every(4, [n for n in HOSTILE if "/" not in n and "\0" not in n]))
def test_names_are_text_in_every_picture(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).uniform(0, 1000, (6, 6))
    truth = xr.Dataset({"B05": (("y", "x"), pixels)})
    scores = scores_of(["bicubic", name])
    drawn = {
        "bars": bars(scores),
        "maps": maps({name: (pixels, {name: pixels + 1})}, [name]),
        "strips": strips({name: {name: pixels[..., None]}}),
        "errors": error_maps(truth, {name: truth}),
    }
    for kind, figure in drawn.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(tmp_path / f"{kind}.png")
    said = [t.get_text() for t in drawn["bars"].legends[0].get_texts()]
    assert len(said) == 2
    assert said[1].replace("\n", " ").startswith(printable(name).split(" ")[0][:30])


@pytest.mark.slow
def test_hostile_names_reach_the_report_and_lose_nothing(tmp_path: Path) -> None:
    data, out = tmp_path / "d$a_{ta", tmp_path / "out"
    save(tmp_path / "x.npz", make_cube(6, 6))
    data.mkdir()
    names = ["$a_{$b", "<script>", "![x](y)", "`", "\udcff\x1b"]
    for name in names:
        (data / f"{name}.npz").write_bytes((tmp_path / "x.npz").read_bytes())
    weights = next(card.file for card in cards()["twogrid"] if card.ratio == 6)
    odd = tmp_path / "$m_{$<b>"
    odd.mkdir()
    for suffix in (".json", ".safetensors"):
        (odd / weights.with_suffix(suffix).name).write_bytes(weights.with_suffix(suffix).read_bytes())
    result = evaluate(data, "--out", out, "--methods", f"bicubic,{odd}", "--operators", "mtf", "--scales", 6)
    assert result.exit_code == 0, result.output
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "could not be drawn" not in page
    assert len(list((out / "figures").iterdir())) == 4
    assert "<script>" not in page
    assert "![x]" not in page
    ET.fromstring((out / "report.html").read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>\n"))
    assert set(pd.read_csv(out / "scores.csv")["scene"]) == {printable(name) for name in names}


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_costs_no_scores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no `such` <font>")

    monkeypatch.setattr(report, "bars", fail)
    command = ("--out", tmp_path, "--methods", "bicubic", "--operators", "mtf", "--scales", 6, "--quiet")
    result = evaluate(folder, *command)
    assert result.exit_code == 0, result.output
    assert r"figures/rmse-60m-mtf.png could not be drawn: RuntimeError: no \`such\` &lt;font>" in (
        tmp_path / "report.md"
    ).read_text(encoding="utf-8")
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 2 * 2
