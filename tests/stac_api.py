"""A STAC API on this machine: items, search and files with range requests, as Earth Search gives them.

Run it to try things by hand, or to point the quickstart at it::

    python tests/stac_api.py        # prints the address, serves until Ctrl-C

It then serves two dates of a real city, from the scenes beside the repository.
"""

from __future__ import annotations

import copy
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

Item = dict[str, Any]

CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/item-search",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
]


Faults = MutableMapping[str, Iterator[int | str | None]]
"""End of a file's path → what its next requests get: a status, ``"cut"`` (half of the answer), or None, the file.
A query of the URL is part of the path. Once an iterator is used up, the file is given."""


def create_app(
    items: Sequence[Item], folder: Path, reads: list[str] | None = None, faults: Faults | None = None
) -> Starlette:
    """An API over `items`, whose hrefs are relative to `folder`; requests for files go into `reads`."""

    def absolute(item: Item, base: str) -> Item:
        item = copy.deepcopy(item)
        for asset in item["assets"].values():
            asset["href"] = f"{base}files/{asset['href']}"
        home = f"{base}collections/{item['collection']}"
        item["links"] = [
            link("self", f"{home}/items/{item['id']}"),
            link("collection", home),
            link("root", base),
        ]
        return item

    def root(request: Request) -> Response:
        base = str(request.base_url)
        links = [
            link("self", base),
            link("root", base),
            link("data", f"{base}collections"),
            link("conformance", f"{base}conformance"),
            {**link("search", f"{base}search"), "method": "GET"},
            {**link("search", f"{base}search"), "method": "POST"},
        ]
        return JSONResponse(
            {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "loopback",
                "description": "Sentinel-2 on this machine",
                "conformsTo": CONFORMS,
                "links": links,
            }
        )

    def collection(name: str, base: str) -> Item:
        times = sorted(i["properties"]["datetime"] for i in items if i["collection"] == name)
        return {
            "type": "Collection",
            "stac_version": "1.0.0",
            "id": name,
            "description": name,
            "license": "proprietary",
            "extent": {
                "spatial": {"bbox": [[-180, -90, 180, 90]]},
                "temporal": {"interval": [[times[0], times[-1]]]},
            },
            "links": [link("self", f"{base}collections/{name}"), link("root", base)],
        }

    def collections(request: Request) -> Response:
        base = str(request.base_url)
        names = sorted({item["collection"] for item in items})
        return JSONResponse({"collections": [collection(n, base) for n in names], "links": []})

    def one_collection(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in {item["collection"] for item in items}:
            return JSONResponse({"code": "NotFound", "description": name}, 404)
        return JSONResponse(collection(name, str(request.base_url)))

    def one_item(request: Request) -> Response:
        for item in items:
            if item["id"] == request.path_params["item"]:
                return JSONResponse(absolute(item, str(request.base_url)))
        return JSONResponse({"code": "NotFound", "description": request.path_params["item"]}, 404)

    async def search(request: Request) -> Response:
        base = str(request.base_url)
        if request.method == "POST":
            query = json.loads(await request.body() or b"{}")
        else:
            query = dict(request.query_params)
            for key in ("collections", "ids"):
                if key in query:
                    query[key] = query[key].split(",")
            if "bbox" in query:
                query["bbox"] = [float(v) for v in query["bbox"].split(",")]
        found = [item for item in items if matches(item, query)]
        start, limit = int(query.get("token", 0)), int(query.get("limit", 10))
        page = found[start : start + limit]
        links = [link("self", f"{base}search")]
        if start + limit < len(found):
            body = {**query, "token": start + limit}
            links.append({**link("next", f"{base}search"), "method": "POST", "body": body})
        return JSONResponse(
            {
                "type": "FeatureCollection",
                "features": [absolute(item, base) for item in page],
                "links": links,
                "numberMatched": len(found),
                "numberReturned": len(page),
            },
            media_type="application/geo+json",
        )

    files = StaticFiles(directory=folder)

    async def logged(scope: Any, receive: Any, send: Any) -> None:
        query = scope["query_string"].decode()
        path = scope["path"] + (f"?{query}" if query else "")
        if reads is not None:
            reads.append(path)
        named = next((name for name in faults or () if path.endswith(name)), None)
        fault = next(faults[named], None) if faults and named else None
        if isinstance(fault, int):
            await Response(status_code=fault)(scope, receive, send)
        else:
            await files(scope, receive, halved(send) if fault == "cut" else send)

    return Starlette(
        routes=[
            Route("/", root),
            Route("/conformance", lambda _: JSONResponse({"conformsTo": CONFORMS})),
            Route("/collections", collections),
            Route("/collections/{name}", one_collection),
            Route("/collections/{name}/items/{item}", one_item),
            Route("/search", search, methods=["GET", "POST"]),
            Mount("/files", logged),
        ]
    )


def halved(send: Any) -> Any:
    """Give half of each part of a body, whose head says more: uvicorn then closes the connection."""

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": message["body"][: len(message["body"]) // 2]}
        await send(message)

    return sent


def link(rel: str, href: str) -> dict[str, str]:
    return {"rel": rel, "href": href, "type": "application/json"}


def matches(item: Item, query: dict[str, Any]) -> bool:
    """Whether a search finds the item: collections, ids, bbox and datetime, all that is given."""
    if query.get("collections") and item["collection"] not in query["collections"]:
        return False
    if query.get("ids") and item["id"] not in query["ids"]:
        return False
    if query.get("bbox"):
        west, south, east, north = query["bbox"]
        left, bottom, right, top = item["bbox"]
        if left > east or right < west or bottom > north or top < south:
            return False
    if query.get("datetime"):
        start, _, end = query["datetime"].partition("/")
        when = moment(item["properties"]["datetime"])
        return (start in ("", "..") or moment(start) <= when) and (end in ("", "..") or when <= moment(end or start))
    return True


def moment(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@contextmanager
def serve(
    items: Sequence[Item],
    folder: Path,
    reads: list[str] | None = None,
    port: int = 0,
    faults: Faults | None = None,
) -> Iterator[str]:
    """Serve while the context is open, from a thread; gives the address."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(create_app(items, folder, reads, faults), log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the STAC API did not start")
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def main() -> None:
    """Serve two dates of a real city until interrupted."""
    from scenes import SHARED, city_items, missing

    if reason := missing():
        raise SystemExit(f"{reason} (looked in {SHARED})")
    with tempfile.TemporaryDirectory() as folder:
        items = city_items(Path(folder))
        with serve(items, Path(folder)) as url:
            west, south, east, north = items[0]["bbox"]
            print(f"XSEN2_STAC_URL={url}")
            print(f"bbox = ({west:.4f}, {south:.4f}, {east:.4f}, {north:.4f})", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                print("stopped")


if __name__ == "__main__":
    main()
