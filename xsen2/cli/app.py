"""``xsen2 app``: the web app, on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from xsen2.cli.options import UserPath
from xsen2.errors import SourceError

__all__ = ["app"]


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to; 0.0.0.0 for all networks.")
@click.option("--port", type=click.IntRange(1, 65535), default=8010, show_default=True)
@click.option("--api", metavar="URL", help="STAC API to search, Earth Search by default.")
@click.option("--sample", is_flag=True, help="Serve the embedded sample alone, and open no address.")
@click.option(
    "--folder",
    type=UserPath(file_okay=False, path_type=Path),
    help="For jobs and results; in your data by default.",
)
@click.option("--name", "names", multiple=True, help="A name under which browsers may reach it, as maps.example.org.")
@click.option("--token", envvar="XSEN2_APP_TOKEN", help="What a browser must bring; made up unless HOST is loopback.")
@click.option("--root-path", default="", help="What a proxy in front puts before each path, as /xsen2.")
@click.option("--most-area", type=click.FloatRange(0.01), default=100.0, show_default=True, help="km² of one job.")
@click.option("--most-scenes", type=click.IntRange(1), default=24, show_default=True, help="Scenes of one job.")
@click.option("--most-minutes", type=click.FloatRange(1), default=120.0, show_default=True, help="Of one job.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Jobs done at a time.")
@click.option("--keep-days", type=click.FloatRange(0.01), default=30.0, show_default=True, help="Age of results.")
@click.option("--keep-gb", type=click.FloatRange(0.001), default=20.0, show_default=True, help="Size of all results.")
@click.option("--open/--no-open", "browse", default=True, show_default=True, help="Open a browser.")
def app(
    host: str,
    port: int,
    api: str | None,
    sample: bool,
    folder: Path | None,
    names: tuple[str, ...],
    token: str | None,
    root_path: str,
    most_area: float,
    most_scenes: int,
    most_minutes: float,
    workers: int,
    keep_days: float,
    keep_gb: float,
    browse: bool,
) -> None:
    """Draw an area on a map, and look at it at 10 m.

    Serves a page on this machine, for this machine: with another --host it asks for a token, which is in the address
    that is printed. Jobs and results are kept in a folder, and survive a restart.

    \b
    xsen2 app
    xsen2 app --sample
    xsen2 app --host 0.0.0.0 --name maps.example.org
    """  # noqa: D301  # click wants the sign itself
    try:
        import pydantic  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError("the app needs a web server: pip install 'xsen2[app]'") from error
    from platformdirs import user_data_path

    from xsen2.app.schema import Limits
    from xsen2.app.server import PAGE, UNBUILT, Settings, serve
    from xsen2.sources.stac import EARTH_SEARCH

    if not (PAGE / "index.html").is_file():
        raise SourceError(UNBUILT)
    settings = Settings(
        folder=(folder or user_data_path("xsen2") / "app").absolute(),
        api=api or EARTH_SEARCH,
        host=host,
        port=port,
        names=names,
        token=token,
        sample=sample,
        limits=Limits(km2=most_area, dates=most_scenes, minutes=most_minutes),
        workers=workers,
        keep_days=keep_days,
        keep_gb=keep_gb,
        root_path=root_path.rstrip("/"),
    )
    click.echo(f"xsen2 app: {settings.address}")
    click.echo(f"jobs and results: {settings.folder}; end with Ctrl-C")
    if browse:
        _open_later(settings.address)
    serve(settings)


def _open_later(address: str) -> None:
    """Open a browser when the server has had time to start."""
    import threading
    import webbrowser

    timer = threading.Timer(1.5, webbrowser.open, [address])
    timer.daemon = True
    timer.start()
