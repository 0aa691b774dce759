"""Raw pixels through stackstac."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import stackstac
from stackstac.rio_reader import DEFAULT_GDAL_ENV, AutoParallelRioReader

from xsen2.sources._engines import Grid, dtype_of, small
from xsen2.sources._items import Item
from xsen2.sources._reading import ENV, Reading

__all__ = ["read"]


class _Reader:
    """stackstac's own reader, opened anew with a fresh signature after each failure."""

    def __init__(self, *, url: str, reading: Reading, **about: Any) -> None:
        self._url, self._reading, self._about = url, reading, about
        self._lock = threading.Lock()
        self._open: AutoParallelRioReader | None = None

    def read(self, window: Any, **kwargs: Any) -> Any:
        rows = f"rows {window.row_off} to {window.row_off + window.height}"
        where = f"{rows}, columns {window.col_off} to {window.col_off + window.width} of the cube"
        found = self._reading.attempts(self._url, where, lambda url: self._once(url, window, kwargs))
        return np.zeros((window.height, window.width), self._about["dtype"]) if found is None else found

    def _once(self, url: str, window: Any, kwargs: Mapping[str, Any]) -> Any:
        with self._lock:
            if self._open is None:
                self._open = AutoParallelRioReader(url=url, **self._about)
            reader = self._open
        try:
            return reader.read(window, **kwargs)
        except Exception:
            with self._lock:
                if self._open is reader:  # not closed: another thread may be reading from it
                    self._open = None
            raise

    def close(self) -> None:
        with self._lock:
            self._open = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self._url, "reading": self._reading, **self._about}

    def __setstate__(self, state: dict[str, Any]) -> None:
        _Reader.__init__(self, **state)


def read(items: Sequence[Item], names: Sequence[str], grid: Grid, reading: Reading) -> dict[str, da.Array]:
    """Name → (item, y, x) raw pixels, 0 where there are none."""
    # stackstac 0.5 reads proj:epsg alone, and without it guesses a grid from the lon/lat box.
    plain = [small(item, names, grid, {"proj:epsg": grid.epsg}) for item in items]
    out = {}
    for name in names:
        dtype = dtype_of(name)
        stack = stackstac.stack(
            plain,
            assets=[name],
            epsg=grid.epsg,
            resolution=grid.gsd,
            bounds=grid.box,
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
            gdal_env=DEFAULT_GDAL_ENV.updated(always=ENV),
            reader=partial(_Reader, reading=reading),
        )
        out[name] = stack.data[:, 0]
    return out
