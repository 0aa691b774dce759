"""Other people's networks: described beside the model, run block by block without seams, and never trusted."""

from __future__ import annotations

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from cubes import change, make_cube, no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import xsen2
from xsen2.bands import A, B
from xsen2.errors import MethodError, WeightsError
from xsen2.methods.bicubic import upsample
from xsen2.networks.external import at
from xsen2.networks.external_run import sound

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("thin_blocks")

TEN = ["B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12"]


class Stacked(nn.Module):
    """All bands at 10 m to all bands `factor` times as fine: what Evoland's and SEN2SR's networks look like."""

    def __init__(self, bands: int, factor: int, wide: bool = False) -> None:
        super().__init__()
        torch.manual_seed(bands + factor)
        self.factor, self.wide = factor, wide
        self.body = nn.Sequential(
            nn.Conv2d(bands, 6, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(6, bands * factor**2, 3, padding=1)
        )

    def forward(self, x):
        plain = nn.functional.interpolate(x, scale_factor=float(self.factor), mode="nearest")
        made = plain + 0.3 * nn.functional.pixel_shuffle(self.body(x), self.factor)
        # As a constraint over the whole input does, which SEN2SR's has: then a pixel depends on where its tile lies.
        return made + 0.05 * x.mean((2, 3), keepdim=True) if self.wide else made


class Native(nn.Module):
    """One input per grid: what this library's own networks look like."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.down = nn.Conv2d(4, 6, 2, stride=2)
        self.mix = nn.Conv2d(12, 24, 3, padding=1)

    def forward(self, a, b):
        return nn.functional.pixel_shuffle(self.mix(torch.cat([self.down(a), b], 1)), 2)


def write_onnx(module, bands, file, side=None):
    """The stacked network as ONNX, node by node: torch's exporter takes seconds."""
    from onnx import TensorProto, helper, numpy_helper, save

    first, _, last = module.body
    values = {"w1": first.weight, "b1": first.bias, "w2": last.weight, "b2": last.bias}
    constants = [numpy_helper.from_array(v.detach().numpy(), k) for k, v in values.items()]
    z = module.factor
    constants += [
        numpy_helper.from_array(np.array([1, 1, z, z], np.float32), "scales"),
        numpy_helper.from_array(np.array([0.3], np.float32), "share"),
        numpy_helper.from_array(np.array([0.05], np.float32), "little"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    nodes = [
        helper.make_node(
            "Resize",
            ["x", "", "scales"],
            ["plain"],
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["c1"], ["r1"], alpha=0.2),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["c2"], ["d"], blocksize=z, mode="CRD"),
        helper.make_node("Mul", ["d", "share"], ["d3"]),
        helper.make_node("Add", ["plain", "d3"], ["sum" if module.wide else "y"]),
    ]
    if module.wide:
        nodes += [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Mul", ["mean", "little"], ["m5"]),
            helper.make_node("Add", ["sum", "m5"], ["y"]),
        ]
    size = ["h", "w"] if side is None else [side, side]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, bands, *size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "stacked", [x], [y], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with one small model of each layout."""
    folder = tmp_path_factory.mktemp("models")
    write_onnx(Stacked(10, 2), 10, folder / "evoland.onnx")
    (folder / "evoland.yaml").write_text(  # as the project writes them: JSON, which is YAML
        json.dumps({"model": "evoland.onnx", "bands": TEN, "margin": 4, "factor": 2.0})
    )
    write_onnx(Stacked(10, 4, wide=True), 10, folder / "sen2sr.onnx", side=48)
    (folder / "sen2sr.json").write_text(json.dumps(item("sen2sr.onnx", 48, 4)))
    h, w = (torch.export.Dim(n, min=4, max=2000) for n in "hw")
    sizes = ({2: 2 * h, 3: 2 * w}, {2: h, 3: w})
    program = torch.export.export(
        Native().eval(), (torch.rand(1, 4, 32, 32), torch.rand(1, 6, 16, 16)), dynamic_shapes=sizes
    )
    torch.export.save(program, folder / "archive.pt2")
    said = {"model": "archive.pt2", "bands": [*A, *B], "grid": "native", "margin": 2, "scale": 2000, "licence": "MIT"}
    (folder / "archive.yaml").write_text(json.dumps(said))
    return folder


def item(model, side, factor, **properties):
    """An item of the MLM extension, of a network that takes reflectance."""
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": ["https://stac-extensions.github.io/mlm/v1.4.0/schema.json"],
        "id": "small",
        "geometry": None,
        "properties": {
            "datetime": "2025-01-01T00:00:00Z",
            "license": "CC0-1.0",
            "mlm:name": "small-sen2sr",
            "mlm:architecture": "CNN",
            "mlm:tasks": ["super-resolution"],
            "mlm:input": [
                {
                    "name": "reflectance",
                    "bands": ["B04", "B03", "B02", "B08", "B05", "B06", "B07", "B8A", "B11", "B12"],
                    "input": {
                        "shape": [-1, 10, side, side],
                        "dim_order": ["batch", "channel", "height", "width"],
                        "data_type": "float32",
                    },
                    "value_scaling": [{"type": "scale", "value": 10000}],
                    "resize_type": "interpolation-nearest",
                }
            ],
            "mlm:output": [
                {
                    "name": "finer",
                    "tasks": ["super-resolution"],
                    "result": {
                        "shape": [-1, 10, factor * side, factor * side],
                        "dim_order": ["batch", "channel", "height", "width"],
                        "data_type": "float32",
                    },
                }
            ],
            "xsen2:margin": 6 * factor,
            **properties,
        },
        "assets": {"model": {"href": f"./{model}", "roles": ["mlm:model"]}},
        "links": [],
    }


LAYOUTS = {"evoland.onnx": 5, "sen2sr.json": 2.5, "archive.pt2": 10}


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=3)
@given(
    rows=st.integers(4, 9),
    columns=st.integers(4, 9),
    chunks=st.tuples(st.integers(12, 60), st.integers(6, 30), st.integers(2, 9)),
    seed=st.integers(0, 99),
)
def test_chunks_leave_no_seam(models, name, rows, columns, chunks, seed):
    ds = make_cube(rows, columns, dates=1, seed=seed)
    rng = np.random.default_rng(seed)
    ds = change(ds, "B11", lambda x: np.putmask(x, rng.random(x.shape) < 0.03, np.nan))
    dims = {10: ("y", "x"), 20: ("y_20m", "x_20m"), 60: ("y_60m", "x_60m")}
    cut = ds.chunk({d: n for both, n in zip(dims.values(), chunks, strict=True) for d in both})
    options = {"method": str(models / name), "gsd": LAYOUTS[name], "native": False}
    whole, parts = (x.dsen2.superresolve(bands=["B05", "B11"], **options).compute() for x in (ds, cut))
    for band in whole.data_vars:
        assert np.isfinite(whole[band]).any()
        np.testing.assert_allclose(parts[band].values, whole[band].values, rtol=0, atol=5e-3, err_msg=str(band))


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_is_computed(models, name):
    with no_compute():
        sr = make_cube(4, 4).dsen2.superresolve(["B11"], method=models / name, gsd=LAYOUTS[name])
    assert sr["B11"].attrs["gsd"] == LAYOUTS[name]
    assert "(" in sr.attrs["xsen2_method"], "which file it was"


def test_the_pixels_are_the_models_own(models):
    """Bands in the model's order, DN, coarse bands by cubic interpolation: all that its contract says."""
    ds = make_cube(5, 5, dates=1)
    sr = ds.dsen2.superresolve(["B02", "B12"], method=str(models / "evoland.yaml"), gsd=5, native=False).compute()
    stack = np.stack(
        [upsample(ds[b].values[0].astype(np.float32), n) for b, n in [(b, 1) for b in A] + [(b, 2) for b in B]]
    )
    with torch.no_grad():
        made = Stacked(10, 2).eval()(torch.from_numpy(stack)[None])[0].numpy()
    for band, number in (("B02", 0), ("B12", 9)):
        # Not at the edges, beyond which a block sees the mirrored image, and a model zeros.
        np.testing.assert_allclose(sr[band].values[0, 16:-16, 16:-16], made[number, 16:-16, 16:-16], atol=0.01)


def test_reflectance_in_and_dn_out(models):
    """A model that takes reflectance, in another order of bands, on tiles of one size."""
    model = at(models / "sen2sr.onnx")
    assert (model.scale[0], model.tile, model.core, model.factor, model.margin) == (10000, 48, 36, 4, 6)
    ds = make_cube(14, 14, dates=1)
    sr = ds.dsen2.superresolve(["B04"], method=str(models / "sen2sr.json"), gsd=2.5, native=False).compute()
    near = [ds[b].values[0].astype(np.float32) for b in ("B04", "B03", "B02", "B08")]
    near += [ds[b].values[0].astype(np.float32).repeat(2, 0).repeat(2, 1) for b in B]
    y = x = 36  # the second tile of each side
    tile = np.stack(near)[:, y - 6 : y + 42, x - 6 : x + 42] / np.float32(10000)
    with torch.no_grad():
        made = 10000 * Stacked(10, 4, wide=True).eval()(torch.from_numpy(tile)[None])[0, 0].numpy()
    want = made[24:-24, 24:-24]
    np.testing.assert_allclose(sr["B04"].values[0, 4 * y : 4 * y + 144, 4 * x : 4 * x + 144], want, atol=0.05)


def test_one_input_per_grid(models):
    """DN / 2000 of the 10 m and the 20 m bands, as this library's own networks take them."""
    ds = make_cube(5, 6, dates=1)
    sr = ds.dsen2.superresolve(["B11"], method=str(models / "archive.pt2"), native=False)["B11"].values[0]
    a, b = (torch.from_numpy(np.stack([ds[x].values[0] for x in g]).astype(np.float32)[None] / 2000) for g in (A, B))
    with torch.no_grad():
        made = 2000 * Native().eval()(a, b)[0, 4].numpy()
    np.testing.assert_allclose(sr[8:-8, 8:-8], made[8:-8, 8:-8], atol=0.01)


def test_nodata_stays_within_its_support(models):
    clean = make_cube(6, 6, dates=1)
    ds = change(clean, "B11", lambda x: x.__setitem__((..., slice(6, 8), slice(6, 8)), np.nan))
    kw = {"method": str(models / "evoland.onnx"), "gsd": 5, "native": False}
    sr, far = (x.dsen2.superresolve(["B03"], **kw)["B03"].values[0] for x in (ds, clean))
    hole = np.zeros(sr.shape, bool)
    hole[24:32, 24:32] = True
    np.testing.assert_array_equal(np.isnan(sr), hole)
    np.testing.assert_allclose(sr[:8], far[:8], atol=1e-3)


def test_a_model_without_description_says_what_to_write_and_that_works(models, tmp_path):
    (tmp_path / "new.onnx").write_bytes((models / "evoland.onnx").read_bytes())
    with pytest.raises(WeightsError, match=r"write new\.yaml there") as error:
        at(tmp_path / "new.onnx")
    advice = str(error.value).partition("at least\n")[2].replace("[B2, B3, …]", f"[{', '.join(TEN)}]")
    (tmp_path / "new.yaml").write_text(advice)
    sr = make_cube(3, 3).dsen2.superresolve(["B03"], method=tmp_path / "new.onnx", gsd=5, native=False)
    assert np.isfinite(sr["B03"]).all()


@pytest.mark.parametrize(
    ("change_", "says"),
    [
        ({"model": "../evoland.onnx"}, "not the name of a file beside it"),
        ({"model": "/etc/passwd"}, "not the name of a file beside it"),
        ({"bands": ["B2", "B77"]}, "unknown band 'B77'"),
        ({"bands": ["B2", "blue"]}, "names a band twice"),
        ({"margin": -1}, "margin is -1"),
        ({"margin": None}, "margin is None"),
        ({"factor": 2.5}, "not a whole number"),
        ({"scale": 0}, "scale is 0"),
        ({"scale": [1, 2]}, "one for each of 10 bands"),
        ({"tile": 4}, "nothing is left"),
        ({"run": "rm -rf /"}, "means nothing here"),
        ({"resampling": "magic"}, "use cubic or linear or nearest"),
    ],
)
def test_a_description_that_cannot_be_is_refused(models, tmp_path, change_, says):
    (tmp_path / "m.onnx").write_bytes((models / "evoland.onnx").read_bytes())
    said = {"model": "m.onnx", "bands": TEN, "margin": 4, "factor": 2.0, **change_}
    (tmp_path / "m.yaml").write_text(json.dumps(said))
    with pytest.raises(WeightsError, match=says.replace("[", r"\[")):
        at(tmp_path / "m.yaml")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"factor": 4}, "that would be"),
        ({"bands": TEN[:9]}, "cannot compute"),
        ({"produces": TEN[:9]}, "correct bands, produces or factor"),
        ({"grid": "native", "bands": [*A, *B], "factor": 1}, "has 1 inputs"),
    ],
)
def test_a_description_that_is_not_the_models_is_an_error(models, tmp_path, said, says):
    (tmp_path / "m.onnx").write_bytes((models / "evoland.onnx").read_bytes())
    said = {"model": "m.onnx", "bands": TEN, "margin": 4, "factor": 2, **said}
    (tmp_path / "m.yaml").write_text(json.dumps(said))
    sr = make_cube(3, 3, dates=1).dsen2.superresolve(
        ["B05"], method=tmp_path / "m.yaml", gsd=10 / said["factor"], native=False
    )
    with pytest.raises(WeightsError, match=says):
        sr["B05"].compute()


