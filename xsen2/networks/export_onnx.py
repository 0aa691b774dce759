"""The library's own networks for others: as ONNX, and as a STAC item of the machine learning extension (MLM)."""

from __future__ import annotations

import io
import json
import math
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xsen2 import files
from xsen2.bands import BANDS, A, B, C, factor_of
from xsen2.errors import MethodError, WeightsError
from xsen2.networks.cards import GAIN, Card
from xsen2.networks.load import network as from_file
from xsen2.networks.load import verified
from xsen2.networks.network import Network
from xsen2.sources.sample import sample
from xsen2.version import __version__

__all__ = ["Exported", "export"]

OPSET = 17
TOLERANCE = 0.02
"""DN: what onnxruntime may give otherwise than torch, over the embedded sample. Rounding to float32 is worth 0.003."""

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
UNCERTAINTY = "uncertainty"
"""The second output, if there is one: standard errors, one per band."""


@dataclass(frozen=True)
class Exported:
    """What `export` has written.

    Attributes
    ----------
    onnx, description, item, weights : Path
        The model; what `method=` reads beside it; the STAC item; the weights as safetensors, their card beside them.
    difference : float
        DN: the largest between onnxruntime and torch over the embedded sample.
    """

    onnx: Path
    description: Path
    item: Path
    weights: Path
    difference: float


class _Trimmed(nn.Module):
    """A network that gives what has all of its context, and calibrated standard errors beside it."""

    def __init__(self, network: Network, card: Card, uncertainty: bool) -> None:
        super().__init__()
        self.network, self.uncertainty = network, uncertainty
        self.edge = margin(card) - network.spare
        self.register_buffer("spread", torch.tensor(card.spread or [1.0])[:, None, None], persistent=False)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        more: dict[str, Any] = {"uncertainty": True} if self.uncertainty else {}
        if self.network.spare:
            more["spare"] = self.network.spare
        out = self.network(*inputs, **more)
        out = out[:, :, self.edge : -self.edge, self.edge : -self.edge]
        if not self.uncertainty:
            return (out,)
        many = out.shape[1] // 2
        return out[:, :many], out[:, many:] * self.spread


def margin(card: Card) -> int:
    """Pixels of 10 m along the edges of an input that the model uses up: what a card calls its halo."""
    return card.halo * card.ratio


def multiple(card: Card) -> int:
    """What the sides of an input, and where it begins, are multiples of, in 10 m pixels."""
    return math.lcm(card.lattice, card.ratio)


def export(card: Card, folder: Path, *, uncertainty: bool = False) -> Exported:
    """Write a network as ONNX with all that others, and ``method="NAME.onnx"``, need to know of it.

    ``NAME.onnx`` takes one input per native grid, ``(DN - offset of the product) / 2000``, of any size in whole cells,
    and gives the bands at 10 m, without the margin that lacks context. ``NAME.yaml`` says so in the words of
    `xsen2.networks.external`, ``NAME.stac.json`` as an MLM item. ``NAME.safetensors`` are the weights, with their card.

    Parameters
    ----------
    card : Card
    folder : Path
        Made if it is missing. Files of these names are replaced; other weights of that name are not.
    uncertainty : bool
        Whether standard errors are a second output.

    Raises
    ------
    WeightsError
        If the network reads many dates, gives no standard errors that are asked for, or gives other pixels as ONNX.
    MethodError
        If onnx or onnxruntime is missing.
    StoreError
        If nothing can be written.
    """
    if card.ratio == 1:
        raise WeightsError(f"{card.name} reads any number of dates, each with its shift: there is no ONNX of it")
    if uncertainty and not card.spread:
        raise WeightsError(f"{card.name} does not say how sure it is: leave the uncertainty out")
    raw = verified(card)
    model = _Trimmed(from_file(card), card, uncertainty).eval()
    content = _packed(_traced(model, card), card)
    difference = _difference(content, model, card)
    if not difference <= TOLERANCE:
        raise WeightsError(
            f"{card.name} as ONNX differs from torch by {difference:.3g} DN: nothing is written. Tell us, with "
            "xsen2.show_versions()"
        )
    copied = card.write(folder, raw)
    onnx, yaml, item = (folder.absolute() / f"{card.name}{end}" for end in (".onnx", ".yaml", ".stac.json"))
    with files.named(folder.absolute(), files.ANEW):
        files.write(onnx, content)
        files.write(yaml, "".join(f"{key}: {json.dumps(value)}\n" for key, value in _description(card).items()))
        files.write(item, json.dumps(_item(card, uncertainty), indent=1) + "\n")
    return Exported(onnx, yaml, item, copied.file, difference)


