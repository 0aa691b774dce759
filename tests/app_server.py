"""The app on loopback, as tests drive it: a server in a process of its own, and a client with a user's cookies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from xsen2.app.server import PAGE

SAMPLE_AREA = [2.72, 51.32, 2.74, 51.33]
"""A box in the embedded sample, 1.4 x 1.1 km."""

SAMPLE = {"start": "2024-01-01", "end": "2024-12-31", "source": "sample"}
SAMPLE_DATES = ["sample-20240512", "sample-20240830"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Server:
    """``xsen2 app`` in a process; ``kill`` ends it as a power cut does."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        self.folder, self.port, self.options = folder, port, options
        self.url = f"http://127.0.0.1:{port}/"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "xsen2.cli.main", "app", "--no-open", "--port", str(self.port),
                   "--folder", str(self.folder), *self.options]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.process.poll() is not None:
                assert self.process.stdout is not None
                raise RuntimeError(self.process.stdout.read())
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the app did not start")

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Server]:
    if not (PAGE / "index.html").is_file():
        pytest.skip("needs the app's page: make page")
    server = Server(folder, free_port(), *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def user(url: str, **more: Any) -> httpx2.Client:
    """A client with the cookies of a new user."""
    client = httpx2.Client(base_url=url, timeout=60, follow_redirects=True, **more)
    client.get("/")
    return client


def wait(client: httpx2.Client, name: str, seconds: float = 240, until: tuple[str, ...] = ("done",)) -> dict[str, Any]:
    """A job, once it has come to one of some states."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job: dict[str, Any] = client.get(f"/api/jobs/{name}").json()
        if job["state"] in until:
            return job
        if job["state"] in ("failed", "cancelled", "done"):
            raise AssertionError(f"{job['state']}: {job['message']}")
        time.sleep(0.1)
    raise AssertionError(f"not {until} after {seconds} s: {job}")
