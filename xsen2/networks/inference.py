"""One block through a network: numpy in, torch, numpy out. Only workers import this.

Loaded networks live in a cache of the process, keyed by the hash of their weights, so a graph never
carries one. A block goes through in patches, as many at a time as there is memory for; `xsen2.networks.devices` says
when and where.
"""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from xsen2.errors import MethodError, WeightsError
from xsen2.methods.protocol import Array
from xsen2.networks import devices
from xsen2.networks.cards import GAIN, Card
from xsen2.networks.devices import best_device, best_dtype
from xsen2.networks.load import infinite
from xsen2.networks.load import network as from_file
from xsen2.networks.network import Network

__all__ = ["best_device", "best_dtype", "infer", "load"]

# A CPU takes one patch at a time: of two, the features of the first have left its caches when the next layer comes.
BATCH_PIXELS = {"cpu": 1, "mps": 1200 * 1200, "cuda": 4 * 1200 * 1200}

LEAST = 48  # smallest side of a patch: what goes through the network is mostly halo by then
# On CUDA, per 10 m pixel: what a network of 256 features holds, and half as much again; those of the package hold
# between an eighth and a third of it. Too little costs some halo, too much one retreat.
SANE = 1e6  # DN: what is more is no reflectance, and what comes of it no fault of the weights
BYTES = {torch.float32: 6000, torch.bfloat16: 3000, torch.float16: 3000}

KEPT = 512 * 2**20
"""Bytes of weights that stay on a device, those used last: VDSen2 for both grids in float32 has 300 MB."""

_networks: dict[tuple[str, ...], Network] = {}  # the one used last is the last
_loading = threading.Lock()
_capacities: dict[tuple[str, ...], Capacity] = {}


