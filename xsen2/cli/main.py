"""The ``xsen2`` command: the library's calls from a shell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from xsen2.cli import options
from xsen2.cli.app import app
from xsen2.cli.evaluate import evaluate
from xsen2.cli.options import UserPath, json_option
from xsen2.cli.run import Bbox, bar, bbox_option, method_option, quiet_option, run
from xsen2.cli.train import train
from xsen2.cli.weights import weights
from xsen2.errors import Xsen2Error, printable
from xsen2.version import __version__

__all__ = ["main"]


class _Failure(click.ClickException):
    exit_code = 2


class _Group(click.Group):
    """A group whose commands say in one line what is wrong, instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Xsen2Error, ImportError, OSError) as error:  # of the last, what no layer below has given a name
            raise _Failure(printable(" ".join(str(error).split()))) from error


@click.group(cls=_Group)
@click.version_option(__version__, prog_name="xsen2")
def main() -> None:
    """Make every Sentinel-2 band a 10 m band."""


@main.command()
@click.option(
    "--out", type=UserPath(file_okay=False, path_type=Path), default="demo-out", show_default=True, help="Folder."
)
@bbox_option
@click.option("--datetime", "when", metavar="A/B", help="Dates of a STAC search, as 2024-06-01/2024-08-31.")
@click.option("--api", metavar="URL", help="STAC API to search, Earth Search by default.")
@method_option
@quiet_option
def demo(out: Path, bbox: Bbox | None, when: str | None, api: str | None, method: str, quiet: bool) -> None:
    """Super-resolve a scene, and show what it gives.

    Writes a 10 m Zarr store, a before/after picture and a one-page summary with scores at the lower scale
    into a folder, replacing those of a former demo. The scene is the embedded sample, or the clearest
    Sentinel-2 L2A image of an area and time.

    \b
    xsen2 demo
    xsen2 demo --bbox 15.58 46.52 15.68 46.58 --datetime 2024-06-01/2024-08-31
    """  # noqa: D301  # click wants the sign itself
    import xsen2
    from xsen2.cli.demo import demonstrate

    if (bbox is None) != (when is None):
        raise click.UsageError("--bbox and --datetime belong together")
    if bbox is None:
        cube, truth, what = xsen2.sample(), xsen2.sample(truth=True), "the embedded sample"
    else:
        item = _clearest(bbox, str(when), api or xsen2.EARTH_SEARCH)
        cube, truth, what = xsen2.load([item], bbox=bbox), None, f"{item.id}, bbox {' '.join(map(str, bbox))}"
    area = [] if bbox is None else ["--bbox", *map(str, bbox), "--datetime", str(when)]
    command = shlex.join(["xsen2", "demo", *area, "--method", method])
    say = (lambda line: None) if quiet else click.echo
    demonstrate(cube, out, method=method, truth=truth, what=what, command=command, say=say, progress=bar(quiet))


@main.command()
@json_option
def methods(as_json: bool) -> None:
    """List what --method takes."""
    import xsen2

    rows = xsen2.methods().reset_index().to_dict("records")
    (options.as_json if as_json else lambda table: options.show(table, "method", "kind"))(rows)


main.add_command(app)
main.add_command(evaluate)
main.add_command(run)
main.add_command(train)
main.add_command(weights)


def _clearest(bbox: Bbox, when: str, api: str) -> Any:
    """The item with the least cloud, of those that cover the whole area if there are any."""
    from xsen2.sources.search import COLLECTION, search

    items = search(api, COLLECTION, bbox, when)
    from shapely.geometry import box, shape  # comes with the extra that the search has asked for

    def rank(item: Any) -> tuple[bool, float]:
        covers = item.geometry is not None and shape(item.geometry).contains(box(*bbox))
        return not covers, item.properties.get("eo:cloud_cover", 100.0)

    return min(items, key=rank)


if __name__ == "__main__":
    main()
