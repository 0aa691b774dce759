"""The report: scores of all scenes, tables like the paper's, pictures, timings, on one page."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from timeit import default_timer
from typing import Any

import pandas as pd
import xarray as xr

from xsen2 import disk, files
from xsen2.errors import SourceError, once
from xsen2.kernels import Operator
from xsen2.page import Part, as_html, as_markdown
from xsen2.plots import require
from xsen2.reporting import timing
from xsen2.reporting.cells import KeepingJudge, identity
from xsen2.reporting.content import TITLE, figures, page
from xsen2.reporting.judge import JUDGED, Tally, labelled
from xsen2.reporting.subjects import Subject, subjects
from xsen2.reporting.tables import Results, summary_numbers
from xsen2.reporting.timing import Timing, enlarged, machine, timed
from xsen2.text import printable

__all__ = ["Run", "report"]


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
    say: Callable[[str], object] = print,
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
    say : callable
        Takes each line about what is going on.

    Returns
    -------
    Run
        What the report was made of.

    Raises
    ------
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
    say(f"done: {out / 'report.html'}")
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
    with disk.named(out):
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
    found = timed(enlarged(subject.cube, timing.SIDE), methods, device, say)
    if not any(t.note.startswith("failed") for row in found.values() for t in row.values()):
        with disk.named(folder):
            files.write(path, json.dumps(found))
    return found


def _finish(run: Run, out: Path) -> None:
    """Write everything beside what is there, then put it in its place."""
    with disk.named(out), files.scratch(out / "report", folder=True) as scratch:
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
    return json.dumps(_strict(content), indent=1) + "\n"


def _strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
