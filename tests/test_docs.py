"""What the documentation shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cubes import make_cube

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
