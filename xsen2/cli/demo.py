"""The demo: super-resolve a cube into a store, and show on one page what it gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from timeit import default_timer

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2 import files
from xsen2.bands import BANDS, GRIDS, factor_of
from xsen2.cube import canonicalise
from xsen2.errors import GridError, once
from xsen2.evaluation.evaluate import evaluate
from xsen2.evaluation.metrics import compare
from xsen2.evaluation.page import Part, Picture, Table, as_html, as_markdown, literal, versions
from xsen2.evaluation.plots import richest, strips
from xsen2.evaluation.tables import DIGITS, NAMES, UNITS, shown
from xsen2.progress import ProgressLike
from xsen2.sinks.zarr import to_zarr
from xsen2.superresolve import superresolve

__all__ = ["demonstrate", "picture"]

TITLE = "Sentinel-2 at 10 m: before and after"

SIDE = 120
"""Side of the picture's cut-out, in 10 m pixels; a multiple of 6."""

SWIR = ("B12", "B8A", "B05")
"""Bands shown as red, green and blue; all are measured at 20 m."""


@once
def demonstrate(
    cube: xr.Dataset,
    out: Path,
    *,
    method: str = "default",
    truth: xr.Dataset | None = None,
    what: str = "",
    command: str = "",
    say: Callable[[str], object] = print,
    progress: ProgressLike = True,
) -> None:
    """Super-resolve a cube and write the store, a picture and a summary.

    Parameters
    ----------
    cube : xarray.Dataset
        A cube, DN.
    out : Path
        Folder for ``superresolved.zarr``, ``before-after.png`` (with matplotlib), ``summary.md`` and ``summary.html``.
    method : str
        A name of `xsen2.methods`.
    truth : xarray.Dataset, optional
        All bands at 10 m, where they are known.
    what : str
        What the cube is, for the summary.
    command : str
        How this was called, for the summary.
    say : callable
        Takes each line about what is going on.
    progress : bool or callable
        As `xsen2.sinks.zarr.to_zarr` takes it.
    """
    cube = canonicalise(cube)
    with files.named(out, files.ANEW):
        out.mkdir(parents=True, exist_ok=True)
    begun = default_timer()
    store = out / "superresolved.zarr"
    say(f"super-resolving {what} with {method} into {store}")
    result = to_zarr(superresolve(cube, method=method), store, overwrite=True, progress=progress)
    seconds = default_timer() - begun
    drawn: list[Part] = [Picture("before-after.png", "before and after")]
    try:
        say("drawing the picture")
        with files.named(out, files.ANEW):
            picture(cube, {method: result}, out / "before-after.png", truth=truth)
    except ImportError as error:  # all else is there without it
        say(f"no picture: {error}")
        drawn = [f"Without a picture: {literal(str(error))}."]
    say("degrading the scene, to score where the truth is known")
    sections = _scores(cube, result, method, truth)
    page = _page(cube, result, method, what, command, seconds, default_timer() - begun, [*drawn, *sections])
    with files.named(out, files.ANEW):
        files.write(out / "summary.md", as_markdown(TITLE, page))
        files.write(out / "summary.html", as_html(TITLE, page, out))
    say(f"done: {out / 'summary.html'}")


def picture(cube: xr.Dataset, results: dict[str, xr.Dataset], path: Path, *, truth: xr.Dataset | None = None) -> None:
    """Draw bands before and after, side by side, where the scene is richest.

    Parameters
    ----------
    cube : xarray.Dataset
        With canonical names and dims.
    results : dict
        Label → 10 m dataset. Bicubic interpolation is drawn too.
    path : Path
        The PNG to write.
    truth : xarray.Dataset, optional
        All bands at 10 m, drawn last.
    """
    if "time" in cube.dims:
        results = {label: r.isel(time=0) for label, r in results.items()}
        truth = None if truth is None else truth.isel(time=0)
        cube = cube.isel(time=0)
    row, column, side = _richest(cube)
    rows: list[tuple[str, tuple[str, ...]]] = []
    swir = tuple(b for b in SWIR if b in cube)
    if len(swir) == 3:
        rows.append((f"20 m bands {', '.join(swir)}", swir))
    elif swir:
        rows.append((f"20 m band {swir[0]}", swir[:1]))
    rows += [(f"60 m band {b}", (b,)) for b in GRIDS[60] if b in cube][:1]
    columns = {"bicubic": superresolve(cube, method="bicubic"), **results}
    if truth is not None:
        columns["truth"] = truth
    drawn = {}
    for label, bands in rows:
        panels = {"as measured": cube} | {f"10 m, {name}": ds for name, ds in columns.items()}
        drawn[label] = {title: _pixels(ds, bands, row, column, side) for title, ds in panels.items()}
    strips(drawn).savefig(path, dpi=150)


