"""``xsen2 evaluate``: every method on a folder of scenes, as a report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from xsen2.cli.options import UserPath

__all__ = ["evaluate"]


@click.command()
@click.argument("folder", type=UserPath(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=UserPath(file_okay=False, path_type=Path), required=True, help="Folder of the report.")
@click.option(
    "--methods",
    metavar="NAMES",
    help="What `xsen2 methods` lists, or paths of weights, as supreme,run20/; all by default.",
)
@click.option(
    "--dataset",
    type=click.Choice(["scenes", "sen2neon", "sharpening"]),
    default="scenes",
    show_default=True,
    help="What FOLDER is: scenes, which are degraded; SEN2NEON, real ones beside airborne truth; or the test images of "
    "the sharpening benchmark of Ciotola et al. (2025), judged by ERGAS, SAM and Q2n.",
)
@click.option(
    "--gsd",
    type=click.Choice(["10", "5", "2.5"]),
    default="10",
    show_default=True,
    help="Metres; below 10, methods that make one image of many dates.",
)
@click.option("--frames", type=click.IntRange(2), default=8, show_default=True, help="Dates, with --gsd below 10.")
@click.option(
    "--series",
    type=UserPath(exists=True, dir_okay=False, path_type=Path),
    help="Real dates of one place (.npz with b10, time, clear), with --gsd below 10.",
)
@click.option(
    "--operators",
    default="product,mtf,dsen2",
    show_default=True,
    help="How scenes are degraded: product, mtf, dsen2, box.",
)
@click.option(
    "--scales",
    default="2,6,1",
    show_default=True,
    help="2: 20 m bands, 6: 60 m bands, 1: at full scale, without a truth.",
)
@click.option("--border", type=click.IntRange(0), default=0, show_default=True, help="Pixels left out along the edges.")
@click.option(
    "--transfer",
    type=UserPath(exists=True, path_type=Path),
    help="Weights that `xsen2 train --coarser` made, to see what they do at the next finer scale.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def evaluate(
    folder: Path,
    out: Path,
    methods: str | None,
    dataset: str,
    gsd: str,
    frames: int,
    series: Path | None,
    operators: str,
    scales: str,
    border: int,
    transfer: Path | None,
    device: str,
    quiet: bool,
) -> None:
    """Compare methods on a folder of scenes, and write a report.

    FOLDER holds cubes: ESA .SAFE folders or .zip files, Zarr stores, .npz files. Scenes are made coarser and brought
    back, so that the truth is known; at scale 1 they are judged without one. OUT receives report.html, which holds its
    pictures, report.md with figures/, scores.csv and scores.json. They replace those of a former report when all
    is finished. What has been judged is kept in OUT/cells: the same command goes on after a stop, and further
    methods are added to what is there.

    With --gsd 5 or 2.5, scenes are seen by a coarser sensor several times, from a little aside, and brought back; the
    report says how much of the gain comes from other dates, and how much is what a method expects images to look like.

    \b
    xsen2 evaluate scenes/ --out report
    xsen2 evaluate scenes/ --out report --methods bicubic,supreme,twogrid --scales 2
    xsen2 evaluate scenes/ --out report --gsd 2.5 --frames 8
    xsen2 evaluate SEN2NEON/ --dataset sen2neon --out report --methods regression,twogrid
    xsen2 evaluate Sentinel2/ --dataset sharpening --out report --methods supreme,twogrid
    """  # noqa: D301  # click wants the sign itself
    import xsen2
    from xsen2.evaluation.report import report

    if gsd != "10":
        _finer(folder, out, methods, float(gsd), frames, series, transfer, device, quiet)
        return
    known = xsen2.methods()
    ten = known.index[known["kind"] != "multitemporal"]
    names = [name for name in ten if name != "default"] if methods is None else _split(methods)
    if dataset == "sen2neon":
        _airborne(folder, out, names, device, quiet)
        return
    if dataset == "sharpening":
        _sharpening(folder, out, names, device, quiet)
        return
    numbers = [_number(scale) for scale in _split(scales)]
    options: dict[str, Any] = {"--methods": methods, "--operators": operators, "--scales": scales, "--border": border}
    options |= {"--transfer": transfer, "--device": device}
    given = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
    report(
        folder,
        out,
        {name: name for name in names},
        scales=numbers,
        operators=_split(operators),  # type: ignore[arg-type]  # checked there
        border=border,
        transfer=None if transfer is None else {"trained at 80 → 40 m": str(transfer)},
        device=device,
        command=shlex.join(["xsen2", "evaluate", str(folder), "--out", str(out), *given]),
        progress=False if quiet else (lambda now: click.echo(now.about, err=True)),
    )


def _finer(
    folder: Path,
    out: Path,
    methods: str | None,
    gsd: float,
    frames: int,
    series: Path | None,
    transfer: Path | None,
    device: str,
    quiet: bool,
) -> None:
    """Many dates, below 10 m."""
    from xsen2.evaluation.ladder_report import ladder, summary

    given = click.get_current_context().get_parameter_source
    for name in ("operators", "scales", "border", "dataset"):
        if given(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is for 10 m bands: leave it out with --gsd {gsd:g}")
    names = ["default", "wiener", "median"] if methods is None else _split(methods)
    words = ["xsen2", "evaluate", str(folder), "--out", str(out), "--gsd", f"{gsd:g}", "--frames", str(frames)]
    words += [] if methods is None else ["--methods", methods]
    words += [] if series is None else ["--series", str(series)]
    words += [] if transfer is None else ["--transfer", str(transfer)]
    results = ladder(
        folder,
        out,
        {name: name for name in names},
        gsd=gsd,
        frames=frames,
        series=series,
        transfer=transfer,
        device=device,
        command=shlex.join(words),
        progress=False if quiet else (lambda now: click.echo(now.about, err=True)),
    )
    for label, gain in summary(results).items():
        click.echo(f"{label}: {gain:+.2f} dB")


def _airborne(folder: Path, out: Path, names: list[str], device: str, quiet: bool) -> None:
    """Scores against airborne truth, as a table."""
    from xsen2 import files
    from xsen2.evaluation.datasets import airborne

    scores = airborne(folder, names, device=device, say=lambda line: None if quiet else click.echo(line, err=True))
    ratio = scores["rmse"].mean("band") / scores["rmse"].sel({"method": "bicubic"}).mean("band")
    table = ratio.mean("scene").to_series().round(3)
    with files.named(out):
        out.mkdir(parents=True, exist_ok=True)
        scores.to_dataframe().to_csv(out / "scores.csv")
    click.echo(table.to_string(header=False))


def _sharpening(folder: Path, out: Path, names: list[str], device: str, quiet: bool) -> None:
    """Scores of the sharpening benchmark, a table for each of its folders."""
    from xsen2 import files
    from xsen2.evaluation.datasets import sharpening

    results = sharpening(folder, names, device=device, say=lambda line: None if quiet else click.echo(line, err=True))
    with files.named(out):
        out.mkdir(parents=True, exist_ok=True)
        for kind, scores in results.items():
            scores.to_dataframe().to_csv(out / f"scores-{kind}.csv")
    for kind, scores in results.items():
        click.echo("full resolution" if kind == "full" else f"{kind} m bands, reduced resolution")
        rest = [dim for dim in scores.dims if dim != "method"]
        click.echo(scores.mean(rest).to_dataframe().round(4).to_string())


def _split(text: str) -> list[str]:
    """What is between commas."""
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise click.UsageError("an option is empty: give names separated by commas, or leave it out")
    return words


def _number(text: str) -> int:
    if text not in ("1", "2", "6"):
        raise click.UsageError(f"--scales {text}: use 2, 6 and 1")
    return int(text)
