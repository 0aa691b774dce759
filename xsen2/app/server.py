"""The server: routes over the queue and the results; every answer is JSON, a file of a job, or the page itself."""

from __future__ import annotations

import json
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from xsen2.app.guard import Guard, check_api, is_loopback
from xsen2.app.jobs import Jobs
from xsen2.app.look import INDICES, formulas, pixel, series, zipped
from xsen2.app.schema import MOST_BODY, MOST_DAYS, MOST_VERTICES, Job, Limits, Search, km2_of, validation_message
from xsen2.app.state import ENDED, Record
from xsen2.app.work import KINDS, sample_scenes, scenes
from xsen2.bands import BANDS
from xsen2.errors import NothingFound, SourceError, StoreError, Xsen2Error, printable
from xsen2.geometry import read
from xsen2.sources.reading import secretless
from xsen2.sources.stac import EARTH_SEARCH, PLANETARY_COMPUTER
from xsen2.version import __version__

__all__ = ["PAGE", "Settings", "create_app", "serve"]

PAGE = Path(__file__).parent / "static"
"""The page, bundled from ``page/`` when the wheel is built."""

UNBUILT = (
    "the page of this app has not been built: it is bundled from xsen2/app/page by node, which was missing when xsen2 "
    "was installed. In a checkout: install node 18 or later, then: make page"
)

M = TypeVar("M", bound=BaseModel)

_SEARCHES = 4
"""Searches at a time: each is a request to somebody else's server."""


@dataclass(frozen=True)
class Settings:
    """How the app is served.

    Attributes
    ----------
    folder : Path
        For jobs and their results.
    api : str
        The STAC API that is searched.
    host : str
        Address to bind to.
    port : int
    names : tuple of str
        Names under which a browser may reach it, besides numbers.
    token : str or None
        What a browser must bring. One is made up where `host` is not loopback and none is given.
    sample : bool
        Whether only the embedded sample is served, and no address is ever opened.
    limits : Limits
    workers : int
    keep_days, keep_gb : float
    root_path : str
        What a proxy in front puts before each path.
    """

    folder: Path
    api: str = EARTH_SEARCH
    host: str = "127.0.0.1"
    port: int = 8010
    names: tuple[str, ...] = ()
    token: str | None = None
    sample: bool = False
    limits: Limits = field(default_factory=Limits)
    workers: int = 1
    keep_days: float = 30.0
    keep_gb: float = 20.0
    root_path: str = ""

    def __post_init__(self) -> None:
        check_api(self.api)
        if self.token is None and not is_loopback(self.host):
            object.__setattr__(self, "token", secrets.token_urlsafe(24))

    @property
    def source(self) -> str:
        """What the API is called on the page."""
        known = {EARTH_SEARCH: "Earth Search", PLANETARY_COMPUTER: "Planetary Computer"}
        return known.get(self.api.rstrip("/"), urlsplit(self.api).netloc)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        end = f"?token={self.token}" if self.token else ""
        return f"http://{host}:{self.port}{self.root_path}/{end}"


