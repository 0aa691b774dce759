"""Methods over many scenes, one scene in memory at a time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import compute, tokenize

from xsen2 import files
from xsen2.bands import BANDS, GRIDS, B, C
from xsen2.cube import canonicalise
from xsen2.degrade import pair
from xsen2.engine.operators import OPERATORS, Operator
from xsen2.errors import BandError, GridError, MethodError, SourceError, once, printable
from xsen2.evaluation.evaluate import evaluate, trial
from xsen2.evaluation.plots import richest
from xsen2.files import local
from xsen2.methods.protocol import Method
from xsen2.methods.registry import resolve
from xsen2.progress import ProgressLike, Reporter
from xsen2.version import __version__

__all__ = [
    "JUDGED",
    "Cell",
    "Judge",
    "KeepingJudge",
    "Subject",
    "Tally",
    "benchmark",
    "count",
    "identity",
    "labelled",
    "subjects",
]


# The scenes that are judged, one at a time.


Scenes = Mapping[str, xr.Dataset | xr.DataTree] | str | os.PathLike[str]


@dataclass(frozen=True)
class Subject:
    """One scene: a cube under canonical names, and what is known about it.

    Attributes
    ----------
    name, level : str
    cube : xarray.Dataset
    digest : str
        Of its pixels; empty for those that may not fit into memory.
    years : tuple of int
        When it was taken, as far as that is known.
    """

    name: str
    level: str
    cube: xr.Dataset
    digest: str = ""
    years: tuple[int, ...] = ()


def count(scenes: Scenes) -> int:
    """How many scenes there are, without reading one.

    Raises
    ------
    SourceError
        If there are none.
    """
    if isinstance(scenes, Mapping):
        return len(scenes)
    from xsen2.training.scenes import scene_files

    return len(scene_files(local(scenes)))


def subjects(scenes: Scenes) -> Iterator[Subject]:
    """The scenes of `xsen2.benchmark`, one at a time.

    Raises
    ------
    SourceError
        If there are none, or something in the folder cannot be read.
    """
    if isinstance(scenes, Mapping):
        if not scenes:
            raise SourceError("there are no scenes: give name → cube, or a folder")
        for name, ds in scenes.items():
            name = printable(str(name))
            cube = canonicalise(ds)
            attribution = str(cube.attrs.get("attribution", ""))
            level = str(cube.attrs.get("level", "")) or _level(name)
            yield Subject(name, level, cube, years=tuple(int(y) for y in re.findall(r"\b20\d\d\b", attribution)))
        return
    from xsen2.training.scenes import Scene, notes_of, read_scenes

    folder = local(scenes)
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder of scenes")
    about = notes_of(folder)
    for name, group in groupby(read_scenes(folder), key=lambda scene: scene.name.split("/")[0]):
        parts: list[Scene] = list(group)
        digest = hashlib.sha256()
        for part in parts:
            for array in (*part.bands.values(), *part.valid.values()):
                digest.update(np.ascontiguousarray(array).tobytes())
        dates = re.findall(r"(?<!\d)(20[1-4]\d)(?:0[1-9]|1[0-2])[0-3]\d(?!\d)", f"{name} {about.get(name, '')}")
        cube = _stack([part.cube() for part in parts])
        yield Subject(name, parts[0].level or _level(name), cube, digest.hexdigest(), tuple(sorted({*map(int, dates)})))


def _level(name: str) -> str:
    """The processing level in a product's name."""
    match = re.search(r"L(1C|2A)(?![0-9A-Za-z])", name)
    return match[0] if match else ""


def _stack(cubes: Sequence[xr.Dataset]) -> xr.Dataset:
    """Patches as dates of one cube: dates are independent of each other, and their scores are pooled exactly."""
    if len(cubes) == 1:
        return cubes[0]
    place = {name: cubes[0].coords[name] for name in cubes[0].coords}
    times = np.datetime64("2000-01-01", "ns") + np.arange(len(cubes)) * np.timedelta64(1, "D")
    out: xr.Dataset = xr.concat([cube.assign_coords(place) for cube in cubes], dim=xr.Variable("time", times))
    return out


# Methods on scenes: what each of them scores, and the table of it all.


Methods = Sequence[str | Method] | Mapping[str, str | Method]

JUDGED = {1: tuple(b for b in BANDS if b in (*B, *C)), 2: B, 6: C}
"""Bands that are judged at each scale."""

