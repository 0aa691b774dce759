"""STAC from a shell: an item, a collection of items, a saved search or an API to search, all by their address."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import urljoin

from xsen2.errors import NothingFound, SourceError
from xsen2.geometry import beside, lonlat
from xsen2.geometry import read as read_area
from xsen2.grid import Bounds
from xsen2.sources.items import MOST, as_list, as_mapping, is_remote, read
from xsen2.sources.items import Item as Known
from xsen2.sources.reading import secretless
from xsen2.sources.stac import touching

__all__ = ["COLLECTION", "items_at", "search"]


# Requests to a STAC API that end: in time, in size and in number, and only to http(s).


CONNECT, SILENCE = 15.0, 30.0
"""Seconds for a connection, and between two parts of an answer."""

PAGE = 60.0
"""Seconds for one answer, all of it: a server that trickles is as good as silent."""

WHOLE = 600.0
"""Seconds for all pages of one search."""

PAGES = 500
"""Requests of one search: with 100 items on a page more than `MOST` items."""

BYTES = 200_000_000
"""Of one answer, or one file: a page of a thousand items has some 30 MB."""


def stac_io() -> Any:
    """What pystac-client makes its requests with; one for each search, as its limits are for all pages together."""
    return _classes()()


def features_of(pages: Iterable[Any], location: str) -> Iterator[dict[str, Any]]:
    """The features of all pages, until one has none.

    Raises
    ------
    SourceError
        If there are too many, or a page has only what came before: a server that pages without end.
    """
    seen: set[Any] = set()
    for number, page in enumerate(pages, start=1):
        features = [dict(as_mapping(feature)) for feature in as_list(as_mapping(page).get("features"))]
        known = len(seen)
        seen.update((str(feature.get("collection")), str(feature.get("id"))) for feature in features)
        if features and len(seen) == known:
            raise SourceError(
                f"{location} gives the same items on page {number} again, so its pages have no end: "
                "save those that are needed as an item collection, and give that"
            )
        if len(seen) > MOST:
            raise SourceError(
                f"{location} has more than {MOST} items for this search: narrow its area or time (--bbox, --datetime), "
                "and run the parts apart"
            )
        yield from features


@cache
def _classes() -> Any:
    """pystac-client's reader with limits; made on the first call, as importing this must not import that."""
    from pystac_client.stac_api_io import StacApiIO
    from requests import Session
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    class Bounded(Session):
        """Answers up to a size; the latest can be cut off from another thread."""

        latest: Any = None

        def send(self, request: Any, **kwargs: Any) -> Any:
            response = super().send(request, **{**kwargs, "stream": True})
            self.latest = response
            parts, size = [], 0
            for part in response.iter_content(65536):
                parts.append(part)
                size += len(part)
                if size > BYTES:
                    response.close()
                    raise SourceError(
                        f"{request.url} answers with more than {BYTES // 10**6} MB: ask for smaller pages"
                    )
            response._content, response._content_consumed = b"".join(parts), True
            return response

    class Reader(StacApiIO):
        def __init__(self) -> None:
            super().__init__(timeout=(CONNECT, SILENCE))
            self.session = Bounded()
            again = Retry(total=2, read=1, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504))
            for scheme in ("http://", "https://"):
                self.session.mount(scheme, HTTPAdapter(max_retries=again))
            self._until, self._count = time.monotonic() + WHOLE, 0

        def request(self, href: str, *args: Any, **kwargs: Any) -> str:
            if not href.lower().startswith(("http://", "https://")):
                raise SourceError(f"{href[:200]!r} is not on http(s), where an API's pages are: it is not followed")
            self._count += 1
            left = self._until - time.monotonic()
            if self._count > PAGES or left <= 0:
                raise SourceError(
                    f"{href[:200]} has not ended after {self._count - 1} pages and {WHOLE - left:.0f} s: narrow the "
                    "search, or save the items that are needed as an item collection, and give that"
                )
            return _within(
                min(left, PAGE), href, lambda: super(Reader, self).request(href, *args, **kwargs), self.session
            )

        def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
            # A link of a page never leads to a file: pystac would open it.
            if isinstance(source, str) and not source.lower().startswith(("http://", "https://")):
                return _file(source)
            text: str = super().read_text(source, *args, **kwargs)
            return text

    return Reader


def _file(path: str) -> str:
    if not os.path.isfile(path):
        raise SourceError(f"{path} is no file: give a STAC item, an item collection, or the address of an API")
    if os.path.getsize(path) > BYTES:
        raise SourceError(f"{path} has more than {BYTES // 10**6} MB: keep the items that are needed in it")
    with open(path, encoding="utf-8") as file:
        return file.read()


