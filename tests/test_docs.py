"""What the documentation shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cubes import make_cube

from xsen2.errors import Cancelled, RadiometryError

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def names():
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "adding-a-method.md").read_text(), re.DOTALL):
        exec(block, found)
    return found


def test_the_method_of_the_guide_is_better_than_bicubic(names):
    rmse = names["scores"]["rmse"].to_pandas()
    assert (rmse.loc["high-pass"] < rmse.loc["bicubic"]).all()
    assert names["sr"]["B11"].dtype == np.float32


def test_it_keeps_the_promises_of_every_method(names):
    method = names["HighPass"]()
    assert method.rounds
    ds = make_cube(8, 9, dates=2)
    whole = ds.dsen2.superresolve(["B05", "B12"], method).compute()
    cut = ds.chunk({"y": 30, "x": 17, "y_20m": 8, "x_20m": 9}).dsen2.superresolve(["B05", "B12"], method).compute()
    for band in ("B05", "B12"):
        np.testing.assert_allclose(cut[band], whole[band], rtol=0, atol=1e-3)


def test_it_is_short():
    block = re.search(r"```python\n(.*?)```", (DOCS / "adding-a-method.md").read_text(), re.DOTALL)
    assert block is not None
    assert len(block[1].splitlines()) < 100


def test_the_page_on_degradation_runs():
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "degradation.md").read_text(), re.DOTALL):
        exec(block, found)
    assert set(found["found"]["axis"].values) == {"along", "across"}


def run(page: str) -> dict:
    """What a page's code leaves behind."""
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        exec(block, found)
    return found


def test_the_sink_of_the_guide_keeps_what_sinks_promise(tmp_path):
    found = run("adding-a-sink.md")
    to_npz = found["to_npz"]
    assert len(found["files"]) == 2
    with np.load(found["files"][1]) as one:
        want = found["sr"]["B11"].isel(time=1).values
        assert one["B11"].dtype == np.uint16
        np.testing.assert_allclose(one["B11"], np.maximum(want, 1), atol=0.501)
    ds = make_cube(3, 3, dates=3, dtype=np.uint16)
    with pytest.raises(Cancelled, match="goes on there"):
        to_npz(ds, tmp_path, progress=lambda progress: progress.done < 2)
    assert len(list(tmp_path.iterdir())) == 2
    assert len(to_npz(ds, tmp_path, progress=False)) == 3
    wrapped = ds.assign(B05=ds["B05"] - np.uint16(2000))
    with pytest.raises(RadiometryError, match="wrap round"):
        to_npz(wrapped, tmp_path / "wrapped", progress=False)
    assert not list((tmp_path / "wrapped").iterdir())
