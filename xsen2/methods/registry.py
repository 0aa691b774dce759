"""The names that ``method=`` takes, and what stands behind them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from xsen2.bands import B, C, grid_of
from xsen2.errors import BandError, MethodError, WeightsError
from xsen2.methods import atprk, bdsd, glp_hpm, pracs, regression, resr, sen2res, supreme
from xsen2.methods.bicubic import Bicubic
from xsen2.methods.common import kept
from xsen2.methods.protocol import Method, Request, adopt, finest_halo
from xsen2.multitemporal.fusion import Fusion
from xsen2.multitemporal.interpolation import Interpolated, Median
from xsen2.multitemporal.wiener import Wiener
from xsen2.networks import external, local
from xsen2.networks.cards import DEFAULT, FINER, GSDS, Card, cards
from xsen2.networks.external import is_external
from xsen2.networks.method import ExternalMethod, network_methods

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MULTITEMPORAL", "Method", "finest_halo", "installed", "methods", "opened", "own_gsd", "resolve"]


@dataclass(frozen=True)
class Entry:
    """One name: what it is, where it comes from, and how to make it."""

    kind: str
    licence: str
    source: str
    make: Callable[[Request], Sequence[Method]]
    gsd: str = "10"
    frames: str = "1"


BELOW_10_M = "wiener"
"""What ``method="default"`` means there where no network makes the pixel size."""

_FINEST = 2.5  # metres: beyond that dates tell nothing


def _below(of: type[Fusion]) -> Callable[[Request], Sequence[Method]]:
    """A fusion of dates with the pixel size and number of dates asked for; 5 m and its own number by default."""

    def make(request: Request) -> Sequence[Method]:
        if request.gsd is not None and request.gsd < _FINEST:
            raise MethodError(f"gsd={request.gsd:g}: 2.5 m is the finest that several dates can tell: use 5 or 2.5")
        fusion = of(request.bands)
        return [
            replace(
                fusion,
                gsd=request.gsd if request.gsd is not None and request.gsd < 10 else fusion.gsd,
                frames=request.frames if request.frames is not None and fusion.frames != 1 else fusion.frames,
            )
        ]

    return make


def _at_any(ten: Callable[[Request], Sequence[Method]], finer: Callable[[Request], Sequence[Method]]) -> Any:
    """One name, which means `finer` below 10 m."""
    return lambda request: finer(request) if request.gsd is not None and request.gsd < 10 else ten(request)


def _classical(source: str, make: Callable[[tuple[str, ...], str], Sequence[Method]]) -> Entry:
    return Entry("classical", "Apache-2.0", source, lambda request: kept(make(request.bands, request.operator)))


CLASSICAL: dict[str, Entry] = {
    "bicubic": Entry(
        "classical",
        "Apache-2.0",
        "Keys 1981, a = -0.5, half-pixel centres, symmetric edges",
        _at_any(lambda request: [Bicubic(band) for band in request.bands], _below(Interpolated)),
        gsd="10, 5, 2.5",
    ),
    "regression": _classical("least squares on the degraded 10 m bands, residual interpolated", regression.make),
    "atprk": _classical("Wang, Shi, Li, Atkinson 2016: area-to-point regression kriging", atprk.make),
    "atprk-matched": _classical("the same with the blur of the operator for its PSF", atprk.make_matched),
    "supreme": _classical("Lanaras, Bioucas-Dias, Baltsavias, Schindler 2017: SupReME", supreme.make),
    "supreme-matched": _classical("the same with the blur of the operator for its PSF", supreme.make_matched),
    "sen2res": _classical("after Brodu 2017: shared values and band-independent mixtures", sen2res.make),
    "pracs": _classical("Choi, Yu, Kim 2011: partial replacement, adaptive component substitution", pracs.make),
    "glp_hpm": _classical("MTF-GLP-HPM-PP, Lee & Lee 2010: low-pass matched to the operator", glp_hpm.make),
    "bdsd": _classical("Garzelli, Nencini, Capobianco 2008: one set of gains for the image", bdsd.make),
    "resr": _classical("ResSR, Duba-Sullivan et al. 2024: low-rank closed form, residual interpolated", resr.make),
}
"""Methods without weights. A new one adds its file to this folder and its line here."""

MULTITEMPORAL: dict[str, Entry] = {
    "median": Entry(
        "multitemporal",
        "Apache-2.0",
        "median of all dates, interpolated where the target's pixels are",
        _below(Median),
        gsd="5, 2.5",
        frames="any",
    ),
    "wiener": Entry(
        "multitemporal",
        "Apache-2.0",
        "linear minimum mean square estimate from shifted, blurred, coarse dates",
        _below(Wiener),
        gsd="5, 2.5",
        frames="any",
    ),
}
"""Fusions of dates. A new one derives from `xsen2.multitemporal.fusion.Fusion` and adds its line here."""


GROUP = "xsen2.methods"
"""Entry points under which other packages offer methods."""


def _built_in() -> dict[str, Entry]:
    networks = {name: _network(group) for name, group in cards().items()}
    ten, below = networks[DEFAULT], _below_default(networks.get(FINER), MULTITEMPORAL[BELOW_10_M])
    default = replace(ten, make=_at_any(ten.make, below), gsd="10, 5, 2.5", frames="1; below 10 m any")
    return {"default": default, **networks, **CLASSICAL, **MULTITEMPORAL}


def _below_default(network: Entry | None, classical: Entry) -> Callable[[Request], Sequence[Method]]:
    """The network where it makes the pixel size, else the classical method, which makes any."""

    def make(request: Request) -> Sequence[Method]:
        parts = [] if network is None or request.gsd not in GSDS else network.make(request)
        return parts if parts and all(part.gsd == request.gsd for part in parts) else classical.make(request)

    return make


def installed() -> tuple[dict[str, tuple[Card, ...]], list[local.Broken]]:
    """Weights in the user's own folder, see `xsen2.networks.local.installed`."""
    return local.installed(_built_in())