def _within(seconds: float, href: str, call: Callable[[], str], session: Any) -> str:
    """What a call gives, if it gives it in time; nothing else bounds an answer that comes byte by byte."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # raised below, in the thread that called
            outcome.append(error)

    worker = threading.Thread(target=run, daemon=True, name="xsen2 request")
    worker.start()
    worker.join(seconds)
    if not outcome:
        _cut(session.latest)
        raise SourceError(
            f"{href[:200]} has not answered in {seconds:.0f} s: try again later, or ask for smaller pages"
        )
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return str(outcome[0])


def _cut(response: Any) -> None:
    """End the reading of an answer in another thread."""
    # There may be none yet, or an older urllib3: the thread then ends with the server's silence.
    with suppress(AttributeError, OSError, RuntimeError, ValueError):
        response.raw.shutdown()


COLLECTION = "sentinel-2-l2a"
"""What is searched where the address of an API says no more; Earth Search and the Planetary Computer have it."""


def items_at(source: str, area: Bounds | None = None, datetime: str | None = None) -> list[Any]:
    """The items that an address stands for, as far as they make one cube.

    Parameters
    ----------
    source : str
        Path or URL of an item, an item collection or the answer to a search, whose further pages are fetched. Or the
        URL of an API, or of a collection in one: it is searched.
    area : tuple of float, optional
        West, south, east, north in degrees. Items whose tiles do not touch it are left out; if tiles in several CRS
        do, those that cover the most of it are taken, and a warning says so.
    datetime : str, optional
        For a search.

    Returns
    -------
    list of pystac.Item

    Raises
    ------
    SourceError
        It cannot be read, is something else, or holds no item of the area; or the API needs an area and a time.
    """
    try:
        import pystac
        import pystac_client  # noqa: F401
    except ImportError as error:
        raise ImportError("STAC sources need pystac-client: pip install 'xsen2[stac]' or 'xsen2[odc]'") from error
    remote = is_remote(source)
    try:
        io = stac_io()
        page = io.read_json(source)
        kind = page["type"]
        if kind in ("FeatureCollection", "Feature"):
            features = list(features_of(_pages(page, io), source)) if kind == "FeatureCollection" else [page]
            items = [pystac.Item.from_dict(feature) for feature in features]
    except SourceError:
        raise
    except Exception as error:  # pystac raises bare Exceptions for links that cannot be read
        raise SourceError(
            f"{source} is not a STAC item, item collection or API: {secretless(str(error)[:500])}"
        ) from error
    if kind in ("Catalog", "Collection"):
        if area is None or datetime is None:
            raise SourceError(f"{source} is searched, so say what for: --bbox or --geometry, and --datetime")
        links = {link.get("rel"): link.get("href") for link in page.get("links", [])}
        if kind == "Collection":
            root = urljoin(source, str(links.get("root") or source)) if remote else str(links.get("root") or source)
            if remote and not is_remote(root):
                raise SourceError(f"{source} says that its API is {root[:200]!r}, which is not on http(s)")
            items = search(root, page.get("id", COLLECTION), area, datetime)
        else:
            items = search(source, COLLECTION, area, datetime)
    elif kind not in ("FeatureCollection", "Feature"):
        raise SourceError(f"{source} is a {kind}, not a STAC item, item collection or API")
    if not items:
        raise SourceError(f"{source} has no items: widen the search that it is the answer to")
    for item in items:
        # What came over the network lies there, whatever it says of itself.
        if item.get_self_href() is None or (remote and not is_remote(item.get_self_href())):
            item.set_self_href(source)
        item.make_asset_hrefs_absolute()
    return items if area is None else _of_area(items, area)


def search(api: str, collection: str, area: Bounds, datetime: str) -> list[Any]:
    """The items of a collection in an area and a time.

    Raises
    ------
    NothingFound
        It has none.
    SourceError
        The API cannot be searched.
    """
    try:
        from pystac import Item
        from pystac_client import Client
        from pystac_client.exceptions import APIError
    except ImportError as error:
        raise ImportError("searching needs pystac-client: pip install 'xsen2[stac]' or 'xsen2[odc]'") from error
    west, south, east, north = area
    box = (west, south, east - 360 if east > 180 else east, north)  # as STAC writes it across the antimeridian
    try:
        client = Client.open(api, stac_io=stac_io())
        pages = client.search(collections=[collection], bbox=box, datetime=datetime).pages_as_dicts()
        items = [Item.from_dict(feature, root=client) for feature in features_of(pages, api)]
    except SourceError:
        raise
    except (APIError, OSError, NotImplementedError, KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{api} cannot be searched: {secretless(str(error)[:500])}") from error
    if not items:
        raise NothingFound(f"{api} has no {collection} item in {box} at {datetime}: try other dates")
    return items


def _pages(page: dict[str, Any], io: Any) -> Iterator[dict[str, Any]]:
    """A page and those that follow, until one has no features."""
    from pystac import Link

    while page.get("features"):
        yield page
        links = [link for link in map(as_mapping, as_list(page.get("links"))) if link.get("rel") == "next"]
        if not links:
            return
        page = io.read_json(Link.from_dict(dict(links[0])))


def _of_area(items: list[Any], area: Bounds) -> list[Any]:
    """Those whose tiles touch the area, in the CRS whose tiles cover most of it."""
    from shapely.geometry import box
    from shapely.ops import unary_union

    outline = read_area(area)
    known = read(items)
    near = {id(of) for of in touching(known, outline)}
    pairs = [(item, of) for item, of in zip(items, known, strict=True) if id(of) in near]
    by_crs: dict[int, list[tuple[Any, Known]]] = {}
    for item, of in pairs:
        by_crs.setdefault(of.epsg, []).append((item, of))
    if len(by_crs) == 1:
        return [item for item, _ in pairs]

    asked = box(*outline.lonlat)
    middle = asked.centroid.x

    def covered(epsg: int) -> tuple[float, int]:
        boxes = [box(*beside(bounds, middle)) for bounds in {lonlat(of.geobox) for _, of in by_crs[epsg]}]
        return round(unary_union(boxes).intersection(asked).area / asked.area, 4), len(by_crs[epsg])

    best = max(sorted(by_crs), key=covered)
    others = ", ".join(f"{len(by_crs[epsg])} in EPSG:{epsg}" for epsg in sorted(by_crs) if epsg != best)
    warnings.warn(
        f"the items are in {len(by_crs)} CRS: {len(by_crs[best])} in EPSG:{best} are taken, whose tiles cover "
        f"{covered(best)[0]:.0%} of the area; left out: {others}",
        stacklevel=2,
    )
    return [item for item, _ in by_crs[best]]
