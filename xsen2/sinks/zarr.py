"""Write a cube to a Zarr store, region by region, so that a killed run can be taken up again.

While a store is being written it has a folder ``.xsen2`` and no group metadata, so nothing opens it by
mistake. The folder says which run the store belongs to, and has one marker per region, written when
all chunks of that region are there. The last step writes the group's metadata and removes the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import compute

from xsen2.bands import find
from xsen2.cube import canonicalise
from xsen2.errors import CRSError, StoreError
from xsen2.grid import nodata_of
from xsen2.sinks.pack import PACKINGS, clean, pack
from xsen2.sinks.regions import Grid, Region, plan
from xsen2.sinks.run import run_pieces
from xsen2.sinks.state import RUN, State, quiet

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

    Bands are stored as DN, as they are in memory, without scale or offset: what is reopened can be
    used like what was written, and other programs see the numbers they know from Sentinel-2 products.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        Bands (DN, NaN = nodata) on one grid or several, ``(y, x)`` or ``(time, y, x)``, with a CRS.
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

        Bands that are integers already keep their dtype and nodata value.
    chunks : int, optional
        Rows and columns of a chunk of the finest grid, coarser grids proportionally. By default the
        largest divisor of the Dask chunks up to 1200, so that nothing is rechunked. One date per chunk.
    overwrite : bool
        Start again, even from unfinished work of this run, and replace the Zarr store at `store`, which
        `ds` may be read from: until the new one is finished it stands, and both need their space on
        disk. Local folders only; at a URL nothing that can be read is ever replaced.
    progress : bool
        Show Dask's progress bar, or that of ``distributed`` when a client is active.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily. Nodata is NaN again.

    Raises
    ------
    CRSError
        `ds` has no CRS.
    StoreError
        `store` holds something else, or a result that may be another run's; or metadata cannot be stored.

    Notes
    -----
    A region is some rows of chunks of one date, or several small dates. Peak memory depends on the
    chunks and not on the number of dates. Until the last region is written the store does not open.
    A store that this same call has finished before is returned at once, without computing.

    Calls are the same run when grids, names, dtypes, attributes, coordinates, chunks and Dask's names
    for the pixels agree. Dask's names change with whatever the pixels are read from, links that are
    signed anew included. A finished store is then refused: whether it holds the same pixels nobody
    could tell without computing them all. Unfinished work is taken up if the steps of the computation
    are the same, and one chunk of each region that was written is the same to the bit when it is
    computed again. So give the same call the same inputs: a change that neither shows, another
    threshold say, would hold in the regions to come only.

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
    if chunks is not None and chunks < 1:
        raise StoreError(f"chunks={chunks} is no size: use a number of pixels, or None")
    state = State(os.fspath(store))
    if isinstance(ds, xr.DataTree):
        ds = canonicalise(ds)
    state.mend()
    ds = _georeferenced(clean(ds))
    grids = plan(ds, dtype, chunks)
    ds = _loaded(ds, grids)
    run = _fingerprint(ds, grids)
    place, state = state, state.beside() if overwrite else state
    found = None if overwrite else state.check(run)
    if found is not None and found != run:
        if state.complete:
            raise StoreError(
                f"{state.root} is finished, and may belong to another run: its pixels have other sources or other "
                "parameters. Open it as it is, write to another path, or replace it with overwrite=True"
            )
        _probe(state, grids)
    if overwrite or not state.complete:
        if overwrite or not state.ready:
            state.begin(run)
            _skeleton(ds, grids, state.root, run)
            state.set_ready()
        else:
            state.sweep()
        todo = [(g, r) for g, grid in enumerate(grids) for r in range(len(grid.regions)) if not state.done(g, r)]
        run_pieces(
            _writes(grids, state, todo),
            [grids[g].blocks(grids[g].regions[r]) * len(grids[g].arrays) for g, r in todo],
            lambda i: state.mark(*todo[i]),
            progress=progress,
        )
    state.finish()
    if state is not place:
        place.replace(state)
    back: xr.Dataset = xr.open_zarr(place.root, decode_coords="all", chunks={})
    return back


def _loaded(ds: xr.Dataset, grids: list[Grid]) -> xr.Dataset:
    """The dataset with all but the pixels in memory: only pixels are written region by region."""
    rest = ds.drop_vars([name for grid in grids for name in grid.arrays]).load()
    return ds.assign_coords(rest.coords).assign(rest.data_vars)


def _georeferenced(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with its CRS in a scalar coordinate that every variable on a grid points at."""
    crs = ds.rio.crs
    if crs is None:
        raise CRSError('the dataset has no CRS, so nobody could place the store: ds.rio.write_crs("EPSG:…") first')
    if ds.rio.grid_mapping not in ds.coords:
        ds = ds.rio.write_crs(crs)
    mapping = ds.rio.grid_mapping
    where = ds[mapping].variable.copy(deep=False)
    # One transform speaks for one grid only, and rioxarray would use it for all of them.
    where.attrs = {k: v for k, v in where.attrs.items() if k != "GeoTransform"}
    planes = {v.dims[-2:] for v in ds.data_vars.values() if v.ndim >= 2}
    if len(planes) == 1 and all(d in ds.coords and ds.sizes[d] > 1 for d in next(iter(planes))):
        y, x = (ds[d].values.astype(float) for d in next(iter(planes)))
        dy, dx = (float(v[-1] - v[0]) / (len(v) - 1) for v in (y, x))
        where.attrs["GeoTransform"] = f"{float(x[0]) - dx / 2} {dx} 0.0 {float(y[0]) - dy / 2} 0.0 {dy}"
    elif len(planes) == 1 and "GeoTransform" in ds[mapping].attrs:  # one pixel wide: coordinates do not tell its size
        where.attrs["GeoTransform"] = ds[mapping].attrs["GeoTransform"]
    ds = ds.assign_coords({mapping: where})
    for variable in ds.data_vars.values():
        variable.attrs.pop("grid_mapping", None)  # xarray wants it in the encoding alone
        if variable.ndim >= 2:
            variable.encoding["grid_mapping"] = mapping
    return ds


