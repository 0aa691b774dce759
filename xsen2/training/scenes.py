"""Scenes to train on: a folder of cubes, read into memory on their native grids; and which are one place."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr
from rasterio.crs import CRS
from rasterio.errors import CRSError

from xsen2 import files
from xsen2.bands import GRIDS
from xsen2.cube import DIMS, recognise, write_crs
from xsen2.errors import SourceError, Xsen2Error, printable
from xsen2.files import local
from xsen2.grid import centres, geobox, lattice, off
from xsen2.radiometry import scales_of, to_nan

__all__ = ["Scene", "hold_out", "notes_of", "read_npz", "read_scenes", "scenes_of"]


# Arrays of a ``.npz`` file that anyone may have written: checked by what they declare, then read.


MOST = 2**32
"""Bytes of a file at most: a whole tile as uint16 has 1.3 GB."""

TILE = 10980
"""Pixels of 10 m along each side of a tile: no scene has more, and all patches of a stack together have none."""

FREE, RATIO = 64 * 2**20, 50
"""Beyond so many bytes no array may be so many times what it is packed in: noise keeps images from that."""

Arrays = dict[int, npt.NDArray[Any]]


class _Part(NamedTuple):
    """One array as its header declares it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    info: zipfile.ZipInfo


def read_npz(file: Path) -> tuple[Arrays, Arrays]:
    """Bands and masks of a scene, or of a stack of patches.

    Parameters
    ----------
    file : path
        ``b10`` ``(4, y, x)``, ``b20`` ``(6, y / 2, x / 2)``, if it has them ``b60`` ``(2, y / 6, x / 6)`` and
        ``valid10`` ``(y, x)`` …, as `numpy.savez` writes them; all with a leading axis for a stack of patches. Numbers
        of any kind but complex. Other arrays are not looked at.

    Returns
    -------
    bands, masks : dict
        By gsd.

    Raises
    ------
    SourceError
        If it is no such file, is damaged, is larger than a tile, or unpacks to far more than its size.
    """
    try:
        with files.opened(file, MOST) as stream, zipfile.ZipFile(stream) as archive:
            inside = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = [f"{kind}{gsd}" for gsd in GRIDS for kind in ("b", "valid")]
            parts = {name: _declared(archive, name, inside[name]) for name in names if name in inside}
            _check(parts)
            arrays = {name: _read(archive, part) for name, part in parts.items()}
    except Exception as error:  # zipfile, zlib and numpy raise nearly everything for bytes that they did not write
        raise SourceError(
            f"{file} holds no scene with b10, b20 and perhaps b60 and valid10 …, or is damaged: "
            f"{printable(str(error) or type(error).__name__, 300)}. Copy it anew, or take it out of the folder"
        ) from error
    bands, masks = (
        {gsd: arrays[f"{kind}{gsd}"] for gsd in GRIDS if f"{kind}{gsd}" in arrays} for kind in ("b", "valid")
    )
    return bands, masks


