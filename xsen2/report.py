"""The demo: super-resolve a cube into a store, and show on one page what it gave."""

from __future__ import annotations

import base64
import html
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from timeit import default_timer

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS, GRIDS, grid_of
from xsen2.compare import compare
from xsen2.cube import canonicalise
from xsen2.errors import GridError
from xsen2.evaluate import evaluate
from xsen2.sinks.zarr import to_zarr
from xsen2.superresolve import superresolve

__all__ = ["demonstrate", "picture"]

SIDE = 120
"""Side of the picture's cut-out, in 10 m pixels; a multiple of 6."""

SWIR = ("B12", "B8A", "B05")
"""Bands shown as red, green and blue; all are measured at 20 m."""


def demonstrate(
    cube: xr.Dataset,
    out: Path,
    *,
    method: str = "default",
    truth: xr.Dataset | None = None,
    what: str = "",
    command: str = "",
    say: Callable[[str], object] = print,
    progress: bool = True,
) -> None:
    """Super-resolve a cube and write the store, a picture and a summary.

    Parameters
    ----------
    cube : xarray.Dataset
        A cube, DN.
    out : Path
        Folder for ``superresolved.zarr``, ``before-after.png``, ``summary.md`` and ``summary.html``.
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
    progress : bool
        Show progress bars.
    """
    cube = canonicalise(cube)
    out.mkdir(parents=True, exist_ok=True)
    begun = default_timer()
    store = out / "superresolved.zarr"
    say(f"super-resolving {what} with {method} into {store}")
    result = to_zarr(superresolve(cube, method=method), store, overwrite=True, progress=progress)
    seconds = default_timer() - begun
    say("drawing the picture")
    picture(cube, {method: result}, out / "before-after.png", truth=truth)
    say("degrading the scene, to score where the truth is known")
    sections = _scores(cube, result, method, truth)
    page = _page(cube, result, method, what, command, seconds, default_timer() - begun, sections)
    (out / "summary.md").write_text(_markdown(page), encoding="utf-8")
    (out / "summary.html").write_text(_html(page, out), encoding="utf-8")
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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'xsen2[plot]'") from error
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
    figure = Figure(figsize=(3.2 * (1 + len(columns)), 3.45 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1 + len(columns), squeeze=False)
    for line, (label, bands) in zip(axes, rows, strict=True):
        panels = {name: _pixels(ds, bands, row, column, side) for name, ds in {"measured": cube, **columns}.items()}
        pooled = np.concatenate([p.reshape(-1, len(bands)) for p in panels.values()])
        low, high = (np.nanpercentile(pooled, q, axis=0) for q in (1, 99))  # one stretch for all panels
        for ax, (name, pixels) in zip(line, panels.items(), strict=True):
            scaled = np.clip((pixels - low) / np.maximum(high - low, 1), 0, 1)
            gray = scaled.shape[-1] == 1
            ax.imshow(scaled[..., 0] if gray else scaled, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_title(f"{label}, as measured" if name == "measured" else f"10 m, {name}", fontsize=9)
            ax.set_axis_off()
    figure.savefig(path, dpi=150)


def _richest(cube: xr.Dataset) -> tuple[int, int, int]:
    """First row and column, and side, of the square that changes most from pixel to pixel."""
    name = next(b for b in ("B04", *GRIDS[10]) if b in cube)
    height, width = cube[name].shape
    side = min(SIDE, height // 6 * 6, width // 6 * 6)
    top, left = (max(0, (n - 1200) // 12 * 6) for n in (height, width))  # enough of a large scene
    part = cube[name].isel(y=slice(top, top + 1200), x=slice(left, left + 1200)).values.astype(float)
    change = np.abs(np.diff(part, axis=0))[:, 1:] + np.abs(np.diff(part, axis=1))[1:]
    best = (-1.0, 0, 0)
    step = max(6, side // 12 * 6)
    for r in range(0, part.shape[0] - side + 1, step):
        for c in range(0, part.shape[1] - side + 1, step):
            richness = float(change[r : r + side - 1, c : c + side - 1].mean())
            if richness > best[0]:  # never so for NaN
                best = (richness, r, c)
    return top + best[1], left + best[2], side


def _pixels(ds: xr.Dataset, bands: Sequence[str], row: int, column: int, side: int) -> npt.NDArray[np.float64]:
    """A square of 10 m rows and columns, ``(h, w, bands)``, in the pixels that `ds` has there."""
    found = []
    for band in bands:
        array = ds[band]
        factor = grid_of(band) // 10 if array.dims[-1] != "x" else 1
        ydim, xdim = array.dims[-2:]
        first = (row // factor, column // factor)
        n = side // factor
        cut = array.isel({ydim: slice(first[0], first[0] + n), xdim: slice(first[1], first[1] + n)})
        found.append(cut.values.astype(float))
    return np.stack(found, axis=-1)


@dataclass(frozen=True)
class _Table:
    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _scores(cube: xr.Dataset, result: xr.Dataset, method: str, truth: xr.Dataset | None) -> list[_Table | str]:
    """Tables at the lower scale for each grid, and at 10 m where the truth is known; or why there is none."""
    methods = list(dict.fromkeys(["bicubic", method]))
    tables: list[_Table | str] = []
    for scale, gsd in ((2, 20), (6, 60)):
        if not any(b in cube for b in GRIDS[gsd]):
            continue
        title = f"{gsd} m bands, {gsd * scale} m to {gsd} m"
        try:
            scores = evaluate(cube, methods, scale)
        except GridError as error:
            tables.append(f"{title}: not scored, because {error}")
            continue
        note = f"The whole scene was made {scale} times coarser, and the method brought it back."
        tables.append(_table(title, note, scores))
    if truth is not None:
        made = [b for gsd in (20, 60) for b in GRIDS[gsd] if b in result]
        estimates = {"bicubic": superresolve(cube, made, "bicubic"), method: result}
        scores = xr.concat(
            [compare(estimates[m][made], truth[made], ratio=2) for m in methods],
            dim=xr.Variable("method", methods),
        )
        note = "This scene's truth at 10 m is known in every band; this is the result itself, scored against it."
        tables.append(_table("20 and 60 m bands, at 10 m", note, scores.compute()))
    return tables


def _table(title: str, note: str, scores: xr.Dataset) -> _Table:
    methods = [str(m) for m in scores["method"].values]
    kinds = {"rmse": ("RMSE", ", DN", 1), "sre": ("SRE", ", dB", 2), "uiq": ("UIQ", "", 3)}
    head = ["band"]
    columns: list[list[str]] = [[*map(str, scores["band"].values), "mean"]]
    for kind, (name, unit, digits) in kinds.items():
        for number, method in enumerate(methods):
            values = scores[kind].values[number]
            head.append(f"{name} {method}{unit}")
            columns.append([f"{v:.{digits}f}" for v in (*values, np.nanmean(values))])
    angles = ", ".join(f"{m} {v:.2f}°" for m, v in zip(methods, scores["sam"].values, strict=True))
    rows = tuple(zip(*columns, strict=True))
    return _Table(title, f"{note} Spectral angle (SAM): {angles}.", tuple(head), rows)


def _page(
    cube: xr.Dataset,
    result: xr.Dataset,
    method: str,
    what: str,
    command: str,
    seconds: float,
    total: float,
    scores: list[_Table | str],
) -> list[_Table | str]:
    """The page, top to bottom: lines and tables; the picture has its place by name."""
    sizes = " x ".join(f"{n} {d}" for d, n in result.sizes.items())
    bands = [b for b in BANDS if b in result]
    packages = ("xsen2", "torch", "xarray", "dask", "zarr", "rioxarray", "numpy")
    return [
        f"Scene: {what}. {sizes}, {len(bands)} bands at 10 m: {', '.join(bands)}.",
        f"Method: {result.attrs.get('xsen2_method', method)}. Super-resolving and writing took {seconds:.1f} s, "
        f"all of this page {total:.1f} s.",
        "Store: superresolved.zarr. Open it with "
        '`xarray.open_zarr("superresolved.zarr", decode_coords="all")`; values are DN (10000 x reflectance).',
        "before-after.png",
        "RMSE: less is better. SRE and UIQ: more is better.",
        *scores,
        *([f"Command: `{command}`"] if command else []),
        "Versions: Python " + sys.version.split()[0] + "".join(f", {p} {_version(p)}" for p in packages),
        f"Attribution: {cube.attrs.get('attribution', 'unknown')}",
    ]


def _version(package: str) -> str:
    if package == "xsen2":
        from xsen2 import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


TITLE = "Sentinel-2 at 10 m: before and after"


def _markdown(page: list[_Table | str]) -> str:
    out = [f"# {TITLE}"]
    for part in page:
        if isinstance(part, _Table):
            lines = [part.head, ("---",) + ("---:",) * (len(part.head) - 1), *part.rows]
            table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
            out += [f"## {part.title}", part.note, table]
        else:
            out.append(f"![before and after]({part})" if part.endswith(".png") else part)
    return "\n\n".join(out) + "\n"


def _html(page: list[_Table | str], folder: Path) -> str:
    """One file that can be sent on: the picture is inside."""
    out = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{TITLE}</title><style>",
        "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}img{width:100%}",
        "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}",
        f"</style><h1>{TITLE}</h1>",
    ]
    for part in page:
        if isinstance(part, _Table):
            lines = [
                "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
                for tag, line in (("th", part.head), *(("td", row) for row in part.rows))
            ]
            table = "<table>" + "".join(f"<tr>{line}" for line in lines) + "</table>"
            out.append(f"<h2>{html.escape(part.title)}</h2><p>{html.escape(part.note)}</p>{table}")
        elif part.endswith(".png"):
            data = base64.b64encode((folder / part).read_bytes()).decode()
            out.append(f'<img alt="before and after" src="data:image/png;base64,{data}">')
        else:
            text = html.escape(part).split("`")
            out.append("<p>" + "".join(f"<code>{t}</code>" if i % 2 else t for i, t in enumerate(text)) + "</p>")
    return "\n".join(out) + "\n"
