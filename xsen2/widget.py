"""A map in the notebook: what was measured beside the 10 m bands, with a swipe, bands, a stretch and spectra.

Pixels travel over the kernel's own channel, so it works wherever the notebook does. Only what is visible is computed,
in as many pixels as the screen has.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import compute

from xsen2.bands import BANDS, GRIDS, factor_of, find
from xsen2.cube import Cube, recognise
from xsen2.errors import BandError, CRSError, GridError, MethodError, Xsen2Error, once
from xsen2.geometry import reprojected
from xsen2.grid import axes_of, crs_of, edges, geobox, located, spacing
from xsen2.index import differences
from xsen2.radiometry import scale_of, to_nan
from xsen2.superresolve import superresolve

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["Viewer", "explore", "grids"]

MOST = 1_000_000
"""Pixels of 10 m that are made at once: of more, the screen could not show each, and what was measured will do."""

_INDICES = ("NDWI", "MNDWI", "NDVI", "NDMI")
_HERE = Path(__file__).parent


@once
def explore(
    ds: xr.Dataset | xr.DataTree,
    measured: xr.Dataset | xr.DataTree | None = None,
    *,
    method: str = "default",
    height: int = 480,
) -> Any:
    """Look at a cube in the notebook: bands, an index, a pixel's spectrum, before and after.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        A cube: it is shown as measured, and beside it at 10 m, where the map shows little enough of it for that to be
        made (100 km²). Or a result of ``superresolve``, which is shown as it is.
    measured : xarray.Dataset or xarray.DataTree, optional
        The cube that a result was made of, to show beside it.
    method : str
        What makes a cube's 10 m bands, as `xsen2.superresolve.superresolve` takes it.
    height : int
        Of the map, in pixels of the screen.

    Returns
    -------
    anywidget.AnyWidget
        A map. Its trait ``area`` is the rectangle that was drawn on it, as GeoJSON in lon/lat, as ``area=`` of other
        calls takes it; ``pixel`` is the last pixel that was asked for, in DN.

    Raises
    ------
    BandError, GridError, CRSError
        If `ds` is neither a cube nor a result, or has no CRS, or `measured` lies elsewhere.
    ImportError
        anywidget is not installed: ``pip install 'xsen2[notebook]'``.

    Notes
    -----
    Nothing is computed before the map is shown, then what is visible of the shown bands and date, in the kernel, at the
    screen's own resolution. Blocks that were made are not kept: give a result that is persisted, or a store that was
    opened, for one that is looked at for long.

    Examples
    --------
    >>> import xsen2
    >>> map = xsen2.sample().dsen2.explore()
    >>> map.info["dates"]
    ['2024-05-12 10:46', '2024-08-30 10:46']
    >>> map.area  # {} until a rectangle is drawn
    {}
    """
    viewer = Viewer(ds, measured, method)
    return _widget(viewer, height)


class Viewer:
    """What a map shows: pixels of both sides, for a box and a size on the screen. It knows no widget.

    Parameters
    ----------
    ds, measured, method
        As `explore` takes them.
    """

    def __init__(self, ds: xr.Dataset | xr.DataTree, measured: Any = None, method: str = "default") -> None:
        self.method = method
        self.cube: Cube | None = None
        self.result: dict[str, xr.DataArray] = {}
        if measured is not None:
            self.cube = recognise(measured)
        result = _result(ds)
        if result is None:
            self.cube, self.result = recognise(ds), {}
            if self.cube.crs is None:
                raise CRSError("the cube has no CRS, so a map cannot say where it is: use ds.rio.write_crs('EPSG:…')")
            self.grid: GeoBox = self.cube.geobox()
        else:
            self.grid, self.result = result
            if self.cube is not None and not _same(self.cube.geobox(), self.grid):
                raise GridError("measured= lies on another grid than the result: give the cube that it was made of")
        layer = next(iter(self.result.values())) if self.result else next(iter(self.cube.bands.values()))  # type: ignore[union-attr]
        self.times = np.atleast_1d(layer["time"].values) if "time" in layer.dims else None

    @property
    def bands(self) -> list[str]:
        """Canonical names of what is shown, in the order of their wavelengths."""
        shown = self.result or (self.cube.bands if self.cube is not None else {})
        return [band for band in BANDS if band in shown]

    @property
    def info(self) -> dict[str, Any]:
        """What the page needs to know once: bands, dates, place."""
        assert self.grid.crs is not None
        bands = set(self.bands)
        return {
            "bands": [{"name": b, "gsd": BANDS[b].gsd, "wavelength": BANDS[b].wavelength} for b in self.bands],
            "dates": [""] if self.times is None else [str(t)[:16].replace("T", " ") for t in self.times],
            "size": [self.grid.shape.x, self.grid.shape.y],
            "resolution": float(self.grid.resolution.x),
            "crs": f"EPSG:{self.grid.crs.epsg}",
            "bounds": [float(v) for v in self.grid.boundingbox.bbox],
            "sides": [*(["measured"] if self.cube is not None else []), "sharp"],
            "indices": [formula for formula in differences(_INDICES) if {formula["a"], formula["b"]} <= bands],
            "most": MOST,
        }

    def look(
        self, side: str, bands: Sequence[str], date: int, box: tuple[int, int, int, int], size: tuple[int, int]
    ) -> npt.NDArray[np.float32] | None:
        """Pixels for the screen.

        Parameters
        ----------
        side : {"measured", "sharp"}
        bands : sequence of str
            Canonical names.
        date : int
        box : tuple of int
            First row, first column, and those after the last, in pixels of the finest grid.
        size : tuple of int
            Rows and columns that the screen has for them.

        Returns
        -------
        numpy.ndarray or None
            float32 DN ``(bands, rows, columns)``, NaN for nodata, no more of them than there are pixels; None where
            too much would have to be made for it.
        """
        top, left, bottom, right = (
            min(max(0, v), n) for v, n in zip(box, (*self.grid.shape.yx, *self.grid.shape.yx), strict=True)
        )
        if bottom <= top or right <= left or not bands or set(bands) - set(self.bands):
            return None
        picked = [
            np.unique(np.linspace(first, last - 1, min(max(1, n), last - first)).round().astype(int))
            for first, last, n in ((top, bottom, size[0]), (left, right, size[1]))
        ]
        if side == "measured":
            arrays = self._measured(bands)
        elif self.result:
            arrays = self.result
        else:
            if (bottom - top) * (right - left) > MOST:
                return None
            arrays = self._sharp(bands, (top, left, bottom, right))
            picked = [picked[0] - top, picked[1] - left]
        return _taken([(arrays[band], self._zoom(side, band)) for band in bands], date, picked)

    def spectrum(self, row: int, column: int, date: int) -> dict[str, dict[str, float | None]]:
        """A pixel in every band: ``measured``, ``sharp`` and ``error``, in DN."""
        out: dict[str, dict[str, float | None]] = {}
        here = [np.array([row]), np.array([column])]
        if self.cube is not None:
            measured = [(self.cube.bands[band], factor_of(band)) for band in self.bands]
            out["measured"] = _numbers(_taken(measured, date, here), self.bands)
        arrays = self.result
        if not arrays:
            here = [np.array([0]), np.array([0])]
            arrays = self._sharp(self.bands, (row, column, row + 1, column + 1), sure=True)
        names = [name for name in arrays if name.removesuffix("_se") in self.bands]
        values = _numbers(_taken([(arrays[name], 1) for name in names], date, here), names)
        out["sharp"] = {name: value for name, value in values.items() if name in BANDS}
        errors = {name.removesuffix("_se"): value for name, value in values.items() if name not in BANDS}
        return out | ({"error": errors} if errors else {})

    def _measured(self, bands: Sequence[str]) -> Mapping[str, xr.DataArray]:
        if self.cube is None or set(bands) - set(self.cube.bands):
            raise BandError("there is nothing that was measured: give explore(measured=cube)")
        return self.cube.bands

    def _sharp(
        self, bands: Sequence[str], box: tuple[int, int, int, int], *, sure: bool = False
    ) -> dict[str, xr.DataArray]:
        """Bands of a box of the cube at 10 m, with their standard errors if those are wanted and there are any."""
        assert self.cube is not None
        top, left, bottom, right = box
        layers = {b: self.cube.bands[b][..., top:bottom, left:right] for b in bands if factor_of(b) == 1}
        low = [band for band in bands if factor_of(band) > 1]
        if not low:
            return layers
        part, cube = self.grid[top:bottom, left:right], self.cube.dataset()
        try:
            sr = superresolve(cube, low, self.method, area=part, uncertainty=sure)
        except MethodError:
            if not sure:
                raise
            sr = superresolve(cube, low, self.method, area=part)  # the method has no standard errors
        return layers | {str(name): sr[name] for name in sr.data_vars if str(name).removesuffix("_se") in low}

    def _zoom(self, side: str, band: str) -> int:
        return factor_of(band) if side == "measured" else 1

    def rectangle(self, box: tuple[int, int, int, int]) -> dict[str, Any]:
        """A box of pixels as GeoJSON in lon/lat."""
        assert self.grid.crs is not None
        west, south, east, north = reprojected(
            self.grid[box[0] : box[2], box[1] : box[3]].boundingbox.bbox, self.grid.crs.proj, "OGC:CRS84"
        )
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        return {"type": "Polygon", "coordinates": [[[round(x, 7), round(y, 7)] for x, y in ring]]}


def _result(ds: Any) -> tuple[GeoBox, dict[str, xr.DataArray]] | None:
    """The grid and the bands of a result, if it is one: all bands on the finest grid, some of them coarser natively."""
    if not isinstance(ds, xr.Dataset):
        return None
    ds = located(ds)
    known = {str(n): find(str(n).removesuffix("_se")) for n in ds.data_vars}
    arrays = {f"{b}{'_se' if n.endswith('_se') else ''}": ds[n] for n, b in known.items() if b}
    dims = {array.dims[-2:] for array in arrays.values()}
    if len(dims) != 1 or not any(factor_of(name) > 1 for name in arrays if name in BANDS):
        return None
    if not ds.attrs.get("xsen2_method"):
        return None
    name, first = next(iter(arrays.items()))
    crs, axes = crs_of(first, ds), axes_of(first, name)
    if crs is None:
        raise CRSError("the result has no CRS, so a map cannot say where it is: use ds.rio.write_crs('EPSG:…')")
    size = spacing(first, axes, name) or float(first.attrs.get("gsd", 10))
    grid = geobox(edges(first, axes, size), size, crs)
    y = np.asarray(first[first.dims[-2]].values, float)
    upright = {name: a.isel({a.dims[-2]: slice(None, None, -1)}) if len(y) > 1 and y[1] > y[0] else a
               for name, a in arrays.items()}  # fmt: skip
    return grid, upright


def _same(grid: GeoBox, other: GeoBox) -> bool:
    return grid.shape == other.shape and grid.affine.almost_equals(other.affine, 1e-3)


def _taken(
    arrays: Sequence[tuple[xr.DataArray, int]], date: int, picked: Sequence[npt.NDArray[np.int_]]
) -> npt.NDArray[np.float32]:
    """Rows and columns of one date of several arrays, in DN; computed together, as a network makes them.

    Each row and column is one of the finest grid, of which so many as stand beside an array make one of its own.
    """
    lazy, cuts = [], []
    for array, zoom in arrays:
        rows, columns = (positions // zoom for positions in picked)
        data = array.data if array.ndim == 2 else array.data[date]
        lazy.append(data[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1])
        cuts.append(np.ix_(rows - rows[0], columns - columns[0]))
    out = []
    for block, cut, (array, _) in zip(compute(*lazy), cuts, arrays, strict=True):
        scale = scale_of(array)
        out.append(to_nan(np.asarray(block)[cut], scale) * np.float32(scale.gain))
    return np.stack(out)


def _numbers(values: npt.NDArray[np.float32] | None, names: Sequence[str]) -> dict[str, float | None]:
    if values is None:
        return {}
    flat = values.reshape(len(names), -1)[:, 0]
    return {n: round(float(v), 1) if math.isfinite(v) else None for n, v in zip(names, flat, strict=True)}


def _widget(viewer: Viewer, height: int) -> Any:
    """The widget; its class is made when it is wanted, since importing this must not import anywidget."""
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError("a map in the notebook needs anywidget: pip install 'xsen2[notebook]'") from error

    class Explorer(anywidget.AnyWidget):
        _esm = _HERE / "widget.js"
        _css = _HERE / "widget.css"
        info = traitlets.Dict().tag(sync=True)
        height = traitlets.Int(480).tag(sync=True)
        area = traitlets.Dict().tag(sync=True)
        pixel = traitlets.Dict().tag(sync=True)

        def answer(self, _: Any, content: Any, __: Any) -> None:
            """Answer a request of the page."""
            self.send(*answered(viewer, self, content))

    def answered(viewer: Viewer, widget: Any, content: Any) -> tuple[dict[str, Any], list[bytes]]:
        back = {"id": content.get("id"), "kind": content.get("kind")}
        try:
            if content["kind"] == "look":
                pixels = viewer.look(
                    str(content["side"]), [str(b) for b in content["bands"]], int(content["date"]),
                    _box(content["box"]), (min(int(content["size"][0]), 4096), min(int(content["size"][1]), 4096)),
                )  # fmt: skip
                if pixels is None:
                    return {**back, "none": True}, []
                return {**back, "shape": list(pixels.shape)}, [np.ascontiguousarray(pixels).tobytes()]
            if content["kind"] == "pixel":
                row, column, date = int(content["row"]), int(content["column"]), int(content["date"])
                widget.pixel = {"row": row, "column": column, **viewer.spectrum(row, column, date)}
                return {**back, **widget.pixel}, []
            if content["kind"] == "area":
                widget.area = viewer.rectangle(_box(content["box"]))
            return back, []
        except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
            return {**back, "error": str(error)[:500]}, []

    explorer = Explorer(info=viewer.info, height=height)
    explorer.on_msg(explorer.answer)
    return explorer


def _box(given: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in given)
    return top, left, bottom, right


def grids(ds: xr.Dataset | xr.DataTree) -> str:
    """The three grids of a cube as a table in HTML, without computing anything.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        A cube, or anything else, of which the table then says why it is none.

    Returns
    -------
    str

    Examples
    --------
    >>> import xsen2
    >>> "216 × 216" in grids(xsen2.sample())
    True
    """
    result = _result(ds) if isinstance(ds, xr.Dataset) else None
    if result is not None:
        grid, bands = result
        lines = [(f"{grid.resolution.x:g} m", ", ".join(name for name in bands if name in BANDS), grid.shape)]
        assert grid.crs is not None
        place = f"EPSG:{grid.crs.epsg}"
        title = "10 m bands" if grid.resolution.x == 10 else f"{grid.resolution.x:g} m bands"
        dates = next(iter(bands.values()))
        times = np.atleast_1d(dates["time"].values) if "time" in dates.dims else None
    else:
        try:
            cube = recognise(ds)
        except Xsen2Error as error:
            return f"<p><b>No cube:</b> {html.escape(str(error))}</p>"
        lines = [
            (f"{cube.resolution * g / 10:g} m", ", ".join(b for b in cube.bands if b in GRIDS[g]), cube.shape(g))  # type: ignore[misc]
            for g in cube.grids
        ]
        place = "no CRS" if cube.crs is None else cube.crs.to_string()
        title, times = "Sentinel-2 cube", cube.times
    when = (
        ""
        if times is None
        else f", {len(times)} date{'s' * (len(times) != 1)} from {str(times[0])[:10]}"
        + (f" to {str(times[-1])[:10]}" if len(times) > 1 else "")
    )
    rows = "".join(
        f"<tr><td>{html.escape(size)}</td><td>{shape[0]} × {shape[1]}</td><td>{html.escape(names)}</td></tr>"
        for size, names, shape in lines
    )
    head = "<tr><th>grid</th><th>rows × columns</th><th>bands</th></tr>"
    return f"<p><b>{title}</b>, {html.escape(place)}{when}</p><table>{head}{rows}</table>"
