"""Other people's networks: an ONNX file or a torch.export archive, and a description of what it takes and gives.

The description lies beside the model. It is YAML in the few words of Evoland's ONNX contract and some more::

    model: carn.onnx  # in the same folder
    bands: [B2, B3, B4, B8, B5, B6, B7, B8A, B11, B12]  # of the input, in this order
    factor: 2  # pixels of the output, along each side, per 10 m pixel of the input
    margin: 32  # pixels of the output along its edges that lack context

or a STAC item with the machine learning model extension (MLM). Importing this imports neither torch nor onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from xsen2 import files
from xsen2.bands import A, canonical, factor_of, grid_of
from xsen2.errors import BandError, WeightsError, printable

__all__ = ["Model", "at", "is_external"]

MODELS = (".onnx", ".pt2")
DESCRIPTIONS = (".yaml", ".yml")
RESAMPLING = ("cubic", "linear", "nearest")

MOST = 2**31
"""Bytes of a model at most: what ONNX can hold in one file."""

TEXT = 2**18
"""Bytes of a description at most."""

LARGEST = 8
"""Finest pixels: 10 m / 8."""

MARGIN = 1024
"""Pixels of 10 m that a margin may have at most."""

SERVED = ["batch", "channel", "height", "width"]
"""The order of dimensions that is read."""

KEYS = {
    "model": "name of the model file, in the folder of the description",
    "bands": "bands of the input, in its order",
    "produces": "bands of the output, in its order; by default `bands`, or the coarse ones of them for grid: native",
    "factor": "pixels of the output, along each side, per 10 m pixel",
    "margin": "pixels of the output along its edges that lack context",
    "scale": "what DN (10000 x reflectance) are divided by for the input; 10000 gives reflectance. One number or one "
    "per band",
    "offset": "DN that are subtracted first, likewise",
    "grid": "10: all bands are brought to 10 m and stacked; native: one input per grid, 10 m, 20 m, 60 m",
    "resampling": "how coarser bands are brought to 10 m: cubic, linear or nearest",
    "tile": "side of the input in 10 m pixels, where the model takes one size only",
    "multiple": "10 m pixels that the sides of an input must be multiples of",
    "name": "what results record of it",
    "licence": "of the model",
    "source": "of the model",
}
"""What a description may say."""


@dataclass(frozen=True)
class Model:
    """What a model takes and gives, as its description says; enough to plan with, without loading it.

    Attributes
    ----------
    file : str
        Absolute path of the ``.onnx`` or ``.pt2`` file.
    sha256 : str
        Of that file: workers must find the same one.
    bands, outputs : tuple of str
        Canonical names, in the order of the input and of the output.
    factor : int
        Pixels of the output, along each side, per 10 m pixel.
    margin : int
        Pixels of 10 m along the edges of an input whose output lacks context.
    scale, offset : tuple of float
        The input is ``(DN - offset) / scale``, per band of `bands`; the output likewise, as its bands are.
    native : bool
        Whether there is one input per grid instead of one of all bands at 10 m.
    resampling : str
        How coarser bands are brought to 10 m.
    tile : int
        The one size of an input, in 10 m pixels; 0 for any size.
    multiple : int
        10 m pixels that the sides of an input are multiples of.
    name, licence, source : str
    """

    file: str
    sha256: str
    bands: tuple[str, ...]
    outputs: tuple[str, ...]
    factor: int
    margin: int
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    native: bool = False
    resampling: str = "cubic"
    tile: int = 0
    multiple: int = 1
    name: str = "external"
    licence: str = "unknown"
    source: str = "unknown"

    @property
    def produces(self) -> tuple[str, ...]:
        """Bands that are made finer: of an output at 10 m, the 10 m bands stay as they were measured."""
        return tuple(b for b in self.outputs if self.factor > 1 or factor_of(b) > 1)

    @property
    def cell(self) -> int:
        """10 m pixels that inputs begin on multiples of: whole pixels of all bands, and what the model asks for."""
        return math.lcm(self.multiple, *(factor_of(band) for band in self.bands))

    @property
    def context(self) -> int:
        """10 m pixels round what is wanted that an input has: the margin, and what the resampling reads."""
        # Interpolation reads two pixels of a coarse band on each side.
        reads = 0 if self.native or self.resampling == "nearest" else 2 * max(factor_of(b) for b in self.bands)
        return -(-(self.margin + reads) // self.cell) * self.cell

    @property
    def core(self) -> int:
        """Side of what one tile gives, in 10 m pixels; 0 where an input may have any size."""
        return (self.tile - 2 * self.margin) // self.cell * self.cell if self.tile else 0


def is_external(path: str | os.PathLike[str]) -> bool:
    """Whether a path is one of a model with a description, or of a description; not of weights of this library.

    Examples
    --------
    >>> is_external("model.onnx"), is_external("twogrid-20m-v4.json")
    (True, False)
    """
    text = os.fspath(path)
    suffix = os.path.splitext(text)[1].lower()
    if suffix in (*MODELS, *DESCRIPTIONS):
        return True
    if suffix != ".json":
        return False
    try:
        content = files.read_json(files.local(text, WeightsError))
    except (OSError, ValueError, WeightsError):
        return False
    return isinstance(content, Mapping) and content.get("type") == "Feature"


def at(path: str | os.PathLike[str]) -> Model:
    """The model that a path names, of the model file or of its description.

    Parameters
    ----------
    path : path
        ``NAME.onnx`` or ``NAME.pt2`` with ``NAME.yaml``, ``NAME.yml`` or ``NAME.json`` beside it, or one of the latter.

    Raises
    ------
    WeightsError
        If there is none, or its description is missing, or says what cannot be.
    """
    place = files.local(path, WeightsError)
    if not place.exists():
        raise WeightsError(f"no model at {place}: it does not exist")
    if place.suffix.lower() in MODELS:
        beside = [place.with_suffix(s) for s in (*DESCRIPTIONS, ".json")]
        described = next((candidate for candidate in beside if candidate.exists()), None)
        if described is None:
            raise WeightsError(
                f"{place} has no description beside it: write {beside[0].name} there, which says at least\n"
                f"model: {place.name}\nbands: [B2, B3, …]  # {KEYS['bands']}\nfactor: 2  # {KEYS['factor']}\n"
                f"margin: 32  # {KEYS['margin']}\nscale: 1  # {KEYS['scale']}"
            )
        description = _read(described)
        description.setdefault("model", place.name)
        if description["model"] != place.name:
            raise WeightsError(f"{described} describes {printable(str(description['model']), 100)}, not {place.name}")
    else:
        described = place
        description = _read(place)
    try:
        return _model(description, described)
    except (WeightsError, BandError) as error:
        raise WeightsError(f"{described} does not describe a model: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    """What a description says, in the words of `KEYS`."""
    import yaml

    try:
        raw = files.read(path, TEXT)
        if path.suffix.lower() == ".json":
            description: Any = json.loads(raw)
            if isinstance(description, dict) and description.get("type") == "Feature":
                return _from_item(description, path)
        else:
            description = yaml.safe_load(raw)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise WeightsError(f"{path} cannot be read as a description: {printable(str(error), 300)}") from error
    if not isinstance(description, dict):
        raise WeightsError(f"{path} is not a description: it holds {reprlib.repr(description)}, not names with values")
    if unknown := [key for key in description if key not in KEYS]:
        raise WeightsError(f"{path} says {reprlib.repr(unknown[0])}, which means nothing here: use {', '.join(KEYS)}")
    return description


def _from_item(item: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What a STAC item of the MLM extension says, in the words of `KEYS`.

    The extension has no words for a margin and for the order of the output's bands: ``xsen2:margin`` and
    ``xsen2:produces`` among the properties say them. https://github.com/stac-extensions/mlm, 1.4. Several inputs are
    one per native grid; of several outputs the first is taken.
    """
    try:
        properties = item["properties"]
        every = list(properties["mlm:input"])
        given, output = every[0], properties["mlm:output"][0]
        orders = [[str(d) for d in entry["input"]["dim_order"]] for entry in every]
        order = next((dims for dims in orders if dims != SERVED), orders[0])
        sizes = dict(zip(orders[0], given["input"]["shape"], strict=True))
        out = dict(zip((str(d) for d in output["result"]["dim_order"]), output["result"]["shape"], strict=True))
        many = [len(entry["bands"]) for entry in every]
        bands = [band["name"] if isinstance(band, Mapping) else band for entry in every for band in entry["bands"]]
        assets = [a for a in item["assets"].values() if "mlm:model" in a.get("roles", ())]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{path} is a STAC item, but not one of a model with inputs and an output (MLM): {error!r}"
        ) from error
    if order != SERVED:
        raise WeightsError(
            f"{path}: an input of {', '.join(order)} cannot be served, only batch, channel, height, width"
        )
    if any(entry.get("pre_processing_function") for entry in every) or output.get("post_processing_function"):
        raise WeightsError(
            f"{path} names a function that is to be run before or after the model: nothing of the kind is run. Say the "
            "scale by value_scaling, or describe the model by YAML"
        )
    if len(assets) != 1:
        raise WeightsError(f"{path} has {len(assets)} assets with the role mlm:model: one is needed")
    description: dict[str, Any] = {
        "model": _beside(str(assets[0].get("href", ""))),
        "bands": bands,
        "name": properties.get("mlm:name", item.get("id", "external")),
        "licence": properties.get("license", "unknown"),
        "source": properties.get("description") or item.get("id", "unknown"),
    }
    height, finer = sizes["height"], out.get("height", -1)
    if "xsen2:factor" in properties:
        description["factor"] = properties["xsen2:factor"]
    elif height > 0 and finer > 0:
        description["factor"] = finer / height
    if height > 0:
        description["tile"] = height
    for key in ("margin", "produces", "multiple"):
        if f"xsen2:{key}" in properties:
            description[key] = properties[f"xsen2:{key}"]
    if len(every) > 1:
        description["grid"] = "native"
    scalings = [_scaling(entry.get("value_scaling"), n, path) for entry, n in zip(every, many, strict=True)]
    description["scale"], description["offset"] = ([x for scaling in scalings for x in scaling[i]] for i in (0, 1))
    resize = given.get("resize_type")
    known = {"interpolation-cubic": "cubic", "interpolation-linear": "linear", "interpolation-nearest": "nearest"}
    if resize is not None:
        if resize not in known:
            raise WeightsError(f"{path}: resize_type {reprlib.repr(resize)} cannot be served: use {', '.join(known)}")
        description["resampling"] = known[resize]
    return description