def test_another_file_on_a_worker_is_refused(models, tmp_path, monkeypatch):
    from xsen2.networks import external_run

    monkeypatch.setattr(external_run, "_loaded", {})
    for name in ("evoland.onnx", "evoland.yaml"):
        (tmp_path / name).write_bytes((models / name).read_bytes())
    sr = make_cube(3, 3, dates=1).dsen2.superresolve(["B05"], method=tmp_path / "evoland.onnx", gsd=5, native=False)
    with (tmp_path / "evoland.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(WeightsError, match="has changed"):
        sr["B05"].compute()


def test_no_onnx(models, monkeypatch):
    import sys

    from xsen2.networks import external_run

    monkeypatch.setattr(external_run, "_loaded", {})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    sr = make_cube(3, 3, dates=1).dsen2.superresolve(["B05"], method=models / "evoland.onnx", gsd=5, native=False)
    with pytest.raises(MethodError, match=r"pip install 'xsen2\[onnx\]'"):
        sr["B05"].compute()


def rewritten(models, tmp_path, part, change_):
    """The archive with one part of it changed."""
    out = tmp_path / "evil.pt2"
    with zipfile.ZipFile(models / "archive.pt2") as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, change_(content) if info.filename.endswith(part) else content)
    return out.read_bytes()


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle of the archive was opened",))


