"""One block through a network: numpy in, torch, numpy out. Only workers import this.

Loaded networks live in a cache of the process, keyed by the hash of their weights, so a graph never
carries one. A lock per device lets one task compute with all threads while others read and write.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from xsen2.errors import MethodError, WeightsError
from xsen2.networks import GAIN, Card
from xsen2.protocol import Array

__all__ = ["best_device", "best_dtype", "infer", "load"]

PATCH = 400  # largest side, in 10 m pixels, that goes through a network at a time: its features then fit a CPU cache
BATCH_PIXELS = {"cpu": 600 * 600, "mps": 1200 * 1200, "cuda": 4 * 1200 * 1200}

_networks: dict[tuple[str, ...], torch.nn.Module] = {}
_loading = threading.Lock()
_busy: dict[str, threading.Lock] = {}


def best_device(device: str = "auto") -> torch.device:
    """``"auto"``: CUDA, else MPS, else the CPU; or the device that is named, if it is there."""
    if device != "auto":
        try:
            found = torch.device(device)
        except RuntimeError as error:
            raise MethodError(
                f"device={device!r} is not a device of torch: use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
            ) from error
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there.get(found.type, True):
            raise MethodError(f"device={device!r} is not available on this machine: use device='auto'")
        return found
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(device: torch.device, dtype: str = "auto") -> torch.dtype:
    """``"auto"``: bfloat16 where the device computes faster in it, else float32."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype != "auto":
        if dtype not in named:
            raise MethodError(f"dtype={dtype!r}: use 'auto', {', '.join(map(repr, named))}")
        return named[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and _cpu_has_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_has_bf16() -> bool:
    # Without AMX or AVX512-BF16, bfloat16 runs in emulation, many times slower than float32.
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def load(card: Card, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """The network of a card, from the cache of this process or from its file.

    Raises
    ------
    WeightsError
        If the file is missing, if its hash is not that of the card, or if the card describes another network.
    """
    # All that `_read` checks the weights against: cards outside the package are written by anyone.
    what = (card.sha256, card.architecture, str(dict(card.arguments)), str(card.ratio), str(card.halo))
    key = (*what, str(device), str(dtype))
    with _loading:
        if key not in _networks:
            _networks[key] = _read(card).to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return _networks[key]


def _read(card: Card) -> torch.nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        with open(card.file, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise WeightsError(f"weights {card.name} cannot be read from {card.file} on this worker: {error}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != card.sha256:
        raise WeightsError(
            f"{card.file} is not {card.name}: its sha256 is {found[:12]}…, the card says {card.sha256[:12]}…; "
            + (
                "copy both anew, and the same to every worker"
                if card.path
                else "install xsen2 again, with the same version on every worker"
            )
        )
    module, _, name = card.architecture.rpartition(".")
    try:
        kind = getattr(importlib.import_module(f"xsen2.networks.{module}"), name)
        if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
            raise TypeError(f"{card.architecture} is not a network")
        network: torch.nn.Module = kind(**card.arguments)
        network.load_state_dict({k: v.float() for k, v in parse(raw).items()})
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{card.file} is not what the card of {card.name} describes: {error}") from error
    ratio, radius = getattr(network, "ratio", card.ratio), getattr(network, "radius", 0)
    if ratio != card.ratio or radius > card.halo * card.ratio:
        raise WeightsError(
            f"the card of {card.name} says ratio {card.ratio} and halo {card.halo}, but the network is made for ratio "
            f"{ratio} and sees {radius} pixels of 10 m on each side, so blocks would leave seams"
        )
    return network.eval().requires_grad_(False)


def _turn(device: torch.device) -> AbstractContextManager[Any]:
    """One block at a time per device; a CPU pinned to one thread per task needs no turns."""
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return nullcontext()
    with _loading:
        return _busy.setdefault(str(device), threading.Lock())


def infer(
    card: Card, a: Array, b: Array, c: Array, *, device: str = "auto", dtype: str = "auto", doubt: bool = False
) -> Array:
    """Super-resolve one block, halo included.

    Parameters
    ----------
    a, b, c : numpy.ndarray
        float32 DN on the native grids, as `xsen2.protocol.Method` says.
    device, dtype : str
        As `best_device` and `best_dtype` take them.
    doubt : bool
        Whether standard errors follow, one per band. The network must have that branch (`Card.spread`).

    Returns
    -------
    numpy.ndarray
        float32 DN ``(band, H, W)``, estimates then standard errors. The outermost halo, where context is
        missing, is not filled with results: it is zero.
    """
    where = best_device(device)
    kind = best_dtype(where, dtype)
    network = load(card, where, kind)
    ratio, halo = card.ratio, card.halo * card.ratio
    layers = [(a, 1), (b, 2)] + ([(c, 6)] if ratio == 6 else [])
    height, width = a.shape[1:]
    out: Array | None = None
    more = {"doubt": True} if doubt else {}
    with _turn(where), torch.inference_mode():
        for group, size in _patches(height, width, halo, ratio, where.type):
            batch = []
            for x, factor in layers:
                cut = [
                    x[:, y // factor : (y + size[0]) // factor, z // factor : (z + size[1]) // factor] for y, z in group
                ]
                batch.append(torch.from_numpy(np.stack(cut)).to(where, non_blocking=True) / GAIN)
            made = network(*batch, **more)[..., halo : size[0] - halo, halo : size[1] - halo]
            result = (made * GAIN).cpu().numpy()
            if out is None:
                out = np.zeros((result.shape[1], height, width), np.float32)
            for (y, z), patch in zip(group, result, strict=True):
                out[:, y + halo : y + size[0] - halo, z + halo : z + size[1] - halo] = patch
    assert out is not None
    if doubt:  # calibrated on scenes: a factor per band
        out[len(out) // 2 :] *= np.array(card.spread, np.float32)[:, None, None]
    return out


def _patches(
    height: int, width: int, halo: int, ratio: int, kind: str
) -> Iterator[tuple[list[tuple[int, int]], tuple[int, int]]]:
    """Corners of patches of one size, with their halo, in batches: the last one overlaps its neighbour."""
    starts, size = [], []
    for total in (height - 2 * halo, width - 2 * halo):
        count = math.ceil(total / PATCH)
        side = math.ceil(total / count / ratio) * ratio
        starts.append([min(i * side, total - side) for i in range(count)])
        size.append(side + 2 * halo)
    corners = [(y, x) for y in starts[0] for x in starts[1]]
    many = max(1, BATCH_PIXELS[kind] // (size[0] * size[1]))
    for i in range(0, len(corners), many):
        yield corners[i : i + many], (size[0], size[1])
