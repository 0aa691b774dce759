"""One block through a network: numpy in, torch, numpy out. Only workers import this.

Loaded networks live in a cache of the process, keyed by the hash of their weights, so a graph never
carries one. A block goes through in patches, as many at a time as there is memory for; `xsen2.networks.devices` says
when and where.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import uniform_filter

from xsen2.engine.fill import fill
from xsen2.errors import MethodError, WeightsError
from xsen2.methods.protocol import Array
from xsen2.networks import devices
from xsen2.networks.cards import GAIN, Card
from xsen2.networks.devices import best_device, best_dtype
from xsen2.networks.load import infinite
from xsen2.networks.load import network as from_file
from xsen2.networks.manydates import MultiDate
from xsen2.networks.network import Network

__all__ = ["best_device", "best_dtype", "filled", "fuse", "infer", "load"]

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
    """In a forked process, where no network is being loaded."""
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
    described = (card.architecture, str(dict(card.arguments)), str(card.ratio), str(card.halo), str(bool(card.spread)))
    key = (card.sha256, *described, str(device), str(dtype))
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
    card: Card, a: Array, b: Array, c: Array, *, device: str = "auto", dtype: str = "auto", uncertainty: bool = False
) -> Array:
    """Super-resolve one block, halo included.

    Parameters
    ----------
    a, b, c : numpy.ndarray
        float32 DN on the native grids, as `xsen2.methods.protocol.Method` says.
    device, dtype : str
        As `best_device` and `best_dtype` take them.
    uncertainty : bool
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
    torch_device = best_device(device)
    kind = best_dtype(torch_device, dtype)
    network = load(card, torch_device, kind)
    key = (card.sha256, str(torch_device), str(kind))
    halo = card.halo * card.ratio
    step = max(network.lattice, card.ratio)
    layers = [(_padded(x, step // f), f) for x, f in ((a, 1), (b, 2), (c, 6)) if f <= card.ratio]

    def compute(batches: list[list[tuple[int, int]]], size: tuple[int, int]) -> Array:
        return _compute(network, layers, torch_device, batches, size, halo, uncertainty)

    out = _retreating(compute, card, key, torch_device, kind, layers[0][0].shape[1:], halo, step, network.side)
    out = out[:, : a.shape[1], : a.shape[2]]
    sane = all(np.abs(x).max() < SANE for x, _ in layers)
    return _checked(out, card, kind, sane, uncertainty)


def _retreating(
    compute: Callable[[list[list[tuple[int, int]]], tuple[int, int]], Array],
    card: Card,
    key: tuple[str, ...],
    device: torch.device,
    kind: torch.dtype,
    shape: tuple[int, ...],
    halo: int,
    step: int,
    side: int,
    weight: int = 1,
) -> Array:
    """Compute a block in patches; in smaller ones where memory runs out. `weight`: dates, which take room each."""
    while True:
        capacity = _capacity(key, device, kind, halo, side, weight)
        corners, size, many = _patches(shape, halo, step, capacity)
        batches = [corners[i : i + many] for i in range(0, len(corners), many)]
        try:
            with devices.turn(device, kind), torch.inference_mode():
                return compute(batches, size)
        except (RuntimeError, MemoryError) as error:
            if not devices.out_of_memory(error):
                raise
            less = _less(len(batches[0]), size, halo)
            if less is None:
                raise MethodError(
                    f"{device} has no memory for one patch of {size[0]} x {size[1]} pixels through {card.name} in "
                    f"{_named(kind)}: end other programs that use it, or use smaller chunks, fewer "
                    "workers per device, or device='cpu'"
                ) from error
            with _loading:  # two streams may have run out together
                kept = _capacities.get(key, less)
                _capacities[key] = Capacity(min(kept.pixels, less.pixels), min(kept.side, less.side))
        devices.free(device)  # only here: the error held on to the tensors


def _checked(out: Array, card: Card, kind: torch.dtype, sane: bool, uncertainty: bool) -> Array:
    """What came out, with its standard errors calibrated."""
    if not np.isfinite(out).all() and sane:
        raise WeightsError(
            f"{card.name} gives values that are not finite numbers in {_named(kind)}: "
            + ("its weights are of no use" if kind == torch.float32 else "use dtype='float32'")
        )
    if uncertainty:  # calibrated on scenes: a factor per band
        out[len(out) // 2 :] *= np.array(card.spread, np.float32)[:, None, None]
    return out


def fuse(
    card: Card,
    frames: Array,
    shifts: npt.NDArray[np.float64],
    change: npt.NDArray[np.float64] | None = None,
    errors: npt.NDArray[np.float64] | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    uncertainty: bool = False,
    reach: int = 0,
) -> Array:
    """Make one block of a finer image of many dates, halo included.

    Parameters
    ----------
    card : Card
        Of a `xsen2.networks.manydates.MultiDate`.
    frames : numpy.ndarray
        float32 DN ``(N, 4, H, W)``, the date that is made first, NaN where one has no data or is hidden.
    shifts : numpy.ndarray
        ``(N, 2)``: rows and columns, in 10 m pixels, by which the ground that a frame's pixel shows lies beyond that
        of the first frame's pixel; NaN where not known.
    change : numpy.ndarray, optional
        ``(N,)``: variance of what differs between a frame and the first, as a share of the first's.
    errors : numpy.ndarray, optional
        ``(N,)``: standard errors of the shifts; infinite where they are not known.
    device, dtype, uncertainty
        As `infer` takes them.
    reach : int
        Pixels of the halo that are there for pixels hidden on the first date, see `filled`.

    Returns
    -------
    numpy.ndarray
        float32 DN ``(4, H * zoom, W * zoom)``, standard errors after the bands. The outermost halo is zero.

    Raises
    ------
    MethodError, WeightsError
        As `infer`.
    """
    torch_device = best_device(device)
    kind = best_dtype(torch_device, dtype)
    network = load(card, torch_device, kind)
    assert isinstance(network, MultiDate)
    zoom, halo = network.zoom, card.halo + reach
    valid = np.asarray(np.isfinite(frames).all(axis=1, keepdims=True))
    x = filled(frames, valid, halo)
    if errors is not None:  # frames of unknown shift, as in an image of a few pixels, only fill holes
        known = np.isfinite(errors) | (np.arange(len(errors)) == 0)
        x, valid, shifts, errors = x[known], valid[known], shifts[known], errors[known]
        change = None if change is None else change[known]
    # Frames that lie off by whole pixels are moved by those: kernels reach a few pixels.
    x, valid, left = _moved(x, valid, shifts)
    mask = valid.astype(np.float32)
    placed = torch.from_numpy(left[None].astype(np.float32)).to(torch_device)
    more = [
        None if z is None else torch.from_numpy(z[None].astype(np.float32)).to(torch_device) for z in (change, errors)
    ]

    def compute(batches: list[list[tuple[int, int]]], size: tuple[int, int]) -> Array:
        images, seen = (devices.upload(z, torch_device) for z in (x, mask))
        out: torch.Tensor | None = None
        for corners in batches:
            cut = [torch.stack([z[..., r : r + size[0], c : c + size[1]] for r, c in corners]) for z in (images, seen)]
            with torch.autocast(torch_device.type, kind, enabled=kind != torch.float32):
                many = len(corners)
                others = [None if z is None else z.expand(many, -1) for z in more]
                output = network(
                    cut[0].div_(GAIN), cut[1], placed.expand(many, -1, -1), *others, uncertainty=uncertainty
                )
            if out is None:
                out = torch.zeros((output.shape[1], *(n * zoom for n in x.shape[-2:])), device=torch_device)
            edge = halo * zoom
            for (r, c), patch in zip(corners, output, strict=True):
                rows, columns = (slice(z * zoom + edge, (z + n) * zoom - edge) for z, n in ((r, size[0]), (c, size[1])))
                out[:, rows, columns] = patch[:, edge : patch.shape[1] - edge, edge : patch.shape[2] - edge] * GAIN
        assert out is not None
        return devices.download(out)

    key = (card.sha256, str(torch_device), str(kind), str(len(x)))
    out = _retreating(compute, card, key, torch_device, kind, x.shape[-2:], halo, 1, network.side, len(x))
    return _checked(out, card, kind, float(np.abs(x).max()) < SANE, uncertainty)


def filled(frames: Array, valid: npt.NDArray[np.bool_], steps: int) -> Array:
    """Frames whose first has no holes: they are filled from the others, as bright as it is around, then from its edges.

    Parameters
    ----------
    frames : numpy.ndarray
        ``(N, band, H, W)``; anything where `valid` is False.
    valid : numpy.ndarray
        ``(N, 1, H, W)`` bool.
    steps : int
        Pixels that are grown into what no frame shows, see `xsen2.engine.halo.fill`.

    Returns
    -------
    numpy.ndarray
        The frames, 0 where there is nothing but for the first.
    """
    x = np.where(valid, frames, np.float32(0))
    if valid[0].all():
        return x
    count = valid[1:].sum(axis=0, dtype=np.float32)
    others = x[1:].sum(axis=0) / np.maximum(count, 1)
    both = (valid[0] & (count > 0)).astype(np.float32)
    side = 2 * 3 + 1
    share = uniform_filter(both, (1, side, side), mode="nearest")
    darker = uniform_filter((x[0] - others) * both, (1, side, side), mode="nearest") / (share + np.float32(0.02))
    first = np.where(valid[0], x[0], others + np.where(count > 0, darker, 0))
    seen = np.broadcast_to(valid[0] | (count > 0), first.shape)
    x[0] = first if seen.all() else fill(np.ascontiguousarray(first), np.ascontiguousarray(seen), steps)
    return x


def _moved(
    x: Array, valid: npt.NDArray[np.bool_], shifts: npt.NDArray[np.float64]
) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Frames moved by whole pixels, so that what is left of their shifts is half a pixel at most."""
    steps = np.rint(np.nan_to_num(shifts)).astype(int)
    if not steps.any():
        return x, valid, shifts
    x, valid = x.copy(), valid.copy()
    for i in np.flatnonzero(steps.any(axis=1)):
        # A pixel shows what lies `shift` beyond: what lies here is shown by the pixel `shift` before.
        for axis, by in zip((-2, -1), steps[i], strict=True):
            x[i], valid[i] = np.roll(x[i], by, axis), np.roll(valid[i], by, axis)
            lost = [slice(None)] * 3
            lost[axis] = slice(0, by) if by > 0 else slice(by, None) if by < 0 else slice(0, 0)
            valid[i][tuple(lost)] = False
    return np.where(valid | (np.arange(len(x)) == 0)[:, None, None, None], x, 0), valid, shifts - steps


def _compute(
    network: Network,
    layers: list[tuple[Array, int]],
    device: torch.device,
    batches: list[list[tuple[int, int]]],
    size: tuple[int, int],
    halo: int,
    uncertainty: bool,
) -> Array:
    """All patches of a block. It travels to the device whole and once, not with every patch's halo."""
    planes = [(devices.upload(x, device), factor) for x, factor in layers]
    height, width = layers[0][0].shape[1:]
    more: dict[str, Any] = {"uncertainty": True} if uncertainty else {}
    if spare := network.spare:  # context that only a part of the network sees
        more["spare"] = spare
    edge = halo - spare
    out: torch.Tensor | None = None
    for corners in batches:
        batch = []
        for x, f in planes:
            cut = [x[:, y // f : (y + size[0]) // f, z // f : (z + size[1]) // f] for y, z in corners]
            batch.append(torch.stack(cut).div_(GAIN))
        output = network(*batch, **more)
        output = output[..., edge : output.shape[-2] - edge, edge : output.shape[-1] - edge]
        if out is None:
            out = torch.zeros((output.shape[1], height, width), device=device)
        for (y, z), patch in zip(corners, output, strict=True):
            out[:, y + halo : y + size[0] - halo, z + halo : z + size[1] - halo] = patch * GAIN
    assert out is not None
    return devices.download(out)


def _padded(x: Array, step: int) -> Array:
    """Filled up at its ends to multiples of `step` pixels, with what is there; a block's halo is wider than that."""
    more = [(0, -n % step) for n in x.shape[1:]]
    return np.pad(x, [(0, 0), *more], mode="edge") if any(n for _, n in more) else x


def _capacity(
    key: tuple[str, ...], device: torch.device, dtype: torch.dtype, halo: int, side: int, weight: int = 1
) -> Capacity:
    """What has worked before; else what fits the caches of a CPU, or the memory of a CUDA device."""
    if key in _capacities:
        return _capacities[key]
    pixels = BATCH_PIXELS[device.type] // weight
    if device.type != "cuda":
        return Capacity(pixels, side)
    pixels = min(pixels, devices.memory(device) // BYTES[dtype] // weight)
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
