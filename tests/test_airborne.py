"""SEN2NEON: real scenes beside airborne truth, in a tiny folder of the same layout."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.transform import from_origin

from xsen2.bands import BANDS, B, C, grid_of
from xsen2.cli.main import main
from xsen2.errors import SourceError
from xsen2.evaluation.datasets import airborne, samples

SIZE, TOP, LEFT = 64, 4, 2


def write(file, pixels, size, described=True):
    with rasterio.open(
        file,
        "w",
        driver="GTiff",
        height=pixels.shape[1],
        width=pixels.shape[2],
        count=len(pixels),
        dtype="float32",
        nodata=np.nan,
        crs="EPSG:32611",
        transform=from_origin(500000, 4000000, size, size),
    ) as out:
        out.write(pixels.astype("float32"))
        if described:
            out.descriptions = tuple(BANDS)


def scene(rng):
    """Truth at 2.5 m, and the same at 10 m with coarse bands repeated from a lattice of their own."""
    fine = np.stack([rng.uniform(0, 0.4, (SIZE // 4, SIZE // 4)).repeat(16, 0).repeat(16, 1) for _ in BANDS])
    fine += rng.uniform(0, 0.05, fine.shape)
    low = []
    for x, band in zip(fine, BANDS, strict=True):
        x = x.reshape(SIZE, 4, SIZE, 4).mean((1, 3))
        size = grid_of(band) // 10
        wide = np.pad(x, ((6 - TOP, 6), (6 - LEFT, 6)), mode="edge")
        n = len(wide) // size * size
        coarse = wide[:n, : wide.shape[1] // size * size]
        coarse = coarse.reshape(n // size, size, -1, size).mean((1, 3)).repeat(size, 0).repeat(size, 1)
        low.append(coarse[6 - TOP : 6 - TOP + SIZE, 6 - LEFT : 6 - LEFT + SIZE])
    return np.stack(low), fine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("neon")
    rng = np.random.default_rng(0)
    (path / "low").mkdir()
    (path / "high").mkdir()
    for i in range(2):
        low, fine = scene(rng)
        write(path / "low" / f"{i}.tif", low, 10, described=i == 0)
        write(path / "high" / f"{i}.tif", fine, 2.5, described=i == 0)
    table = "name,lr,hr,LC_superclass_text\nfirst,low/0.tif,high/0.tif,Forest\nsecond,low/1.tif,high/1.tif,Urban\n"
    (path / "sen2neon_metadata.csv").write_text(table)
    return path


def test_native_pixels_are_found_where_they_lie(folder):
    first, second = samples(folder)
    assert (first.name, second.name) == ("first", "second")
    with rasterio.open(folder / "low" / "0.tif") as source:
        low = source.read()
    assert first.cube["B05"].shape == (30, 30)
    assert first.cube["B01"].shape == (10, 10)
    names = list(BANDS)
    for band, size in (("B11", 2), ("B09", 6)):
        whole = low[names.index(band), TOP : TOP + 60, LEFT : LEFT + 60] * 10000
        np.testing.assert_allclose(first.cube[band], whole[::size, ::size], rtol=1e-5)
    with rasterio.open(folder / "high" / "0.tif") as source:
        fine = source.read(names.index("B01") + 1) * 10000
    want = fine.reshape(SIZE, 4, SIZE, 4).mean((1, 3))[TOP : TOP + 60, LEFT : LEFT + 60]
    np.testing.assert_allclose(first.truth["B01"], want, rtol=1e-5)
    assert list(first.truth) == [b for b in BANDS if b in (*B, *C)]


def test_methods_are_judged_by_the_truth(folder):
    said = []
    scores = airborne(folder, ["regression"], say=said.append)
    assert dict(scores.sizes) == {"scene": 2, "method": 2, "band": 8}
    assert (scores["rmse"] > 0).all()
    assert len(said) == 2
    assert said[0].startswith("first: bicubic 1.000, regression ")


def test_the_command_writes_scores(folder, tmp_path):
    out = tmp_path / "report"
    command = ["evaluate", str(folder), "--dataset", "sen2neon", "--out", str(out), "--methods", "bicubic", "--quiet"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "bicubic" in result.output
    assert len((out / "scores.csv").read_text().splitlines()) == 1 + 2 * 8


def test_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(SourceError, match="metadata"):
        next(samples(tmp_path))
    (tmp_path / "sen2neon_metadata.csv").write_text("name,file\na,b\n")
    with pytest.raises(SourceError, match="lr and hr"):
        next(samples(tmp_path))
    (tmp_path / "sen2neon_metadata.csv").write_text("lr,hr\nlow.tif,high.tif\n")
    with pytest.raises(SourceError, match="cannot be read"):
        next(samples(tmp_path))
    rng = np.random.default_rng(1)
    smooth = rng.uniform(0, 0.4, (12, SIZE, SIZE))  # bands of 20 m that do not repeat
    smooth[[0, 9]] = scene(rng)[0][[0, 9]]
    smooth[4] = np.roll(smooth[4].reshape(32, 2, 32, 2).mean((1, 3)).repeat(2, 0).repeat(2, 1), 1, (0, 1))
    write(tmp_path / "low.tif", smooth, 10)
    write(tmp_path / "high.tif", smooth[:, :48], 2.5)
    with pytest.raises(SourceError, match="nest"):
        next(samples(tmp_path))
