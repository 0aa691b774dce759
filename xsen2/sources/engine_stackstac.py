"""Raw pixels through stackstac."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import stackstac

from xsen2.sources.engines import Grid, dtype_of, small
from xsen2.sources.items import Item
from xsen2.sources.reading import Reading

__all__ = ["read"]


_numbers = itertools.count()
"""Tell readers apart, also those of one file with another signature."""


class _Reader:
    """What stackstac asks for the pixels of one asset; the latest files of each thread stay open."""

    def __init__(self, *, url: str, spec: Any, dtype: np.dtype[Any], reading: Reading, **_: Any) -> None:
        self._url, self._spec, self._dtype, self._reading = url, spec, np.dtype(dtype), reading
        self._number = next(_numbers)

    def read(self, window: Any, **_: Any) -> Any:
        rows, columns = ((round(start), round(size)) for start, size in _spans(window))
        extent = f"rows {rows[0]} to {sum(rows)}, columns {columns[0]} to {sum(columns)} of the cube"
        left, _, _, top = self._spec.bounds
        x, y = self._spec.resolutions_xy
        corner = round(left + columns[0] * x), round(top - rows[0] * y)
        shape = rows[1], columns[1]
        pixels = self._reading.part(self._url, extent, corner, shape, self._dtype, self._number)
        return np.zeros(shape, self._dtype) if pixels is None else pixels

    def close(self) -> None:
        """Nothing to do: files are closed as others are opened."""

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self._url, "spec": self._spec, "dtype": self._dtype, "reading": self._reading}

    def __setstate__(self, state: dict[str, Any]) -> None:
        _Reader.__init__(self, **state)


def _spans(window: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    return (window.row_off, window.height), (window.col_off, window.width)


def read(items: Sequence[Item], names: Sequence[str], grid: Grid, reading: Reading) -> dict[str, da.Array]:
    """Name → (item, y, x) raw pixels, 0 where there are none."""
    # stackstac 0.5 reads proj:epsg alone, and without it guesses a grid from the lon/lat box.
    epsg = items[0].epsg
    plain = [small(item, names, grid, {"proj:epsg": epsg}, number) for number, item in enumerate(items)]
    out = {}
    for name in names:
        dtype = dtype_of(name)
        stack = stackstac.stack(
            plain,
            assets=[name],
            epsg=epsg,
            resolution=grid.geobox.affine.a,
            bounds=grid.geobox.boundingbox.bbox,
            snap_bounds=False,
            chunksize=grid.chunk,
            dtype=dtype,
            fill_value=dtype.type(0),
            rescale=False,  # else an offset that the pixels have lost already is taken off once more
            sortby_date=False,
            xy_coords=False,
            properties=False,
            band_coords=False,
            errors_as_nodata=(),  # the default turns a missing file into nodata
            reader=partial(_Reader, reading=reading),
        )
        out[name] = stack.data[:, 0]
    return out
