"""Write a cube to a Zarr store, region by region, so that a killed run can be taken up again.

While a store is being written it has a folder ``.xsen2`` and no group metadata, so nothing opens it by
mistake. The folder says which run the store belongs to, and has one marker per region, written when
all chunks of that region are there. The last step writes the group's metadata and removes the folder.
"""

from __future__ import annotations

import os

import xarray as xr

from xsen2.arguments import whole
from xsen2.cube import canonicalise
from xsen2.errors import StoreError
from xsen2.sinks._zarr_layout import fingerprint, georeferenced, loaded, skeleton
from xsen2.sinks._zarr_pixels import probe, writes
from xsen2.sinks.disk import named
from xsen2.sinks.pack import PACKINGS, clean
from xsen2.sinks.regions import Grid, plan
from xsen2.sinks.run import run_pieces
from xsen2.sinks.state import State

__all__ = ["to_zarr"]


def to_zarr(
    ds: xr.Dataset | xr.DataTree,
    store: str | os.PathLike[str],
    *,
    dtype: str = "int16",
    chunks: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Compute a cube and write it to a Zarr store; after a kill the same call goes on where it was.

    Bands that are DN are stored as they are in memory, without scale or offset: what is reopened can be
    used like what was written, and other programs see the numbers they know from Sentinel-2 products. Bands that are
    reflectance are stored as DN with a ``scale_factor`` of 1e-4, so that they are reflectance again when they are
    reopened; which they are, their attribute ``units`` says, "1" or "1e-4", or the encoding that CF decoding left.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        Bands (DN or reflectance, NaN = nodata) on one grid or several, ``(y, x)`` or ``(time, y, x)``, with a CRS.
        Other variables are stored in their own dtype. Coordinates, and what is not a plane of numbers
        (dates, text, means over the image), are computed at once, in memory.
    store : path or URL
        A local folder, or a URL that fsspec can write to (``s3://…`` with s3fs installed, its
        credentials in the environment).
    dtype : {"int16", "uint16", "float32"}
        How float bands are stored:

        ========= ======= ==============================================================
        dtype     nodata  values
        ========= ======= ==============================================================
        int16     -32768  rounded; negatives kept; above 32767 (reflectance 3.3): 32767
        uint16    0       rounded; below 1: 1; above 65535: 65535
        float32   NaN     exact
        ========= ======= ==============================================================

        Bands that are integers already keep their dtype and nodata value. What is not finite, or over 1e6 DN in
        magnitude, is nodata. Standard errors are float32.
    chunks : int, optional
        Rows and columns of a chunk of the finest grid, coarser grids proportionally. By default the
        largest divisor of the Dask chunks up to 1200, so that nothing is rechunked. One date per chunk.
    overwrite : bool
        Start again, even from unfinished work of this run, and replace the Zarr store at `store`, which
        `ds` may be read from: until the new one is finished it stands, and both need their space on
        disk. Local folders only; at a URL nothing that can be read is ever replaced.
    progress : bool
        Show a bar, in a terminal and in a notebook, with a cluster and without.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily. Nodata is NaN again.

    Raises
    ------
    CRSError
        `ds` has no CRS.
    RadiometryError
        Bands are raw, with scale and offset still to be applied; or, when computed, look like reflectance where DN are
        expected or the other way round, or are integers that have wrapped round.
    StoreError
        `store` holds something else, or a result that may be another run's; another run is writing to it; metadata
        cannot be stored. While writing: the disk is full, or cannot be written to.

    Notes
    -----
    A region is some rows of chunks of one date, or several small dates. Peak memory depends on the
    chunks and not on the number of dates. Until the last region is written the store does not open.
    A store that this same call has finished before is returned at once, without computing.

    Whatever stops a run, a kill, a full disk or a read that fails, leaves whole chunks behind, and the same call goes
    on from there once the cause is gone. One run at a time may write to a store; who reads it meanwhile does not
    matter. The lock is a file ``.NAME.xsen2-lock`` beside the store (``.xsen2/lock`` in a store at a URL), which names
    the process that holds it. That of a process which has died on this machine is taken over at once; that of another
    machine, container, or an earlier boot after a minute in which its owner has not touched it. On disks and object
    stores that cannot make a file only if it is not there, two runs that start in the same second may both begin; the
    one that came first then stops before it writes its next block. Workers must see the lock where the store is.

    Calls are the same run when grids, names, dtypes, attributes, coordinates, chunks and Dask's names
    for the pixels agree. Dask's names change with whatever the pixels are read from, links that are
    signed anew included. A finished store is then refused: whether it holds the same pixels nobody
    could tell without computing them all. Unfinished work is taken up if the steps of the computation
    are the same, and one chunk of each region that was written is the same to the bit when it is
    computed again. So give the same call the same inputs: a change that neither shows, another
    threshold say, would hold in the regions to come only. Networks compute in what each machine is
    fastest in: give `superresolve` a `dtype` if one kind of machine begins a store and another ends it. On
    a GPU the last digits depend on how much memory was free, so it may refuse work whose links changed.

    Examples
    --------
    >>> import tempfile, xsen2
    >>> cube = xsen2.sample()
    >>> back = cube.dsen2.to_zarr(tempfile.mkdtemp() + "/cube.zarr", progress=False)
    >>> back["B02"].dtype, back["B02"].rio.crs == cube["B02"].rio.crs
    (dtype('float32'), True)
    """
    import rioxarray  # noqa: F401  registers .rio

    if dtype not in (*PACKINGS, "float32"):
        raise StoreError(f"bands cannot be stored as {dtype!r}: use one of {', '.join([*PACKINGS, 'float32'])}")
    if chunks is not None:
        chunks = whole(chunks, "chunks", StoreError, least=1, hint="is no size: use a number of pixels, or None")
    if isinstance(ds, xr.DataTree):
        ds = canonicalise(ds)
    state = State(os.fspath(store))
    if overwrite or not state.settled:
        with state.locked() as place:
            _write(ds, place, dtype, chunks, overwrite, progress)
    else:
        *_, run = _planned(ds, dtype, chunks)
        _check_same(state, run)
    back: xr.Dataset = xr.open_zarr(state.root, decode_coords="all", chunks={})
    return back


def _write(ds: xr.Dataset, place: State, dtype: str, chunks: int | None, overwrite: bool, progress: bool) -> None:
    """Begin or go on, until the store is finished."""
    with named(place.root):
        place.mend()
    ds, grids, run = _planned(ds, dtype, chunks)
    state = place.beside() if overwrite else place
    if not overwrite and _check_same(state, run) not in (None, run):
        probe(state, grids)
        if state.ready:
            with named(place.root):
                state.adopt(run)
    if overwrite or not state.complete:
        if overwrite or not state.ready:
            with named(place.root):
                state.begin(run)
                skeleton(ds, grids, state.root, run)
                state.set_ready()
        todo = [(g, r) for g, grid in enumerate(grids) for r in range(len(grid.regions)) if not state.done(g, r)]
        run_pieces(
            writes(grids, state, todo),
            [grids[g].blocks(grids[g].regions[r]) * len(grids[g].arrays) for g, r in todo],
            lambda i: state.mark(*todo[i]),
            progress=progress,
        )
    with named(place.root):
        state.finish()
        if state is not place:
            place.replace(state)


def _planned(ds: xr.Dataset, dtype: str, chunks: int | None) -> tuple[xr.Dataset, list[Grid], str]:
    """What there is to write, with all but the pixels in memory, and the run's fingerprint."""
    ds = georeferenced(clean(ds))
    grids = plan(ds, dtype, chunks)
    ds = loaded(ds, grids)
    return ds, grids, fingerprint(ds, grids)


def _check_same(state: State, run: str) -> str | None:
    """Which run the store belongs to; a finished one must be this."""
    found = state.check(run)
    if found not in (None, run) and state.complete:
        raise StoreError(
            f"{state.root} is finished, and may belong to another run: its pixels have other sources or other "
            "parameters. Open it as it is, write to another path, or replace it with overwrite=True"
        )
    return found
