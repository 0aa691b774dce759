"""The library's networks as ONNX: the same pixels in onnxruntime, and read back as anybody's network is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from cubes import change, make_cube

from xsen2.cli.main import main
from xsen2.errors import MethodError, WeightsError
from xsen2.networks import export_onnx
from xsen2.networks.cards import Card, cards
from xsen2.networks.export_onnx import export
from xsen2.networks.external import at
from xsen2.networks.load import tensors
from xsen2.training.export import write

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def small(name: str, folder: Path) -> Card:
    """A small network with quiet weights: loud ones make much of the last digits, as no trained network does."""
    card = tiny.shrunk(next(c for group in cards().values() for c in group if c.name == name), folder / "loud")
    said = {k: v for k, v in vars(card).items() if k not in ("path", "halo", "lattice", "sha256", "validation")}
    return write({key: 0.2 * value for key, value in tensors(card).items()}, folder, **said)


@pytest.mark.parametrize(
    "name",
    ["dsen2-60m-v1", "twogrid-paper-20m-v1", "twogrid-20m-v5", pytest.param("twogrid-60m-v6", marks=pytest.mark.slow)],
)
def test_what_is_written_is_read_as_any_model_is(name, tmp_path, request):
    """Ragged edges and a hole included: what the exported network makes is what the built-in one does."""
    card = small(name, tmp_path / "own")
    made = exported(request, card, tmp_path)
    assert made.difference < 0.01
    model = at(made.onnx)
    assert (model.native, model.produces, model.name) == (True, card.bands, card.name)
    of_item = at(made.item)
    what = ("sha256", "bands", "produces", "margin", "multiple", "scale", "offset", "native", "factor")
    assert [getattr(of_item, key) for key in what] == [getattr(model, key) for key in what]
    ds = change(make_cube(29, 31, dates=1), "B11", lambda x: x.__setitem__((0, slice(20, 24), slice(30, 34)), np.nan))
    kw = {"bands": [*card.bands], "native": False}
    own = ds.dsen2.superresolve(method=str(tmp_path / "own"), dtype="float32", device="cpu", **kw).compute()
    other = ds.dsen2.superresolve(method=str(made.item), **kw).compute()
    for band in card.bands:
        assert np.isnan(own[band]).any()
        np.testing.assert_allclose(other[band], own[band], rtol=0, atol=0.05)
    # The folder is one of weights, too.
    again = ds.dsen2.superresolve(method=str(made.weights.parent), dtype="float32", device="cpu", **kw)
    np.testing.assert_array_equal(again[card.bands[0]], own[card.bands[0]])


_made: dict[str, export_onnx.Exported] = {}


def exported(request, card, tmp_path):
    """Written once for all: tracing takes seconds."""
    if card.name not in _made:
        folder = request.getfixturevalue("tmp_path_factory").mktemp("onnx")
        _made[card.name] = export(card, folder, uncertainty=bool(card.spread))
    return _made[card.name]


def test_standard_errors_are_a_second_output(tmp_path, request):
    import onnxruntime

    made = exported(request, small("twogrid-paper-20m-v1", tmp_path), tmp_path)
    session = onnxruntime.InferenceSession(made.onnx)
    assert [x.name for x in session.get_inputs()] == ["bands_10m", "bands_20m"]
    rng = np.random.default_rng(0)
    inputs = {"bands_10m": rng.random((1, 4, 120, 132)), "bands_20m": rng.random((1, 6, 60, 66))}
    bands, errors = session.run(None, {k: v.astype(np.float32) for k, v in inputs.items()})
    edge = 2 * at(made.onnx).margin
    assert bands.shape == errors.shape == (1, 6, 120 - edge, 132 - edge)
    assert (errors > 0).all()


def test_the_item_is_one_of_the_extension(tmp_path, request):
    pystac = pytest.importorskip("pystac")
    mlm = pytest.importorskip("pystac.extensions.mlm")
    made = exported(request, small("dsen2-60m-v1", tmp_path), tmp_path)
    item = pystac.Item.from_dict(json.loads(made.item.read_text()))
    said = mlm.MLMExtension.ext(item)
    assert [one.name for one in said.input] == ["bands_10m", "bands_20m", "bands_60m"]
    assert [one.input.shape for one in said.input] == [[1, n, -1, -1] for n in (4, 6, 2)]
    assert said.tasks == ["super-resolution"]
    assert {Path(asset.href).suffix for asset in item.assets.values()} == {".onnx", ".safetensors", ".json"}
    assert all((made.item.parent / asset.href).is_file() for asset in item.assets.values())


def test_from_a_shell(tmp_path):
    card = small("dsen2-20m-v2", tmp_path / "own")
    run = CliRunner().invoke(main, ["weights", "export", card.path, "--out", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert "DN from torch at most" in run.output
    assert at(tmp_path / "out" / f"{card.name}.onnx").licence == card.licence


def test_what_cannot_be_exported_says_so(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="any number of dates"):
        export(cards()["fusion"][0], tmp_path)
    card = small("dsen2-20m-v2", tmp_path / "own")
    with pytest.raises(WeightsError, match="how sure it is"):
        export(card, tmp_path, uncertainty=True)
    monkeypatch.setattr(export_onnx, "TOLERANCE", -1.0)
    with pytest.raises(WeightsError, match="differs from torch"):
        export(card, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MethodError, match="xsen2\\[onnx\\]"):
        export(card, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("card", cards()["twogrid"], ids=lambda card: card.name)
def test_the_default_to_the_last_digits(card, tmp_path):
    made = export(card, tmp_path)
    assert made.difference < 0.006  # DN; one unit in the last place of float32 is 0.0005 at DN 5000
    assert made.onnx.stat().st_size < 4e6
