"""The groups and arrays of an EOPF product in a Zarr store: a folder, a zip, an address, or a store of zarr's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize

from xsen2.errors import SourceError
from xsen2.sources._safe_pixels import _chunks
from xsen2.sources._zarr_store import opened, said

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store as ZarrStore

__all__ = ["BANDS_AT", "Layer", "Product", "is_eopf"]

Array = npt.NDArray[Any]
BANDS_AT = "measurements/reflectance"
"""Group with a group per native grid: r10m, r20m, r60m."""

_SIDE = 10980
"""Pixels along the side of a tile at 10 m."""


@dataclass(frozen=True)
class Layer:
    """One array of a product.

    Attributes
    ----------
    array : zarr.Array
    attrs : dict
    where : str
        The array, for messages.
    path : str
        Of the array in the product.
    """

    array: zarr.Array[Any]
    attrs: dict[str, Any]
    where: str
    path: str

    def require(self, kinds: Iterable[str], ndim: int) -> None:
        """Refuse what cannot be an array of the product, before anything of it is decoded.

        Raises
        ------
        SourceError
            If it is of another dtype or shape.
        """
        kinds, shape, chunks = list(kinds), self.array.shape, self.array.chunks
        if (
            str(self.array.dtype) not in kinds
            or not len(shape) == len(chunks) == ndim
            or not all(1 <= n <= _SIDE for n in shape)
        ):
            raise SourceError(
                f"{self.where} is of dtype {self.array.dtype}, shape {shape} and chunks {chunks}, not "
                f"{' or '.join(kinds)} with {ndim} dims: it is not an array of ESA's; download the product again"
            )

    def values(self) -> Array:
        """All of it, now: for coordinates."""
        return np.asarray(_part(self.array, tuple(slice(0, n) for n in self.array.shape), self.where, "the whole"))

    def lazy(
        self, name: str, side: int, decode: Callable[[Array], Array], dtype: npt.DTypeLike, stamp: object
    ) -> da.Array:
        """Lazy (1, y, x) pixels after `decode`; chunks are whole chunks of the store, near `side` pixels wide."""
        try:
            told = str(self.array.metadata)
        except Exception as error:  # codecs do not check their parameters before they write or use them
            raise SourceError(f"{self.where} has metadata that no codec knows: {said(error)}") from error
        chunks = tuple(_chunks(n, block, side) for n, block in zip(self.array.shape, self.array.chunks, strict=True))
        token = tokenize(self.where, stamp, told, chunks, decode)
        lazy: da.Array = da.map_blocks(
            partial(_read, array=self.array, where=self.where, decode=decode),
            chunks=((1,), *chunks),
            dtype=dtype,
            meta=np.empty((0, 0, 0), dtype),
            name=f"eopf-{name}-{token}",
        )
        return lazy


@dataclass(frozen=True)
class Product:
    """An opened product.

    Attributes
    ----------
    root : zarr.Group
    attrs : dict
    where : str
        The store, for messages.
    stamp : tuple of int
        Size and time of the local file that tells of a replaced store.
    """

    root: zarr.Group
    attrs: dict[str, Any]
    where: str
    stamp: tuple[int, ...]

    @classmethod
    def open(cls, store: str | os.PathLike[str] | ZarrStore) -> Product:
        """The product in `store`.

        Raises
        ------
        SourceError
            If there is none, or it cannot be read.
        ImportError
            If the address needs a package that is not installed.
        """
        import zarr

        found = opened(store)
        where = found.where
        try:
            root = zarr.open_group(found.store, path=found.prefix, mode="r")
            product = cls(root, dict(root.attrs), where, found.stamp)
        except Exception as error:  # zarr, fsspec and their backends raise a dozen kinds
            raise SourceError(f"{where} cannot be read as a Zarr store: {said(error)}") from error
        if not product.has_group(BANDS_AT):
            raise SourceError(
                f"{where} has no group {BANDS_AT}: it is not a Sentinel-2 L1C or L2A product of EOPF. Other Zarr "
                "stores are opened with xarray.open_datatree or open_zarr, and superresolve checks what they hold"
            )
        return product

    def has_group(self, path: str) -> bool:
        """Whether there is a group at `path`."""
        import zarr

        return isinstance(self._node(path), zarr.Group)

    def layer(self, path: str) -> Layer | None:
        """The array at `path`, None where there is none."""
        import zarr

        node, where = self._node(path), f"{self.where}: {path}"
        if node is None:
            return None
        if not isinstance(node, zarr.Array):
            raise SourceError(f"{where} is a group where an array is needed; download the product again")
        return Layer(node, self._attrs(node, where), where, path)

    def group(self, path: str) -> dict[str, Any]:
        """Attributes of the group at `path`; none where there is none."""
        import zarr

        node = self._node(path) if path else self.root
        return self._attrs(node, f"{self.where}: {path}") if isinstance(node, zarr.Group) else {}

    def _attrs(self, node: zarr.Array[Any] | zarr.Group, where: str) -> dict[str, Any]:
        try:
            return dict(node.attrs)
        except (TypeError, ValueError) as error:
            raise SourceError(f"{where} has attributes that are no mapping: download the product again") from error

    def _node(self, path: str) -> object:
        try:
            return self.root[path]
        except KeyError:
            return None
        except Exception as error:  # as above
            raise SourceError(f"{self.where}: {path} cannot be read as Zarr: {said(error)}") from error


def is_eopf(store: str) -> bool:
    """Whether a path or an address is that of an EOPF product; False also where it cannot be opened.

    Raises
    ------
    ImportError
        If the address needs a package that is not installed, as any Zarr store there would.
    """
    try:
        Product.open(store)
    except SourceError:
        return False
    return True


def _part(array: zarr.Array[Any], window: tuple[slice, ...], where: str, part: str) -> Any:
    try:
        return array[window]
    except Exception as error:  # codecs and backends raise whatever they like
        raise SourceError(
            f"{where}: {part} cannot be read ({said(error)}): the store is damaged, or its server failed; try "
            "again, or download the product again"
        ) from error


def _read(
    block_info: Mapping[Any, Any] | None = None,
    *,
    array: zarr.Array[Any],
    where: str,
    decode: Callable[[Array], Array],
) -> Array:
    assert block_info is not None
    _, (y0, y1), (x0, x1) = block_info[None]["array-location"]
    part = f"rows {y0} to {y1}, columns {x0} to {x1}"
    return decode(np.asarray(_part(array, (slice(y0, y1), slice(x0, x1)), where, part)))[None]