def _declared(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> _Part:
    """Shape and dtype of an array by its header, if the rest of it can be as large as that."""
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is encrypted, or packed in a way that numpy does not")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"{name} is of version {version} of numpy's format, not 1.0 or 2.0")
        size = math.prod(shape) * dtype.itemsize
        if stream.tell() + size != info.file_size:
            raise ValueError(f"{name} of shape {shape} should have {size} bytes, which it has not")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise ValueError(f"{name} holds {dtype}, not numbers")
    if size > max(FREE, RATIO * info.compress_size):
        raise ValueError(f"{name} of {info.compress_size} bytes would become {size}: no image is packed like that")
    return _Part(shape, dtype, info)


def _check(parts: Mapping[str, _Part]) -> None:
    """Refuse shapes that are not those of one scene, or of one stack of patches."""
    for name in ("b10", "b20"):
        if name not in parts:
            raise KeyError(f"{name} is missing")
    first = parts["b10"].shape
    if len(first) not in (3, 4) or 0 in first:
        raise ValueError(f"b10 has shape {first}, not (4, y, x) or (patches, 4, y, x) with any pixels")
    stack, (height, width) = first[:-3], first[-2:]
    if max(height, width) > TILE or math.prod(first) > 4 * TILE**2:
        raise ValueError(f"b10 has shape {first}, which is more than a tile: cut it into several files")
    for name, part in parts.items():
        gsd = int(name.removeprefix("b").removeprefix("valid"))
        factor = gsd // 10
        if f"b{gsd}" not in parts:
            continue
        count = (len(GRIDS[gsd]),) if name.startswith("b") else ()
        want = (*stack, *count, height // factor, width // factor)
        if part.shape != want or height % factor or width % factor:
            raise ValueError(
                f"{name} has shape {part.shape}, where b10 of shape {first} asks for {want}"
                + (f" and sides that are multiples of {factor}" if height % factor or width % factor else "")
            )


def _read(archive: zipfile.ZipFile, part: _Part) -> npt.NDArray[Any]:
    with archive.open(part.info) as stream:
        array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # the end, where the checksum is looked at
    return array


Array = npt.NDArray[np.float32]
T = TypeVar("T")

CROP = 1200  # side of what is taken from a large cube, in 10 m pixels
NOTES = 64 * 2**20  # bytes of scenes.json at most
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
        """The scene as a cube, NaN where pixels are not real.

        It has no CRS where its corner is none that pixels of Sentinel-2 have: scenes that were regridded by others are
        noted so. Their bands fit each other, and scores do not ask where they are.
        """
        west, north = self.corner
        variables = {}
        for gsd, bands in self.bands.items():
            ydim, xdim = DIMS[gsd]
            height, width = bands.shape[1:]
            y, x = centres(geobox((west, north - height * gsd, west + width * gsd, north), gsd, None))
            coords = {ydim: y, xdim: x}
            for name, dn in zip(GRIDS[gsd], bands, strict=True):
                variables[name] = xr.DataArray(np.where(self.valid[gsd], dn, np.float32(np.nan)), coords, (ydim, xdim))
        ds = xr.Dataset(variables, attrs={"title": self.name})
        origin = lattice(self.epsg)
        astray = origin is not None and max(map(abs, off((west, 0, 0, north), max(self.bands), origin))) > 0.01
        return ds if self.epsg is None or astray else write_crs(ds, CRS.from_epsg(self.epsg))


_KINDS = (".npz", ".zarr", ".safe", ".zip")


def scene_files(folder: Path) -> list[Path]:
    """What `read_scenes` reads of a folder, in order.

    Raises
    ------
    SourceError
        If there is nothing.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder of scenes")
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in _KINDS)
    if not paths:
        raise SourceError(f"no scenes in {folder}: give the folder that holds {', '.join(_KINDS)} files")
    return paths


def read_scenes(folder: str | Path) -> Iterator[Scene]:
    """All scenes of a folder, in the order of their names.

    Parameters
    ----------
    folder : path
        Holds any of: ``.npz`` files (see `xsen2.training.scenes.read_npz`), Zarr stores with a cube, ESA
        ``.SAFE`` folders and ``.zip`` files. Of cubes larger than 1200 x 1200 pixels, crops of that size on a regular
        grid are taken.

    Raises
    ------
    SourceError
        If there is nothing to read in the folder, or something in it is no scene: it cannot be read, or lacks bands.
        It is named, and never left out: scores over fewer scenes would be other scores.
    """
    folder = local(folder)
    paths = scene_files(folder)
    notes = notes_of(folder)
    for path in paths:
        # Two files that differ in their endings alone are two scenes.
        ambiguous = sum(other.stem == path.stem for other in paths) > 1
        name = printable(path.name if ambiguous else path.stem)
        if path.suffix.lower() == ".npz":
            yield from _npz_scenes(path, name, notes.get(path.stem, {}))
            continue
        from xsen2.sources.open import open_source

        try:
            yield from scenes_of(open_source(str(path)), name)
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
            when = {} if date is None else {"time": date}
            window = xr.Dataset({b: cube.bands[b].isel({**cut, **when}).variable for b in GRIDS[gsd]}).compute()
            dn = np.stack([to_nan(window[b].values, scales[b]) * scales[b].gain for b in GRIDS[gsd]])
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
    if not scenes:
        raise SourceError("there is no scene with a valid pixel: add scenes that have some")
    place = list(range(len(scenes)))
    for i, scene in enumerate(scenes):
        for j, other in enumerate(scenes[:i]):
            if scene.name.split("/")[0] == other.name.split("/")[0] or _overlap(scene, other):
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


def _overlap(first: Scene, second: Scene) -> bool:
    if first.epsg != second.epsg or first.epsg is None:
        return False

    def box(s: Scene) -> tuple[float, float, float, float]:
        height, width = s.valid[10].shape
        return s.corner[0], s.corner[1] - 10 * height, s.corner[0] + 10 * width, s.corner[1]

    (w, s, e, n), (w2, s2, e2, n2) = box(first), box(second)
    return w < e2 and w2 < e and s < n2 and s2 < n


def notes_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``scenes.json`` beside a folder says of its files, by their names without ending.

    Raises
    ------
    SourceError
        If the file exists, but cannot be read or holds notes that are not valid.
    """
    file = folder.absolute().parent / "scenes.json"
    if not os.path.lexists(file):
        return {}
    try:
        document = files.read_json(file, NOTES)
        entries = document.get(folder.absolute().name, {})
        notes = {str(name): _note(name, note) for name, note in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{file} has no valid notes on the scenes of {folder.absolute().name}: {printable(str(error), 300)}. "
            "Correct it, or move it elsewhere"
        ) from error
    return notes


def _note(name: str, note: dict[str, Any]) -> dict[str, Any]:
    """A checked note, its offset and corner as floats."""
    numbers = {key: float(note.get(key, 0)) for key in ("offset_dn", "ulx", "uly")}
    if not all(math.isfinite(x) and abs(x) < 1e8 for x in numbers.values()):
        raise ValueError(f"{name} has {numbers}")
    epsg, level = note.get("epsg"), note.get("level", "")
    if epsg is not None:
        if type(epsg) is not int:
            raise TypeError(f"{name} has epsg {epsg!r}, not a number")
        try:
            CRS.from_epsg(epsg)
        except CRSError as error:
            raise ValueError(f"{name} has epsg {epsg}, which is none") from error
    if not isinstance(level, str):
        raise TypeError(f"{name} has level {level!r}, not text")
    return {**note, **numbers, "epsg": epsg, "level": printable(level)}


def _npz_scenes(file: Path, name: str, note: Mapping[str, Any]) -> Iterator[Scene]:
    """Scenes of a ``.npz`` file, see `read_npz`: files with a leading patch axis give one per patch.

    The ``offset_dn`` of its note is subtracted.
    """
    raw, real = read_npz(file)
    stack = raw[10].ndim == 4
    offset = np.float32(note.get("offset_dn", 0))
    for i in range(len(raw[10]) if stack else 1):
        bands: dict[int, Array] = {}
        valid: dict[int, npt.NDArray[np.bool_]] = {}
        for gsd, x in raw.items():
            dn = x[i] if stack else x
            mask = real.get(gsd, np.ones((), bool))
            seen = np.isfinite(dn) & (dn > 0)
            valid[gsd] = (mask[i] if stack and mask.ndim else mask).astype(bool) & seen.all(axis=0)
            bands[gsd] = np.where(np.isfinite(dn), dn, 0).astype(np.float32) - offset
        yield Scene(
            f"{name}/{i}" if stack else name,
            bands,
            valid,
            note.get("level", ""),
            note.get("epsg"),
            (note.get("ulx", 0.0), note.get("uly", 0.0)),
        )
