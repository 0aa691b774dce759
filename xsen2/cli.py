"""The ``xsen2`` command: the library's calls from a shell."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from xsen2 import __version__
from xsen2.cli_evaluate import evaluate
from xsen2.cli_train import train
from xsen2.cli_weights import weights
from xsen2.errors import SourceError, StoreError, Xsen2Error

__all__ = ["main"]

Bbox = tuple[float, float, float, float]


class _Failure(click.ClickException):
    exit_code = 2


class _Group(click.Group):
    """A group whose commands say in one line what is wrong, instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Xsen2Error, ImportError) as error:
            raise _Failure(" ".join(str(error).split())) from error


@click.group(cls=_Group)
@click.version_option(__version__, prog_name="xsen2")
def main() -> None:
    """Make every Sentinel-2 band a 10 m band."""


_method = click.option(
    "--method", default="default", show_default=True, help="A name that `xsen2 methods` lists, or the path of weights."
)
_quiet = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
_bbox = click.option(
    "--bbox", nargs=4, type=float, metavar="W S E N", help="Area in degrees: west, south, east, north."
)


@main.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default="demo-out", show_default=True, help="Folder."
)
@_bbox
@click.option("--datetime", "when", metavar="A/B", help="Dates of a STAC search, as 2024-06-01/2024-08-31.")
@click.option("--api", metavar="URL", help="STAC API to search, Earth Search by default.")
@_method
@_quiet
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
    from xsen2.report import demonstrate

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
    demonstrate(cube, out, method=method, truth=truth, what=what, command=command, say=say, progress=_bar(quiet))


@main.command()
@click.argument("source")
@click.argument("out")
@_method
@click.option("--bands", metavar="NAMES", help="20 m and 60 m bands to make, as B05,B11; all by default.")
@_bbox
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="What networks compute in.",
)
@click.option(
    "--dtype",
    type=click.Choice(["int16", "uint16", "float32"]),
    default="int16",
    show_default=True,
    help="How DN are stored.",
)
@click.option("--chunks", type=click.IntRange(min=1), help="Side of a chunk on disk, in 10 m pixels.")
@click.option("--overwrite", is_flag=True, help="Replace the store at OUT instead of finishing it.")
@_quiet
def run(
    source: str,
    out: str,
    method: str,
    bands: str | None,
    bbox: Bbox | None,
    device: str,
    precision: str,
    dtype: str,
    chunks: int | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Make a 10 m Zarr store of your own data.

    SOURCE is a Sentinel-2 product (.SAFE or its .zip), a Zarr store that holds a cube, or a STAC item or item
    collection (JSON); a path or URL. OUT ends in .zarr. A run that was interrupted goes on where it was when the same
    command is given again.
    """
    from xsen2.sources.open import open_source

    if not out.rstrip("/").endswith(".zarr"):
        raise StoreError(f"{out} does not end in .zarr, the only format that can be written")
    if _inside(source, out):
        raise StoreError(f"{out} is where SOURCE is, and would be replaced while it is read: give another path")
    cube = open_source(source, bbox)
    wanted = None if bands is None else [name.strip() for name in bands.split(",")]
    sr = cube.dsen2.superresolve(wanted, method, device=device, dtype=precision)
    done = sr.dsen2.to_zarr(out, dtype=dtype, chunks=chunks, overwrite=overwrite, progress=_bar(quiet))
    if not quiet:
        size = " x ".join(str(n) for n in done.sizes.values())
        click.echo(f"{out}: {len(done.data_vars)} variables, {size} ({', '.join(map(str, done.sizes))})")


@main.command()
def methods() -> None:
    """List what --method takes."""
    import xsen2

    click.echo(xsen2.methods().to_string())


main.add_command(evaluate)
main.add_command(train)
main.add_command(weights)


def _inside(source: str, out: str) -> bool:
    """Whether `source` is `out` or a group in it."""
    here, there = (name.removeprefix("file://") for name in (source, out))
    if "://" in here or "://" in there:
        return f"{here.rstrip('/')}/".startswith(f"{there.rstrip('/')}/")
    return Path(here).resolve().is_relative_to(Path(there).resolve())


def _bar(quiet: bool) -> bool:
    """A bar is for people: in a file it would be thousands of lines."""
    return not quiet and sys.stdout.isatty()


def _clearest(bbox: Bbox, when: str, api: str) -> Any:
    """The item with the least cloud, of those that cover the whole area if there are any."""
    try:
        from pystac_client import Client
        from pystac_client.exceptions import APIError
        from shapely.geometry import box, shape
    except ImportError as error:
        raise ImportError("searching needs pystac-client: pip install 'xsen2[stac]'") from error
    try:
        found = list(Client.open(api).search(collections=["sentinel-2-l2a"], bbox=bbox, datetime=when).items())
    except (APIError, OSError) as error:
        raise SourceError(f"{api} cannot be searched: {error}") from error
    if not found:
        raise SourceError(f"{api} has no sentinel-2-l2a item in {bbox} at {when}: try other dates")

    def rank(item: Any) -> tuple[bool, float]:
        whole = item.geometry is not None and shape(item.geometry).contains(box(*bbox))
        return not whole, item.properties.get("eo:cloud_cover", 100.0)

    return min(found, key=rank)


if __name__ == "__main__":
    main()