def _fingerprint(ds: xr.Dataset, grids: list[Grid]) -> str:
    """What makes two calls the same run, without computing a pixel."""
    pixels = {name: array for grid in grids for name, array in grid.arrays.items()}
    layers = {layer for array in pixels.values() for layer in array.dask.layers}
    variables = sorted(((str(n), v) for n, v in ds.variables.items()), key=lambda pair: pair[0])
    said: dict[str, Any] = {
        "grids": [(n, v.dims, v.shape, str(v.dtype)) for n, v in variables],
        "coordinates": [(n, hashlib.sha256(_bytes(v)).hexdigest()) for n, v in variables if n not in pixels],
        "attributes": [{k: v for k, v in ds.attrs.items() if k != RUN}, [v.attrs for _, v in variables]],
        "storage": [(g.packings, g.chunks, g.regions) for g in grids],
        "steps": sorted(_TOKEN.sub("", layer) for layer in layers),
        "pixels": sorted((name, array.name) for name, array in pixels.items()),
    }
    hashes = {
        k: hashlib.sha256(json.dumps(v, default=str, sort_keys=True).encode()).hexdigest()[:12] for k, v in said.items()
    }
    return ";".join(f"{k}={v}" for k, v in hashes.items())


_TOKEN = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}")
"""What Dask adds to the name of a step: a hash of all that goes in, or a random number."""


def _bytes(variable: xr.Variable) -> bytes:
    values = np.asarray(variable.values)
    return repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()