def _grids(card: Card) -> tuple[tuple[str, ...], ...]:
    """Bands of each input."""
    return (A, B) if card.ratio == 2 else (A, B, C)


def _names(card: Card) -> list[str]:
    return [f"bands_{10 * factor_of(bands[0])}m" for bands in _grids(card)]


def _traced(model: _Trimmed, card: Card) -> bytes:
    cell = max(multiple(card), 6)
    tall = -(-2 * margin(card) // cell) * cell + 2 * cell
    sizes = [(tall // f, (tall + cell) // f) for f in (factor_of(bands[0]) for bands in _grids(card))]
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(
        torch.rand(1, len(bands), *size, generator=generator) for bands, size in zip(_grids(card), sizes, strict=True)
    )
    names, outputs = _names(card), ["bands", UNCERTAINTY][: 1 + model.uncertainty]
    axes = {name: {2: f"rows_{name}", 3: f"columns_{name}"} for name in [*names, *outputs]}
    out = io.BytesIO()
    # Traced, not through torch.export: that takes minutes for the thousands of small sums of the regressions.
    # With gradients, so that no operators of oneDNN's own stand for convolutions, see `xsen2.networks.network`.
    with _quiet(), torch.enable_grad():
        torch.onnx.export(
            model,
            inputs,
            out,  # type: ignore[arg-type]  # an open file is taken, too
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes,
        )
    return out.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of tracing: that sizes are compared, and that there is another exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _packed(raw: bytes, card: Card) -> bytes:
    """The model with name, licence and source, and its weights as float16, as stored, where that changes none."""
    try:
        import onnx
    except ImportError as error:
        raise _missing() from error
    model = onnx.load_from_string(_folded(raw))
    graph, casts = model.graph, []
    for tensor in list(graph.initializer):
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype != np.float32 or value.size < 64:
            continue
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), value):
            continue
        stored = f"{tensor.name}.half"
        casts.append(onnx.helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT))
        graph.initializer.remove(tensor)
        graph.initializer.append(onnx.numpy_helper.from_array(half, stored))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    _shortened(graph)
    ours = [opset for opset in model.opset_import if not opset.domain]
    del model.opset_import[:]
    model.opset_import.extend(ours)
    model.producer_name, model.producer_version = "xsen2", __version__
    del model.metadata_props[:]
    for key, text in {
        "name": card.name,
        "licence": card.licence,
        "source": card.source,
        "weights": card.sha256,
    }.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _folded(raw: bytes) -> bytes:
    """The model without what can be computed beforehand: runtimes take long to load graphs of thousands of nodes."""
    onnxruntime = _runtime()
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # what any runtime has
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
        return Path(options.optimized_model_filepath).read_bytes()


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing() from error
    return onnxruntime


def _shortened(graph: Any) -> None:
    """Each constant once, and names of a few letters: thousands of small sums carry the path of the code otherwise."""
    kept = {value.name: value.name for value in [*graph.input, *graph.output]}
    known: dict[bytes, str] = {}
    nodes = []
    for node in graph.node:
        what = node.attribute[0].SerializeToString(deterministic=True) if node.op_type == "Constant" else b""
        if what in known:
            kept[node.output[0]] = known[what]
            continue
        for names in (node.input, node.output):
            names[:] = [kept.setdefault(name, f"v{len(kept):x}") if name else "" for name in names]
        if what:
            known[what] = node.output[0]
        node.name = ""
        nodes.append(node)
    for tensor in graph.initializer:
        tensor.name = kept[tensor.name]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _missing() -> MethodError:
    return MethodError("to write ONNX takes onnx and onnxruntime, which checks it: pip install 'xsen2[onnx]'")


