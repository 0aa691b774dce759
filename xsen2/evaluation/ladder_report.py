"""The report on many dates below 10 m: how much comes from other dates, how much is prior, and what real dates say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xsen2 import files
from xsen2.errors import MethodError, SourceError, once, printable
from xsen2.evaluation.ladder import COPIES, Series, as_dict, full_scale, series_of, simulated, sites
from xsen2.evaluation.page import Heading, Part, Table, as_html, as_markdown, literal, versions
from xsen2.evaluation.report import strict
from xsen2.evaluation.tables import interval
from xsen2.methods.registry import resolve
from xsen2.progress import ProgressLike, Reporter
from xsen2.training.finetune import coarser
from xsen2.training.patches import Blur
from xsen2.training.scenes import read_scenes

__all__ = ["Ladder", "ladder"]

TITLE = "Many dates, one sharper image: what is gained, and from what"

LIMITS = (
    "These numbers come from scenes that were made {zoom} times coarser, {coarse:g} m for 10 m, where the truth is "
    "known: shifts, blur and noise are simulated, and what is judged is the factor {zoom}, one scale up. That it does "
    "the same from 10 to {gsd:g} m is an assumption. A landscape has other detail at {gsd:g} m than at 10 m, real "
    "dates differ by more than noise, and what a network adds by itself, its prior, was learnt from 10 m images. "
    "Canopy heights that others made of 2.5 m images of this kind came out about a tenth better than of 10 m images, "
    "not four times."
)

TRANSFER = (
    "What makes {gsd:g} m pixels is judged one scale up, where the truth is known. Whether that tells what it does at "
    "the next finer scale can itself be tried one scale up: scenes are made twice as coarse first, and {coarser:g} → "
    "20 m is held against {coarse:g} → 10 m."
)
TRAINED = (
    " {label} has seen nothing but {coarser:g} → 20 m in training: what it gains from {coarse:g} to 10 m is what a "
    "network gains at the scale below the one that it has learnt from, as all networks here do at {gsd:g} m."
)

FULL = (
    "No truth is known here. Reflectance, angle and shift say how far the result, degraded, is from the date that it "
    "is of: a necessary condition, which bicubic interpolation fails because it blurs twice. Unseen date: the RMSE of "
    "a date that was not in the stack, predicted from the result through the sensor's model, divided by that of "
    "bicubic interpolation; under 1, detail is of the ground. Agreement: where the Fourier ring correlation of two "
    "results from disjoint stacks falls under 1/7, in cycles per 10 m pixel; one date holds nothing beyond 0.5. What "
    "bicubic interpolation has there is the pattern of the pixel grid, which both results share: only what lies beyond "
    "it counts."
)


@dataclass
class Ladder:
    """What the report is made of.

    Attributes
    ----------
    gains : dict
        Site → label → dB of cPSNR and SSIM beyond bicubic interpolation; frames that show one ground.
    changed : dict
        The same where half of the frames show another date, at sites that have one.
    coarser : dict
        As `gains`, of scenes that were made twice as coarse first; those that are too small for it are left out.
    series : dict
        Label → scores at full scale.
    transferred : str
        Label of the network that was trained on scenes made twice as coarse, if there is one.
    """

    gsd: float
    frames: int
    labels: tuple[str, ...]
    noise: float
    command: str = ""
    places: dict[str, str] = field(default_factory=dict)
    gains: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    changed: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    coarser: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    transferred: str = ""

    def mean(
        self, label: str, which: int = 0, *, of: Mapping[str, Mapping[str, tuple[float, float]]] | None = None
    ) -> tuple[float, float, float]:
        """Of a label: mean over places, and its 95 % interval, of cPSNR (0) or SSIM (1); of `gains` by default."""
        scores = self.gains if of is None else of
        return interval([row[label][which] for row in scores.values()], [self.places[name] for name in scores])


@once
def ladder(
    folder: Path,
    out: Path,
    methods: Mapping[str, str],
    *,
    gsd: float,
    frames: int = 8,
    noise: float = 0.005,
    series: Path | xr.Dataset | None = None,
    transfer: Path | str | None = None,
    device: str = "auto",
    command: str = "",
    progress: ProgressLike = True,
) -> Ladder:
    """Judge methods that make one finer image of many dates, and write a report.

    Parameters
    ----------
    folder : Path
        Scenes, see `xsen2.training.scenes.read_scenes`; their 10 m bands are the truth.
    out : Path
        Receives ``report.html``, ``report.md`` and ``scores.json``.
    methods : mapping
        Label → what ``method=`` takes. The first network or fusion among them leads the page.
    gsd : float
        5 or 2.5 m: what is judged is the factor 10 / `gsd`.
    frames : int
        Dates that each result is made of.
    noise : float
        Of simulated frames, as a share of each band's mean.
    series : path or xarray.Dataset, optional
        Real dates of one place, for the scores at full scale: see `xsen2.evaluation.ladder.series_of`, or a cube of
        clear dates with the four 10 m bands, in DN.
    transfer : path, optional
        Weights that ``xsen2 train --gsd … --coarser`` has made: one more method, for the rung of scale transfer.
    device : str
        As `xsen2.superresolve.superresolve` takes it.
    command : str
        How this was called.
    progress : bool or callable
        Show a bar, or tell a function after each site; see `xsen2.Progress`.

    Returns
    -------
    Ladder

    Raises
    ------
    MethodError
        If a method is unknown or makes no pixels of `gsd`, before any scene is read.
    SourceError
        If no scene is large enough, or the series has too few dates.
    StoreError
        If nothing can be written to `out`.
    """
    if frames < 2:
        raise MethodError(f"frames={frames}: what dates add is judged with 2 or more")
    zoom = round(10 / gsd)
    plain = {printable(label): method for label, method in methods.items() if method != "bicubic"}
    if not plain:
        raise MethodError("bicubic interpolation is what the others are compared with: name another method")
    transferred = ""
    if transfer is not None:
        transferred = f"trained at {20 * zoom} → 20 m"
        plain[transferred] = str(transfer)
    for method in plain.values():
        resolve(method, ["B08"], gsd=gsd)
    given = None if series is None else series_of(series) if isinstance(series, Path) else series
    scenes = list(read_scenes(folder))
    places = sites(scenes, zoom)
    if not places:
        raise SourceError(f"no scene in {folder} has {24 * zoom} x {24 * zoom} valid 10 m pixels")
    run = Ladder(gsd, frames, tuple(plain), noise, command, transferred=transferred)
    coarse = sites([coarser(scene, Blur("mtf")) for scene in scenes if scene.name in {p.name for p in places}], zoom)
    with Reporter(progress, len(places) + len(coarse) + 1, "part", "the report", after="Nothing is kept") as reporter:
        for site in places:
            run.places[site.name] = site.place
            run.gains[site.name] = simulated(site, plain, gsd, frames, noise=noise, device=device)
            if len(site.images) > 1:
                run.changed[site.name] = simulated(
                    site, plain, gsd, frames, noise=noise, dates=True, alone=False, device=device
                )
            best = {label: round(run.gains[site.name][f"{label}, {frames}"][0], 2) for label in plain}
            reporter.update(reporter.done + 1, f"{site.name}: {best}")
            reporter.check()
        for site in coarse:
            run.coarser[site.name] = simulated(site, plain, gsd, frames, noise=noise, alone=False, device=device)
            reporter.update(reporter.done + 1, f"{site.name}, twice as coarse")
            reporter.check()
        if given is not None:
            run.series = full_scale(given, {"bicubic": "bicubic", **plain}, gsd, frames, device=device)
        reporter.update(reporter.done + 1, f"done: {out / 'report.html'}")
    _write(run, out)
    return run


def _write(run: Ladder, out: Path) -> None:
    parts = page(run)
    content = {
        "command": run.command,
        "gsd": run.gsd,
        "frames": run.frames,
        "noise": run.noise,
        "gains": _named(run.gains),
        "half of the frames of another date": _named(run.changed),
        "twice as coarse": _named(run.coarser),
        "full scale": as_dict(run.series),
    }
    with files.named(out):
        out.mkdir(parents=True, exist_ok=True)
        files.write(out / "report.md", as_markdown(TITLE, parts))
        files.write(out / "report.html", as_html(TITLE, parts, out))
        files.write(out / "scores.json", json.dumps(strict(content), indent=1) + "\n")


def _named(scores: Mapping[str, Mapping[str, tuple[float, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by their names."""
    return {site: {k: {"cPSNR": v[0], "SSIM": v[1]} for k, v in row.items()} for site, row in scores.items()}