def _richest(cube: xr.Dataset) -> tuple[int, int, int]:
    """First row and column, and side, of the square that changes most from pixel to pixel."""
    name = next(b for b in ("B04", *GRIDS[10]) if b in cube)
    height, width = cube[name].shape
    side = min(SIDE, height // 6 * 6, width // 6 * 6)
    top, left = (max(0, (n - 1200) // 12 * 6) for n in (height, width))  # enough of a large scene
    row, column = richest(cube[name].isel(y=slice(top, top + 1200), x=slice(left, left + 1200)).values, side, 6)
    return top + row, left + column, side


def _pixels(ds: xr.Dataset, bands: Sequence[str], row: int, column: int, side: int) -> npt.NDArray[np.float64]:
    """A square of 10 m rows and columns, ``(h, w, bands)``, in the pixels that `ds` has there."""
    layers = []
    for band in bands:
        array = ds[band]
        factor = factor_of(band) if array.dims[-1] != "x" else 1
        ydim, xdim = array.dims[-2:]
        first = (row // factor, column // factor)
        n = side // factor
        cut = array.isel({ydim: slice(first[0], first[0] + n), xdim: slice(first[1], first[1] + n)})
        layers.append(cut.values.astype(float))
    return np.stack(layers, axis=-1)


def _scores(cube: xr.Dataset, result: xr.Dataset, method: str, truth: xr.Dataset | None) -> list[Part]:
    """Tables at the lower scale for each grid, and at 10 m where the truth is known; or why there is none."""
    methods = list(dict.fromkeys(["bicubic", method]))
    tables: list[Part] = []
    for scale, gsd in ((2, 20), (6, 60)):
        if not any(b in cube for b in GRIDS[gsd]):
            continue
        title = f"{gsd} m bands, {gsd * scale} m to {gsd} m"
        try:
            scores = evaluate(cube, methods, scale)
        except GridError as error:
            tables.append(literal(f"{title}: not scored, because {error}"))
            continue
        note = f"The whole scene was made {scale} times coarser, and the method brought it back."
        tables.append(_table(title, note, scores))
    if truth is not None:
        sharpened = [b for gsd in (20, 60) for b in GRIDS[gsd] if b in result]
        estimates = {"bicubic": superresolve(cube, sharpened, "bicubic"), method: result}
        scores = xr.concat(
            [compare(estimates[m][sharpened], truth[sharpened], ratio=2) for m in methods],
            dim=xr.Variable("method", methods),
        )
        note = "This scene's truth at 10 m is known in every band; this is the result itself, scored against it."
        tables.append(_table("20 and 60 m bands, at 10 m", note, scores.compute()))
    return tables


def _table(title: str, note: str, scores: xr.Dataset) -> Table:
    methods = [str(m) for m in scores["method"].values]
    head = ["band"]
    columns: list[list[str]] = [[*map(str, scores["band"].values), "mean"]]
    for kind in ("rmse", "sre", "uiq"):
        mean = scores[kind].mean("band")  # a band of under 8 x 8 pixels has no UIQ
        for number, method in enumerate(methods):
            head.append(f"{NAMES[kind]} {method}{UNITS.get(kind, '')}")
            values = (*scores[kind].values[number], float(mean[number]))
            columns.append([shown(float(v), DIGITS[kind]) for v in values])
    angles = ", ".join(f"{m} {v:.2f}°" for m, v in zip(methods, scores["sam"].values, strict=True))
    rows = tuple(zip(*columns, strict=True))
    return Table(title, f"{note} Spectral angle (SAM): {angles}.", tuple(head), rows)


def _page(
    cube: xr.Dataset,
    result: xr.Dataset,
    method: str,
    what: str,
    command: str,
    seconds: float,
    total: float,
    parts: list[Part],
) -> list[Part]:
    """The page, top to bottom: lines and tables, of which the first is the picture, or why there is none."""
    drawn, *scores = parts
    sizes = " x ".join(f"{n} {d}" for d, n in result.sizes.items())
    bands = [b for b in BANDS if b in result]
    return [
        f"Scene: {literal(what)}. {sizes}, {len(bands)} bands at 10 m: {', '.join(bands)}.",
        f"Method: {literal(str(result.attrs.get('xsen2_method', method)))}. Super-resolving and writing took "
        f"{seconds:.1f} s, all of this page {total:.1f} s.",
        "Store: superresolved.zarr. Open it with "
        '`xarray.open_zarr("superresolved.zarr", decode_coords="all")`; values are DN (10000 x reflectance).',
        drawn,
        "RMSE: less is better. SRE and UIQ: more is better.",
        *scores,
        *([f"Command: `{literal(command)}`"] if command else []),
        versions(("torch", "xarray", "dask", "zarr", "rioxarray", "numpy")),
        f"Attribution: {literal(str(cube.attrs.get('attribution', 'unknown')))}",
    ]
