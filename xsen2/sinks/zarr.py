"""Write a cube to a Zarr store, region by region, so that a killed run can be taken up again.

While a store is being written it has a folder ``.xsen2`` and no group metadata, so nothing opens it by
mistake. The folder says which run the store belongs to, and has one marker per region, written when
all chunks of that region are there. The last step writes the group's metadata and removes the folder.
All of this is keys of a Zarr store, whatever it lies in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xsen2.arguments import whole
from xsen2.bands import find, find_layer
from xsen2.cube import canonicalise
from xsen2.errors import StoreError
from xsen2.files import named
from xsen2.grid import axes_of, filled, located, spacing
from xsen2.progress import ProgressLike
from xsen2.radiometry import PACKINGS, clean
from xsen2.sinks.append import add, check_dim
from xsen2.sinks.eopf_layout import Part, parts_of
from xsen2.sinks.geozarr import bare
from xsen2.sinks.overviews import Level, declare, factors_of, levels_of, write_levels
from xsen2.sinks.pieces import on_a_cluster
from xsen2.sinks.regions import (
    Grid,
    fingerprint,
    georeferenced,
    loaded,
    plan,
    probe,
    skeleton,
    time_encodings,
    write_regions,
)
from xsen2.sinks.resume import State, quiet, sections, stamp
from xsen2.sinks.stac_item import write_item
from xsen2.sinks.store import Disk, Other, place_of
from xsen2.sources.eopf import open_eopf

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["to_zarr"]

SOURCES = ".xsen2/sources"
"""Note in a half-written store of the local files that its pixels are read from, as they were when it was begun."""


def to_zarr(
    ds: xr.Dataset | xr.DataTree,
    store: str | os.PathLike[str] | Store,
    *,
    dtype: str | None = None,
    chunks: int | None = None,
    append_dim: str | None = None,
    append: bool = False,
    overwrite: bool = False,
    overviews: bool | Sequence[int] = False,
    layout: str | None = None,
    stac: bool = False,
    progress: ProgressLike = True,
) -> xr.Dataset:
    """Compute a cube and write it to a Zarr store, or add its dates to one; killed, the same call goes on where it was.

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
    store : path, URL or zarr.abc.store.Store
        A local folder (``~`` is your home); a URL that fsspec can write to (``s3://…`` with s3fs installed, its
        credentials in the environment); or any store of zarr-python that can be written to and listed. One in memory,
        ``zarr.storage.MemoryStore()``, is for calls that are computed in this process.
    dtype : {"int16", "uint16", "float32"}, optional
        How float bands are stored. By default as int16, or as the store has them that is appended to:

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
        largest divisor of the Dask chunks up to 1200, so that nothing is rechunked, or the chunks of the store that is
        appended to. One date per chunk.
    append_dim : str, optional
        ``"time"`` adds the dates to the store that is there, or begins it. Each date is stored once: one that the store
        holds already is left out if this call wrote it or has the same pixels, for which they are computed, and refused
        if not. New dates come after the last one there. Grids, variables, data types, CRS, units, and the attributes
        that say how pixels were made (``xsen2_…``) must be those of the store. Of other attributes texts are joined,
        as of the sources, and what differs otherwise is left out.
    append : bool
        The same as ``append_dim="time"``.
    overwrite : bool
        Start again, even from unfinished work of this run, and replace the Zarr store at `store`, which
        `ds` may be read from: until the new one is finished it stands, and both need their space on
        disk. Local folders only; elsewhere nothing that can be read is ever replaced.
    overviews : bool or sequence of int
        Whether the store holds coarser levels as well, for maps: each pixel the mean of the valid ones under it in the
        level before, of classes one of them. Halved until no side is longer than 256 pixels, or by the factors given,
        ``(2, 4, 8)``. Each is a group, ``xr.open_zarr(store, group="overviews/2")``, and all of them a tree,
        ``xr.open_datatree(store, group="overviews")``. Dates that are appended get the levels that the store has.
    layout : {"eopf"}, optional
        Write the groups of EOPF's products, which `xsen2.open_eopf` and other programs read: each band under
        ``measurements/reflectance``, in ``r10m``, ``r20m`` or ``r60m`` by its pixel size, with SCL, CLASSI and CLDPRB
        where these products have them. One date; bands are uint16 with ESA's offset and ``scale_factor``, as in
        products of the cube's processing baseline, so what lies below -999 DN becomes that. With `overviews`, for bands
        on one grid, levels lie beside it (``r10m_2x`` …), and the group lists them all as ``multiscales``.
    stac : bool
        Whether a STAC item lies beside the store, ``NAME.json``; see `xsen2.sinks.stac_item.stac_item`. Local folders
        only.
    progress : bool or callable
        Show a bar, on a terminal and in a notebook, with a cluster and without; or a function that is called with a
        `xsen2.Progress` after each block, and stops the call if it returns False or raises: blocks that are being
        computed are finished, and the same call goes on from there.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily. Nodata is NaN again.

    Raises
    ------
    Cancelled
        `progress` stopped it.
    CRSError
        `ds` has no CRS, or several.
    GridError, TimeError
        A variable has no pixels, or no dates; coordinates of bands are missing, uneven, or none.
    RadiometryError
        Bands are raw, with scale and offset still to be applied; or, when computed, look like reflectance where DN are
        expected or the other way round, or are integers that have wrapped round.
    StoreError
        `store` is no path, holds something else, or a result that may be another run's; another run is writing to it;
        dates cannot be appended to it; metadata cannot be stored; something that would be deleted is not of a Zarr
        store. While writing: the disk is full, or cannot be written to.

    Notes
    -----
    A region is some rows of chunks of one date, or several small dates. Peak memory depends on the
    chunks and not on the number of dates. Until the last region is written the store does not open.
    A store that this same call has finished before is returned at once, without computing.

    Times are stored as nanoseconds since 1970, which hold any date exactly, so that a date that is added later fits,
    by this function or by xarray's own ``append_dim``; or as ``ds.time.encoding`` says, if that holds all dates
    exactly.

    Dates that are appended come whole and at once: until all of them are on disk, who opens the store sees the store of
    before, and so it stays if the run is killed; the same call then goes on. (Who opens it with ``consolidated=False``
    reads the metadata of each array by itself, which follow one by one in an instant: if the run is killed in that,
    they disagree until the next append.) A series that is built date by date has the bytes of one that was written at
    once, except ``xsen2_run``, which says by which call each date was written.

    Whatever stops a run, a kill, a full disk or a read that fails, leaves whole chunks behind, and the same call goes
    on from there once the cause is gone. One run at a time may write to a store; who reads it meanwhile does not
    matter. The lock is a file ``.NAME.xsen2-lock`` beside the store, which names the process that holds it, and on
    which that process holds a lock of the operating system (by filelock): it is free as soon as the process ends,
    however that comes, and on network disks on all machines that lock through the same server. Elsewhere than on a disk
    the lock is ``.xsen2/lock`` in the store, and so it is, beside the store, on disks that know no locks, as some
    parallel ones: there its owner changes it every ten seconds, and one that has not been changed for a minute is taken
    over. Two runs that start there in the same second may both begin; the one that came first then stops before it
    writes its next block. Workers must see the lock where the store is.

    Calls are the same run when grids, names, dtypes, attributes, coordinates, chunks and Dask's names
    for the pixels agree. Dask's names change with whatever the pixels are read from, links that are
    signed anew included. A finished store is then refused: whether it holds the same pixels nobody
    could tell without computing them all. Unfinished work is taken up if the steps of the computation
    are the same, and one chunk of each region that was written is the same to the bit when it is
    computed again. So give the same call the same inputs: a change that neither shows, another
    threshold say, would hold in the regions to come only. Local files and Zarr stores that are read from, and that the
    graph names, are compared by size and time of change: if one is not what it was when the work was begun, the same
    call refuses to go on. What is rewritten in place behind a URL, or under a store that has been finished, is not
    seen: nothing of it is read again. Networks compute in what each machine is
    fastest in: give `superresolve` a `dtype` if one kind of machine begins a store and another ends it. On
    a GPU the last digits depend on how much memory was free, so it may refuse work whose links changed.

    Examples
    --------
    >>> import tempfile, xsen2
    >>> cube = xsen2.sample()[["B02", "B03"]]
    >>> back = cube.dsen2.to_zarr(tempfile.mkdtemp() + "/cube.zarr", progress=False)
    >>> back["B02"].dtype, back["B02"].rio.crs == cube["B02"].rio.crs
    (dtype('float32'), True)

    A series that grows, a date a week; the first call begins it:

    >>> path = tempfile.mkdtemp() + "/series.zarr"
    >>> for date in range(cube.sizes["time"]):
    ...     back = cube.isel(time=[date]).dsen2.to_zarr(path, append_dim="time", progress=False)
    >>> back.sizes["time"]
    2
    """
    import rioxarray  # noqa: F401  registers .rio

    if dtype is not None and dtype not in (*PACKINGS, "float32"):
        raise StoreError(f"bands cannot be stored as {dtype!r}: use one of {', '.join([*PACKINGS, 'float32'])}")
    if chunks is not None:
        chunks = whole(chunks, "chunks", StoreError, least=1, hint="is no size: use a number of pixels, or None")
    dim = "time" if append and append_dim is None else append_dim
    if dim is not None and overwrite:
        raise StoreError("append_dim adds to what overwrite=True would replace: leave out one of the two")
    if isinstance(ds, xr.DataTree):
        ds = canonicalise(ds)
    if dim is not None:
        check_dim(ds, dim)
    target = place_of(store)
    if isinstance(target, Other) and target.in_memory and on_a_cluster():
        raise StoreError(
            f"{target.root} is in the memory of this process, where the workers of the cluster do not write: give a "
            "path or URL that they reach, or compute here, with dask.config.set(scheduler='threads')"
        )
    if layout not in (None, "eopf"):
        raise StoreError(f"layout={layout!r}: give 'eopf' for the groups of EOPF's products, or leave it out")
    if layout and (dim is not None or stac or dtype not in (None, "uint16")):
        raise StoreError(
            "layout='eopf' holds one date in uint16, with an item in its root: leave out append, stac and dtype"
        )
    if stac and not isinstance(target, Disk):
        raise StoreError(f"stac=True writes beside a local folder, which {target.root} is not: leave it out")
    state = State(target)
    kind = dtype or ("uint16" if layout else "int16")
    if overwrite or dim is not None or not state.settled:
        with state.locked() as place:
            if dim is not None and _is_finished(place):
                add(ds, place, dim, dtype, chunks, overviews, progress)
            else:
                _write(place, _Planned.of(ds, kind, chunks, overviews, layout), overwrite, progress)
    else:
        _check_same(state, _Planned.of(ds, kind, chunks, overviews, layout).run)
    if stac:
        write_item(Path(state.root))
    if layout:
        return open_eopf(state.opened, [n for name in ds.data_vars if (n := find(name) or find_layer(name))])
    with quiet():
        back: xr.Dataset = xr.open_zarr(state.opened, decode_coords="all", chunks={})
    return bare(back)


def _is_finished(place: State) -> bool:
    """Whether there is a store that dates can be added to, once what a killed run has left of its end is done."""
    with named(place.root):
        place.mend()
        if not place.complete:
            if place.group and not place.unfinished:
                raise StoreError(
                    f"{place.root} is a Zarr store without consolidated metadata, so dates could not be added to it in "
                    f"one step: zarr.consolidate_metadata({place.root!r}) first"
                )
            return False
        if place.unfinished:
            place.finish()
    return True


def _write(place: State, planned: _Planned, overwrite: bool, progress: ProgressLike) -> None:
    """Begin or go on, until the store is finished."""
    with named(place.root):
        place.mend()
    grids, levels, run = planned.grids, planned.levels, planned.run
    state = place.beside() if overwrite else place
    if not overwrite and _check_same(state, run) not in (None, run):
        probe(state, grids)
        if state.ready:
            with named(place.root):
                state.adopt(run)
    if overwrite or not state.complete:
        sources = stamp(array for grid in grids for array in grid.arrays.values())
        if overwrite or not state.ready:
            with named(place.root):
                state.begin(run, planned.names)
                state.put(SOURCES, json.dumps(sources).encode())
                for part in planned.parts:
                    of = None if part.path else ""
                    skeleton(part.ds, part.grids, state.opened, of, planned.times, part.path)
                declare(planned.parts[-1].ds, levels, state.opened, planned.times, state.place.consolidates)
                state.set_ready(run)
        elif changed := state.changed(SOURCES, sources):
            raise StoreError(
                f"{place.root} is half written, and {', '.join(changed[:3])} changed since: old and new pixels would "
                "be mixed. Begin again with overwrite=True"
            )
        write_regions(grids, state, progress)
        write_levels(levels, state, progress, len(grids))
    with named(place.root):
        state.finish()
        if state is not place:
            place.replace(state)


@dataclass(frozen=True)
class _Planned:
    """What there is to write.

    Attributes
    ----------
    parts : list of Part
        Groups of the store, the root first.
    levels : list of Level
        Its overviews.
    times : dict
        How times are to be stored.
    run : str
        The run's fingerprint.
    """

    parts: list[Part]
    levels: list[Level]
    times: dict[str, dict[str, Any]]
    run: str

    @property
    def grids(self) -> list[Grid]:
        """All pixels but those of the overviews, by where they are in the store."""
        return [grid for part in self.parts for grid in part.targets]

    @property
    def names(self) -> list[str]:
        """What lies at the top of the store."""
        names = [str(name) for part in self.parts if not part.path for name in part.ds.variables]
        paths = [part.path for part in self.parts if part.path] + [level.path for level in self.levels]
        return list(dict.fromkeys([*names, *(path.split("/")[0] for path in paths)]))

    @classmethod
    def of(
        cls, ds: xr.Dataset, dtype: str, chunks: int | None, overviews: bool | Sequence[int], layout: str | None
    ) -> _Planned:
        """What a call wants."""
        for name, variable in ds.data_vars.items():
            if variable.ndim >= 2:
                filled(variable, str(name))
                if find(name):  # other variables may be no maps
                    spacing(variable, axes_of(variable, str(name)), str(name))
        times = time_encodings(ds)
        ds = georeferenced(clean(located(ds)))
        grids = plan(ds, dtype, chunks, repack=layout is not None)
        ds = loaded(ds, grids)
        factors = factors_of(overviews, grids)
        more: list[object] = [("overviews", factors)] if factors else []
        if layout is None:
            return cls([Part("", ds, grids)], levels_of(ds, grids, factors), times, fingerprint(ds, grids, more))
        parts = parts_of(ds, grids)
        if factors and len(parts) > 2:
            raise StoreError(
                "layout='eopf' has overviews of bands on one grid, as superresolve gives them, and these lie in "
                f"{', '.join(part.path for part in parts[1:])}: leave out overviews, or the layout"
            )
        levels = levels_of(parts[-1].ds, parts[-1].grids, factors, parts[-1].path)
        return cls(parts, levels, times, fingerprint(ds, grids, [*more, ("layout", layout)]))


def _check_same(state: State, run: str) -> str | None:
    """Which run the store belongs to; a finished one must be this."""
    recorded = state.check(run)
    if recorded not in (None, run) and state.complete and (dim := sections(recorded or "").get("along")):
        raise StoreError(
            f"{state.root} has grown by dates that were appended to it: give append_dim={dim!r} to add these if they "
            "are missing, open it as it is, write to another path, or replace it with overwrite=True"
        )
    if recorded not in (None, run) and state.complete:
        raise StoreError(
            f"{state.root} is finished, and may belong to another run: its pixels have other sources or other "
            "parameters. Open it as it is, write to another path, or replace it with overwrite=True"
        )
    return recorded
