"""How good methods are on a cube: at a coarser scale, where the truth is known, or at its own, without one."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple, Unpack

import xarray as xr

from xsen2.arguments import whole
from xsen2.bands import grid_of
from xsen2.cube import recognise
from xsen2.degrade import pair
from xsen2.engine.operators import Operator
from xsen2.errors import BandError, GridError, MethodError, once
from xsen2.evaluation.metrics import compare
from xsen2.evaluation.noreference import assess
from xsen2.methods.protocol import Method, finest_halo, tile
from xsen2.methods.registry import resolve
from xsen2.radiometry import scale_of
from xsen2.superresolve import Options, superresolve

__all__ = ["Trial", "evaluate", "trial"]


@once
def evaluate(
    ds: xr.Dataset | xr.DataTree,
    methods: Sequence[str | Method] = ("bicubic", "default"),
    scale: int = 2,
    operator: Operator = "mtf",
    *,
    border: int | None = None,
    consistency: bool | None = None,
    compute: bool = True,
    device: str = "auto",
    dtype: str = "auto",
    quantification: float | None = None,
) -> xr.Dataset:
    """Degrade the cube, super-resolve it back, and measure how far that is from the original.

    With ``scale=1`` nothing is degraded beforehand: the results at 10 m are scored without a truth, by what
    `xsen2.evaluation.noreference.assess` knows. That is weaker: each of its scores has a way to do well that helps
    nobody.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        A cube. All its dates are pooled.
    methods : sequence of str or Method
        Names of `xsen2.methods`, or objects that follow `xsen2.methods.protocol.Method`.
    scale : {2, 6, 1}
        2 judges the 20 m bands (degraded to 40 m and brought back), 6 the 60 m bands. 1 judges all bands at
        10 m, without a truth; bands that a method does not make are NaN.
    operator : {"mtf", "product", "dsen2", "box"}
        How the cube is degraded, see `xsen2.degrade.degrade`. ``"dsen2"`` is that of the paper.
    border : int, optional
        Pixels left out along the edges, where methods lack context. By default the largest halo of
        `methods`, but no more than a quarter of the shorter side. The result's attributes tell. At scale 1
        all pixels count.
    consistency : bool, optional
        As `xsen2.superresolve.superresolve` takes it, with the `operator` by which the cube was degraded.
    compute : bool
        False gives a lazy result, for one `dask.compute` over many scenes.
    device, dtype, quantification
        As `xsen2.superresolve.superresolve` takes them.

    Returns
    -------
    xarray.Dataset
        Dims ``(method, band)``. With a truth, per band `xsen2.evaluation.metrics.PER_BAND`: `rmse` and `bias` in DN,
        `nrmse`, `sre` and `psnr` in dB, `cc`, `uiq`, `pixels` and more, and per method
        `xsen2.evaluation.metrics.SPECTRAL`: `sam` in degrees, `ergas` and more. A pixel counts where truth and estimate
        both have data. At scale 1, `xsen2.evaluation.noreference.PER_BAND` and ``PER_GRID``; the latter, scores of all
        bands of a grid together, stand with each of them. ``.to_dataframe()`` gives a table, ``.sel({"method":
        "default"})`` one method (``method=`` is an argument of xarray's own).

    Raises
    ------
    MethodError
        No or unknown methods, or a scale other than 1, 2 and 6.
    GridError
        If the border leaves nothing to judge.
    BandError
        If the cube lacks bands that a method reads.

    Examples
    --------
    >>> import xsen2
    >>> scores = xsen2.sample().dsen2.evaluate(methods=["bicubic"])
    >>> scores["rmse"].dims, scores["sam"].dims
    (('method', 'band'), ('method',))
    """
    _listed(methods)
    options: Options = {"device": device, "dtype": dtype, "quantification": quantification}
    scale = whole(scale, "scale", MethodError, least=1, hint="use 2 for the 20 m bands, 6 for the 60 m ones, or 1")
    if scale == 1:
        if border:
            raise GridError(f"border={border}: at scale 1 all pixels count, leave it out")
        out = _full_scale(ds, methods, operator, consistency, **options)
    else:
        out = trial(ds, methods, scale, operator, border, consistency, **options).scores
    if compute:
        out = out.compute()
    return out


class Trial(NamedTuple):
    """One degraded cube, what methods made of it, and how good that is; all lazy."""

    scores: xr.Dataset
    coarse: xr.Dataset
    truth: xr.Dataset
    estimates: list[xr.Dataset]
    """In the order of the methods; like the truth, with the border."""


def trial(
    ds: xr.Dataset | xr.DataTree,
    methods: Sequence[str | Method],
    scale: int,
    operator: Operator,
    border: int | None = None,
    consistency: bool | None = None,
    **options: Unpack[Options],
) -> Trial:
    """What `evaluate` compares at a coarser scale, along with the scores; its arguments."""
    running = options.get("device", "auto"), options.get("dtype", "auto")
    coarse, truth = pair(ds, scale, operator)
    bands = [str(band) for band in truth.data_vars]
    side = min(truth.sizes["y"], truth.sizes["x"])
    if border is not None:
        border = whole(border, "border", GridError, least=0, hint="use a number of pixels, or None")
    if border is None:
        parts = [part for method in methods for part in resolve(method, bands, *running, operator)]
        border = min(max(finest_halo(part) - tile(part) for part in parts), side // 4)  # a tile is no context
    if border < 0 or 2 * border >= side:
        raise GridError(f"border={border} leaves nothing of {side} pixels: use less, or a larger area")
    cut = {dim: slice(border, truth.sizes[dim] - border) for dim in ("y", "x")}
    gain = scale_of(recognise(coarse).bands[bands[0]], options.get("quantification")).gain
    estimates = [
        superresolve(coarse, bands, method, native=False, consistency=consistency, operator=operator, **options)
        for method in methods
    ]
    scores = [compare(sr.isel(cut), truth.isel(cut), ratio=scale, gain=gain) for sr in estimates]
    out: xr.Dataset = xr.concat(scores, dim=xr.Variable("method", _names(methods)))
    out.attrs = {"scale": scale, "operator": operator, "border": border}
    return Trial(out, coarse, truth, estimates)


def _full_scale(
    ds: xr.Dataset | xr.DataTree,
    methods: Sequence[str | Method],
    operator: Operator,
    consistency: bool | None,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Scores without a truth."""
    cube = recognise(ds)
    coarse = [band for band in cube.bands if grid_of(band) != 10]
    gain = scale_of(next(iter(cube.bands.values())), options.get("quantification")).gain
    band_of = {name: band for band, name in cube.names.items()}
    scores = []
    for method in methods:
        bands = [cube.names[band] for band in coarse if _makes(method, band, cube.bands, operator)]
        sr = superresolve(
            ds,
            bands or None,  # none: the error says why
            method,
            native=False,
            consistency=consistency,
            operator=operator,
            **options,
        )
        assessment = assess(_plain(sr, band_of), ds, operator=operator, gain=gain)
        per_band = assessment.drop_dims("grid")
        for name, values in assessment.drop_dims("band").data_vars.items():
            per_band[name] = values.sel(grid=xr.DataArray([grid_of(b) for b in assessment["band"].values], dims="band"))
        scores.append(per_band.drop_vars("grid", errors="ignore").reindex(band=coarse))
    out: xr.Dataset = xr.concat(scores, dim=xr.Variable("method", _names(methods)))
    out.attrs = {"scale": 1, "operator": operator, "border": 0}
    return out


def _makes(method: str | Method, band: str, available: Container[str], operator: str) -> bool:
    """Whether a method makes a band from the bands that the cube has."""
    try:
        return all(need in available for part in resolve(method, [band], operator=operator) for need in part.needs)
    except BandError:
        return False


def _plain(sr: xr.Dataset, band_of: Mapping[str, str]) -> xr.Dataset:
    """A result under canonical names, on ``(time, y, x)``."""
    bands = sr[[name for name in band_of if name in sr]].rename(
        {name: band for name, band in band_of.items() if name in sr}
    )
    first = next(iter(bands.data_vars.values()))
    return bands.rename(dict(zip(first.dims[-2:], ("y", "x"), strict=True)))


def _listed(methods: object) -> None:
    if isinstance(methods, str) or not isinstance(methods, Sequence) or not methods:
        raise MethodError(f"methods={methods!r}: give a list of at least one, as methods=['bicubic']")


def _names(methods: Sequence[str | Method]) -> list[str]:
    return [method if isinstance(method, str) else method.name for method in methods]
