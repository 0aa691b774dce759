"""Methods on scenes: what each of them scores, and the table of it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import compute

from xsen2.bands import BANDS, GRIDS, B, C
from xsen2.degrade import pair
from xsen2.errors import BandError, GridError, MethodError, SourceError
from xsen2.evaluate import evaluate, trial
from xsen2.kernels import OPERATORS, Operator
from xsen2.plots import richest
from xsen2.protocol import Method
from xsen2.registry import resolve
from xsen2.reporting.subjects import Subject

__all__ = ["CROP", "JUDGED", "Cell", "Judge", "Methods", "Tally", "labelled", "makes"]

Methods = Sequence[str | Method] | Mapping[str, str | Method]

JUDGED = {1: tuple(b for b in BANDS if b in (*B, *C)), 2: B, 6: C}
"""Bands that are judged at each scale."""

CROP = {2: 60, 6: 30}
"""Side of what pictures show, in pixels of the bands that are judged."""


def labelled(methods: Methods) -> dict[str, str | Method]:
    """Methods by what tables call them.

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
        named = {one if isinstance(one, str) else one.name: one for one in methods}
        if len(named) < len(methods):
            raise MethodError(f"methods={methods!r}: two have the same name; give label → method instead")
    if not named:
        raise MethodError("give at least one method, as methods=['bicubic']")
    for method in named.values():
        makes(method, (*B, *C))
    return named


def makes(method: str | Method, bands: Sequence[str], operator: str = "mtf") -> tuple[Method, ...]:
    """The objects that make any of `bands`, by whichever grid; an unknown name is an error."""
    found: list[Method] = []
    for gsd in (20, 60):
        some = [band for band in bands if band in GRIDS[gsd]]
        try:
            found += resolve(method, some, operator=operator) if some else []
        except BandError:
            continue
    return tuple(found)


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
        if scale == 2 and not any(set(one.needs) & set(C) for one in makes(method, B, operator)):
            cube = cube.drop_vars([b for b in C if b in cube])  # else the scene would be cut to whole cells of them
        if scale == 1:
            full = evaluate(cube, [method], 1, operator, device=self.device, dtype=self.dtype)
            return Cell(full.isel(method=0, drop=True), None)
        found = trial(cube, [method], scale, operator, border=self.border, device=self.device, dtype=self.dtype)
        whole = at[0] + at[2] <= found.truth.sizes["y"] and at[1] + at[2] <= found.truth.sizes["x"]
        crop = cut(found.estimates[0], found.truth, at) if at[2] and whole else None
        scores, pixels = compute(found.scores.isel(method=0, drop=True), crop)
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
        found: dict[str, Cell] = {}
        for label in self.labels:
            try:
                found[label] = judge.cell(subject, label, self.scale, self.operator, at)
            except (BandError, GridError) as error:
                self.notes.append(f"{subject.name}, {label}: {error}")
        self.cells[subject.name], self.levels[subject.name] = found, subject.level
        return f"{what}: {len(found)} of {len(self.labels)} methods"

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
                        found = row[label].scores[metric]
                        values[s, m] = found.reindex(band=bands).values if like.dims else found.values
            out[metric] = xr.Variable(dims, values, like.attrs)
        out.attrs = {"scale": self.scale, "operator": self.operator, "border": self.border}
        out.attrs |= {"left_out": list(self.left_out), "notes": list(self.notes)}
        return out
