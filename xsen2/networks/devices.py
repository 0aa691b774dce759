"""Where networks compute: which device and dtype, whose turn it is, with how many threads, and copies to and fro.

On the CPU one block at a time is computed, with all threads of the process, while other tasks read and write. On
workers of Dask, which has pinned them to one thread per task, blocks are computed side by side. On CUDA two blocks at a
time, each on a stream of its own, so that the copies of one overlap with the computation of the other.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from dask.system import CPU_COUNT

from xsen2.errors import MethodError
from xsen2.methods.protocol import Array

__all__ = [
    "best_device",
    "best_dtype",
    "cores",
    "download",
    "free",
    "memory",
    "out_of_memory",
    "share",
    "turn",
    "upload",
]

# Features come and go by the megabyte, and the system clears each page anew: large pages save a sixth of the time, and
# more on Dask's workers, whose allocator is set to keep nothing. Torch reads this once, when it first allocates.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_SHORT = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
    # cuDNN, when there is no room for what any way of convolving needs
    "unable to find an engine",
    "unable to find a valid cudnn algorithm",
)
STREAMS = 2  # blocks at a time on a CUDA device

_computed = False  # with threads of OpenMP
_slots: dict[torch.device, queue.SimpleQueue[torch.cuda.Stream | None]] = {}
_making = threading.Lock()
_exact = threading.Lock()


def best_device(device: str = "auto") -> torch.device:
    """``"auto"``: CUDA, else MPS, else the CPU; or the device that is named, if it is there."""
    if device != "auto":
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise MethodError(
                f"device={device!r} is not a device of torch: use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
            ) from error
        counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
        if (chosen.index or 0) >= counts.get(chosen.type, 1):
            raise MethodError(f"device={device!r} is not available on this machine: use device='auto'")
    elif torch.cuda.is_available():
        chosen = torch.device("cuda")
    else:
        chosen = torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    # One name for one device: "cuda" and "cuda:0" must not take turns apart.
    if chosen.type == "cuda":
        return torch.device("cuda", torch.cuda.current_device() if chosen.index is None else chosen.index)
    return torch.device(chosen.type)


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


def share() -> int:
    """Threads of the CPU for one block where each task is pinned to one, as Dask's nanny does with its workers.

    On a worker, the worker's threads over its running tasks: one for each block as a rule, all of them for a single
    one. Else one. To be asked for in the thread that computes.
    """
    if "distributed" not in sys.modules:
        return 1
    from distributed import get_worker

    try:
        state = get_worker().state
    except ValueError:  # not in a task of a worker
        return 1
    return max(1, min(state.nthreads, CPU_COUNT) // max(1, state.executing_count))


def cores() -> int:
    """Threads of the CPU for a library that has threads of its own, as `turn` gives them to torch."""
    return share() if _pinned() else CPU_COUNT


@cache
def _pinned() -> bool:
    """Whether this process was begun with one thread for torch. To be asked before `turn` sets the number."""
    return torch.get_num_threads() == 1


def _forked() -> None:
    """In a forked process: no turn is held, and OpenMP's threads are not there.

    OpenMP would wait for them for ever, unless one thread is all that it may use.
    """
    global _making, _exact
    _making, _exact = threading.Lock(), threading.Lock()
    _slots.clear()
    if _computed:
        torch.set_num_threads(1)
        _pinned.cache_clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def turn(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """A turn on a device: waits for one, and sets what holds meanwhile, the stream or the threads.

    Where torch is pinned to one thread of the CPU there is no waiting: the tasks compute side by side.
    """
    if device.type == "cpu" and _pinned():
        with _threaded(share()):
            yield
        return
    slots = _slots_of(device)
    stream = slots.get()
    try:
        if stream is None:
            global _computed
            _computed = True
            yield
        else:
            with torch.cuda.stream(stream), _digits(dtype):
                yield
    finally:
        slots.put(stream)


def _slots_of(device: torch.device) -> queue.SimpleQueue[torch.cuda.Stream | None]:
    with _making:
        if device not in _slots:
            slots: queue.SimpleQueue[torch.cuda.Stream | None] = queue.SimpleQueue()
            # Streams belong to the device, not to the tasks: each keeps memory that it has used for itself.
            for _ in range(STREAMS if device.type == "cuda" else 1):
                slots.put(torch.cuda.Stream(device) if device.type == "cuda" else None)  # type: ignore[no-untyped-call]
            _slots[device] = slots
        return _slots[device]


@contextmanager
def _threaded(many: int) -> Iterator[None]:
    """Torch, which has one thread, computes with so many.

    OpenMP counts apart for each thread that calls it, and a thread that is new to it begins with what another has set
    last: so one is set too.
    """
    torch.set_num_threads(many)
    try:
        yield
    finally:
        torch.set_num_threads(1)


@contextmanager
def _digits(dtype: torch.dtype) -> Iterator[None]:
    """float32 means float32: by default cuDNN keeps 10 bits of it (TF32). The switch is the whole process's."""
    if dtype != torch.float32:
        yield
        return
    with _exact:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before


def upload(x: Array, device: torch.device) -> torch.Tensor:
    """An array on a device; to CUDA through pinned memory, in the order of the stream that holds."""
    here = torch.from_numpy(np.require(x, np.float32, ["C", "W"]))  # torch shares what it is given, and may write
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here.to(device)


def download(x: torch.Tensor) -> Array:
    """A tensor as an array, once it has been computed."""
    if x.device.type == "cuda":
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        host.copy_(x, non_blocking=True)
        torch.cuda.current_stream(x.device).synchronize()
        x = host
    array: Array = x.cpu().numpy()
    return array


def memory(device: torch.device) -> int:
    """Bytes of a CUDA device that one of its streams may fill: its share of what is not in use, with a margin."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(0.8 * (torch.cuda.mem_get_info(device)[0] + unused)) // STREAMS


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, in any of the ways that torch's devices have."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in message for phrase in _SHORT)


def free(device: torch.device) -> None:
    """Hand back what torch keeps for later, so that smaller pieces find room in it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
