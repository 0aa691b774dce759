"""Patches, memory that runs out, and turns on a device: the road that CUDA takes too, on the CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cases import every
from cubes import make_cube

import xsen2
from xsen2.networks import devices, inference
from xsen2.networks.cards import cards
from xsen2.networks.network import PATCH, Network

pytestmark = pytest.mark.usefixtures("thin_blocks")

CARD = next(card for card in cards()["twogrid-paper"] if card.ratio == 2)
HALO = CARD.halo * CARD.ratio
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests made the process remember."""
    monkeypatch.setattr(inference, "_capacities", {})


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process whose threads nobody has limited."""
    monkeypatch.setattr(devices, "_pinned", lambda: False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def block(inner: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`inner` 60 m pixels and the halo."""
    cells, side = inner + -(-2 * HALO // 6), 6 * inner + 2 * HALO
    ds = make_cube(cells, cells, seed=seed, grids=(10, 20))
    a, b = (
        np.stack([ds[name].values[: side // f, : side // f] for name in names])
        for f, names in ((1, ("B02", "B03", "B04", "B08")), (2, ("B05", "B06", "B07", "B8A", "B11", "B12")))
    )
    return a, b, np.empty((0, side // 6, side // 6), np.float32)


def inner(x: np.ndarray) -> np.ndarray:
    return x[:, HALO:-HALO, HALO:-HALO]


class Scarce(Network):
    """A network on a device whose memory holds so many pixels and no more."""

    def __init__(self, pixels: int, error: Exception) -> None:
        super().__init__()
        self.network = inference.load(CARD, CPU, torch.float32)
        self.pixels, self.error = pixels, error
        self.asked: list[tuple[int, int]] = []

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        self.asked.append((len(a), a.shape[-1]))
        if len(a) * a.shape[-1] * a.shape[-2] > self.pixels:
            raise self.error
        return self.network(a, b)


def scarce(monkeypatch: pytest.MonkeyPatch, pixels: int, error: Exception | None = None) -> Scarce:
    network = Scarce(pixels, error or torch.OutOfMemoryError("no room"))
    monkeypatch.setattr(inference, "load", lambda card, device, dtype: network)
    return network


SAID = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB",
    "MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 1.2 GB, max allowed: 18.13 GB)",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "GET was unable to find an engine to execute this computation",
)


@pytest.mark.parametrize("said", SAID)
def test_what_devices_say_without_memory_is_understood(said: str) -> None:
    assert devices.out_of_memory(RuntimeError(said))


@pytest.mark.parametrize(
    "error", every(3, [torch.OutOfMemoryError("x"), MemoryError(), RuntimeError(SAID[0])]), ids=repr
)
def test_less_at_a_time_where_memory_runs_out(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "side", 72)
    monkeypatch.setitem(inference.BATCH_PIXELS, "cpu", 600 * 600)
    a, b, c = block()
    want = inference.infer(CARD, a, b, c, device="cpu", dtype="float32")
    network = scarce(monkeypatch, 2 * (72 + 2 * HALO) ** 2, error)
    found = inference.infer(CARD, a, b, c, device="cpu", dtype="float32")
    np.testing.assert_allclose(inner(found), inner(want), rtol=0, atol=1e-3)
    assert [n for n, _ in network.asked] == [4, 2, 2], "four patches of 72, then two at a time"
    network.asked.clear()
    again = inference.infer(CARD, a, b, c, device="cpu", dtype="float32")
    np.testing.assert_array_equal(again, found)
    assert [n for n, _ in network.asked] == [2, 2], "what has worked is kept"


def test_smaller_patches_where_one_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = block()
    want = inference.infer(CARD, a, b, c, device="cpu", dtype="float32")
    network = scarce(monkeypatch, (50 + 2 * HALO) ** 2)
    found = inference.infer(CARD, a, b, c, device="cpu", dtype="float32")
    np.testing.assert_allclose(inner(found), inner(want), rtol=0, atol=1e-3)
    assert not found[:, :HALO].any()
    asked = [(n, side - 2 * HALO) for n, side in network.asked]
    assert asked == [(1, 144), (2, 72), (1, 72), *[(1, 48)] * 9]


def test_no_memory_at_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    scarce(monkeypatch, 0)
    with pytest.raises(xsen2.MethodError, match=r"cpu has no memory for one patch of .* x .* smaller chunks") as caught:
        inference.infer(CARD, *block(), device="cpu", dtype="float32")
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = scarce(monkeypatch, 0, RuntimeError("expected scalar type Float but found BFloat16"))
    with pytest.raises(RuntimeError, match="expected scalar type"):
        inference.infer(CARD, *block(), device="cpu", dtype="float32")
    assert len(network.asked) == 1


def test_what_the_cpu_says_without_memory_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert devices.out_of_memory(caught.value)
    assert not devices.out_of_memory(ValueError("out of memory"))


def test_each_weights_have_a_room_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    scarce(monkeypatch, (50 + 2 * HALO) ** 2)
    inference.infer(CARD, *block(), device="cpu", dtype="float32")
    ((key, room),) = inference._capacities.items()
    assert key == (CARD.sha256, "cpu", "torch.float32")
    assert room.side == 48
    assert inference._capacity((CARD.sha256, "cpu", "torch.bfloat16"), CPU, torch.bfloat16, HALO, PATCH).side == PATCH


@pytest.mark.parametrize(("gigabytes", "side"), [(1, 290), (8, 960), (1000, 2300)])
def test_patches_fill_the_memory_of_cuda(gigabytes: int, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "memory", lambda device: int(gigabytes * 1e9 * 0.8) // devices.STREAMS)
    key, cuda = ("x", "cuda:0", "torch.bfloat16"), torch.device("cuda", 0)
    room = inference._capacity(key, cuda, torch.bfloat16, HALO, PATCH)
    assert room.side >= side
    assert (room.side + 2 * HALO) ** 2 <= room.pixels <= inference.BATCH_PIXELS["cuda"]
    monkeypatch.setattr(devices, "memory", lambda device: 0)
    assert inference._capacity(key, cuda, torch.bfloat16, HALO, PATCH) == room, (
        "blocks to come find other memory in use"
    )
    assert inference._capacity(("y",), cuda, torch.float32, HALO, PATCH).side == inference.LEAST


def test_inputs_are_left_alone_even_if_they_may_not_be_written() -> None:
    made = block(8)
    kept = [x.copy() for x in made]
    for x in made:
        x.flags.writeable = False
    inference.infer(CARD, *made, device="cpu", dtype="float32")
    for x, before in zip(made, kept, strict=True):
        np.testing.assert_array_equal(x, before)


def test_threads_change_no_bit(two_threads: None) -> None:
    made = block(20)
    for dtype in ("float32", "auto"):
        torch.set_num_threads(2)
        both = inference.infer(CARD, *made, device="cpu", dtype=dtype)
        torch.set_num_threads(1)
        np.testing.assert_array_equal(inference.infer(CARD, *made, device="cpu", dtype=dtype), both)


class Counted(Network):
    """How many blocks are in it at a time: each waits a while for so many others."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self.now, self.most = 0, 0
        self.all = threading.Barrier(expected)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        self.now += 1
        self.most = max(self.most, self.now)
        self.all.wait(30)
        time.sleep(0.05)
        self.now -= 1
        return torch.zeros(len(a), 6, *a.shape[2:])


@pytest.mark.parametrize(("threads", "most"), [(2, 1), (1, 3)])
def test_blocks_take_turns_unless_torch_has_one_thread(
    threads: int, most: int, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, made = Counted(most), block(2)
    monkeypatch.setattr(inference, "load", lambda card, device, dtype: counted)
    monkeypatch.setattr(devices, "_pinned", lambda: threads == 1)  # as the process was begun

    def work() -> None:
        inference.infer(CARD, *made, device="cpu", dtype="float32")

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counted.most == most


def test_a_turn_that_fails_is_given_back(two_threads: None) -> None:
    for _ in range(3):
        with pytest.raises(KeyError), devices.turn(CPU, torch.float32):
            raise KeyError
    with devices.turn(CPU, torch.float32):
        pass


def test_one_name_for_one_device() -> None:
    assert devices.best_device("cpu:0") == devices.best_device("cpu") == CPU
    assert devices.share() == 1  # no worker
