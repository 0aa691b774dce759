"""What the page without a server needs besides its code: the default networks as ONNX, and facts that the library owns.

``make page`` calls it: ``python -m xsen2.app.serverless FOLDER``, where FOLDER has the page's code already.
"""

from __future__ import annotations

import json
import shutil
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from xsen2 import files
from xsen2.app.look import formulas
from xsen2.bands import BANDS, find, grid_of
from xsen2.networks.cards import DEFAULT, cards
from xsen2.networks.external import Model, at
from xsen2.version import __version__

__all__ = ["MOST", "complete"]

MOST = 25.0
"""km² of the box round an area: what a browser has memory for, and people patience."""


def complete(folder: Path) -> Path:
    """Write ``static/networks`` and ``static/about.json`` into the folder of the page without a server.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Path
        ``about.json``.

    Raises
    ------
    MethodError
        If onnx or onnxruntime is missing.
    StoreError
        If nothing can be written.
    """
    from xsen2.networks.export_onnx import export

    place = folder / "static" / "networks"
    if place.exists():  # of a build before, perhaps of other weights, or of others under the same name
        shutil.rmtree(place)
    models = [at(export(card, place, uncertainty=True).onnx) for card in cards()[DEFAULT]]
    about = folder / "static" / "about.json"
    with files.named(about, files.ANEW):
        files.write(about, json.dumps(_about(models), indent=1) + "\n")
    return about


def _about(models: list[Model]) -> dict[str, Any]:
    words = {word.upper() for b in BANDS.values() for word in (b.name, b.name.replace("B0", "B"), b.common_name)}
    return {
        "version": __version__,
        "engine": "browser",
        "source": {"name": "this browser", "url": "", "reachable": True, "sample_only": False},
        "sample": [],
        "limits": {"km2": MOST, "dates": 1, "body": 2**20},
        "methods": [{"name": "default", "kind": "network"}],
        "indices": formulas(),
        "bands": [
            {"name": b.name, "gsd": b.gsd, "wavelength": b.wavelength, "long_name": b.long_name} for b in BANDS.values()
        ],
        "words": {word: find(word) for word in sorted(words)},
        "networks": [_network(model) for model in sorted(models, key=lambda model: model.margin)],
        "attribution": "contains modified Copernicus Sentinel data",
    }


def _network(model: Model) -> dict[str, Any]:
    """What the page's worker needs of a model with one input per native grid, and one scale for all bands."""
    (scale,) = set(model.scale)
    return {
        "file": Path(model.file).name,
        "name": f"{model.name} ({model.sha256[:16]})",
        "bands": model.bands,
        "inputs": [list(bands) for _, bands in groupby(model.bands, grid_of)],
        "produces": model.produces,
        "margin": model.margin,
        "multiple": model.cell,
        "scale": scale,
    }


if __name__ == "__main__":
    print(complete(Path(sys.argv[1])))
