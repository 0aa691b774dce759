"""Pixels to raw files, raw files to a COG, and the COG to its place."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.delayed import delayed

from xsen2.errors import StoreError
from xsen2.files import FULL, flush, is_url, named, refuse_link, writable
from xsen2.grid import geotransform
from xsen2.sinks.cog_layers import Layer
from xsen2.sinks.lock import abandoned
from xsen2.sinks.resume import RUN, digest

__all__ = ["File", "Scratch", "arrange", "left_by_the_dead", "lock_of", "missing", "piece"]


# Which files there will be, and which variables go into which.


@dataclass(frozen=True)
class File:
    """A file to be, and the variables that are its bands."""

    path: Path
    layers: tuple[Layer, ...]

    def run(self, number: int, tags: Mapping[str, str], compression: str) -> str:
        """What makes two calls write the same file, without computing a pixel.

        Parameters
        ----------
        number : int
            Of the date.
        tags : mapping
            Of the file.
        compression : str
        """
        about = [{k: v for k, v in vars(layer).items() if k != "data"} for layer in self.layers]
        pixels = [(layer.data.name, layer.dtype) for layer in self.layers]
        return digest([about, pixels, number, dict(tags), compression])


def arrange(
    given: str | os.PathLike[str], layers: Sequence[Layer], dates: Sequence[str | None], per_band: bool
) -> list[list[File]]:
    """Files by date.

    Parameters
    ----------
    given : path
        File, template or folder.
    layers : sequence of Layer
    dates : sequence of str or None
        Names of the dates.
    per_band : bool

    Raises
    ------
    StoreError
        If the path is none, or two files would have the same name.
    """
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else ""
    if isinstance(path, str) and (is_url(path) or path.startswith("/vsi")):
        raise StoreError(f"{path} is not on a local disk: write to one, and copy the finished files")
    path = writable(given)
    fields = {field for field in ("date", "band") if f"{{{field}}}" in path}
    if re.search("[{}]", path.replace("{date}", "").replace("{band}", "")):
        raise StoreError(f"{path}: a template may hold {{date}} and {{band}}, and no other braces")
    folder = not os.fspath(given).lower().endswith((".tif", ".tiff"))  # with a slash at its end it is one
    single = per_band or "band" in fields
    if folder:
        parts = [f"{{{k}}}" for k, used in (("date", dates[0] is not None), ("band", single)) if used]
        if not parts:
            raise StoreError(f"{path} is a folder, and no date or band names the file: give one that ends in .tif")
        path, fields = f"{path.rstrip('/')}/{'_'.join(parts)}.tif", fields | {p.strip("{}") for p in parts}
    if len(dates) > 1 and "date" not in fields:
        raise StoreError(
            f"{path} is one file, and there are {len(dates)} dates: put {{date}} into the name, give a folder, or pick "
            "a date with ds.isel(time=0)"
        )
    if "date" in fields and dates[0] is None:
        raise StoreError(f"{path}: there is no date to put in the place of {{date}}")
    if single and "band" not in fields and len(layers) > 1:
        raise StoreError(f"{path} is one file for {len(layers)} bands: put {{band}} into the name, or give a folder")
    groups = [(layer,) for layer in layers] if single else [tuple(layers)]
    files = [[File(_name(path, date, group[0].name), group) for group in groups] for date in dates]
    names = [str(file.path).lower() for of_date in files for file in of_date]  # some disks know no upper case
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise StoreError(f"two files would be called {twice[0]}: rename a variable")
    return files


def _name(path: str, date: str | None, band: str) -> Path:
    plain = re.sub(r"[^\w.-]", "_", band)
    return Path(writable(path.replace("{date}", date or "").replace("{band}", plain)))


_TYPES = {
    "uint8": "Byte",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
}
_COLOURS = {"B02": "Blue", "B03": "Green", "B04": "Red"}
SCRATCH = ".xsen2-cog"
TILE = 512
CACHE = 128
"""MB that GDAL may keep of what it reads and writes; by itself it takes a twentieth of the memory."""


def missing(runs: Mapping[Path, str], overwrite: bool) -> set[Path]:
    """Files that are still to be written.

    Parameters
    ----------
    runs : mapping
        The run of each file. One that exists says in its tags which run wrote it, and is whole.
    overwrite : bool
        All of them are.

    Raises
    ------
    StoreError
        There is another file in the place of one, or it cannot be written to.
    """
    out = set()
    for path, run in runs.items():
        if path.is_dir():
            raise StoreError(f"{path} is a folder: give the name of a file, or a folder whose name has no .tif")
        if path.exists() and not overwrite:
            if _run_of(path) == run:
                continue
            raise StoreError(
                f"{path} exists, and was not written by this call, or from other sources or parameters: write to "
                "another path, or replace it with overwrite=True"
            )
        out.add(path)
        above = next(parent for parent in path.parents if parent.exists())
        if not above.is_dir():
            raise StoreError(f"{above} is a file, so nothing can be written to {path}")
        if not os.access(above, os.W_OK):
            raise StoreError(f"{above} cannot be written to")
    return out


def _run_of(path: Path) -> str | None:
    import rasterio

    try:
        with rasterio.open(path) as file:
            run: str | None = file.tags().get(RUN)
    except rasterio.errors.RasterioIOError:  # something else
        return None
    return run


def scratch_of(target: Path) -> Path:
    """The hidden folder beside a file to be, in which it is made."""
    return target.parent / f".{target.name}{SCRATCH}"


def lock_of(target: Path) -> Path:
    """The lock of a file to be."""
    return target.parent / f".{target.name}.xsen2-lock"


def left_by_the_dead(targets: Iterable[Path]) -> list[Path]:
    """Files in the folders of these for which a run that has surely ended has left its scratch or its lock.

    Where there is a scratch folder and no lock, no run is under way: the lock is taken first and given back last. The
    locks of Zarr stores are left to those who write to them.
    """
    out = set()
    for folder in {target.parent for target in targets}:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            for end in (SCRATCH, ".xsen2-lock"):
                target = folder / name[1 : -len(end)]
                if not name.startswith(".") or not name.endswith(end) or not _can_be_a_file(target):
                    continue
                locked = lock_of(target)
                if abandoned(str(locked)) or (end == SCRATCH and not os.path.lexists(locked)):
                    out.add(target)
    return sorted(out)


def _can_be_a_file(target: Path) -> bool:
    return target.suffix.lower() in (".tif", ".tiff") and not target.is_dir()


class Scratch:
    """Hidden folders, one beside each file to be; what a killed run has left in them is removed.

    Parameters
    ----------
    targets : sequence of Path
        The raw pixels lie beside the first.
    run : str
        Name of a folder in each, so that a late task of another run finds nothing to write to.
    """

    def __init__(self, targets: Sequence[Path], run: str) -> None:
        self._places = [scratch_of(path) for path in targets]
        self.folders = [place / run for place in self._places]

    def make(self) -> None:
        """Make the folders, empty."""
        self.remove()
        for place, folder in zip(self._places, self.folders, strict=True):
            refuse_link(str(place))
            with _named(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.mkdir(exist_ok=True)
                folder.mkdir()

    def remove(self) -> None:
        """Delete the folders."""
        for place in self._places:
            shutil.rmtree(place, ignore_errors=True)  # which follows no link


@dataclass(frozen=True)
class Raw:
    """A file of nothing but pixels, which several threads or processes can write to at a time."""

    path: str
    shape: tuple[int, int]
    dtype: str

    def allocate(self) -> None:
        """Take the space on disk, so that a disk that is too small shows before anything is computed."""
        size = self.shape[0] * self.shape[1] * np.dtype(self.dtype).itemsize
        with open(self.path, "wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except (AttributeError, OSError) as error:
                if getattr(error, "errno", None) in FULL:
                    raise
                file.truncate(size)  # a system or disk that cannot

    def __setitem__(self, index: tuple[slice, slice], block: npt.NDArray[Any]) -> None:
        rows, columns = index
        pixels = np.ascontiguousarray(block, np.dtype(self.dtype).newbyteorder("<"))
        width, item = self.shape[1], pixels.dtype.itemsize
        with _named(Path(self.path)), open(self.path, "r+b") as file:
            for number, row in enumerate(pixels, rows.start or 0):
                file.seek((number * width + (columns.start or 0)) * item)
                file.write(row.data)


def piece(
    scratch: Scratch, files: Sequence[File], number: int, tags: Sequence[Mapping[str, str]], compression: str
) -> Any:
    """All that has to be done for one date, as a Dask object.

    Parameters
    ----------
    scratch : Scratch
    files : sequence of File
    number : int
        Of the date.
    tags : sequence of mappings
        Of each file.
    compression : str
    """
    raws: list[Raw] = []
    sources, orders = [], []
    for folder, file, attributes in zip(scratch.folders, files, tags, strict=True):
        mine = []
        for layer in file.layers:
            mine.append(Raw(str(scratch.folders[0] / f"{len(raws)}.raw"), layer.geobox.shape.yx, layer.dtype))
            with _named(file.path):
                mine[-1].allocate()
            sources.append(layer.data[number if layer.time is not None else 0])
            raws.append(mine[-1])
        described = folder / "pixels.vrt"
        with _named(file.path):
            described.write_bytes(_vrt(file.layers, mine, attributes))
        averaged = not any(layer.classes for layer in file.layers)
        orders.append((str(described), str(folder / "cog.tif"), str(file.path), compression, averaged))
    stored = da.store(sources, raws, lock=False, compute=False)  # type: ignore[arg-type]  # any __setitem__ does
    return delayed(_finish)(stored, orders)


def _finish(stored: Any, orders: Sequence[tuple[str, str, str, str, bool]]) -> None:
    """Make each file of its pixels, and put it in its place."""
    for described, cog, target, compression, averaged in orders:
        _make(described, cog, target, compression, averaged)
        with _named(Path(target)):
            flush([cog])  # the name must not outlive the pixels in a power cut
            os.replace(cog, target)


def _make(described: str, cog: str, target: str, compression: str, averaged: bool) -> None:
    import rasterio
    import rasterio.shutil
    from rasterio.errors import RasterioError

    options = {
        "BLOCKSIZE": TILE,
        "COMPRESS": compression.upper(),
        "PREDICTOR": "YES",
        "OVERVIEW_RESAMPLING": "AVERAGE" if averaged else "NEAREST",
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": "ALL_CPUS",
    }
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE):
            rasterio.shutil.copy(described, cog, driver="COG", **options)
            complete = _is_complete(described, cog)
    except (RasterioError, rasterio._err.CPLE_BaseError, SystemError) as error:
        raise StoreError(f"{target} could not be made, perhaps because the disk is full: {error}") from error
    if not complete:
        raise StoreError(f"{target} could not be made: what was written reads otherwise. Is the disk full?")


def _is_complete(described: str, cog: str) -> bool:
    """Read back everything: on a full disk GDAL may leave tiles out without an error.

    Pixels must be the same to the bit. Overviews must be readable, and not empty where there are pixels.
    """
    import rasterio

    with rasterio.open(described) as source, rasterio.open(cog) as file:
        full = np.ones((file.count, *(-(-n // TILE) for n in file.shape)), bool)
        for i, j, window in _tiles(file.shape):
            want, got = source.read(window=window), file.read(window=window)
            if not np.array_equal(want, got, equal_nan=want.dtype.kind == "f"):
                return False
            full[:, i, j] = _valid(want, file.nodata).all(axis=(1, 2))
        factors = file.overviews(1)
    for level, factor in enumerate(factors):
        with rasterio.open(cog, overview_level=level) as file:
            for i, j, window in _tiles(file.shape):
                below = full[:, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].any(axis=(1, 2))
                if (below & ~_valid(file.read(window=window), file.nodata).any(axis=(1, 2))).any():
                    return False
    return True


def _tiles(shape: tuple[int, int]) -> Iterator[tuple[int, int, tuple[tuple[int, int], tuple[int, int]]]]:
    for i, j in np.ndindex(*(-(-n // TILE) for n in shape)):
        top, left = i * TILE, j * TILE
        yield i, j, ((top, min(top + TILE, shape[0])), (left, min(left + TILE, shape[1])))


def _valid(pixels: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.bool_]:
    if nodata is None:
        return np.ones(pixels.shape, bool)
    valid: npt.NDArray[np.bool_] = ~np.isnan(pixels) if np.isnan(nodata) else pixels != nodata
    return valid


def _named(target: Path) -> AbstractContextManager[None]:
    """Turn errors of the disk into a StoreError that says what to do."""
    return named(
        target,
        "then run the same call again: files that are whole are kept",
        "while it is made, all its pixels lie uncompressed beside it, so free space or write to another disk",
    )


def _vrt(layers: Sequence[Layer], raws: Sequence[Raw], tags: Mapping[str, str]) -> bytes:
    """GDAL's description of raw files, with all that the COG shall say about them."""
    grid = layers[0].geobox
    assert grid.crs is not None
    root = ElementTree.Element("VRTDataset", rasterYSize=str(grid.shape.y), rasterXSize=str(grid.shape.x))
    ElementTree.SubElement(root, "SRS").text = grid.crs.to_wkt()
    ElementTree.SubElement(root, "GeoTransform").text = geotransform(grid.affine).replace(" ", ", ")
    _metadata(root, tags)
    for number, (layer, raw) in enumerate(zip(layers, raws, strict=True), 1):
        kind = _TYPES[layer.dtype]
        band = ElementTree.SubElement(
            root, "VRTRasterBand", dataType=kind, band=str(number), subClass="VRTRawRasterBand"
        )
        size = np.dtype(layer.dtype).itemsize
        elements = {
            "Description": layer.name,
            "UnitType": layer.unit,
            "NoDataValue": "" if layer.nodata is None else f"{layer.nodata:.17g}",
            "Scale": "" if layer.scale == 1 else repr(layer.scale),
            "ColorInterp": _COLOURS.get(layer.tags.get("band", ""), "Undefined"),
        }
        for key, value in elements.items():
            if value:
                ElementTree.SubElement(band, key).text = _plain(value)
        _metadata(band, layer.tags)
        _metadata(band, layer.imagery, domain="IMAGERY")
        ElementTree.SubElement(band, "SourceFilename", relativeToVRT="0").text = raw.path
        for key, value in (
            ("ImageOffset", "0"),
            ("PixelOffset", str(size)),
            ("LineOffset", str(size * raw.shape[1])),
            ("ByteOrder", "LSB"),
        ):
            ElementTree.SubElement(band, key).text = value
    return ElementTree.tostring(root, encoding="unicode").encode("utf-8", "replace")


def _metadata(parent: ElementTree.Element, tags: Mapping[str, str], domain: str = "") -> None:
    if tags:
        node = ElementTree.SubElement(parent, "Metadata", {"domain": domain} if domain else {})
        for key, value in tags.items():
            ElementTree.SubElement(node, "MDI", key=_plain(key).replace("=", "_")).text = _plain(value)


def _plain(value: str) -> str:
    """Text without the characters that XML cannot hold."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", " ", value)
