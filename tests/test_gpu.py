"""What only a CUDA device can show: the same pixels as the CPU's within rounding, and memory that really runs out."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import xarray as xr
from cubes import make_cube

from xsen2.bands import B, C
from xsen2.networks import devices, inference
from xsen2.networks.cards import Card, cards

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ALL = [card for group in cards().values() for card in group if card.ratio > 1]


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(inference, "_capacities", {})
    monkeypatch.setattr(inference, "_networks", {})
    yield
    torch.cuda.empty_cache()


def block(card: Card, inner: int = 60, seed: int = 0) -> list[np.ndarray]:
    """`inner` 60 m pixels and the halo."""
    side = inner + -(-2 * card.halo * card.ratio // 6)
    ds = make_cube(side, side, seed=seed)
    return [
        np.stack([ds[b].values for b in names])
        for names in (("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12"), ("B01", "B09"))
    ]


def rmse(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((x.astype(np.float64) - y) ** 2)))


@pytest.mark.parametrize("card", ALL, ids=lambda c: c.name)
def test_float32_is_the_cpus(card: Card) -> None:
    """TF32, cuDNN's default, would be off by DN."""
    made, h = block(card), card.halo * card.ratio
    before = torch.backends.cudnn.allow_tf32
    cpu, cuda = (inference.infer(card, *made, device=d, dtype="float32")[:, h:-h, h:-h] for d in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda, cpu, rtol=0, atol=0.05)
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("card", ALL, ids=lambda c: c.name)
def test_half_precision_is_as_close_as_on_the_cpu(card: Card, dtype: str) -> None:
    made, h = block(card), card.halo * card.ratio
    exact = inference.infer(card, *made, device="cpu", dtype="float32")[:, h:-h, h:-h]
    rough = inference.infer(card, *made, device="cuda", dtype=dtype)[:, h:-h, h:-h]
    assert rmse(rough, exact) < 5  # DN, as tests/test_networks.py asks of the CPU
    assert not np.array_equal(rough, exact)


@pytest.mark.parametrize("card", ALL, ids=lambda c: c.name)
def test_smaller_patches_where_memory_runs_out(card: Card) -> None:
    """The share of the device that this process may use is cut down to what a small patch needs."""
    made, h = block(card, 150), card.halo * card.ratio
    want = inference.infer(card, *made, device="cuda", dtype="float32")[:, h:-h, h:-h]
    inference._capacities.clear()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.cuda.memory_reserved(0) + sum(x.nbytes for x in made) + want.nbytes
    key = (card.sha256, "cuda:0", "torch.float32")
    inference._capacities[key] = inference.Capacity(
        inference.BATCH_PIXELS["cuda"], 2400
    )  # as a device that was empty before
    torch.cuda.set_per_process_memory_fraction(min(1.0, (held + 300 * 2**20) / total), 0)
    try:
        found = inference.infer(card, *made, device="cuda", dtype="float32")[:, h:-h, h:-h]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
    np.testing.assert_allclose(found, want, rtol=0, atol=0.05)
    assert inference._capacities[key].side < 900


def test_several_threads_feed_one_device() -> None:
    card = ALL[0]
    h = card.halo * card.ratio
    blocks = [block(card, 40, seed) for seed in range(6)]
    want = [inference.infer(card, *made, device="cuda")[:, h:-h, h:-h] for made in blocks]
    found: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        found[i] = inference.infer(card, *blocks[i], device="cuda")[:, h:-h, h:-h]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(blocks))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(rmse(found[i], one) < 1 for i, one in enumerate(want))  # another's pixels would be hundreds of DN off
    assert devices._slots[torch.device("cuda", 0)].qsize() == devices.STREAMS
    assert len([key for key in inference._networks if "cuda:0" in key and card.sha256 in key]) == 1


def road() -> xr.Dataset:
    return make_cube(60, 60, dates=2, chunks=120)


def check(found: xr.Dataset, exact: xr.Dataset) -> None:
    for band in (*B, *C):
        assert rmse(found[band].values, exact[band].values) < 5


def test_the_lazy_road() -> None:
    exact = road().dsen2.superresolve(native=False, device="cpu", dtype="float32").compute()
    check(road().dsen2.superresolve(native=False).compute(), exact)
    check(road().dsen2.superresolve(native=False, dtype="float16").compute(), exact)


def test_a_worker_for_each_device() -> None:
    dask_cuda = pytest.importorskip("dask_cuda")
    distributed = pytest.importorskip("distributed")
    exact = road().dsen2.superresolve(native=False, device="cpu", dtype="float32").compute()
    with (
        dask_cuda.LocalCUDACluster(dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        check(road().dsen2.superresolve(native=False).compute(), exact)
        on = client.run(lambda: sorted({key[-2] for key in inference._networks}))
        assert len(on) == torch.cuda.device_count()
        assert set(map(tuple, on.values())) <= {("cuda:0",), ()}  # each sees its own device alone
