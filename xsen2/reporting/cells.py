"""Scores that are kept in a folder, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from xsen2 import disk, files
from xsen2.kernels import Operator
from xsen2.protocol import Method
from xsen2.reporting.judge import JUDGED, Cell, Judge, makes
from xsen2.reporting.subjects import Subject

__all__ = ["KeepingJudge", "identity"]

CROPPED = 2**24
"""Bytes of what is kept for pictures of one method on one scene, at most."""


@dataclass(frozen=True)
class KeepingJudge(Judge):
    """A judge that writes every cell into a folder, and reads there what it has judged before.

    A cell is found again only if the pixels of the scene, the method (weights and code), the code of the scores and
    all arguments are the same.
    """

    folder: Path = Path()

    def cell(self, subject: Subject, label: str, scale: int, operator: Operator, at: tuple[int, int, int]) -> Cell:
        """As `Judge.cell`."""
        if not subject.digest:
            return super().cell(subject, label, scale, operator, at)
        key = {
            "scene": subject.digest,
            "method": identity(self.methods[label], JUDGED[scale], operator),
            "scale": scale,
            "operator": operator,
            "border": self.border,
            "device": self.device,
            "dtype": self.dtype,
            "crop": list(at),
        }
        path = self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.json"
        kept = _read(path)
        if kept is None:
            kept = super().cell(subject, label, scale, operator, at)
            _write(path, kept, {"name": subject.name, "label": label, **key})
        return kept


def identity(method: str | Method, bands: tuple[str, ...], operator: str) -> list[str]:
    """What a method's results depend on besides its input: the version, its parameters or weights, and the code."""
    from xsen2 import __version__

    found = makes(method, bands, operator)
    code = {type(one).__module__ for one in found} | {"xsen2.evaluate", "xsen2.noreference"}
    return [__version__, *(f"{one.name} {tokenize(one)}" for one in found), _code(frozenset(code))]


@cache
def _code(names: frozenset[str]) -> str:
    """Digest of some modules of this package, and of those that they take things from."""
    seen: set[str] = set()
    ahead = set(names)
    while ahead:
        name = ahead.pop()
        module = sys.modules.get(name)
        if module is None or name in seen or name == "xsen2.registry":  # the registry knows every method
            continue
        seen.add(name)
        for item in vars(module).values():
            other = item.__name__ if isinstance(item, ModuleType) else getattr(item, "__module__", None)
            if isinstance(other, str) and other.startswith("xsen2."):
                ahead.add(other)
    digest = hashlib.sha256()
    for name in sorted(seen):
        file = getattr(sys.modules[name], "__file__", None)
        if file:
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:24]


def _read(path: Path) -> Cell | None:
    """A kept cell; None if there is none, or it is not whole."""
    try:
        found = files.read_json(path)
        scores = xr.Dataset(coords={"band": found["band"]})
        for name, (values, attrs) in found["scores"].items():
            scores[name] = xr.Variable(("band",) if isinstance(values, list) else (), values, attrs)
        pixels = io.BytesIO(files.read(path.with_suffix(".npy"), CROPPED)) if found["pixels"] else None
        return Cell(scores, None if pixels is None else np.load(pixels, allow_pickle=False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError):
        return None


def _write(path: Path, cell: Cell, key: dict[str, Any]) -> None:
    """The pixels first, so that scores never stand without them."""
    scores = {str(name): (values.values.tolist(), values.attrs) for name, values in cell.scores.data_vars.items()}
    text = json.dumps(
        {**key, "pixels": cell.crop is not None, "band": cell.scores["band"].values.tolist(), "scores": scores}
    )
    with disk.named(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        if cell.crop is not None:
            pixels = io.BytesIO()
            np.save(pixels, cell.crop)
            files.write(path.with_suffix(".npy"), pixels.getvalue())
        files.write(path, text)