def _skeleton(ds: xr.Dataset, grids: list[Grid], root: str, run: str) -> None:
    """Write all but the pixels: metadata, coordinates and small variables."""
    from zarr.codecs import BloscCodec

    codec = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    encoding: dict[str, dict[str, Any]] = {}
    lazy = {}
    for grid in grids:
        for name, array in grid.arrays.items():
            variable = ds[name].variable
            attrs = dict(variable.attrs)
            packing = grid.packings.get(name)
            kind = array.dtype if packing is None else np.dtype(packing.dtype)
            nodata: Any = packing.nodata if packing else np.nan if kind.kind == "f" else _declared(ds[name])
            for key in ("_FillValue", "missing_value", "nodata"):
                attrs.pop(key, None)
            if packing and packing.scale != 1:
                attrs["scale_factor"] = packing.scale
            encoding[name] = {
                "chunks": grid.chunks,
                "compressors": (codec,),
                "grid_mapping": variable.encoding["grid_mapping"],
            }
            if nodata is not None and kind.kind != "b":
                value = kind.type(nodata)
                # fill_value is what a chunk that is not on disk reads as; 0 would be a measurement.
                encoding[name] |= {"_FillValue": value, "fill_value": value}
            lazy[name] = (grid.dims, da.zeros(array.shape, dtype=kind, chunks=-1), attrs)
    template = ds.assign(lazy).assign_attrs({RUN: run})
    with quiet():
        template.to_zarr(root, mode="a", encoding=encoding, compute=False, zarr_format=3, consolidated=False)


def _declared(variable: xr.DataArray) -> float | None:
    """Nodata of integers. Bands that declare none have Sentinel-2's own, 0; other variables have none."""
    said = any(k in variable.attrs for k in ("_FillValue", "missing_value", "nodata"))
    return nodata_of(variable) if said or find(variable.name) else None


def _writes(grids: list[Grid], state: State, todo: list[tuple[int, int]]) -> Iterator[Any]:
    """One lazy write per region."""
    targets = [{name: state.array(name) for name in grid.arrays} for grid in grids]
    for g, r in todo:
        grid, region = grids[g], grids[g].regions[r]
        sources = [_stored(grid, name, region) for name in grid.arrays]
        yield da.store(sources, list(targets[g].values()), regions=[region] * len(sources), lock=False, compute=False)


def _stored(grid: Grid, name: str, region: Region) -> da.Array:
    """A region of a variable as it goes to disk: whole chunks, packed."""
    array = grid.arrays[name][region]
    packing = grid.packings.get(name)
    whole = tuple(
        b if all(n % c == 0 for n in b[:-1]) else c * max(1, round(max(b) / c))
        for b, c in zip(array.chunks, grid.chunks, strict=True)
    )
    out: da.Array = array.rechunk(whole)
    if packing is not None:
        meta = np.empty((0,) * array.ndim, packing.dtype)
        out = da.map_blocks(pack, out, packing, dtype=packing.dtype, meta=meta)
    elif out.dtype.kind == "b":
        out = out.astype(np.int8)  # as xarray stores booleans
    return out


def _probe(state: State, grids: list[Grid]) -> None:
    """Compute one chunk of each region that was written before, and see that this run would write the same."""
    for g, grid in enumerate(grids):
        olds = {name: state.array(name, mode="r") for name in grid.arrays} if state.ready else {}
        for region in (region for r, region in enumerate(grid.regions) if state.done(g, r)):
            first = next(iter(olds.values()))
            windows = _windows(region, grid.chunks)
            window = next(
                (w for w in windows if not np.all(_is_fill(first[w], first))), next(_windows(region, grid.chunks))
            )
            news = compute(*(_stored(grid, name, window) for name in olds))
            for (name, old), new in zip(olds.items(), news, strict=True):
                if not np.array_equal(new, old[window], equal_nan=new.dtype.kind == "f"):
                    raise StoreError(
                        f"{state.root} belongs to another run: its {name} has other pixels. Write to "
                        "another path, or replace it with overwrite=True"
                    )


def _windows(region: Region, chunks: tuple[int, ...]) -> Iterator[Region]:
    counts = [-(-(s.stop - s.start) // c) for s, c in zip(region, chunks, strict=True)]
    for index in np.ndindex(*counts):
        yield tuple(
            slice(s.start + i * c, min(s.stop, s.start + (i + 1) * c))
            for i, s, c in zip(index, region, chunks, strict=True)
        )


def _is_fill(block: Any, array: Any) -> Any:
    return np.isnan(block) if block.dtype.kind == "f" else block == array.fill_value