def _network(group: Sequence[Card], broken: Sequence[local.Broken] = ()) -> Entry:
    def make(request: Request) -> Sequence[Method]:
        built = network_methods(group, request)
        if broken and not set(request.bands) <= {b for m in built for b in m.produces}:
            raise broken[0].error
        return built

    licence, source = ("; ".join(dict.fromkeys(getattr(c, key) for c in group)) for key in ("licence", "source"))
    sizes = ", ".join(f"{gsd:g}" for gsd in sorted({c.gsd for c in group}, reverse=True))
    if all(c.ratio == 1 for c in group):
        return Entry("multitemporal", licence, source, make, sizes, "any")
    return Entry("network", licence, source, make, sizes)


def _user_networks() -> tuple[dict[str, Entry], list[local.Broken]]:
    """The usable names of the user's own weights, and what is broken among them."""
    groups, broken = installed()
    return {name: _network(group, [b for b in broken if b.network == name]) for name, group in groups.items()}, broken


def _offered() -> dict[str, Entry]:
    """What other packages offer: nothing of theirs is imported before its name is asked for."""
    out: dict[str, Entry] = {}
    for point in entry_points(group=GROUP):
        package = "?" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        known = {} if point.dist is None else point.dist.metadata.json
        licence = str(known.get("license_expression") or known.get("license") or "unknown").splitlines()[0][:60]
        out.setdefault(point.name, Entry("package", licence, package, _from(point)))
    return out


def _from(point: EntryPoint) -> Callable[[Request], Sequence[Method]]:
    def make(request: Request) -> Sequence[Method]:
        try:
            loaded = point.load()
        except Exception as error:  # other people's code: whatever it raises, the name says whose it is
            raise MethodError(f"method {point.name!r} ({point.value}) cannot be imported: {error!r}") from error
        if isinstance(loaded, type) and issubclass(loaded, Method):
            loaded = loaded()
        elif not isinstance(loaded, Method):
            loaded = loaded(request)
        return [adopt(method) for method in (loaded if isinstance(loaded, list | tuple) else [loaded])]

    return make