def page(run: Ladder) -> list[Part]:
    """All parts of the page, the answer first."""
    lead, zoom = run.labels[0], round(10 / run.gsd)
    total, prior = run.mean(f"{lead}, {run.frames}"), run.mean(f"{lead}{COPIES}")
    rest = total[0] - prior[0]
    parts: list[Part] = [
        f"{literal(lead)}, {run.frames} dates, {zoom} times finer: {_db(total)} dB of cPSNR beyond bicubic "
        f"interpolation of the date itself, mean over {len(set(run.places.values()))} places and its 95 % interval. Of "
        f"that, {prior[0]:.2f} dB are there when all dates are copies of one: that is prior, what the method expects "
        f"images to look like. The other {rest:.2f} dB, {max(0.0, rest) / max(total[0], 1e-9):.0%}, come from what "
        "other dates saw.",
        _table("What is gained beyond bicubic interpolation", run, run.gains, 0),
        _table("The same in SSIM", run, run.gains, 1),
    ]
    if run.changed:
        title = "Half of the frames of another date, months or years apart"
        parts.append(_table(title, run, run.changed, 0))
    if run.coarser:
        parts += [Heading("Scale transfer"), *_transfer(run)]
    parts += [Heading("Site by site"), _sites(run)]
    if run.series:
        parts += [Heading("Full scale, real dates, no truth"), FULL, _full(run)]
    parts += [Heading("What this does not say"), LIMITS.format(zoom=zoom, coarse=10 * zoom, gsd=run.gsd)]
    parts += [Heading("How this was made")]
    parts += [
        f"Frames: moved by up to 2 pixels of 10 m either way, blurred by the operator mtf, made {zoom} times coarser, "
        f"noise {run.noise:.1%} of each band's mean, gains of 2 %; methods are told none of it. SSIM: of each band, "
        "brightness matched, its range that of 98 % of the truth's pixels."
    ]
    parts += [f"Command: `{literal(run.command)}`"] if run.command else []
    return [*parts, "Contains modified Copernicus Sentinel data.", versions(("torch", "numpy", "scipy", "xarray"))]


