"""Requests to a STAC API that end: in time, in size and in number, and only to http(s)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from xsen2.errors import SourceError
from xsen2.sources._fields import as_list, as_mapping
from xsen2.sources._items import MOST

__all__ = ["features_of", "stac_io"]

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


def features_of(pages: Iterable[Any], where: str) -> Iterator[dict[str, Any]]:
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
                f"{where} gives the same items on page {number} again, so its pages have no end: save those that are "
                "needed as an item collection, and give that"
            )
        if len(seen) > MOST:
            raise SourceError(
                f"{where} has more than {MOST} items for this search: narrow its area or time (--bbox, --datetime), "
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
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:  # raised where it was asked for
            found.append(error)

    worker = threading.Thread(target=run, daemon=True, name="xsen2 request")
    worker.start()
    worker.join(seconds)
    if not found:
        _cut(session.latest)
        raise SourceError(
            f"{href[:200]} has not answered in {seconds:.0f} s: try again later, or ask for smaller pages"
        )
    if isinstance(found[0], BaseException):
        raise found[0]
    return str(found[0])


def _cut(response: Any) -> None:
    """End the reading of an answer in another thread."""
    # There may be none yet, or an older urllib3: the thread then ends with the server's silence.
    with suppress(AttributeError, OSError, RuntimeError, ValueError):
        response.raw.shutdown()