CROP = {2: 60, 6: 30}
"""Side of what pictures show, in pixels of the bands that are judged."""


def labelled(methods: Methods) -> dict[str, str | Method]:
    """Methods by their labels in tables.

    Raises
    ------
    MethodError
        If there are none, two share a label, or one is unknown.
    """
    if isinstance(methods, Mapping):
        named = dict(methods)
    elif isinstance(methods, str) or not isinstance(methods, Sequence):
        raise MethodError(f"methods={methods!r}: give a list, as methods=['bicubic']")
    else:
        named = {method if isinstance(method, str) else method.name: method for method in methods}
        if len(named) < len(methods):
            raise MethodError(f"methods={methods!r}: two have the same name; give label → method instead")
    if not named:
        raise MethodError("give at least one method, as methods=['bicubic']")
    for method in named.values():
        makes(method, (*B, *C))
    return named


def makes(method: str | Method, bands: Sequence[str], operator: str = "mtf") -> tuple[Method, ...]:
    """The method objects that make any of `bands`, grid by grid; an unknown name is an error."""
    parts: list[Method] = []
    for gsd in (20, 60):
        wanted = [band for band in bands if band in GRIDS[gsd]]
        try:
            parts += resolve(method, wanted, operator=operator) if wanted else []
        except BandError:
            continue
    return tuple(parts)


class Cell(NamedTuple):
    """What is known of one method on one scene."""

    scores: xr.Dataset
    crop: npt.NDArray[np.float32] | None
    """``(band, h, w)`` of what it made, for pictures."""


@dataclass(frozen=True)
class Judge:
    """Scores methods on subjects.

    Attributes
    ----------
    methods : dict
        Label → method.
    border, device, dtype
        As `xsen2.benchmark` takes them.
    pictured : tuple
        ``(scale, operator)`` whose results are kept for pictures.
    """

    methods: dict[str, str | Method]
    border: int
    device: str
    dtype: str
    pictured: tuple[tuple[int, str], ...] = ()

    def check(self, jobs: Sequence[tuple[int, str]]) -> None:
        """Refuse what can be known to be wrong before a scene is read."""
        for scale, operator in jobs:
            if scale not in JUDGED:
                raise MethodError(f"scale={scale!r}: use 2 (20 m bands), 6 (60 m bands) or 1 (without a truth)")
            if operator not in OPERATORS:
                raise MethodError(f"unknown operator {operator!r}: use one of {', '.join(OPERATORS)}")
        if self.border < 0:
            raise GridError(f"border={self.border}: use 0 or more")

    def cell(self, subject: Subject, label: str, scale: int, operator: Operator, at: tuple[int, int, int]) -> Cell:
        """Scores of one method, and its pixels where ``at`` (row, column, side) says; side 0 is none.

        Raises
        ------
        BandError, GridError
            If the method cannot make the bands of this scene.
        """
        method = self.methods[label]
        cube = subject.cube
        if scale == 2 and not any(set(part.needs) & set(C) for part in makes(method, B, operator)):
            cube = cube.drop_vars([b for b in C if b in cube])  # else the scene would be cut to whole cells of them
        if scale == 1:
            full = evaluate(cube, [method], 1, operator, device=self.device, dtype=self.dtype)
            return Cell(full.isel(method=0, drop=True), None)
        result = trial(cube, [method], scale, operator, border=self.border, device=self.device, dtype=self.dtype)
        inside = at[0] + at[2] <= result.truth.sizes["y"] and at[1] + at[2] <= result.truth.sizes["x"]
        crop = cut(result.estimates[0], result.truth, at) if at[2] and inside else None
        scores, pixels = compute(result.scores.isel(method=0, drop=True), crop)
        return Cell(scores, pixels)


def cut(ds: xr.Dataset, like: xr.Dataset, at: tuple[int, int, int]) -> da.Array:
    """A square ``(band, h, w)`` of the first date, in the bands of `like`."""
    row, column, side = at
    here = {"y": slice(row, row + side), "x": slice(column, column + side)} | ({"time": 0} if "time" in ds.dims else {})
    out: da.Array = da.stack([da.asarray(ds[band].isel(here).data) for band in like.data_vars])
    return out


