"""The quickstart notebook runs as it stands, against a STAC API on loopback with two dates of a real city."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.real
@pytest.mark.slow
def test_quickstart(city, monkeypatch):
    monkeypatch.setenv("XSEN2_STAC_URL", city.url)
    monkeypatch.setenv("XSEN2_DATETIME", city.datetime)
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=400, kernel_name="python3").execute()
    text = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert "EPSG:32722" in text
    assert "'time': 2" in text
    assert text.count("2016") + text.count("2017") + text.count("2018") >= 2  # one line of water per date
