"""``.dsen2`` and ``.degrade``: every method is one call into a module, and shares its docstring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import xarray as xr

from xsen2 import align as _align
from xsen2 import degrade as _degrade
from xsen2 import index as _index
from xsen2 import superresolve as _superresolve
from xsen2 import widget as _widget
from xsen2.evaluation import evaluate as _evaluate
from xsen2.evaluation import sensor as _sensor
from xsen2.grid import mapping_names
from xsen2.sinks import cog as _cog
from xsen2.sinks import zarr as _zarr
from xsen2.training import finetune as _finetune

__all__ = ["DSen2Accessor", "DegradeAccessor"]

F = TypeVar("F", bound=Callable[..., Any])


def _settled(obj: xr.Dataset | xr.DataTree) -> xr.Dataset | xr.DataTree:
    """The object, with its grid mapping where it belongs.

    A file opened without ``decode_coords="all"`` has it among the variables, where the first ``ds[["B02", "B03"]]``
    leaves it behind, and with it the CRS. It becomes a coordinate of the object itself: nothing else about it changes.
    """
    if isinstance(obj, xr.Dataset):
        for name in mapping_names(obj) & set(obj.data_vars):
            obj.coords[name] = obj[name].variable
    return obj


def _bound(function: F) -> F:
    """A method that calls `function` on the accessor's object."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self._obj, *args, **kwargs)

    method.__doc__, method.__name__ = function.__doc__, function.__name__
    method.__wrapped__ = function  # type: ignore[attr-defined]  # shows the real signature
    return method  # type: ignore[return-value]


@xr.register_datatree_accessor("dsen2")
@xr.register_dataset_accessor("dsen2")
class DSen2Accessor:
    """Super-resolution of a Sentinel-2 cube, and what follows it."""

    def __init__(self, obj: xr.Dataset | xr.DataTree) -> None:
        self._obj = _settled(obj)

    superresolve = _bound(_superresolve.superresolve)
    align = _bound(_align.align)
    explore = _bound(_widget.explore)
    evaluate = _bound(_evaluate.evaluate)
    finetune = _bound(_finetune.finetune)
    index = _bound(_index.index)
    sensor = _bound(_sensor.sensor)
    to_cog = _bound(_cog.to_cog)
    to_zarr = _bound(_zarr.to_zarr)

    def _repr_html_(self) -> str:
        return _widget.grids(self._obj)


@xr.register_datatree_accessor("degrade")
@xr.register_dataset_accessor("degrade")
class DegradeAccessor:
    """The cube as a coarser sensor would have seen it: ``ds.degrade(scale=2)``."""

    def __init__(self, obj: xr.Dataset | xr.DataTree) -> None:
        self._obj = _settled(obj)

    __call__ = _bound(_degrade.degrade)
    pair = _bound(_degrade.pair)
