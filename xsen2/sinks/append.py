"""Add dates to a finished Zarr store, so that whoever reads it sees it as it was or as it will be, never half of that.

What is written first lies beyond the shape of the arrays, where nobody looks: the chunks of the new dates, and, for
what has one value per date, the chunk that the last date shares with the new ones, which is replaced in one step by one
that begins with the same values. Then one file, the group's metadata with those of all its arrays, is replaced in one
step. After that the arrays' own metadata follow, which are read only by who does not want the group's. A store that
gathers no metadata in its group, as a session with a history, which shows others all of it at once or nothing, has
only these.

Meanwhile the folder ``.xsen2-append`` in the store says which run this is (``run``), has a marker for each region that
is on disk (``done-G-N``), and says in ``commit`` how many dates there were and will be, once the metadata are replaced.
A killed run leaves it, and the same call goes on from there. What another call has left was never seen, and is deleted.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xsen2.bands import find
from xsen2.errors import CRSError, StoreError
from xsen2.files import named
from xsen2.progress import ProgressLike
from xsen2.radiometry import clean
from xsen2.sinks.lock import Claim
from xsen2.sinks.overviews import HOME, factors_in, factors_of, levels_of, write_levels
from xsen2.sinks.pieces import run_pieces
from xsen2.sinks.regions import (
    AFTER,
    Grid,
    Stored,
    checks,
    fingerprint,
    georeferenced,
    loaded,
    plan,
    probe,
    put,
    skeleton,
    write_regions,
)
from xsen2.sinks.resume import ADDED, RUN, State, as_zarr, digest, quiet, sections, stamp

__all__ = ["add", "check_dim"]

_HOW = "xsen2_"
"""How attributes begin that say how pixels were made: of one series, all are made alike."""


def check_dim(ds: xr.Dataset, dim: str) -> None:
    """Refuse what has no dates to be told apart by.

    Raises
    ------
    StoreError
        `dim` is no dim of `ds`, or has no coordinate, or holds a date twice or none.
    """
    if dim not in ds.dims:
        single = f": ds.expand_dims({dim!r}) makes it one" if dim in ds.coords else ""
        raise StoreError(f"there is no dim {dim!r} to append along, only {', '.join(map(str, ds.dims))}{single}")
    if dim not in ds.coords:
        raise StoreError(
            f"{dim!r} has no coordinate, so nobody could tell which dates are there already: "
            f"ds.assign_coords({dim}=…) first"
        )
    values = ds[dim].values
    if values.dtype.kind in "Mm" and np.isnat(values).any():
        raise StoreError(f"a date is missing in {dim!r} (NaT): ds.dropna({dim!r}) first")
    if len(set(values.tolist())) < len(values):
        raise StoreError(f"{dim!r} holds a date twice: ds.drop_duplicates({dim!r}) first")


def add(
    ds: xr.Dataset,
    place: State,
    dim: str,
    dtype: str | None,
    chunks: int | None,
    overviews: bool | Sequence[int],
    progress: ProgressLike,
) -> None:
    """Add the dates of `ds` that a finished store does not hold yet, at all levels that it has.

    Raises
    ------
    StoreError
        The store is not one that these dates can be added to, or holds one of them with other pixels.
    """
    with named(place.root):
        _mend(place)
        series = _Series.of(place, dim)
    ds = georeferenced(clean(ds))
    ds = series.fitted(ds)
    ds, grids = series.planned(ds, dtype, chunks)
    series.check_overviews(overviews, grids)
    run = fingerprint(ds, grids)
    series.check_same_kind(ds, grids)

    known, new = series.split(ds)
    # A date's token names the call that has written it, and its number there. What this very call has written before
    # need not be computed again; of a date with another token only the pixels themselves can tell.
    tokens = series.tokens
    mine = [(digest(run), number) for number in range(ds.sizes[dim])]
    doubtful = [number for number in known if mine[number] not in [tokens[p] for p in known[number]]]
    still = [grid for grid in grids if dim not in grid.dims]
    if doubtful:
        repeated, positions = ds.isel({dim: doubtful}), [known[number][0] for number in doubtful]
        repeated, same = series.planned(repeated, dtype, None)
        series.check_values(repeated, positions, {name for grid in same for name in grid.arrays})
        _compare(series, same, positions, repeated, progress)
    elif still and new:  # what has no dates stands there once, and speaks for the new ones as well
        _compare(series, still, [], ds, progress)
    for number in doubtful:  # the same pixels: the next time, this call need not look either
        tokens[known[number][0]] = mine[number]
    if not new:
        return
    if len(new) < ds.sizes[dim]:  # of fewer dates, regions are others, and so is the name of the run
        ds = ds.isel({dim: new})
        ds, grids = series.planned(ds, dtype, None)
        run = fingerprint(ds, grids)
    grids = [grid for grid in grids if dim in grid.dims]
    _write(_Addition(place, series, len(new)), ds, grids, run, tokens + [mine[number] for number in new], progress)


def _compare(series: _Series, grids: list[Grid], positions: list[int], ds: xr.Dataset, progress: ProgressLike) -> None:
    """See that dates that are there already have these pixels."""
    run_pieces(
        checks(grids, series.place, series.dim, positions, [_shown(v) for v in ds[series.dim].values]),
        [grid.blocks(region) * len(grid.arrays) for grid in grids for region in grid.regions],
        lambda _: None,
        progress=progress,
        about=f"comparing with {series.place.root}",
        after=AFTER,
    )


def _write(
    new: _Addition, ds: xr.Dataset, grids: list[Grid], run: str, tokens: list[tuple[str, int]], progress: ProgressLike
) -> None:
    """Begin or go on, until the dates are in the store."""
    with named(new.root):
        values = new.series.encoded(ds, grids)
        sources = stamp(array for grid in grids for array in grid.arrays.values())
        if not new.goes_on(run, grids) or new.place.changed(f"{ADDED}/sources", sources):
            new.begin(run, sources)
        new.grow()
    write_regions(grids, new, progress)
    write_levels(levels_of(ds, grids, new.series.factors), new, progress, len(grids))
    with named(new.root):
        put(new, values, new.first)
        new.finish(ds.attrs, tokens)


@dataclass(frozen=True)
class _Series:
    """A finished store, and what dates that are added to it must be like.

    Attributes
    ----------
    place : State
    dim : str
        Along which dates lie.
    group : dict
        The group's metadata.
    old : xarray.Dataset
        The store, opened.
    """

    place: State
    dim: str
    group: dict[str, Any]
    old: xr.Dataset

    @classmethod
    def of(cls, place: State, dim: str) -> _Series:
        """Look at a store.

        Raises
        ------
        StoreError
            Nothing can be appended to it along `dim`.
        """
        group = place.described
        members = (group.get("consolidated_metadata") or {}).get("metadata") or {}
        held = _held(place)
        for name in held.get("along", ()):
            members[name]["shape"][0] = held["from"]
        try:
            with quiet():
                old = xr.open_zarr(place.opened, decode_coords="all", chunks={})
            if held:
                old = old.isel({dim: slice(held["from"])})
        except ValueError as error:
            raise StoreError(
                f"{place.root} cannot be opened, so nothing is appended to it: {error}. Write it anew, with "
                "overwrite=True"
            ) from error
        series = cls(place, dim, group, old)
        if dim not in old.dims:
            raise StoreError(
                f"{place.root} has no dim {dim!r}, so no date can be appended to it: write it anew with "
                f"ds.expand_dims({dim!r}) and overwrite=True, then append"
            )
        if dim not in old.coords:
            raise StoreError(f"{place.root} has no coordinate {dim!r}: write it anew with one, and overwrite=True")
        for name, axis in series.along.items():
            shape = json.loads(place.read(f"{name}/zarr.json") or b"{}").get("shape", [])
            if not held and shape != members[name]["shape"]:
                raise StoreError(
                    f"{place.root}: {name} has the shape {shape} by its own metadata and {members[name]['shape']} by "
                    "those of the group: another program has added dates and was stopped, or left the group's as "
                    f"they were. If these dates are whole, zarr.consolidate_metadata({place.root!r}) brings them in; "
                    "else write the store anew with overwrite=True"
                )
            if axis or members[name]["shape"][0] != old.sizes[dim]:
                raise StoreError(
                    f"{place.root}: {dim!r} is not the first dim of {name}, so nothing can be appended along it: write "
                    f"it anew with ds.transpose({dim!r}, ...) and overwrite=True"
                )
            if name in old.data_vars and old[name].ndim > 2 and series.chunks(name)[0] != 1:
                raise StoreError(
                    f"{place.root}: chunks of {name} hold {series.chunks(name)[0]} dates, so that adding one would "
                    "write over others: write it anew with to_zarr(…, overwrite=True), which gives each date its own"
                )
        return series

    @property
    def count(self) -> int:
        """How many dates there are."""
        return int(self.old.sizes[self.dim])

    @property
    def everything(self) -> dict[str, Any]:
        """Metadata of all that is in the store, by path."""
        members: dict[str, Any] = self.group["consolidated_metadata"]["metadata"]
        return members

    @property
    def members(self) -> dict[str, Any]:
        """Metadata of the arrays, by name, without those of the overviews, which follow from them."""
        return {name: about for name, about in self.everything.items() if name.split("/")[0] != HOME}

    @property
    def factors(self) -> tuple[int, ...]:
        """By how much the overviews are coarser."""
        return factors_in(self.everything)

    @property
    def along(self) -> dict[str, int]:
        """Arrays that grow with the dates, and along which axis."""
        dims = {name: about.get("dimension_names") or [] for name, about in self.everything.items()}
        return {name: names.index(self.dim) for name, names in dims.items() if self.dim in names}

    def check_overviews(self, wanted: bool | Sequence[int], grids: list[Grid]) -> None:
        """Refuse a caller who wants other levels than those that the store has; who says nothing gets these.

        Raises
        ------
        StoreError
            Says which there are.
        """
        factors = self.factors if wanted is False else factors_of(wanted, grids)
        if factors != self.factors:
            raise StoreError(
                f"{self.place.root} has {f'the overviews {self.factors}' if self.factors else 'no overviews'}, not "
                f"{factors}: leave out overviews=, or write it anew with them, xr.open_zarr({self.place.root!r}, "
                "decode_coords='all').dsen2.to_zarr(…), there with overwrite=True or to another path"
            )

    def chunks(self, name: str) -> tuple[int, ...]:
        """Shape of a chunk of an array."""
        return tuple(self.everything[name]["chunk_grid"]["configuration"]["chunk_shape"])

    @property
    def tokens(self) -> list[tuple[str, int]]:
        """Which run has written each date, and as which of its dates."""
        return _tokens(self.group.get("attributes", {}).get(RUN), self.count)

    def fitted(self, ds: xr.Dataset) -> xr.Dataset:
        """The dataset with what it says once for all its dates said for each, where the store says it for each."""
        for name in ds.coords:
            if ds[name].ndim == 0 and name in self.old.coords and self.old[name].dims == (self.dim,):
                each = ds[name].variable.set_dims({self.dim: ds.sizes[self.dim]}).copy()
                ds = ds.assign_coords({name: each})
            elif name in self.old.coords and ds[name].dims == (self.dim,) and self.old[name].ndim == 0:
                values = ds[name].values
                if all(_same(value, values[0]) for value in values):
                    ds = ds.assign_coords({name: ds[name].variable[0]})
        return ds

    def planned(self, ds: xr.Dataset, dtype: str | None, chunks: int | None) -> tuple[xr.Dataset, list[Grid]]:
        """What there is to write, in the chunks and types of the store.

        Raises
        ------
        StoreError
            The caller wants others.
        """
        like = {}
        for name, about in self.members.items():
            if name in ds.data_vars and about.get("node_type") == "array":
                like[name] = Stored(str(about["data_type"]), self.chunks(name))
        for key, variable in ds.data_vars.items():
            name = str(key)
            held = like.get(name)
            if dtype and held and find(name) and variable.dtype.kind == "f" and held.dtype != dtype:
                raise StoreError(
                    f"{self.place.root} holds {name} as {held.dtype}, not {dtype}: leave out dtype=, or write to "
                    "another path"
                )
        grids = plan(ds, "int16", None, like)
        if chunks is not None:
            for grid in plan(ds, "int16", chunks):
                for name in grid.arrays:
                    if name in like and like[name].chunks != grid.chunks:
                        raise StoreError(
                            f"{self.place.root} has chunks of {like[name].chunks} for {name}, not {grid.chunks}: leave "
                            "out chunks=, or write to another path"
                        )
        for grid in grids:
            if self.dim in grid.dims[1:]:
                name = next(iter(grid.arrays))
                raise StoreError(f"{self.dim!r} is not the first dim of {name}: ds.transpose({self.dim!r}, ...) first")
        return loaded(ds, grids), grids

    def check_same_kind(self, ds: xr.Dataset, grids: list[Grid]) -> None:
        """Refuse dates of another series.

        Raises
        ------
        CRSError, StoreError
            Says what differs.
        """
        crs = self.old.rio.crs
        if crs is None:
            raise CRSError(f"{self.place.root} has no CRS, so nobody knows whether these dates belong to it")
        differ = []
        if crs != ds.rio.crs:
            differ.append(_unlike("CRS", crs.to_string(), ds.rio.crs.to_string()))
        attrs = self.group.get("attributes", {})
        for key in sorted(set(attrs) | set(ds.attrs)):
            how = key.startswith(_HOW) and key not in (RUN, "xsen2_version")
            unit = key in ("units", "level") and key in attrs and key in ds.attrs
            if (how or unit) and not _same(attrs.get(key), ds.attrs.get(key)):
                differ.append(_unlike(f"attribute {key}", attrs.get(key), ds.attrs.get(key)))
        mine = self._described(ds, grids)
        pixels = {name for grid in grids for name in grid.arrays}
        here, held = set(mine), {n for n, about in self.members.items() if about.get("node_type") == "array"}
        if here - held:
            differ.append(
                f"variables (the store has no {', '.join(sorted(here - held))}: ds.drop_vars leaves them out)"
            )
        if held - here:
            differ.append(f"variables (there is no {', '.join(sorted(held - here))} here, which the store has)")
        for name in sorted(here & held):
            differ += self._differences(ds, name, mine[name], pixels)
        if differ:
            raise StoreError(
                f"nothing can be appended to {self.place.root}, which has other {'; '.join(differ)}. Write to another "
                "path, or write all dates anew with overwrite=True"
            )

    def _described(self, ds: xr.Dataset, grids: list[Grid]) -> dict[str, Any]:
        """Metadata that the arrays would have if these dates were a store of their own."""
        store = self._as_new_store(ds, grids)
        described = {str(name): array.metadata.to_dict() for name, array in store.arrays()}
        for about in described.values():  # zarr 3.0 has its own names for types, which it writes as plain ones
            about["data_type"] = getattr(about["data_type"], "value", about["data_type"])
        return described

    def _as_new_store(self, ds: xr.Dataset, grids: list[Grid]) -> Any:
        import zarr
        from zarr.storage import MemoryStore

        memory = MemoryStore()
        encodings = {str(name): self._encoding(str(name), variable) for name, variable in ds.variables.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that times do not fit the store's units is seen when they are read back
            skeleton(ds, grids, memory, "", encodings)
        return zarr.open_group(memory, mode="r")

    def _encoding(self, name: str, variable: xr.Variable) -> dict[str, Any]:
        """How the store holds a variable that is not pixels."""
        stored = self.old[name].encoding if name in self.old.variables else {}
        kept = ("units", "calendar") if variable.dtype.kind in "Mm" else ("scale_factor", "add_offset")
        out = {key: stored[key] for key in kept if key in stored}
        kind = stored.get("dtype")
        if kind is not None and variable.dtype.kind in "Mmiuf" and np.dtype(kind).kind in "iuf":
            out["dtype"] = np.dtype(kind)
            if "_FillValue" in stored:
                out["_FillValue"] = stored["_FillValue"]
        return out

    def _differences(self, ds: xr.Dataset, name: str, mine: Mapping[str, Any], pixels: set[str]) -> list[str]:
        """In what an array of the store differs from what it would be for these dates."""
        held = self.members[name]
        dims, new_dims = (list(about.get("dimension_names") or []) for about in (held, mine))
        if dims != new_dims:
            return [_unlike(f"dims of {name}", dims, new_dims)]
        size, new_size = (
            tuple(n for n, d in zip(about["shape"], dims, strict=False) if d != self.dim) for about in (held, mine)
        )
        if size != new_size:
            return [_unlike(f"grid of {name}", size, new_size)]
        pairs = [(f"dtype of {name}", held["data_type"], mine["data_type"])]
        pairs += [(f"nodata of {name}", held["fill_value"], mine["fill_value"])]
        theirs, ours = held.get("attributes") or {}, mine.get("attributes") or {}
        if name != ds.rio.grid_mapping:  # there are several texts for one CRS
            # How times are counted is the store's matter; whether it holds these is seen when they are encoded.
            counted = {"units", "calendar", "dtype"} if ds[name].dtype.kind in "Mm" else set()
            both = sorted((set(theirs) & set(ours)) - {"coordinates", "_FillValue"} - counted)
            pairs += [(f"attribute {key} of {name}", theirs[key], ours[key]) for key in both]
            packed = ("scale_factor", "add_offset") if name in ds.data_vars else ()
            pairs += [(f"{key} of {name}", theirs.get(key), ours.get(key)) for key in packed if key not in both]
        if self.dim not in dims and name not in pixels:
            a, b = np.asarray(self.old[name].values), np.asarray(ds[name].values)
            if name in ds.dims and not _same(a, b):
                return [_unlike(f"grid in {name}", _span(a), _span(b))]
            pairs += [(f"{name} for all dates alike", a.tolist(), b.tolist())] if not _same(a, b) else []
        return [_unlike(what, a, b) for what, a, b in pairs if not _same(a, b)]

    def split(self, ds: xr.Dataset) -> tuple[dict[int, list[int]], list[int]]:
        """Dates that the store holds, with their positions in it, and dates that it does not.

        Raises
        ------
        StoreError
            A new date lies before others of a store that is in order.
        """
        old, here = self.old[self.dim].values, ds[self.dim].values
        if old.dtype.kind != here.dtype.kind:
            raise StoreError(f"{self.place.root}: {self.dim!r} is {old.dtype} in the store, and {here.dtype} here")
        places: dict[Any, list[int]] = {}
        for number, value in enumerate(old):
            places.setdefault(_key(value), []).append(number)
        known = {number: places[_key(v)] for number, v in enumerate(here) if _key(v) in places}
        new = [number for number in range(len(here)) if number not in known]
        ordered = len(old) < 2 or bool((old[1:] > old[:-1]).all())
        last = old[-1]
        if ordered:
            for number in new:
                if here[number] > last:
                    last = here[number]
                    continue
                raise StoreError(
                    f"{_shown(here[number])} would come after {_shown(last)}, and a series in order stays in order: "
                    + (
                        f"ds.sortby({self.dim!r}) first"
                        if here[number] > old[-1]
                        else f"write all anew, xr.concat([xr.open_zarr({self.place.root!r}, decode_coords='all'), ds], "
                        f"{self.dim!r}).sortby({self.dim!r}), with overwrite=True or to another path"
                    )
                )
        return known, new

    def check_values(self, ds: xr.Dataset, positions: list[int], pixels: set[str]) -> None:
        """Refuse dates that are there already with other coordinates.

        Raises
        ------
        StoreError
            Says which.
        """
        for key, variable in ds.variables.items():
            name = str(key)
            if self.dim not in variable.dims or name in pixels:
                continue
            held = self.old[name].isel({self.dim: positions}).transpose(*variable.dims).values
            if not _same(held, variable.values):
                raise StoreError(
                    f"{self.place.root} holds dates of these with another {name}: leave them out with ds.drop_sel, or "
                    "write all anew with overwrite=True"
                )

    def encoded(self, ds: xr.Dataset, grids: list[Grid]) -> dict[str, Any]:
        """What has one value per date, as it lies in the store.

        Raises
        ------
        StoreError
            The store cannot hold one of them exactly.
        """
        template = self._as_new_store(ds, grids)
        pixels = {name for grid in grids for name in grid.arrays}
        out = {}
        for path in self.along:
            name = path.rpartition("/")[2] if path not in self.members else path  # a level's own copy
            if name in pixels:
                continue
            raw, attrs = template[name][...], dict(self.members[name].get("attributes") or {})
            # Read as the store will be: what xarray could not write in the store's units it has written in others.
            try:
                back = xr.conventions.decode_cf_variable(name, xr.Variable(ds[name].dims, raw, attrs)).values
            except (ValueError, OverflowError):  # a number of days that is no date
                back = None
            if not _same(back, ds[name].values):
                how = ", ".join(map(str, [self.old[name].encoding.get("dtype"), *filter(None, [attrs.get("units")])]))
                raise StoreError(
                    f"{self.place.root} holds {name} as {how}, which cannot hold {_shown(ds[name].values.ravel()[0])} "
                    "exactly: write the store anew, xr.open_zarr(…, decode_coords='all').dsen2.to_zarr(…, "
                    "overwrite=True), then append"
                )
            out[path] = raw
        return out


class _Addition:
    """Dates on their way into a finished store.

    Parameters
    ----------
    place : State
        Where the store is.
    series : _Series
        What it holds.
    count : int
        How many dates are added.
    """

    def __init__(self, place: State, series: _Series, count: int) -> None:
        self.place, self.series = place, series
        self.root, self.local, self.first = place.root, place.local, series.count
        self.total = series.count + count
        self._marks = set(place.ls(ADDED))

    @property
    def claim(self) -> Claim:
        """The lock that this run holds."""
        return self.place.claim

    @property
    def ready(self) -> bool:
        """Whether there can be regions."""
        return "run" in self._marks

    def array(self, name: str, mode: str = "r+") -> Any:
        """An array of the store as it will be, with room for the new dates, which its metadata do not say yet."""
        import zarr

        stored = zarr.open_array(self.place.opened, path=name, mode=mode)
        about: Any = stored.metadata
        grown = about.update_shape((self.total, *stored.shape[1:]))
        return zarr.Array(zarr.AsyncArray(metadata=grown, store_path=stored.store_path))

    def done(self, grid: int, region: int) -> bool:
        """Whether a region is on disk."""
        return f"done-{grid}-{region}" in self._marks

    def mark(self, grid: int, region: int) -> None:
        """Note that a region is on disk."""
        with named(self.root):
            self.claim.check()
            self.place.put(f"{ADDED}/done-{grid}-{region}")

    def goes_on(self, run: str, grids: list[Grid]) -> bool:
        """Whether what a killed run has left is the beginning of this one."""
        left = self.place.read(f"{ADDED}/run") or b""
        run = self._named(run)
        if left.decode(errors="replace") == run:
            return True
        old, new = sections(left.decode(errors="replace")), sections(run)
        if any(old.get(name) != new[name] for name in new if name != "pixels"):
            return False
        try:
            probe(self, grids)  # the same steps from sources of other names: links that were signed anew
        except StoreError:
            return False
        self.place.put(f"{ADDED}/run", run.encode())
        return True

    def begin(self, run: str, sources: Mapping[str, str]) -> None:
        """Claim the place after the last date."""
        self.claim.check()
        if "run" in self._marks:
            self.place.remove(f"{ADDED}/run")  # first: markers say nothing without it
        for name in self._marks - {"run", "held"}:
            self.place.remove(f"{ADDED}/{name}")
        self._marks = set()
        self._sweep(self.first)
        self.place.put(f"{ADDED}/sources", json.dumps(sources).encode())
        self.place.put(f"{ADDED}/run", self._named(run).encode())

    def grow(self) -> None:
        """Where chunks must lie within the shape of their array, let it have room for the new dates."""
        if not self.place.place.consolidates:
            about = {"from": self.first, "to": self.total, "along": sorted(self.series.along)}
            self.place.put(f"{ADDED}/held", json.dumps(about).encode())
            _resize(self.place, about)

    def finish(self, attrs: Mapping[str, Any], tokens: list[tuple[str, int]]) -> None:
        """Let the store have the new dates."""
        self._sweep(self.total)
        self.claim.check()
        group = json.loads(self.place.read("zarr.json") or b"{}")
        gathered = self.place.place.consolidates
        for name in self.series.along if gathered else ():
            group["consolidated_metadata"]["metadata"][name]["shape"][0] = self.total
        recorded = group.setdefault("attributes", {})
        run = recorded.get(RUN)
        recorded |= _joined({k: v for k, v in recorded.items() if k != RUN}, attrs)
        for key in [
            k for k in recorded if k in attrs and not _same(recorded[k], attrs[k]) and not isinstance(recorded[k], str)
        ]:
            del recorded[key]  # true of some of the dates only
        recorded[RUN] = _history(run, self.series.dim, tokens)
        about: dict[str, Any] = {"from": self.first, "to": self.total, "along": sorted(self.series.along)}
        if not gathered:  # no one file says it all, so a killed run is ended by what stands here
            about["group"] = group
        self.place.put(f"{ADDED}/commit", json.dumps(about).encode(), flush=True)
        if gathered:
            self.place.put("zarr.json", as_zarr(group), flush=True)
        _follow(self.place, about)

    def _named(self, run: str) -> str:
        """The fingerprint of a run, with that of the store that it adds to."""
        return f"{run};base={digest(self.series.group)};dim={self.series.dim}"

    def _sweep(self, first: int) -> None:
        """Delete what dead runs have left from a date on, and files that were never whole."""
        for name in self.series.along:
            if self.series.everything[name]["chunk_key_encoding"] != _KEYS:
                continue
            size = self.series.chunks(name)[0]
            for part in self.place.ls(f"{name}/c"):
                if part.endswith(".partial") or (part.isdecimal() and int(part) * size >= first):
                    self.place.remove(f"{name}/c/{part}")
                elif self.local and part.isdecimal() and int(part) * size >= self.first:
                    for half in Path(self.root, name, "c", part).rglob("*.partial"):
                        half.unlink()


_KEYS = {"name": "default", "configuration": {"separator": "/"}}


def _mend(place: State) -> None:
    """Finish what was stopped after the new dates were in the store; and let all arrays have the same room."""
    if not place.ls(ADDED):
        place.place.prune(ADDED)
        return
    if held := _held(place):
        place.claim.check()
        _resize(place, held)
    try:
        about = json.loads(place.read(f"{ADDED}/commit") or b"")
        total, along = int(about["to"]), list(about["along"])
        members = place.described["consolidated_metadata"]["metadata"]
        shapes = {members[name]["shape"][0] for name in along}
    except (ValueError, KeyError, TypeError, IndexError):
        return
    if shapes == {total} and (place.place.consolidates or isinstance(about.get("group"), dict)):
        place.claim.check()
        _follow(place, about)


def _held(place: State) -> dict[str, Any]:
    """How many dates a store held before a killed run made room for more."""
    return dict(json.loads(place.read(f"{ADDED}/held") or b"{}"))


def _resize(place: State, about: Mapping[str, Any]) -> None:
    for name in about["along"]:
        metadata = json.loads(place.read(f"{name}/zarr.json") or b"{}")
        if metadata["shape"][0] != about["to"]:
            metadata["shape"][0] = about["to"]
            place.put(f"{name}/zarr.json", as_zarr(metadata), flush=True)


def _follow(place: State, about: Mapping[str, Any]) -> None:
    """Let the metadata of the arrays, and of the group where they do not stand there, have the dates; and clear up."""
    _resize(place, about)
    levels = json.loads(place.read(f"{HOME}/zarr.json") or b"{}")
    gathered = (levels.get("consolidated_metadata") or {}).get("metadata") or {}
    grown = [name for name in gathered if f"{HOME}/{name}" in about["along"]]
    if any(gathered[name]["shape"][0] != about["to"] for name in grown):
        for name in grown:
            gathered[name]["shape"][0] = about["to"]
        place.put(f"{HOME}/zarr.json", as_zarr(levels), flush=True)
    if "group" in about:
        place.put("zarr.json", as_zarr(about["group"]), flush=True)
    place.clear(ADDED, last=("run", "commit"))


def _tokens(run: Any, count: int) -> list[tuple[str, int]]:
    """Which run has written each date, and as which of its dates; nobody's for dates that others have added.

    Examples
    --------
    >>> _tokens("grids=1;dates=ab:0-2,cd:1-2", 4)
    [('ab', 0), ('ab', 1), ('cd', 1), ('', 3)]
    """
    recorded = sections(run) if isinstance(run, str) else {}
    out: list[tuple[str, int]] = []
    if "dates" in recorded:
        for entry in recorded["dates"].split(","):
            token, _, span = entry.partition(":")
            with suppress(ValueError):
                start, stop = map(int, span.split("-"))
                out += [(token, number) for number in range(start, min(stop, start + count))]
    elif recorded:
        out = [(digest(run), number) for number in range(count)]
    return [*out[:count], *(("", number) for number in range(len(out), count))]


def _history(run: Any, dim: str, tokens: list[tuple[str, int]]) -> str:
    """The record of the runs that wrote a store: the first run, and the run that each date is of."""
    first = sections(run) if isinstance(run, str) else {}
    spans: list[list[Any]] = []
    for token, number in tokens:
        if spans and spans[-1][0] == token and spans[-1][2] == number:
            spans[-1][2] = number + 1
        else:
            spans.append([token, number, number + 1])
    recorded = {k: v for k, v in first.items() if k and k not in ("along", "dates")}
    recorded |= {"along": dim, "dates": ",".join(f"{token}:{start}-{stop}" for token, start, stop in spans)}
    return ";".join(f"{k}={v}" for k, v in recorded.items())


def _joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that are lists in words, such as those of the sources, with what the new dates add to them.

    Examples
    --------
    >>> _joined({"source": "a, b", "of": "data 2023"}, {"source": "c", "of": "data 2024", "more": "x"})
    {'source': 'a, b, c', 'of': 'data 2023, 2024'}
    """
    out = {}
    for key, value in old.items():
        added = new.get(key)
        if key.startswith(_HOW) or not isinstance(value, str) or not isinstance(added, str) or value == added:
            continue
        common = 0
        while common < min(len(value), len(added)) and value[common] == added[common]:
            common += 1
        head = value[: value.rfind(" ", 0, common) + 1]
        parts = [*value[len(head) :].split(", "), *added[len(head) :].split(", ")]
        out[key] = head + ", ".join(dict.fromkeys(parts))
    return out


