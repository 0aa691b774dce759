"""What the page *Five walks* of the site shows, run as it stands on small data of the same formats."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import safe_product
import scenes
import xarray as xr
from stac_api import serve

import xsen2

PAGE = (Path(__file__).parents[1] / "docs" / "walks.md").read_text()
WALKS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def walk(title: str, **given: Any) -> dict[str, Any]:
    """Run the code under a heading, with one's own values for what its first block names; gives what is left behind."""
    (text,) = (text for name, text in WALKS.items() if name.startswith(title))
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found: dict[str, Any] = {"xsen2": xsen2}
    if given:
        first = blocks.pop(0)
        assert set(re.findall(r"^(\w+) = ", first, re.MULTILINE)) == set(given), "the page names something else"
        compile(first, title, "exec")
        found |= given
    for block in blocks:
        exec(block, found)
    return found


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@safe_product.needs_real
@pytest.mark.usefixtures("tiny_networks")
def test_a_tile(tmp_path: Path) -> None:
    made = safe_product.product(safe_product.L2A_0400)
    found = walk("A tile", product=str(made.write(tmp_path)))
    assert len(found["files"]) >= 12
    cube, sr = found["cube"], found["sr"]
    for band in ("B02", "B11"):
        with rasterio.open(tmp_path / f"tile/{band}.tif") as file:
            assert file.crs == cube.rio.crs
            assert file.res == (10, 10)
            assert file.transform.almost_equals(cube["B02"].rio.transform(), 1e-6)
            pixels = file.read(1, masked=True)
        want = sr[band][0].values
        np.testing.assert_array_equal(np.ma.getmaskarray(pixels), np.isnan(want))
        np.testing.assert_allclose(pixels.filled(0), np.nan_to_num(want).clip(0).round(), atol=1.01)
    (item,) = (p for p in tmp_path.rglob("*.json") if "tile" in p.parts)
    assert json.loads(item.read_text())["stac_version"] == "1.1.0"


@pytest.mark.usefixtures("tiny_networks")
def test_a_summer(tmp_path: Path) -> None:
    days = ["2023-06-16T09:57:57Z", "2023-07-16T09:57:57Z", "2023-08-15T09:57:57Z", "2023-09-04T09:57:57Z"]
    made = [scenes.random(seed, (8, 8)) for seed in range(len(days))]
    items = [scenes.earth_search(scene, tmp_path, day) for scene, day in zip(made, days, strict=True)]
    with serve(items, tmp_path) as url:
        found = walk("A summer", catalogue=url, bbox=tuple(items[0]["bbox"]))
    series = found["series"]
    assert series.sizes["time"] == 4
    assert [str(t)[:10] for t in series.time.values] == [day[:10] for day in days]
    assert found["water"].notnull().all()
    b03, b08 = (made[3].bands[name].astype("f4") for name in ("B03", "B08"))
    left, top = int(series.x[0] - 5 - made[3].ulx) // 10, int(made[3].uly - series.y[0] - 5) // 10
    window = (slice(top, top + series.sizes["y"]), slice(left, left + series.sizes["x"]))
    with np.errstate(invalid="ignore"):
        want = ((b03 - b08) / (b03 + b08))[window]
    seen = np.isfinite(series[3].values)
    assert 0.1 < seen.mean() < 0.7, "clouds, shadows and nodata are hidden, and nothing else"
    np.testing.assert_allclose(series[3].values[seen], want[seen], atol=1e-4)
    level = xr.open_zarr(tmp_path / "ndwi.zarr", group="overviews/2")
    assert level.sizes["time"] == 4


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from test_external import TEN, Stacked, write_onnx

    write_onnx(Stacked(10, 2), 10, tmp_path / "model.onnx")
    said = {"model": "model.onnx", "bands": TEN, "margin": 4, "factor": 2}
    (tmp_path / "model.yaml").write_text(json.dumps(said))
    found = walk("Your own network", model="model.onnx")
    assert found["seam"] < 1e-2
    assert found["whole"]["B11"].attrs["gsd"] == 5
    (tmp_path / "model.yaml").write_text(json.dumps(said | {"margin": 0}))
    assert walk("Your own network", model=str(tmp_path / "model.onnx"))["seam"] > 0.1, "it finds a margin too small"


@pytest.mark.usefixtures("real_networks")
def test_three_methods() -> None:
    found = walk("Three methods", scene=xsen2.sample().isel(x=slice(0, 216), y=slice(0, 216), x_20m=slice(0, 108),
        y_20m=slice(0, 108), x_60m=slice(0, 36), y_60m=slice(0, 36)))  # fmt: skip
    assert list(found["table"].index) == ["bicubic", "regression", "default"]
    assert found["best"] != "bicubic"


@pytest.mark.usefixtures("tiny_networks")
def test_a_viewer() -> None:
    pytest.importorskip("anywidget")
    found = walk("Open the store")
    sent: list[Any] = []
    found["view"].send = lambda *message: sent.append(message)
    wanted = {"side": "sharp", "bands": ["B11", "B8A", "B04"], "date": 0, "box": [0, 0, 432, 432], "size": [100, 100]}
    found["view"].answer(None, {"id": 1, "kind": "look", **wanted}, None)  # as the page asks
    ((said, (pixels,)),) = sent
    assert said["shape"] == [3, 100, 100], said
    assert np.isfinite(np.frombuffer(pixels, np.float32)).all()
    assert found["coarse"].sizes["x"] == 216
