"""A process that is forked after something was computed can compute too: no lost thread is waited for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
]

CODE = """
import multiprocessing, sys, threading, warnings
import numpy as np
warnings.simplefilter("ignore")
import xsen2
from cubes import make_cube

ds = make_cube(4, 4, chunks=12)
before, after, scheduler, where = sys.argv[1:]


def made(method):
    if "," in method:
        return np.concatenate([made(one) for one in method.split(",")])
    return ds.dsen2.superresolve(["B11"], method, dtype="float32", native=False).B11.compute(scheduler=scheduler).values


def child(queue):
    queue.put(made(after))


def parent():
    made(before)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    want = None
    for _ in range(2):
        process = context.Process(target=child, args=(queue,))
        process.start()
        process.join(60)
        assert process.exitcode == 0, "hangs" if process.is_alive() else process.exitcode
        want = made(after) if want is None else want
        np.testing.assert_allclose(queue.get(), want, rtol=0, atol=1e-3)


if where == "main":
    parent()
else:
    failed = []
    threading.excepthook = failed.append
    thread = threading.Thread(target=parent)
    thread.start()
    thread.join()
    assert not failed, failed
print("both computed")
"""


@pytest.mark.parametrize(
    ("before", "after", "scheduler"),
    [
        ("bicubic", "bicubic", "threads"),
        ("default", "default,supreme", "threads"),
        ("default", "default,supreme", "sync"),
        ("regression", "default", "threads"),
    ],
)
def test_a_forked_process_computes(before: str, after: str, scheduler: str) -> None:
    run(before, after, scheduler, "main")


def test_forked_from_a_thread() -> None:
    run("default", "default", "threads", "thread")


def run(*arguments: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=240, env=env, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"hangs: {error.stderr}") from error
    assert done.returncode == 0, done.stderr
    assert "both computed" in done.stdout
