"""Scenes to train on: a folder of cubes, read into memory on their native grids; and which are one place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr
from rasterio.crs import CRS

from xsen2.bands import GRIDS
from xsen2.cube import DIMS, recognise, write_crs
from xsen2.errors import SourceError, Xsen2Error
from xsen2.radiometry import scales_of, to_nan

__all__ = ["Scene", "hold_out", "read_scenes", "scenes_of"]

Array = npt.NDArray[np.float32]
T = TypeVar("T")

CROP = 1200  # side of what is taken from a large cube, in 10 m pixels
CROPS = 8  # at most, per cube and date


@dataclass(frozen=True)
class Scene:
    """One place and date: DN without offset on the native grids, and where pixels are real."""

    name: str
    bands: dict[int, Array]  # gsd → (band, y, x)
    valid: dict[int, npt.NDArray[np.bool_]]  # gsd → (y, x)
    level: str = ""
    epsg: int | None = None
    corner: tuple[float, float] = (0.0, 0.0)  # west, north

    def cube(self) -> xr.Dataset:
        """The scene as a cube, NaN where pixels are not real."""
        west, north = self.corner
        variables = {}
        for gsd, bands in self.bands.items():
            ydim, xdim = DIMS[gsd]
            y, x = (np.arange(n) + 0.5 for n in bands.shape[1:])
            coords = {ydim: north - y * gsd, xdim: west + x * gsd}
            for name, dn in zip(GRIDS[gsd], bands, strict=True):
                variables[name] = xr.DataArray(np.where(self.valid[gsd], dn, np.float32(np.nan)), coords, (ydim, xdim))
        ds = xr.Dataset(variables, attrs={"title": self.name})
        return ds if self.epsg is None else write_crs(ds, CRS.from_epsg(self.epsg))


def read_scenes(folder: str | Path) -> Iterator[Scene]:
    """All scenes of a folder, in the order of their names.

    Parameters
    ----------
    folder : path
        Holds any of: ``.npz`` files (see `_read_npz`), Zarr stores with a cube, ESA ``.SAFE`` folders and ``.zip``
        files. Of cubes larger than 1200 x 1200 pixels, crops of that size on a regular grid are taken.

    Raises
    ------
    SourceError
        If there is nothing to read in the folder, or something in it is no scene: it cannot be read, or lacks bands.
        It is named, and never left out: scores over fewer scenes would be other scores.
    """
    folder = Path(folder)
    kinds = (".npz", ".zarr", ".safe", ".zip")
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in kinds)
    if not found:
        raise SourceError(f"no scenes in {folder}: give the folder that holds {', '.join(kinds)} files")
    for path in found:
        if path.suffix == ".npz":
            yield from _read_npz(path)
            continue
        from xsen2.sources.open import open_source

        try:
            yield from scenes_of(open_source(str(path)), path.stem)
        except Xsen2Error as error:
            raise SourceError(f"{path} gives no scene: {error}. Mend it, or take it out of the folder") from error


def scenes_of(ds: xr.Dataset | xr.DataTree, name: str, most: int | None = None) -> Iterator[Scene]:
    """A cube as scenes in memory: one per date and crop, those without any valid pixel left out.

    Of more than `most` dates and crops, as many are chosen evenly, and only those are read. What turns out to have no
    valid pixel is not replaced by another, so there can be fewer.
    """
    cube = recognise(ds)
    for gsd in (10, 20):
        lacking = [b for b in GRIDS[gsd] if b not in cube.bands]
        if lacking:
            raise SourceError(f"{name} has no {', '.join(lacking)}: networks are trained on all bands of a grid")
    grids = [g for g in GRIDS if all(b in cube.bands for b in GRIDS[g])]
    scales = scales_of(cube, None)
    windows = list(_windows(cube.shape(10)))
    dates = range(cube.bands["B02"].sizes["time"]) if cube.time else [None]
    for date, (number, (rows, columns)) in _evenly(list(product(dates, enumerate(windows))), most):
        bands: dict[int, Array] = {}
        valid: dict[int, npt.NDArray[np.bool_]] = {}
        for gsd in grids:
            ydim, xdim = DIMS[gsd]
            factor = gsd // 10
            cut = {ydim: slice(rows.start // factor, rows.stop // factor)}
            cut |= {xdim: slice(columns.start // factor, columns.stop // factor)}
            at = {} if date is None else {"time": date}
            some = xr.Dataset({b: cube.bands[b].isel({**cut, **at}).variable for b in GRIDS[gsd]}).compute()
            dn = np.stack([to_nan(some[b].values, scales[b]) * scales[b].gain for b in GRIDS[gsd]])
            valid[gsd] = np.asarray(np.isfinite(dn).all(axis=0))
            bands[gsd] = np.where(valid[gsd], dn, 0).astype(np.float32)
        if not valid[10].any():
            continue
        label = name if date is None else f"{name}/{date}"
        west, _, _, north = cube.bounds
        corner = (west + columns.start * cube.resolution, north - rows.start * cube.resolution)
        epsg = None if cube.crs is None else cube.crs.to_epsg()
        yield Scene(label if len(windows) == 1 else f"{label}/{number}", bands, valid, "", epsg, corner)


def _evenly(items: Sequence[T], most: int | None) -> list[T]:
    """All items, or `most` of them, spread from the first to the last."""
    if most is None or len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _windows(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """At most `CROPS` windows, evenly spread, on multiples of 60 m."""
    starts = []
    for total in shape:
        count = max(1, total // CROP)
        side = min(CROP, total // 6 * 6)
        starts.append([(s, s + side) for s in (np.linspace(0, total - side, count) // 6 * 6).astype(int).tolist()])
    for (top, bottom), (left, right) in _evenly(list(product(*starts)), CROPS):
        yield slice(top, bottom), slice(left, right)


def hold_out(scenes: Sequence[Scene], share: float = 0.2) -> tuple[list[Scene], list[Scene]]:
    """Split by place: scenes whose footprints overlap, or that come from one file, stay together.

    Parameters
    ----------
    scenes : sequence of Scene
    share : float
        Of the area, that is held out: the smallest places first until it is reached, one at least.

    Returns
    -------
    train, validation : list of Scene

    Raises
    ------
    SourceError
        If there is only one place.
    """
    place = list(range(len(scenes)))
    for i, one in enumerate(scenes):
        for j, other in enumerate(scenes[:i]):
            if one.name.split("/")[0] == other.name.split("/")[0] or _overlap(one, other):
                place = [place[j] if p == place[i] else p for p in place]
    area = {p: sum(s.valid[10].size for s, q in zip(scenes, place, strict=True) if p == q) for p in set(place)}
    if len(area) < 2:
        raise SourceError(
            "all scenes overlap or come from one file, so none of them can judge the others: add scenes of other "
            "places, or name a folder with --validation"
        )
    kept_out: set[int] = set()
    for p in sorted(area, key=lambda p: area[p])[:-1]:
        if kept_out and sum(area[q] for q in kept_out | {p}) > share * sum(area.values()):
            break
        kept_out.add(p)
    sides: tuple[list[Scene], list[Scene]] = ([], [])
    for scene, p in zip(scenes, place, strict=True):
        sides[p in kept_out].append(scene)
    return sides


def _overlap(one: Scene, other: Scene) -> bool:
    if one.epsg != other.epsg or one.epsg is None:
        return False

    def box(s: Scene) -> tuple[float, float, float, float]:
        height, width = s.valid[10].shape
        return s.corner[0], s.corner[1] - 10 * height, s.corner[0] + 10 * width, s.corner[1]

    (w, s, e, n), (w2, s2, e2, n2) = box(one), box(other)
    return w < e2 and w2 < e and s < n2 and s2 < n


def _read_npz(file: Path) -> Iterator[Scene]:
    """Scenes of a ``.npz`` file (``b10``, ``b20``, optional ``b60`` and ``valid*``).

    A ``scenes.json`` beside the folder gives the file's ``offset_dn``, which is subtracted. Files with
    a leading patch axis become one scene per patch.
    """
    notes = file.parent.parent / "scenes.json"
    note = json.loads(notes.read_text()).get(file.parent.name, {}).get(file.stem, {}) if notes.exists() else {}
    offset = float(note.get("offset_dn", 0))
    try:
        with np.load(file) as data:
            raw = {gsd: data[f"b{gsd}"] for gsd in GRIDS if f"b{gsd}" in data}
            real = {gsd: data[f"valid{gsd}"] for gsd in GRIDS if f"valid{gsd}" in data}
        stack = raw[10].ndim == 4
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{file} holds no scene with b10, b20 and perhaps b60 and valid10 …: {error!r}") from error
    for i in range(len(raw[10]) if stack else 1):
        dn = {gsd: x[i] if stack else x for gsd, x in raw.items()}
        seen = {gsd: real.get(gsd, np.True_) & (x > 0).all(axis=0) for gsd, x in dn.items()}
        yield Scene(
            f"{file.stem}/{i}" if stack else file.stem,
            {gsd: x.astype(np.float32) - np.float32(offset) for gsd, x in dn.items()},
            seen,
            note.get("level", ""),
            note.get("epsg"),
            (float(note.get("ulx", 0)), float(note.get("uly", 0))),
        )
