"""A Zarr store that is no product, opened by xarray, whose damage has a name also when it shows in a chunk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from xsen2.errors import SourceError
from xsen2.sources._blosc import cut_off

if TYPE_CHECKING:
    import zarr

__all__ = ["open_tree"]


def open_tree(source: str) -> xr.DataTree:
    """All groups of a store, lazily, in the chunks that they are stored in.

    Parameters
    ----------
    source : str
        Path, or URL in the words of fsspec.

    Raises
    ------
    SourceError
        If it is no store, or its metadata are damaged. When the cube is computed: if a chunk cannot be read.
    """
    import zarr

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated metadata")
            tree = xr.open_datatree(source, engine="zarr", chunks=None, cache=False, decode_coords="all")
            root = None if "://" in source else zarr.open_group(source, mode="r")
            return xr.DataTree.from_dict(dict(_groups(tree, source, root)))
    except SourceError:
        raise
    except Exception as error:  # zarr, fsspec and xarray raise a dozen kinds for a store that is not there or broken
        raise SourceError(
            f"{source} cannot be read as a Zarr store: {type(error).__name__}: {str(error)[:300]}"
        ) from error


def _groups(tree: xr.DataTree, source: str, root: zarr.Group | None) -> Iterator[tuple[str, xr.Dataset]]:
    stamp = _stamp(source)
    for node in tree.subtree:
        ds = node.to_dataset(inherit=False)
        for name, variable in ds.variables.items():
            if name in ds.indexes:
                continue
            where = f"{source}: {node.path.rstrip('/')}/{name}"
            if variable.ndim < 2:
                new = variable.load()
            else:
                preferred = variable.encoding.get("preferred_chunks", {})
                chunks = tuple(preferred.get(dim, -1) for dim in variable.dims)
                token = tokenize(where, stamp, variable.shape, str(variable.dtype), variable.encoding)
                array = None if root is None else root[f"{node.path}/{name}".strip("/")]
                read = _Guarded(variable, where, array)
                lazy = da.from_array(read, chunks, name=f"zarr-{name}-{token}", asarray=False)
                new = variable.copy(data=lazy)
            ds = ds.assign_coords({name: new}) if name in ds.coords else ds.assign({name: new})
        yield node.path, ds


def _stamp(source: str) -> tuple[int, ...]:
    """Times of the local files that tell of a replaced store."""
    if "://" in source:
        return ()
    marks = (Path(source) / name for name in ("", "zarr.json", ".zmetadata", ".zgroup"))
    return tuple(os.stat(mark).st_mtime_ns for mark in marks if mark.exists())


class _Guarded:
    """A lazy variable as an array whose failures are named: zarr's codecs raise whatever they like."""

    def __init__(self, variable: xr.Variable, where: str, array: Any) -> None:
        self.variable, self.where, self.array = variable, where, array
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, key: Any) -> Any:
        try:
            if self.array is not None and (chunk := cut_off(self.array, key)):
                raise SourceError(f"the chunk {chunk} is cut off")
            return np.asarray(self.variable[key].values)
        except Exception as error:
            raise SourceError(
                f"{self.where} cannot be read at {key} ({type(error).__name__}: {str(error)[:200]}): the store is "
                "damaged, or its server failed; try again, or write it anew"
            ) from error