@dataclass
class Tally:
    """The scores of all scenes so far, at one scale with one operator."""

    scale: int
    operator: Operator
    border: int
    labels: tuple[str, ...]
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    levels: dict[str, str] = field(default_factory=dict)
    shown: dict[str, dict[str, npt.NDArray[np.float32]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, subject: Subject, judge: Judge) -> str:
        """Judge a scene; gives a line about it."""
        what = f"{subject.name}, scale {self.scale}, {self.operator}"
        try:
            at = self._look(subject, (self.scale, self.operator) in judge.pictured)
        except (BandError, GridError) as error:
            self.left_out.append(f"{subject.name}: {error}")
            return f"{what}: left out, {error}"
        cells: dict[str, Cell] = {}
        for label in self.labels:
            try:
                cells[label] = judge.cell(subject, label, self.scale, self.operator, at)
            except (BandError, GridError) as error:
                self.notes.append(f"{subject.name}, {label}: {error}")
        self.cells[subject.name], self.levels[subject.name] = cells, subject.level
        return f"{what}: {len(cells)} of {len(self.labels)} methods"

    def _look(self, subject: Subject, pictured: bool) -> tuple[int, int, int]:
        """Whether the scene can be judged, and where its pictures are taken."""
        cube = subject.cube
        if self.scale == 1:
            lacking = [gsd for gsd in (10, 20) if not any(b in cube for b in GRIDS[gsd])]
            if lacking:
                raise BandError(f"the scene has no bands of {lacking[0]} m")
            return 0, 0, 0
        if self.scale == 2:
            cube = cube.drop_vars([b for b in C if b in cube])
        coarse, truth = pair(cube, self.scale, self.operator)
        height, width = truth.sizes["y"], truth.sizes["x"]
        if 2 * self.border >= min(height, width):
            raise GridError(f"border={self.border} leaves nothing of {min(height, width)} pixels")
        side = min(CROP[self.scale], height // self.scale * self.scale, width // self.scale * self.scale)
        if not pictured or side < 2:
            return 0, 0, 0
        first = next(iter(truth.data_vars))
        date = {"time": 0} if "time" in truth.dims else {}
        row, column = richest(truth[first].isel(date).values, side, self.scale)
        at, small = (row, column, side), (row // self.scale, column // self.scale, side // self.scale)
        ydim, xdim = coarse[first].dims[-2:]
        flat = coarse[list(truth.data_vars)].rename({ydim: "y", xdim: "x"})
        before, after = compute(cut(flat, truth, small), cut(truth, truth, at))
        self.shown[subject.name] = {"coarse": before, "truth": after}
        return at

    def dataset(self) -> xr.Dataset:
        """All scores.

        Raises
        ------
        SourceError
            If no scene could be judged.
        """
        first = next((c.scores for row in self.cells.values() for c in row.values()), None)
        if first is None:
            why = "; ".join([*self.left_out, *self.notes]) or "there are none"
            raise SourceError(f"no scene can be judged at scale {self.scale}: {why}")
        bands = [
            b for b in JUDGED[self.scale] if any(b in c.scores["band"] for r in self.cells.values() for c in r.values())
        ]
        names = list(self.cells)
        out = xr.Dataset(
            coords={
                "scene": names,
                "method": list(self.labels),
                "band": bands,
                "level": ("scene", [self.levels[name] for name in names]),
            }
        )
        for metric, like in first.data_vars.items():
            dims = ("scene", "method", "band") if like.dims else ("scene", "method")
            values = np.full([out.sizes[dim] for dim in dims], np.nan)
            for s, row in enumerate(self.cells.values()):
                for m, label in enumerate(self.labels):
                    if label in row:
                        score = row[label].scores[metric]
                        values[s, m] = score.reindex(band=bands).values if like.dims else score.values
            out[metric] = xr.Variable(dims, values, like.attrs)
        out.attrs = {"scale": self.scale, "operator": self.operator, "border": self.border}
        out.attrs |= {"left_out": list(self.left_out), "notes": list(self.notes)}
        return out


# Scores that are kept in a folder, so that an interrupted run goes on where it was.


CROPPED = 2**24
"""Bytes of what is kept for pictures of one method on one scene, at most."""


@dataclass(frozen=True)
class KeepingJudge(Judge):
    """A judge that writes every cell into a folder, and reads there what it has judged before.

    A cell is used again only if the pixels of the scene, the method (weights and code), the code of the scores and
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
    parts = makes(method, bands, operator)
    code = {type(part).__module__ for part in parts} | {"xsen2.evaluation.evaluate", "xsen2.evaluation.noreference"}
    return [__version__, *(f"{part.name} {tokenize(part)}" for part in parts), _code(frozenset(code))]


@cache
def _code(names: frozenset[str]) -> str:
    """Digest of some modules of this package, and of those that they take things from."""
    seen: set[str] = set()
    ahead = set(names)
    while ahead:
        name = ahead.pop()
        module = sys.modules.get(name)
        if module is None or name in seen or name == "xsen2.methods.registry":  # the registry knows every method
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
    """A kept cell; None if there is none, or it is incomplete."""
    try:
        record = files.read_json(path)
        scores = xr.Dataset(coords={"band": record["band"]})
        for name, (values, attrs) in record["scores"].items():
            scores[name] = xr.Variable(("band",) if isinstance(values, list) else (), values, attrs)
        pixels = io.BytesIO(files.read(path.with_suffix(".npy"), CROPPED)) if record["pixels"] else None
        return Cell(scores, None if pixels is None else np.load(pixels, allow_pickle=False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError):
        return None


def _write(path: Path, cell: Cell, key: dict[str, Any]) -> None:
    """The pixels first, so that scores never stand without them."""
    scores = {str(name): (values.values.tolist(), values.attrs) for name, values in cell.scores.data_vars.items()}
    text = json.dumps(
        {**key, "pixels": cell.crop is not None, "band": cell.scores["band"].values.tolist(), "scores": scores}
    )
    with files.named(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        if cell.crop is not None:
            pixels = io.BytesIO()
            np.save(pixels, cell.crop)
            files.write(path.with_suffix(".npy"), pixels.getvalue())
        files.write(path, text)


@once
def benchmark(
    scenes: Scenes,
    methods: Methods = ("bicubic", "default"),
    scale: int = 2,
    operator: Operator = "mtf",
    *,
    border: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    progress: ProgressLike = True,
) -> xr.Dataset:
    """Evaluate methods on many scenes, one after the other.

    Parameters
    ----------
    scenes : mapping or path
        Name → cube; or a folder of scenes, as `xsen2.training.scenes.read_scenes` reads it. What comes from one file
        is one scene: the patches of a stack, and the crops and dates of a large cube, are pooled by merging the
        states of the metrics, as dates of a cube are.
    methods : sequence or mapping
        As `xsen2.evaluation.evaluate.evaluate` takes them; or label → method, for tables.
    scale : {2, 6, 1}
        2 judges the 20 m bands, 6 the 60 m bands; 1 all of them at 10 m, without a truth. See `evaluate`.
    operator : {"mtf", "product", "dsen2", "box"}
        How scenes are degraded.
    border : int
        Pixels left out along the edges of every scene. By default all count, also those where methods see mirrored
        pixels, so that the scores of a method do not depend on what it is compared with.
    device, dtype
        As `xsen2.superresolve.superresolve` takes them. Networks compute in float32 unless told otherwise, so that
        scores do not depend on the machine.
    progress : bool or callable
        Show a bar, or tell a function after each scene, with a line `about` it; see `xsen2.Progress`.

    Returns
    -------
    xarray.Dataset
        Dims ``(scene, method, band)``, one variable per metric (see `evaluate`); coordinate `level`, L1C, L2A or
        empty, per scene. NaN where a method cannot make a band of a scene. Attributes: `scale`, `operator`,
        `border`; `left_out`, scenes that lack the bands or are too small; `notes`, why something is NaN.
        ``.to_dataframe()`` gives a table with one row per scene, method and band.

    Raises
    ------
    Cancelled
        If `progress` stopped it.
    MethodError
        If a method is unknown, before any scene is read; or an argument is not one of those above.
    SourceError
        If there are no scenes, or none can be judged at this scale.

    Examples
    --------
    >>> import xsen2
    >>> scores = xsen2.benchmark({"sample": xsen2.sample().isel(time=0)}, ["bicubic"], progress=False)
    >>> scores["rmse"].dims, scores["sam"].dims
    (('scene', 'method', 'band'), ('scene', 'method'))
    """
    judge = Judge(labelled(methods), border, device, dtype)
    judge.check([(scale, operator)])
    tally = Tally(scale, operator, border, tuple(judge.methods))
    after = "Its scores are lost: begin anew, with fewer scenes or methods"
    with Reporter(progress, count(scenes), "scene", "benchmark", after=after) as reporter:
        for number, subject in enumerate(subjects(scenes), start=1):
            reporter.update(number, tally.add(subject, judge))
            reporter.check()
    return tally.dataset()