class _Refused(Exception):
    """A request that is answered with a sentence."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.more = status, message, more


def create_app(settings: Settings) -> ASGIApp:
    """The app, with a queue of its own that works while it is served.

    Parameters
    ----------
    settings : Settings

    Returns
    -------
    ASGI application

    Raises
    ------
    StoreError
        The folder cannot be used.
    SourceError
        The address of the API is none.
    """
    jobs = Jobs(
        settings.folder,
        settings.api,
        settings.limits,
        workers=settings.workers,
        keep_days=settings.keep_days,
        keep_gb=settings.keep_gb,
    )
    reach = _Reach(settings)
    searching = anyio.CapacityLimiter(_SEARCHES)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        jobs.start()
        yield
        await anyio.to_thread.run_sync(jobs.close)

    def mine(request: Request) -> Record:
        """The job that a path names, if it is this user's."""
        name = request.path_params["job"]
        record = jobs.state.get(name, request.state.owner) if re.fullmatch(r"[0-9a-f]{32}", name) else None
        if record is None:
            raise _Refused(404, "you have no such job: it may have been deleted")
        return record

    def finished(request: Request) -> Record:
        record = mine(request)
        if record.state != "done":
            raise _Refused(409, "this job has no result: it is not done")
        return record

    async def about(request: Request) -> Response:
        reachable = await anyio.to_thread.run_sync(reach.check)
        bands = [
            {"name": b.name, "gsd": b.gsd, "wavelength": b.wavelength, "long_name": b.long_name} for b in BANDS.values()
        ]
        return JSONResponse(
            {
                "version": __version__,
                "source": {"name": settings.source, "url": settings.api, "reachable": reachable,
                           "sample_only": settings.sample},
                "sample": await anyio.to_thread.run_sync(sample_scenes),
                "limits": {"km2": settings.limits.km2, "dates": settings.limits.dates, "days": MOST_DAYS,
                           "vertices": MOST_VERTICES, "body": MOST_BODY},
                "keep": {"days": settings.keep_days, "gb": settings.keep_gb},
                "methods": await anyio.to_thread.run_sync(_methods),
                "indices": await anyio.to_thread.run_sync(formulas),
                "bands": bands,
            }
        )  # fmt: skip

    async def measure(request: Request) -> Response:
        """Read an area, and say how large it is: what the page shows while one is drawn or pasted."""
        given = await _json(request)
        search = _read(
            {**given, "start": "2020-01-01", "end": "2020-01-01"} if isinstance(given, dict) else given, Search
        )
        area = read(search.area)
        return JSONResponse({"bbox": area.lonlat, "km2": round(km2_of(area), 3), "most": settings.limits.km2,
                             "shape": _lonlat(area)})  # fmt: skip

    async def search(request: Request) -> Response:
        wanted = _read(await _json(request), Search)
        _offline(wanted)
        settings.limits.check(wanted.area)
        try:
            matches, notes = await anyio.to_thread.run_sync(scenes, wanted, settings.api, limiter=searching)
        except NothingFound:
            matches, notes = [], []
        except SourceError as error:
            reach.failed()
            raise _Refused(502, _sentence(error), unreachable=True) from error
        return JSONResponse({"scenes": matches, "notes": notes, "source": wanted.source})

    def _offline(wanted: Search) -> None:
        if settings.sample and wanted.source != "sample":
            raise _Refused(400, "this server was started with --sample: it searches no API")

    async def add(request: Request) -> Response:
        wanted = _read(await _json(request), Job)
        _offline(wanted)
        settings.limits.check(wanted.area)
        if len(wanted.scenes) > settings.limits.dates:
            raise _Refused(
                400, f"{len(wanted.scenes)} scenes are chosen, and {settings.limits.dates} are the most of one job"
            )
        record = await anyio.to_thread.run_sync(jobs.add, wanted, request.state.owner)
        if record is None:
            raise _Refused(429, f"{settings.limits.waiting} of your jobs wait or run already: wait for one to end")
        return JSONResponse(_shown(record), 201)

    async def all_jobs(request: Request) -> Response:
        records = await anyio.to_thread.run_sync(jobs.state.of, request.state.owner)
        return JSONResponse({"jobs": [_shown(record, brief=True) for record in records]})

    async def one_job(request: Request) -> Response:
        return JSONResponse(_shown(mine(request)))

    async def cancel(request: Request) -> Response:
        record = mine(request)
        if record.state in ENDED:
            raise _Refused(409, "this job has ended already")
        jobs.cancel(record)
        return JSONResponse(_shown(mine(request)))

    async def retry(request: Request) -> Response:
        if not jobs.again(mine(request)):
            raise _Refused(409, "only a job that failed or was cancelled is tried again")
        return JSONResponse(_shown(mine(request)))

    async def remove(request: Request) -> Response:
        record = mine(request)
        if not await anyio.to_thread.run_sync(jobs.remove, record):
            raise _Refused(409, "this job has not ended: cancel it first")
        return JSONResponse({"removed": record.id})

    async def tif(request: Request) -> Response:
        record = finished(request)
        kind, date = request.path_params["kind"], request.path_params["date"]
        if kind not in KINDS or date not in record.result["dates"] or (kind == "error" and not record.result["errors"]):
            raise _Refused(404, "this job has no such file")
        return _file(jobs.place(record.id) / kind / f"{date}.tif", "image/tiff", f"xsen2-{kind}-{date}.tif")

    async def store(request: Request) -> Response:
        record = finished(request)
        path = await anyio.to_thread.run_sync(zipped, jobs.place(record.id))
        await anyio.to_thread.run_sync(jobs.measure, record)
        return _file(path, "application/zip", "xsen2.zarr.zip")

    async def look(request: Request) -> Response:
        record = finished(request)
        try:
            x, y = (float(request.query_params[name]) for name in "xy")
        except (KeyError, ValueError):
            raise _Refused(400, "x and y are two numbers, in the CRS of the result") from None
        west, south, east, north = record.result["bounds"]
        values = None
        if west <= x < east and south < y <= north:  # of what is not a number, nothing holds
            values = await anyio.to_thread.run_sync(pixel, jobs.place(record.id), record.result["dates"], x, y)
        if values is None:
            raise _Refused(404, "there is no pixel of this result")
        return JSONResponse(values)

    async def course(request: Request) -> Response:
        record = finished(request)
        name = request.query_params.get("index", "")
        if name not in INDICES or not all(
            f[s] in record.result["bands"] for f in formulas() if f["name"] == name for s in "ab"
        ):
            raise _Refused(404, "this result has no such index")
        dates = record.result["dates"]
        values = await anyio.to_thread.run_sync(series, jobs.place(record.id), dates, name)
        return JSONResponse({"index": name, "dates": values})

    async def page(request: Request) -> Response:
        if not (PAGE / "index.html").is_file():
            return PlainTextResponse(UNBUILT, 503)
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        path = PAGE / name
        if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.(js|css|svg|json|png)", name) or not path.is_file():
            raise _Refused(404, "there is no such file")
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, _Refused)
        return JSONResponse({"error": error.message, **error.more}, error.status)

    async def wrong(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": _sentence(error)}, 500 if isinstance(error, StoreError) else 400)

    async def gone(_: Request, __: Exception) -> Response:
        return JSONResponse({"error": "the file is not there any more"}, 410)

    job = "/api/jobs/{job}"
    app = Starlette(
        routes=[
            Route("/", page),
            Route("/static/{name}", static),
            Route("/api/about", about),
            Route("/api/area", measure, methods=["POST"]),
            Route("/api/search", search, methods=["POST"]),
            Route("/api/jobs", all_jobs),
            Route("/api/jobs", add, methods=["POST"]),
            Route(job, one_job),
            Route(job, remove, methods=["DELETE"]),
            Route(f"{job}/cancel", cancel, methods=["POST"]),
            Route(f"{job}/retry", retry, methods=["POST"]),
            Route(f"{job}/pixel", look),
            Route(f"{job}/series", course),
            Route(f"{job}/store.zarr.zip", store),
            Route(f"{job}/{{kind}}/{{date}}.tif", tif),
        ],
        lifespan=lifespan,
        exception_handlers={_Refused: refused, Xsen2Error: wrong, FileNotFoundError: gone},
    )
    return Guard(app, settings.names, is_loopback(settings.host), settings.token)


def serve(settings: Settings) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    settings : Settings
    """
    import uvicorn

    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        root_path=settings.root_path,
        log_level="warning",
        access_log=False,  # the token is in the first address
        server_header=False,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=65536,
    )
    uvicorn.Server(config).run()


class _Reach:
    """Whether the API answers at all: asked now and then, and quickly."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: tuple[float, bool] | None = None

    def check(self) -> bool:
        if self._settings.sample:
            return False
        if self._known is None or time.monotonic() - self._known[0] > 30:
            parts = urlsplit(self._settings.api)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            try:
                socket.create_connection((str(parts.hostname), port), timeout=3).close()
            except OSError:
                self.failed()
            else:
                self._known = (time.monotonic(), True)
        assert self._known is not None
        return self._known[1]

    def failed(self) -> None:
        self._known = (time.monotonic(), False)


def _methods() -> list[dict[str, str]]:
    from xsen2.methods.registry import methods

    table = methods()
    return [{"name": str(name), "kind": str(row["kind"])} for name, row in table.iterrows()]


def _lonlat(area: Any) -> dict[str, Any]:
    """An area's outline in lon/lat, to be drawn."""
    import shapely

    west, south, east, north = area.lonlat
    parts = area.near(read([0, 0, 1, 1]).crs, (west, south, east, north))
    shape = shapely.geometrycollections(list(parts)) if len(parts) > 1 else parts[0]
    outline: dict[str, Any] = json.loads(shapely.to_geojson(shape))
    return outline


def _shown(record: Record, *, brief: bool = False) -> dict[str, Any]:
    """A job as its owner sees it."""
    request = record.request
    out: dict[str, Any] = {
        "id": record.id,
        "title": request.get("title", ""),
        "source": request["source"],
        "scenes": len(request["scenes"]),
        "method": request["method"],
        "state": record.state,
        "created": record.created,
        "began": record.began,
        "ended": record.ended,
        "progress": record.progress,
        "message": record.message,
        "bytes": record.bytes,
    }
    if not brief:
        out |= {"request": request, "result": record.result}
    return out


async def _json(request: Request) -> Any:
    """The JSON that a request holds."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _Refused(415, "a request holds JSON, and says so: Content-Type: application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            raise _Refused(413, f"the request has more than {MOST_BODY // 2**20} MB: simplify the area")
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _Refused(400, f"the request is not JSON as it should be: {str(error)[:200]}") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _read(given: Any, kind: Callable[..., M]) -> M:
    try:
        return kind.model_validate(given)  # type: ignore[attr-defined,no-any-return]
    except ValidationError as error:
        raise _Refused(400, printable(validation_message(error), 1000)) from error
    except RecursionError as error:
        raise _Refused(400, "the area is nested too deep") from error


def _sentence(error: Exception) -> str:
    return printable(secretless(" ".join(str(error).split())), 1500)


def _file(path: Path, kind: str, name: str) -> Response:
    """A file of a job, in the ranges that are asked for."""
    if not path.is_file():
        raise _Refused(410, "the file is not there any more")
    return FileResponse(path, media_type=kind, filename=name, headers={"Cache-Control": "private, max-age=3600"})
