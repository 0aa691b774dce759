"""Real worker processes: the pixels of the threaded scheduler to the bit, whatever happens to a worker on the way."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial, wraps
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from cubes import make_cube

from xsen2.bands import BANDS
from xsen2.errors import RadiometryError
from xsen2.networks import devices, inference
from xsen2.networks.cards import DEFAULT, cards
from xsen2.sinks import pieces, regions

distributed = pytest.importorskip("distributed")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("thin_blocks")]

WRITTEN = ("disk-write", "bytes")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two processes of two threads each, as Dask's nanny sets them up."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=":0", memory_limit="3GB", silence_logs="CRITICAL"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def source() -> xr.Dataset:
    """A cube of two dates in four blocks each, with a hole."""
    ds = make_cube(20, 20, dates=2, chunks=60)
    ds["B11"][1, 20:25, 30:33] = np.nan
    return ds


def by_threads(ds: xr.Dataset) -> xr.Dataset:
    with dask.config.set(scheduler="threads", num_workers=2):
        return ds.compute()


def same(found: xr.Dataset, want: xr.Dataset) -> None:
    """To the bit, NaN where NaN is."""
    xr.testing.assert_identical(found.drop_attrs(), want.drop_attrs())


@pytest.fixture(scope="module")
def exact(thin_blocks: None) -> xr.Dataset:
    return by_threads(source().dsen2.superresolve(dtype="float32"))


@pytest.mark.parametrize(
    "arguments",
    [{"dtype": "float32"}, {"dtype": "auto", "uncertainty": True, "consistency": True}, {"method": "regression"}],
    ids=str,
)
def test_the_same_pixels(client: Any, arguments: dict[str, Any]) -> None:
    with client.as_current():
        found = source().dsen2.superresolve(**arguments).compute()
    same(found, by_threads(source().dsen2.superresolve(**arguments)))


def forget() -> None:
    inference._networks.clear()


def loaded(dask_worker: Any) -> list[str]:
    return sorted(key[0] for key in inference._networks)


def test_one_network_for_each_process_and_none_in_the_graph(client: Any, exact: xr.Dataset) -> None:
    sr = source().dsen2.superresolve(dtype="float32")
    graph = dict(sr.__dask_graph__())
    own = [task for key, task in graph.items() if str(key[0] if isinstance(key, tuple) else key).startswith("xsen2-")]
    sizes = [len(pickle.dumps(task)) for task in own]
    assert len(own) == 2 * 2 * 4
    assert max(sizes) < 20_000, "a task travels to a worker by itself"
    assert len(pickle.dumps(own)) < len(own) * 3_000, "what tasks share travels to the scheduler once"
    client.run(forget)
    with client.as_current():
        same(sr.compute(), exact)  # each worker has loaded them anew
    for names in client.run(loaded).values():
        assert names == sorted(card.sha256 for card in cards()[DEFAULT])


def count() -> None:
    real = inference.infer
    inference.calls = 0  # type: ignore[attr-defined]

    @wraps(real)
    def counted(*args: Any, **kwargs: Any) -> Any:
        inference.calls += 1  # type: ignore[attr-defined]
        return real(*args, **kwargs)

    inference.infer = counted


def counted() -> int:
    inference.infer = inference.infer.__wrapped__  # type: ignore[attr-defined]
    return inference.calls  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("sink", ["to_zarr", "to_cog"])
def test_each_block_goes_through_each_network_once(client: Any, tmp_path: Path, sink: str) -> None:
    """And not once for each of the bands that come of it."""
    sr = source().isel(time=[0]).dsen2.superresolve()
    client.run(count)
    try:
        with client.as_current():
            getattr(sr.dsen2, sink)(tmp_path / "a.tif", progress=False)
    finally:
        calls = client.run(counted)
    assert sum(calls.values()) == 4 * 2


def share_of(seconds: float) -> tuple[int, int]:
    time.sleep(seconds)
    with devices.turn(torch.device("cpu"), torch.float32):
        found = devices.share(), torch.get_num_threads()
    time.sleep(seconds)
    return found


def test_a_block_gets_its_share_of_the_threads(client: Any) -> None:
    """Dask sets OMP_NUM_THREADS=1; a block that is alone has both threads of its worker all the same."""
    both = min(2, dask.system.CPU_COUNT)
    assert set(client.run(torch.get_num_threads).values()) == {1}
    assert client.submit(share_of, 0, pure=False).result() == (both, both)
    workers = list(pids(client)) * 2
    four = [client.submit(share_of, 0.5, workers=[worker], pure=False) for worker in workers]
    assert client.gather(four) == [(1, 1)] * 4
    assert set(client.run(torch.get_num_threads).values()) == {1}


def mapped(ds: xr.Dataset, function: Any) -> xr.Dataset:
    """Every band through a function of its name and a block."""
    meta = np.empty((0, 0, 0), np.float32)
    made = {b: da.map_blocks(partial(function, b), ds[b].data, dtype=np.float32, meta=meta) for b in BANDS}
    return ds.assign({b: ds[b].copy(data=data) for b, data in made.items()})


def pause(band: str, block: np.ndarray) -> np.ndarray:
    """A source that takes its time, so that something can happen meanwhile."""
    time.sleep(0.05)
    return block


def pids(client: Any) -> dict[str, int]:
    return dict(client.run(os.getpid))


def kill_one(client: Any) -> None:
    """SIGKILL to a worker that has made a block."""
    processes = pids(client)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for address, keys in client.has_what().items():
            if any("xsen2-" in str(key) for key in keys):
                os.kill(processes[address], signal.SIGKILL)
                return
        time.sleep(0.02)
    raise AssertionError("no worker made a block")


def test_a_killed_worker_changes_no_bit(client: Any, exact: xr.Dataset) -> None:
    with client.as_current():
        before = set(pids(client).values())
        future = client.compute(mapped(source(), pause).dsen2.superresolve(dtype="float32"))
        kill_one(client)
        same(future.result(timeout=60), exact)
        client.wait_for_workers(2, timeout=30)
        assert len(set(pids(client).values()) - before) == 1, "the nanny has started another"


def stored(path: Path) -> dict[str, bytes]:
    """All files of a store but those that name the run."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != "zarr.json"}


