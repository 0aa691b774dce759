"""What a run will take, known before a pixel is read."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import dask
import numpy as np
import xarray as xr
from dask.core import flatten
from dask.system import CPU_COUNT

from xsen2.bands import find, grid_of
from xsen2.cube import recognise

__all__ = ["Plan", "plan"]

MiB, GiB = 2**20, 2**30

_BASE = 180 * MiB
"""Peak of a process that has imported the library and holds hardly any pixels."""

_NETWORK = 320 * MiB
"""What torch, weights and the features of one patch add, on a CPU: one patch at a time goes through a network."""

_THREAD = 100 * MiB
"""What each further thread keeps for itself after it has run a network."""


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes
    ----------
    dates, rows, columns : int
        Size of the result, in 10 m pixels.
    bands : list of str
        Variables that are written.
    methods : str
        Names of the methods, with the hashes of weights.
    crs : str
    bounds : list of float
        West, south, east, north, in the units of `crs`.
    pixels : int
        Of all bands and dates together.
    bytes_out : int
        Of the result before compression.
    bytes_in : int
        Of the native pixels that lie in the result's area; the context that methods read round it comes on top.
    blocks, tasks : int
        Blocks of a variable, all dates together, and tasks of the whole graph.
    memory : int
        Bytes that one process will need at its peak, on a CPU: within about a quarter for networks and bicubic. The
        classical methods that solve systems, such as supreme, took up to twice as much.
    """

    dates: int
    rows: int
    columns: int
    bands: list[str]
    methods: str
    crs: str
    bounds: list[float]
    pixels: int
    bytes_out: int
    bytes_in: int
    blocks: int
    tasks: int
    memory: int

    def lines(self) -> list[str]:
        """As a person reads it."""
        west, south, east, north = self.bounds
        return [
            f"result    {_number(self.dates, 'date')}, {self.rows} x {self.columns} pixels of 10 m, {self.crs}, "
            f"{west:.0f} {south:.0f} {east:.0f} {north:.0f}",
            f"bands     {' '.join(self.bands)}",
            f"method    {self.methods}",
            f"pixels    {self.pixels:,}",
            f"bytes     {_bytes(self.bytes_out)} to write before compression, about {_bytes(self.bytes_in)} to read",
            f"tasks     {self.tasks:,} in {_number(self.blocks, 'block')}",
            f"memory    about {_bytes(self.memory)} at the peak of one process",
        ]


def plan(cube: xr.Dataset | xr.DataTree, sr: xr.Dataset, names: Sequence[Hashable], dtype: str) -> Plan:
    """Tell what computing a result will take, without computing it.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        The cube.
    sr : xarray.Dataset
        What `xsen2.superresolve.superresolve` made of it.
    names : sequence
        Variables that are to be written, at least one.
    dtype : str
        What bands are written as; other variables stay as they are.

    Returns
    -------
    Plan

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample()
    >>> found = plan(cube, cube.dsen2.superresolve(["B11"], "bicubic"), ["B11"], "int16")
    >>> found.dates, found.pixels == 2 * found.rows * found.columns, found.bytes_out == 2 * found.pixels
    (2, True, True)
    """
    native = recognise(cube)
    out = sr[list(names)]
    first = out[names[0]]
    dates, rows, columns = math.prod(first.shape[:-2]), *first.shape[-2:]
    here = dates * rows * columns
    made = sum(variable.attrs.get("native_gsd", 10) > 10 for variable in out.data_vars.values())
    blocks = math.prod(first.data.numblocks)
    methods = str(sr.attrs["xsen2_method"])
    return Plan(
        dates=dates,
        rows=rows,
        columns=columns,
        bands=[str(name) for name in names],
        methods=methods,
        crs="no CRS" if sr.rio.crs is None else sr.rio.crs.to_string(),
        bounds=[float(edge) for edge in first.rio.bounds()],
        pixels=here * len(names),
        bytes_out=here * sum(_itemsize(variable, dtype) for variable in out.data_vars.values()),
        bytes_in=sum(here * a.dtype.itemsize * 100 // grid_of(band) ** 2 for band, a in native.bands.items()),
        blocks=blocks,
        tasks=_tasks(out),
        memory=_memory(math.prod(first.data.chunksize[-2:]), blocks, made, network="(" in methods),
    )


def _itemsize(variable: xr.DataArray, dtype: str) -> int:
    name = str(variable.name).removesuffix("_se")
    return np.dtype(dtype).itemsize if find(name) else variable.dtype.itemsize


def _tasks(ds: xr.Dataset) -> int:
    """Tasks that the pixels depend on: of a result that was cut to an area, fewer than its graph has."""
    return len(ds.__dask_graph__().cull(set(flatten(ds.__dask_keys__()))).to_dict())


def _memory(block: int, blocks: int, bands: int, *, network: bool) -> int:
    """Bytes at the peak of one process, in which each of Dask's threads computes a block of so many pixels.

    Fitted to measured peaks, of blocks of 120 to 2400 pixels a side, one to four threads and 2 to 8 bands.
    """
    threads = min(dask.config.get("num_workers", None) or CPU_COUNT, blocks)
    pixel = 4 * bands + 12  # what is made and what it is made of, in float32
    if not network:
        return _BASE + threads * block * pixel
    return _BASE + _NETWORK + threads * (_THREAD + block * 3 * pixel)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _bytes(count: int) -> str:
    if count >= GiB:
        return f"{count / GiB:.1f} GiB"
    return f"{count / MiB:.0f} MiB" if count >= 10 * MiB else f"{count / MiB:.2f} MiB"
