"""How good methods are on a cube: at a coarser scale, where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from xsen2.compare import compare
from xsen2.cube import recognise
from xsen2.degrade import pair
from xsen2.errors import GridError, MethodError
from xsen2.kernels import Operator
from xsen2.protocol import Method, finest_halo
from xsen2.radiometry import scale_of
from xsen2.registry import resolve
from xsen2.superresolve import superresolve

__all__ = ["evaluate"]


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

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        A cube. All its dates are pooled.
    methods : sequence of str or Method
        Names of `xsen2.methods`, or objects that follow `xsen2.protocol.Method`.
    scale : {2, 6}
        2 judges the 20 m bands (degraded to 40 m and brought back), 6 the 60 m bands.
    operator : {"mtf", "dsen2", "box"}
        How the cube is degraded, see `xsen2.degrade.degrade`. ``"dsen2"`` is that of the paper.
    border : int, optional
        Pixels left out along the edges, where methods lack context. By default the largest halo of
        `methods`, but no more than a quarter of the shorter side. The result's attributes tell.
    consistency : bool, optional
        As `xsen2.superresolve.superresolve` takes it, with the `operator` by which the cube was degraded.
    compute : bool
        False gives a lazy result, for one `dask.compute` over many scenes.
    device, dtype, quantification
        As `xsen2.superresolve.superresolve` takes them.

    Returns
    -------
    xarray.Dataset
        Per method and band: `rmse` and `bias` in DN, `nrmse`, `sre` and `psnr` in dB, `cc`, `uiq`,
        `pixels`. Per method: `sam` in degrees, `ergas`. Definitions are in `xsen2.metrics`. A pixel counts
        where truth and estimate both have data. ``.to_dataframe()`` gives a table,
        ``.sel({"method": "default"})`` one method (``method=`` is an argument of xarray's own).

    Raises
    ------
    MethodError
        No or unknown methods, or a scale other than 2 and 6.
    GridError
        If the border leaves nothing to judge.

    Examples
    --------
    >>> import xsen2
    >>> scores = xsen2.sample().dsen2.evaluate(methods=["bicubic"])
    >>> scores["rmse"].dims, scores["sam"].dims
    (('method', 'band'), ('method',))
    """
    if isinstance(methods, str) or not isinstance(methods, Sequence) or not methods:
        raise MethodError(f"methods={methods!r}: give a list of at least one, as methods=['bicubic']")
    coarse, truth = pair(ds, scale, operator)
    bands = [str(band) for band in truth.data_vars]
    side = min(truth.sizes["y"], truth.sizes["x"])
    if border is None:
        halos = [finest_halo(one) for method in methods for one in resolve(method, bands, device, dtype)]
        border = min(max(halos), side // 4)
    if border < 0 or 2 * border >= side:
        raise GridError(f"border={border} leaves nothing of {side} pixels: use less, or a larger area")
    cut = {dim: slice(border, truth.sizes[dim] - border) for dim in ("y", "x")}
    gain = scale_of(recognise(coarse), bands[0], quantification).gain
    scores = []
    for method in methods:
        sr = superresolve(
            coarse,
            bands,
            method,
            native=False,
            consistency=consistency,
            operator=operator,
            device=device,
            dtype=dtype,
            quantification=quantification,
        )
        scores.append(compare(sr.isel(cut), truth.isel(cut), ratio=scale, gain=gain))
    names = [method if isinstance(method, str) else method.name for method in methods]
    out: xr.Dataset = xr.concat(scores, dim=xr.Variable("method", names))
    out.attrs = {"scale": scale, "operator": operator, "border": border}
    if compute:
        out = out.compute()
    return out