def _forked() -> None:
    """In a forked process, where nobody is loading."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def load(card: Card, device: torch.device, dtype: torch.dtype) -> Network:
    """The network of a card, from the cache of this process or from its file.

    Raises
    ------
    WeightsError
        As `xsen2.networks.load.network`, or if the weights have no place in `dtype`.
    """
    # All that the weights are checked against: cards outside the package are written by anyone.
    said = (card.architecture, str(dict(card.arguments)), str(card.ratio), str(card.halo), str(bool(card.spread)))
    key = (card.sha256, *said, str(device), str(dtype))
    with _loading:
        network = _networks.pop(key, None)
        if network is None:
            network = from_file(card).to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if bad := infinite(network.state_dict()):
                raise WeightsError(f"{bad} of {card.name} is too large for {_named(dtype)}: use dtype='float32'")
            if device.type == "cuda":  # the streams that will use it do not wait for this one
                torch.cuda.synchronize(device)
        _networks[key] = network
        _forget(str(device))
        return network


def _forget(device: str) -> None:
    """Let go of the networks used longest ago, until those on a device are not too much. Who computes holds its own."""
    sizes = {key: _bytes(network) for key, network in _networks.items() if key[-2] == device}
    total = sum(sizes.values())
    for key in list(sizes)[:-1]:
        if total <= KEPT:
            return
        total -= sizes[key]
        del _networks[key]


def _bytes(network: Network) -> int:
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Capacity:
    """How much goes through a network at a time.

    Attributes
    ----------
    pixels : int
        Of 10 m in a batch, halo included; one patch goes through whatever its size.
    side : int
        Largest side of a patch, in 10 m pixels, without its halo.
    """

    pixels: int
    side: int


def infer(
    card: Card, a: Array, b: Array, c: Array, *, device: str = "auto", dtype: str = "auto", doubt: bool = False
) -> Array:
    """Super-resolve one block, halo included.

    Parameters
    ----------
    a, b, c : numpy.ndarray
        float32 DN on the native grids, as `xsen2.methods.protocol.Method` says.
    device, dtype : str
        As `best_device` and `best_dtype` take them.
    doubt : bool
        Whether standard errors follow, one per band. The network must have that branch (`Card.spread`).

    Returns
    -------
    numpy.ndarray
        float32 DN ``(band, H, W)``, estimates then standard errors. The outermost halo, where context is
        missing, is not filled with results: it is zero.

    Raises
    ------
    MethodError
        If there is no such device, or it has no memory for the smallest of patches.
    WeightsError
        As `load`; or if what comes out is no number where what went in is.

    Notes
    -----
    Where memory runs out the block is begun again with half as much at a time, fewer patches first, then smaller ones;
    what has worked is kept for the blocks to come. The results of other patches differ in the last digits alone.
    """
    target = best_device(device)
    kind = best_dtype(target, dtype)
    network = load(card, target, kind)
    key = (card.sha256, str(target), str(kind))
    halo = card.halo * card.ratio
    step = max(network.lattice, card.ratio)
    layers = [(_whole(x, step // f), f) for x, f in ((a, 1), (b, 2), (c, 6)) if f <= card.ratio]
    while True:
        capacity = _capacity(key, target, kind, halo, network.side)
        corners, size, many = _patches(layers[0][0].shape[1:], halo, step, capacity)
        batches = [corners[i : i + many] for i in range(0, len(corners), many)]
        try:
            with devices.turn(target, kind), torch.inference_mode():
                out = _compute(network, layers, target, batches, size, halo, doubt)
            break
        except (RuntimeError, MemoryError) as error:
            if not devices.out_of_memory(error):
                raise
            less = _less(len(batches[0]), size, halo)
            if less is None:
                raise MethodError(
                    f"{target} has no memory for one patch of {size[0]} x {size[1]} pixels through {card.name} in "
                    f"{_named(kind)}: end other programs that use it, or use smaller chunks, fewer "
                    "workers per device, or device='cpu'"
                ) from error
            with _loading:  # two streams may have run out together
                kept = _capacities.get(key, less)
                _capacities[key] = Capacity(min(kept.pixels, less.pixels), min(kept.side, less.side))
        devices.free(target)  # only here: the error held on to the tensors
    out = out[:, : a.shape[1], : a.shape[2]]
    if not np.isfinite(out).all() and all(np.abs(x).max() < SANE for x, _ in layers):
        raise WeightsError(
            f"{card.name} gives values that are not finite numbers in {_named(kind)}: "
            + ("its weights are of no use" if kind == torch.float32 else "use dtype='float32'")
        )
    if doubt:  # calibrated on scenes: a factor per band
        out[len(out) // 2 :] *= np.array(card.spread, np.float32)[:, None, None]
    return out


def _compute(
    network: Network,
    layers: list[tuple[Array, int]],
    target: torch.device,
    batches: list[list[tuple[int, int]]],
    size: tuple[int, int],
    halo: int,
    doubt: bool,
) -> Array:
    """All patches of a block. It travels to the device whole and once, not with every patch's halo."""
    whole = [(devices.upload(x, target), factor) for x, factor in layers]
    height, width = layers[0][0].shape[1:]
    more: dict[str, Any] = {"doubt": True} if doubt else {}
    if spare := network.spare:  # context that only a part of the network sees
        more["spare"] = spare
    edge = halo - spare
    out: torch.Tensor | None = None
    for corners in batches:
        batch = []
        for x, f in whole:
            cut = [x[:, y // f : (y + size[0]) // f, z // f : (z + size[1]) // f] for y, z in corners]
            batch.append(torch.stack(cut).div_(GAIN))
        made = network(*batch, **more)
        made = made[..., edge : made.shape[-2] - edge, edge : made.shape[-1] - edge]
        if out is None:
            out = torch.zeros((made.shape[1], height, width), device=target)
        for (y, z), patch in zip(corners, made, strict=True):
            out[:, y + halo : y + size[0] - halo, z + halo : z + size[1] - halo] = patch * GAIN
    assert out is not None
    return devices.download(out)


def _whole(x: Array, step: int) -> Array:
    """Filled up at its ends to multiples of `step` pixels, with what is there; a block's halo is wider than that."""
    more = [(0, -n % step) for n in x.shape[1:]]
    return np.pad(x, [(0, 0), *more], mode="edge") if any(n for _, n in more) else x


def _capacity(key: tuple[str, ...], device: torch.device, dtype: torch.dtype, halo: int, side: int) -> Capacity:
    """What has worked before; else what fits the caches of a CPU, or the memory of a CUDA device."""
    if key in _capacities:
        return _capacities[key]
    pixels = BATCH_PIXELS[device.type]
    if device.type != "cuda":
        return Capacity(pixels, side)
    pixels = min(pixels, devices.memory(device) // BYTES[dtype])
    # Kept: other blocks would find other memory in use, and each size of a patch has to be prepared for.
    return _capacities.setdefault(key, Capacity(pixels, max(LEAST, math.isqrt(pixels) - 2 * halo)))


def _less(many: int, size: tuple[int, int], halo: int) -> Capacity | None:
    """Half of what was too much: `many` patches of a size, halo included. None if there is no less."""
    side = max(size) - 2 * halo
    if many > 1:
        return Capacity(many // 2 * size[0] * size[1], side)
    return Capacity(size[0] * size[1], max(LEAST, side // 2)) if side > LEAST else None


def _patches(
    shape: tuple[int, ...], halo: int, ratio: int, capacity: Capacity
) -> tuple[list[tuple[int, int]], tuple[int, int], int]:
    """Corners of patches with their halo, the last overlapping its neighbour; their size; how many at a time."""
    starts, size = [], []
    for total in (n - 2 * halo for n in shape):
        count = math.ceil(total / capacity.side)
        side = math.ceil(total / count / ratio) * ratio
        starts.append([min(i * side, total - side) for i in range(count)])
        size.append(side + 2 * halo)
    corners = [(y, x) for y in starts[0] for x in starts[1]]
    return corners, (size[0], size[1]), max(1, capacity.pixels // (size[0] * size[1]))