def _key(value: Any) -> Any:
    """What two values of a coordinate have in common if they are the same date, in whatever unit."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        return (pd.Timestamp if isinstance(value, np.datetime64) else pd.Timedelta)(value)
    return value.item() if isinstance(value, np.generic) else value


def _same(a: Any, b: Any) -> bool:
    """Whether values are the same; what is missing is the same as what is missing."""
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape:
        return False
    if x.dtype.kind in "OUT" or y.dtype.kind in "OUT":
        return bool(x.tolist() == y.tolist())
    if x.dtype.kind in "Mm" or y.dtype.kind in "Mm":
        return x.dtype.kind == y.dtype.kind and bool(((x == y) | (np.isnat(x) & np.isnat(y))).all())
    return bool(np.array_equal(x, y, equal_nan=x.dtype.kind == y.dtype.kind == "f"))


def _shown(value: Any) -> str:
    return str(value.astype("datetime64[ms]")) if isinstance(value, np.datetime64) else str(value)


def _unlike(what: str, old: Any, new: Any) -> str:
    return f"{what} ({_short(old)} in the store, {_short(new)} here)"


def _short(value: Hashable | Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _span(values: Any) -> str:
    return f"{values[0]:.10g} … {values[-1]:.10g}" if values.dtype.kind in "iuf" and len(values) else _short(values)
