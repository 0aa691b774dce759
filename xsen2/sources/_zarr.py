"""A Zarr store that is no product, opened by xarray, whose damage has a name also when it shows in a chunk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from xsen2.errors import SourceError
from xsen2.sources._zarr_store import opened, said

__all__ = ["open_tree"]


def open_tree(source: str) -> xr.DataTree:
    """All groups of a store, lazily, in the chunks that they are stored in.

    Parameters
    ----------
    source : str
        A folder, a zip with one, or a URL in the words of fsspec.

    Raises
    ------
    SourceError
        If it is no store, or its metadata are damaged. When the cube is computed: if a chunk cannot be read.
    """
    found = opened(source)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated metadata")
            tree = xr.open_datatree(
                found.store,  # type: ignore[arg-type]  # takes what zarr takes
                engine="zarr",
                group=found.prefix or None,
                chunks=None,
                cache=False,
                decode_coords="all",
            )
            return xr.DataTree.from_dict(dict(_groups(tree, source, found.stamp)))
    except Exception as error:  # zarr, fsspec and xarray raise a dozen kinds for a store that is not there or broken
        raise SourceError(f"{source} cannot be read as a Zarr store: {said(error)}") from error


def _groups(tree: xr.DataTree, source: str, stamp: tuple[int, ...]) -> Iterator[tuple[str, xr.Dataset]]:
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
                read = _Named(variable, where)
                lazy = da.from_array(read, chunks, name=f"zarr-{name}-{token}", asarray=False)
                new = variable.copy(data=lazy)
            ds = ds.assign_coords({name: new}) if name in ds.coords else ds.assign({name: new})
        yield node.path, ds


class _Named:
    """A lazy variable as an array whose failures are named: zarr's codecs raise whatever they like."""

    def __init__(self, variable: xr.Variable, where: str) -> None:
        self.variable, self.where = variable, where
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, key: Any) -> Any:
        try:
            return np.asarray(self.variable[key].values)
        except Exception as error:
            raise SourceError(
                f"{self.where} cannot be read at {key} ({said(error)}): the store is "
                "damaged, or its server failed; try again, or write it anew"
            ) from error
