"""Write a cube to cloud-optimised GeoTIFFs (COG), block by block, each of which appears when it is whole.

The pixels of one date go into raw files in a hidden folder beside the target, which workers can write to in any
order; a VRT describes them, GDAL's COG driver makes the file of it, and a rename puts that in its place.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import xarray as xr

from xsen2.arguments import names_of
from xsen2.bands import find
from xsen2.cube import canonicalise
from xsen2.errors import BandError, GridError, StoreError, TimeError
from xsen2.files import named
from xsen2.grid import located
from xsen2.progress import ProgressLike
from xsen2.radiometry import PACKINGS, values_of
from xsen2.sinks.cog_file import File, Scratch, arrange, left_by_the_dead, lock_of, missing, piece
from xsen2.sinks.cog_layers import Layer, dates_of, layer_of, tags_of
from xsen2.sinks.lock import locked
from xsen2.sinks.pieces import run_pieces
from xsen2.sinks.resume import RUN
from xsen2.sinks.stac_item import write_item
from xsen2.sinks.store import Disk

__all__ = ["to_cog"]

_COMPRESSIONS = ("deflate", "zstd")


def to_cog(
    ds: xr.Dataset | xr.DataArray | xr.DataTree,
    path: str | os.PathLike[str],
    *,
    bands: Sequence[str] | None = None,
    per_band: bool = False,
    dtype: str = "uint16",
    compression: str = "deflate",
    overwrite: bool = False,
    stac: bool = False,
    progress: ProgressLike = True,
) -> list[Path]:
    """Compute a cube and write it to cloud-optimised GeoTIFFs; after a kill the same call goes on with the next file.

    Parameters
    ----------
    ds : xarray.Dataset, xarray.DataArray or xarray.DataTree
        Bands (DN or reflectance, NaN = nodata), their standard errors, indices or masks, ``(y, x)`` or
        ``(time, y, x)``, with a CRS.
    path : path
        A file, a template or a folder; ``~`` is your home. ``out.tif`` is one file. In ``out/{date}_{band}.tif``,
        ``{date}`` becomes 20240601 (20240601T103021 where two dates share a day) and ``{band}`` the name of the
        variable. What does not end in .tif or .tiff is a folder, and the files in it are called ``{date}_{band}.tif``,
        ``{date}.tif`` or ``{band}.tif``: the date where the cube has one, the band with `per_band`. Folders are made.
    bands : sequence of str, optional
        Variables to write, in this order, under their own or any known name. By default all bands and their standard
        errors (``B05_se``), and nothing else; all variables where there are no bands. So SCL, other masks and indices
        beside bands are written only if they are named here.
    per_band : bool
        Whether each variable becomes a file of its own; ``{band}`` in `path` says the same. Otherwise all of a date
        are the bands of one file, and must share grid, data type and nodata value.
    dtype : {"uint16", "int16", "float32"}
        How bands and their standard errors are stored:

        ========= ======= ==============================================================
        dtype     nodata  values
        ========= ======= ==============================================================
        uint16    0       rounded; below 1, negatives too: 1; above 65535: 65535
        int16     -32768  rounded; negatives kept; above 32767 (reflectance 3.3): 32767
        float32   NaN     exact
        ========= ======= ==============================================================

        Reflectance becomes DN with the scale 1e-4 in the file, which GDAL and rioxarray know how to apply. Other
        variables keep their type: floats become float32 with NaN, booleans uint8, and integers stay as they are,
        with the nodata value that they declare, if any.
    compression : {"deflate", "zstd"}
        With a predictor; lossless. ``"deflate"`` is read everywhere, ``"zstd"`` is faster to write.
    overwrite : bool
        Start again and replace files that exist, this call's too; each stands until the new one is whole.
    stac : bool
        Whether a STAC item lies beside the files of each date, ``NAME.json``; see `xsen2.sinks.stac_item.stac_item`.
    progress : bool or callable
        Show a bar, on a terminal and in a notebook, with a cluster and without; or a function that is called with a
        `xsen2.Progress` after each block, and stops the call if it returns False or raises: files that are whole
        stay, of the others nothing is left.

    Returns
    -------
    list of pathlib.Path
        The files, by date, then by band.

    Raises
    ------
    StoreError
        A file exists that is not of this call; `path` does not tell files apart; the variables cannot share a file, or
        one has no type that a GeoTIFF knows; an argument is not one of those above; another run is writing one of the
        files. While writing: the disk is full, or a file fails.
    BandError
        `bands` names what is not there.
    Cancelled
        `progress` stopped it.
    CRSError, GridError, TimeError
        There is no CRS; coordinates are missing or uneven, or bands of one file on several grids; dates differ.
    RadiometryError
        Bands are raw, with scale and offset still to be applied; or, when computed, look like reflectance where DN are
        expected or the other way round, or are integers that have wrapped round.

    Notes
    -----
    Files have tiles of 512 pixels and overviews, averaged over the pixels with data, of classes the nearest. Each band
    has its name as description, its unit, its attributes as tags, and its wavelength also in GDAL's IMAGERY domain,
    in micrometres. The attributes of the dataset are tags of the file: method and hash of the weights
    (``xsen2_method``), ``xsen2_consistency``, ``offset``, ``source``, ``attribution``; so are coordinates of the date.

    One date is computed at a time, blocks are written when they are made: memory depends on the chunks, not on the
    image. Uncompressed pixels of one date lie meanwhile in a hidden folder beside the target, ``.NAME.xsen2-cog``, and
    ``.NAME.xsen2-lock`` names the process that is writing it: no other run may, until that has ended. A killed run
    leaves these two behind, and the next call that writes into the folder, or finds its files finished there, deletes
    them. (On a disk that knows no locks, as some network disks, the next one for the same file does, after a minute.)
    On a cluster the workers must see the folder of the target.

    A file that has its name is whole. It tells in the tag ``xsen2_run`` what it was made of: type, compression, tags,
    date, and Dask's names for the pixels. The same call leaves out the files that it finds finished. Dask's names
    change with whatever the pixels are read from, links that are signed anew included: files of before are refused
    then, for nobody could tell whether they hold the same pixels.

    Examples
    --------
    >>> import tempfile, xsen2
    >>> sr = xsen2.sample().isel(time=[0]).dsen2.superresolve(method="bicubic")
    >>> files = sr.dsen2.to_cog(tempfile.mkdtemp() + "/all.tif", progress=False)
    >>> files[0].name
    'all.tif'
    >>> files = sr.dsen2.to_cog(tempfile.mkdtemp() + "/{band}.tif", bands=["B11", "B12"], progress=False)
    >>> [file.name for file in files]
    ['B11.tif', 'B12.tif']
    """
    if dtype not in (*PACKINGS, "float32"):
        raise StoreError(f"bands cannot be stored as {dtype!r}: use one of uint16, int16, float32")
    if compression not in _COMPRESSIONS:
        raise StoreError(f"compression={compression!r}: use one of {', '.join(_COMPRESSIONS)}")
    if isinstance(ds, xr.DataTree):
        ds = canonicalise(ds)
    if isinstance(ds, xr.DataArray):
        ds = ds.to_dataset(name=ds.name or "value")
    ds = located(ds)
    values = values_of(ds, _chosen(ds, bands), dtype, errors=dtype, repack=True)
    layers = [layer_of(ds, name, meaning) for name, meaning in values.items()]
    dim = _time(layers)
    count = 1 if dim is None else ds.sizes[dim]
    dates = dates_of(ds, dim, count)
    files = arrange(path, layers, dates, per_band)
    for group in files:
        for file in group:
            _check_shared(file)
    paths = [file.path for group in files for file in group]
    tags = [tags_of(ds, dim, number) for number in range(count)]
    runs = {file.path: file.run(n, tags[n], compression) for n, group in enumerate(files) for file in group}
    left = missing(runs, overwrite)
    _sweep(paths)
    if not left:
        return _described(paths, files) if stac else paths

    scratches: dict[int, Scratch] = {}

    def pieces(run: str, todo: Sequence[tuple[int, list[File]]]) -> Iterator[Any]:
        for place, (number, unfinished) in enumerate(todo):
            scratches[place] = Scratch([file.path for file in unfinished], run)
            scratches[place].make()
            file_tags = [tags[number] | {RUN: runs[file.path]} for file in unfinished]
            yield piece(scratches[place], unfinished, number, file_tags, compression)

    with _locked(paths) as run:
        left = missing(runs, overwrite)  # another run may just have finished
        groups = [(number, [file for file in group if file.path in left]) for number, group in enumerate(files)]
        todo = [(number, unfinished) for number, unfinished in groups if unfinished]
        blocks = [
            sum(layer.data[0].npartitions for file in unfinished for layer in file.layers) for _, unfinished in todo
        ]
        try:
            run_pieces(
                pieces(run, todo),
                blocks,
                lambda place: scratches.pop(place).remove(),
                progress=progress,
                about=f"writing {path}",
                after="Files that are whole stay, and the same call goes on with the next",
            )
        finally:
            for scratch in scratches.values():
                scratch.remove()
    return _described(paths, files) if stac else paths


def _described(paths: list[Path], groups: Sequence[Sequence[File]]) -> list[Path]:
    """The files, once there is an item beside those of each date."""
    for group in groups:
        write_item([file.path for file in group])
    return paths


def _sweep(paths: Sequence[Path]) -> None:
    """Delete what killed runs have left in these folders, of any file, where it is sure that they have ended."""
    for target in left_by_the_dead(paths):
        with suppress(OSError, StoreError), _locked([target]) as run:  # it is only tidying up
            Scratch([target], run).remove()


@contextmanager
def _locked(paths: Sequence[Path]) -> Iterator[str]:
    """Be the only run that writes these files; the name of the run."""
    locks = [(Disk(str(lock.parent)), lock.name) for lock in map(lock_of, paths)]
    with ExitStack() as stack:
        with named(paths[0].parent, "then write again"):
            claims = stack.enter_context(locked(locks, [str(path) for path in paths]))
        yield claims[0].run


def _chosen(ds: xr.Dataset, bands: Sequence[str] | None) -> list[str]:
    """Names of the variables to write."""
    planes = [str(name) for name, v in ds.data_vars.items() if v.ndim >= 2]
    if bands is None:
        bands_and_errors = [n for n in planes if find(n) or find(n.removesuffix("_se"))]
        if not planes:
            raise BandError("there is nothing to write: no variable has rows and columns")
        return bands_and_errors if any(find(n) for n in bands_and_errors) else planes
    out: list[str] = []
    for band in names_of(bands, "bands", BandError):
        known = [n for n in planes if n == band] or [n for n in planes if find(n) and find(n) == find(band)]
        if not known:
            raise BandError(f"there is no {band!r} to write, only {', '.join(planes) or 'nothing'}")
        out += [n for n in known[:1] if n not in out]
    if not out:
        raise BandError("bands=[] leaves nothing to write: name some, or leave it out for all")
    return out


def _time(layers: Sequence[Layer]) -> Hashable | None:
    """The time dim."""
    dims = {layer.time for layer in layers if layer.time is not None}
    if len(dims) > 1:
        raise TimeError(
            f"the variables have several time dims ({', '.join(sorted(map(str, dims)))}): rename them to one"
        )
    return next(iter(dims), None)


def _check_shared(file: File) -> None:
    """Refuse variables that cannot be the bands of one GeoTIFF."""
    first = file.layers[0]
    for layer in file.layers[1:]:
        if layer.geobox != first.geobox:
            raise GridError(
                f"{first.name} and {layer.name} are on different grids, and a file has one: make all bands 10 m bands "
                "first with ds.dsen2.superresolve(), name bands of one grid with bands=[…], or use per_band=True"
            )
        if (layer.dtype, str(layer.nodata), layer.scale) != (first.dtype, str(first.nodata), first.scale):
            raise StoreError(
                f"{first.name} is {first} and {layer.name} is {layer}, and a file has one type and one nodata "
                "value: use per_band=True, write them with two calls and bands=[…], or bands and indices with "
                "dtype='float32'"
            )
