"""A peer in an environment and a process of its own, which gets pixels once and then a turn whenever it is asked."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
PLACE = HERE.parents[1] / ".work" / "peers"


def environment(name: str, installs: Sequence[Sequence[str]]) -> Path:
    """The interpreter of an environment under `.work/peers`, made if it is missing or was made for other packages."""
    folder = PLACE / name
    python, stamp = folder / "bin" / "python", folder / "installed.json"
    wanted = json.dumps([list(one) for one in installs])
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for packages in installs:
            subprocess.run([python, "-m", "pip", "install", "-qq", *packages], check=True)
        stamp.write_text(wanted)
    return python


class Peer:
    """A driver of this folder, run in an environment.

    The driver reads the arrays from ``pixels.npz`` in the folder that it is given. For every line on its standard input
    it super-resolves them once and answers with a line of JSON that starts with ``RESULT``; the first time it also
    saves ``out.npy``.
    """

    def __init__(
        self, name: str, driver: str, installs: Sequence[Sequence[str]], arrays: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        python = environment(name, installs)
        self._folder = tempfile.TemporaryDirectory()
        np.savez(f"{self._folder.name}/pixels.npz", **arrays)
        command = [python, HERE / driver, self._folder.name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.about = self._answer()  # it has warmed up

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()

    def turn(self) -> dict[str, Any]:
        """What the driver says of one run; among it `seconds`."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._answer()

    @property
    def out(self) -> npt.NDArray[np.float32]:
        """What the first run made."""
        made: npt.NDArray[np.float32] = np.load(f"{self._folder.name}/out.npy")
        return made

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("RESULT "):
                found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
                return found
        raise SystemExit(f"the peer ended with {self._process.wait()}: run {' '.join(map(str, self._process.args))}")


def in_turn(peer: Peer, ours: Mapping[str, Callable[[], float]], rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """All once a round, after one in which ours warm up.

    Returns
    -------
    dict, dict
        What the peer says, medians; for each of ours `seconds` and `times`, how many times as fast as the peer in the
        same round, medians with the lowest and the highest.
    """
    for work in ours.values():
        work()
    said, took = [], []
    for _ in range(rounds):
        said.append(peer.turn())
        took.append({name: work() for name, work in ours.items()})
    first = {key: round(median(one[key] for one in said), 3) for key in said[0]}
    rest = {}
    for name in ours:
        ratios = [one["seconds"] / own[name] for one, own in zip(said, took, strict=True)]
        rest[name] = {
            "seconds": round(median(own[name] for own in took), 3),
            "times": round(median(ratios), 2),
            "times, range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return first, rest
