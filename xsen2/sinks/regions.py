"""Which variables are written together, in which chunks, and in which regions."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, product
from typing import Any, Protocol, TypeVar

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import compute

from xsen2.bands import find
from xsen2.engine.statistics import Settled
from xsen2.errors import CRSError, StoreError
from xsen2.files import flush, named
from xsen2.grid import affine_of, geotransform
from xsen2.progress import ProgressLike
from xsen2.radiometry import UNPACKED, Packing, Values, nodata_of, pack, values_of
from xsen2.sinks.geozarr import placed
from xsen2.sinks.lock import Claim
from xsen2.sinks.pieces import run_pieces
from xsen2.sinks.resume import RUN, digest, quiet

__all__ = [
    "AFTER",
    "Grid",
    "Stored",
    "checks",
    "fingerprint",
    "georeferenced",
    "loaded",
    "plan",
    "probe",
    "put",
    "regions_of",
    "skeleton",
    "time_encodings",
    "write_regions",
]


# What a store says about its pixels before it has any: coordinates, metadata, and whose they are.


EPOCH = "1970-01-01"
DATES = 1024
"""Dates in a chunk of what has one value per date. Fixed, so that a date which is added changes no chunk's shape."""

_COARSE = ("day", "hour", "minute", "second", "week", "month", "year")


def loaded(ds: xr.Dataset, grids: list[Grid]) -> xr.Dataset:
    """The dataset with all but the pixels in memory: only pixels are written region by region."""
    rest = ds.drop_vars([name for grid in grids for name in grid.arrays]).load()
    return ds.assign_coords(rest.coords).assign(rest.data_vars)