def test_a_worker_killed_while_it_writes(
    client: Any, exact: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(regions, "REGION", 1)  # a region for each row of chunks
    exact.chunk(time=1, y=60, x=60).dsen2.to_zarr(tmp_path / "want", dtype="float32", progress=False)
    killed: list[int] = []

    def later() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until and not list((tmp_path / "found").glob("B05/c/0/*/*")):
            time.sleep(0.02)
        process = next(iter(pids(client).values()))
        os.kill(process, signal.SIGKILL)
        if not (tmp_path / "found/zarr.json").exists():  # the end
            killed.append(process)

    killer = threading.Thread(target=later)
    killer.start()
    with client.as_current():
        back = (
            mapped(source(), pause)
            .dsen2.superresolve(dtype="float32")
            .dsen2.to_zarr(tmp_path / "found", dtype="float32")
        )
    killer.join()
    assert killed
    assert killed[0] not in pids(client).values()
    assert stored(tmp_path / "found") == stored(tmp_path / "want")
    np.testing.assert_array_equal(back["B11"], exact["B11"])
    out = capsys.readouterr().err
    assert out.count("\n") == 1
    assert "100%" in out
    percents = [int(part.split("%")[0].split()[-1]) for part in out.split("\r") if "%" in part]
    assert len(set(percents)) > 3


def test_runs_on_one_cluster_share_no_task(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[Any]] = []
    apart = pieces._apart

    def noted(piece: Any, own: str) -> Any:
        made = apart(piece, own)
        seen.append(set(made.__dask_graph__()))
        return made

    monkeypatch.setattr(pieces, "_apart", noted)
    with client.as_current():
        for _ in range(2):
            lazy = [source()[band].data for band in ("B02", "B03")]
            pieces.run_pieces(lazy, [1, 1], lambda _: None, progress=False, about="", after="")
    assert [len(keys) > 1 for keys in seen] == [True] * 4
    assert sum(map(len, seen)) == len(set().union(*seen))


class Flaky(SimpleHTTPRequestHandler):
    """Files of a folder; a chunk of each band is refused the first time."""

    refused: set[str] = set()  # noqa: RUF012  as http.server makes one handler for each request

    def do_GET(self) -> None:
        if self.path.endswith(".npy") and self.path not in self.refused:
            self.refused.add(self.path)
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


def fetched(url: str, band: str, block: np.ndarray, block_info: Any = None) -> np.ndarray:
    """The first block of each band comes from a server."""
    if any(start for start, _ in block_info[0]["array-location"]):
        return block
    with urlopen(f"{url}/{band}.npy") as answer:
        return np.load(BytesIO(answer.read()))


def test_a_read_that_fails_once_is_made_again(client: Any, exact: xr.Dataset, tmp_path: Path) -> None:
    ds = source()
    for band in BANDS:
        np.save(tmp_path / f"{band}.npy", ds[band].data.blocks[0, 0, 0].compute())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Flaky, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    sr = mapped(ds, partial(fetched, url)).dsen2.superresolve(dtype="float32")
    try:
        with client.as_current():
            Flaky.refused.clear()
            same(client.compute(sr, retries=1).result(timeout=60), exact)
            assert len(Flaky.refused) == 12
            Flaky.refused.clear()
            back = sr.dsen2.to_zarr(tmp_path / "found", dtype="float32", progress=False)
            assert len(Flaky.refused) == 12
    finally:
        server.shutdown()
        server.server_close()
    for band in BANDS:
        np.testing.assert_array_equal(back[band], exact[band])


def test_an_error_arrives_and_nothing_is_left_running(client: Any, tmp_path: Path) -> None:
    ds = make_cube(12, 12, dates=3, chunks=60, scale=1e-4).dsen2.superresolve()
    with client.as_current(), pytest.raises(RadiometryError):
        ds.dsen2.to_zarr(tmp_path / "bad", progress=False)
    until = time.monotonic() + 10
    while any(client.processing().values()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(client.processing().values())


def spilled(dask_worker: Any) -> float:
    """Bytes that a worker has written to disk for want of memory, since it began."""
    return sum(n for (label, unit), n in dask_worker.data.cumulative_metrics.items() if (label, unit) == WRITTEN)


def noise(band: str, block: np.ndarray, block_info: Any = None) -> np.ndarray:
    """Pixels that come into being on the worker, as those of a file."""
    seed = [BANDS[band].gsd, *(start for start, _ in block_info[0]["array-location"])]
    return np.random.default_rng(seed).integers(300, 5000, block.shape).astype(np.float32)


def test_pieces_have_no_task_in_common() -> None:
    lazy = source().dsen2.superresolve(["B11"], "bicubic")["B11"].data
    found = np.zeros(lazy.shape, np.float32)
    halves = [(slice(None), slice(a, a + 60)) for a in (0, 60)]
    parts = [
        pieces._apart(da.store(lazy[half], found, regions=half, lock=False, compute=False), str(n))
        for n, half in enumerate(halves)
    ]
    names = [set(piece.__dask_graph__()) for piece in parts]
    assert len(names[0]) > 10
    assert not names[0] & names[1]
    for piece in parts:
        piece.compute(scheduler="sync", optimize_graph=False)
    np.testing.assert_array_equal(found, lazy.compute(scheduler="sync"))


def test_more_pixels_than_memory() -> None:
    """More than the worker may hold, of which Python takes a third: it goes on, and has nothing to spill."""
    ds = make_cube(120, 120, chunks=720)
    for band in BANDS:
        hollow = da.zeros((25, *ds[band].shape), chunks=(1, -1, -1), dtype=np.float32)
        ds[band] = (("time", *ds[band].dims), hollow)
    sr = mapped(ds, noise).dsen2.superresolve(method="bicubic")
    assert sum(v.nbytes for v in sr.data_vars.values()) > 600e6
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit="600MB", silence_logs="CRITICAL"
        ) as cluster,
        distributed.Client(cluster) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        before = pids(client)
        sr.dsen2.to_zarr(f"{folder}/a", progress=False)
        assert pids(client) == before, "the worker has not been killed for its memory"
        (written,) = client.run(spilled).values()
        assert written < 50e6
