"""``xsen2 run``: products, stores and STAC in; 10 m Zarr stores and GeoTIFFs out; one, or a batch."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import dask
import numpy as np
import xarray as xr
from dask.core import flatten
from dask.system import CPU_COUNT

from xsen2.bands import canonical, find, grid_of
from xsen2.cli.options import UserPath
from xsen2.cube import recognise
from xsen2.errors import BandError, StoreError, Xsen2Error, once
from xsen2.files import is_url, local
from xsen2.sources.reading import secretless
from xsen2.sources.safe_files import product_name
from xsen2.version import __version__

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Bbox", "bar", "bbox_option", "method_option", "plan", "quiet_option", "run"]


# What a run will take, known before a pixel is read.


MiB, GiB = 2**20, 2**30

_BASE = 180 * MiB
"""Peak of a process that has imported the library and holds hardly any pixels."""

_NETWORK = 320 * MiB
"""What torch, weights and the features of one patch add, on a CPU: one patch at a time goes through a network."""

_THREAD = 100 * MiB
"""What each further thread keeps for itself after it has run a network."""


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes
    ----------
    dates, rows, columns : int
        Size of the result, in 10 m pixels.
    bands : list of str
        Variables that are written.
    methods : str
        Names of the methods, with the hashes of weights.
    crs : str
    bounds : list of float
        West, south, east, north, in the units of `crs`.
    pixels : int
        Of all bands and dates together.
    bytes_out : int
        Of the result before compression.
    bytes_in : int
        Of the native pixels that lie in the result's area; the context that methods read round it comes on top.
    blocks, tasks : int
        Blocks of a variable, all dates together, and tasks of the whole graph.
    memory : int
        Bytes that one process will need at its peak, on a CPU: within about a quarter for networks and bicubic. The
        classical methods that solve systems, such as supreme, took up to twice as much.
    """

    dates: int
    rows: int
    columns: int
    bands: list[str]
    methods: str
    crs: str
    bounds: list[float]
    pixels: int
    bytes_out: int
    bytes_in: int
    blocks: int
    tasks: int
    memory: int

    def lines(self) -> list[str]:
        """As a person reads it."""
        west, south, east, north = self.bounds
        return [
            f"result    {_number(self.dates, 'date')}, {self.rows} x {self.columns} pixels of 10 m, {self.crs}, "
            f"{west:.0f} {south:.0f} {east:.0f} {north:.0f}",
            f"bands     {' '.join(self.bands)}",
            f"method    {self.methods}",
            f"pixels    {self.pixels:,}",
            f"bytes     {_bytes(self.bytes_out)} to write before compression, about {_bytes(self.bytes_in)} to read",
            f"tasks     {self.tasks:,} in {_number(self.blocks, 'block')}",
            f"memory    about {_bytes(self.memory)} at the peak of one process",
        ]