def test_an_archive_runs_nothing_but_tensors(models, tmp_path):
    def graph(old, new):
        return lambda content: content.replace(old, new, 1)

    target = b"torch.ops.aten.pixel_shuffle.default"
    for evil in (b"torch.os.system", b"torch.hub.load", b"torch.serialization.load", b"builtins.eval", b"#symbol"):
        with pytest.raises(WeightsError, match="no operator on tensors"):
            sound(rewritten(models, tmp_path, "models/model.json", graph(target, evil)))
    expression = b"Symbol('s"
    for evil in (
        b"__import__('os').system('id'), Symbol('s",
        b"open('/etc/passwd'), Symbol('s",
        b"().__class__, Symbol('s",
    ):
        with pytest.raises(WeightsError, match="no arithmetic of sizes"):
            sound(rewritten(models, tmp_path, "models/model.json", graph(expression, evil)))
    with pytest.raises(WeightsError, match="pickles"):
        sound(rewritten(models, tmp_path, "weights_config.json", graph(b'"use_pickle": false', b'"use_pickle": true')))
    with pytest.raises(WeightsError, match="no tensor"):
        sound(rewritten(models, tmp_path, "weights_config.json", graph(b'"weight_0"', b'"../../x"')))
    # What nobody needs is not opened at all: the samples that an archive brings are a pickle.
    raw = rewritten(models, tmp_path, "sample_inputs/model.pt", lambda _: pickle.dumps(Evil()))
    (tmp_path / "evil.pt2").write_bytes(raw)
    said = json.loads((models / "archive.yaml").read_text())
    (tmp_path / "evil.yaml").write_text(json.dumps({**said, "model": "evil.pt2"}))
    sr = make_cube(3, 3, dates=1).dsen2.superresolve(["B11"], method=tmp_path / "evil.pt2", native=False)
    assert np.isfinite(sr["B11"]).all()


def test_the_words_of_errors_lead_on(models):
    with pytest.raises(MethodError, match=r"makes 5 m pixels, not 2\.5 m: use gsd=5"):
        make_cube(3, 3).dsen2.superresolve(method=str(models / "evoland.onnx"), gsd=2.5)
    with pytest.raises(WeightsError, match="does not exist"):
        make_cube(3, 3).dsen2.superresolve(method="nowhere/model.onnx")
    assert xsen2.methods().loc["default", "kind"] == "network"
