"""The report: scores of all scenes, tables like the paper's, pictures, timings, on one page."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from timeit import default_timer
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from xsen2 import files
from xsen2.bands import GRIDS
from xsen2.engine.operators import Operator
from xsen2.errors import SourceError, once, printable
from xsen2.evaluation import timing
from xsen2.evaluation.benchmark import JUDGED, KeepingJudge, Subject, Tally, count, identity, labelled, subjects
from xsen2.evaluation.page import Heading, Part, Picture, Table, as_html, as_markdown, literal, versions
from xsen2.evaluation.plots import bars, maps, require, strips
from xsen2.evaluation.tables import (
    PAN,
    PUBLISHED,
    REASONS,
    Results,
    averages,
    by_level,
    no_reference,
    paired,
    per_band,
    shown,
    summary,
    summary_numbers,
    without_pan,
)
from xsen2.evaluation.timing import TILE, Timing, enlarged, machine, timed
from xsen2.methods.registry import methods as all_methods
from xsen2.progress import ProgressLike, Reporter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Run", "report", "strict"]


# What stands on the report's page, from top to bottom.


TITLE = "Sentinel-2 super-resolution: every method on the same scenes"

PAPER = "Lanaras et al. (2018)"
OPERATOR = {
    "product": "the blur that products show, the closest to full scale",
    "mtf": "each band's own blur, as the sensor has it",
    "dsen2": f"the operator of {PAPER}",
    "box": "the mean of each cell",
}
SWIR = ("B12", "B8A", "B05")
ROWS = 6  # scenes in a picture, at most

LIMITS = (
    "Scores come from scenes that were made 2 (20 m bands: 40 → 20 m) or 6 times coarser (60 m bands: 360 → 60 m), "
    "where the truth is known. That a method does the same at 20 → 10 m and 60 → 10 m is an assumption, which these "
    "numbers cannot prove: ground that is featureless at 40 m is not at 20 m; the operator models the sensor, and "
    "products have been resampled besides; learnt relations between bands may depend on the scale; and methods that "
    "are told the operator, here exactly known, are favoured. Scores at full scale, without a truth, say less still: "
    "an image without any new detail is consistent, and one whose detail is copied from the 10 m bands has most of it."
)


def page(run: Run, pictures: Mapping[str, list[Part]]) -> list[Part]:
    """All parts of the page; `pictures` by section, as `figures` gives them."""
    parts: list[Part] = []
    judged = {key: scores for key, scores in run.results.items() if key[0] != 1}
    if judged:
        labels = [label for label in run.labels if label not in run.transferred]
        plain = {key: scores.sel({"method": labels}) for key, scores in judged.items()}
        parts += [summary(plain), by_level(plain)]
        others = [label for label in labels if label != "bicubic"]
        if others:
            parts.append(paired(plain, "twogrid" if "twogrid" in others else others[0]))
    parts += [Heading("What is judged"), *_scenes(run), LIMITS]
    for (scale, operator), scores in judged.items():
        what = "20 m bands, 40 → 20 m" if scale == 2 else "60 m bands, 360 → 60 m"
        parts.append(Heading(f"{what}, operator {operator}: {OPERATOR[operator]}"))
        parts += (_two if scale == 2 else _six)(run, [str(m) for m in scores["method"].values], (scale, operator))
        parts += pictures.get(f"{scale} {operator}", [])
        if operator == "dsen2":
            parts.append(f"Where ratios differ from the paper's, the tiles do, and besides: {_reasons(run.labels)}")
    for (scale, operator), scores in run.results.items():
        if scale == 1:
            parts.append(Heading(f"Full scale, without a truth (operator {operator})"))
            parts += no_reference(scores)
    parts += [Heading("Time and memory"), _times(run), Heading("How this was made")]
    parts += [f"Command: `{literal(run.command)}`"] if run.command else []
    parts += [versions(("torch", "numpy", "scipy", "xarray", "dask"))]
    return parts


def _reasons(labels: Mapping[str, object]) -> str:
    return " ".join(f"{label}: {REASONS[label]}" for label in labels if label in REASONS)


def _scenes(run: Run) -> list[Part]:
    levels = {level: sum(x == level for x in run.levels.values()) for level in sorted(set(run.levels.values()))}
    counted = ", ".join(f"{n} {level or 'of unknown level'}" for level, n in levels.items())
    years = sorted({year for known in run.years.values() for year in known})
    unknown = sum(not known for known in run.years.values())
    line = "Contains modified Copernicus Sentinel data" + "".join(
        f"{',' if i else ''} {y}" for i, y in enumerate(years)
    )
    if unknown:
        line += f"; the year is not known of {unknown} of the {len(run.years)} scenes"
    out: list[Part] = [f"{len(run.levels)} scenes ({counted}): {literal(', '.join(run.levels))}.", f"{line}."]
    out.append(
        f"Pixels left out along the edges: {run.border}. Networks compute in float32. What comes from one file is one "
        "scene. RMSE in DN, 10000 x reflectance. Metrics are defined in `xsen2.evaluation.metrics`; all numbers stand "
        "in scores.csv."
    )
    for scale in dict.fromkeys(scale for scale, _ in run.tallies):
        tallies = [tally for (of, _), tally in run.tallies.items() if of == scale]
        for title, lines in (
            ("Left out", [line for tally in tallies for line in tally.left_out]),
            ("Not made", [line for tally in tallies for line in tally.notes]),
        ):
            named: dict[str, list[str]] = {}
            for line in dict.fromkeys(lines):
                who, _, why = line.partition(": ")
                named.setdefault(why, []).append(who)
            out += [literal(f"{title} at scale {scale}: {'; '.join(who)}: {why}.") for why, who in named.items()]
    return out


def _two(run: Run, methods: Sequence[str], key: tuple[int, str]) -> list[Part]:
    """Tables 3, 4 and 5."""
    scores = run.results[key]
    known = all_methods()
    networks = [m for m in methods if m not in run.transferred and _is_network(run.labels[m], known.to_dict()["kind"])]
    fresh = [m for m in methods if m not in run.transferred]
    parts: list[Part] = []
    if networks:
        note = f"As Table 3 of {PAPER}: bicubic, networks trained at 40 → 20 m" + (
            f", and trained at 80 → 40 m: {literal(', '.join(run.transferred))}." if run.transferred else "."
        )
        parts.append(averages("Table 3: networks, 20 m bands", note, scores, ["bicubic", *networks, *run.transferred]))
    paper = key[1] == "dsen2"
    beside = (
        f" On the right what {PAPER} published, over 15 other L1C tiles: compare the ratios and the order. Its "
        "networks were trained by its authors."
        if paper
        else ""
    )
    rest = without_pan(fresh)
    parts.append(
        averages("Table 4: averages, 20 m bands", f"Over bands and scenes.{beside}", scores, rest, published=paper)
    )
    parts.append(per_band("Table 4: per band", "Mean over scenes.", scores, rest, ("rmse", "sre")))
    pan = [m for m in fresh if m in PAN]
    if pan:
        order = [*pan, *rest]
        note = f"{', '.join(pan)} are pansharpening.{beside}"
        parts.append(averages("Table 5: pansharpening against the others", note, scores, order, published=paper))
        parts.append(per_band("Table 5: per band", "Mean over scenes.", scores, order, ("rmse", "sre", "uiq")))
    return parts


def _is_network(method: str, kinds: Mapping[str, str]) -> bool:
    return kinds.get(method, "network") == "network"  # a path is one of weights


def _six(run: Run, methods: Sequence[str], key: tuple[int, str]) -> list[Part]:
    """Table 6."""
    scores, paper = run.results[key], key[1] == "dsen2"
    beside = f" On the right the average RMSE that {PAPER} published." if paper else ""
    return [
        averages("Table 6: averages, 60 m bands", f"Over bands and scenes.{beside}", scores, methods, published=paper),
        per_band("Table 6: per band", "Mean over scenes.", scores, methods, ("rmse", "sre")),
    ]


def _times(run: Run) -> Table:
    """Table 7."""
    grids = sorted({gsd for row in run.timings.values() for gsd in row})
    head = ["method"]
    for gsd in grids:
        head += [f"{gsd} m bands: s per megapixel", "times bicubic", "scaled: minutes per tile", "peak memory, MiB"]
    rows = []
    for label, row in run.timings.items():
        cells = [label]
        for gsd in grids:
            t, base = row[gsd], run.timings["bicubic"][gsd]
            minutes = t.seconds * TILE**2 / 1e6 / 60
            cells += [shown(t.seconds, 2), shown(t.seconds / base.seconds, 1), shown(minutes, 1), shown(t.peak, 0)]
        paper = PUBLISHED.get(label)
        rows.append((*cells, (paper.minutes if paper else "") or "–"))
    of = machine()
    note = (
        f"As Table 7 of {PAPER}. Measured at full scale on the largest scene, mirrored to a square of {timing.SIDE} "
        "pixels of 10 m, every method and grid in a fresh process, after a warm-up on a small part, all in one run "
        f"({of['cores']} cores, OMP_NUM_THREADS {of['threads']}). Minutes per tile of {TILE} x {TILE} pixels are "
        "scaled from that, not measured. Peak memory is that of the whole process. The paper's minutes: one tile, a "
        "CPU with six cores of 2015."
    )
    return Table("", note, (*head, "paper: minutes per tile"), tuple(rows))


def figures(run: Run, folder: Path) -> dict[str, list[Part]]:
    """Draw all pictures into ``folder/figures``; those of a section by its scale and operator."""
    out: dict[str, list[Part]] = {}
    for (scale, operator), scores in run.results.items():
        if scale == 1:
            continue
        name, parts = f"{10 * scale}m-{operator}", out.setdefault(f"{scale} {operator}", [])
        file = f"figures/rmse-{name}.png"
        text = f"RMSE per band, {10 * scale} m bands, operator {operator}, mean over scenes"
        parts.append(_drawn(folder, file, text, partial(bars, scores, "rmse")))
        tally = run.tallies[scale, operator]
        if tally.shown:
            parts += _pictures(run, tally, folder, name)
    return out


def _pictures(run: Run, tally: Tally, folder: Path, name: str) -> list[Part]:
    """Error maps and strips of what one scale and operator gave."""
    bands = GRIDS[10 * tally.scale]
    labels = [label for label in tally.labels if label not in run.transferred]
    error = run.results[tally.scale, tally.operator]["rmse"].sel({"method": "bicubic"}).mean("band")
    ranked = [str(s) for s in error.sortby(error, ascending=False)["scene"].values if str(s) in tally.shown]
    scenes, first = ranked[:ROWS], ranked[0]
    crops = {s: {m: c.crop for m, c in tally.cells[s].items() if m in labels and c.crop is not None} for s in scenes}

    def row(scene: str, band: str) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[np.float32]]]:
        at = bands.index(band)
        return tally.shown[scene]["truth"][at], {m: crop[at] for m, crop in crops[scene].items()}

    single_band = "B11" if tally.scale == 2 else "B01"
    side = tally.shown[first]["truth"].shape[-1] * 10 * tally.scale / 1000
    place = f"a crop of {side:g} km where {first} is richest"
    drawn = {
        f"errors-bands-{name}": (
            lambda: maps({band: row(first, band) for band in bands}, labels),
            f"Absolute errors per band, {place} (as figures 8 and 9 of {PAPER}); white is nodata",
        ),
        f"errors-scenes-{name}": (
            lambda: maps({scene: row(scene, single_band) for scene in scenes}, labels),
            f"Absolute errors of {single_band} on {len(scenes)} scenes with most detail, where each is richest; "
            "white is nodata",
        ),
    }
    picked = [bands.index(b) for b in (SWIR if tally.scale == 2 else ("B01",))]
    rows = {}
    for scene in scenes:
        panels = {"input": tally.shown[scene]["coarse"], **crops[scene], "truth": tally.shown[scene]["truth"]}
        rows[scene] = {title: np.moveaxis(pixels[picked], 0, -1) for title, pixels in panels.items()}
    what = f"{', '.join(SWIR)} as red, green, blue" if tally.scale == 2 else "B01"
    drawn[f"strips-{name}"] = (lambda: strips(rows), f"Input, every method, truth: {what}")
    return [_drawn(folder, f"figures/{stem}.png", text, draw) for stem, (draw, text) in drawn.items()]


def _drawn(folder: Path, file: str, text: str, draw: Callable[[], Figure]) -> Part:
    """A picture; or why it is missing, which is no reason to lose hours of scores."""
    try:
        draw().savefig(folder / file, dpi=110)
    except OSError:  # the disk: nothing else could be written either
        raise
    except Exception as error:
        return literal(f"{file} could not be drawn: {type(error).__name__}: {error}")
    return Picture(file, text)


@dataclass
class Run:
    """Everything that the page shows.

    Attributes
    ----------
    tallies : dict
        ``(scale, operator)`` → scores and pictures.
    results : dict
        The same as datasets, of those that any scene could be judged at.
    labels : dict
        Label → what ``method=`` takes.
    transferred : sequence of str
        Labels of networks trained at another scale than they are judged at.
    """

    command: str
    labels: dict[str, str]
    transferred: Sequence[str]
    border: int
    tallies: dict[tuple[int, str], Tally] = field(default_factory=dict)
    results: dict[tuple[int, str], xr.Dataset] = field(default_factory=dict)
    timings: dict[str, dict[int, Timing]] = field(default_factory=dict)
    levels: dict[str, str] = field(default_factory=dict)
    years: dict[str, tuple[int, ...]] = field(default_factory=dict)


@once
def report(
    folder: Path,
    out: Path,
    methods: Mapping[str, str],
    *,
    scales: Sequence[int] = (2, 6, 1),
    operators: Sequence[Operator] = ("mtf", "dsen2"),
    border: int = 0,
    transfer: Mapping[str, str] | None = None,
    device: str = "auto",
    command: str = "",
    progress: ProgressLike = True,
) -> Run:
    """Evaluate methods on a folder of scenes, and write the report.

    Parameters
    ----------
    folder : Path
        Scenes, see `xsen2.benchmark`.
    out : Path
        Receives ``report.html`` (pictures inside), ``report.md``, ``figures/``, ``scores.csv`` and ``scores.json``,
        which replace those of a former report once all are finished; and ``cells/``, what has been judged so far.
        The same call goes on after a stop.
    methods : mapping
        Label → what ``method=`` takes. Bicubic interpolation is added, if it is not among them: all else is
        compared with it.
    scales, operators
        As `xsen2.benchmark` takes them. At scale 1 only the first of the operators is used.
    border, device
        As `xsen2.benchmark` takes them.
    transfer : mapping, optional
        Label → weights that were trained at 80 → 40 m, judged like the others at scale 2 only in Table 3.
    command : str
        How this was called.
    progress : bool or callable
        Show a bar, or tell a function after each scene at each scale with each operator, and after each method that was
        timed, with a line `about` it; see `xsen2.Progress`. If that stops the call, what has been judged is kept, and
        the same call goes on from there.

    Returns
    -------
    Run
        What the report was made of.

    Raises
    ------
    Cancelled
        If `progress` stopped it.
    MethodError
        If a method is unknown, before any scene is read; or another argument is wrong.
    SourceError
        If there is nothing to judge.
    StoreError
        If nothing can be written to `out`.
    """
    require()  # before hours of work, not after
    plain = {"bicubic": "bicubic"} | {printable(label): method for label, method in methods.items()}
    plain = {label: plain[label] for label in ("bicubic", *(x for x in plain if x != "bicubic"))}
    extra = dict(transfer or {})
    if twice := set(plain) & set(extra):
        raise SourceError(f"{', '.join(sorted(twice))}: given as a method and as a transfer")
    jobs = [(scale, operator) for scale in scales if scale != 1 for operator in operators]
    jobs += [(1, operators[0])] if 1 in scales else []
    judges = _judges(plain, extra, jobs, border, device, out)
    run = Run(command, plain | extra, tuple(extra), border)
    for scale, operator in jobs:
        labels = (*plain, *extra) if scale == 2 else tuple(plain)
        run.tallies[scale, operator] = Tally(scale, operator, border, labels)
    _writable(out)
    largest: Subject | None = None
    total = count(folder) * len(jobs) + len(plain)
    after = f"What has been judged is kept in {out / 'cells'}, and the same call goes on from there"
    with Reporter(progress, total, "part", "the report", after=after) as reporter:

        def say(line: str) -> None:
            reporter.update(reporter.done + 1, line)
            reporter.check()

        for subject in subjects(folder):
            run.levels[subject.name], run.years[subject.name] = subject.level, subject.years
            for tally in run.tallies.values():
                begun = default_timer()
                line = tally.add(subject, judges)
                say(f"{line}, {default_timer() - begun:.1f} s")
            if largest is None or _area(subject) > _area(largest):
                largest = subject
        run.results = {key: tally.dataset() for key, tally in run.tallies.items() if any(tally.cells.values())}
        if largest is None or not run.results:
            why = "; ".join(reason for tally in run.tallies.values() for reason in (*tally.left_out, *tally.notes))
            raise SourceError(f"nothing in {folder} can be judged: {why}")
        run.timings = _timings(largest, plain, device, out / "cells", say)
        _finish(run, out)
        reporter.update(total, f"done: {out / 'report.html'}")
    return run


def _judges(
    plain: Mapping[str, str],
    extra: Mapping[str, str],
    jobs: Sequence[tuple[int, Operator]],
    border: int,
    device: str,
    out: Path,
) -> KeepingJudge:
    named = labelled({**plain, **extra})
    pictured = tuple(next(job for job in jobs if job[0] == scale) for scale in {s for s, _ in jobs if s != 1})
    judge = KeepingJudge(named, border, device, "float32", pictured, out / "cells")
    judge.check(jobs)
    return judge


def _writable(out: Path) -> None:
    cells = out / "cells"
    with files.named(out):
        cells.mkdir(parents=True, exist_ok=True)
        with files.scratch(cells / "try"):  # also where a folder is there, but nothing may be put into it
            pass
    files.sweep(cells, ".*.part")  # of runs that were killed


def _area(subject: Subject) -> int:
    shape = subject.cube[next(str(b) for b in subject.cube.data_vars if "y" in subject.cube[b].dims)].shape
    return int(shape[-1] * shape[-2])


def _timings(
    subject: Subject, methods: Mapping[str, str], device: str, folder: Path, say: Callable[[str], object]
) -> dict[str, dict[int, Timing]]:
    """Timings of all methods, or those kept of the same methods and scene: all of one run, or none."""
    who = {label: identity(method, JUDGED[1], "mtf") for label, method in methods.items()}
    key = [subject.digest, timing.SIDE, who, device, machine()]
    path = folder / f"timings-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.json"
    try:
        kept = files.read_json(path)
        return {label: {int(gsd): Timing(*t) for gsd, t in row.items()} for label, row in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        pass
    timings = timed(enlarged(subject.cube, timing.SIDE), methods, device, say)
    if not any(t.note.startswith("failed") for row in timings.values() for t in row.values()):
        with files.named(folder):
            files.write(path, json.dumps(timings))
    return timings


def _finish(run: Run, out: Path) -> None:
    """Write everything beside what is there, then put it in its place."""
    with files.named(out), files.scratch(out / "report", folder=True) as scratch:
        (scratch / "figures").mkdir()
        parts: list[Part] = page(run, figures(run, scratch))
        (scratch / "report.md").write_text(as_markdown(TITLE, parts), encoding="utf-8")
        (scratch / "report.html").write_text(as_html(TITLE, parts, scratch), encoding="utf-8")
        table = frame(run.results)
        table.to_csv(scratch / "scores.csv", index=False)
        (scratch / "scores.json").write_text(_json(run, table), encoding="utf-8")
        shutil.rmtree(out / "figures", ignore_errors=True)
        for path in sorted(scratch.iterdir()):
            path.replace(out / path.name)


def frame(results: Results) -> pd.DataFrame:
    """All scores in one table: a row per scale, operator, scene, method and band."""
    tables = []
    for (scale, operator), scores in results.items():
        table = scores.to_dataframe().reset_index()
        table.insert(0, "scale", scale)
        table.insert(1, "operator", operator)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _json(run: Run, table: pd.DataFrame) -> str:
    timings = {
        label: {
            f"{gsd} m": {"seconds per megapixel": t.seconds, "peak MiB": t.peak, "note": t.note}
            for gsd, t in row.items()
        }
        for label, row in run.timings.items()
    }
    content = {
        "command": run.command,
        "border": run.border,
        "summary": summary_numbers(run.results),
        "left out": {f"{s}, {o}": t.left_out for (s, o), t in run.tallies.items()},
        "notes": {f"{s}, {o}": t.notes for (s, o), t in run.tallies.items()},
        "timings": {**machine(), "methods": timings},
        "scores": table.to_dict("records"),
    }
    return json.dumps(strict(content), indent=1) + "\n"


def strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