def plan(cube: xr.Dataset | xr.DataTree, sr: xr.Dataset, names: Sequence[Hashable], dtype: str) -> Plan:
    """Tell what computing a result will take, without computing it.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        The cube.
    sr : xarray.Dataset
        What `xsen2.superresolve.superresolve` made of it.
    names : sequence
        Variables that are to be written, at least one.
    dtype : str
        What bands are written as; other variables stay as they are.

    Returns
    -------
    Plan

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample()
    >>> planned = plan(cube, cube.dsen2.superresolve(["B11"], "bicubic"), ["B11"], "int16")
    >>> planned.dates, planned.pixels == 2 * planned.rows * planned.columns, planned.bytes_out == 2 * planned.pixels
    (2, True, True)
    """
    native = recognise(cube)
    out = sr[list(names)]
    first = out[names[0]]
    dates, rows, columns = math.prod(first.shape[:-2]), *first.shape[-2:]
    here = dates * rows * columns
    sharpened = sum(variable.attrs.get("native_gsd", 10) > 10 for variable in out.data_vars.values())
    blocks = math.prod(first.data.numblocks)
    methods = str(sr.attrs["xsen2_method"])
    return Plan(
        dates=dates,
        rows=rows,
        columns=columns,
        bands=[str(name) for name in names],
        methods=methods,
        crs="no CRS" if sr.rio.crs is None else sr.rio.crs.to_string(),
        bounds=[float(edge) for edge in first.rio.bounds()],
        pixels=here * len(names),
        bytes_out=here * sum(_itemsize(variable, dtype) for variable in out.data_vars.values()),
        bytes_in=sum(here * a.dtype.itemsize * 100 // grid_of(band) ** 2 for band, a in native.bands.items()),
        blocks=blocks,
        tasks=_tasks(out),
        memory=_memory(math.prod(first.data.chunksize[-2:]), blocks, sharpened, network="(" in methods),
    )


def _itemsize(variable: xr.DataArray, dtype: str) -> int:
    name = str(variable.name).removesuffix("_se")
    return np.dtype(dtype).itemsize if find(name) else variable.dtype.itemsize


def _tasks(ds: xr.Dataset) -> int:
    """Tasks that the pixels depend on: of a result that was cut to an area, fewer than its graph has."""
    return len(ds.__dask_graph__().cull(set(flatten(ds.__dask_keys__()))).to_dict())


def _memory(block: int, blocks: int, bands: int, *, network: bool) -> int:
    """Bytes at the peak of one process, in which each of Dask's threads computes a block of so many pixels.

    Fitted to measured peaks, of blocks of 120 to 2400 pixels a side, one to four threads and 2 to 8 bands.
    """
    threads = min(dask.config.get("num_workers", None) or CPU_COUNT, blocks)
    pixel = 4 * bands + 12  # what is made and what it is made of, in float32
    if not network:
        return _BASE + threads * block * pixel
    return _BASE + _NETWORK + threads * (_THREAD + block * 3 * pixel)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _bytes(count: int) -> str:
    if count >= GiB:
        return f"{count / GiB:.1f} GiB"
    return f"{count / MiB:.0f} MiB" if count >= 10 * MiB else f"{count / MiB:.2f} MiB"


Bbox = tuple[float, float, float, float]

method_option = click.option(
    "--method", default="default", show_default=True, help="A name that `xsen2 methods` lists, or the path of weights."
)
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
bbox_option = click.option(
    "--bbox", nargs=4, type=float, metavar="W S E N", help="Area in degrees: west, south, east, north."
)


@dataclass(frozen=True)
class _Job:
    """What is done with each source."""

    area: Any
    box: Bbox | None
    clip: bool
    method: str
    bands: list[str] | None
    native: bool
    mask: bool
    when: str | None
    device: str
    precision: str
    dtype: str | None
    chunks: int | None
    overviews: bool
    overwrite: bool
    dry_run: bool
    progress: bool


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("out")
@method_option
@click.option("--bands", metavar="NAMES", help="20 m and 60 m bands to make, as B05,B11; all by default.")
@click.option(
    "--copy-original-bands/--no-copy-original-bands",
    "native",
    default=True,
    show_default=True,
    help="Whether the 10 m bands come along.",
)
@bbox_option
@click.option(
    "--geometry",
    type=UserPath(exists=True, dir_okay=False),
    help="Area as a GeoJSON file, of any size, in lon/lat.",
)
@click.option("--clip-to-aoi", "clip", is_flag=True, help="Nodata outside the polygons of --geometry.")
@click.option("--datetime", "when", metavar="A/B", help="Dates of STAC items, as 2024-06-01/2024-08-31.")
@click.option("--scl-mask", "mask", is_flag=True, help="Nodata in clouds and their shadows: SCL, or CLASSI of L1C.")
@click.option("--dry-run", is_flag=True, help="Print what it would take, and write nothing.")
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
    help="How DN are stored: int16 in .zarr and uint16 in .tif by default.",
)
@click.option("--chunks", type=click.IntRange(min=1), help="Side of a chunk of a .zarr on disk, in 10 m pixels.")
@click.option("--overviews", is_flag=True, help="Coarser levels of a .zarr as well, for maps; a .tif has them anyway.")
@click.option("--overwrite", is_flag=True, help="Replace what is at OUT instead of finishing it.")
@click.option("--log", type=UserPath(dir_okay=False, path_type=Path), help="File to add JSON lines to.")
@quiet_option
def run(
    sources: tuple[str, ...],
    out: str,
    bbox: Bbox | None,
    geometry: str | None,
    bands: str | None,
    log: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Make 10 m bands of your own data, as Zarr stores or GeoTIFFs.

    SOURCE is a Sentinel-2 product (.SAFE or its .zip; EOPF's .zarr or .zarr.zip), a Zarr store that holds a cube, STAC
    items (JSON), or the URL of a STAC search, API or collection; a path or URL. OUT ends in .zarr or .tif; {name}
    in it becomes the name of the source, {date} and {band} in a .tif what the file holds.

    With --bbox or --geometry the result is cut to the 10 m pixels that the area touches, and no more is read than
    they depend on. A run into .zarr that was interrupted goes on where it was when the same command is given again.

    Several SOURCEs are a batch: one that fails is named, and the rest goes on. Exit codes: 0, all is done; 2, nothing
    is, and the reason stands on one line; 1, a part of a batch failed, and the last lines say which.

    \b
    xsen2 run S2A_MSIL2A_20240821T….SAFE 10m.tif --geometry lake.geojson --clip-to-aoi
    xsen2 run *.SAFE 'out/{name}.zarr' --scl-mask --log run.jsonl
    xsen2 run https://earth-search.aws.element84.com/v1 lake.zarr --bbox 15.58 46.52 15.68 46.58 --datetime 2024-06/2024-08
    """  # noqa: D301, E501  # click wants the sign itself; a shell's line is not broken
    from xsen2.geometry import padded

    if bbox is not None and geometry is not None:
        raise click.UsageError("--bbox and --geometry both say what the area is: give one")
    if options["clip"] and geometry is None:
        raise click.UsageError("--clip-to-aoi clips to the polygons of --geometry, which is missing")
    area = geometry if bbox is None else bbox
    job = _Job(
        area=area,
        box=None if area is None else padded(area, 0),
        bands=None if bands is None else [name.strip() for name in bands.split(",")],
        progress=bar(quiet),
        **options,
    )
    targets = _targets(sources, out)
    if job.chunks is not None and not out.rstrip("/").endswith(".zarr"):
        raise StoreError("--chunks is the size of chunks of a .zarr: a .tif has tiles of 512 pixels")
    journal = _Journal(log, quiet)
    with warnings.catch_warnings():
        warnings.showwarning = journal.warned  # type: ignore[assignment]  # takes what is given
        failed = _batch(targets, job, journal)
    if failed:
        _summarise(failed, len(targets))


def _targets(sources: Sequence[str], out: str) -> dict[str, str]:
    """Source → where its result goes."""
    if not out.rstrip("/").endswith((".zarr", ".tif", ".tiff")):
        raise StoreError(f"{out} ends neither in .zarr nor in .tif, which are the formats that can be written")
    if len(sources) > 1 and "{name}" not in out:
        raise StoreError(f"{len(sources)} sources need as many results: put {{name}} in OUT, as out/{{name}}.zarr")
    targets: dict[str, str] = {}
    for source in sources:
        place = out.replace("{name}", _name(source))
        if place in targets.values():
            raise StoreError(f"{source} would become {place}, as another source does: run them apart")
        if _inside(source, place):
            raise StoreError(f"{place} is where SOURCE is, and would be replaced while it is read: give another path")
        targets[source] = place
    return targets


def _batch(targets: dict[str, str], job: _Job, journal: _Journal) -> dict[str, str]:
    """Do one source after the other; of those that failed, the reasons."""
    failed = {}
    for source, place in targets.items():
        began = time.perf_counter()
        journal.add("start", source, out=place)
        try:
            _run_source(source, place, job, journal, began)
        except Exception as error:  # whatever is wrong with one, others are not to blame
            known = isinstance(error, (Xsen2Error, ImportError, OSError))
            reason = " ".join(f"{'' if known else f'{type(error).__name__}: '}{error}".split())
            journal.add("failed", source, out=place, reason=reason, seconds=_since(began))
            if len(targets) == 1:
                raise
            failed[source] = reason
            click.echo(f"{source} failed: {reason}", err=True)
    return failed


def _summarise(failed: dict[str, str], number: int) -> None:
    click.echo(f"Error: {len(failed)} of {number} sources failed; run these again:", err=True)
    for source, reason in failed.items():
        click.echo(f"  {source}: {reason}", err=True)
    sys.exit(2 if len(failed) == number else 1)


@once
def _run_source(source: str, place: str, job: _Job, journal: _Journal, began: float) -> None:
    from xsen2.sources.open import Wanted, open_source
    from xsen2.sources.reading import skipped
    from xsen2.superresolve import context_of

    context = 0 if job.box is None else context_of(job.method, job.bands)
    needs = None if job.bands is None else _needs(job.method, job.bands)
    cube = open_source(source, Wanted(job.box, context, job.when, ("SCL",) if job.mask else (), needs))
    if job.bands is None:
        _makeable(source, cube, job.method)
    sr = cube.dsen2.superresolve(
        job.bands,
        job.method,
        job.native,
        area=job.area,
        clip=job.clip,
        mask=_mask(cube) if job.mask else None,
        device=job.device,
        dtype=job.precision,
    )
    tif = not place.rstrip("/").endswith(".zarr")
    dtype = job.dtype or ("uint16" if tif else "int16")
    planned = plan(cube, sr, [name for name in sr.data_vars if find(str(name)) or not tif], dtype)
    if tif and planned.dates > 1 and "{date}" not in place:
        raise StoreError(f"{place} is one file, and there are {planned.dates} dates: put {{date}} in its name")
    journal.add("plan", source, **vars(planned))
    if job.dry_run:
        journal.say(f"{source} would become {place}", *planned.lines())
        return
    if tif:
        written = [str(f) for f in sr.dsen2.to_cog(place, dtype=dtype, overwrite=job.overwrite, progress=job.progress)]
    else:
        sr.dsen2.to_zarr(
            place,
            dtype=dtype,
            chunks=job.chunks,
            overwrite=job.overwrite,
            overviews=job.overviews,
            progress=job.progress,
        )
        written = [place]
    lost = [vars(block) for block in skipped(sr)]
    journal.add("done", source, out=written, seconds=_since(began), attrs=sr.attrs, skipped=lost)
    size = f"{len(planned.bands)} variables, {planned.dates} x {planned.rows} x {planned.columns} (time, y, x)"
    journal.say(*(f"{file}: {size}" for file in written[:1]), *written[1:])


def _needs(method: str, bands: Sequence[str]) -> tuple[str, ...]:
    """What a source must have for some bands to be made."""
    from xsen2.methods.registry import resolve

    asked = canonical(bands)
    low = [band for band in asked if grid_of(band) != 10]
    return tuple(dict.fromkeys((*asked, *(need for algorithm in resolve(method, low) for need in algorithm.needs))))


def _makeable(source: str, cube: xr.Dataset | xr.DataTree, method: str) -> None:
    """Refuse a source without the bands that the method reads, with a hint that names the options of the shell."""
    from xsen2.cube import recognise
    from xsen2.methods.registry import resolve

    present = list(recognise(cube).bands)
    low = [band for band in present if grid_of(band) != 10]
    algorithms = resolve(method, low) if low else []
    lacking = list(dict.fromkeys(need for algorithm in algorithms for need in algorithm.needs if need not in present))
    if lacking:
        able = [
            band
            for algorithm in algorithms
            if set(algorithm.needs) <= set(present)
            for band in algorithm.produces
            if band in present
        ]
        hint = f"make others with --bands {','.join(able)}, or " if able else ""
        raise BandError(
            f"{source} has no {', '.join(lacking)}, which method {method!r} reads: {hint}take a method that reads each "
            "band alone, --method bicubic"
        )


def _mask(cube: xr.Dataset | xr.DataTree) -> str:
    """SCL, or what L1C has in its stead."""
    from xsen2.cube import recognise

    layers = {str(name).upper() for name in recognise(cube).extras}
    return "classi" if "CLASSI" in layers and "SCL" not in layers else "scl"


def _name(source: str) -> str:
    """The name of a source: the last part of its address without the ending of its format."""
    last = source.partition("?")[0].rstrip("/").rpartition("/")[2]
    if not is_url(source):
        with suppress(Xsen2Error):  # what cannot be the path of anything is named when it is opened
            last = product_name(source)
    name = re.sub(r"(\.zarr)?\.zip$|\.(safe|zarr|json|geojson)$", "", last, flags=re.IGNORECASE).removesuffix(".SAFE")
    return re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).strip(". ") or "source"


def _inside(source: str, out: str) -> bool:
    """Whether `source` is `out` or a group in it."""
    if is_url(source) or is_url(out):
        return f"{source.rstrip('/')}/".startswith(f"{out.rstrip('/')}/")
    # resolve() fails at links in a circle
    return Path(os.path.realpath(local(source))).is_relative_to(os.path.realpath(local(out, StoreError)))


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 1)


def bar(quiet: bool) -> bool:
    """Whether to show a bar, which is for people: in a file it would be thousands of lines."""
    return not quiet and sys.stderr.isatty()


class _Journal:
    """What is told: to a person on the terminal, to programs as JSON lines."""

    def __init__(self, log: Path | None, quiet: bool) -> None:
        self._quiet = quiet
        self._log = log
        self._source = ""
        if log is not None:
            try:
                log.open("a").close()
            except OSError as error:
                raise StoreError(f"--log {log} cannot be written: {error}") from error

    def add(self, event: str, source: str, **more: Any) -> None:
        """A line of the log, on disk at once."""
        self._source = source
        if self._log is not None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            line = {"time": now, "event": event, "source": secretless(source), "version": __version__, **more}
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, default=str, ensure_ascii=False) + "\n")

    def say(self, *lines: str) -> None:
        """Lines for a person."""
        if not self._quiet:
            for line in lines:
                click.echo(line)

    def warned(self, message: Warning | str, *_: Any) -> None:
        """As `warnings.showwarning`: one line, without code."""
        text = " ".join(str(message).split())
        self.add("warning", self._source, text=text)
        if not self._quiet:
            click.echo(f"Warning: {text}", err=True)