def _beside(href: str) -> str:
    """The file name of an href that leads to the item's own folder."""
    return href.removeprefix("./")


def _scaling(given: Any, many: int, path: Path) -> tuple[list[float], list[float]]:
    """Scale and offset per band of MLM's ``value_scaling``, where it is linear."""
    if given is None:
        return [1.0] * many, [0.0] * many
    try:
        if len(given) == 1:
            given = list(given) * many
        scale, offset = [], []
        for entry in given:
            kind = entry.get("type")
            if kind is None:
                pair = (1.0, 0.0)
            elif kind == "scale":
                pair = (entry["value"], 0.0)
            elif kind == "offset":
                pair = (1.0, entry["value"])
            elif kind == "min-max":
                pair = (entry["maximum"] - entry["minimum"], entry["minimum"])
            elif kind == "z-score":
                pair = (entry["stddev"], entry["mean"])
            else:
                raise WeightsError(
                    f"{path}: value_scaling of type {reprlib.repr(kind)} cannot be served: use scale, offset, min-max "
                    "or z-score"
                )
            scale.append(float(pair[0]))
            offset.append(float(pair[1]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: value_scaling is not as MLM has it: {error!r}") from error
    return scale, offset


def _model(description: Mapping[str, Any], path: Path) -> Model:
    """The model of a description, checked."""
    name = description.get("model")
    if not isinstance(name, str) or not name or Path(name).name != name or name.startswith("."):
        raise WeightsError(f"model is {reprlib.repr(name)}, not the name of a file beside it")
    file = path.parent / name
    if file.suffix.lower() not in MODELS:
        raise WeightsError(f"model {name!r} ends in none of {', '.join(MODELS)}")
    try:
        with files.opened(file, MOST) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"the model {file} cannot be read: {error}") from error
    for key in ("bands", "margin"):
        if key not in description:
            raise WeightsError(f"it does not say {key}: {KEYS[key]}")
    native = _choice(description.get("grid", 10), "grid", (10, "native")) == "native"
    bands = _bands(description["bands"], "bands")
    if native and any(grid_of(x) > grid_of(y) for x, y in pairwise(bands)):
        raise WeightsError("of grid: native the bands come from the finest grid to the coarsest")
    coarse = tuple(b for b in bands if b not in A)
    outputs = (
        _bands(description["produces"], "produces") if "produces" in description else (coarse if native else bands)
    )
    if more := [b for b in outputs if b not in bands]:
        raise WeightsError(f"it makes {', '.join(more)}, which it does not read")
    factor = description.get("factor", 1 if native else None)
    if factor is None:
        raise WeightsError(f"it does not say factor: {KEYS['factor']}")
    factor = _integer(factor, "factor", 1, LARGEST)
    if factor == 1 and not set(outputs) - set(A):
        raise WeightsError(f"factor 1 makes 10 m pixels, which {', '.join(outputs)} have as they are")
    margin = -(-_integer(description["margin"], "margin", 0, MARGIN * factor) // factor)
    scale, offset = (_numbers(description.get(k, d), k, len(bands)) for k, d in (("scale", 1.0), ("offset", 0.0)))
    if not all(scale):
        raise WeightsError("scale is 0: it is what DN are divided by")
    model = Model(
        file=str(file),
        sha256=digest,
        bands=bands,
        outputs=outputs,
        factor=factor,
        margin=margin,
        scale=scale,
        offset=offset,
        native=native,
        resampling=str(_choice(description.get("resampling", "cubic"), "resampling", RESAMPLING)),
        tile=_integer(description.get("tile", 0), "tile", 0, 4096),
        multiple=_integer(description.get("multiple", 1), "multiple", 1, 256),
        **{key: _line(description.get(key, default), key) for key, default in _words(file).items()},
    )
    if model.tile and model.core < 1:
        raise WeightsError(
            f"of a tile of {model.tile} pixels nothing is left without a margin of {model.margin} on each side, in "
            f"steps of {model.cell}"
        )
    return model


def _words(file: Path) -> dict[str, str]:
    stem = re.sub(r"[^\w.+-]", "_", file.stem)[:100]
    return {"name": stem, "licence": "unknown", "source": file.name}


def _bands(value: Any, key: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise WeightsError(f"{key} is {reprlib.repr(value)}, not a list of bands")
    names = canonical([str(band) for band in value])
    if len(set(names)) < len(names):
        raise WeightsError(f"{key} names a band twice: {', '.join(names)}")
    return names


def _integer(value: Any, key: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or int(value) != value:
        raise WeightsError(f"{key} is {reprlib.repr(value)}, not a whole number: {KEYS[key]}")
    if not least <= value <= most:
        raise WeightsError(f"{key} is {value:g}, not from {least} to {most}: {KEYS[key]}")
    return int(value)


def _numbers(value: Any, key: str, many: int) -> tuple[float, ...]:
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * many
    good = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    if not good or len(values) != many:
        raise WeightsError(f"{key} is {reprlib.repr(value)}, not one number, or one for each of {many} bands")
    return tuple(float(v) for v in values)


def _choice(value: Any, key: str, among: tuple[Any, ...]) -> Any:
    if value not in among:
        raise WeightsError(f"{key} is {reprlib.repr(value)}: use {' or '.join(map(str, among))}")
    return value


def _line(value: Any, key: str) -> str:
    text = str(value)
    if not text or not text.isprintable() or len(text) > 1000:
        raise WeightsError(f"{key} is {reprlib.repr(value)}, not a line of text")
    return text