def methods() -> pd.DataFrame:
    """The names that ``method=`` takes.

    Those of the package, of weights in the user's own folder, and of other packages that are installed.

    Returns
    -------
    pandas.DataFrame
        Indexed by name: kind (network, classical, multitemporal or package), licence, source, and which pixel sizes it
        makes, in metres, of how many dates each.

    See Also
    --------
    xsen2.networks.local.folder : where the user's own weights are.

    Examples
    --------
    >>> import xsen2
    >>> xsen2.methods().loc["bicubic", "kind"]
    'classical'
    """
    import pandas as pd

    entries = _built_in()
    for more in (_user_networks()[0], _offered()):
        entries |= {name: entry for name, entry in more.items() if name not in entries}
    shown = ("kind", "licence", "source", "gsd", "frames")
    rows = {name: {key: getattr(entry, key) for key in shown} for name, entry in entries.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def resolve(
    method: str | os.PathLike[str] | Method,
    bands: Sequence[str],
    device: str = "auto",
    dtype: str = "auto",
    operator: str = "mtf",
    gsd: float | None = None,
    frames: int | None = None,
) -> list[Method]:
    """The methods that together make `bands`.

    Parameters
    ----------
    method : str, path or Method
        A name of `methods`; the path of weights, as `xsen2.networks.local.at` takes them, or of an external model, as
        `xsen2.networks.external.at` does; or an object that follows the protocol. A name stands for what it means even
        where a folder has the same name.
    bands : sequence of str
        Canonical names.
    device, dtype
        For networks, as `xsen2.superresolve.superresolve` takes them.
    operator : str
        How the bands came about, for methods that model it, likewise.
    gsd, frames
        What is asked of the method, likewise; None takes what the method does.

    Raises
    ------
    MethodError
        If the name is unknown, the object does not follow the protocol, or it makes other pixels than `gsd` or of
        other dates than `frames`.
    WeightsError
        If the weights that are named or pointed at are missing or broken.
    BandError
        If the method makes none of a band.
    """
    if isinstance(method, (str, os.PathLike)):
        name = os.fspath(method)
        entry = _find(method)
        make = entry.make
        if gsd is not None and gsd < 10 and entry.gsd == "10" and entry.kind != "package":
            raise MethodError(
                f"method {name!r} makes 10 m pixels, not {gsd:g} m: use gsd=10, or one of {', '.join(MULTITEMPORAL)}"
            )
        request = Request(tuple(bands), device, dtype, operator, gsd, frames)
        parts = [adopt(part) for part in make(request)]
        able = {b for part in parts for b in part.produces}
        if not set(bands) <= able:
            able |= {b for part in make(replace(request, bands=(*B, *C))) for b in part.produces}
    else:
        parts = [adopt(method)]
        name, able = parts[0].name, set(parts[0].produces)
    missing = [b for b in bands if b not in able]
    if missing:
        grids = ", ".join(f"{b} ({grid_of(b)} m)" for b in missing)
        raise BandError(
            f"method {name!r} does not make {grids}: it makes {', '.join(sorted(able))}; ask for those alone, with "
            "bands=[…]"
        )
    for part in parts:
        if gsd is not None and abs(part.gsd - gsd) > 1e-9:
            raise MethodError(f"method {name!r} makes {part.gsd:g} m pixels, not {gsd:g} m: use gsd={part.gsd:g}")
        if frames is not None and part.frames != frames:
            raise MethodError(
                f"method {name!r} makes one date of {part.frames or 'all'}, not of {frames}: use frames={part.frames}"
            )
    if len({part.gsd for part in parts}) > 1:
        raise MethodError(f"method {name!r} makes pixels of several sizes: ask for bands of one, with bands=[…]")
    return parts


def opened(method: str | os.PathLike[str] | Method, device: str = "auto") -> str | os.PathLike[str] | Method:
    """Somebody else's model by its path, which says itself what it makes; anything else as it is."""
    if isinstance(method, str | os.PathLike) and is_external(method):
        return ExternalMethod(external.at(method), device)
    return method


def _at(path: str | os.PathLike[str]) -> Entry:
    """What a path names: weights of this library's networks, or an external model with its description."""
    method = opened(path)
    if not isinstance(method, ExternalMethod):
        return _network(local.at(path))
    model = method.model
    return Entry("external", model.licence, model.source, lambda request: [ExternalMethod(model, request.device)])


def own_gsd(method: object) -> float | None:
    """The pixel size that a name or path makes where none is asked for, if it makes no 10 m pixels; else None.

    Examples
    --------
    >>> own_gsd("wiener"), own_gsd("bicubic")
    (5.0, None)
    """
    if not isinstance(method, str | os.PathLike) or _is_ten(method):
        return None
    entry = _find(method)
    return float(entry.gsd.split(",")[0]) if entry.kind == "multitemporal" else None


def _is_ten(method: str | os.PathLike[str]) -> bool:
    """Whether it is a name that is known to make 10 m pixels, without looking at any file."""
    return isinstance(method, str) and (method == "default" or method in CLASSICAL)


def _find(method: str | os.PathLike[str]) -> Entry:
    """What stands behind a name or a path."""
    if not isinstance(method, str):
        return _at(method)
    entries = _built_in()
    if method in entries:  # whatever state the user's folder is in
        return entries[method]
    user, broken = _user_networks()
    if method in user:
        return user[method]
    offered = _offered()
    if method in offered:
        return offered[method]
    for network, _, error in broken:
        if network == method:
            raise error
    if method in local.UNSHIPPED:
        raise WeightsError(f"there are no weights of {method!r} in {local.folder()}: {local.UNSHIPPED[method]}")
    if local.is_path(method) or is_external(method):
        return _at(method)
    near = difflib.get_close_matches(method, [*entries, *user, *offered, *local.UNSHIPPED], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise MethodError(
        f"unknown method {method!r}: use one of {', '.join([*entries, *user, *offered])}, or the path of weights{hint}"
    )
