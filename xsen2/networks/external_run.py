"""One block through an external network, in ONNX Runtime or as a torch.export archive. Only workers import this."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from xsen2 import files
from xsen2.bands import A, B, C, factor_of
from xsen2.errors import MethodError, WeightsError, printable
from xsen2.methods.bicubic import upsample
from xsen2.methods.protocol import Array
from xsen2.networks import devices
from xsen2.networks.external import MOST, Model

__all__ = ["infer", "sound"]

PATCH = 384
"""Side of what goes through a model at a time, in 10 m pixels, without its context."""

KEPT = 4  # models that stay loaded in a process, those used last

Run = Callable[[list[Array]], Array]

_loaded: dict[tuple[Model, str], Run] = {}
_loading = threading.Lock()


def infer(model: Model, a: Array, b: Array, c: Array, halo: int, device: str = "auto") -> Array:
    """Super-resolve one block, halo included.

    Parameters
    ----------
    model : Model
    a, b, c : numpy.ndarray
        float32 DN on the native grids, as `xsen2.methods.protocol.Method` says.
    halo : int
        Of the method, in 10 m pixels: so much along all edges is only context, and comes out as zero.
    device : str
        As `xsen2.networks.devices.best_device` takes it.

    Returns
    -------
    numpy.ndarray
        float32 DN ``(len(model.produces), factor * H, factor * W)``.

    Raises
    ------
    WeightsError
        If the file has changed since, cannot be loaded, or gives something else than its description says.
    """
    torch_device = devices.best_device(device)
    run = _load(model, torch_device)
    inputs = _inputs(model, a, b, c)
    height, width = (
        a.shape[-2:] if model.bands[0] in A else (n * factor_of(model.bands[0]) for n in inputs[0].shape[-2:])
    )
    z = model.factor
    out = np.zeros((len(model.produces), height * z, width * z), np.float32)
    want = [model.outputs.index(band) for band in model.produces]
    index = [model.bands.index(band) for band in model.produces]
    gain = np.array([model.scale[i] for i in index], np.float32)[:, None, None]
    level = np.array([model.offset[i] for i in index], np.float32)[:, None, None]
    for y, x, rows, columns in _patches((height, width), halo, model):
        top, left, tall, wide = _window(model, y, x, rows, columns)
        pieces = [_cut(p, f, top, left, tall, wide) for p, f in zip(inputs, _factors(model), strict=True)]
        with devices.turn(torch_device, torch.float32), torch.inference_mode():
            output = run(pieces)
        output = _checked(output, model, tall, wide)[want]
        edge, side = (y - top) * z, (x - left) * z
        part = output[:, edge : edge + rows * z, side : side + columns * z]
        out[:, y * z : (y + rows) * z, x * z : (x + columns) * z] = part * gain + level
    return out


def _factors(model: Model) -> list[int]:
    return list(dict.fromkeys(factor_of(b) for b in model.bands)) if model.native else [1]


def _inputs(model: Model, a: Array, b: Array, c: Array) -> list[Array]:
    """What the model takes, over the whole block: one array per grid, or one of all bands at 10 m; scaled."""
    # What a block brings is in canonical order, whatever order the model wants.
    planes: dict[str, Array] = {}
    for grid, layer in ((A, a), (B, b), (C, c)):
        planes |= dict(zip((band for band in grid if band in model.bands), layer, strict=True))
    scaled = [
        (planes[band] - np.float32(offset)) / np.float32(scale)
        for band, scale, offset in zip(model.bands, model.scale, model.offset, strict=True)
    ]
    if model.native:
        return [
            np.stack([x for x, band in zip(scaled, model.bands, strict=True) if factor_of(band) == factor])
            for factor in _factors(model)
        ]
    return [
        np.stack([_finer(x, factor_of(band), model.resampling) for x, band in zip(scaled, model.bands, strict=True)])
    ]


def _finer(x: Array, factor: int, resampling: str) -> Array:
    """A band on the 10 m grid."""
    if factor == 1:
        return x
    if resampling == "nearest":
        return x.repeat(factor, axis=-2).repeat(factor, axis=-1)
    if resampling == "cubic":
        return upsample(x, factor)
    finer = torch.nn.functional.interpolate(torch.from_numpy(x)[None, None], scale_factor=factor, mode="bilinear")
    out: Array = finer[0, 0].numpy()
    return out


def _patches(shape: tuple[int, int], halo: int, model: Model) -> Iterator[tuple[int, int, int, int]]:
    """Corner and size of what each patch gives, in 10 m pixels; together all but the halo."""
    side = model.core or PATCH // model.cell * model.cell or model.cell
    height, width = (n - halo for n in shape)
    for y in range(halo, height, side):
        for x in range(halo, width, side):
            yield y, x, min(side, height - y), min(side, width - x)


def _window(model: Model, y: int, x: int, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Corner and size of what the model reads for a patch."""
    if model.tile:
        return y - model.margin, x - model.margin, model.tile, model.tile
    context, cell = model.context, model.cell
    tall, wide = (-(-n // cell) * cell + 2 * context for n in (rows, columns))
    return y - context, x - context, tall, wide


def _cut(x: Array, factor: int, top: int, left: int, tall: int, wide: int) -> Array:
    """A window of an input; beyond the block's end, which a tile may reach over, its last pixels again."""
    if top % factor or left % factor or tall % factor or wide % factor:
        raise WeightsError(
            f"a window of {tall} x {wide} pixels at {top}, {left} has no whole pixels of {10 * factor} m"
        )
    rows = np.clip(np.arange(top // factor, (top + tall) // factor), 0, x.shape[-2] - 1)
    columns = np.clip(np.arange(left // factor, (left + wide) // factor), 0, x.shape[-1] - 1)
    return np.ascontiguousarray(x[None, :, rows[:, None], columns])


def _checked(output: Any, model: Model, tall: int, wide: int) -> Array:
    """The output ``(band, H, W)`` of an input's size; zeros where the model has left its edges out."""
    out = np.asarray(output, np.float32)
    want = (len(model.outputs), tall * model.factor, wide * model.factor)
    if out.ndim != 4 or out.shape[:2] != (1, want[0]):
        raise WeightsError(
            f"{model.file} gives an array of shape {out.shape} where its description implies {(1, *want)}: correct "
            "bands, produces or factor there"
        )
    out = out[0]
    if out.shape != want:
        less = [n - m for n, m in zip(want[1:], out.shape[1:], strict=True)]
        if less[0] != less[1] or less[0] % 2 or not 0 < less[0] <= 2 * model.margin * model.factor:
            raise WeightsError(
                f"{model.file} makes {out.shape[1]} x {out.shape[2]} pixels of {tall} x {wide}: with factor "
                f"{model.factor} that would be {want[1]} x {want[2]}, or less by the margin. Correct factor or margin"
            )
        out = np.pad(out, [(0, 0)] + [(less[0] // 2, less[0] // 2)] * 2)
    if not np.isfinite(out).all():
        raise WeightsError(f"{model.file} gives values that are not finite numbers: correct scale, or the model")
    return out


# Models, loaded once in a process.


def _load(model: Model, device: torch.device) -> Run:
    key = (model, str(device))
    with _loading:
        run = _loaded.pop(key, None)
        if run is None:
            run = (_onnx if model.file.lower().endswith(".onnx") else _archive)(model, _raw(model), device)
        _loaded[key] = run
        while len(_loaded) > KEPT:
            del _loaded[next(iter(_loaded))]
        return run


def _raw(model: Model) -> bytes:
    try:
        raw = files.read(model.file, MOST)
    except OSError as error:
        raise WeightsError(f"the model {model.file} cannot be read on this worker: {error}") from error
    if hashlib.sha256(raw).hexdigest() != model.sha256:
        raise WeightsError(
            f"{model.file} has changed, or is another file on this worker: copy the same one to every worker, and "
            "call superresolve again"
        )
    return raw


def _onnx(model: Model, raw: bytes, device: torch.device) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise MethodError(f"{model.file} needs onnxruntime: pip install 'xsen2[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # A model lies in one file: of bytes, nothing can name another one that is to be read.
    options.intra_op_num_threads = devices.cores()
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise MethodError("this onnxruntime computes on the CPU only: install onnxruntime-gpu, or use device='cpu'")
        providers = ["CUDAExecutionProvider", *providers]
    try:
        session = onnxruntime.InferenceSession(raw, options, providers=providers)
    except Exception as error:  # its errors are its own classes, of whatever is wrong with the file
        raise WeightsError(f"{model.file} cannot be loaded by onnxruntime: {_reason(error)}") from error
    inputs = session.get_inputs()
    _count(model, len(inputs))

    def run(pieces: list[Array]) -> Array:
        try:
            output: Array = session.run(None, {i.name: p for i, p in zip(inputs, pieces, strict=True)})[0]
        except Exception as error:
            shapes = ", ".join(str(i.shape) for i in inputs)
            raise WeightsError(
                f"{model.file}, which takes {shapes}, cannot compute {', '.join(str(p.shape) for p in pieces)}: "
                f"{_reason(error)}. Correct bands, tile or multiple in its description"
            ) from error
        return output

    return run


def _archive(model: Model, raw: bytes, device: torch.device) -> Run:
    try:
        program = torch.export.load(io.BytesIO(sound(raw)))
        module = program.module().to(device)
    except WeightsError as error:
        raise WeightsError(f"{model.file} is not loaded: {error}") from error
    except Exception as error:
        raise WeightsError(f"{model.file} cannot be loaded by torch.export: {_reason(error)}") from error

    def run(pieces: list[Array]) -> Array:
        try:
            output = module(*(devices.upload(p, device) for p in pieces))
        except Exception as error:
            raise WeightsError(
                f"{model.file} cannot compute {', '.join(str(p.shape) for p in pieces)}: {_reason(error)}. Correct "
                "bands, tile or multiple in its description, or export it with dynamic shapes"
            ) from error
        return devices.download((output[0] if isinstance(output, tuple | list) else output).float())

    return run


def _count(model: Model, count: int) -> None:
    if count != (want := len(_factors(model))):
        raise WeightsError(
            f"{model.file} has {count} inputs where its description implies {want}: correct grid there (10 for one "
            "input of all bands, native for one per grid)"
        )


def _reason(error: BaseException) -> str:
    return printable(" ".join(str(error).split()), 300)


# An archive of torch.export is a program: what it may do is looked at before torch sees it.


_ARITHMETIC = re.compile(r"[\w\s+\-*/%(),.<>=!&|~']*")
_NAMES = re.compile(r"[A-Za-z_]\w*")
_SYMBOLS = re.compile(
    r"[su]\d+|Symbol|Integer|Rational|Float|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|Max|Min|Eq|Ne|Ge|Gt|Le|Lt|And|Or"
    r"|Not|positive|nonnegative|integer|True|False|oo|int_oo"
)
_TARGETS = re.compile(
    r"torch\.ops\.(aten|higher_order)\.\w+(\.\w+)?|torch\.sym_\w+|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
_PARTS = re.compile(
    r"(archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version|\.storage_alignment"
    r"|models/\w+\.json|data/weights/\w+(\.json)?|data/constants/\w+(\.json)?|extra/.*)"
)


def sound(raw: bytes) -> bytes:
    """An archive of torch.export without what could do anything but compute with tensors.

    As torch writes it, an archive holds pickles (sample inputs; tensors of other kinds), names of functions that are
    looked up in torch and in modules that it imports, and expressions that are evaluated as Python. What is kept here
    is a graph of tensor operators, tensors as raw bytes, and arithmetic of sizes.

    Raises
    ------
    WeightsError
        If it is no such archive, or needs any of the others.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = {info.filename: archive.read(info) for info in _stored(archive)}
        root = {name.split("/", 1)[0] for name in entries}
        if len(root) != 1:
            raise WeightsError("it is not an archive of torch.export")
        prefix = f"{root.pop()}/"
        kept = {}
        for name, content in entries.items():
            part = name.removeprefix(prefix)
            if part.startswith("data/sample_inputs/"):
                content = b""  # a pickle that computing does without
            elif not _PARTS.fullmatch(part):
                raise WeightsError(f"it holds {printable(part, 100)}, which is no part of a graph of tensor operators")
            elif part.endswith(".json"):
                document = json.loads(content)
                _check(document, part)
                if part.startswith("models/"):
                    document["guards_code"] = []  # Python that only words errors about shapes
                    content = json.dumps(document).encode()
            if not part.startswith("extra/"):
                kept[name] = content
    except (zipfile.BadZipFile, ValueError, KeyError, RecursionError, NotImplementedError) as error:
        raise WeightsError(f"it is not an archive of torch.export, or is damaged: {_reason(error)}") from error
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
    return out.getvalue()


def _stored(archive: zipfile.ZipFile) -> Sequence[zipfile.ZipInfo]:
    entries = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in entries):
        raise WeightsError("parts of it are compressed")
    return entries


def _check(node: Any, part: str) -> None:
    """Look through the JSON of an archive for whatever is more than arithmetic."""
    if isinstance(node, list):
        for item in node:
            _check(item, part)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "use_pickle" and value:
                raise WeightsError(f"{part} keeps tensors as pickles, which can run anything: save dense ones")
            if key == "path_name" and not re.fullmatch(r"(weight|tensor)_\w+", str(value)):
                raise WeightsError(f"{part} names {_short(value)}, which is no tensor")
            if key == "target" and isinstance(value, str) and not _TARGETS.fullmatch(value):
                raise WeightsError(f"its graph calls {_short(value)}, which is no operator on tensors")
            if key in ("in_spec", "out_spec") and not _is_plain(str(value)):
                raise WeightsError(f"it takes or gives {_short(value)}, which is more than tensors")
            if key == "expr_str" and not _is_arithmetic(str(value)):
                raise WeightsError(f"it holds the expression {_short(value)}, which is no arithmetic of sizes")
            _check(value, part)


def _is_arithmetic(text: str) -> bool:
    names = _NAMES.findall(text)
    return bool(_ARITHMETIC.fullmatch(text)) and "__" not in text and all(_SYMBOLS.fullmatch(n) for n in names)


def _is_plain(spec: str) -> bool:
    """Whether arguments are tuples, lists and dicts alone: for other types, modules would be imported."""
    return set(re.findall(r'"type":\s*("[^"]*"|null)', spec)) <= {
        '"builtins.tuple"',
        '"builtins.list"',
        '"builtins.dict"',
        "null",
    }


def _short(value: object) -> str:
    return printable(repr(value), 100)
