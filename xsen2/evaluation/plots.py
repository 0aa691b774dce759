"""Pictures of results and scores. They need matplotlib: ``pip install 'xsen2[plot]'``."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.errors import BandError, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bars", "error_maps", "maps", "require", "richest", "strips"]

Pixels = npt.NDArray[Any]

_COLOURS = ("#7f7f7f", *(f"C{i}" for i in (0, 1, 2, 3, 4, 5, 6, 8, 9)))  # the first method, bicubic, in grey
_HATCHES = ("", "///", "...")  # told apart by these once the colours repeat


def require() -> None:
    """Raise ImportError, with what to install, where no pictures can be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'xsen2[plot]'") from error


P = ParamSpec("P")


def _plain(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw names as they are: to matplotlib, what stands between dollars is a formula, and perhaps a broken one."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        require()
        from matplotlib import rc_context

        with rc_context({"text.parse_math": False, "text.usetex": False}):
            return draw(*args, **kwargs)

    return drawn


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


@_plain
def bars(scores: xr.Dataset, metric: str = "rmse") -> Figure:
    """Bars of one metric: bands side by side, one colour per method.

    Parameters
    ----------
    scores : xarray.Dataset
        What `xsen2.evaluation.evaluate.evaluate` or `xsen2.benchmark` gives. Scenes are averaged.
    metric : str
        A variable of it. One that is not per band has a single group of bars.

    Returns
    -------
    matplotlib.figure.Figure
        Of one panel; ``.savefig(path)`` writes it.

    Raises
    ------
    BandError
        If there is no such metric.

    Examples
    --------
    >>> import xsen2
    >>> figure = bars(xsen2.sample().dsen2.evaluate(["bicubic"]), "sre")
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['B05', 'B06', 'B07', 'B8A', 'B11', 'B12']
    """
    if metric not in scores:
        raise BandError(f"there is no metric {metric!r}: use one of {', '.join(map(str, scores.data_vars))}")
    data = scores[metric]
    if "scene" in data.dims:
        data = data.mean("scene")
    labels = [printable(str(band)) for band in data["band"].values] if "band" in data.dims else ["all bands"]
    methods = [str(method) for method in data["method"].values]
    values = data.transpose("method", ...).values.reshape(len(methods), len(labels))
    figure = _figure(max(6.0, 1.5 + 0.16 * values.size + 0.5 * len(labels)), 3.8)
    ax = figure.subplots()
    width = 0.85 / len(methods)
    shown = []
    for number, heights in enumerate(values):
        at = np.arange(len(labels)) + (number - (len(methods) - 1) / 2) * width
        colour, hatch = _COLOURS[number % len(_COLOURS)], _HATCHES[number // len(_COLOURS) % len(_HATCHES)]
        drawn = ax.bar(at, heights, width, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
        shown.append(drawn.patches[0])
    units = data.attrs.get("units", "")
    ax.set_ylabel(metric + (f", {units}" if units not in ("", "1") else ""))
    ax.set_xticks(range(len(labels)), labels)
    ax.spines[["top", "right"]].set_visible(False)
    # Named afterwards: matplotlib leaves out labels that begin with an underscore.
    legend = figure.legend(shown, [str(i) for i in range(len(methods))], loc="outside right upper")
    legend.set_frame_on(False)
    for text, method in zip(legend.get_texts(), methods, strict=True):
        text.set(text=_short(method, 40), fontsize=9)
    return figure


@_plain
def error_maps(
    truth: xr.Dataset, estimates: Mapping[str, xr.Dataset], bands: Sequence[str] | None = None, *, gain: float = 1.0
) -> Figure:
    """Maps of the absolute error, as in figures 8 and 9 of Lanaras et al. (2018): bands down, methods across.

    Parameters
    ----------
    truth : xarray.Dataset
        ``(y, x)`` per band.
    estimates : mapping
        Name of a method → its result on the same grid. Bands that one does not have stay empty.
    bands : sequence of str, optional
        Rows; all of `truth` by default.
    gain : float
        DN per unit of the pixels: 10000 for reflectance.

    Returns
    -------
    matplotlib.figure.Figure
        See `maps`.

    Examples
    --------
    >>> import xsen2
    >>> coarse, truth = (ds.isel(time=0) for ds in xsen2.sample().degrade.pair(scale=6))
    >>> sr = coarse.dsen2.superresolve(method="bicubic", native=False)
    >>> len(error_maps(truth, {"bicubic": sr}).axes)  # a truth and an error per band, and the colour bar
    5
    """
    rows = {}
    for band in bands or [str(name) for name in truth.data_vars]:
        pixels = {name: ds[band].values * gain for name, ds in estimates.items() if band in ds}
        rows[band] = (truth[band].values * gain, pixels)
    return maps(rows, tuple(estimates))


@_plain
def maps(rows: Mapping[str, tuple[Pixels, Mapping[str, Pixels]]], methods: Sequence[str]) -> Figure:
    """Maps of the absolute error: one row per band or scene, the truth first, then one column per method.

    Parameters
    ----------
    rows : mapping
        Label → the truth ``(h, w)`` in DN, and every method's estimate of it. A method that is not there leaves its
        panel empty.
    methods : sequence of str
        Columns.

    Returns
    -------
    matplotlib.figure.Figure
        One colour scale for all, up to the error that 1 % of all pixels exceed.
    """
    errors = {
        label: {method: np.abs(estimates[method] - truth) for method in methods if method in estimates}
        for label, (truth, estimates) in rows.items()
    }
    pooled = np.concatenate([e.ravel() for row in errors.values() for e in row.values()] or [np.zeros(1)])
    seen = pooled[np.isfinite(pooled)]
    top = max(1.0, float(np.percentile(seen, 99))) if seen.size else 1.0
    figure = _figure(1.1 + 1.6 * (1 + len(methods)), 0.4 + 1.72 * len(rows))
    axes = figure.subplots(len(rows), 1 + len(methods), squeeze=False)
    shown: Any = None
    for line, (label, (truth, _)) in zip(axes, rows.items(), strict=True):
        _show(line[0], truth[..., None], *_stretch([truth[..., None]]))
        _label(line[0], label)
        for ax, method in zip(line[1:], methods, strict=True):
            _bare(ax)
            if method in errors[label]:
                shown = ax.imshow(errors[label][method], cmap="inferno", vmin=0, vmax=top, interpolation="nearest")
    for ax, title in zip(axes[0], ("truth", *methods), strict=True):
        ax.set_title(_short(title), fontsize=9)
    if shown is not None:
        share, tall = 0.6 / figure.get_size_inches()[0], min(1.0, 2.5 / len(rows))
        figure.colorbar(shown, ax=axes, fraction=share, shrink=tall, pad=0.01, extend="max", label="absolute error, DN")
    return figure


@_plain
def strips(rows: Mapping[str, Mapping[str, Pixels]]) -> Figure:
    """Before and after, side by side: one row per scene or group of bands, one column per version.

    Parameters
    ----------
    rows : mapping
        Label → title → ``(h, w, 1)`` for grey or ``(h, w, 3)``. All panels of a row show the same ground, whatever
        their pixels' size, under one stretch; a title that a row lacks leaves its panel empty.

    Returns
    -------
    matplotlib.figure.Figure
    """
    titles = list(dict.fromkeys(title for panels in rows.values() for title in panels))
    side = 3.2 if len(titles) <= 5 else 1.9
    figure = _figure(0.3 + side * len(titles), 0.3 + (side + 0.05) * len(rows))
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, (label, panels) in zip(axes, rows.items(), strict=True):
        stretch = _stretch(list(panels.values()))
        for ax, title in zip(line, titles, strict=True):
            if title in panels:
                _show(ax, panels[title], *stretch)
            else:
                _bare(ax)
        _label(line[0], label)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(_short(title), fontsize=9)
    return figure


def richest(pixels: Pixels, side: int, step: int) -> tuple[int, int]:
    """First row and column of the square that changes most from pixel to pixel.

    Parameters
    ----------
    pixels : numpy.ndarray
        ``(h, w)``; NaN counts as no change.
    side : int
        Of the square, in pixels, not more than the image has.
    step : int
        Rows and columns are multiples of it.
    """
    x = pixels.astype(float)
    change = np.nan_to_num(np.abs(np.diff(x, axis=0))[:, 1:] + np.abs(np.diff(x, axis=1))[1:])
    best = (-1.0, 0, 0)
    stride = max(step, side // 2 // step * step)
    for row in range(0, x.shape[0] - side + 1, stride):
        for column in range(0, x.shape[1] - side + 1, stride):
            richness = float(change[row : row + side - 1, column : column + side - 1].mean())
            if richness > best[0]:
                best = (richness, row, column)
    return best[1:]


def _stretch(panels: Sequence[Pixels]) -> tuple[Pixels, Pixels]:
    """Per colour, the values shown as black and as white."""
    pooled = np.concatenate([p.reshape(-1, p.shape[-1]) for p in panels])
    if not np.isfinite(pooled).any(axis=0).all():
        return np.zeros(pooled.shape[1]), np.ones(pooled.shape[1])
    low, high = np.nanpercentile(pooled, (1, 99), axis=0)
    return low, high


def _show(ax: Axes, pixels: Pixels, low: Pixels, high: Pixels) -> None:
    scaled = np.clip((pixels - low) / np.maximum(high - low, 1), 0, 1)
    gray = scaled.shape[-1] == 1
    if not gray:
        scaled = np.where(np.isfinite(scaled).all(axis=-1, keepdims=True), scaled, 1)
    ax.imshow(scaled[..., 0] if gray else scaled, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _bare(ax)


def _bare(ax: Axes) -> None:
    """No ticks and no frame, but room for a label."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _label(ax: Axes, text: str) -> None:
    ax.set_ylabel(_short(text), fontsize=8)


def _short(text: str, width: int = 20) -> str:
    """Long names in lines of what fits a panel, and not in too many of them."""
    return "\n".join(textwrap.wrap(printable(text), width, max_lines=4))