def _db(estimate: Sequence[float], digits: int = 2) -> str:
    mean, low, high = estimate
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _table(title: str, run: Ladder, scores: Mapping[str, Mapping[str, tuple[float, float]]], which: int) -> Table:
    """Per label the mean over places with its interval, and the worst site; paired differences to the first method."""
    labels = list(next(iter(scores.values())))
    places = [run.places[name] for name in scores]
    lead = f"{run.labels[0]}, {run.frames}"
    digits = 2 if which == 0 else 3
    rows = []
    for label in labels:
        gains = np.array([row[label][which] for row in scores.values()])
        base = np.array([row[lead][which] for row in scores.values()])
        beside = "" if label == lead else _db(interval(list(base - gains), places), digits)
        rows.append((label, _db(interval(list(gains), places), digits), f"{gains.min():.{digits}f}", beside))
    unit = "dB of cPSNR" if which == 0 else "SSIM"
    note = (
        f"{unit}, {len(scores)} sites at {len(set(places))} places: mean over places, in brackets the middle 95 % of "
        f"10000 draws of places with replacement. On the right what {literal(lead)} has more, paired by place."
    )
    return Table(title, note, ("method, dates", "gain", "worst site", "the first has more"), tuple(rows))


def _transfer(run: Ladder) -> list[Part]:
    """The same methods at two scales, at the sites that are large enough for both."""
    zoom = round(10 / run.gsd)
    scales = {"gsd": run.gsd, "coarse": 10 * zoom, "coarser": 20 * zoom}
    text = TRANSFER.format(**scales)
    if run.transferred:
        text += TRAINED.format(label=literal(run.transferred.capitalize()), **scales)
    both = {name: run.gains[name] for name in run.coarser}
    rows = []
    for label in run.labels:
        name = f"{label}, {run.frames}"
        rows.append((name, _db(run.mean(name, of=run.coarser)), _db(run.mean(name, of=both))))
    head = ("method, dates", f"{20 * zoom} → 20 m", f"{10 * zoom} → 10 m")
    note = (
        f"dB of cPSNR beyond bicubic interpolation, {len(both)} sites that are large enough for both, mean over places."
    )
    return [text, Table("", note, head, tuple(rows))]


def _sites(run: Ladder) -> Table:
    labels = [label for label in next(iter(run.gains.values())) if not label.endswith(", 1")]
    rows = tuple((name, *(f"{row[label][0]:.2f}" for label in labels)) for name, row in run.gains.items())
    return Table("", "dB of cPSNR beyond bicubic interpolation.", ("site", *labels), rows)


def _full(run: Ladder) -> Table:
    names = {
        "reflectance": ("reflectance, DN", 1),
        "angle": ("angle, °", 2),
        "shift": ("shift, 10 m px", 3),
        "unseen": ("unseen date", 3),
        "agree": ("agreement up to", 2),
    }
    rows = [
        (label, *(f"{scores[name]:.{digits}f}" for name, (_, digits) in names.items()))
        for label, scores in as_dict(run.series).items()
    ]
    many = len(next(iter(run.series.values())).unseen)
    head = ("method", *(text for text, _ in names.values()))
    return Table("", f"Means over {many} target dates, {run.frames} dates each.", head, tuple(rows))


def summary(run: Ladder) -> dict[str, Any]:
    """Means, for whoever prints them."""
    return {label: round(run.mean(label)[0], 2) for label in next(iter(run.gains.values()))}
