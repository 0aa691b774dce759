"""The scenes that are judged, one at a time."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import xarray as xr

from xsen2.cube import canonicalise
from xsen2.errors import SourceError
from xsen2.paths import local
from xsen2.text import printable

__all__ = ["Scenes", "Subject", "subjects"]

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
            said = str(cube.attrs.get("attribution", ""))
            level = str(cube.attrs.get("level", "")) or _level(name)
            yield Subject(name, level, cube, years=tuple(int(y) for y in re.findall(r"\b20\d\d\b", said)))
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
    """The level that a product's name tells."""
    found = re.search(r"L(1C|2A)(?![0-9A-Za-z])", name)
    return found[0] if found else ""


def _stack(cubes: Sequence[xr.Dataset]) -> xr.Dataset:
    """Patches as dates of one cube: dates are independent of each other, and their scores are pooled exactly."""
    if len(cubes) == 1:
        return cubes[0]
    place = {name: cubes[0].coords[name] for name in cubes[0].coords}
    times = np.datetime64("2000-01-01", "ns") + np.arange(len(cubes)) * np.timedelta64(1, "D")
    out: xr.Dataset = xr.concat([cube.assign_coords(place) for cube in cubes], dim=xr.Variable("time", times))
    return out