def georeferenced(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with its CRS in a scalar coordinate that every variable on a grid points at."""
    crs = ds.rio.crs
    if crs is None:
        raise CRSError('the dataset has no CRS, so nobody could place the store: ds.rio.write_crs("EPSG:…") first')
    if ds.rio.grid_mapping not in ds.coords:
        ds = ds.rio.write_crs(crs)
    mapping = ds.rio.grid_mapping
    crs_variable = ds[mapping].variable.copy(deep=False)
    # One transform speaks for one grid only, and rioxarray would use it for all of them.
    crs_variable.attrs = {k: v for k, v in crs_variable.attrs.items() if k != "GeoTransform"}
    planes = {v.dims[-2:] for v in ds.data_vars.values() if v.ndim >= 2}
    if len(planes) == 1 and all(d in ds.coords and ds.sizes[d] > 1 for d in next(iter(planes))):
        y, x = (ds[d].values.astype(float) for d in next(iter(planes)))
        crs_variable.attrs["GeoTransform"] = geotransform(affine_of(y, x))
    elif len(planes) == 1 and "GeoTransform" in ds[mapping].attrs:  # one pixel wide: coordinates do not tell its size
        crs_variable.attrs["GeoTransform"] = ds[mapping].attrs["GeoTransform"]
    ds = ds.assign_coords({mapping: crs_variable})
    for variable in ds.data_vars.values():
        variable.attrs.pop("grid_mapping", None)  # xarray wants it in the encoding alone
        if variable.ndim >= 2:
            variable.encoding["grid_mapping"] = mapping
    return placed(ds)


def fingerprint(ds: xr.Dataset, grids: list[Grid], more: Sequence[object] = ()) -> str:
    """What makes two calls the same run, without computing a pixel; `more` is what else the layout depends on."""
    pixels = {name: array for grid in grids for name, array in grid.arrays.items()}
    layers = {layer for array in pixels.values() for layer in array.dask.layers}
    variables = sorted(((str(n), v) for n, v in ds.variables.items()), key=lambda pair: pair[0])
    parts: dict[str, Any] = {
        "grids": [(n, v.dims, v.shape, str(v.dtype)) for n, v in variables],
        "coordinates": [(n, hashlib.sha256(_bytes(v)).hexdigest()) for n, v in variables if n not in pixels],
        "attributes": [{k: v for k, v in ds.attrs.items() if k != RUN}, [v.attrs for _, v in variables]],
        "storage": [*((g.packings, g.chunks, g.regions) for g in grids), *more],
        "steps": sorted(_TOKEN.sub("", layer) for layer in layers),
        "pixels": sorted((name, array.name) for name, array in pixels.items()),
    }
    return ";".join(f"{k}={digest(v)}" for k, v in parts.items())


_TOKEN = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}")
"""What Dask adds to the name of a step: a hash of all that goes in, or a random number."""


def _bytes(variable: xr.Variable) -> bytes:
    values = np.asarray(variable.values)
    return repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()


def time_encodings(ds: xr.Dataset) -> dict[str, dict[str, Any]]:
    """How times are to be stored, by name: as the caller's ``ds.time.encoding`` has it, else in fixed units.

    Left alone, xarray counts in the units that the dates at hand happen to fit ("days since 2024-05-12 10:46:31"), and
    a date that is added later does not. Units guessed in that way are still in the encoding when a store is opened
    again, beside the chunks it was read in: no caller chose them.
    """
    out = {}
    for name, variable in ds.variables.items():
        if variable.dtype.kind not in "Mm":
            continue
        encoding = {k: v for k, v in variable.encoding.items() if k in ("units", "calendar", "dtype")}
        units = str(encoding.get("units", ""))
        guessed = bool({"chunks", "preferred_chunks", "original_shape", "source"} & set(variable.encoding))
        if not units or (guessed and units.lower().startswith(_COARSE)) or not _exact(variable, encoding):
            encoding.pop("dtype", None)
            encoding = {k: v for k, v in encoding.items() if k == "calendar"} | {"units": _units(variable)}
            if not _exact(variable, encoding):  # a calendar that does not know these dates
                encoding.pop("calendar", None)
        out[str(name)] = {"dtype": np.dtype("int64")} | encoding
        if variable.dtype.kind == "m":
            out[str(name)].pop("calendar", None)
    return out


def _units(variable: xr.Variable) -> str:
    """Nanoseconds, which hold all that numpy's usual dates can be; microseconds where dates are too far for these."""
    values = variable.values
    values = values[~np.isnat(values)]
    far = values.size and (values.astype("M8[us]" if values.dtype.kind == "M" else "m8[us]").astype("int64"))
    step = "microseconds" if np.size(far) and np.abs(far).max() > 9.2e15 else "nanoseconds"
    return f"{step} since {EPOCH}" if values.dtype.kind == "M" else step


def _exact(variable: xr.Variable, encoding: dict[str, Any]) -> bool:
    """Whether times are the same to the last digit after they are encoded and decoded."""
    wanted = xr.Variable(variable.dims, variable.values, encoding={"dtype": np.dtype("int64")} | encoding)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoded = xr.conventions.encode_cf_variable(wanted, name="time")
            decoded = xr.conventions.decode_cf_variable("time", encoded, decode_timedelta=True).values
    except (ValueError, OverflowError, TypeError, ImportError, AttributeError):  # xarray's, of what it cannot read
        return False
    if str(encoded.attrs.get("units")).split()[:1] != str(encoding["units"]).split()[:1]:
        return False  # xarray takes finer units where the given ones do not fit: others for every date
    a, b = np.asarray(decoded), variable.values
    return bool(a.dtype.kind == b.dtype.kind and ((a == b) | (np.isnat(a) & np.isnat(b))).all())


def skeleton(
    ds: xr.Dataset,
    grids: list[Grid],
    store: Any,
    run: str | None,
    times: Mapping[str, Mapping[str, Any]] | None = None,
    group: str = "",
) -> None:
    """Write all but the pixels of a group: metadata, coordinates and small variables.

    Parameters
    ----------
    ds : xarray.Dataset
    grids : list of Grid
    store : path, URL or Zarr store
    run : str or None
        The run that writes the group; None where it is not recorded.
    times : mapping, optional
        Name → encoding of variables that are not pixels, as `time_encodings` gives it.
    group : str
        Path of the group in the store.
    """
    from zarr.codecs import BloscCodec

    codec = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    encoding: dict[str, dict[str, Any]] = {}
    lazy: dict[Hashable, Any] = {}
    for grid in grids:
        for name, array in grid.arrays.items():
            variable = ds[name].variable
            attrs = dict(variable.attrs)
            packing = grid.packings.get(name)
            kind = array.dtype if packing is None else np.dtype(packing.dtype)
            nodata: Any = packing.nodata if packing else np.nan if kind.kind == "f" else _declared(ds[name])
            for key in ("_FillValue", "missing_value", "nodata"):
                attrs.pop(key, None)
            if name in grid.units:
                attrs = {k: v for k, v in attrs.items() if k not in UNPACKED} | {"units": grid.units[name]}
            if packing:
                attrs |= packing.cf
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
    dates: set[Hashable] = {dim for grid in grids for dim in grid.dims[:-2]}
    dates |= {dim for dim in ds.dims if dim in ds.coords and ds[dim].dtype.kind == "M"}
    for label, small in ds.variables.items():
        if label in lazy:
            continue
        encoding[str(label)] = dict((times or {}).get(str(label), {}))
        if dates & set(small.dims):
            each = DATES if small.ndim == 1 else 1
            encoding[str(label)]["chunks"] = tuple(each if d in dates else ds.sizes[d] for d in small.dims)
    template = ds.assign(lazy).assign_attrs({} if run is None else {RUN: run})
    with quiet():
        template.to_zarr(
            store, group=group, mode="a", encoding=encoding, compute=False, zarr_format=3, consolidated=False
        )


def _declared(variable: xr.DataArray) -> float | None:
    """Nodata of integers. Bands that declare none have Sentinel-2's own, 0; other variables have none."""
    declares = any(k in variable.attrs for k in ("_FillValue", "missing_value", "nodata"))
    return nodata_of(variable) if declares or find(variable.name) else None


# From lazy pixels to chunks on disk, and from chunks on disk to whether they are this run's.


class Place(Protocol):
    """Where regions are written, and which of them have been: a whole store, or dates that are added to one.

    Attributes
    ----------
    root : str
    local : bool
    first : int
        Where along its first axis a variable is written from.
    claim : Claim
    ready : bool
        Whether there can be regions.
    """

    root: str
    local: bool
    first: int

    @property
    def claim(self) -> Claim: ...
    @property
    def ready(self) -> bool: ...
    def array(self, name: str, mode: str = "r+") -> Any:
        """An array of the store, which has room for what is written."""

    def done(self, grid: int, region: int) -> bool:
        """Whether a region is on disk."""

    def mark(self, grid: int, region: int) -> None:
        """Note that a region is on disk."""


@dataclass(frozen=True)
class _Target:
    """A variable in the store, which is written to by the run that holds the lock, and by no task that is late."""

    array: Any
    folder: str
    claim: Claim
    local: bool
    first: int = 0

    def __setitem__(self, index: Region, block: npt.NDArray[Any]) -> None:
        index = _shifted(index, self.first)
        with named(self.claim.target):
            self.claim.check()
            self.array[index] = block
            if self.local:  # the region's marker must not outlive its chunks in a power cut
                flush(self._files(index))

    def _files(self, index: Region) -> Iterator[str]:
        """Files of the chunks in a window."""
        encode = self.array.metadata.chunk_key_encoding.encode_chunk_key
        spans = (range(s.start // c, -(-s.stop // c)) for s, c in zip(index, self.array.chunks, strict=True))
        for chunk in product(*spans):
            yield f"{self.folder}/{encode(chunk)}"


@dataclass(frozen=True)
class _Check:
    """A variable in the store, with which blocks are compared instead of being written."""

    array: Any
    name: str
    target: str
    positions: tuple[int, ...] | None
    dates: tuple[str, ...]

    def __setitem__(self, index: Region, block: npt.NDArray[Any]) -> None:
        if self.positions is None:
            pairs = [(block, self.array[index], "")]
        else:
            days = range(index[0].start, index[0].stop)
            pairs = [
                (block[i], self.array[(self.positions[day], *index[1:])], f" on {self.dates[day]}")
                for i, day in enumerate(days)
            ]
        for new, old, when in pairs:
            if not np.array_equal(new, old, equal_nan=new.dtype.kind == "f"):
                remedy = "with ds.drop_sel of that date" if when else f"with ds.drop_vars({self.name!r})"
                raise StoreError(
                    f"{self.target} holds {self.name}{when} already, with other pixels: leave it out {remedy}, or "
                    "write all anew, here with overwrite=True or to another path"
                )


def checks(grids: list[Grid], place: Place, dim: str, positions: Sequence[int], dates: Sequence[str]) -> Iterator[Any]:
    """One lazy comparison per region with what the store holds.

    Parameters
    ----------
    grids : list of Grid
    place : Place
    dim : str
        Along which dates lie.
    positions : sequence of int
        Position in the store of each date.
    dates : sequence of str
        Names of the dates, for messages.
    """
    for grid in grids:
        dated = dim in grid.dims
        at = (tuple(positions), tuple(dates)) if dated else (None, ())
        targets: list[Any] = [_Check(place.array(name, mode="r"), name, place.root, *at) for name in grid.arrays]
        for region in grid.regions:
            sources = [_stored(grid, name, region) for name in grid.arrays]
            yield da.store(sources, targets, regions=[region] * len(sources), lock=False, compute=False)


def put(place: Place, values: Mapping[str, npt.NDArray[Any]], first: int) -> None:
    """Write what has one value per date, from `first` on, with all that lies in the same chunks."""
    for name, new in values.items():
        array = place.array(name)
        begin = first - first % array.chunks[0]
        old = array[begin:first]
        target = _Target(array, f"{place.root}/{name}", place.claim, place.local)
        both = np.concatenate([old, new]) if len(old) else new
        target[(slice(begin, begin + len(both)), *(slice(0, n) for n in array.shape[1:]))] = both


def _shifted(index: Region, first: int) -> Region:
    return (slice(index[0].start + first, index[0].stop + first), *index[1:]) if first else index


AFTER = "The same call goes on where it was"
"""What is said of a write that was stopped."""


def write_regions(grids: list[Grid], state: Place, progress: ProgressLike, *, before: int = 0, what: str = "") -> None:
    """Compute and write the regions that are not on disk yet, and note each as soon as it is.

    Parameters
    ----------
    grids : list of Grid
        Named by where they are in the store.
    state : Place
    progress : bool or callable
    before : int
        How many grids the notes have numbered before these.
    what : str
        What they are, where they are not all that is written.
    """
    blocks = {
        (g, r): grid.blocks(x) * len(grid.arrays) for g, grid in enumerate(grids) for r, x in enumerate(grid.regions)
    }
    todo = [(g, r) for g, r in blocks if not state.done(before + g, r)]
    run_pieces(
        _writes(grids, state, todo),
        [blocks[key] for key in todo],
        lambda i: state.mark(before + todo[i][0], todo[i][1]),
        progress=progress,
        about=f"writing {what}{state.root}",
        after=AFTER,
        before=sum(blocks.values()) - sum(blocks[key] for key in todo),
    )


def _writes(grids: list[Grid], state: Place, todo: list[tuple[int, int]]) -> Iterator[Any]:
    """One lazy write per region."""
    targets = [
        {
            name: _Target(state.array(name), f"{state.root}/{name}", state.claim, state.local, state.first)
            for name in grid.arrays
        }
        for grid in grids
    ]
    settled = Settled()
    for g, r in todo:
        grid, region = grids[g], grids[g].regions[r]
        sources = settled([_stored(grid, name, region) for name in grid.arrays])
        stores: list[Any] = list(targets[g].values())
        yield da.store(sources, stores, regions=[region] * len(sources), lock=False, compute=False)


def _stored(grid: Grid, name: str, region: Region) -> da.Array:
    """A region of a variable as it goes to disk: whole chunks, packed."""
    array = grid.arrays[name][region]
    packing = grid.packings.get(name)
    chunks = tuple(
        b if all(n % c == 0 for n in b[:-1]) else c * max(1, round(max(b) / c))
        for b, c in zip(array.chunks, grid.chunks, strict=True)
    )
    out: da.Array = array.rechunk(chunks)
    if packing is not None:
        meta = np.empty((0,) * array.ndim, packing.dtype)
        out = da.map_blocks(pack, out, packing, dtype=packing.dtype, meta=meta)
    elif out.dtype.kind == "b":
        out = out.astype(np.int8)  # as xarray stores booleans
    return out


def probe(state: Place, grids: list[Grid]) -> None:
    """Compute one chunk of each region that was written before, and see that this run would write the same."""
    for g, grid in enumerate(grids):
        olds = {name: state.array(name, mode="r") for name in grid.arrays} if state.ready else {}
        for region in (region for r, region in enumerate(grid.regions) if state.done(g, r)):
            first = next(iter(olds.values()))
            windows = _windows(region, grid.chunks)
            # A chunk of nodata is no file, and looks the same in every run: it would tell nothing.
            window = next(
                (w for w in windows if not np.all(_is_fill(first[_shifted(w, state.first)], first))),
                next(_windows(region, grid.chunks)),
            )
            news = compute(*(_stored(grid, name, window) for name in olds))
            for (name, old), new in zip(olds.items(), news, strict=True):
                if not np.array_equal(new, old[_shifted(window, state.first)], equal_nan=new.dtype.kind == "f"):
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


CHUNK = 1200
"""Longest side of a chunk on disk, in pixels, unless the caller chooses."""

REGION = 64 * 1024 * 1024
"""Pixels per band after which a region is closed. Less is lost by a kill if it is small, but what borders on two
regions is read twice: half of a full tile is a fair price."""

Region = tuple[slice, ...]
V = TypeVar("V")


@dataclass(frozen=True)
class Stored:
    """How a variable lies in a store that is added to: the name of its dtype, and the shape of a chunk."""

    dtype: str
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """Variables of the same dims: one block of a method gives them all, so they are written together.

    Attributes
    ----------
    dims : tuple
        Of every variable here; rows and columns come last.
    arrays : dict
        Name → pixels.
    packings : dict
        Name → how its floats become integers; those that stay as they are are not in it.
    units : dict
        Name → the unit of bands that are floats, as an attribute.
    chunks : tuple of int
        Shape of a chunk on disk.
    regions : tuple
        Every pixel is in one region, every chunk too.
    """

    dims: tuple[Hashable, ...]
    arrays: dict[str, da.Array]
    packings: dict[str, Packing]
    units: dict[str, str]
    chunks: tuple[int, ...]
    regions: tuple[Region, ...]

    def below(self, group: str) -> Grid:
        """The same, named by where the variables of a group are in the store."""
        if not group:
            return self

        def at(named: Mapping[str, V]) -> dict[str, V]:
            return {f"{group}/{name}": value for name, value in named.items()}

        return replace(self, arrays=at(self.arrays), packings=at(self.packings), units=at(self.units))

    def blocks(self, region: Region) -> int:
        """How many chunks one variable has in a region."""
        return int(np.prod([-(-(s.stop - s.start) // c) for s, c in zip(region, self.chunks, strict=True)]))


def plan(
    ds: xr.Dataset,
    dtype: str,
    chunks: int | None,
    like: Mapping[str, Stored] | None = None,
    repack: bool = False,
) -> list[Grid]:
    """Gather the pixels of a dataset by grid, and choose chunks and regions.

    Parameters
    ----------
    ds : xarray.Dataset
    dtype : str
        What float bands become on disk.
    chunks : int or None
        Side of a chunk of the finest grid, or None to follow the Dask chunks.
    like : mapping, optional
        Name → how it lies in the store that is added to, which decides both for it.
    repack : bool
        Whether bands that are integers become `dtype` as well.
    """
    like = like or {}
    gathered: dict[tuple[tuple[Hashable, ...], tuple[int, ...] | None], dict[str, da.Array]] = {}
    planes = [str(n) for n, v in ds.data_vars.items() if v.ndim >= 2 and v.dtype.kind in "buif" and v.size]
    kinds = {name: like[name].dtype if name in like else dtype for name in planes}
    values: dict[str, Values] = {}
    # All bands of a type at once: whether pixels are reflectance or DN is judged by the image, not band by band.
    for kind in dict.fromkeys(kinds.values()):
        names = [name for name in planes if kinds[name] == kind]
        values |= values_of(ds, names, kind, errors="float32", repack=repack)
    for name in planes:
        meaning, variable = values[name], ds[name]
        data = (variable.chunk() if variable.chunks is None else variable).data
        if meaning.scale is not None or variable.dtype.kind == "f":
            floats = meaning.scale is not None and not meaning.as_is
            of = np.dtype(np.float32) if floats else data.dtype
            data = da.map_blocks(meaning, data, dtype=of, meta=np.empty((0,) * data.ndim, of))
        gathered.setdefault((variable.dims, like[name].chunks if name in like else None), {})[name] = data
    finest = max((next(iter(arrays.values())).shape[-1] for arrays in gathered.values()), default=1)
    grids = []
    for (dims, given), arrays in gathered.items():
        first = next(iter(arrays.values()))
        most = CHUNK if chunks is None else max(1, round(chunks * first.shape[-1] / finest))
        sides = [min(most, sum(b)) if chunks else _side(b) for b in first.chunks[-2:]]
        disk = given or (*(1 for _ in first.shape[:-2]), *sides)
        packed = {n: p for n in arrays if (p := values[n].packing) is not None}
        units = {n: s.units for n in arrays if (s := values[n].scale) is not None and ds[n].dtype.kind == "f"}
        grids.append(Grid(dims, arrays, packed, units, disk, tuple(regions_of(first.chunks, disk))))
    return grids


def _side(blocks: tuple[int, ...]) -> int:
    """Side of a chunk on disk: the largest divisor of even Dask chunks, else `CHUNK`."""
    even = len(blocks) > 1 and set(blocks[:-1]) == {blocks[0]} and blocks[-1] <= blocks[0]
    if even:
        divisor = max(d for d in range(1, min(blocks[0], CHUNK) + 1) if blocks[0] % d == 0)
        if 4 * divisor >= min(blocks[0], CHUNK):  # many small files cost more than rechunking
            return divisor
    return min(CHUNK, sum(blocks))


def regions_of(blocks: tuple[tuple[int, ...], ...], disk: tuple[int, ...]) -> Iterator[Region]:
    """Cut where Dask's blocks and chunks on disk both end, so that no block is computed for two regions."""
    *lead, rows, columns = (list(accumulate(b, initial=0)) for b in blocks)
    # A chunk in two regions would be written twice, the second time over what the first has put there.
    rows = [r for r in rows if r % disk[-2] == 0 or r == rows[-1]]
    dates = lead[0] if lead else [0, 1]
    middle = [slice(0, borders[-1]) for borders in lead[1:]]
    row = columns[-1] * int(np.prod([m.stop for m in middle], dtype=int))
    date = row * rows[-1]
    if dates[1] * date < REGION:  # small images: many dates go together rather than a region for each
        rows, dates = [0, rows[-1]], _merge(dates, date)
    else:
        rows = _merge(rows, row * dates[1])
    for (start, stop), (top, bottom) in product(pairwise(dates), pairwise(rows)):
        first = [slice(start, stop)] if lead else []
        yield (*first, *middle, slice(top, bottom), slice(0, columns[-1]))


def _merge(borders: list[int], weight: int) -> list[int]:
    """Leave out borders until each span weighs at least `REGION`."""
    kept = [borders[0]]
    for border in borders[1:-1]:
        if (border - kept[-1]) * weight >= REGION:
            kept.append(border)
    return [*kept, borders[-1]]
