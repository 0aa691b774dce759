"""Arrays of a ``.npz`` file that anyone may have written: checked by what they declare, then read."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from xsen2 import files
from xsen2.bands import GRIDS
from xsen2.errors import SourceError
from xsen2.text import printable

__all__ = ["read_npz"]

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
        If it is something else, damaged, larger than a tile, or unpacks to far more than it is.
    """
    try:
        with files.opened(file, MOST) as stream, zipfile.ZipFile(stream) as archive:
            inside = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = [f"{kind}{gsd}" for gsd in GRIDS for kind in ("b", "valid")]
            parts = {name: _declared(archive, name, inside[name]) for name in names if name in inside}
            _check(parts)
            found = {name: _read(archive, part) for name, part in parts.items()}
    except Exception as error:  # zipfile, zlib and numpy raise nearly everything for bytes that they did not write
        raise SourceError(
            f"{file} holds no scene with b10, b20 and perhaps b60 and valid10 …, or is damaged: "
            f"{printable(str(error) or type(error).__name__, 300)}. Copy it anew, or take it out of the folder"
        ) from error
    bands, masks = ({gsd: found[f"{kind}{gsd}"] for gsd in GRIDS if f"{kind}{gsd}" in found} for kind in ("b", "valid"))
    return bands, masks


def _declared(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> _Part:
    """What the header of an array says, if the rest of it can be as large as that."""
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
        found: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # the end, where the checksum is looked at
    return found