def _difference(content: bytes, model: _Trimmed, card: Card) -> float:
    """The largest between onnxruntime and torch over the embedded sample, in DN."""
    onnxruntime = _runtime()
    cube = sample().isel(time=0)
    inputs = [np.stack([cube[band].values for band in bands])[None] / np.float32(GAIN) for bands in _grids(card)]
    with torch.inference_mode():
        want = model(*(torch.from_numpy(x) for x in inputs))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, dict(zip(_names(card), inputs, strict=True)))
    pairs = zip(outputs, want, strict=True)
    return max(float(np.abs(output - other.numpy()).max()) * GAIN for output, other in pairs)


def _description(card: Card) -> dict[str, Any]:
    """The description, in the words of `xsen2.networks.external.KEYS`."""
    return {
        "model": f"{card.name}.onnx",
        "name": card.name,
        "licence": card.licence,
        "source": card.source,
        "grid": "native",
        "bands": [band for bands in _grids(card) for band in bands],
        "produces": list(card.bands),
        "factor": 1,
        "scale": GAIN,
        "margin": margin(card),
        "multiple": multiple(card),
    }


def _item(card: Card, uncertainty: bool) -> dict[str, Any]:
    """The same as an MLM item."""

    def described(name: str) -> dict[str, Any]:
        return {"name": name, "common_name": BANDS[name].common_name} if BANDS[name].common_name else {"name": name}

    order = ["batch", "channel", "height", "width"]
    inputs = [
        {
            "name": name,
            "bands": list(bands),
            "input": {"shape": [1, len(bands), -1, -1], "dim_order": order, "data_type": "float32"},
            "value_scaling": [{"type": "scale", "value": GAIN}],
            "description": f"DN (10000 x reflectance, offset removed) on the {10 * factor_of(bands[0])} m grid",
        }
        for name, bands in zip(_names(card), _grids(card), strict=True)
    ]
    outputs = [
        {
            "name": name,
            "tasks": ["super-resolution"],
            "result": {"shape": [1, len(card.bands), -1, -1], "dim_order": order, "data_type": "float32"},
            "description": what,
        }
        for name, what in (
            ("bands", f"{', '.join(card.bands)} at 10 m, DN / 2000, without xsen2:margin pixels along each edge"),
            (UNCERTAINTY, "their standard errors, DN / 2000"),
        )[: 1 + uncertainty]
    ]
    licence = card.licence.partition(";")[0]
    parameters = sum(value.numel() for value in from_file(card).state_dict().values())
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM],
        "id": card.name,
        "geometry": None,
        "properties": {
            "datetime": None,
            "start_datetime": "2015-06-23T00:00:00Z",  # Sentinel-2A was launched
            "end_datetime": "9999-12-31T23:59:59Z",
            "title": card.name,
            "description": card.source,
            "license": licence if re.fullmatch(r"[\w.+-]+", licence) else "other",
            "bands": [described(band) for bands in _grids(card) for band in bands],
            "mlm:name": card.name,
            "mlm:architecture": card.architecture.rpartition(".")[2],
            "mlm:tasks": ["super-resolution"],
            "mlm:framework": "ONNX",
            "mlm:total_parameters": parameters,
            "mlm:pretrained": True,
            "mlm:input": inputs,
            "mlm:output": outputs,
            "xsen2:produces": list(card.bands),
            "xsen2:factor": 1,
            "xsen2:margin": margin(card),
            "xsen2:multiple": multiple(card),
        },
        "links": [],
        "assets": {
            "model": {
                "href": f"./{card.name}.onnx",
                "type": "application/octet-stream; framework=onnx; profile=onnx",
                "title": "the network",
                "mlm:artifact_type": "onnx",
                "roles": ["mlm:model", "mlm:weights"],
            },
            "weights": {
                "href": f"./{card.name}.safetensors",
                "type": "application/octet-stream",
                "title": f"the weights, for {card.architecture} of xsen2",
                "mlm:artifact_type": "safetensors",
                "roles": ["mlm:weights"],
            },
            "card": {
                "href": f"./{card.name}.json",
                "type": "application/json",
                "title": "the model card: how it was trained, what it measured",
                "roles": ["metadata"],
            },
        },
    }
